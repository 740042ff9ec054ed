//! What can go wrong with a request, and how it is told: refused by the server, or lost with the session.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use ssh2::ErrorCode;

use super::session::{Live, is_timeout};
use crate::error::{Class, Failure};
use crate::store::{Place, StoreError};

/// The library says so where the server answered with an error of the protocol (LIBSSH2_ERROR_SFTP_PROTOCOL).
const ANSWERED: ErrorCode = ErrorCode::Session(-31);

/// What can go wrong in a request, before it is said of which place and file.
pub(super) enum Trouble {
    Ssh(ssh2::Error),
    Io(io::Error),
    Store(StoreError),
    Said(String),
}

impl From<ssh2::Error> for Trouble {
    fn from(error: ssh2::Error) -> Self {
        Trouble::Ssh(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble::Store(error)
    }
}

/// A request that was refused, in our own words.
pub(super) fn said(words: impl Into<String>) -> Trouble {
    Trouble::Said(words.into())
}

/// Of which place and what was being done, for messages.
pub(super) struct Context<'a> {
    pub(super) place: &'a Place,
    pub(super) deadline: Duration,
    pub(super) action: &'static str,
}

impl Context<'_> {
    /// Says what went wrong; a session that may be out of step is broken off.
    pub(super) fn explain(&self, live: &Live, path: &str, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Store(error) => error,
            Trouble::Said(words) => self.refused(path, words),
            Trouble::Ssh(error) => match error.code() {
                ErrorCode::SFTP(code) if !(6..=7).contains(&code) => self.refused(path, error.message()),
                _ => self.lost(live, path, is_timeout(&error), error.message()),
            },
            Trouble::Io(error) => {
                let last = ssh2::Error::last_session_error(&live.session);
                let answered = last.is_some_and(|last| last.code() == ANSWERED);
                let timeout = error.kind() == io::ErrorKind::TimedOut;
                if answered && !timeout { self.refused(path, error) } else { self.lost(live, path, timeout, error) }
            }
        }
    }

    fn refused(&self, path: &str, words: impl Display) -> StoreError {
        let failure = Failure::new(Class::Storage, format!("cannot {} '{path}': {words}", self.action));
        StoreError::Remote { place: self.place.clone(), failure }
    }

    fn lost(&self, live: &Live, path: &str, timeout: bool, words: impl Display) -> StoreError {
        live.break_off();
        let place = self.place.clone();
        if timeout {
            return StoreError::Timeout { place, action: self.action, path: path.to_owned(), after: self.deadline };
        }
        StoreError::Unreachable { place, reason: format!("cannot {} '{path}': {words}", self.action), hint: None }
    }
}
