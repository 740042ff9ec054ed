//! Tells somebody: the hooks `ok`, `warning` and `critical` of `[notify]`.
//!
//! A hook is a program of the operator's. It gets the message as its last argument and the whole story as JSON on its
//! standard input. What was told is remembered in the spool by subject, over all programs and processes: the same state
//! is told again only after `notify.repeat`, a worse or better one at once, and `ok` only after something bad. A hook
//! that fails or hangs is logged and tried again later; it never fails the caller, whose own work matters more.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Local, SecondsFormat};
use serde::{Deserialize, Serialize};

use super::clock::Deadline;
use super::durable;
use super::lock::{Lock, Taken};
use super::process::Call;
use crate::config;

/// How long to wait for another process that is writing down what it told.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A hook that failed is tried again after so long, or after `notify.repeat` where that is shorter.
const RETRY: Duration = Duration::from_secs(60);

/// A message longer than this is cut: it is an argument, and arguments have a limit.
const MESSAGE_MAX: usize = 4096;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is well again.
    Ok,
    /// It works, but a person should look.
    Warning,
    /// Something is lost or will be.
    Critical,
}

/// What a hook reads on its standard input: one JSON object, one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// How bad it is.
    pub level: Level,
    /// One line for people; the same as the last argument.
    pub message: String,
    /// The node that speaks.
    pub node: String,
    /// The program that speaks.
    pub program: String,
    /// What it is about: the key under which repeated notices are held back.
    pub subject: String,
    /// When, by this node's clock, with offset (RFC 3339).
    pub time: String,
    /// Whatever else the program knows, as a map.
    pub details: serde_json::Value,
}

/// What was told last about one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    level: Level,
    /// When it was told, or tried to be (RFC 3339).
    at: String,
    /// False where the hook failed.
    delivered: bool,
}

/// What was told, by subject. A subject that is well and was told so is not in it.
type Memory = BTreeMap<String, Told>;

/// Tells of states through the hooks of the configuration.
#[derive(Debug, Clone)]
pub struct Notifier {
    hooks: config::Notify,
    memory: PathBuf,
    lock: PathBuf,
    node: String,
    program: String,
}

impl Notifier {
    /// A notifier that remembers in `<spool>/notify.json` and speaks for this node and program.
    pub fn new(hooks: &config::Notify, spool: &Path, node: &str, program: &str) -> Self {
        Notifier {
            hooks: hooks.clone(),
            memory: spool.join("notify.json"),
            lock: spool.join("notify.lock"),
            node: node.to_owned(),
            program: program.to_owned(),
        }
    }

    /// Reports the state of a subject. Runs a hook, waiting up to `notify.deadline` for it, where this is news.
    ///
    /// Reporting `Ok` for a subject nothing bad is known of costs one read of a small file.
    pub fn report(&self, subject: &str, level: Level, message: &str, details: serde_json::Value) {
        if self.is_silent() || (level == Level::Ok && self.recall().is_ok_and(|memory| !memory.contains_key(subject))) {
            return;
        }
        let now = Local::now();
        let time = now.to_rfc3339_opts(SecondsFormat::Millis, false);
        // The claim is written before the hook runs, so that of two processes with the same news only one tells it.
        if !self.claim(subject, level, now, &time) {
            return;
        }
        let notice = Notice {
            level,
            message: one_line(message),
            node: self.node.clone(),
            program: self.program.clone(),
            subject: subject.to_owned(),
            time: time.clone(),
            details,
        };
        let delivered = self.tell(&notice);
        self.settle(subject, Told { level, at: time, delivered });
    }

    /// Tells of something at once, whatever was told before: for a caller that knows by itself what is news.
    pub fn announce(&self, subject: &str, level: Level, message: &str, details: serde_json::Value) {
        let notice = Notice {
            level,
            message: one_line(message),
            node: self.node.clone(),
            program: self.program.clone(),
            subject: subject.to_owned(),
            time: Local::now().to_rfc3339_opts(SecondsFormat::Millis, false),
            details,
        };
        self.tell(&notice);
    }

    fn is_silent(&self) -> bool {
        self.hooks.ok.is_empty() && self.hooks.warning.is_empty() && self.hooks.critical.is_empty()
    }

    /// Decides under the lock whether this is to be told, and writes down that it is being told.
    ///
    /// Where memory or lock cannot be used the answer is yes: told twice is better than never.
    fn claim(&self, subject: &str, level: Level, now: DateTime<Local>, time: &str) -> bool {
        let claimed = self.locked(|memory| {
            let news = is_news(memory.get(subject), level, now, self.hooks.repeat);
            if news {
                memory.insert(subject.to_owned(), Told { level, at: time.to_owned(), delivered: false });
            }
            news
        });
        claimed.unwrap_or_else(|error| {
            log::warn!("cannot remember in '{}' what was notified: {error}", self.memory.display());
            true
        })
    }

