//! The one operation, over places that fail at every call and lose power at every step.

use std::sync::Arc;

use super::*;
use crate::store::conformance::{TestFile, encode, names, noise, path, read};
use crate::store::faulty::{Fault, Faulty, When};
use crate::store::local::LocalStore;
use crate::store::memory::MemoryStore;

const STEM: &str = "wal/0000000100000000/000000010000000000000001";

/// More than is compared at once, and not a multiple of it.
fn content(seed: u64) -> Vec<u8> {
    noise(COMPARE_SIZE * 2 + 12_345, seed)
}

fn stored_name(encoding: Encoding) -> StorePath {
    path(&format!("{STEM}{}", encoding.extension()))
}

/// How many files the folder of the segment holds.
fn count(store: &dyn Store) -> usize {
    names(store, &path("wal/0000000100000000")).unwrap_or_default().len()
}

#[test]
fn the_same_content_is_there_already_whatever_its_encoding() {
    for first in Encoding::ALL {
        for second in Encoding::ALL {
            let store = MemoryStore::new();
            let (one, two) = (TestFile::encoded(&content(1), first), TestFile::encoded(&content(1), second));
            assert!(matches!(ship(&path(STEM), &one.payload, &store), Ok(Shipped::Stored)));
            assert!(matches!(ship(&path(STEM), &two.payload, &store), Ok(Shipped::AlreadyThere)));
            assert_eq!(count(&store), 1);
        }
    }
}

#[test]
fn other_content_is_a_conflict_and_is_not_touched() {
    let mut longer = content(1);
    longer.push(0);
    let mut last_byte = content(1);
    *last_byte.last_mut().expect("because it is not empty") ^= 1;
    for (first, second) in [(Encoding::Zstd, Encoding::Zstd), (Encoding::Lz4, Encoding::None)] {
        for other in [&content(2), &longer, &last_byte, &Vec::new(), &content(1)[..COMPARE_SIZE * 2].to_vec()] {
            let store = MemoryStore::new();
            let (one, two) = (TestFile::encoded(&content(1), first), TestFile::encoded(other, second));
            assert!(matches!(ship(&path(STEM), &one.payload, &store), Ok(Shipped::Stored)));
            let Err(ShipError::Occupied { path, .. }) = ship(&path(STEM), &two.payload, &store) else {
                panic!("other content must be refused");
            };
            assert_eq!(path, stored_name(first));
            assert_eq!(read(&store, &path), Some(encode(&content(1), first)));
            assert_eq!(count(&store), 1);
        }
    }
}

#[test]
fn an_empty_file_is_content_like_any_other() {
    for encoding in Encoding::ALL {
        let store = MemoryStore::new();
        let empty = TestFile::encoded(b"", encoding);
        assert!(matches!(ship(&path(STEM), &empty.payload, &store), Ok(Shipped::Stored)), "{encoding:?}");
        assert!(matches!(ship(&path(STEM), &empty.payload, &store), Ok(Shipped::AlreadyThere)), "{encoding:?}");
    }
}

#[test]
fn a_stored_file_that_cannot_be_decoded_is_damaged_not_in_conflict() {
    for encoding in [Encoding::Zstd, Encoding::Lz4, Encoding::Gzip] {
        let good = encode(&content(1), encoding);
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 0xFF;
        let trailing = [&good[..], b"trailing"].concat();
        let cut = |by: usize| good[..good.len() - by].to_vec();
        let cases = [
            ("empty", Vec::new()),
            ("cut in the checksum", cut(2)),
            ("cut before the checksum", cut(4)),
            ("cut in the end mark", cut(5)),
            ("cut after the last block", cut(8)),
            ("cut in the content", cut(good.len() / 2)),
            ("cut in the header", good[..4].to_vec()),
            ("flipped", flipped),
            ("trailing", trailing),
        ];
        for (what, bytes) in cases {
            let store = MemoryStore::new();
            store.publish(&stored_name(encoding), &TestFile::stored(&bytes, encoding).payload, &[]).expect("free");
            for ours in [content(1), content(2)] {
                let error = ship(&path(STEM), &TestFile::new(&ours).payload, &store);
                let damaged = matches!(error, Err(ShipError::Store(StoreError::Damaged { .. })));
                assert!(damaged, "{encoding:?} {what}: {error:?}");
            }
            assert_eq!(read(&store, &stored_name(encoding)), Some(bytes));
        }
    }
}

