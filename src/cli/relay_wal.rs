//! `relay-wal`: one turn for cron, or turns without end.
//!
//! One relay works on a node at a time. A target that fails does not stop the others, and one that was down a moment
//! ago comes last, so that waiting for it holds nobody up.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use indicatif::ProgressBar;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::output;
use super::run::Context;
use crate::archive::places::{Site, Sites};
use crate::archive::queue::{self, Queue};
use crate::archive::relay::{Pace, Relay, Turn, Watcher};
use crate::archive::spool::Spool;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::system::lock::{Lock, Taken};
use crate::system::notify::{Level, Notifier};
use crate::wal::WalName;

/// How long a loop that was told to end may take for the files under way. Broken off, they go again next time.
const LAST_FILES: Duration = Duration::from_secs(1);

/// A loop repeats an error that lasts so often.
const REPEAT: Duration = Duration::from_secs(60);

const HOLE_HINT: &str = "Find the missing segment in pg_wal of the primary or in a queue and run 'archive-wal' on it \
                         there; what follows is relayed as soon as it is here. If it is lost for good, take a new base \
                         backup, and when older WAL has been removed here, 'relay-wal --full' begins behind the hole.";

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let mut config = context.config.clone();
    if let Some(rate) = arguments.get_one::<u64>("rate") {
        config.relay.rate_max = *rate;
    }
    let config = Arc::new(config);
    let spool = Spool::new(&config.local.spool);
    let is_loop = arguments.get_flag("loop");
    // A dry run changes nothing, so it may look on while another works.
    let _one_relay = match context.dry_run {
        true => None,
        false => match take_lock(&spool)? {
            Taken::Held(lock) => Some(lock),
            Taken::Busy { owner } => return busy(&owner, is_loop, context),
        },
    };
    let duty = Duty::new(&config, &spool, arguments, context);
    if is_loop { run_for_ever(duty) } else { once(duty) }
}

fn take_lock(spool: &Spool) -> Result<Taken, Failure> {
    spool.prepare()?;
    let path = spool.lock("relay");
    Lock::try_take(&path)
        .map_err(|error| Failure::new(Class::Storage, format!("cannot lock '{}': {error}", path.display())))
}

/// Cron starts the next turn while a long one runs: that is no trouble, and the operator is told who works.
fn busy(owner: &str, is_loop: bool, context: &Context) -> Result<u8, Failure> {
    let message = format!("another relay-wal works already: {owner}");
    if is_loop {
        return Err(Failure::new(Class::Busy, message).hinted("One loop a node is enough; end that one first."));
    }
    if context.json {
        output::print("[]\n")?;
    } else if !context.quiet {
        output::print(&format!("{message}\n"))?;
    }
    Ok(0)
}

/// One turn.
fn once(mut duty: Duty) -> Result<u8, Failure> {
    let ended = duty.turn()?;
    duty.show(&ended)?;
    let mut failures = ended.into_iter().filter_map(|ended| ended.failure);
    let Some(first) = failures.next() else { return Ok(0) };
    for other in failures {
        duty.context.report(&other);
    }
    Err(first)
}

/// Turns until somebody stops it.
fn run_for_ever(mut duty: Duty) -> Result<u8, Failure> {
    let stop = listen()?;
    let mut told: Vec<(Failure, Instant)> = Vec::new();
    loop {
        let begun = Instant::now();
        let ended = duty.turn()?;
        if ended.iter().any(|ended| ended.turn.relayed + ended.turn.drained > 0) {
            duty.show(&ended)?;
        }
        told.retain(|(failure, at)| {
            at.elapsed() < REPEAT && ended.iter().any(|ended| ended.failure.as_ref() == Some(failure))
        });
        for failure in ended.into_iter().filter_map(|ended| ended.failure) {
            if !told.iter().any(|(known, _)| *known == failure) {
                duty.context.report(&failure);
                told.push((failure, begun));
            }
        }
        match stop.recv_timeout(duty.config.relay.interval) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(0),
        }
    }
}

/// Hears of SIGTERM and SIGINT. What is under way then gets a moment; a second signal ends it at once. Both are safe:
/// a file is in its place whole or not at all.
fn listen() -> Result<Receiver<()>, Failure> {
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]);
    let mut signals =
        signals.map_err(|error| Failure::new(Class::Bug, format!("cannot listen to signals: {error}")))?;
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(0);
            }
            // The loop may be in a turn and hear it later.
            let _ = tell.send(());
            std::thread::spawn(|| {
                std::thread::sleep(LAST_FILES);
                std::process::exit(0);
            });
        }
    });
    Ok(heard)
}

/// How a turn for one target ended.
struct Ended {
    turn: Turn,
    failure: Option<Failure>,
}

/// What this node has to carry on, and where to.
struct Duty<'a> {
    config: Arc<Config>,
    spool: Spool,
    sites: Sites,
    pace: Pace,
    notifier: Notifier,
    /// The targets whose cursor does not count in the next turn.
    full: BTreeSet<String>,
    wanted: Option<Vec<String>>,
    context: &'a Context,
}

/// One place and what goes there.
struct Target {
    site: Arc<Site>,
    /// It follows the own archive; else only its queue is drained.
    relays: bool,
}

impl<'a> Duty<'a> {
    fn new(config: &Arc<Config>, spool: &Spool, arguments: &ArgMatches, context: &'a Context) -> Self {
        let downstream = config.places(&config.relay.to).into_iter().map(|node| node.name.clone());
        Duty {
            config: Arc::clone(config),
            spool: spool.clone(),
            sites: Sites::new(config),
            pace: Pace::new(config.relay.rate_max),
            notifier: Notifier::new(&config.notify, &config.local.spool, &config.local.node, "relay-wal"),
            full: if arguments.get_flag("full") { downstream.collect() } else { BTreeSet::new() },
            wanted: arguments.get_many::<String>("to").map(|names| names.cloned().collect()),
            context,
        }
    }

