//! The story of one backup, from the lock to `backup.json`.
//!
//! Shipping is proven, the server is told, the files are copied by several threads, the control file last, the server
//! is told again, its WAL is awaited in the archive, and only then the description is written, which makes it a backup.
//! A run that ends anywhere before leaves an unfinished folder; the next run on this node goes on with it and copies
//! only what has changed since. An incremental backup takes the same way, and leaves out what its parent holds.

mod claim;
mod crew;
mod finish;
mod reuse;
pub mod staged;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Local;

use self::crew::Crew;
use self::reuse::Reuse;
use super::catalog::{CLAIM, Claim, Description, FoundBy, Index, Label, Object, RESUME, StoredFile};
use super::copy::{Copier, Pace, encoded, remove};
use super::parent::{self, Parent};
use super::plan::{self, CONTROL, Stamp, Tree};
use super::session::{Session, same_server};
use super::summaries::{self, Begun, Changes, Unused};
use super::{BackupError, Watcher, manifest, wal};
use crate::archive::encode::Method;
use crate::archive::places::{Archive, Sites};
use crate::archive::spool::Spool;
use crate::config::{Checkpoint, Config, Node};
use crate::postgres::control::ControlFile;
use crate::store::{Encoding, Payload, Published, StorePath};
use crate::system::lock::{Lock, Taken};
use crate::wal::{Lsn, SegmentNumber, TimelineId};

/// By how much the clocks of two nodes may differ, in nanoseconds.
const CLOCKS_APART: i64 = 300_000_000_000;

/// What kind of backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A full one.
    Full,
    /// An incremental one on this parent, or on the newest that can be used; a full one where there is none.
    Incremental(Option<Label>),
}

/// What is wanted.
pub struct Request<'a> {
    /// The configuration.
    pub config: &'a Arc<Config>,
    /// The node whose archive gets it.
    pub place: &'a str,
    /// What kind.
    pub wanted: Wanted,
    /// What people write about it.
    pub annotations: BTreeMap<String, String>,
    /// True: expire leaves it alone.
    pub keep: bool,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
}

/// Takes a backup of this node's server.
pub fn take(request: &Request<'_>) -> Result<Description, BackupError> {
    let config = request.config;
    let spool = Spool::new(&config.local.spool);
    spool.prepare()?;
    let _one_run = lock(&spool)?;
    let workplace = prepare_workplace(&spool)?;
    let sites = Sites::new(config);
    let archive = open(&sites, request.place)?;
    let (pgdata, conninfo) = server_of(config.own())?;
    let control = ControlFile::read(pgdata)?;
    archive.identity.admit(archive.store.place(), control.system_id, control.segment_size)?;
    request.watcher.phase("connecting");
    let mut session = Session::open(conninfo)?;
    let facts = session.facts()?;
    archive.identity.admit(archive.store.place(), facts.system_id, facts.segment_size)?;
    request.watcher.phase("proving that WAL is shipped");
    wal::prove_shipping(config, &mut session, &archive, config.backup.deadline)?;
    let parent = choose_parent(&archive, &request.wanted, session.major())?;
    let claim = Claim {
        node: config.local.node.clone(),
        system_identifier: control.system_id.to_string(),
        pgdata: pgdata.display().to_string(),
        major: session.major(),
        encoding: config.backup.compress,
        parent,
        at: Local::now().to_rfc3339(),
    };
    // The claim names the parent before it is read, so that expire leaves it alone.
    let (label, index) = claim::take(&archive, &claim)?;
    let parent = claim.parent.as_ref().map(|label| Parent::open(&archive, label)).transpose()?;
    let parent = parent.as_ref();
    let run = Run {
        request,
        archive: &archive,
        label,
        pgdata,
        control,
        workplace,
        claim,
        parent,
        timeline: facts.timeline,
        sent: false,
    };
    let description = run.go(session, index)?;
    log::info!("backup '{}' is whole: {} files", description.label, description.files);
    Ok(description)
}

/// One run at a time on a node.
pub fn lock(spool: &Spool) -> Result<Lock, BackupError> {
    let path = spool.lock("base-backup");
    match Lock::try_take(&path).map_err(BackupError::io("lock", &path))? {
        Taken::Held(lock) => Ok(lock),
        Taken::Busy { owner } => Err(BackupError::Busy { owner }),
    }
}

/// The archive of a node, open.
pub fn open(sites: &Sites, place: &str) -> Result<Archive, BackupError> {
    let site = sites.get(place).ok_or_else(|| {
        BackupError::refused(
            format!("node '{place}' holds no archive"),
            format!("Set node.{place}.archive, or name a node that holds one with --place."),
        )
    })?;
    Ok(site.archive()?)
}

