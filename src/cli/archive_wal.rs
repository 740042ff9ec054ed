//! `archive-wal`: one file to its places, and the few things an operator does about shipping.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::json;

use super::output;
use super::run::Context;
use crate::archive::ArchiveError;
use crate::archive::encode::Way;
use crate::archive::flush;
use crate::archive::init;
use crate::archive::places::Sites;
use crate::archive::push::{Pushed, Pusher};
use crate::archive::queue::{self, Queue};
use crate::archive::shipping;
use crate::archive::spool::Spool;
use crate::archive::worker::{self, Reply, Request, What};
use crate::config::{Config, Shipping};
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::system::notify::{Level, Notifier};
use crate::system::process;
use crate::wal::WalName;

/// A call without a worker sends queued files for so long at most, after its own file.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// A worker's log beyond this size, in bytes, is put aside when the next worker starts.
const WORKER_LOG_MAX: u64 = 1 << 20;

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    if arguments.get_flag("worker") {
        return worker::run(context.config.clone()).map(|()| 0).map_err(Failure::from);
    }
    match arguments.get_one::<String>("arm").map(String::as_str) {
        Some("") => return switch(Shipping::Armed, context),
        Some(node) => return switch_node(node, true, context),
        None => {}
    }
    if let Some(node) = arguments.get_one::<String>("disarm") {
        return switch_node(node, false, context);
    }
    for (flag, mode) in [("refuse", Shipping::Refuse), ("discard", Shipping::Discard)] {
        if arguments.get_flag(flag) {
            return switch(mode, context);
        }
    }
    if arguments.get_one::<String>("init").is_some() {
        return init_places(arguments, context);
    }
    if arguments.get_flag("status") {
        return status(context);
    }
    if arguments.get_flag("flush") {
        return drain_stopped_server(context);
    }
    let Some(path) = arguments.get_one::<PathBuf>("path") else {
        let failure = Failure::new(Class::Usage, "no file to archive was given");
        return Err(failure.hinted("archive_command = 'archive-wal %p'; see --help for the other uses."));
    };
    archive(path, arguments.get_one::<String>("name").map(String::as_str), arguments, context)
}

/// One file, as PostgreSQL calls it.
fn archive(path: &Path, name: Option<&str>, arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let last = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: WalName = name.unwrap_or(&last).parse().map_err(|error| Failure::from(ArchiveError::Name(error)))?;
    let path = std::path::absolute(path).map_err(|error| Failure::from(ArchiveError::io("find", path)(error)))?;
    if context.dry_run {
        let failure = Failure::new(Class::Usage, format!("--dry-run does not archive '{name}'"));
        return Err(failure.hinted("PostgreSQL would take exit code 0 for 'archived'; leave --dry-run out."));
    }
    let outcome = push(&path, name, arguments, context);
    report(&outcome, name, context);
    let pushed = outcome?;
    if context.json {
        output::line(format_args!("{}", serde_json::to_string(&pushed).unwrap_or_default()));
    }
    log::debug!("{}", describe(&pushed));
    Ok(0)
}

/// Asks the worker, or does the work where there is none.
fn push(path: &Path, name: WalName, arguments: &ArgMatches, context: &Context) -> Result<Pushed, Failure> {
    let config = &context.config;
    let deadline = Deadline::after(config.archive.deadline);
    let spool = Spool::new(&config.local.spool);
    if config.archive.worker && !arguments.get_flag("no-worker") {
        let what = What::Push { path: path.to_owned(), name };
        match ask_worker(&spool, what, config, deadline) {
            Some(Reply::Pushed(pushed)) => return Ok(pushed),
            Some(Reply::Failed(failure)) => return Err(failure),
            _ => start_worker(context, &spool),
        }
    }
    push_here(path.to_owned(), name, config, deadline)
}

/// Asks the worker of this node; `None` where the caller has to do the work itself.
pub fn ask_worker(spool: &Spool, what: What, config: &Config, deadline: Deadline) -> Option<Reply> {
    worker::ask(spool, &Request::new(config.fingerprint, deadline, what), deadline)
}

/// Starts a worker for the calls to come. This call does not wait for it, and does not mind if it does not start.
pub fn start_worker(context: &Context, spool: &Spool) {
    let program = std::env::current_exe().ok().and_then(|own| own.parent().map(|bin| bin.join("archive-wal")));
    let Some(program) = program.filter(|program| program.is_file() && spool.prepare().is_ok()) else { return };
    let mut words: Vec<OsString> = vec!["--worker".into()];
    words.extend(context.source_arguments());
    let log = spool.root().join("worker.log");
    if std::fs::metadata(&log).is_ok_and(|data| data.len() > WORKER_LOG_MAX) {
        // One that cannot be renamed goes on growing, which is no reason not to archive.
        let _ = std::fs::rename(&log, log.with_extension("log.old"));
    }
    if let Err(error) = process::spawn_detached(program, &words, Some(&log)) {
        log::debug!("no worker was started: {error}");
    }
}

