//! A backup of a server whose machine runs no pgwarm: PostgreSQL's own `pg_basebackup` copies it into the spool, and
//! the copy is stored as the files of a server here would be.
//!
//! The result is a backup like any other, and may be the parent of one or have one. It is dearer: the spool needs room
//! for the whole server, all of it travels, by one connection, and a run that was interrupted begins anew. The server
//! checks its pages itself, and sends nothing where one is damaged. How it began and ended stands in what it sends:
//! `backup_label` and the manifest.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Local};

use super::super::catalog::{Claim, Description};
use super::super::plan::Tablespace;
use super::super::session::{LabelFile, Session, Stopped};
use super::super::transfer::replication;
use super::super::{BackupError, manifest, wal};
use super::{Request, Run, choose_parent, claim, lock, open, prepare_workplace};
use crate::archive::places::Sites;
use crate::archive::spool::Spool;
use crate::backup::parent::Parent;
use crate::config::{Checkpoint, Node};
use crate::postgres::base_copy::{self, BaseCopy, Wal};
use crate::postgres::control::ControlFile;
use crate::system::durable;

/// Takes a backup of the server that `conninfo` leads to; the copying takes no longer than `patience`.
pub fn take_of(
    request: &Request<'_>,
    from: &Node,
    conninfo: &str,
    patience: Duration,
) -> Result<Description, BackupError> {
    let config = request.config;
    let spool = Spool::new(&config.local.spool);
    spool.prepare()?;
    let _one_run = lock(&spool)?;
    let workplace = prepare_workplace(&spool)?;
    let sites = Sites::new(config);
    let archive = open(&sites, request.place)?;
    request.watcher.phase("connecting");
    let mut session = Session::open(conninfo)?;
    let facts = session.facts()?;
    archive.identity.admit(archive.store.place(), facts.system_id, facts.segment_size)?;
    request.watcher.phase("proving that WAL is shipped");
    wal::prove_shipping(config, &mut session, &archive, config.backup.deadline)?;
    let parent = choose_parent(&archive, &request.wanted, session.major())?;
    let started = Local::now();
    let staging = Staging::new(&spool)?;
    let spaces = staging.copy(request, from, conninfo, &mut session, patience)?;
    let control = ControlFile::read(&staging.data())?;
    archive.identity.admit(archive.store.place(), control.system_id, control.segment_size)?;
    let claim = Claim {
        node: from.name.clone(),
        system_identifier: control.system_id.to_string(),
        pgdata: staging.data().display().to_string(),
        major: session.major(),
        encoding: config.backup.compress,
        parent,
        at: started.to_rfc3339(),
    };
    let (label, index) = claim::take(&archive, &claim)?;
    let parent = claim.parent.as_ref().map(|label| Parent::open(&archive, label)).transpose()?;
    let (parent, pgdata) = (parent.as_ref(), &staging.data());
    let timeline = facts.timeline;
    let run =
        Run { request, archive: &archive, label, pgdata, control, workplace, claim, parent, timeline, sent: true };
    let copied = run.copy(&mut session, index, NEVER_SETTLED, None)?;
    run.end(&staging, copied, session, spaces, started)
}

/// Copies have times of their own: no file of the next copy is taken for one of this because of them.
const NEVER_SETTLED: i64 = i64::MIN;

impl Run<'_> {
    /// The end: what the server sent about the backup takes the place of what a session is told.
    fn end(
        &self,
        staging: &Staging,
        mut copied: super::Copied,
        mut session: Session,
        spaces: Vec<(u32, PathBuf)>,
        started: DateTime<Local>,
    ) -> Result<Description, BackupError> {
        let location = |(oid, path): (u32, PathBuf)| Tablespace { oid, location: path.display().to_string() };
        copied.tree.tablespaces = spaces.into_iter().map(location).collect();
        let label = staging.read("backup_label")?;
        let LabelFile { start, timeline } = LabelFile::parse(&label)?;
        let range = manifest::range(&staging.read(manifest::NAME)?)
            .map_err(|detail| BackupError::refused(format!("the copy cannot be used: {detail}"), "Take it again."))?;
        let now = session.facts()?.timeline;
        if (range.start, range.timeline) != (start, timeline) || timeline != now || timeline != self.timeline {
            return Err(BackupError::refused(
                format!("the server was on timeline {} and is on {now} now", self.timeline),
                "Take the backup again once the server has made a checkpoint on its new timeline.",
            ));
        }
        let role = if session.is_standby() { "standby" } else { "primary" };
        if session.is_standby() {
            wal::switch_on_primary(self.request.config);
        }
        drop(session);
        let map = copied.tree.tablespaces.iter().map(|it| format!("{} {}\n", it.oid, escaped(&it.location))).collect();
        let stopped = Stopped { lsn: range.end, label, map };
        let (first, last) = self.segments(range);
        self.request.watcher.phase("waiting for its WAL");
        wal::await_range(self.archive, range.timeline, first, last, self.request.config.backup.deadline)?;
        self.request.watcher.phase("writing the description");
        self.finish(copied, &stopped, range, started, role)
    }
}

/// As PostgreSQL writes a path into `tablespace_map`.
fn escaped(path: &str) -> String {
    path.chars().flat_map(|it| matches!(it, '\n' | '\r' | '\\').then_some('\\').into_iter().chain([it])).collect()
}

/// Where the copy lies until it is stored; it goes whatever happens, and what a killed run left goes before the next.
struct Staging {
    folder: PathBuf,
}

impl Staging {
    fn new(spool: &Spool) -> Result<Staging, BackupError> {
        let staging = Staging { folder: spool.root().join("base-copy") };
        staging.clear()?;
        durable::create_directory_durable(&staging.folder).map_err(BackupError::io("create", &staging.folder))?;
        Ok(staging)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn read(&self, name: &str) -> Result<String, BackupError> {
        let path = self.data().join(name);
        fs::read_to_string(&path).map_err(BackupError::io("read", path))
    }

    /// Copies the server; gives back where its tablespaces are there.
    fn copy(
        &self,
        request: &Request<'_>,
        from: &Node,
        conninfo: &str,
        session: &mut Session,
        patience: Duration,
    ) -> Result<Vec<(u32, PathBuf)>, BackupError> {
        let config = request.config;
        let spaces = base_copy::tablespaces(session.connection())?;
        let maps: Vec<_> =
            spaces.iter().map(|(oid, path)| (path.clone(), self.folder.join(format!("space-{oid}")))).collect();
        let data = self.data();
        let copy = BaseCopy {
            major: session.major(),
            conninfo,
            pgdata: &data,
            label: &format!("pgwarm backup of {}", from.name),
            fast: config.backup.checkpoint == Checkpoint::Fast,
            rate: config.backup.rate_max,
            wal: Wal::Archived,
            wal_dir: None,
            spaces: &maps,
        };
        let call = copy.call(config.local.pg_bin.as_deref())?;
        request.watcher.phase("pg_basebackup copies");
        replication::run(call, from, patience)?;
        Ok(spaces)
    }

    fn clear(&self) -> Result<(), BackupError> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BackupError::io("remove", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            log::warn!("the copy cannot be removed: {error}");
        }
    }
}
