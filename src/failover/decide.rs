//! The decision: a pure function of what was seen and what is allowed. No clock, no disk, no network.
//!
//! The rules are asked in the order of their table; the first that refuses ends it. Where none does, there is a plan.
//! Manual commands and whoever decides by itself go through here: there is no second way.

use serde::{Deserialize, Serialize};

use super::observation::{Contact, Observation};
use super::plan::{Loss, Plan, Step};
use super::rules::archives::{holdings, next_timeline, sources, target};
use super::rules::{Case, Intent, Lift, Policy, RULES, Rule};
use super::standing::{Standing, standing};

/// What a decision came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The number of the rule that refuses; 0 where none does.
    pub rule: u16,
    /// Its name; `go` where none does.
    pub name: String,
    /// Why.
    pub why: String,
    /// What to do; empty where there is nothing to say.
    pub hint: String,
    /// The rules that would have refused and were lifted: number, name and why.
    pub lifted: Vec<(u16, String, String)>,
    /// What is to be done; none where a rule refuses.
    pub plan: Option<Plan>,
}

/// Decides.
pub fn decide(seen: &Observation, policy: &Policy) -> Verdict {
    let case = case(seen, policy);
    let mut lifted = Vec::new();
    for rule in RULES {
        let Some(refusal) = rule.refuses(&case) else { continue };
        if is_lifted(rule, policy) {
            lifted.push((rule.number, rule.name.to_owned(), refusal.why));
            continue;
        }
        let (name, why) = (rule.name.to_owned(), refusal.why);
        return Verdict { rule: rule.number, name, why, hint: refusal.hint, lifted, plan: None };
    }
    let plan = plan(&case);
    let why = format!("timeline {} may begin at {}", plan.timeline, plan.fork);
    Verdict { rule: 0, name: "go".to_owned(), why, hint: String::new(), lifted, plan: Some(plan) }
}

/// Puts together what the rules look at.
pub fn case<'a>(seen: &'a Observation, policy: &'a Policy) -> Case<'a> {
    let fenced = |node: &str| seen.fenced.iter().find(|fenced| fenced.node == node).map(|it| it.how.as_str());
    let standings = seen.others.iter().map(|other| standing(other, policy, fenced(&other.name))).collect();
    Case { seen, policy, standings }
}

/// Flags about single nodes are looked at inside the rules: they lift nothing for the other nodes.
fn is_lifted(rule: &Rule, policy: &Policy) -> bool {
    let whole = [Lift::TakeClaim, Lift::EvenIfBehind, Lift::AcceptLoss, Lift::WithoutConfiguration];
    whole.contains(&rule.lift) && policy.lifted.contains(&rule.lift)
}

fn plan(case: &Case<'_>) -> Plan {
    let (timeline, end) = (next_timeline(case), target(case));
    let own = case.own_end();
    let fork = if case.policy.intent == Intent::Fast { own } else { end };
    let steps = match &case.policy.intent {
        Intent::Switchover => switchover(case, timeline, fork),
        _ => failover(case, timeline, fork),
    };
    let loss = loss(case, fork);
    Plan { steps, timeline, fork, loss }
}

fn failover(case: &Case<'_>, timeline: crate::wal::TimelineId, fork: crate::wal::Lsn) -> Vec<Step> {
    let parent = case.own().map_or(timeline, |own| own.history.timeline);
    let mut steps: Vec<Step> = case
        .others()
        .filter(|(node, standing)| case.will_fence(node, standing))
        .map(|(node, _)| Step::Fence { node: node.name.clone() })
        .collect();
    let down = case.own().is_some_and(|own| own.server == super::observation::Serving::Down);
    let until = match &case.policy.intent {
        Intent::Until(time) => Some(time.clone()),
        _ => None,
    };
    if down && until.is_none() {
        steps.push(Step::Start);
    }
    steps.push(Step::StopReceiver);
    if case.policy.intent == Intent::Failover {
        let mut from: Vec<String> = sources(case).into_iter().map(|(node, _)| node).collect();
        if fork > case.own_end() {
            from.extend(holdings(case).into_iter().map(|(holder, _)| format!("the archive of {}", holder.name)));
            steps.push(Step::Fetch { from, until: fork });
        }
    }
    if until.is_none() && case.policy.intent != Intent::Fast {
        steps.push(Step::Replay);
    }
    steps.extend(gone(case).map(|node| Step::Disarm { node }));
    steps.push(Step::FillHole);
    let closes = if until.is_some() { None } else { Some(fork) };
    steps.push(Step::Claim { timeline, parent, fork: closes });
    steps.push(Step::DecideAgain);
    steps.push(until.map_or(Step::Promote, |until| Step::Recover { until }));
    steps.extend([Step::Configure, Step::Open, Step::Archive, Step::Confirm, Step::Act]);
    steps
}

