//! The archives of the cluster as this node reaches them: opened when first needed, kept open, left alone while down.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::ArchiveError;
use super::identity::Identity;
use super::spool::{Spool, remove_if_there};
use crate::config::{Config, Node, NodeKind, Transport};
use crate::error::Failure;
use crate::store::local::LocalStore;
use crate::store::ssh::{FarEnd, SftpFarEnd, SftpSettings, SshSettings, SshStore};
use crate::store::{Place, Store};

/// An open archive and whose it is.
#[derive(Clone)]
pub struct Archive {
    /// The place itself.
    pub store: Arc<dyn Store>,
    /// Its identity file.
    pub identity: Identity,
}

/// One archive as this node reaches it.
pub struct Site {
    /// The node that holds it.
    pub node: Node,
    /// True where it is on this machine.
    pub own: bool,
    config: Arc<Config>,
    spool: Spool,
    open: Mutex<Option<Archive>>,
}

/// All archives of the cluster, by node.
pub struct Sites {
    sites: BTreeMap<String, Arc<Site>>,
}

impl Sites {
    /// Every node of the configuration that holds an archive; nothing is opened yet.
    pub fn new(config: &Arc<Config>) -> Self {
        let spool = Spool::new(&config.local.spool);
        let site = |node: &Node| Site {
            node: node.clone(),
            own: node.name == config.local.node,
            config: Arc::clone(config),
            spool: spool.clone(),
            open: Mutex::new(None),
        };
        let holders = config.nodes.iter().filter(|node| node.archive.is_some());
        Sites { sites: holders.map(|node| (node.name.clone(), Arc::new(site(node)))).collect() }
    }

    /// The archive of that node.
    pub fn get(&self, node: &str) -> Option<&Arc<Site>> {
        self.sites.get(node)
    }

    /// Every archive.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.values()
    }

    /// The archives of these nodes, in this order.
    pub fn of(&self, nodes: &[&Node]) -> Vec<Arc<Site>> {
        nodes.iter().filter_map(|node| self.get(&node.name).cloned()).collect()
    }
}

impl Site {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// The node that this one is.
    pub fn asked_by(&self) -> &str {
        &self.config.local.node
    }

    /// True where it is a dr node.
    pub fn is_dr(&self) -> bool {
        self.node.kind == NodeKind::Dr
    }

    /// Opens the archive, or gives the one that is open; checks its identity once per opening.
    pub fn archive(&self) -> Result<Archive, ArchiveError> {
        let mut open = self.lock();
        if let Some(archive) = &*open {
            return Ok(archive.clone());
        }
        let store = open_store(&self.config, &self.node)?;
        let identity = Identity::read(&*store, &self.config.cluster.name)?;
        let archive = Archive { store, identity };
        *open = Some(archive.clone());
        Ok(archive)
    }

