//! Carries WAL on: what is in this node's archive and not in a target's goes there; queues are drained on the way.
//!
//! Histories go first, then the segments of each timeline, oldest first, never past one that is missing. A cursor tells
//! how far a target has got, so a turn looks only at the folder where each timeline ends and the one where it began;
//! the cursor is a cache, and without it the listings tell the same. A backup label that comes more than a log id late
//! is found without the cursor only.

mod cursor;
mod folder;
mod pace;

use std::io::Read;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ArchiveError;
use super::claims;
use super::consumers::{self, Record};
use super::dispute;
use super::hole;
use super::layout;
use super::places::{Archive, Site};
use super::prove::prove;
use super::queue::Queue;
use super::spool::Spool;
use super::superseded;
use crate::config::Config;
use crate::error::{Explain, Failure};
use crate::store::claim::State;
use crate::store::ship::{self, ShipError, Shipped};
use crate::store::{Encoding, EntryKind, Payload, StoreError, StorePath};
use crate::system::clock::Deadline;
use crate::wal::timeline::TimelineHistory;
use crate::wal::{SegmentName, SegmentNumber, TimelineId, WalName};

use cursor::{Cursor, Progress};
use folder::{Folder, StoredFile};
pub use pace::Pace;

/// How many files are on their way to one target at a time.
const WINDOW: usize = 8;

/// How long one turn may spend on a queue before it looks at the archive.
const QUEUE_SHARE: Duration = Duration::from_secs(600);

/// How far beyond the newest timeline histories are looked for: one may be missing before the next.
const TIMELINES_AHEAD: u32 = 16;

/// What a relay is told of its progress.
pub trait Watcher {
    /// A file has reached its target: the name and the stored size in bytes.
    fn shipped(&mut self, target: &str, name: WalName, bytes: u64);
    /// So many files of so many bytes more are to go.
    fn found(&mut self, target: &str, files: usize, bytes: u64);
}

/// What a turn for one target has done, also where it failed in the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Turn {
    /// The node.
    pub target: String,
    /// Files sent from the archive that were not there.
    pub relayed: u64,
    /// Files sent from the queue.
    pub drained: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
    /// Where it stopped, if something is missing here.
    pub hole: Option<String>,
}

/// Relays from this node's archive and queue to one target.
pub struct Relay<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The archive that the target's is to follow; none: only the queue is drained.
    pub own: Option<&'a Site>,
    /// Where everything goes.
    pub target: &'a Site,
    /// How fast.
    pub pace: &'a Pace,
    /// Compares everything, as if there were no cursor.
    pub full: bool,
    /// Looks and counts, and changes nothing.
    pub dry_run: bool,
}

/// Both ends of a turn, open.
struct Ends {
    own: Archive,
    target: Archive,
}

