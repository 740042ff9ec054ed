//! What was found out before a role changes: plain data, with the source and the age of every fact.
//!
//! It is stored with each decision, so that the decision can be made again later. What could not be found out stands in
//! it as unknown, with the reason: unknown is never dead, absent or zero.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::fact::{Fact, Known};
use crate::config::NodeKind;
use crate::postgres::control::ClusterState;
use crate::store::claim::Claim;
use crate::wal::lsn::{text, text_or_none};
use crate::wal::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineHistory, TimelineId};

/// Everything that a decision looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The cluster's name.
    pub cluster: String,
    /// The node that looks, and that is to be promoted.
    pub node: String,
    /// What that node is for.
    pub kind: NodeKind,
    /// When, by this node's clock, with offset.
    pub at: String,
    /// The own data directory and server.
    pub own: Fact<View>,
    /// Every other database node.
    pub others: Vec<Other>,
    /// Every archive, and the own queue.
    pub archives: Vec<Holder>,
    /// Nodes that are proven to be stopped, and how.
    pub fenced: Vec<Fenced>,
    /// What the new primary needs and lacks.
    pub missing: Vec<String>,
}

/// A data directory and its server, as their own machine sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The cluster it belongs to (system identifier).
    #[serde(with = "text")]
    pub system: SystemId,
    /// The size of a segment, in bytes.
    pub segment_size: SegmentSize,
    /// What the server is.
    pub server: Serving,
    /// What the control file says it did last.
    pub state: ClusterState,
    /// True where it recovers when it is started (`standby.signal`, `recovery.signal`).
    pub recovers: bool,
    /// The timeline it is on, with those that one descends from.
    pub history: TimelineHistory,
    /// Where the record of its last checkpoint begins.
    #[serde(with = "text")]
    pub checkpoint: Lsn,
    /// Where valid WAL ends in its files.
    #[serde(with = "text")]
    pub wal_end: Lsn,
    /// How far it has replayed, where it says so.
    #[serde(with = "text_or_none")]
    pub replayed: Option<Lsn>,
    /// True where somebody paused the replay.
    pub paused: bool,
    /// What it receives, where it streams.
    pub receiver: Option<Receiver>,
    /// The node it streams from, or is set to, where that can be told.
    pub follows: Option<String>,
    /// The last transaction that committed in the WAL looked at.
    pub last_commit: Option<Commit>,
    /// A trigger file that lies there already.
    pub trigger: Option<String>,
}

/// What a server is, by its processes and its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Serving {
    /// No process works in the data directory.
    Down,
    /// Processes work there, and it does not say yet what it is.
    Starting,
    /// It recovers.
    Standby,
    /// It takes writes.
    Primary,
}

/// A WAL receiver (`pg_stat_wal_receiver`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receiver {
    /// The node it receives from, where that can be told.
    pub from: Option<String>,
    /// The address it receives from.
    pub address: String,
    /// How long ago it last got anything, in milliseconds.
    pub message_age_ms: Option<u64>,
    /// The last position that the sender told of (`latest_end_lsn`).
    #[serde(with = "text_or_none")]
    pub told: Option<Lsn>,
}

/// A transaction that committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Behind its record.
    #[serde(with = "text")]
    pub until: Lsn,
    /// Its number.
    pub xid: u32,
    /// When it committed, by the primary's clock, with offset.
    pub at: String,
}

/// Another database node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: NodeKind,
    /// True where the own server streams, or streamed last, from it.
    pub upstream: bool,
    /// What came of connecting to its server.
    pub contact: Fact<Contact>,
    /// What its own machine sees.
    pub view: Fact<View>,
    /// What it wrote down when it was flushed, where it still holds.
    pub handover: Option<Handover>,
}

/// What came of connecting to a server. That it could not be tried is no contact but unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contact {
    /// It takes writes.
    Primary,
    /// It recovers.
    Standby {
        #[serde(with = "text_or_none")]
        received: Option<Lsn>,
    },
    /// A server is there, and does not let us find out what it is.
    Answers(String),
    /// The machine answers that nobody listens.
    Refused(String),
    /// Nothing came back at all.
    Silent(String),
    /// It takes connections, and then says nothing.
    Hung(String),
}

/// Somebody who holds WAL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// The node whose archive it is; `queue` for the own queue.
    pub name: String,
    /// True where it is on this machine.
    pub own: bool,
    /// What it holds that matters here.
    pub holds: Fact<Holdings>,
}

