//! Carries WAL on: what is in this node's archive and not in a target's goes there; queues are drained on the way.
//!
//! Histories go first, then segments oldest first, and never past a hole. A cursor remembers how far a target has got,
//! so a turn looks only at what came since; the cursor is a cache, and without it the listings tell the same.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::consumers::{self, Record};
use super::dispute;
use super::layout;
use super::places::{Archive, Site};
use super::queue::{Queue, order};
use super::spool::Spool;
use crate::config::Config;
use crate::store::ship::{self, ShipError};
use crate::store::{Encoding, Entry, EntryKind, Payload, StoreError, StorePath};
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::wal::timeline::TimelineHistory;
use crate::wal::{SegmentName, SegmentNumber, TimelineId, WalName};

/// How many files are on their way to one target at a time.
const WINDOW: usize = 8;

/// How long one turn may spend on a queue before it looks at the archive.
const QUEUE_SHARE: Duration = Duration::from_secs(600);

/// What a relay is told of its progress.
pub trait Watcher {
    /// A file has reached its target: the name and the stored size in bytes.
    fn shipped(&mut self, target: &str, name: WalName, bytes: u64);
    /// So many files of one folder are to go.
    fn found(&mut self, target: &str, files: usize, bytes: u64);
}

/// How a turn for one target ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Turn {
    /// The node.
    pub target: String,
    /// Files sent from the archive.
    pub relayed: u64,
    /// Files sent from the queue.
    pub drained: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
    /// Where it stopped, if something is missing here.
    pub hole: Option<String>,
}

/// Where a target has got to, a timeline each: every segment before this number is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    next: BTreeMap<u32, u64>,
    histories: u32,
}

/// Relays from this node's archive to one target.
pub struct Relay<'a> {
    config: &'a Config,
    spool: Spool,
    own: Option<Archive>,
    own_root: PathBuf,
    target: Arc<Site>,
    dry_run: bool,
}

impl<'a> Relay<'a> {
    /// A relay from the own archive, if this node has one, to `target`.
    pub fn new(
        config: &'a Config,
        own: Option<&Arc<Site>>,
        target: &Arc<Site>,
        dry_run: bool,
    ) -> Result<Self, ArchiveError> {
        let own_root = config.own().archive.clone().unwrap_or_default().join(&config.cluster.name);
        Ok(Relay {
            config,
            spool: Spool::new(&config.local.spool),
            own: own.map(|site| site.archive()).transpose()?,
            own_root,
            target: Arc::clone(target),
            dry_run,
        })
    }

    /// Makes the target hold what is here; `relays` says whether its archive is to follow the own one, else only its
    /// queue is drained.
    pub fn turn(&self, relays: bool, watcher: &mut dyn Watcher) -> Result<Turn, ArchiveError> {
        let mut turn = Turn { target: self.target.name().to_owned(), ..Turn::default() };
        let queue = Queue::new(&self.spool, self.target.name());
        let waiting = !queue.is_empty();
        let follows = relays && self.own.is_some();
        if !waiting && !follows {
            return Ok(turn);
        }
        let target = self.target.archive()?;
        if waiting && !self.dry_run {
            let name = self.target.name().to_owned();
            let mut bytes = 0;
            let drained = queue.drain(&target, Deadline::after(QUEUE_SHARE), &mut |queued, size| {
                bytes += size;
                watcher.shipped(&name, queued.name, size);
            })?;
            (turn.drained, turn.bytes) = (drained.count, bytes);
        }
        if let Some(own) = self.own.as_ref().filter(|_| relays) {
            target.identity.admit(target.store.place(), own.identity.system_identifier, own.identity.segment_size)?;
            self.follow(own, &target, &mut turn, watcher)?;
        }
        Ok(turn)
    }

    fn follow(
        &self,
        own: &Archive,
        target: &Archive,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        let known = self.load_cursor();
        let mut cursor = match known.clone() {
            Some(cursor) => cursor,
            None => begin(own)?,
        };
        self.relay_histories(own, target, &mut cursor, turn, watcher)?;
        let timelines: Vec<u32> = cursor.next.keys().copied().collect();
        for timeline in timelines {
            self.relay_timeline(TimelineId(timeline), own, target, &mut cursor, turn, watcher)?;
            if turn.hole.is_some() {
                break;
            }
        }
        if !self.dry_run && known.as_ref() != Some(&cursor) {
            self.save_cursor(&cursor)?;
            self.report(own, &cursor)?;
            self.pass_on_records(own, target)?;
        }
        Ok(())
    }

