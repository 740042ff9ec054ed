//! Takes a directory for a restore: says whether it may be written to, and keeps a server from being started on it
//! until the restore is done.
//!
//! A mark in the directory says that a restore is under way, of which system, and which directories of tablespaces it
//! may overwrite; while it is there the control file is not. Whoever finds the mark goes on with the restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chrono::Local;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Target;
use crate::backup::BackupError;
use crate::backup::catalog::{self, Description};
use crate::backup::plan::CONTROL;
use crate::postgres::control::{ClusterState, ControlError, ControlFile};
use crate::postgres::server::{Server, Status};
use crate::system::durable;

/// The mark of a restore under way, in the data directory.
pub const MARK: &str = "pgwarm-restore.json";

/// Where the control file of the older state is put aside.
const ASIDE: &str = "global/pg_control.before-restore";

/// How a directory can be restored into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It is empty or not there.
    Fresh,
    /// An older state of the same system is there; only what differs is written.
    Delta,
    /// A restore of the same system was ended there before it was done.
    Resume,
}

/// What stands in the mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which system is restored.
    pub system_identifier: String,
    /// Where it comes from: the label of a backup, or words.
    pub label: String,
    /// When it began, with offset.
    pub began: String,
    /// Directories outside that were empty, or belonged to the older state.
    pub places: BTreeSet<PathBuf>,
}

/// A directory that is being restored into; nobody else does so meanwhile.
pub struct Claim<'a> {
    pgdata: &'a Path,
    _lock: File,
}

/// Says how the directories of a target can be restored into, or why they cannot. Changes nothing.
pub fn look(description: &Description, target: &Target, places: &BTreeMap<u32, PathBuf>) -> Result<Way, BackupError> {
    apart(target, places)?;
    let pgdata = target.pgdata.as_path();
    let mark = read_mark(pgdata)?;
    let empty = is_empty(pgdata)?;
    if !empty {
        stopped(pgdata)?;
    }
    let way = match &mark {
        _ if empty => Way::Fresh,
        Some(mark) if mark.system_identifier == description.system_identifier => Way::Resume,
        Some(mark) => return Err(other_system(pgdata, &mark.system_identifier)),
        None => {
            older(description, target)?;
            Way::Delta
        }
    };
    let known = known_places(pgdata, mark.as_ref())?;
    for place in outside(target, places) {
        if !known.contains(place) && !is_empty(place)? {
            return Err(not_empty(place));
        }
    }
    Ok(way)
}

impl<'a> Claim<'a> {
    /// Takes the directories: makes them, marks them, and puts the control file aside.
    pub fn take(
        description: &Description,
        target: &'a Target,
        places: &BTreeMap<u32, PathBuf>,
    ) -> Result<Claim<'a>, BackupError> {
        let pgdata = target.pgdata.as_path();
        look(description, target, places)?;
        for folder in std::iter::once(&target.pgdata).chain(outside(target, places)) {
            make(folder)?;
        }
        let lock = hold(pgdata)?;
        // Somebody may have been quicker.
        look(description, target, places)?;
        let old = read_mark(pgdata)?;
        let mut known = known_places(pgdata, old.as_ref())?;
        known.extend(outside(target, places).cloned());
        let label = description.label.to_string();
        begin(pgdata, &description.system_identifier, &label, known)?;
        Ok(Claim { pgdata, _lock: lock })
    }

    /// The restore is whole: the marks of one under way go.
    pub fn end(self) -> Result<(), BackupError> {
        end(self.pgdata)
    }
}

/// Marks a directory as being restored into, and puts its control file aside, so that no server starts there.
pub fn begin(pgdata: &Path, system: &str, label: &str, places: BTreeSet<PathBuf>) -> Result<(), BackupError> {
    let (began, system_identifier) = (Local::now().to_rfc3339(), system.to_owned());
    let mark = Mark { system_identifier, label: label.to_owned(), began, places };
    let path = pgdata.join(MARK);
    durable::replace(&path, &catalog::to_json(&mark)).map_err(BackupError::io("write", &path))?;
    let (control, aside) = (pgdata.join(CONTROL), pgdata.join(ASIDE));
    match fs::rename(&control, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BackupError::io("put aside", control)(error)),
    }
    // A server that was started since we looked has read it; one that is started now cannot.
    if let Err(error) = stopped(pgdata) {
        fs::rename(&aside, &control).map_err(BackupError::io("put back", &control))?;
        return Err(error);
    }
    let folder = pgdata.join("global");
    durable::sync_directory(&folder).map_err(BackupError::io("make durable", folder))
}

/// The directory is whole, its control file back: the marks go.
pub fn end(pgdata: &Path) -> Result<(), BackupError> {
    for name in [ASIDE, MARK] {
        let path = pgdata.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::io("remove", path)(error)),
        }
    }
    durable::sync_directory(pgdata).map_err(BackupError::io("make durable", pgdata))
}

/// The directories of a target outside its data directory.
fn outside<'a>(target: &'a Target, places: &'a BTreeMap<u32, PathBuf>) -> impl Iterator<Item = &'a PathBuf> {
    places.values().chain(&target.wal)
}

/// Refuses directories that lie in one another: one of them would be taken for the other's content.
fn apart(target: &Target, places: &BTreeMap<u32, PathBuf>) -> Result<(), BackupError> {
    let all: Vec<&PathBuf> = std::iter::once(&target.pgdata).chain(outside(target, places)).collect();
    for (at, one) in all.iter().enumerate() {
        if let Some(other) = all.iter().enumerate().find(|(n, other)| *n != at && other.starts_with(one)) {
            let reason = format!("'{}' lies in '{}'", other.1.display(), one.display());
            return Err(BackupError::refused(
                reason,
                "Name directories beside each other, with --map for a tablespace.",
            ));
        }
    }
    Ok(())
}