    /// The archive where it is open already; nothing is opened, and nobody waited for who is opening it.
    pub fn opened(&self) -> Option<Archive> {
        match self.open.try_lock() {
            Ok(open) => open.clone(),
            Err(TryLockError::Poisoned(open)) => open.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Forgets the open archive, so that the next use opens it anew.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// Why the place was down a short time ago, if it was. A cache, shared by every process of this node.
    pub fn recently_down(&self, retry: Duration) -> Option<Failure> {
        let path = self.spool.down(self.name());
        let age = fs::metadata(&path).ok()?.modified().ok()?;
        // A mark from the future comes from a clock that was set back: it says nothing.
        let age = SystemTime::now().duration_since(age).ok()?;
        if age > retry {
            return None;
        }
        serde_json::from_slice(&fs::read(&path).ok()?).ok()
    }

    /// Remembers that the place is down.
    pub fn mark_down(&self, failure: &Failure) {
        let path = self.spool.down(self.name());
        let written = path.parent().map(|folder| self.spool.make(folder)).transpose();
        let json = serde_json::to_vec(failure).expect("because plain data has no reason not to become JSON");
        if written.is_err() || fs::write(&path, json).is_err() {
            log::debug!("cannot remember that {} is down", self.name());
        }
    }

    /// Remembers that the place is up again.
    pub fn mark_up(&self) {
        if remove_if_there(&self.spool.down(self.name())).unwrap_or(false) {
            log::info!("the archive of {} is reachable again", self.name());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Archive>> {
        // Whoever panicked left either nothing or an archive that is whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an operator finds the archive of a node.
pub fn place(config: &Config, node: &Node) -> Place {
    let directory = node.archive.as_deref().unwrap_or("/".as_ref()).join(&config.cluster.name);
    let location = match (&node.host, node.name == config.local.node) {
        (Some(host), false) => {
            let user = node.ssh_user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            format!("{user}{host}:{}", directory.display())
        }
        _ => directory.display().to_string(),
    };
    Place { node: node.name.clone(), location }
}

/// Opens the archive of a node without looking at its identity.
pub fn open_store(config: &Config, node: &Node) -> Result<Arc<dyn Store>, ArchiveError> {
    let place = place(config, node);
    let archive = node.archive.clone().ok_or_else(|| ArchiveError::Refused {
        reason: format!("node '{}' holds no archive", node.name),
        hint: format!("Set node.{}.archive.", node.name),
    })?;
    if node.name == config.local.node {
        return Ok(Arc::new(LocalStore::open(&archive.join(&config.cluster.name), place)?));
    }
    let far = match node.transport {
        Transport::Ssh => FarEnd::Ssh(ssh_settings(config, node)?),
        Transport::Sftp => {
            let (settings, cluster) = (sftp_settings(config, node)?, config.cluster.name.clone());
            let own = std::env::current_exe().map_err(ArchiveError::io("find", Path::new("/proc/self/exe")))?;
            FarEnd::Sftp(SftpFarEnd { program: own.with_file_name("serve-archive"), settings, archive, cluster })
        }
    };
    Ok(Arc::new(SshStore::connect(far, place)?))
}

/// How the system's ssh reaches a node.
pub fn ssh_settings(config: &Config, node: &Node) -> Result<SshSettings, ArchiveError> {
    Ok(SshSettings {
        program: config.ssh.program.clone(),
        host: host(node)?,
        user: node.ssh_user.clone(),
        port: node.ssh_port,
        key: node.ssh_key.clone(),
        jump: node.ssh_jump.clone(),
        known_hosts: node.ssh_known_hosts.clone(),
        options: config.ssh.options.clone(),
        connect_timeout: config.ssh.connect_timeout,
        deadline: config.ssh.deadline,
        dead_after: config.ssh.dead_after,
        remote_programs: node.programs.clone(),
        archive: node.archive.clone().unwrap_or_default(),
        cluster: config.cluster.name.clone(),
    })
}

fn sftp_settings(config: &Config, node: &Node) -> Result<SftpSettings, ArchiveError> {
    let user = node.ssh_user.clone().or_else(|| std::env::var("USER").ok());
    Ok(SftpSettings {
        host: host(node)?,
        port: node.ssh_port.unwrap_or(22),
        user: user.ok_or_else(|| ArchiveError::Refused {
            reason: format!("no user is known for sftp to node '{}'", node.name),
            hint: format!("Set node.{}.ssh_user.", node.name),
        })?,
        key: node.ssh_key.clone(),
        known_hosts: node.ssh_known_hosts.clone(),
        connect_timeout: config.ssh.connect_timeout,
        deadline: config.ssh.deadline,
        dead_after: config.ssh.dead_after,
    })
}

fn host(node: &Node) -> Result<String, ArchiveError> {
    node.host.clone().ok_or_else(|| ArchiveError::Refused {
        reason: format!("node '{}' has no host", node.name),
        hint: format!("Set node.{}.host.", node.name),
    })
}
