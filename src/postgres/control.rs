//! The control file `global/pg_control`: what a data directory knows about itself while no server runs.
//!
//! Reads the files of PostgreSQL 13 to 18 directly, so that no `pg_controldata` of the right version has to be found,
//! and checks their CRC. It never writes; [`marked`] only says what a file would be that no server starts with. Fields
//! that nobody here needs are not read.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Explain};
use crate::wal::page::{u32_at, u64_at};
use crate::wal::{Lsn, SegmentSize, SystemId, TimelineId};

/// How often a file with a wrong CRC is read before it counts as damaged: the server may be writing it.
const TRIES: u32 = 5;

/// How long to wait between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Length in bytes of the longest layout, with its CRC.
const LONGEST: usize = 296;

/// Each version of the layout with the offset of its CRC (PG_CONTROL_VERSION). Up to the checksum version at offset
/// 252 all are alike: 18 put one more field behind it, 17 changed no offset.
const LAYOUTS: &[(u32, usize)] = &[(1300, 288), (1700, 288), (1800, 292)];

/// Where the longest length of a name stands (nameDataLen). A server refuses to start where it is not its own, and no
/// program of PostgreSQL's looks at it but `pg_controldata`.
const NAME_LENGTH_AT: usize = 232;

/// The catalog version of each major version's releases (CATALOG_VERSION_NO).
const CATALOGS: &[(u32, u32)] =
    &[(202_007_201, 13), (202_107_181, 14), (202_209_061, 15), (202_307_071, 16), (202_406_281, 17), (202_506_291, 18)];

/// What a data directory knows about itself (PostgreSQL: ControlFileData).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// What initdb drew for this cluster.
    pub system_id: SystemId,
    /// The version of the file's layout (PG_CONTROL_VERSION).
    pub control_version: u32,
    /// The version of the system catalogs (CATALOG_VERSION_NO).
    pub catalog_version: u32,
    /// The major version of PostgreSQL, where the catalog version is that of a release.
    pub major: Option<u32>,
    /// What the server was doing when it last wrote the file.
    pub state: ClusterState,
    /// Where the record of the latest checkpoint begins.
    pub checkpoint: Lsn,
    /// Where a recovery from the latest checkpoint begins (redo).
    pub redo: Lsn,
    /// The timeline of the latest checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// When the latest checkpoint began, in seconds since 1970 by the clock of the primary (`checkPointCopy.time`).
    pub checkpoint_time: i64,
    /// Up to where a standby must recover before its data are consistent; invalid where no recovery is under way.
    pub min_recovery_point: Lsn,
    /// The timeline of that position; 0 where there is none.
    pub min_recovery_timeline: TimelineId,
    /// Where the backup began that is being recovered; invalid once the data are consistent (backupStartPoint).
    pub backup_start: Lsn,
    /// True where changes of hint bits are logged (wal_log_hints).
    pub wal_log_hints: bool,
    /// True where [`marked`] made it: no server starts with it.
    pub marked: bool,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
    /// What the server was set to; a hot standby needs at least as much.
    pub limits: Limits,
    /// The size of a WAL page in bytes (XLOG_BLCKSZ).
    pub wal_block_size: u32,
    /// True where data pages carry checksums.
    pub checksums: bool,
}

/// The settings that stand in the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// max_connections
    pub max_connections: u32,
    /// max_worker_processes
    pub max_worker_processes: u32,
    /// max_wal_senders
    pub max_wal_senders: u32,
    /// max_prepared_transactions
    pub max_prepared_transactions: u32,
    /// max_locks_per_transaction
    pub max_locks_per_transaction: u32,
}

/// What the server was doing when it last wrote the control file (DBState). A server killed in production leaves
/// [`ClusterState::InProduction`] behind, so this never proves that one is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// DB_STARTUP
    StartingUp,
    /// DB_SHUTDOWNED
    ShutDown,
    /// DB_SHUTDOWNED_IN_RECOVERY
    ShutDownInRecovery,
    /// DB_SHUTDOWNING
    ShuttingDown,
    /// DB_IN_CRASH_RECOVERY
    InCrashRecovery,
    /// DB_IN_ARCHIVE_RECOVERY
    InArchiveRecovery,
    /// DB_IN_PRODUCTION
    InProduction,
}

