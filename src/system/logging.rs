//! Where log lines go: standard error, and on request a file and syslog.
//!
//! PostgreSQL copies a command's standard error into its own log, so lines there look like its own: the program, a
//! level word of PostgreSQL's (DEBUG, LOG, WARNING, ERROR), the text in one line. simplelog combines the sinks; its own
//! sinks are not used, since their line cannot name program and process, they keep writing to a file that was rotated
//! away, and there is none for syslog. A log that cannot be written never fails the command: its work matters more.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::Local;
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config as SinkConfig, SharedLogger};

/// The target of a record that says what to do about the record before it.
pub const HINT: &str = "HINT";

/// The socket that syslog listens on.
pub const SYSLOG: &str = "/dev/log";

/// syslog's facility LOCAL0, which is PostgreSQL's own default.
const FACILITY: u8 = 16;

/// Where log lines go.
#[derive(Debug, Clone)]
pub struct Sinks {
    /// The program's name.
    pub program: &'static str,
    /// What is less important is left out.
    pub level: LevelFilter,
    /// Appended to, made with mode 0600.
    pub file: Option<PathBuf>,
    /// syslog's socket.
    pub syslog: Option<PathBuf>,
}

static STARTED: AtomicBool = AtomicBool::new(false);

/// Starts logging; once a process. A second call changes nothing.
pub fn start(sinks: &Sinks) {
    if CombinedLogger::init(loggers(sinks)).is_ok() {
        STARTED.store(true, Ordering::Release);
    }
}

/// True once [`start`] has been called, so that errors may go through the log.
pub fn started() -> bool {
    STARTED.load(Ordering::Acquire)
}

fn loggers(sinks: &Sinks) -> Vec<Box<dyn SharedLogger>> {
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![Sink::boxed(sinks.level, StandardError(sinks.program))];
    if let Some(path) = &sinks.file {
        let file = LogFile { program: sinks.program, path: path.clone(), open: Mutex::new(None) };
        loggers.push(Sink::boxed(sinks.level, file));
    }
    if let Some(path) = &sinks.syslog {
        let syslog = Syslog { program: sinks.program, path: path.clone(), socket: Mutex::new(None) };
        loggers.push(Sink::boxed(sinks.level, syslog));
    }
    loggers
}

