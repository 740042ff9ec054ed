//! The configuration: one file that is the same on every node, and a small one that says which node this is.
//!
//! `options` holds THE table; `value` the kinds of value; `ini` reads a file into lines; `load` finds the files,
//! settles each value and reports every problem at once; `build` fills the structs; `check` looks at values together;
//! `render` prints the sample files, the README table and `--show-config`. This module holds the result: plain data, a
//! struct a section. No secret ever stands in it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::Encoding;

mod build;
mod check;
mod check_monitor;
mod error;
pub mod ini;
pub mod load;
pub mod options;
pub mod render;
pub mod value;

pub use check::DISCARD_CONFIRMATION;
pub use error::{ConfigError, Problem};
pub use load::{LOCAL_VARIABLE, Origin, Origins, SHARED_VARIABLE, Source};

/// Everything the configuration says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub cluster: Cluster,
    pub local: Local,
    pub archive: Archive,
    pub queue: Queue,
    pub restore: Restore,
    pub relay: Relay,
    pub backup: Backup,
    pub failover: Failover,
    pub drill: Drill,
    pub standby: Standby,
    pub ssh: Ssh,
    pub notify: Notify,
    pub log: Log,
    pub check: Check,
    pub monitor: Monitor,
    /// Every `[node.NAME]`, in the order of the file.
    pub nodes: Vec<Node>,
    /// A hash over every value: two programs with equal fingerprints run with equal settings.
    pub fingerprint: u64,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The name of the cluster: a folder of that name in every archive. Plain letters, digits, `_` and `-`.
    pub name: String,
}

/// `[local]`: stands in the local file.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// Which `[node.NAME]` this machine is. Required.
    pub node: String,
    /// Where queues, the worker's socket and caches live; outside PGDATA. Default `/var/lib/pgwarm/spool`.
    pub spool: PathBuf,
    /// Directory of PostgreSQL's own programs (pg_controldata, pg_ctl, …); empty: found beside the running server or in
    /// PATH.
    pub pg_bin: Option<PathBuf>,
    /// The command that starts the server, word by word; empty: `postgres` is started directly.
    pub server_start: Vec<String>,
    /// The command that stops the server; empty: the postmaster gets the signal itself.
    pub server_stop: Vec<String>,
}

/// A word or a node name in a list of places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceWord {
    /// `own`: this node's own archive, if it has one.
    Own,
    /// `queue`: this node's queues (restore only).
    Queue,
    /// `nodes`: every other node of kind `node` that holds an archive.
    Nodes,
    /// `dr`: every other node of kind `dr` that holds an archive.
    Dr,
    /// The node of that name.
    Node(String),
}

/// `[archive]`
#[derive(Debug, Clone, PartialEq)]
pub struct Archive {
    /// `armed` (default), `refuse` or `discard`; the switch file in the spool goes before it.
    pub shipping: Shipping,
    /// Must be exactly `I accept a broken WAL chain` before discard does anything. Default empty.
    pub discard_confirmation: String,
    /// Where a file goes. Default `own, nodes`.
    pub to: Vec<PlaceWord>,
    /// Where it goes instead while a place of `to` on another node is down. Default `dr`.
    pub alternate: Vec<PlaceWord>,
    /// `local`, `standby` (default), `all` or a number.
    pub ack: Ack,
    /// `zstd` (default), `lz4`, `gzip`, `none`.
    pub compress: Encoding,
    /// Compression level; 0 is the default of the method (zstd 1, gzip 6). −7..19, default 0.
    pub level: i32,
    /// How long one file may take in all. Default 60s, 1s..1h.
    pub deadline: Duration,
    /// Hand files to a worker. Default on.
    pub worker: bool,
    /// The worker ends after so long without a call. Default 60s, 1s..1d.
    pub worker_idle: Duration,
    /// How many next `.ready` segments the worker may prepare. Default 8, 0..64. 0 turns looking ahead off.
    pub lookahead: u32,
    /// How long a place that failed is left alone before it is tried again. Default 10s, 1s..1h.
    pub retry: Duration,
}

/// `shipping`: what `archive-wal` does with what PostgreSQL offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shipping {
    /// Ship it.
    Armed,
    /// Exit non-zero; PostgreSQL keeps the WAL.
    Refuse,
    /// Exit 0 without shipping; the chain is broken and recorded as such.
    Discard,
}

