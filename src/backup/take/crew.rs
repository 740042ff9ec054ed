//! The threads of a backup: some read and encode, some store, one records and keeps the server's session alive.
//!
//! Encoding and storing overlap, so that an fsync does not stop the compression. The first error stops everybody; the
//! record of what is stored is written from time to time, and at the end in any case, so that the next run can go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::super::BackupError;
use super::super::catalog::{Index, Label, Object, RESUME, StoredFile};
use super::super::copy::{Copier, remove};
use super::super::plan::Work;
use super::super::session::Session;
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
    files: Vec<StoredFile>,
}

type Stored = Result<Object, BackupError>;

impl Crew<'_> {
    /// Does all the work; gives back the index with what was there before and what was stored now.
    pub fn work(&self, work: Vec<Work>, mut index: Index, session: &mut Session) -> Result<Index, BackupError> {
        let (tasks, open) = unbounded();
        let mut number = next_number(&index);
        for work in work {
            let name = self.name(&work, &mut number);
            // The receiver lives in this function.
            let _ = tasks.send((name, work));
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

    fn encode(
        &self,
        open: &Receiver<(String, Work)>,
        next: &Sender<Encoded>,
        done: &Sender<Stored>,
        stop: &AtomicBool,
    ) {
        for (stored, work) in open {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sent = match self.copier.copy(&work) {
                Ok(copied) => match copied.payload {
                    Some(payload) => {
                        let bundle = matches!(work, Work::Bundle(_));
                        next.send(Encoded { stored, bundle, payload, files: copied.files }).is_ok()
                    }
                    None => true,
                },
                Err(error) => done.send(Err(error)).is_ok(),
            };
            if !sent {
                return;
            }
        }
    }

    fn store(&self, from: &Receiver<Encoded>, done: &Sender<Stored>, stop: &AtomicBool) {
        for encoded in from {
            if stop.load(Ordering::Relaxed) {
                // What waits is taken and dropped, so that no encoder waits for ever.
                continue;
            }
            if done.send(self.store_one(encoded)).is_err() {
                return;
            }
        }
    }

    fn store_one(&self, encoded: Encoded) -> Stored {
        let Encoded { stored, bundle, payload, files } = encoded;
        publish(self.archive, &self.label.path(&stored)?, &payload)?;
        remove(&payload.file)?;
        Ok(Object { stored, bundle, bytes: payload.size, files })
    }

    /// Takes what is done until everybody is, or one has failed.
    fn gather(&self, results: &Receiver<Stored>, index: &mut Index, session: &mut Session) -> Result<(), BackupError> {
        let (mut recorded, mut confirmed) = (Instant::now(), Instant::now());
        let mut unrecorded = false;
        loop {
            match results.recv_timeout(Duration::from_millis(500)) {
                Ok(Ok(object)) => {
                    index.objects.push(object);
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
    fn name(&self, work: &Work, number: &mut u64) -> String {
        let extension = self.copier.method.encoding.extension();
        let mut numbered = |kind: &str, inner: &str| {
            *number += 1;
            format!("{kind}/{}{inner}{extension}", *number - 1)
        };
        match work {
            Work::Bundle(_) => numbered("bundle", ".tar"),
            Work::File(file) => {
                let name = match file.path.strip_prefix("pg_tblspc/") {
                    Some(inner) => format!("tblspc/{inner}{extension}"),
                    None => format!("files/{}{extension}", file.path),
                };
                // Only a file that PostgreSQL did not make has a name that no archive takes.
                if name.parse::<StorePath>().is_ok() { name } else { numbered("odd", "") }
            }
        }
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
