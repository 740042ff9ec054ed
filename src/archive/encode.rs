//! Turns a WAL file into a payload: read once, checked page by page, compressed once for all places.
//!
//! A segment is compressed in pieces, each a frame of its own, so that several cores share one segment and memory does
//! not grow with its size. `zstd -d`, `lz4 -d` and `gzip -d` read such a file as one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ArchiveError;
use crate::store::{Encoding, Payload};

/// How much is compressed as one frame, in bytes. Larger gains no compression worth having at the levels used here, and
/// memory that is touched for the first time costs more than compressing it does.
const PIECE: usize = 1 << 20;

/// A payload up to this size stays in memory, in bytes; times the depth of looking ahead it bounds the worker's memory.
const MEMORY_MAX: usize = 4 << 20;

/// How many cores one segment may use; more would only raise memory.
const THREADS_MAX: usize = 4;

/// The first bytes of a Zstandard frame that decoders skip (RFC 8878, section 3.1.2).
const SKIPPABLE: u32 = 0x184D_2A5A;

/// What begins the note about who wrote a file.
const NOTE: &str = "pgwarm";

/// A WAL file that PostgreSQL offers.
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// What it looked like when it was opened.
    pub stamp: Stamp,
}

/// Tells one state of a file from another, so that a result is never used for other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    /// In bytes.
    pub size: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// Looks at a range of the file before it is compressed: the offset and the bytes.
pub type Inspect<'a> = dyn Fn(u64, &[u8]) -> Result<(), ArchiveError> + Sync + 'a;

/// How to encode.
#[derive(Debug, Clone)]
pub struct Method {
    /// The form to store.
    pub encoding: Encoding,
    /// The level of the method; 0 is its default.
    pub level: i32,
    /// How many cores to use.
    pub threads: usize,
    /// Who writes: the node's name, kept in the file where the form allows a note.
    pub writer: String,
}

/// What compressing needs and is dear to make: kept from one segment to the next, and lent to no more threads at a time
/// than there are cores, since more would only drive each other out of the caches.
pub struct Bench {
    way: Way,
    spare: Mutex<Vec<Tools>>,
    seats: Mutex<usize>,
    freed: Condvar,
}

/// How the pieces of a file come before the eyes of the compressor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Copied into memory of our own. A disk that fails and a file that was cut off are errors with a message.
    Read,
    /// Looked at where the kernel holds them, which saves copying them. A disk that fails and a file that is cut off
    /// under our eyes end the process (SIGBUS): only for the worker, whose end costs a call no more than doing the
    /// work itself, by reading.
    Map,
}

/// What one thread compresses with.
struct Tools {
    plain: Vec<u8>,
    encoder: Option<Encoder>,
}

/// Compresses pieces one after the other, each into a frame of its own; what is dear to make is kept in between.
pub struct Encoder {
    encoding: Encoding,
    level: i32,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

/// A place at the bench; given back when dropped.
struct Seat<'a>(&'a Bench);

impl Bench {
    /// A bench with a seat for each core.
    pub fn new(cores: usize, way: Way) -> Self {
        Bench { way, spare: Mutex::default(), seats: Mutex::new(cores.max(1)), freed: Condvar::new() }
    }

    fn sit_down(&self) -> Seat<'_> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        while *seats == 0 {
            // Whoever sits there compresses one segment, which takes no waiting for anybody else.
            seats = self.freed.wait(seats).unwrap_or_else(PoisonError::into_inner);
        }
        *seats -= 1;
        Seat(self)
    }

    fn take_tools(&self) -> Tools {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or(Tools { plain: Vec::new(), encoder: None })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        *self.0.seats.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl Source {
    /// Opens a file and takes its stamp.
    pub fn open(path: &Path) -> Result<Source, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::io("open", path))?;
        let stamp = Stamp::of(&file).map_err(ArchiveError::io("look at", path))?;
        Ok(Source { path: path.to_owned(), file, stamp })
    }

    /// A piece where the kernel holds it; none where that cannot be had, or the file is not as long any more.
    fn map(&self, offset: u64, length: usize) -> Option<Mmap> {
        if length == 0 || self.file.metadata().ok()?.size() < offset + length as u64 {
            return None;
        }
        // SAFETY: PostgreSQL writes no more to a file that it offers; one that is written to all the same is noticed by
        // its stamp before the result is used, and what was compressed of it is thrown away.
        unsafe { MmapOptions::new().offset(offset).len(length).populate().map(&self.file).ok() }
    }
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let data = file.metadata()?;
        Ok(Stamp {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            seconds: data.mtime(),
            nanoseconds: data.mtime_nsec(),
        })
    }

    /// The stamp of a file by its path.
    pub fn of_path(path: &Path) -> io::Result<Stamp> {
        Stamp::of(&File::open(path)?)
    }
}

