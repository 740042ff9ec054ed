//! Why a node is no candidate, who would win, and what would be lost: the decision, asked about every node. Pure.
//!
//! Every node looks for itself, and [`decide`] is asked about what each saw, twice: as things are, and as if some nodes
//! were gone, the primary if nobody says which. What is supposed to be gone answers nobody, its files and its archive
//! cannot be read; what it was last seen to have and nobody else has is what would be lost.

use std::collections::BTreeSet;

use serde::Serialize;

use super::decide::{Verdict, case, decide};
use super::observation::{Contact, Fact, Known, Observation, Receiver, View};
use super::plan::{Loss, Step};
use super::rules::{Intent, Policy};
use super::standing::Standing;
use crate::config::NodeKind;
use crate::wal::lsn::text_or_none;
use crate::wal::{Lsn, TimelineId};

/// What is said of a node that is supposed to be gone.
const GONE: &str = "it is supposed to be gone";

/// What one node sees.
#[derive(Debug, Clone)]
pub struct Viewpoint {
    /// The node.
    pub node: String,
    /// What it is for.
    pub kind: NodeKind,
    /// What it saw of everything; unknown where it could not be asked.
    pub seen: Fact<Observation>,
}

/// What is said about all nodes: what `cluster-monitor explain --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The version of this form: 1.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The nodes that are supposed to be gone.
    pub gone: Vec<String>,
    /// The node that would be promoted then; none: no node would be.
    pub winner: Option<String>,
    /// Every node, in the order of the configuration.
    pub candidates: Vec<Candidate>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub node: String,
    /// What it is for.
    pub kind: NodeKind,
    /// Why nothing is decided about it; none: something is.
    pub unasked: Option<String>,
    /// Where its WAL ends.
    #[serde(with = "text_or_none")]
    pub wal_end: Option<Lsn>,
    /// The timeline it is on.
    pub timeline: Option<TimelineId>,
    /// What comes of promoting it as things are.
    pub now: Option<Answer>,
    /// What would come of it without the nodes that are supposed to be gone.
    pub then: Option<Answer>,
}

/// What a decision came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The rule that refuses; 0: none does.
    pub rule: u16,
    /// Its name; `go` where none does.
    pub name: String,
    /// Why.
    pub why: String,
    /// What to do; empty where there is nothing to say.
    pub hint: String,
    /// The timeline that would begin.
    pub timeline: Option<TimelineId>,
    /// Where it would begin.
    #[serde(with = "text_or_none")]
    pub fork: Option<Lsn>,
    /// What would be lost.
    pub loss: Option<Loss>,
    /// What would be done.
    pub steps: Vec<Step>,
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Answer {
        let Verdict { rule, name, why, hint, plan, .. } = verdict;
        let (timeline, fork) = (plan.as_ref().map(|plan| plan.timeline), plan.as_ref().map(|plan| plan.fork));
        let (loss, steps) = plan.map(|plan| (plan.loss, plan.steps)).unzip();
        Answer { rule, name, why, hint, timeline, fork, loss, steps: steps.unwrap_or_default() }
    }
}

impl Answer {
    /// True where no rule refuses.
    pub fn goes(&self) -> bool {
        self.rule == super::rules::GO
    }
}

/// Explains. `gone`: the nodes that are supposed to be gone; empty: those that take writes.
pub fn explain(cluster: &str, points: &[Viewpoint], gone: &BTreeSet<String>, policy: &Policy) -> Explanation {
    let gone = if gone.is_empty() { primaries(points, policy) } else { gone.clone() };
    let candidates: Vec<Candidate> = points.iter().map(|point| candidate(point, points, &gone, policy)).collect();
    let fit = candidates.iter().filter(|one| one.then.as_ref().is_some_and(Answer::goes));
    // Of several that may be promoted the one with more WAL, a dr node last, and then the first in the configuration.
    let rank = |one: &&Candidate| (one.kind == NodeKind::Node, one.wal_end);
    let winner = fit.rev().max_by_key(rank).map(|one| one.node.clone());
    Explanation { format: 1, cluster: cluster.to_owned(), gone: gone.into_iter().collect(), winner, candidates }
}

/// Every node that takes writes, as far as anybody saw.
fn primaries(points: &[Viewpoint], policy: &Policy) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for seen in points.iter().filter_map(|point| point.seen.is()) {
        let case = case(seen, policy);
        let primary = case.others().filter(|(_, standing)| **standing == Standing::Primary);
        found.extend(primary.map(|(node, _)| node.name.clone()));
    }
    found
}

fn candidate(point: &Viewpoint, points: &[Viewpoint], gone: &BTreeSet<String>, policy: &Policy) -> Candidate {
    let seen = point.seen.is();
    let own = seen.and_then(|seen| seen.own.is());
    let then = seen.filter(|_| !gone.contains(&point.node)).map(|seen| {
        let supposed = suppose(seen, gone);
        let mut answer = Answer::from(decide(&supposed, &Policy { intent: Intent::Failover, ..policy.clone() }));
        if let (Some(fork), Some(loss)) = (answer.fork, answer.loss.as_mut()) {
            add_what_is_gone(loss, fork, points, gone);
        }
        answer
    });
    Candidate {
        node: point.node.clone(),
        kind: point.kind,
        unasked: seen.is_none().then(|| point.seen.why()),
        wal_end: own.map(|own| own.wal_end),
        timeline: own.map(|own| own.history.timeline),
        now: seen.map(|seen| decide(seen, policy).into()),
        then,
    }
}

/// What a node would see without these nodes.
pub fn suppose(seen: &Observation, gone: &BTreeSet<String>) -> Observation {
    let mut seen = seen.clone();
    for other in seen.others.iter_mut().filter(|other| gone.contains(&other.name)) {
        other.contact.known = Known::Is(Contact::Refused(GONE.to_owned()));
        other.view.known = Known::Unknown(GONE.to_owned());
        other.handover = None;
    }
    let from_gone = |receiver: &Receiver| receiver.from.as_ref().is_some_and(|from| gone.contains(from));
    // What came from there stays, and nothing comes any more.
    let still = |view: &mut Fact<View>| {
        if let Known::Is(view) = &mut view.known
            && let Some(receiver) = view.receiver.as_mut().filter(|receiver| from_gone(receiver))
        {
            receiver.message_age_ms = Some(u64::MAX);
        }
    };
    still(&mut seen.own);
    seen.others.iter_mut().for_each(|other| still(&mut other.view));
    for holder in seen.archives.iter_mut().filter(|holder| !holder.own && gone.contains(&holder.name)) {
        holder.holds.known = Known::Unknown(GONE.to_owned());
    }
    seen
}

/// What the nodes that are gone were last seen to have is no longer unknown.
fn add_what_is_gone(loss: &mut Loss, fork: Lsn, points: &[Viewpoint], gone: &BTreeSet<String>) {
    for node in gone {
        let Some(end) = last_seen(node, points) else { continue };
        loss.unknown.retain(|line| !line.contains(&format!(" {node} ")) || !line.ends_with(GONE));
        if end > fork {
            loss.bytes = loss.bytes.max(end.0 - fork.0);
            loss.held_by.push(format!("{node} up to {end}"));
        }
    }
}

/// Where a node's WAL was last seen to end, by itself or by those that asked its machine.
fn last_seen(node: &str, points: &[Viewpoint]) -> Option<Lsn> {
    let end = |point: &Viewpoint| {
        let seen = point.seen.is()?;
        let view = if point.node == node { seen.own.is() } else { seen.other(node).and_then(|other| other.view.is()) };
        view.map(|view| view.wal_end)
    };
    points.iter().filter_map(end).max()
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
