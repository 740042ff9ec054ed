//! Whom a standby followed before: the slot that it leaves behind there would keep WAL for ever.

use std::collections::BTreeMap;

use crate::cluster::contact;
use crate::config::Config;
use crate::postgres::conninfo::Conninfo;

/// A slot that is left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// The node it is on; none where the configuration knows no such server.
    pub node: Option<String>,
    /// Its name.
    pub slot: String,
}

/// The slot that these settings use, and where it is; none where they use none, or came with a copy of another node's
/// data: that slot is the other node's.
pub fn slot(config: &Config, settings: &BTreeMap<String, String>) -> Option<Former> {
    let slot = settings.get("primary_slot_name").filter(|slot| !slot.is_empty())?.clone();
    let conninfo = Conninfo::parse(settings.get("primary_conninfo")?).ok();
    if conninfo.as_ref().and_then(|it| it.get("application_name")).is_some_and(|name| name != config.local.node) {
        return None;
    }
    let way = conninfo.as_ref().map(server);
    let leads_there = |name: &&str| {
        let node = config.node(name).and_then(|node| contact::conninfo(config, node).ok());
        node.is_some_and(|node| Some(server(&node)) == way)
    };
    let others = config.nodes.iter().map(|node| node.name.as_str()).filter(|name| *name != config.local.node);
    Some(Former { node: others.into_iter().find(leads_there).map(str::to_owned), slot })
}

/// What names a server in a connection string.
fn server(conninfo: &Conninfo) -> [Option<String>; 4] {
    let port = conninfo.get("port").unwrap_or("5432").to_owned();
    let [service, hostaddr, host] = ["service", "hostaddr", "host"].map(|key| conninfo.get(key).map(str::to_owned));
    [service, hostaddr, host, Some(port)]
}
