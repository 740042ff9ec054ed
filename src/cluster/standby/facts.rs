//! What is known when a plan is made: plain data, gathered once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::settings::Commands;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::own_settings::Signal;
use crate::wal::timeline::TimelineHistory;
use crate::wal::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId};

/// Everything.
#[derive(Debug, Clone)]
pub struct Facts {
    /// This node.
    pub own: Own,
    /// Every other node with a server, and what it said, or why not.
    pub others: Vec<(String, Result<There, String>)>,
    /// The server to stream from, where one is known.
    pub upstream: Option<Upstream>,
    /// The server that is copied, where one is.
    pub source: Option<Upstream>,
    /// The backup that is restored, where one is.
    pub backup: Option<Backup>,
    /// The archives that `restore.from` names, with the cluster each belongs to, or why it could not be opened.
    pub archives: Vec<(String, Result<SystemId, String>)>,
    /// How PostgreSQL calls us.
    pub commands: Commands,
    /// What our settings file says for the configuration set of a standby.
    pub set: BTreeMap<String, String>,
    /// The moment, as it stands in the names of directories.
    pub stamp: String,
}

/// This node.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its name.
    pub node: String,
    /// Its data directory.
    pub pgdata: PathBuf,
    /// What is there.
    pub directory: Directory,
    /// The server in it.
    pub server: Activity,
    /// What a server there would read as settings.
    pub reads: Reads,
    /// True where the configuration says how to connect to its server.
    pub reachable: bool,
    /// Free for new files beside the data directory, in bytes.
    pub free: u64,
    /// What lies where tablespaces are to go.
    pub spaces: BTreeMap<PathBuf, Directory>,
}

/// What a directory holds.
#[derive(Debug, Clone)]
pub enum Directory {
    /// There is none.
    Absent,
    /// Nothing.
    Empty,
    /// Something, and no data directory: the name of one file.
    Strange(String),
    /// A restore began there and did not end; the next one goes on with it.
    HalfRestored,
    /// A data directory.
    Data(Box<Data>),
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct Data {
    /// Its control file.
    pub control: ControlFile,
    /// The way that it came, as its own `pg_wal` tells; none where the history is not there.
    pub history: Option<TimelineHistory>,
    /// Which way it recovers at its next start.
    pub signal: Option<Signal>,
    /// True for a copy of a server that has not recovered yet (`backup_label`).
    pub label: bool,
    /// True where a rewind began here and did not end.
    pub half_rewound: bool,
    /// Up to where its pages may hold changes, and where its WAL ends; none while a server runs.
    pub ends: Option<(Lsn, Lsn)>,
    /// Where its tablespaces lie.
    pub spaces: BTreeMap<u32, PathBuf>,
}

impl Data {
    /// The newest timeline that its control file names; a standby may have followed to a later one.
    pub fn timeline(&self) -> TimelineId {
        self.control.checkpoint_timeline.max(self.control.min_recovery_timeline)
    }

    /// True where it was a standby, or is a copy that never ran; a primary's data are nobody's to replace.
    pub fn is_standby(&self) -> bool {
        let recovering = [ClusterState::InArchiveRecovery, ClusterState::ShutDownInRecovery];
        self.label || recovering.contains(&self.control.state)
    }
}

/// The server of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// None runs.
    Down,
    /// It runs as a standby.
    Standby(There),
    /// It runs and takes writes.
    Primary(There),
    /// It runs, and did not say as what.
    Silent(String),
}

/// What the server of this node reads as settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    /// Its `postgresql.conf`.
    pub file: PathBuf,
    /// True where that is no file of the data directory, so that no copy replaces it.
    pub outside: bool,
    /// True where it includes our file.
    pub included: bool,
    /// What `postgresql.auto.conf` sets, and would win over ours.
    pub auto: Vec<String>,
}

/// What a server said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct There {
    /// True where it takes writes.
    pub primary: bool,
    /// Its cluster.
    pub system_id: SystemId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// How far it has come: written, or replayed.
    pub position: Lsn,
    /// Standby: how far it has received.
    pub received: Option<Lsn>,
    /// Its segment size.
    pub segment_size: SegmentSize,
    /// Its major version.
    pub major: u32,
    /// The last segment that it has archived.
    pub archived: Option<SegmentName>,
    /// True where it archives through us, or not at all.
    pub ships: bool,
}

/// A server to be copied or to be streamed from.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its node.
    pub node: String,
    /// What it said about itself.
    pub there: There,
    /// How a standby of this node streams from it, without a password.
    pub conninfo: String,
    /// The way it came.
    pub history: Result<TimelineHistory, String>,
    /// Its size, as far as it may be known, in bytes.
    pub size: u64,
    /// Its tablespaces.
    pub spaces: BTreeMap<u32, PathBuf>,
    /// The first segment of its `pg_wal`; none where that may not be known.
    pub oldest: Option<SegmentName>,
    /// Our slot there.
    pub slot: Slot,
    /// True where a slot may hold back only so much (max_slot_wal_keep_size).
    pub slots_bounded: bool,
    /// False where the role may not replicate.
    pub may_replicate: bool,
    /// Why `pg_rewind` cannot take its data from there.
    pub no_rewind: Option<String>,
    /// `wal_level`
    pub wal_level: String,
}

/// A replication slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Nobody asked for one.
    Unasked,
    /// There is none of that name.
    Absent,
    /// There is one that nobody uses.
    Free,
    /// Somebody streams from it.
    Active,
    /// It is a logical one.
    Logical,
}

/// A backup to be restored.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The node whose archive holds it.
    pub place: String,
    /// Its label.
    pub label: String,
    /// Whose it is.
    pub system_id: SystemId,
    /// The timeline it ended on.
    pub timeline: TimelineId,
    /// Where it becomes consistent.
    pub stop: Lsn,
    /// Its size when restored, in bytes.
    pub size: u64,
    /// Its tablespaces.
    pub spaces: BTreeMap<u32, PathBuf>,
    /// The segment of a later fork that no archive holds on the new timeline: a recovery would read the old one's, and
    /// so what nobody else has.
    pub lacks: Option<SegmentName>,
}
