//! Does what a plan says: restores the backup and writes what the server needs to recover.
//!
//! Settings and signal file are there before the control file is, so a server that is started too early, or after a
//! restore that was killed, either finds everything or does not start.

use std::collections::BTreeMap;

use super::super::catalog::Description;
use super::super::restore::{self, Restored, Target};
use super::super::{BackupError, Watcher};
use crate::archive::places::Archive;
use crate::postgres::own_settings::{self, Signal};

/// What is to be done.
pub struct Request<'a> {
    /// Where the backup is.
    pub archive: &'a Archive,
    /// The backup.
    pub backup: &'a Description,
    /// Where it goes.
    pub target: &'a Target,
    /// What the server is told.
    pub settings: &'a BTreeMap<String, String>,
    /// How it recovers.
    pub signal: Signal,
    /// How many threads write.
    pub jobs: usize,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
}

/// Restores.
pub fn run(request: &Request<'_>) -> Result<Restored, BackupError> {
    let pgdata = &request.target.pgdata;
    let settle = || {
        own_settings::write(pgdata, request.settings)?;
        own_settings::adopt_copy(pgdata)?;
        Ok(own_settings::put_signal(pgdata, request.signal)?)
    };
    let Request { archive, backup, target, jobs, watcher, .. } = request;
    restore::restore_with(archive, backup, target, *jobs, *watcher, &settle)
}
