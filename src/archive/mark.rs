//! Remembers which stored files were read and found good, so that the next check reads only what came since.
//!
//! A cache, one file a checked archive: without it everything is read again, and a mark that says nothing sensible is
//! no mark. A file whose size or time of writing differs is read again; what changed without either is only found by
//! reading everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::spool::Spool;
use crate::store::Entry;
use crate::system::durable;

/// What was verified in one archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// Which archive: another one under the same node's name has another mark.
    archive: String,
    folders: BTreeMap<String, Seen>,
}

/// What was verified in one folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Every file up to this stored name was read.
    until: String,
    /// A summary over names, sizes and times of the good ones.
    summary: u64,
    /// Those that were not good; they are read again every time.
    bad: BTreeSet<String>,
}

impl Seen {
    /// Describes a folder of which every file was read: its files by name, and which of them were not good.
    pub fn of<'a>(files: impl Iterator<Item = &'a Entry> + Clone, bad: BTreeSet<String>) -> Seen {
        let until = files.clone().last().map(|entry| entry.name.clone()).unwrap_or_default();
        let summary = summary(files.filter(|entry| !bad.contains(&entry.name)));
        Seen { until, summary, bad }
    }

    /// Says for each of these files, which come by name, whether it was found good and is as it was.
    pub fn known<'a>(&self, files: impl Iterator<Item = &'a Entry> + Clone) -> Vec<bool> {
        let seen = |entry: &Entry| entry.name <= self.until && !self.bad.contains(&entry.name);
        if summary(files.clone().filter(|entry| seen(entry))) != self.summary {
            return files.map(|_| false).collect();
        }
        files.map(seen).collect()
    }
}

// The hash of the library may change with the compiler; a mark that matches nothing any more only costs time.
fn summary<'a>(files: impl Iterator<Item = &'a Entry>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for entry in files {
        (&entry.name, entry.size, entry.modified).hash(&mut hasher);
    }
    hasher.finish()
}

impl Mark {
    /// The mark about an archive, or an empty one.
    pub fn load(spool: &Spool, node: &str, archive: &str) -> Mark {
        let read = fs::read(path(spool, node)).ok();
        let mark: Option<Mark> = read.and_then(|text| serde_json::from_slice(&text).ok());
        let fresh = || Mark { archive: archive.to_owned(), folders: BTreeMap::new() };
        mark.filter(|mark| mark.archive == archive).unwrap_or_else(fresh)
    }

    /// Keeps the mark.
    pub fn save(&self, spool: &Spool, node: &str) -> Result<(), ArchiveError> {
        let path = path(spool, node);
        spool.prepare()?;
        if let Some(folder) = path.parent() {
            spool.make(folder)?;
        }
        let json = serde_json::to_vec(self).expect("because plain data has no reason not to become JSON");
        durable::replace(&path, &json).map_err(ArchiveError::io("write", path))
    }

    /// What was verified in a folder.
    pub fn folder(&self, folder: &str) -> Option<&Seen> {
        self.folders.get(folder)
    }

    /// Remembers what was verified in a folder.
    pub fn remember(&mut self, folder: &str, seen: Seen) {
        self.folders.insert(folder.to_owned(), seen);
    }

    /// Forgets folders that are gone.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.folders.retain(|folder, _| keep(folder));
    }
}

fn path(spool: &Spool, node: &str) -> PathBuf {
    spool.root().join("verified").join(format!("{node}.json"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::store::EntryKind;

    fn file(name: &str, size: u64, second: u64) -> Entry {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        Entry { name: name.to_owned(), kind: EntryKind::File, size, modified }
    }

    #[test]
    fn only_what_came_later_or_was_bad_is_read_again() {
        let before = [file("a", 1, 1), file("b", 1, 1), file("c", 1, 1)];
        let seen = Seen::of(before.iter(), BTreeSet::from(["b".to_owned()]));
        let mut now = before.to_vec();
        now.push(file("d", 1, 2));
        assert_eq!(seen.known(now.iter()), [true, false, true, false]);
        // The bad one may be mended, which says nothing of the others.
        now[1] = file("b", 2, 5);
        assert_eq!(seen.known(now.iter()), [true, false, true, false]);
    }

    #[test]
    fn whatever_differs_makes_the_folder_new() {
        let before = [file("a", 1, 1), file("c", 1, 1)];
        let seen = Seen::of(before.iter(), BTreeSet::new());
        for changed in [
            vec![file("a", 2, 1), file("c", 1, 1)],
            vec![file("a", 1, 2), file("c", 1, 1)],
            vec![file("c", 1, 1)],
            vec![file("a", 1, 1), file("b", 1, 1), file("c", 1, 1)],
        ] {
            assert!(!seen.known(changed.iter()).contains(&true), "{changed:?}");
        }
    }

    #[test]
    fn a_mark_of_another_archive_or_of_nonsense_is_none() {
        let folder = tempfile::tempdir().expect("because a temporary directory can be made");
        let spool = Spool::new(&folder.path().join("spool"));
        let mut mark = Mark::load(&spool, "db1", "here");
        mark.remember("0000000100000000", Seen::of([file("a", 1, 1)].iter(), BTreeSet::new()));
        mark.save(&spool, "db1").expect("because the folder is writable");
        assert_eq!(Mark::load(&spool, "db1", "here"), mark);
        assert!(Mark::load(&spool, "db1", "there").folder("0000000100000000").is_none());
        fs::write(path(&spool, "db1"), "x").expect("because the folder is writable");
        assert!(Mark::load(&spool, "db1", "here").folder("0000000100000000").is_none());
    }
}