    /// Writes down how telling ended, unless somebody told something else about the subject meanwhile.
    fn settle(&self, subject: &str, told: Told) {
        let settled = self.locked(|memory| {
            let ours = memory.get(subject).is_some_and(|last| last.level == told.level && last.at == told.at);
            if ours && told.level == Level::Ok && told.delivered {
                memory.remove(subject);
            } else if ours {
                memory.insert(subject.to_owned(), told);
            }
            ours
        });
        if let Err(error) = settled {
            log::warn!("cannot remember in '{}' what was notified: {error}", self.memory.display());
        }
    }

    /// Changes the memory under the lock; writes it where `change` says that it did.
    fn locked(&self, change: impl FnOnce(&mut Memory) -> bool) -> io::Result<bool> {
        let _lock = self.take_lock()?;
        let mut memory = self.recall().unwrap_or_else(|error| {
            log::warn!("'{}' is unreadable and begun anew: {error}", self.memory.display());
            Memory::new()
        });
        let changed = change(&mut memory);
        if changed {
            durable::replace(&self.memory, &serde_json::to_vec(&memory)?)?;
        }
        Ok(changed)
    }

    fn take_lock(&self) -> io::Result<Lock> {
        let deadline = Deadline::after(LOCK_WAIT);
        loop {
            match Lock::try_take(&self.lock)? {
                Taken::Held(lock) => return Ok(lock),
                Taken::Busy { owner } if deadline.expired() => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("its lock is held by {owner}")));
                }
                // It is held for the time of one small write, so a short pause is all it takes.
                Taken::Busy { .. } => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Reads what was told; nothing where the file does not exist yet.
    fn recall(&self) -> io::Result<Memory> {
        match std::fs::read(&self.memory) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Memory::new()),
            Err(error) => Err(error),
        }
    }

    /// Runs the hook of the level; true where it succeeded or there is none.
    fn tell(&self, notice: &Notice) -> bool {
        let (name, words) = match notice.level {
            Level::Ok => ("notify.ok", &self.hooks.ok),
            Level::Warning => ("notify.warning", &self.hooks.warning),
            Level::Critical => ("notify.critical", &self.hooks.critical),
        };
        let Some((program, args)) = words.split_first() else { return true };
        let mut story = serde_json::to_vec(notice).unwrap_or_default();
        story.push(b'\n');
        let call = Call::new(program).args(args).arg(&notice.message).stdin(story).limit(8192);
        match call.run(Deadline::after(self.hooks.deadline)) {
            Ok(outcome) if outcome.status.is_success() => {
                log::debug!("{name} was told of '{}'", notice.subject);
                true
            }
            Ok(outcome) => {
                log::warn!("{name} '{program}' ended with {}: {}", outcome.status, outcome.complaint());
                false
            }
            Err(error) => {
                log::warn!("{name}: {}", crate::error::Failure::from(error));
                false
            }
        }
    }
}

/// Whether a state is to be told, given what was told last about the subject.
fn is_news(last: Option<&Told>, level: Level, now: DateTime<Local>, repeat: Duration) -> bool {
    let Some(last) = last else { return level != Level::Ok };
    if last.level != level {
        return true;
    }
    if last.delivered && level == Level::Ok {
        return false;
    }
    let pause = if last.delivered { repeat } else { repeat.min(RETRY) };
    // A time in the future comes from a clock that was set back: it says nothing, so it holds nothing back.
    let age = DateTime::parse_from_rfc3339(&last.at).ok().and_then(|at| (now - at.with_timezone(&Local)).to_std().ok());
    age.is_none_or(|age| age >= pause)
}

