//! A data directory straight from a running server into that of another node, without an archive in between.
//!
//! One conversation, two stories: the [`source`] has the server and reads, the [`target`] has the directory and writes.
//! Whichever end a person calls starts the other through ssh ([`push`]: `base-backup receive` there, [`pull`]:
//! `base-backup send`), or as a thread where both are on this machine. Each end takes its own node from its own
//! configuration, so nobody can make it touch another directory.
//!
//! ```text
//! source                                          target
//! Hello (who calls says what is wanted)       ↔   Hello
//! Offer (which system, which history)         →
//!                                             ←   Ready (what stands here) | Failed
//! Tree, Files*, Listed                        →   puts its control file aside
//!                                             ←   Lacks, Keeps, hashes of the blocks that are there
//! data that differ, Ended for each file       →
//! Files, Listed: WAL, where no archive has it →
//! Close (label, control file)                 →   removes what is old; durable; control file
//!                                             ←   Done
//! ```
//!
//! Only blocks that differ travel, so a copy on top of an old one is cheap, and a run that was interrupted goes on.
//! [`replication`] is the way for hosts without pgwarm: all of it, by PostgreSQL's own `pg_basebackup`.

pub mod blocks;
pub mod line;
pub mod message;
pub mod replication;
mod source;
mod target;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;

pub use self::message::{Map, SourceCount, TargetCount, Wish};

use self::line::{Incoming, Line, LineError};
use self::message::{FORMAT, Hello, Message};
use self::source::{Given, Source};
use self::target::{Taken, Target};
use super::manifest::WalRange;
use super::restore::Way;
use super::{BackupError, Unwatched, Watcher};
use crate::archive::places::ssh_settings;
use crate::config::{Checkpoint, Config, Node, Transport};
use crate::error::Failure;
use crate::store::Encoding;
use crate::store::ssh::{FarCommand, FarProgram, FarStreams};
use crate::store::wire::PROGRAM;

/// What a person wants done.
pub struct Job<'a> {
    /// The configuration of this machine.
    pub config: &'a Arc<Config>,
    /// The shared file, which is at the same place on every node.
    pub shared_file: &'a Path,
    /// How.
    pub wish: &'a Wish,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this report: 1.
    pub format: u32,
    /// True: nothing was changed.
    pub dry_run: bool,
    /// The node whose server was copied.
    pub from: String,
    /// The node that has the copy.
    pub to: String,
    /// What stood there before.
    pub base: Way,
    /// The WAL that the copy needs before its data are consistent; none in a dry run.
    pub range: Option<WalRange>,
    /// What the source counted.
    pub source: SourceCount,
    /// What the target counted.
    pub target: TargetCount,
}

impl Wish {
    /// What the configuration says, and nothing else.
    pub fn new(config: &Config) -> Wish {
        let backup = &config.backup;
        Wish {
            dry_run: false,
            jobs: backup.jobs,
            rate_max: backup.rate_max,
            fast_checkpoint: backup.checkpoint == Checkpoint::Fast,
            encoding: backup.compress,
            level: backup.level,
            place: None,
            copy_wal: false,
            maps: Vec::new(),
            wal_dir: None,
            keep_config: false,
            drop_wal: false,
        }
    }
}

/// Copies this node's server into the data directory of another node.
pub fn push(job: &Job<'_>, to: &Node) -> Result<Report, BackupError> {
    let from = job.config.own();
    if is_here(job.config, to) {
        let pgdata = directory(to)?;
        let (given, _) = both(job, from, to, pgdata, (job.watcher, &Unwatched))?;
        return Ok(report(job, from, to, given));
    }
    let given = far(job, to, "receive", |wish, line, incoming| {
        let (config, watcher) = (job.config, job.watcher);
        Source { config, node: from, target: &to.name, wish, watcher, line, incoming }.run()
    })?;
    Ok(report(job, from, to, given))
}

