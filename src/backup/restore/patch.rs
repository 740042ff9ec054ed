//! Writes one file so that only what differs from what is there already is written.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};

/// What is compared at a time, in bytes: a page of PostgreSQL.
const BLOCK: usize = 8192;

/// The kernel is told to write out so much at a time, in bytes. It would leave all of it to the end otherwise, and the
/// disk would rest while we decode.
const WRITTEN_OUT: u64 = 4 << 20;

/// A file that becomes another.
pub struct Patch {
    file: File,
    /// Up to where the kernel was told to write out what it has.
    told: u64,
    /// How much of what was there before is left, in bytes.
    old: u64,
    offset: u64,
    buffer: Vec<u8>,
}

impl Patch {
    /// Opens a file that is there already, or makes it (0600). It gets this size at most.
    pub fn open(path: &Path, size: u64) -> io::Result<Patch> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // What a link leads to is not ours.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(path)?;
        let old = file.metadata()?.len();
        if old > size {
            file.set_len(size)?;
        }
        Ok(Patch { file, told: 0, old: old.min(size), offset: 0, buffer: Vec::new() })
    }

    /// Takes the next bytes; returns how many of them had to be written.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let there = usize::try_from(self.old.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(bytes.len());
        let (overlap, new) = bytes.split_at(there);
        let mut written = self.compare(overlap)?;
        if !new.is_empty() {
            self.file.write_all_at(new, self.offset + there as u64)?;
            written += new.len() as u64;
        }
        self.offset += bytes.len() as u64;
        self.write_out();
        Ok(written)
    }

    /// Begins to write out what was written, without waiting for it. What is clean by then leaves the cache.
    fn write_out(&mut self) {
        if let Some(length) = NonZeroU64::new(self.offset - self.told).filter(|length| length.get() >= WRITTEN_OUT) {
            // Only advice: where it is not taken, the end waits longer.
            let _ = fadvise(&self.file, self.told, Some(length), Advice::DontNeed);
            self.told = self.offset;
        }
    }

    /// Writes what differs, each run of blocks at once.
    fn compare(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.buffer.resize(bytes.len(), 0);
        self.file.read_exact_at(&mut self.buffer, self.offset)?;
        let (mut written, mut run) = (0, 0..0);
        let pairs = bytes.chunks(BLOCK).zip(self.buffer.chunks(BLOCK));
        for (index, (new, old)) in pairs.enumerate() {
            let at = index * BLOCK;
            if new == old {
                written += self.put(bytes, &run)?;
                run = at..at;
            } else {
                run = if run.is_empty() { at } else { run.start }..at + new.len();
            }
        }
        Ok(written + self.put(bytes, &run)?)
    }

    fn put(&self, bytes: &[u8], run: &std::ops::Range<usize>) -> io::Result<u64> {
        if run.is_empty() {
            return Ok(0);
        }
        self.file.write_all_at(&bytes[run.clone()], self.offset + run.start as u64)?;
        Ok(run.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Makes `old` into `new` in pieces of this size; what the file holds then, and how much was written.
    fn patched(old: Option<&[u8]>, new: &[u8], piece: usize) -> (Vec<u8>, u64) {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let path = folder.path().join("file");
        if let Some(old) = old {
            std::fs::write(&path, old).expect("because the folder is ours");
        }
        let mut patch = Patch::open(&path, new.len() as u64).expect("because the folder is ours");
        let written = new.chunks(piece).map(|bytes| patch.take(bytes).expect("because the file is ours")).sum();
        (std::fs::read(&path).expect("because it is there"), written)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn whatever_was_there_the_new_content_is_there_then(
            old in proptest::option::of(proptest::collection::vec(0u8..2, 0..40_000)),
            new in proptest::collection::vec(0u8..2, 0..40_000),
            piece in 1usize..20_000,
        ) {
            prop_assert_eq!(patched(old.as_deref(), &new, piece).0, new);
        }
    }

    #[test]
    fn only_pages_that_differ_are_written() {
        let old: Vec<u8> = (0..10 * BLOCK).map(|at| (at % 251) as u8).collect();
        assert_eq!(patched(Some(&old), &old, 3 * BLOCK).1, 0);
        let mut new = old.clone();
        new[4 * BLOCK + 5] ^= 1;
        new[7 * BLOCK] ^= 1;
        new[8 * BLOCK] ^= 1;
        assert_eq!(patched(Some(&old), &new, 5 * BLOCK).1, 3 * BLOCK as u64);
        assert_eq!(patched(Some(&old[..6 * BLOCK]), &old, 5 * BLOCK).1, 4 * BLOCK as u64);
        assert_eq!(patched(None, &old, BLOCK).1, old.len() as u64);
    }

    #[test]
    fn a_link_is_not_followed() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (foreign, link) = (folder.path().join("foreign"), folder.path().join("link"));
        std::fs::write(&foreign, "theirs")?;
        std::os::unix::fs::symlink(&foreign, &link)?;
        assert!(Patch::open(&link, 0).is_err());
        assert_eq!(std::fs::read(&foreign)?, b"theirs");
        Ok(())
    }
}
