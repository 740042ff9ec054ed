//! A place in memory, for tests: it knows what a power failure would leave.
//!
//! It keeps two states apart: what programs see, and what is durable. A file's content becomes durable by its own
//! fsync, a name by the fsync of its folder. Publishing is done in the same steps as on a disk; [`MemoryStore::crash`]
//! drops what was not durable, and [`MemoryStore::crash_at`] does so before a given step.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::{Entry, EntryKind, Payload, Place, Published, Space, Store, StoreError, StorePath, claim};

/// One archive in memory.
#[derive(Debug)]
pub struct MemoryStore {
    place: Place,
    disk: Mutex<Disk>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Folder,
}

/// A file's content: what is seen, and what a crash leaves of it.
#[derive(Debug, Clone)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    modified: SystemTime,
}

#[derive(Debug, Default)]
struct Disk {
    root_gone: bool,
    contents: Vec<Content>,
    seen: BTreeMap<StorePath, Node>,
    durable: BTreeMap<StorePath, Node>,
    steps: u64,
    crash_at: Option<u64>,
    sync_fails: Option<StorePath>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let place = Place { node: "memory".to_owned(), location: "memory".to_owned() };
        MemoryStore { place, disk: Mutex::default() }
    }
}

impl MemoryStore {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// A power failure: what was not durable is gone.
    pub fn crash(&self) {
        self.disk().crash();
    }

    /// Lets the power fail before the step with this number, counted from now; the call under way fails.
    pub fn crash_at(&self, step: u64) {
        let mut disk = self.disk();
        disk.steps = 0;
        disk.crash_at = Some(step);
    }

    /// Lets the next fsync of this folder fail while its names stay to be seen.
    pub fn fail_next_sync_of_folder(&self, folder: &str) {
        self.disk().sync_fails = folder.parse().ok();
    }

    /// True while the crash that was asked for has not come.
    pub fn crash_pending(&self) -> bool {
        self.disk().crash_at.is_some()
    }

    /// Takes the root away, as an unmounted volume does.
    pub fn remove_root(&self) {
        self.disk().root_gone = true;
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, while its root is there.
    fn mounted(&self) -> Result<MutexGuard<'_, Disk>, StoreError> {
        let disk = self.disk();
        if disk.root_gone {
            return Err(StoreError::RootMissing { place: self.place.clone(), directory: "memory".to_owned() });
        }
        Ok(disk)
    }

    fn error(&self, action: &'static str, path: &StorePath, reason: io::Error) -> StoreError {
        StoreError::io(&self.place, action, path.as_str(), reason)
    }

    fn damaged(&self, path: &StorePath) -> StoreError {
        let detail = "what arrived is not what was announced".to_owned();
        StoreError::Damaged { place: self.place.clone(), path: path.to_string(), detail }
    }

    /// Makes a file of its own, durable in content.
    fn write(&self, disk: &mut Disk, bytes: Vec<u8>) -> io::Result<usize> {
        disk.step()?;
        disk.contents.push(Content { seen: bytes, durable: Vec::new(), modified: SystemTime::now() });
        let file = disk.contents.len() - 1;
        disk.sync_file(file)?;
        Ok(file)
    }
}

impl Disk {
    fn crash(&mut self) {
        self.crash_at = None;
        let known: BTreeSet<StorePath> = self.durable.keys().cloned().collect();
        let reachable = |path: &StorePath| {
            let mut folder = path.folder();
            while let Some(above) = folder {
                if above.folder().is_some() && !known.contains(&above) {
                    return false;
                }
                folder = above.folder();
            }
            true
        };
        self.durable.retain(|path, _| reachable(path));
        self.seen = self.durable.clone();
        for content in &mut self.contents {
            content.seen = content.durable.clone();
        }
    }

    /// Counts a step, before which the power may fail.
    fn step(&mut self) -> io::Result<()> {
        if self.crash_at == Some(self.steps) {
            self.crash();
            return Err(io::Error::other("the power failed"));
        }
        self.steps += 1;
        Ok(())
    }

    fn sync_file(&mut self, file: usize) -> io::Result<()> {
        self.step()?;
        self.contents[file].durable = self.contents[file].seen.clone();
        Ok(())
    }

    fn sync_folder(&mut self, folder: &StorePath) -> io::Result<()> {
        self.step()?;
        if self.sync_fails.take_if(|fails| fails == folder).is_some() {
            return Err(io::Error::other("the disk could not keep it"));
        }
        self.durable.retain(|path, _| path.folder().as_ref() != Some(folder));
        let names: Vec<_> = self.seen.iter().filter(|(path, _)| path.folder().as_ref() == Some(folder)).collect();
        self.durable.extend(names.into_iter().map(|(path, node)| (path.clone(), *node)));
        Ok(())
    }

    /// What is at a path; the root is always a folder.
    fn node(&self, path: &StorePath) -> Option<Node> {
        if path.folder().is_none() { Some(Node::Folder) } else { self.seen.get(path).copied() }
    }

    /// Makes a folder and those above it, each durable.
    fn make_folder(&mut self, folder: &StorePath) -> io::Result<()> {
        let Some(above) = folder.folder() else { return Ok(()) };
        self.make_folder(&above)?;
        match self.node(folder) {
            Some(Node::Folder) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => {
                self.step()?;
                self.seen.insert(folder.clone(), Node::Folder);
            }
        }
        self.sync_folder(&above)
    }

