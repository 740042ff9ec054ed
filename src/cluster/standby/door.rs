//! A data directory that no server can be started on: its mode forbids it, whatever else is in there.
//!
//! A server refuses a directory in which its group may write (PG_MODE_MASK_GROUP), and PostgreSQL's tools do not mind.
//! The mode outlives every crash, so whoever is killed between two steps leaves the door closed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::StandbyError;
use crate::system::durable;

/// The group may write and not even look, so nobody gains anything.
const CLOSED: u32 = 0o720;

/// Nobody but the owner.
const OPEN: u32 = 0o700;

/// Closes it.
pub fn close(pgdata: &Path) -> Result<(), StandbyError> {
    set(pgdata, CLOSED)
}

/// Opens it again, where it was closed; another mode is somebody's choice.
pub fn open(pgdata: &Path) -> Result<(), StandbyError> {
    let data = fs::metadata(pgdata).map_err(StandbyError::io("look at", pgdata))?;
    if data.permissions().mode() & 0o7777 == CLOSED { set(pgdata, OPEN) } else { Ok(()) }
}

fn set(pgdata: &Path, mode: u32) -> Result<(), StandbyError> {
    fs::set_permissions(pgdata, Permissions::from_mode(mode))
        .and_then(|()| durable::sync_directory(pgdata))
        .map_err(StandbyError::io("set the mode of", pgdata))
}
