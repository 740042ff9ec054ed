//! `relay-wal`: one turn for cron, or turns without end.

use std::io::IsTerminal;
use std::sync::Arc;

use clap::ArgMatches;
use indicatif::ProgressBar;
use serde_json::json;

use super::output;
use super::run::Context;
use crate::archive::places::{Site, Sites};
use crate::archive::queue;
use crate::archive::relay::{Relay, Turn, Watcher};
use crate::archive::spool::Spool;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::system::lock::{Lock, Taken};
use crate::system::notify::{Level, Notifier};
use crate::wal::WalName;

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let mut config = context.config.clone();
    if let Some(rate) = arguments.get_one::<u64>("rate") {
        config.relay.rate_max = *rate;
    }
    let config = Arc::new(config);
    let spool = Spool::new(&config.local.spool);
    spool.prepare()?;
    let path = spool.lock("relay");
    let taken = Lock::try_take(&path)
        .map_err(|error| Failure::new(Class::Storage, format!("cannot lock '{}': {error}", path.display())))?;
    let Taken::Held(_one_relay) = taken else {
        let Taken::Busy { owner } = taken else { return Ok(0) };
        // Cron starts the next turn while a long one runs: that is no trouble, and the operator is told who works.
        output::line(format_args!("another relay-wal works already ({owner})"));
        return Ok(if arguments.get_flag("loop") { Class::Busy.code() } else { 0 });
    };
    let sites = Sites::new(&config);
    if arguments.get_flag("full") {
        forget_cursors(&config, &sites, &spool);
    }
    if !arguments.get_flag("loop") {
        return turn(&config, &sites, arguments, context);
    }
    run_for_ever(&config, &sites, arguments, context)
}

/// Turns until somebody stops it; a file under way is finished first, and anything else is safe to break off.
fn run_for_ever(config: &Arc<Config>, sites: &Sites, arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // A second signal ends it at once.
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 0, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        armed.map_err(|error| Failure::new(Class::Bug, format!("cannot listen to signals: {error}")))?;
    }
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        if let Err(failure) = turn(config, sites, arguments, context) {
            context.report(&failure);
        }
        // A signal ends the sleep too.
        let pause = rustix::time::Timespec::try_from(config.relay.interval);
        let _ = rustix::event::poll(&mut [], pause.ok().as_ref());
    }
    Ok(0)
}

/// One turn for every target; one that fails does not stop the others.
fn turn(config: &Arc<Config>, sites: &Sites, arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let spool = Spool::new(&config.local.spool);
    let own = sites.get(&config.local.node);
    let downstream: Vec<Arc<Site>> = sites.of(&config.places(&config.relay.to));
    let mut targets = downstream.clone();
    for node in queue::nodes(&spool)? {
        if let Some(site) = sites.get(&node)
            && !targets.iter().any(|target| target.name() == site.name())
        {
            targets.push(Arc::clone(site));
        }
    }
    if let Some(wanted) = arguments.get_many::<String>("to") {
        let wanted: Vec<&String> = wanted.collect();
        if let Some(unknown) = wanted.iter().find(|name| !targets.iter().any(|target| target.name() == **name)) {
            let failure = Failure::new(Class::Usage, format!("nothing is relayed to '{unknown}'"));
            return Err(failure.hinted("Name a node of relay.to, or one for which a queue exists."));
        }
        targets.retain(|target| wanted.iter().any(|name| target.name() == *name));
    }
    let notifier = Notifier::new(&config.notify, &config.local.spool, &config.local.node, "relay-wal");
    let mut turns = Vec::new();
    let mut worst: Option<Failure> = None;
    for target in &targets {
        let relays = downstream.iter().any(|site| site.name() == target.name()) && target.name() != config.local.node;
        let mut progress = Progress::new();
        let own = own.filter(|_| relays);
        let ended =
            Relay::new(config, own, target, context.dry_run).and_then(|relay| relay.turn(relays, &mut progress));
        progress.end();
        let subject = format!("relay to {}", target.name());
        match ended {
            Ok(turn) => {
                match &turn.hole {
                    Some(hole) => {
                        notifier.report(&subject, Level::Critical, hole, json!({ "target": turn.target }));
                        let failure =
                            Failure::new(Class::Corrupt, format!("relaying to {} stops: {hole}", turn.target));
                        worst.get_or_insert(failure.hinted(
                            "Find the missing segment in pg_wal of the primary or in a queue and run 'archive-wal' on it \
                             there; what follows is relayed as soon as it is here.",
                        ));
                    }
                    None => notifier.report(&subject, Level::Ok, "relaying works again", json!({})),
                }
                turns.push(turn);
            }
            Err(error) => {
                let failure = Failure::from(error);
                target.close();
                if let Some(own) = own {
                    own.close();
                }
                notifier.report(&subject, Level::Critical, &failure.message, json!({ "hint": failure.hint }));
                worst.get_or_insert(failure);
            }
        }
    }
    show(&turns, context);
    worst.map_or(Ok(0), Err)
}

fn forget_cursors(config: &Config, sites: &Sites, spool: &Spool) {
    for site in sites.of(&config.places(&config.relay.to)) {
        // Without its cursor a relay lists everything once; one that stays only saves that.
        let _ = std::fs::remove_file(spool.relay(site.name()));
    }
}

fn show(turns: &[Turn], context: &Context) {
    if context.json {
        output::line(format_args!("{}", serde_json::to_string(turns).unwrap_or_default()));
        return;
    }
    for turn in turns.iter().filter(|turn| turn.relayed + turn.drained > 0) {
        let verb = if context.dry_run { "would relay" } else { "relayed" };
        let queued = if turn.drained > 0 { format!(", {} from the queue", turn.drained) } else { String::new() };
        output::line(format_args!(
            "{verb} {} files ({}){queued} to {}",
            turn.relayed,
            output::size(turn.bytes),
            turn.target
        ));
    }
}

/// Progress for a person at a terminal; nothing where there is none.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new() -> Self {
        Progress { bar: output::progress(0, "bytes", std::io::stderr().is_terminal()) }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
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
