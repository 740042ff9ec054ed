//! Starts a restored server and follows its recovery to the end.
//!
//! How far it has come is asked of the server once it answers, and seen in the title of its startup process before. A
//! server that ends, or that does not get there in time, is told with its own last lines and what they mostly mean.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::{BackupError, Watcher};
use super::settings::Action;
use crate::error::Class;
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::error::PostgresError;
use crate::postgres::server::{Running, Server, ServerError, Status};
use crate::system::clock::Deadline;
use crate::wal::{Lsn, SegmentSize};

const STATE: Statement = Statement { name: "recovery_state", text: include_str!("../../../sql/recovery_state.sql") };

/// How often the server is asked how far it has come.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that is busy opening may refuse sessions for so long before that is told.
const SILENCE: Duration = Duration::from_secs(60);

/// So many of the last lines of a server's log go into a message.
const LAST_LINES: usize = 6;

/// What a server says when recovery goes wrong, and what to do about it.
const HINTS: &[(&str, &str)] = &[
    (
        "recovery ended before configured recovery target was reached",
        "The WAL ends before the target: make the plan again.",
    ),
    (
        "restore-wal: HINT",
        "WAL could not be fetched; restore-wal says above what to do. Then run this again: it goes on.",
    ),
    ("could not create any", "Its port or socket is taken: add --setting port=5433, or another free one."),
    ("could not bind", "Its port is taken: add --setting port=5433, or another free one."),
    ("could not access file", "A library of the original server is not installed here."),
    ("could not map", "There is not enough memory: add --setting shared_buffers=128MB."),
    ("insufficient parameter settings", "Set what it names at least as high as on the original, with --setting."),
    ("is not a child of this server's history", "The backup does not lead to that timeline: make the plan again."),
];

/// A recovery that is followed.
pub struct Following<'a> {
    /// The server.
    pub server: &'a Server,
    /// Where it says what it does.
    pub log: &'a Path,
    /// More for its command line.
    pub options: &'a [String],
    /// Roles to ask it as, in this order.
    pub users: &'a [String],
    /// What it does at the end; none: it stays a standby and is only to answer.
    pub until: Option<Action>,
    /// Where recovery begins.
    pub start: Lsn,
    /// Where it ends, as planned.
    pub end: Lsn,
    /// The size of a segment.
    pub size: SegmentSize,
    /// Up to when.
    pub deadline: Deadline,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
}

/// Where recovery came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Up to where WAL is replayed.
    pub lsn: Lsn,
    /// What the server does now; none: it is a standby.
    pub now: Option<Action>,
    /// How long it took from the start.
    pub took: Duration,
}

/// What the server answers.
struct State {
    recovering: bool,
    replayed: Option<Lsn>,
    paused: bool,
}