    fn file(&self, path: &StorePath) -> io::Result<Option<usize>> {
        match self.node(path) {
            Some(Node::File(file)) => Ok(Some(file)),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Ok(None),
        }
    }

    fn entry(&self, path: &StorePath, node: Node) -> Entry {
        let name = path.file_name().to_owned();
        match node {
            Node::Folder => Entry { name, kind: EntryKind::Folder, size: 0, modified: SystemTime::UNIX_EPOCH },
            Node::File(file) => {
                let content = &self.contents[file];
                let size = content.seen.len() as u64;
                Entry { name, kind: EntryKind::File, size, modified: content.modified }
            }
        }
    }
}

/// The folder that a file is to stand in.
fn folder_of(path: &StorePath) -> io::Result<StorePath> {
    path.folder().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Store for MemoryStore {
    fn place(&self) -> &Place {
        &self.place
    }

    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError> {
        let disk = self.mounted()?;
        Ok(disk.node(path).map(|node| disk.entry(path, node)))
    }

    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError> {
        let disk = self.mounted()?;
        match disk.node(folder) {
            None => return Ok(None),
            Some(Node::File(_)) => return Err(self.error("list", folder, io::ErrorKind::NotADirectory.into())),
            Some(Node::Folder) => {}
        }
        let inside = disk.seen.iter().filter(|(path, _)| path.folder().as_ref() == Some(folder));
        Ok(Some(inside.map(|(path, node)| disk.entry(path, *node)).collect()))
    }

    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let disk = self.mounted()?;
        let file = disk.file(path).map_err(|e| self.error("open", path, e))?;
        Ok(file.map(|file| Box::new(Cursor::new(disk.contents[file].seen.clone())) as Box<dyn Read + Send>))
    }

    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError> {
        let taken = |disk: &Disk| std::iter::once(path).chain(rivals).find(|path| disk.node(path).is_some()).cloned();
        if let Some(taken) = taken(&*self.mounted()?) {
            return Ok(Published::Occupied(taken));
        }
        claim::refusal(self, path)?;
        let mut disk = self.mounted()?;
        if let Some(taken) = taken(&disk) {
            return Ok(Published::Occupied(taken));
        }
        let unreadable = |source| StoreError::Payload { path: payload.file.display().to_string(), source };
        let mut bytes = Vec::new();
        payload.open().and_then(|mut file| file.read_to_end(&mut bytes)).map_err(unreadable)?;
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        if bytes.len() as u64 != payload.size || hash != payload.sha256() {
            return Err(self.damaged(path));
        }
        let act = || {
            let folder = folder_of(path)?;
            disk.make_folder(&folder)?;
            let file = self.write(&mut disk, bytes)?;
            disk.step()?;
            disk.seen.insert(path.clone(), Node::File(file));
            disk.sync_folder(&folder)
        };
        act().map_err(|e| self.error("publish", path, e))?;
        Ok(Published::New)
    }

    fn settle(&self, path: &StorePath) -> Result<bool, StoreError> {
        let mut disk = self.mounted()?;
        let mut act = || {
            let Some(file) = disk.file(path)? else { return Ok(false) };
            disk.sync_file(file)?;
            let folder = folder_of(path)?;
            disk.make_folder(&folder)?;
            disk.sync_folder(&folder)?;
            Ok(true)
        };
        act().map_err(|e| self.error("make durable", path, e))
    }

    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError> {
        let mut disk = self.mounted()?;
        let mut act = || {
            disk.file(path)?;
            let folder = folder_of(path)?;
            disk.make_folder(&folder)?;
            let file = self.write(&mut disk, content.to_vec())?;
            disk.step()?;
            disk.seen.insert(path.clone(), Node::File(file));
            disk.sync_folder(&folder)
        };
        act().map_err(|e| self.error("replace", path, e))
    }

    fn remove(&self, path: &StorePath) -> Result<bool, StoreError> {
        let mut disk = self.mounted()?;
        let mut act = || {
            let folder = folder_of(path)?;
            if disk.node(path).is_none() {
                disk.sync_folder(&folder)?;
                return Ok(false);
            }
            if disk.seen.keys().any(|inside| inside.folder().as_ref() == Some(path)) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            disk.step()?;
            disk.seen.remove(path);
            disk.sync_folder(&folder)?;
            Ok(true)
        };
        act().map_err(|e| self.error("remove", path, e))
    }

    fn space(&self) -> Result<Space, StoreError> {
        drop(self.mounted()?);
        Ok(Space { free: 1 << 40, total: 1 << 41 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[test]
    fn it_passes_the_suite() {
        conformance::suite(&mut || Box::new(MemoryStore::new()));
    }

    #[test]
    fn without_its_root_it_cannot_tell() {
        let store = MemoryStore::new();
        conformance::root_gone(&store, || store.remove_root());
    }

    #[test]
    fn a_crash_drops_what_was_not_durable() -> Result<(), StoreError> {
        let store = MemoryStore::new();
        let path: StorePath = "a/b".parse()?;
        // Steps: folder, its name, content, fsync of it, name, fsync of the folder; the last one is left out.
        store.crash_at(5);
        let payload = conformance::TestFile::new(b"content");
        assert!(store.publish(&path, &payload.payload, &[]).is_err());
        assert!(!store.crash_pending());
        assert_eq!(store.look(&path)?, None);
        assert_eq!(store.publish(&path, &payload.payload, &[])?, Published::New);
        store.crash();
        assert!(store.look(&path)?.is_some());
        Ok(())
    }
}
