//! What a primary leaves behind that has been flushed: a small record, kept by itself and put into every archive.
//!
//! It is the proof that the primary is stopped and that nothing it wrote is missing elsewhere, for whoever cannot reach
//! it any more. Taking it back comes before starting the primary again.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use super::observation::Handover;
use crate::archive::ArchiveError;
use crate::archive::places::Archive;
use crate::archive::spool::{Spool, remove_if_there};
use crate::store::{StoreError, StorePath};
use crate::system::durable;

/// The folder of the records, in an archive.
const FOLDER: &str = "handovers";

/// No record is larger, in bytes.
const SIZE_MAX: u64 = 64 << 10;

/// Every handover written down in an archive.
pub fn all(archive: &Archive) -> Result<Vec<Handover>, ArchiveError> {
    let folder: StorePath = FOLDER.parse().map_err(StoreError::from)?;
    let mut found = Vec::new();
    for entry in archive.store.list(&folder)?.unwrap_or_default() {
        let path = folder.join(&entry.name).map_err(StoreError::from)?;
        let Some(file) = archive.store.open(&path)? else { continue };
        let mut text = Vec::new();
        let read = file.take(SIZE_MAX).read_to_end(&mut text);
        read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?;
        match serde_json::from_slice(&text) {
            Ok(handover) => found.push(handover),
            // It proves nothing then, which is all it is for.
            Err(error) => log::warn!("'{path}' in the {} cannot be understood: {error}", archive.store.place()),
        }
    }
    Ok(found)
}

/// Writes it into an archive.
pub fn publish(archive: &Archive, handover: &Handover) -> Result<(), ArchiveError> {
    Ok(archive.store.replace(&path(&handover.node)?, &json(handover))?)
}

/// Takes it out of an archive. False where it was not there.
pub fn withdraw(archive: &Archive, node: &str) -> Result<bool, ArchiveError> {
    Ok(archive.store.remove(&path(node)?)?)
}

fn path(node: &str) -> Result<StorePath, ArchiveError> {
    Ok(format!("{FOLDER}/{node}.json").parse::<StorePath>().map_err(StoreError::from)?)
}

/// Keeps it here, durably.
pub fn keep(spool: &Spool, handover: &Handover) -> Result<(), ArchiveError> {
    spool.prepare()?;
    let path = here(spool);
    durable::replace(&path, &json(handover)).map_err(ArchiveError::io("write", path))
}

/// The one that this node keeps; none where it was not flushed, or came back since.
pub fn kept(spool: &Spool) -> Result<Option<Handover>, ArchiveError> {
    let path = here(spool);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ArchiveError::io("read", path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| ArchiveError::Refused {
        reason: format!("the handover '{}' cannot be understood: {error}", path.display()),
        hint: "Move it aside; flush-primary writes a new one.".to_owned(),
    })
}

/// Forgets the own one. May be repeated.
pub fn forget(spool: &Spool) -> Result<(), ArchiveError> {
    let path = here(spool);
    remove_if_there(&path).map(drop).map_err(ArchiveError::io("remove", path))
}

fn here(spool: &Spool) -> PathBuf {
    spool.root().join("handover.json")
}

fn json(handover: &Handover) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(handover).expect("because plain data has no reason not to become JSON");
    json.push(b'\n');
    json
}
