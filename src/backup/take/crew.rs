//! The threads of a backup: some read and encode, some store, one records and keeps the server's session alive.
//!
//! Encoding and storing overlap, so that an fsync does not stop the compression. The first error stops everybody; the
//! record of what is stored is written from time to time, and at the end in any case, so that the next run can go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::super::catalog::{Index, Label, Object, RESUME, StoredFile};
use super::super::copy::{Copied, Copier, plain, remove};
use super::super::plan::{SourceFile, Work};
use super::super::session::Session;
use super::super::{BackupError, blocks, blocks::BlockSum};
use super::publish;
use crate::archive::places::Archive;
use crate::store::{Payload, StorePath};

/// How many threads store; an fsync is waited for, so there are as many on one core.
const STORERS: usize = 2;

/// How often the record is written, at most.
const RECORD_EVERY: Duration = Duration::from_secs(1);

/// The longest record that is written, in bytes.
const RECORD_MAX: usize = crate::store::wire::RECORD_MAX;

/// How often the server is asked whether all is well.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);

/// The threads and what they share.
pub struct Crew<'a> {
    /// Where it goes.
    pub archive: &'a Archive,
    /// Which backup.
    pub label: &'a Label,
    /// How files are copied.
    pub copier: &'a Copier<'a>,
    /// How many files at once.
    pub jobs: usize,
}

/// Encoded, not stored yet.
struct Encoded {
    stored: String,
    bundle: bool,
    payload: Payload,
    sums: Option<Vec<BlockSum>>,
    files: Vec<StoredFile>,
}

/// What became of a piece of work.
enum Done {
    /// It is stored.
    Stored(Object),
    /// These files are as in the parent.
    Unchanged(Vec<StoredFile>),
}

type Outcome = Result<Done, BackupError>;

impl Crew<'_> {
    /// Does all the work; gives back the index with what was there before and what was stored now.
    pub fn work(&self, work: Vec<Work>, mut index: Index, session: &mut Session) -> Result<Index, BackupError> {
        let (tasks, open) = unbounded();
        for (number, work) in (next_number(&index)..).zip(work) {
            // The receiver lives in this function.
            let _ = tasks.send((number, work));
        }
        drop(tasks);
        let stop = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            let (encoded, to_store) = bounded(STORERS);
            let (done, results) = unbounded();
            for _ in 0..self.jobs.max(1) {
                let (open, encoded, done, stop) = (open.clone(), encoded.clone(), done.clone(), &stop);
                scope.spawn(move || self.encode(&open, &encoded, &done, stop));
            }
            for _ in 0..STORERS {
                let (to_store, done, stop) = (to_store.clone(), done.clone(), &stop);
                scope.spawn(move || self.store(&to_store, &done, stop));
            }
            drop((encoded, to_store, done));
            let ended = self.gather(&results, &mut index, session);
            stop.store(true, Ordering::Relaxed);
            ended
        });
        let recorded = self.record(&index);
        ended?;
        recorded?;
        Ok(index)
    }

    fn encode(&self, open: &Receiver<(u64, Work)>, next: &Sender<Encoded>, done: &Sender<Outcome>, stop: &AtomicBool) {
        for (number, work) in open {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sent = match self.copier.copy(&work) {
                Ok(Copied { payload: Some(payload), sums, files }) => {
                    let stored = self.name(&work, &files, number);
                    let bundle = matches!(work, Work::Bundle(_));
                    next.send(Encoded { stored, bundle, payload, sums, files }).is_ok()
                }
                Ok(Copied { payload: None, files, .. }) => done.send(Ok(Done::Unchanged(files))).is_ok(),
                Err(error) => done.send(Err(error)).is_ok(),
            };
            if !sent {
                return;
            }
        }
    }

    fn store(&self, from: &Receiver<Encoded>, done: &Sender<Outcome>, stop: &AtomicBool) {
        for encoded in from {
            if stop.load(Ordering::Relaxed) {
                // What waits is taken and dropped, so that no encoder waits for ever.
                continue;
            }
            if done.send(self.store_one(encoded).map(Done::Stored)).is_err() {
                return;
            }
        }
    }

    fn store_one(&self, encoded: Encoded) -> Result<Object, BackupError> {
        let Encoded { stored, bundle, payload, sums, files } = encoded;
        let sums = match (sums, files.first()) {
            (Some(sums), Some(file)) => {
                let name = format!("sums/{}", file.path);
                publish(self.archive, &self.label.path(&name)?, &plain(blocks::to_bytes(&sums)))?;
                Some(name)
            }
            _ => None,
        };
        publish(self.archive, &self.label.path(&stored)?, &payload)?;
        remove(&payload.file)?;
        Ok(Object { stored, bundle, bytes: payload.size, sums, files })
    }

    /// Takes what is done until everybody is, or one has failed.
    fn gather(&self, results: &Receiver<Outcome>, index: &mut Index, session: &mut Session) -> Result<(), BackupError> {
        let (mut recorded, mut confirmed) = (Instant::now(), Instant::now());
        let mut unrecorded = false;
        loop {
            match results.recv_timeout(Duration::from_millis(500)) {
                Ok(Ok(Done::Stored(object))) => {
                    index.objects.push(object);
                    unrecorded = true;
                }
                Ok(Ok(Done::Unchanged(files))) => {
                    index.unchanged.extend(files.into_iter().map(|file| StoredFile { blocks: None, ..file }));
                    unrecorded = true;
                }
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if unrecorded && recorded.elapsed() >= RECORD_EVERY {
                self.record(index)?;
                (recorded, unrecorded) = (Instant::now(), false);
            }
            if confirmed.elapsed() >= CONFIRM_EVERY {
                session.confirm()?;
                confirmed = Instant::now();
            }
        }
    }

    fn record(&self, index: &Index) -> Result<(), BackupError> {
        let record = serde_json::to_vec(index).expect("because plain data has no reason not to become JSON");
        if record.len() > RECORD_MAX {
            // It only spares copying again; a place behind ssh takes no longer one.
            return Ok(());
        }
        Ok(self.archive.store.replace(&self.label.path(RESUME)?, &record)?)
    }

    /// Where something is stored, in the folder of the backup.
    fn name(&self, work: &Work, files: &[StoredFile], number: u64) -> String {
        let extension = self.copier.method.encoding.extension();
        let Work::File(SourceFile { path, .. }) = work else { return format!("bundle/{number}.tar{extension}") };
        let name = match path.strip_prefix("pg_tblspc/") {
            _ if files.iter().any(|file| file.blocks.is_some()) => format!("blocks/{path}{extension}"),
            Some(inner) => format!("tblspc/{inner}{extension}"),
            None => format!("files/{path}{extension}"),
        };
        // Only a file that PostgreSQL did not make has a name that no archive takes.
        if name.parse::<StorePath>().is_ok() { name } else { format!("odd/{number}{extension}") }
    }
}

/// The first number that no object of an earlier run has.
fn next_number(index: &Index) -> u64 {
    let number = |object: &Object| {
        let name = object.stored.strip_prefix("bundle/").or_else(|| object.stored.strip_prefix("odd/"))?;
        name.split('.').next()?.parse::<u64>().ok()
    };
    index.objects.iter().filter_map(number).max().map_or(0, |last| last + 1)
}
