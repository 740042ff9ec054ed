//! Which segments the archives hold between them: one listing a folder of 4 GiB, and no content read.

use std::collections::BTreeSet;

use super::ArchiveError;
use super::layout;
use super::places::Archive;
use crate::store::{Encoding, EntryKind, StorePath};
use crate::wal::{SegmentName, WalName};

/// Those of the segments that none of the archives holds. An archive that cannot be listed is an error only where the
/// others leave something open.
pub fn missing(archives: &[Archive], segments: &[SegmentName]) -> Result<Vec<SegmentName>, ArchiveError> {
    let mut open: BTreeSet<SegmentName> = segments.iter().copied().collect();
    let mut trouble = None;
    for archive in archives {
        if open.is_empty() {
            break;
        }
        match held(archive, &open) {
            Ok(held) => open.retain(|segment| !held.contains(segment)),
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    match trouble {
        Some(error) if !open.is_empty() => Err(error),
        _ => Ok(open.into_iter().collect()),
    }
}

fn held(archive: &Archive, wanted: &BTreeSet<SegmentName>) -> Result<BTreeSet<SegmentName>, ArchiveError> {
    let folders: BTreeSet<StorePath> = wanted.iter().map(|segment| layout::folder(*segment)).collect();
    let mut found = BTreeSet::new();
    for folder in folders {
        let entries = archive.store.list(&folder)?.unwrap_or_default();
        let files = entries.into_iter().filter(|entry| entry.kind == EntryKind::File);
        found.extend(files.filter_map(|entry| match Encoding::split(&entry.name).0.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::identity::Identity;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;
    use crate::wal::{SegmentSize, SystemId};

    fn archive(names: &[&str]) -> Archive {
        let store = MemoryStore::new();
        for name in names {
            let name: WalName = name.parse().expect("because the test names WAL files");
            store.replace(&layout::stored(name, Encoding::Zstd), b"").expect("because it is memory");
        }
        Archive { store: Arc::new(store), identity: Identity::new("main", SystemId(7), SegmentSize::DEFAULT) }
    }

    #[test]
    fn what_one_archive_lacks_another_may_hold() -> Result<(), ArchiveError> {
        let names = ["0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000000"];
        let segments = names.map(|name| name.parse::<SegmentName>().expect("because it is well formed"));
        // What is partial is not whole.
        let first = archive(&[names[0], "0000000100000000000000FF.partial"]);
        let second = archive(&[names[2]]);
        assert_eq!(missing(&[first.clone(), second.clone()], &segments)?, [segments[1]]);
        assert_eq!(missing(&[first, second, archive(&[names[1]])], &segments)?, []);
        assert_eq!(missing(&[], &segments)?, segments);
        Ok(())
    }
}
