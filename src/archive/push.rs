//! `archive_command`: one file to every place the policy names, in parallel, and the answer whether it is safe.
//!
//! The story of a file: the switch is asked, the file is checked and encoded once, every place of `archive.to` gets it
//! at the same time, a place that is down gets it into its queue and its alternate gets it instead, and then `ack`
//! decides. Exit 0 is said only when `ack` holds *and* every place either has the file or has it queued. The worker and
//! a call without a worker run this very code.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::consumers;
use super::delivery::{self, Delivery};
use super::encode::{Bench, Method, Source, Stamp, Way, encode};
use super::layout;
use super::places::{Site, Sites};
use super::queue::Queue;
use super::shipping;
use super::spool::{Spool, remove_if_there};
use super::superseded;
use crate::config::{Ack, Config, Shipping};
use crate::error::{Class, Failure};
use crate::postgres::control::ControlFile;
use crate::store::{Encoding, Payload};
use crate::system::clock::Deadline;
use crate::wal::page::LONG_HEADER;
use crate::wal::segment::{self, Expected, Known, PageRun};
use crate::wal::timeline::TimelineHistory;
use crate::wal::{SegmentSize, SystemId, WalName};

/// Of the time a file may take, the share that the places get; the rest is for queueing and the answer.
const PLACES_SHARE: f64 = 0.8;

/// A payload that nobody has touched for so long belongs to a process that was killed.
const LEFTOVER_AGE: Duration = Duration::from_secs(600);

/// Ships files by one configuration. Shared by all threads of a process.
pub struct Pusher {
    config: Arc<Config>,
    sites: Arc<Sites>,
    spool: Spool,
    payloads: AtomicU64,
    bench: Bench,
}

/// A file that PostgreSQL may forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The file.
    pub name: WalName,
    /// The nodes whose archives hold it, durably.
    pub stored: Vec<String>,
    /// The nodes for which it waits in a queue.
    pub queued: Vec<String>,
    /// True where it was not shipped at all, because shipping is switched to discard.
    pub discarded: bool,
    /// Where it is kept that no archive takes, for it is of a timeline that this server has left before it.
    pub quarantined: Option<PathBuf>,
    /// How large it is as stored, in bytes.
    pub size: u64,
}

/// Whose WAL a file is, as far as the file or the server's control file say.
struct Origin {
    system: SystemId,
    segment_size: SegmentSize,
}

impl Pusher {
    /// A pusher with this configuration.
    pub fn new(config: &Arc<Config>, sites: &Arc<Sites>, way: Way) -> Self {
        let spool = Spool::new(&config.local.spool);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Pusher {
            config: Arc::clone(config),
            sites: Arc::clone(sites),
            spool,
            payloads: AtomicU64::new(0),
            bench: Bench::new(cores, way),
        }
    }

    /// Removes what killed processes left in the spool.
    pub fn sweep(&self) {
        self.spool.sweep(LEFTOVER_AGE);
    }

    /// True where files are shipped; while they are refused or discarded, nothing may be done ahead of the asking.
    pub fn is_armed(&self) -> bool {
        matches!(shipping::mode(&self.spool, self.config.archive.shipping), Ok(Shipping::Armed))
    }

    /// Makes one file safe, as `ack` means it, or says why not. `threads` cores compress it.
    pub fn push(&self, path: &Path, name: WalName, threads: usize, deadline: Deadline) -> Result<Pushed, ArchiveError> {
        match shipping::mode(&self.spool, self.config.archive.shipping)? {
            Shipping::Armed => match self.ship(path, name, threads, deadline) {
                Err(error @ ArchiveError::NotTheWal { .. }) => self.leftover(path, name, error),
                other => other,
            },
            Shipping::Refuse => Err(ArchiveError::SwitchedOff {
                mode: "refuse",
                detail: format!("'{name}' stays in pg_wal"),
                hint: "Switch it on with 'archive-wal --arm'.",
            }),
            Shipping::Discard => {
                shipping::confirm(&self.config.archive)?;
                shipping::record(&self.spool, name)?;
                log::warn!("'{name}' is discarded; the chain of WAL is broken and a new base backup is needed");
                Ok(Pushed { name, stored: Vec::new(), queued: Vec::new(), discarded: true, quarantined: None, size: 0 })
            }
        }
    }

