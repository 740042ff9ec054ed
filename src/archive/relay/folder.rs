//! One folder of an archive as a relay sees it, and the pure question how far WAL runs through it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::archive::ArchiveError;
use crate::archive::layout;
use crate::archive::places::Archive;
use crate::archive::queue::order;
use crate::store::{Encoding, Entry, EntryKind};
use crate::wal::{SegmentName, SegmentNumber, SegmentSize, WalName};

/// A WAL file as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoredFile {
    /// Its name.
    pub name: WalName,
    /// How it is stored.
    pub encoding: Encoding,
    /// How large it is as stored, in bytes.
    pub size: u64,
}

/// The WAL files of a folder, each name once, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    files: Vec<StoredFile>,
}

impl Folder {
    /// Lists the folder that holds a segment; one that does not exist is empty.
    pub fn of(segment: SegmentName, archive: &Archive) -> Result<Folder, ArchiveError> {
        Ok(Folder::from_entries(archive.store.list(&layout::folder(segment))?.unwrap_or_default()))
    }

    fn from_entries(entries: Vec<Entry>) -> Folder {
        let mut files: Vec<StoredFile> = entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::File)
            .filter_map(|entry| {
                let (name, encoding) = Encoding::split(&entry.name);
                Some(StoredFile { name: name.parse().ok()?, encoding, size: entry.size })
            })
            .collect();
        files.sort_by_key(|file| order(file.name));
        files.dedup_by(|a, b| a.name == b.name);
        Folder { files }
    }

    /// Tells whether anything came, went or changed.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.hash(&mut hasher);
        hasher.finish()
    }

    /// The oldest whole segment.
    pub fn oldest(&self, size: SegmentSize) -> Option<SegmentNumber> {
        self.segments(size).min()
    }

    /// Where a timeline begins: its oldest segment, else its oldest partial one. Backup labels outlive their segments.
    pub fn beginning(&self, size: SegmentSize) -> Option<SegmentNumber> {
        let partial = self.files.iter().filter(|file| file.name.holds_wal());
        self.oldest(size).or_else(|| partial.filter_map(|file| number(file, size)).min())
    }

    fn segments(&self, size: SegmentSize) -> impl Iterator<Item = SegmentNumber> {
        let whole = self.files.iter().filter(|file| matches!(file.name, WalName::Segment(_)));
        whole.filter_map(move |file| number(file, size))
    }
}

/// How far WAL runs from `next` on through a folder that both archives have a part of: the first segment that is in
/// neither. A segment that is only there is no hole: somebody else has brought it.
pub fn reach(here: &Folder, there: &Folder, next: SegmentNumber, size: SegmentSize) -> SegmentNumber {
    let held: HashSet<SegmentNumber> = here.segments(size).chain(there.segments(size)).collect();
    let mut reached = next;
    while held.contains(&reached) {
        reached = reached.next();
    }
    reached
}

/// What is here up to `reached` and not there. What lies beside the segments of that stretch (partial segments, backup
/// labels) belongs to it. From `next` on, a file of another size or encoding there counts as missing: sending it
/// compares both. What lies before was compared when it went.
pub fn missing<'a>(
    here: &'a Folder,
    there: &Folder,
    next: SegmentNumber,
    reached: SegmentNumber,
    size: SegmentSize,
) -> Vec<&'a StoredFile> {
    let held: HashSet<&StoredFile> = there.files.iter().collect();
    let named: HashSet<WalName> = there.files.iter().map(|file| file.name).collect();
    let is_due = |file: &&StoredFile| {
        number(file, size).is_some_and(|number| {
            let is_there = if number < next { named.contains(&file.name) } else { held.contains(file) };
            number <= reached && !is_there && !is_beyond(file, reached, size)
        })
    };
    here.files.iter().filter(is_due).collect()
}

/// A whole segment at `reached` itself cannot be: it would have been reached.
fn is_beyond(file: &StoredFile, reached: SegmentNumber, size: SegmentSize) -> bool {
    matches!(file.name, WalName::Segment(_)) && number(file, size) >= Some(reached)
}

fn number(file: &StoredFile, size: SegmentSize) -> Option<SegmentNumber> {
    file.name.segment()?.number(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn folder(names: &[&str]) -> Folder {
        let entry = |name: &&str| Entry {
            name: format!("0000000100000000000000{name}"),
            kind: EntryKind::File,
            size: 7,
            modified: std::time::SystemTime::UNIX_EPOCH,
        };
        Folder::from_entries(names.iter().map(entry).collect())
    }

    fn names(files: &[&StoredFile]) -> Vec<String> {
        files.iter().map(|file| file.name.to_string()[22..].to_owned()).collect()
    }

    #[test]
    fn wal_runs_up_to_the_first_segment_that_neither_holds() {
        let here = folder(&["03.zst", "04.zst", "06.zst", "08.zst"]);
        let there = folder(&["05", "07.partial.zst"]);
        assert_eq!(reach(&here, &there, SegmentNumber(3), SIZE), SegmentNumber(7));
        assert_eq!(reach(&here, &there, SegmentNumber(2), SIZE), SegmentNumber(2));
        let missing = missing(&here, &there, SegmentNumber(3), SegmentNumber(7), SIZE);
        assert_eq!(names(&missing), ["03", "04", "06"]);
    }

    #[test]
    fn what_lies_beside_goes_along_and_late_files_are_seen() {
        let here = folder(&["03.zst", "04.zst", "05.partial.zst", "03.00000028.backup", "07.partial"]);
        let there = folder(&["03.zst", "04.zst"]);
        assert_eq!(
            names(&missing(&here, &there, SegmentNumber(5), SegmentNumber(5), SIZE)),
            ["03.00000028.backup", "05.partial"]
        );
        let later = folder(&["03.zst", "04.zst", "05.partial.zst", "07.partial"]);
        assert_ne!(here.fingerprint(), later.fingerprint());
    }

    #[test]
    fn another_size_or_encoding_there_is_looked_at() {
        let here = folder(&["03.zst", "04.zst"]);
        let mut there = folder(&["03.zst", "04"]);
        there.files[0].size = 8;
        let from = |next| names(&missing(&here, &there, SegmentNumber(next), SegmentNumber(5), SIZE));
        assert_eq!(from(3), ["03", "04"]);
        assert_eq!(from(4), ["04"]);
    }
}
