//! `cluster-monitor run`: the daemon, until it is told to end.
//!
//! SIGHUP reads the configuration anew and registers anew; SIGTERM and SIGINT end it. It stays in the foreground: what
//! starts it keeps it, and systemd is told how it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::archive::spool::{Spool, remove_if_there};
use crate::cli::run::Context;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::monitor::daemon::board::Board;
use crate::monitor::daemon::duties::Duties;
use crate::monitor::daemon::{Daemon, Order};
use crate::monitor::http::{self, Site};
use crate::system::durable;
use crate::system::lock::{Lock, Taken};

/// Runs it.
pub fn run(context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let _one_daemon = only_one(&config)?;
    let orders = listen()?;
    let _pid_file = PidFile::write(config.monitor.pid_file.as_ref())?;
    let board = Arc::new(Board::default());
    if let Some(address) = config.monitor.http_address() {
        let site = Site { node: config.local.node.clone(), interval: config.monitor.interval };
        let bound = http::start(address, Arc::clone(&board), site)?;
        log::info!("http://{bound}/ shows the cluster");
    }
    let no_thread = |error| Failure::new(Class::Storage, format!("cannot start a thread: {error}"));
    let _duties = Duties::start(&config, &context.source_arguments()).map_err(no_thread)?;
    let load = || load(context);
    Daemon::new(&config, board, &load)?.run(&orders)?;
    Ok(0)
}

/// Two daemons of one node would write everything twice.
fn only_one(config: &Config) -> Result<Lock, Failure> {
    let spool = Spool::new(&config.local.spool);
    spool.prepare()?;
    let path = spool.lock("cluster-monitor");
    let failed = |error| Failure::new(Class::Storage, format!("cannot lock '{}': {error}", path.display()));
    match Lock::try_take(&path).map_err(failed)? {
        Taken::Held(lock) => Ok(lock),
        Taken::Busy { owner } => {
            Err(Failure::new(Class::Busy, format!("another cluster-monitor watches for this node already: {owner}"))
                .hinted("One daemon a node is enough; end that one first."))
        }
    }
}

fn listen() -> Result<Receiver<Order>, Failure> {
    let signals = Signals::new([SIGHUP, SIGTERM, SIGINT]);
    let mut signals =
        signals.map_err(|error| Failure::new(Class::Bug, format!("cannot listen to signals: {error}")))?;
    let (tell, orders) = channel();
    std::thread::spawn(move || {
        let mut told = false;
        for signal in signals.forever() {
            let order = if signal == SIGHUP { Order::Reload } else { Order::Stop };
            // Who asks a second time waits for nothing: everything that counts is written when it happens.
            if told && order == Order::Stop {
                std::process::exit(0);
            }
            told |= order == Order::Stop;
            let _ = tell.send(order);
        }
    });
    Ok(orders)
}

/// Reads the configuration anew. What other threads were started with stays until the next start.
fn load(context: &Context) -> Result<Config, Failure> {
    let config = Config::load(&context.source).map_err(|error| {
        let problems: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        Failure::new(Class::Config, problems.join("; "))
    })?;
    let (old, new) = (&context.config.monitor, &config.monitor);
    let fixed = |it: &crate::config::Monitor| (it.http.clone(), it.pid_file.clone(), it.relay, it.expire);
    if fixed(old) != fixed(new) {
        log::warn!("monitor.http, monitor.pid_file, monitor.relay and monitor.expire change with the next start");
    }
    if config.local.node != context.config.local.node {
        return Err(Failure::new(Class::Refused, "a running daemon cannot become another node"));
    }
    Ok(config)
}

/// The file with our number; it goes with us.
struct PidFile(Option<PathBuf>);

impl PidFile {
    fn write(path: Option<&PathBuf>) -> Result<PidFile, Failure> {
        if let Some(path) = path {
            let failed = |error| Failure::new(Class::Storage, format!("cannot write '{}': {error}", path.display()));
            durable::replace(path, format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        }
        Ok(PidFile(path.cloned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = remove_if_there(path)
        {
            log::warn!("'{}' is left behind: {error}", path.display());
        }
    }
}
