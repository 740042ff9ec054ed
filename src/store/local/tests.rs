//! What a place on this machine promises beyond the suite that every place passes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::store::conformance::{self, TestFile, noise, path};

/// A store in a directory of its own, removed on drop.
struct Scratch {
    store: LocalStore,
    _folder: tempfile::TempDir,
    root: std::path::PathBuf,
}

fn scratch() -> Scratch {
    let folder = tempfile::tempdir().expect("because the tests need a temporary directory");
    let root = folder.path().join("archive");
    fs::create_dir(&root).expect("because the folder is ours");
    Scratch { store: open(&root).expect("because it is there"), _folder: folder, root }
}

fn open(root: &Path) -> Result<LocalStore, StoreError> {
    LocalStore::open(root, Place { node: "here".to_owned(), location: root.display().to_string() })
}

fn all_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("because the folder is ours");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("because it is readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn make_old(file: &Path) -> io::Result<()> {
    File::options().write(true).open(file)?.set_modified(SystemTime::now() - TEMPORARY_AGE_MAX * 2)
}

#[test]
fn it_passes_the_suite() {
    let mut folders = Vec::new();
    conformance::suite(&mut || {
        let folder = tempfile::tempdir().expect("because the tests need a temporary directory");
        let store = open(folder.path()).expect("because it is there");
        folders.push(folder);
        Box::new(store)
    });
}

#[test]
fn without_its_root_it_cannot_tell() {
    let scratch = scratch();
    conformance::root_gone(&scratch.store, || fs::remove_dir_all(&scratch.root).expect("because it is ours"));
}

#[test]
fn with_another_root_in_its_stead_it_cannot_tell() {
    let scratch = scratch();
    conformance::root_gone(&scratch.store, || {
        fs::rename(&scratch.root, scratch.root.with_extension("away")).expect("because it is ours");
        fs::create_dir(&scratch.root).expect("because it is ours");
    });
    assert!(all_names(&scratch.root).is_empty(), "nothing may be written into the bare mount point");
}

#[test]
fn a_root_that_is_no_directory_is_not_opened() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let missing = open(&folder.path().join("missing")).expect_err("because it is missing");
    assert!(matches!(missing, StoreError::RootMissing { .. }), "{missing}");
    fs::write(folder.path().join("file"), "")?;
    let file = open(&folder.path().join("file")).expect_err("because it is a file");
    assert!(matches!(file, StoreError::Io { .. }), "{file}");
    assert_eq!(all_names(folder.path()), ["file"]);
    Ok(())
}

#[test]
fn files_and_folders_are_private() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    scratch.store.publish(&path("a/b/file"), &TestFile::new(b"x").payload, &[])?;
    scratch.store.replace(&path("record"), b"x")?;
    for (name, expected) in [("a", 0o700), ("a/b", 0o700), ("a/b/file", 0o600), ("record", 0o600)] {
        let mode = fs::metadata(scratch.root.join(name))?.permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{name}");
    }
    Ok(())
}

#[test]
fn symbolic_links_lead_nowhere() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    let outside = tempfile::tempdir()?;
    fs::write(outside.path().join("secret"), "secret")?;
    symlink(outside.path(), scratch.root.join("link"))?;
    symlink(outside.path().join("secret"), scratch.root.join("leaf"))?;
    symlink(outside.path().join("nothing"), scratch.root.join("dangling"))?;
    let file = TestFile::new(b"x");
    for at in ["link/secret", "leaf", "dangling"].map(path) {
        assert!(scratch.store.open(&at).is_err(), "{at}");
        assert!(scratch.store.settle(&at).is_err(), "{at}");
    }
    assert!(scratch.store.look(&path("link/secret")).is_err());
    assert!(scratch.store.list(&path("link")).is_err());
    assert!(scratch.store.publish(&path("link/new"), &file.payload, &[]).is_err());
    assert!(scratch.store.replace(&path("link/new"), b"x").is_err());
    assert!(scratch.store.remove(&path("link/secret")).is_err());
    assert!(scratch.store.remove(&path("leaf")).is_err());
    assert_eq!(scratch.store.look(&path("leaf"))?.map(|entry| entry.kind), Some(EntryKind::Other));
    let answer = scratch.store.publish(&path("dangling"), &file.payload, &[])?;
    assert_eq!(answer, Published::Occupied(path("dangling")));
    assert_eq!(all_names(outside.path()), ["secret"]);
    Ok(())
}