    /// One turn for every target; one that fails does not stop the others.
    fn turn(&mut self) -> Result<Vec<Ended>, Failure> {
        let (targets, mut ended) = self.targets()?;
        for target in &targets {
            ended.push(self.turn_for(target));
        }
        Ok(ended)
    }

    /// Whom to serve, those that answer first; and the queues that nobody can empty.
    fn targets(&self) -> Result<(Vec<Target>, Vec<Ended>), Failure> {
        let own = &self.config.local.node;
        let downstream = self.sites.of(&self.config.places(&self.config.relay.to));
        let downstream = downstream.into_iter().filter(|site| site.name() != own);
        let mut targets: Vec<Target> = downstream.map(|site| Target { site, relays: true }).collect();
        let mut orphans = Vec::new();
        for node in queue::nodes(&self.spool)? {
            if targets.iter().any(|target| target.site.name() == node) {
                continue;
            }
            match self.sites.get(&node) {
                Some(site) => targets.push(Target { site: Arc::clone(site), relays: false }),
                None if Queue::new(&self.spool, &node).is_empty() => {}
                None => orphans.push(self.orphan(node)),
            }
        }
        if let Some(wanted) = &self.wanted {
            if let Some(unknown) = wanted.iter().find(|name| !targets.iter().any(|it| it.site.name() == **name)) {
                let failure = Failure::new(Class::Usage, format!("nothing is relayed to '{unknown}'"));
                return Err(failure.hinted("Name a node of relay.to, or one for which a queue exists."));
            }
            targets.retain(|target| wanted.iter().any(|name| target.site.name() == *name));
            orphans.clear();
        }
        targets.sort_by_key(|target| target.site.recently_down(self.config.archive.retry).is_some());
        Ok((targets, orphans))
    }

    fn orphan(&self, node: String) -> Ended {
        let folder = self.spool.queue(&node);
        let message = format!("files wait in '{}', but no node '{node}' holds an archive", folder.display());
        let failure = Failure::new(Class::Config, message).hinted(
            "If it has a new name, rename the folder; if it is gone, remove the folder once nobody needs the WAL.",
        );
        self.notify(&node, Level::Critical, &failure.message, &failure.hint);
        Ended { turn: Turn { target: node, ..Turn::default() }, failure: Some(failure) }
    }

    fn turn_for(&mut self, target: &Target) -> Ended {
        let site = &*target.site;
        let own = self.sites.get(&self.config.local.node).filter(|_| target.relays);
        let visible = std::io::stderr().is_terminal() && !self.context.quiet && !self.context.json;
        let mut progress = Progress { bar: output::progress(0, "bytes", visible) };
        let relay = Relay {
            config: &self.config,
            own: own.map(|own| &**own),
            target: site,
            pace: &self.pace,
            full: self.full.contains(site.name()),
            dry_run: self.context.dry_run,
        };
        let mut turn = Turn::default();
        let worked = relay.turn(&mut turn, &mut progress);
        progress.bar.finish_and_clear();
        let failure = match worked {
            Ok(()) => {
                self.full.remove(site.name());
                turn.hole.as_ref().map(|hole| {
                    Failure::new(Class::Corrupt, format!("relaying to {} stops: {hole}", turn.target)).hinted(HOLE_HINT)
                })
            }
            Err(error) => {
                // A connection that broke, or a volume that was mounted since, is opened anew.
                site.close();
                if let Some(own) = own {
                    own.close();
                }
                Some(Failure::from(error))
            }
        };
        match &failure {
            Some(failure) => self.notify(site.name(), Level::Critical, &failure.message, &failure.hint),
            None => self.notify(site.name(), Level::Ok, "relaying works again", &None),
        }
        Ended { turn, failure }
    }

    fn notify(&self, target: &str, level: Level, message: &str, hint: &Option<String>) {
        if !self.context.dry_run {
            let subject = format!("relay to {target}");
            self.notifier.report(&subject, level, message, json!({ "target": target, "hint": hint }));
        }
    }

    fn show(&self, ended: &[Ended]) -> Result<(), Failure> {
        if self.context.json {
            let rows: Vec<_> = ended
                .iter()
                .map(|ended| {
                    let mut row = json!(ended.turn);
                    row["failure"] = json!(ended.failure);
                    row
                })
                .collect();
            return output::print(&format!("{}\n", json!(rows)));
        }
        let mut text = String::new();
        for turn in ended.iter().map(|ended| &ended.turn).filter(|turn| turn.relayed + turn.drained > 0) {
            let verb = if self.context.dry_run { "would relay" } else { "relayed" };
            let queued =
                if turn.drained > 0 { format!(", {} of them from the queue", turn.drained) } else { String::new() };
            let (count, size) = (turn.relayed + turn.drained, output::size(turn.bytes));
            text.push_str(&format!("{verb} {count} files ({size}){queued} to {}\n", turn.target));
        }
        if self.context.quiet { Ok(()) } else { output::print(&text) }
    }
}

/// Progress for a person at a terminal; nothing where there is none.
struct Progress {
    bar: ProgressBar,
}

impl Watcher for Progress {
    fn shipped(&mut self, target: &str, name: WalName, bytes: u64) {
        self.bar.set_message(format!("{name} to {target}"));
        self.bar.inc(bytes);
    }

    fn found(&mut self, _target: &str, _files: usize, bytes: u64) {
        self.bar.inc_length(bytes);
    }
}
