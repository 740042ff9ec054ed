//! Gathers all facts: the own node and every other one at the same time, each with deadlines of its own.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::facts::{Facts, Peer};
use super::{local, peer, server};
use crate::config::{Config, Node};

/// How long a server may take to answer.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// Looks at these nodes; `files` are the configuration files, the shared one first.
pub fn gather(config: &Config, nodes: &[&Node], files: &[PathBuf]) -> Facts {
    let own = nodes.iter().find(|node| node.name == config.local.node);
    let others: Vec<_> = nodes.iter().filter(|node| node.name != config.local.node).collect();
    let shared = files.first().cloned().unwrap_or_default();
    thread::scope(|scope| {
        let peers: Vec<_> = others.iter().map(|node| scope.spawn(|| look_at(config, node, shared.clone()))).collect();
        let server = own.map(|node| scope.spawn(|| server::gather(node, SERVER_PATIENCE)));
        let local = own.map(|_| local::gather(config, files));
        Facts {
            node: config.local.node.clone(),
            cluster: config.cluster.name.clone(),
            limits: config.check.clone(),
            local,
            server: server.and_then(join),
            peers: peers.into_iter().map(join).collect(),
        }
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn look_at(config: &Config, node: &Node, shared: PathBuf) -> Peer {
    thread::scope(|scope| {
        let role = scope.spawn(|| server::role_of(config, node, SERVER_PATIENCE));
        let probe = node.host.as_ref().map(|_| peer::probe(config, node, &shared));
        Peer { name: node.name.clone(), kind: node.kind, probe, has_archive: node.archive.is_some(), role: join(role) }
    })
}
