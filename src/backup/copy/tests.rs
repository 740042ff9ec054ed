//! Files are copied into payloads and decoded again.

use super::super::Unwatched;
use super::super::checksum::page_checksum;
use super::super::tar::Members;
use super::*;
use crate::store::Encoding;

fn copier(spool: &Path, encoding: Encoding) -> Copier<'static> {
    Copier {
        method: Method { encoding, level: 0, threads: 1, writer: "a".to_owned() },
        wave: 2,
        spool: spool.to_owned(),
        pages: true,
        settled: 0,
        parent: None,
        changes: None,
        pace: Pace::new(0),
        watcher: &Unwatched,
        next: AtomicU64::new(0),
        spare: Mutex::default(),
    }
}

fn source(folder: &Path, name: &str, content: &[u8], first_block: Option<u32>) -> SourceFile {
    let file = folder.join(name);
    std::fs::write(&file, content).expect("because the test owns the folder");
    let (path, size) = (name.to_owned(), content.len() as u64);
    SourceFile { path, file, size, stamp: Stamp::default(), first_block }
}

fn decoded(payload: &Payload) -> Vec<u8> {
    let stored = payload.open().expect("because it was just written");
    let mut reader = payload.encoding.decoder(Box::new(stored)).expect("because it is whole");
    let mut bytes = Vec::new();
    each_piece::<io::Error>(&mut reader, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .expect("because it is whole");
    bytes
}

/// Pages of a relation, each with its checksum, but for one.
fn pages(count: u32, first: u32, damaged: u32) -> Vec<u8> {
    let page = |at: u32| {
        let mut page = [at as u8 | 1; PAGE];
        let sum = page_checksum(&page, first + at).wrapping_add(u16::from(at == damaged));
        page[8..10].copy_from_slice(&sum.to_ne_bytes());
        page
    };
    (0..count).flat_map(page).collect()
}

#[test]
fn a_large_file_comes_back_and_its_damaged_page_is_counted_over_the_relation() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // More than two waves; and not a whole number of pieces.
    for (encoding, count, wrong) in [(Encoding::Zstd, 2600, 1500), (Encoding::Lz4, 300, 7), (Encoding::None, 300, 7)] {
        let content = pages(count, 131_072, wrong);
        let file = source(folder.path(), "1.1", &content, Some(131_072));
        let copied = copier(folder.path(), encoding).copy(&Work::File(file)).expect("because it can be read");
        assert_eq!(copied.files[0].damaged, [131_072 + wrong]);
        assert_eq!((copied.files[0].crc, copied.files[0].blocks), (crc32c::crc32c(&content), None));
        let sums: Vec<_> = content.as_chunks::<PAGE>().0.iter().map(BlockSum::of).collect();
        assert!(copied.sums == Some(sums), "{encoding:?}");
        assert!(decoded(&copied.payload.expect("because it is there")) == content, "{encoding:?}");
    }
}

#[test]
fn a_file_without_pages_comes_back_whole_and_a_part_of_a_page_is_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let content: Vec<u8> = (0..9 * PIECE + 77).map(|at| (at / 3) as u8).collect();
    for (first_block, expected) in [(None, content.len()), (Some(0), 9 * PIECE)] {
        let file = source(folder.path(), "x", &content, first_block);
        let copier = Copier { pages: false, ..copier(folder.path(), Encoding::Zstd) };
        let copied = copier.copy(&Work::File(file)).expect("because it can be read");
        let content = &content[..expected];
        assert_eq!((copied.files[0].size, copied.files[0].crc), (expected as u64, crc32c::crc32c(content)));
        assert!(decoded(&copied.payload.expect("because it is there")) == content);
    }
}

#[test]
fn what_has_vanished_is_left_out_and_nothing_is_stored_for_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = ["a", "b", "c"].map(|name| source(folder.path(), name, name.as_bytes(), None));
    std::fs::remove_file(&files[1].file).expect("because it is there");
    let copier = copier(folder.path(), Encoding::Zstd);
    let alone = copier.copy(&Work::File(files[1].clone())).expect("because that is no error");
    assert!(alone.payload.is_none() && alone.files.is_empty());
    let copied = copier.copy(&Work::Bundle(files.to_vec())).expect("because that is no error");
    let bytes = decoded(&copied.payload.expect("because two are there"));
    let mut members = Members::new(&bytes[..]);
    let mut names = Vec::new();
    while let Some(member) = members.advance().expect("because it is whole") {
        names.push(member.name);
    }
    assert_eq!(names, ["a", "c"]);
    assert_eq!(copied.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_read_that_fails_half_way_is_an_error_and_a_file_that_was_cut_is_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A directory opens like a file, and every read of it fails.
    let broken = SourceFile { file: folder.path().to_owned(), ..source(folder.path(), "x", b"x", None) };
    for work in [Work::File(broken.clone()), Work::Bundle(vec![broken])] {
        let failed = copier(folder.path(), Encoding::Zstd).copy(&work).err().map(|error| error.to_string());
        let expected = format!("cannot read '{}'", folder.path().display());
        assert!(failed.as_ref().is_some_and(|said| said.contains(&expected)), "{failed:?}");
    }
    let cut = source(folder.path(), "1", &pages(3, 0, 3), Some(0));
    let file = File::options().write(true).open(&cut.file).expect("because it is there");
    let (copier, end) = (copier(folder.path(), Encoding::Zstd), 9 * PAGE as u64);
    let mut tools = copier.tools(&cut.file).expect("because there is memory");
    let stretch =
        copier.stretch(&cut, &File::open(&cut.file).expect("because it is there"), (0, end), None, &mut tools);
    let stretch = stretch.expect("because that is no error");
    assert_eq!((stretch.short, stretch.count, stretch.sums.len()), (true, 3 * PAGE as u64, 3));
    drop(file);
}
