//! The steps of a plan: plain data that can be printed, kept in the journal, and taken again after a crash.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backup::catalog::as_text;
use crate::config::StandbyMode;
use crate::wal::{Lsn, TimelineId};

/// A tablespace on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Its oid.
    pub oid: u32,
    /// Where it lies at the source.
    pub from: PathBuf,
    /// Where it is copied to.
    pub folder: PathBuf,
    /// Where it belongs in the end.
    pub place: PathBuf,
}

/// A directory that takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The new one.
    pub fresh: PathBuf,
    /// Where it belongs.
    pub place: PathBuf,
    /// Where what was there is kept.
    pub old: PathBuf,
}

/// What must be seen before the work counts as done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// The kind of standby.
    pub mode: StandbyMode,
    /// The node that it must stream from, and the `primary_conninfo` for that; none: shipped WAL is enough.
    pub upstream: Option<(String, String)>,
    /// True where replay is held back on purpose.
    pub delayed: bool,
}

/// One step. Each may be taken again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Makes a replication slot.
    MakeSlot { node: String, slot: String },
    /// Copies a running server.
    Clone { node: String, folder: PathBuf, spaces: Vec<Space> },
    /// Restores a backup.
    Restore {
        place: String,
        label: String,
        folder: PathBuf,
        spaces: Vec<Space>,
        /// True: over what is there, of which only what differs is written.
        delta: bool,
        /// What the server is told; there before its control file is.
        settings: BTreeMap<String, String>,
    },
    /// Keeps WAL from this position on, which the primary never had.
    KeepAside {
        #[serde(with = "as_text")]
        from: Lsn,
    },
    /// Takes such WAL out of `pg_wal`, once it is kept.
    RemoveSurplus {
        #[serde(with = "as_text")]
        from: Lsn,
    },
    /// Brings a crashed primary's data to a clean end, so that they can be rewound.
    Recover,
    /// Takes back what the primary never had.
    Rewind { node: String, archive: bool },
    /// Writes the history of the server to be followed into `pg_wal`.
    PutHistory { node: String, timeline: TimelineId, text: String },
    /// Writes our settings and `standby.signal`.
    Configure { folder: PathBuf, copied: bool, settings: BTreeMap<String, String> },
    /// Puts the new directories in the place of the old ones.
    Exchange { moves: Vec<Move>, spaces: Vec<Space> },
    /// Starts the server.
    Start,
    /// Makes the running server read its settings.
    Reload,
    /// Waits until it does what it is there for.
    Prove { goal: Goal },
    /// Removes the directories that were replaced.
    RemoveOld { folders: Vec<PathBuf> },
    /// Drops the slot on the server that was followed before, where that answers.
    DropSlot { node: String, slot: String },
}

impl Step {
    /// Its name, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Step::MakeSlot { .. } => "make-slot",
            Step::Clone { .. } => "clone",
            Step::Restore { .. } => "restore",
            Step::KeepAside { .. } => "keep-aside",
            Step::RemoveSurplus { .. } => "remove-surplus",
            Step::Recover => "recover",
            Step::Rewind { .. } => "rewind",
            Step::PutHistory { .. } => "put-history",
            Step::Configure { .. } => "configure",
            Step::Exchange { .. } => "exchange",
            Step::Start => "start",
            Step::Reload => "reload",
            Step::Prove { .. } => "prove",
            Step::RemoveOld { .. } => "remove-old",
            Step::DropSlot { .. } => "drop-slot",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeSlot { node, slot } => write!(f, "make the slot '{slot}' on {node}"),
            Step::Clone { node, folder, .. } => write!(f, "copy the server of {node} into '{}'", folder.display()),
            Step::Restore { place, label, folder, delta, .. } => {
                let how = if *delta { "restore the differences to" } else { "restore" };
                write!(f, "{how} backup '{label}' of the archive of {place} into '{}'", folder.display())
            }
            Step::KeepAside { from } => write!(f, "keep the own WAL from {from} on in the spool"),
            Step::RemoveSurplus { from } => write!(f, "take the own WAL from {from} on out of pg_wal"),
            Step::Recover => write!(f, "recover the crashed data to a clean end, in single-user mode"),
            Step::Rewind { node, archive: false } => write!(f, "rewind to where {node} left, with the own WAL"),
            Step::Rewind { node, archive: true } => write!(f, "rewind to where {node} left, with WAL of the archives"),
            Step::PutHistory { node, timeline, .. } => {
                write!(f, "take over the history of timeline {timeline} from {node}")
            }
            Step::Configure { folder, .. } => write!(f, "write settings and standby.signal in '{}'", folder.display()),
            Step::Exchange { moves, .. } => {
                let words: Vec<String> = moves
                    .iter()
                    .map(|it| format!("put '{}' in the place of '{}'", it.fresh.display(), it.place.display()))
                    .collect();
                f.write_str(&words.join(", "))
            }
            Step::Start => write!(f, "start the server"),
            Step::Reload => write!(f, "make the server read its settings"),
            Step::Prove { goal } => match &goal.upstream {
                Some((node, _)) => write!(f, "wait until it streams from {node} and has caught up"),
                None => write!(f, "wait until it has replayed what was shipped"),
            },
            Step::RemoveOld { folders } => {
                let words: Vec<String> = folders.iter().map(|it| format!("'{}'", it.display())).collect();
                write!(f, "remove {}", words.join(", "))
            }
            Step::DropSlot { node, slot } => write!(f, "drop the slot '{slot}' on {node}"),
        }
    }
}
