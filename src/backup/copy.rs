//! Reads files of a running server, checks their pages, and encodes them into payloads.
//!
//! A file is read once, from its beginning to the size it has when it is opened: what is written behind that, and pages
//! that change while they are read, are made right by WAL. A page whose checksum is wrong is read again, since the
//! server may be writing it at that moment; where it stays wrong it is stored as it is, and told. Memory is bounded by
//! a few pieces a thread.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use super::catalog::StoredFile;
use super::checksum::{PAGE, is_sound, unsound};
use super::plan::{SourceFile, Work, modified};
use super::{BackupError, Watcher, tar};
use crate::archive::encode::{Method, compress};
use crate::store::{Encoding, Payload};

/// How much is read, checked and compressed at once, in bytes; whole pages.
const PIECE: usize = 4 << 20;

/// How often a page is read again before it counts as damaged.
const AGAIN: u32 = 5;

/// How long to wait before that: far longer than the kernel takes to write a page.
const AGAIN_AFTER: Duration = Duration::from_millis(2);

/// Copies files by one set of rules. Shared by all threads.
pub struct Copier<'a> {
    /// How to encode a piece.
    pub method: Method,
    /// How many pieces of one file are encoded at the same time, so that the last file does not keep one core only.
    pub wave: usize,
    /// Where payloads are written.
    pub spool: PathBuf,
    /// True where pages carry checksums.
    pub pages: bool,
    /// How fast to read.
    pub pace: Pace,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
    /// Numbers the payloads.
    pub next: AtomicU64,
}

/// Files that were read.
pub struct Copied {
    /// What to store; none where every file had vanished.
    pub payload: Option<Payload>,
    /// Which files it holds.
    pub files: Vec<StoredFile>,
}

/// Holds reading back to so many bytes a second, over all threads.
pub struct Pace {
    rate: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// A pace; 0 bytes a second: no limit.
    pub fn new(rate: u64) -> Self {
        Pace { rate, free_at: Mutex::new(None) }
    }

    /// Waits until so many bytes more may be read.
    pub(super) fn spend(&self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let now = Instant::now();
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = free_at.unwrap_or(now).max(now);
            *free_at = Some(begin + cost);
            begin
        };
        std::thread::sleep(begin.saturating_duration_since(now));
    }
}

impl Copier<'_> {
    /// Reads what belongs together into one payload.
    pub fn copy(&self, work: &Work) -> Result<Copied, BackupError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let target = self.spool.join(format!("{number}{}", self.method.encoding.extension()));
        let mut out = Output::create(&target, &self.method)?;
        let files = match work {
            Work::File(file) => self.file(file, &mut out)?.into_iter().collect::<Vec<_>>(),
            Work::Bundle(files) => self.bundle(files, &mut out)?,
        };
        let payload = out.finish()?;
        if files.is_empty() {
            remove(&payload.file)?;
            return Ok(Copied { payload: None, files });
        }
        Ok(Copied { payload: Some(payload), files })
    }

    /// Reads a large file; `None` where it has vanished.
    fn file(&self, source: &SourceFile, out: &mut Output<'_>) -> Result<Option<StoredFile>, BackupError> {
        let Some((file, data)) = open(source)? else { return Ok(None) };
        let mut stored = begin(source, &data);
        while stored.size < data.len() {
            for piece in self.wave(source, &file, stored.size, data.len())? {
                out.frame(&piece.encoded)?;
                stored.take(&piece.read);
                if piece.read.count < piece.wanted {
                    // It was truncated meanwhile, and WAL says so too.
                    return Ok(Some(stored));
                }
            }
        }
        Ok(Some(stored))
    }

    /// Reads and encodes the next pieces of a file at the same time.
    fn wave(&self, source: &SourceFile, file: &File, offset: u64, end: u64) -> Result<Vec<Piece>, BackupError> {
        let offsets = (0..self.wave.max(1)).map(|at| offset + (at * PIECE) as u64).filter(|offset| *offset < end);
        let piece = |offset: u64| {
            let wanted = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let mut buffer = vec![0; wanted];
            let read = self.read(source, file, &mut buffer, offset)?;
            let encoded = compress(&buffer[..read.count], &self.method);
            let encoded = encoded.map_err(BackupError::io("compress", &source.file))?;
            Ok(Piece { wanted, read, encoded })
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = offsets.skip(1).map(|offset| scope.spawn(move || piece(offset))).collect();
            let first = piece(offset);
            let others = threads.into_iter().map(|it| it.join().expect("because a panic there is a panic here"));
            std::iter::once(first).chain(others).collect()
        })
    }

    /// Reads small files into a tar; each is read whole before its header is written, so that the header is true.
    fn bundle(&self, sources: &[SourceFile], out: &mut Output<'_>) -> Result<Vec<StoredFile>, BackupError> {
        let mut files = Vec::with_capacity(sources.len());
        let mut content = Vec::new();
        for source in sources {
            let Some((file, data)) = open(source)? else { continue };
            let mut stored = begin(source, &data);
            content.resize(usize::try_from(data.len()).unwrap_or(usize::MAX), 0);
            stored.take(&self.read(source, &file, &mut content, 0)?);
            let seconds = u64::try_from(stored.modified / 1_000_000_000).unwrap_or(0);
            out.write(&tar::header(&stored.path, stored.size, seconds))?;
            out.write(&content[..stored.size as usize])?;
            out.write(&vec![0; tar::padding(stored.size)])?;
            files.push(stored);
        }
        out.write(&tar::END)?;
        Ok(files)
    }

    fn read(&self, source: &SourceFile, file: &File, buffer: &mut [u8], offset: u64) -> Result<Read, BackupError> {
        self.pace.spend(buffer.len() as u64);
        let read = read_checked(source, file, buffer, offset, self.pages)?;
        self.watcher.advance(read.count as u64);
        Ok(read)
    }
}

