//! Removes what lies in the directories of a restore and does not belong to the backup.
//!
//! Done last, when everything that belongs there is written: until then an older state has lost nothing but what was
//! overwritten. Directories of tablespaces that the backup does not have are left alone; only the link to them goes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::MARK;
use super::layout::Layout;
use crate::backup::{BackupError, manifest};

/// Removes what is neither among these files and directories, nor put beside them by a restore; how many entries went.
/// With `dry_run` they are only counted.
pub fn sweep<'a>(
    layout: &Layout<'_>,
    files: impl Iterator<Item = &'a str>,
    directories: &'a [String],
    dry_run: bool,
) -> Result<u64, BackupError> {
    let beside = ["backup_label", manifest::NAME, MARK];
    let links: Vec<String> = layout.places.keys().map(|oid| format!("pg_tblspc/{oid}")).collect();
    let mut known: HashSet<&str> = HashSet::from(beside);
    files.for_each(|name| _ = known.insert(name));
    known.extend(links.iter().chain(directories).map(String::as_str));
    let mut sweep = Sweep { known, dry_run, removed: 0 };
    sweep.folder("", layout.pgdata)?;
    // Beside the directories of our version others may lie there, which belong to somebody else.
    for (oid, place) in layout.places {
        let prefix = format!("pg_tblspc/{oid}/");
        let own = directories.iter().filter_map(|name| name.strip_prefix(&prefix));
        for name in own.filter(|name| !name.contains('/')) {
            sweep.folder(&format!("{prefix}{name}"), &place.join(name))?;
        }
    }
    Ok(sweep.removed)
}

struct Sweep<'a> {
    known: HashSet<&'a str>,
    dry_run: bool,
    removed: u64,
}

impl Sweep<'_> {
    /// Looks through one directory, called `name` in the backup.
    fn folder(&mut self, name: &str, at: &Path) -> Result<(), BackupError> {
        let entries = match fs::read_dir(at) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.dry_run => return Ok(()),
            Err(error) => return Err(BackupError::io("list", at)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(BackupError::io("list", at))?;
            let (path, own) = (entry.path(), entry.file_name());
            let inner = own.to_str().map(|own| if name.is_empty() { own.to_owned() } else { format!("{name}/{own}") });
            let kind = entry.file_type().map_err(BackupError::io("look at", &path))?;
            match inner.filter(|inner| self.known.contains(inner.as_str())) {
                Some(inner) if kind.is_dir() => self.folder(&inner, &path)?,
                // pg_wal may be on another volume.
                Some(inner) if kind.is_symlink() && inner == "pg_wal" => self.folder(&inner, &path)?,
                Some(_) => {}
                None if self.dry_run => self.removed += 1,
                None if kind.is_dir() => self.gone(&path, fs::remove_dir_all(&path))?,
                None => self.gone(&path, fs::remove_file(&path))?,
            }
        }
        Ok(())
    }

    fn gone(&mut self, path: &Path, result: io::Result<()>) -> Result<(), BackupError> {
        result.map_err(BackupError::io("remove", path))?;
        log::debug!("removed '{}', which does not belong to the backup", path.display());
        self.removed += 1;
        Ok(())
    }
}
