//! Reads files of a running server, checks their pages, and encodes them into payloads.
//!
//! A file is read once, from its beginning to the size it has when it is opened: what is written behind that, and pages
//! that change while they are read, are made right by WAL. A page whose checksum is wrong is read again, since the
//! server may be writing it at that moment; where it stays wrong it is stored as it is, and told. Where the parent's
//! sums of a file's blocks are known, only the blocks that differ are stored; blocks that no WAL names are not even
//! read, and their sums are the parent's. Memory is bounded by a few pieces a thread.

mod output;
mod pace;
mod stretch;

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use self::output::{Gatherer, Output};
pub use self::output::{encoded, plain};
pub use self::pace::Pace;
pub(super) use self::stretch::read_checked;
use self::stretch::{Stretch, Tools};
use super::blocks::{BlockSum, crc_of};
use super::catalog::StoredFile;
use super::checksum::PAGE;
use super::parent::Parent;
use super::plan::{SourceFile, Stamp, Work};
use super::summaries::{Changes, Named};
use super::{BackupError, Watcher, tar};
use crate::archive::encode::{Encoder, Method};
use crate::store::Payload;

/// How much is read, checked and compressed at once, in bytes; whole pages. It fits into a core's own cache.
const PIECE: usize = 1 << 20;

/// How much of a file a thread takes on before its bytes must be written, in bytes.
const STRETCH: u64 = 4 << 20;

/// Copies files by one set of rules. Shared by all threads.
pub struct Copier<'a> {
    /// How to encode a piece.
    pub method: Method,
    /// How many stretches of one file are read at the same time, so that the last file does not keep one core only.
    pub wave: usize,
    /// Where payloads are written.
    pub spool: PathBuf,
    /// True where pages carry checksums.
    pub pages: bool,
    /// Every write that began before was done when copying began, in nanoseconds since 1970.
    pub settled: i64,
    /// What is not stored again.
    pub parent: Option<&'a Parent<'a>>,
    /// What WAL names since the parent began, where that is certain.
    pub changes: Option<&'a Changes>,
    /// How fast to read.
    pub pace: Pace,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
    /// Numbers the payloads.
    pub next: AtomicU64,
    /// Tools that nobody uses at the moment.
    pub spare: Mutex<Vec<Tools>>,
}

/// Files that were read.
pub struct Copied {
    /// What to store; none where every file had vanished, or the one is as in the parent.
    pub payload: Option<Payload>,
    /// The sums of the blocks of the one file, where it has blocks.
    pub sums: Option<Vec<BlockSum>>,
    /// Which files were read.
    pub files: Vec<StoredFile>,
}

/// What is known of a file before it is read.
struct Known<'a> {
    /// The sums of the parent's blocks.
    sums: Vec<BlockSum>,
    /// What was written of it since, where that is known.
    named: Option<Named<'a>>,
}

impl Known<'_> {
    /// Whether a block must be read, and up to which block, at most `until`, that holds.
    fn alike(&self, block: u64, until: u64) -> (bool, u64) {
        let held = self.sums.len() as u64;
        match self.named {
            Some(named) if block < held => named.alike(block, until.min(held)),
            _ => (true, until),
        }
    }
}

/// One large file that was read.
struct Taken {
    file: StoredFile,
    sums: Option<Vec<BlockSum>>,
    /// True where it is, block for block, what the parent holds.
    unchanged: bool,
}

