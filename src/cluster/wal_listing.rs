//! The names in `pg_wal` of another node, over ssh: where a segment may still be that an archive lacks.

use crate::config::{Config, Node};
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::process::Ended;

use super::remote::Remote;

/// Only names that begin like a segment, so that `archive_status` and files of others are left out. The first line
/// proves that the shell ran the script: a key that is confined to a command of its own answers something else.
const SCRIPT: &str = r#"echo pgwarm-listing && cd -- "$1" && for name in [0-9A-F]*; do echo "$name"; done"#;

/// What the script says first.
const PROOF: &str = "pgwarm-listing";

/// Lists `pg_wal` of a node, or says why that cannot be done.
pub fn pg_wal(config: &Config, node: &Node) -> Result<Vec<String>, String> {
    let pgdata = node.pgdata.as_ref().ok_or("it has no pgdata in the configuration")?;
    let remote = Remote::new(config, node).map_err(words)?;
    let folder = pgdata.join("pg_wal").display().to_string();
    let outcome = remote.run(SCRIPT, &[&folder], None, Deadline::after(remote.patience())).map_err(words)?;
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let mut lines = text.lines();
    if lines.next() != Some(PROOF) {
        return Err("its key runs no commands but one of its own".to_owned());
    }
    match outcome.status {
        Ended::Exit(0) => Ok(lines.map(str::to_owned).collect()),
        _ => Err(outcome.complaint()),
    }
}

fn words(error: impl Into<Failure>) -> String {
    error.into().message
}
