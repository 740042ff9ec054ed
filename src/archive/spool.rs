//! What this machine keeps beside the archives: queues, deliveries under way, caches, the worker's socket.
//!
//! Only the queues, the quarantine and what was set aside of a former primary cannot be made again. The switches and
//! the journals say what an operator or a promotion decided, and how far it has come. Everything else here may be
//! deleted at any time.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::ArchiveError;
use crate::system::durable;

/// The longest path of a socket that every system takes, in bytes (unix(7): sun_path).
const SOCKET_PATH_MAX: usize = 100;

/// The spool directory of this node.
#[derive(Debug, Clone)]
pub struct Spool {
    root: PathBuf,
}

impl Spool {
    /// The spool at this directory; nothing is made yet.
    pub fn new(root: &Path) -> Self {
        Spool { root: root.to_owned() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Payloads being delivered, and what is known of deliveries that did not succeed yet.
    pub fn outgoing(&self) -> PathBuf {
        self.root.join("outgoing")
    }

    /// The folder of all queues.
    pub fn queues(&self) -> PathBuf {
        self.root.join("queue")
    }

    /// What waits for one node.
    pub fn queue(&self, node: &str) -> PathBuf {
        self.queues().join(node)
    }

    /// WAL that no archive takes any more.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Nodes whose archives were taken out by hand or by a promotion, until they are armed again.
    pub fn disarmed(&self) -> PathBuf {
        self.root.join("disarmed")
    }

    /// Nodes whose archives are not asked while this node is being promoted.
    pub fn left_out(&self) -> PathBuf {
        self.root.join("left-out")
    }

    /// Remembers for a short time that a node is down.
    pub fn down(&self, node: &str) -> PathBuf {
        self.root.join("down").join(node)
    }

    /// The switch file.
    pub fn shipping(&self) -> PathBuf {
        self.root.join("shipping")
    }

    /// The record of discarded WAL.
    pub fn broken_chain(&self) -> PathBuf {
        self.root.join("broken-chain.json")
    }

    /// Segments fetched ahead of PostgreSQL's asking.
    pub fn prefetch(&self) -> PathBuf {
        self.root.join("prefetch")
    }

    /// The lock that lets one process do one duty.
    pub fn lock(&self, duty: &str) -> PathBuf {
        self.root.join(format!("{duty}.lock"))
    }

    /// The worker's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("worker.sock")
    }

    /// The worker's socket by a path that the system call takes: a long one is reached through a descriptor of the
    /// spool, which must stay open meanwhile.
    pub fn reach_socket(&self) -> io::Result<(PathBuf, Option<fs::File>)> {
        let path = self.socket();
        if path.as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok((path, None));
        }
        let folder = fs::File::open(&self.root)?;
        Ok((PathBuf::from(format!("/proc/self/fd/{}/worker.sock", folder.as_raw_fd())), Some(folder)))
    }

    /// Makes the spool directory where only its parent is there.
    pub fn prepare(&self) -> Result<(), ArchiveError> {
        if self.root.is_dir() { Ok(()) } else { self.make(&self.root.clone()) }
    }

    /// Makes a folder of the spool, for this user alone, durably.
    pub fn make(&self, folder: &Path) -> Result<(), ArchiveError> {
        durable::create_directory_durable(folder).map_err(ArchiveError::io("create", folder))
    }

    /// Removes payloads that a killed process left behind.
    pub fn sweep(&self, older_than: Duration) {
        let Ok(entries) = fs::read_dir(self.outgoing()) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|data| data.modified()).ok();
            let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > older_than) {
                // Whoever still needed it makes it again; a failure here is tried again by the next sweep.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Removes a file that may be gone already.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
