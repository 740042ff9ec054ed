//! The names in `pg_wal` of another node, over ssh: where a segment may still be that an archive lacks.

use crate::config::{Config, Node};
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::process::Ended;

use super::remote::Remote;

/// Only names that begin like a segment, so that `archive_status` and files of others are left out. The first line
/// proves that the shell ran the script: a key that is confined to a command of its own answers something else. The
/// last one proves that the listing is whole.
const SCRIPT: &str = r#"echo pgwarm-listing && cd -- "$1" &&
    for name in [0-9A-F]*; do echo "$name"; done && echo pgwarm-listed"#;

/// What the script says first.
const PROOF: &str = "pgwarm-listing";

/// What it says last.
const END: &str = "pgwarm-listed";

/// How much it may say, in bytes: names of half a million segments.
const LIST_MAX: usize = 16 << 20;

/// Lists `pg_wal` of a node, or says why that cannot be done.
pub fn pg_wal(config: &Config, node: &Node) -> Result<Vec<String>, String> {
    let pgdata = node.pgdata.as_ref().ok_or("it has no pgdata in the configuration")?;
    let remote = Remote::new(config, node).map_err(words)?;
    let folder = pgdata.join("pg_wal").display().to_string();
    let deadline = Deadline::after(remote.patience());
    let outcome = remote.run_with(SCRIPT, &[&folder], |call| call.limit(LIST_MAX), deadline).map_err(words)?;
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    match outcome.status {
        _ if !text.starts_with(PROOF) => Err("its key runs no commands but one of its own".to_owned()),
        Ended::Exit(0) => listed(&text),
        _ => Err(outcome.complaint()),
    }
}

/// The names, where all of them came.
fn listed(text: &str) -> Result<Vec<String>, String> {
    let names = text.strip_prefix(PROOF).and_then(|rest| rest.trim_end().strip_suffix(END));
    let names = names.ok_or("the listing of its pg_wal breaks off")?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

fn words(error: impl Into<Failure>) -> String {
    error.into().message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_breaks_off_is_none() {
        let whole = "pgwarm-listing\n000000010000000000000001\n00000002.history\npgwarm-listed\n";
        let names = listed(whole).expect("because all of it came");
        assert_eq!(names, ["000000010000000000000001", "00000002.history"]);
        assert_eq!(listed("pgwarm-listing\npgwarm-listed\n"), Ok(Vec::new()));
        assert!(listed(&whole[..whole.len() - 20]).is_err());
    }
}
