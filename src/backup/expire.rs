//! Removes backups that nobody wants any more, and then the WAL that nothing needs.
//!
//! What goes is decided by a pure function. The newest backup that can be used stays, whatever the rules say, and so
//! does one with a keep mark. A listing that fails ends everything: nothing is removed on half a picture. A backup
//! loses its description first, so that a run that is killed leaves an unfinished folder and never half a backup.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};
use serde::Serialize;

use super::BackupError;
use super::catalog::{self, CLAIM, DESCRIPTION, Description, FOLDER, Found, Label, RESUME};
use crate::archive::expire::{self as wal, Cut, Removed};
use crate::archive::places::Archive;
use crate::config::Config;
use crate::store::{EntryKind, StorePath};

/// An unfinished backup that was not worked on for so long is given up.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// So many backups; 0: no number.
    pub keep: u32,
    /// Whatever restores to any time of so many days; 0: no number.
    pub days: u32,
}

/// What becomes of a backup, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// Which.
    pub label: Label,
    /// True: it goes.
    pub removed: bool,
    /// For people.
    pub why: String,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every folder of a backup.
    pub backups: Vec<Fate>,
    /// The WAL that went; none where the archive belongs to another node.
    pub wal: Option<Removed>,
    /// Why WAL stays.
    pub wal_kept: Vec<String>,
}

/// Decides over whole backups, oldest first.
pub fn decide(backups: &[Description], rules: Rules, now: DateTime<Local>) -> Vec<Fate> {
    let usable = |backup: &Description| backup.damaged_pages.is_empty();
    let newest = backups.iter().rposition(usable).or_else(|| backups.len().checked_sub(1));
    let mut fates = Vec::new();
    for (at, backup) in backups.iter().enumerate() {
        let newer = backups[at + 1..].iter().filter(|other| usable(other)).count();
        // The newest one that is older than the days is where a restore to their first moment begins.
        let newer_old = backups[at + 1..].iter().any(|other| usable(other) && is_older(other, rules.days, now));
        let by_count = rules.keep > 0 && newer >= rules.keep as usize;
        let by_days = rules.days > 0 && newer_old;
        let (removed, why) = if Some(at) == newest {
            (false, "it is the newest that can be used".to_owned())
        } else if backup.keep {
            (false, "it is marked to be kept".to_owned())
        } else if rules.keep == 0 && rules.days == 0 {
            (false, "no rule says what may go".to_owned())
        } else if rules.keep > 0 && !by_count {
            (false, format!("{} backups are kept", rules.keep))
        } else if rules.days > 0 && !by_days {
            (false, format!("a restore to any time of {} days may need it", rules.days))
        } else {
            (true, format!("{newer} newer ones are kept"))
        };
        fates.push(Fate { label: backup.label.clone(), removed, why });
    }
    fates
}

fn is_older(backup: &Description, days: u32, now: DateTime<Local>) -> bool {
    // A time that cannot be read is no reason to remove anything.
    let stopped = DateTime::parse_from_rfc3339(&backup.stopped).ok();
    stopped.is_some_and(|stopped| now.signed_duration_since(stopped) > chrono::Duration::days(i64::from(days)))
}

/// Removes what may go; with `dry_run` only says so. `own` says whether the archive is this node's own, whose WAL may
/// be removed too.
pub fn expire(
    config: &Config,
    archive: &Archive,
    own: bool,
    rules: Rules,
    dry_run: bool,
) -> Result<Report, BackupError> {
    let found = catalog::list(archive)?;
    let mut fates = Vec::new();
    for found in &found {
        match found {
            Found::Whole(_) => {}
            Found::Unreadable(label, why) => {
                fates.push(Fate { label: label.clone(), removed: false, why: why.clone() })
            }
            Found::Unfinished(label) => fates.push(unfinished(archive, label)?),
        }
    }
    let whole: Vec<Description> =
        found.into_iter().filter_map(|found| if let Found::Whole(it) = found { Some(*it) } else { None }).collect();
    fates.extend(decide(&whole, rules, Local::now()));
    fates.sort_by(|a, b| a.label.cmp(&b.label));
    for fate in fates.iter().filter(|fate| fate.removed && !dry_run) {
        remove(archive, &fate.label)?;
        log::info!("removed backup '{}'", fate.label);
    }
    let mut report = Report { backups: fates, wal: None, wal_kept: Vec::new() };
    if own {
        expire_wal(config, archive, &mut report, dry_run)?;
    } else {
        report.wal_kept.push("WAL is removed by the node that holds the archive".to_owned());
    }
    Ok(report)
}

fn expire_wal(config: &Config, archive: &Archive, report: &mut Report, dry_run: bool) -> Result<(), BackupError> {
    let gone: Vec<String> =
        report.backups.iter().filter(|fate| fate.removed).map(|fate| format!("backup {}", fate.label)).collect();
    let mut needs = wal::needs(config, archive)?;
    // With --dry-run they are still there.
    needs.retain(|need| !gone.contains(&need.who));
    match wal::cut(&needs) {
        Cut::KeepAll(reasons) => report.wal_kept = reasons,
        Cut::Before(cut, who) => {
            let limit = config.restore.remove_max as usize;
            report.wal = Some(wal::remove_before(archive, cut, limit, dry_run)?);
            report.wal_kept.push(format!("'{cut}' and later: {who}"));
        }
    }
    Ok(())
}

