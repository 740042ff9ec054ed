//! How an error of the far end becomes an error of this end: the same variant, with this end's name for the place.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::store::{Place, StoreError};

/// The part of an error that a program can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// [`StoreError::RootMissing`].
    RootMissing { directory: String },
    /// [`StoreError::Full`].
    Full { path: String },
    /// [`StoreError::Damaged`].
    Damaged { path: String, detail: String },
    /// [`StoreError::Io`] with the system's number for it.
    Io { action: String, path: String, errno: i32 },
    /// [`StoreError::Superseded`].
    Superseded { path: String, by: String },
    /// [`StoreError::Unreachable`]: the far end itself goes on to another machine.
    Unreachable { reason: String, hint: Option<String> },
    /// [`StoreError::Timeout`], of the far end's own waiting.
    Timeout { action: String, path: String, after: Duration },
    /// Something whose words are enough.
    Words,
}

/// An error as it travels: what to act on, and what to print where that is not enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub trouble: Trouble,
    pub failure: Failure,
}

/// What a store may be doing when the file system refuses: [`StoreError::Io`] holds a word of the program, so a word
/// from elsewhere must be found among these.
const ACTIONS: &[&str] = &[
    "access",
    "close",
    "copy",
    "create",
    "create the folder of",
    "delete",
    "find",
    "hash",
    "link",
    "list",
    "lock",
    "lock the folder of",
    "look up",
    "make durable",
    "make room for",
    "measure",
    "open",
    "open a session for",
    "publish",
    "read",
    "remove",
    "rename",
    "replace",
    "settle",
    "stat",
    "store",
    "sync",
    "write",
];

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal { trouble: Trouble::Words, failure }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let trouble = match &error {
            StoreError::RootMissing { directory, .. } => Trouble::RootMissing { directory: directory.clone() },
            StoreError::Full { path, .. } => Trouble::Full { path: path.clone() },
            StoreError::Damaged { path, detail, .. } => Trouble::Damaged { path: path.clone(), detail: detail.clone() },
            StoreError::Io { action, path, source, .. } => match source.raw_os_error() {
                Some(errno) => Trouble::Io { action: (*action).to_owned(), path: path.clone(), errno },
                None => Trouble::Words,
            },
            StoreError::Superseded { path, by, .. } => Trouble::Superseded { path: path.clone(), by: by.clone() },
            StoreError::Unreachable { reason, hint, .. } => {
                Trouble::Unreachable { reason: reason.clone(), hint: hint.clone() }
            }
            StoreError::Timeout { action, path, after, .. } => {
                Trouble::Timeout { action: (*action).to_owned(), path: path.clone(), after: *after }
            }
            // Said once already in the words that count.
            StoreError::Remote { failure, .. } => return Refusal::from(failure.clone()),
            _ => Trouble::Words,
        };
        Refusal { trouble, failure: Failure::from(error) }
    }
}

impl Refusal {
    /// The error as this end reports it.
    pub fn into_error(self, place: &Place) -> StoreError {
        let place = place.clone();
        let known = |action: &str| ACTIONS.iter().copied().find(|known| *known == action);
        match self.trouble {
            Trouble::RootMissing { directory } => StoreError::RootMissing { place, directory },
            Trouble::Full { path } => StoreError::Full { place, path },
            Trouble::Damaged { path, detail } => StoreError::Damaged { place, path, detail },
            Trouble::Io { action, path, errno } => match known(&action) {
                Some(action) => StoreError::io(&place, action, &path, io::Error::from_raw_os_error(errno)),
                None => StoreError::Remote { place, failure: self.failure },
            },
            Trouble::Superseded { path, by } => StoreError::Superseded { place, path, by },
            Trouble::Unreachable { reason, hint } => StoreError::Unreachable { place, reason, hint },
            Trouble::Timeout { action, path, after } => match known(&action) {
                Some(action) => StoreError::Timeout { place, action, path, after },
                None => StoreError::Remote { place, failure: self.failure },
            },
            Trouble::Words => StoreError::Remote { place, failure: self.failure },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Explain};

    fn place(node: &str) -> Place {
        Place { node: node.to_owned(), location: "/srv/wal".to_owned() }
    }

    fn travel(error: StoreError) -> StoreError {
        let body = serde_json::to_vec(&Refusal::from(error)).expect("it is plain data");
        let refusal: Refusal = serde_json::from_slice(&body).expect("it was encoded just now");
        refusal.into_error(&place("here"))
    }

    #[test]
    fn every_kind_of_error_stays_what_it_is() {
        let there = place("there");
        let full = io::Error::from_raw_os_error(28);
        let text = travel(StoreError::io(&there, "write", "a", full)).to_string();
        assert_eq!(text, "no room for 'a' in the archive of here (/srv/wal)");

        let denied = travel(StoreError::io(&there, "write", "a", io::Error::from_raw_os_error(13)));
        assert!(matches!(&denied, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied));
        assert!(denied.hint().is_some());

        let missing = travel(StoreError::RootMissing { place: there.clone(), directory: "/d".to_owned() });
        assert!(matches!(missing, StoreError::RootMissing { directory, .. } if directory == "/d"));
        let damaged =
            travel(StoreError::Damaged { place: there.clone(), path: "a".to_owned(), detail: "short".to_owned() });
        assert_eq!(damaged.class(), Class::Corrupt);
        let late = StoreError::Superseded { place: there.clone(), path: "a".to_owned(), by: "beta".to_owned() };
        assert!(matches!(travel(late), StoreError::Superseded { by, .. } if by == "beta"));

        let (reason, hint) = ("gone".to_owned(), Some("Look.".to_owned()));
        let lost = travel(StoreError::Unreachable { place: there.clone(), reason, hint });
        assert_eq!(lost.to_string(), "cannot reach the archive of here (/srv/wal): gone");
        assert_eq!((lost.class(), lost.hint().as_deref()), (Class::Remote, Some("Look.")));
        let (action, path, after) = ("open a session for", "/d".to_owned(), Duration::from_millis(1500));
        let late = travel(StoreError::Timeout { place: there.clone(), action, path, after });
        assert_eq!(late.to_string(), "the archive of here (/srv/wal) did not open a session for '/d' within 1.5 s");
        assert!(late.is_transient());
        let failure = Failure::new(Class::Storage, "cannot publish 'a': permission denied");
        let refused = travel(StoreError::Remote { place: there.clone(), failure: failure.clone() });
        assert!(matches!(refused, StoreError::Remote { failure: told, .. } if told == failure));

        let odd = travel(StoreError::io(&there, "frobnicate", "a", io::Error::from_raw_os_error(5)));
        assert!(matches!(&odd, StoreError::Remote { failure, .. } if failure.message.contains("frobnicate")));
        assert_eq!(odd.class(), Class::Storage);
    }
}
