//! What a primary does that finds itself superseded: another node has claimed the timeline behind its own.
//!
//! Its WAL is in nobody's way and not lost: PostgreSQL is told that it is not archived and keeps it, and a copy goes
//! into the quarantine of the spool, which no rewind empties. The claim is copied into its own archive, so that this
//! closes too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ArchiveError;
use super::claims;
use super::places::Sites;
use super::spool::Spool;
use crate::config::Config;
use crate::store::Payload;
use crate::system::durable;
use crate::wal::WalName;

/// Keeps a file that a place refused for a claim, and takes the claim home. Says where it is kept; none where there is
/// no room, and PostgreSQL's own copy is all there is.
pub fn step_aside(
    config: &Config,
    sites: &Sites,
    spool: &Spool,
    name: WalName,
    payload: &Payload,
) -> Result<Option<PathBuf>, ArchiveError> {
    take_claims_home(config, sites, spool);
    if name.holds_wal() { keep(spool, name, payload, config.queue.free_min) } else { Ok(None) }
}

/// Copies the claims of the other places into the own archive. Best effort: what cannot be copied now is the next time.
fn take_claims_home(config: &Config, sites: &Sites, spool: &Spool) {
    let Some(own) = sites.get(&config.local.node) else { return };
    for site in sites.all().filter(|site| !site.own) {
        let Some(there) = site.opened() else { continue };
        let copied = own.archive().and_then(|own| {
            for claim in claims::all(&there)? {
                if claims::of(&own, claim.timeline)?.is_none() {
                    claims::copy(&own, spool, &claim)?;
                }
            }
            Ok(())
        });
        if let Err(error) = copied {
            log::warn!("the claims in the archive of {} are not copied here: {error}", site.name());
        }
    }
}

fn keep(spool: &Spool, name: WalName, payload: &Payload, free_min: u64) -> Result<Option<PathBuf>, ArchiveError> {
    let folder = spool.quarantine();
    spool.make(&folder)?;
    let path = folder.join(format!("{name}{}", payload.encoding.extension()));
    let there = path.try_exists().map_err(ArchiveError::io("look up", &path))?;
    if there {
        return Ok(Some(path));
    }
    if !has_room(&folder, free_min)? {
        return Ok(None);
    }
    let settled = payload.write_file().and_then(|()| fs::File::open(&payload.file)?.sync_all());
    settled.map_err(ArchiveError::io("fsync", &payload.file))?;
    match fs::hard_link(&payload.file, &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ArchiveError::io("keep", path)(error));
        }
        _ => {}
    }
    durable::sync_directory(&folder).map_err(ArchiveError::io("fsync", folder))?;
    Ok(Some(path))
}

fn has_room(folder: &Path, free_min: u64) -> Result<bool, ArchiveError> {
    let space = rustix::fs::statvfs(folder).map_err(|errno| ArchiveError::io("look at", folder)(errno.into()))?;
    Ok(space.f_bavail * space.f_frsize >= free_min)
}
