//! Ships the next `.ready` files before PostgreSQL asks for them, and keeps the answers.
//!
//! An answer is given only for the very state of the file that it was made from. At the first failure looking ahead
//! stops; the failure is reported through the call it belongs to, once, so that it stands in the server's log.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::archive::encode::Stamp;
use crate::archive::push::{Pushed, Pusher, data_directory};
use crate::archive::queue::order;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::wal::WalName;

/// How many names one scan of `archive_status` keeps: what PostgreSQL itself remembers of one scan.
const SCAN: usize = 64;

/// What is known of files that were, or will be, asked for.
pub struct LookAhead {
    config: Arc<Config>,
    pusher: Arc<Pusher>,
    state: Mutex<State>,
    changed: Condvar,
    cores: usize,
}

#[derive(Default)]
struct State {
    slots: HashMap<WalName, Slot>,
    upcoming: VecDeque<(WalName, PathBuf)>,
    runners: usize,
}

enum Slot {
    Running,
    Done(Stamp, Result<Pushed, Failure>),
}

/// What the state says of a file that is asked for.
enum Known {
    Answer(Result<Pushed, Failure>),
    Ours,
    TooLate,
}

impl LookAhead {
    /// Looks ahead for this pusher; nothing runs yet.
    pub fn new(config: &Arc<Config>, pusher: &Arc<Pusher>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let (config, pusher) = (Arc::clone(config), Arc::clone(pusher));
        LookAhead { config, pusher, state: Mutex::default(), changed: Condvar::new(), cores }
    }

    /// Answers a call for one file, at once if it was prepared, and gets on with the following ones.
    pub fn push(self: &Arc<Self>, path: &Path, name: WalName, deadline: Deadline) -> Result<Pushed, Failure> {
        if !self.pusher.is_armed() {
            // The switch speaks for the file that is asked for; a prepared answer would go past it.
            return self.ship(path, name, 1, deadline);
        }
        let answer = match self.known(path, name, deadline) {
            Known::Answer(answer) => answer,
            Known::TooLate => Err(Failure::new(Class::Timeout, format!("'{name}' was not done in time"))),
            Known::Ours => {
                let alone = self.lock().runners == 0;
                let threads = if alone { self.cores } else { 1 };
                let answer = self.ship(path, name, threads, deadline);
                self.lock().slots.remove(&name);
                self.changed.notify_all();
                answer
            }
        };
        if answer.is_ok() {
            self.look_further(path, name);
        }
        answer
    }

    /// Ships. A bug in there must fail this call and no other: whoever waits for the slot is told.
    fn ship(&self, path: &Path, name: WalName, threads: usize, deadline: Deadline) -> Result<Pushed, Failure> {
        let shipped = catch_unwind(AssertUnwindSafe(|| self.pusher.push(path, name, threads, deadline)));
        match shipped {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::new(Class::Bug, format!("the worker stumbled over '{name}'; its log says where"))),
        }
    }

    /// How many files are prepared.
    pub fn prepared(&self) -> usize {
        self.lock().slots.values().filter(|slot| matches!(slot, Slot::Done(..))).count()
    }

    fn known(&self, path: &Path, name: WalName, deadline: Deadline) -> Known {
        let mut state = self.lock();
        loop {
            match state.slots.get(&name) {
                Some(Slot::Running) if deadline.expired() => return Known::TooLate,
                Some(Slot::Running) => {
                    let waited = self.changed.wait_timeout(state, deadline.remaining());
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(Slot::Done(..)) => {
                    let Some(Slot::Done(stamp, answer)) = state.slots.remove(&name) else { continue };
                    if Stamp::of_path(path).is_ok_and(|now| now == stamp) {
                        return Known::Answer(answer);
                    }
                }
                None => {
                    state.slots.insert(name, Slot::Running);
                    return Known::Ours;
                }
            }
        }
    }

    /// Starts as many runners as there is room for.
    fn look_further(self: &Arc<Self>, path: &Path, name: WalName) {
        let depth = self.config.archive.lookahead as usize;
        let Some(wal) = path.parent().filter(|_| depth > 0 && data_directory(path).is_some()) else { return };
        let mut state = self.lock();
        state.upcoming.retain(|(next, _)| order(*next) > order(name));
        if state.upcoming.is_empty() {
            state.upcoming = scan(wal, name);
        }
        // Answers that nobody came for must not keep the others out.
        let asked = order(name);
        state.slots.retain(|done, slot| matches!(slot, Slot::Running) || order(*done) > asked);
        let wanted = depth.min(state.upcoming.len());
        while state.runners < wanted {
            state.runners += 1;
            let this = Arc::clone(self);
            std::thread::spawn(move || this.run());
        }
    }

    fn run(&self) {
        while let Some((name, path)) = self.next() {
            let deadline = Deadline::after(self.config.archive.deadline);
            let stamp = Stamp::of_path(&path);
            let answer = self.pusher.is_armed().then(|| self.ship(&path, name, 1, deadline));
            let mut state = self.lock();
            if !matches!(answer, Some(Ok(_))) {
                state.upcoming.clear();
            }
            match (stamp, answer) {
                // The switch may have been thrown between the question and the shipping.
                (Ok(stamp), Some(answer)) if !answer.as_ref().is_ok_and(|pushed| pushed.discarded) => {
                    state.slots.insert(name, Slot::Done(stamp, answer));
                }
                _ => drop(state.slots.remove(&name)),
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Takes the next file, or gives up the runner's place. Both happen under one lock, so none is forgotten.
    fn next(&self) -> Option<(WalName, PathBuf)> {
        let mut state = self.lock();
        let room = state.slots.len() < self.config.archive.lookahead as usize;
        while room && let Some((name, path)) = state.upcoming.pop_front() {
            if let Entry::Vacant(slot) = state.slots.entry(name) {
                slot.insert(Slot::Running);
                return Some((name, path));
            }
        }
        state.runners -= 1;
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files that PostgreSQL will offer after this one, in its order. Only names are read; the marks stay its own.
fn scan(wal: &Path, after: WalName) -> VecDeque<(WalName, PathBuf)> {
    let Ok(entries) = fs::read_dir(wal.join("archive_status")) else { return VecDeque::new() };
    let mut found: Vec<WalName> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready")?.parse().ok())
        .filter(|name| order(*name) > order(after))
        .collect();
    found.sort_by_key(|name| order(*name));
    found.truncate(SCAN);
    found.into_iter().map(|name| (name, wal.join(name.to_string()))).collect()
}
