//! What every place must keep: one suite, run over each implementation.
//!
//! [`suite`] takes a maker of empty places. [`root_gone`] is apart, since taking the root away is done from outside.

use std::io::Read;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::path::TEMPORARY_PREFIX;
use super::{Encoding, EntryKind, Payload, Published, Store, StoreError, StorePath};

/// A payload with the file behind it, removed on drop.
pub struct TestFile {
    /// What a place is given.
    pub payload: Payload,
    _folder: tempfile::TempDir,
}

impl TestFile {
    /// A plain payload with this content.
    pub fn new(content: &[u8]) -> Self {
        Self::encoded(content, Encoding::None)
    }

    /// A payload whose stored form decodes to this content.
    pub fn encoded(content: &[u8], encoding: Encoding) -> Self {
        Self::stored(&encode(content, encoding), encoding)
    }

    /// A payload of these stored bytes.
    pub fn stored(bytes: &[u8], encoding: Encoding) -> Self {
        let folder = tempfile::tempdir().expect("because the tests need a temporary directory");
        let file = folder.path().join("payload");
        std::fs::write(&file, bytes).expect("because the folder is ours");
        let payload = Payload::of_file(&file, encoding).expect("because it was just written");
        TestFile { payload, _folder: folder }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.payload.file
    }
}

/// Encodes as another run, with other settings, might; with the checksums that every stored form carries.
pub fn encode(content: &[u8], encoding: Encoding) -> Vec<u8> {
    use std::io::Write;
    match encoding {
        Encoding::None => content.to_vec(),
        Encoding::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("because level 3 exists");
            encoder.include_checksum(true).expect("because nothing was written yet");
            encoder.write_all(content).expect("because memory does not fail");
            encoder.finish().expect("because memory does not fail")
        }
        Encoding::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(content).expect("because memory does not fail");
            encoder.finish().expect("because memory does not fail")
        }
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(content).expect("because memory does not fail");
            encoder.finish().expect("because memory does not fail")
        }
    }
}

/// Bytes that do not repeat soon, different for every seed.
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(size).collect()
}

/// A path that is well formed.
pub fn path(text: &str) -> StorePath {
    text.parse().expect("because the test's paths are plain")
}

/// Reads a file of a place, as stored.
pub fn read(store: &dyn Store, at: &StorePath) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    store.open(at).expect("because the place works")?.read_to_end(&mut bytes).expect("because the place works");
    Some(bytes)
}

/// The names in a folder, sorted.
pub fn names(store: &dyn Store, folder: &StorePath) -> Option<Vec<String>> {
    let entries = store.list(folder).expect("because the place works")?;
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    Some(names)
}

/// Runs everything, each check in a place of its own.
pub fn suite(make: &mut dyn FnMut() -> Box<dyn Store>) {
    let checks: &[fn(&dyn Store)] = &[
        absent_is_an_answer,
        published_files_are_read_back,
        a_name_is_given_once,
        a_rival_is_in_the_way,
        what_a_claim_closes_is_not_taken,
        damage_on_the_way_leaves_nothing,
        an_unreadable_payload_leaves_nothing,
        folders_list_what_they_hold,
        records_are_replaced,
        removing_is_repeatable,
        settling_tells_present_from_absent,
        a_file_is_no_folder,
        the_root_is_a_folder_and_stays,
        empty_files_are_files,
        big_files_arrive_whole,
        there_is_some_room,
        one_of_many_writers_wins,
        writers_of_several_encodings_leave_one,
        no_listing_shows_a_file_on_its_way,
    ];
    for check in checks {
        check(&*make());
    }
}

/// Checks that a place whose root is taken away says so, and never "absent".
pub fn root_gone(store: &dyn Store, remove_root: impl FnOnce()) {
    let file = TestFile::new(b"content");
    let (there, never) = (path("a/there"), path("a/never"));
    assert_eq!(store.publish(&there, &file.payload, &[]).expect("because the place works"), Published::New);
    remove_root();
    for at in [&there, &never, &path("never"), &path("b/never"), &StorePath::root()] {
        assert!(store.look(at).is_err(), "look at '{at}'");
        assert!(store.list(at).is_err(), "list '{at}'");
        assert!(store.open(at).is_err(), "open '{at}'");
        assert!(store.settle(at).is_err(), "settle '{at}'");
        assert!(store.remove(at).is_err(), "remove '{at}'");
        assert!(store.replace(at, b"x").is_err(), "replace '{at}'");
        assert!(store.publish(at, &file.payload, &[]).is_err(), "publish '{at}'");
    }
    assert!(store.space().is_err());
}

