//! The server of a data directory: is it up, start it, stop it, promote it, make it read its settings.
//!
//! Promises three answers: up, down, or an error where that cannot be told; a data directory counts as down only when
//! no process of PostgreSQL works in it, whatever `postmaster.pid` says. Every wait has a deadline. Nothing goes
//! through a shell. Leaves out connections (see `connection`) and what the settings are (see `own_settings`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::config::{Config, Node};
use crate::error::{Class, Explain};
use crate::system::clock::Deadline;
use crate::system::process::{Call, ProcessError, spawn_detached};
use crate::wal::SegmentName;

/// How often to look whether a server has started or stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// So many lines of a server's log go into a message.
const LAST_LINES: usize = 5;

/// Where packages put PostgreSQL's programs; `{}` stands for the major version.
const PACKAGED: &[&str] = &["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin"];

/// What went wrong with a server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration does not say where it is.
    #[error("the configuration does not say where the server of '{node}' is: pgdata is not set")]
    NoDirectory { node: String },
    /// One of PostgreSQL's programs is nowhere.
    #[error("cannot find PostgreSQL's program '{program}' for '{}'", pgdata.display())]
    NoProgram { program: String, pgdata: PathBuf },
    /// It cannot be told whether it runs.
    #[error("cannot tell whether a server runs on '{}': cannot read '{}'", pgdata.display(), path.display())]
    CannotTell { pgdata: PathBuf, path: PathBuf, source: io::Error },
    /// A program did not do its work.
    #[error("cannot {job} the server of '{}'", pgdata.display())]
    Process { job: &'static str, pgdata: PathBuf, source: ProcessError },
    /// It ended, or refused.
    #[error("cannot {job} the server of '{}': {detail}", pgdata.display())]
    Failed { job: &'static str, pgdata: PathBuf, detail: String },
    /// It took too long.
    #[error("the server of '{}' did not {job} within {} s{}", pgdata.display(), after.as_secs(), so_far(state))]
    Timeout { job: &'static str, pgdata: PathBuf, after: Duration, state: String },
    /// There is none to talk to.
    #[error("no server runs on '{}'", pgdata.display())]
    NotRunning { pgdata: PathBuf },
}

fn so_far(state: &str) -> String {
    if state.is_empty() { String::new() } else { format!("; {state}") }
}

impl Explain for ServerError {
    fn class(&self) -> Class {
        match self {
            ServerError::NoDirectory { .. } => Class::Config,
            ServerError::CannotTell { .. } => Class::Storage,
            ServerError::Timeout { .. } => Class::Timeout,
            ServerError::NoProgram { .. }
            | ServerError::Process { .. }
            | ServerError::Failed { .. }
            | ServerError::NotRunning { .. } => Class::Postgres,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            ServerError::NoDirectory { node } => format!("Set node.{node}.pgdata."),
            ServerError::NoProgram { .. } => "Set local.pg_bin to the directory that holds pg_ctl.".to_owned(),
            ServerError::CannotTell { .. } => "Run this as the user who owns the data directory.".to_owned(),
            ServerError::Process { source, .. } => return source.hint(),
            ServerError::Failed { .. } => "Look at the server's log.".to_owned(),
            ServerError::Timeout { .. } => "It may still be at it: look at its log, and allow more time.".to_owned(),
            ServerError::NotRunning { .. } => "Start it, or look at its log for why it ended.".to_owned(),
        })
    }
}

/// How a server is asked to stop (PostgreSQL: shutdown modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Waits for clients to leave.
    Smart,
    /// Ends sessions, writes a shutdown checkpoint.
    Fast,
    /// Ends at once, without a checkpoint; the next start recovers.
    Immediate,
}

impl Mode {
    /// The signal that asks for it.
    fn signal(self) -> Signal {
        match self {
            Mode::Smart => Signal::TERM,
            Mode::Fast => Signal::INT,
            Mode::Immediate => Signal::QUIT,
        }
    }
}

/// Whether a server works on a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// No process of PostgreSQL works there.
    Down,
    /// A postmaster is there.
    Running(Running),
    /// The postmaster is gone, but processes it started still work there.
    Orphans(Vec<u32>),
}

