//! Looks again at what seems to be missing: an archive is written and cleaned up while it is listed.
//!
//! Segments that came since are there, and a gap whose beginning was cleaned up since is none.

use super::ArchiveError;
use super::continuity::ranges::Ranges;
use super::continuity::{Continuity, Gap, Inventory};
use super::layout;
use super::places::Archive;
use super::survey::wal_files;
use crate::store::Encoding;
use crate::wal::{SegmentName, SegmentNumber, WalName};

/// So many folders of one gap are listed again; of a longer one, only what came into these is seen.
const FOLDERS_MAX: usize = 64;

/// Keeps of a judgement what is still so.
pub fn confirm(archive: &Archive, inventory: &Inventory, judged: Continuity) -> Result<Continuity, ArchiveError> {
    let mut gaps = Vec::new();
    for gap in judged.gaps {
        if cleaned_up(archive, inventory, &gap)? {
            continue;
        }
        let now = there_now(archive, inventory, &gap)?;
        let missing = now.missing(gap.first, gap.last.next());
        gaps.extend(missing.stretches().map(|(first, last)| Gap { first, last, ..gap.clone() }));
    }
    Ok(Continuity { gaps, ..judged })
}

/// True where the segment before the gap was there and is no more: clean-up goes from old to new.
fn cleaned_up(archive: &Archive, inventory: &Inventory, gap: &Gap) -> Result<bool, ArchiveError> {
    let Some(before) = gap.first.previous().filter(|before| inventory.holds(gap.timeline, *before)) else {
        return Ok(false);
    };
    let name = WalName::Segment(SegmentName::new(gap.timeline, before, inventory.size));
    for encoding in Encoding::ALL {
        if archive.store.look(&layout::stored(name, encoding))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn there_now(archive: &Archive, inventory: &Inventory, gap: &Gap) -> Result<Ranges, ArchiveError> {
    let per_log = inventory.size.segments_per_log();
    let mut numbers = Ranges::default();
    for log in (gap.first.0 / per_log..=gap.last.0 / per_log).take(FOLDERS_MAX) {
        let any = SegmentName::new(gap.timeline, SegmentNumber(log * per_log), inventory.size);
        let entries = archive.store.list(&layout::folder(any))?.unwrap_or_default();
        for (name, _) in wal_files(entries, &any.folder()).0 {
            if let WalName::Segment(segment) = name
                && let Some(number) = segment.number(inventory.size)
            {
                numbers.insert(number);
            }
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::continuity::judge;
    use crate::archive::identity::Identity;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;
    use crate::wal::{SegmentSize, SystemId};

    fn name(number: u64) -> WalName {
        WalName::Segment(SegmentName::new(crate::wal::TimelineId(1), SegmentNumber(number), SegmentSize::DEFAULT))
    }

    /// What is missing where the listing saw some numbers, and the archive holds others by now.
    fn missing(listed: &[u64], now: &[u64]) -> Vec<(u64, u64)> {
        let mut inventory = Inventory::new(SegmentSize::DEFAULT);
        for number in listed {
            inventory.add(name(*number), 1);
        }
        let store = MemoryStore::new();
        for number in now {
            store.replace(&layout::stored(name(*number), Encoding::Zstd), b"x").expect("it is written");
        }
        let identity = Identity::new("main", SystemId(7), SegmentSize::DEFAULT);
        let archive = Archive { store: Arc::new(store), identity };
        let confirmed = confirm(&archive, &inventory, judge(&inventory)).expect("it looks");
        confirmed.gaps.iter().map(|gap| (gap.first.0, gap.last.0)).collect()
    }

    #[test]
    fn only_what_is_still_missing_counts() {
        assert_eq!(missing(&[1, 2, 9], &[1, 2, 9]), [(3, 8)]);
        assert_eq!(missing(&[1, 2, 9], &[1, 2, 5, 9]), [(3, 4), (6, 8)]);
        assert_eq!(missing(&[1, 2, 9], &[1, 2, 3, 4, 5, 6, 7, 8, 9]), []);
        assert_eq!(missing(&[1, 2, 900], &[800, 900]), []);
    }
}
