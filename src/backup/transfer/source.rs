//! The story of the source: it has the server, tells it of the backup, and sends its files.
//!
//! The order is that of `pg_basebackup`: the backup begins, the files are read, the control file last, the backup ends,
//! and the WAL up to there is proven to be in the archive, or sent. The session with the server ends with this story,
//! however it ends, and with it the backup.

mod crew;
mod wal;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use self::crew::Crew;
use self::wal::WalPlan;
use super::super::copy::Pace;
use super::super::manifest::WalRange;
use super::super::plan::{self, SourceFile, Tree};
use super::super::restore::Way;
use super::super::session::{Session, same_server};
use super::super::take::server_of;
use super::super::{BackupError, Watcher};
use super::line::{Incoming, Line, LineError};
use super::message::{
    Announced, Close, FILES_IN_ONE, Identity, Message, Offer, Settled, Shape, SourceCount, Space, TargetCount, Wish,
};
use crate::archive::encode::Method;
use crate::config::{Config, Node};
use crate::postgres::control::ControlFile;
use crate::postgres::facts::NodeFacts;

/// The source, and whom it sends to.
pub struct Source<'a> {
    /// The configuration of this machine.
    pub config: &'a Arc<Config>,
    /// The node whose server it is.
    pub node: &'a Node,
    /// The node that gets the copy.
    pub target: &'a str,
    /// What is wanted.
    pub wish: &'a Wish,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
    /// The target.
    pub line: &'a Line,
    /// What it says.
    pub incoming: &'a Incoming,
}

/// What became of it.
pub struct Given {
    /// What stood at the target.
    pub base: Way,
    /// The WAL that the copy needs; none in a dry run.
    pub range: Option<WalRange>,
    /// What was counted here.
    pub counted: SourceCount,
    /// What was counted there.
    pub target: TargetCount,
}

