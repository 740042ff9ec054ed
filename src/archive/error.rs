//! What can stop WAL on its way. Every variant leaves the WAL where it was.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Class, Explain, Failure};
use crate::store::ship::ShipError;
use crate::store::{Place, StoreError};
use crate::wal::{ParseNameError, WalName};

/// An error in the life of a WAL file.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file name that is none of the four kinds.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// A place could not do it, or could not tell.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Shipping into one place failed.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// A file of this machine outside any archive.
    #[error("cannot {action} '{}'", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// What PostgreSQL offers, or an archive holds, is not the WAL its name says.
    #[error("'{name}' in {place} is not the WAL its name says: {detail}")]
    NotTheWal { name: WalName, place: String, detail: String },
    /// An archive that belongs to another cluster, or holds no identity.
    #[error("the {place} is not ours: {detail}")]
    Identity { place: Place, detail: String, hint: String },
    /// The same name with other content.
    #[error("'{name}' already exists in the {place} with different content: {answer}")]
    Conflict { name: WalName, place: Place, answer: String, hint: String },
    /// Too few places hold the file to call it safe.
    #[error("'{name}' is not safe yet: ack = {wanted}, but {}", failures.join("; "))]
    Unacknowledged { name: WalName, wanted: String, class: Class, failures: Vec<String>, hint: Option<String> },
    /// Shipping is switched off.
    #[error("shipping is switched to {mode}: {detail}")]
    SwitchedOff { mode: &'static str, detail: String, hint: &'static str },
    /// The file took longer than it may.
    #[error("'{name}' was not done within {} s: {waiting_for}", after.as_secs_f64())]
    Deadline { name: WalName, after: Duration, waiting_for: String },
    /// Something between `absent` and `present`: at least one place could not tell.
    #[error("cannot tell whether '{name}' exists: {}", reasons.join("; "))]
    CannotTell { name: WalName, class: Class, reasons: Vec<String>, hint: Option<String> },
    /// WAL is missing that the places show must have existed.
    #[error("'{name}' is missing, but {evidence}")]
    Hole { name: WalName, evidence: String },
    /// A safety condition does not hold.
    #[error("{reason}")]
    Refused { reason: String, hint: String },
    /// A failure that came from another process.
    #[error("{0}")]
    Elsewhere(Failure),
}

impl ArchiveError {
    /// Wraps an error of this machine's file system.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ArchiveError {
        let path = path.into();
        move |source| ArchiveError::Io { action, path, source }
    }

    /// True where the place is closed to the file because another node goes on without this one.
    pub fn is_superseded(&self) -> bool {
        matches!(
            self,
            ArchiveError::Store(StoreError::Superseded { .. })
                | ArchiveError::Ship(ShipError::Store(StoreError::Superseded { .. }))
        )
    }

    /// True where the place may be well again later without anybody doing anything, so that a queue is the answer.
    pub fn is_outage(&self) -> bool {
        match self {
            ArchiveError::Store(error) | ArchiveError::Ship(ShipError::Store(error)) => {
                matches!(error.class(), Class::Storage | Class::Remote | Class::Timeout)
            }
            ArchiveError::Deadline { .. } => true,
            ArchiveError::Elsewhere(failure) => {
                matches!(failure.class, Class::Storage | Class::Remote | Class::Timeout)
            }
            _ => false,
        }
    }
}

impl Explain for ArchiveError {
    fn class(&self) -> Class {
        match self {
            ArchiveError::Name(_) => Class::Usage,
            ArchiveError::Store(error) | ArchiveError::Ship(ShipError::Store(error)) => error.class(),
            ArchiveError::Ship(ShipError::Occupied { .. }) | ArchiveError::Conflict { .. } => Class::Conflict,
            ArchiveError::Ship(ShipError::Source { .. }) | ArchiveError::Io { .. } => Class::Storage,
            ArchiveError::NotTheWal { .. } | ArchiveError::Hole { .. } => Class::Corrupt,
            ArchiveError::Identity { .. } | ArchiveError::SwitchedOff { .. } | ArchiveError::Refused { .. } => {
                Class::Refused
            }
            ArchiveError::Deadline { .. } => Class::Timeout,
            ArchiveError::Unacknowledged { class, .. } | ArchiveError::CannotTell { class, .. } => *class,
            ArchiveError::Elsewhere(failure) => failure.class,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ArchiveError::Store(error) | ArchiveError::Ship(ShipError::Store(error)) => error.hint(),
            ArchiveError::Name(_) => {
                Some("archive_command must pass %p, restore_command must pass %f and %p.".to_owned())
            }
            ArchiveError::NotTheWal { .. } => Some(
                "Compare it with 'pg_waldump' and look for the same segment in the other places; do not delete any copy."
                    .to_owned(),
            ),
            ArchiveError::Identity { hint, .. }
            | ArchiveError::Conflict { hint, .. }
            | ArchiveError::Refused { hint, .. } => Some(hint.clone()),
            ArchiveError::Unacknowledged { hint, .. } | ArchiveError::CannotTell { hint, .. } => hint.clone(),
            ArchiveError::SwitchedOff { hint, .. } => Some((*hint).to_owned()),
            ArchiveError::Deadline { .. } => {
                Some("PostgreSQL keeps the file and tries again; 'check-node' shows which place is slow.".to_owned())
            }
            ArchiveError::Hole { name, .. } => Some(format!(
                "Find '{name}' in pg_wal of the old primary or of a standby and run 'archive-wal' on it there, then start \
                 the recovery again; to stop before it on purpose, set a recovery target that lies before it (and recovery_prefetch = off, from PostgreSQL 15 on)."
            )),
            ArchiveError::Elsewhere(failure) => failure.hint.clone(),
            ArchiveError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("Free space on that file system; until then the WAL stays where it is.".to_owned())
                }
                io::ErrorKind::PermissionDenied => {
                    Some("It must belong to the user that PostgreSQL runs as.".to_owned())
                }
                _ => None,
            },
            ArchiveError::Ship(_) => None,
        }
    }
}
