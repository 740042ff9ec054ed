//! Point-in-time restores: planned, done, and rehearsed.
//!
//! [`observe`] looks at backups, WAL and histories; [`plan`] chooses the backup and the way through the timelines, asks
//! a [`locate::Reader`] where the target lies, and refuses before anything is touched. [`run`] does it: restores, with
//! the [`settings`] that a recovery needs; [`follow`] starts the server and waits until it is there; [`drill`]
//! rehearses all that. This module holds what is asked for ([`Wish`]) and what is answered ([`Plan`] or [`Refusal`]).

pub mod drill;
pub mod follow;
pub mod locate;
pub mod observe;
pub mod plan;
pub mod reader;
pub mod run;
pub mod settings;

use chrono::{DateTime, Utc};
use serde::Serialize;

use self::locate::Way;
use super::BackupError;
use super::catalog::{Description, Kind, Label};
use crate::archive::continuity::Gap;
use crate::archive::window::shown;
use crate::error::{Class, Explain};
use crate::wal::commit::Ended;
use crate::wal::target::Goal;
use crate::wal::{Lsn, SegmentName, TimelineId};

/// Microseconds from 1970 to PostgreSQL's epoch, 2000-01-01 UTC.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// What a recovery is to reach (PostgreSQL: recovery_target_*).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The end of the WAL.
    Latest,
    /// As soon as the data are consistent.
    Immediate,
    /// This time, by the commit times in the WAL.
    Time(DateTime<Utc>),
    /// This transaction.
    Xid(u32),
    /// This position.
    Lsn(Lsn),
    /// This restore point.
    Name(String),
}

/// Which timeline is followed (recovery_target_timeline).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// The newest.
    Latest,
    /// That of the backup.
    Current,
    /// This one.
    Timeline(TimelineId),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What is to be reached.
    pub target: Target,
    /// True: the target itself is still replayed (recovery_target_inclusive).
    pub inclusive: bool,
    /// On which timeline.
    pub along: Along,
    /// From which backup; none: the newest that leads there.
    pub backup: Option<Label>,
}

/// How a restore would be done. What `pitr-restore plan --json` prints as `plan`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// What is to be reached.
    pub target: Aim,
    /// The backup that is restored.
    pub backup: Chosen,
    /// The timeline that recovery follows.
    pub timeline: TimelineId,
    /// The WAL that is replayed, by timeline.
    pub legs: Vec<Leg>,
    /// How many segments those are.
    pub segments: u64,
    /// How many bytes those are, as the server reads them.
    pub bytes: u64,
    /// Where recovery ends.
    pub end: End,
    /// What can be reached on this timeline.
    pub window: Window,
    /// How long it takes, by the newest drill; none where there was none.
    pub expected: Option<Expected>,
    /// What a person should know.
    pub notices: Vec<String>,
    /// The segments that recovery reads.
    #[serde(skip)]
    pub way: Way,
}

/// Where a recovery came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// Up to where WAL was replayed.
    #[serde(serialize_with = "shown::text")]
    pub lsn: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// When the last commit replayed happened; none where it was not found near.
    #[serde(serialize_with = "shown::time")]
    pub last_commit: Option<DateTime<Utc>>,
    /// The transaction of that commit.
    pub last_commit_xid: Option<u32>,
}

impl Reached {
    /// Where a recovery by this plan came to.
    pub fn new(plan: &Plan, lsn: Lsn, last: Option<Ended>) -> Reached {
        // The byte before: a position at a fork is still the parent's.
        let timeline = plan.way.history.timeline_at(Lsn(lsn.0.saturating_sub(1)));
        let last_commit = last.and_then(|ended| moment(ended.time));
        Reached { lsn, timeline, last_commit, last_commit_xid: last.map(|ended| ended.xid) }
    }
}

/// What is to be reached, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aim {
    /// `latest`, `immediate`, `time`, `xid`, `lsn` or `name`.
    pub kind: &'static str,
    /// The value that the server is told; none for `latest` and `immediate`.
    pub value: Option<String>,
    /// True: the target itself is still replayed.
    pub inclusive: bool,
}

/// The backup that is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// Its name.
    pub label: Label,
    /// What it holds.
    pub kind: Kind,
    /// When it was whole, with offset.
    pub stopped: String,
    /// Where recovery begins.
    #[serde(serialize_with = "shown::text")]
    pub start: Lsn,
    /// Where the data are consistent.
    #[serde(serialize_with = "shown::text")]
    pub consistent: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
    /// What its files hold, in bytes.
    pub size: u64,
    /// What it takes in the archive, in bytes.
    pub stored: u64,
}

/// The WAL of one timeline that is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first segment read from it.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
    /// Where the next timeline left it; none on the last one.
    #[serde(serialize_with = "shown::lsn")]
    pub left_at: Option<Lsn>,
}

