//! What the daemon of a node says of it: its archive, its queues, its backups and its last proven restore.
//!
//! A server cannot be asked for these, so each node writes its own report into the database and the others read it
//! there, also while the node is gone. A report has an age, and whoever shows one shows that too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::observation::as_text;
use crate::wal::{Lsn, SegmentSize, TimelineId};

/// One node's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of pgwarm that wrote it.
    pub pgwarm: String,
    /// Its archive; none: it holds none.
    pub archive: Option<Result<ArchiveState, String>>,
    /// What waits there for other places, by node.
    pub queues: BTreeMap<String, QueueState>,
    /// Free space where the archive is, in percent.
    pub archive_free: Option<f64>,
    /// The last proven restore; none: there was none, or nobody knows.
    pub drill: Option<Drill>,
}

/// The archive of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ArchiveState {
    /// The size of a segment; none where the archive is empty and new.
    pub segment_size: Option<SegmentSize>,
    /// What each timeline holds, oldest first.
    pub timelines: Vec<Bar>,
    /// The newest timeline of which WAL is here.
    pub timeline: Option<TimelineId>,
    /// How far the newest timeline reaches without a gap at its end.
    #[serde(with = "as_text")]
    pub tip: Option<Lsn>,
    /// How far the newest backup can be brought from here alone; none: there is no backup.
    #[serde(with = "as_text")]
    pub restorable: Option<Lsn>,
    /// Segments missing, over all timelines.
    pub missing: u64,
    /// Finished backups, oldest first.
    pub backups: Vec<BackupMark>,
    /// When the archive was last listed whole, seconds since 1970.
    pub surveyed: f64,
}

/// The WAL of one timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// The timeline.
    pub timeline: TimelineId,
    /// Stretches that are there: begin and end, in bytes.
    pub held: Vec<(u64, u64)>,
    /// Stretches that must have been and are not there.
    pub gaps: Vec<(u64, u64)>,
}

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupMark {
    /// Its label.
    pub label: String,
    /// When it was finished, seconds since 1970.
    pub finished: Option<f64>,
    /// Where a restore of it is consistent.
    #[serde(with = "as_text")]
    pub stop: Option<Lsn>,
}

/// A queue for one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueState {
    /// How many files.
    pub files: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
    /// The age of the oldest, in seconds.
    pub oldest_age: Option<f64>,
}

/// A restore drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// When it ended, seconds since 1970.
    pub at: f64,
    /// True where the restore was proven.
    pub successful: bool,
    /// What it was made from, or what went wrong.
    pub detail: String,
}

/// A report as another node reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// How old it is, in seconds by the clock of the server that keeps it.
    pub age: f64,
    /// The report; none where a newer pgwarm wrote one that cannot be understood.
    pub report: Option<Report>,
}