    fn ship(&self, path: &Path, name: WalName, threads: usize, deadline: Deadline) -> Result<Pushed, ArchiveError> {
        let source = Source::open(path)?;
        let origin = origin(&source, name)?;
        let places = self.places()?;
        let mut delivery = self.resume(&source, name)?;
        if delivery.is_none() {
            let payload = self.encode(&source, name, threads)?;
            delivery = Some(Delivery::new(name, source.stamp, payload));
        }
        let delivery = delivery.expect("because it was made where there was none");
        let outcome = self.deliver(delivery, &source, &places, origin.as_ref(), deadline);
        if outcome.is_ok() {
            self.report_position(path);
        }
        outcome
    }

    /// The places of `archive.to`; a configuration that names none must not look like success.
    fn places(&self) -> Result<Vec<Arc<Site>>, ArchiveError> {
        let mut places = self.sites.of(&self.config.places(&self.config.archive.to));
        let out = shipping::disarmed(&self.spool)?;
        places.retain(|site| !out.contains(site.name()));
        if places.is_empty() {
            return Err(ArchiveError::Refused {
                reason: "archive.to names no node that holds an archive".to_owned(),
                hint: "Set node.NAME.archive for at least one node that archive.to means.".to_owned(),
            });
        }
        Ok(places)
    }

    /// What an earlier try left: the payload and the places that already hold the file.
    fn resume(&self, source: &Source, name: WalName) -> Result<Option<Delivery>, ArchiveError> {
        let encoding = layout::encoding(name, self.config.archive.compress);
        Ok(delivery::load(&self.spool, name, self.config.fingerprint)
            .filter(|kept| kept.stamp == source.stamp && kept.payload.encoding == encoding))
    }

    fn encode(&self, source: &Source, name: WalName, threads: usize) -> Result<Payload, ArchiveError> {
        self.spool.prepare()?;
        self.spool.make(&self.spool.outgoing())?;
        let encoding = layout::encoding(name, self.config.archive.compress);
        let target = self.payload_path(name, encoding);
        let method =
            Method { encoding, level: self.config.archive.level, threads, writer: self.config.local.node.clone() };
        let known = known(source, name)?;
        let runs = Mutex::new(Vec::new());
        let inspect = |offset: u64, bytes: &[u8]| {
            let Some(known) = &known else { return Ok(()) };
            let run =
                segment::check_pages(known, offset, bytes).map_err(|error| not_the_wal(name, &source.path, error))?;
            runs.lock().unwrap_or_else(PoisonError::into_inner).push(run);
            Ok(())
        };
        let encoded = encode(source, &target, &method, &inspect, &self.bench).and_then(|payload| {
            let runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
            known.as_ref().map_or(Ok(()), |known| join(known, runs, &source.path))?;
            Ok(payload)
        });
        if encoded.is_err() {
            // The error matters, the leftover is swept later.
            let _ = remove_if_there(&target);
        }
        self.unchanged(source, name)?;
        encoded
    }

    fn payload_path(&self, name: WalName, encoding: Encoding) -> PathBuf {
        let count = self.payloads.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{name}.{}.{count}{}", std::process::id(), encoding.extension());
        self.spool.outgoing().join(unique)
    }

    /// PostgreSQL never changes a file it offers; if somebody does, what was read is worth nothing.
    fn unchanged(&self, source: &Source, name: WalName) -> Result<(), ArchiveError> {
        let now = Stamp::of_path(&source.path).map_err(ArchiveError::io("look at", &source.path))?;
        if now == source.stamp {
            return Ok(());
        }
        Err(ArchiveError::Refused {
            reason: format!("'{name}' changed while it was being read"),
            hint: "PostgreSQL tries again; if it happens again, find out who writes into pg_wal.".to_owned(),
        })
    }

