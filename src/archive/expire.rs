//! Removes WAL that nobody needs any more, from this node's own archive only.
//!
//! What may go is decided by a pure function over what every consumer said: the oldest need wins, and one consumer that
//! has not spoken keeps everything. The timeline part of a name is ignored, as in `pg_archivecleanup`: a position that
//! every consumer has passed is passed on every timeline. History files are never removed, nor is anything that is no
//! WAL file.

use std::io::Read;

use serde::Serialize;

use super::ArchiveError;
use super::consumers::{self, Record};
use super::layout;
use super::places::Archive;
use crate::config::{Config, Node};
use crate::store::{Encoding, EntryKind, StoreError, StorePath};
use crate::wal::{SegmentName, WalName};

/// The folder of the backups, in an archive.
const BACKUPS: &str = "backup";

/// One reason to keep WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Who needs it.
    pub who: String,
    /// The oldest segment needed; none where nobody could say, so that everything is kept.
    pub oldest: Option<SegmentName>,
    /// Why, for people.
    pub why: String,
}

/// What may be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Nothing, for these reasons.
    KeepAll(Vec<String>),
    /// What lies before this segment, on any timeline; and who set the limit.
    Before(SegmentName, String),
}

/// What was, or would be, removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Removed {
    /// The files.
    pub files: Vec<String>,
    /// Their stored size, in bytes.
    pub bytes: u64,
}

/// Decides what may be removed.
pub fn cut(needs: &[Need]) -> Cut {
    let silent: Vec<String> =
        needs.iter().filter(|need| need.oldest.is_none()).map(|need| format!("{}: {}", need.who, need.why)).collect();
    if !silent.is_empty() {
        return Cut::KeepAll(silent);
    }
    let oldest = needs.iter().filter_map(|need| need.oldest.map(|oldest| (oldest, need)));
    match oldest.min_by_key(|(oldest, _)| oldest.position()) {
        Some((oldest, _)) if oldest.is_zero() => Cut::KeepAll(vec!["no restart point is known yet".to_owned()]),
        Some((oldest, need)) => Cut::Before(oldest, format!("{} ({})", need.who, need.why)),
        None => Cut::KeepAll(vec!["nobody has said what is needed".to_owned()]),
    }
}

/// Gathers what every consumer of this node's archive needs: standbys, downstream places, backups.
pub fn needs(config: &Config, archive: &Archive) -> Result<Vec<Need>, ArchiveError> {
    let mut needs: Vec<Need> = consumers::all(archive)?.into_iter().map(need).collect();
    let own = config.own();
    let mut required: Vec<String> = consumers::of(config, own).iter().map(|node| node.name.clone()).collect();
    required.extend(downstream(config).iter().map(|node| format!("relay-{}", node.name)));
    for who in required {
        if !needs.iter().any(|need| need.who == who) {
            needs.push(Need { who, oldest: None, why: "has not said yet what it needs".to_owned() });
        }
    }
    needs.extend(backups(archive)?);
    Ok(needs)
}

fn need(record: Record) -> Need {
    let why = format!("{}, said at {}", record.what, record.at);
    Need { who: record.who, oldest: Some(record.oldest_needed), why }
}

fn downstream(config: &Config) -> Vec<&Node> {
    let mut nodes = config.places(&config.relay.to);
    nodes.retain(|node| node.name != config.local.node);
    nodes
}

/// What a backup needs is in its own description; one that cannot be read keeps everything.
fn backups(archive: &Archive) -> Result<Vec<Need>, ArchiveError> {
    #[derive(serde::Deserialize)]
    struct Description {
        start_segment: SegmentName,
    }
    let folder: StorePath = BACKUPS.parse().map_err(StoreError::from)?;
    let mut needs = Vec::new();
    for entry in archive.store.list(&folder)?.unwrap_or_default() {
        let who = format!("backup {}", entry.name);
        let path = folder.join(&entry.name).and_then(|label| label.join("backup.json")).map_err(StoreError::from)?;
        let mut text = String::new();
        let read = archive.store.open(&path)?.map(|file| file.take(1 << 20).read_to_string(&mut text));
        let described: Option<Description> = match &read {
            Some(Ok(_)) => serde_json::from_str(&text).ok(),
            _ => None,
        };
        let why = match (&read, &described) {
            (_, Some(_)) => "its first segment",
            (None, None) => "it is not finished",
            (Some(_), None) => "its description cannot be read",
        };
        needs.push(Need { who, oldest: described.map(|found| found.start_segment), why: why.to_owned() });
    }
    Ok(needs)
}

