//! Tells the end of WAL from a hole in it.
//!
//! To a restore without `standby.signal`, "absent" means the end: the server opens for writes. If the places show that
//! WAL once followed, the answer must not be "absent": recovery would stop early and nobody would be told.

use std::io::Read;

use super::ArchiveError;
use super::layout;
use super::places::Archive;
use crate::store::{Encoding, StoreError, StorePath};
use crate::wal::timeline::TimelineHistory;
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineId, WalName};

/// Timeline numbers grow by one with each promotion; PostgreSQL itself stops looking at the first one missing.
const TIMELINES_MAX: u32 = 1000;

/// No history file is larger, in bytes: a line for each of a thousand timelines.
const HISTORY_MAX: u64 = 1 << 20;

/// Says what shows that WAL followed the absent segment, or nothing where it may well be the end.
///
/// It is asked once, at the end of a recovery, and lists a folder for each 4 GiB of WAL at most.
pub fn evidence(missing: SegmentName, archive: &Archive) -> Result<Option<String>, ArchiveError> {
    let size = archive.identity.segment_size;
    let Some(number) = missing.number(size) else { return Ok(None) };
    if number < beginning(missing.timeline(), archive)? {
        // Recovery asks the newest timeline first, also for positions before it began.
        return Ok(None);
    }
    if let Some(later) = later_segment(missing, number, archive)? {
        return Ok(Some(format!("'{later}' of the same timeline is in the {}", archive.store.place())));
    }
    later_timeline(missing, number, archive)
}

/// The first segment of a timeline: the one its parent was left in.
fn beginning(timeline: TimelineId, archive: &Archive) -> Result<SegmentNumber, ArchiveError> {
    let history = history(timeline, archive)?;
    let begun = history.and_then(|history| history.ancestors.last().map(|parent| parent.switch_point));
    Ok(begun.unwrap_or(Lsn::INVALID).segment(archive.identity.segment_size))
}