    /// Ships to every place, queues for those that are down, and asks `ack`.
    fn deliver(
        &self,
        mut delivery: Delivery,
        source: &Source,
        places: &[Arc<Site>],
        origin: Option<&Origin>,
        deadline: Deadline,
    ) -> Result<Pushed, ArchiveError> {
        let whose = origin.map(|origin| (origin.system, origin.segment_size));
        let share = Deadline::after(deadline.remaining().mul_f64(PLACES_SHARE));
        let mut failures = self.send(&mut delivery, places, whose, share);
        let is_down = |site: &Arc<Site>| !site.own && failures.iter().any(|(down, _)| down.name() == site.name());
        if places.iter().any(is_down) || self.lacks_a_place() {
            let alternates = self.alternates(places);
            let more = Deadline::after(deadline.remaining().mul_f64(PLACES_SHARE));
            for (site, error) in self.send(&mut delivery, &alternates, whose, more) {
                log::warn!("the alternate {} did not take '{}': {}", site.name(), delivery.name, Failure::of(&error));
                if !error.is_outage() {
                    failures.push((site, error));
                }
            }
        }
        let mut queued = Vec::new();
        let mut fatal = Vec::new();
        if failures.iter().any(|(_, error)| error.is_superseded()) {
            if let Some(kept) = self.step_aside(&delivery, source) {
                delivery::forget(&self.spool, &delivery);
                return Ok(set_aside(delivery.name, delivery.stored, kept, delivery.payload.size));
            }
            // That this server has been superseded is what the operator must see before anything else.
            failures.sort_by_key(|(_, error)| !error.is_superseded());
        }
        for (site, error) in failures {
            let kept = if error.is_outage() { self.queue(&site, &delivery, &error) } else { Err(error) };
            match kept {
                Ok(failure) => queued.push((site, failure)),
                Err(error) => fatal.push(error),
            }
        }
        self.answer(delivery, places, queued, fatal)
    }

    /// Keeps what no archive takes any more. Says where, if that is all that is left to do with it.
    fn step_aside(&self, delivery: &Delivery, source: &Source) -> Option<PathBuf> {
        let (name, payload) = (delivery.name, &delivery.payload);
        let kept = match superseded::step_aside(&self.config, &self.sites, &self.spool, name, payload) {
            Ok(kept) => kept?,
            Err(error) => {
                log::warn!("'{name}' stays in pg_wal and nowhere else: {error}");
                return None;
            }
        };
        log::warn!("'{name}' is kept as '{}'", kept.display());
        has_left(&source.path, name).then_some(kept)
    }

    /// What a primary had made ready to be written when it lost its timeline holds older WAL than its name says. Should
    /// that server be the primary once more, it may offer it all the same.
    fn leftover(&self, path: &Path, name: WalName, error: ArchiveError) -> Result<Pushed, ArchiveError> {
        if !has_left(path, name) {
            return Err(error);
        }
        let payload = Payload::of_file(path, Encoding::None).map_err(ArchiveError::io("read", path))?;
        let Some(kept) = superseded::keep(&self.spool, name, &payload, self.config.queue.free_min)? else {
            return Err(error);
        };
        log::warn!("{error}; it is kept as '{}'", kept.display());
        Ok(set_aside(name, Vec::new(), kept, payload.size))
    }

    /// True where the archive of another node is taken out of `archive.to`: it is as good as down, and without an
    /// alternate nobody elsewhere might be left to hold the file.
    fn lacks_a_place(&self) -> bool {
        let out = shipping::disarmed(&self.spool).unwrap_or_default();
        let sites = self.sites.of(&self.config.places(&self.config.archive.to));
        sites.iter().any(|site| !site.own && out.contains(site.name()))
    }

    fn alternates(&self, places: &[Arc<Site>]) -> Vec<Arc<Site>> {
        let nodes = self.config.places(&self.config.archive.alternate);
        let mut sites = self.sites.of(&nodes);
        // What cannot be read is shipped to: a copy too many harms less than one too few.
        let out = shipping::disarmed(&self.spool).unwrap_or_default();
        sites.retain(|site| !places.iter().any(|place| place.name() == site.name()) && !out.contains(site.name()));
        sites
    }

    /// Sends to places that do not hold the file yet; gives back those that failed.
    fn send(
        &self,
        delivery: &mut Delivery,
        places: &[Arc<Site>],
        whose: Option<(SystemId, SegmentSize)>,
        deadline: Deadline,
    ) -> Vec<(Arc<Site>, ArchiveError)> {
        let open: Vec<_> = places.iter().filter(|site| !delivery.is_stored(site.name())).cloned().collect();
        let results = delivery::send(delivery, &open, whose, self.config.archive.retry, deadline);
        let mut failures = Vec::new();
        for (site, result) in open.into_iter().zip(results) {
            match result {
                Ok(()) => delivery.stored.push(site.name().to_owned()),
                Err(error) => failures.push((site, error)),
            }
        }
        failures
    }

