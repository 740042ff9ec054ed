//! What becomes of WAL that no archive takes any more, for another node has left its timeline before it.
//!
//! A primary that finds itself superseded is told that its WAL is not archived, and keeps it; a copy goes into the
//! quarantine of the spool, which no rewind empties. The claim is copied into its own archive, so that this closes too.
//!
//! A server that has itself left that timeline only finds some of it in its `pg_wal`: refused for ever, it would keep
//! the archiver from everything that comes behind. For such a server the copy in the quarantine is where it ends.

use std::path::{Path, PathBuf};

use super::ArchiveError;
use super::claims;
use super::places::Sites;
use super::spool::Spool;
use crate::config::Config;
use crate::postgres::control::ControlFile;
use crate::postgres::local_wal;
use crate::store::local::LocalStore;
use crate::store::ship::{ShipError, ship};
use crate::store::{Encoding, Payload, Place, StoreError, StorePath};
use crate::wal::WalName;

/// So many files of one name with different contents are kept: each is the end of another life of one timeline.
const LIVES_MAX: u32 = 100;

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

/// True where the server of a data directory has itself left a file's timeline before it.
///
/// What the file holds up to the fork goes on under the name of the timeline that follows; behind the fork lies what no
/// server of that lineage replays. Where the data directory does not tell, the answer is no.
pub fn has_left(pgdata: &Path, name: WalName) -> Result<bool, ArchiveError> {
    let Some(segment) = name.segment().filter(|_| name.holds_wal()) else { return Ok(false) };
    let elsewhere = |failure| ArchiveError::Elsewhere(failure);
    let control = ControlFile::read(pgdata).map_err(|error| elsewhere(error.into()))?;
    // A standby has followed further than its last restart point says.
    let newest = control.checkpoint_timeline.max(control.min_recovery_timeline);
    let history = local_wal::history(pgdata, newest).map_err(|error| elsewhere(error.into()))?;
    let (Some(history), Some(number)) = (history, segment.number(control.segment_size)) else { return Ok(false) };
    let owner = history.owner_of_segment(number, control.segment_size);
    Ok(segment.timeline() < history.timeline && owner != segment.timeline())
}

/// The same of this node's own server, as far as it is sure.
pub fn left_by(config: &Config) -> impl Fn(WalName) -> bool {
    let pgdata = config.own().pgdata.clone();
    move |name| pgdata.as_deref().is_some_and(|pgdata| is_sure(has_left(pgdata, name), name))
}

/// False where it cannot be told, which is said.
pub fn is_sure(left: Result<bool, ArchiveError>, name: WalName) -> bool {
    left.unwrap_or_else(|error| {
        log::warn!("whether this server has left the timeline of '{name}' cannot be told: {error}");
        false
    })
}

/// Keeps a file under its name, or behind that name with a number where other content was kept under it before.
pub fn keep(spool: &Spool, name: WalName, payload: &Payload, free_min: u64) -> Result<Option<PathBuf>, ArchiveError> {
    let folder = spool.quarantine();
    spool.make(&folder)?;
    let forms = |stem: &str| Encoding::ALL.map(|encoding| folder.join(format!("{stem}{}", encoding.extension())));
    let kept = |stem: &str| forms(stem).into_iter().find(|path| path.is_file());
    if kept(&name.to_string()).is_none() && !has_room(&folder, free_min)? {
        return Ok(None);
    }
    let place = Place { node: "quarantine".to_owned(), location: folder.display().to_string() };
    let store = LocalStore::open(&folder, place)?;
    for life in 0..LIVES_MAX {
        let stem = if life == 0 { name.to_string() } else { format!("{name}.{life}") };
        let path: StorePath = stem.parse().map_err(StoreError::from)?;
        match ship(&path, payload, &store) {
            Ok(_) => return Ok(kept(&stem)),
            Err(ShipError::Occupied { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn has_room(folder: &Path, free_min: u64) -> Result<bool, ArchiveError> {
    let space = rustix::fs::statvfs(folder).map_err(|errno| ArchiveError::io("look at", folder)(errno.into()))?;
    Ok(space.f_bavail * space.f_frsize >= free_min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_kept_once_and_never_replaced() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        let name: WalName = "000000010000000000000005".parse().map_err(ArchiveError::Name)?;
        let keep = |bytes: &[u8]| {
            let file = folder.path().join("payload");
            keep(&spool, name, &Payload::in_memory(file, bytes.to_vec(), Encoding::None), 0)
        };
        let (one, other) = (keep(b"one")?, keep(b"other")?);
        assert_eq!(one, Some(spool.quarantine().join(name.to_string())));
        assert_eq!(other, Some(spool.quarantine().join(format!("{name}.1"))));
        assert_eq!((keep(b"one")?, keep(b"other")?), (one, other));
        Ok(())
    }
}
