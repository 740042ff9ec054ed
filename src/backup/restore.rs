//! Writes a backup into a directory, so that a server can recover from it.
//!
//! The directory is absent or empty, or holds an older state of the same system: then only what differs is written,
//! and what does not belong to the backup is removed once everything else is on disk. Every file is compared with the
//! manifest while it is written. The control file is put aside first and comes back last, so no server can be started
//! on half a restore; a restore that was ended anywhere is taken up again by the next one. Which settings a recovery
//! needs is the caller's to say: they are written just before the control file.

pub(super) mod claim;
pub(super) mod layout;
mod patch;
mod room;
pub(super) mod sweep;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

pub use self::claim::{MARK, Way, look};
pub use self::room::room;

use self::claim::Claim;
use self::layout::Layout;
use super::catalog::Description;
use super::plan::CONTROL;
use super::read::Contents;
use super::{BackupError, Watcher, manifest};
use crate::archive::places::Archive;
use crate::system::durable;

/// Where a backup goes.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The data directory.
    pub pgdata: PathBuf,
    /// Where tablespaces go instead of where they were.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where `pg_wal` goes, which then is a link; none: into the data directory.
    pub wal: Option<PathBuf>,
    /// True: the directory may hold an older state of the same system, which is overwritten.
    pub delta: bool,
    /// True: WAL that lies nowhere but in the older state's `pg_wal` is given up.
    pub drop_wal: bool,
}

impl Target {
    /// A directory that is absent or empty, tablespaces where they were.
    pub fn new(pgdata: impl Into<PathBuf>) -> Target {
        Target { pgdata: pgdata.into(), ..Target::default() }
    }
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// What the files of the backup hold, in bytes.
    pub bytes: u64,
    /// How much of it was written, because it was not there already.
    pub written: u64,
    /// How many files and directories were removed.
    pub removed: u64,
}

/// Restores a backup.
pub fn restore(
    archive: &Archive,
    description: &Description,
    target: &Target,
    jobs: usize,
    watcher: &dyn Watcher,
) -> Result<Restored, BackupError> {
    restore_with(archive, description, target, jobs, watcher, &|| Ok(()))
}

/// Restores a backup; `settle` is called when all but the control file is there, to write what a recovery needs.
pub fn restore_with(
    archive: &Archive,
    description: &Description,
    target: &Target,
    jobs: usize,
    watcher: &dyn Watcher,
    settle: &dyn Fn() -> Result<(), BackupError>,
) -> Result<Restored, BackupError> {
    let contents = Contents::open(archive, description)?;
    let label = contents.label()?;
    let places = places(description, target)?;
    let claim = Claim::take(description, target, &places)?;
    let layout = Layout::new(target, &places);
    layout.prepare(contents.directories())?;
    watcher.phase("restoring");
    // The first trouble is the one to tell; the directory has no control file, so no server starts on it.
    if let Some(error) = contents.read_all(jobs, &layout, watcher).into_iter().next() {
        return Err(error);
    }
    layout.write("backup_label", &label)?;
    layout.write(manifest::NAME, &contents.manifest)?;
    watcher.phase("removing what does not belong there");
    let removed = sweep::sweep(&layout, contents.paths(), contents.directories(), false)?;
    settle()?;
    watcher.phase("making it durable");
    for folder in std::iter::once(&target.pgdata).chain(places.values()).chain(&target.wal) {
        sync_all(folder)?;
    }
    let (control, written) = layout.finish();
    let path = target.pgdata.join(CONTROL);
    durable::replace(&path, &control).map_err(BackupError::io("write", &path))?;
    claim.end()?;
    Ok(Restored { bytes: description.size, written: written + control.len() as u64, removed })
}

/// Where each tablespace goes.
pub fn places(description: &Description, target: &Target) -> Result<BTreeMap<u32, PathBuf>, BackupError> {
    if let Some(oid) = target.tablespaces.keys().find(|oid| !description.tablespaces.iter().any(|it| it.oid == **oid)) {
        let known: Vec<String> =
            description.tablespaces.iter().map(|it| format!("{} at '{}'", it.oid, it.location)).collect();
        return Err(BackupError::refused(
            format!("backup '{}' has no tablespace '{oid}'", description.label),
            if known.is_empty() { "It has none at all.".to_owned() } else { format!("It has {}.", known.join(", ")) },
        ));
    }
    let place = |it: &super::plan::Tablespace| {
        let place = target.tablespaces.get(&it.oid).cloned().unwrap_or_else(|| PathBuf::from(&it.location));
        let place = std::path::absolute(&place).map_err(BackupError::io("find", &place))?;
        Ok((it.oid, place))
    };
    description.tablespaces.iter().map(place).collect()
}

/// Makes everything in a file system durable: one call instead of one for each of a hundred thousand files.
pub(super) fn sync_all(folder: &Path) -> Result<(), BackupError> {
    let open = File::open(folder).map_err(BackupError::io("open", folder))?;
    rustix::fs::syncfs(&open).map_err(|error| BackupError::io("make durable", folder)(error.into()))
}
