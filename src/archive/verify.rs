//! Reads what an archive holds and says which files are not what their names promise: every byte decoded, every
//! record checked, on all cores.
//!
//! What an earlier run found good and what has not changed since is left out. A place that fails while it is being
//! read ends the run: that is no damage, and nothing is said about what was not read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::ArchiveError;
use super::layout;
use super::mark::{Mark, Seen};
use super::places::Archive;
use super::survey::{Damage, Folder, wal_files};
use crate::store::{Encoding, Entry, StoreError, StorePath};
use crate::wal::{Checker, Expected, WalName};

/// How much is decoded and checked at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// How often what was found is written down, so that a run that is stopped need not begin again.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// The fingerprint of a file's content.
type Content = [u8; 32];

/// What is told of the progress; from several threads.
pub trait Watcher: Sync {
    /// So many files and stored bytes may have to be read.
    fn planned(&self, files: u64, bytes: u64);
    /// A file of so many stored bytes was read, or need not be.
    fn checked(&self, path: &str, bytes: u64);
}

/// What reading told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Files read.
    pub read: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
    /// Files that an earlier run found good and that are as they were.
    pub remembered: u64,
    /// Files that are not what their names say.
    pub damaged: Vec<Damage>,
}

/// How far a verification is to go.
pub struct Verification<'a> {
    /// The archive.
    pub archive: &'a Archive,
    /// What earlier runs found good.
    pub mark: Mark,
    /// Believe nothing of it.
    pub full: bool,
    /// Keeps the mark.
    pub save: &'a (dyn Fn(&Mark) -> Result<(), ArchiveError> + Sync),
    /// Is told of the progress.
    pub watcher: &'a dyn Watcher,
}

/// What was found about one file.
enum Verdict {
    Good(Option<Content>),
    Bad(String),
    Gone,
}

impl Verification<'_> {
    /// Reads the folders of segments.
    pub fn run(mut self, folders: &[Folder]) -> Result<Verified, ArchiveError> {
        let mut verified = Verified::default();
        let (files, bytes) = folders.iter().fold((0, 0), |(files, bytes), f| (files + f.files, bytes + f.bytes));
        self.watcher.planned(files, bytes);
        let mut saved = Instant::now();
        for folder in folders {
            self.folder(&folder.name, &mut verified)?;
            if saved.elapsed() > SAVE_EVERY {
                (self.save)(&self.mark)?;
                saved = Instant::now();
            }
        }
        self.mark.retain(|name| folders.iter().any(|folder| folder.name == name));
        (self.save)(&self.mark)?;
        Ok(verified)
    }

    fn folder(&mut self, name: &str, verified: &mut Verified) -> Result<(), ArchiveError> {
        let path: StorePath = format!("{}/{name}", layout::WAL).parse().map_err(StoreError::from)?;
        let (files, _) = wal_files(self.archive.store.list(&path)?.unwrap_or_default(), name);
        let entries = || files.iter().map(|(_, entry)| entry);
        let known = match self.mark.folder(name).filter(|_| !self.full) {
            Some(seen) => seen.known(entries()),
            None => vec![false; files.len()],
        };
        let twins = twins(&files);
        let mut todo = Vec::new();
        for ((name, entry), known) in files.iter().zip(&known) {
            // Two encodings of one file are compared, so they are always read together.
            if *known && !twins.contains(&name.to_string()) {
                verified.remembered += 1;
                self.watcher.checked(&entry.name, entry.size);
            } else {
                todo.push((*name, entry));
            }
        }
        let verdicts = self.check_all(&path, &todo, &twins)?;
        let bad = judge(&path, &todo, verdicts, verified);
        if !todo.is_empty() {
            self.mark.remember(name, Seen::of(entries(), bad));
        }
        Ok(())
    }

    /// Checks files on all cores; one verdict a file, in their order.
    fn check_all(
        &self,
        folder: &StorePath,
        files: &[(WalName, &Entry)],
        twins: &BTreeSet<String>,
    ) -> Result<Vec<Verdict>, ArchiveError> {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get()).min(files.len());
        let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            let mut buffer = vec![0; CHUNK];
            while let Some((at, (name, entry))) = take(&next, files) {
                let verdict = self.check(folder, *name, entry, twins.contains(&name.to_string()), &mut buffer);
                let failed = verdict.is_err();
                verdicts.lock().unwrap_or_else(PoisonError::into_inner).push((at, verdict));
                if failed {
                    next.store(files.len(), Ordering::Relaxed);
                }
                self.watcher.checked(&entry.name, entry.size);
            }
        };
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(work);
            }
        });
        let mut verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
        verdicts.sort_by_key(|(at, _)| *at);
        verdicts.into_iter().map(|(_, verdict)| verdict).collect()
    }

    fn check(
        &self,
        folder: &StorePath,
        name: WalName,
        entry: &Entry,
        twin: bool,
        buffer: &mut [u8],
    ) -> Result<Verdict, ArchiveError> {
        let path = folder.join(&entry.name).map_err(StoreError::from)?;
        // A clean-up may have removed it since the listing.
        let Some(stored) = self.archive.store.open(&path)? else { return Ok(Verdict::Gone) };
        let encoding = Encoding::split(&entry.name).1;
        let reader = match encoding.decoder(stored) {
            Ok(reader) => reader,
            Err(error) => return self.unreadable(&path, error),
        };
        match name.holds_wal() {
            true => self.check_wal(&path, name, reader, twin, buffer),
            false => self.check_label(&path, reader),
        }
    }

    fn check_wal(
        &self,
        path: &StorePath,
        name: WalName,
        mut reader: Box<dyn Read + Send + '_>,
        twin: bool,
        buffer: &mut [u8],
    ) -> Result<Verdict, ArchiveError> {
        let Some(segment) = name.segment() else { return Ok(Verdict::Gone) };
        let identity = &self.archive.identity;
        let mut checker = Checker::new(Expected {
            name: segment,
            system_id: Some(identity.system_identifier),
            size: Some(identity.segment_size),
            partial: matches!(name, WalName::Partial(_)),
        });
        let (mut offset, mut hash) = (0, Sha256::new());
        loop {
            let count = match reader.read(buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.unreadable(path, error),
            };
            if let Err(error) = checker.feed(offset, &buffer[..count]) {
                return Ok(Verdict::Bad(error.to_string()));
            }
            if twin {
                hash.update(&buffer[..count]);
            }
            offset += count as u64;
        }
        Ok(match checker.finish() {
            Ok(_) => Verdict::Good(twin.then(|| hash.finalize().into())),
            Err(error) => Verdict::Bad(error.to_string()),
        })
    }

    /// The label of a backup is text that says where the backup began.
    fn check_label(&self, path: &StorePath, reader: Box<dyn Read + Send + '_>) -> Result<Verdict, ArchiveError> {
        let mut text = Vec::new();
        match reader.take(CHUNK as u64).read_to_end(&mut text) {
            Err(error) => self.unreadable(path, error),
            Ok(_) if String::from_utf8_lossy(&text).contains("START WAL LOCATION") => Ok(Verdict::Good(None)),
            Ok(_) => Ok(Verdict::Bad("it is no label of a backup: it does not say where the backup began".to_owned())),
        }
    }

    /// A place that failed cannot tell; a disk that cannot read this one file, or a decoder, can.
    fn unreadable(&self, path: &StorePath, error: io::Error) -> Result<Verdict, ArchiveError> {
        if error.get_ref().is_some_and(|inner| inner.is::<StoreError>()) {
            return Err(StoreError::from_read(self.archive.store.place(), path.as_str(), error).into());
        }
        Ok(Verdict::Bad(format!("it cannot be read: {error}")))
    }
}

