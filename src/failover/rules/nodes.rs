//! Rules about the other nodes: who may still take writes, and who is the better choice.

use super::{Case, Intent, Lift, Refusal};
use crate::config::NodeKind;
use crate::failover::observation::{Other, Relation, Serving, relation};
use crate::failover::standing::Standing;

/// Two primaries are the one thing that must never be.
pub fn primary_alive(case: &Case<'_>) -> Option<Refusal> {
    let (node, _) = unfenced(case).find(|(_, standing)| **standing == Standing::Primary)?;
    Refusal::new(
        format!("{} takes writes", node.name),
        format!(
            "To change places with it, use --switchover; to promote this node although {} lives, use --fence, which \
             stops it first.",
            node.name
        ),
    )
}

/// Exhausted connections or a wrong password are no death.
pub fn node_answers(case: &Case<'_>) -> Option<Refusal> {
    let (node, why) = unfenced(case).find_map(|(node, standing)| match standing {
        Standing::Answers(why) => Some((node, why)),
        _ => None,
    })?;
    Refusal::new(
        format!("{} answers and may take writes: {why}", node.name),
        format!("Stop it, or use --fence, which stops {} first.", node.name),
    )
}

/// A server that is frozen goes on where it was when it thaws.
pub fn node_hangs(case: &Case<'_>) -> Option<Refusal> {
    let (node, why) = unfenced(case).find_map(|(node, standing)| match standing {
        Standing::Hung(why) => Some((node, why)),
        _ => None,
    })?;
    Refusal::new(
        format!("{} hangs and may go on: {why}", node.name),
        format!("Stop it, or use --fence, which stops {} first.", node.name),
    )
}

/// Whoever sends WAL lives, whether it answers us or not.
pub fn wal_flows(case: &Case<'_>) -> Option<Refusal> {
    let fresh = case.policy.fresh.as_millis();
    let views = case.seen.others.iter().map(|other| (other.name.as_str(), case.files(other)));
    let views = views.chain([(case.seen.node.as_str(), case.own())]);
    for (to, receiver) in views.filter_map(|(to, view)| Some((to, view?.receiver.as_ref()?))) {
        let Some(from) = receiver.from.as_deref() else { continue };
        let silent = |(other, standing): &(&Other, &Standing)| {
            other.name == from && matches!(standing, Standing::Silent(_)) && !case.will_fence(other, standing)
        };
        let recent = receiver.message_age_ms.is_some_and(|age| u128::from(age) <= fresh);
        if recent && case.others().any(|it| silent(&it)) {
            return Refusal::new(
                format!("{from} is silent here, but {to} still receives WAL from it"),
                format!("The network between this node and {from} is broken; {from} itself is not."),
            );
        }
    }
    None
}

/// From here a machine that is off cannot be told from a broken network.
pub fn node_silent(case: &Case<'_>) -> Option<Refusal> {
    let (node, why) = case.others().find_map(|(node, standing)| match standing {
        Standing::Silent(why) if !case.will_fence(node, standing) => Some((node, why)),
        _ => None,
    })?;
    let name = &node.name;
    Refusal::new(
        format!("nothing is known of {name}: {why}"),
        format!("Make sure that {name} is off or cut off from its clients, then say so with --down {name}."),
    )
}

/// A switchover is driven on both sides.
pub fn one_primary(case: &Case<'_>) -> Option<Refusal> {
    let primaries: Vec<_> = case.others().filter(|(_, standing)| **standing == Standing::Primary).collect();
    match primaries.as_slice() {
        [] => Refusal::new("no other node takes writes", "If the primary is gone for good, leave --switchover out."),
        [(node, _)] => match case.files(node) {
            Some(view) if view.server == Serving::Primary => None,
            Some(_) => Refusal::new(
                format!("{} takes writes, but its machine does not say so", node.name),
                format!(
                    "Check node.{}.pgdata and node.{}.conninfo: they lead to different servers.",
                    node.name, node.name
                ),
            ),
            None => Refusal::new(
                format!("{} cannot be reached by ssh: {}", node.name, node.view.why()),
                "Run flush-primary on it by hand, and then trigger-failover here.",
            ),
        },
        many => {
            let names: Vec<&str> = many.iter().map(|(node, _)| node.name.as_str()).collect();
            Refusal::new(format!("{} take writes", names.join(" and ")), "Stop the one that is wrong first.")
        }
    }
}

/// What is not streamed would have to be shipped while nobody can write.
pub fn not_streaming(case: &Case<'_>) -> Option<Refusal> {
    let (primary, _) = case.others().find(|(_, standing)| **standing == Standing::Primary)?;
    let name = &primary.name;
    let hint = format!("Wait until it streams from {name}; 'check-node' says why it does not.");
    match &case.own()?.receiver {
        None => Refusal::new(format!("this server does not stream from {name}"), hint),
        Some(receiver) if receiver.from.as_ref().is_some_and(|from| from != name) => {
            Refusal::new(format!("this server streams from {}, not from {name}", receiver.address), hint)
        }
        Some(_) => None,
    }
}

/// Nodes of which a fence would not make sure.
fn unfenced<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (&'a Other, &'a Standing)> {
    case.others().filter(|(node, standing)| !case.will_fence(node, standing))
}

impl Case<'_> {
    /// True where the plan makes sure that this node is stopped before anything else is done.
    ///
    /// Whoever answers or hangs is fenced only where somebody says so. A primary that is silent is fenced where a fence
    /// is configured: over ssh it could not be reached.
    pub fn will_fence(&self, node: &Other, standing: &Standing) -> bool {
        let told = self.policy.lifted.contains(&Lift::Fence);
        match standing {
            Standing::Primary => told && self.policy.intent != Intent::Switchover,
            Standing::Answers(_) | Standing::Hung(_) => told,
            Standing::Silent(_) => self.policy.fence && (told || node.upstream),
            Standing::Standby | Standing::Down(_) => false,
        }
    }
}

/// The node that has the most is promoted; a dr node only where nobody else can be.
pub fn better_node(case: &Case<'_>) -> Option<Refusal> {
    // Whoever wants an earlier time wants a node that has less.
    let own = case.own().filter(|_| !matches!(case.policy.intent, Intent::Until(_)))?;
    let dr = case.seen.kind == NodeKind::Dr;
    let better = |(node, standing): &(&Other, &Standing)| {
        let Some(view) = case.files(node) else { return false };
        let same = relation((&own.history, own.wal_end), (&view.history, view.wal_end)) == Relation::Same;
        let meant = node.kind == NodeKind::Node && view.wal_end >= own.wal_end;
        let promotable = **standing == Standing::Standby && node.kind != NodeKind::Witness;
        let preferred = if dr { meant } else { node.kind == NodeKind::Node && view.wal_end > own.wal_end };
        promotable && same && preferred && !case.policy.ignored.contains(&node.name)
    };
    let (node, _) = case.others().filter(better).max_by_key(|(node, _)| case.files(node).map(|view| view.wal_end))?;
    let ahead = case.files(node)?.wal_end.0.saturating_sub(own.wal_end.0);
    let why = match ahead {
        0 => format!("{} has as much WAL and is no dr node", node.name),
        bytes => format!("{} has {bytes} bytes of WAL more than this node", node.name),
    };
    Refusal::new(
        why,
        format!(
            "Promote {} instead; to promote this node all the same, use --even-if-behind: it then fetches what {} has.",
            node.name, node.name
        ),
    )
}