fn absent_is_an_answer(store: &dyn Store) {
    for at in ["file", "folder/file", "a/b/c/d"].map(path) {
        assert!(store.look(&at).expect("because absence is no error").is_none());
        assert!(store.list(&at).expect("because absence is no error").is_none());
        assert!(store.open(&at).expect("because absence is no error").is_none());
        assert!(!store.settle(&at).expect("because absence is no error"));
        assert!(!store.remove(&at).expect("because absence is no error"));
    }
    assert_eq!(names(store, &StorePath::root()), Some(vec![]), "asking must not make folders");
}

fn published_files_are_read_back(store: &dyn Store) {
    for (at, content) in [("file", "one"), ("folder/file", "two"), ("a/b/c/d", "three")] {
        let file = TestFile::new(content.as_bytes());
        assert_eq!(store.publish(&path(at), &file.payload, &[]).expect("because the name is free"), Published::New);
        assert_eq!(read(store, &path(at)).as_deref(), Some(content.as_bytes()));
        let entry = store.look(&path(at)).expect("because the place works").expect("because it was published");
        assert_eq!((entry.kind, entry.size), (EntryKind::File, content.len() as u64));
        assert_eq!(entry.name, path(at).file_name());
    }
}

fn a_name_is_given_once(store: &dyn Store) {
    let at = path("wal/name");
    let (first, second) = (TestFile::new(b"first"), TestFile::new(b"second"));
    assert_eq!(store.publish(&at, &first.payload, &[]).expect("because the name is free"), Published::New);
    for again in [&first, &second] {
        let answer = store.publish(&at, &again.payload, &[]).expect("because a taken name is an answer");
        assert_eq!(answer, Published::Occupied(at.clone()));
        assert_eq!(read(store, &at).as_deref(), Some(&b"first"[..]));
    }
    assert_eq!(names(store, &path("wal")), Some(vec!["name".to_owned()]));
}

fn a_rival_is_in_the_way(store: &dyn Store) {
    let file = TestFile::new(b"content");
    let rivals = ["wal/x.zst", "wal/x.gz"].map(path);
    assert_eq!(store.publish(&rivals[1], &file.payload, &[]).expect("because the name is free"), Published::New);
    let answer = store.publish(&path("wal/x"), &file.payload, &rivals).expect("because a rival is an answer");
    assert_eq!(answer, Published::Occupied(rivals[1].clone()));
    assert_eq!(names(store, &path("wal")), Some(vec!["x.gz".to_owned()]));
}

fn what_a_claim_closes_is_not_taken(store: &dyn Store) {
    let name = |segment: &str| path(&format!("wal/0000000100000000/00000001000000000000000{segment}.zst"));
    let publish = |at: &StorePath| store.publish(at, &TestFile::new(b"x").payload, &[]);
    assert_eq!(publish(&name("5")).expect("because nothing is claimed"), Published::New);
    let claim = br#"{"format":1,"timeline":2,"parent":1,"fork":"0/5000100","segment_size":16777216,"node":"beta",
        "id":"x","state":"claimed","at":"now"}"#;
    let closed = path("claims/00000002.json");
    let made = store.publish(&closed, &TestFile::new(claim).payload, &[]).expect("because nobody claimed it");
    assert_eq!(made, Published::New);
    // The first look may have been before the claim: no place may believe it for long.
    let refused = publish(&name("6"));
    assert!(matches!(refused, Err(StoreError::Superseded { .. })), "{refused:?}");
    assert_eq!(names(store, &path("wal/0000000100000000")).unwrap_or_default().len(), 1);
    assert_eq!(publish(&name("4")).expect("because it lies before the fork"), Published::New);
    let there = publish(&name("5")).expect("because it was taken before");
    assert_eq!(there, Published::Occupied(name("5")));
    let void = String::from_utf8_lossy(claim).replace("claimed", "void");
    store.replace(&closed, void.as_bytes()).expect("because the place works");
    assert_eq!(publish(&name("6")).expect("because the claim was given up"), Published::New);
    store.replace(&closed, b"{").expect("because the place works");
    assert!(publish(&name("7")).is_err(), "a claim that cannot be understood must not be taken for none");
}

