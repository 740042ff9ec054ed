//! The story of the target: it looks what it has, says so, writes what comes, and makes a data directory of it.
//!
//! The first change puts the control file aside, the last one brings the new one; between them no server can start
//! there, and a run that is repeated goes on with what is there. What the source does not have is removed only when all
//! of what it has is there.

mod crew;
mod ground;
pub mod standing;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

use self::crew::{Crew, Item, Landed, Work};
use self::ground::{Ground, Last};
use super::super::manifest::{self, Entry, WalRange};
use super::super::plan::CONTROL;
use super::super::restore::Way;
use super::super::{BackupError, Watcher};
use super::blocks::{file_of_data, parts};
use super::line::{Heard, Incoming, Line, LineError};
use super::message::{
    Announced, Close, Content, FILES_IN_ONE, Message, Offer, Settled, Shape, SourceCount, TargetCount, Wish,
};

/// How many threads write.
const WRITERS: u32 = 2;

/// How much may wait for a writer: pieces of data.
const WRITES_WAITING: usize = 16;

/// The target, and whom it hears.
pub struct Target<'a> {
    /// The data directory to be made.
    pub pgdata: &'a Path,
    /// The node whose server is copied.
    pub from: &'a str,
    /// What is wanted.
    pub wish: &'a Wish,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
    /// The source.
    pub line: &'a Line,
    /// What it says.
    pub incoming: &'a Incoming,
}

/// What became of it.
pub struct Taken {
    /// What stood here.
    pub base: Way,
    /// The WAL that the copy needs; none in a dry run.
    pub range: Option<WalRange>,
    /// What was counted there.
    pub source: SourceCount,
    /// What was counted here.
    pub counted: TargetCount,
}

impl Target<'_> {
    /// Does all of it.
    pub fn run(&self) -> Result<Taken, BackupError> {
        let offer = match self.incoming.message()? {
            Message::Offer(offer) => offer,
            other => return Err(LineError::out_of_place(&other).into()),
        };
        let standing = standing::look(self.pgdata)?;
        let base = standing::judge(&standing, self.pgdata, &offer, self.wish.drop_wal)?;
        self.line.say(&Message::Ready(base))?;
        self.watcher.phase("waiting for the source");
        let shape = match self.incoming.message()? {
            Message::Tree(shape) => shape,
            other => return Err(LineError::out_of_place(&other).into()),
        };
        let ground = Ground::choose(self.pgdata, &standing, &offer, &shape, self.wish)?;
        let mut files = Files::new(self, &offer, &shape, &ground);
        let close = files.receive()?;
        let counted = files.end(&close)?;
        self.line.say(&Message::Done(counted.clone()))?;
        Ok(Taken { base, range: close.settled.map(|settled| settled.range), source: close.counted, counted })
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.wish.jobs == 0 { cores() } else { self.wish.jobs as usize }
    }
}

/// What is known of a file in the end.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// It is the source's.
    There(Content),
    /// The source has it no more.
    Gone,
    /// The one that was there is kept.
    Kept,
}

/// The files that come.
struct Files<'a> {
    target: &'a Target<'a>,
    offer: &'a Offer,
    shape: &'a Shape,
    ground: &'a Ground,
    /// Every file that was announced, by number.
    items: Vec<Arc<Item>>,
    /// What became of them, as far as they were looked at.
    outcomes: Vec<Option<Outcome>>,
    /// How many of them are on their way.
    left: usize,
    /// Held as long as the directory is written to.
    lock: Option<File>,
}

/// What the threads are given.
struct Desks {
    hash: Sender<(Arc<Item>, u64)>,
    write: Vec<Sender<Work>>,
    done: Receiver<Result<Landed, BackupError>>,
}

