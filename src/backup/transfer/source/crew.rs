//! The threads of the source: each reads a part of a file, compares it with what the target says it has, and sends
//! what differs.
//!
//! The end of a file is told once all its parts have left. One thread, the caller's, hands out the work as the target
//! asks for it and keeps the server's session alive. The first error stops everybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};

use super::super::super::catalog::DamagedPages;
use super::super::super::copy::{Pace, open, read_checked};
use super::super::super::plan::{SourceFile, Stamp};
use super::super::super::session::Session;
use super::super::super::{BackupError, Watcher};
use super::super::blocks::{BLOCK, Hash, Hashes, PART, PIECE, differing, parts, put_data};
use super::super::line::{Heard, Incoming, Line, LineError};
use super::super::message::{Content, Ended, Message, SourceCount};
use crate::archive::encode::Method;
use crate::store::wire::WireError;

/// How much is put together before it is sent, in bytes.
const SEND_AT: usize = 256 << 10;

/// How many parts may wait for a thread before nothing more is heard from the target.
const OPEN_MAX: usize = 256;

/// How often the server is asked whether all is well.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);

/// The threads and what they share.
pub struct Crew<'a> {
    /// The target.
    pub line: &'a Line,
    /// What it says.
    pub incoming: &'a Incoming,
    /// How data travel.
    pub method: Method,
    /// True where pages carry checksums.
    pub pages: bool,
    /// How fast to read.
    pub pace: Pace,
    /// True: compare, and send nothing.
    pub dry_run: bool,
    /// How many threads.
    pub jobs: usize,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
    /// Bytes of files that were sent.
    pub changed: AtomicU64,
    /// Bytes that they took on the way.
    pub travelled: AtomicU64,
}

/// A part of a file to be sent, as far as it differs.
struct Task {
    file: u32,
    part: u64,
    theirs: Vec<Hash>,
}

/// A part that was sent.
struct Sent {
    file: u32,
    part: u64,
    what: Read,
}

/// What was read of a part.
#[derive(Debug, Clone, Default)]
struct Read {
    /// How many bytes; fewer than it has: the file ends there now.
    count: u64,
    crc: u32,
    /// When the file was last written, in nanoseconds since 1970.
    modified: i64,
    /// The file is gone.
    gone: bool,
    /// Some of it was sent.
    changed: bool,
    damaged: Vec<u32>,
}

/// How far a file has come.
struct Progress {
    read: Vec<Option<Read>>,
    left: usize,
}

