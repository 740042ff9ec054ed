//! The story of one backup, from the lock to `backup.json`.
//!
//! Shipping is proven, the server is told, the files are copied by several threads, the control file last, the server
//! is told again, its WAL is awaited in the archive, and only then the description is written, which makes it a backup.
//! A run that ends anywhere before leaves an unfinished folder; the next run on this node goes on with it and copies
//! only what has changed since.

mod crew;
mod reuse;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Local, Utc};

use self::crew::Crew;
use self::reuse::Reuse;
use super::catalog::{
    self, CLAIM, Claim, DESCRIPTION, DamagedPages, Description, FORMAT, Found, INDEX, Index, Kind, Label, Object,
    RESUME, StoredFile,
};
use super::copy::{Copier, Pace, encode_bytes, now, remove};
use super::plan::{self, CONTROL, Tree};
use super::session::{Session, Stopped, same_server};
use super::{BackupError, Watcher, manifest, wal};
use crate::archive::encode::Method;
use crate::archive::places::{Archive, Sites};
use crate::archive::spool::Spool;
use crate::config::{Checkpoint, Config, Node};
use crate::postgres::control::ControlFile;
use crate::store::{Encoding, Payload, Published, StorePath};
use crate::system::lock::{Lock, Taken};
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineId};

/// What is wanted.
pub struct Request<'a> {
    /// The configuration.
    pub config: &'a Arc<Config>,
    /// The node whose archive gets it.
    pub place: &'a str,
    /// What people write about it.
    pub annotations: BTreeMap<String, String>,
    /// True: expire leaves it alone.
    pub keep: bool,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
}

/// Takes a full backup of this node's server.
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
    let claim = Claim {
        node: config.local.node.clone(),
        system_identifier: control.system_id.to_string(),
        pgdata: pgdata.display().to_string(),
        major: session.major(),
        encoding: config.backup.compress,
        at: Local::now().to_rfc3339(),
    };
    let (label, index) = claim_label(&archive, &claim, &workplace)?;
    let run = Run { request, archive, label, pgdata, control, workplace, claim, timeline: facts.timeline };
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

/// Finds an unfinished backup to go on with, or takes a new label.
fn claim_label(archive: &Archive, claim: &Claim, workplace: &Path) -> Result<(Label, Index), BackupError> {
    for found in catalog::list(archive)?.into_iter().rev() {
        let Found::Unfinished(label) = found else { continue };
        let Some(bytes) = catalog::read(archive, &label, CLAIM, 1 << 16)? else { continue };
        let same = serde_json::from_slice::<Claim>(&bytes)
            .is_ok_and(|theirs| Claim { at: claim.at.clone(), ..theirs } == *claim);
        if same {
            let index = catalog::read(archive, &label, RESUME, u64::MAX)?;
            let index = index.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            log::info!("goes on with the unfinished backup '{label}'");
            return Ok((label, index));
        }
    }
    let payload = encode_bytes(&catalog::to_json(claim), &workplace.join("claim"), Encoding::None)?;
    let mut at = Utc::now();
    loop {
        let label = Label::new(Kind::Full, at);
        let free = archive.store.look(&label.path(DESCRIPTION)?)?.is_none();
        if free && archive.store.publish(&label.path(CLAIM)?, &payload, &[])? == Published::New {
            remove(&payload.file)?;
            return Ok((label, Index::default()));
        }
        // Another node began in the same second.
        at += Duration::from_secs(1);
    }
}

/// One run, once its place is known.
struct Run<'a> {
    request: &'a Request<'a>,
    archive: Archive,
    label: Label,
    pgdata: &'a Path,
    control: ControlFile,
    workplace: PathBuf,
    claim: Claim,
    timeline: TimelineId,
}

/// What was copied.
struct Copied {
    index: Index,
    tree: Tree,
    checksums: bool,
}