/// Why a control file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is none: the directory is no data directory.
    #[error("'{}' is no data directory: it has no global/pg_control", pgdata.display())]
    Missing { pgdata: PathBuf },
    /// The file system refused.
    #[error("cannot read '{}'", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It has fewer bytes than its layout needs.
    #[error("'{}' is damaged: it has only '{have}' bytes", path.display())]
    TooShort { path: PathBuf, have: usize },
    /// Its version has its bytes exchanged.
    #[error("'{}' was written on a machine of other byte order", path.display())]
    OtherByteOrder { path: PathBuf },
    /// Its layout is none that we know.
    #[error("'{}' has the layout version '{version}', which is none of PostgreSQL 13 to 18", path.display())]
    Version { path: PathBuf, version: u32 },
    /// The CRC is wrong, also after several tries.
    #[error("'{}' is damaged: its checksum is wrong", path.display())]
    Checksum { path: PathBuf },
    /// A field holds what PostgreSQL never writes there.
    #[error("'{}' is damaged: '{value}' is no {field}", path.display())]
    Field { path: PathBuf, field: &'static str, value: u32 },
}

impl Explain for ControlError {
    fn class(&self) -> Class {
        match self {
            ControlError::Missing { .. } | ControlError::Version { .. } | ControlError::OtherByteOrder { .. } => {
                Class::Postgres
            }
            ControlError::Io { .. } => Class::Storage,
            _ => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            ControlError::Missing { .. } => {
                "Check that the setting for the data directory names the one that holds 'PG_VERSION', and that its volume is mounted."
            }
            ControlError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "Run this as the user who owns the data directory, most often 'postgres'."
            }
            ControlError::Io { .. } => "Look into the system log for trouble with the disk.",
            ControlError::OtherByteOrder { .. } => {
                "A data directory can only be used on machines of the same byte order."
            }
            ControlError::Version { .. } => {
                "If the server is of a newer major version, install a pgwarm that knows it."
            }
            _ => "Do not start a server on this directory; restore it from a backup or copy it anew from the primary.",
        };
        Some(text.to_owned())
    }
}

impl ControlFile {
    /// Reads the control file of a data directory; again after a moment where the CRC is wrong, since a running server
    /// may be writing it.
    pub fn read(pgdata: &Path) -> Result<ControlFile, ControlError> {
        ControlFile::read_whole(pgdata).map(|(control, _)| control)
    }

    /// As [`ControlFile::read`], with the bytes of the file: those of one moment.
    pub fn read_whole(pgdata: &Path) -> Result<(ControlFile, Vec<u8>), ControlError> {
        let path = pgdata.join("global").join("pg_control");
        let mut tries = 1;
        loop {
            let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    ControlError::Missing { pgdata: pgdata.to_owned() }
                }
                _ => ControlError::Io { path: path.clone(), source },
            })?;
            match ControlFile::parse(&path, &bytes) {
                Err(ControlError::Checksum { .. } | ControlError::TooShort { .. }) if tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(BETWEEN_TRIES);
                }
                answer => return answer.map(|control| (control, bytes)),
            }
        }
    }

    /// Reads the bytes of a control file; `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let path = || path.to_owned();
        if bytes.len() < LONGEST {
            return Err(ControlError::TooShort { path: path(), have: bytes.len() });
        }
        let version = u32_at(bytes, 8);
        let layout = |version: u32| LAYOUTS.iter().find(|row| row.0 == version).map(|row| row.1);
        let crc_at = layout(version).ok_or_else(|| match layout(version.swap_bytes()) {
            Some(_) => ControlError::OtherByteOrder { path: path() },
            None => ControlError::Version { path: path(), version },
        })?;
        if crc32c::crc32c(&bytes[..crc_at]) != u32_at(bytes, crc_at) {
            return Err(ControlError::Checksum { path: path() });
        }
        let wrong = |field, value| ControlError::Field { path: path(), field, value };
        let (state, size, catalog_version) = (u32_at(bytes, 16), u32_at(bytes, 228), u32_at(bytes, 12));
        Ok(ControlFile {
            system_id: SystemId(u64_at(bytes, 0)),
            control_version: version,
            catalog_version,
            major: CATALOGS.iter().find(|row| row.0 == catalog_version).map(|row| row.1),
            state: ClusterState::from_number(state).ok_or_else(|| wrong("state of a cluster", state))?,
            checkpoint: Lsn(u64_at(bytes, 32)),
            redo: Lsn(u64_at(bytes, 40)),
            checkpoint_timeline: TimelineId(u32_at(bytes, 48)),
            checkpoint_time: u64_at(bytes, 104).cast_signed(),
            min_recovery_point: Lsn(u64_at(bytes, 136)),
            min_recovery_timeline: TimelineId(u32_at(bytes, 144)),
            backup_start: Lsn(u64_at(bytes, 152)),
            wal_log_hints: bytes[176] != 0,
            marked: u32_at(bytes, NAME_LENGTH_AT) == 0,
            segment_size: SegmentSize::new(u64::from(size)).map_err(|_| wrong("size of a WAL segment", size))?,
            limits: Limits {
                max_connections: u32_at(bytes, 180),
                max_worker_processes: u32_at(bytes, 184),
                max_wal_senders: u32_at(bytes, 188),
                max_prepared_transactions: u32_at(bytes, 192),
                max_locks_per_transaction: u32_at(bytes, 196),
            },
            wal_block_size: u32_at(bytes, 224),
            checksums: u32_at(bytes, 252) != 0,
        })
    }
}