/// Copies the server of another node into a data directory of this node.
pub fn pull(job: &Job<'_>, from: &Node, pgdata: &Path) -> Result<Report, BackupError> {
    let to = job.config.own();
    if is_here(job.config, from) {
        let (given, _) = both(job, from, to, pgdata, (&Unwatched, job.watcher))?;
        return Ok(report(job, from, to, given));
    }
    let taken = far(job, from, "send", |wish, line, incoming| {
        Target { pgdata, from: &from.name, wish, watcher: job.watcher, line, incoming }.run()
    })?;
    let Taken { base, range, source, counted } = taken;
    Ok(report(job, from, to, Given { base, range, counted: source, target: counted }))
}

/// The far end of [`push`]: receives into the data directory of this node.
pub fn receive(config: &Arc<Config>, streams: (OwnedFd, OwnedFd)) -> Result<(), BackupError> {
    serve(config, streams, |wish, from, line, incoming| {
        let pgdata = directory(config.own())?;
        Target { pgdata, from, wish, watcher: &Unwatched, line, incoming }.run().map(drop)
    })
}

/// The far end of [`pull`]: sends the server of this node.
pub fn send(config: &Arc<Config>, streams: (OwnedFd, OwnedFd)) -> Result<(), BackupError> {
    serve(config, streams, |wish, target, line, incoming| {
        Source { config, node: config.own(), target, wish, watcher: &Unwatched, line, incoming }.run().map(drop)
    })
}

fn report(job: &Job<'_>, from: &Node, to: &Node, given: Given) -> Report {
    Report {
        format: 1,
        dry_run: job.wish.dry_run,
        from: from.name.clone(),
        to: to.name.clone(),
        base: given.base,
        range: given.range,
        source: given.counted,
        target: given.target,
    }
}

/// True for a node on this machine: this one, and any without a host.
fn is_here(config: &Config, node: &Node) -> bool {
    node.name == config.local.node || node.host.is_none()
}

/// The data directory of a node.
pub fn directory(node: &Node) -> Result<&Path, BackupError> {
    node.pgdata.as_deref().ok_or_else(|| {
        BackupError::refused(
            format!("the configuration does not say where the data directory of '{}' is", node.name),
            format!("Set node.{}.pgdata.", node.name),
        )
    })
}