/// The old primary, as far as it can be told: the node that sent us WAL, and whoever is or was fenced.
fn gone<'a>(case: &'a Case<'_>) -> impl Iterator<Item = String> + 'a {
    let gone = case.others().filter(|(node, standing)| {
        let stopped = matches!(standing, Standing::Down(_)) || case.will_fence(node, standing);
        stopped && (node.upstream || case.seen.is_fenced(&node.name) || case.will_fence(node, standing))
    });
    gone.map(|(node, _)| node.name.clone())
}

fn switchover(case: &Case<'_>, timeline: crate::wal::TimelineId, fork: crate::wal::Lsn) -> Vec<Step> {
    let parent = case.own().map_or(timeline, |own| own.history.timeline);
    let primary =
        case.others().find(|(_, standing)| **standing == Standing::Primary).map(|(node, _)| node.name.clone());
    let Some(node) = primary else { return Vec::new() };
    vec![
        Step::Claim { timeline, parent, fork: None },
        Step::Flush { node: node.clone() },
        Step::Hold,
        // First, so that the server is told at once that nothing follows on the old timeline.
        Step::Claim { timeline, parent, fork: Some(fork) },
        Step::StopReceiver,
        Step::DecideAgain,
        Step::Promote,
        Step::Configure,
        Step::Open,
        Step::Archive,
        Step::Confirm,
        Step::Follow { node },
        Step::Act,
    ]
}

/// What this node will not have: known to be elsewhere, or not to be told.
fn loss(case: &Case<'_>, fork: crate::wal::Lsn) -> Loss {
    let mut loss = Loss::default();
    let mut known = |who: String, end: crate::wal::Lsn| {
        if end > fork {
            loss.bytes = loss.bytes.max(end.0 - fork.0);
            loss.held_by.push(format!("{who} up to {end}"));
        }
    };
    let Some(own) = case.own() else { return loss };
    for (node, standing) in case.others() {
        match case.files(node) {
            // A primary that goes on writing will have handed over everything.
            Some(_) if *standing == Standing::Primary && case.policy.intent == Intent::Switchover => {}
            Some(view) => known(node.name.clone(), view.wal_end),
            None => {}
        }
    }
    for (holder, held) in holdings(case) {
        let last = held.whole.iter().map(|(_, last)| last.end(own.segment_size)).max();
        let partial = held.partial.map(|partial| partial.until);
        if let Some(end) = last.max(partial) {
            known(format!("the archive of {}", holder.name), end);
        }
    }
    if let Some(told) = own.receiver.as_ref().and_then(|receiver| receiver.told) {
        known("the old primary had told of WAL".to_owned(), told);
    }
    for (node, standing) in case.others() {
        if case.files(node).is_none() && *standing != Standing::Standby && node.handover.is_none() {
            loss.unknown.push(format!("what {} wrote and did not send on: {}", node.name, node.view.why()));
        }
        // A position says nothing of the timeline, so it is no loss that is known.
        let received = match node.contact.within(case.policy.age_max) {
            Some(Contact::Standby { received }) if case.files(node).is_none() => *received,
            _ => None,
        };
        if let Some(end) = received.filter(|end| *end > fork) {
            loss.unknown.push(format!("what {} has received, up to {end}: {}", node.name, node.view.why()));
        }
    }
    for holder in &case.seen.archives {
        if holder.holds.within(case.policy.age_max).is_none() {
            loss.unknown.push(format!("what only the archive of {} holds: {}", holder.name, holder.holds.why()));
        }
    }
    loss
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
