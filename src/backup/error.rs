//! What can stop a backup or a restore. Nothing that was restorable before is less so after any of them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::transfer::line::LineError;
use crate::archive::ArchiveError;
use crate::error::{Class, Explain, Failure};
use crate::postgres::control::ControlError;
use crate::postgres::error::PostgresError;
use crate::postgres::own_settings::OwnSettingsError;
use crate::postgres::server::ServerError;
use crate::store::path::ParsePathError;
use crate::store::ship::ShipError;
use crate::store::{Place, StoreError};
use crate::system::process::ProcessError;
use crate::wal::SegmentName;

/// An error of a backup, a restore or the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The archive as a whole.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The place could not do it, or could not tell.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Storing one file failed.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// The server.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The server of a data directory.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Our settings in a data directory.
    #[error(transparent)]
    Settings(#[from] OwnSettingsError),
    /// The conversation with the other end of a copy.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The other end said why it ends.
    #[error("{failure} (on node '{node}')")]
    Far { node: String, failure: Failure },
    /// The other end is gone and did not say why.
    #[error("the connection to node '{node}' broke: {reason}")]
    Lost { node: String, reason: String, hint: Option<String> },
    /// A file is not what was sent.
    #[error("file '{path}' did not arrive as it was sent: {detail}")]
    Garbled { path: String, detail: String },
    /// A file of this machine outside any archive.
    #[error("cannot {action} '{}'", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Another run holds the lock.
    #[error("another run is at work: {owner}")]
    Busy { owner: String },
    /// A safety condition does not hold.
    #[error("{reason}")]
    Refused { reason: String, hint: String },
    /// No such backup.
    #[error("there is no backup '{label}' in the {place}")]
    NoSuchBackup { label: String, place: Place },
    /// A stored file is not what it was.
    #[error("backup '{label}' in the {place} is damaged: {detail}")]
    Damaged { label: String, place: Place, detail: String },
    /// WAL that must be there did not come.
    #[error("WAL segment '{segment}' did not reach the {place} within {} s", after.as_secs_f64())]
    NotArchived { segment: SegmentName, place: Place, after: Duration, hint: String },
    /// One of PostgreSQL's programs could not be run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A restored server did not recover to where it should.
    #[error("the server restored into '{}' failed: {detail}", pgdata.display())]
    Recovery { pgdata: PathBuf, detail: String, hint: String, class: Class },
    /// The server answered what no server answers.
    #[error("the server answered something unexpected to '{statement}': {detail}")]
    Answer { statement: &'static str, detail: String },
}

impl BackupError {
    /// Wraps an error of this machine's file system.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BackupError {
        let path = path.into();
        move |source| BackupError::Io { action, path, source }
    }

    /// A safety condition that does not hold.
    pub fn refused(reason: impl Into<String>, hint: impl Into<String>) -> BackupError {
        BackupError::Refused { reason: reason.into(), hint: hint.into() }
    }
}

impl From<ParsePathError> for BackupError {
    fn from(error: ParsePathError) -> Self {
        BackupError::Store(error.into())
    }
}

impl Explain for BackupError {
    fn class(&self) -> Class {
        match self {
            BackupError::Archive(error) => error.class(),
            BackupError::Store(error) | BackupError::Ship(ShipError::Store(error)) => error.class(),
            BackupError::Ship(ShipError::Occupied { .. }) => Class::Conflict,
            BackupError::Ship(ShipError::Source { .. }) | BackupError::Io { .. } => Class::Storage,
            BackupError::Postgres(error) => error.class(),
            BackupError::Control(error) => error.class(),
            BackupError::Server(error) => error.class(),
            BackupError::Settings(error) => error.class(),
            BackupError::Process(error) => error.class(),
            BackupError::Line(LineError::Failed(failure)) | BackupError::Far { failure, .. } => failure.class,
            BackupError::Line(LineError::Silent { .. }) => Class::Timeout,
            BackupError::Line(_) | BackupError::Lost { .. } => Class::Remote,
            BackupError::Garbled { .. } => Class::Corrupt,
            BackupError::Busy { .. } => Class::Busy,
            BackupError::Refused { .. } => Class::Refused,
            BackupError::NoSuchBackup { .. } => Class::Absent,
            BackupError::Damaged { .. } => Class::Corrupt,
            BackupError::NotArchived { .. } => Class::Timeout,
            BackupError::Recovery { class, .. } => *class,
            BackupError::Answer { .. } => Class::Postgres,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            BackupError::Archive(error) => return error.hint(),
            BackupError::Store(error) | BackupError::Ship(ShipError::Store(error)) => return error.hint(),
            BackupError::Postgres(error) => return error.hint(),
            BackupError::Control(error) => return error.hint(),
            BackupError::Server(error) => return error.hint(),
            BackupError::Settings(error) => return error.hint(),
            BackupError::Process(error) => return error.hint(),
            BackupError::Line(LineError::Failed(failure)) | BackupError::Far { failure, .. } => {
                return failure.hint.clone();
            }
            BackupError::Line(LineError::Wire(_)) => "Install the same pgwarm version on both nodes.",
            BackupError::Line(_) => "Run it again: what is there already travels no more.",
            BackupError::Lost { hint: Some(hint), .. } => hint,
            BackupError::Lost { .. } => "Run it again: what is there already travels no more.",
            BackupError::Garbled { .. } => "Run it again; if it happens again, check disk and memory of both machines.",
            BackupError::Refused { hint, .. }
            | BackupError::NotArchived { hint, .. }
            | BackupError::Recovery { hint, .. } => hint,
            BackupError::Busy { .. } => "Wait for it; its lock goes with its process.",
            BackupError::NoSuchBackup { .. } => "'base-backup list' shows every backup.",
            BackupError::Damaged { .. } => {
                "Use another backup, and take a new one; keep this one until both are done, and check the disk it lies on."
            }
            BackupError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "Run this as the user who owns the data directory, most often 'postgres'."
            }
            BackupError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "Free space there, then run it again; what is stored is kept."
            }
            BackupError::Ship(_) | BackupError::Io { .. } | BackupError::Answer { .. } => return None,
        };
        Some(text.to_owned())
    }
}