/// Encodes the source, in memory or, where that is too much, into `target`, a new file of the spool.
pub fn encode(
    source: &Source,
    target: &Path,
    method: &Method,
    inspect: &Inspect<'_>,
    bench: &Bench,
) -> Result<Payload, ArchiveError> {
    let _seat = bench.sit_down();
    let mut out = Output::new(target);
    let pieces = source.stamp.size.div_ceil(PIECE as u64).max(1);
    let threads = method.threads.clamp(1, THREADS_MAX).min(pieces as usize);
    if threads == 1 {
        let mut press = Press::new(source, method, inspect, bench)?;
        let mut encoded = Vec::new();
        for piece in 0..pieces {
            press.encode(piece, &mut encoded)?;
            out.write(&encoded)?;
        }
    } else {
        encode_in_lanes(source, method, inspect, bench, (pieces, threads), &mut out)?;
    }
    if method.encoding == Encoding::Zstd {
        out.write(&note(&method.writer))?;
    }
    Ok(out.finish(method.encoding))
}

/// Encodes with several threads, each taking every n-th piece, and writes the pieces in order. A thread has two buffers
/// that go to and fro, so memory stays the same however large the segment is.
fn encode_in_lanes(
    source: &Source,
    method: &Method,
    inspect: &Inspect<'_>,
    bench: &Bench,
    (pieces, threads): (u64, usize),
    out: &mut Output,
) -> Result<(), ArchiveError> {
    std::thread::scope(|scope| {
        let mut lanes = Vec::new();
        for lane in 0..threads as u64 {
            let (give, full) = mpsc::sync_channel::<Result<Vec<u8>, ArchiveError>>(1);
            let (give_back, empty) = mpsc::channel();
            for _ in 0..2 {
                // The receiver is right here.
                let _ = give_back.send(Vec::new());
            }
            lanes.push((full, give_back));
            let mut press = Press::new(source, method, inspect, bench)?;
            scope.spawn(move || {
                for piece in (lane..pieces).step_by(threads) {
                    let Ok(mut buffer) = empty.recv() else { return };
                    // Nobody takes it where an earlier piece has failed.
                    if give.send(press.encode(piece, &mut buffer).map(|()| buffer)).is_err() {
                        return;
                    }
                }
            });
        }
        for piece in 0..pieces {
            let (full, give_back) = &lanes[piece as usize % threads];
            let encoded = full.recv().expect("because a lane ends after its last piece only")?;
            out.write(&encoded)?;
            // A lane that has taken its last piece wants no buffer any more.
            let _ = give_back.send(encoded);
        }
        Ok(())
    })
}

/// One thread at work on one segment.
struct Press<'a> {
    source: &'a Source,
    inspect: &'a Inspect<'a>,
    bench: &'a Bench,
    tools: Tools,
}

impl Drop for Press<'_> {
    fn drop(&mut self) {
        let tools = Tools { plain: std::mem::take(&mut self.tools.plain), encoder: self.tools.encoder.take() };
        self.bench.spare.lock().unwrap_or_else(PoisonError::into_inner).push(tools);
    }
}

impl<'a> Press<'a> {
    fn new(
        source: &'a Source,
        method: &Method,
        inspect: &'a Inspect<'a>,
        bench: &'a Bench,
    ) -> Result<Self, ArchiveError> {
        let mut tools = bench.take_tools();
        if tools.encoder.as_ref().is_none_or(|made| (made.encoding, made.level) != (method.encoding, method.level)) {
            let made = Encoder::new(method.encoding, method.level);
            tools.encoder = Some(made.map_err(ArchiveError::io("compress", &source.path))?);
        }
        Ok(Press { source, inspect, bench, tools })
    }