impl<'a> Files<'a> {
    fn new(target: &'a Target<'a>, offer: &'a Offer, shape: &'a Shape, ground: &'a Ground) -> Files<'a> {
        Files { target, offer, shape, ground, items: Vec::new(), outcomes: Vec::new(), left: 0, lock: None }
    }

    /// Receives every file, until the source closes.
    fn receive(&mut self) -> Result<Close, BackupError> {
        let target = self.target;
        let (line, dry_run, watcher) = (target.line, target.wish.dry_run, target.watcher);
        let crew = Crew { line, dry_run, watcher, stop: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            let (done_to, done) = unbounded();
            let (hash, parts) = unbounded();
            let crew = &crew;
            for _ in 0..target.jobs() {
                let (parts, done_to) = (parts.clone(), done_to.clone());
                scope.spawn(move || crew.hash_all(&parts).unwrap_or_else(|error| _ = done_to.send(Err(error))));
            }
            let write = (0..WRITERS).map(|_| {
                let (sender, work) = bounded(WRITES_WAITING);
                let done_to = done_to.clone();
                scope.spawn(move || {
                    let failed = |error| _ = done_to.send(Err(error));
                    crew.write_all(&work, &done_to).unwrap_or_else(failed);
                });
                sender
            });
            let desks = Desks { hash, write: write.collect(), done };
            let outcome = self.hear(&desks);
            if outcome.is_err() {
                crew.stop.store(true, Ordering::Relaxed);
                line.hurry();
            }
            outcome
        })
    }

    fn hear(&mut self, desks: &Desks) -> Result<Close, BackupError> {
        loop {
            select! {
                recv(desks.done) -> landed => self.landed(landed.map_err(|_| LineError::Stopped)?)?,
                recv(self.target.incoming.queue()) -> heard => {
                    match heard.map_err(|_| self.target.incoming.over())? {
                        Heard::Message(Message::Close(close)) => {
                            // The last word; only the writers may still have something to do.
                            while self.left > 0 {
                                self.landed(desks.done.recv().map_err(|_| LineError::Stopped)?)?;
                            }
                            return Ok(close);
                        }
                        heard => self.take(heard, desks)?,
                    }
                }
            }
        }
    }

    fn landed(&mut self, landed: Result<Landed, BackupError>) -> Result<(), BackupError> {
        let landed = landed?;
        let outcome = landed.content.map_or(Outcome::Gone, Outcome::There);
        if self.outcomes[landed.number as usize].replace(outcome).is_some() {
            return Err(LineError::out_of_place(&Message::Lacks(vec![landed.number])).into());
        }
        self.left -= 1;
        Ok(())
    }

    fn take(&mut self, heard: Heard, desks: &Desks) -> Result<(), BackupError> {
        match heard {
            Heard::Message(Message::Files(files)) => self.announced(files),
            Heard::Message(Message::Listed) => self.listed(desks),
            Heard::Message(Message::Ended(ended)) => {
                let item = self.item(ended.file)?;
                write(desks, Work::Ended(item, ended))
            }
            Heard::Data(body) => {
                let item = self.item(file_of_data(&body)?)?;
                write(desks, Work::Data(item, body))
            }
            Heard::Message(other) => Err(LineError::out_of_place(&other).into()),
        }
    }

    /// A file that is on its way.
    fn item(&self, number: u32) -> Result<Arc<Item>, BackupError> {
        let at = number as usize;
        let open = self.outcomes.get(at).is_some_and(Option::is_none);
        let item = self.items.get(at).filter(|_| open).cloned();
        Ok(item.ok_or_else(|| LineError::out_of_place(&Message::Lacks(vec![number])))?)
    }

    fn announced(&mut self, files: Vec<Announced>) -> Result<(), BackupError> {
        for file in files {
            let path = self.ground.resolve(&file.path)?;
            let number = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
            self.items.push(Arc::new(Item::new(number, file.path, path, file.size)));
        }
        Ok(())
    }

    /// All files of this round are named: looks what is here of them, and lets it be hashed.
    fn listed(&mut self, desks: &Desks) -> Result<(), BackupError> {
        let first_round = self.outcomes.is_empty();
        if first_round && !self.target.wish.dry_run {
            self.lock = Some(self.ground.prepare(self.offer, self.shape, self.target.from)?);
        }
        let new = self.items[self.outcomes.len()..].to_vec();
        self.outcomes.resize(self.items.len(), None);
        self.left += new.len();
        if first_round {
            self.target.watcher.begin(new.iter().map(|item| item.size).sum());
            self.target.watcher.phase(if self.target.wish.dry_run { "comparing" } else { "copying" });
        }
        let (mut lacks, mut keeps) = (Vec::new(), Vec::new());
        for item in new {
            if self.ground.kept().contains(&item.name) {
                self.outcomes[item.number as usize] = Some(Outcome::Kept);
                self.left -= 1;
                keeps.push(item.number);
            } else if self.is_there(&item)? {
                (0..parts(item.size)).for_each(|part| _ = desks.hash.send((Arc::clone(&item), part)));
            } else {
                lacks.push(item.number);
            }
        }
        if !keeps.is_empty() {
            self.target.line.say(&Message::Keeps(keeps))?;
        }
        for some in lacks.chunks(FILES_IN_ONE) {
            self.target.line.say(&Message::Lacks(some.to_vec()))?;
        }
        Ok(())
    }

