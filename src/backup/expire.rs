//! Removes backups that nobody wants any more, and then the WAL that nothing needs.
//!
//! What goes is decided by a pure function. The newest backup that can be used stays, whatever the rules say, and so
//! does one with a keep mark, and whatever a backup that stays builds on. A listing that fails ends everything: nothing
//! is removed on half a picture. The youngest goes first, so that no backup ever lacks its parent, and each loses its
//! description first, so that a run that is killed leaves an unfinished folder and never half a backup.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};
use serde::Serialize;

use super::catalog::{self, CLAIM, DESCRIPTION, Description, FOLDER, Found, Label, RESUME};
use super::{BackupError, chain};
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

/// Decides over a listing; `claimed` are the parents of unfinished backups, each with its child.
pub fn decide(backups: &[Found], claimed: &[(Label, Label)], rules: Rules, now: DateTime<Local>) -> Vec<Fate> {
    let known = chain::known(backups);
    let usable: Vec<bool> = known.values().map(|it| chain::obstacle(&known, it).is_none()).collect();
    let newest = usable.iter().rposition(|usable| *usable).or_else(|| known.len().checked_sub(1));
    let mut fates: Vec<Fate> = Vec::new();
    for (at, backup) in known.values().enumerate() {
        let newer = || known.values().zip(&usable).skip(at + 1).filter(|(_, usable)| **usable).map(|(it, _)| it);
        // The newest one that is older than the days is where a restore to their first moment begins.
        let newer_old = newer().any(|other| is_older(other, rules.days, now));
        let by_count = rules.keep > 0 && newer().count() >= rules.keep as usize;
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
            (true, format!("{} newer ones are kept", newer().count()))
        };
        fates.push(Fate { label: backup.label.clone(), removed, why });
    }
    keep_parents(&mut fates, backups, claimed);
    fates
}

/// Keeps what those build on that stay.
fn keep_parents(fates: &mut [Fate], backups: &[Found], claimed: &[(Label, Label)]) {
    let known = chain::known(backups);
    let unreadable = backups.iter().rfind(|it| matches!(it, Found::Unreadable(label, _) if !label.is_full()));
    let mut built_on: BTreeMap<&Label, &Label> = claimed.iter().map(|(parent, child)| (parent, child)).collect();
    // A parent is older than its child, so the youngest is asked first.
    for fate in fates.iter_mut().rev() {
        if let Some(child) = built_on.get(&fate.label).filter(|_| fate.removed) {
            (fate.removed, fate.why) = (false, format!("'{child}' builds on it"));
        }
        if let Some(child) = unreadable.map(Found::label).filter(|child| fate.removed && **child > fate.label) {
            (fate.removed, fate.why) = (false, format!("'{child}' cannot be read and may build on it"));
        }
        let backup = known.get(&fate.label).filter(|_| !fate.removed);
        if let Some((child, parent)) = backup.and_then(|it| Some((&it.label, it.parent.as_ref()?))) {
            built_on.entry(parent).or_insert(child);
        }
    }
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
    let (mut fates, mut claimed) = (Vec::new(), Vec::new());
    for found in &found {
        match found {
            Found::Whole(_) => {}
            Found::Unreadable(label, why) => {
                fates.push(Fate { label: label.clone(), removed: false, why: why.clone() })
            }
            Found::Unfinished(label) => {
                let fate = unfinished(archive, label)?;
                if !fate.removed {
                    claimed.extend(catalog::claim(archive, label)?.and_then(|it| Some((it.parent?, label.clone()))));
                }
                fates.push(fate);
            }
        }
    }
    fates.extend(decide(&found, &claimed, rules, Local::now()));
    fates.sort_by(|a, b| a.label.cmp(&b.label));
    for fate in fates.iter_mut().rev().filter(|fate| fate.removed && !dry_run) {
        if let Some(new) = begun_since(archive, &found)? {
            (fate.removed, fate.why) = (false, format!("'{new}' has just begun and may build on it; run this again"));
            continue;
        }
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

/// A backup that another node began after the listing; it may build on any other.
fn begun_since(archive: &Archive, listed: &[Found]) -> Result<Option<Label>, BackupError> {
    let labels = catalog::labels(archive)?.into_iter();
    Ok(labels.rev().find(|label| listed.iter().all(|found| found.label() != label)))
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
            found_by: None,
            damaged_pages: Vec::new(),
            node: "db1".to_owned(),
            role: "primary".to_owned(),
            manifest_sha256: String::new(),
            index_sha256: String::new(),
            annotations: Default::default(),
            keep: false,
            verified: None,
            failed: None,
        }
    }

    /// An incremental backup of that day, on that of another.
    fn child(day: u32, parent: &Description) -> Description {
        Description {
            label: format!("202611{day:02}T000000I").parse().expect("because it is a label"),
            kind: Kind::Incremental,
            parent: Some(parent.label.clone()),
            ..backup(day)
        }
    }

    fn listing(backups: &[Description]) -> Vec<Found> {
        backups.iter().map(|it| Found::Whole(Box::new(it.clone()))).collect()
    }

    fn gone(listing: &[Found], claimed: &[(Label, Label)], keep: u32, days: u32) -> Vec<String> {
        let fates = decide(listing, claimed, Rules { keep, days }, now());
        let gone = fates.into_iter().filter(|fate| fate.removed);
        gone.map(|fate| fate.label.as_str()[6..8].to_owned()).collect()
    }

    fn removed(backups: &[Description], keep: u32, days: u32) -> Vec<String> {
        gone(&listing(backups), &[], keep, days)
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
    #[test]
    fn what_others_build_on_stays_with_them() {
        let (first, second) = (backup(1), backup(10));
        let (a, b) = (child(2, &first), child(3, &first));
        let (c, d) = (child(4, &a), child(12, &second));
        let all = [first.clone(), a.clone(), b, c.clone(), second, d];
        // The 4th stays, so the 2nd and the 1st do; nobody needs the 3rd.
        assert_eq!(removed(&all, 3, 0), ["03"]);
        assert_eq!(removed(&all, 2, 0), ["01", "02", "03", "04"]);
        assert_eq!(removed(&all, 1, 0), ["01", "02", "03", "04"]);
        // An unfinished one needs its parent too.
        let begun = "20261121T000000I".parse().expect("because it is a label");
        assert_eq!(gone(&listing(&all), &[(a.label, begun)], 1, 0), ["03", "04"]);
        // One that cannot be read may build on any that is older.
        let mut found = listing(&all);
        found[3] = Found::Unreadable(c.label, "of a later format".to_owned());
        assert_eq!(gone(&found, &[], 1, 0), Vec::<String>::new());
        found[3] = Found::Unreadable(first.label, "torn".to_owned());
        assert_eq!(gone(&found[1..], &[], 1, 0), ["02", "03"]);
    }

    #[test]
    fn one_that_lacks_its_parent_is_none_to_rely_on() {
        let first = backup(1);
        let lost = child(20, &backup(15));
        assert_eq!(removed(&[first.clone(), lost.clone()], 1, 0), Vec::<String>::new());
        let failed = Description { failed: Some(String::new()), ..backup(15) };
        let all = [first, failed, lost];
        assert_eq!(removed(&all, 1, 0), Vec::<String>::new());
        assert_eq!(removed(&all[1..], 1, 0), Vec::<String>::new());
        let sound = [all[1].clone(), all[2].clone(), backup(21)];
        assert_eq!(removed(&sound, 1, 0), ["15", "20"]);
    }
}
