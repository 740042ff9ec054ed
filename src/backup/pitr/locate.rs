//! Where in the WAL a target lies: which segments are read to find it, and no more of them than it takes.
//!
//! Pure but for one question, which a [`Reader`] answers: what is the first record in these segments at which a
//! recovery would end? A time is found by halving, since commit times grow with the WAL but for the moment between
//! taking the time and writing the record; where a clock was set back, only the restore itself tells the truth.

use super::super::BackupError;
use crate::archive::continuity::Inventory;
use crate::wal::commit::Ended;
use crate::wal::target::{Goal, Stop};
use crate::wal::{Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};

/// So many segments without a commit are read before its time is left unknown.
const QUIET_MAX: u64 = 64;

/// The segments that a recovery reads, one after the other: each from the newest timeline that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The timeline that is followed, and those it came from.
    pub history: TimelineHistory,
    /// The size of each segment.
    pub size: SegmentSize,
    /// The first segment.
    pub first: SegmentNumber,
    /// The last one of those that hang together; none where the first is missing.
    pub reached: Option<SegmentNumber>,
}

/// What was seen in some segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The first record at which recovery ends.
    pub stop: Option<Stop>,
    /// The last commit that is replayed, of those in these segments.
    pub last_commit: Option<Ended>,
    /// Behind the last record.
    pub until: Lsn,
}

/// Reads WAL.
pub trait Reader {
    /// Looks through the segments of a way from `from` to `to` for the first record at which recovery ends. A record
    /// that begins in the last of them and ends behind it is read whole, if the way leads there.
    fn seek(
        &self,
        way: &Way,
        range: (SegmentNumber, SegmentNumber),
        goal: &Goal,
        inclusive: bool,
    ) -> Result<Seen, BackupError>;
}

impl Way {
    /// The way along a history from a segment on, as far as it is whole.
    pub fn new(inventory: &Inventory, history: TimelineHistory, first: SegmentNumber) -> Way {
        let reached = inventory.reach(&history, first).map(|(_, last)| last);
        Way { history, size: inventory.size, first, reached }
    }

    /// The name under which a segment is read.
    pub fn name(&self, number: SegmentNumber) -> SegmentName {
        SegmentName::new(self.history.owner_of_segment(number, self.size), number, self.size)
    }

    /// The end of the WAL that hangs together.
    pub fn end(&self) -> Lsn {
        self.reached.map_or(self.first.start(self.size), |last| last.end(self.size))
    }

    /// The stretches up to a segment, each from one timeline.
    pub fn stretches(&self, last: SegmentNumber) -> Vec<(TimelineId, SegmentNumber, SegmentNumber)> {
        let forks = || self.history.ancestors.iter().map(|left| left.switch_point.segment(self.size));
        let (mut found, mut next) = (Vec::new(), self.first);
        while next <= last {
            let fork = forks().filter(|fork| *fork > next).min();
            let end = fork.and_then(SegmentNumber::previous).map_or(last, |end| end.min(last));
            found.push((self.history.owner_of_segment(next, self.size), next, end));
            next = end.next();
        }
        found
    }
}

/// Finds the first record of a time: the end of a transaction that is later.
pub fn time(reader: &dyn Reader, way: &Way, goal: &Goal, inclusive: bool) -> Result<Option<Seen>, BackupError> {
    let Some(last) = way.reached else { return Ok(None) };
    let (mut low, mut high, mut found) = (way.first.0, last.0 + 1, None);
    while low < high {
        let middle = low + (high - low) / 2;
        let mut at = middle;
        let seen = loop {
            let number = SegmentNumber(at);
            let seen = reader.seek(way, (number, number), goal, inclusive)?;
            let quiet = seen.stop.is_none() && seen.last_commit.is_none();
            if !quiet || at + 1 == high {
                break seen;
            }
            at += 1;
        };
        if seen.stop.is_some() {
            found = Some((at, seen));
            high = middle;
        } else {
            low = at + 1;
        }
    }
    found.map(|(at, seen)| with_commit(reader, way, SegmentNumber(at), seen)).transpose()
}

/// Finds the first record that begins at a position or behind it.
pub fn position(reader: &dyn Reader, way: &Way, lsn: Lsn, inclusive: bool) -> Result<Option<Seen>, BackupError> {
    let Some(last) = way.reached else { return Ok(None) };
    for number in (lsn.segment(way.size).max(way.first).0..=last.0).map(SegmentNumber) {
        let seen = reader.seek(way, (number, number), &Goal::Lsn(lsn), inclusive)?;
        if seen.stop.is_some() {
            return with_commit(reader, way, number, seen).map(Some);
        }
    }
    Ok(None)
}

/// Finds the first record of a transaction or of a restore point between two segments, by reading them all.
pub fn through(
    reader: &dyn Reader,
    way: &Way,
    range: (SegmentNumber, SegmentNumber),
    goal: &Goal,
    inclusive: bool,
) -> Result<Option<Seen>, BackupError> {
    let seen = reader.seek(way, range, goal, inclusive)?;
    let Some(stop) = seen.stop else { return Ok(None) };
    with_commit(reader, way, stop.record.segment(way.size), seen).map(Some)
}

/// The last commit in the segments up to this one.
pub fn last_commit(reader: &dyn Reader, way: &Way, last: SegmentNumber) -> Result<Option<Ended>, BackupError> {
    let first = way.first.0.max((last.0 + 1).saturating_sub(QUIET_MAX));
    for number in (first..=last.0).rev().map(SegmentNumber) {
        let seen = reader.seek(way, (number, number), &Goal::Nothing, true)?;
        if seen.last_commit.is_some() {
            return Ok(seen.last_commit);
        }
    }
    Ok(None)
}

/// The last commit that is replayed up to a position.
pub fn at(reader: &dyn Reader, way: &Way, lsn: Lsn) -> Result<Option<Ended>, BackupError> {
    let Some(reached) = way.reached else { return Ok(None) };
    let number = Lsn(lsn.0.saturating_sub(1)).segment(way.size);
    if number > reached || number < way.first {
        return last_commit(reader, way, reached);
    }
    let seen = reader.seek(way, (number, number), &Goal::Lsn(lsn), false)?;
    Ok(with_commit(reader, way, number, seen)?.last_commit)
}

/// Adds the last commit before what was seen in a segment, where that segment has none.
fn with_commit(reader: &dyn Reader, way: &Way, number: SegmentNumber, seen: Seen) -> Result<Seen, BackupError> {
    let before = number.previous().filter(|before| seen.last_commit.is_none() && *before >= way.first);
    Ok(match before {
        Some(before) => Seen { last_commit: last_commit(reader, way, before)?, ..seen },
        None => seen,
    })
}
