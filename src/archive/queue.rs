//! What waits for a place that is down: a folder a place, hard links to one payload, drained oldest first.
//!
//! A file in a queue is durable on this machine. It leaves the queue only when the place holds it, durably; or for the
//! quarantine, where the place refuses it for good and this node has left its timeline.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ArchiveError;
use super::dispute;
use super::layout;
use super::places::Archive;
use super::prove::prove;
use super::spool::{Spool, remove_if_there};
use super::superseded;
use crate::store::local::LocalStore;
use crate::store::ship::{self, ShipError};
use crate::store::{Encoding, Payload, Place, StoreError};
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::system::lock::{Lock, Taken};
use crate::wal::WalName;
use crate::wal::page::{LONG_HEADER, first_page};

/// The queue for one node.
#[derive(Debug, Clone)]
pub struct Queue {
    spool: Spool,
    node: String,
}

/// A file in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The WAL file.
    pub name: WalName,
    /// How it is stored.
    pub encoding: Encoding,
    /// Where it is.
    pub path: PathBuf,
}

/// What a queue holds, for people and for checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// How many files.
    pub count: u64,
    /// How many bytes, as stored.
    pub bytes: u64,
    /// When the file that waits longest came in.
    pub oldest: Option<SystemTime>,
}

/// How draining ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// How many files the place now holds.
    pub count: u64,
    /// True where nothing is left.
    pub empty: bool,
}

impl Queue {
    /// The queue for a node; nothing is made yet.
    pub fn new(spool: &Spool, node: &str) -> Self {
        Queue { spool: spool.clone(), node: node.to_owned() }
    }

