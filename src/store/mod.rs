//! Places that hold files.
//!
//! A [`Store`] is one archive of one cluster in one place: a directory on this machine, or one behind ssh. It knows
//! nothing of WAL: it keeps files under relative paths, durably, and never overwrites one that it has published.
//! Every answer is one of three: present, absent (`None`), or cannot tell (`Err`). An error is never absence.
//!
//! All implementations pass one conformance suite (`conformance`), the test stores included.

use std::fmt;
use std::io::Read;
use std::time::SystemTime;

pub mod claim;
pub mod encoding;
pub mod frames;
pub mod local;
pub mod path;
pub mod payload;
pub mod serve;
pub mod sftp;
pub mod ship;
pub mod ssh;
pub mod wire;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
pub mod faulty;
#[cfg(test)]
pub mod memory;

mod error;

pub use encoding::Encoding;
pub use error::StoreError;
pub use path::StorePath;
pub use payload::Payload;
pub use ship::{Shipped, ship};

/// Which place a store is, for messages: the node that holds it, and where on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The node's name in the configuration.
    pub node: String,
    /// Where it is, as an operator would look for it: a directory, or `user@host:directory`.
    pub location: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "archive of {} ({})", self.node, self.location)
    }
}

/// A file or a folder in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last component of its path.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its size as stored, in bytes.
    pub size: u64,
    /// When it was last written, by the clock of the machine that holds it.
    pub modified: SystemTime,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Anything else: never ours, never touched.
    Other,
}

/// How [`Store::publish`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The file is now there, whole and durable.
    New,
    /// Nothing was written: this path was there before.
    Occupied(StorePath),
}

/// How much room a place has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged user may still write.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

/// One archive of one cluster in one place.
///
/// Calls may come from several threads at once. Each has a deadline of its own, set when the store was opened. Opening
/// fails where the root is missing: no call ever creates it, since a missing root is usually a volume not mounted.
pub trait Store: Send + Sync {
    /// Which place this is.
    fn place(&self) -> &Place;

    /// Looks up one file or folder.
    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError>;

    /// Lists one folder, in no order, temporary files left out; `None` where the folder does not exist.
    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError>;

    /// The names of the folders in one folder, in no order; `None` where the folder does not exist. Where a store can
    /// tell them from files without a look at each, this costs less than a listing.
    fn folders(&self, folder: &StorePath) -> Result<Option<Vec<String>>, StoreError> {
        let folders = |entries: Vec<Entry>| entries.into_iter().filter(|entry| entry.kind == EntryKind::Folder);
        Ok(self.list(folder)?.map(|entries| folders(entries).map(|entry| entry.name).collect()))
    }

    /// Opens a file for reading as stored; a read error means cannot tell, never the end of the file.
    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError>;

    /// Makes the payload exist under `path`, once, whole and durable, unless it or one of its `rivals` (the same file
    /// in another encoding) is there already: temporary name in the same folder, copy while hashing, compare hash and
    /// size, fsync, publish without clobbering, fsync the folder. Missing folders are made, and made durable.
    ///
    /// WAL that a [`claim`] closes is not taken: [`StoreError::Superseded`].
    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError>;

    /// Makes a file that is already there durable: fsync of the file and of its folder. `false` where it is absent.
    fn settle(&self, path: &StorePath) -> Result<bool, StoreError>;

    /// Writes a small record that may change (never WAL, never a backup) by rename over the old one, durably.
    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError>;

    /// Removes a file, or a folder that is empty, durably. `false` where it is absent.
    fn remove(&self, path: &StorePath) -> Result<bool, StoreError>;

    /// How much room there is.
    fn space(&self) -> Result<Space, StoreError>;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.place())
    }
}
