//! Reads the files of a backup back, object by object, each checked against the manifest. Used by verify and restore.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::catalog::{self, Description, Index, Object, damaged};
use super::copy::each_piece;
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
    /// Which file is where.
    pub index: Index,
    /// The text of its manifest.
    pub manifest: Vec<u8>,
    expected: HashMap<String, manifest::Entry>,
}

impl<'a> Contents<'a> {
    /// Reads index and manifest, and checks that they agree.
    pub fn open(archive: &'a Archive, description: &'a Description) -> Result<Self, BackupError> {
        let label = &description.label;
        let wrong = |detail: String| damaged(archive, label, detail);
        let index = catalog::index(archive, description)?;
        let manifest = catalog::read(archive, label, manifest::NAME, u64::MAX)?;
        let manifest = manifest.ok_or_else(|| wrong(format!("{} is missing", manifest::NAME)))?;
        if catalog::sha256_hex(&manifest) != description.manifest_sha256 {
            return Err(wrong(format!("{} is not what was written", manifest::NAME)));
        }
        let text = String::from_utf8_lossy(&manifest);
        let entries = manifest::parse(&text).map_err(|detail| wrong(format!("{}: {detail}", manifest::NAME)))?;
        let expected: HashMap<_, _> = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        let held = index.objects.iter().flat_map(|object| &object.files).count();
        // The label stands beside the objects.
        if held + 1 != expected.len() {
            return Err(wrong(format!("its index names {held} files, its manifest {}", expected.len())));
        }
        Ok(Contents { archive, description, index, manifest, expected })
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

    /// Reads every object, several at once, the largest first. All are read, whatever is wrong with one; the first
    /// trouble is given back, unless `all` collects them.
    pub fn read_all(&self, jobs: usize, sink: &dyn Sink, watcher: &dyn Watcher) -> Vec<BackupError> {
        let mut objects: Vec<&Object> = self.index.objects.iter().collect();
        objects.sort_by_key(|object| std::cmp::Reverse(object.bytes));
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let errors = Mutex::new(Vec::new());
        watcher.begin(self.description.size);
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, objects.len().max(1)) {
                scope.spawn(|| {
                    while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(error) = self.object(object, sink, watcher) {
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

    fn object(&self, object: &Object, sink: &dyn Sink, watcher: &dyn Watcher) -> Result<(), BackupError> {
        let label = &self.description.label;
        let path = label.path(&object.stored)?;
        let wrong = |detail: String| damaged(self.archive, label, format!("'{}' {detail}", object.stored));
        let stored = self.archive.store.open(&path)?.ok_or_else(|| wrong("is missing".to_owned()))?;
        let encoding = Encoding::split(&object.stored).1;
        // Names of files that are stored plainly may end as encoded ones do.
        let encoding = if self.description.encoding == Encoding::None { Encoding::None } else { encoding };
        let broken = |error: io::Error| match error.downcast::<StoreError>() {
            Ok(error) => BackupError::Store(error),
            Err(error) => wrong(format!("cannot be decoded: {error}")),
        };
        let mut reader = encoding.decoder(stored).map_err(broken)?;
        if !object.bundle {
            let name = object.files.first().map(|file| file.path.as_str()).unwrap_or_default();
            return self.file(&mut reader, name, object, sink, watcher, &broken);
        }
        let mut members = Members::new(reader);
        let mut missing: HashMap<&str, ()> = object.files.iter().map(|file| (file.path.as_str(), ())).collect();
        while let Some(member) = members.advance().map_err(broken)? {
            // A file that changed between two runs of one backup is here too, and not part of it.
            if missing.remove(member.name.as_str()).is_some() {
                self.file(&mut members, &member.name, object, sink, watcher, &broken)?;
            }
        }
        match missing.keys().next() {
            None => Ok(()),
            Some(name) => Err(wrong(format!("does not hold '{name}'"))),
        }
    }

    /// Hands one file to the sink and compares it with the manifest.
    fn file(
        &self,
        reader: &mut dyn Read,
        name: &str,
        object: &Object,
        sink: &dyn Sink,
        watcher: &dyn Watcher,
        broken: &dyn Fn(io::Error) -> BackupError,
    ) -> Result<(), BackupError> {
        let wrong = |detail: String| {
            damaged(self.archive, &self.description.label, format!("'{name}' in '{}' {detail}", object.stored))
        };
        let expected = self.expected.get(name).ok_or_else(|| wrong("is not in the manifest".to_owned()))?;
        let mut take = sink.begin(name, expected.size)?;
        let (mut size, mut crc) = (0u64, 0u32);
        let read = each_piece::<Halt>(reader, |bytes| {
            size += bytes.len() as u64;
            crc = crc32c::crc32c_append(crc, bytes);
            take(bytes).map_err(Halt::Sink)?;
            watcher.advance(bytes.len() as u64);
            Ok(())
        });
        read.map_err(|halt| match halt {
            Halt::Read(error) => broken(error),
            Halt::Sink(error) => error,
        })?;
        if size != expected.size || manifest::hex(crc) != expected.checksum {
            return Err(wrong(format!("is not what was stored: {size} bytes, {} expected", expected.size)));
        }
        Ok(())
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