/// Does the work in this process. A disk that hangs must not hang PostgreSQL's archiver, so a thread waits for it.
fn push_here(path: PathBuf, name: WalName, config: &Config, deadline: Deadline) -> Result<Pushed, Failure> {
    let after = deadline.remaining();
    let config = Arc::new(config.clone());
    let (done, wait) = mpsc::channel();
    let (drained, wait_for_drain) = mpsc::channel();
    std::thread::spawn(move || {
        let sites = Arc::new(Sites::new(&config));
        let pusher = Pusher::new(&config, &sites, Way::Read);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let pushed = pusher.push(&path, name, cores, deadline).map_err(Failure::from);
        let goes_on = pushed.is_ok();
        // Nobody listens any more once the deadline has passed.
        let _ = done.send(pushed);
        if goes_on {
            pusher.sweep();
            pusher.drain(Deadline::after(DRAIN_MAX).or_before(deadline));
        }
        let _ = drained.send(());
    });
    let pushed = match wait.recv_timeout(deadline.remaining()) {
        Ok(pushed) => pushed,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let waiting_for = "the disk of this machine did not answer".to_owned();
            return Err(ArchiveError::Deadline { name, after, waiting_for }.into());
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            return Err(Failure::new(Class::Bug, format!("archiving '{name}' ended without an answer")));
        }
    };
    if pushed.is_ok() {
        // The file is safe; what a place that hangs still lacks can wait, and ending in the middle harms nothing.
        let _ = wait_for_drain.recv_timeout(Deadline::after(DRAIN_MAX).or_before(deadline).remaining());
    }
    pushed
}

/// Whatever ends this process must look like a failed try to PostgreSQL, never like a crash: the archiver would die of
/// a signal without counting the failure. Called before anything else is.
pub fn exit_cleanly_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    let caught = [SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    let Ok(mut signals) = signal_hook::iterator::Signals::new(caught) else { return };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal != SIGPIPE {
                // Nobody may be there to read it.
                let mut to = std::io::stderr();
                let _ = writeln!(to, "archive-wal: ERROR: [timeout] stopped by signal {signal} before it was done");
                let _ = writeln!(to, "archive-wal: HINT: PostgreSQL keeps what is not archived and tries again.");
                std::process::exit(i32::from(Class::Timeout.code()));
            }
        }
    });
}

fn describe(pushed: &Pushed) -> String {
    if let Some(kept) = &pushed.quarantined {
        return format!("'{}' is in no archive but kept as '{}'", pushed.name, kept.display());
    }
    let mut text = format!("'{}' ({}) is in {}", pushed.name, output::size(pushed.size), pushed.stored.join(", "));
    if !pushed.queued.is_empty() {
        text.push_str(&format!("; waits for {}", pushed.queued.join(", ")));
    }
    text
}

/// Tells the operator's hooks; they are told of a state once.
fn report(outcome: &Result<Pushed, Failure>, name: WalName, context: &Context) {
    let notifier =
        Notifier::new(&context.config.notify, &context.config.local.spool, &context.config.local.node, "archive-wal");
    match outcome {
        Ok(pushed) if pushed.discarded => {
            notifier.report("archive", Level::Critical, "WAL is being discarded", json!({ "name": name }));
        }
        Ok(Pushed { quarantined: Some(kept), .. }) => {
            let message = format!("'{name}', of a timeline that this server has left, went into quarantine");
            notifier.report("quarantine", Level::Warning, &message, json!({ "name": name, "kept": kept }));
        }
        Ok(pushed) if !pushed.queued.is_empty() => {
            let message = format!("WAL waits in a queue for {}", pushed.queued.join(", "));
            notifier.report("archive", Level::Warning, &message, json!({ "name": name, "queued": pushed.queued }));
        }
        Ok(_) => notifier.report("archive", Level::Ok, "WAL is archived again", json!({ "name": name })),
        Err(failure) => {
            let details = json!({ "name": name, "class": failure.class, "hint": failure.hint });
            notifier.report("archive", Level::Critical, &failure.message, details);
        }
    }
}

fn switch(mode: Shipping, context: &Context) -> Result<u8, Failure> {
    let spool = Spool::new(&context.config.local.spool);
    if !context.dry_run {
        shipping::set(&spool, mode, &context.config.archive)?;
    }
    output::line(format_args!("shipping: {}", shipping::word(mode)));
    Ok(0)
}

/// Takes the archive of one node out, or counts it again.
fn switch_node(node: &str, arm: bool, context: &Context) -> Result<u8, Failure> {
    let config = &context.config;
    if config.node(node).is_none_or(|node| node.archive.is_none()) {
        let failure = Failure::new(Class::Usage, format!("there is no node '{node}' that holds an archive"));
        return Err(failure.hinted("'archive-wal --status' shows where files go."));
    }
    let spool = Spool::new(&config.local.spool);
    if !context.dry_run && arm {
        shipping::rearm(&spool, node)?;
    } else if !context.dry_run {
        shipping::disarm(&spool, node)?;
    }
    output::line(format_args!("shipping to {node}: {}", if arm { "armed" } else { "disarmed" }));
    Ok(0)
}

