//! What can go wrong with a place. No variant means "absent": absence is an answer, not an error.

use std::io;
use std::time::Duration;

use super::claim::Claim;
use super::path::ParsePathError;
use super::{Place, StorePath};
use crate::error::{Class, Explain, Failure};

/// An error of a store: the place could not do it, or could not tell.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The root directory of the archive is not there; most often a volume that is not mounted.
    #[error("the {place} does not exist: '{directory}' is missing")]
    RootMissing { place: Place, directory: String },
    /// The file system of this machine refused an operation.
    #[error("cannot {action} '{path}' in the {place}")]
    Io { place: Place, action: &'static str, path: String, source: io::Error },
    /// The file that was to be stored cannot be read here; the place has nothing to do with it.
    #[error("cannot read '{path}'")]
    Payload { path: String, source: io::Error },
    /// The file system there is full, or a quota is reached.
    #[error("no room for '{path}' in the {place}")]
    Full { place: Place, path: String },
    /// What arrived is not what was sent, or what is stored is not what was once written.
    #[error("'{path}' in the {place} is damaged: {detail}")]
    Damaged { place: Place, path: String, detail: String },
    /// The other machine cannot be reached, or the connection broke.
    #[error("cannot reach the {place}: {reason}")]
    Unreachable { place: Place, reason: String, hint: Option<String> },
    /// The other machine did not answer in time.
    #[error("the {place} did not {action} '{path}' within {} s", after.as_secs_f64())]
    Timeout { place: Place, action: &'static str, path: String, after: Duration },
    /// The far end speaks another version of the protocol, or nonsense.
    #[error("the far end of the {place} does not speak our protocol: {detail}")]
    Protocol { place: Place, detail: String },
    /// A newer timeline has left the one this WAL belongs to: whoever offers it has been superseded.
    #[error("the {place} does not take '{path}' any more: {by}")]
    Superseded { place: Place, path: String, by: String },
    /// The far end refused, with its own words.
    #[error("the {place} refused: {failure}")]
    Remote { place: Place, failure: Failure },
    /// A path that no store accepts.
    #[error(transparent)]
    Path(#[from] ParsePathError),
}

impl StoreError {
    /// True where another try may end otherwise without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unreachable { .. } | StoreError::Timeout { .. } | StoreError::Full { .. })
    }

    /// Says that a claim closes the place to this file.
    pub fn superseded(place: &Place, path: &StorePath, by: &Claim) -> StoreError {
        StoreError::Superseded { place: place.clone(), path: path.to_string(), by: by.words() }
    }

    /// Wraps an error of this machine's file system; a full one becomes [`StoreError::Full`].
    pub fn io(place: &Place, action: &'static str, path: &str, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full { place: place.clone(), path: path.to_owned() }
            }
            _ => StoreError::Io { place: place.clone(), action, path: path.to_owned(), source },
        }
    }
}

/// How a streamed read hands on what went wrong: see [`StoreError::from_read`].
impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> io::Error {
        io::Error::other(error)
    }
}

impl StoreError {
    /// Turns what a reader of [`super::Store::open`] said back into an error of its place.
    pub fn from_read(place: &Place, path: &str, error: io::Error) -> StoreError {
        match error.downcast::<StoreError>() {
            Ok(inner) => inner,
            Err(error) => StoreError::io(place, "read", path, error),
        }
    }
}

impl Explain for StoreError {
    fn class(&self) -> Class {
        match self {
            StoreError::RootMissing { .. } | StoreError::Io { .. } => Class::Storage,
            StoreError::Payload { .. } | StoreError::Full { .. } => Class::Storage,
            StoreError::Damaged { .. } => Class::Corrupt,
            StoreError::Unreachable { .. } | StoreError::Protocol { .. } => Class::Remote,
            StoreError::Timeout { .. } => Class::Timeout,
            StoreError::Superseded { .. } => Class::Refused,
            StoreError::Remote { failure, .. } => failure.class,
            StoreError::Path(_) => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StoreError::RootMissing { .. } => Some(
                "If it is on a volume of its own, mount it; a new archive is made with 'archive-wal --init'."
                    .to_owned(),
            ),
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("The archive must belong to the user who runs this command.".to_owned())
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    Some("The file system is mounted read-only; look into the system log for why.".to_owned())
                }
                _ => None,
            },
            StoreError::Full { .. } => Some(
                "Free space there or enlarge the volume; nothing was lost, the file stays where it was.".to_owned(),
            ),
            StoreError::Damaged { .. } => {
                Some("Run the command again; if it happens again, check that machine's disk and memory.".to_owned())
            }
            StoreError::Unreachable { hint, .. } => hint.clone(),
            StoreError::Timeout { .. } => {
                Some("Check that the machine is up and its disks answer; 'check-node' shows every node.".to_owned())
            }
            StoreError::Protocol { .. } => {
                Some("Install the same pgwarm version on both nodes; 'distribute --programs' does it.".to_owned())
            }
            StoreError::Superseded { .. } => Some(
                "If this server still takes writes, stop it at once: another node is the primary now. Keep its pg_wal, \
                 and bring it back as a standby."
                    .to_owned(),
            ),
            StoreError::Remote { failure, .. } => failure.hint.clone(),
            StoreError::Payload { .. } | StoreError::Path(_) => None,
        }
    }
}