impl Crew<'_> {
    /// Sends these files, numbered from `first`, and counts them.
    pub fn work(
        &self,
        files: &[SourceFile],
        first: u32,
        session: &mut Session,
        count: &mut SourceCount,
    ) -> Result<(), BackupError> {
        let (tasks, open) = unbounded();
        let (done, results) = unbounded();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                let (open, done, stop) = (open.clone(), done.clone(), &stop);
                scope.spawn(move || {
                    if let Err(error) = self.send_all(files, first, &open, &done, stop) {
                        // The receiver is gone only where another error came first.
                        let _ = done.send(Err(error));
                    }
                });
            }
            drop((open, done));
            let desk = Desk { crew: self, files, first, tasks, results };
            let outcome = desk.run(session, count);
            if outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
                self.line.hurry();
            }
            outcome
        })?;
        count.changed += self.changed.load(Ordering::Relaxed);
        count.travelled += self.travelled.load(Ordering::Relaxed);
        Ok(())
    }

    /// The life of a thread.
    fn send_all(
        &self,
        files: &[SourceFile],
        first: u32,
        open: &Receiver<Task>,
        done: &Sender<Result<Sent, BackupError>>,
        stop: &AtomicBool,
    ) -> Result<(), BackupError> {
        let (mut frames, mut sent) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; PIECE];
        while let Ok(task) = open.recv() {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let source = &files[(task.file - first) as usize];
            let what = self.part(source, &task, &mut buffer, &mut frames)?;
            sent.push(Sent { file: task.file, part: task.part, what });
            if frames.len() >= SEND_AT || open.is_empty() {
                self.send(&mut frames)?;
                // Only what has left counts, so that the end of a file never comes before its data.
                sent.drain(..).try_for_each(|it| done.send(Ok(it))).map_err(|_| LineError::Stopped)?;
            }
        }
        Ok(())
    }

    /// Reads one part and puts what differs into frames.
    fn part(
        &self,
        source: &SourceFile,
        task: &Task,
        buffer: &mut [u8],
        frames: &mut Vec<u8>,
    ) -> Result<Read, BackupError> {
        let Some((file, data)) = open(source)? else { return Ok(Read { gone: true, ..Read::default() }) };
        let mut all = Read { modified: Stamp::of(&data).modified, ..Read::default() };
        let begin = task.part * PART;
        let end = source.size.min(begin + PART);
        while begin + all.count < end {
            let offset = begin + all.count;
            let wanted = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            self.pace.spend(wanted as u64);
            let (count, damaged) = read_checked(source, &file, &mut buffer[..wanted], offset, self.pages)?;
            let bytes = &buffer[..count];
            let compared = (all.count as usize / BLOCK).min(task.theirs.len());
            for (at, length) in differing(bytes, &task.theirs[compared..]) {
                let changed = &bytes[at..at + length];
                put_data(frames, task.file, offset + at as u64, changed, &self.method)
                    .map_err(BackupError::io("compress", &source.file))?;
                self.changed.fetch_add(length as u64, Ordering::Relaxed);
                all.changed = true;
            }
            if frames.len() >= SEND_AT {
                self.send(frames)?;
            }
            all.crc = crc32c::crc32c_combine(all.crc, crc32c::crc32c(bytes), count);
            all.count += count as u64;
            all.damaged.extend(damaged);
            self.watcher.advance(count as u64);
            if count < wanted {
                // It was truncated meanwhile, and WAL says so too.
                break;
            }
        }
        Ok(all)
    }

    fn send(&self, frames: &mut Vec<u8>) -> Result<(), BackupError> {
        self.travelled.fetch_add(frames.len() as u64, Ordering::Relaxed);
        if !self.dry_run {
            self.line.put(frames)?;
        }
        frames.clear();
        Ok(())
    }
}

/// Hands out the work and takes the results.
struct Desk<'a> {
    crew: &'a Crew<'a>,
    files: &'a [SourceFile],
    first: u32,
    tasks: Sender<Task>,
    results: Receiver<Result<Sent, BackupError>>,
}

