//! Who reaches whom, with a database connection and over ssh: as each node itself finds out.
//!
//! This node looks at all others; the others are asked over ssh to do the same with their own program and the same
//! configuration. What a node that cannot be asked reaches stays unknown.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::observation::Sight;
use super::probe::Probe;
use crate::cluster::remote::Remote;
use crate::config::{Config, Node, Transport};
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::process::Ended;

/// The line that tells our answer from what a login shell may print before it.
const MARK: &str = "pgwarm-matrix 1";

/// $1: the programs' directory or nothing; $2: the shared configuration file.
const SCRIPT: &str = r#"PATH=${1:+$1:}$PATH
echo "pgwarm-matrix 1"
command -v cluster-monitor >/dev/null 2>&1 || { echo "pgwarm is not installed there" >&2; exit 127; }
exec cluster-monitor --config "$2" matrix --here --json </dev/null
"#;

/// How far one node reaches another on one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "answer", content = "why")]
pub enum Reach {
    /// It does.
    Yes,
    /// It does not.
    No(String),
    /// Nobody can say.
    Unknown(String),
    /// There is nothing to reach on this way.
    Nothing,
}

/// One node's way to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    pub to: String,
    pub database: Reach,
    pub ssh: Reach,
}

/// What one node reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub from: String,
    pub ways: Vec<Way>,
}

/// What this node reaches.
pub fn here(config: &Arc<Config>) -> Row {
    let ways = thread::scope(|scope| {
        let looks: Vec<_> = config.nodes.iter().map(|node| scope.spawn(move || way(config, node))).collect();
        looks.into_iter().map(join).collect()
    });
    Row { from: config.local.node.clone(), ways }
}

/// What every node reaches. `file` is the shared configuration, the same on every node.
pub fn all(config: &Arc<Config>, file: &Path) -> Vec<Row> {
    thread::scope(|scope| {
        let ask = |node| scope.spawn(move || row(config, node, file));
        let rows: Vec<_> = config.nodes.iter().map(ask).collect();
        rows.into_iter().map(join).collect()
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn row(config: &Arc<Config>, node: &Node, file: &Path) -> Row {
    if node.name == config.local.node {
        return here(config);
    }
    ask(config, node, file).unwrap_or_else(|why| {
        let unknown = |to: &Node| Way {
            to: to.name.clone(),
            database: Reach::Unknown(why.clone()),
            ssh: Reach::Unknown(why.clone()),
        };
        Row { from: node.name.clone(), ways: config.nodes.iter().map(unknown).collect() }
    })
}

fn ask(config: &Config, node: &Node, file: &Path) -> Result<Row, String> {
    if node.transport == Transport::Sftp {
        return Err("it offers sftp only".to_owned());
    }
    let words = |error: Failure| error.message;
    let remote = Remote::new(config, node).map_err(|error| words(error.into()))?;
    let programs = node.programs.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let file = file.display().to_string();
    // The far end waits for its own connections inside of ours.
    let deadline = Deadline::after(remote.patience() + config.ssh.connect_timeout + config.monitor.deadline);
    let outcome = remote.run(SCRIPT, &[&programs, &file], None, deadline).map_err(|error| words(error.into()))?;
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let Some((_, answer)) = text.split_once(MARK) else { return Err("it runs no shell for us".to_owned()) };
    match outcome.status {
        Ended::Exit(0) => serde_json::from_str(answer).map_err(|error| format!("its answer makes no sense: {error}")),
        _ => Err(outcome.complaint()),
    }
}

fn way(config: &Config, node: &Node) -> Way {
    thread::scope(|scope| {
        let database = scope.spawn(|| database(config, node, config.monitor.deadline));
        let ssh = ssh(config, node);
        Way { to: node.name.clone(), database: join(database), ssh }
    })
}

fn database(config: &Config, node: &Node, patience: Duration) -> Reach {
    match Probe::new(config, node, patience, "cluster-monitor matrix").look(false).0 {
        Sight::Seen(_) => Reach::Yes,
        Sight::NoServer => Reach::Nothing,
        Sight::Unseen { why, .. } => Reach::No(why),
    }
}

fn ssh(config: &Config, node: &Node) -> Reach {
    if node.name == config.local.node || node.host.is_none() {
        return Reach::Nothing;
    }
    if node.transport == Transport::Sftp {
        return Reach::Unknown("it offers sftp only".to_owned());
    }
    match crate::cluster::check::peer::ping(config, node) {
        Ok(()) => Reach::Yes,
        Err(error) => Reach::No(Failure::from(error).message),
    }
}
