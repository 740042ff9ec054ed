//! Rules about this node.

use super::{Case, Intent, Refusal};
use crate::failover::observation::{Serving, View};
use crate::postgres::control::ClusterState;

/// Nothing can be decided without knowing oneself.
pub fn unknown(case: &Case<'_>) -> Option<Refusal> {
    let hint = "Run this as the user of the server, on the node that is to be promoted.";
    match case.own() {
        None => Refusal::new(format!("this node cannot be told: {}", case.seen.own.why()), hint),
        Some(own) if own.server == Serving::Starting => {
            Refusal::new("this server is starting, or does not let itself be asked", "Wait until it has started.")
        }
        Some(_) => None,
    }
}

/// There is nothing to do for a server that takes writes.
pub fn already_primary(case: &Case<'_>) -> Option<Refusal> {
    let primary = case.own()?.server == Serving::Primary;
    primary.then(|| Refusal {
        why: "this server takes writes already".to_owned(),
        hint: "Run this on a standby.".to_owned(),
    })
}

/// WAL of another cluster must never come near this one.
pub fn wrong_system(case: &Case<'_>) -> Option<Refusal> {
    let own = case.own()?.system;
    let nodes = case.seen.others.iter().filter_map(|other| Some((&other.name, other.view.is()?.system)));
    let archives = case.seen.archives.iter().filter_map(|holder| Some((&holder.name, holder.holds.is()?.system)));
    let (name, system) = nodes.chain(archives).find(|(_, system)| *system != own)?;
    Refusal::new(
        format!("the system identifier of {name} is {system}, that of this node is {own}"),
        "Check pgdata and archive of both nodes; they belong to different clusters.",
    )
}

/// A primary that is stopped, or died, has no recovery to end.
pub fn not_a_standby(case: &Case<'_>) -> Option<Refusal> {
    let own = case.own()?;
    let stopped = own.server == Serving::Down && !own.recovers;
    stopped.then(|| Refusal {
        why: format!("no server runs here, and the data directory is that of a primary ({})", words(own)),
        hint: "If this node was the primary, start it, or make it a standby; if it is a standby, start it as one."
            .to_owned(),
    })
}

fn words(own: &View) -> &'static str {
    if own.state == ClusterState::ShutDown { "shut down" } else { "not shut down cleanly" }
}

/// What was replayed cannot be taken back.
pub fn target_passed(case: &Case<'_>) -> Option<Refusal> {
    let Intent::Until(target) = &case.policy.intent else { return None };
    let commit = case.own()?.last_commit.as_ref().filter(|_| case.own().is_some_and(|own| own.replayed.is_some()))?;
    let times = (chrono::DateTime::parse_from_rfc3339(target), chrono::DateTime::parse_from_rfc3339(&commit.at));
    let (Ok(target), Ok(last)) = times else { return None };
    let replayed = case.own()?.replayed.is_some_and(|replayed| commit.until <= replayed);
    (replayed && last > target).then(|| Refusal {
        why: format!("this server has replayed a transaction of {}, and the target is {target}", commit.at),
        hint: "Restore a base backup up to that time instead.".to_owned(),
    })
}

/// A primary without its settings is none that clients can use.
pub fn configuration(case: &Case<'_>) -> Option<Refusal> {
    let missing = &case.seen.missing;
    (!missing.is_empty()).then(|| Refusal {
        why: format!("what a primary needs is missing here: {}", missing.join("; ")),
        hint: "Put it there, or go on without it by --without-configuration.".to_owned(),
    })
}
