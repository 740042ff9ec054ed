//! The near end against the far end in one process, over pipes: no ssh.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::diagnosis::Diagnosis;
use super::session::Carrier;
use super::*;
use crate::error::Explain;
use crate::store::conformance::{self, TestFile, noise, path};
use crate::store::local::LocalStore;
use crate::store::serve::{Depot, Incoming, ServeSettings, serve_with};

const ALLOWED: Duration = Duration::from_secs(20);

struct Nobody;

impl Carrier for Nobody {
    fn end(&self) {}

    fn epitaph(&self) -> Diagnosis {
        Diagnosis { reason: "the pipe ended".to_owned(), hint: None }
    }
}

fn place() -> Place {
    Place { node: "far".to_owned(), location: "pipe".to_owned() }
}

type Open = fn(&Path, Place) -> Result<Box<dyn Depot>, StoreError>;

fn open_local(root: &Path, place: Place) -> Result<Box<dyn Depot>, StoreError> {
    Ok(Box::new(LocalStore::open(root, place)?))
}

/// A connection to a far end that runs in a thread.
fn connect(settings: ServeSettings, open: Open, want: Want, allowed: Duration) -> Result<Arc<Session>, Broken> {
    let (far_input, near_output) = pipe::pipe().expect("a pipe");
    let (near_input, far_output) = pipe::pipe().expect("a pipe");
    thread::spawn(move || {
        // Its errors are what the near end is asked about.
        let _ = serve_with(&settings, std::fs::File::from(far_input), std::fs::File::from(far_output), &open);
    });
    let hello = Request::Hello { program: PROGRAM.to_owned(), cluster: "main".to_owned(), want };
    let operation = Operation::new("say", "hello", allowed);
    Session::start(place(), Duration::from_secs(1), (near_output, near_input), Box::new(Nobody), &hello, &operation)
}

fn settings(archive: &Path) -> ServeSettings {
    ServeSettings { archive: archive.to_owned(), cluster: None, read_only: false, elsewhere: false }
}

fn store_with(settings: ServeSettings, open: Open, allowed: Duration) -> Result<SshStore, StoreError> {
    SshStore::over(place(), allowed, Box::new(move |want| connect(settings.clone(), open, want, ALLOWED)))
}

fn archive() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("main");
    std::fs::create_dir(&root).expect("the folder is ours");
    (folder, root)
}

fn store(archive: &Path) -> SshStore {
    store_with(settings(archive), open_local, ALLOWED).expect("it is there")
}

#[test]
fn it_keeps_what_every_place_must_keep() {
    let mut kept = Vec::new();
    conformance::suite(&mut || {
        let (folder, _) = archive();
        let store = store(folder.path());
        kept.push(folder);
        Box::new(store)
    });
}

#[test]
fn large_files_come_back_as_they_went() {
    let (folder, _) = archive();
    let store = store(folder.path());
    for size in [0, 1, wire::CHUNK - 1, wire::CHUNK, wire::CHUNK + 1, wire::CHUNK * 16, wire::CHUNK * 40 + 7] {
        let content = noise(size, size as u64);
        let file = TestFile::new(&content);
        let at = path(&format!("wal/{size}"));
        assert_eq!(store.publish(&at, &file.payload, &[]).expect("stored"), Published::New);
        let mut back = Vec::new();
        store.open(&at).expect("answers").expect("is there").read_to_end(&mut back).expect("reads");
        assert!(back == content, "{size} bytes");
    }
}

#[test]
fn a_reader_that_stops_or_dawdles_holds_up_nobody() {
    let (folder, _) = archive();
    let store = store(folder.path());
    let file = TestFile::new(&noise(wire::CHUNK * 40, 1));
    let at = path("wal/big");
    store.publish(&at, &file.payload, &[]).expect("stored");
    let mut slow = store.open(&at).expect("answers").expect("is there");
    let mut some = [0u8; 1000];
    slow.read_exact(&mut some).expect("reads");
    // More than the far end lets be open at once: those that were dropped must have been closed.
    for _ in 0..600 {
        let mut reader = store.open(&at).expect("answers").expect("is there");
        reader.read_exact(&mut some).expect("reads");
    }
    assert!(store.look(&at).expect("answers").is_some());
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("reads on");
    assert_eq!(rest.len() + some.len(), wire::CHUNK * 40);
}