/// Where a recovery ends, as the records say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// Up to where WAL is replayed.
    #[serde(serialize_with = "shown::text")]
    pub lsn: Lsn,
    /// The record that is the target; none for `latest` and `immediate`.
    #[serde(serialize_with = "shown::lsn")]
    pub record: Option<Lsn>,
    /// The time in that record.
    #[serde(serialize_with = "shown::time")]
    pub record_time: Option<DateTime<Utc>>,
    /// When the last commit that is replayed happened; none where none was found near.
    #[serde(serialize_with = "shown::time")]
    pub last_commit: Option<DateTime<Utc>>,
    /// The transaction of that commit.
    pub last_commit_xid: Option<u32>,
}

/// What can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The end of the earliest backup that can be used.
    #[serde(serialize_with = "shown::text")]
    pub from: Lsn,
    /// When it ended.
    #[serde(serialize_with = "shown::time")]
    pub from_time: Option<DateTime<Utc>>,
    /// The end of the WAL that hangs together.
    #[serde(serialize_with = "shown::text")]
    pub until: Lsn,
    /// When the last commit in it happened.
    #[serde(serialize_with = "shown::time")]
    pub until_time: Option<DateTime<Utc>>,
}

/// How long a restore is expected to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expected {
    /// Restoring the files.
    pub restore_seconds: f64,
    /// Replaying WAL.
    pub replay_seconds: f64,
    /// The drill by which that is reckoned: when it began.
    pub measured: String,
}

/// Why a restore would not get there.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
    /// WAL that is missing on the way.
    pub gaps: Vec<Gap>,
    /// What can be reached instead, where that is known.
    pub window: Option<Window>,
}

/// Why there is no plan.
#[derive(Debug)]
pub enum Halt {
    /// The target cannot be reached.
    Refused(Box<Refusal>),
    /// It could not be found out.
    Trouble(BackupError),
}

impl<E: Into<BackupError>> From<E> for Halt {
    fn from(error: E) -> Halt {
        Halt::Trouble(error.into())
    }
}

impl Refusal {
    /// A refusal without gaps.
    pub fn new(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), hint: hint.into(), gaps: Vec::new(), window: None }
    }

    /// Adds what is missing.
    pub fn with_gaps(self, gaps: Vec<Gap>) -> Refusal {
        Refusal { gaps, ..self }
    }
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Halt {
        Halt::Refused(Box::new(refusal))
    }
}

impl Target {
    /// What is looked for in the records; nothing for `latest` and `immediate`.
    pub fn goal(&self) -> Goal {
        match self {
            Target::Latest | Target::Immediate => Goal::Nothing,
            Target::Time(time) => Goal::Time(time.timestamp_micros() - EPOCH_MICROSECONDS),
            Target::Xid(xid) => Goal::Xid(*xid),
            Target::Lsn(lsn) => Goal::Lsn(*lsn),
            Target::Name(name) => Goal::Name(name.clone()),
        }
    }

    /// What it is, and the value that the server is told.
    pub fn aim(&self, inclusive: bool) -> Aim {
        let (kind, value) = match self {
            Target::Latest => ("latest", None),
            Target::Immediate => ("immediate", None),
            Target::Time(time) => ("time", Some(time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string())),
            Target::Xid(xid) => ("xid", Some(xid.to_string())),
            Target::Lsn(lsn) => ("lsn", Some(lsn.to_string())),
            Target::Name(name) => ("name", Some(name.clone())),
        };
        Aim { kind, value, inclusive }
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = if self.inclusive { "" } else { ", itself left out" };
        match (self.kind, &self.value) {
            ("latest", _) => f.write_str("the end of the WAL"),
            ("immediate", _) => f.write_str("the end of the backup"),
            ("name", Some(value)) => write!(f, "restore point '{value}'"),
            ("xid", Some(value)) => write!(f, "transaction {value}{before}"),
            ("lsn", Some(value)) => write!(f, "position {value}{before}"),
            (kind, value) => write!(f, "{kind} {}{before}", value.as_deref().unwrap_or_default()),
        }
    }
}

/// The time of PostgreSQL's microseconds since 2000-01-01 UTC.
pub fn moment(microseconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(microseconds.checked_add(EPOCH_MICROSECONDS)?)
}

impl Chosen {
    fn new(backup: &Description) -> Chosen {
        Chosen {
            label: backup.label.clone(),
            kind: backup.kind,
            stopped: backup.stopped.clone(),
            start: backup.start_lsn,
            consistent: backup.stop_lsn,
            timeline: backup.timeline,
            size: backup.size,
            stored: backup.stored,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

impl Explain for Refusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_the_microsecond_and_with_its_zone() {
        let time = DateTime::parse_from_rfc3339("2026-03-01T12:00:00.123456+01:00").expect("because it is a time");
        let target = Target::Time(time.to_utc());
        assert_eq!(target.aim(true).value.as_deref(), Some("2026-03-01 11:00:00.123456+00"));
        let Goal::Time(microseconds) = target.goal() else { panic!("a time is looked for") };
        assert_eq!(moment(microseconds), Some(time.to_utc()));
        assert_eq!(target.aim(false).to_string(), "time 2026-03-01 11:00:00.123456+00, itself left out");
    }
}