/// What a postmaster says of itself in `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// It accepts connections (PM_STATUS_READY).
    pub ready: bool,
    /// It recovers as a standby and accepts none (PM_STATUS_STANDBY).
    pub standby: bool,
    /// Its port.
    pub port: u16,
    /// The folder of its socket, if it has one.
    pub socket_dir: Option<PathBuf>,
}

/// The server of one data directory.
#[derive(Debug, Clone)]
pub struct Server {
    pgdata: PathBuf,
    pg_bin: Option<PathBuf>,
    config_file: Option<PathBuf>,
    start_command: Vec<String>,
    stop_command: Vec<String>,
}

impl Server {
    /// The server of a node on this machine.
    pub fn new(config: &Config, node: &Node) -> Result<Server, ServerError> {
        let pgdata = node.pgdata.clone().ok_or_else(|| ServerError::NoDirectory { node: node.name.clone() })?;
        Ok(Server {
            pgdata,
            pg_bin: config.local.pg_bin.clone(),
            config_file: node.config_file.clone(),
            start_command: config.local.server_start.clone(),
            stop_command: config.local.server_stop.clone(),
        })
    }

    /// The server of a data directory of ours, started and stopped directly.
    pub fn at(pgdata: &Path, pg_bin: Option<&Path>, config_file: Option<&Path>) -> Server {
        Server {
            pgdata: pgdata.to_owned(),
            pg_bin: pg_bin.map(Path::to_owned),
            config_file: config_file.map(Path::to_owned),
            start_command: Vec::new(),
            stop_command: Vec::new(),
        }
    }

    /// Its data directory.
    pub fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    /// True where a command of the operator's starts it.
    pub fn has_commands(&self) -> bool {
        !self.start_command.is_empty()
    }

    /// Its `postgresql.conf`: as configured, in the data directory, or where Debian keeps that of a cluster.
    pub fn config_file(&self) -> PathBuf {
        let own = self.pgdata.join("postgresql.conf");
        match &self.config_file {
            Some(path) => path.clone(),
            None if own.exists() => own,
            None => debian(&self.pgdata).filter(|path| path.exists()).unwrap_or(own),
        }
    }

