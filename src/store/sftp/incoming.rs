//! A file on its way in, as `serve-archive` takes it: kept on this machine until it is whole, then published.
//!
//! What is there already need not be sent at all, and the session is lent out for one publish, not for as long as the
//! near end takes to send.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::SftpStore;
use crate::error::{Class, Failure};
use crate::store::serve::{Depot, Incoming};
use crate::store::{Encoding, Payload, Published, Store, StoreError, StorePath};
use crate::system::durable::TemporaryFile;

/// How much of a file stays in memory, in bytes: a segment of the usual size.
const MEMORY_MAX: usize = 16 << 20;

/// Where the rest of a larger one goes: on a disk, unlike /tmp on many machines.
const FOLDER: &str = "/var/tmp";

impl Depot for SftpStore {
    fn begin(&self, path: &StorePath) -> Result<Box<dyn Incoming>, StoreError> {
        let (store, path) = (self.clone(), path.clone());
        Ok(Box::new(Collected { store, path, memory: Vec::new(), file: None, hash: Sha256::new(), size: 0 }))
    }
}

/// What has arrived of a file.
struct Collected {
    store: SftpStore,
    path: StorePath,
    memory: Vec<u8>,
    /// Has no name, so that it is gone however this process ends; holds everything once it is there.
    file: Option<File>,
    hash: Sha256,
    size: u64,
}

impl Collected {
    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.memory.len() + bytes.len() <= MEMORY_MAX {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        if self.file.is_none() {
            // Its name goes at once, with the temporary file.
            let mut file = TemporaryFile::create_in(Path::new(FOLDER))?.file_mut().try_clone()?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }
}

impl Incoming for Collected {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.keep(bytes).map_err(|error| {
            let message = format!("cannot keep '{}' in '{FOLDER}' of this machine on its way: {error}", self.path);
            let failure = Failure::new(Class::Storage, message).hinted(format!("See to room and rights in {FOLDER}."));
            StoreError::Remote { place: self.store.place().clone(), failure }
        })
    }

    fn commit(self: Box<Self>, size: u64, sha256: [u8; 32], rivals: &[StorePath]) -> Result<Published, StoreError> {
        let hash: [u8; 32] = self.hash.clone().finalize().into();
        if self.size != size || hash != sha256 {
            let (place, path) = (self.store.place().clone(), self.path.to_string());
            let detail = format!("the {} bytes sent are not the {size} that were announced", self.size);
            return Err(StoreError::Damaged { place, path, detail });
        }
        let payload = match &self.file {
            // A file without a name is opened again through its descriptor.
            Some(file) => {
                let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                Payload::hashed(path, size, sha256, Encoding::None)
            }
            None => Payload::in_memory(PathBuf::new(), self.memory, Encoding::None),
        };
        self.store.publish(&self.path, &payload, rivals)
    }
}
