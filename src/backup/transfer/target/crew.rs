//! The threads of the target: some hash what is there, others write what comes.
//!
//! All data of one file go through the same writer, so they keep their order. When a file has come to its end, its CRC
//! is put together from those of its blocks, kept and new, and compared with the source's.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::OFlags;

use super::super::super::{BackupError, Watcher};
use super::super::blocks::{BLOCK, Hashes, PART, PIECE, Sum, hash, read_data, whole};
use super::super::line::Line;
use super::super::message::{Content, Ended};
use crate::system::reading::read_full_at;

/// A file on its way.
pub struct Item {
    /// Its number.
    pub number: u32,
    /// Its name at the source.
    pub name: String,
    /// Where it goes.
    pub path: PathBuf,
    /// Its size as announced.
    pub size: u64,
    /// What is known of its blocks, until it is there.
    sums: Mutex<Vec<Option<Sum>>>,
    /// How much of it has come, for the watcher.
    come: AtomicU64,
}

/// Work for a writer.
pub enum Work {
    /// The body of a frame of data.
    Data(Arc<Item>, Vec<u8>),
    /// All of it has come.
    Ended(Arc<Item>, Ended),
}

/// A file that is there, or gone.
pub struct Landed {
    /// Its number.
    pub number: u32,
    /// What it is; none: it is gone.
    pub content: Option<Content>,
}

/// What the threads share.
pub struct Crew<'a> {
    /// The source.
    pub line: &'a Line,
    /// True: nothing is written.
    pub dry_run: bool,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
    /// Set when the work is given up.
    pub stop: AtomicBool,
}

impl Item {
    /// A file that is announced.
    pub fn new(number: u32, name: String, path: PathBuf, size: u64) -> Item {
        Item { number, name, path, size, sums: Mutex::default(), come: AtomicU64::new(0) }
    }

    fn sums(&self) -> MutexGuard<'_, Vec<Option<Sum>>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, first: usize, new: &[Sum]) {
        let mut sums = self.sums();
        if sums.len() < first + new.len() {
            sums.resize(first + new.len(), None);
        }
        for (place, sum) in sums[first..].iter_mut().zip(new) {
            *place = Some(*sum);
        }
    }
}

impl Crew<'_> {
    /// The life of a thread that hashes parts of files that are there.
    pub fn hash_all(&self, parts: &Receiver<(Arc<Item>, u64)>) -> Result<(), BackupError> {
        let mut buffer = vec![0; PIECE];
        while let Ok((item, part)) = parts.recv() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let frame = hash_part(&item, part, &mut buffer)?.frame();
            self.line.put(&frame)?;
        }
        Ok(())
    }

    /// The life of a thread that writes.
    pub fn write_all(
        &self,
        work: &Receiver<Work>,
        done: &Sender<Result<Landed, BackupError>>,
    ) -> Result<(), BackupError> {
        let mut open: HashMap<u32, File> = HashMap::new();
        while let Ok(work) = work.recv() {
            match work {
                Work::Data(item, body) => self.write(&item, &body, &mut open)?,
                Work::Ended(item, ended) => {
                    if !self.dry_run {
                        settle(&item, open.remove(&item.number), ended.content)?;
                    }
                    let size = ended.content.map_or(item.size, |content| content.size);
                    self.watcher.advance(size.saturating_sub(item.come.load(Ordering::Relaxed)));
                    let landed = Landed { number: item.number, content: ended.content };
                    if done.send(Ok(landed)).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, item: &Arc<Item>, body: &[u8], open: &mut HashMap<u32, File>) -> Result<(), BackupError> {
        let data = read_data(body)?;
        let whole = data.offset.is_multiple_of(BLOCK as u64)
            && data.offset.checked_add(data.bytes.len() as u64).is_some_and(|end| end <= item.size);
        if !whole || self.dry_run {
            return Err(garbled(item, "data that do not belong there"));
        }
        let file = match open.entry(item.number) {
            std::collections::hash_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(create(item)?),
        };
        file.write_all_at(&data.bytes, data.offset).map_err(BackupError::io("write", &item.path))?;
        let sums: Vec<Sum> = data.bytes.chunks(BLOCK).map(Sum::of).collect();
        item.note(usize::try_from(data.offset / BLOCK as u64).unwrap_or(usize::MAX), &sums);
        item.come.fetch_add(data.bytes.len() as u64, Ordering::Relaxed);
        self.watcher.advance(data.bytes.len() as u64);
        Ok(())
    }
}

/// Hashes what is there of a part, as far as the source has it too.
fn hash_part(item: &Item, part: u64, buffer: &mut [u8]) -> Result<Hashes, BackupError> {
    let file = File::open(&item.path).map_err(BackupError::io("open", &item.path))?;
    let (begin, end) = (part * PART, item.size.min((part + 1) * PART));
    let (mut offset, mut hashes, mut sums) = (begin, Vec::new(), Vec::new());
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
        let count = read_full_at(&file, &mut buffer[..wanted], offset).map_err(BackupError::io("read", &item.path))?;
        hashes.extend(buffer[..count].chunks(BLOCK).map(hash));
        sums.extend(buffer[..count].chunks(BLOCK).map(Sum::of));
        offset += count as u64;
        if count < wanted {
            break;
        }
    }
    item.note(usize::try_from(begin / BLOCK as u64).unwrap_or(usize::MAX), &sums);
    Ok(Hashes { file: item.number, offset: begin, hashes })
}

/// Opens a file to be written, where it is or anew; never through a link.
fn create(item: &Item) -> Result<File, BackupError> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    options.open(&item.path).map_err(BackupError::io("create", &item.path))
}

/// Gives a file its size, or removes it, and makes sure that it is the source's.
fn settle(item: &Item, open: Option<File>, content: Option<Content>) -> Result<(), BackupError> {
    let sums = std::mem::take(&mut *item.sums());
    let Some(content) = content else {
        return match fs::remove_file(&item.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::io("remove", &item.path)(error)),
            _ => Ok(()),
        };
    };
    let file = open.map_or_else(|| create(item), Ok)?;
    let size = file.metadata().map_err(BackupError::io("look at", &item.path))?.len();
    if size > content.size {
        file.set_len(content.size).map_err(BackupError::io("cut", &item.path))?;
    }
    if size < content.size || whole(&sums, content.size) != Some(content.crc) {
        return Err(garbled(item, "what is there is not what the source has"));
    }
    Ok(())
}

fn garbled(item: &Item, detail: &str) -> BackupError {
    BackupError::Garbled { path: item.name.clone(), detail: detail.to_owned() }
}
