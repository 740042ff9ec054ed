//! A place on this machine: a directory that holds an archive.
//!
//! The directory is held open and every path is opened beneath it without following symbolic links. It is never
//! created, and where it is gone, or another directory stands in its stead, every answer is an error, never "absent";
//! a caller that lives long then opens the store anew. Files are 0600, folders 0700. Writers of one folder agree by a
//! short lock on it, readers take none. What a killed writer left behind under a temporary name is swept after a day.

mod beneath;
mod claims;
mod folder_lock;
mod incoming;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat};
use rustix::io::Errno;

use self::beneath::{Beneath, Identity, stat_at};
use self::claims::Claims;
pub use self::incoming::Incoming;
use super::path::{TEMPORARY_PREFIX, is_component};
use super::{Entry, EntryKind, Payload, Place, Published, Space, Store, StoreError, StorePath};
use crate::system::durable::{self, TemporaryFile};

/// A file under a temporary name that was not written for so long belongs to nobody.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(86_400);

/// How much is read at once while copying, in bytes.
const COPY_SIZE: usize = 256 << 10;

/// A directory of this machine that holds an archive.
#[derive(Debug)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

/// What a store and the files on their way into it share.
#[derive(Debug)]
struct Inner {
    place: Place,
    beneath: Beneath,
    /// Folders that this process has made durable up to the root, and swept. Known by identity: one that was removed
    /// and made anew by somebody else is looked at again.
    known: Mutex<HashMap<StorePath, Identity>>,
    claims: Claims,
}

