//! How far a node is behind, one form for all paths: sent, written, flushed, replayed, archived, relayed, restorable.
//! Pure.
//!
//! Distances are taken from the primary's position, in bytes and in seconds; where no primary answers, from the
//! furthest position that is known. A path that a node does not use is `None`: a standby that lives from its archive
//! receives nothing, so it has no distance there, and least of all zero. For a cascade the distance to the own upstream
//! stands beside.

use std::time::SystemTime;

use serde::Serialize;

use crate::config::NodeKind;
use crate::monitor::observation::{Observation, Sender, as_text};
use crate::monitor::report::{ArchiveState, Report};
use crate::monitor::tide::Tide;
use crate::wal::{Lsn, SegmentSize, WalName};

use super::{NodeView, Reference, Watched};

/// How far a node is on each path.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Lag {
    /// Sent to it by its upstream.
    pub sent: Option<Mark>,
    /// Written there, not yet safe.
    pub written: Option<Mark>,
    /// Durable there.
    pub flushed: Option<Mark>,
    /// Visible to queries there.
    pub replayed: Option<Mark>,
    /// Whole segments in its archive, or said to be archived by the primary's archiver.
    pub archived: Option<Mark>,
    /// Whole segments in the archive of a dr node, where relaying brings them.
    pub relayed: Option<Mark>,
    /// As far as its newest backup can be brought from its own archive alone.
    pub restorable: Option<Mark>,
    /// The distance to its own upstream, for one that does not follow the primary itself.
    pub hop: Option<Hop>,
}

/// A position, and how far that is behind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mark {
    /// The position.
    #[serde(serialize_with = "super::lsn")]
    pub lsn: Lsn,
    /// Bytes behind the reference; none: there is none.
    pub bytes: Option<u64>,
    /// Seconds behind; none: nobody knows.
    pub seconds: Option<f64>,
}

/// One hop of a cascade.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hop {
    /// Where the hop begins.
    pub upstream: String,
    /// How far what is durable there and what is durable here are apart, in bytes.
    pub bytes: Option<u64>,
    /// Where the upstream is.
    #[serde(serialize_with = "as_text::serialize")]
    pub from: Option<Lsn>,
}

/// Takes distances at one moment.
pub struct Measure<'a> {
    /// Where they are taken from.
    pub reference: Option<&'a Reference>,
    /// Where the primary was when.
    pub tide: &'a Tide,
    /// The moment.
    pub at: SystemTime,
}

impl Measure<'_> {
    /// A position with its distances. `said` is the lag in seconds that somebody else reports for it.
    fn mark(&self, lsn: Option<Lsn>, said: Option<f64>) -> Option<Mark> {
        let lsn = lsn.filter(|lsn| *lsn != Lsn::INVALID)?;
        let bytes = self.reference.map(|reference| reference.lsn.0.saturating_sub(lsn.0));
        // Who has everything there is lags by nothing, however old that is.
        let seconds = match (bytes, self.tide.age(lsn, self.at)) {
            (Some(0), _) => Some(0.0),
            (_, Some(age)) => Some(age.as_secs_f64()),
            (_, None) => said,
        };
        Some(Mark { lsn, bytes, seconds })
    }

    /// All paths of one node.
    pub fn node(
        &self,
        one: &Watched,
        seen: Option<&Observation>,
        sender: Option<&Sender>,
        report: Option<&Report>,
    ) -> Lag {
        let mut lag = Lag::default();
        let standby = seen.is_none_or(|seen| seen.in_recovery);
        let receiver = seen.and_then(|seen| seen.receiver.as_ref());
        if standby {
            // What the node says of itself is newer than what its upstream heard of it.
            let written = receiver.and_then(|receiver| receiver.written).max(sender.and_then(|sender| sender.written));
            let flushed = receiver.and_then(|receiver| receiver.flushed).max(sender.and_then(|sender| sender.flushed));
            let replayed = seen.and_then(|seen| seen.replayed).max(sender.and_then(|sender| sender.replayed));
            let committed = seen.and_then(|seen| seen.replayed_age);
            lag.sent = self.mark(sender.and_then(|sender| sender.sent).max(written), None);
            lag.written = self.mark(written, sender.and_then(|sender| sender.write_lag));
            lag.flushed = self.mark(flushed, sender.and_then(|sender| sender.flush_lag));
            lag.replayed = self.mark(replayed, sender.and_then(|sender| sender.replay_lag).or(committed));
        }
        let archive = report.and_then(|report| report.archive.as_ref()).and_then(|archive| archive.as_ref().ok());
        let tip = self.mark(archive.and_then(|archive| archive.tip), archive_age(seen));
        match one.node.kind {
            NodeKind::Dr => lag.relayed = tip,
            _ => lag.archived = tip.max_by_lsn(self.mark(pushed(seen), archive_age(seen))),
        }
        lag.restorable = self.mark(archive.and_then(restorable), None);
        lag
    }
}

/// How far a restore from an archive gets; an archive without a backup gets nowhere.
fn restorable(archive: &ArchiveState) -> Option<Lsn> {
    archive.restorable
}

/// Where the archiver of a primary has got to: the end of the last segment it was told to be safe.
fn pushed(seen: Option<&Observation>) -> Option<Lsn> {
    let seen = seen.filter(|seen| !seen.in_recovery && seen.archive_mode != "off")?;
    end_of(seen.archiver.last_archived.as_deref()?, seen.segment_size)
}

/// The end of the segment of that name.
fn end_of(name: &str, size: SegmentSize) -> Option<Lsn> {
    match name.parse().ok()? {
        WalName::Segment(segment) => segment.number(size).map(|number| number.end(size)),
        _ => None,
    }
}

fn archive_age(seen: Option<&Observation>) -> Option<f64> {
    seen.and_then(|seen| seen.archiver.last_archived_age)
}

/// Chooses the mark that is further.
trait Further {
    fn max_by_lsn(self, other: Option<Mark>) -> Option<Mark>;
}

impl Further for Option<Mark> {
    fn max_by_lsn(self, other: Option<Mark>) -> Option<Mark> {
        [self, other].into_iter().flatten().max_by_key(|mark| mark.lsn)
    }
}

/// Adds the distance to the own upstream where that is not the primary.
pub fn add_hops(nodes: &mut [NodeView]) {
    let reach = |node: &NodeView| node.lag.flushed.or(node.lag.replayed).map(|mark| mark.lsn);
    let standbys: Vec<(String, Option<Lsn>)> = nodes
        .iter()
        .filter(|node| node.role != super::Role::Primary)
        .map(|node| (node.name.clone(), reach(node)))
        .collect();
    for node in nodes.iter_mut() {
        let Some(upstream) = &node.upstream else { continue };
        let Some((name, from)) = standbys.iter().find(|(name, _)| name == upstream) else { continue };
        let own = reach(node);
        let bytes = from.zip(own).map(|(from, own)| from.0.saturating_sub(own.0));
        node.lag.hop = Some(Hop { upstream: name.clone(), bytes, from: *from });
    }
}
