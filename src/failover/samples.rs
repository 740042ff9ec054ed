//! What the tests of decisions begin with: a standby whose primary is gone, and nothing allowed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::NodeKind;
use crate::failover::observation::{Contact, Fact, Holder, Holdings, Known, Observation, Other, Serving, View};
use crate::failover::rules::{Intent, Policy};
use crate::postgres::control::ClusterState;
use crate::store::claim::{Claim, State};
use crate::wal::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineHistory, TimelineId};

/// The size of a segment here, in bytes.
pub const MIB: u64 = 1 << 20;

/// The same as a size.
pub fn size() -> SegmentSize {
    SegmentSize::new(MIB).expect("because 1 MiB is a size")
}

/// The first timeline, or the second after one of two forks.
pub fn history(number: u8) -> TimelineHistory {
    let parse = |timeline, text| TimelineHistory::parse(TimelineId(timeline), text).expect("because it is well formed");
    match number {
        0 | 1 => TimelineHistory::first(),
        2 => parse(2, "1\t0/380000\n"),
        _ => parse(2, "1\t0/200000\n"),
    }
}

/// A data directory whose WAL ends there.
pub fn view(server: Serving, system: u64, timeline: u8, end: u64) -> View {
    View {
        system: SystemId(system),
        segment_size: size(),
        server,
        state: ClusterState::InArchiveRecovery,
        recovers: server == Serving::Standby || server == Serving::Down,
        history: history(timeline),
        checkpoint: Lsn(MIB),
        wal_end: Lsn(end),
        replayed: Some(Lsn(end)),
        paused: false,
        receiver: None,
        follows: None,
        last_commit: None,
        trigger: None,
    }
}

/// What is known just now.
pub fn fact<T>(value: T) -> Fact<T> {
    Fact::new("test", Ok(value))
}

/// What cannot be told.
pub fn unknown<T>() -> Fact<T> {
    Fact::new("test", Err("no answer".to_owned()))
}

/// Another node; this one follows `alpha`.
pub fn other(name: &str, contact: Fact<Contact>, view: Fact<View>) -> Other {
    let upstream = name == "alpha";
    Other { name: name.to_owned(), kind: NodeKind::Node, upstream, contact, view, handover: None }
}

/// An archive with these stretches of segments.
pub fn holder(name: &str, whole: &[(u64, u64)]) -> Holder {
    let whole = whole.iter().map(|(first, last)| (SegmentNumber(*first), SegmentNumber(*last))).collect();
    let held = Holdings {
        system: SystemId(7),
        newest: TimelineHistory::first(),
        claims: Vec::new(),
        whole,
        partial: None,
        handovers: Vec::new(),
    };
    Holder { name: name.to_owned(), own: name == "beta", holds: fact(held) }
}

/// A standby whose primary is gone: nobody listens there.
pub fn plain() -> Observation {
    Observation {
        cluster: "main".to_owned(),
        node: "beta".to_owned(),
        kind: NodeKind::Node,
        at: "now".to_owned(),
        own: fact(view(Serving::Standby, 7, 1, 3 * MIB + 100)),
        others: vec![other("alpha", fact(Contact::Refused("nobody listens".to_owned())), unknown())],
        archives: vec![holder("beta", &[])],
        fenced: Vec::new(),
        missing: Vec::new(),
    }
}

/// Nothing is allowed beyond what is always.
pub fn policy() -> Policy {
    Policy {
        intent: Intent::Failover,
        lifted: BTreeSet::new(),
        down: BTreeSet::new(),
        ignored: BTreeSet::new(),
        fence: false,
        age_max: Duration::from_secs(60),
        fresh: Duration::from_secs(10),
        claim: None,
    }
}

/// What is known of this node, to be changed.
pub fn own_of(seen: &mut Observation) -> &mut View {
    match &mut seen.own.known {
        Known::Is(own) => own,
        Known::Unknown(why) => panic!("{why}"),
    }
}

/// A claim to the second timeline.
pub fn claim(node: &str, state: State) -> Claim {
    Claim {
        format: 1,
        timeline: TimelineId(2),
        parent: TimelineId(1),
        fork: None,
        segment_size: size(),
        node: node.to_owned(),
        id: "c".to_owned(),
        state,
        at: "now".to_owned(),
    }
}
