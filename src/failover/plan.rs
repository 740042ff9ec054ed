//! What is done, step by step: plain data that can be shown, stored and gone on with after a crash.
//!
//! Each step may be carried out again: it looks first whether what it is to bring about is so already.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wal::lsn::{text, text_or_none};
use crate::wal::{Lsn, TimelineId};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Makes sure that a node's server is stopped.
    Fence { node: String },
    /// Starts the own server as the standby that it is.
    Start,
    /// Has a primary stop, send everything on and write down that it has.
    Flush { node: String },
    /// Waits until the last record of the old primary is in the own files.
    Hold,
    /// Ends the WAL receiver and sees to it that none comes back.
    StopReceiver,
    /// Brings WAL that lies elsewhere into the own `pg_wal`.
    Fetch {
        from: Vec<String>,
        #[serde(with = "text")]
        until: Lsn,
    },
    /// Waits until all of it is replayed.
    Replay,
    /// Ships what was received and never archived.
    FillHole,
    /// Claims the new timeline in every archive. Without a fork it is announced and closes nothing yet.
    Claim {
        timeline: TimelineId,
        parent: TimelineId,
        #[serde(with = "text_or_none")]
        fork: Option<Lsn>,
    },
    /// Looks again at everything that may have changed, and decides again.
    DecideAgain,
    /// Takes the archive of a node out of shipping.
    Disarm { node: String },
    /// Ends recovery. From here on there is no way back.
    Promote,
    /// Restarts the own server to recover up to a time and to open there. From here on there is no way back.
    Recover { until: String },
    /// Installs the settings of a primary.
    Configure,
    /// Waits until the server takes writes on the new timeline.
    Open,
    /// Sees to it that the history of the new timeline is archived.
    Archive,
    /// Confirms the claim.
    Confirm,
    /// Brings the old primary back as a standby of this node.
    Follow { node: String },
    /// Runs the operator's action.
    Act,
}

impl Step {
    /// True for the step after which the old primary must not come back.
    pub fn is_irreversible(&self) -> bool {
        matches!(self, Step::Promote | Step::Recover { .. })
    }

    /// Its word, for logs and for the phases of a report.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Fence { .. } => "fence",
            Step::Start => "start",
            Step::Flush { .. } => "flush",
            Step::Hold => "hold",
            Step::StopReceiver => "stop-receiver",
            Step::Fetch { .. } => "fetch",
            Step::Replay => "replay",
            Step::FillHole => "fill-hole",
            Step::Claim { fork: None, .. } => "announce",
            Step::Claim { .. } => "claim",
            Step::DecideAgain => "decide-again",
            Step::Disarm { .. } => "disarm",
            Step::Promote => "promote",
            Step::Recover { .. } => "recover",
            Step::Configure => "configure",
            Step::Open => "open",
            Step::Archive => "archive",
            Step::Confirm => "confirm",
            Step::Follow { .. } => "follow",
            Step::Act => "action",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Fence { node } => write!(f, "make sure that the server of {node} is stopped"),
            Step::Start => write!(f, "start this server as a standby"),
            Step::Flush { node } => write!(f, "flush the primary {node}: stop it, with everything sent on"),
            Step::Hold => write!(f, "wait until the last record of the old primary is here"),
            Step::StopReceiver => write!(f, "stop the WAL receiver of this server"),
            Step::Fetch { from, until } => write!(f, "fetch WAL up to {until} from {}", from.join(", ")),
            Step::Replay => write!(f, "wait until everything is replayed"),
            Step::FillHole => write!(f, "archive what was received and never archived"),
            Step::Claim { timeline, parent, fork: Some(fork) } => {
                write!(f, "claim timeline {timeline} in the archives, which closes timeline {parent} at {fork}")
            }
            Step::Claim { timeline, .. } => write!(f, "announce timeline {timeline} in the archives"),
            Step::DecideAgain => write!(f, "look again, and decide again"),
            Step::Disarm { node } => write!(f, "ship nothing to the archive of {node} until it is back"),
            Step::Promote => write!(f, "promote this server"),
            Step::Recover { until } => write!(f, "recover this server up to {until} and open it there"),
            Step::Configure => write!(f, "install the settings of a primary"),
            Step::Open => write!(f, "wait until this server takes writes on the new timeline"),
            Step::Archive => write!(f, "see to it that the new history is archived"),
            Step::Confirm => write!(f, "confirm the new timeline"),
            Step::Follow { node } => write!(f, "bring {node} back as a standby of this node"),
            Step::Act => write!(f, "run failover.action"),
        }
    }
}

/// What is lost, or may be, if this node is promoted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Loss {
    /// WAL that somebody is known to hold and that this node will not have, in bytes.
    pub bytes: u64,
    /// Who holds it, and up to where.
    pub held_by: Vec<String>,
    /// What cannot be told, one line each.
    pub unknown: Vec<String>,
}

/// What is to be done, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The timeline that begins.
    pub timeline: TimelineId,
    /// Where it begins, as far as that is known before.
    #[serde(with = "text")]
    pub fork: Lsn,
    /// What is lost by it.
    pub loss: Loss,
}
