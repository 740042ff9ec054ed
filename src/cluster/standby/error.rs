//! What can stop a standby from being made. Nothing that was there before is lost by any of them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::ArchiveError;
use crate::backup::BackupError;
use crate::cluster::contact::ContactError;
use crate::error::{Class, Explain, Failure};
use crate::postgres::control::ControlError;
use crate::postgres::error::PostgresError;
use crate::postgres::local_wal::LocalWalError;
use crate::postgres::own_settings::OwnSettingsError;
use crate::postgres::server::ServerError;
use crate::postgres::settings::SettingsError;
use crate::system::process::ProcessError;

/// An error on the way to a standby.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// A safety condition does not hold.
    #[error("{reason}")]
    Refused { reason: String, hint: String },
    /// What must be known could not be found out.
    #[error("cannot tell {what}: {why}")]
    CannotTell { what: String, why: String, class: Class },
    /// A file of this machine outside any archive.
    #[error("cannot {action} '{}'", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Another run holds the lock.
    #[error("another standby-init works on this node: {owner}")]
    Busy { owner: String },
    /// One of PostgreSQL's programs did not do its work.
    #[error("{program} failed with {status}: {said}")]
    Program { program: &'static str, status: String, said: String, hint: String },
    /// The standby runs and did not do in time what it is there for.
    #[error("{what} within {} s: {state}", after.as_secs())]
    NotProven { what: String, after: Duration, state: String, hint: String },
    /// An error of a part below.
    #[error("{0}")]
    Below(Failure),
}

impl StandbyError {
    /// A safety condition that does not hold.
    pub fn refused(reason: impl Into<String>, hint: impl Into<String>) -> StandbyError {
        StandbyError::Refused { reason: reason.into(), hint: hint.into() }
    }

    /// Wraps an error of this machine's file system.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StandbyError {
        let path = path.to_owned();
        move |source| StandbyError::Io { action, path, source }
    }

    /// What could not be found out, and why.
    pub fn cannot_tell(what: impl Into<String>, why: impl Into<Failure>) -> StandbyError {
        let why = why.into();
        StandbyError::CannotTell { what: what.into(), why: why.message, class: why.class }
    }
}

/// Every error below says itself what kind of trouble it is, and what to do.
macro_rules! from_below {
    ($($error:ty),*) => {
        $(impl From<$error> for StandbyError {
            fn from(error: $error) -> Self {
                StandbyError::Below(Failure::of(&error))
            }
        })*
    };
}

from_below!(
    ArchiveError,
    BackupError,
    ContactError,
    ControlError,
    LocalWalError,
    OwnSettingsError,
    PostgresError,
    ProcessError,
    ServerError,
    SettingsError
);

impl Explain for StandbyError {
    fn class(&self) -> Class {
        match self {
            StandbyError::Refused { .. } => Class::Refused,
            StandbyError::CannotTell { class, .. } => *class,
            StandbyError::Io { .. } => Class::Storage,
            StandbyError::Busy { .. } => Class::Busy,
            StandbyError::Program { .. } => Class::Postgres,
            StandbyError::NotProven { .. } => Class::Timeout,
            StandbyError::Below(failure) => failure.class,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            StandbyError::Refused { hint, .. }
            | StandbyError::Program { hint, .. }
            | StandbyError::NotProven { hint, .. } => hint,
            StandbyError::CannotTell { .. } => "Nothing was changed; mend that, then run it again.",
            StandbyError::Busy { .. } => "Wait for it; its lock goes with its process.",
            StandbyError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "Run this as the user who owns the data directory, most often 'postgres'."
            }
            StandbyError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "Free space there, then run it again."
            }
            StandbyError::Io { .. } => return None,
            StandbyError::Below(failure) => return failure.hint.clone(),
        };
        Some(text.to_owned())
    }
}