    /// Histories are looked up one timeline number after the other, as PostgreSQL does, so a turn lists nothing.
    fn relay_histories(
        &self,
        own: &Archive,
        target: &Archive,
        cursor: &mut Cursor,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        loop {
            let timeline = TimelineId(cursor.histories.max(1) + 1);
            let newest = cursor.next.keys().next_back().copied().unwrap_or(0);
            let Some(file) = own.store.open(&layout::history(timeline))? else {
                if timeline.0 >= newest {
                    return Ok(());
                }
                // An archive that was begun on a later timeline need not hold the histories before it.
                cursor.histories = timeline.0;
                continue;
            };
            let begun = begin_of(timeline, file, own)?;
            let name = WalName::History(timeline);
            turn.bytes += self.send(name, Encoding::None, target)?;
            turn.relayed += 1;
            watcher.shipped(&turn.target, name, 0);
            cursor.histories = timeline.0;
            cursor.next.entry(timeline.0).or_insert(begun.0);
        }
    }

    /// Follows one timeline, a folder at a time, until nothing more is here or a segment is missing.
    fn relay_timeline(
        &self,
        timeline: TimelineId,
        own: &Archive,
        target: &Archive,
        cursor: &mut Cursor,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        let size = own.identity.segment_size;
        loop {
            let next = SegmentNumber(cursor.next.get(&timeline.0).copied().unwrap_or(0));
            let first = SegmentName::new(timeline, next, size);
            let folder = layout::folder(first);
            let here = files(own.store.list(&folder)?.unwrap_or_default());
            let batch = Batch::plan(&here, next, first, own)?;
            if !batch.files.is_empty() {
                let there = files(target.store.list(&folder)?.unwrap_or_default());
                let present: HashSet<WalName> = there.iter().map(|file| file.name).collect();
                let missing: Vec<&StoredFile> =
                    batch.files.iter().copied().filter(|file| !present.contains(&file.name)).collect();
                watcher.found(&turn.target, missing.len(), missing.iter().map(|file| file.size).sum());
                self.send_all(&missing, target, turn, watcher)?;
            }
            cursor.next.insert(timeline.0, batch.next.0);
            if !self.dry_run && batch.next != next {
                // A long first relay keeps what it has proven folder by folder.
                self.save_cursor(cursor)?;
            }
            if let Some(hole) = batch.hole {
                turn.hole = Some(hole);
                return Ok(());
            }
            let at_folder_start = batch.next.0 % size.segments_per_log() == 0;
            if batch.next == next || !at_folder_start {
                return Ok(());
            }
        }
    }

    fn send_all(
        &self,
        files: &[&StoredFile],
        target: &Archive,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        for wave in files.chunks(WINDOW) {
            let begun = Instant::now();
            let sent: Vec<Result<u64, ArchiveError>> = std::thread::scope(|scope| {
                let running: Vec<_> =
                    wave.iter().map(|file| scope.spawn(|| self.send(file.name, file.encoding, target))).collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().expect("because a panic there is a panic here"))
                    .collect()
            });
            let mut bytes = 0;
            for (file, sent) in wave.iter().zip(sent) {
                let size = sent?;
                bytes += size;
                turn.relayed += 1;
                watcher.shipped(&turn.target, file.name, size);
            }
            turn.bytes += bytes;
            self.hold_back(bytes, begun.elapsed());
        }
        Ok(())
    }

    /// Sleeps so long that the bytes sent stay below `relay.rate_max`.
    fn hold_back(&self, bytes: u64, took: Duration) {
        let rate = self.config.relay.rate_max;
        if rate > 0 {
            let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(took));
        }
    }

    fn send(&self, name: WalName, encoding: Encoding, target: &Archive) -> Result<u64, ArchiveError> {
        let path = self.own_root.join(layout::stored(name, encoding).as_str());
        let payload = Payload::of_file(&path, encoding).map_err(ArchiveError::io("read", &path))?;
        prove(&payload, name)?;
        if self.dry_run {
            return Ok(payload.size);
        }
        match ship::ship(&layout::stem(name), &payload, &*target.store) {
            Ok(_) => Ok(payload.size),
            Err(ShipError::Occupied { path, .. }) => Err(dispute::settle(name, &payload, target, &path)),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the own archive what the target does not have yet, so that nothing is removed before.
    fn report(&self, own: &Archive, cursor: &Cursor) -> Result<(), ArchiveError> {
        let size = own.identity.segment_size;
        let mut behind = cursor.next.iter().map(|(timeline, next)| {
            let number = SegmentNumber(*next).previous().unwrap_or(SegmentNumber(0));
            SegmentName::new(TimelineId(*timeline), number, size)
        });
        // A timeline that ended stays where it ended: only the newest one moves on.
        let Some(oldest) = behind.next_back() else { return Ok(()) };
        let who = format!("relay-{}", self.target.name());
        Record::new(&who, "relayed so far", oldest).write(own)
    }

    /// The target removes by the same rule, so it must know what the other nodes need of it.
    fn pass_on_records(&self, own: &Archive, target: &Archive) -> Result<(), ArchiveError> {
        for record in consumers::all(own)? {
            if record.who != self.target.name() && !record.who.starts_with("relay-") {
                record.write(target)?;
            }
        }
        Ok(())
    }

    fn load_cursor(&self) -> Option<Cursor> {
        serde_json::from_slice(&fs::read(self.spool.relay(self.target.name())).ok()?).ok()
    }

    fn save_cursor(&self, cursor: &Cursor) -> Result<(), ArchiveError> {
        let path = self.spool.relay(self.target.name());
        if let Some(folder) = path.parent() {
            self.spool.make(folder)?;
        }
        let json = serde_json::to_vec(cursor).expect("because plain data has no reason not to become JSON");
        durable::replace(&path, &json).map_err(ArchiveError::io("write", path))
    }
}

/// A file of one folder.
struct StoredFile {
    name: WalName,
    encoding: Encoding,
    size: u64,
}

/// What of one folder is to go, and where that leads.
struct Batch<'a> {
    files: Vec<&'a StoredFile>,
    next: SegmentNumber,
    hole: Option<String>,
}