/// The bytes of a control file, changed so that no server starts with it. `pg_rewind` takes it nevertheless, and the
/// last thing it writes is a control file without the mark.
pub fn marked(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, ControlError> {
    ControlFile::parse(path, bytes)?;
    let crc_at = LAYOUTS.iter().find(|row| row.0 == u32_at(bytes, 8)).map(|row| row.1);
    let crc_at = crc_at.expect("because it has just been read by its layout");
    let mut changed = bytes.to_vec();
    changed[NAME_LENGTH_AT..NAME_LENGTH_AT + 4].fill(0);
    let crc = crc32c::crc32c(&changed[..crc_at]);
    changed[crc_at..crc_at + 4].copy_from_slice(&crc.to_ne_bytes());
    Ok(changed)
}

impl ClusterState {
    fn from_number(state: u32) -> Option<ClusterState> {
        Some(match state {
            0 => ClusterState::StartingUp,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            _ => return None,
        })
    }

    /// True where the server was shut down in order, as a primary or as a standby.
    pub fn is_clean(self) -> bool {
        matches!(self, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
    }
}

impl std::fmt::Display for ClusterState {
    /// The words of `pg_controldata`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(version: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[0..8].copy_from_slice(&77u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&version.to_ne_bytes());
        bytes[12..16].copy_from_slice(&202_506_291u32.to_ne_bytes());
        bytes[16..20].copy_from_slice(&6u32.to_ne_bytes());
        bytes[32..40].copy_from_slice(&0x1_0000_0028u64.to_ne_bytes());
        bytes[176] = 1;
        bytes[224..228].copy_from_slice(&8192u32.to_ne_bytes());
        bytes[232..236].copy_from_slice(&64u32.to_ne_bytes());
        bytes[228..232].copy_from_slice(&(1u32 << 20).to_ne_bytes());
        seal(&mut bytes, if version == 1800 { 292 } else { 288 });
        bytes
    }

    fn seal(bytes: &mut [u8], at: usize) {
        let crc = crc32c::crc32c(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&crc.to_ne_bytes());
    }

    fn write(bytes: &[u8]) -> tempfile::TempDir {
        let pgdata = tempfile::tempdir().expect("because tests may write there");
        std::fs::create_dir(pgdata.path().join("global")).expect("because the directory is ours");
        std::fs::write(pgdata.path().join("global/pg_control"), bytes).expect("because the directory is ours");
        pgdata
    }

    #[test]
    fn every_layout_is_read() {
        for version in [1300, 1700, 1800] {
            let file = ControlFile::read(write(&control(version)).path()).expect("because it is well formed");
            assert_eq!((file.system_id, file.state), (SystemId(77), ClusterState::InProduction));
            assert_eq!((file.checkpoint, file.segment_size.bytes()), (Lsn(0x1_0000_0028), 1 << 20));
            assert_eq!((file.major, file.checksums, file.wal_log_hints), (Some(18), false, true));
        }
    }

    #[test]
    fn a_marked_file_can_be_read_and_is_told_apart() {
        for version in [1300, 1700, 1800] {
            let bytes = control(version);
            let changed = marked(Path::new("x"), &bytes).expect("because it is well formed");
            let read = |bytes: &[u8]| ControlFile::read(write(bytes).path()).expect("because its checksum is right");
            assert_eq!((read(&bytes).marked, read(&changed).marked), (false, true));
            assert_eq!(ControlFile { marked: false, ..read(&changed) }, read(&bytes));
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let read = |bytes: &[u8]| ControlFile::read(write(bytes).path()).map_err(|error| error.to_string());
        let says = |bytes: &[u8], words: &str| {
            let message = read(bytes).expect_err("because it is damaged");
            assert!(message.contains(words), "{message}");
        };
        let good = control(1300);
        let change = |at: usize, with: u32, sealed: bool| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&with.to_ne_bytes());
            if sealed {
                seal(&mut bytes, 288);
            }
            bytes
        };
        says(&good[..100], "only '100' bytes");
        says(&change(8, 1300u32.swap_bytes(), true), "other byte order");
        says(&change(8, 1201, true), "layout version '1201'");
        says(&change(32, 1, false), "checksum is wrong");
        says(&change(16, 9, true), "'9' is no state of a cluster");
        says(&change(228, 5, true), "'5' is no size of a WAL segment");
        let empty = tempfile::tempdir().expect("because tests may write there");
        let missing = ControlFile::read(empty.path()).expect_err("because there is none");
        assert!(matches!(missing, ControlError::Missing { .. }), "{missing}");
    }
}