/// The names that are there in two encodings.
fn twins(files: &[(WalName, Entry)]) -> BTreeSet<String> {
    let mut count = BTreeMap::new();
    for (name, _) in files {
        *count.entry(name.to_string()).or_insert(0) += 1;
    }
    count.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
}

fn take<'a, T>(next: &AtomicUsize, files: &'a [T]) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    files.get(at).map(|file| (at, file))
}

/// Sums up the verdicts; the stored names of those that were not good. Two encodings of one file must hold the same.
fn judge(
    folder: &StorePath,
    files: &[(WalName, &Entry)],
    verdicts: Vec<Verdict>,
    verified: &mut Verified,
) -> BTreeSet<String> {
    let (mut bad, mut contents): (BTreeSet<String>, BTreeMap<String, (String, Content)>) = Default::default();
    let mut damage = |bad: &mut BTreeSet<String>, name: WalName, entry: &str, detail: String| {
        if bad.insert(entry.to_owned()) {
            verified.damaged.push(Damage { name, path: format!("{folder}/{entry}"), detail });
        }
    };
    for ((name, entry), verdict) in files.iter().zip(verdicts) {
        match verdict {
            Verdict::Gone => {
                // What was not read is not remembered as read.
                bad.insert(entry.name.clone());
                continue;
            }
            Verdict::Bad(detail) => damage(&mut bad, *name, &entry.name, detail),
            Verdict::Good(None) => {}
            Verdict::Good(Some(content)) => match contents.get(&name.to_string()) {
                Some((twin, other)) if *other != content => {
                    damage(&mut bad, *name, &entry.name, format!("'{twin}' holds other content under the same name"));
                    bad.insert(twin.clone());
                }
                _ => {
                    contents.insert(name.to_string(), (entry.name.clone(), content));
                }
            },
        }
    }
    verified.read += files.len() as u64;
    verified.bytes += files.iter().map(|(_, entry)| entry.size).sum::<u64>();
    bad
}
