//! What `check-node` knows when it judges: plain data, gathered once.
//!
//! Every fact that can be missing has three answers ([`Told`]): it is so, it is not there, it could not be found out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::archive::drills::Standing;
pub use crate::archive::identity::Identity;
pub use crate::archive::shipping::BrokenChain;
use crate::config::{Check, NodeKind, Shipping};
use crate::store::Space;
use crate::wal::{SegmentSize, SystemId};

/// Present, absent (`Ok(None)`), or cannot tell and why (`Err`).
pub type Told<T> = Result<Option<T>, String>;

/// Everything.
#[derive(Debug, Clone)]
pub struct Facts {
    /// This node's name.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// The thresholds.
    pub limits: Check,
    /// This node; none where only other nodes were asked for.
    pub local: Option<Local>,
    /// The server of this node; none where it is configured to have none.
    pub server: Option<Server>,
    /// The other nodes.
    pub peers: Vec<Peer>,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
    /// True for a directory.
    pub is_directory: bool,
    /// Its path without symbolic links.
    pub resolved: PathBuf,
}

/// A path of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPath {
    /// As the configuration says it.
    pub path: PathBuf,
    /// What is there.
    pub stat: Told<Stat>,
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl From<Space> for Room {
    fn from(space: Space) -> Self {
        Room { free: space.free, total: space.total }
    }
}

/// What waits somewhere to be shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// How many files.
    pub count: u64,
    /// How many bytes, where they are counted.
    pub bytes: u64,
    /// Name and age of the oldest; none where nothing waits.
    pub oldest: Option<(String, Duration)>,
}

/// Whether the worker of `archive-wal` runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worker {
    /// It answers.
    Running,
    /// There is none; the next call starts one.
    Resting,
    /// Its socket cannot be used.
    Unknown(String),
}

/// This node's files.
#[derive(Debug, Clone)]
pub struct Local {
    /// Who runs this check.
    pub user: u32,
    /// The configuration files that were read.
    pub configuration: Vec<LocalPath>,
    /// The private keys named in the configuration.
    pub keys: Vec<LocalPath>,
    /// The spool.
    pub spool: LocalPath,
    /// Room where the spool is.
    pub spool_room: Told<Room>,
    /// The archive of this cluster (`<archive>/<cluster>`); none where this node holds none.
    pub archive: Option<LocalArchive>,
    /// The data directory; none where this node has none.
    pub pgdata: Option<LocalPath>,
    /// The queues, by the node they are for.
    pub queues: Result<BTreeMap<String, Result<Waiting, String>>, String>,
    /// WAL that no archive takes any more; absent where there never was any.
    pub quarantine: Told<Waiting>,
    /// What `shipping` in the spool says; absent: the configuration decides.
    pub switch: Told<Shipping>,
    /// What the configuration says.
    pub shipping: Shipping,
    /// True where the words that discard needs stand in the configuration.
    pub discard_confirmed: bool,
    /// WAL that was discarded.
    pub broken: Told<Vec<BrokenChain>>,
    /// The worker; none where it is turned off.
    pub worker: Option<Worker>,
}

/// The archive on this node.
#[derive(Debug, Clone)]
pub struct LocalArchive {
    /// Its directory.
    pub root: LocalPath,
    /// Room where it is.
    pub room: Told<Room>,
    /// Its identity.
    pub identity: Told<Identity>,
    /// Name and age of the highest segment in it.
    pub newest: Told<(String, Duration)>,
    /// What restore drills have proven.
    pub drills: Told<Standing>,
    /// True where there is a base backup, which a drill could restore.
    pub backups: bool,
}

/// What a server does, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// In recovery.
    Standby,
    /// Cleanly known not to run.
    Down,
}

/// Where settings were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsSource {
    /// From the running server.
    Server,
    /// From the files it will read at its next start; what is not set there is the default.
    Files,
}

/// The settings of a server, as text with units (`SHOW`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they come from.
    pub source: SettingsSource,
    /// Name in lower case → value.
    pub values: BTreeMap<String, String>,
    /// Settings that were changed but need a restart.
    pub pending: Vec<String>,
}

/// What the control file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Database system identifier.
    pub system_identifier: SystemId,
    /// Bytes per WAL segment.
    pub segment_size: SegmentSize,
    /// True where data pages carry checksums.
    pub checksums: bool,
}

/// `pg_stat_archiver`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// `archived_count`
    pub archived: u64,
    /// `failed_count`
    pub failed: u64,
    /// `last_failed_wal`
    pub failed_name: Option<String>,
    /// True where the last failure is newer than the last success.
    pub failing: bool,
}

/// The server of this node.
#[derive(Debug, Clone)]
pub struct Server {
    /// What it does.
    pub role: Result<Role, String>,
    /// The data directory it says it uses, without symbolic links; absent where it does not answer or may not say.
    pub data_directory: Option<PathBuf>,
    /// Its settings.
    pub settings: Result<Settings, String>,
    /// Its control file.
    pub control: Told<Control>,
    /// Its archiver; `None` where it is down.
    pub archiver: Told<Archiver>,
    /// What waits as `.ready` in `pg_wal/archive_status`.
    pub ready: Told<Waiting>,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// What it is there for.
    pub kind: NodeKind,
    /// What it was found to be over ssh; none where it has no host, or where it offers sftp only.
    pub probe: Option<Result<Probe, String>>,
    /// True where the configuration gives it an archive.
    pub has_archive: bool,
    /// What its server does; none where it has no conninfo.
    pub role: Option<Result<Role, String>>,
}

/// What a look at another node over ssh found.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its clock beside ours.
    pub clock: Result<Clock, String>,
    /// The version of pgwarm there; absent: not installed where we look.
    pub version: Told<String>,
    /// The identity of its archive.
    pub identity: Told<Identity>,
    /// Room where its archive is; absent: the directory is not there.
    pub room: Told<Room>,
    /// Whether it reaches us over ssh: yes, no and why (absent is never), or cannot tell.
    pub back: Back,
}

/// Two clocks compared, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Clock {
    /// How far the other clock is ahead of ours; negative: behind.
    pub ahead: f64,
    /// How wrong that number may be: the time the answer took, and the resolution of the other clock.
    pub doubt: f64,
}

/// Whether another node reaches this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// It does.
    Reached,
    /// It tried and could not.
    Failed(String),
    /// It could not be asked.
    Unknown(String),
}
