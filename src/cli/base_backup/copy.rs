//! `base-backup take --to` and `--from`: straight from a server into the data directory of another node; and the far
//! ends of that.
//!
//! `--json` prints `{"format":1,"dry_run","from","to","base","range","source":{…},"target":{…}}`: `base` says what
//! stood there before (`fresh`, `delta`: an old copy, `resume`: half a one), `range` is the WAL that the copy needs,
//! `source` and `target` what each end counted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;

use super::super::output;
use super::super::run::Context;
use super::{Progress, Scene, numbers, usage};
use crate::backup::restore::Way;
use crate::backup::transfer::{self, Job, Map, Report, Wish, replication};
use crate::cluster::contact;
use crate::config::{Config, Node, Transport};
use crate::error::{Class, Failure};

/// How long a copy by the replication protocol may take: as long as a large server over a slow line.
const CLONE_PATIENCE: Duration = Duration::from_secs(7 * 86_400);

/// The words by which one end starts the other.
pub const RECEIVE: &str = "receive";
pub const SEND: &str = "send";

/// Which way a copy goes.
#[derive(Debug, Clone, Copy)]
pub enum Direction<'a> {
    /// From this node to that one.
    To(&'a str),
    /// From that node to this one.
    From(&'a str),
}

impl Scene<'_> {
    /// Copies this node's server to another node, or that of another node to this one.
    pub(super) fn copy(&self, direction: Direction<'_>) -> Result<u8, Failure> {
        let (Direction::To(name) | Direction::From(name)) = direction;
        let node = self.node(name)?;
        let wish = wish(self.config, self.context, self.arguments)?;
        if matches!(direction, Direction::From(_)) && node.transport == Transport::Sftp {
            return self.clone_from(node, &wish);
        }
        let (_, origins) = Config::load_with_origins(&self.context.source)?;
        let shared_file = std::path::absolute(&origins.shared.path).unwrap_or(origins.shared.path);
        let progress = Progress::new(self.context);
        let begun = Instant::now();
        let job = Job { config: self.config, shared_file: &shared_file, wish: &wish, watcher: &progress };
        let copied = match direction {
            Direction::To(_) => transfer::push(&job, node),
            Direction::From(_) => {
                transfer::directory(self.config.own()).and_then(|pgdata| transfer::pull(&job, node, pgdata))
            }
        };
        progress.end();
        let report = copied?;
        match (self.context.json, self.context.quiet) {
            (true, _) => self.print_json(&report)?,
            (false, false) => output::print(&words(&report, begun.elapsed()))?,
            (false, true) => {}
        }
        complain(&report)
    }
}

impl Scene<'_> {
    /// Copies the server of a node without pgwarm, as its own tool does.
    fn clone_from(&self, node: &Node, wish: &Wish) -> Result<u8, Failure> {
        let progress = Progress::new(self.context);
        let pgdata = transfer::directory(self.config.own())?;
        let conninfo = contact::primary_conninfo(self.config, node, self.config.standby.user.as_deref())?.to_string();
        let cloned = replication::clone(self.config, node, &conninfo, pgdata, wish, &progress, CLONE_PATIENCE);
        progress.end();
        cloned?;
        if self.context.json {
            self.print_json(
                &serde_json::json!({"format": 1, "dry_run": wish.dry_run, "from": node.name, "by": "replication"}),
            )?;
        } else if !self.context.quiet {
            let word = if wish.dry_run { "would copy" } else { "copied" };
            output::print(&format!(
                "{word} {} by the replication protocol; started now, it is a standby\n",
                node.name
            ))?;
        }
        Ok(0)
    }
}

/// The far end that another node started.
pub fn serve(config: &Arc<Config>, word: &str) -> Result<u8, Failure> {
    let streams = || -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?))
    };
    let streams =
        streams().map_err(|error| Failure::new(Class::Storage, format!("cannot use the streams: {error}")))?;
    if word == RECEIVE {
        transfer::receive(config, streams)?
    } else {
        transfer::send(config, streams)?
    }
    Ok(0)
}

fn wish(config: &Config, context: &Context, arguments: &ArgMatches) -> Result<Wish, Failure> {
    let maps = arguments.get_many::<String>("map").into_iter().flatten().map(|text| {
        let hint = "Write --map 16400=/new, or --map /old=/new, with absolute paths.";
        Map::parse(text).ok_or_else(|| usage(&format!("'{text}' is no OID=DIR and no OLD=NEW"), hint))
    });
    Ok(Wish {
        dry_run: context.dry_run,
        place: arguments.get_one::<String>("place").cloned(),
        copy_wal: arguments.get_flag("copy-wal"),
        maps: maps.collect::<Result<_, _>>()?,
        wal_dir: arguments.get_one::<PathBuf>("wal-dir").cloned(),
        keep_config: arguments.get_flag("keep-config"),
        drop_wal: arguments.get_flag("drop-wal"),
        ..Wish::new(config)
    })
}

fn words(report: &Report, took: Duration) -> String {
    let (source, target) = (&report.source, &report.target);
    let on_top = match report.base {
        Way::Fresh => "",
        Way::Delta => " on top of the old copy",
        Way::Resume => " on top of what an interrupted run left",
    };
    let sent = format!(
        "{} of {} in {} of {} files{on_top}",
        output::size(source.changed),
        output::size(source.size),
        source.files_changed,
        source.files,
    );
    let travelled = output::size(source.travelled);
    let Some(range) = &report.range else {
        return format!(
            "would send {sent}, as {travelled}, to {}, and remove {} files and directories there\n",
            report.to, target.removed
        );
    };
    let mut text = format!(
        "copied {} to {}: {sent}, sent as {travelled}, {} removed, in {}\n",
        report.from,
        report.to,
        target.removed,
        output::duration(took)
    );
    text.push_str(&format!(
        "its WAL, {} to {} on timeline {}, is {}\n",
        range.start, range.end, range.timeline.0, source.wal
    ));
    if !target.kept.is_empty() {
        text.push_str(&format!("{} kept its own {}\n", report.to, target.kept.join(", ")));
    }
    text.push_str("started now, it is a standby; set primary_conninfo or restore_command there first\n");
    text
}

/// A copy with damaged pages is whole, and yet no good news.
fn complain(report: &Report) -> Result<u8, Failure> {
    let damaged = &report.source.damaged_pages;
    if damaged.is_empty() {
        return Ok(0);
    }
    let pages: Vec<String> =
        damaged.iter().map(|file| format!("'{}' blocks {}", file.path, numbers(&file.blocks))).collect();
    let message =
        format!("the server of '{}' has damaged pages, and so has the copy: {}", report.from, pages.join("; "));
    Err(Failure::new(Class::Corrupt, message)
        .hinted("Look at the disk of that server, and restore the relation from an older backup."))
}