/// A message fit for an argument: one line, no control characters, not too long.
fn one_line(message: &str) -> String {
    let mut line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MESSAGE_MAX {
        line.truncate(line.floor_char_boundary(MESSAGE_MAX));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn told(level: Level, delivered: bool, ago: i64) -> (Told, DateTime<Local>) {
        let now = Local::now();
        let at = (now - chrono::TimeDelta::seconds(ago)).to_rfc3339();
        (Told { level, at, delivered }, now)
    }

    #[test]
    fn what_is_news() {
        let now = Local::now();
        assert!(is_news(None, Level::Warning, now, HOUR));
        assert!(!is_news(None, Level::Ok, now, HOUR));
        let cases = [
            (Level::Warning, true, 10, Level::Warning, false),
            (Level::Warning, true, 3601, Level::Warning, true),
            (Level::Warning, true, 10, Level::Critical, true),
            (Level::Critical, true, 10, Level::Warning, true),
            (Level::Critical, true, 10, Level::Ok, true),
            (Level::Critical, false, 10, Level::Critical, false),
            (Level::Critical, false, 61, Level::Critical, true),
            (Level::Ok, false, 61, Level::Ok, true),
            (Level::Critical, true, -100, Level::Critical, true),
        ];
        for (last, delivered, ago, level, expected) in cases {
            let (last, now) = told(last, delivered, ago);
            assert_eq!(is_news(Some(&last), level, now, HOUR), expected, "{last:?} then {level:?}");
        }
    }

    #[test]
    fn a_message_becomes_one_line_of_bounded_length() {
        assert_eq!(one_line("a\nb\0c"), "a b c");
        let long = one_line(&"ö".repeat(5000));
        assert!(long.ends_with('…') && long.len() <= MESSAGE_MAX + '…'.len_utf8());
    }

    /// A notifier whose hooks append their message and their input to files named after the level.
    fn notifier(spool: &Path, repeat: Duration) -> Notifier {
        let hook = |level: &str| {
            let script = format!("echo \"$1\" >> '{0}/{level}'; cat >> '{0}/{level}.json'", spool.display());
            vec!["sh".to_owned(), "-c".to_owned(), script, "hook".to_owned()]
        };
        let hooks = config::Notify {
            ok: hook("ok"),
            warning: hook("warning"),
            critical: hook("critical"),
            repeat,
            deadline: Duration::from_secs(10),
        };
        Notifier::new(&hooks, spool, "alpha", "archive-wal")
    }

    fn lines(spool: &Path, level: &str) -> Vec<String> {
        let text = std::fs::read_to_string(spool.join(level)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_state_is_told_once_until_it_changes() {
        let folder = tempfile::tempdir().expect("because the test needs a directory");
        let spool = folder.path();
        notifier(spool, HOUR).report("dr", Level::Ok, "never told", json!({}));
        for _ in 0..2 {
            let notifier = notifier(spool, HOUR);
            notifier.report("dr", Level::Warning, "dr is down; $(touch pwned)", json!({"queue": 3}));
            notifier.report("dr", Level::Warning, "dr is still down", json!({}));
        }
        let notifier = notifier(spool, HOUR);
        notifier.report("dr", Level::Critical, "the queue is full", json!({}));
        notifier.report("other", Level::Critical, "another subject", json!({}));
        notifier.report("dr", Level::Ok, "dr is back", json!({}));
        notifier.report("dr", Level::Ok, "dr is still back", json!({}));
        assert_eq!(lines(spool, "warning"), ["dr is down; $(touch pwned)"]);
        assert_eq!(lines(spool, "critical"), ["the queue is full", "another subject"]);
        assert_eq!(lines(spool, "ok"), ["dr is back"]);
        let story: Notice = serde_json::from_str(&lines(spool, "warning.json").join("")).expect("because it is JSON");
        assert_eq!(
            (story.node.as_str(), story.program.as_str(), story.subject.as_str()),
            ("alpha", "archive-wal", "dr")
        );
        assert_eq!((story.level, story.details), (Level::Warning, json!({"queue": 3})));
        assert!(DateTime::parse_from_rfc3339(&story.time).is_ok(), "{}", story.time);
    }

    #[test]
    fn a_state_is_told_again_after_repeat() {
        let folder = tempfile::tempdir().expect("because the test needs a directory");
        let notifier = notifier(folder.path(), Duration::ZERO);
        for _ in 0..3 {
            notifier.report("dr", Level::Warning, "down", json!({}));
        }
        assert_eq!(lines(folder.path(), "warning").len(), 3);
    }

    #[test]
    fn a_hook_that_hangs_or_fails_is_ended_and_not_tried_at_once() {
        let folder = tempfile::tempdir().expect("because the test needs a directory");
        let mut notifier = notifier(folder.path(), HOUR);
        let script = format!("echo called >> '{}/calls'; sleep 300", folder.path().display());
        notifier.hooks.critical = vec!["sh".to_owned(), "-c".to_owned(), script];
        notifier.hooks.deadline = Duration::from_millis(300);
        let started = std::time::Instant::now();
        notifier.report("x", Level::Critical, "bad", json!({}));
        notifier.report("x", Level::Critical, "bad", json!({}));
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(lines(folder.path(), "calls").len(), 1);
        let memory = notifier.recall().expect("because it was just written");
        assert_eq!(memory.get("x").map(|told| told.delivered), Some(false));
    }

    #[test]
    fn of_many_processes_with_the_same_news_one_tells_it() {
        let folder = tempfile::tempdir().expect("because the test needs a directory");
        let notifier = notifier(folder.path(), HOUR);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| notifier.report("dr", Level::Warning, "down", json!({})));
            }
        });
        assert_eq!(lines(folder.path(), "warning"), ["down"]);
    }

    #[test]
    fn a_damaged_memory_is_begun_anew() {
        let folder = tempfile::tempdir().expect("because the test needs a directory");
        std::fs::write(folder.path().join("notify.json"), "{").expect("because the directory is ours");
        let notifier = notifier(folder.path(), HOUR);
        notifier.report("dr", Level::Warning, "down", json!({}));
        notifier.report("dr", Level::Warning, "down", json!({}));
        assert_eq!(lines(folder.path(), "warning"), ["down"]);
    }
}
