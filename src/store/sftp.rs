//! A place behind any sftp server, for hosts that have no pgwarm; weaker than the `ssh` store.
//!
//! Only `serve-archive` opens one, and the `ssh` store of the same machine talks to it: programs that name nothing in
//! here are not linked with libssh2 and libssl, which would cost each of their starts a millisecond.
//!
//! It keeps what the protocol allows: temporary name, fsync (the server must offer fsync@openssh.com), a rename that
//! refuses to overwrite (version 3 of the protocol, as OpenSSH serves it). What it cannot promise, it says in
//! [`weaker_promises`]. A session serves one operation at a time, or one open file; one that broke is made anew by the
//! next call. Host keys are always checked against known_hosts.
//!
//! OpenSSH answers "no such file" also where a component is a file or a chain of links. So that answer alone is never
//! absence: the folders above are looked at afterwards, up to the root.

mod incoming;
mod known_hosts;
mod reader;
mod session;
mod trouble;

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use ssh2::{ErrorCode, FileStat, OpenFlags, OpenType, RenameFlags};

use self::reader::Reader;
use self::session::{Handle, Idle, Lease, Live};
use self::trouble::{Context, Trouble, said};
use super::path::{TEMPORARY_PREFIX, is_component};
use super::ssh::SftpSettings;
use super::{Entry, EntryKind, Payload, Place, Published, Space, Store, StoreError, StorePath, claim};
use crate::system::durable::temporary_name;

/// How much goes into one write, in bytes: a write returns only once all of it is acknowledged, so this is what is in
/// flight.
const CHUNK_SIZE: u64 = 4 << 20;

/// How much is read ahead, in bytes.
const READ_SIZE: usize = 1 << 20;

/// A temporary file so old belongs to nobody; two days, since the clocks of two machines are compared.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(2 * 86_400);

/// "No such file" of the protocol (SSH_FX_NO_SUCH_FILE).
const NO_SUCH_FILE: ErrorCode = ErrorCode::SFTP(2);

/// "It did not work" of the protocol (SSH_FX_FAILURE): all that version 3 says about most errors.
const FAILURE: ErrorCode = ErrorCode::SFTP(4);

/// The server does not offer it (SSH_FX_OP_UNSUPPORTED).
const UNSUPPORTED: ErrorCode = ErrorCode::SFTP(8);

/// The library says so at the end of a folder (LIBSSH2_ERROR_FILE).
const END_OF_FOLDER: ErrorCode = ErrorCode::Session(-16);

/// What this place cannot promise, for people: printed by what checks a node.
pub fn weaker_promises() -> &'static str {
    "over sftp, names of files and folders cannot be made durable (a power failure there may take back the last ones); \
     what was stored is not hashed at the far end; \
     two writers of one file in different encodings may both store it (both are then told); \
     a small record is absent for an instant while it is replaced; \
     an empty mount point is not told from an empty archive"
}