/// PostgreSQL's word for the level of a record.
fn word(record: &Record<'_>) -> &'static str {
    match record.level() {
        _ if record.target() == HINT => HINT,
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "LOG",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

/// Makes one line of a text: whoever reads a log line by line must not see half a message.
pub fn flatten(text: &str) -> String {
    let pieces = text.split(|c: char| c.is_control()).map(str::trim).filter(|piece| !piece.is_empty());
    pieces.collect::<Vec<_>>().join(" ")
}

/// A place for lines.
trait Lines: Send + Sync + 'static {
    /// Writes one record whose text is already one line; trouble is swallowed.
    fn write(&self, level: Level, word: &str, text: &str);
}

/// A place for lines with its level, as simplelog combines them.
struct Sink<L> {
    level: LevelFilter,
    lines: L,
}

impl<L: Lines> Sink<L> {
    fn boxed(level: LevelFilter, lines: L) -> Box<dyn SharedLogger> {
        Box::new(Sink { level, lines })
    }
}

impl<L: Lines> Log for Sink<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What the libraries tell of themselves is for someone who looks for a bug.
        let ours = metadata.target() == HINT || metadata.target().starts_with("pgwarm");
        metadata.level() <= self.level && (ours || self.level >= LevelFilter::Debug)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.lines.write(record.level(), word(record), &flatten(&record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

impl<L: Lines> SharedLogger for Sink<L> {
    fn level(&self) -> LevelFilter {
        self.level
    }

    fn config(&self) -> Option<&SinkConfig> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// Writes one line to standard error, in one call so that lines of several processes do not mix.
pub fn write_error_line(program: &str, word: &str, text: &str) {
    let line = format!("{program}: {word}: {}\n", flatten(text));
    // Nobody is left to tell if standard error is gone.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Standard error, for the program of that name.
struct StandardError(&'static str);

impl Lines for StandardError {
    fn write(&self, _level: Level, word: &str, text: &str) {
        write_error_line(self.0, word, text);
    }
}

/// A file, opened when first needed and again once it has been rotated away.
struct LogFile {
    program: &'static str,
    path: PathBuf,
    open: Mutex<Option<File>>,
}

impl LogFile {
    /// True if the path still names the open file.
    fn current(&self, file: &File) -> bool {
        match (file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Lines for LogFile {
    fn write(&self, _level: Level, word: &str, text: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.as_ref().is_some_and(|file| self.current(file)) {
            *open = open_log(&self.path).ok();
        }
        let now = Local::now().format("%Y-%m-%d %H:%M:%S%.3f%:z");
        let line = format!("{now} {}[{}]: {word}: {text}\n", self.program, std::process::id());
        if let Some(file) = open.as_mut() {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// syslog over its datagram socket, in the form of RFC 3164.
struct Syslog {
    program: &'static str,
    path: PathBuf,
    socket: Mutex<Option<UnixDatagram>>,
}

/// Never waits: a syslog that does not read must not hold up archiving.
fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

impl Lines for Syslog {
    fn write(&self, level: Level, word: &str, text: &str) {
        let severity = match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        let now = Local::now().format("%b %e %H:%M:%S");
        let line =
            format!("<{}>{now} {}[{}]: {word}: {text}", FACILITY * 8 + severity, self.program, std::process::id());
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // A syslog that was restarted has a new socket under the same name, so one more try is fair.
        for _ in 0..2 {
            if socket.is_none() {
                *socket = connect(&self.path).ok();
            }
            match socket.as_ref().map(|socket| socket.send(line.as_bytes())) {
                Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => *socket = None,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs one record through the sinks, as the log crate would.
    fn log(loggers: &[Box<dyn SharedLogger>], target: &str, level: Level, text: &str) {
        for logger in loggers {
            let record = format_args!("{text}");
            logger.log(&Record::builder().args(record).target(target).level(level).build());
        }
    }

    fn sinks(file: Option<PathBuf>, syslog: Option<PathBuf>) -> Vec<Box<dyn SharedLogger>> {
        // Standard error is left to tests/config.rs, which can read it.
        loggers(&Sinks { program: "archive-wal", level: LevelFilter::Info, file, syslog }).split_off(1)
    }

    #[test]
    fn a_file_gets_one_line_a_record_and_is_private() {
        let folder = tempfile::tempdir().expect("because tests need a temporary folder");
        let path = folder.path().join("log");
        let sinks = sinks(Some(path.clone()), None);
        log(&sinks, "pgwarm::archive", Level::Warn, "two\nlines");
        log(&sinks, HINT, Level::Error, "Do this.");
        log(&sinks, "pgwarm::archive", Level::Debug, "too much");
        log(&sinks, "tokio_postgres", Level::Info, "not ours");
        let text = std::fs::read_to_string(&path).expect("because it was just written");
        let lines: Vec<&str> = text.lines().collect();
        let process = format!("archive-wal[{}]", std::process::id());
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with(&format!(" {process}: WARNING: two lines")), "{text}");
        assert!(lines[1].ends_with(&format!(" {process}: HINT: Do this.")), "{text}");
        assert!(chrono::DateTime::parse_from_str(&lines[0][..29], "%Y-%m-%d %H:%M:%S%.3f%:z").is_ok(), "{text}");
        let mode = std::fs::metadata(&path).map(|facts| facts.mode() & 0o777).ok();
        assert_eq!(mode, Some(0o600));
    }

    #[test]
    fn a_file_that_was_rotated_away_is_made_anew() {
        let folder = tempfile::tempdir().expect("because tests need a temporary folder");
        let path = folder.path().join("log");
        let sinks = sinks(Some(path.clone()), None);
        log(&sinks, "pgwarm", Level::Info, "first");
        std::fs::rename(&path, folder.path().join("log.1")).expect("because the folder is ours");
        log(&sinks, "pgwarm", Level::Info, "second");
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert!(text("log").ends_with("LOG: second\n") && !text("log").contains("first"));
        assert!(text("log.1").ends_with("LOG: first\n"));
    }

    #[test]
    fn syslog_gets_datagrams_and_may_be_restarted() {
        let folder = tempfile::tempdir().expect("because tests need a temporary folder");
        let path = folder.path().join("socket");
        let receive = |socket: &UnixDatagram| {
            let mut buffer = [0; 500];
            let count = socket.recv(&mut buffer).expect("because a datagram was sent");
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        let bind = || {
            let socket = UnixDatagram::bind(&path).expect("because the folder is ours");
            socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("because it is not zero");
            socket
        };
        let sinks = sinks(None, Some(path.clone()));
        log(&sinks, "pgwarm", Level::Info, "nobody listens");
        let socket = bind();
        log(&sinks, "pgwarm", Level::Error, "[remote] down");
        let line = receive(&socket);
        assert!(line.starts_with("<131>"), "{line}");
        assert!(line.ends_with(&format!(" archive-wal[{}]: ERROR: [remote] down", std::process::id())), "{line}");
        drop(socket);
        std::fs::remove_file(&path).expect("because the folder is ours");
        let socket = bind();
        log(&sinks, "pgwarm", Level::Warn, "again");
        assert!(receive(&socket).starts_with("<132>"));
    }

    #[test]
    fn a_log_that_cannot_be_written_is_no_failure() {
        let sinks = sinks(Some("/nonexistent/log".into()), Some("/nonexistent/socket".into()));
        log(&sinks, "pgwarm", Level::Error, "still alive");
    }

    #[test]
    fn a_text_becomes_one_line() {
        assert_eq!(flatten("a\n  b\r\n\x1b[1mc\t"), "a b [1mc");
        assert_eq!(flatten(""), "");
    }
}