/// Both stories on this machine; `watchers` are that of the source and that of the target.
fn both(
    job: &Job<'_>,
    from: &Node,
    to: &Node,
    pgdata: &Path,
    (of_source, of_target): (&dyn Watcher, &dyn Watcher),
) -> Result<(Given, Taken), BackupError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| BackupError::io("make", "a pipe")(error.into()));
    let ((from_source, to_target), (from_target, to_source)) = (pipe()?, pipe()?);
    // Nothing is gained by compressing what stays on this machine.
    let wish = &Wish { encoding: Encoding::None, ..job.wish.clone() };
    let (given, taken) = std::thread::scope(|scope| {
        let taken = scope.spawn(|| {
            talk((from_source, to_source), |line, incoming| {
                Target { pgdata, from: &from.name, wish, watcher: of_target, line, incoming }.run()
            })
        });
        let given = talk((from_target, to_target), |line, incoming| {
            let (config, target) = (job.config, to.name.as_str());
            Source { config, node: from, target, wish, watcher: of_source, line, incoming }.run()
        });
        (given, taken.join().expect("because a panic there is a panic here"))
    });
    match (given, taken) {
        (Ok(given), Ok(taken)) => Ok((given, taken)),
        // The one that says only that the line broke knows less.
        (Err(BackupError::Line(_)), Err(error)) | (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Talks; an end of the line becomes what the other end said last, if it said anything.
fn talk<T>(
    streams: (OwnedFd, OwnedFd),
    story: impl FnOnce(&Line, &Incoming) -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    let story = |line: &Line, incoming: &Incoming| {
        story(line, incoming).map_err(|error| match error {
            BackupError::Line(error @ (LineError::Ended | LineError::Stopped)) => {
                line.hurry();
                BackupError::Line(incoming.last_words().map_or(error, LineError::Failed))
            }
            other => other,
        })
    };
    Line::converse(streams, story, |line, error| {
        if !matches!(error, BackupError::Line(_)) {
            // Who is gone already needs no reason.
            let _ = line.say(&Message::Failed(Failure::of(error)));
        }
    })
}

/// Starts the other end on another node and talks to it.
fn far<T>(
    job: &Job<'_>,
    node: &Node,
    word: &str,
    story: impl FnOnce(&Wish, &Line, &Incoming) -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    if node.transport == Transport::Sftp {
        return Err(BackupError::refused(
            format!("node '{}' offers sftp only and runs no pgwarm", node.name),
            "Install pgwarm there, or make the copy there with PostgreSQL's own pg_basebackup.",
        ));
    }
    let config = job.config;
    let settings = ssh_settings(config, node)?;
    let shared = job.shared_file.display().to_string();
    let words = vec![word.to_owned(), "--config".to_owned(), shared];
    let lost = |reason, hint| BackupError::Lost { node: node.name.clone(), reason, hint };
    let started = FarProgram::start(&settings, &FarCommand { program: "base-backup", words });
    let (program, FarStreams { input, output }) = started.map_err(|it| lost(it.reason, it.hint))?;
    let outcome = talk((output, input), |line, incoming| {
        line.say(&Message::Hello(hello(config, Some(&node.name), Some(job.wish))))?;
        match incoming.message()? {
            Message::Hello(theirs) => agree(&theirs, config)?,
            other => return Err(LineError::out_of_place(&other).into()),
        }
        story(job.wish, line, incoming)
    });
    outcome.map_err(|error| match error {
        BackupError::Line(LineError::Failed(failure)) => BackupError::Far { node: node.name.clone(), failure },
        BackupError::Line(LineError::Ended) => {
            let why = program.why_it_ended();
            lost(why.reason, why.hint)
        }
        BackupError::Line(error @ LineError::Silent { .. }) => lost(error.to_string(), None),
        other => other,
    })
}

/// Answers the end that a person called, and does as it wishes.
fn serve(
    config: &Arc<Config>,
    streams: (OwnedFd, OwnedFd),
    story: impl FnOnce(&Wish, &str, &Line, &Incoming) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    talk(streams, |line, incoming| {
        let theirs = match incoming.message()? {
            Message::Hello(theirs) => theirs,
            other => return Err(LineError::out_of_place(&other).into()),
        };
        agree(&theirs, config)?;
        let Some(wish) = &theirs.wish else { return Err(LineError::out_of_place(&Message::Hello(theirs)).into()) };
        line.say(&Message::Hello(hello(config, Some(&theirs.node), None)))?;
        story(wish, &theirs.node, line, incoming)
    })
}

fn hello(config: &Config, to: Option<&str>, wish: Option<&Wish>) -> Hello {
    Hello {
        format: FORMAT,
        program: PROGRAM.to_owned(),
        cluster: config.cluster.name.clone(),
        node: config.local.node.clone(),
        to: to.map(str::to_owned),
        wish: wish.cloned(),
    }
}

/// Makes sure that the two ends mean each other.
fn agree(theirs: &Hello, config: &Config) -> Result<(), BackupError> {
    if theirs.format != FORMAT {
        return Err(BackupError::refused(
            format!(
                "node '{}' runs {}, this node {PROGRAM}: they do not understand each other",
                theirs.node, theirs.program
            ),
            "Install the same version on both; 'distribute --programs' does it.",
        ));
    }
    if theirs.cluster != config.cluster.name {
        return Err(BackupError::refused(
            format!("node '{}' is of cluster '{}', not of '{}'", theirs.node, theirs.cluster, config.cluster.name),
            "Compare the configurations with 'distribute --dry-run'.",
        ));
    }
    match &theirs.to {
        Some(to) if *to != config.local.node => Err(BackupError::refused(
            format!("this is node '{}', not '{to}'", config.local.node),
            "Correct host of that node in the shared configuration, or local.node on that machine.",
        )),
        _ => Ok(()),
    }
}