/// Fills the buffer from an offset of whole pages as far as the file goes, and checks the pages where they carry
/// checksums.
pub(super) fn read_checked(
    source: &SourceFile,
    file: &File,
    buffer: &mut [u8],
    offset: u64,
    pages: bool,
) -> Result<Read, BackupError> {
    let failed = |error| BackupError::io("read", &source.file)(error);
    let count = read_at(file, buffer, offset).map_err(failed)?;
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
    Ok(Read { count, crc: crc32c::crc32c(bytes), damaged })
}

/// What was read at once.
pub(super) struct Read {
    /// How many bytes.
    pub count: usize,
    /// Their CRC-32C.
    pub crc: u32,
    /// Blocks whose checksum is wrong.
    pub damaged: Vec<u32>,
}

/// A part of a file, encoded.
struct Piece {
    wanted: usize,
    read: Read,
    encoded: Vec<u8>,
}

impl StoredFile {
    /// Adds the part of the file that follows.
    fn take(&mut self, read: &Read) {
        self.crc = crc32c::crc32c_combine(self.crc, read.crc, read.count);
        self.size += read.count as u64;
        self.damaged.extend(&read.damaged);
    }
}

/// Reads a page again until it is sound; `false` where it stays wrong.
fn read_again(file: &File, page: &mut [u8], offset: u64, block: u32) -> io::Result<bool> {
    let Some(page) = page.first_chunk_mut::<PAGE>() else { return Ok(true) };
    for _ in 0..AGAIN {
        std::thread::sleep(AGAIN_AFTER);
        let mut fresh = [0; PAGE];
        let count = read_at(file, &mut fresh, offset)?;
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

/// Opens a file; `None` where it has vanished, which is no error: the server removed it.
pub(super) fn open(source: &SourceFile) -> Result<Option<(File, Metadata)>, BackupError> {
    let file = match File::open(&source.file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BackupError::io("open", &source.file)(error)),
    };
    let data = file.metadata().map_err(BackupError::io("look at", &source.file))?;
    Ok(Some((file, data)))
}

fn begin(source: &SourceFile, data: &Metadata) -> StoredFile {
    let modified = modified(data);
    StoredFile { path: source.path.clone(), size: 0, modified, opened: now(), crc: 0, damaged: Vec::new() }
}

/// The time of this machine's clock, in nanoseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Fills the buffer from an offset as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Encodes bytes in memory into a payload of the spool.
pub fn encode_bytes(bytes: &[u8], target: &Path, encoding: Encoding) -> Result<Payload, BackupError> {
    let method = Method { encoding, level: 0, threads: 1, writer: String::new() };
    let mut out = Output::create(target, &method)?;
    out.write(bytes)?;
    out.finish()
}

/// Removes a payload that is stored.
pub fn remove(path: &Path) -> Result<(), BackupError> {
    std::fs::remove_file(path).map_err(BackupError::io("remove", path))
}

/// A payload that is being written, piece by piece, each a frame of its own.
struct Output<'a> {
    file: File,
    path: PathBuf,
    method: &'a Method,
    pending: Vec<u8>,
    hash: Sha256,
    size: u64,
}