impl Following<'_> {
    /// Starts the server, or goes on with one that runs already, and waits until it is where it should be.
    pub fn follow(&self) -> Result<Arrived, BackupError> {
        let begun = Instant::now();
        let mut progress = Progress { following: self, told: self.start };
        self.watcher.phase("replaying WAL");
        self.watcher.begin(self.end.0.saturating_sub(self.start.0));
        let running = match self.server.status()? {
            Status::Running(running) if running.ready || running.standby => running,
            _ => match self.start(&mut progress) {
                Ok(running) => running,
                Err(error) => return self.ended_by_itself(begun, error),
            },
        };
        if let Some(arrived) = self.ask_until_there(&running, begun, &mut progress)? {
            return Ok(arrived);
        }
        let gone = ServerError::NotRunning { pgdata: self.server.pgdata().to_owned() };
        self.ended_by_itself(begun, gone)
    }

    /// Starts it and waits until it answers; that is when its data are consistent.
    fn start(&self, progress: &mut Progress<'_>) -> Result<Running, ServerError> {
        std::thread::scope(|scope| {
            let started = scope.spawn(|| self.server.start(self.log, self.options, self.deadline));
            while !started.is_finished() {
                progress.by_title();
                std::thread::sleep(LOOK_AGAIN);
            }
            started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Asks the server how far it is, until it is where it should be; nothing where it is gone.
    fn ask_until_there(
        &self,
        running: &Running,
        begun: Instant,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Arrived>, BackupError> {
        let mut connection: Option<Connection> = None;
        let mut silence = Deadline::after(SILENCE);
        loop {
            let answered = match &mut connection {
                Some(open) => state(open),
                None => self.session(running).and_then(|open| state(connection.insert(open))),
            };
            match answered {
                Ok(state) => {
                    silence = Deadline::after(SILENCE);
                    if let Some(lsn) = state.replayed {
                        progress.reached(lsn);
                    }
                    if let (Some(now), Some(lsn)) = (self.there(&state), state.replayed) {
                        return Ok(Some(Arrived { lsn, now, took: begun.elapsed() }));
                    }
                }
                Err(error) => {
                    connection = None;
                    if self.server.status()? == Status::Down {
                        return Ok(None);
                    }
                    if silence.expired() {
                        return Err(error.into());
                    }
                }
            }
            if self.deadline.expired() {
                return Err(self.late(begun));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What it does, if that is what it should.
    fn there(&self, state: &State) -> Option<Option<Action>> {
        match self.until {
            None => state.recovering.then_some(None),
            Some(Action::Pause) => (state.recovering && state.paused).then_some(Some(Action::Pause)),
            Some(Action::Promote) => (!state.recovering).then_some(Some(Action::Promote)),
            Some(Action::Shutdown) => None,
        }
    }

    /// A session as the first role that the server takes.
    fn session(&self, running: &Running) -> Result<Connection, PostgresError> {
        let mut refused = None;
        for user in self.users {
            match connect(&conninfo(running, user, "postgres")?, PATIENCE, "pitr-restore") {
                Ok(connection) => return Ok(connection),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| PostgresError::NoTime { server: self.server.pgdata().display().to_string() }))
    }

    /// A server that ended: right where the target's action is to shut down, and it says that it stopped there.
    fn ended_by_itself(&self, begun: Instant, error: ServerError) -> Result<Arrived, BackupError> {
        if matches!(error, ServerError::Timeout { .. }) {
            return Err(self.late(begun));
        }
        let said = tail(self.log);
        let stopped = said.iter().any(|line| line.contains("recovery stopping"));
        if self.until == Some(Action::Shutdown) && stopped && self.server.status()? == Status::Down {
            let control = ControlFile::read(self.server.pgdata())?;
            if control.state == ClusterState::ShutDownInRecovery {
                return Ok(Arrived { lsn: self.end, now: self.until, took: begun.elapsed() });
            }
        }
        if !matches!(error, ServerError::Failed { .. } | ServerError::NotRunning { .. }) {
            return Err(error.into());
        }
        Err(self.failure(Class::Postgres, "recovery did not get there", &said))
    }

    fn late(&self, begun: Instant) -> BackupError {
        let what = format!("recovery was not there within {} s", begun.elapsed().as_secs());
        self.failure(Class::Timeout, &what, &tail(self.log))
    }

    fn failure(&self, class: Class, what: &str, said: &[String]) -> BackupError {
        let last = &said[said.len().saturating_sub(LAST_LINES)..];
        let known = HINTS.iter().find(|(words, _)| said.iter().any(|line| line.contains(words)));
        let hint = known.map_or("The whole story stands in its log", |(_, hint)| hint);
        BackupError::Recovery {
            pgdata: self.server.pgdata().to_owned(),
            detail: format!("{what}; it said: {}", last.join(" | ")),
            hint: format!("{} (log: {}).", hint.trim_end_matches('.'), self.log.display()),
            class,
        }
    }
}

/// Tells a watcher how far it is; never backwards.
struct Progress<'a> {
    following: &'a Following<'a>,
    told: Lsn,
}

impl Progress<'_> {
    fn reached(&mut self, lsn: Lsn) {
        if lsn > self.told {
            self.following.watcher.advance(lsn.0 - self.told.0);
            self.told = lsn;
            self.following.watcher.phase(&format!("replayed up to {lsn}"));
        }
    }

    /// Before the data are consistent the server answers nobody.
    fn by_title(&mut self) {
        let segment = self.following.server.recovering().and_then(|name| name.number(self.following.size));
        if let Some(segment) = segment {
            self.reached(segment.start(self.following.size));
        }
    }
}

/// How to reach a server of this machine.
pub fn conninfo(running: &Running, user: &str, database: &str) -> Result<Conninfo, PostgresError> {
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let host = running.socket_dir.clone().unwrap_or_else(|| PathBuf::from("localhost"));
    let (host, user, database) = (quoted(&host.display().to_string()), quoted(user), quoted(database));
    Ok(Conninfo::parse(&format!("host={host} port={} user={user} dbname={database}", running.port))?)
}

fn state(connection: &mut Connection) -> Result<State, PostgresError> {
    let row = connection.query_one(&STATE, &[])?;
    let wrong = |detail: String| PostgresError::Answer {
        server: "the restored server".to_owned(),
        statement: STATE.name.to_owned(),
        detail,
    };
    let flag = |name: &str| row.try_get::<_, bool>(name).map_err(|error| wrong(error.to_string()));
    let lsn: Option<String> = row.try_get("replayed_lsn").map_err(|error| wrong(error.to_string()))?;
    let replayed = lsn.map(|lsn| lsn.parse::<Lsn>()).transpose().map_err(|error| wrong(error.to_string()))?;
    Ok(State { recovering: flag("in_recovery")?, paused: flag("paused")?, replayed })
}

/// The last lines of a log.
fn tail(log: &Path) -> Vec<String> {
    const BYTES: usize = 32 << 10;
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(BYTES)..]).into_owned();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
