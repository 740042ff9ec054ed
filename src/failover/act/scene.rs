//! What every step works with: the configuration, the archives, the own server, and whoever looks at the cluster.

use std::path::PathBuf;
use std::sync::Arc;

use super::Watcher;
use crate::archive::encode::Way;
use crate::archive::places::Sites;
use crate::archive::push::Pusher;
use crate::archive::spool::Spool;
use crate::config::{Config, Node};
use crate::error::{Class, Failure};
use crate::failover::observe::Observer;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::server::Server;
use crate::system::clock::Deadline;
use crate::system::lock::{Lock, Taken};

/// Everything that a step works with.
pub struct Scene<'a> {
    /// The configuration.
    pub config: &'a Arc<Config>,
    /// The archives, as WAL is shipped to them.
    pub sites: Arc<Sites>,
    /// What this node keeps.
    pub spool: Spool,
    /// The own server.
    pub server: Server,
    /// What looks at the cluster.
    pub observer: Observer,
    /// What is told of it.
    pub watcher: &'a dyn Watcher,
}

impl<'a> Scene<'a> {
    /// A scene with this configuration, which other nodes read from that file.
    pub fn new(
        config: &'a Arc<Config>,
        shared_file: &std::path::Path,
        watcher: &'a dyn Watcher,
    ) -> Result<Scene<'a>, Failure> {
        Ok(Scene {
            config,
            sites: Arc::new(Sites::new(config)),
            spool: Spool::new(&config.local.spool),
            server: Server::new(config, config.own())?,
            observer: Observer::new(config, shared_file),
            watcher,
        })
    }

    /// One run at a time changes the role of this node.
    pub fn lock(&self) -> Result<Lock, Failure> {
        self.spool.prepare()?;
        let path = self.spool.lock("failover");
        let wrong = |error| Failure::new(Class::Storage, format!("cannot lock '{}': {error}", path.display()));
        match Lock::try_take(&path).map_err(wrong)? {
            Taken::Held(lock) => Ok(lock),
            Taken::Busy { owner } => {
                Err(Failure::new(Class::Busy, format!("the role of this node is being changed by {owner}"))
                    .hinted("Wait until that run has ended."))
            }
        }
    }

    pub(in crate::failover) fn pgdata(&self) -> PathBuf {
        self.server.pgdata().to_owned()
    }

    /// How long replaying and promoting may take.
    pub(in crate::failover) fn deadline(&self) -> Deadline {
        Deadline::after(self.config.failover.deadline)
    }

    /// A session with the own server.
    pub(in crate::failover) fn connect(&self) -> Result<Connection, Failure> {
        let own = self.config.own();
        let conninfo = own.conninfo.as_ref().ok_or_else(|| {
            Failure::new(
                Class::Config,
                format!("the configuration does not say how the server of '{}' is reached", own.name),
            )
            .hinted(format!("Set node.{}.conninfo.", own.name))
        })?;
        Ok(connect(&Conninfo::parse(conninfo)?, self.config.failover.contact, "trigger-failover")?)
    }

    pub(in crate::failover) fn pusher(&self) -> Pusher {
        Pusher::new(self.config, &self.sites, Way::Read)
    }

    pub(in crate::failover) fn node(&self, name: &str) -> Result<&Node, Failure> {
        self.config.node(name).ok_or_else(|| Failure::new(Class::Bug, format!("there is no node '{name}'")))
    }
}
