//! Work that the daemon does beside watching, with our own programs: relaying WAL.
//!
//! A duty has a thread of its own and runs a program to its end, within a deadline; a turn that fails is told by that
//! program through the hooks of `[notify]`, as it is when cron runs it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::config::Config;
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::process::Call;

/// How long one turn of a relay may take: what is left of it goes on in the next.
const RELAY_MAX: Duration = Duration::from_secs(3600);

/// Duties at work; they end when this is dropped.
pub struct Duties {
    _alive: Option<Sender<()>>,
}

impl Duties {
    /// Starts what the configuration asks for. `words` give a program of ours the same configuration.
    pub fn start(config: &Arc<Config>, words: Vec<OsString>) -> std::io::Result<Duties> {
        if !config.monitor.relay {
            return Ok(Duties { _alive: None });
        }
        let (alive, asked) = channel::<()>();
        let pause = config.relay.interval;
        let program = sibling("relay-wal");
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            while asked.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                relay(&program, &words);
            }
        })?;
        Ok(Duties { _alive: Some(alive) })
    }
}

fn relay(program: &PathBuf, words: &[OsString]) {
    let call = Call::new(program).arg("--quiet").args(words);
    match call.run(Deadline::after(RELAY_MAX)) {
        Ok(outcome) if outcome.status.is_success() => {}
        Ok(outcome) => log::warn!("relay-wal ended with {}: {}", outcome.status, outcome.complaint()),
        Err(error) => log::warn!("{}", Failure::from(error)),
    }
}

/// A program of ours: beside this one, else wherever PATH has it.
fn sibling(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}
