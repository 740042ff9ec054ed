//! A file on its way into a local store: written piece by piece, then committed whole or not at all.

use std::fmt;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Inner;
use super::beneath::stat_at;
use super::folder_lock::FolderLock;
use crate::store::{Published, StoreError, StorePath};
use crate::system::durable::{Publication, TemporaryFile};

/// How long the lock of a folder may be held by others; it is held for a few system calls at a time.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);

/// A file that is being received. Dropped before [`Incoming::commit`], it leaves nothing.
pub struct Incoming {
    inner: Arc<Inner>,
    path: StorePath,
    temporary: TemporaryFile,
    hash: Sha256,
    size: u64,
}

impl Incoming {
    /// Begins in an open folder, which must be a descriptor of its own: the lock belongs to it.
    pub(super) fn begin(inner: Arc<Inner>, path: &StorePath, folder: OwnedFd) -> std::io::Result<Self> {
        let temporary = TemporaryFile::create_at(folder)?;
        Ok(Incoming { inner, path: path.clone(), temporary, hash: Sha256::new(), size: 0 })
    }

    /// Writes the next bytes, under a temporary name.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.temporary.file_mut().write_all(bytes).map_err(|e| self.inner.error("write", &self.path, e))?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Writes the whole file from memory and commits it. The bytes are compared with nothing: they are written from the
    /// very memory that a hash would be made of.
    pub(super) fn store(mut self, bytes: &[u8], rivals: &[StorePath]) -> Result<Published, StoreError> {
        self.temporary.file_mut().write_all(bytes).map_err(|e| self.inner.error("write", &self.path, e))?;
        self.publish(rivals)
    }

    /// Compares what arrived with size (bytes) and hash, makes it durable and gives it its name, unless the name or one
    /// of the `rivals` is taken. May run on another thread than the writes.
    pub fn commit(mut self, size: u64, sha256: [u8; 32], rivals: &[StorePath]) -> Result<Published, StoreError> {
        self.verify(size, sha256)?;
        self.publish(rivals)
    }

    fn publish(mut self, rivals: &[StorePath]) -> Result<Published, StoreError> {
        self.temporary.sync_content().map_err(|e| self.inner.error("make durable", &self.path, e))?;
        self.inner.confirm()?;
        let lock = self.lock()?;
        if let Some(taken) = self.taken(rivals)? {
            return Ok(Published::Occupied(taken));
        }
        self.inner.admit(&self.path)?;
        let name = self.path.file_name();
        let publication = self.temporary.take_name(name).map_err(|e| self.inner.error("publish", &self.path, e))?;
        drop(lock);
        if publication == Publication::Occupied {
            return Ok(Published::Occupied(self.path.clone()));
        }
        self.temporary.sync_folder().map_err(|e| self.inner.error("make durable", &self.path, e))?;
        Ok(Published::New)
    }

    /// Compares what arrived with what was sent.
    fn verify(&mut self, size: u64, sha256: [u8; 32]) -> Result<(), StoreError> {
        let damaged = |detail: String| StoreError::Damaged {
            place: self.inner.place.clone(),
            path: self.path.to_string(),
            detail,
        };
        if self.size != size {
            return Err(damaged(format!("{} bytes arrived of {size}", self.size)));
        }
        let arrived: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        if arrived != sha256 {
            return Err(damaged("its hash (SHA-256) is not the one that was announced".to_owned()));
        }
        Ok(())
    }

    /// The first of the path and its rivals that is there.
    fn taken(&self, rivals: &[StorePath]) -> Result<Option<StorePath>, StoreError> {
        for path in std::iter::once(&self.path).chain(rivals) {
            let found = if path.folder() == self.path.folder() {
                stat_at(self.temporary.folder(), path.file_name())
            } else {
                self.inner.beneath.stat(path)
            };
            if found.map_err(|e| self.inner.error("look up", path, e))?.is_some() {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// Locks the folder against other writers: two encodings of one file must not both find the other absent.
    fn lock(&self) -> Result<FolderLock, StoreError> {
        let lock = FolderLock::wait(self.temporary.folder(), self.inner.beneath.root(), LOCK_WAIT_MAX);
        lock.map_err(|e| self.inner.error("lock the folder of", &self.path, e))?.ok_or_else(|| StoreError::Timeout {
            place: self.inner.place.clone(),
            action: "give way to another writer of",
            path: self.path.to_string(),
            after: LOCK_WAIT_MAX,
        })
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {} bytes)", self.path, self.size)
    }
}
