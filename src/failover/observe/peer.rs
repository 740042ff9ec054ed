//! Asks another node over ssh what its own machine sees, and for bytes of its WAL.
//!
//! The far end runs our own program, which reads its own files: where WAL ends is told by the machine that holds it. A
//! node that cannot be asked so is unknown in this, whatever its server says.

use std::path::{Path, PathBuf};

use crate::cluster::remote::{Remote, RemoteError};
use crate::config::{Config, Node, Transport};
use crate::error::{Class, Failure};
use crate::failover::observation::{Fact, View};
use crate::system::clock::Deadline;
use crate::system::process::{Call, Outcome};
use crate::wal::SegmentName;

/// The line that tells our output from what a login shell may print before it.
const MARK: &str = "pgwarm-answer 1";

/// $1: the programs' directory or nothing; $2: the program; the rest: its words. What it prints follows the mark.
const RUN: &str = r#"PATH=${1:+$1:}$PATH; program=$2; shift 2; echo "pgwarm-answer 1"; exec "$program" "$@""#;

/// $1: a segment in a data directory. The size goes before, so that a file cut short is noticed.
const SEND: &str = r#"echo "pgwarm-answer 1"; [ -f "$1" ] || { echo absent; exit 0; }
echo present; exec cat -- "$1""#;

/// How other nodes are asked.
pub struct Way {
    /// The shared configuration file, at the same place on every node.
    shared_file: PathBuf,
}

impl Way {
    /// Nodes whose shared configuration lies there.
    pub fn new(shared_file: &Path) -> Way {
        Way { shared_file: shared_file.to_owned() }
    }

    /// What a node's own machine sees.
    pub fn view(&self, config: &Config, node: &Node) -> Fact<View> {
        Fact::new("its machine (ssh)", self.ask(config, node).map_err(|failure| failure.message))
    }

    fn ask(&self, config: &Config, node: &Node) -> Result<View, Failure> {
        let patience = config.ssh.connect_timeout + config.failover.contact * 2;
        let outcome =
            self.run(config, node, "trigger-failover", &["--observe", &node.name], Deadline::after(patience))?;
        let answer = answer(&outcome).ok_or_else(|| no_answer(node, &outcome))?;
        if !outcome.status.is_success() {
            return Err(Failure::new(Class::Remote, format!("{}: {}", node.name, outcome.complaint())));
        }
        let view = serde_json::from_slice(answer);
        view.map_err(|error| Failure::new(Class::Remote, format!("{} answers nonsense: {error}", node.name)))
    }

    /// Runs one of our programs on a node, with the configuration that lies there.
    pub fn run(
        &self,
        config: &Config,
        node: &Node,
        program: &str,
        words: &[&str],
        deadline: Deadline,
    ) -> Result<Outcome, Failure> {
        self.run_with(config, node, program, words, |call| call, deadline)
    }

    /// The same, with the call changed before it is made.
    pub fn run_with(
        &self,
        config: &Config,
        node: &Node,
        program: &str,
        words: &[&str],
        change: impl FnOnce(Call) -> Call,
        deadline: Deadline,
    ) -> Result<Outcome, Failure> {
        let programs = node.programs.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let shared = self.shared_file.display().to_string();
        let mut all = vec![programs.as_str(), program, "--config", &shared];
        all.extend(words);
        Ok(remote(config, node)?.run_with(RUN, &all, change, deadline)?)
    }
}

/// The way to a node, where it has a shell for us.
pub fn remote(config: &Config, node: &Node) -> Result<Remote, RemoteError> {
    if node.transport == Transport::Sftp {
        let reason = "it offers sftp only".to_owned();
        return Err(RemoteError::NoWay { node: node.name.clone(), reason });
    }
    Remote::new(config, node)
}

/// What a program printed, behind what a login shell did.
pub fn answer(outcome: &Outcome) -> Option<&[u8]> {
    let mark = format!("{MARK}\n");
    let at = outcome.stdout.windows(mark.len()).position(|window| window == mark.as_bytes())?;
    Some(&outcome.stdout[at + mark.len()..])
}

/// The error for an account that runs no shell for us.
pub fn no_answer(node: &Node, outcome: &Outcome) -> Failure {
    let why =
        format!("the account on {} runs no shell for us ({}: {})", node.name, outcome.status, outcome.complaint());
    Failure::new(Class::Remote, why)
}

/// A segment of a node's `pg_wal`, as it lies there; none where it does not.
pub fn segment(
    config: &Config,
    node: &Node,
    name: SegmentName,
    size: u64,
    deadline: Deadline,
) -> Result<Option<Vec<u8>>, Failure> {
    let pgdata = node.pgdata.as_ref().ok_or_else(|| {
        Failure::new(Class::Config, format!("the configuration does not say where the data of '{}' are", node.name))
    })?;
    let path = pgdata.join("pg_wal").join(name.to_string()).display().to_string();
    let room = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(64 << 10);
    let call = |call: Call| call.limit(room);
    let outcome = remote(config, node)?.run_with(SEND, &[&path], call, deadline)?;
    let answer = answer(&outcome).ok_or_else(|| no_answer(node, &outcome))?;
    if let Some(content) = answer.strip_prefix(b"present\n").filter(|_| outcome.status.is_success()) {
        return Ok(Some(content.to_vec()));
    }
    match answer {
        b"absent\n" => Ok(None),
        _ => Err(Failure::new(Class::Remote, format!("'{path}' on {}: {}", node.name, outcome.complaint()))),
    }
}
