//! What of an unfinished backup can be used again: a pure decision over the record and the files as they are now.

use std::collections::HashMap;

use super::super::catalog::{Index, Object};
use super::super::plan::SourceFile;

/// A file written so shortly before it was read may have been written again without a new time, in nanoseconds. The
/// kernel's clock for files ticks every few milliseconds; this is far more.
const SETTLED: i64 = 2_000_000_000;

/// The decision.
pub struct Reuse {
    /// Objects that are used again, with only those files that are unchanged.
    pub kept: Vec<Object>,
    /// Files that must be copied.
    pub rest: Vec<SourceFile>,
}

/// A file is unchanged where its size and its time are those of the copy, and the copy was made well after that time.
pub fn reuse(old: Index, files: Vec<SourceFile>) -> Reuse {
    let mut open: HashMap<String, SourceFile> = files.into_iter().map(|file| (file.path.clone(), file)).collect();
    let mut kept = Vec::new();
    for mut object in old.objects {
        object.files.retain(|stored| {
            let unchanged = open.get(&stored.path).is_some_and(|file| {
                stored.damaged.is_empty()
                    && (file.size, file.modified) == (stored.size, stored.modified)
                    && stored.opened - stored.modified >= SETTLED
            });
            unchanged && open.remove(&stored.path).is_some()
        });
        if !object.files.is_empty() {
            kept.push(object);
        }
    }
    let mut rest: Vec<SourceFile> = open.into_values().collect();
    rest.sort_by(|a, b| a.path.cmp(&b.path));
    Reuse { kept, rest }
}

#[cfg(test)]
mod tests {
    use super::super::super::catalog::StoredFile;
    use super::*;

    const LATE: i64 = 100 * SETTLED;

    fn stored(path: &str, size: u64, modified: i64) -> StoredFile {
        StoredFile { path: path.to_owned(), size, modified, opened: LATE, crc: 0, damaged: Vec::new() }
    }

    fn source(path: &str, size: u64, modified: i64) -> SourceFile {
        SourceFile { path: path.to_owned(), file: path.into(), size, modified, first_block: None }
    }

    #[test]
    fn only_what_has_certainly_not_changed_is_used_again() {
        let mut damaged = stored("damaged", 1, 5);
        damaged.damaged.push(3);
        let files = vec![
            stored("same", 1, 5),
            stored("longer", 1, 5),
            stored("written", 1, 5),
            stored("hot", 1, LATE - 1),
            stored("gone", 1, 5),
            damaged,
        ];
        let object = Object { stored: "bundle/0.tar".to_owned(), bundle: true, bytes: 9, files };
        let alone = Object { stored: "files/x".to_owned(), bundle: false, bytes: 9, files: vec![stored("x", 1, 5)] };
        let old = Index { objects: vec![object, alone], directories: Vec::new() };
        let now = vec![
            source("same", 1, 5),
            source("longer", 2, 5),
            source("written", 1, 6),
            source("hot", 1, LATE - 1),
            source("damaged", 1, 5),
            source("new", 1, 5),
        ];
        let reuse = reuse(old, now);
        let kept: Vec<_> = reuse.kept.iter().flat_map(|object| &object.files).map(|file| file.path.as_str()).collect();
        let rest: Vec<_> = reuse.rest.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(kept, ["same"]);
        assert_eq!(rest, ["damaged", "hot", "longer", "new", "written"]);
    }
}
