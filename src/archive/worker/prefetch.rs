//! Fetches the next segments before PostgreSQL asks for them.
//!
//! What waits here is decoded and checked. "Absent" and failures are never kept: each is found out anew by the call
//! that asks. Nothing is fetched ahead of a segment that is itself absent, so a standby at the end of WAL costs
//! nothing.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::archive::ArchiveError;
use crate::archive::encode::Stamp;
use crate::archive::fetch::{Answer, Asker, Fetcher, Handed};
use crate::archive::places::Sites;
use crate::archive::spool::{Spool, remove_if_there};
use crate::config::Config;
use crate::system::clock::Deadline;
use crate::wal::{SegmentName, WalName};

/// How many segments are fetched at a time.
const RUNNERS_MAX: usize = 4;

/// What is known of segments that will be asked for.
pub struct Prefetch {
    config: Arc<Config>,
    fetcher: Fetcher,
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    slots: HashMap<SegmentName, Slot>,
    wanted: Vec<SegmentName>,
    asker: Option<Asker>,
    runners: usize,
}

enum Slot {
    Running,
    Ready(Ready),
}

/// A checked file, and the state it was checked in.
struct Ready {
    path: PathBuf,
    stamp: Stamp,
    handed: Handed,
}

impl Ready {
    /// Gives the file away if nobody has touched it since it was checked; else it goes.
    fn hand_over(self, target: &Path) -> Option<Handed> {
        let untouched = Stamp::of_path(&self.path).is_ok_and(|now| now == self.stamp);
        if untouched && move_file(&self.path, target).is_ok() {
            return Some(self.handed);
        }
        // A leftover is only room lost until the next worker starts.
        let _ = remove_if_there(&self.path);
        None
    }
}

impl Prefetch {
    /// Prepares the folder; what an earlier worker left in it is removed.
    pub fn new(config: &Arc<Config>, sites: &Arc<Sites>) -> Result<Self, ArchiveError> {
        let spool = Spool::new(&config.local.spool);
        let folder = spool.prefetch();
        spool.make(&folder)?;
        let fetcher = Fetcher::new(config, sites);
        let prefetch =
            Prefetch { config: Arc::clone(config), fetcher, folder, state: Mutex::default(), changed: Condvar::new() };
        prefetch.clear();
        Ok(prefetch)
    }

    /// Removes everything fetched.
    pub fn clear(&self) {
        self.lock().slots.clear();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            // A leftover is only room lost until the next worker starts.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// How many segments are ready.
    pub fn ready(&self) -> usize {
        self.lock().slots.values().filter(|slot| matches!(slot, Slot::Ready(..))).count()
    }

    /// Hands one file over to a name of the caller's own, at once if it is here, and gets on with the following ones.
    pub fn fetch(
        self: &Arc<Self>,
        name: WalName,
        target: &Path,
        asker: Option<Asker>,
        deadline: Deadline,
    ) -> Result<Answer, ArchiveError> {
        let WalName::Segment(segment) = name else { return self.fetcher.fetch(name, target, asker, false) };
        let answer = match self.take(segment, asker, deadline).and_then(|ready| ready.hand_over(target)) {
            // It may have been fetched before a later timeline was claimed.
            Some(_) if self.fetcher.is_closed(name)? => {
                remove_if_there(target).map_err(ArchiveError::io("remove", target))?;
                Answer::Absent
            }
            Some(handed) => Answer::Handed(handed),
            None => self.fetcher.fetch(name, target, asker, false)?,
        };
        if matches!(answer, Answer::Handed(_)) {
            self.look_further(segment, asker);
        }
        Ok(answer)
    }

    /// Takes a segment out, waiting for it while it is being fetched.
    fn take(&self, segment: SegmentName, asker: Option<Asker>, deadline: Deadline) -> Option<Ready> {
        let mut state = self.lock();
        loop {
            if state.asker != asker {
                return None;
            }
            match state.slots.get(&segment) {
                Some(Slot::Running) if !deadline.expired() => {
                    let waited = self.changed.wait_timeout(state, deadline.remaining());
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(Slot::Ready(..)) => match state.slots.remove(&segment) {
                    Some(Slot::Ready(ready)) => return Some(ready),
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    fn look_further(self: &Arc<Self>, segment: SegmentName, asker: Option<Asker>) {
        let (depth, Some(asked)) = (u64::from(self.config.restore.prefetch), asker) else { return };
        let size = asked.segment_size;
        let Some(number) = segment.number(size) else { return };
        let next = |ahead| SegmentName::new(segment.timeline(), crate::wal::SegmentNumber(number.0 + ahead), size);
        let mut state = self.lock();
        let near: Vec<SegmentName> = (1..=depth).map(next).collect();
        if state.asker != asker {
            // Another server: nothing that lies here was checked for it.
            state.slots.retain(|_, slot| !discard(slot));
            state.asker = asker;
        }
        // PostgreSQL has moved on: what lies elsewhere is not asked for any more.
        state.slots.retain(|name, slot| near.contains(name) || !discard(slot));
        state.wanted = near.into_iter().filter(|name| !state.slots.contains_key(name)).rev().collect();
        while state.runners < RUNNERS_MAX.min(state.wanted.len()) {
            state.runners += 1;
            let this = Arc::clone(self);
            std::thread::spawn(move || this.run());
        }
    }

    fn run(&self) {
        while let Some((segment, asker)) = self.next() {
            let path = self.folder.join(segment.to_string());
            let fetched = self.fetcher.fetch(WalName::Segment(segment), &path, asker, false);
            let stamp = Stamp::of_path(&path);
            let mut state = self.lock();
            match (fetched, stamp) {
                (Ok(Answer::Handed(handed)), Ok(stamp)) if state.asker == asker => {
                    state.slots.insert(segment, Slot::Ready(Ready { path, stamp, handed }));
                }
                // The end, or trouble: the call that comes to it finds out which.
                _ => {
                    // What another server's call left is only room lost until the next worker starts.
                    let _ = remove_if_there(&path);
                    state.slots.remove(&segment);
                    state.wanted.clear();
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<(SegmentName, Option<Asker>)> {
        let mut state = self.lock();
        match state.wanted.pop() {
            Some(segment) => {
                state.slots.insert(segment, Slot::Running);
                Some((segment, state.asker))
            }
            None => {
                state.runners -= 1;
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what a slot holds. False for one that is still being filled.
fn discard(slot: &Slot) -> bool {
    match slot {
        Slot::Running => false,
        Slot::Ready(ready) => {
            // A leftover is only room lost until the next worker starts.
            let _ = remove_if_there(&ready.path);
            true
        }
    }
}

/// Gives a checked file to the caller: by its name where the file system allows, else by a copy.
fn move_file(from: &Path, to: &Path) -> std::io::Result<()> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let size = fs::metadata(from)?.len();
    if fs::copy(from, to)? != size {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the copy is short"));
    }
    fs::remove_file(from)
}