/// What an archive holds, seen from the end of the own WAL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holdings {
    /// The cluster it belongs to.
    #[serde(with = "text")]
    pub system: SystemId,
    /// The newest timeline that has begun in it, with those it descends from.
    pub newest: TimelineHistory,
    /// Who claims which timeline.
    pub claims: Vec<Claim>,
    /// The whole segments it holds from the one on in which the own WAL ends: first and last of each stretch.
    pub whole: Vec<(SegmentNumber, SegmentNumber)>,
    /// The last partial segment from there on, and where valid WAL ends in it.
    pub partial: Option<Partial>,
    /// Handovers written down in it.
    pub handovers: Vec<Handover>,
}

/// A partial segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// Its number.
    pub number: SegmentNumber,
    /// Where valid WAL ends in it.
    #[serde(with = "text")]
    pub until: Lsn,
}

/// A node that is proven to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// The node.
    pub node: String,
    /// What proved it.
    pub how: String,
}

/// What a primary writes down when it has been flushed: from here on another node may take over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// The version of this form: 1.
    pub format: u32,
    /// Drawn anew each time.
    pub id: String,
    /// The node that was the primary.
    pub node: String,
    /// The cluster it belongs to.
    #[serde(with = "text")]
    pub system: SystemId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where the record of its shutdown checkpoint begins.
    #[serde(with = "text")]
    pub checkpoint: Lsn,
    /// Where its WAL ends: behind that record.
    #[serde(with = "text")]
    pub end: Lsn,
    /// When it had stopped, by its clock, with offset.
    pub at: String,
    /// The nodes that are proven to hold that record, in an archive or in a data directory.
    pub held_by: Vec<String>,
}

impl Observation {
    /// The other node of that name.
    pub fn other(&self, name: &str) -> Option<&Other> {
        self.others.iter().find(|other| other.name == name)
    }

    /// True where a node is proven to be stopped.
    pub fn is_fenced(&self, node: &str) -> bool {
        self.fenced.iter().any(|fenced| fenced.node == node)
    }

    /// Makes every fact so much older.
    pub fn aged(mut self, by: Duration) -> Observation {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let age = |age: &mut u64| *age = age.saturating_add(by);
        age(&mut self.own.age_ms);
        for other in &mut self.others {
            age(&mut other.contact.age_ms);
            age(&mut other.view.age_ms);
        }
        for holder in &mut self.archives {
            age(&mut holder.holds.age_ms);
        }
        self
    }
}

/// How the WAL of two data directories stands to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same timeline: the one that ends later has everything of the other.
    Same,
    /// The other is on an older timeline and did not go on behind the fork.
    Behind,
    /// The other is on a newer timeline, which begins at or behind our end.
    Ahead,
    /// Each has, or may have, what the other has not.
    Parted,
}

/// How another history and end of WAL stand to ours.
pub fn relation(ours: (&TimelineHistory, Lsn), theirs: (&TimelineHistory, Lsn)) -> Relation {
    let ((our_history, our_end), (their_history, their_end)) = (ours, theirs);
    if our_history == their_history {
        return Relation::Same;
    }
    // The same number with other ancestors is another timeline, so the ancestors must be the same up to the fork.
    match crate::wal::timeline::fork(our_history, their_history) {
        Some((shared, at)) if shared == our_history.timeline && our_end <= at => Relation::Ahead,
        Some((shared, at)) if shared == their_history.timeline && their_end <= at => Relation::Behind,
        _ => Relation::Parted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId(timeline), text).expect("because the test writes it well")
    }

    #[test]
    fn histories_are_compared_by_where_they_part() {
        let (first, second) = (TimelineHistory::first(), history(2, "1\t0/500\n"));
        let of = |a: &TimelineHistory, a_end, b: &TimelineHistory, b_end| relation((a, Lsn(a_end)), (b, Lsn(b_end)));
        assert_eq!(of(&first, 0x100, &first, 0x900), Relation::Same);
        assert_eq!(of(&first, 0x500, &second, 0x900), Relation::Ahead);
        assert_eq!(of(&first, 0x501, &second, 0x900), Relation::Parted);
        assert_eq!(of(&second, 0x900, &first, 0x500), Relation::Behind);
        assert_eq!(of(&second, 0x900, &first, 0x501), Relation::Parted);
        assert_eq!(of(&second, 0x900, &history(2, "1\t0/400\n"), 0x900), Relation::Parted);
        assert_eq!(of(&history(3, "1\t0/500\n"), 0x900, &second, 0x900), Relation::Parted);
    }

    #[test]
    fn an_old_answer_is_no_answer() {
        let fact = Fact { known: Known::Is(1), source: "x".into(), age_ms: 2000 };
        assert_eq!(fact.within(Duration::from_secs(2)), Some(&1));
        assert_eq!(fact.within(Duration::from_secs(1)), None);
        assert_eq!(Fact::<u8>::new("x", Err("gone".into())).why(), "gone");
    }
}
