//! Writes and reads what the cluster keeps in the database: registrations, events, lag over time, reports, the pause.
//!
//! Every call is one statement with a deadline, on the primary. A write waits for the primary alone, never for a
//! synchronous standby: the monitor must be able to say that standbys are away.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::event::{Event, States};
use super::report::Report;
use super::view::{Mark, NodeView, View};
use crate::postgres::connection::{Connection, Row, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::error::PostgresError;
use crate::wal::Lsn;

const SESSION: Statement = Statement { name: "session", text: include_str!("../../sql/monitor/session.sql") };
const REGISTER: Statement = Statement { name: "register", text: include_str!("../../sql/monitor/register.sql") };
const RETIRE_PRIMARY: Statement =
    Statement { name: "retire_primary", text: include_str!("../../sql/monitor/retire_primary.sql") };
const UNREGISTER: Statement = Statement { name: "unregister", text: include_str!("../../sql/monitor/unregister.sql") };
const FORGET_STATES: Statement =
    Statement { name: "forget_states", text: include_str!("../../sql/monitor/forget_states.sql") };
const UPSTREAM: Statement = Statement { name: "upstream", text: include_str!("../../sql/monitor/upstream.sql") };
const TELL: Statement = Statement { name: "tell", text: include_str!("../../sql/monitor/tell.sql") };
const CATCH_UP: Statement = Statement { name: "catch_up", text: include_str!("../../sql/monitor/catch_up.sql") };
const RECORD_EVENT: Statement =
    Statement { name: "record_event", text: include_str!("../../sql/monitor/record_event.sql") };
const STATES: Statement = Statement { name: "states", text: include_str!("../../sql/monitor/states.sql") };
const EVENTS: Statement = Statement { name: "events", text: include_str!("../../sql/monitor/events.sql") };
const RECORD_LAG: Statement = Statement { name: "record_lag", text: include_str!("../../sql/monitor/record_lag.sql") };
const RECORD_REPORT: Statement =
    Statement { name: "record_report", text: include_str!("../../sql/monitor/record_report.sql") };
const POSITIONS: Statement = Statement { name: "positions", text: include_str!("../../sql/monitor/positions.sql") };
const PAST_LAG: Statement = Statement { name: "past_lag", text: include_str!("../../sql/monitor/past_lag.sql") };
const CLEANUP_LAG: Statement =
    Statement { name: "cleanup_lag", text: include_str!("../../sql/monitor/cleanup_lag.sql") };
const CLEANUP_EVENTS: Statement =
    Statement { name: "cleanup_events", text: include_str!("../../sql/monitor/cleanup_events.sql") };
const COUNT_OLD: Statement = Statement { name: "count_old", text: include_str!("../../sql/monitor/count_old.sql") };
const PAUSE: Statement = Statement { name: "pause", text: include_str!("../../sql/monitor/pause.sql") };
const RESUME: Statement = Statement { name: "resume", text: include_str!("../../sql/monitor/resume.sql") };

/// A row for the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registration {
    pub id: i32,
    pub name: String,
    pub kind: String,
    /// `primary`, `standby`, `dr` or `witness`.
    pub role: String,
    /// The number of the node it follows.
    pub upstream_id: Option<i32>,
    pub conninfo: Option<String>,
    pub slot: Option<String>,
}

/// An event as it was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    pub id: i64,
    pub node_id: Option<i32>,
    pub node: String,
    pub event: String,
    pub successful: bool,
    /// When, with offset.
    pub time: String,
    /// The same in seconds since 1970.
    pub epoch: f64,
    /// The node that saw it.
    pub observer: String,
    pub details: String,
}

/// How far a node was behind in one step of the past.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    pub node: String,
    /// When the step began, in seconds since 1970.
    pub at: f64,
    /// How far the primary had written when it was last looked at in that step.
    pub written: Lsn,
    /// When that was, in seconds since 1970.
    pub seen: f64,
    /// Bytes behind it; none: not known, or it was the primary.
    pub bytes: Option<u64>,
}

/// How much a clean-up removed, or would remove, in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub lag: i64,
    pub events: i64,
}

/// An open way to what is kept.
pub struct Records {
    connection: Connection,
}

