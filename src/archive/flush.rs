//! Drains `pg_wal` of a server that is stopped: everything up to its last checkpoint, and nothing behind it.
//!
//! Behind the last checkpoint lie recycled segments under future names: old content that must never be shipped. The
//! segment that holds the checkpoint is usually not full; it goes as `.partial`, so that a server which is started
//! again can still complete and archive it under its own name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ArchiveError;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::local_wal;
use crate::wal::{SegmentName, WalName};

/// One file to ship, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The name to ship it under.
    pub name: WalName,
    /// The file.
    pub path: PathBuf,
}

/// Says what a stopped server still has to ship: histories first, then segments, oldest first.
///
/// Refuses while the server runs or where the control file does not say that it was shut down cleanly.
pub fn plan(pgdata: &Path) -> Result<Vec<Leftover>, ArchiveError> {
    let control = ControlFile::read(pgdata).map_err(|error| ArchiveError::Elsewhere(error.into()))?;
    refuse_unless_stopped(pgdata, &control)?;
    let wal = pgdata.join("pg_wal");
    let size = control.segment_size;
    let last = control.checkpoint.segment(size);
    let history = local_wal::history(pgdata, control.checkpoint_timeline);
    let history = history.map_err(|error| ArchiveError::Elsewhere(error.into()))?;
    // The segment in which a timeline was left goes on under the next one's name; the old one was shipped as far as it
    // goes, and no place takes it whole.
    let is_ours = |segment: SegmentName, number| {
        history.as_ref().is_none_or(|history| history.owner_of_segment(number, size) == segment.timeline())
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&wal).map_err(ArchiveError::io("list", &wal))? {
        let entry = entry.map_err(ArchiveError::io("list", &wal))?;
        let Ok(name) = entry.file_name().to_string_lossy().parse::<WalName>() else { continue };
        if is_archived(&wal, name)? {
            continue;
        }
        let number = name.segment().and_then(|segment| segment.number(size));
        let wanted = match name {
            WalName::Segment(segment) if segment.timeline() > control.checkpoint_timeline => None,
            WalName::Segment(segment) => match number {
                Some(number) if number < last => is_ours(segment, number).then_some(name),
                Some(number) if number == last && segment.timeline() == control.checkpoint_timeline => {
                    Some(WalName::Partial(segment))
                }
                _ => None,
            },
            WalName::History(_) | WalName::Partial(_) | WalName::Backup(..) => Some(name),
        };
        found.extend(wanted.map(|name| Leftover { name, path: entry.path() }));
    }
    found.sort_by_key(|leftover| super::queue::order(leftover.name));
    Ok(found)
}

/// The segment that holds the last checkpoint of a stopped server.
pub fn last_segment(control: &ControlFile) -> SegmentName {
    let number = control.checkpoint.segment(control.segment_size);
    SegmentName::new(control.checkpoint_timeline, number, control.segment_size)
}

/// A `.done` mark says that PostgreSQL was told that the file is safe.
fn is_archived(wal: &Path, name: WalName) -> Result<bool, ArchiveError> {
    let mark = wal.join("archive_status").join(format!("{name}.done"));
    match fs::symlink_metadata(&mark) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ArchiveError::io("look up", mark)(error)),
    }
}

fn refuse_unless_stopped(pgdata: &Path, control: &ControlFile) -> Result<(), ArchiveError> {
    let hint = "Stop the server first ('pg_ctl stop -m fast'); a running server ships its WAL itself.".to_owned();
    let pid = pgdata.join("postmaster.pid");
    if pid.try_exists().map_err(ArchiveError::io("look up", &pid))? {
        let reason = format!("'{}' exists: the server runs, or was not stopped cleanly", pid.display());
        return Err(ArchiveError::Refused { reason, hint });
    }
    if matches!(control.state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery) {
        return Ok(());
    }
    let reason = format!("the control file of '{}' says that the server was not shut down cleanly", pgdata.display());
    Err(ArchiveError::Refused { reason, hint })
}
