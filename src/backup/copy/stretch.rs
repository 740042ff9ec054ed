//! One stretch of a file: read, its pages checked and summed up, and encoded, piece by piece.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::{Copier, Known, PIECE, whole_pages};
use crate::archive::encode::Encoder;
use crate::backup::blocks::BlockSum;
use crate::backup::checksum::{PAGE, is_sound, unsound};
use crate::backup::plan::SourceFile;
use crate::backup::{BackupError, runs};
use crate::system::reading::read_full_at;

/// How often a page is read again before it counts as damaged.
const AGAIN: u32 = 5;

/// How long to wait before that: far longer than the kernel takes to write a page.
const AGAIN_AFTER: Duration = Duration::from_millis(2);

/// What one thread works with: dear to make, so kept from one stretch to the next.
pub struct Tools {
    encoder: Encoder,
    /// As read.
    plain: Vec<u8>,
    /// The blocks that changed.
    runs: Vec<u8>,
    /// One piece, encoded.
    frame: Vec<u8>,
    /// The stretch, encoded.
    encoded: Vec<u8>,
}

/// What became of a stretch; its bytes are in the tools.
#[derive(Default)]
pub struct Stretch {
    /// How many bytes were read, or left unread because they are the parent's.
    pub count: u64,
    /// True where the file ended before the stretch did.
    pub short: bool,
    /// The CRC-32C of what was read, where it has no pages.
    pub crc: u32,
    /// The sums of its pages, read or not, where it has pages.
    pub sums: Vec<BlockSum>,
    /// How many pages differ from what was known.
    pub changed: u32,
    /// Pages whose checksum is wrong, counted over the relation.
    pub damaged: Vec<u32>,
}

impl Tools {
    /// New tools.
    pub fn new(encoder: Encoder) -> Tools {
        Tools { encoder, plain: vec![0; PIECE], runs: Vec::new(), frame: Vec::new(), encoded: Vec::new() }
    }

    /// What it compresses with.
    pub fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    /// The stretch that was encoded last.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Encodes `bytes` behind what is encoded already.
    fn encode(&mut self, what: Bytes) -> io::Result<()> {
        let bytes = match what {
            Bytes::Plain(count) => &self.plain[..count],
            Bytes::Runs => &self.runs,
        };
        self.encoder.encode(bytes, &mut self.frame)?;
        self.encoded.extend_from_slice(&self.frame);
        Ok(())
    }
}

enum Bytes {
    Plain(usize),
    Runs,
}

impl Copier<'_> {
    /// Reads and encodes the bytes of a file in that range; with `known` only the blocks that differ,
    /// and those are not even read of which that is known.
    pub(super) fn stretch(
        &self,
        source: &SourceFile,
        file: &File,
        (offset, end): (u64, u64),
        known: Option<&Known<'_>>,
        tools: &mut Tools,
    ) -> Result<Stretch, BackupError> {
        let mut done = Stretch::default();
        tools.encoded.clear();
        tools.runs.clear();
        while offset + done.count < end && !done.short {
            let at = offset + done.count;
            let mut wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            if let Some(known) = known {
                let first = at / PAGE as u64;
                let (must_read, until) = known.alike(first, first + (wanted / PAGE) as u64);
                wanted = (until - first) as usize * PAGE;
                if !must_read {
                    done.sums.extend(&known.sums[first as usize..until as usize]);
                    done.count += wanted as u64;
                    self.watcher.advance(wanted as u64);
                    continue;
                }
            }
            let (mut count, damaged) = self.read(source, file, &mut tools.plain[..wanted], at)?;
            done.short = count < wanted;
            if source.first_block.is_some() {
                count = whole_pages(count as u64) as usize;
                let before = done.sums.len();
                let (pages, _) = tools.plain[..count].as_chunks::<PAGE>();
                done.sums.extend(pages.iter().map(BlockSum::of));
                if let Some(known) = known {
                    let (first, sums) = ((at / PAGE as u64) as usize, &done.sums[before..]);
                    let differs = |page: usize| known.sums.get(first + page) != Some(&sums[page]);
                    done.changed += runs::append(&tools.plain[..count], first as u32, differs, &mut tools.runs);
                }
            } else {
                done.crc = crc32c::crc32c_append(done.crc, &tools.plain[..count]);
            }
            done.count += count as u64;
            done.damaged.extend(damaged);
            if known.is_none() {
                tools.encode(Bytes::Plain(count)).map_err(BackupError::io("compress", &source.file))?;
            }
        }
        if !tools.runs.is_empty() {
            tools.encode(Bytes::Runs).map_err(BackupError::io("compress", &source.file))?;
        }
        Ok(done)
    }

    /// The same as [`read_checked`], held back to the pace, and told.
    pub(super) fn read(
        &self,
        source: &SourceFile,
        file: &File,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(usize, Vec<u32>), BackupError> {
        self.pace.spend(buffer.len() as u64);
        let (count, damaged) = read_checked(source, file, buffer, offset, self.pages)?;
        self.watcher.advance(count as u64);
        Ok((count, damaged))
    }
}

/// Fills the buffer from an offset of whole pages as far as the file goes, and checks the pages where they carry
/// checksums: how many bytes there are, and which pages stay wrong, counted over the relation.
pub fn read_checked(
    source: &SourceFile,
    file: &File,
    buffer: &mut [u8],
    offset: u64,
    pages: bool,
) -> Result<(usize, Vec<u32>), BackupError> {
    let failed = |error| BackupError::io("read", &source.file)(error);
    let count = read_full_at(file, buffer, offset).map_err(failed)?;
    let bytes = &mut buffer[..count];
    let mut damaged = Vec::new();
    if let Some(first) = source.first_block.filter(|_| pages) {
        let first = first.wrapping_add(u32::try_from(offset / PAGE as u64).unwrap_or(u32::MAX));
        for page in unsound(bytes, first) {
            let at = page * PAGE;
            let block = first.wrapping_add(page as u32);
            if !read_again(file, &mut bytes[at..at + PAGE], offset + at as u64, block).map_err(failed)? {
                log::error!("page checksum is wrong in '{}', block {block}", source.path);
                damaged.push(block);
            }
        }
    }
    Ok((count, damaged))
}

/// Reads a page again until it is sound; `false` where it stays wrong.
fn read_again(file: &File, page: &mut [u8], offset: u64, block: u32) -> io::Result<bool> {
    let Some(page) = page.first_chunk_mut::<PAGE>() else { return Ok(true) };
    for _ in 0..AGAIN {
        std::thread::sleep(AGAIN_AFTER);
        let mut fresh = [0; PAGE];
        let count = read_full_at(file, &mut fresh, offset)?;
        if count < PAGE {
            // The file ends before it now: it was truncated, and nobody will read this page.
            return Ok(true);
        }
        *page = fresh;
        if is_sound(page, block) {
            return Ok(true);
        }
    }
    Ok(false)
}