/// The data directory and the connection string of a node.
pub fn server_of(node: &Node) -> Result<(&Path, &str), BackupError> {
    let missing = |key: &str| {
        BackupError::refused(
            format!("the configuration does not say where the server of '{}' is: {key} is not set", node.name),
            format!("Set node.{}.{key}.", node.name),
        )
    };
    let pgdata = node.pgdata.as_deref().ok_or_else(|| missing("pgdata"))?;
    Ok((pgdata, node.conninfo.as_deref().ok_or_else(|| missing("conninfo"))?))
}

/// Makes the folder for payloads on their way, and removes what a killed run left there.
fn prepare_workplace(spool: &Spool) -> Result<PathBuf, BackupError> {
    let folder = spool.root().join("base-backup");
    spool.make(&folder)?;
    for entry in fs::read_dir(&folder).map_err(BackupError::io("list", &folder))? {
        remove(&entry.map_err(BackupError::io("list", &folder))?.path())?;
    }
    Ok(folder)
}

/// The backup to build on, if any.
fn choose_parent(archive: &Archive, wanted: &Wanted, major: u32) -> Result<Option<Label>, BackupError> {
    let Wanted::Incremental(named) = wanted else { return Ok(None) };
    let parent = parent::choose(archive, named.as_ref(), major)?;
    if parent.is_none() {
        log::warn!("there is no backup that an incremental one can build on; a full one is taken");
    }
    Ok(parent)
}

/// One run, once its place is known.
struct Run<'a> {
    request: &'a Request<'a>,
    archive: &'a Archive,
    label: Label,
    pgdata: &'a Path,
    control: ControlFile,
    workplace: PathBuf,
    claim: Claim,
    parent: Option<&'a Parent<'a>>,
    timeline: TimelineId,
    /// True where a server elsewhere sent the files: it has checked the pages, and held itself back.
    sent: bool,
}

/// What was copied.
struct Copied {
    index: Index,
    tree: Tree,
    checksums: bool,
    found_by: FoundBy,
}

