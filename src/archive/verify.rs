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
use super::stored::{Stored, Trouble};
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
        let trouble = Trouble::default();
        let stored = Box::new(Stored::new(stored, &trouble));
        let decoded = Encoding::split(&entry.name).1.decoder(stored);
        let verdict = decoded.and_then(|reader| match name.holds_wal() {
            true => self.check_wal(name, reader, twin, buffer),
            false => check_label(reader),
        });
        match verdict {
            Ok(verdict) => Ok(verdict),
            Err(error) => self.unreadable(&path, trouble.take(), error),
        }
    }

    fn check_wal(
        &self,
        name: WalName,
        mut reader: Box<dyn Read + Send + '_>,
        twin: bool,
        buffer: &mut [u8],
    ) -> io::Result<Verdict> {
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
                Err(error) => return Err(error),
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

    /// A place that failed cannot tell; a disk that cannot read this one file, or a decoder, can.
    fn unreadable(
        &self,
        path: &StorePath,
        failed: Option<io::Error>,
        error: io::Error,
    ) -> Result<Verdict, ArchiveError> {
        match failed {
            Some(failed) if failed.raw_os_error().is_none() => {
                Err(StoreError::from_read(self.archive.store.place(), path.as_str(), failed).into())
            }
            Some(failed) => Ok(Verdict::Bad(format!("it cannot be read: {failed}"))),
            None => Ok(Verdict::Bad(format!("it cannot be decoded: {error}"))),
        }
    }
}

/// The label of a backup is text that says where the backup began.
fn check_label(reader: Box<dyn Read + Send + '_>) -> io::Result<Verdict> {
    let mut text = Vec::new();
    reader.take(CHUNK as u64).read_to_end(&mut text)?;
    let says = String::from_utf8_lossy(&text).contains("START WAL LOCATION");
    let wrong = "it is no label of a backup: it does not say where the backup began";
    Ok(if says { Verdict::Good(None) } else { Verdict::Bad(wrong.to_owned()) })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::identity::Identity;
    use crate::archive::survey::survey;
    use crate::store::Store;
    use crate::store::faulty::{Fault, Faulty, When};
    use crate::store::memory::MemoryStore;
    use crate::wal::forge::Forge;

    struct Nobody;

    impl Watcher for Nobody {
        fn planned(&self, _files: u64, _bytes: u64) {}
        fn checked(&self, _path: &str, _bytes: u64) {}
    }

    fn encoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let written = match encoding {
            Encoding::None => Ok(bytes.to_vec()),
            Encoding::Zstd => zstd::encode_all(bytes, 1),
            Encoding::Lz4 => {
                let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
                frame.write_all(bytes).map(|()| frame.finish().unwrap_or_default())
            }
            Encoding::Gzip => {
                let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                member.write_all(bytes).and_then(|()| member.finish())
            }
        };
        written.expect("because memory can be written")
    }

    /// An archive with four segments, each in another encoding, one of them damaged where that is asked for.
    fn archive(damaged: Option<Encoding>, fault: Option<Fault>) -> (Archive, Arc<Faulty>) {
        let mut forge = Forge::new(1, 8192);
        forge.fill(4 << 20, 5000);
        let store = MemoryStore::new();
        for (index, encoding) in Encoding::ALL.into_iter().enumerate() {
            let (name, mut bytes) = forge.segment(index as u64);
            if damaged == Some(encoding) {
                bytes[500_000] ^= 1;
            }
            let path = layout::stored(WalName::Segment(name), encoding);
            store.replace(&path, &encoded(encoding, &bytes)).expect("it is written");
        }
        let faulty = Arc::new(Faulty::new(Arc::new(store), fault));
        let identity = Identity::new("main", forge.system_id, forge.size);
        (Archive { store: Arc::clone(&faulty) as Arc<dyn Store>, identity }, faulty)
    }

    fn run(archive: &Archive) -> Result<Verified, ArchiveError> {
        let folders = survey(archive)?.folders;
        let save = |_: &Mark| Ok(());
        Verification { archive, mark: Mark::default(), full: false, save: &save, watcher: &Nobody }.run(&folders)
    }

    #[test]
    fn damage_is_found_in_every_encoding() {
        let verified = run(&archive(None, None).0).expect("because memory can be read");
        assert_eq!((verified.read, verified.damaged.len()), (4, 0), "{verified:?}");
        for encoding in Encoding::ALL {
            let verified = run(&archive(Some(encoding), None).0).expect("because memory can be read");
            let paths: Vec<&str> = verified.damaged.iter().map(|damage| damage.path.as_str()).collect();
            assert_eq!((paths.len(), Encoding::split(paths[0]).1), (1, encoding), "{verified:?}");
        }
    }

    #[test]
    fn a_place_that_fails_is_never_taken_for_damage() {
        for call in 0.. {
            let (archive, faulty) = archive(None, Some(Fault { call, when: When::Before }));
            match run(&archive) {
                Err(_) => assert!(faulty.struck()),
                Ok(verified) => {
                    assert_eq!(verified.damaged, [], "call {call}");
                    assert!(!faulty.struck(), "call {call} failed, and nobody said so");
                    assert!(call > 10);
                    return;
                }
            }
        }
    }
}