impl Source<'_> {
    /// Does all of it.
    pub fn run(&self) -> Result<Given, BackupError> {
        let (pgdata, conninfo) = server_of(self.node)?;
        let control = ControlFile::read(pgdata)?;
        self.watcher.phase("connecting");
        let mut session = Session::open(conninfo)?;
        let facts = session.facts()?;
        let server = Server { pgdata, version: format!("PG_{}_{}", session.major(), control.catalog_version), control };
        server.is_the_one(&facts)?;
        self.line.say(&Message::Offer(server.offer(&facts, session.major())))?;
        let base = match self.incoming.message()? {
            Message::Ready(base) => base,
            other => return Err(LineError::out_of_place(&other).into()),
        };
        let wal = WalPlan::choose(self.config, self.wish, self.target, server.control.system_id)?;
        let role = if session.is_standby() { "standby" } else { "primary" };
        let mut counted = SourceCount { role: role.to_owned(), wal: wal.words(), ..SourceCount::default() };
        let settled = if self.wish.dry_run {
            self.data(&server, &mut session, &mut counted)?;
            None
        } else {
            Some(self.backup(&server, &mut session, &facts, &wal, &mut counted)?)
        };
        drop(session);
        let range = settled.as_ref().map(|settled| settled.range);
        self.line.say(&Message::Close(Close { settled, counted: counted.clone() }))?;
        self.watcher.phase("waiting until all is durable there");
        match self.incoming.message()? {
            Message::Done(target) => Ok(Given { base, range, counted, target }),
            other => Err(LineError::out_of_place(&other).into()),
        }
    }

    /// The backup from its beginning to its end.
    fn backup(
        &self,
        server: &Server<'_>,
        session: &mut Session,
        facts: &NodeFacts,
        wal: &WalPlan,
        counted: &mut SourceCount,
    ) -> Result<Settled, BackupError> {
        self.watcher.phase("making sure of its WAL");
        wal.prepare(self.config, session)?;
        self.watcher.phase("waiting for a checkpoint");
        let label = format!("pgwarm copy from {} to {}", self.node.name, self.target);
        let start = session.start(&label, self.wish.fast_checkpoint)?;
        same_server(server.pgdata, session.is_standby(), start)?;
        let announced = self.data(server, session, counted)?;
        let (_, control) = ControlFile::read_whole(server.pgdata)?;
        self.watcher.phase("ending the backup");
        let (stopped, label) = session.finish(facts.timeline)?;
        let range = WalRange { timeline: label.timeline, start: label.start, end: stopped.lsn };
        self.watcher.phase("waiting for its WAL");
        let size = server.control.segment_size;
        let files = wal.settle(self.config, server.pgdata, range, size, session.is_standby())?;
        self.announce(&files)?;
        self.crew(false).work(&files, announced, session, counted)?;
        Ok(Settled { label: stopped.label, control, range })
    }

    /// Sends the files of the data directory; how many were announced.
    fn data(&self, server: &Server<'_>, session: &mut Session, counted: &mut SourceCount) -> Result<u32, BackupError> {
        let mut tree = plan::walk(server.pgdata, &server.version)?;
        for warning in &tree.warnings {
            log::warn!("{warning}");
            self.line.say(&Message::Note(warning.clone()))?;
        }
        let pages = server.control.checksums && session.has_usual_layout()?;
        // The largest first, so that no thread is left with a large one at the end.
        tree.files.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        self.line.say(&Message::Tree(shape(&tree)))?;
        self.announce(&tree.files)?;
        self.watcher.begin(tree.files.iter().map(|file| file.size).sum());
        self.watcher.phase(if self.wish.dry_run { "comparing" } else { "copying" });
        self.crew(pages).work(&tree.files, 0, session, counted)?;
        Ok(u32::try_from(tree.files.len()).unwrap_or(u32::MAX))
    }

    fn announce(&self, files: &[SourceFile]) -> Result<(), BackupError> {
        for some in files.chunks(FILES_IN_ONE) {
            let announced = some.iter().map(|file| Announced { path: file.path.clone(), size: file.size }).collect();
            self.line.say(&Message::Files(announced))?;
        }
        Ok(self.line.say(&Message::Listed)?)
    }

    fn crew(&self, pages: bool) -> Crew<'_> {
        let (encoding, level) = (self.wish.encoding, self.wish.level);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Crew {
            line: self.line,
            incoming: self.incoming,
            method: Method { encoding, level, threads: 1, writer: String::new() },
            pages,
            pace: Pace::new(self.wish.rate_max),
            dry_run: self.wish.dry_run,
            jobs: if self.wish.jobs == 0 { cores() } else { self.wish.jobs as usize },
            watcher: self.watcher,
            changed: 0.into(),
            travelled: 0.into(),
        }
    }
}

fn shape(tree: &Tree) -> Shape {
    let space = |it: &plan::Tablespace| Space {
        oid: it.oid,
        location: it.location.clone(),
        directory: Identity::of(Path::new(&it.location)),
    };
    Shape { directories: tree.directories.clone(), spaces: tree.tablespaces.iter().map(space).collect() }
}

/// The server that is copied.
struct Server<'a> {
    pgdata: &'a Path,
    version: String,
    control: ControlFile,
}

impl Server<'_> {
    /// Makes sure that the server that answers is that of the data directory; `same_server` looks again, closer, once
    /// the backup has begun.
    fn is_the_one(&self, facts: &NodeFacts) -> Result<(), BackupError> {
        if facts.system_id == self.control.system_id {
            return Ok(());
        }
        Err(BackupError::refused(
            format!("'{}' is not the data directory of the server that answers", self.pgdata.display()),
            "Make pgdata and conninfo of that node name the same server.",
        ))
    }

    fn offer(&self, facts: &NodeFacts, major: u32) -> Offer {
        let history = self.pgdata.join("pg_wal").join(format!("{:08X}.history", facts.timeline.0));
        Offer {
            system: self.control.system_id,
            major,
            version_directory: self.version.clone(),
            segment_size: self.control.segment_size,
            timeline: facts.timeline,
            history: fs::read_to_string(history).ok(),
            position: facts.current.or(facts.replayed).unwrap_or(self.control.checkpoint),
            directory: Identity::of(self.pgdata),
            wal_directory: Identity::of(&self.pgdata.join("pg_wal")),
        }
    }
}
