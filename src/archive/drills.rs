//! What restore drills have proven: `drills/<time>-<label>.json` in an archive, one record for each drill.
//!
//! A record is written once the drill is over, whatever came of it, and never changed. The newest of them say up to
//! where a restore is proven to work. Records that cannot be understood count for nothing.

use std::io::Read;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::places::Archive;
use crate::store::{EntryKind, StoreError, StorePath};
use crate::wal::{Lsn, TimelineId};

/// The folder of all records, in an archive.
pub const FOLDER: &str = "drills";

/// The version of the form.
pub const FORMAT: u32 = 1;

/// So many records are kept.
const KEPT: usize = 100;

/// No record is larger, in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// One drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// The version of the form.
    pub format: u32,
    /// The backup that was restored.
    pub label: String,
    /// The node on which it was.
    pub node: String,
    /// When it began, UTC (RFC 3339).
    pub started: String,
    /// When it was over, UTC (RFC 3339).
    pub ended: String,
    /// True where everything went well: the target was reached and no check found anything.
    pub good: bool,
    /// What went wrong, if anything.
    pub failure: Option<String>,
    /// What was asked for, in words.
    pub target: String,
    /// How far recovery came; none where it did not get there.
    pub reached: Option<Reached>,
    /// How long each phase took, in order.
    pub phases: Vec<Phase>,
    /// What the backup's files hold, in bytes.
    pub backup_bytes: u64,
    /// The WAL that was replayed, in bytes.
    pub wal_bytes: u64,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// Where a recovery ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Up to where WAL was replayed.
    pub lsn: String,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// When the last commit replayed happened, by the primary's clock, UTC (RFC 3339).
    pub last_commit: Option<String>,
    /// The transaction of that commit.
    pub last_commit_xid: Option<u32>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Which: `restore`, `replay`, or the name of a check.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub name: String,
    /// How it went.
    pub result: Verdict,
    /// What was found, or why it was left out.
    pub detail: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Passed,
    /// Something is.
    Failed,
    /// It could not be done here.
    Skipped,
}

impl Drill {
    /// How long a phase took.
    pub fn seconds(&self, phase: &str) -> Option<f64> {
        self.phases.iter().find(|it| it.name == phase).map(|it| it.seconds)
    }

    /// Its path in an archive.
    fn path(&self) -> Result<StorePath, StoreError> {
        let time: String = self.started.chars().filter(char::is_ascii_alphanumeric).collect();
        Ok(format!("{FOLDER}/{time}-{}.json", self.label).parse()?)
    }

    /// Where it ended, to be compared with other drills.
    fn point(&self) -> Option<(TimelineId, Lsn)> {
        let reached = self.reached.as_ref().filter(|_| self.good)?;
        Some((reached.timeline, reached.lsn.parse().ok()?))
    }
}

/// Reads one record; none where it cannot be understood.
pub fn parse(bytes: &[u8]) -> Option<Drill> {
    serde_json::from_slice(bytes).ok().filter(|drill: &Drill| drill.format <= FORMAT)
}

/// Every record in an archive, oldest first.
pub fn all(archive: &Archive) -> Result<Vec<Drill>, ArchiveError> {
    let mut found = Vec::new();
    for name in paths(archive)? {
        found.extend(bytes(archive, &name)?.and_then(|bytes| parse(&bytes)));
    }
    Ok(found)
}

/// What a record holds; none where it is gone.
fn bytes(archive: &Archive, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
    let folder: StorePath = FOLDER.parse().map_err(StoreError::from)?;
    let path = folder.join(name).map_err(StoreError::from)?;
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(SIZE_MAX).read_to_end(&mut bytes);
    read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?;
    Ok(Some(bytes))
}

/// Writes a record; the oldest beyond the hundred newest are removed.
pub fn write(archive: &Archive, drill: &Drill) -> Result<(), ArchiveError> {
    let json = serde_json::to_vec_pretty(drill).expect("because plain data has no reason not to become JSON");
    archive.store.replace(&drill.path()?, &json)?;
    let folder: StorePath = FOLDER.parse().map_err(StoreError::from)?;
    let names = paths(archive)?;
    for name in &names[..names.len().saturating_sub(KEPT)] {
        archive.store.remove(&folder.join(name).map_err(StoreError::from)?)?;
    }
    Ok(())
}

/// The names of the records, oldest first: each begins with its time.
fn paths(archive: &Archive) -> Result<Vec<String>, ArchiveError> {
    let folder: StorePath = FOLDER.parse().map_err(StoreError::from)?;
    let entries = archive.store.list(&folder)?.unwrap_or_default();
    let files = entries.into_iter().filter(|entry| entry.kind == EntryKind::File && entry.name.ends_with(".json"));
    let mut names: Vec<String> = files.map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

/// The newest drill, and the newest that went well.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The newest.
    pub last: Drill,
    /// The newest that went well; it may be the same.
    pub good: Option<Drill>,
}

