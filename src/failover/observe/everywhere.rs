//! What every database node sees of the cluster: this one looks, the others are asked over ssh to do the same with
//! their own program, all at the same time. A node that cannot be asked is unknown, whatever its server says.

use std::sync::Arc;
use std::thread;

use super::{Observer, join, peer};
use crate::config::{Config, Node, NodeKind};
use crate::error::{Class, Failure};
use crate::failover::explain::Viewpoint;
use crate::failover::observation::{Fact, Observation};
use crate::system::clock::Deadline;

/// The view from every node of the configuration, in its order.
pub fn look_everywhere(config: &Arc<Config>, observer: &Observer) -> Vec<Viewpoint> {
    thread::scope(|scope| {
        let asked: Vec<_> = config.nodes.iter().map(|node| scope.spawn(|| view_from(config, node, observer))).collect();
        asked.into_iter().map(join).collect()
    })
}

fn view_from(config: &Arc<Config>, node: &Node, observer: &Observer) -> Viewpoint {
    let has_server = node.kind != NodeKind::Witness && (node.conninfo.is_some() || node.pgdata.is_some());
    let seen = match has_server {
        false => Fact::new("the configuration", Err("it holds no data".to_owned())),
        true if node.name == config.local.node => Fact::new("this node", Ok(observer.look(&[]))),
        true => Fact::new("its machine (ssh)", ask(config, node, observer).map_err(|failure| failure.message)),
    };
    Viewpoint { node: node.name.clone(), kind: node.kind, seen }
}

fn ask(config: &Config, node: &Node, observer: &Observer) -> Result<Observation, Failure> {
    // There it waits for its own answers, inside of our wait.
    let once = config.ssh.connect_timeout + config.failover.contact * 2;
    let words = ["--look", &node.name];
    let outcome = observer.peers().run(config, node, "trigger-failover", &words, Deadline::after(once * 3))?;
    let answer = peer::answer(&outcome).ok_or_else(|| peer::no_answer(node, &outcome))?;
    if !outcome.status.is_success() {
        return Err(Failure::new(Class::Remote, format!("{}: {}", node.name, outcome.complaint())));
    }
    let seen = serde_json::from_slice(answer);
    seen.map_err(|error| Failure::new(Class::Remote, format!("{} answers nonsense: {error}", node.name)))
}