    /// One of PostgreSQL's programs, of the version of the data directory.
    pub fn program(&self, name: &str) -> Result<PathBuf, ServerError> {
        let mut folders: Vec<PathBuf> = self.pg_bin.iter().cloned().collect();
        if let Ok(Status::Running(running)) = self.status() {
            let program = fs::read_link(format!("/proc/{}/exe", running.pid)).ok();
            folders.extend(program.and_then(|path| path.parent().map(Path::to_owned)));
        }
        if let Ok(major) = fs::read_to_string(self.pgdata.join("PG_VERSION")) {
            folders.extend(PACKAGED.iter().map(|folder| PathBuf::from(folder.replace("{}", major.trim()))));
        }
        folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| ServerError::NoProgram { program: name.to_owned(), pgdata: self.pgdata.clone() })
    }

    /// Whether it runs. A `postmaster.pid` whose process is gone, or is none that works in this directory, is stale.
    pub fn status(&self) -> Result<Status, ServerError> {
        let cannot_tell = |path: &Path, source| ServerError::CannotTell {
            pgdata: self.pgdata.clone(),
            path: path.to_owned(),
            source,
        };
        let path = self.pgdata.join("postmaster.pid");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(cannot_tell(&path, error)),
        };
        let at_work = at_work(&self.pgdata).map_err(|error| cannot_tell(Path::new("/proc"), error))?;
        if let Some(running) = parse(&text).filter(|running| at_work.contains(&running.pid)) {
            return Ok(Status::Running(running));
        }
        Ok(if at_work.is_empty() { Status::Down } else { Status::Orphans(at_work) })
    }

    /// The segment that it replays while it recovers, as the title of its startup process says.
    pub fn recovering(&self) -> Option<SegmentName> {
        let titles =
            at_work(&self.pgdata).ok()?.into_iter().filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
        titles.filter_map(|title| String::from_utf8(title).ok()).find_map(|title| {
            let (_, segment) = title.split_once("startup recovering ")?;
            segment.trim_matches(|c: char| !c.is_ascii_hexdigit()).parse().ok()
        })
    }

    /// Starts it and waits until it accepts connections, or recovers without doing so. `options` go to `postgres` as
    /// they are, such as `-c` and `port=5433`, and are refused where a configured command starts it; `log` gets
    /// what it says before its own logging begins.
    pub fn start(&self, log: &Path, options: &[String], deadline: Deadline) -> Result<Running, ServerError> {
        let allowed = deadline.remaining();
        self.launch(log, options, deadline)?;
        loop {
            let status = self.status()?;
            if let Status::Running(running) = &status
                && (running.ready || running.standby)
            {
                return Ok(running.clone());
            }
            if status == Status::Down && self.ended() {
                return Err(self.failed("start", last_lines(log)));
            }
            if deadline.expired() {
                let state = last_lines(log);
                return Err(ServerError::Timeout { job: "start", pgdata: self.pgdata.clone(), after: allowed, state });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Stops it and waits until every process of it is gone. One that is down already is fine.
    pub fn stop(&self, mode: Mode, deadline: Deadline) -> Result<(), ServerError> {
        let allowed = deadline.remaining();
        match (self.status()?, self.stop_command.split_first()) {
            (Status::Down, _) => return Ok(()),
            (Status::Running(_), Some((program, arguments))) if mode != Mode::Immediate => {
                self.run("stop", Call::new(program).args(arguments), deadline)?;
            }
            (Status::Running(running), _) => self.signal("stop", running.pid, mode.signal())?,
            // They notice by themselves that their postmaster is gone.
            (Status::Orphans(_), _) => {}
        }
        while self.status()? != Status::Down {
            if deadline.expired() {
                let state = "clients or WAL that is not yet sent keep it up".to_owned();
                return Err(ServerError::Timeout { job: "stop", pgdata: self.pgdata.clone(), after: allowed, state });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Asks it to leave recovery (`pg_ctl promote`); does not wait until it has.
    pub fn promote(&self, deadline: Deadline) -> Result<(), ServerError> {
        let call = Call::new(self.program("pg_ctl")?).args(["promote", "-W", "-D"]).arg(&self.pgdata);
        self.run("promote", call, deadline)
    }

    /// Makes it read its settings again (SIGHUP).
    pub fn reload(&self) -> Result<(), ServerError> {
        match self.status()? {
            Status::Running(running) => self.signal("reload", running.pid, Signal::HUP),
            Status::Down | Status::Orphans(_) => Err(ServerError::NotRunning { pgdata: self.pgdata.clone() }),
        }
    }

    fn launch(&self, log: &Path, options: &[String], deadline: Deadline) -> Result<(), ServerError> {
        if let Some((program, arguments)) = self.start_command.split_first() {
            if !options.is_empty() {
                let detail = "local.server_start takes no further options".to_owned();
                return Err(self.failed("start", detail));
            }
            return self.run("start", Call::new(program).args(arguments), deadline);
        }
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.pgdata.clone().into()];
        let config_file = self.config_file();
        if config_file != self.pgdata.join("postgresql.conf") {
            arguments.extend(["-c".into(), format!("config_file={}", config_file.display()).into()]);
        }
        arguments.extend(options.iter().map(OsString::from));
        let started = spawn_detached(self.program("postgres")?, &arguments, Some(log));
        let pid =
            started.map_err(|source| ServerError::Process { job: "start", pgdata: self.pgdata.clone(), source })?;
        // Until its file lies there it is not gone but on its way. What a killed one left lying is not its file.
        while is_alive(pid) && !self.is_taken_by(pid) && !deadline.expired() {
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// True once `postmaster.pid` names this process.
    fn is_taken_by(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.pgdata.join("postmaster.pid")).unwrap_or_default();
        parse(&text).is_some_and(|running| running.pid == pid)
    }

    /// True where a server that was started is gone again: nobody holds the directory any more.
    fn ended(&self) -> bool {
        !self.pgdata.join("postmaster.pid").exists() || at_work(&self.pgdata).is_ok_and(|pids| pids.is_empty())
    }

    fn signal(&self, job: &'static str, pid: u32, signal: Signal) -> Result<(), ServerError> {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(process) = process else { return Err(self.failed(job, format!("'{pid}' is no process"))) };
        match kill_process(process, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(self.failed(job, format!("process {pid} cannot be signalled: {error}"))),
        }
    }

    fn run(&self, job: &'static str, call: Call, deadline: Deadline) -> Result<(), ServerError> {
        let outcome = call.run(deadline);
        let outcome = outcome.map_err(|source| ServerError::Process { job, pgdata: self.pgdata.clone(), source })?;
        if outcome.status.is_success() { Ok(()) } else { Err(self.failed(job, outcome.complaint())) }
    }

    fn failed(&self, job: &'static str, detail: String) -> ServerError {
        ServerError::Failed { job, pgdata: self.pgdata.clone(), detail }
    }
}

/// One of PostgreSQL's programs of a version, where there is no data directory yet.
pub fn program_of(pg_bin: Option<&Path>, major: u32, name: &str) -> Option<PathBuf> {
    let packaged = PACKAGED.iter().map(|folder| PathBuf::from(folder.replace("{}", &major.to_string())));
    let folders = pg_bin.map(Path::to_owned).into_iter().chain(packaged);
    let folders = folders.chain(std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect::<Vec<_>>());
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Where Debian keeps the configuration of `/var/lib/postgresql/<major>/<name>`.
fn debian(pgdata: &Path) -> Option<PathBuf> {
    let rest = pgdata.strip_prefix("/var/lib/postgresql").ok()?;
    (rest.components().count() == 2).then(|| Path::new("/etc/postgresql").join(rest).join("postgresql.conf"))
}

/// Reads `postmaster.pid`; nothing where it is not whole yet (PostgreSQL: LOCK_FILE_LINE_*).
fn parse(text: &str) -> Option<Running> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // A server in single-user mode notes its number with a minus sign.
    let pid = lines.first()?.parse::<i64>().ok()?.unsigned_abs();
    let state = lines.get(7).copied().unwrap_or_default();
    Some(Running {
        pid: u32::try_from(pid).ok()?,
        ready: state == "ready",
        standby: state == "standby",
        port: lines.get(3).and_then(|line| line.parse().ok()).unwrap_or_default(),
        socket_dir: lines.get(4).filter(|line| !line.is_empty()).map(PathBuf::from),
    })
}

/// Every process of PostgreSQL that works in a data directory: each has it as its working directory.
fn at_work(pgdata: &Path) -> io::Result<Vec<u32>> {
    use std::os::unix::fs::MetadataExt;
    let directory = match fs::metadata(pgdata) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that ends meanwhile works nowhere.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !matches!(name.trim_end(), "postgres" | "postmaster") {
            continue;
        }
        match fs::metadata(entry.path().join("cwd")) {
            Ok(there) if (there.dev(), there.ino()) == (directory.dev(), directory.ino()) => found.push(pid),
            // One of another user cannot work in a directory that is open to its owner alone, unless we are not the
            // owner; then the data directory is closed to us as well.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(found)
}

fn is_alive(pid: u32) -> bool {
    // A zombie has no working directory.
    fs::metadata(format!("/proc/{pid}/cwd")).is_ok()
}

/// The end of a server's log, for a message.
fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    if last.is_empty() { format!("it said nothing in '{}'", log.display()) } else { last.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID_FILE: &str = "4242\n/data\n1763740000\n5433\n/run/pg\nlocalhost\n  1234 5\nready   \n";

    #[test]
    fn a_lock_file_says_who_and_where() {
        let expected =
            Running { pid: 4242, ready: true, standby: false, port: 5433, socket_dir: Some("/run/pg".into()) };
        assert_eq!(parse(PID_FILE), Some(expected));
        assert_eq!(parse("-77\n/data\n").map(|it| (it.pid, it.ready)), Some((77, false)));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_number_that_another_process_has_now_counts_for_nothing() {
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        let ours = PID_FILE.replace("4242", &std::process::id().to_string());
        fs::write(folder.path().join("postmaster.pid"), ours).expect("because the directory is ours");
        let server = Server::at(folder.path(), None, None);
        assert_eq!(server.status().expect("because the directory is ours"), Status::Down);
    }

    #[test]
    fn debian_keeps_settings_elsewhere() {
        let path = debian(Path::new("/var/lib/postgresql/15/main"));
        assert_eq!(path, Some("/etc/postgresql/15/main/postgresql.conf".into()));
        assert_eq!(debian(Path::new("/srv/data")), None);
    }
}
