//! Looks at every node once, all at the same time, each within the same deadline: what a command shows.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::local;
use super::observation::Look;
use super::probe::Probe;
use super::tide::Tide;
use super::view::{View, Watched};
use crate::config::{Config, Node};

/// How long the connection of a command may take longer than one look: it is closed by us at the latest.
const PURPOSE: &str = "cluster-monitor";

/// What was gathered.
pub struct Gathered {
    /// Every node.
    pub watched: Vec<Watched>,
    /// When.
    pub at: SystemTime,
}

/// Looks at every node, and at this node's own files.
pub fn gather(config: &Arc<Config>) -> Gathered {
    let patience = config.monitor.deadline;
    let at = SystemTime::now();
    let (looks, own) = thread::scope(|scope| {
        let looks: Vec<_> = config.nodes.iter().map(|node| scope.spawn(move || look(config, node, patience))).collect();
        let own = local::report_within(config, patience);
        (looks.into_iter().map(join).collect::<Vec<_>>(), own)
    });
    let watch = |(node, (look, registry)): (&Node, (Look, Option<super::registry::Registry>))| Watched {
        node: node.clone(),
        look,
        registry,
        own_report: own.clone().filter(|_| node.name == config.local.node),
    };
    Gathered { watched: config.nodes.iter().zip(looks).map(watch).collect(), at }
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn look(config: &Config, node: &Node, patience: Duration) -> (Look, Option<super::registry::Registry>) {
    let begun = Instant::now();
    let mut probe = Probe::new(config, node, patience, PURPOSE);
    let (sight, extra) = probe.look(true);
    (Look { sight, at: SystemTime::now(), took: begun.elapsed(), unseen_for: Duration::ZERO }, extra.registry)
}

impl Gathered {
    /// The picture. `tide` is what anybody remembers of the primary's positions.
    pub fn view(&self, config: &Config, tide: &Tide) -> View {
        View::of(&config.cluster.name, &config.local.node, self.at, &self.watched, tide)
    }

    /// The node of that name.
    pub fn watched(&self, name: &str) -> Option<&Watched> {
        self.watched.iter().find(|one| one.node.name == name)
    }
}