#[test]
fn a_source_that_cannot_be_read_is_not_the_places_fault() {
    let store = MemoryStore::new();
    let file = TestFile::new(&content(1));
    std::fs::remove_file(file.path()).expect("because it is ours");
    assert!(matches!(ship(&path(STEM), &file.payload, &store), Err(ShipError::Source { .. })));
    ship(&path(STEM), &TestFile::new(&content(1)).payload, &store).expect("because the name is free");
    assert!(matches!(ship(&path(STEM), &file.payload, &store), Err(ShipError::Source { .. })));
}

/// Ships over a place that fails once, at every call in turn, and again until it is done; then looks at the world.
fn fails_once_anywhere(before: &dyn Fn() -> (Arc<dyn Store>, Option<Encoding>), second: Encoding) -> u64 {
    for when in [When::Before, When::After] {
        for call in 0.. {
            assert!(call < 1000, "a run must come to an end");
            let (inner, there) = before();
            let ours = TestFile::encoded(&content(1), second);
            let faulty = Faulty::new(Arc::clone(&inner), Some(Fault { call, when }));
            let first = ship(&path(STEM), &ours.payload, &faulty);
            if !faulty.struck() {
                first.expect("because no call failed");
                if when == When::After {
                    return call;
                }
                break;
            }
            let error = first.expect_err("because a failed call never counts as success");
            assert!(!matches!(error, ShipError::Occupied { .. }), "a lost answer is no conflict");
            assert!(!matches!(error, ShipError::Store(StoreError::Damaged { .. })), "a lost answer is no damage");
            ship(&path(STEM), &ours.payload, &faulty).expect("because the second run finds a working place");
            let encoding = there.unwrap_or(second);
            assert_eq!(read(&*inner, &stored_name(encoding)), Some(encode(&content(1), encoding)));
            assert_eq!(count(&*inner), 1);
        }
    }
    0
}

fn with_file(store: Arc<dyn Store>, there: Option<Encoding>) -> (Arc<dyn Store>, Option<Encoding>) {
    if let Some(encoding) = there {
        ship(&path(STEM), &TestFile::encoded(&content(1), encoding).payload, &*store).expect("because it is free");
    }
    (store, there)
}

#[test]
fn any_call_may_fail_over_memory() {
    for there in [None, Some(Encoding::Zstd), Some(Encoding::Lz4), Some(Encoding::None)] {
        let calls = fails_once_anywhere(&|| with_file(Arc::new(MemoryStore::new()), there), Encoding::Zstd);
        assert!(calls >= if there.is_some() { 4 } else { 1 }, "publish, settle, open and reads: {calls}");
    }
}

#[test]
fn any_call_may_fail_over_a_local_directory() {
    let folder = tempfile::tempdir().expect("because the tests need a temporary directory");
    let place = Place { node: "here".to_owned(), location: "here".to_owned() };
    let next = std::cell::Cell::new(0);
    let make = |there| {
        next.set(next.get() + 1);
        let root = folder.path().join(next.get().to_string());
        std::fs::create_dir(&root).expect("because the folder is ours");
        let store = LocalStore::open(&root, place.clone()).expect("because it is there");
        with_file(Arc::new(store), there)
    };
    for there in [None, Some(Encoding::Gzip), Some(Encoding::None)] {
        assert!(fails_once_anywhere(&|| make(there), Encoding::None) >= 1);
    }
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_step() {
    for step in 0.. {
        assert!(step < 1000, "a run must come to an end");
        let store = MemoryStore::new();
        let ours = TestFile::encoded(&content(1), Encoding::Zstd);
        store.crash_at(step);
        let first = ship(&path(STEM), &ours.payload, &store);
        assert_eq!(first.is_err(), !store.crash_pending(), "a crash in the middle is never a success");
        let finished = first.is_ok();
        store.crash_at(u64::MAX);
        ship(&path(STEM), &ours.payload, &store).expect("because the second run finds a working place");
        store.crash();
        assert_eq!(read(&store, &stored_name(Encoding::Zstd)), Some(encode(&content(1), Encoding::Zstd)));
        assert_eq!(count(&store), 1);
        if finished {
            break;
        }
    }
}

/// A place that does all of a publish but the last fsync, and then answers with an error.
#[test]
fn already_there_means_durable_too() {
    let store = MemoryStore::new();
    let ours = TestFile::encoded(&content(1), Encoding::Zstd);
    store.fail_next_sync_of_folder("wal/0000000100000000");
    ship(&path(STEM), &ours.payload, &store).expect_err("because the folder could not be made durable");
    assert!(store.look(&stored_name(Encoding::Zstd)).expect("because the place works").is_some());
    assert!(matches!(ship(&path(STEM), &ours.payload, &store), Ok(Shipped::AlreadyThere)));
    store.crash();
    assert!(store.look(&stored_name(Encoding::Zstd)).expect("because the place works").is_some());
}
