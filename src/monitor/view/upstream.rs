//! Who follows whom: matches what a standby says of its sender with what the others say of their receivers. Pure.
//!
//! A standby names its sender by host and port, in its own words. Where these are those of a node's connection string,
//! that node it is. Where names and addresses are written differently on both ends, the node that has a receiver of the
//! standby's name tells. A standby that does not answer is found by that name alone.

use std::path::Path;

use crate::config::Node;
use crate::monitor::observation::{Observation, Receiver, Sender};
use crate::postgres::conninfo::Conninfo;

use super::Watched;

/// The port of a connection string that names none.
const DEFAULT_PORT: u16 = 5432;

/// The node that a standby follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Which, by its place among the nodes.
    pub upstream: usize,
    /// Which row of its `pg_stat_replication`; none: it has none for the standby, or does not answer.
    pub row: Option<usize>,
}

impl Followed {
    /// What the upstream says of the standby.
    pub fn sender<'a>(&self, all: &'a [Watched]) -> Option<&'a Sender> {
        all[self.upstream].member()?.senders.get(self.row?)
    }
}

/// For every node the one it follows.
pub fn of_all(watched: &[Watched]) -> Vec<Option<Followed>> {
    (0..watched.len()).map(|at| of(watched, at)).collect()
}

fn of(watched: &[Watched], standby: usize) -> Option<Followed> {
    let one = &watched[standby];
    let seen = one.member();
    if seen.is_some_and(|seen| !seen.in_recovery) {
        return None;
    }
    let receiver = seen.and_then(|seen| seen.receiver.as_ref());
    // A standby that answers and receives nothing follows nobody, whatever a sender has not noticed yet.
    if seen.is_some() && receiver.is_none() {
        return None;
    }
    let names = names(one, receiver);
    let others = (0..watched.len()).filter(|at| *at != standby);
    let row = |at: usize| row(watched[at].member()?, &names);
    if let Some(receiver) = receiver {
        let named = others.clone().find(|at| is_at(&watched[*at].node, receiver));
        if let Some(upstream) = named {
            return Some(Followed { upstream, row: row(upstream) });
        }
    }
    let upstream = others.into_iter().find(|at| row(*at).is_some())?;
    Some(Followed { upstream, row: row(upstream) })
}

/// The names under which a standby may appear at its sender: what its receiver says, else the node's own.
fn names(one: &Watched, receiver: Option<&Receiver>) -> Vec<String> {
    let said = receiver.and_then(|receiver| receiver.conninfo.as_deref()).and_then(|text| Conninfo::parse(text).ok());
    let said = said.and_then(|said| {
        said.get("application_name").or_else(|| said.get("fallback_application_name")).map(str::to_owned)
    });
    // Without a name of its own every receiver is called so, and that tells nothing.
    let said = said.filter(|name| name != "walreceiver");
    said.into_iter().chain([one.node.name.clone()]).collect()
}

/// The row of a sender by one of these names, if exactly one has it.
fn row(seen: &Observation, names: &[String]) -> Option<usize> {
    names.iter().find_map(|name| {
        let mut rows = seen.senders.iter().enumerate().filter(|(_, sender)| sender.name.as_ref() == Some(name));
        let (at, _) = rows.next()?;
        rows.next().is_none().then_some(at)
    })
}

/// True where a node's connection string names the host and port that a receiver is connected to.
fn is_at(node: &Node, receiver: &Receiver) -> bool {
    let (Some(conninfo), Some(host)) = (&node.conninfo, &receiver.host) else { return false };
    let Ok(conninfo) = Conninfo::parse(conninfo) else { return false };
    let port = receiver.port.unwrap_or(DEFAULT_PORT);
    let list = |name: &str| conninfo.get(name).map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>());
    let ports = list("port").unwrap_or_default();
    let port_at = |at: usize| {
        let text = ports.get(at).or(ports.first());
        text.and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_PORT)
    };
    // Without a host the string means the socket there, and who streams from elsewhere uses the node's own.
    let own = || if conninfo.get("host").or(conninfo.get("hostaddr")).is_none() { node.host.clone() } else { None };
    let hosts = [list("host"), list("hostaddr"), own().map(|host| vec![host])].into_iter().flatten();
    hosts.flat_map(|hosts| hosts.into_iter().enumerate()).any(|(at, one)| same_host(&one, host) && port_at(at) == port)
}

fn same_host(a: &str, b: &str) -> bool {
    match a.starts_with('/') {
        true => Path::new(a) == Path::new(b),
        false => a.eq_ignore_ascii_case(b),
    }
}