    /// Reads, inspects and encodes one piece; `encoded` is overwritten.
    fn encode(&mut self, piece: u64, encoded: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let offset = piece * PIECE as u64;
        let length = (self.source.stamp.size - offset).min(PIECE as u64) as usize;
        let mapped = if self.bench.way == Way::Map { self.source.map(offset, length) } else { None };
        let bytes = match &mapped {
            Some(mapped) => &mapped[..],
            None => {
                let plain = &mut self.tools.plain;
                plain.resize(length, 0);
                self.source.file.read_exact_at(plain, offset).map_err(ArchiveError::io("read", &self.source.path))?;
                &plain[..]
            }
        };
        if length > 0 {
            (self.inspect)(offset, bytes)?;
        }
        let encoder = self.tools.encoder.as_mut().expect("because every press has one");
        encoder.encode(bytes, encoded).map_err(ArchiveError::io("compress", &self.source.path))
    }
}

impl Encoder {
    /// An encoder; `level` as in [`Method`].
    pub fn new(encoding: Encoding, level: i32) -> io::Result<Encoder> {
        let zstd = if encoding == Encoding::Zstd { Some(compressor(level)?) } else { None };
        Ok(Encoder { encoding, level, zstd })
    }

    /// Encodes one piece; `encoded` is overwritten.
    pub fn encode(&mut self, bytes: &[u8], encoded: &mut Vec<u8>) -> io::Result<()> {
        encoded.clear();
        match &mut self.zstd {
            Some(zstd) => {
                encoded.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
                zstd.compress_to_buffer(bytes, encoded).map(|_| ())
            }
            None => append(bytes, self.encoding, self.level, encoded),
        }
    }
}

/// Compresses bytes into one frame of the method.
pub fn compress(bytes: &[u8], method: &Method) -> io::Result<Vec<u8>> {
    let mut encoded = Vec::new();
    Encoder::new(method.encoding, method.level)?.encode(bytes, &mut encoded)?;
    Ok(encoded)
}

fn compressor(level: i32) -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(if level == 0 { 1 } else { level })?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    Ok(compressor)
}

