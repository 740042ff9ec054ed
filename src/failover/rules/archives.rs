//! Rules about the archives, and about WAL that lies elsewhere.

use super::{Case, Intent, Refusal};
use crate::failover::observation::{Holder, Holdings, Relation, relation};
use crate::failover::standing::Standing;
use crate::store::claim::{Claim, State};
use crate::wal::{Lsn, SegmentNumber, TimelineId};

/// One claim for each timeline.
pub fn claimed(case: &Case<'_>) -> Option<Refusal> {
    let own = case.own()?.history.timeline;
    let foreign = |claim: &&Claim| {
        let ours = Some(&claim.id) == case.policy.claim.as_ref() || claim.node == case.seen.node;
        claim.state == State::Claimed && claim.timeline > own && !ours
    };
    let holdings = holdings(case);
    let (holder, claim) =
        holdings.iter().find_map(|(holder, held)| Some((holder, held.claims.iter().find(foreign)?)))?;
    let node = &claim.node;
    Refusal::new(
        format!("in the archive of {}, {}", holder.name, claim.words()),
        format!(
            "Let the promotion of {node} end, or have it given up there ('trigger-failover --abort'); if {node} is gone \
             for good, --take-claim takes the claim over."
        ),
    )
}

/// A history that we are not part of cannot be joined by a promotion.
pub fn other_timeline(case: &Case<'_>) -> Option<Refusal> {
    let own = case.own()?;
    let apart = |history, end| {
        let found = relation((&own.history, own.wal_end), (history, end));
        matches!(found, Relation::Ahead | Relation::Parted)
    };
    let archives = holdings(case)
        .into_iter()
        .map(|(holder, held)| (format!("the archive of {}", holder.name), &held.newest, held.newest.begins()));
    let nodes = case.others().filter(|(_, standing)| matches!(standing, Standing::Primary | Standing::Standby));
    let nodes = nodes.filter_map(|(node, _)| {
        let view = case.files(node)?;
        Some((node.name.clone(), &view.history, view.wal_end))
    });
    let (name, history, _) = archives.chain(nodes).find(|(_, history, end)| apart(*history, *end))?;
    Refusal::new(
        format!(
            "{name} is on timeline {}, which this node, on timeline {} up to {}, is not part of",
            history.timeline, own.history.timeline, own.wal_end
        ),
        "Let this node follow that timeline first, or make it a standby anew.",
    )
}

/// An error is never the end of WAL.
pub fn unknown(case: &Case<'_>) -> Option<Refusal> {
    let (holder, why) = case.seen.archives.iter().find_map(|holder| {
        let known = holder.holds.within(case.policy.age_max).is_some();
        (!known && !is_excused(case, holder)).then(|| (holder, holder.holds.why()))
    })?;
    let name = &holder.name;
    Refusal::new(
        format!("whether the archive of {name} holds more WAL cannot be told: {why}"),
        format!("Bring it back, or do without what only it may hold by --ignore {name}."),
    )
}

/// The archive on the machine of a primary that is gone is gone with it; that is said as a loss, not waited for.
fn is_excused(case: &Case<'_>, holder: &Holder) -> bool {
    let gone = case.others().any(|(node, standing)| {
        node.name == holder.name && case.files(node).is_none() && matches!(standing, Standing::Down(_))
            || node.name == holder.name && case.will_fence(node, standing)
    });
    gone || case.policy.ignored.contains(&holder.name) || case.policy.down.contains(&holder.name)
}

/// What is archived behind a gap was acknowledged once.
pub fn hole(case: &Case<'_>) -> Option<Refusal> {
    let own = case.own()?;
    let end = target(case);
    let (holder, first) = holdings(case)
        .iter()
        .filter_map(|(holder, held)| Some((*holder, held.whole.iter().map(|(_, last)| *last).max()?)))
        .find(|(_, last)| {
            last.start(own.segment_size) >= end && end > Lsn::INVALID && *last > end.segment(own.segment_size)
        })?;
    Refusal::new(
        format!(
            "WAL can be had up to {end}, and the archive of {} goes on behind a gap, up to segment {}",
            holder.name, first.0
        ),
        "Find the missing segments: 'check-archive' says where they may be. Without them what follows is lost: \
         --accept-loss goes on all the same.",
    )
}

/// Fast means now, with what is here; what that costs must be said.
pub fn left_behind(case: &Case<'_>) -> Option<Refusal> {
    let (own, end) = (case.own()?, target(case));
    let left = case.policy.intent == Intent::Fast && end > own.wal_end;
    left.then(|| Refusal {
        why: format!("{} bytes of WAL up to {end} can be reached and would be left behind", end.0 - own.wal_end.0),
        hint: "Leave --fast out to fetch them, or accept that they are lost by --accept-loss.".to_owned(),
    })
}

/// Every archive that answered.
pub fn holdings<'a>(case: &'a Case<'_>) -> Vec<(&'a Holder, &'a Holdings)> {
    let known = |holder: &'a Holder| Some((holder, holder.holds.within(case.policy.age_max)?));
    case.seen.archives.iter().filter_map(known).collect()
}

/// Up to where WAL can be had without a gap: from the own files, the archives and the queue together, and from the files
/// of nodes that do not write any more.
pub fn target(case: &Case<'_>) -> Lsn {
    let Some(own) = case.own() else { return Lsn::INVALID };
    let others = sources(case);
    let mut end = own.wal_end;
    loop {
        let further = others.iter().map(|(_, end)| *end).chain([archived_from(case, end)]).max().unwrap_or(end);
        if further <= end {
            return end;
        }
        end = further;
    }
}

/// Up to where the archives and the queue together go on from a position without a gap.
fn archived_from(case: &Case<'_>, position: Lsn) -> Lsn {
    let Some(size) = case.own().map(|own| own.segment_size) else { return position };
    let holdings = holdings(case);
    let holds = |number: SegmentNumber| {
        holdings.iter().any(|(_, held)| held.whole.iter().any(|(first, last)| (*first..=*last).contains(&number)))
    };
    let mut next = position.segment(size);
    while holds(next) {
        next = next.next();
    }
    let partials = holdings.iter().filter_map(|(_, held)| held.partial).filter(|partial| partial.number == next);
    partials.map(|partial| partial.until).chain([next.start(size), position]).max().unwrap_or(position)
}

/// Other nodes whose files go on where ours end, and up to where.
pub fn sources(case: &Case<'_>) -> Vec<(String, Lsn)> {
    let Some(own) = case.own() else { return Vec::new() };
    let fit = case.others().filter_map(|(node, standing)| {
        let view = case.files(node)?;
        let still = matches!(standing, Standing::Standby | Standing::Down(_)) || case.will_fence(node, standing);
        let same = relation((&own.history, own.wal_end), (&view.history, view.wal_end)) == Relation::Same;
        (still && same && view.wal_end > own.wal_end).then(|| (node.name.clone(), view.wal_end))
    });
    fit.collect()
}

/// The number that the new timeline gets: PostgreSQL takes the one behind the highest that has a history.
pub fn next_timeline(case: &Case<'_>) -> TimelineId {
    let own = case.own().map_or(1, |own| own.history.timeline.0);
    let holdings = holdings(case);
    let begun = holdings.iter().map(|(_, held)| held.newest.timeline.0);
    let void = holdings.iter().flat_map(|(_, held)| &held.claims);
    let void = void.filter(|claim| claim.state == State::Void).map(|claim| claim.timeline.0);
    TimelineId(begun.chain(void).chain([own]).max().unwrap_or(own) + 1)
}