impl Copier<'_> {
    /// Reads what belongs together into one payload.
    pub fn copy(&self, work: &Work) -> Result<Copied, BackupError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let target = self.spool.join(format!("{number}{}", self.method.encoding.extension()));
        let mut out = Output::create(&target)?;
        let mut tools = self.tools(&target)?;
        let (files, sums, unchanged) = match work {
            Work::File(file) => match self.file(file, &mut out)? {
                Some(taken) => (vec![taken.file], taken.sums, taken.unchanged),
                None => (Vec::new(), None, false),
            },
            Work::Bundle(files) => (self.bundle(files, &mut out, &mut tools)?, None, false),
        };
        let payload = out.finish(self.method.encoding, tools.encoder())?;
        self.give_back(tools);
        if files.is_empty() || unchanged {
            remove(&payload.file)?;
            return Ok(Copied { payload: None, sums: None, files });
        }
        Ok(Copied { payload: Some(payload), sums, files })
    }

    /// Reads a large file; `None` where it has vanished.
    fn file(&self, source: &SourceFile, out: &mut Output) -> Result<Option<Taken>, BackupError> {
        let Some((file, data)) = open(source)? else { return Ok(None) };
        let mut stored = self.begin(source, &data);
        let paged = source.first_block.is_some();
        // A page of which only a part is there is being added at this moment, and WAL has it.
        let end = if paged { whole_pages(data.len()) } else { data.len() };
        let known = match self.parent.filter(|_| paged) {
            Some(parent) => parent.sums(&source.path)?,
            None => None,
        };
        let named = self.changes.and_then(|changes| changes.of(source));
        let known = known.map(|sums| Known { sums, named });
        let known = known.as_ref();
        let mut sums = Vec::with_capacity(if paged { (end / PAGE as u64) as usize } else { 0 });
        let mut changed = 0;
        'file: while stored.size < end {
            for (stretch, tools) in self.wave(source, &file, (stored.size, end), known)? {
                out.write(tools.encoded())?;
                self.give_back(tools);
                stored.size += stretch.count;
                stored.crc = crc32c::crc32c_combine(stored.crc, stretch.crc, stretch.count as usize);
                stored.damaged.extend(stretch.damaged);
                sums.extend(stretch.sums);
                changed += stretch.changed;
                if stretch.short {
                    // It was truncated meanwhile, and WAL says so too.
                    break 'file;
                }
            }
        }
        if paged {
            stored.crc = crc_of(0, &sums);
        }
        stored.blocks = known.map(|_| changed);
        let unchanged = known.is_some_and(|known| changed == 0 && known.sums.len() == sums.len());
        Ok(Some(Taken { file: stored, sums: paged.then_some(sums), unchanged }))
    }

    /// Reads and encodes the next stretches of a file at the same time.
    fn wave(
        &self,
        source: &SourceFile,
        file: &File,
        (offset, end): (u64, u64),
        known: Option<&Known<'_>>,
    ) -> Result<Vec<(Stretch, Tools)>, BackupError> {
        let offsets = (0..self.wave.max(1) as u64).map(|at| offset + at * STRETCH).filter(|offset| *offset < end);
        let stretch = |offset: u64| {
            let mut tools = self.tools(&source.file)?;
            let range = (offset, end.min(offset + STRETCH));
            let stretch = self.stretch(source, file, range, known, &mut tools)?;
            Ok((stretch, tools))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = offsets.skip(1).map(|offset| scope.spawn(move || stretch(offset))).collect();
            let first = stretch(offset);
            let others = threads.into_iter().map(|it| it.join().expect("because a panic there is a panic here"));
            std::iter::once(first).chain(others).collect()
        })
    }

    /// Reads small files into a tar; each is read whole before its header is written, so that the header is true.
    fn bundle(
        &self,
        sources: &[SourceFile],
        out: &mut Output,
        tools: &mut Tools,
    ) -> Result<Vec<StoredFile>, BackupError> {
        let mut gatherer = Gatherer::new(out, tools.encoder());
        let mut files = Vec::with_capacity(sources.len());
        let mut content = Vec::new();
        for source in sources {
            let Some((file, data)) = open(source)? else { continue };
            let mut stored = self.begin(source, &data);
            content.resize(usize::try_from(data.len()).unwrap_or(usize::MAX), 0);
            let (count, damaged) = self.read(source, &file, &mut content, 0)?;
            let content = &content[..count];
            (stored.size, stored.crc, stored.damaged) = (count as u64, crc32c::crc32c(content), damaged);
            let seconds = u64::try_from(stored.stamp.modified / 1_000_000_000).unwrap_or(0);
            gatherer.take(&tar::header(&stored.path, stored.size, seconds))?;
            gatherer.take(content)?;
            gatherer.take(&vec![0; tar::padding(stored.size)])?;
            files.push(stored);
        }
        gatherer.take(&tar::END)?;
        gatherer.flush()?;
        Ok(files)
    }

    fn begin(&self, source: &SourceFile, data: &Metadata) -> StoredFile {
        StoredFile {
            path: source.path.clone(),
            size: 0,
            stamp: Stamp::of(data),
            settled: self.settled,
            crc: 0,
            blocks: None,
            damaged: Vec::new(),
        }
    }

    /// Takes tools that somebody has given back, or makes new ones; `for_what` is for the message.
    fn tools(&self, for_what: &Path) -> Result<Tools, BackupError> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let made = || Encoder::new(self.method.encoding, self.method.level).map(Tools::new);
        spare.map_or_else(made, Ok).map_err(BackupError::io("compress", for_what))
    }

    fn give_back(&self, tools: Tools) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(tools);
    }
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

fn whole_pages(size: u64) -> u64 {
    size - size % PAGE as u64
}

/// Removes a payload that is stored; one in memory has no file.
pub fn remove(path: &Path) -> Result<(), BackupError> {
    std::fs::remove_file(path).map_err(BackupError::io("remove", path))
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
mod tests;
