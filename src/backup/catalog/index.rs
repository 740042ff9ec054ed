//! Which file of a backup is where: `index.json`, and `resume.json` while it grows.

use serde::{Deserialize, Serialize};

use crate::backup::checksum::PAGE;
use crate::backup::plan::{SourceFile, Stamp};

/// A file whose time is not older than this, in nanoseconds, before the checkpoint of the backup may have been written
/// again without a new time. The kernel's clock for files ticks every few milliseconds, some file systems keep whole
/// seconds.
const SETTLED: i64 = 2_000_000_000;

/// Where the files of a backup are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Index {
    /// Every stored object.
    pub objects: Vec<Object>,
    /// Files whose content is that of the parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<StoredFile>,
    /// Directories to make, parents first; files that need no other do not name theirs.
    pub directories: Vec<String>,
}

/// One stored object: a file, the changed blocks of one, or a bundle of small ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its path in the folder of the backup.
    pub stored: String,
    /// True for a tar of several files.
    pub bundle: bool,
    /// Its size as stored, in bytes.
    pub bytes: u64,
    /// Where the sums of its file's blocks are, in the folder of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<String>,
    /// The files it holds that belong to the backup.
    pub files: Vec<StoredFile>,
}

/// One file of the data directory as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Relative to the data directory; below `pg_tblspc/<oid>` for tablespaces.
    pub path: String,
    /// How many bytes were read.
    pub size: u64,
    /// What told it from other files and other states of itself when it was opened.
    pub stamp: Stamp,
    /// Every write that was begun before this moment was done when the file was read, in nanoseconds since 1970.
    pub settled: i64,
    /// The CRC-32C of its content.
    pub crc: u32,
    /// How many of its blocks are stored, one by one; the others are in the parent. None where it is stored whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u32>,
    /// Pages whose checksum was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<u32>,
}

impl Index {
    /// Every file of the backup, wherever its content is.
    pub fn files(&self) -> impl Iterator<Item = &StoredFile> {
        self.objects.iter().flat_map(|object| &object.files).chain(&self.unchanged)
    }
}

impl StoredFile {
    /// True where the file certainly still holds what was read: the same file with the same times and size, and no
    /// write can have been under way while it was read.
    ///
    /// The server's writes give a file its time before they give it their bytes. A checkpoint waits for the writes
    /// that began before it, so one that began before the backup's checkpoint was done before the file was read, and
    /// a later one has left a later time, `ctime` included, which no program can set.
    pub fn is_still(&self, file: &SourceFile) -> bool {
        let written = self.stamp.modified.max(self.stamp.changed);
        self.damaged.is_empty()
            && (self.size, self.stamp) == (file.size, file.stamp)
            && self.settled.saturating_sub(written) >= SETTLED
    }

    /// True where the parent is needed for some of its content.
    pub fn is_part(&self) -> bool {
        self.blocks.is_some_and(|blocks| u64::from(blocks) * (PAGE as u64) < self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: i64 = 100 * SETTLED;

    const OLD: Stamp = Stamp { modified: 5, changed: 6, inode: 7 };

    fn stored(size: u64, stamp: Stamp) -> StoredFile {
        StoredFile { path: "x".to_owned(), size, stamp, settled: LATE, crc: 0, blocks: None, damaged: Vec::new() }
    }

    fn now(size: u64, stamp: Stamp) -> SourceFile {
        SourceFile { path: "x".to_owned(), file: "x".into(), size, stamp, first_block: None }
    }

    #[test]
    fn only_what_has_certainly_not_changed_is_the_same() {
        assert!(stored(1, OLD).is_still(&now(1, OLD)));
        assert!(!stored(1, OLD).is_still(&now(2, OLD)));
        for other in [Stamp { modified: 6, ..OLD }, Stamp { changed: 7, ..OLD }, Stamp { inode: 8, ..OLD }] {
            assert!(!stored(1, OLD).is_still(&now(1, other)), "{other:?}");
        }
        // Written while it was read, or so shortly before that the time may not tell.
        for written in [LATE - SETTLED + 1, LATE + 1] {
            for hot in [Stamp { modified: written, ..OLD }, Stamp { changed: written, ..OLD }] {
                assert!(!stored(1, hot).is_still(&now(1, hot)), "{hot:?}");
            }
        }
        let damaged = StoredFile { damaged: vec![3], ..stored(1, OLD) };
        assert!(!damaged.is_still(&now(1, OLD)));
    }

    #[test]
    fn the_parent_is_needed_for_what_is_not_stored() {
        let file = |blocks| StoredFile { blocks, ..stored(3 * PAGE as u64, OLD) };
        assert_eq!([None, Some(2), Some(3)].map(|blocks| file(blocks).is_part()), [false, true, false]);
    }
}