impl LocalStore {
    /// Opens the archive at `root`, which must be there and be a directory.
    pub fn open(root: &Path, place: Place) -> Result<LocalStore, StoreError> {
        match Beneath::open_root(root) {
            Ok(beneath) => {
                let (known, claims) = (Mutex::default(), Claims::default());
                Ok(LocalStore { inner: Arc::new(Inner { place, beneath, known, claims }) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::RootMissing { place, directory: root.display().to_string() })
            }
            Err(error) => Err(StoreError::io(&place, "open", &root.display().to_string(), error)),
        }
    }

    /// Begins to receive a file piece by piece; its folder is made where it is missing.
    pub fn begin(&self, path: &StorePath) -> Result<Incoming, StoreError> {
        let inner = &self.inner;
        inner.in_folder(path, |folder| Incoming::begin(Arc::clone(inner), path, folder))
    }

    /// The first of `path` and its rivals that is there, if any: what spares a copy that could not be published.
    pub fn occupied(&self, path: &StorePath, rivals: &[StorePath]) -> Result<Option<StorePath>, StoreError> {
        self.inner.confirm()?;
        for path in std::iter::once(path).chain(rivals) {
            if self.inner.stat(path)?.is_some() {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// Reads an open folder; none where it does not exist.
    fn read_folder<T>(
        &self,
        folder: &StorePath,
        read: impl Fn(&OwnedFd) -> io::Result<Vec<T>>,
    ) -> Result<Option<Vec<T>>, StoreError> {
        self.inner.confirm()?;
        let error = |e| self.inner.error("list", folder, e);
        let found = match self.inner.beneath.open(folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(open) => Some(read(&open).map_err(error)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(error(e)),
        };
        // A directory that is gone lists as empty through a descriptor that was opened before.
        self.inner.confirm()?;
        Ok(found)
    }
}

impl Store for LocalStore {
    fn place(&self) -> &Place {
        &self.inner.place
    }

    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError> {
        self.inner.confirm()?;
        match self.inner.stat(path)? {
            Some(stat) => Ok(Some(entry(path.file_name().to_owned(), &stat))),
            None => self.inner.absent(),
        }
    }

    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError> {
        self.read_folder(folder, entries)
    }

    fn folders(&self, folder: &StorePath) -> Result<Option<Vec<String>>, StoreError> {
        self.read_folder(folder, folders)
    }

    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        match self.inner.open_file(path)? {
            Some(file) => Ok(Some(Box::new(file))),
            None => self.inner.absent(),
        }
    }

    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError> {
        if let Some(taken) = self.occupied(path, rivals)? {
            return Ok(Published::Occupied(taken));
        }
        let incoming = self.begin(path)?;
        if let Some(memory) = &payload.memory {
            return incoming.store(memory, rivals);
        }
        let unreadable = |source| StoreError::Payload { path: payload.file.display().to_string(), source };
        let (mut incoming, mut source) = (incoming, payload.open().map_err(unreadable)?);
        let mut buffer = vec![0u8; COPY_SIZE];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return incoming.commit(payload.size, payload.sha256(), rivals),
                Ok(count) => incoming.write(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }

    fn settle(&self, path: &StorePath) -> Result<bool, StoreError> {
        let Some(file) = self.inner.open_file(path)? else {
            return Ok(self.inner.absent::<()>()?.is_some());
        };
        durable::sync(&file).map_err(|e| self.inner.error("make durable", path, e))?;
        self.inner.in_folder(path, durable::sync)?;
        Ok(true)
    }

    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError> {
        self.inner.in_folder(path, |folder| {
            let mut temporary = TemporaryFile::create_at(folder)?;
            temporary.file_mut().write_all(content)?;
            temporary.replace(path.file_name())
        })
    }

    fn remove(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.inner.confirm()?;
        let error = |e| self.inner.error("remove", path, e);
        let Some(folder) = path.folder() else {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is the root of the archive")));
        };
        match self.inner.beneath.open(&folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => {
                let removed = self.inner.remove_at(&folder, path).map_err(error)?;
                // Also where it is absent: an earlier run may have removed it and died before this.
                durable::sync(&folder).map_err(error)?;
                self.inner.confirm()?;
                Ok(removed)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(self.inner.absent::<()>()?.is_some()),
            Err(e) => Err(error(e)),
        }
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.inner.confirm()?;
        let system = rustix::fs::fstatvfs(self.inner.beneath.root());
        let system = system.map_err(|e| self.inner.error("measure", &StorePath::root(), e.into()))?;
        Ok(Space { free: system.f_bavail * system.f_frsize, total: system.f_blocks * system.f_frsize })
    }
}

impl Inner {
    /// Names the place and the file in an error of the file system; the root goes by its directory.
    fn error(&self, action: &'static str, path: &StorePath, error: io::Error) -> StoreError {
        let root = self.beneath.path().display().to_string();
        let path = if path.as_str().is_empty() { &root } else { path.as_str() };
        StoreError::io(&self.place, action, path, error)
    }

    /// Makes sure that the directory is still the one that was opened.
    fn confirm(&self) -> Result<(), StoreError> {
        match self.beneath.still_there() {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.error(
                "use",
                &StorePath::root(),
                io::Error::other("another directory stands there now; a volume may have been mounted or unmounted"),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::RootMissing {
                place: self.place.clone(),
                directory: self.beneath.path().display().to_string(),
            }),
            Err(error) => Err(self.error("find", &StorePath::root(), error)),
        }
    }

    /// The answer "absent", given only while the root is there: in a directory that is gone, nothing is found.
    fn absent<T>(&self) -> Result<Option<T>, StoreError> {
        self.confirm().map(|()| None)
    }

    /// Fails where a claim closes the store to a file.
    fn admit(&self, path: &StorePath) -> Result<(), StoreError> {
        match self.claims.refusal(&self.beneath, path) {
            Ok(None) => Ok(()),
            Ok(Some(claim)) => Err(StoreError::superseded(&self.place, path, &claim)),
            Err(error) => Err(self.error("store", path, error)),
        }
    }

    fn stat(&self, path: &StorePath) -> Result<Option<Stat>, StoreError> {
        self.beneath.stat(path).map_err(|e| self.error("look up", path, e))
    }

    /// Opens a regular file for reading; `None` where nothing is there.
    fn open_file(&self, path: &StorePath) -> Result<Option<File>, StoreError> {
        self.confirm()?;
        // Without NONBLOCK, opening a pipe that somebody put there would wait for its writer.
        let file = match self.beneath.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error("open", path, error)),
        };
        let metadata = file.metadata().map_err(|e| self.error("open", path, e))?;
        if !metadata.is_file() {
            return Err(self.error("open", path, io::Error::other("it is no regular file")));
        }
        Ok(Some(file))
    }

    /// Does something in the folder of `path`, given as a descriptor of its own, once it is there and durable.
    fn in_folder<T>(&self, path: &StorePath, act: impl Fn(OwnedFd) -> io::Result<T>) -> Result<T, StoreError> {
        self.confirm()?;
        let Some(folder) = path.folder() else {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "it is the root of the archive");
            return Err(self.error("write", path, reason));
        };
        let mut tries = 0;
        loop {
            match self.settled_folder(&folder).and_then(&act) {
                // Whoever removes empty folders may have taken this one away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 3 => tries += 1,
                other => return other.map_err(|e| self.error("write", path, e)),
            }
            self.confirm()?;
        }
    }

    /// Opens a folder that is durable up to the root; makes it where it is missing.
    fn settled_folder(&self, folder: &StorePath) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Ok(open) = self.beneath.open(folder, flags) {
            let identity = Identity::of_file(&open)?;
            if self.known.lock().unwrap_or_else(PoisonError::into_inner).get(folder) == Some(&identity) {
                return Ok(open);
            }
        }
        let mut path = StorePath::root();
        let mut open = self.beneath.open(&path, flags)?;
        for component in folder.components() {
            // Also where it is there: whoever made it may have died before its name was durable.
            durable::create_directory_at(&open, component)?;
            path = path.join(component).map_err(io::Error::other)?;
            open = self.beneath.open(&path, flags)?;
        }
        durable::sync(&open)?;
        sweep(&open)?;
        let identity = Identity::of_file(&open)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone(), identity);
        Ok(open)
    }

    /// Removes one name from an open folder; `false` where it is absent.
    fn remove_at(&self, folder: &OwnedFd, path: &StorePath) -> io::Result<bool> {
        let name = path.file_name();
        let Some(stat) = stat_at(folder, name)? else { return Ok(false) };
        let flags = match kind(&stat) {
            EntryKind::File => AtFlags::empty(),
            EntryKind::Folder => {
                // What killed writers left there must not keep an otherwise empty folder for ever.
                sweep(&self.beneath.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
                AtFlags::REMOVEDIR
            }
            EntryKind::Other => return Err(io::Error::other("it is neither a file nor a folder")),
        };
        match rustix::fs::unlinkat(folder, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads the names of the folders in an open folder that belong to the archive. Most file systems tell them from files
/// without a look at each.
fn folders(folder: &OwnedFd) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_string_lossy();
        let is_folder = match item.file_type() {
            FileType::Directory => true,
            FileType::Unknown => stat_at(folder, &name)?.is_some_and(|stat| kind(&stat) == EntryKind::Folder),
            _ => false,
        };
        if is_folder && is_component(&name) {
            found.push(name.into_owned());
        }
    }
    Ok(found)
}

/// Reads the entries of an open folder that belong to the archive.
fn entries(folder: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        // A file that vanishes while the folder is read is as good as listed before it came.
        let Some(stat) = stat_at(folder, &name)? else { continue };
        found.push(entry(name.into_owned(), &stat));
    }
    Ok(found)
}

/// Removes the temporary files of writers that died long ago.
fn sweep(folder: &OwnedFd) -> io::Result<()> {
    for item in Dir::read_from(folder)? {
        let item = item?;
        let Ok(name) = item.file_name().to_str() else { continue };
        if !name.starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let Some(stat) = stat_at(folder, name)? else { continue };
        let age = SystemTime::now().duration_since(modified(&stat)).unwrap_or_default();
        if kind(&stat) == EntryKind::File && age > TEMPORARY_AGE_MAX {
            match rustix::fs::unlinkat(folder.as_fd(), name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Describes what was found; a name that no path can hold is not ours, whatever it names.
fn entry(name: String, stat: &Stat) -> Entry {
    let ours = name.is_empty() || is_component(&name);
    let kind = if ours { kind(stat) } else { EntryKind::Other };
    Entry { name, kind, size: stat.st_size.try_into().unwrap_or(0), modified: modified(stat) }
}

fn kind(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        _ => EntryKind::Other,
    }
}

fn modified(stat: &Stat) -> SystemTime {
    let part = Duration::from_nanos(stat.st_mtime_nsec);
    match u64::try_from(stat.st_mtime) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + part,
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(stat.st_mtime.unsigned_abs()) + part,
    }
}

#[cfg(test)]
mod tests;