/// `ack`: when a file counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Durable on this machine: the own archive, or a queue.
    Local,
    /// Durable in at least one archive on another node (a dr reached by the alternate route counts).
    Standby,
    /// Durable in every place of `to`.
    All,
    /// Durable in so many archives.
    Count(u32),
}

/// `[queue]`
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// The spool's file system keeps at least so much free; below it nothing is queued. Bytes, default 1GiB.
    pub free_min: u64,
}

/// `[restore]`
#[derive(Debug, Clone, PartialEq)]
pub struct Restore {
    /// Where a file is looked for, in order. Default `own, queue, nodes, dr`.
    pub from: Vec<PlaceWord>,
    /// Wait for a segment that is not there yet (warm standby). Default off.
    pub wait: bool,
    /// How often to look while waiting, beside change notification. Default 1s, 100ms..1h.
    pub poll: Duration,
    /// Give up waiting after so long; 0 = never. Default 0.
    pub wait_max: Duration,
    /// Hold each segment back until it is so old (by the archive's modification time). Default 0.
    pub delay: Duration,
    /// The trigger file of pg_standby; relative to PGDATA. Default `trigger`.
    pub trigger: PathBuf,
    /// Folder with PAUSE / CONTINUE / STOP; relative to the spool. Default `control`.
    pub control: PathBuf,
    /// Serve a `.partial` under the full name where no whole segment exists. Default off.
    pub partial: bool,
    /// How long to retry places that cannot tell before answering. Default 10s, 0..1h.
    pub retry: Duration,
    /// How long one file may take in all, waiting apart. Default 60s.
    pub deadline: Duration,
    /// Use the worker and let it fetch ahead. Default on.
    pub worker: bool,
    /// How many files one clean-up removes at most. Default 10000.
    pub remove_max: u32,
    /// How many next segments the worker may fetch. Default 8, 0..64.
    pub prefetch: u32,
}

/// `[relay]`
#[derive(Debug, Clone, PartialEq)]
pub struct Relay {
    /// Where the own archive is relayed to. Default `dr`.
    pub to: Vec<PlaceWord>,
    /// Bytes a second at most over all places; 0 = no limit. Default 0.
    pub rate_max: u64,
    /// Pause between two turns of `--loop`. Default 5s, 100ms..1d.
    pub interval: Duration,
}

/// `[backup]`
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// How many files are worked on at once; 0: one for each core. 0..64, default 0.
    pub jobs: u32,
    /// `zstd` (default), `lz4`, `none`.
    pub compress: Encoding,
    /// Level of zstd; 0 is 1. −7..19, default 0.
    pub level: i32,
    /// `fast` (default) or `spread`.
    pub checkpoint: Checkpoint,
    /// Bytes read a second at most; 0: no limit. Default 0.
    pub rate_max: u64,
    /// How long WAL may take to reach the archive. Default 5min, 1s..1d.
    pub deadline: Duration,
    /// How many backups expire keeps; 0: no number. Default 0.
    pub keep: u32,
    /// To any time of how many days expire keeps the way; 0: no number. Default 0.
    pub keep_days: u32,
}

/// `[drill]`
#[derive(Debug, Clone, PartialEq)]
pub struct Drill {
    /// Where drills restore to. Default `/var/lib/pgwarm/drill`.
    pub directory: PathBuf,
    /// True: to some moment (default); false: to the end of the WAL.
    pub random: bool,
    /// shared_buffers of the restored server, in bytes. Default 128MB.
    pub shared_buffers: u64,
    /// How long recovery may take. Default 1d, 1min..30d.
    pub deadline: Duration,
    /// Check tables and indexes with pg_amcheck. Default on.
    pub amcheck: bool,
    /// Where SQL is run. Default `postgres`.
    pub database: String,
    /// SQL that must run without an error.
    pub sql_file: Option<PathBuf>,
    /// A query that must answer true.
    pub check: Option<String>,
}

/// How the server makes the checkpoint with which a backup begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once.
    Fast,
    /// Over as long as checkpoint_completion_target says.
    Spread,
}

/// `[failover]`
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// Makes sure that a node is stopped; its name becomes the last word. Only exit code 0 proves it. Empty: over ssh.
    pub fence: Vec<String>,
    /// Default 30s, 1s..1h.
    pub fence_deadline: Duration,
    /// Runs on the new primary at the end; must return 0. Empty: nothing.
    pub action: Vec<String>,
    /// Default 1min, 1s..1h.
    pub action_deadline: Duration,
    /// How long another node may take to answer. Default 3s, 100ms..1min.
    pub contact: Duration,
    /// How long replaying and promoting may take. Default 5min, 1s..1d.
    pub deadline: Duration,
    /// How long a primary that is flushed lets its sessions end by themselves. Default 1s, 0..1h.
    pub sessions: Duration,
    /// How long its archiver may take. Default 30s, 1s..1h.
    pub drain: Duration,
    /// How long it may take to stop, mode by mode. Default 30s, 1s..1h.
    pub stop: Duration,
}

