//! Work that the daemon does beside watching, with our own programs: relaying WAL, removing old backups, drills.
//!
//! A duty has a thread of its own and runs a program to its end, within a deadline; a turn that fails is told by that
//! program through the hooks of `[notify]`, as it is when cron runs it. When a rare duty was last done is remembered in
//! the spool, so that a daemon that is restarted often neither forgets it nor does it each time.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use crate::archive::spool::Spool;
use crate::config::Config;
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::system::process::Call;

/// How long one turn of a relay may take: what is left of it goes on in the next.
const RELAY_MAX: Duration = Duration::from_secs(3600);

/// How long one turn of a rare duty may take.
const RARE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The daemon has been up for so long before a rare duty begins: whoever starts it may only want to look.
const FIRST: Duration = Duration::from_secs(10);

/// Something to be done again and again.
struct Duty {
    name: &'static str,
    program: &'static str,
    /// What it is told to do, before the words of the configuration.
    words: &'static [&'static str],
    every: Duration,
    longest: Duration,
    /// Where it is remembered when it was last done; none: it is done so often that nobody needs to know.
    mark: Option<PathBuf>,
}

/// Duties at work; they end when this is dropped.
pub struct Duties {
    _alive: Vec<Sender<()>>,
}

impl Duties {
    /// Starts what the configuration asks for. `words` give a program of ours the same configuration.
    pub fn start(config: &Arc<Config>, words: &[OsString]) -> std::io::Result<Duties> {
        let start = |duty: Duty| {
            let (alive, asked) = channel::<()>();
            let words = words.to_vec();
            std::thread::Builder::new().name(duty.name.to_owned()).spawn(move || {
                while asked.recv_timeout(duty.pause(SystemTime::now())) == Err(RecvTimeoutError::Timeout) {
                    duty.turn(&words);
                }
            })?;
            Ok(alive)
        };
        Ok(Duties { _alive: duties(config).into_iter().map(start).collect::<std::io::Result<_>>()? })
    }
}

fn duties(config: &Config) -> Vec<Duty> {
    let monitor = &config.monitor;
    let spool = Spool::new(&config.local.spool);
    let rare = |name, program, words, every| Duty {
        name,
        program,
        words,
        every,
        longest: RARE_MAX,
        mark: Some(spool.root().join(format!("last-{name}"))),
    };
    let relay = Duty {
        name: "relay",
        program: "relay-wal",
        words: &["--quiet"],
        every: config.relay.interval,
        longest: RELAY_MAX,
        mark: None,
    };
    let expire = rare("expire", "base-backup", &["expire", "--quiet"], monitor.expire);
    let drill = rare("drill", "pitr-restore", &["drill", "--quiet"], monitor.drill);
    [(monitor.relay, relay), (!monitor.expire.is_zero(), expire), (!monitor.drill.is_zero(), drill)]
        .into_iter()
        .filter_map(|(wanted, duty)| wanted.then_some(duty))
        .collect()
}

impl Duty {
    /// How long until it is due.
    fn pause(&self, now: SystemTime) -> Duration {
        let Some(mark) = &self.mark else { return self.every };
        let last = fs::metadata(mark).and_then(|found| found.modified()).ok();
        // A mark of the future is one of a clock that was wrong.
        let since = last.and_then(|last| now.duration_since(last).ok());
        since.map_or(FIRST, |since| self.every.saturating_sub(since).max(FIRST.min(self.every)))
    }

    /// Does it once.
    fn turn(&self, words: &[OsString]) {
        if let Some(mark) = &self.mark {
            remember(mark);
        }
        let call = Call::new(sibling(self.program)).args(self.words).args(words);
        match call.run(Deadline::after(self.longest)) {
            Ok(outcome) if outcome.status.is_success() => {}
            Ok(outcome) => log::warn!("{} ended with {}: {}", self.program, outcome.status, outcome.complaint()),
            Err(error) => log::warn!("{}", Failure::from(error)),
        }
    }
}

/// One that fails is done again when it is due again, not at once.
fn remember(mark: &Path) {
    if let Err(error) = durable::replace(mark, b"") {
        log::warn!("'{}' cannot be written, so this is done again after a restart: {error}", mark.display());
    }
}

/// A program of ours: beside this one, else wherever PATH has it.
fn sibling(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rare_duty_is_due_by_when_it_was_last_done_and_a_frequent_one_by_its_pace() {
        let folder = tempfile::tempdir().expect("because there is room");
        let mark = folder.path().join("last-expire");
        let day = Duration::from_secs(86_400);
        let duty = Duty {
            name: "expire",
            program: "base-backup",
            words: &[],
            every: day,
            longest: RARE_MAX,
            mark: Some(mark.clone()),
        };
        assert_eq!(duty.pause(SystemTime::now()), FIRST);
        remember(&mark);
        let now = SystemTime::now();
        assert!(duty.pause(now) > day - Duration::from_secs(60));
        assert_eq!(duty.pause(now + day * 3), FIRST);
        assert_eq!(duty.pause(now - day), FIRST);
        assert_eq!(Duty { mark: None, every: Duration::from_secs(5), ..duty }.pause(now), Duration::from_secs(5));
    }
}
