//! The WAL that a copy needs before its data are consistent: in an archive, proven; or sent along.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::super::super::BackupError;
use super::super::super::manifest::WalRange;
use super::super::super::plan::{SourceFile, Stamp};
use super::super::super::session::Session;
use super::super::super::take::open;
use super::super::super::wal;
use super::super::message::Wish;
use crate::archive::places::{Archive, Sites};
use crate::config::Config;
use crate::postgres::connection::Statement;
use crate::wal::{Lsn, SegmentName, SegmentNumber, SegmentSize, SystemId, WalName};

const HOLD: Statement = Statement { name: "hold_wal", text: include_str!("../../../../sql/hold_wal.sql") };

/// Where the WAL comes from.
pub enum WalPlan {
    /// From this archive.
    Archive(Archive),
    /// With the copy.
    Sent,
}

impl WalPlan {
    /// The archive that is named, else that of the source, of the target, of any node; where no node holds one, or this
    /// is wanted, the WAL is sent.
    pub fn choose(config: &Arc<Config>, wish: &Wish, target: &str, system: SystemId) -> Result<WalPlan, BackupError> {
        if wish.copy_wal {
            return Ok(WalPlan::Sent);
        }
        let holds = |name: &str| config.nodes.iter().any(|node| node.name == name && node.archive.is_some());
        let by_place = wish.place.as_deref();
        let likely = [config.local.node.as_str(), target].into_iter().find(|name| holds(name));
        let any = || config.nodes.iter().find(|node| node.archive.is_some()).map(|node| node.name.as_str());
        let Some(place) = by_place.or(likely).or_else(any) else { return Ok(WalPlan::Sent) };
        let archive = open(&Sites::new(config), place)?;
        archive.identity.admit(archive.store.place(), system, archive.identity.segment_size)?;
        Ok(WalPlan::Archive(archive))
    }

    /// Words for people.
    pub fn words(&self) -> String {
        match self {
            WalPlan::Archive(archive) => format!("in the {}", archive.store.place()),
            WalPlan::Sent => "with the copy".to_owned(),
        }
    }

    /// Before the backup begins: proves that WAL arrives, or keeps the server from recycling it.
    pub fn prepare(&self, config: &Config, session: &mut Session) -> Result<(), BackupError> {
        match self {
            WalPlan::Archive(archive) => wal::prove_shipping(config, session, archive, config.backup.deadline),
            WalPlan::Sent => {
                let slot = format!("pgwarm_copy_{}", std::process::id());
                if let Err(error) = session.connection().query(&HOLD, &[&slot]) {
                    log::warn!("the server may recycle WAL before it is copied, for it gives no slot: {error}");
                }
                Ok(())
            }
        }
    }

    /// After the backup has ended: waits until the WAL is in the archive, or names the files to be sent.
    pub fn settle(
        &self,
        config: &Config,
        pgdata: &Path,
        range: WalRange,
        size: SegmentSize,
        standby: bool,
    ) -> Result<Vec<SourceFile>, BackupError> {
        // The end is one past the last byte that is needed.
        let (first, last) = (range.start.segment(size), Lsn(range.end.0.saturating_sub(1)).segment(size));
        match self {
            WalPlan::Archive(archive) => {
                if standby {
                    wal::switch_on_primary(config);
                }
                wal::await_range(archive, range.timeline, first, last, config.backup.deadline)?;
                Ok(Vec::new())
            }
            WalPlan::Sent => files(&pgdata.join("pg_wal"), range, first, last, size),
        }
    }
}

/// The segments of a range, and every history file there is.
fn files(
    folder: &Path,
    range: WalRange,
    first: SegmentNumber,
    last: SegmentNumber,
    size: SegmentSize,
) -> Result<Vec<SourceFile>, BackupError> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(BackupError::io("list", folder))? {
        let name = entry.map_err(BackupError::io("list", folder))?.file_name().to_string_lossy().into_owned();
        if matches!(name.parse(), Ok(WalName::History(_))) {
            names.push(name);
        }
    }
    let segment = |number| SegmentName::new(range.timeline, SegmentNumber(number), size).to_string();
    names.extend((first.0..=last.0).map(segment));
    names.iter().map(|name| file(folder, name)).collect()
}

fn file(folder: &Path, name: &str) -> Result<SourceFile, BackupError> {
    let file = folder.join(name);
    match fs::metadata(&file) {
        Ok(data) => Ok(SourceFile {
            path: format!("pg_wal/{name}"),
            size: data.len(),
            stamp: Stamp::of(&data),
            first_block: None,
            file,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(BackupError::refused(
            format!("the server has '{name}' in its pg_wal no more, which the copy needs"),
            "Let a slot be free for the time of the copy (max_replication_slots), raise wal_keep_size, or name an archive \
             that gets all WAL with --place.",
        )),
        Err(error) => Err(BackupError::io("look at", file)(error)),
    }
}