    fn queue(&self, site: &Site, delivery: &Delivery, error: &ArchiveError) -> Result<Failure, ArchiveError> {
        let free_min = self.config.queue.free_min;
        Queue::new(&self.spool, site.name()).add(delivery.name, &delivery.payload, free_min)?;
        let failure = Failure::of(error);
        log::warn!("'{}' waits in the queue for {}: {}", delivery.name, site.name(), failure.message);
        Ok(failure)
    }

    /// Exit 0 needs both: nothing failed for good, and `ack` holds.
    fn answer(
        &self,
        delivery: Delivery,
        places: &[Arc<Site>],
        queued: Vec<(Arc<Site>, Failure)>,
        mut fatal: Vec<ArchiveError>,
    ) -> Result<Pushed, ArchiveError> {
        let acknowledged = self.acknowledged(&delivery, places, !queued.is_empty());
        if fatal.is_empty() && acknowledged {
            delivery::forget(&self.spool, &delivery);
            return Ok(Pushed {
                name: delivery.name,
                stored: delivery.stored,
                queued: queued.into_iter().map(|(site, _)| site.name().to_owned()).collect(),
                discarded: false,
                quarantined: None,
                size: delivery.payload.size,
            });
        }
        delivery::keep(&self.spool, &delivery, self.config.fingerprint);
        // A conflict, a foreign archive or a full queue is what the operator must see first.
        if !fatal.is_empty() {
            return Err(fatal.remove(0));
        }
        let worst = queued.iter().find(|(site, _)| !site.own).or(queued.first());
        Err(ArchiveError::Unacknowledged {
            name: delivery.name,
            wanted: wanted(self.config.archive.ack),
            class: worst.map_or(Class::Config, |(_, failure)| failure.class),
            hint: worst.and_then(|(_, failure)| failure.hint.clone()),
            failures: if queued.is_empty() {
                vec![format!("only {} places of archive.to can hold it", places.len())]
            } else {
                queued.iter().map(|(site, failure)| format!("{}: {}", site.name(), failure.message)).collect()
            },
        })
    }

    fn acknowledged(&self, delivery: &Delivery, places: &[Arc<Site>], queued: bool) -> bool {
        let own = &self.config.local.node;
        match self.config.archive.ack {
            // A copy in an archive elsewhere is worth more than one in a queue here.
            Ack::Local => queued || !delivery.stored.is_empty(),
            Ack::Standby => {
                let elsewhere = |site: &Arc<Site>| !site.own;
                let alone = !places.iter().any(elsewhere) && !self.alternates(places).iter().any(elsewhere);
                delivery.stored.iter().any(|node| node != own) || (alone && !delivery.stored.is_empty())
            }
            Ack::All => places.iter().all(|site| delivery.is_stored(site.name())),
            Ack::Count(count) => delivery.stored.len() >= count as usize,
        }
    }

    /// True where something waits in a queue.
    pub fn has_queued(&self) -> bool {
        let nodes = super::queue::nodes(&self.spool).unwrap_or_default();
        nodes.iter().any(|node| !Queue::new(&self.spool, node).is_empty())
    }

    /// Sends what waits for places that are up again, for so long as the time allows.
    pub fn drain(&self, deadline: Deadline) {
        let left = superseded::left_by(&self.config);
        for node in super::queue::nodes(&self.spool).unwrap_or_default() {
            let queue = Queue::new(&self.spool, &node);
            let Some(site) = self.sites.get(&node).filter(|_| !queue.is_empty()) else { continue };
            if site.recently_down(self.config.archive.retry).is_some() {
                continue;
            }
            let drained = site.archive().and_then(|archive| queue.drain(&archive, deadline, &left, &mut |_, _| {}));
            match drained {
                Ok(drained) if drained.count > 0 => log::info!("sent {} queued files to {node}", drained.count),
                Ok(_) => {}
                Err(error) => {
                    log::warn!("the queue for {node} stays: {error}");
                    if error.is_outage() {
                        site.mark_down(&Failure::from(error));
                        site.close();
                    }
                }
            }
        }
    }

    /// Tells the archives from time to time how far back a primary itself may have to go.
    fn report_position(&self, path: &Path) {
        let Some(pgdata) = data_directory(path) else { return };
        if let Err(error) = consumers::report_primary(&self.config, &self.sites, &self.spool, &pgdata) {
            log::debug!("the restart point of this node is not reported: {error}");
        }
    }
}

