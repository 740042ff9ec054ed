//! What the operator wants of this node: plain data, kept in the journal, so that a second run knows its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rejoin::ladder::Rung;
use crate::config::StandbyMode;

/// Where the data of a standby come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A base backup in an archive: of this node's, or the first of `restore.from` that holds one.
    Archive { place: Option<String>, label: Option<String> },
    /// The running server of that node.
    Node(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// A new copy becomes this node's data directory.
    Make(Source),
    /// The data directory that is there becomes a standby as it is.
    Adopt,
    /// The standby of this node goes on behind that node.
    Follow(String),
    /// A former primary comes back, the cheapest way that is safe; or only this way.
    Rejoin(Option<Rung>),
}

/// Everything that makes one run differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is to be done.
    pub job: Job,
    /// What kind of standby is wanted.
    pub mode: StandbyMode,
    /// The node to stream from; none: the primary, whichever it is.
    pub upstream: Option<String>,
    /// The name of the replication slot on the upstream; none: no slot.
    pub slot: Option<String>,
    /// How far replay stays behind the primary's commits; zero: not at all (recovery_min_apply_delay).
    pub delay: Duration,
    /// Where tablespaces go instead of where they are, by oid.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// True: the directory that is replaced is kept.
    pub keep_old: bool,
}

/// The name of the slot of a node: what PostgreSQL allows in one (ReplicationSlotValidateName).
pub fn slot_name(node: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = format!("pgwarm_{node}").chars().map(plain).collect();
    name.chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_name_that_the_server_takes() {
        assert_eq!(slot_name("DB-2"), "pgwarm_db_2");
        assert_eq!(slot_name(&"n".repeat(80)).len(), 63);
    }
}