#[test]
fn foreign_files_are_listed_as_foreign_and_hidden_ones_not() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    for name in [".tmp-1-2-3", ".lock", "with space", "good"] {
        fs::write(scratch.root.join(name), "")?;
    }
    assert!(std::process::Command::new("mkfifo").arg(scratch.root.join("pipe")).status()?.success());
    let mut found = scratch.store.list(&StorePath::root())?.expect("because the root is there");
    found.sort_by(|one, two| one.name.cmp(&two.name));
    let found: Vec<_> = found.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(found, [("good", EntryKind::File), ("pipe", EntryKind::Other), ("with space", EntryKind::Other)]);
    assert!(scratch.store.open(&path("pipe")).is_err());
    Ok(())
}

#[test]
fn a_dropped_file_on_its_way_leaves_nothing() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    let mut incoming = scratch.store.begin(&path("wal/x"))?;
    incoming.write(b"half")?;
    assert_eq!(all_names(&scratch.root.join("wal")).len(), 1);
    drop(incoming);
    assert!(all_names(&scratch.root.join("wal")).is_empty());
    Ok(())
}

#[test]
fn a_file_is_committed_by_another_thread() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    let content = noise(700_000, 3);
    let payload = TestFile::new(&content).payload;
    let mut incoming = scratch.store.begin(&path("wal/x"))?;
    for piece in content.chunks(64 << 10) {
        incoming.write(piece)?;
    }
    let commit = std::thread::spawn(move || incoming.commit(payload.size, payload.sha256(), &[]));
    assert_eq!(commit.join().expect("because it does not panic")?, Published::New);
    assert!(conformance::read(&scratch.store, &path("wal/x")) == Some(content));
    Ok(())
}

#[test]
fn leftovers_are_swept_after_a_day_and_not_before() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    let wal = scratch.root.join("wal");
    fs::create_dir(&wal)?;
    for name in [".tmp-1-0-old", ".tmp-1-1-new", "old"] {
        fs::write(wal.join(name), "")?;
    }
    make_old(&wal.join(".tmp-1-0-old"))?;
    make_old(&wal.join("old"))?;
    scratch.store.publish(&path("wal/x"), &TestFile::new(b"x").payload, &[])?;
    assert_eq!(all_names(&wal), [".tmp-1-1-new", "old", "x"]);
    Ok(())
}

#[test]
fn an_old_leftover_does_not_keep_an_empty_folder() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    scratch.store.publish(&path("wal/x"), &TestFile::new(b"x").payload, &[])?;
    scratch.store.remove(&path("wal/x"))?;
    fs::write(scratch.root.join("wal/.tmp-1-0-0"), "")?;
    assert!(scratch.store.remove(&path("wal")).is_err(), "a young one may be a file on its way");
    make_old(&scratch.root.join("wal/.tmp-1-0-0"))?;
    assert!(scratch.store.remove(&path("wal"))?);
    Ok(())
}

#[test]
fn a_folder_removed_by_another_process_is_made_again() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = scratch();
    let file = TestFile::new(b"x");
    scratch.store.publish(&path("wal/x"), &file.payload, &[])?;
    fs::remove_dir_all(scratch.root.join("wal"))?;
    assert_eq!(scratch.store.publish(&path("wal/x"), &file.payload, &[])?, Published::New);
    Ok(())
}

/// Run by hand: `cargo test --release --lib cost_of_a_publish -- --ignored --nocapture`.
#[test]
#[ignore = "measures, asserts little"]
fn cost_of_a_publish() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let store = open(folder.path())?;
    let file = TestFile::new(&noise(2 << 20, 1));
    let mut times: Vec<_> = (0..100)
        .map(|round| {
            let begin = std::time::Instant::now();
            let published = store.publish(&path(&format!("wal/x{round}")), &file.payload, &[]);
            assert!(matches!(published, Ok(Published::New)));
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("2 MiB without a disk: median {:?}, worst {:?}", times[50], times[99]);
    Ok(())
}
