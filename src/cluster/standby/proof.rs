//! Waits until a standby does what it is there for, and says from where: it replays, and it streams.
//!
//! "Started" proves nothing. Streaming counts when the receiver is connected to the server that was meant, on that
//! server's timeline, and replay has reached where that server was when the waiting began. A standby that lives on
//! shipped WAL must have replayed into the newest segment that the primary has archived. A warm one takes no
//! connections: its control file and the title of its startup process are the witnesses.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::StandbyError;
use super::ask::{self, AskError, unexpected};
use super::facts::There;
use super::step::Goal;
use crate::archive::window::shown;
use crate::backup::Watcher;
use crate::config::{Config, NodeKind, StandbyMode};
use crate::error::Failure;
use crate::postgres::connection::{Connection, Statement};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::facts::{column, lsn, time};
use crate::postgres::server::{Running, Server, Status};
use crate::system::clock::Deadline;
use crate::wal::{Lsn, SegmentName};

/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const STATE: Statement = Statement { name: "standby_state", text: include_str!("../../../sql/standby_state.sql") };

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// How far it has replayed; none where it takes no connections.
    #[serde(serialize_with = "shown::lsn")]
    pub replayed: Option<Lsn>,
    /// When the last replayed transaction was committed on the primary.
    #[serde(serialize_with = "moment")]
    pub replayed_at: Option<SystemTime>,
    /// The server that it streams from; none: it lives on shipped WAL.
    pub streaming: Option<Streaming>,
    /// The segment that it replays, where that is all that can be seen.
    pub segment: Option<SegmentName>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A stream (`pg_stat_wal_receiver`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Streaming {
    /// The node.
    pub node: String,
    /// The host, address or socket directory.
    pub host: String,
    /// The port.
    pub port: i32,
    /// The timeline.
    pub timeline: i64,
    /// The slot.
    pub slot: Option<String>,
    /// How far it has received.
    #[serde(serialize_with = "shown::lsn")]
    pub received: Option<Lsn>,
}

fn moment<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    shown::time(&time.map(Into::into), serializer)
}

/// What a running standby says about itself.
#[derive(Debug, Clone, PartialEq)]
struct State {
    in_recovery: bool,
    replayed: Option<Lsn>,
    received: Option<Lsn>,
    replayed_at: Option<SystemTime>,
    status: Option<String>,
    host: Option<String>,
    port: Option<i32>,
    slot: Option<String>,
    timeline: Option<i64>,
}

/// Waits.
pub fn prove(
    config: &Arc<Config>,
    server: &Server,
    goal: &Goal,
    deadline: Duration,
    watcher: &dyn Watcher,
) -> Result<Proof, StandbyError> {
    let waiting = Waiting { config, server, goal, until: Deadline::after(deadline), began: Instant::now() };
    watcher.phase("catching up");
    let (proof, state) = match goal.mode {
        StandbyMode::Warm => waiting.warm(watcher)?,
        _ => waiting.answering(watcher)?,
    };
    proof.ok_or_else(|| waiting.in_vain(deadline, state))
}

struct Waiting<'a> {
    config: &'a Arc<Config>,
    server: &'a Server,
    goal: &'a Goal,
    until: Deadline,
    began: Instant,
}

/// What came of it: the proof, or the last that was seen.
type Seen = (Option<Proof>, String);

