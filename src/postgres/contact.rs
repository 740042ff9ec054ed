//! How a node's server is reached: from its own machine as the configuration says, from another one over its host.
//!
//! A `conninfo` that names no host means the server beside it, through its socket. On another machine the same words
//! would lead to the wrong server, so there the node's own host is put in.

use crate::config::{Config, Node};
use crate::error::{Class, Explain};
use crate::postgres::conninfo::{Conninfo, ConninfoError};

/// Why a server cannot be reached by the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ContactError {
    /// Nobody said how.
    #[error("the configuration does not say how the server of '{node}' is reached: conninfo is not set")]
    NoConninfo { node: String },
    /// It names no host, and the node has none.
    #[error(
        "the configuration does not say where the server of '{node}' is: neither its conninfo nor the node names a host"
    )]
    NoHost { node: String },
    /// The string is wrong.
    #[error("the conninfo of node '{node}' is wrong")]
    Conninfo { node: String, source: ConninfoError },
}

impl Explain for ContactError {
    fn class(&self) -> Class {
        Class::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            ContactError::NoConninfo { node } => Some(format!("Set node.{node}.conninfo.")),
            ContactError::NoHost { node } => Some(format!("Set node.{node}.host.")),
            ContactError::Conninfo { source, .. } => source.hint(),
        }
    }
}

/// How this machine connects to the server of a node.
pub fn conninfo(config: &Config, node: &Node) -> Result<Conninfo, ContactError> {
    let name = || node.name.clone();
    let text = node.conninfo.as_ref().ok_or_else(|| ContactError::NoConninfo { node: name() })?;
    let wrong = |source| ContactError::Conninfo { node: name(), source };
    let mut conninfo = Conninfo::parse(text).map_err(wrong)?;
    let placed = ["host", "hostaddr", "service"].iter().any(|key| conninfo.get(key).is_some());
    if node.name != config.local.node && !placed {
        let host = node.host.clone().ok_or_else(|| ContactError::NoHost { node: name() })?;
        conninfo.set("host", host).map_err(wrong)?;
    }
    Ok(conninfo)
}

/// The same as text; none where the node has no server, or nobody can say where it is. What needs no host put in stays
/// as it was written.
pub fn text(config: &Config, node: &str) -> Option<String> {
    let node = config.node(node)?;
    let written = node.conninfo.clone()?;
    let conninfo = conninfo(config, node).ok()?;
    let as_it_is = Conninfo::parse(&written).is_ok_and(|parsed| parsed.get("host") == conninfo.get("host"));
    Some(if as_it_is { written } else { conninfo.to_string() })
}

/// How a standby on this machine streams from a node: what an old libpq knows as well, and never a password.
pub fn primary_conninfo(config: &Config, node: &Node, user: Option<&str>) -> Result<Conninfo, ContactError> {
    let wrong = |source| ContactError::Conninfo { node: node.name.clone(), source };
    let mut conninfo = conninfo(config, node)?;
    for keyword in ["password", "target_session_attrs", "load_balance_hosts", "fallback_application_name"] {
        conninfo.remove(keyword);
    }
    conninfo.set("application_name", &config.local.node).map_err(wrong)?;
    if let Some(user) = user {
        conninfo.set("user", user).map_err(wrong)?;
    }
    Ok(conninfo)
}