/// `[standby]`
#[derive(Debug, Clone, PartialEq)]
pub struct Standby {
    /// `streaming` (default), `hot`, `warm` or `cold`.
    pub mode: StandbyMode,
    /// Who a standby streams as; none: as the conninfo of the node says.
    pub user: Option<String>,
    /// Make a slot on the server that it streams from. Default off.
    pub slots: bool,
    /// The configuration set of a standby; together with the next one or not at all.
    pub conf_standby: Option<PathBuf>,
    /// The set of a node that has taken over.
    pub conf_failover: Option<PathBuf>,
    /// `copy` (default) or `reference`.
    pub conf_mode: ConfMode,
    /// How long a start may take, and catching up after it. Default 1h, 1s..30d.
    pub deadline: Duration,
    /// How long a copy, a recovery or a rewind may take. Default 1d, 1min..365d.
    pub copy_deadline: Duration,
}

/// What kind of standby a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StandbyMode {
    /// Streams, answers queries, and takes shipped WAL where the stream fails.
    #[default]
    Streaming,
    /// Replays shipped WAL and answers queries.
    Hot,
    /// Replays shipped WAL and lets nobody in.
    Warm,
    /// Files in place, never started: kept for a point-in-time recovery.
    Cold,
}

impl StandbyMode {
    /// True where WAL comes from a server first.
    pub fn streams(self) -> bool {
        self == StandbyMode::Streaming
    }

    /// True where the server is started.
    pub fn starts(self) -> bool {
        self != StandbyMode::Cold
    }

    /// True where it answers queries while it replays.
    pub fn answers(self) -> bool {
        matches!(self, StandbyMode::Hot | StandbyMode::Streaming)
    }
}

impl std::fmt::Display for StandbyMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            StandbyMode::Cold => "cold",
            StandbyMode::Warm => "warm",
            StandbyMode::Hot => "hot",
            StandbyMode::Streaming => "streaming",
        })
    }
}

/// How a configuration set is put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfMode {
    /// Its files are copied.
    Copy,
    /// Its `postgresql.conf` is included where it is.
    Reference,
}

/// `[ssh]`: for every node; `[node.NAME]` says user, port, key.
#[derive(Debug, Clone, PartialEq)]
pub struct Ssh {
    /// The ssh program. Default `ssh`.
    pub program: PathBuf,
    /// Default 10s, 1s..5min.
    pub connect_timeout: Duration,
    /// How long one operation may take. Default 30s, 1s..1h.
    pub deadline: Duration,
    /// A peer that does not answer for so long is dead. Default 6s, 2s..5min.
    pub dead_after: Duration,
    /// Words put before the host in the ssh command line (`-o Key=value`). Default empty.
    pub options: Vec<String>,
}

/// `[notify]`: programs, split into words once, never given to a shell; empty: none.
#[derive(Debug, Clone, PartialEq)]
pub struct Notify {
    pub ok: Vec<String>,
    pub warning: Vec<String>,
    pub critical: Vec<String>,
    /// The same message is sent again only after so long. Default 1h.
    pub repeat: Duration,
    /// A hook is ended after so long. Default 10s.
    pub deadline: Duration,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// `error`, `warn`, `info` (default), `debug`.
    pub level: log::LevelFilter,
    /// Also to this file. Default none.
    pub file: Option<PathBuf>,
    /// Also to syslog (`/dev/log`). Default off.
    pub syslog: bool,
}

/// `[check]`: thresholds of `check-node`.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Age of the oldest file in a queue or of the oldest `.ready`. Defaults 5min, 1h.
    pub queue_age_warning: Duration,
    pub queue_age_critical: Duration,
    /// Age of the newest segment in the archive. Defaults 1h, 1d.
    pub archive_age_warning: Duration,
    pub archive_age_critical: Duration,
    /// Free share of the archive's and the spool's file system, percent. Defaults 20, 10.
    pub free_warning: u32,
    pub free_critical: u32,
    /// How far a node may be behind the primary, bytes. Defaults 256MB, 4GB.
    pub lag_warning: u64,
    pub lag_critical: u64,
    /// How much WAL a replication slot may hold back, bytes. Defaults 1GB, 10GB.
    pub slot_warning: u64,
    pub slot_critical: u64,
    /// How old the last proven restore may be; 0: as old as it is. Default 0.
    pub drill_age_warning: Duration,
}