fn init_places(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let wanted = arguments.get_one::<String>("init").map(String::as_str).filter(|name| !name.is_empty());
    for made in init::init(&context.config, wanted.into_iter(), context.dry_run)? {
        output::line(format_args!("{made}"));
    }
    Ok(0)
}

/// Ships what a stopped server left in pg_wal.
fn drain_stopped_server(context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let Some(pgdata) = config.own().pgdata.clone() else {
        let failure = Failure::new(Class::Config, format!("node '{}' has no pgdata", config.local.node));
        return Err(failure.hinted(format!("Set node.{}.pgdata.", config.local.node)));
    };
    let leftovers = flush::plan(&pgdata)?;
    let sites = Arc::new(Sites::new(&config));
    let pusher = Pusher::new(&config, &sites, Way::Read);
    let bar = output::progress(leftovers.len() as u64, "files", std::io::stderr().is_terminal());
    let (mut bytes, mut queued, mut discarded) = (0, 0, 0);
    for leftover in &leftovers {
        if context.dry_run {
            output::line(format_args!("would ship '{}' from '{}'", leftover.name, leftover.path.display()));
            continue;
        }
        let deadline = Deadline::after(config.archive.deadline);
        let pushed = pusher.push(&leftover.path, leftover.name, 2, deadline)?;
        bytes += pushed.size;
        queued += usize::from(!pushed.queued.is_empty());
        discarded += usize::from(pushed.discarded);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !context.dry_run {
        pusher.drain(Deadline::after(config.archive.deadline));
        let shipped = leftovers.len() - discarded;
        let size = output::size(bytes);
        output::line(format_args!("flushed {shipped} files ({size}) of '{}'", pgdata.display()));
        if queued > 0 {
            output::line(format_args!(
                "{queued} of them did not reach every place at once; 'archive-wal --status' shows what still waits"
            ));
        }
        if discarded > 0 {
            output::line(format_args!("{discarded} files were DISCARDED: shipping is switched to discard"));
        }
    }
    Ok(0)
}

fn status(context: &Context) -> Result<u8, Failure> {
    let config = &context.config;
    let spool = Spool::new(&config.local.spool);
    let mode = shipping::word(shipping::mode(&spool, config.archive.shipping)?);
    let chains = shipping::broken_chains(&spool)?;
    let disarmed = shipping::disarmed(&spool)?;
    let mut queues = Vec::new();
    for node in queue::nodes(&spool)? {
        let contents = Queue::new(&spool, &node).contents()?;
        queues.push((node, contents));
    }
    let worker = match ask_worker(&spool, What::Status, config, Deadline::after(Duration::from_secs(2))) {
        Some(Reply::Status { process, prepared, prefetched }) => Some((process, prepared, prefetched)),
        _ => None,
    };
    if context.json {
        let queues: Vec<_> = queues
            .iter()
            .map(|(node, found)| {
                json!({ "node": node, "files": found.count, "bytes": found.bytes,
                "oldest_age_seconds": found.oldest.and_then(|since| since.elapsed().ok()).map(|age| age.as_secs()) })
            })
            .collect();
        let worker = worker.map(|(process, prepared, prefetched)| json!({ "process": process, "prepared": prepared, "prefetched": prefetched }));
        let status = json!({ "node": config.local.node, "shipping": mode, "disarmed": disarmed,
            "broken_chains": chains, "queues": queues, "worker": worker });
        output::line(format_args!("{status:#}"));
        return Ok(0);
    }
    output::line(format_args!("node      {}", config.local.node));
    output::line(format_args!("shipping  {mode}"));
    for node in &disarmed {
        output::line(format_args!("disarmed  {node}: nothing is shipped there; 'archive-wal --arm {node}' ends that"));
    }
    for chain in &chains {
        output::line(format_args!(
            "BROKEN    {} files discarded, '{}' to '{}', {} to {}",
            chain.count, chain.first, chain.last, chain.since, chain.until
        ));
    }
    for (node, found) in &queues {
        let age = found.oldest.and_then(|since| since.elapsed().ok());
        let age = age.map_or_else(String::new, |age| format!(", oldest {}", output::duration(age)));
        output::line(format_args!("queue     {node}: {} files, {}{age}", found.count, output::size(found.bytes)));
    }
    match worker {
        Some((process, prepared, prefetched)) => {
            output::line(format_args!(
                "worker    process {process}, {prepared} files shipped ahead, {prefetched} fetched ahead"
            ));
        }
        None => output::line(format_args!("worker    none (it is started by the next call and ends when idle)")),
    }
    Ok(0)
}