/// True where it is sure that the server has left the timeline of a file before it.
fn has_left(path: &Path, name: WalName) -> bool {
    data_directory(path).is_some_and(|pgdata| superseded::is_sure(superseded::has_left(&pgdata, name), name))
}

/// The answer for a file in quarantine that nothing in the server's lineage needs.
fn set_aside(name: WalName, stored: Vec<String>, kept: PathBuf, size: u64) -> Pushed {
    log::warn!("'{name}' is not archived and need not be: this server has left its timeline before it");
    Pushed { name, stored, queued: Vec::new(), discarded: false, quarantined: Some(kept), size }
}

fn wanted(ack: Ack) -> String {
    match ack {
        Ack::Local => "local".to_owned(),
        Ack::Standby => "standby".to_owned(),
        Ack::All => "all".to_owned(),
        Ack::Count(count) => count.to_string(),
    }
}

/// The data directory that a path inside `pg_wal` belongs to; none for a file that lies elsewhere.
pub fn data_directory(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let pgdata = absolute.parent()?.parent()?;
    pgdata.join("PG_VERSION").is_file().then(|| pgdata.to_owned())
}

/// Says whose WAL a file is: its own first page says it, a history or a backup label needs the control file.
fn origin(source: &Source, name: WalName) -> Result<Option<Origin>, ArchiveError> {
    if let Some(known) = known(source, name)? {
        return Ok(Some(Origin { system: known.first.system_id, segment_size: known.first.segment_size }));
    }
    check_text(source, name)?;
    let Some(pgdata) = data_directory(&source.path) else { return Ok(None) };
    let control = ControlFile::read(&pgdata).map_err(|error| ArchiveError::Elsewhere(Failure::from(error)))?;
    Ok(Some(Origin { system: control.system_id, segment_size: control.segment_size }))
}

/// Reads the first page of a file that holds WAL and checks it against the name and the size.
fn known(source: &Source, name: WalName) -> Result<Option<Known>, ArchiveError> {
    use std::os::unix::fs::FileExt;
    let Some(segment) = name.segment().filter(|_| name.holds_wal()) else { return Ok(None) };
    let mut first = vec![0; LONG_HEADER.min(source.stamp.size as usize)];
    source.file.read_exact_at(&mut first, 0).map_err(ArchiveError::io("read", &source.path))?;
    let partial = matches!(name, WalName::Partial(_));
    let expected = Expected { name: segment, system_id: None, size: None, partial };
    let known = Known::new(&expected, &first).map_err(|error| not_the_wal(name, &source.path, error))?;
    if source.stamp.size != known.size() {
        let detail = format!("it has {} bytes, a segment has {}", source.stamp.size, known.size());
        return Err(not_the_wal(name, &source.path, detail));
    }
    Ok(Some(known))
}

/// Checks what lies between the pieces that were checked each for itself.
fn join(known: &Known, mut runs: Vec<PageRun>, path: &Path) -> Result<(), ArchiveError> {
    runs.sort_by_key(|run| run.offset);
    let mut runs = runs.into_iter();
    let Some(first) = runs.next() else { return Ok(()) };
    let joined = runs.try_fold(first, |joined, run| joined.join(known, run));
    joined.map(|_| ()).map_err(|error| not_the_wal(WalName::Segment(known.name), path, error))
}

/// A history must be one; a backup label must begin as one.
fn check_text(source: &Source, name: WalName) -> Result<(), ArchiveError> {
    // A label or the name of a restore point comes in whatever encoding the server's client had.
    let bytes = std::fs::read(&source.path).map_err(ArchiveError::io("read", &source.path))?;
    let text = String::from_utf8_lossy(&bytes);
    match name {
        WalName::History(timeline) => {
            TimelineHistory::parse(timeline, &text).map(|_| ()).map_err(|error| not_the_wal(name, &source.path, error))
        }
        WalName::Backup(..) if !text.starts_with("START WAL LOCATION") => {
            Err(not_the_wal(name, &source.path, "it does not begin as a backup label does"))
        }
        _ => Ok(()),
    }
}

fn not_the_wal(name: WalName, path: &Path, detail: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::NotTheWal { name, place: path.display().to_string(), detail: detail.to_string() }
}