/// `[monitor]`
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    /// How often every node is looked at. Default 1s, 100ms..1h.
    pub interval: Duration,
    /// How long a node may take to answer. Default 900ms, 100ms..1min.
    pub deadline: Duration,
    /// A node that has not answered for so long is lost. Default 3s, 1s..1h.
    pub lost_after: Duration,
    /// How often lag goes into the database; 0: never. Default 10s.
    pub history: Duration,
    /// How long the history of lag is kept. Default 30d.
    pub keep: Duration,
    /// How long events are kept. Default 365d.
    pub keep_events: Duration,
    /// How often the own archive is listed whole. Default 5min, 1s..1d.
    pub survey: Duration,
    /// The daemon relays WAL also. Default off.
    pub relay: bool,
    /// The daemon removes old backups so often; zero: never. Default 0.
    pub expire: Duration,
    /// The daemon rehearses a restore so often; zero: never. Default 0.
    pub drill: Duration,
    /// Where HTTP is answered, as written; none: nowhere.
    pub http: Option<String>,
    /// Holds the process id; none: no such file.
    pub pid_file: Option<PathBuf>,
    /// Run for each event; empty: none.
    pub event_notification_command: Vec<String>,
    /// The events it is run for; empty: all.
    pub event_notifications: Vec<String>,
}

impl Monitor {
    /// Where HTTP is answered: a port alone means loopback. None where nothing is set or it makes no sense.
    pub fn http_address(&self) -> Option<SocketAddr> {
        let text = self.http.as_deref()?;
        let port = text.parse::<u16>().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        port.ok().or_else(|| text.parse().ok())
    }
}

/// What a node is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A database node: primary or standby, as the server says.
    #[default]
    Node,
    /// A disaster-recovery node.
    Dr,
    /// Votes and may hold an archive; holds no data.
    Witness,
}

/// How a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The system's ssh, with `serve-archive` at the far end.
    #[default]
    Ssh,
    /// The ssh2 library and any sftp server; no pgwarm needed at the far end.
    Sftp,
}

/// `[node.NAME]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// NAME: plain letters, digits, `_` and `-`.
    pub name: String,
    /// Its number in events and views; none: given at registration.
    pub id: Option<i32>,
    pub kind: NodeKind,
    /// Host name or address for ssh; required for a node that other nodes reach.
    pub host: Option<String>,
    pub pgdata: Option<PathBuf>,
    /// Its `postgresql.conf`; none: in PGDATA, or where Debian keeps it.
    pub config_file: Option<PathBuf>,
    /// libpq connection string or URI, without a password.
    pub conninfo: Option<String>,
    /// The directory of its archive; none: the node holds none.
    pub archive: Option<PathBuf>,
    pub transport: Transport,
    pub ssh_user: Option<String>,
    pub ssh_port: Option<u16>,
    pub ssh_key: Option<PathBuf>,
    /// ProxyJump.
    pub ssh_jump: Option<String>,
    /// known_hosts file; none: the user's own.
    pub ssh_known_hosts: Option<PathBuf>,
    /// Where pgwarm's programs are on that node. Default empty: found in its PATH.
    pub programs: Option<PathBuf>,
}

impl Config {
    /// The node this machine is.
    pub fn own(&self) -> &Node {
        self.node(&self.local.node).expect("because loading refuses a local.node without its section")
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Turns a list of words into nodes that hold an archive, each once, in order. `queue` stands for none.
    pub fn places(&self, words: &[PlaceWord]) -> Vec<&Node> {
        let mut found: Vec<&Node> = Vec::new();
        for word in words {
            for node in &self.nodes {
                let own = node.name == self.local.node;
                let named = match word {
                    PlaceWord::Own => own,
                    PlaceWord::Queue => false,
                    PlaceWord::Nodes => !own && node.kind == NodeKind::Node,
                    PlaceWord::Dr => !own && node.kind == NodeKind::Dr,
                    PlaceWord::Node(name) => node.name == *name,
                };
                if named && node.archive.is_some() && !found.iter().any(|seen| seen.name == node.name) {
                    found.push(node);
                }
            }
        }
        found
    }
}