impl Standing {
    /// Reads records by their names, newest first, only as far back as needed; none where there are none.
    pub fn read<E>(
        mut names: Vec<String>,
        read: impl Fn(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Standing>, E> {
        names.sort();
        let mut last = None;
        for name in names.iter().rev().filter(|name| name.ends_with(".json")) {
            let Some(drill) = read(name)?.and_then(|bytes| parse(&bytes)) else { continue };
            if drill.good {
                return Ok(Some(Standing { last: last.unwrap_or_else(|| drill.clone()), good: Some(drill) }));
            }
            last.get_or_insert(drill);
        }
        Ok(last.map(|last| Standing { last, good: None }))
    }
}

/// How the drills of an archive stand; none where there were none.
pub fn standing(archive: &Archive) -> Result<Option<Standing>, ArchiveError> {
    Standing::read(paths(archive)?, |name| bytes(archive, name))
}

/// The drill that came furthest of those that went well.
pub fn furthest(drills: &[Drill]) -> Option<&Drill> {
    drills.iter().filter(|drill| drill.good).max_by_key(|drill| drill.point())
}

/// Since when something is so, by a time in a record; none where it is in the future.
pub fn age(time: &str) -> Option<std::time::Duration> {
    let time = DateTime::parse_from_rfc3339(time).ok()?.to_utc();
    (Utc::now() - time).to_std().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::identity::Identity;
    use crate::store::memory::MemoryStore;
    use crate::wal::{SegmentSize, SystemId};

    fn drill(second: u32, lsn: &str, good: bool) -> Drill {
        Drill {
            format: FORMAT,
            label: "20261121T140312F".into(),
            node: "db1".into(),
            started: format!("2026-11-21T{:02}:{:02}:{:02}+00:00", second / 3600, second / 60 % 60, second % 60),
            ended: "2026-11-21T15:00:00+00:00".into(),
            good,
            failure: None,
            target: "the end of the WAL".into(),
            reached: Some(Reached {
                lsn: lsn.into(),
                timeline: TimelineId(1),
                last_commit: None,
                last_commit_xid: None,
            }),
            phases: vec![Phase { name: "restore".into(), seconds: 1.5 }],
            backup_bytes: 1,
            wal_bytes: 1,
            checks: Vec::new(),
        }
    }

    #[test]
    fn records_are_read_in_their_order_and_the_oldest_go() {
        let identity = Identity::new("main", SystemId(7), SegmentSize::DEFAULT);
        let archive = Archive { store: Arc::new(MemoryStore::new()), identity };
        for second in 0..103 {
            write(&archive, &drill(second, "0/5", true)).expect("it is written");
        }
        let stranger = "drills/notes.json".parse().expect("it is plain");
        archive.store.replace(&stranger, b"{}").expect("it is written");
        let all = all(&archive).expect("it can be read");
        assert_eq!(all.len(), KEPT);
        assert_eq!((all.first(), all.last()), (Some(&drill(3, "0/5", true)), Some(&drill(102, "0/5", true))));
    }

    #[test]
    fn the_furthest_good_one_counts() {
        let drills = [drill(1, "0/9000000", true), drill(2, "0/10000000", true), drill(3, "0/F0000000", false)];
        assert_eq!(furthest(&drills), Some(&drills[1]));
        assert_eq!(furthest(&drills[2..]), None);
        assert_eq!(drills[0].seconds("restore"), Some(1.5));
    }

    #[test]
    fn a_failed_drill_hides_neither_itself_nor_the_good_one_before() {
        let drills =
            [("1.json", drill(1, "0/9", true)), ("2.json", drill(2, "0/5", false)), ("x", drill(9, "0/7", true))];
        let read = |count: usize| {
            let names = drills[..count].iter().map(|(name, _)| (*name).to_owned()).collect();
            let bytes =
                |name: &str| drills.iter().find(|(it, _)| *it == name).map(|(_, drill)| serde_json::to_vec(drill));
            Standing::read(names, |name| bytes(name).transpose()).expect("because it is plain data")
        };
        assert_eq!(read(0), None);
        assert_eq!(read(1), Some(Standing { last: drills[0].1.clone(), good: Some(drills[0].1.clone()) }));
        assert_eq!(read(3), Some(Standing { last: drills[1].1.clone(), good: Some(drills[0].1.clone()) }));
    }
}
