//! What a node says about itself, in one query.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use postgres::Row;
use postgres::types::FromSqlOwned;

use crate::wal::{Lsn, SegmentSize, SystemId, TimelineId};

/// The state of a server as it describes it. A setting is none where the role may not see it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// `server_version_num`, like 150018.
    pub version: u32,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    pub system_id: SystemId,
    /// On a primary the one it writes; on a standby the newest it has seen.
    pub timeline: TimelineId,
    /// Primary only: `pg_current_wal_lsn()`.
    pub current: Option<Lsn>,
    /// Standby only: `pg_last_wal_replay_lsn()`.
    pub replayed: Option<Lsn>,
    /// Standby only, and only if it streams or has streamed: `pg_last_wal_receive_lsn()`.
    pub received: Option<Lsn>,
    /// Standby only: when the last replayed transaction was committed on the primary.
    pub replayed_at: Option<SystemTime>,
    /// `off`, `on` or `always`.
    pub archive_mode: Option<String>,
    pub archive_command: Option<String>,
    /// PostgreSQL 15 and later.
    pub archive_library: Option<String>,
    pub restore_command: Option<String>,
    pub data_directory: Option<PathBuf>,
    pub segment_size: SegmentSize,
    pub archiver: ArchiverFacts,
}

/// `pg_stat_archiver`.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchiverFacts {
    pub archived_count: u64,
    /// Name of the last file archived.
    pub last_archived: Option<String>,
    pub last_archived_at: Option<SystemTime>,
    pub failed_count: u64,
    /// Name of the last file that could not be archived.
    pub last_failed: Option<String>,
    pub last_failed_at: Option<SystemTime>,
}

impl NodeFacts {
    /// Reads the row of `sql/node_facts.sql`; the error says which column is wrong.
    pub(super) fn from_row(row: &Row) -> Result<NodeFacts, String> {
        let segment_size = u64::try_from(column::<i64>(row, "wal_segment_size")?).unwrap_or(0);
        Ok(NodeFacts {
            version: number("version", column::<i32>(row, "version")?)?,
            in_recovery: column(row, "in_recovery")?,
            // The server shows the unsigned number as a signed one.
            system_id: SystemId(column::<i64>(row, "system_identifier")?.cast_unsigned()),
            timeline: TimelineId(number("timeline", column::<i64>(row, "timeline")?)?),
            current: lsn(row, "current_lsn")?,
            replayed: lsn(row, "replayed_lsn")?,
            received: lsn(row, "received_lsn")?,
            replayed_at: time(row, "replayed_at")?,
            archive_mode: column(row, "archive_mode")?,
            archive_command: column(row, "archive_command")?,
            archive_library: column(row, "archive_library")?,
            restore_command: column(row, "restore_command")?,
            data_directory: column::<Option<String>>(row, "data_directory")?.map(PathBuf::from),
            segment_size: SegmentSize::new(segment_size).map_err(|error| error.to_string())?,
            archiver: ArchiverFacts {
                archived_count: number("archived_count", column::<i64>(row, "archived_count")?)?,
                last_archived: column(row, "last_archived_wal")?,
                last_archived_at: time(row, "last_archived_at")?,
                failed_count: number("failed_count", column::<i64>(row, "failed_count")?)?,
                last_failed: column(row, "last_failed_wal")?,
                last_failed_at: time(row, "last_failed_at")?,
            },
        })
    }
}

/// One column of a row; the error names it.
pub fn column<T: FromSqlOwned>(row: &Row, name: &str) -> Result<T, String> {
    row.try_get(name).map_err(|error| format!("column '{name}': {}", super::connection::describe(&error)))
}

/// Narrows a number to what it must fit into.
fn number<T: TryFrom<S>, S: Copy + fmt::Display>(name: &str, value: S) -> Result<T, String> {
    T::try_from(value).map_err(|_| format!("column '{name}' is {value}"))
}

/// A position that is sent as text.
pub fn lsn(row: &Row, name: &str) -> Result<Option<Lsn>, String> {
    let text: Option<String> = column(row, name)?;
    text.map(|text| text.parse::<Lsn>().map_err(|error| error.to_string())).transpose()
}

/// A time that is sent as seconds since 1970.
pub fn time(row: &Row, name: &str) -> Result<Option<SystemTime>, String> {
    let seconds: Option<f64> = column(row, name)?;
    let since = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(since.map(|since| SystemTime::UNIX_EPOCH + since))
}