/// An archive behind an sftp server. A clone shares its sessions.
#[derive(Clone)]
pub struct SftpStore {
    place: Place,
    root: String,
    settings: SftpSettings,
    idle: Arc<Idle>,
    /// Held by the one publisher at a time: what another thread stores must not come between look and rename.
    publishing: Arc<Mutex<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SftpStore {
    /// Connects and finds the archive at `root`, an absolute directory there, or one relative to the user's home.
    pub fn open(settings: SftpSettings, root: &str, place: Place) -> Result<SftpStore, StoreError> {
        let root = if root == "/" { root } else { root.trim_end_matches('/') }.to_owned();
        let store = SftpStore { place, root, settings, idle: Arc::default(), publishing: Arc::default() };
        store.call("find", &StorePath::root(), |live| store.confirm_root(live))?;
        Ok(store)
    }

    /// Does something in the session, which is made where there is none, and names place and file in its errors.
    fn call<T>(
        &self,
        action: &'static str,
        path: &StorePath,
        act: impl FnOnce(&Arc<Live>) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let lease = self.lease()?;
        self.explained(action, path, &lease, act(&lease))
    }

    /// Names place and file in an error.
    fn explained<T>(
        &self,
        action: &'static str,
        path: &StorePath,
        live: &Live,
        result: Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let context = Context { place: &self.place, deadline: self.settings.deadline, action };
        result.map_err(|trouble| context.explain(live, self.words(path), trouble))
    }

    fn lease(&self) -> Result<Lease, StoreError> {
        self.idle.lend(&self.settings).map_err(|refusal| match refusal.timeout {
            true => StoreError::Timeout {
                place: self.place.clone(),
                action: "open a session for",
                path: self.root.clone(),
                after: self.settings.connect_timeout,
            },
            false => {
                let place = self.place.clone();
                StoreError::Unreachable { place, reason: refusal.reason, hint: refusal.hint }
            }
        })
    }

    /// A path as messages name it.
    fn words<'a>(&'a self, path: &'a StorePath) -> &'a str {
        if path.as_str().is_empty() { &self.root } else { path.as_str() }
    }

    /// Where a path is on the other machine.
    fn remote(&self, path: &StorePath) -> PathBuf {
        if path.as_str().is_empty() { PathBuf::from(&self.root) } else { Path::new(&self.root).join(path.as_str()) }
    }

    /// Makes sure that the root is a directory; a symbolic link to one is followed, here and nowhere else.
    fn confirm_root(&self, live: &Arc<Live>) -> Result<(), Trouble> {
        match live.sftp.stat(Path::new(&self.root)) {
            Ok(stat) if stat.is_dir() => Ok(()),
            Ok(_) => Err(said("it is no directory")),
            Err(error) if error.code() == NO_SUCH_FILE => {
                Err(StoreError::RootMissing { place: self.place.clone(), directory: self.root.clone() }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// True where the folder is there, and every folder above it is one and no link. Looks from below upwards: what is
    /// absent counts only if what should hold it was seen afterwards.
    fn walk(&self, live: &Arc<Live>, folder: &StorePath) -> Result<bool, Trouble> {
        let mut there = None;
        let mut at = folder.clone();
        while let Some(above) = at.folder() {
            let found = lstat(live, &self.remote(&at))?;
            match &found {
                Some(stat) if stat.is_dir() => {}
                Some(_) => return Err(said(format!("'{at}' is no folder"))),
                None => {
                    lock(&live.folders).remove(&at);
                }
            }
            there.get_or_insert(found.is_some());
            at = above;
        }
        self.confirm_root(live)?;
        let there = there.unwrap_or(true);
        if there {
            lock(&live.folders).insert(folder.clone());
        }
        Ok(there)
    }

    /// Looks at what is at a path, following nothing.
    fn find(&self, live: &Arc<Live>, path: &StorePath) -> Result<Option<FileStat>, Trouble> {
        let Some(folder) = path.folder() else {
            self.confirm_root(live)?;
            return Ok(Some(live.sftp.stat(Path::new(&self.root))?));
        };
        let found = lstat(live, &self.remote(path))?;
        // What was seen through a link is not ours; what was not seen needs its folders looked at now.
        if found.is_none() || !lock(&live.folders).contains(&folder) {
            self.walk(live, &folder)?;
        }
        Ok(found)
    }

    /// The first of the paths that is there.
    fn taken<'a>(
        &self,
        live: &Arc<Live>,
        paths: impl Iterator<Item = &'a StorePath>,
    ) -> Result<Option<StorePath>, Trouble> {
        for path in paths {
            if lstat(live, &self.remote(path))?.is_some() {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// Opens a regular file for reading.
    fn open_file(&self, live: &Arc<Live>, path: &StorePath) -> Result<Option<Handle>, Trouble> {
        match self.find(live, path)? {
            None => return Ok(None),
            Some(stat) if stat.is_file() => {}
            Some(_) => return Err(said("it is no regular file")),
        }
        match live.sftp.open(self.remote(path)) {
            Ok(file) => Ok(Some(live.hold(file))),
            // It vanished in between; whether that is absence, its folders tell.
            Err(error) if error.code() == NO_SUCH_FILE => Ok(match self.find(live, path)? {
                None => None,
                Some(_) => return Err(error.into()),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the folder of a path, and those above it.
    fn make_folder(&self, live: &Arc<Live>, folder: &StorePath) -> Result<(), Trouble> {
        if lock(&live.folders).contains(folder) && lstat(live, &self.remote(folder))?.is_some() {
            return Ok(());
        }
        if !self.walk(live, folder)? {
            let mut at = StorePath::root();
            for component in folder.components() {
                at = at.join(component).map_err(StoreError::from)?;
                match live.sftp.mkdir(&self.remote(&at), 0o700) {
                    // Version 3 says no more than that where it is there already.
                    Err(error) if error.code() == FAILURE && lstat(live, &self.remote(&at))?.is_some() => {}
                    other => other?,
                }
            }
            if !self.walk(live, folder)? {
                return Err(said("its folder was removed while it was written"));
            }
        }
        self.sweep(live, folder)
    }

    /// Removes the temporary files of writers that died long ago; done when a session first writes to a folder.
    fn sweep(&self, live: &Arc<Live>, folder: &StorePath) -> Result<(), Trouble> {
        for (file, stat) in read_folder(live, &self.remote(folder))? {
            let temporary = file.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(TEMPORARY_PREFIX));
            let age = SystemTime::now().duration_since(modified(&stat)).unwrap_or_default();
            if temporary && stat.is_file() && age > TEMPORARY_AGE_MAX {
                match live.sftp.unlink(&file) {
                    Err(error) if error.code() != NO_SUCH_FILE => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Writes under a temporary name in the folder of `path`, durably; `fill` writes the content and says its size.
    fn write_temporary(
        &self,
        live: &Arc<Live>,
        path: &StorePath,
        fill: impl FnOnce(&mut Handle) -> Result<u64, Trouble>,
    ) -> Result<Temporary, Trouble> {
        let folder = path.folder().ok_or_else(|| said("it is the root of the archive"))?;
        self.make_folder(live, &folder)?;
        let name = self.remote(&folder).join(temporary_name());
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        let mut file = live.hold(live.sftp.open_mode(&name, flags, 0o600, OpenType::File)?);
        let temporary = Temporary { name };
        let write = || {
            let size = fill(&mut file)?;
            file.fsync().map_err(|error| match error.code() {
                UNSUPPORTED => said("the sftp server offers no fsync (fsync@openssh.com)"),
                _ => error.into(),
            })?;
            match file.stat()?.size {
                Some(stored) if stored != size => Err(said(format!("{stored} bytes arrived of {size}"))),
                _ => Ok(file.close()?),
            }
        };
        match write() {
            Ok(()) => Ok(temporary),
            Err(trouble) => {
                // Closed here: where the peer does not answer, that ends the session, and nothing more is asked of it.
                drop(file);
                let trouble = self.perhaps_full(live, path, trouble);
                temporary.remove(live);
                Err(trouble)
            }
        }
    }

    /// Version 3 has no word for a full file system: asks for the room that is left.
    fn perhaps_full(&self, live: &Arc<Live>, path: &StorePath, trouble: Trouble) -> Trouble {
        let answered = match &trouble {
            Trouble::Io(error) => error.kind() != io::ErrorKind::TimedOut,
            Trouble::Ssh(error) => error.code() == FAILURE,
            _ => false,
        };
        match answered.then(|| self.measure(live)) {
            Some(Ok(space)) if space.free < CHUNK_SIZE => {
                StoreError::Full { place: self.place.clone(), path: path.to_string() }.into()
            }
            _ => trouble,
        }
    }

    /// Measures the file system; OpenSSH does so only for an open regular file, so one is looked for, or made.
    fn measure(&self, live: &Arc<Live>) -> Result<Space, Trouble> {
        self.confirm_root(live)?;
        let root = Path::new(&self.root);
        let found = read_folder(live, root)?.into_iter().find(|(_, stat)| stat.is_file());
        let system = match found {
            Some((file, _)) => live.hold(live.sftp.open(file)?).statvfs()?,
            None => {
                let temporary = Temporary { name: root.join(temporary_name()) };
                let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
                let mut file = live.hold(live.sftp.open_mode(&temporary.name, flags, 0o600, OpenType::File)?);
                let system = file.statvfs();
                drop(file);
                temporary.remove(live);
                system?
            }
        };
        Ok(Space { free: system.f_bavail * system.f_frsize, total: system.f_blocks * system.f_frsize })
    }

    /// The whole of a publish, in the session.
    fn publish_in(
        &self,
        live: &Arc<Live>,
        path: &StorePath,
        payload: &Payload,
        rivals: &[StorePath],
    ) -> Result<Published, Trouble> {
        if path.folder().is_none() {
            self.confirm_root(live)?;
        }
        if let Some(taken) = self.taken(live, std::iter::once(path).chain(rivals))? {
            // Seen through a link it would not be ours.
            self.find(live, &taken)?;
            return Ok(Published::Occupied(taken));
        }
        let temporary = self.write_temporary(live, path, |file| self.upload(path, payload, file))?;
        if let Err(error) = live.sftp.rename(&temporary.name, &self.remote(path), Some(RenameFlags::empty())) {
            let occupied = error.code() == FAILURE && lstat(live, &self.remote(path))?.is_some();
            temporary.remove(live);
            return if occupied { Ok(Published::Occupied(path.clone())) } else { Err(error.into()) };
        }
        // No lock reaches other machines, so two encodings may be published at once; at least one of the two writers
        // finds the other here, and neither counts on what it has not compared.
        Ok(self.taken(live, rivals.iter())?.map_or(Published::New, Published::Occupied))
    }

    /// Sends the payload, hashing; says how many bytes went.
    fn upload(&self, path: &StorePath, payload: &Payload, file: &mut Handle) -> Result<u64, Trouble> {
        let unreadable = |source| StoreError::Payload { path: payload.file.display().to_string(), source };
        let mut source = payload.open().map_err(unreadable)?;
        let chunk = usize::try_from(payload.size.clamp(1, CHUNK_SIZE)).unwrap_or(READ_SIZE);
        let mut buffer = Vec::with_capacity(chunk);
        let mut hash = Sha256::new();
        let mut size = 0;
        loop {
            buffer.clear();
            (&mut source).take(chunk as u64).read_to_end(&mut buffer).map_err(unreadable)?;
            if buffer.is_empty() {
                break;
            }
            hash.update(&buffer);
            size += buffer.len() as u64;
            file.write_all(&buffer)?;
        }
        let hash: [u8; 32] = hash.finalize().into();
        if size != payload.size || hash != payload.sha256() {
            let detail = format!("the {size} bytes sent are not the {} that were announced", payload.size);
            let place = self.place.clone();
            return Err(StoreError::Damaged { place, path: path.to_string(), detail }.into());
        }
        Ok(size)
    }

    /// Renames over an old record. Version 3 cannot, so the old one goes first.
    fn rename_over(&self, live: &Arc<Live>, temporary: &Temporary, path: &StorePath) -> Result<(), Trouble> {
        let remote = self.remote(path);
        let mut tries = 0;
        loop {
            match live.sftp.rename(&temporary.name, &remote, Some(RenameFlags::empty())) {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == FAILURE && tries < 3 => match lstat(live, &remote)? {
                    Some(stat) if stat.is_file() => live.sftp.unlink(&remote)?,
                    Some(_) => return Err(said("it is no regular file")),
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
            tries += 1;
        }
    }

    fn entries(&self, live: &Arc<Live>, folder: &StorePath) -> Result<Option<Vec<Entry>>, Trouble> {
        if !self.walk(live, folder)? {
            return Ok(None);
        }
        let found = match read_folder(live, &self.remote(folder)) {
            Ok(found) => found,
            Err(Trouble::Ssh(error)) if error.code() == NO_SUCH_FILE && !self.walk(live, folder)? => return Ok(None),
            Err(trouble) => return Err(trouble),
        };
        // A folder that was removed lists as empty.
        if found.is_empty() && !self.walk(live, folder)? {
            return Ok(None);
        }
        let named = |(file, stat): (PathBuf, FileStat)| {
            let name = file.file_name()?.to_string_lossy().into_owned();
            (!name.starts_with('.')).then(|| entry(name, &stat))
        };
        Ok(Some(found.into_iter().filter_map(named).collect()))
    }
}

impl Store for SftpStore {
    fn place(&self) -> &Place {
        &self.place
    }

    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError> {
        let found = self.call("look up", path, |live| self.find(live, path))?;
        Ok(found.map(|stat| entry(path.file_name().to_owned(), &stat)))
    }

    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError> {
        self.call("list", folder, |live| self.entries(live, folder))
    }

    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let lease = self.lease()?;
        let opened = self.open_file(&lease, path);
        let Some(file) = self.explained("open", path, &lease, opened)? else { return Ok(None) };
        let (place, deadline) = (self.place.clone(), self.settings.deadline);
        let reader = Reader { file, lease, place, path: path.clone(), deadline, ended: false };
        Ok(Some(Box::new(BufReader::with_capacity(READ_SIZE, reader))))
    }

    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError> {
        if let Err(refusal) = claim::refusal(self, path) {
            // What is there already was taken before the claim was made.
            for there in std::iter::once(path).chain(rivals) {
                if self.look(there)?.is_some() {
                    return Ok(Published::Occupied(there.clone()));
                }
            }
            return Err(refusal);
        }
        let _one = lock(&self.publishing);
        self.call("publish", path, |live| self.publish_in(live, path, payload, rivals))
    }

    fn settle(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.call("make durable", path, |live| match self.open_file(live, path)? {
            Some(mut file) => Ok(file.fsync().map(|()| true)?),
            None => Ok(false),
        })
    }

    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError> {
        let _one = lock(&self.publishing);
        self.call("replace", path, |live| {
            let fill =
                |file: &mut Handle| file.write_all(content).map(|()| content.len() as u64).map_err(Trouble::from);
            let temporary = self.write_temporary(live, path, fill)?;
            self.rename_over(live, &temporary, path).inspect_err(|_| temporary.remove(live))
        })
    }

    fn remove(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.call("remove", path, |live| {
            if path.folder().is_none() {
                return Err(said("it is the root of the archive"));
            }
            let Some(stat) = self.find(live, path)? else { return Ok(false) };
            let removed = match kind(&stat) {
                EntryKind::File => live.sftp.unlink(&self.remote(path)),
                EntryKind::Folder => {
                    self.sweep(live, path)?;
                    lock(&live.folders).remove(path);
                    live.sftp.rmdir(&self.remote(path))
                }
                EntryKind::Other => return Err(said("it is neither a file nor a folder")),
            };
            match removed {
                Ok(()) => Ok(true),
                Err(error) if error.code() == NO_SUCH_FILE && self.find(live, path)?.is_none() => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.call("measure", &StorePath::root(), |live| self.measure(live))
    }
}

/// A file under a temporary name on the other machine.
struct Temporary {
    name: PathBuf,
}

impl Temporary {
    /// Takes it away, as far as that can be done.
    fn remove(&self, live: &Arc<Live>) {
        if !live.is_broken() {
            // The error that led here is the one worth telling.
            let _ = live.sftp.unlink(&self.name);
        }
    }
}

/// Looks at one name, following nothing; what "no such file" means is for the caller to find out.
fn lstat(live: &Arc<Live>, remote: &Path) -> Result<Option<FileStat>, Trouble> {
    match live.sftp.lstat(remote) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.code() == NO_SUCH_FILE => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a folder, each name with its full path.
fn read_folder(live: &Arc<Live>, remote: &Path) -> Result<Vec<(PathBuf, FileStat)>, Trouble> {
    let mut folder = live.hold(live.sftp.opendir(remote)?);
    let mut found = Vec::new();
    loop {
        match folder.readdir() {
            Ok((name, _)) if name == Path::new(".") || name == Path::new("..") => {}
            Ok((name, stat)) => found.push((remote.join(name), stat)),
            Err(error) if error.code() == END_OF_FOLDER => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    }
}

fn entry(name: String, stat: &FileStat) -> Entry {
    let ours = name.is_empty() || is_component(&name);
    let kind = if ours { kind(stat) } else { EntryKind::Other };
    Entry { name, kind, size: stat.size.unwrap_or(0), modified: modified(stat) }
}

fn kind(stat: &FileStat) -> EntryKind {
    if stat.is_file() {
        EntryKind::File
    } else if stat.is_dir() {
        EntryKind::Folder
    } else {
        EntryKind::Other
    }
}

fn modified(stat: &FileStat) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(stat.mtime.unwrap_or(0))
}

#[cfg(test)]
mod tests;