type Result<T> = std::result::Result<T, PostgresError>;

impl Records {
    /// Connects; every later call is bounded by the same patience.
    pub fn open(conninfo: &str, patience: Duration, purpose: &str) -> Result<Records> {
        let connection = connect(&Conninfo::parse(conninfo)?, patience, purpose)?;
        let mut records = Records { connection };
        records.connection.execute(SESSION.name, SESSION.text)?;
        Ok(records)
    }

    /// The connection itself, for what is not about one table.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Registers a node, or writes down anew what it is. A new primary retires the one before it.
    pub fn register(&mut self, row: &Registration) -> Result<()> {
        self.connection.execute("begin", "BEGIN")?;
        let done = self.register_in_transaction(row);
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.connection.execute("end", end)?;
        done
    }

    fn register_in_transaction(&mut self, row: &Registration) -> Result<()> {
        if row.role == "primary" {
            self.connection.query(&RETIRE_PRIMARY, &[&row.name])?;
        }
        let Registration { id, name, kind, role, upstream_id, conninfo, slot } = row;
        self.connection.query(&REGISTER, &[id, name, kind, role, upstream_id, conninfo, slot]).map(drop)
    }

    /// Forgets a node.
    pub fn unregister(&mut self, name: &str) -> Result<()> {
        self.connection.query(&UNREGISTER, &[&name])?;
        self.connection.query(&FORGET_STATES, &[&name]).map(drop)
    }

    /// Writes down which node a standby follows now.
    pub fn follow(&mut self, name: &str, upstream: &str) -> Result<()> {
        self.connection.query(&UPSTREAM, &[&name, &upstream]).map(drop)
    }

    /// Writes a change down. True where it was news: a change that another daemon told already is none.
    pub fn tell(&mut self, event: &Event) -> Result<bool> {
        self.change(&TELL, event).map(|rows| !rows.is_empty())
    }

    /// Writes down a change that was told while nothing could be written.
    pub fn catch_up(&mut self, event: &Event) -> Result<()> {
        self.change(&CATCH_UP, event).map(drop)
    }

    fn change(&mut self, statement: &Statement, event: &Event) -> Result<Vec<Row>> {
        let Event { subject, state, node, event, successful, time, observer, details, .. } = event;
        self.connection.query(statement, &[subject, state, node, event, successful, time, observer, details])
    }

