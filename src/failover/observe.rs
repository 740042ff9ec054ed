//! Finds out what can be found out, everything at the same time, each question with a deadline of its own.
//!
//! The own data directory comes first, since what the others hold is asked from the end of the own WAL on. A second
//! look asks again what may have changed and keeps, with its age, what costs much and cannot have.

mod archives;
pub mod contact;
mod everywhere;
pub mod peer;
mod tail;
pub mod view;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chrono::Local;

use super::observation::{Fact, Fenced, Holder, Observation, Other, View};
use crate::archive::places::{Site, Sites};
use crate::cluster::standby::configuration::{Set, configuration_set};
use crate::config::{Config, Node, NodeKind};
use crate::error::Failure;

pub use everywhere::look_everywhere;
pub use tail::{Tail, end_of_wal};

/// Looks at the cluster from this node.
pub struct Observer {
    config: Arc<Config>,
    /// The archives, with waits that fit a failover.
    sites: Sites,
    peers: peer::Way,
}

impl Observer {
    /// An observer with this configuration, which other nodes read from that file.
    pub fn new(config: &Arc<Config>, shared_file: &std::path::Path) -> Observer {
        let mut hurried = Config::clone(config);
        hurried.ssh.connect_timeout = hurried.ssh.connect_timeout.min(hurried.failover.contact);
        let hurried = Arc::new(hurried);
        let sites = Sites::new(&hurried);
        Observer { config: hurried, sites, peers: peer::Way::new(shared_file) }
    }

    /// The archives as they are looked at; they stay open between two looks.
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// How other nodes are asked.
    pub fn peers(&self) -> &peer::Way {
        &self.peers
    }

    /// Looks at everything.
    pub fn look(&self, fenced: &[Fenced]) -> Observation {
        let own = self.own();
        let others = self.database_nodes();
        let begun = Instant::now();
        let (others, archives) = thread::scope(|scope| {
            let asked: Vec<_> = others.iter().map(|node| scope.spawn(|| self.other(node))).collect();
            let archives: Vec<_> = self.holders().map(|site| scope.spawn(|| self.holder(site, &own))).collect();
            let others: Vec<Other> = asked.into_iter().map(join).collect();
            (others, archives.into_iter().map(join).collect::<Vec<Holder>>())
        });
        let own = aged(own, begun);
        self.put_together(own, others, archives, fenced)
    }

    /// Looks again at what may have changed since: at this node, the archives, and whether the other servers answer.
    /// What their machines said of the files of a server that was stopped still holds.
    pub fn look_again(&self, before: &Observation, since: Duration, fenced: &[Fenced]) -> Observation {
        let before = before.clone().aged(since);
        let own = self.own();
        let nodes = self.database_nodes();
        let begun = Instant::now();
        let again = |node: &Node| match before.other(&node.name) {
            Some(known) => Other { contact: contact::contact(&self.config, node), ..known.clone() },
            None => self.other(node),
        };
        let again = &again;
        let (others, archives) = thread::scope(|scope| {
            let asked: Vec<_> = nodes.iter().map(|node| scope.spawn(move || again(node))).collect();
            let archives: Vec<_> = self.holders().map(|site| scope.spawn(|| self.holder(site, &own))).collect();
            let others: Vec<Other> = asked.into_iter().map(join).collect();
            (others, archives.into_iter().map(join).collect::<Vec<Holder>>())
        });
        self.put_together(aged(own, begun), others, archives, fenced)
    }

    fn put_together(
        &self,
        own: Fact<View>,
        mut others: Vec<Other>,
        mut archives: Vec<Holder>,
        fenced: &[Fenced],
    ) -> Observation {
        let follows = own.is().and_then(|own| own.follows.clone());
        for other in &mut others {
            other.upstream = follows.as_ref() == Some(&other.name);
            let written = archives.iter().filter_map(|holder| holder.holds.is()).flat_map(|held| &held.handovers);
            let ours = own.is().map(|own| (own.system, own.history.timeline));
            let fits =
                |it: &&super::observation::Handover| it.node == other.name && Some((it.system, it.timeline)) == ours;
            other.handover = written.filter(fits).max_by_key(|it| it.end).cloned();
        }
        archives.extend(archives::queue(&self.config, &own));
        Observation {
            cluster: self.config.cluster.name.clone(),
            node: self.config.local.node.clone(),
            kind: self.config.own().kind,
            at: Local::now().to_rfc3339(),
            own,
            others,
            archives,
            fenced: fenced.to_vec(),
            missing: self.missing(),
        }
    }

    fn own(&self) -> Fact<View> {
        Fact::new("this node", view::look(&self.config, self.config.own()))
    }

    fn other(&self, node: &Node) -> Other {
        thread::scope(|scope| {
            let contact = scope.spawn(|| contact::contact(&self.config, node));
            let view = self.peers.view(&self.config, node);
            let (name, kind) = (node.name.clone(), node.kind);
            Other { name, kind, upstream: false, contact: join(contact), view, handover: None }
        })
    }

    fn holder(&self, site: &Arc<Site>, own: &Fact<View>) -> Holder {
        let source = if site.own { "its folder" } else { "its archive" };
        let told = match own.is() {
            Some(own) => archives::holdings(&self.config, site, own),
            None => Err("this node does not know where its own WAL ends".to_owned()),
        };
        if told.is_err() {
            site.close();
        }
        Holder { name: site.name().to_owned(), own: site.own, holds: Fact::new(source, told) }
    }

    fn holders(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.all()
    }

    fn database_nodes(&self) -> Vec<&Node> {
        let others = self.config.nodes.iter().filter(|node| node.name != self.config.local.node);
        let database =
            |node: &&Node| node.kind != NodeKind::Witness && (node.conninfo.is_some() || node.pgdata.is_some());
        others.filter(database).collect()
    }

    /// What this node lacks of what a primary needs.
    fn missing(&self) -> Vec<String> {
        let program = self.config.failover.action.first();
        let absent = program.filter(|program| program.starts_with('/') && !std::path::Path::new(program).is_file());
        let action = absent.map(|program| format!("failover.action names '{program}', which is no file"));
        let set = configuration_set(&self.config, Set::Failover).err().map(|error| Failure::from(error).message);
        action.into_iter().chain(set).collect()
    }
}

fn aged(mut fact: Fact<View>, since: Instant) -> Fact<View> {
    fact.age_ms += u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    fact
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