/// An unfinished backup goes once nobody works on it any more.
fn unfinished(archive: &Archive, label: &Label) -> Result<Fate, BackupError> {
    let mut worked_on: Option<SystemTime> = None;
    for name in [CLAIM, RESUME] {
        let seen = archive.store.look(&label.path(name)?)?;
        worked_on = worked_on.max(seen.map(|entry| entry.modified));
    }
    let fate = |removed, why: &str| Fate { label: label.clone(), removed, why: why.to_owned() };
    let Some(worked_on) = worked_on else {
        // Another node may have ended it since the listing.
        let ended = archive.store.look(&label.path(DESCRIPTION)?)?.is_some();
        let why = if ended { "it has just become whole" } else { "it is what a removal that was broken off left" };
        return Ok(fate(!ended, why));
    };
    let age = SystemTime::now().duration_since(worked_on).unwrap_or_default();
    Ok(match age > ABANDONED {
        true => fate(true, "it is unfinished, and nobody works on it for a day"),
        false => fate(false, "it is unfinished; 'base-backup take' goes on with it"),
    })
}

/// Removes a backup: first what makes it one, then the rest.
pub fn remove(archive: &Archive, label: &Label) -> Result<(), BackupError> {
    archive.store.remove(&label.path(DESCRIPTION)?)?;
    let root: StorePath = FOLDER.parse()?;
    let folder = label.folder();
    debug_assert!(folder != root, "because a label is never empty");
    // The claim goes last: without it nobody goes on with what is left.
    archive.store.remove(&label.path(CLAIM)?)?;
    clear(archive, &folder)
}

/// Removes a folder and everything below it.
fn clear(archive: &Archive, folder: &StorePath) -> Result<(), BackupError> {
    for entry in archive.store.list(folder)?.unwrap_or_default() {
        let path = folder.join(&entry.name)?;
        match entry.kind {
            EntryKind::Folder => clear(archive, &path)?,
            _ => {
                archive.store.remove(&path)?;
            }
        }
    }
    archive.store.remove(folder)?;
    Ok(())
}

/// Every file below a folder with its size.
pub fn stored_files(archive: &Archive, folder: &StorePath) -> Result<Vec<(StorePath, u64)>, BackupError> {
    let mut found = Vec::new();
    let mut open = vec![folder.clone()];
    while let Some(folder) = open.pop() {
        for entry in archive.store.list(&folder)?.unwrap_or_default() {
            let path = folder.join(&entry.name)?;
            match entry.kind {
                EntryKind::Folder => open.push(path),
                EntryKind::File => found.push((path, entry.size)),
                EntryKind::Other => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{DamagedPages, FORMAT, Kind};
    use super::*;
    use crate::store::Encoding;
    use crate::wal::{Lsn, SegmentName, TimelineId};

    fn now() -> DateTime<Local> {
        DateTime::parse_from_rfc3339("2026-11-21T12:00:00Z").expect("because it is a time").into()
    }

    /// A backup of that day of November.
    fn backup(day: u32) -> Description {
        let segment: SegmentName = "000000010000000000000002".parse().expect("because it is well formed");
        Description {
            format: FORMAT,
            label: format!("202611{day:02}T000000F").parse().expect("because it is a label"),
            kind: Kind::Full,
            parent: None,
            start_lsn: Lsn(0),
            stop_lsn: Lsn(1),
            start_segment: segment,
            stop_segment: segment,
            timeline: TimelineId(1),
            started: format!("2026-11-{day:02}T00:00:00Z"),
            stopped: format!("2026-11-{day:02}T00:10:00Z"),
            system_identifier: "7".to_owned(),
            major: 15,
            files: 0,
            size: 0,
            stored: 0,
            encoding: Encoding::Zstd,
            tablespaces: Vec::new(),
            checksums: true,
            damaged_pages: Vec::new(),
            node: "db1".to_owned(),
            role: "primary".to_owned(),
            manifest_sha256: String::new(),
            index_sha256: String::new(),
            annotations: Default::default(),
            keep: false,
            verified: None,
        }
    }

    fn removed(backups: &[Description], keep: u32, days: u32) -> Vec<String> {
        let fates = decide(backups, Rules { keep, days }, now());
        let gone = fates.into_iter().filter(|fate| fate.removed);
        gone.map(|fate| fate.label.as_str()[6..8].to_owned()).collect()
    }

    #[test]
    fn so_many_are_kept() {
        let all: Vec<_> = [1, 5, 10, 20].map(backup).into();
        assert_eq!(removed(&all, 2, 0), ["01", "05"]);
        assert_eq!(removed(&all, 9, 0), Vec::<String>::new());
        assert_eq!(removed(&all, 0, 0), Vec::<String>::new());
    }

    #[test]
    fn the_first_moment_of_the_days_can_still_be_reached() {
        let all: Vec<_> = [1, 5, 10, 20].map(backup).into();
        // Eleven days back is the 10th at noon: the backup of the 10th leads there.
        assert_eq!(removed(&all, 0, 11), ["01", "05"]);
        assert_eq!(removed(&all, 0, 12), ["01"]);
        // Both rules must let it go.
        assert_eq!(removed(&all, 3, 11), ["01"]);
    }

    #[test]
    fn marked_ones_and_the_last_usable_one_stay() {
        let mut all: Vec<_> = [1, 5, 10, 20].map(backup).into();
        all[0].keep = true;
        assert_eq!(removed(&all, 1, 0), ["05", "10"]);
        // A backup with damaged pages is none to rely on.
        all[3].damaged_pages.push(DamagedPages { path: "base/5/1".to_owned(), blocks: vec![0] });
        assert_eq!(removed(&all, 1, 0), ["05"]);
        assert_eq!(removed(&all[3..], 1, 1), Vec::<String>::new());
    }
}