    /// Writes down an event that is no change of a state.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        let Event { node, event, successful, time, observer, details, .. } = event;
        self.connection.query(&RECORD_EVENT, &[node, event, successful, time, observer, details]).map(drop)
    }

    /// The state in which each subject was told to be last.
    pub fn states(&mut self) -> Result<States> {
        let rows = self.connection.query(&STATES, &[])?;
        let read = |row| {
            let subject = self.connection.column(&STATES, row, "subject")?;
            Ok((subject, self.connection.column(&STATES, row, "state")?))
        };
        rows.iter().map(read).collect()
    }

    /// The newest events first, so many at most.
    pub fn events(&mut self, node: Option<&str>, event: Option<&str>, most: i64) -> Result<Vec<Kept>> {
        let rows = self.connection.query(&EVENTS, &[&node, &event, &most])?;
        let connection = &self.connection;
        let read = |row| {
            Ok(Kept {
                id: connection.column(&EVENTS, row, "id")?,
                node_id: connection.column(&EVENTS, row, "node_id")?,
                node: connection.column(&EVENTS, row, "node_name")?,
                event: connection.column(&EVENTS, row, "event")?,
                successful: connection.column(&EVENTS, row, "successful")?,
                time: connection.column(&EVENTS, row, "happened_at")?,
                epoch: connection.column(&EVENTS, row, "epoch")?,
                observer: connection.column(&EVENTS, row, "observer")?,
                details: connection.column(&EVENTS, row, "details")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Writes down how far a node is; nothing where no primary is known.
    pub fn record_lag(&mut self, view: &View, node: &NodeView) -> Result<()> {
        let Some(reference) = view.reference.as_ref().filter(|reference| reference.live) else { return Ok(()) };
        let lag = &node.lag;
        let text = |mark: &Option<Mark>| mark.map(|mark| mark.lsn.to_string());
        let seconds = |mark: &Option<Mark>| mark.and_then(|mark| mark.seconds);
        let timeline = node.timeline.map(|timeline| i64::from(timeline.0));
        let archived = lag.archived.or(lag.relayed);
        self.connection
            .query(
                &RECORD_LAG,
                &[
                    &node.name,
                    &reference.node,
                    &timeline,
                    &reference.lsn.to_string(),
                    &text(&lag.sent),
                    &text(&lag.written),
                    &text(&lag.flushed),
                    &text(&lag.replayed),
                    &text(&lag.archived),
                    &text(&lag.relayed),
                    &text(&lag.restorable),
                    &seconds(&lag.flushed),
                    &seconds(&lag.replayed),
                    &seconds(&archived),
                    &node.replayed_age_seconds,
                ],
            )
            .map(drop)
    }

    /// Keeps what a node says of itself.
    pub fn record_report(&mut self, node: &str, report: &Report) -> Result<()> {
        let json = serde_json::to_string(report).expect("because plain data has no reason not to become JSON");
        self.connection.query(&RECORD_REPORT, &[&node, &json]).map(drop)
    }

    /// Where the primary was when, over the last hour; oldest first.
    pub fn positions(&mut self) -> Result<Vec<(SystemTime, Lsn)>> {
        let rows = self.connection.query(&POSITIONS, &[])?;
        let mut positions = Vec::new();
        for row in &rows {
            let epoch: f64 = self.connection.column(&POSITIONS, row, "epoch")?;
            let text: String = self.connection.column(&POSITIONS, row, "lsn")?;
            if let (Ok(since), Ok(lsn)) = (Duration::try_from_secs_f64(epoch), text.parse()) {
                positions.push((SystemTime::UNIX_EPOCH + since, lsn));
            }
        }
        Ok(positions)
    }

    /// Lag over the last hour in steps of so long, oldest first.
    pub fn past_lag(&mut self, step: Duration) -> Result<Vec<Past>> {
        let rows = self.connection.query(&PAST_LAG, &[&step.as_secs_f64()])?;
        let mut past = Vec::new();
        for row in &rows {
            let written: String = self.connection.column(&PAST_LAG, row, "written")?;
            let Ok(written) = written.parse() else { continue };
            let bytes: Option<i64> = self.connection.column(&PAST_LAG, row, "bytes")?;
            past.push(Past {
                node: self.connection.column(&PAST_LAG, row, "name")?,
                at: self.connection.column(&PAST_LAG, row, "at")?,
                written,
                seen: self.connection.column(&PAST_LAG, row, "seen")?,
                // Two nodes are not looked at in the same moment, so one may seem to be ahead.
                bytes: bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
            });
        }
        Ok(past)
    }

    /// Removes what is older: history of lag, and events.
    pub fn clean_up(&mut self, lag: Duration, events: Duration) -> Result<Removed> {
        let mut count = |statement: &Statement, age: Duration| -> Result<i64> {
            let row = self.connection.query_one(statement, &[&age.as_secs_f64()])?;
            self.connection.column(statement, &row, "removed")
        };
        Ok(Removed { lag: count(&CLEANUP_LAG, lag)?, events: count(&CLEANUP_EVENTS, events)? })
    }

    /// What a clean-up would remove.
    pub fn count_old(&mut self, lag: Duration, events: Duration) -> Result<Removed> {
        let row = self.connection.query_one(&COUNT_OLD, &[&lag.as_secs_f64(), &events.as_secs_f64()])?;
        let column = |name: &str| self.connection.column(&COUNT_OLD, &row, name);
        Ok(Removed { lag: column("lag")?, events: column("events")? })
    }

    /// Pauses the monitor, for a while or until it is resumed.
    pub fn pause(&mut self, lasting: Option<Duration>, node: &str, reason: &str) -> Result<()> {
        let seconds = lasting.map(|lasting| lasting.as_secs_f64());
        self.connection.query(&PAUSE, &[&seconds, &node, &reason]).map(drop)
    }

    /// Ends a pause; false where there was none.
    pub fn resume(&mut self) -> Result<bool> {
        Ok(!self.connection.query(&RESUME, &[])?.is_empty())
    }
}