/// Only folders that are there are listed, the nearest first, and the first WAL found in one ends the search.
fn later_segment(
    missing: SegmentName,
    number: SegmentNumber,
    archive: &Archive,
) -> Result<Option<WalName>, ArchiveError> {
    let size = archive.identity.segment_size;
    let own = missing.folder().to_string();
    let mut folders = folders(missing.timeline(), archive)?;
    folders.retain(|folder| *folder >= own);
    folders.sort();
    for folder in folders {
        let path = wal_folder()?.join(&folder).map_err(StoreError::from)?;
        for entry in archive.store.list(&path)?.unwrap_or_default() {
            let Ok(name) = Encoding::split(&entry.name).0.parse::<WalName>() else { continue };
            let there = name.segment().filter(|_| name.holds_wal()).and_then(|segment| segment.number(size));
            if there.is_some_and(|there| there > number) {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// The folders of a timeline; there is one for 4 GiB of WAL.
fn folders(timeline: TimelineId, archive: &Archive) -> Result<Vec<String>, ArchiveError> {
    let prefix = format!("{:08X}", timeline.0);
    let mut folders = archive.store.folders(&wal_folder()?)?.unwrap_or_default();
    folders.retain(|name| name.len() == 16 && name.starts_with(&prefix));
    Ok(folders)
}

fn wal_folder() -> Result<StorePath, ArchiveError> {
    Ok(layout::WAL.parse::<StorePath>().map_err(StoreError::from)?)
}

/// Says what shows that a timeline was there whose history is absent: recovery would stop at its parent, and a
/// promotion would take its number.
pub fn lost_history(timeline: TimelineId, archive: &Archive) -> Result<Option<String>, ArchiveError> {
    // The first timeline has no history.
    let lost = timeline.0 > 1 && !folders(timeline, archive)?.is_empty();
    Ok(lost.then(|| format!("WAL of timeline {timeline} is in the {}", archive.store.place())))
}

/// A later timeline that left this one behind the missing segment shows that it existed.
fn later_timeline(
    missing: SegmentName,
    number: SegmentNumber,
    archive: &Archive,
) -> Result<Option<String>, ArchiveError> {
    let size = archive.identity.segment_size;
    let own = missing.timeline().0;
    for timeline in (own + 1..=own.saturating_add(TIMELINES_MAX)).map(TimelineId) {
        let Some(history) = history(timeline, archive)? else { break };
        let Some(left) = history.ancestors.iter().find(|ancestor| ancestor.timeline == missing.timeline()) else {
            continue;
        };
        if left.switch_point.segment(size) > number {
            let place = archive.store.place();
            return Ok(Some(format!(
                "timeline {timeline} left timeline {own} at {}, behind it, as its history in the {place} says",
                left.switch_point
            )));
        }
    }
    Ok(None)
}

/// True where a later timeline left this one in this segment or before it, so that it is not going to come.
pub fn is_left_behind(segment: SegmentName, archive: &Archive) -> Result<bool, ArchiveError> {
    let size = archive.identity.segment_size;
    let Some(number) = segment.number(size) else { return Ok(false) };
    let own = segment.timeline().0;
    for timeline in (own + 1..=own.saturating_add(TIMELINES_MAX)).map(TimelineId) {
        let Some(history) = history(timeline, archive)? else { break };
        let mut parents = history.ancestors.iter().filter(|ancestor| ancestor.timeline == segment.timeline());
        if parents.any(|left| left.switch_point.segment(size) <= number) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The history of a timeline in an archive; none where it is absent.
pub fn history(timeline: TimelineId, archive: &Archive) -> Result<Option<TimelineHistory>, ArchiveError> {
    let path = layout::history(timeline);
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let mut text = String::new();
    let read = file.take(HISTORY_MAX).read_to_string(&mut text);
    read.map_err(|source| StoreError::io(archive.store.place(), "read", path.as_str(), source))?;
    let parsed = TimelineHistory::parse(timeline, &text).map_err(|error| ArchiveError::NotTheWal {
        name: WalName::History(timeline),
        place: archive.store.place().to_string(),
        detail: error.to_string(),
    })?;
    Ok(Some(parsed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::identity::Identity;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;
    use crate::wal::{SegmentSize, SystemId};

    /// An archive that holds these files; a history comes with its text.
    fn archive(files: &[(&str, &str)]) -> Archive {
        let store = MemoryStore::new();
        for (name, text) in files {
            let name: WalName = name.parse().expect("because the test names WAL files");
            store.replace(&layout::stored(name, Encoding::None), text.as_bytes()).expect("it is written");
        }
        Archive { store: Arc::new(store), identity: Identity::new("main", SystemId(7), SegmentSize::DEFAULT) }
    }

    fn shown(missing: &str, archive: &Archive) -> bool {
        let missing = missing.parse().expect("because the test names a segment");
        evidence(missing, archive).expect("it looks").is_some()
    }

    #[test]
    fn the_end_of_wal_is_no_hole() {
        let archive = archive(&[("000000010000000000000009", "")]);
        assert!(!shown("00000001000000000000000A", &archive));
    }

    #[test]
    fn a_later_segment_shows_a_hole_also_across_log_ids() {
        let archive = archive(&[("000000010000000100000000", "")]);
        assert!(shown("0000000100000000000000FF", &archive));
        assert!(shown("000000010000000000000080", &archive));
    }

    #[test]
    fn wal_far_behind_a_long_gap_shows_a_hole() {
        let archive = archive(&[("000000010000000000000009", ""), ("000000010000000700000003", "")]);
        assert!(shown("00000001000000000000000A", &archive));
        assert!(!shown("000000010000000700000004", &archive));
    }

    #[test]
    fn a_timeline_without_its_history_is_a_hole() {
        let archive = archive(&[("00000001000000000000000E", ""), ("00000002000000000000000E", "")]);
        let lost = |timeline| lost_history(TimelineId(timeline), &archive).expect("it looks").is_some();
        assert_eq!([lost(1), lost(2), lost(3)], [false, true, false]);
    }

    #[test]
    fn the_partial_tail_of_an_ended_timeline_is_no_hole() {
        let archive =
            archive(&[("00000001000000000000000E.partial", ""), ("00000002.history", "1\t0/E000100\tno target\n")]);
        assert!(!shown("00000001000000000000000E", &archive));
    }

    #[test]
    fn the_failover_hole_is_seen_by_the_history_of_the_next_timeline() {
        let archive = archive(&[("000000010000000000000009", ""), ("00000002.history", "1\t0/E000100\tno target\n")]);
        assert!(shown("00000001000000000000000A", &archive));
    }

    #[test]
    fn a_timeline_that_ended_is_not_waited_for() {
        let archive = archive(&[("00000002.history", "1\t0/E000100\tno target\n")]);
        let left = |name: &str| {
            is_left_behind(name.parse().expect("because the test names a segment"), &archive).expect("it looks")
        };
        let names = ["00000001000000000000000D", "00000001000000000000000E", "00000002000000000000000F"];
        assert_eq!(names.map(left), [false, true, false]);
    }

    #[test]
    fn a_timeline_is_not_missed_before_it_began() {
        let archive = archive(&[("00000002000000000000000E", ""), ("00000002.history", "1\t0/E000100\tno target\n")]);
        assert!(!shown("00000002000000000000000A", &archive));
        assert!(!shown("00000002000000000000000F", &archive));
    }
}
