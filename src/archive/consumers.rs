//! Who still needs what of an archive: a record a consumer, kept inside the archive, under `consumers/`.
//!
//! A standby reports its restart point when it cleans up, a primary its last checkpoint from time to time, a relay how
//! far its target has got. A consumer that has not reported needs everything: silence is not consent.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use chrono::{Local, SecondsFormat};
use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::places::{Archive, Sites};
use super::spool::Spool;
use crate::config::{Config, Node, NodeKind, PlaceWord};
use crate::error::Failure;
use crate::postgres::control::ControlFile;
use crate::store::{StoreError, StorePath};
use crate::system::durable;
use crate::wal::SegmentName;

/// The folder of the records, in an archive.
const FOLDER: &str = "consumers";

/// How often a primary reports.
const PRIMARY_INTERVAL: Duration = Duration::from_secs(60);

/// No record is larger, in bytes.
const SIZE_MAX: u64 = 4096;

/// What one consumer said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who: a node's name, or `relay-NODE`.
    pub who: String,
    /// Why it needs WAL, for people.
    pub what: String,
    /// The oldest segment it may still ask for.
    pub oldest_needed: SegmentName,
    /// When it said so, with offset.
    pub at: String,
}

impl Record {
    /// A record made now.
    pub fn new(who: &str, what: &str, oldest_needed: SegmentName) -> Self {
        let at = Local::now().to_rfc3339_opts(SecondsFormat::Micros, false);
        Record { who: who.to_owned(), what: what.to_owned(), oldest_needed, at }
    }

    /// Writes the record into an archive.
    pub fn write(&self, archive: &Archive) -> Result<(), ArchiveError> {
        let json = serde_json::to_vec_pretty(self).expect("because plain data has no reason not to become JSON");
        Ok(archive.store.replace(&path(&self.who)?, &json)?)
    }

    /// Removes the record of a consumer that is gone. False where there is none.
    pub fn remove(archive: &Archive, who: &str, dry_run: bool) -> Result<bool, ArchiveError> {
        let path = path(who)?;
        if dry_run {
            return Ok(archive.store.look(&path)?.is_some());
        }
        Ok(archive.store.remove(&path)?)
    }
}

/// What a consumer said last; `None` where it never said anything.
pub fn read(archive: &Archive, who: &str) -> Result<Option<Record>, ArchiveError> {
    use std::io::Read;
    let path = path(who)?;
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let mut text = String::new();
    let read = file.take(SIZE_MAX).read_to_string(&mut text);
    read.map_err(|source| StoreError::io(archive.store.place(), "read", path.as_str(), source))?;
    serde_json::from_str(&text).map(Some).map_err(|error| ArchiveError::Refused {
        reason: format!("the record '{path}' in the {} cannot be understood: {error}", archive.store.place()),
        hint: "Remove it; the consumer writes a new one, and until then nothing is removed.".to_owned(),
    })
}

/// Everybody who left a record.
pub fn all(archive: &Archive) -> Result<Vec<Record>, ArchiveError> {
    let folder: StorePath = FOLDER.parse().map_err(StoreError::from)?;
    let entries = archive.store.list(&folder)?.unwrap_or_default();
    let names = entries.iter().filter_map(|entry| entry.name.strip_suffix(".json"));
    names.filter_map(|who| read(archive, who).transpose()).collect()
}

fn path(who: &str) -> Result<StorePath, ArchiveError> {
    Ok(format!("{FOLDER}/{who}.json").parse::<StorePath>().map_err(StoreError::from)?)
}

/// Every database server that may restore from the archive of `holder`: by `restore.from`, seen from each node.
pub fn of<'a>(config: &'a Config, holder: &Node) -> Vec<&'a Node> {
    let reads = |reader: &Node| {
        let other = reader.name != holder.name;
        config.restore.from.iter().any(|word| match word {
            PlaceWord::Own => !other,
            PlaceWord::Queue => false,
            PlaceWord::Nodes => other && holder.kind == NodeKind::Node,
            PlaceWord::Dr => other && holder.kind == NodeKind::Dr,
            PlaceWord::Node(name) => *name == holder.name,
        })
    };
    config.nodes.iter().filter(|node| node.pgdata.is_some() && node.kind != NodeKind::Witness && reads(node)).collect()
}

/// Reports for a primary, at most once a minute, into the archives that are open: it needs nothing older than the
/// checkpoint it would start from.
pub fn report_primary(config: &Config, sites: &Sites, spool: &Spool, pgdata: &Path) -> Result<(), ArchiveError> {
    let mark = spool.root().join("reported");
    let fresh = fs::metadata(&mark).and_then(|data| data.modified()).ok();
    let age = fresh.and_then(|reported| SystemTime::now().duration_since(reported).ok());
    if age.is_some_and(|age| age < PRIMARY_INTERVAL) || pgdata.join("standby.signal").exists() {
        return Ok(());
    }
    let control = ControlFile::read(pgdata).map_err(|error| ArchiveError::Elsewhere(Failure::from(error)))?;
    let number = control.redo.segment(control.segment_size);
    let oldest = SegmentName::new(control.checkpoint_timeline, number, control.segment_size);
    let record = Record::new(&config.local.node, "primary: its last checkpoint", oldest);
    report(&record, sites.all().filter_map(|site| site.opened()));
    durable::replace(&mark, b"").map_err(ArchiveError::io("write", mark))
}

/// Writes a record wherever that can be done: an archive that does not take it now keeps what it has, which needs more.
fn report(record: &Record, archives: impl Iterator<Item = Archive>) {
    for archive in archives {
        if let Err(error) = record.write(&archive) {
            log::debug!("what {} needs is not reported to the {}: {error}", record.who, archive.store.place());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::identity::Identity;
    use crate::store::memory::MemoryStore;
    use crate::wal::{SegmentNumber, SegmentSize, SystemId, TimelineId};

    #[test]
    fn an_archive_that_is_away_keeps_no_record_from_the_others() -> Result<(), ArchiveError> {
        let size = SegmentSize::new(1 << 20).expect("because 1 MiB is a size");
        let open = |store: Arc<MemoryStore>| Archive { store, identity: Identity::new("main", SystemId(7), size) };
        let (away, there) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        away.remove_root();
        let record = Record::new("alpha", "a test", SegmentName::new(TimelineId(1), SegmentNumber(3), size));
        assert!(record.write(&open(Arc::clone(&away))).is_err(), "the first one takes it, so nothing is tested");
        report(&record, [open(away), open(Arc::clone(&there))].into_iter());
        assert_eq!(read(&open(there), "alpha")?, Some(record));
        Ok(())
    }
}