impl Run<'_> {
    fn go(&self, mut session: Session, old: Index) -> Result<Description, BackupError> {
        let started = Local::now();
        self.request.watcher.phase("waiting for a checkpoint");
        let fast = self.request.config.backup.checkpoint == Checkpoint::Fast;
        let start = session.start(&format!("pgwarm {}", self.label), fast)?;
        let control = same_server(self.pgdata, session.is_standby(), start)?;
        let settled = settled(&control, session.is_standby());
        let changes = self.changes(&mut session, start)?;
        let copied = self.copy(&mut session, old, settled, changes.as_ref())?;
        self.request.watcher.phase("ending the backup");
        let (stopped, label) = session.finish(self.timeline)?;
        let role = if session.is_standby() { "standby" } else { "primary" };
        let standby = session.is_standby();
        drop(session);
        let range = manifest::WalRange { timeline: label.timeline, start: label.start, end: stopped.lsn };
        let (first, last) = self.segments(range);
        if standby {
            wal::switch_on_primary(self.request.config);
        }
        self.request.watcher.phase("waiting for its WAL");
        wal::await_range(self.archive, range.timeline, first, last, self.request.config.backup.deadline)?;
        self.request.watcher.phase("writing the description");
        self.finish(copied, &stopped, range, started, role)
    }

    fn segments(&self, range: manifest::WalRange) -> (SegmentNumber, SegmentNumber) {
        let size = self.control.segment_size;
        // The end is one past the last byte that is needed.
        (range.start.segment(size), Lsn(range.end.0.saturating_sub(1)).segment(size))
    }

    /// What may differ from the parent, where the server knows; none: all of it is compared.
    fn changes(&self, session: &mut Session, start: Lsn) -> Result<Option<Changes>, BackupError> {
        let Some(parent) = self.parent else { return Ok(None) };
        let checksums = self.control.checksums && session.has_usual_layout()?;
        self.request.watcher.phase("waiting for WAL summaries");
        let begun = Begun { start, timeline: self.timeline, checksums };
        match summaries::since(session, parent.description(), begun) {
            Ok(changes) => {
                log::debug!("WAL summaries say what has changed since '{}'", parent.label);
                Ok(Some(changes))
            }
            Err(Unused { why, expected }) => {
                let level = if expected { log::Level::Info } else { log::Level::Debug };
                log::log!(level, "WAL summaries are not used, all is read: {why}");
                Ok(None)
            }
        }
    }

    /// Copies every file, the control file last.
    fn copy(
        &self,
        session: &mut Session,
        old: Index,
        settled: i64,
        changes: Option<&Changes>,
    ) -> Result<Copied, BackupError> {
        let config = &self.request.config.backup;
        let version = format!("PG_{}_{}", session.major(), self.control.catalog_version);
        let mut tree = plan::walk(self.pgdata, &version)?;
        tree.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let usual = session.has_usual_layout()?;
        if !usual {
            log::warn!("the server was built with other sizes of pages or files: pages are not looked at one by one");
            tree.files.iter_mut().for_each(|file| file.first_block = None);
        }
        let checksums = self.control.checksums && usual;
        let Reuse { kept, mut rest } = reuse::reuse(old, std::mem::take(&mut tree.files));
        let mut index = self.confirm(kept)?;
        if let Some(parent) = self.parent {
            index.unchanged.extend(parent.unchanged(&mut rest));
        }
        index.directories.clone_from(&tree.directories);
        self.request.watcher.begin(rest.iter().map(|file| file.size).sum());
        self.request.watcher.phase("copying");
        let encoding = config.compress;
        let copier = Copier {
            method: Method { encoding, level: config.level, threads: 1, writer: self.claim.node.clone() },
            wave: jobs(config.jobs).min(2),
            spool: self.workplace.clone(),
            pages: checksums && !self.sent,
            settled,
            parent: self.parent,
            changes,
            pace: Pace::new(if self.sent { 0 } else { config.rate_max }),
            watcher: self.request.watcher,
            next: 0.into(),
            spare: Default::default(),
        };
        let crew = Crew { archive: self.archive, label: &self.label, copier: &copier, jobs: jobs(config.jobs) };
        let mut index = crew.work(plan::arrange(rest), index, session)?;
        index.objects.push(self.control_file(encoding, settled)?);
        let found_by = changes.map_or(FoundBy::Comparing, |_| FoundBy::Summaries);
        Ok(Copied { index, tree, checksums, found_by })
    }

    /// Keeps only those objects of an earlier run that are there as recorded, and removes all others.
    fn confirm(&self, mut kept: Index) -> Result<Index, BackupError> {
        let folder = self.label.folder();
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        for (path, size) in super::expire::stored_files(self.archive, &folder)? {
            let name = path.as_str().strip_prefix(folder.as_str()).unwrap_or_default().trim_start_matches('/');
            sizes.insert(name.to_owned(), size);
        }
        kept.objects.retain(|object| {
            let sums = object.sums.as_ref().is_none_or(|sums| sizes.contains_key(sums));
            sums && sizes.get(&object.stored) == Some(&object.bytes)
        });
        let names = kept.objects.iter().flat_map(|object| [Some(&object.stored), object.sums.as_ref()]);
        let names: BTreeSet<&str> = names.flatten().map(String::as_str).chain([CLAIM, RESUME]).collect();
        for name in sizes.keys().filter(|name| !names.contains(name.as_str())) {
            self.archive.store.remove(&self.label.path(name)?)?;
        }
        Ok(kept)
    }

    /// Copies the control file, whole: a server may be writing it.
    fn control_file(&self, encoding: Encoding, settled: i64) -> Result<Object, BackupError> {
        let path = self.pgdata.join(CONTROL);
        // Read until its own checksum is right; then the bytes are those of one moment.
        let mut tries = 0;
        let bytes = loop {
            let bytes = fs::read(&path).map_err(BackupError::io("read", &path))?;
            match ControlFile::parse(&path, &bytes) {
                Ok(_) => break bytes,
                Err(error) if tries >= 10 => return Err(error.into()),
                Err(_) => tries += 1,
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let stamp = Stamp::of(&fs::metadata(&path).map_err(BackupError::io("look at", &path))?);
        let stored = format!("files/{CONTROL}{}", encoding.extension());
        let payload = encoded(&bytes, encoding)?;
        publish(self.archive, &self.label.path(&stored)?, &payload)?;
        let crc = crc32c::crc32c(&bytes);
        let (path, size, damaged) = (CONTROL.to_owned(), bytes.len() as u64, Vec::new());
        let file = StoredFile { path, size, stamp, settled, crc, blocks: None, damaged };
        Ok(Object { stored, bundle: false, bytes: payload.size, sums: None, files: vec![file] })
    }
}

/// Every write that began before this moment is done: the checkpoint with which the backup began has waited for it. In
/// nanoseconds since 1970; a standby only knows when the primary began its checkpoint.
fn settled(control: &ControlFile, standby: bool) -> i64 {
    let began = control.checkpoint_time.saturating_mul(1_000_000_000);
    if standby { began.saturating_sub(CLOCKS_APART) } else { began }
}

/// Puts a file into an unfinished backup. What is in its way was left by a run that was killed before it could record
/// it, and nobody uses it.
fn publish(archive: &Archive, path: &StorePath, payload: &Payload) -> Result<(), BackupError> {
    loop {
        match archive.store.publish(path, payload, &[])? {
            Published::New => return Ok(()),
            Published::Occupied(old) => archive.store.remove(&old)?,
        };
    }
}

fn jobs(configured: u32) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    if configured == 0 { cores() } else { configured as usize }
}
