//! Makes archives: the folder of the cluster and its identity file, here or on another node, at once or later.
//!
//! Making one that is there already is no error where the identity is the same: a new place is added by running it
//! again.

use std::fs;
use std::path::Path;

use super::ArchiveError;
use super::identity::{self, Identity};
use super::places;
use super::spool::Spool;
use crate::config::{Config, Node, Transport};
use crate::postgres::control::ControlFile;
use crate::store::local::LocalStore;
use crate::store::ssh::SshStore;
use crate::store::{Encoding, Payload, Store};
use crate::system::durable;

/// Makes the archives of the named nodes; without a name, those of every node that holds one. Says what was done.
pub fn init<'n>(
    config: &Config,
    names: impl Iterator<Item = &'n str>,
    dry_run: bool,
) -> Result<Vec<String>, ArchiveError> {
    let identity = identity_here(config)?;
    let names: Vec<&str> = names.collect();
    let nodes: Vec<&Node> = if names.is_empty() {
        config.nodes.iter().filter(|node| node.archive.is_some()).collect()
    } else {
        names.iter().map(|name| known(config, name)).collect::<Result<_, _>>()?
    };
    let mut done = Vec::new();
    for node in nodes {
        let place = places::place(config, node);
        if dry_run {
            done.push(format!("would make the {place} for system {}", identity.system_identifier));
            continue;
        }
        make(config, node, &identity)?;
        let found = Identity::read(&*places::open_store(config, node)?, &config.cluster.name)?;
        found.admit(&place, identity.system_identifier, identity.segment_size)?;
        done.push(format!("the {place} is ready for system {}", identity.system_identifier));
    }
    Ok(done)
}

fn known<'a>(config: &'a Config, name: &str) -> Result<&'a Node, ArchiveError> {
    config.node(name).filter(|node| node.archive.is_some()).ok_or_else(|| ArchiveError::Refused {
        reason: format!("there is no node '{name}' that holds an archive"),
        hint: format!("Set node.{name}.archive, or name another node."),
    })
}

/// The identity comes from the server of this node, or where it has none, from an archive that exists.
fn identity_here(config: &Config) -> Result<Identity, ArchiveError> {
    let own = config.own().pgdata.as_deref();
    // One that cannot be looked at is read for the error.
    let is_there = |pgdata: &&Path| pgdata.join("global/pg_control").try_exists().unwrap_or(true);
    if let Some(pgdata) = own.filter(is_there) {
        let control = ControlFile::read(pgdata).map_err(|error| ArchiveError::Elsewhere(error.into()))?;
        return Ok(Identity::new(&config.cluster.name, control.system_id, control.segment_size));
    }
    for node in config.nodes.iter().filter(|node| node.archive.is_some()) {
        let found = places::open_store(config, node).and_then(|store| Identity::read(&*store, &config.cluster.name));
        if let Ok(identity) = found {
            return Ok(identity);
        }
    }
    Err(ArchiveError::Refused {
        reason: match own {
            Some(pgdata) => {
                format!("'{}' holds no server to take the identity from, and no archive can be read", pgdata.display())
            }
            None => "this node has no server to take the identity from, and no archive can be read".to_owned(),
        },
        hint: format!("Check node.{}.pgdata, or run it on a node with a server.", config.local.node),
    })
}

fn make(config: &Config, node: &Node, identity: &Identity) -> Result<(), ArchiveError> {
    if node.name == config.local.node {
        return make_here(config, node, identity);
    }
    match node.transport {
        Transport::Ssh => {
            let settings = places::ssh_settings(config, node)?;
            let content = identity.to_json();
            // One that is there already is compared by the caller, whoever wrote it.
            SshStore::init(&settings, places::place(config, node), &identity::path(), content.as_bytes())?;
            Ok(())
        }
        Transport::Sftp => Err(ArchiveError::Refused {
            reason: format!("an archive cannot be made over sftp on node '{}'", node.name),
            hint: "Make its folder there by hand and copy identity.json from another archive of this cluster."
                .to_owned(),
        }),
    }
}

fn make_here(config: &Config, node: &Node, identity: &Identity) -> Result<(), ArchiveError> {
    let root = node.archive.clone().unwrap_or_default().join(&config.cluster.name);
    durable::create_directory_durable(&root).map_err(ArchiveError::io("create", &root))?;
    let store = LocalStore::open(&root, places::place(config, node))?;
    let spool = Spool::new(&config.local.spool);
    spool.make(&spool.outgoing())?;
    let draft = spool.outgoing().join(format!("{}.{}", identity::FILE, std::process::id()));
    fs::write(&draft, identity.to_json()).map_err(ArchiveError::io("write", &draft))?;
    let payload = Payload::of_file(&draft, Encoding::None).map_err(ArchiveError::io("read", &draft))?;
    // One that is there already is compared by the caller, whoever wrote it.
    let published = store.publish(&identity::path(), &payload, &[]).map(|_| ()).map_err(ArchiveError::from);
    fs::remove_file(&draft).map_err(ArchiveError::io("remove", &draft))?;
    published
}