impl Run<'_> {
    fn go(&self, mut session: Session, old: Index) -> Result<Description, BackupError> {
        let begun = Instant::now();
        let started = Local::now();
        self.request.watcher.phase("waiting for a checkpoint");
        let fast = self.request.config.backup.checkpoint == Checkpoint::Fast;
        let start = session.start(&format!("pgwarm {}", self.label), fast)?;
        same_server(self.pgdata, session.is_standby(), start)?;
        let copied = self.copy(&mut session, old)?;
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
        wal::await_range(&self.archive, range.timeline, first, last, self.request.config.backup.deadline)?;
        self.request.watcher.phase("writing the description");
        let description = self.finish(copied, &stopped, range, started, role)?;
        log::debug!("the backup took {:.1} s", begun.elapsed().as_secs_f64());
        Ok(description)
    }

    fn segments(&self, range: manifest::WalRange) -> (SegmentNumber, SegmentNumber) {
        let size = self.control.segment_size;
        // The end is one past the last byte that is needed.
        (range.start.segment(size), Lsn(range.end.0.saturating_sub(1)).segment(size))
    }

    /// Copies every file, the control file last.
    fn copy(&self, session: &mut Session, old: Index) -> Result<Copied, BackupError> {
        let config = &self.request.config.backup;
        let version = format!("PG_{}_{}", session.major(), self.control.catalog_version);
        let mut tree = plan::walk(self.pgdata, &version)?;
        tree.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let checksums = self.control.checksums && session.has_usual_layout()?;
        if self.control.checksums && !checksums {
            log::warn!("page checksums are not looked at: the server was built with other sizes of pages or files");
        }
        let Reuse { kept, rest } = reuse::reuse(old, std::mem::take(&mut tree.files));
        let index = Index { objects: self.confirm(kept)?, directories: tree.directories.clone() };
        self.request.watcher.begin(rest.iter().map(|file| file.size).sum());
        self.request.watcher.phase("copying");
        let encoding = config.compress;
        let copier = Copier {
            method: Method { encoding, level: config.level, threads: 1, writer: self.claim.node.clone() },
            wave: jobs(config.jobs).min(2),
            spool: self.workplace.clone(),
            pages: checksums,
            pace: Pace::new(config.rate_max),
            watcher: self.request.watcher,
            next: 0.into(),
        };
        let crew = Crew { archive: &self.archive, label: &self.label, copier: &copier, jobs: jobs(config.jobs) };
        let mut index = crew.work(plan::arrange(rest), index, session)?;
        index.objects.push(self.control_file(encoding)?);
        Ok(Copied { index, tree, checksums })
    }

    /// Keeps only those objects of an earlier run that are there as recorded, and removes all others.
    fn confirm(&self, kept: Vec<Object>) -> Result<Vec<Object>, BackupError> {
        let folder = self.label.folder();
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        for (path, size) in super::expire::stored_files(&self.archive, &folder)? {
            let name = path.as_str().strip_prefix(folder.as_str()).unwrap_or_default().trim_start_matches('/');
            sizes.insert(name.to_owned(), size);
        }
        let kept: Vec<Object> =
            kept.into_iter().filter(|object| sizes.get(&object.stored) == Some(&object.bytes)).collect();
        for name in sizes.keys().filter(|name| !matches!(name.as_str(), CLAIM | RESUME)) {
            if !kept.iter().any(|object| object.stored == *name) {
                self.archive.store.remove(&self.label.path(name)?)?;
            }
        }
        Ok(kept)
    }

    /// Copies the control file, whole: a server may be writing it.
    fn control_file(&self, encoding: Encoding) -> Result<Object, BackupError> {
        let opened = now();
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
        let modified = plan::modified(&fs::metadata(&path).map_err(BackupError::io("look at", &path))?);
        let stored = format!("files/{CONTROL}{}", encoding.extension());
        let bytes_stored = self.store(&stored, &bytes, encoding)?;
        let crc = crc32c::crc32c(&bytes);
        let size = bytes.len() as u64;
        let file = StoredFile { path: CONTROL.to_owned(), size, modified, opened, crc, damaged: Vec::new() };
        Ok(Object { stored, bundle: false, bytes: bytes_stored, files: vec![file] })
    }

    /// Stores a small file of the backup; its size as stored.
    fn store(&self, name: &str, bytes: &[u8], encoding: Encoding) -> Result<u64, BackupError> {
        let payload = encode_bytes(bytes, &self.workplace.join("small"), encoding)?;
        publish(&self.archive, &self.label.path(name)?, &payload)?;
        remove(&payload.file)?;
        Ok(payload.size)
    }

    /// Writes what is PostgreSQL's, the index, and last the description.
    fn finish(
        &self,
        copied: Copied,
        stopped: &Stopped,
        range: manifest::WalRange,
        started: DateTime<Local>,
        role: &str,
    ) -> Result<Description, BackupError> {
        self.store("backup_label", stopped.label.as_bytes(), Encoding::None)?;
        if !stopped.map.is_empty() {
            self.store("tablespace_map", stopped.map.as_bytes(), Encoding::None)?;
        }
        let text = self.manifest(&copied.index, stopped, range);
        self.store(manifest::NAME, text.as_bytes(), Encoding::None)?;
        let index = catalog::to_json(&copied.index);
        self.store(INDEX, &index, Encoding::None)?;
        let (first, last) = self.segments(range);
        let name = |number| SegmentName::new(range.timeline, number, self.control.segment_size);
        let files = || copied.index.objects.iter().flat_map(|object| &object.files);
        let damaged = files().filter(|file| !file.damaged.is_empty());
        let description = Description {
            format: FORMAT,
            label: self.label.clone(),
            kind: Kind::Full,
            parent: None,
            start_lsn: range.start,
            stop_lsn: range.end,
            start_segment: name(first),
            stop_segment: name(last),
            timeline: range.timeline,
            started: started.to_rfc3339(),
            stopped: Local::now().to_rfc3339(),
            system_identifier: self.claim.system_identifier.clone(),
            major: self.claim.major,
            files: files().count() as u64,
            size: files().map(|file| file.size).sum(),
            stored: copied.index.objects.iter().map(|object| object.bytes).sum(),
            encoding: self.claim.encoding,
            tablespaces: copied.tree.tablespaces,
            checksums: copied.checksums,
            damaged_pages: damaged
                .map(|file| DamagedPages { path: file.path.clone(), blocks: file.damaged.clone() })
                .collect(),
            node: self.claim.node.clone(),
            role: role.to_owned(),
            manifest_sha256: catalog::sha256_hex(text.as_bytes()),
            index_sha256: catalog::sha256_hex(&index),
            annotations: self.request.annotations.clone(),
            keep: self.request.keep,
            verified: None,
        };
        let payload = encode_bytes(&catalog::to_json(&description), &self.workplace.join("small"), Encoding::None)?;
        publish(&self.archive, &self.label.path(DESCRIPTION)?, &payload)?;
        remove(&payload.file)?;
        for name in [RESUME, CLAIM] {
            self.archive.store.remove(&self.label.path(name)?)?;
        }
        Ok(description)
    }

    /// The manifest: every file by its path, and backup_label, which the restored directory holds too.
    fn manifest(&self, index: &Index, stopped: &Stopped, range: manifest::WalRange) -> String {
        let seconds = |nanoseconds: i64| u64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0);
        let files = index.objects.iter().flat_map(|object| &object.files);
        let mut entries: Vec<_> =
            files.map(|file| manifest::Entry::new(&file.path, file.size, seconds(file.modified), file.crc)).collect();
        let label = stopped.label.as_bytes();
        entries.push(manifest::Entry::new("backup_label", label.len() as u64, seconds(now()), crc32c::crc32c(label)));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        manifest::render(&entries, range, self.control.system_id, self.claim.major)
    }
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