#[test]
fn many_threads_share_one_connection() {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
    let (folder, _) = archive();
    let served = settings(folder.path());
    let connector = move |want| {
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        connect(served.clone(), open_local, want, ALLOWED)
    };
    let store = SshStore::over(place(), ALLOWED, Box::new(connector)).expect("it is there");
    thread::scope(|scope| {
        for number in 0..32u64 {
            let store = &store;
            scope.spawn(move || {
                let content = noise(100_000 + number as usize, number);
                let at = path(&format!("wal/{number}"));
                let file = TestFile::new(&content);
                assert_eq!(store.publish(&at, &file.payload, &[]).expect("stored"), Published::New);
                let mut back = Vec::new();
                store.open(&at).expect("answers").expect("is there").read_to_end(&mut back).expect("reads");
                assert!(back == content);
                assert_eq!(store.list(&path("wal")).map(|l| l.is_some()).ok(), Some(true));
            });
        }
    });
    assert_eq!(store.list(&path("wal")).expect("answers").expect("is there").len(), 32);
    assert_eq!(CONNECTIONS.load(Ordering::Relaxed), 1);
}

#[test]
fn a_folder_longer_than_one_reply_is_listed_whole() {
    let (folder, root) = archive();
    for number in 0..2500 {
        std::fs::write(root.join(format!("f{number}")), b"").expect("the folder is ours");
    }
    assert_eq!(store(folder.path()).list(&StorePath::root()).expect("answers").expect("is there").len(), 2500);
}

#[test]
fn a_missing_root_and_a_strange_cluster_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = store_with(settings(folder.path()), open_local, ALLOWED).map(drop).expect_err("no folder main");
    assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
    let other = ServeSettings { cluster: Some("other".to_owned()), ..settings(folder.path()) };
    let error = store_with(other, open_local, ALLOWED).map(drop).expect_err("another cluster");
    assert_eq!(error.to_string(), "the archive of far (pipe) refused: cluster 'main' is not served here, only 'other'");
}

#[test]
fn read_only_refuses_every_write() {
    let (folder, root) = archive();
    std::fs::write(root.join("there"), b"x").expect("the folder is ours");
    let served = ServeSettings { read_only: true, ..settings(folder.path()) };
    let store = store_with(served, open_local, ALLOWED).expect("it is there");
    let file = TestFile::new(b"content");
    let there = path("there");
    let refusals = [
        store.publish(&path("new"), &file.payload, &[]).map(drop),
        store.replace(&there, b"y"),
        store.remove(&there).map(drop),
        store.settle(&there).map(drop),
    ];
    for refusal in refusals {
        assert!(refusal.expect_err("read-only").to_string().contains("read-only"));
    }
    assert!(store.look(&there).expect("answers").is_some());
    assert_eq!(std::fs::read(root.join("there")).expect("there"), b"x");
}

#[test]
fn an_archive_is_made_once_and_never_above_a_missing_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = |archive: &Path| {
        let session = connect(settings(archive), open_local, Want::Init, ALLOWED).expect("it answers");
        let request = Request::Init { path: "identity.json".to_owned() };
        let operation = Operation::new("create", "identity.json", ALLOWED);
        send::record(&session, &request, b"{}", &operation).and_then(|reply| session.published(reply))
    };
    assert_eq!(init(folder.path()).expect("made"), Published::New);
    assert_eq!(init(folder.path()).expect("there"), Published::Occupied(path("identity.json")));
    let missing = folder.path().join("missing");
    assert!(matches!(init(&missing), Err(StoreError::RootMissing { .. })));
    assert!(!missing.exists());

    // What lies behind yet another server must not be made on this machine, where the same path may be there.
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = ServeSettings { elsewhere: true, ..settings(folder.path()) };
    let error = connect(elsewhere, open_local, Want::Init, ALLOWED).map(drop).expect_err("elsewhere");
    assert!(error.into_error(&place()).hint().is_some_and(|hint| hint.contains("by hand")));
    assert_eq!(std::fs::read_dir(folder.path()).expect("ours").count(), 0);
}

#[test]
fn a_source_that_cannot_be_read_takes_nothing_with_it() {
    let (folder, root) = archive();
    let store = store(folder.path());
    let mut file = TestFile::new(b"content");
    // A directory opens, but does not read: the failure comes after the put has begun.
    file.payload.file = folder.path().to_owned();
    let error = store.publish(&path("wal/a"), &file.payload, &[]).expect_err("no file");
    assert!(matches!(error, StoreError::Payload { .. }), "{error}");
    assert!(store.look(&path("wal/a")).expect("the connection lives").is_none());
    let left = std::fs::read_dir(root.join("wal")).expect("made").filter_map(Result::ok).count();
    assert_eq!(left, 0, "nothing temporary stays");
}

/// A depot whose disk is full after some bytes, or that never answers a commit in time.
struct Faulty(LocalStore, fn() -> Result<(), io::Error>);

struct FaultyIncoming(Box<dyn Incoming>, fn() -> Result<(), io::Error>);

