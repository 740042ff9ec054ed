//! Brings WAL that lies elsewhere into the own `pg_wal`, segment by segment: from the archives and the queue, and from
//! the files of nodes that do not write any more.
//!
//! Of all copies of a segment the one that goes furthest is taken, if it holds the same records up to where the own one
//! ends. It is checked under another name and takes the place of the own one in one rename.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Next, Scene};
use crate::archive::ArchiveError;
use crate::archive::fetch::{Answer, Asker, Fetcher, check_file, land, landing, sweep_landings};
use crate::archive::spool::remove_if_there;
use crate::error::{Class, Failure};
use crate::failover::observation::View;
use crate::failover::observe::{peer, view};
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::wal::{Expected, Lsn, SegmentName, WalName, agree_until};

/// A copy of a segment, checked, under another name.
struct Copy {
    path: PathBuf,
    until: Lsn,
    from: String,
}

/// Fetches until the own WAL reaches a position, or nobody has more.
pub fn fetch(scene: &Scene<'_>, from: &[String], until: Lsn) -> Result<Next, Failure> {
    let own = view::look(scene.config, scene.config.own()).map_err(|why| Failure::new(Class::Storage, why))?;
    let folder = scene.pgdata().join("pg_wal");
    let fetcher = Fetcher::new(scene.config, &scene.sites);
    let asker = Some(Asker { system: own.system, segment_size: own.segment_size });
    let mut end = own.wal_end;
    let (mut count, mut sources) = (0, Vec::new());
    while end < until {
        let name = SegmentName::new(own.history.timeline, end.segment(own.segment_size), own.segment_size);
        let target = folder.join(name.to_string());
        sweep_landings(&target);
        let mut copies = archived(&fetcher, name, &target, asker)?;
        for node in from {
            copies.extend(of_node(scene, node, name, &target, &own)?);
        }
        let Some(best) = choose(copies, end) else { break };
        place(&best, &target, name, &own, end)?;
        end = best.until;
        count += 1;
        if sources.last() != Some(&best.from) {
            sources.push(best.from);
        }
    }
    if count > 0 {
        // A standby that has found nothing waits before it looks again; a reload wakes it.
        let _ = scene.server.reload();
    }
    let detail = format!("{count} segments, up to {end}, from {}", sources.join(", "));
    if end < until { Ok(Next::Again(format!("WAL could be fetched up to {end} only"))) } else { Ok(Next::Go(detail)) }
}

/// What the archives and the queue have: the whole segment, or its beginning.
fn archived(
    fetcher: &Fetcher,
    segment: SegmentName,
    target: &Path,
    asker: Option<Asker>,
) -> Result<Vec<Copy>, Failure> {
    let mut copies = Vec::new();
    for name in [WalName::Segment(segment), WalName::Partial(segment)] {
        let path = landing(target);
        match fetcher.fetch(name, &path, asker, true) {
            Ok(Answer::Handed(handed)) => {
                copies.push(Copy { path, until: handed.valid_until.unwrap_or(Lsn::INVALID), from: handed.from });
                if matches!(name, WalName::Segment(_)) {
                    break;
                }
            }
            Ok(Answer::Absent) => {}
            // The place that could not tell was excused before; what the others have counts.
            Err(error) => log::debug!("{}", Failure::from(error).message),
        }
    }
    Ok(copies)
}

/// What a node's own files have; nothing where the word is none of a node.
fn of_node(
    scene: &Scene<'_>,
    name: &str,
    segment: SegmentName,
    target: &Path,
    own: &View,
) -> Result<Option<Copy>, Failure> {
    let Some(node) = scene.config.node(name) else { return Ok(None) };
    let deadline = Deadline::after(scene.config.ssh.connect_timeout + scene.config.restore.deadline);
    let Some(content) = peer::segment(scene.config, node, segment, own.segment_size.bytes(), deadline)? else {
        return Ok(None);
    };
    let path = land(target, &content).map_err(ArchiveError::io("write beside", target))?;
    let checked = check_file(&path, expected(segment, own));
    match checked {
        Ok(Some(report)) => Ok(Some(Copy { path, until: report.valid_until, from: format!("pg_wal of {name}") })),
        other => {
            remove_if_there(&path).map_err(ArchiveError::io("remove", &path))?;
            log::warn!(
                "'{segment}' in pg_wal of {name} cannot be used: {:?}",
                other.err().map(|error| error.to_string())
            );
            Ok(None)
        }
    }
}

fn expected(segment: SegmentName, own: &View) -> Expected {
    Expected { name: segment, system_id: Some(own.system), size: Some(own.segment_size), partial: true }
}

/// The copy that goes furthest beyond a position; the others go.
fn choose(copies: Vec<Copy>, beyond: Lsn) -> Option<Copy> {
    let mut best: Option<Copy> = None;
    for copy in copies {
        let better = copy.until > best.as_ref().map_or(beyond, |best| best.until);
        let worse = if better { best.replace(copy) } else { Some(copy) };
        if let Some(worse) = worse {
            // What stays is swept the next time.
            let _ = fs::remove_file(worse.path);
        }
    }
    best
}

/// Gives a copy its name, durably, if it goes on from what is there.
fn place(copy: &Copy, target: &Path, name: SegmentName, own: &View, end: Lsn) -> Result<(), Failure> {
    let size = own.segment_size;
    let begin = name.number(size).map_or(Lsn::INVALID, |number| number.start(size));
    if end > begin && target.exists() {
        let open = |path: &Path| File::open(path).map_err(ArchiveError::io("open", path));
        let (mut mine, mut theirs) = (open(target)?, open(&copy.path)?);
        let agreement = agree_until(&mut mine, &mut theirs, name, size).map_err(ArchiveError::io("compare", target))?;
        if !agreement.identical && agreement.records_agree_until < end {
            let text = format!(
                "'{name}' from {} parts from the own one at {}, before the end of the own WAL at {end}",
                copy.from, agreement.records_agree_until
            );
            let _ = fs::remove_file(&copy.path);
            return Err(Failure::new(Class::Conflict, text)
                .hinted("Two servers have written different WAL under one name; find out which one clients used."));
        }
    }
    let file = fs::OpenOptions::new().write(true).open(&copy.path).map_err(ArchiveError::io("open", &copy.path))?;
    // A standby reads whole segments only.
    file.set_len(size.bytes()).map_err(ArchiveError::io("extend", &copy.path))?;
    file.sync_all().map_err(ArchiveError::io("fsync", &copy.path))?;
    fs::rename(&copy.path, target).map_err(ArchiveError::io("rename to", target))?;
    let folder = target.parent().unwrap_or(target);
    Ok(durable::sync_directory(folder).map_err(ArchiveError::io("fsync", folder))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_that_goes_furthest_is_taken_and_the_others_are_removed() {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let copy = |name: &str, until: u64| {
            let path = folder.path().join(name);
            fs::write(&path, name).expect("because the folder is ours");
            Copy { path, until: Lsn(until), from: name.to_owned() }
        };
        let copies = vec![copy("a", 5), copy("b", 9), copy("c", 7)];
        assert_eq!(choose(copies, Lsn(6)).map(|copy| copy.from).as_deref(), Some("b"));
        assert!(choose(vec![copy("d", 6)], Lsn(6)).is_none());
        let left: Vec<_> = fs::read_dir(folder.path()).expect("because it is ours").flatten().collect();
        assert_eq!(left.len(), 1);
    }
}