impl Waiting<'_> {
    /// Asks the standby itself.
    fn answering(&self, watcher: &dyn Watcher) -> Result<Seen, StandbyError> {
        let upstream = self.goal.upstream.as_ref().map(|(node, _)| self.position_of(node)).transpose()?;
        let archived = if upstream.is_none() { self.newest_archived() } else { None };
        let mut connection: Option<Connection> = None;
        let mut seen = "it does not answer yet".to_owned();
        let mut behind = None;
        loop {
            match self.ask(&mut connection) {
                Ok(state) => {
                    if !state.in_recovery {
                        return Err(self.no_standby());
                    }
                    if let Some(proof) = self.judge(&state, upstream.as_ref(), archived) {
                        return Ok((Some(proof), seen));
                    }
                    let target = upstream.as_ref().map(|there| there.position);
                    report(&mut behind, target, state.replayed, watcher);
                    seen = words(&state);
                }
                Err(error) => {
                    connection = None;
                    seen = error.message;
                    self.still_there(&seen)?;
                }
            }
            if self.until.expired() {
                return Ok((None, seen));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn ask(&self, connection: &mut Option<Connection>) -> Result<State, Failure> {
        if connection.is_none() {
            *connection = Some(ask::open(self.config, self.config.own()).map_err(Failure::from)?);
        }
        let open = connection.as_mut().expect("because it was opened above");
        let row = open.query_one(&STATE, &[]).map_err(|error| Failure::of(&error))?;
        let read = || -> Result<State, String> {
            Ok(State {
                in_recovery: column(&row, "in_recovery")?,
                replayed: lsn(&row, "replayed_lsn")?,
                received: lsn(&row, "received_lsn")?,
                replayed_at: time(&row, "replayed_at")?,
                status: column(&row, "status")?,
                host: column(&row, "sender_host")?,
                port: column(&row, "sender_port")?,
                slot: column(&row, "slot_name")?,
                timeline: column(&row, "timeline")?,
            })
        };
        read().map_err(|detail| Failure::of(&unexpected(detail)))
    }

    /// The proof, if what is seen is one.
    fn judge(&self, state: &State, upstream: Option<&There>, archived: Option<SegmentName>) -> Option<Proof> {
        let proof = |streaming| Proof {
            replayed: state.replayed,
            replayed_at: state.replayed_at,
            streaming,
            segment: None,
            seconds: self.began.elapsed().as_secs_f64(),
        };
        let (Some((node, conninfo)), Some(there)) = (&self.goal.upstream, upstream) else {
            let replayed = state.replayed?;
            // The last record of a segment may end in the next one, so its beginning must do.
            let size = self.control().ok()?.segment_size;
            let into = archived.and_then(|name| name.number(size)).map_or(Lsn::INVALID, |number| number.start(size));
            return (replayed > into).then(|| proof(None));
        };
        let streaming = Streaming {
            node: node.clone(),
            host: state.host.clone()?,
            port: state.port?,
            timeline: state.timeline?,
            slot: state.slot.clone(),
            received: state.received,
        };
        let come = if self.goal.delayed { state.received } else { state.replayed };
        let right = state.status.as_deref() == Some("streaming")
            && leads_there(conninfo, &streaming)
            && streaming.timeline == i64::from(there.timeline.0)
            && come.is_some_and(|come| come >= there.position);
        right.then(|| proof(Some(streaming)))
    }

    /// Looks at files and processes: nobody is let in.
    fn warm(&self, watcher: &dyn Watcher) -> Result<Seen, StandbyError> {
        let archived = self.newest_archived();
        let mut seen;
        loop {
            let control = self.control()?;
            let running = match self.server.status()? {
                Status::Running(running) => running,
                _ => return Err(self.ended("it ended")),
            };
            let consistent = control.state == ClusterState::InArchiveRecovery && control.backup_start == Lsn::INVALID;
            let segment = title(&running);
            // Without a title nobody can say more than that.
            let far = segment.is_none_or(|now| archived.is_none_or(|then| now.position() >= then.position()));
            if consistent && far && running.standby {
                let seconds = self.began.elapsed().as_secs_f64();
                let proof = Proof { replayed: None, replayed_at: None, streaming: None, segment, seconds };
                return Ok((Some(proof), String::new()));
            }
            seen = match segment {
                Some(segment) => format!("it replays '{segment}'"),
                None => format!("it is {}", control.state),
            };
            watcher.phase(&seen);
            if self.until.expired() {
                return Ok((None, seen));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn control(&self) -> Result<ControlFile, StandbyError> {
        Ok(ControlFile::read(self.server.pgdata())?)
    }

    /// Where the upstream is now; what comes later need not be waited for.
    fn position_of(&self, name: &str) -> Result<There, StandbyError> {
        let node = self
            .config
            .node(name)
            .ok_or_else(|| StandbyError::refused(format!("there is no node '{name}'"), "Correct the configuration."))?;
        let mut connection = ask::open(self.config, node)?;
        Ok(ask::there(&mut connection).map_err(AskError::from)?)
    }

    /// The newest segment that a primary has archived; none where no primary answers.
    fn newest_archived(&self) -> Option<SegmentName> {
        let others = self.config.nodes.iter().filter(|it| it.name != self.config.local.node);
        let servers = others.filter(|it| it.kind != NodeKind::Witness && it.conninfo.is_some());
        let asked = servers.filter_map(|node| ask::there(&mut ask::open(self.config, node).ok()?).ok());
        asked.filter(|there| there.primary).find_map(|there| there.archived)
    }

    /// A server that ended will not come back.
    fn still_there(&self, seen: &str) -> Result<(), StandbyError> {
        if self.server.status()? == Status::Down { Err(self.ended(seen)) } else { Ok(()) }
    }

    fn ended(&self, seen: &str) -> StandbyError {
        StandbyError::refused(
            format!("the server of '{}' ended while it was waited for: {seen}", self.server.pgdata().display()),
            "Look at its log, mend what it says, and run this again: it goes on here.",
        )
    }

    fn no_standby(&self) -> StandbyError {
        StandbyError::refused(
            format!("the server of '{}' takes writes: somebody has promoted it", self.server.pgdata().display()),
            "Find out who; two primaries must not go on.",
        )
    }

    fn in_vain(&self, deadline: Duration, state: String) -> StandbyError {
        let what = match &self.goal.upstream {
            Some((node, _)) => format!("the standby does not stream from {node}, or has not caught up"),
            None => "the standby has not replayed what was shipped".to_owned(),
        };
        StandbyError::NotProven {
            what,
            after: deadline,
            state,
            hint: "It goes on by itself; its log says what it waits for. Run this again to wait longer (standby.deadline)."
                .to_owned(),
        }
    }
}

/// True where the receiver is connected to the server that `primary_conninfo` names.
fn leads_there(conninfo: &str, streaming: &Streaming) -> bool {
    let Ok(conninfo) = Conninfo::parse(conninfo) else { return false };
    let named = |key: &str| conninfo.get(key).map(str::to_owned);
    // A service file may name them instead.
    if named("service").is_some() {
        return true;
    }
    let hosts = [named("hostaddr"), named("host")].into_iter().flatten();
    let mut hosts = hosts.flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>());
    let ports = named("port").unwrap_or_else(|| "5432".to_owned());
    let port = streaming.port.to_string();
    ports.split(',').any(|it| it.trim() == port) && hosts.any(|host| host == streaming.host)
}

fn report(behind: &mut Option<u64>, target: Option<Lsn>, replayed: Option<Lsn>, watcher: &dyn Watcher) {
    let (Some(target), Some(replayed)) = (target, replayed) else { return };
    let now = target.0.saturating_sub(replayed.0);
    match *behind {
        None => watcher.begin(now),
        Some(before) => watcher.advance(before.saturating_sub(now)),
    }
    *behind = Some(now);
}

fn words(state: &State) -> String {
    let replayed = state.replayed.map_or_else(|| "nothing yet".to_owned(), |lsn| lsn.to_string());
    let receiver = match (&state.status, &state.host, state.port) {
        (Some(status), Some(host), Some(port)) => format!("its receiver is {status} from {host}:{port}"),
        (Some(status), ..) => format!("its receiver is {status}"),
        _ => "nothing streams to it".to_owned(),
    };
    format!("it has replayed {replayed}, and {receiver}")
}

/// The segment in the title of the startup process (update_process_title).
fn title(running: &Running) -> Option<SegmentName> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid)).ok()?;
    children.split_whitespace().find_map(|child| {
        let title = fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
        let title = title.replace('\0', " ");
        let words: Vec<&str> = title.split_whitespace().collect();
        words.contains(&"startup").then(|| words.iter().find_map(|word| word.parse().ok())).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_from_elsewhere_is_no_proof() {
        let streaming = |host: &str, port| Streaming {
            node: "db1".to_owned(),
            host: host.to_owned(),
            port,
            timeline: 1,
            slot: None,
            received: None,
        };
        let there = "host=db1.example.net,db1 port=5433 application_name=db2";
        assert!(leads_there(there, &streaming("db1", 5433)));
        assert!(!leads_there(there, &streaming("db1", 5432)));
        assert!(!leads_there(there, &streaming("db3", 5433)));
        assert!(leads_there("host=/run/postgresql", &streaming("/run/postgresql", 5432)));
        assert!(leads_there("hostaddr=10.0.0.1 host=db1", &streaming("10.0.0.1", 5432)));
    }
}
