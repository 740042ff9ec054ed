//! What can be restored from an archive alone: from each base backup, how far whole WAL leads and to which time.
//!
//! The time is that of the last commit in the last segment reached, read from the segment itself.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::ArchiveError;
use super::backups::Described;
use super::continuity::Inventory;
use super::layout;
use super::places::Archive;
use super::stored::{Stored, Trouble};
use crate::store::{Encoding, StoreError};
use crate::wal::commit::{self, Ended};
use crate::wal::timeline::TimelineHistory;
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineId, WalName};

/// So many segments without a commit are read before the time is left unknown.
const QUIET_MAX: usize = 64;

/// Where whole WAL ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// The timeline of the last segment.
    pub timeline: TimelineId,
    /// The first segment of the stretch.
    pub first: SegmentName,
    /// The last segment.
    pub last: SegmentName,
    /// Where the last segment ends.
    #[serde(serialize_with = "shown::text")]
    pub until: Lsn,
    /// When the last commit in it happened, by the primary's clock; none where none was found near its end.
    #[serde(serialize_with = "shown::time")]
    pub last_commit: Option<DateTime<Utc>>,
    /// Where that commit's record begins.
    #[serde(serialize_with = "shown::lsn")]
    pub last_commit_at: Option<Lsn>,
    /// The transaction of that commit.
    pub last_commit_xid: Option<u32>,
}

/// A backup, and what it can be brought to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The backup's label.
    pub backup: String,
    /// True where the WAL that it needs to be consistent is here.
    pub usable: bool,
    /// The earliest position that can be restored.
    #[serde(serialize_with = "shown::lsn")]
    pub from: Option<Lsn>,
    /// The earliest time that can be restored.
    #[serde(serialize_with = "shown::time")]
    pub from_time: Option<DateTime<Utc>>,
    /// How far it can be brought; none where its first segment is missing.
    pub until: Option<Reach>,
}

/// What each finished backup can be brought to, along the newest timeline that goes on from it.
pub fn windows(archive: &Archive, inventory: &Inventory, backups: &[Described]) -> Result<Vec<Window>, ArchiveError> {
    let mut windows = Vec::new();
    for backup in backups {
        let (Some(start), Some(timeline)) = (backup.start, backup.timeline) else { continue };
        let Some(number) = start.number(inventory.size) else { continue };
        let history = newest_from(inventory, timeline, backup.stop);
        let reached = history.and_then(|history| Some((inventory.reach(&history, number)?, history)));
        let until = match reached {
            Some(((_, last), history)) => Some(reach(archive, inventory, &history, number, last)?),
            None => None,
        };
        let usable = until.as_ref().is_some_and(|until| backup.stop.is_none_or(|stop| until.until >= stop));
        let from_time = backup.finished.filter(|_| usable);
        windows.push(Window {
            backup: backup.label.clone(),
            usable,
            from: backup.stop,
            from_time,
            until: until.filter(|_| usable),
        });
    }
    Ok(windows)
}

/// The history of the newest timeline on whose way the backup lies.
fn newest_from(inventory: &Inventory, timeline: TimelineId, stop: Option<Lsn>) -> Option<TimelineHistory> {
    let leads_on = |history: &&TimelineHistory| {
        let left = history.switch_point(timeline);
        history.contains(timeline) && left.is_none_or(|left| stop.is_none_or(|stop| stop <= left))
    };
    let newest = inventory.histories.values().rev().find(leads_on).cloned();
    // Without a history file its own WAL still leads on.
    newest.or(Some(TimelineHistory { timeline, ancestors: Vec::new() }))
}

/// The last stretch of whole WAL on the newest timeline of which any is here.
pub fn newest(archive: &Archive, inventory: &Inventory) -> Result<Option<Reach>, ArchiveError> {
    let held = inventory.timelines.iter().rev().find_map(|(timeline, held)| Some((*timeline, held.whole.last()?)));
    let Some((timeline, last)) = held else { return Ok(None) };
    let alone = TimelineHistory { timeline, ancestors: Vec::new() };
    let history = inventory.history(timeline).unwrap_or(alone);
    let first = inventory.since(&history, last);
    reach(archive, inventory, &history, first, last).map(Some)
}

fn reach(
    archive: &Archive,
    inventory: &Inventory,
    history: &TimelineHistory,
    first: SegmentNumber,
    last: SegmentNumber,
) -> Result<Reach, ArchiveError> {
    let name = |number| SegmentName::new(history.owner_of_segment(number, inventory.size), number, inventory.size);
    let mut commit: Option<Ended> = None;
    for number in (first.0..=last.0).rev().take(QUIET_MAX).map(SegmentNumber) {
        commit = last_commit(archive, name(number))?;
        if commit.is_some() {
            break;
        }
    }
    Ok(Reach {
        timeline: name(last).timeline(),
        first: name(first),
        last: name(last),
        until: last.end(inventory.size),
        last_commit: commit.map(|commit| commit.at().into()),
        last_commit_at: commit.map(|commit| commit.start),
        last_commit_xid: commit.map(|commit| commit.xid),
    })
}

/// The last commit in a stored segment. What cannot be decoded to its end tells what it told until there.
fn last_commit(archive: &Archive, name: SegmentName) -> Result<Option<Ended>, ArchiveError> {
    for encoding in Encoding::ALL {
        let path = layout::stored(WalName::Segment(name), encoding);
        let Some(stored) = archive.store.open(&path)? else { continue };
        let trouble = Trouble::default();
        let decoded = encoding.decoder(Box::new(Stored::new(stored, &trouble)));
        let scanned = decoded.and_then(|mut reader| commit::scan(&mut reader));
        if let Some(failed) = trouble.take().filter(|failed| failed.raw_os_error().is_none()) {
            return Err(StoreError::from_read(archive.store.place(), path.as_str(), failed).into());
        }
        return match scanned {
            Ok(commits) => Ok(commits.last),
            // Damage is told by the verification.
            Err(_) => Ok(None),
        };
    }
    Ok(None)
}

/// How positions and times stand in JSON: as PostgreSQL writes a position, and with the offset of this machine's zone.
pub mod shown {
    use std::fmt::Display;

    use chrono::{DateTime, Local, SecondsFormat, Utc};
    use serde::{Serialize, Serializer};

    use crate::wal::Lsn;

    /// Something as its text.
    pub fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// A position, or null.
    pub fn lsn<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
        lsn.map(|lsn| lsn.to_string()).serialize(serializer)
    }

    /// A time, or null.
    pub fn time<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(words).serialize(serializer)
    }

    /// A time in this machine's zone, with offset.
    pub fn words(time: DateTime<Utc>) -> String {
        time.with_timezone(&Local).to_rfc3339_opts(SecondsFormat::AutoSi, false)
    }
}