/// Checks that an older state of the same system lies there, and that nothing is lost with it.
fn older(description: &Description, target: &Target) -> Result<(), BackupError> {
    let pgdata = target.pgdata.as_path();
    let control = match ControlFile::read(pgdata) {
        Ok(control) => control,
        Err(ControlError::Missing { .. }) => return Err(not_empty(pgdata)),
        Err(error) => return Err(error.into()),
    };
    if control.system_id.to_string() != description.system_identifier {
        return Err(other_system(pgdata, &control.system_id.to_string()));
    }
    if control.major.is_some_and(|major| major != description.major) {
        let reason = format!("'{}' is of another major version than the backup", pgdata.display());
        return Err(BackupError::refused(reason, "Name a directory that is empty or not there."));
    }
    if !target.delta {
        let reason = format!("'{}' is not empty: it holds a state of the same system", pgdata.display());
        let hint = "To overwrite it with what differs, add --delta; else name a directory that is empty or not there.";
        return Err(BackupError::refused(reason, hint));
    }
    if target.drop_wal { Ok(()) } else { nothing_only_here(pgdata, control.state) }
}

/// Refuses where WAL lies in `pg_wal` that was not archived.
fn nothing_only_here(pgdata: &Path, state: ClusterState) -> Result<(), BackupError> {
    let waits = unarchived(pgdata)?;
    // A restored directory on which no server was started yet says what the server it came from was doing.
    let label = pgdata.join("backup_label");
    let never_ran = label.try_exists().map_err(BackupError::io("look at", &label))?;
    let killed = !never_ran && matches!(state, ClusterState::InProduction | ClusterState::InCrashRecovery);
    let what = match (waits, killed) {
        (0, false) => return Ok(()),
        (0, true) => "the end of the WAL of a server that was not shut down".to_owned(),
        (waits, _) => format!("{waits} files of WAL that were not archived"),
    };
    Err(BackupError::refused(
        format!("'{}' holds {what}, which the restore would remove", pgdata.join("pg_wal").display()),
        "Stop the server cleanly and run 'archive-wal --flush', or archive the files one by one with 'archive-wal PATH'; \
         to give them up, add --drop-wal.",
    ))
}

/// How many files of WAL lie in `pg_wal` that were not archived.
pub fn unarchived(pgdata: &Path) -> Result<usize, BackupError> {
    let folder = pgdata.join("pg_wal/archive_status");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(BackupError::io("list", &folder))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(BackupError::io("list", folder)(error)),
    };
    Ok(entries.iter().filter(|entry| entry.file_name().to_string_lossy().ends_with(".ready")).count())
}

/// Refuses while a server works there.
pub fn stopped(pgdata: &Path) -> Result<(), BackupError> {
    let pids = match Server::at(pgdata, None, None).status()? {
        Status::Down => return Ok(()),
        Status::Running(running) => vec![running.pid],
        Status::Orphans(pids) => pids,
    };
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let reason = format!("a server runs on '{}' (process {})", pgdata.display(), pids.join(", "));
    Err(BackupError::refused(reason, "Stop it first: 'pg_ctl stop -m fast -D DIR'."))
}

/// The directories outside that belong to this data directory: those its links lead to, and those marked before.
pub fn known_places(pgdata: &Path, mark: Option<&Mark>) -> Result<BTreeSet<PathBuf>, BackupError> {
    let mut known = mark.map(|mark| mark.places.clone()).unwrap_or_default();
    known.extend(fs::read_link(pgdata.join("pg_wal")).ok());
    let folder = pgdata.join("pg_tblspc");
    match fs::read_dir(&folder) {
        Ok(entries) => {
            for entry in entries {
                let link = entry.map_err(BackupError::io("list", &folder))?.path();
                known.extend(fs::read_link(link).ok());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(BackupError::io("list", folder)(error)),
    }
    Ok(known)
}

/// The mark of a restore under way.
pub fn read_mark(pgdata: &Path) -> Result<Option<Mark>, BackupError> {
    let path = pgdata.join(MARK);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BackupError::io("read", path)(error)),
    };
    let mark = serde_json::from_slice(&bytes);
    mark.map(Some).map_err(|error| {
        let reason = format!("'{}' cannot be understood: {error}", path.display());
        BackupError::refused(reason, "It is no mark of a restore that can be gone on with; empty the directory.")
    })
}

/// True where a directory is absent or holds nothing.
pub fn is_empty(folder: &Path) -> Result<bool, BackupError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(BackupError::io("list", folder)(error)),
    }
}

/// Makes a directory for the server's user alone.
pub fn make(folder: &Path) -> Result<(), BackupError> {
    fs::create_dir_all(folder).map_err(BackupError::io("create", folder))?;
    fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(BackupError::io("set the mode of", folder))
}

/// One restore at a time into a directory; the kernel lets go when the process ends.
pub fn hold(folder: &Path) -> Result<File, BackupError> {
    let open = File::open(folder).map_err(BackupError::io("open", folder))?;
    match flock(&open, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(open),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(BackupError::Busy { owner: format!("another restore writes into '{}'", folder.display()) })
        }
        Err(error) => Err(BackupError::io("lock", folder)(error.into())),
    }
}

fn not_empty(folder: &Path) -> BackupError {
    BackupError::refused(
        format!("'{}' is not empty", folder.display()),
        "Name a directory that is empty or not there, with --to, or with --map for a tablespace.",
    )
}

fn other_system(pgdata: &Path, found: &str) -> BackupError {
    BackupError::refused(
        format!("'{}' holds another system than the backup: its system identifier is {found}", pgdata.display()),
        "Name a directory that is empty or not there.",
    )
}