impl Desk<'_> {
    fn run(&self, session: &mut Session, count: &mut SourceCount) -> Result<(), BackupError> {
        let progress = |file: &SourceFile| {
            let left = usize::try_from(parts(file.size)).unwrap_or(usize::MAX);
            Progress { read: vec![None; left], left }
        };
        let mut progress: Vec<Progress> = self.files.iter().map(progress).collect();
        let (mut files_left, mut open) = (self.files.len(), 0usize);
        let mut confirmed = Instant::now();
        let nobody = never();
        while files_left > 0 {
            let heard = if open < OPEN_MAX { self.crew.incoming.queue() } else { &nobody };
            select! {
                recv(self.results) -> sent => {
                    // The threads end by themselves only after an error, and that they send.
                    let sent = sent.map_err(|_| LineError::Stopped)??;
                    open -= 1;
                    files_left -= usize::from(self.account(sent, &mut progress, count)?);
                }
                recv(heard) -> heard => {
                    let heard = heard.map_err(|_| self.crew.incoming.over())?;
                    let (opened, settled) = self.hand_out(heard, &progress)?;
                    open += opened;
                    files_left = files_left.saturating_sub(settled);
                }
                default(CONFIRM_EVERY) => {}
            }
            if confirmed.elapsed() >= CONFIRM_EVERY {
                session.confirm()?;
                confirmed = Instant::now();
            }
        }
        Ok(())
    }

    /// Makes work of what the target says: how many parts, and how many files are settled by it.
    fn hand_out(&self, heard: Heard, progress: &[Progress]) -> Result<(usize, usize), BackupError> {
        let mut opened = 0;
        let mut open = |file: u32, part: u64, theirs: Vec<Hash>| {
            let at = file.checked_sub(self.first).and_then(|at| progress.get(at as usize));
            let due = at.and_then(|it| it.read.get(usize::try_from(part).ok()?)).is_some_and(Option::is_none);
            if !due {
                return Err(LineError::Wire(WireError::Body(format!("no file {file}, part {part}"))));
            }
            opened += 1;
            // The threads hold the other end as long as this loop runs.
            let _ = self.tasks.send(Task { file, part, theirs });
            Ok(())
        };
        let settled = match heard {
            Heard::Message(Message::Lacks(files)) => {
                for file in files {
                    let size =
                        file.checked_sub(self.first).and_then(|at| self.files.get(at as usize)).map(|it| it.size);
                    (0..parts(size.unwrap_or(0))).try_for_each(|part| open(file, part, Vec::new()))?;
                }
                0
            }
            Heard::Message(Message::Keeps(files)) if files.len() <= progress.len() => files.len(),
            Heard::Data(body) => {
                let Hashes { file, offset, hashes } = Hashes::parse(&body)?;
                open(file, offset / PART, hashes)?;
                0
            }
            Heard::Message(other) => return Err(LineError::out_of_place(&other).into()),
        };
        Ok((opened, settled))
    }

    /// Notes a part that was sent; true where it was the last one of its file.
    fn account(&self, sent: Sent, progress: &mut [Progress], count: &mut SourceCount) -> Result<bool, BackupError> {
        let at = (sent.file - self.first) as usize;
        let whole = &mut progress[at];
        whole.read[usize::try_from(sent.part).unwrap_or(usize::MAX)] = Some(sent.what);
        whole.left -= 1;
        if whole.left > 0 {
            return Ok(false);
        }
        let parts: Vec<Read> = std::mem::take(&mut whole.read).into_iter().flatten().collect();
        let content = content(&parts);
        if let Some(content) = &content {
            count.files += 1;
            count.size += content.size;
            count.files_changed += u64::from(parts.iter().any(|part| part.changed));
            let blocks: Vec<u32> = parts.into_iter().flat_map(|part| part.damaged).collect();
            if !blocks.is_empty() {
                count.damaged_pages.push(DamagedPages { path: self.files[at].path.clone(), blocks });
            }
        }
        self.crew.line.say(&Message::Ended(Ended { file: sent.file, content }))?;
        Ok(true)
    }
}

/// What a file is, from what its parts were; none where it is gone.
///
/// A part that is short ends the file, whatever was read behind it: it was truncated, and what came after that stands
/// in the WAL.
fn content(parts: &[Read]) -> Option<Content> {
    let mut content = Content { size: 0, crc: 0, modified: 0 };
    for part in parts {
        if part.gone {
            return None;
        }
        content.crc = crc32c::crc32c_combine(content.crc, part.crc, usize::try_from(part.count).unwrap_or(usize::MAX));
        content.size += part.count;
        content.modified = u64::try_from(part.modified / 1_000_000_000).unwrap_or(0);
        if part.count < PART {
            break;
        }
    }
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_part_ends_the_file() {
        let part = |count: u64, byte: u8| Read {
            count,
            crc: crc32c::crc32c(&vec![byte; count as usize]),
            modified: 7_000_000_000,
            ..Read::default()
        };
        let whole = content(&[part(PART, 1), part(5, 2)]).expect("because it is there");
        let bytes = [vec![1; PART as usize], vec![2; 5]].concat();
        assert_eq!(whole, Content { size: PART + 5, crc: crc32c::crc32c(&bytes), modified: 7 });
        let cut = content(&[part(3, 1), part(5, 2)]).expect("because it is there");
        assert_eq!(cut, Content { size: 3, crc: crc32c::crc32c(&[1; 3]), modified: 7 });
        assert_eq!(content(&[part(PART, 1), Read { gone: true, ..Read::default() }]), None);
        assert_eq!(content(&[Read::default()]).map(|it| it.size), Some(0));
    }
}