/// Removes, or with `dry_run` only names, what lies before the cut. At most `limit` files go in one pass.
pub fn remove_before(
    archive: &Archive,
    cut: SegmentName,
    limit: usize,
    dry_run: bool,
) -> Result<Removed, ArchiveError> {
    let mut removed = Removed::default();
    let wal: StorePath = layout::WAL.parse().map_err(StoreError::from)?;
    let mut folders = archive.store.list(&wal)?.unwrap_or_default();
    folders.retain(|entry| {
        entry.kind == EntryKind::Folder && log_of(&entry.name).is_some_and(|log| log <= cut.position().0)
    });
    folders.sort_by(|a, b| (log_of(&a.name), &a.name).cmp(&(log_of(&b.name), &b.name)));
    for folder in folders {
        let path = wal.join(&folder.name).map_err(StoreError::from)?;
        let mut entries = archive.store.list(&path)?.unwrap_or_default();
        // Oldest first, so that a pass that ends early leaves no gap behind it.
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let total = entries.len();
        let mut gone = 0;
        for entry in entries {
            if removed.files.len() >= limit {
                return Ok(removed);
            }
            if !is_before(&entry.name, cut) {
                continue;
            }
            if !dry_run {
                archive.store.remove(&path.join(&entry.name).map_err(StoreError::from)?)?;
            }
            gone += 1;
            removed.bytes += entry.size;
            removed.files.push(entry.name);
        }
        if gone == total && !dry_run && log_of(&folder.name).is_some_and(|log| log < cut.position().0) {
            archive.store.remove(&path)?;
        }
    }
    Ok(removed)
}

/// The log id in the name of a folder of segments.
fn log_of(folder: &str) -> Option<u32> {
    let plain = folder.len() == 16 && folder.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(&folder[8..], 16).ok()).flatten()
}

fn is_before(stored: &str, cut: SegmentName) -> bool {
    match Encoding::split(stored).0.parse() {
        Ok(WalName::Segment(segment) | WalName::Partial(segment)) => segment.position() < cut.position(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(text: &str) -> SegmentName {
        text.parse().expect("because it is well formed")
    }

    fn says(who: &str, oldest: &str) -> Need {
        Need { who: who.to_owned(), oldest: Some(segment(oldest)), why: "said".to_owned() }
    }

    #[test]
    fn the_oldest_need_wins_whatever_its_timeline() {
        let needs = [says("db2", "000000010000000000000009"), says("dr1", "000000020000000000000005")];
        let limit = "dr1 (said)".to_owned();
        assert_eq!(cut(&needs), Cut::Before(segment("000000020000000000000005"), limit));
    }

    #[test]
    fn one_silent_consumer_keeps_everything() {
        let silent = Need { who: "db3".to_owned(), oldest: None, why: "silent".to_owned() };
        let needs = [says("db2", "000000010000000000000009"), silent];
        assert_eq!(cut(&needs), Cut::KeepAll(vec!["db3: silent".to_owned()]));
    }

    #[test]
    fn the_all_zero_name_and_nobody_at_all_keep_everything() {
        assert!(matches!(cut(&[says("db2", "000000000000000000000000")]), Cut::KeepAll(_)));
        assert!(matches!(cut(&[]), Cut::KeepAll(_)));
    }

    #[test]
    fn only_wal_before_the_cut_is_removed() {
        let cut = segment("000000020000000100000002");
        for (name, before) in [
            ("000000010000000100000001.zst", true),
            ("000000030000000100000001", true),
            ("000000020000000000000009.partial.zst", true),
            ("000000010000000100000002.zst", false),
            ("000000010000000100000001.00000028.backup", false),
            ("00000001.history", false),
            ("README", false),
        ] {
            assert_eq!(is_before(name, cut), before, "{name}");
        }
    }
}
