//! What is asked of the cluster manager: names, members, quorum, attributes. Its own tools are called for it, each with
//! a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::system::process::{Call, Ended};

/// Where the tools are, by the packages of every distribution.
const SBIN: &str = "/usr/sbin";

/// There is no such attribute (CRM_EX_NOSUCH, and ENXIO as older tools have it).
const ABSENT: [i32; 2] = [105, 6];

/// How long an attribute lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// Until the node leaves the cluster.
    Reboot,
    /// Until somebody takes it away.
    Forever,
}

impl Life {
    fn word(self) -> &'static str {
        match self {
            Life::Reboot => "reboot",
            Life::Forever => "forever",
        }
    }
}

/// One question or order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Ask {
    /// What this node is called.
    Name,
    /// Which nodes are in the cluster with this one, separated by blanks.
    Members,
    /// Whether they have quorum: `1` or `0`.
    Quorum,
    /// An option of the cluster.
    Option { name: String },
    /// An attribute of a node.
    Get { member: String, name: String, life: Life },
    /// Sets an attribute, or takes it away.
    Put { member: String, name: String, life: Life, value: Option<String> },
}

/// Somebody who answers; nothing where there is no such thing.
pub trait Cluster: Send + Sync {
    /// Asks, or orders.
    fn ask(&self, ask: &Ask) -> Result<Option<String>, Failure>;
}

/// The tools of Pacemaker, called as whoever we are.
pub struct Tools {
    folder: PathBuf,
    patience: Duration,
}

impl Tools {
    /// The tools, in the folder that the cluster manager names.
    pub fn new(folder: Option<PathBuf>, patience: Duration) -> Tools {
        Tools { folder: folder.unwrap_or_else(|| PathBuf::from(SBIN)), patience }
    }

    fn call(&self, tool: &str, words: &[&str]) -> Result<Option<String>, Failure> {
        let path = self.folder.join(tool);
        let program = if path.is_file() { path.as_path() } else { Path::new(tool) };
        let outcome = Call::new(program).args(words).run(Deadline::after(self.patience))?;
        let said = String::from_utf8_lossy(&outcome.stdout).trim().to_owned();
        match outcome.status {
            Ended::Exit(0) => Ok(Some(said).filter(|said| !said.is_empty() && said != "(null)")),
            Ended::Exit(code) if ABSENT.contains(&code) => Ok(None),
            ended => {
                let text = format!("'{tool} {}' failed: {ended}, {}", words.join(" "), outcome.complaint());
                Err(Failure::new(Class::Remote, text).hinted("Is the cluster manager running on this node?"))
            }
        }
    }
}

impl Cluster for Tools {
    fn ask(&self, ask: &Ask) -> Result<Option<String>, Failure> {
        match ask {
            Ask::Name => self.call("crm_node", &["-n"]),
            Ask::Members => self.call("crm_node", &["-p"]),
            Ask::Quorum => self.call("crm_node", &["-q"]),
            Ask::Option { name } => self.call("crm_attribute", &["-t", "crm_config", "-n", name, "-G", "-q"]),
            Ask::Get { member, name, life } => {
                self.call("crm_attribute", &["-N", member, "-n", name, "-l", life.word(), "-G", "-q"])
            }
            Ask::Put { member, name, life, value: Some(value) } => {
                self.call("crm_attribute", &["-N", member, "-n", name, "-l", life.word(), "-v", value])
            }
            Ask::Put { member, name, life, value: None } => {
                self.call("crm_attribute", &["-N", member, "-n", name, "-l", life.word(), "-D"])
            }
        }
    }
}
