//! What of an unfinished backup can be used again: a pure decision over the record and the files as they are now.

use std::collections::HashMap;

use super::super::catalog::{Index, StoredFile};
use super::super::plan::SourceFile;

/// The decision.
#[derive(Debug, Default)]
pub struct Reuse {
    /// Objects that are used again, with only those files that are unchanged, and files that are as in the parent.
    pub kept: Index,
    /// Files that must be copied.
    pub rest: Vec<SourceFile>,
}

/// Keeps what an earlier run has stored of files that are still what they were.
pub fn reuse(old: Index, files: Vec<SourceFile>) -> Reuse {
    let mut open: HashMap<String, SourceFile> = files.into_iter().map(|file| (file.path.clone(), file)).collect();
    let mut still = |stored: &StoredFile| {
        open.get(&stored.path).is_some_and(|file| stored.is_still(file)) && open.remove(&stored.path).is_some()
    };
    let mut kept = Index::default();
    for mut object in old.objects {
        object.files.retain(&mut still);
        if !object.files.is_empty() {
            kept.objects.push(object);
        }
    }
    kept.unchanged = old.unchanged;
    kept.unchanged.retain(&mut still);
    let mut rest: Vec<SourceFile> = open.into_values().collect();
    rest.sort_by(|a, b| a.path.cmp(&b.path));
    Reuse { kept, rest }
}

#[cfg(test)]
mod tests {
    use super::super::super::catalog::Object;
    use super::super::super::plan::Stamp;
    use super::*;

    fn stored(path: &str, size: u64) -> StoredFile {
        let stamp = Stamp::default();
        StoredFile { path: path.to_owned(), size, stamp, settled: i64::MAX, crc: 0, blocks: None, damaged: Vec::new() }
    }

    fn source(path: &str, size: u64) -> SourceFile {
        SourceFile { path: path.to_owned(), file: path.into(), size, stamp: Stamp::default(), first_block: None }
    }

    #[test]
    fn what_is_still_what_it_was_is_used_once_and_the_rest_is_copied() {
        let object =
            |stored: &str, files| Object { stored: stored.to_owned(), bundle: true, bytes: 9, sums: None, files };
        let old = Index {
            objects: vec![
                object("bundle/0.tar", vec![stored("same", 1), stored("longer", 1), stored("gone", 1)]),
                object("bundle/1.tar", vec![stored("same", 1)]),
            ],
            unchanged: vec![stored("as in the parent", 1), stored("no longer", 1)],
            directories: Vec::new(),
        };
        let now = ["same", "as in the parent", "new"].map(|path| source(path, 1));
        let now = now.into_iter().chain(["longer", "no longer"].map(|path| source(path, 2))).collect();
        let reuse = reuse(old, now);
        let kept: Vec<_> = reuse.kept.files().map(|file| file.path.as_str()).collect();
        let rest: Vec<_> = reuse.rest.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((kept, reuse.kept.objects.len()), (vec!["same", "as in the parent"], 1));
        assert_eq!(rest, ["longer", "new", "no longer"]);
    }
}
