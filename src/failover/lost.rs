//! Which transactions would be lost: the commits in WAL that lies elsewhere, behind the place where a new timeline is
//! to begin. Read for people, before anything is done; what cannot be read is not listed.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::act::Scene;
use super::observation::{Commit, Observation, View};
use super::observe::peer;
use crate::archive::ArchiveError;
use crate::archive::fetch::{Answer, Asker, Fetcher, land, landing, sweep_landings};
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::wal::commit::{Ended, end_of, walk};
use crate::wal::record::{Record, RecordHeader, Visit, Walker};
use crate::wal::{Lsn, SegmentName, SegmentNumber, WalName};

/// So many segments are read.
const SEGMENTS_MAX: usize = 256;

/// Transactions that committed behind a position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lost {
    /// How many.
    pub transactions: u64,
    /// The first one.
    pub first: Option<Commit>,
    /// The last one.
    pub last: Option<Commit>,
    /// How many segments were read.
    pub segments: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transactions that would be lost: {}", self.transactions)?;
        match (&self.first, &self.last) {
            (Some(first), Some(last)) => {
                write!(f, ", from {} (number {}) to {} (number {})", first.at, first.xid, last.at, last.xid)
            }
            _ => Ok(()),
        }
    }
}

/// Reads the WAL that others hold behind a position. None where nobody has any.
pub fn look(scene: &Scene<'_>, seen: &Observation, behind: Lsn) -> Option<Lost> {
    let own = seen.own.is()?;
    sweep_landings(&beside(scene, "any"));
    let mut lost = Lost { transactions: 0, first: None, last: None, segments: 0 };
    for number in held(seen, own, behind).into_iter().take(SEGMENTS_MAX) {
        let name = SegmentName::new(own.history.timeline, number, own.segment_size);
        match read(scene, seen, name, own) {
            Ok(Some(file)) => count(&mut lost, file, behind),
            Ok(None) => {}
            Err(failure) => log::warn!("'{name}' cannot be looked into: {}", failure.message),
        }
    }
    (lost.segments > 0).then_some(lost)
}

/// The segments that anybody holds from a position on.
fn held(seen: &Observation, own: &View, behind: Lsn) -> BTreeSet<SegmentNumber> {
    let size = own.segment_size;
    let first = behind.segment(size);
    let mut numbers = BTreeSet::new();
    for held in seen.archives.iter().filter_map(|holder| holder.holds.is()) {
        for (from, to) in &held.whole {
            numbers.extend((from.0.max(first.0)..=to.0).map(SegmentNumber));
        }
        numbers.extend(held.partial.map(|partial| partial.number).filter(|number| *number >= first));
    }
    let ends = seen.others.iter().filter_map(|other| other.view.is()).filter(|view| view.history == own.history);
    if let Some(end) = ends.map(|view| view.wal_end).filter(|end| *end > behind).max() {
        numbers.extend((first.0..=end.segment(size).0).map(SegmentNumber));
    }
    numbers
}

/// Where what is read lies for a moment: nobody else reads the spool.
fn beside(scene: &Scene<'_>, name: impl fmt::Display) -> PathBuf {
    scene.spool.root().join(format!("lost-{name}"))
}

/// A segment from wherever it is, in a file without a name.
fn read(scene: &Scene<'_>, seen: &Observation, name: SegmentName, own: &View) -> Result<Option<File>, Failure> {
    let fetcher = Fetcher::new(scene.config, &scene.sites);
    let asker = Some(Asker { system: own.system, segment_size: own.segment_size });
    let target = beside(scene, name);
    let wrong = |error: io::Error| Failure::from(ArchiveError::io("keep a copy of", &target)(error));
    scene.spool.prepare()?;
    for wanted in [WalName::Segment(name), WalName::Partial(name)] {
        let path = landing(&target);
        if let Ok(Answer::Handed(_)) = fetcher.fetch(wanted, &path, asker, true) {
            let file = File::open(&path).map_err(wrong)?;
            fs::remove_file(&path).map_err(wrong)?;
            return Ok(Some(file));
        }
    }
    let ahead = |other: &&super::observation::Other| other.view.is().is_some_and(|view| view.wal_end > own.wal_end);
    for other in seen.others.iter().filter(ahead) {
        let deadline = Deadline::after(scene.config.restore.deadline);
        let content = peer::segment(scene.config, scene.node(&other.name)?, name, own.segment_size.bytes(), deadline)?;
        if let Some(content) = content {
            let path = land(&target, &content).map_err(wrong)?;
            let file = File::open(&path).map_err(wrong)?;
            fs::remove_file(&path).map_err(wrong)?;
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn count(lost: &mut Lost, mut segment: File, behind: Lsn) {
    lost.segments += 1;
    let mut found = Behind { position: behind, lost };
    // A file that breaks off has been looked at as far as it goes.
    let _ = walk(&mut segment, &mut Walker::new(), &mut found, |_, _| false);
}

/// Counts the commits whose records begin behind a position.
struct Behind<'a> {
    position: Lsn,
    lost: &'a mut Lost,
}

impl Visit for Behind<'_> {
    fn wants(&self, header: &RecordHeader) -> bool {
        end_of(header).is_some()
    }

    fn visit(&mut self, record: &Record<'_>) {
        let ended = Ended::read(record).filter(|ended| ended.is_commit() && ended.start >= self.position);
        let Some(ended) = ended else { return };
        let at = chrono::DateTime::<chrono::Local>::from(ended.at()).to_rfc3339();
        let commit = Commit { until: ended.until, xid: ended.xid, at };
        self.lost.transactions += 1;
        self.lost.first.get_or_insert_with(|| commit.clone());
        self.lost.last = Some(commit);
    }
}