impl<'a> Batch<'a> {
    /// Takes segments from `next` on for as long as one follows the other. Partial segments and backup labels of that
    /// stretch go along. What lies behind a missing one shows a hole.
    fn plan(
        here: &'a [StoredFile],
        next: SegmentNumber,
        first: SegmentName,
        own: &Archive,
    ) -> Result<Batch<'a>, ArchiveError> {
        let size = own.identity.segment_size;
        let number = |file: &StoredFile| file.name.segment().and_then(|segment| segment.number(size));
        let mut files = Vec::new();
        let mut reached = next;
        for file in here.iter().filter(|file| matches!(file.name, WalName::Segment(_))) {
            match number(file) {
                Some(there) if there == reached => {
                    files.push(file);
                    reached = reached.next();
                }
                Some(there) if there > reached => {
                    let missing = SegmentName::new(first.timeline(), reached, size);
                    let hole = format!("'{missing}' is missing in the {}, '{}' is there", own.store.place(), file.name);
                    return Ok(Batch { files, next: reached, hole: Some(hole) });
                }
                _ => {}
            }
        }
        let beside = here.iter().filter(|file| !matches!(file.name, WalName::Segment(_)));
        files.extend(beside.filter(|file| number(file).is_some_and(|there| next <= there && there <= reached)));
        Ok(Batch { files, next: reached, hole: None })
    }
}

/// The WAL files of a folder, each once, oldest first.
fn files(entries: Vec<Entry>) -> Vec<StoredFile> {
    let mut found: Vec<StoredFile> = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File)
        .filter_map(|entry| {
            let (name, encoding) = Encoding::split(&entry.name);
            Some(StoredFile { name: name.parse().ok()?, encoding, size: entry.size })
        })
        .collect();
    found.sort_by_key(|file| order(file.name));
    found.dedup_by(|a, b| a.name == b.name);
    found
}

/// Where a first relay begins: the oldest segment of each timeline that is here. The one listing of the whole archive.
fn begin(own: &Archive) -> Result<Cursor, ArchiveError> {
    let wal: StorePath = layout::WAL.parse().map_err(StoreError::from)?;
    let size = own.identity.segment_size;
    let mut cursor = Cursor::default();
    let mut folders = own.store.list(&wal)?.unwrap_or_default();
    folders.retain(|entry| entry.kind == EntryKind::Folder && entry.name.len() == 16);
    folders.sort_by(|a, b| a.name.cmp(&b.name));
    for folder in folders {
        let Ok(first) = format!("{}00000000", folder.name).parse::<SegmentName>() else { continue };
        if cursor.next.contains_key(&first.timeline().0) {
            continue;
        }
        let here = files(own.store.list(&layout::folder(first))?.unwrap_or_default());
        let oldest = here.iter().filter_map(|file| file.name.segment()?.number(size)).min();
        if let Some(oldest) = oldest {
            cursor.next.insert(first.timeline().0, oldest.0);
        }
    }
    Ok(cursor)
}

/// The segment in which a timeline begins.
fn begin_of(timeline: TimelineId, file: Box<dyn Read + Send>, own: &Archive) -> Result<SegmentNumber, ArchiveError> {
    let wrong = |detail: String| ArchiveError::NotTheWal {
        name: WalName::History(timeline),
        place: own.store.place().to_string(),
        detail,
    };
    let mut text = String::new();
    file.take(1 << 20).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    let history = TimelineHistory::parse(timeline, &text).map_err(|error| wrong(error.to_string()))?;
    let begun = history.ancestors.last().map_or(0, |parent| parent.switch_point.segment(own.identity.segment_size).0);
    Ok(SegmentNumber(begun))
}

/// Damage must not travel: what cannot be decoded is not sent on.
fn prove(payload: &Payload, name: WalName) -> Result<(), ArchiveError> {
    let damaged = |error: std::io::Error| ArchiveError::NotTheWal {
        name,
        place: payload.file.display().to_string(),
        detail: error.to_string(),
    };
    let stored = payload.open().map_err(damaged)?;
    let mut content = payload.encoding.decoder(Box::new(stored)).map_err(damaged)?;
    std::io::copy(&mut content, &mut std::io::sink()).map_err(damaged)?;
    Ok(())
}
