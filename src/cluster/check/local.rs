//! Looks at this node's own files. Reads only; what may lie on a dead network file system is read with a deadline.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use super::facts::{Identity, Local, LocalArchive, LocalPath, Room, Standing, Stat, Told, Waiting, Worker};
use crate::archive::drills;
use crate::archive::identity;
use crate::archive::shipping;
use crate::archive::spool::Spool;
use crate::config::Config;
use crate::error::Failure;
use crate::store::Encoding;
use crate::wal::{SegmentName, WalName};

/// How long one look at the file system may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gathers everything about this node's files.
pub fn gather(config: &Config, files: &[PathBuf]) -> Local {
    let spool = Spool::new(&config.local.spool);
    let mut keys: Vec<_> = config.nodes.iter().filter_map(|node| node.ssh_key.clone()).collect();
    keys.sort();
    keys.dedup();
    Local {
        user: rustix::process::geteuid().as_raw(),
        configuration: files.iter().map(|file| look(file)).collect(),
        keys: keys.iter().map(|key| look(key)).collect(),
        spool: look(&config.local.spool),
        spool_room: bounded(config.local.spool.clone(), room),
        archive: config.own().archive.as_ref().map(|archive| look_at_archive(&archive.join(&config.cluster.name))),
        pgdata: config.own().pgdata.as_ref().map(|pgdata| look(pgdata)),
        queues: bounded(spool.queues(), |path| queues(path).map(Some)).map(Option::unwrap_or_default),
        quarantine: bounded(spool.quarantine(), |path| waiting(path, |name| !name.starts_with('.'))),
        switch: switch(&spool),
        shipping: config.archive.shipping,
        discard_confirmed: shipping::confirm(&config.archive).is_ok(),
        broken: shipping::broken_chains(&spool).map(Some).map_err(|error| Failure::from(error).message),
        worker: config.archive.worker.then(|| worker(&spool)),
    }
}

/// Runs one look in a thread of its own, which is left behind where the file system does not answer.
pub(super) fn bounded<T: Send + 'static>(
    path: PathBuf,
    look: impl FnOnce(&Path) -> Told<T> + Send + 'static,
) -> Told<T> {
    let (sender, receiver) = mpsc::channel();
    let name = path.display().to_string();
    std::thread::spawn(move || sender.send(look(&path)));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(format!("'{name}' did not answer within {} s: its file system hangs", PATIENCE.as_secs()))
    })
}

/// Turns "not found" into absence, and no other error.
pub(super) fn told<T>(action: &str, path: &Path, result: io::Result<T>) -> Told<T> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot {action} '{}': {error}", path.display())),
    }
}

fn look(path: &Path) -> LocalPath {
    LocalPath { path: path.to_owned(), stat: bounded(path.to_owned(), stat) }
}

fn stat(path: &Path) -> Told<Stat> {
    let Some(data) = told("look up", path, fs::metadata(path))? else { return Ok(None) };
    let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Ok(Some(Stat { mode: data.mode() & 0o7777, owner: data.uid(), is_directory: data.is_dir(), resolved }))
}

fn room(path: &Path) -> Told<Room> {
    let data = told("ask for room at", path, rustix::fs::statvfs(path).map_err(io::Error::from))?;
    let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
    Ok(data.map(|data| Room { free: bytes(data.f_bavail, data.f_frsize), total: bytes(data.f_blocks, data.f_frsize) }))
}

fn look_at_archive(root: &Path) -> LocalArchive {
    LocalArchive {
        root: look(root),
        room: bounded(root.to_owned(), room),
        identity: bounded(root.join(identity::FILE), read_identity),
        newest: bounded(root.join("wal"), newest),
        drills: bounded(root.join(drills::FOLDER), drilled),
        backups: matches!(bounded(root.join("backup"), names), Ok(Some(names)) if !names.is_empty()),
    }
}

/// How the restore drills stand.
fn drilled(folder: &Path) -> Told<Standing> {
    let Some(names) = names(folder)? else { return Ok(None) };
    Standing::read(names, |name| {
        let path = folder.join(name);
        told("read", &path, fs::read(&path))
    })
}

fn read_identity(path: &Path) -> Told<Identity> {
    let Some(bytes) = told("read", path, fs::read(path))? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("'{}': {error}", path.display()))
}