impl<'a> Output<'a> {
    fn create(path: &Path, method: &'a Method) -> Result<Self, BackupError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.map_err(BackupError::io("create", path))?;
        Ok(Output { file, path: path.to_owned(), method, pending: Vec::new(), hash: Sha256::new(), size: 0 })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            if self.pending.is_empty() && bytes.len() >= PIECE {
                self.encode(&bytes[..PIECE])?;
                bytes = &bytes[PIECE..];
                continue;
            }
            let taken = bytes.len().min(PIECE - self.pending.len());
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.pending.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackupError> {
        let mut pending = std::mem::take(&mut self.pending);
        self.encode(&pending)?;
        pending.clear();
        self.pending = pending;
        Ok(())
    }

    fn encode(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let encoded = compress(bytes, self.method).map_err(BackupError::io("compress into", &self.path))?;
        self.frame(&encoded)
    }

    /// Writes a frame that is encoded already; nothing may be pending.
    fn frame(&mut self, encoded: &[u8]) -> Result<(), BackupError> {
        debug_assert!(self.pending.is_empty(), "because frames keep their order");
        self.file.write_all(encoded).map_err(BackupError::io("write", &self.path))?;
        self.hash.update(encoded);
        self.size += encoded.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Payload, BackupError> {
        // A stored file is never empty, or the decoder could not tell an empty one from a lost one.
        if !self.pending.is_empty() || self.size == 0 {
            self.flush()?;
        }
        let encoding = self.method.encoding;
        Ok(Payload { file: self.path, memory: None, size: self.size, sha256: self.hash.finalize().into(), encoding })
    }
}

/// Reads to the end in pieces.
pub fn each_piece<E: From<io::Error>>(
    reader: &mut dyn io::Read,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unwatched;
    use super::super::checksum::page_checksum;
    use super::super::tar::Members;
    use super::*;

    fn copier(spool: &Path, encoding: Encoding) -> Copier<'static> {
        Copier {
            method: Method { encoding, level: 0, threads: 1, writer: "a".to_owned() },
            wave: 2,
            spool: spool.to_owned(),
            pages: true,
            pace: Pace::new(0),
            watcher: &Unwatched,
            next: AtomicU64::new(0),
        }
    }

    fn source(folder: &Path, name: &str, content: &[u8], first_block: Option<u32>) -> SourceFile {
        let file = folder.join(name);
        std::fs::write(&file, content).expect("because the test owns the folder");
        SourceFile { path: name.to_owned(), file, size: content.len() as u64, modified: 0, first_block }
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
        for encoding in [Encoding::Zstd, Encoding::Lz4, Encoding::None] {
            // More than two waves, and not a whole number of pieces.
            let content = pages(2600, 131_072, 1500);
            let file = source(folder.path(), "1.1", &content, Some(131_072));
            let copied = copier(folder.path(), encoding).copy(&Work::File(file)).expect("because it can be read");
            assert_eq!(copied.files[0].damaged, [131_072 + 1500]);
            assert_eq!(copied.files[0].crc, crc32c::crc32c(&content));
            assert!(decoded(&copied.payload.expect("because it is there")) == content, "{encoding:?}");
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
    fn the_pace_is_kept_over_all_threads() {
        let pace = Pace::new(1 << 20);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| pace.spend(100 << 10));
            }
        });
        // The last of four begins when three are paid for: 300 KiB at 1 MiB a second.
        assert!(begin.elapsed() >= Duration::from_millis(280), "{:?}", begin.elapsed());
    }
}