/// Appends one piece in a form that keeps nothing between pieces.
fn append(bytes: &[u8], encoding: Encoding, level: i32, encoded: &mut Vec<u8>) -> io::Result<()> {
    match encoding {
        Encoding::None | Encoding::Zstd => encoded.extend_from_slice(bytes),
        Encoding::Lz4 => {
            let shape = lz4_flex::frame::FrameInfo::new()
                .content_checksum(true)
                .content_size(Some(bytes.len() as u64))
                .block_size(lz4_flex::frame::BlockSize::Max4MB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(shape, encoded);
            encoder.write_all(bytes)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Encoding::Gzip => {
            let level = if level <= 0 { 6 } else { level.min(9) as u32 };
            let mut encoder = flate2::write::GzEncoder::new(encoded, flate2::Compression::new(level));
            encoder.write_all(bytes)?;
            encoder.finish()?;
        }
    }
    Ok(())
}

/// What is being written, with what has to be known of it at the end.
struct Output {
    path: PathBuf,
    memory: Vec<u8>,
    /// Where the bytes go once they are too many for memory, and their hash.
    file: Option<(File, Sha256)>,
    size: u64,
}

impl Output {
    fn new(path: &Path) -> Self {
        Output { path: path.to_owned(), memory: Vec::with_capacity(MEMORY_MAX), file: None, size: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        if self.file.is_none() && self.memory.len() + bytes.len() > MEMORY_MAX {
            self.spill()?;
        }
        match &mut self.file {
            Some((file, hash)) => {
                file.write_all(bytes).map_err(ArchiveError::io("write", &self.path))?;
                hash.update(bytes);
            }
            None => self.memory.extend_from_slice(bytes),
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn spill(&mut self) -> Result<(), ArchiveError> {
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
        let mut file = created.map_err(ArchiveError::io("create", &self.path))?;
        file.write_all(&self.memory).map_err(ArchiveError::io("write", &self.path))?;
        let hash = Sha256::new_with_prefix(&self.memory);
        self.memory = Vec::new();
        self.file = Some((file, hash));
        Ok(())
    }

    fn finish(self, encoding: Encoding) -> Payload {
        match self.file {
            Some((_, hash)) => Payload::hashed(self.path, self.size, hash.finalize().into(), encoding),
            None => Payload::in_memory(self.path, self.memory, encoding),
        }
    }
}

/// A frame that every Zstandard decoder skips, saying who wrote the file and when.
fn note(writer: &str) -> Vec<u8> {
    let now = chrono::DateTime::<chrono::Local>::from(SystemTime::now());
    let text = format!("{NOTE} {writer} {}", now.to_rfc3339_opts(chrono::SecondsFormat::Secs, false));
    let mut frame = SKIPPABLE.to_le_bytes().to_vec();
    frame.extend((text.len() as u32).to_le_bytes());
    frame.extend(text.as_bytes());
    frame
}

/// Reads the note from the last bytes of a stored file: the writing node and the time.
pub fn read_note(tail: &[u8]) -> Option<(String, String)> {
    let start = tail.windows(4).rposition(|window| window == SKIPPABLE.to_le_bytes())?;
    let text = std::str::from_utf8(tail.get(start + 8..)?).ok()?;
    let mut words = text.split(' ');
    let ours = words.next() == Some(NOTE);
    let found = (words.next()?.to_owned(), words.next()?.to_owned());
    ours.then_some(found)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn encoded(content: &[u8], encoding: Encoding, threads: usize) -> (tempfile::TempDir, Payload) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("source");
        std::fs::write(&path, content).expect("the source is written");
        let source = Source::open(&path).expect("the source opens");
        let method = Method { encoding, level: 0, threads, writer: "db1".to_owned() };
        let payload =
            encode(&source, &folder.path().join("target"), &method, &|_, _| Ok(()), &Bench::new(2, Way::Read))
                .expect("it encodes");
        (folder, payload)
    }

    fn sample(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i / 7 % 251) as u8).collect()
    }

    #[test]
    fn every_encoding_gives_the_content_back() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE * 2 + 17] {
            for encoding in Encoding::ALL {
                let content = sample(size);
                let (_folder, payload) = encoded(&content, encoding, 2);
                let stored = payload.open().expect("the payload opens");
                let mut back = Vec::new();
                encoding.decoder(stored).expect("a decoder").read_to_end(&mut back).expect("it decodes");
                assert!(back == content, "{encoding:?} of {size} bytes");
                payload.write_file().expect("the payload is written");
                let again = Payload::of_file(&payload.file, encoding).expect("it is read again");
                assert_eq!((again.size, again.sha256()), (payload.size, payload.sha256()));
            }
        }
    }

    #[test]
    fn the_tools_of_the_system_read_what_we_write() {
        for (encoding, tool) in [(Encoding::Zstd, "zstd"), (Encoding::Lz4, "lz4"), (Encoding::Gzip, "gzip")] {
            let content = sample(PIECE + 5);
            let (_folder, payload) = encoded(&content, encoding, 1);
            payload.write_file().expect("the payload is written");
            let read = std::process::Command::new(tool)
                .args(["-d", "-c"])
                .stdin(File::open(&payload.file).expect("the payload opens"))
                .output()
                .unwrap_or_else(|error| panic!("{tool} is installed by scripts/install: {error}"));
            assert!(read.status.success() && read.stdout == content, "{tool}");
        }
    }

    #[test]
    fn a_stored_file_says_who_wrote_it() {
        let (_folder, payload) = encoded(&sample(100), Encoding::Zstd, 1);
        let mut stored = Vec::new();
        payload.open().and_then(|mut bytes| bytes.read_to_end(&mut stored)).expect("the payload is read");
        assert_eq!(read_note(&stored).map(|(writer, _)| writer), Some("db1".to_owned()));
        assert_eq!(read_note(b"something else"), None);
    }

    #[test]
    fn what_the_inspection_refuses_is_not_encoded() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("source");
        std::fs::write(&path, sample(PIECE * 3)).expect("the source is written");
        let source = Source::open(&path).expect("the source opens");
        let method = Method { encoding: Encoding::Zstd, level: 0, threads: 2, writer: String::new() };
        let refuse = |offset: u64, _: &[u8]| {
            let error = || ArchiveError::Refused { reason: String::new(), hint: String::new() };
            if offset == 2 * PIECE as u64 { Err(error()) } else { Ok(()) }
        };
        assert!(encode(&source, &folder.path().join("target"), &method, &refuse, &Bench::new(2, Way::Read)).is_err());
    }
}
