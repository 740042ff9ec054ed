//! What the far end needs beyond a store: taking a file in piece by piece, as it arrives.

use crate::store::local::{self, LocalStore};
use crate::store::{Published, Store, StoreError, StorePath};

/// A store that takes a file in piece by piece.
pub trait Depot: Store {
    /// Begins a file: a temporary name in its folder. Dropped before the commit, it leaves nothing.
    fn begin(&self, path: &StorePath) -> Result<Box<dyn Incoming>, StoreError>;
}

/// A file on its way in.
pub trait Incoming: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Checks size and hash, makes the file durable and publishes it without clobbering: [`Store::publish`].
    fn commit(self: Box<Self>, size: u64, sha256: [u8; 32], rivals: &[StorePath]) -> Result<Published, StoreError>;
}

impl Depot for LocalStore {
    fn begin(&self, path: &StorePath) -> Result<Box<dyn Incoming>, StoreError> {
        Ok(Box::new(LocalStore::begin(self, path)?))
    }
}

impl Incoming for local::Incoming {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        local::Incoming::write(self, bytes)
    }

    fn commit(self: Box<Self>, size: u64, sha256: [u8; 32], rivals: &[StorePath]) -> Result<Published, StoreError> {
        local::Incoming::commit(*self, size, sha256, rivals)
    }
}