/// The highest segment, found through the highest folder: two listings, however large the archive is.
fn newest(wal: &Path) -> Told<(String, Duration)> {
    let Some(mut folders) = names(wal)? else { return Ok(None) };
    folders.retain(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    folders.sort();
    // A folder may be empty where its first file is just being written.
    for folder in folders.iter().rev() {
        let path = wal.join(folder);
        let files = names(&path)?.unwrap_or_default();
        let segments = files.into_iter().filter_map(|file| {
            let segment: SegmentName = Encoding::split(&file).0.parse().ok()?;
            Some((segment, file))
        });
        if let Some((segment, file)) = segments.max() {
            let file = path.join(file);
            return Ok(told("look up", &file, fs::metadata(&file))?.map(|data| (segment.to_string(), age(&data))));
        }
    }
    Ok(None)
}

/// The names in a folder; absent where there is no such folder.
fn names(folder: &Path) -> Told<Vec<String>> {
    let Some(entries) = told("list", folder, fs::read_dir(folder))? else { return Ok(None) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot list '{}': {error}", folder.display()))?;
        found.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(Some(found))
}

/// How long ago a file was last written; zero for one from the future.
fn age(data: &fs::Metadata) -> Duration {
    data.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

type Queues = BTreeMap<String, Result<Waiting, String>>;

fn queues(folder: &Path) -> Result<Queues, String> {
    let nodes = names(folder)?.unwrap_or_default();
    let wal = |name: &str| Encoding::split(name).0.parse::<WalName>().is_ok();
    let queue = |node: &str| waiting(&folder.join(node), wal).map(|found| found.unwrap_or_else(nothing));
    Ok(nodes.into_iter().map(|node| (node.clone(), queue(&node))).collect())
}

fn nothing() -> Waiting {
    Waiting { count: 0, bytes: 0, oldest: None }
}

/// What waits in a folder, by the names that count.
pub(super) fn waiting(folder: &Path, counts: impl Fn(&str) -> bool) -> Told<Waiting> {
    let Some(names) = names(folder)? else { return Ok(None) };
    let mut found = nothing();
    for name in names.into_iter().filter(|name| counts(name)) {
        let path = folder.join(&name);
        // A file that is gone by now waits no longer.
        let Some(data) = told("look up", &path, fs::metadata(&path))? else { continue };
        found.count += 1;
        found.bytes += data.len();
        let age = age(&data);
        if found.oldest.as_ref().is_none_or(|(_, oldest)| age > *oldest) {
            found.oldest = Some((name, age));
        }
    }
    Ok(Some(found))
}

/// What the switch file says; absent: the configuration decides.
fn switch(spool: &Spool) -> Told<crate::config::Shipping> {
    let path = spool.shipping();
    if told("look up", &path, fs::metadata(&path))?.is_none() {
        return Ok(None);
    }
    // The file exists, so the mode passed here is not what comes back.
    shipping::mode(spool, crate::config::Shipping::Armed).map(Some).map_err(|error| Failure::from(error).message)
}

/// Whether somebody listens on the worker's socket. Its lock is left alone: even a short hold could stop a start.
fn worker(spool: &Spool) -> Worker {
    let connected = spool.reach_socket().and_then(|(path, _folder)| UnixStream::connect(path));
    match connected {
        Ok(_) => Worker::Running,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Worker::Resting
        }
        Err(error) => Worker::Unknown(format!("cannot connect to '{}': {error}", spool.socket().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_segment_is_the_highest_and_empty_folders_hide_nothing() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let wal = folder.path().join("wal");
        assert_eq!(newest(&wal), Ok(None));
        for name in ["0000000100000000", "0000000100000001", "0000000200000000", "notes"] {
            fs::create_dir_all(wal.join(name))?;
        }
        assert_eq!(newest(&wal), Ok(None));
        fs::write(wal.join("0000000100000000/0000000100000000000000FF.zst"), "")?;
        fs::write(wal.join("0000000100000001/000000010000000100000002"), "")?;
        fs::write(wal.join("0000000100000001/000000010000000100000001.zst"), "")?;
        fs::write(wal.join("0000000100000001/000000010000000100000003.partial"), "")?;
        let found = newest(&wal).map(|found| found.map(|(name, _)| name));
        assert_eq!(found, Ok(Some("000000010000000100000002".to_owned())));
        Ok(())
    }

    #[test]
    fn what_waits_is_counted_by_name_and_a_missing_folder_is_no_empty_one() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(waiting(&folder.path().join("none"), |_| true), Ok(None));
        let status = folder.path().join("archive_status");
        fs::create_dir(&status)?;
        fs::write(status.join("00000002.history.ready"), "")?;
        fs::write(status.join("000000010000000000000001.done"), "")?;
        let found = waiting(&status, |name| name.ends_with(".ready")).map(|found| found.map(|found| found.count));
        assert_eq!(found, Ok(Some(1)));
        Ok(())
    }

    #[test]
    fn a_socket_nobody_listens_on_is_a_resting_worker() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        // One whose path is longer than the system call takes is reached all the same.
        for name in ["spool".to_owned(), "long".repeat(30)] {
            let spool = Spool::new(&folder.path().join(name));
            assert_eq!(worker(&spool), Worker::Resting);
            fs::create_dir(spool.root())?;
            assert_eq!(worker(&spool), Worker::Resting);
            let listener = std::os::unix::net::UnixListener::bind(&spool.reach_socket()?.0)?;
            assert_eq!(worker(&spool), Worker::Running);
            drop(listener);
            assert_eq!(worker(&spool), Worker::Resting);
        }
        Ok(())
    }

    #[test]
    fn a_file_system_that_does_not_look_is_not_absence() {
        let path = Path::new("/proc/self/mem/x");
        assert!(stat(path).is_err(), "{:?}", stat(path));
        assert_eq!(stat(Path::new("/no/such/path")), Ok(None));
    }
}