    /// Keeps a payload until the node is back: fsync, hard link, fsync of the folder.
    ///
    /// `free_min` bytes stay free on the spool's file system; below that the file is refused, and PostgreSQL keeps it.
    pub fn add(&self, name: WalName, payload: &Payload, free_min: u64) -> Result<(), ArchiveError> {
        let folder = self.spool.queue(&self.node);
        self.spool.make(&folder)?;
        // What waits already costs nothing, so it is looked for before the room is.
        if let Some(there) = self.find(name)? {
            return self.admit_again(&there, payload);
        }
        self.guard_space(&folder, free_min)?;
        let path = folder.join(format!("{name}{}", payload.encoding.extension()));
        let settled = payload.write_file().and_then(|()| fs::File::open(&payload.file)?.sync_all());
        settled.map_err(ArchiveError::io("fsync", &payload.file))?;
        match fs::hard_link(&payload.file, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = Queued { name, encoding: payload.encoding, path };
                return self.admit_again(&there, payload);
            }
            Err(error) => return Err(ArchiveError::io("queue", path)(error)),
            Ok(()) => {}
        }
        durable::sync_directory(&folder).map_err(ArchiveError::io("fsync", folder))
    }

    /// A retry finds its own file queued; other content under the name is a conflict here as anywhere.
    fn admit_again(&self, there: &Queued, payload: &Payload) -> Result<(), ArchiveError> {
        let folder = self.spool.queue(&self.node);
        let place = Place { node: format!("queue for {}", self.node), location: folder.display().to_string() };
        let stem = there.name.to_string().parse().map_err(StoreError::from)?;
        match ship::ship(&stem, payload, &LocalStore::open(&folder, place)?) {
            Ok(_) => Ok(()),
            Err(ShipError::Occupied { .. }) => Err(ArchiveError::Refused {
                reason: format!("'{}' waits in the queue with different content", there.path.display()),
                hint:
                    "Compare both with 'pg_waldump'; move the queued file aside only when you know which one is right."
                        .to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn guard_space(&self, folder: &Path, free_min: u64) -> Result<(), ArchiveError> {
        let space = rustix::fs::statvfs(folder).map_err(|errno| ArchiveError::io("look at", folder)(errno.into()))?;
        let free = space.f_bavail * space.f_frsize;
        if free >= free_min {
            return Ok(());
        }
        Err(ArchiveError::Refused {
            reason: format!(
                "the spool's file system has {} MiB free, less than queue.free_min, so nothing is queued for {}",
                free >> 20,
                self.node
            ),
            hint: format!(
                "Bring {} back, free space below '{}', or lower queue.free_min; PostgreSQL keeps the WAL meanwhile.",
                self.node,
                self.spool.root().display()
            ),
        })
    }

    /// Finds one file, in whatever encoding.
    pub fn find(&self, name: WalName) -> Result<Option<Queued>, ArchiveError> {
        for encoding in Encoding::ALL {
            let path = self.spool.queue(&self.node).join(format!("{name}{}", encoding.extension()));
            match fs::symlink_metadata(&path) {
                Ok(_) => return Ok(Some(Queued { name, encoding, path })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ArchiveError::io("look up", path)(error)),
            }
        }
        Ok(None)
    }

    /// Everything that waits: histories first, then oldest first.
    pub fn list(&self) -> Result<Vec<Queued>, ArchiveError> {
        let folder = self.spool.queue(&self.node);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ArchiveError::io("list", folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(ArchiveError::io("list", &folder))?;
            let stored = entry.file_name().to_string_lossy().into_owned();
            let (name, encoding) = Encoding::split(&stored);
            match name.parse() {
                Ok(name) => found.push(Queued { name, encoding, path: entry.path() }),
                Err(_) => log::warn!("'{}' is no WAL file and does not belong into a queue", entry.path().display()),
            }
        }
        found.sort_by_key(|queued| order(queued.name));
        Ok(found)
    }

    /// How much waits.
    pub fn contents(&self) -> Result<Contents, ArchiveError> {
        let mut contents = Contents { count: 0, bytes: 0, oldest: None };
        for queued in self.list()? {
            let Ok(data) = fs::metadata(&queued.path) else { continue };
            contents.count += 1;
            contents.bytes += data.len();
            let since = data.modified().ok();
            contents.oldest = [contents.oldest, since].into_iter().flatten().min();
        }
        Ok(contents)
    }

    /// True where nothing waits; one lookup, however long the queue. One that cannot be read is not empty: whoever goes
    /// on to list it learns why.
    pub fn is_empty(&self) -> bool {
        match fs::read_dir(self.spool.queue(&self.node)) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Sends what waits, until the queue is empty, the time is over, or the place fails. One process drains a queue
    /// at a time; a second one leaves it to the first. `left` says whether this node has left the timeline of a file
    /// before it: one that the place does not take for that is set aside.
    pub fn drain(
        &self,
        archive: &Archive,
        deadline: Deadline,
        left: &dyn Fn(WalName) -> bool,
        shipped: &mut dyn FnMut(&Queued, u64),
    ) -> Result<Drained, ArchiveError> {
        let mut drained = Drained { count: 0, empty: true };
        if self.is_empty() {
            return Ok(drained);
        }
        let lock = self.spool.lock(&format!("queue-{}", self.node));
        let Taken::Held(_one_drainer) = Lock::try_take(&lock).map_err(ArchiveError::io("lock", &lock))? else {
            return Ok(Drained { count: 0, empty: false });
        };
        let mut refused = None;
        for queued in self.list()? {
            if deadline.expired() {
                drained.empty = false;
                break;
            }
            match self.send(&queued, archive) {
                Ok(size) => {
                    shipped(&queued, size);
                    drained.count += 1;
                }
                Err(error) if error.is_outage() => return Err(error),
                Err(error) if error.is_superseded() && left(queued.name) => self.set_aside(&queued, &error)?,
                // One file that is refused must not keep back all that come after it.
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        refused.map_or(Ok(drained), Err)
    }

    /// Puts a file into quarantine that no archive is going to take.
    fn set_aside(&self, queued: &Queued, why: &ArchiveError) -> Result<(), ArchiveError> {
        let payload =
            Payload::of_file(&queued.path, queued.encoding).map_err(ArchiveError::io("read", &queued.path))?;
        // It takes no more room there than it gives free here.
        let Some(kept) = superseded::keep(&self.spool, queued.name, &payload, 0)? else { return Ok(()) };
        log::warn!("{why}; this node has left that timeline as well, and keeps it as '{}'", kept.display());
        remove_if_there(&queued.path).map(drop).map_err(ArchiveError::io("remove", &queued.path))
    }

    fn send(&self, queued: &Queued, archive: &Archive) -> Result<u64, ArchiveError> {
        let payload =
            Payload::of_file(&queued.path, queued.encoding).map_err(ArchiveError::io("read", &queued.path))?;
        admit(queued, &payload, archive)?;
        prove(&payload, queued.name, &archive.identity)?;
        match ship::ship(&layout::stem(queued.name), &payload, &*archive.store) {
            Ok(_) => {}
            Err(ShipError::Occupied { path, .. }) => {
                dispute::resolve(queued.name, &payload, archive, &path)?;
            }
            Err(error) => return Err(error.into()),
        }
        remove_if_there(&queued.path).map_err(ArchiveError::io("remove", &queued.path))?;
        Ok(payload.size)
    }
}

/// A file may have waited while the archive was made anew for another cluster: its first page says whose it is.
fn admit(queued: &Queued, payload: &Payload, archive: &Archive) -> Result<(), ArchiveError> {
    if !queued.name.holds_wal() {
        return Ok(());
    }
    let mut first = [0; LONG_HEADER];
    let stored = payload.open().and_then(|file| queued.encoding.decoder(file));
    stored.and_then(|mut wal| wal.read_exact(&mut first)).map_err(ArchiveError::io("read", &queued.path))?;
    let header = first_page(&first).map_err(|error| ArchiveError::NotTheWal {
        name: queued.name,
        place: queued.path.display().to_string(),
        detail: error.to_string(),
    })?;
    archive.identity.admit(archive.store.place(), header.system_id, header.segment_size)
}

/// The order of sending: histories before all, then by timeline and position, as PostgreSQL's archiver does.
pub fn order(name: WalName) -> (bool, u32, (u32, u32), String) {
    let position = name.segment().map_or((0, 0), |segment| segment.position());
    (name.segment().is_some(), name.timeline().0, position, name.to_string())
}

/// The nodes for which a queue exists.
pub fn nodes(spool: &Spool) -> Result<Vec<String>, ArchiveError> {
    let folder = spool.queues();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ArchiveError::io("list", folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ArchiveError::io("list", &folder))?;
        if entry.path().is_dir() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}