fn damage_on_the_way_leaves_nothing(store: &dyn Store) {
    let at = path("wal/damaged");
    let good = TestFile::new(b"content");
    let said = |size, sha256| Payload::hashed(good.path().to_owned(), size, sha256, good.payload.encoding);
    let sha256 = good.payload.sha256();
    for payload in [said(7, [7; 32]), said(8, sha256), said(6, sha256)] {
        let error = store.publish(&at, &payload, &[]).expect_err("because the payload is not what it says");
        assert!(is_damage(&error), "{error}");
        assert!(store.look(&at).expect("because the place works").is_none());
        assert_eq!(names(store, &path("wal")).unwrap_or_default(), Vec::<String>::new());
    }
    assert_eq!(store.publish(&at, &good.payload, &[]).expect("because nothing is in the way"), Published::New);
}

/// Damage, found here or by the far end.
fn is_damage(error: &StoreError) -> bool {
    crate::error::Explain::class(error) == crate::error::Class::Corrupt
}

fn an_unreadable_payload_leaves_nothing(store: &dyn Store) {
    let file = TestFile::new(b"content");
    std::fs::remove_file(file.path()).expect("because the file is ours");
    let error = store.publish(&path("x"), &file.payload, &[]).expect_err("because the payload is gone");
    assert!(matches!(error, StoreError::Payload { .. }), "{error}");
    assert_eq!(names(store, &StorePath::root()), Some(vec![]));
}

fn folders_list_what_they_hold(store: &dyn Store) {
    let file = TestFile::new(b"content");
    for at in ["a/one", "a/two.zst", "a/deep/three", "b/four"].map(path) {
        assert_eq!(store.publish(&at, &file.payload, &[]).expect("because the name is free"), Published::New);
    }
    assert_eq!(names(store, &StorePath::root()), Some(vec!["a".to_owned(), "b".to_owned()]));
    let mut entries = store.list(&path("a")).expect("because it is there").expect("because it is there");
    entries.sort_by(|one, two| one.name.cmp(&two.name));
    let found: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(found, [("deep", EntryKind::Folder), ("one", EntryKind::File), ("two.zst", EntryKind::File)]);
    assert_eq!(entries[1].size, 7);
    let looked = store.look(&path("a/one")).expect("because it is there");
    assert_eq!(looked.as_ref(), Some(&entries[1]), "listing and looking must agree");
    let folders = |at: &str| store.folders(&path(at)).expect("because absence is no error");
    assert_eq!((folders("a"), folders("absent")), (Some(vec!["deep".to_owned()]), None));
}

fn records_are_replaced(store: &dyn Store) {
    let at = path("backup/record");
    for content in ["old and long", "new", ""] {
        store.replace(&at, content.as_bytes()).expect("because the place works");
        assert_eq!(read(store, &at).as_deref(), Some(content.as_bytes()));
        assert_eq!(names(store, &path("backup")), Some(vec!["record".to_owned()]));
    }
}

fn removing_is_repeatable(store: &dyn Store) {
    let file = TestFile::new(b"content");
    let at = path("a/b/file");
    assert_eq!(store.publish(&at, &file.payload, &[]).expect("because the name is free"), Published::New);
    assert!(store.remove(&path("a/b")).is_err(), "a folder that holds something stays");
    assert!(store.remove(&at).expect("because it is there"));
    assert!(!store.remove(&at).expect("because absence is an answer"));
    assert!(store.remove(&path("a/b")).expect("because it is empty"));
    assert!(!store.remove(&path("a/b")).expect("because absence is an answer"));
    assert!(store.look(&at).expect("because the place works").is_none());
    assert_eq!(names(store, &path("a")), Some(vec![]));
    assert_eq!(store.publish(&at, &file.payload, &[]).expect("because folders are made again"), Published::New);
}

fn settling_tells_present_from_absent(store: &dyn Store) {
    let file = TestFile::new(b"content");
    assert_eq!(store.publish(&path("a/x"), &file.payload, &[]).expect("because the name is free"), Published::New);
    assert!(store.settle(&path("a/x")).expect("because it is there"));
    assert!(!store.settle(&path("a/y")).expect("because absence is an answer"));
}

fn a_file_is_no_folder(store: &dyn Store) {
    let file = TestFile::new(b"content");
    assert_eq!(store.publish(&path("a/x"), &file.payload, &[]).expect("because the name is free"), Published::New);
    assert!(store.list(&path("a/x")).is_err());
    assert!(store.open(&path("a")).is_err());
    assert!(store.settle(&path("a")).is_err());
    assert!(store.replace(&path("a"), b"x").is_err());
    assert!(store.publish(&path("a/x/y"), &file.payload, &[]).is_err());
    let answer = store.publish(&path("a"), &file.payload, &[]).expect("because a taken name is an answer");
    assert_eq!(answer, Published::Occupied(path("a")));
    assert_eq!(read(store, &path("a/x")).as_deref(), Some(&b"content"[..]));
}