impl Store for Faulty {
    fn place(&self) -> &Place {
        self.0.place()
    }
    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError> {
        self.0.look(path)
    }
    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError> {
        self.0.list(folder)
    }
    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        self.0.open(path)
    }
    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError> {
        self.0.publish(path, payload, rivals)
    }
    fn settle(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.0.settle(path)
    }
    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError> {
        self.0.replace(path, content)
    }
    fn remove(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.0.remove(path)
    }
    fn space(&self) -> Result<Space, StoreError> {
        self.0.space()
    }
}

impl Depot for Faulty {
    fn begin(&self, path: &StorePath) -> Result<Box<dyn Incoming>, StoreError> {
        Ok(Box::new(FaultyIncoming(Depot::begin(&self.0, path)?, self.1)))
    }
}

impl Incoming for FaultyIncoming {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        (self.1)().map_err(|error| StoreError::io(&place(), "write", "wal/a", error))?;
        self.0.write(bytes)
    }
    fn commit(self: Box<Self>, size: u64, sha256: [u8; 32], rivals: &[StorePath]) -> Result<Published, StoreError> {
        self.0.commit(size, sha256, rivals)
    }
}

#[test]
fn a_full_disk_at_the_far_end_is_full_at_this_end() {
    let (folder, root) = archive();
    let open: Open =
        |root, place| Ok(Box::new(Faulty(LocalStore::open(root, place)?, || Err(io::Error::from_raw_os_error(28)))));
    let store = store_with(settings(folder.path()), open, ALLOWED).expect("it is there");
    let file = TestFile::new(&noise(wire::CHUNK * 3, 1));
    let error = store.publish(&path("wal/a"), &file.payload, &[]).expect_err("it is full");
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(error.is_transient() && error.hint().is_some());
    assert!(store.look(&path("wal/a")).expect("the connection lives").is_none());
    assert_eq!(std::fs::read_dir(root.join("wal")).expect("made").count(), 0);
}

#[test]
fn a_far_end_that_hangs_is_given_up_and_the_next_call_connects_anew() {
    static HANGS: AtomicU32 = AtomicU32::new(1);
    let (folder, _) = archive();
    let open: Open = |root, place| {
        let hang = || {
            if HANGS.fetch_sub(1, Ordering::SeqCst) == 1 {
                thread::sleep(Duration::from_secs(8));
            }
            HANGS.store(0, Ordering::SeqCst);
            Ok(())
        };
        Ok(Box::new(Faulty(LocalStore::open(root, place)?, hang)))
    };
    let store = store_with(settings(folder.path()), open, Duration::from_secs(2)).expect("it is there");
    let file = TestFile::new(&noise(wire::CHUNK * 64, 1));
    let begun = Instant::now();
    let error = store.publish(&path("wal/a"), &file.payload, &[]).expect_err("it hangs");
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(store.look(&path("wal/a")).expect("a new connection").is_none());
}

/// A far end that says these bytes and waits.
fn babbler(bytes: &'static [u8]) -> Result<Arc<Session>, Broken> {
    let (far_input, near_output) = pipe::pipe().expect("a pipe");
    let (near_input, far_output) = pipe::pipe().expect("a pipe");
    thread::spawn(move || {
        let _ = std::fs::File::from(far_output).write_all(bytes);
        let _ = std::fs::File::from(far_input).read(&mut [0; 64]);
    });
    let hello = Request::Hello { program: PROGRAM.to_owned(), cluster: "main".to_owned(), want: Want::Store };
    let operation = Operation::new("say", "hello", Duration::from_secs(5));
    Session::start(place(), Duration::from_secs(1), (near_output, near_input), Box::new(Nobody), &hello, &operation)
}

#[test]
fn nonsense_from_the_far_end_is_an_error_with_its_beginning() {
    let cases: [(&[u8], &str); 5] = [
        (b"Last login: yesterday\n", "it begins with 'Last login: yesterday'"),
        (b"pgwarm\x00\x09", "it speaks version 9"),
        (b"pgwarm\x00\x01\xff\xff\xff\xff\x02", "a frame of 4294967295 bytes"),
        (b"pgwarm\x00\x01\x00\x00\x00\x02\x02{}", "no reply"),
        (b"pgwarm\x00\x01\x00\x00\x00\x01\x03x", "fits no request"),
    ];
    for (bytes, words) in cases {
        let error = babbler(bytes).map(drop).expect_err("nonsense").into_error(&place());
        assert!(matches!(error, StoreError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = babbler(b"").map(drop).expect_err("silence").into_error(&place());
    assert!(matches!(&error, StoreError::Unreachable { reason, .. } if reason == "the pipe ended"), "{error}");
}
