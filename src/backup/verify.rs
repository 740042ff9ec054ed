//! Proves that a backup can be restored: every file is decoded, from the backups it builds on too, and compared with
//! the manifest, and the WAL from its beginning to its end is read and checked. Only a drill that starts a server
//! proves more.

use chrono::Local;

use super::catalog::{self, Description};
use super::read::{Contents, Sink};
use super::{BackupError, Watcher, wal};
use crate::archive::places::Archive;

/// Takes every file and keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn begin<'a>(&'a self, _path: &str, _size: u64) -> Result<super::read::Taker<'a>, BackupError> {
        Ok(Box::new(|_| Ok(())))
    }
}

/// Reads everything; all that is damaged. A place that cannot tell is an error, and says nothing about the backup.
pub fn verify(
    archive: &Archive,
    description: &Description,
    jobs: usize,
    watcher: &dyn Watcher,
) -> Result<Vec<BackupError>, BackupError> {
    let mut found = Vec::new();
    let mut note = |result: Result<(), BackupError>| match result {
        Ok(()) => Ok(()),
        Err(error @ BackupError::Damaged { .. }) => {
            found.push(error);
            Ok(())
        }
        Err(error) => Err(error),
    };
    watcher.phase(&format!("reading {}", description.label));
    match Contents::open(archive, description) {
        Ok(contents) => {
            note(contents.label().map(|_| ()))?;
            for error in contents.read_all(jobs, &Nowhere, watcher) {
                note(Err(error))?;
            }
        }
        Err(error) => note(Err(error))?,
    }
    watcher.phase("reading its WAL");
    note(wal::verify(archive, description))?;
    Ok(found)
}

/// Writes down that a backup was found good, or damaged.
pub fn mark(archive: &Archive, description: &Description, good: bool) -> Result<(), BackupError> {
    let now = Some(Local::now().to_rfc3339());
    let (verified, failed) = if good { (now, None) } else { (None, now) };
    catalog::rewrite(archive, &Description { verified, failed, ..description.clone() })
}
