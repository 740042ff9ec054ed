//! Reads the files of a backup back, each whole and once, and checks it against the backup's own manifest. Used by
//! verify and restore.
//!
//! What is stored whole, in this backup or one it builds on, is read object by object. What is stored in part is put
//! together while it is read, from the newest backup that has each block. So a chain takes one pass.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::catalog::{self, Description, damaged};
use super::chain::{Chain, File, Held, Part};
use super::copy::each_piece;
use super::overlay::Overlay;
use super::tar::Members;
use super::{BackupError, Watcher, manifest};
use crate::archive::places::Archive;
use crate::store::{Encoding, StoreError};

/// Takes the bytes of one file, in order.
pub type Taker<'a> = Box<dyn FnMut(&[u8]) -> Result<(), BackupError> + 'a>;

/// Takes the content of one file: its path, then its bytes in order; called from several threads.
pub trait Sink: Sync {
    /// Begins a file of this size.
    fn begin<'a>(&'a self, path: &str, size: u64) -> Result<Taker<'a>, BackupError>;
}

/// A backup that is read.
pub struct Contents<'a> {
    /// Where it is.
    pub archive: &'a Archive,
    /// What it says of itself.
    pub description: &'a Description,
    /// The text of its manifest.
    pub manifest: Vec<u8>,
    chain: Chain,
    expected: HashMap<String, manifest::Entry>,
}

/// What one thread reads at a time.
enum Task<'a> {
    /// An object, and the files of it that are wanted.
    Object(&'a Held, Vec<&'a File>),
    /// A file from several objects, or from blocks.
    Blocks(&'a File),
}

/// Who is given what is read.
struct Reader<'a> {
    contents: &'a Contents<'a>,
    sink: &'a dyn Sink,
    watcher: &'a dyn Watcher,
}

impl<'a> Contents<'a> {
    /// Reads indexes and manifest, and checks that they agree.
    pub fn open(archive: &'a Archive, description: &'a Description) -> Result<Self, BackupError> {
        let label = &description.label;
        let wrong = |detail: String| damaged(archive, label, detail);
        let chain = Chain::open(archive, description)?;
        let manifest = catalog::read(archive, label, manifest::NAME, u64::MAX)?;
        let manifest = manifest.ok_or_else(|| wrong(format!("{} is missing", manifest::NAME)))?;
        if catalog::sha256_hex(&manifest) != description.manifest_sha256 {
            return Err(wrong(format!("{} is not what was written", manifest::NAME)));
        }
        let text = String::from_utf8_lossy(&manifest);
        let entries = manifest::parse(&text).map_err(|detail| wrong(format!("{}: {detail}", manifest::NAME)))?;
        let expected: HashMap<_, _> = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        // The label stands beside the objects.
        if chain.files.len() + 1 != expected.len() {
            let held = chain.files.len();
            return Err(wrong(format!("its index names {held} files, its manifest {}", expected.len())));
        }
        Ok(Contents { archive, description, manifest, chain, expected })
    }

    /// Directories to make, parents first.
    pub fn directories(&self) -> &[String] {
        &self.chain.directories
    }

    /// Every file it holds, without `backup_label`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.chain.files.keys().map(String::as_str)
    }

    /// Reads a small file that stands beside the objects; `None` where it is absent.
    pub fn small(&self, name: &str) -> Result<Option<Vec<u8>>, BackupError> {
        catalog::read(self.archive, &self.description.label, name, 1 << 26)
    }

    /// Reads `backup_label`, checked.
    pub fn label(&self) -> Result<Vec<u8>, BackupError> {
        let wrong = |detail: &str| damaged(self.archive, &self.description.label, format!("backup_label {detail}"));
        let bytes = self.small("backup_label")?.ok_or_else(|| wrong("is missing"))?;
        let expected = self.expected.get("backup_label").ok_or_else(|| wrong("is not in the manifest"))?;
        if expected.checksum != manifest::hex(crc32c::crc32c(&bytes)) {
            return Err(wrong("is not what was written"));
        }
        Ok(bytes)
    }

    /// Reads every file, several at once, the largest first. All are read, whatever is wrong with one; the first
    /// trouble is given back, unless `all` collects them.
    pub fn read_all(&self, jobs: usize, sink: &dyn Sink, watcher: &dyn Watcher) -> Vec<BackupError> {
        let tasks = self.tasks();
        let reader = Reader { contents: self, sink, watcher };
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let errors = Mutex::new(Vec::new());
        watcher.begin(self.description.size);
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, tasks.len().max(1)) {
                scope.spawn(|| {
                    while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(error) = reader.task(task) {
                            // Damage is told file by file; a place that does not answer, or a full disk, ends it.
                            if !matches!(error, BackupError::Damaged { .. }) {
                                stop.store(true, Ordering::Relaxed);
                            }
                            errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(error);
                        }
                    }
                });
            }
        });
        errors.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is to be read, the largest first.
    fn tasks(&self) -> Vec<Task<'_>> {
        let mut objects: BTreeMap<usize, Vec<&File>> = BTreeMap::new();
        let mut tasks = Vec::new();
        for file in self.chain.files.values() {
            match file.parts[..] {
                [part] if !part.blocks => objects.entry(part.object).or_default().push(file),
                _ => tasks.push(Task::Blocks(file)),
            }
        }
        tasks.extend(objects.into_iter().map(|(at, files)| Task::Object(&self.chain.objects[at], files)));
        tasks.sort_by_cached_key(|task| {
            std::cmp::Reverse(match task {
                Task::Object(_, files) => files.iter().map(|file| file.stored.size).sum(),
                Task::Blocks(file) => file.stored.size,
            })
        });
        tasks
    }

    /// Opens a stored object; what goes wrong while it is decoded names it.
    fn open_object<'b>(&'b self, held: &'b Held) -> Result<Decoded<'b>, BackupError> {
        let owner = self.chain.owner(held);
        let path = owner.label.path(&held.object.stored)?;
        let stored = self.archive.store.open(&path)?;
        let stored = stored.ok_or_else(|| self.wrong(held, "is missing"))?;
        let encoding = Encoding::split(&held.object.stored).1;
        // Names of files that are stored plainly may end as encoded ones do.
        let encoding = if owner.encoding == Encoding::None { Encoding::None } else { encoding };
        let reader = encoding.decoder(stored).map_err(|error| self.broken(held, error))?;
        Ok(Decoded { contents: self, held, reader })
    }

    fn wrong(&self, held: &Held, detail: &str) -> BackupError {
        let label = &self.chain.owner(held).label;
        damaged(self.archive, label, format!("'{}' {detail}", held.object.stored))
    }

    /// What an error while decoding says of the object.
    fn broken(&self, held: &Held, error: io::Error) -> BackupError {
        let error = match error.downcast::<BackupError>() {
            Ok(error) => return error,
            Err(error) => error,
        };
        match error.downcast::<StoreError>() {
            Ok(error) => BackupError::Store(error),
            Err(error) => self.wrong(held, &format!("cannot be decoded: {error}")),
        }
    }
}

