//! Reads WAL out of the archives for a plan, several segments at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::{BackupError, Watcher};
use super::locate::{Reader, Seen, Way};
use crate::archive::places::Archive;
use crate::archive::stored::{Stored, Trouble};
use crate::archive::{ArchiveError, layout};
use crate::store::{Encoding, StoreError};
use crate::wal::commit::walk;
use crate::wal::record::{Progress, Walker};
use crate::wal::target::{Goal, Seeker};
use crate::wal::{SegmentName, SegmentNumber, WalName};

/// So many segments in a row are read by one thread.
const STRETCH: u64 = 8;

/// Reads segments from the first of some archives that holds them.
pub struct ArchiveReader<'a> {
    /// The archives, in the order they are asked.
    pub archives: &'a [Archive],
    /// How many threads read.
    pub jobs: usize,
    /// Who is told when a lot is read.
    pub watcher: &'a dyn Watcher,
}

impl Reader for ArchiveReader<'_> {
    fn seek(
        &self,
        way: &Way,
        (from, to): (SegmentNumber, SegmentNumber),
        goal: &Goal,
        inclusive: bool,
    ) -> Result<Seen, BackupError> {
        let starts: Vec<u64> = (from.0..=to.0).step_by(STRETCH as usize).collect();
        let end = |start: u64| SegmentNumber((start + STRETCH - 1).min(to.0));
        if let [start] = starts[..] {
            return self.stretch(way, (SegmentNumber(start), end(start)), goal, inclusive);
        }
        self.watcher.phase("reading WAL");
        self.watcher.begin((to.0 - from.0 + 1) * way.size.bytes());
        let (next, found_in) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, starts.len()) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(start) = starts.get(at) else { return };
                        // What lies behind the first find is of no interest.
                        if at > found_in.load(Ordering::Relaxed) {
                            return;
                        }
                        let range = (SegmentNumber(*start), end(*start));
                        let seen = self.stretch(way, range, goal, inclusive);
                        if !matches!(&seen, Ok(seen) if seen.stop.is_none()) {
                            found_in.fetch_min(at, Ordering::Relaxed);
                        }
                        self.watcher.advance((range.1.0 - range.0.0 + 1) * way.size.bytes());
                        results.lock().unwrap_or_else(PoisonError::into_inner).push((at, seen));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(at, _)| *at);
        let mut all = Seen::default();
        for (_, seen) in results {
            let seen = seen?;
            all = Seen { stop: seen.stop, last_commit: seen.last_commit.or(all.last_commit), until: seen.until };
            if all.stop.is_some() {
                break;
            }
        }
        Ok(all)
    }
}

impl ArchiveReader<'_> {
    /// Reads some segments in a row, and of the next one what ends a record that begins in the last.
    fn stretch(
        &self,
        way: &Way,
        (from, to): (SegmentNumber, SegmentNumber),
        goal: &Goal,
        inclusive: bool,
    ) -> Result<Seen, BackupError> {
        let (mut walker, mut seeker) = (Walker::new(), Seeker::new(goal, inclusive));
        for number in (from.0..=to.0).map(SegmentNumber) {
            self.walk(way.name(number), &mut walker, &mut seeker, &|_, seeker| seeker.stop.is_some())?;
            if seeker.stop.is_some() {
                break;
            }
        }
        let open = walker.open_record().map(|(start, _)| start);
        let next = to.next();
        if seeker.stop.is_none() && open.is_some() && way.reached.is_some_and(|last| next <= last) {
            let still = |walker: &Walker| walker.open_record().map(|(start, _)| start) == open;
            self.walk(way.name(next), &mut walker, &mut seeker, &|walker, _| !still(walker))?;
        }
        Ok(Seen { stop: seeker.stop, last_commit: seeker.last_commit, until: seeker.until })
    }

    /// Walks over one segment.
    fn walk(
        &self,
        name: SegmentName,
        walker: &mut Walker,
        seeker: &mut Seeker<'_>,
        enough: &dyn Fn(&Walker, &Seeker<'_>) -> bool,
    ) -> Result<(), BackupError> {
        for archive in self.archives {
            for encoding in Encoding::ALL {
                let path = layout::stored(WalName::Segment(name), encoding);
                let Some(stored) = archive.store.open(&path)? else { continue };
                let damaged = |detail: String| {
                    let place = archive.store.place().to_string();
                    BackupError::Archive(ArchiveError::NotTheWal { name: WalName::Segment(name), place, detail })
                };
                let trouble = Trouble::default();
                let decoded = encoding.decoder(Box::new(Stored::new(stored, &trouble)));
                let walked = decoded.and_then(|mut reader| walk(&mut reader, walker, seeker, enough));
                if let Some(failed) = trouble.take().filter(|failed| failed.raw_os_error().is_none()) {
                    return Err(StoreError::from_read(archive.store.place(), path.as_str(), failed).into());
                }
                walked.map_err(|error| damaged(format!("it cannot be decoded: {error}")))?;
                return match walker.progress() {
                    Progress::Torn { at, why } if seeker.stop.is_none() => {
                        Err(damaged(format!("valid WAL ends at {at}: {why}")))
                    }
                    _ => Ok(()),
                };
            }
        }
        let reason = format!("WAL segment '{name}' was there a moment ago and is gone");
        Err(BackupError::refused(reason, "Make the plan again; a clean-up or a move may have taken it away."))
    }
}