    /// True where a plain file has its name; whatever else is in its way makes room.
    fn is_there(&self, item: &Item) -> Result<bool, BackupError> {
        let data = match fs::symlink_metadata(&item.path) {
            Ok(data) => data,
            // In a dry run the directories above it may be missing or something else.
            Err(_) if self.target.wish.dry_run => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(BackupError::io("look at", &item.path)(error)),
        };
        if data.is_file() || self.target.wish.dry_run {
            return Ok(data.is_file());
        }
        let removed = if data.is_dir() { fs::remove_dir_all(&item.path) } else { fs::remove_file(&item.path) };
        removed.map_err(BackupError::io("remove", &item.path))?;
        Ok(false)
    }

    /// Makes the data directory whole; in a dry run counts what would go.
    fn end(&self, close: &Close) -> Result<TargetCount, BackupError> {
        let (mut files, mut entries, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for (item, outcome) in self.items.iter().zip(self.outcomes.iter().flatten()) {
            let Outcome::There(it) = outcome else { continue };
            files.push(item.name.as_str());
            match item.name.strip_prefix("pg_wal/") {
                Some(name) => marks.push(format!("pg_wal/archive_status/{name}.done")),
                None => entries.push(Entry::new(&item.name, it.size, it.modified, it.crc)),
            }
        }
        let kept = self.ground.kept().to_vec();
        let watcher = self.target.watcher;
        watcher.phase("removing what is old");
        let dry_run = close.settled.is_none();
        let removed = self.ground.sweep(self.shape, files.into_iter(), &marks, dry_run)?;
        let Some(settled) = &close.settled else { return Ok(TargetCount { removed, kept }) };
        for name in &kept {
            entries.push(of_file(&self.target.pgdata.join(name), name)?);
        }
        for mark in &marks {
            // The source archives these files; pg_basebackup marks them so too.
            let path = self.ground.resolve(mark)?;
            File::create(&path).map_err(BackupError::io("create", path))?;
        }
        watcher.phase("making it durable");
        let manifest = self.manifest(entries, settled);
        self.ground.finish(&Last { label: &settled.label, manifest: &manifest, control: &settled.control })?;
        Ok(TargetCount { removed, kept })
    }

    fn manifest(&self, mut entries: Vec<Entry>, settled: &Settled) -> String {
        let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0);
        for (name, bytes) in [("backup_label", settled.label.as_bytes()), (CONTROL, &settled.control)] {
            entries.push(Entry::new(name, bytes.len() as u64, now, crc32c::crc32c(bytes)));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        manifest::render(&entries, settled.range, self.offer.system, self.offer.major)
    }
}

fn write(desks: &Desks, work: Work) -> Result<(), BackupError> {
    let (Work::Data(item, _) | Work::Ended(item, _)) = &work;
    let desk = &desks.write[(item.number % WRITERS) as usize];
    // A writer that is gone has said why.
    desk.send(work).or_else(|_| desks.done.iter().find_map(Result::err).map_or(Ok(()), Err))
}

/// The entry of a file that was here before.
fn of_file(path: &Path, name: &str) -> Result<Entry, BackupError> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(BackupError::io("open", path))?;
    file.read_to_end(&mut bytes).map_err(BackupError::io("read", path))?;
    let data = file.metadata().map_err(BackupError::io("look at", path))?;
    let modified = u64::try_from(super::super::plan::Stamp::of(&data).modified / 1_000_000_000).unwrap_or(0);
    Ok(Entry::new(name, bytes.len() as u64, modified, crc32c::crc32c(&bytes)))
}