impl Reader<'_> {
    fn task(&self, task: &Task<'_>) -> Result<(), BackupError> {
        match task {
            Task::Object(held, files) if held.object.bundle => self.bundle(held, files),
            Task::Object(held, files) => {
                let mut reader = self.contents.open_object(held)?;
                files.iter().try_for_each(|file| self.file(&mut reader, &file.stored.path, held))
            }
            Task::Blocks(file) => self.blocks(file),
        }
    }

    /// Hands over those files of a bundle that are wanted.
    fn bundle(&self, held: &Held, files: &[&File]) -> Result<(), BackupError> {
        let broken = |error: io::Error| self.contents.broken(held, error);
        let mut members = Members::new(self.contents.open_object(held)?);
        let mut missing: HashSet<&str> = files.iter().map(|file| file.stored.path.as_str()).collect();
        while let Some(member) = members.advance().map_err(broken)? {
            // A file that changed between two runs of one backup, or since then, is here too, and not wanted.
            if missing.remove(member.name.as_str()) {
                self.file(&mut members, &member.name, held)?;
            }
        }
        match missing.iter().next() {
            None => Ok(()),
            Some(name) => Err(self.contents.wrong(held, &format!("does not hold '{name}'"))),
        }
    }

    /// Puts a file together from the newest content of each block.
    fn blocks(&self, file: &File) -> Result<(), BackupError> {
        let contents = self.contents;
        let held = |part: &Part| &contents.chain.objects[part.object];
        let (mut base, mut layers) = (None, Vec::new());
        for part in file.parts.iter().rev() {
            let reader = contents.open_object(held(part))?;
            if part.blocks { layers.push(reader) } else { base = Some(reader) }
        }
        // A chain gives every file at least one part.
        let Some(newest) = file.parts.first().map(held) else { return Ok(()) };
        let mut overlay = Overlay::new(base, layers, file.stored.size);
        self.file(&mut overlay, &file.stored.path, newest)
    }

    /// Hands one file to the sink and compares it with the manifest.
    fn file(&self, reader: &mut dyn Read, name: &str, held: &Held) -> Result<(), BackupError> {
        let wrong = |detail: &str| {
            let label = &self.contents.chain.owner(held).label;
            damaged(self.contents.archive, label, format!("'{name}' in '{}' {detail}", held.object.stored))
        };
        let expected = self.contents.expected.get(name).ok_or_else(|| wrong("is not in the manifest"))?;
        let mut take = self.sink.begin(name, expected.size)?;
        let (mut size, mut crc) = (0u64, 0u32);
        let read = each_piece::<Halt>(reader, |bytes| {
            size += bytes.len() as u64;
            crc = crc32c::crc32c_append(crc, bytes);
            take(bytes).map_err(Halt::Sink)?;
            self.watcher.advance(bytes.len() as u64);
            Ok(())
        });
        read.map_err(|halt| match halt {
            Halt::Read(error) => self.contents.broken(held, error),
            Halt::Sink(error) => error,
        })?;
        if size != expected.size || manifest::hex(crc) != expected.checksum {
            return Err(wrong(&format!("is not what was stored: {size} bytes, {} expected", expected.size)));
        }
        Ok(())
    }
}

/// A stored object while it is decoded; its errors name it.
struct Decoded<'a> {
    contents: &'a Contents<'a>,
    held: &'a Held,
    reader: Box<dyn Read + Send>,
}

impl Read for Decoded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(self.contents.broken(self.held, error)),
        })
    }
}

/// Why handing over a file ended early.
enum Halt {
    Read(io::Error),
    Sink(BackupError),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Halt::Read(error)
    }
}