impl Relay<'_> {
    /// Makes the target hold what is here. What was done until an error stands in `turn`.
    pub fn turn(&self, turn: &mut Turn, watcher: &mut dyn Watcher) -> Result<(), ArchiveError> {
        turn.target = self.target.name().to_owned();
        let queue = Queue::new(&Spool::new(&self.config.local.spool), self.target.name());
        let waits = !queue.is_empty();
        if !waits && self.own.is_none() {
            return Ok(());
        }
        let target = self.open_target()?;
        let own = self.own.map(Site::archive);
        if let Some(Ok(own)) = &own {
            target.identity.admit(target.store.place(), own.identity.system_identifier, own.identity.segment_size)?;
        }
        let drained = if waits { self.drain(&queue, &target, turn, watcher) } else { Ok(()) };
        if drained.as_ref().is_err_and(ArchiveError::is_outage) {
            return drained;
        }
        // A queue that stands still, at a conflict say, does not stop what the archive holds.
        let followed = match own {
            Some(own) => own.and_then(|own| self.follow(&Ends { own, target }, turn, watcher)),
            None => Ok(()),
        };
        drained.and(followed)
    }

    fn open_target(&self) -> Result<Archive, ArchiveError> {
        match self.target.archive() {
            Ok(archive) => {
                if !self.dry_run {
                    self.target.mark_up();
                }
                Ok(archive)
            }
            Err(error) => {
                // The caller's message; every process of this node learns that it need not try just now.
                let down = Failure { class: error.class(), message: error.to_string(), hint: None };
                if error.is_outage() && !self.dry_run {
                    self.target.mark_down(&down);
                }
                Err(error)
            }
        }
    }

    fn drain(
        &self,
        queue: &Queue,
        target: &Archive,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        let waiting = queue.contents()?;
        watcher.found(self.target.name(), waiting.count as usize, waiting.bytes);
        if self.dry_run {
            (turn.drained, turn.bytes) = (waiting.count, waiting.bytes);
            return Ok(());
        }
        let mut begun = Instant::now();
        let left = superseded::left_by(self.config);
        let drained = queue.drain(target, Deadline::after(QUEUE_SHARE), &left, &mut |queued, size| {
            turn.drained += 1;
            turn.bytes += size;
            watcher.shipped(self.target.name(), queued.name, size);
            self.pace.pay(size, begun);
            begun = Instant::now();
        });
        drained.map(drop)
    }

    fn follow(&self, ends: &Ends, turn: &mut Turn, watcher: &mut dyn Watcher) -> Result<(), ArchiveError> {
        let known = if self.full { None } else { Cursor::load(&ends.target, self.relayer())? };
        let mut cursor = known.clone().unwrap_or_default();
        if cursor.timelines.is_empty() {
            begin(&ends.own, &mut cursor)?;
        }
        self.relay_histories(ends, &mut cursor, turn, watcher)?;
        let timelines: Vec<u32> = cursor.timelines.keys().copied().collect();
        let mut needed = Vec::new();
        for timeline in timelines.into_iter().map(TimelineId) {
            // A hole in one timeline is none in another: what belongs to the next goes on.
            if let Some(stopped) = self.relay_timeline(timeline, ends, &mut cursor, turn, watcher)? {
                needed.push(stopped);
            }
        }
        if !self.dry_run && known.as_ref() != Some(&cursor) && !cursor.timelines.is_empty() {
            cursor.save(&ends.target, self.relayer())?;
            self.report(&ends.own, &cursor, needed)?;
            self.pass_on_records(ends)?;
            self.pass_on_claims(ends)?;
        }
        Ok(())
    }

    /// Histories are looked up one timeline number after the other, as PostgreSQL does, so a turn lists nothing.
    fn relay_histories(
        &self,
        ends: &Ends,
        cursor: &mut Cursor,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        let newest = |cursor: &Cursor| cursor.timelines.keys().next_back().copied().unwrap_or(1);
        let mut timeline = TimelineId(2);
        while timeline.0 <= newest(cursor).saturating_add(TIMELINES_AHEAD) {
            // One that was sent is not read again, and one that comes late is not missed.
            if !cursor.histories.contains(&timeline.0)
                && claims::of(&ends.own, timeline)?.is_none_or(|claim| claim.state == State::Confirmed)
                && let Some(file) = ends.own.store.open(&layout::history(timeline))?
            {
                let begun = begin_of(timeline, file, &ends.own)?;
                let file = StoredFile { name: WalName::History(timeline), encoding: Encoding::None, size: 0 };
                self.send_all(&[&file], ends, turn, watcher)?;
                cursor.histories.insert(timeline.0);
                cursor.timelines.entry(timeline.0).or_insert(Progress::at(begun));
            }
            timeline = TimelineId(timeline.0 + 1);
        }
        Ok(())
    }

    /// Follows one timeline to where it ends here. Returns the segment it waits for where there is a hole.
    fn relay_timeline(
        &self,
        timeline: TimelineId,
        ends: &Ends,
        cursor: &mut Cursor,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<Option<SegmentName>, ArchiveError> {
        let mut progress = cursor.timelines.get(&timeline.0).copied().unwrap_or(Progress::at(SegmentNumber(0)));
        let first = SegmentNumber(progress.first);
        let oldest = oldest(timeline, first, &ends.own)?;
        let mut stopped = None;
        if oldest < first {
            // They came late, out of a queue for example.
            let mut late = Progress::at(oldest);
            self.relay_stretch(timeline, &mut late, ends, cursor, Some(first), turn, watcher)?;
            match late.next < first.0 {
                true => stopped = Some(SegmentNumber(late.next)),
                false => progress.first = oldest.0,
            }
        }
        self.relay_stretch(timeline, &mut progress, ends, cursor, None, turn, watcher)?;
        cursor.timelines.insert(timeline.0, progress);
        let next = stopped.unwrap_or(SegmentNumber(progress.next));
        let missing = SegmentName::new(timeline, next, ends.own.identity.segment_size);
        let Some(evidence) = hole::evidence(missing, &ends.own)? else { return Ok(None) };
        // Somebody else may bring it to the target alone, which the own folder does not show.
        progress.seen = None;
        cursor.timelines.insert(timeline.0, progress);
        let place = ends.own.store.place();
        turn.hole.get_or_insert(format!("'{missing}' is missing in the {place}, but {evidence}"));
        Ok(Some(missing))
    }

    /// Sends a folder after the other until nothing more is here, a segment is missing, or `until` is reached.
    #[allow(clippy::too_many_arguments, reason = "they are what a turn consists of")]
    fn relay_stretch(
        &self,
        timeline: TimelineId,
        progress: &mut Progress,
        ends: &Ends,
        cursor: &mut Cursor,
        until: Option<SegmentNumber>,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        let size = ends.own.identity.segment_size;
        loop {
            let next = SegmentNumber(progress.next);
            let segment = SegmentName::new(timeline, next, size);
            let here = Folder::of(segment, &ends.own)?;
            let seen = here.fingerprint();
            if progress.seen == Some(seen) {
                return Ok(());
            }
            let there = Folder::of(segment, &ends.target)?;
            let reached = folder::reach(&here, &there, next, size);
            let missing = folder::missing(&here, &there, next, reached, size);
            watcher.found(self.target.name(), missing.len(), missing.iter().map(|file| file.size).sum());
            self.send_all(&missing, ends, turn, watcher)?;
            let goes_on = reached > next && reached.0.is_multiple_of(size.segments_per_log());
            (progress.next, progress.seen) = (reached.0, (!goes_on).then_some(seen));
            if !goes_on || until.is_some_and(|until| reached >= until) {
                return Ok(());
            }
            if until.is_none() && !self.dry_run && !missing.is_empty() {
                // A long first relay keeps what it has sent folder by folder; what it only compared goes fast again.
                cursor.timelines.insert(timeline.0, *progress);
                cursor.save(&ends.target, self.relayer())?;
            }
        }
    }

    /// Sends files in their order, some at a time. None is sent behind one that cannot be read or is damaged here.
    fn send_all(
        &self,
        files: &[&StoredFile],
        ends: &Ends,
        turn: &mut Turn,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ArchiveError> {
        let window = if self.pace.is_bound() { 1 } else { WINDOW };
        for wave in files.chunks(window) {
            let begun = Instant::now();
            let mut payloads = Vec::new();
            let mut stop = Ok(());
            for read in at_once(wave, |file| self.read(file, &ends.own)) {
                match read {
                    Ok(payload) if stop.is_ok() => payloads.push(payload),
                    Ok(_) => {}
                    Err(error) => stop = stop.and(Err(error)),
                }
            }
            let ready: Vec<(&StoredFile, Payload)> = wave.iter().copied().zip(payloads).collect();
            let sent = at_once(&ready, |(file, payload)| self.send(file.name, payload, &ends.target));
            let mut bytes = 0;
            for ((file, payload), sent) in ready.iter().zip(sent) {
                match sent {
                    Ok(true) => {
                        turn.relayed += 1;
                        bytes += payload.size;
                        watcher.shipped(self.target.name(), file.name, payload.size);
                    }
                    Ok(false) => {}
                    Err(error) => stop = stop.and(Err(error)),
                }
            }
            turn.bytes += bytes;
            stop?;
            if !self.dry_run {
                self.pace.pay(bytes, begun);
            }
        }
        Ok(())
    }

    fn read(&self, file: &StoredFile, own: &Archive) -> Result<Payload, ArchiveError> {
        let root = self.config.own().archive.clone().unwrap_or_default().join(&self.config.cluster.name);
        let path = root.join(layout::stored(file.name, file.encoding).as_str());
        let payload = Payload::of_file(&path, file.encoding).map_err(ArchiveError::io("read", &path))?;
        prove(&payload, file.name, &own.identity)?;
        Ok(payload)
    }

    /// True where the target did not hold it before.
    fn send(&self, name: WalName, payload: &Payload, target: &Archive) -> Result<bool, ArchiveError> {
        if self.dry_run {
            return Ok(target.store.look(&layout::stored(name, payload.encoding))?.is_none());
        }
        match ship::ship(&layout::stem(name), payload, &*target.store) {
            Ok(shipped) => Ok(shipped == Shipped::Stored),
            Err(ShipError::Occupied { path, .. }) => dispute::resolve(name, payload, target, &path).map(|()| false),
            // What a superseded primary left here stays here.
            Err(ShipError::Store(error @ StoreError::Superseded { .. })) => {
                log::info!("{error}");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the own archive what the target does not have yet, so that nothing is removed before. A timeline that
    /// ended stays where it ended; only the newest one moves on, and one with a hole is waited for.
    fn report(&self, own: &Archive, cursor: &Cursor, mut needed: Vec<SegmentName>) -> Result<(), ArchiveError> {
        if let Some((timeline, progress)) = cursor.timelines.iter().next_back() {
            let number = SegmentNumber(progress.next).previous().unwrap_or(SegmentNumber(0));
            needed.push(SegmentName::new(TimelineId(*timeline), number, own.identity.segment_size));
        }
        let Some(oldest) = needed.into_iter().min_by_key(|segment| segment.position()) else { return Ok(()) };
        let who = format!("relay-{}", self.target.name());
        Record::new(&who, "relayed so far", oldest).write(own)
    }

    /// A place that was not reached while a timeline was claimed learns of it here.
    fn pass_on_claims(&self, ends: &Ends) -> Result<(), ArchiveError> {
        let here = claims::all(&ends.own)?;
        let there = if here.is_empty() { Vec::new() } else { claims::all(&ends.target)? };
        let spool = Spool::new(&self.config.local.spool);
        for claim in here.iter().filter(|claim| claim.state == State::Confirmed) {
            match there.iter().find(|known| known.timeline == claim.timeline) {
                None => _ = claims::copy(&ends.target, &spool, claim)?,
                Some(known) if known.id == claim.id && known != claim => claims::update(&ends.target, claim)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The target removes by the same rule, so it must know what the other nodes need of it.
    fn pass_on_records(&self, ends: &Ends) -> Result<(), ArchiveError> {
        for record in consumers::all(&ends.own)? {
            if record.who != self.target.name() && !record.who.starts_with("relay-") {
                record.write(&ends.target)?;
            }
        }
        Ok(())
    }

    fn relayer(&self) -> &str {
        &self.config.local.node
    }
}

/// Does something with each item, all at the same time; the answers come in order.
fn at_once<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if let [only] = items {
        return vec![act(only)];
    }
    let act = &act;
    std::thread::scope(|scope| {
        let running: Vec<_> = items.iter().map(|item| scope.spawn(move || act(item))).collect();
        running.into_iter().map(|thread| thread.join().expect("because a panic there is a panic here")).collect()
    })
}

/// Where a first relay begins: the oldest segment of each timeline that is here. The one listing of the whole archive.
fn begin(own: &Archive, cursor: &mut Cursor) -> Result<(), ArchiveError> {
    let wal: StorePath = layout::WAL.parse().map_err(StoreError::from)?;
    let size = own.identity.segment_size;
    let mut folders = own.store.list(&wal)?.unwrap_or_default();
    folders.retain(|entry| entry.kind == EntryKind::Folder && entry.name.len() == 16);
    folders.sort_by(|a, b| a.name.cmp(&b.name));
    for folder in folders {
        let Ok(first) = format!("{}00000000", folder.name).parse::<SegmentName>() else { continue };
        let timeline = first.timeline().0;
        if cursor.timelines.contains_key(&timeline) {
            continue;
        }
        if let Some(oldest) = Folder::of(first, own)?.beginning(size) {
            cursor.timelines.insert(timeline, Progress::at(oldest));
        }
    }
    Ok(())
}

/// The oldest segment of a timeline, where some have come that lie before the first one known; else that one. Only the
/// folders that hold them are looked at.
fn oldest(timeline: TimelineId, first: SegmentNumber, own: &Archive) -> Result<SegmentNumber, ArchiveError> {
    let size = own.identity.segment_size;
    let mut oldest = first;
    while let Some(before) = oldest.previous() {
        let found = Folder::of(SegmentName::new(timeline, before, size), own)?.oldest(size);
        match found.filter(|found| *found < oldest) {
            Some(found) => oldest = found,
            None => break,
        }
    }
    Ok(oldest)
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