fn the_root_is_a_folder_and_stays(store: &dyn Store) {
    let root = StorePath::root();
    let entry = store.look(&root).expect("because it is there").expect("because it is there");
    assert_eq!(entry.kind, EntryKind::Folder);
    assert!(store.remove(&root).is_err());
    assert!(store.replace(&root, b"x").is_err());
    assert!(store.open(&root).is_err());
    assert_eq!(names(store, &root), Some(vec![]));
}

fn empty_files_are_files(store: &dyn Store) {
    let file = TestFile::new(b"");
    assert_eq!(store.publish(&path("a/empty"), &file.payload, &[]).expect("because it is free"), Published::New);
    assert_eq!(read(store, &path("a/empty")), Some(vec![]));
    let answer = store.publish(&path("a/empty"), &file.payload, &[]).expect("because a taken name is an answer");
    assert_eq!(answer, Published::Occupied(path("a/empty")));
}

fn big_files_arrive_whole(store: &dyn Store) {
    let content = noise((8 << 20) + 1, 1);
    let file = TestFile::new(&content);
    assert_eq!(store.publish(&path("a/big"), &file.payload, &[]).expect("because it is free"), Published::New);
    assert!(read(store, &path("a/big")) == Some(content), "8 MiB must come back as they went");
}

fn there_is_some_room(store: &dyn Store) {
    let space = store.space().expect("because the place works");
    assert!(space.total > 0 && space.free <= space.total, "{space:?}");
}

/// How many writers race.
const WRITERS: usize = 4;

fn one_of_many_writers_wins(store: &dyn Store) {
    let contents: Vec<_> = (0..WRITERS).map(|seed| noise(300_000, seed as u64 + 1)).collect();
    for round in 0..4 {
        let at = path(&format!("wal/round{round}/x"));
        let names = vec![at.clone(); WRITERS];
        assert_eq!(race(store, &contents, &names), 1, "exactly one writer wins");
        let stored = read(store, &at).expect("because one has won");
        assert!(contents.contains(&stored), "what is stored must be what one of them wrote, whole");
    }
}

fn writers_of_several_encodings_leave_one(store: &dyn Store) {
    let contents: Vec<_> = (0..WRITERS).map(|seed| noise(1000, seed as u64 + 1)).collect();
    for round in 0..8 {
        let folder = path(&format!("wal/round{round}"));
        let stem = |encoding: Encoding| path(&format!("{folder}/x{}", encoding.extension()));
        assert_eq!(race(store, &contents, &Encoding::ALL.map(stem)), 1, "exactly one writer wins");
        assert_eq!(names(store, &folder).map(|names| names.len()), Some(1));
    }
}

/// Publishes each content under its name, all at once, each name a rival of the others; says how many won.
fn race(store: &dyn Store, contents: &[Vec<u8>], names: &[StorePath]) -> usize {
    let start = Barrier::new(contents.len());
    let publish = |content: &Vec<u8>, at: &StorePath| {
        let file = TestFile::new(content);
        let rivals: Vec<_> = names.iter().filter(|name| *name != at).cloned().collect();
        start.wait();
        store.publish(at, &file.payload, &rivals).expect("because losing is an answer") == Published::New
    };
    thread::scope(|scope| {
        let writers: Vec<_> =
            contents.iter().zip(names).map(|(content, at)| scope.spawn(|| publish(content, at))).collect();
        let won = |writer: thread::ScopedJoinHandle<bool>| writer.join().expect("because no writer fails");
        writers.into_iter().map(won).filter(|won| *won).count()
    })
}

fn no_listing_shows_a_file_on_its_way(store: &dyn Store) {
    let folder = path("wal");
    let file = TestFile::new(&noise(2 << 20, 1));
    let done = AtomicBool::new(false);
    let listings = thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::SeqCst) {
                seen.extend(store.list(&folder).expect("because the place works").unwrap_or_default());
            }
            seen
        });
        for round in 0..3 {
            let at = path(&format!("wal/x{round}"));
            let published = store.publish(&at, &file.payload, &[]);
            assert_eq!(published.expect("because the name is free"), Published::New);
        }
        done.store(true, Ordering::SeqCst);
        lister.join().expect("because the lister does not fail")
    });
    for entry in listings {
        assert!(!entry.name.starts_with(TEMPORARY_PREFIX) && entry.size == 2 << 20, "{entry:?}");
    }
}
