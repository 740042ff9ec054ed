//! What one server said of itself, and what came instead of an answer: plain data.
//!
//! An [`Observation`] is the row of `sql/monitor/sample.sql`. What the role may not see, or what a server of its kind
//! does not have, is `None`, never zero. A [`Sight`] adds the other answers: the node has no server, or it did not
//! answer and how. Nothing is decided here.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

use crate::postgres::error::PostgresError;
use crate::wal::{Lsn, SegmentSize, SystemId, TimelineId};

/// A server at one moment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Observation {
    /// `server_version_num`
    pub version: u32,
    /// Database system identifier.
    #[serde(deserialize_with = "system_id")]
    pub system_identifier: SystemId,
    /// `wal_segment_size`
    pub segment_size: SegmentSize,
    /// `pg_postmaster_start_time()`, seconds since 1970 by the server's clock.
    pub started: f64,
    /// `pg_is_in_recovery()`
    pub in_recovery: bool,
    /// On a primary the timeline it writes; on a standby the newest it has seen.
    pub timeline: TimelineId,
    /// Primary only: `pg_current_wal_lsn()`.
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub position: Option<Lsn>,
    /// Standby only, and only if it streams or has streamed: `pg_last_wal_receive_lsn()`.
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub received: Option<Lsn>,
    /// Standby only: `pg_last_wal_replay_lsn()`.
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub replayed: Option<Lsn>,
    /// Standby only: how long ago the last replayed transaction was committed, in seconds by the standby's clock.
    pub replayed_age: Option<f64>,
    /// Standby only: `pg_get_wal_replay_pause_state()`.
    pub pause: Option<String>,
    /// `recovery_min_apply_delay`, in seconds.
    pub delay: f64,
    /// `synchronous_standby_names`
    pub synchronous_standby_names: String,
    /// `archive_mode`
    pub archive_mode: String,
    /// `pg_stat_wal_receiver`; none where nothing is received.
    pub receiver: Option<Receiver>,
    /// `pg_stat_replication`
    pub senders: Vec<Sender>,
    /// `pg_replication_slots`
    pub slots: Vec<Slot>,
    /// `pg_stat_archiver`
    pub archiver: Archiver,
    /// What waits for the archiver; none where it was not asked for.
    #[serde(skip)]
    pub ready: Option<Result<Ready, String>>,
}

/// `pg_stat_wal_receiver`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Receiver {
    /// `streaming`, `waiting`, …
    pub status: Option<String>,
    /// `sender_host`: a name, an address, or the directory of a socket.
    pub host: Option<String>,
    /// `sender_port`
    pub port: Option<u16>,
    /// `slot_name`
    pub slot: Option<String>,
    /// The connection string, secrets left out by the server.
    pub conninfo: Option<String>,
    /// `written_lsn`
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub written: Option<Lsn>,
    /// `flushed_lsn`
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub flushed: Option<Lsn>,
    /// How long ago the sender was heard, in seconds.
    pub heard_age: Option<f64>,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Sender {
    /// `application_name`
    pub name: Option<String>,
    /// `client_addr`; none for a socket.
    pub address: Option<String>,
    /// `state`: `streaming`, `catchup`, `backup`, …
    pub state: Option<String>,
    /// `sent_lsn`
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub sent: Option<Lsn>,
    /// `write_lsn`
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub written: Option<Lsn>,
    /// `flush_lsn`
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub flushed: Option<Lsn>,
    /// `replay_lsn`
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub replayed: Option<Lsn>,
    /// `write_lag`, in seconds.
    pub write_lag: Option<f64>,
    /// `flush_lag`, in seconds.
    pub flush_lag: Option<f64>,
    /// `replay_lag`, in seconds.
    pub replay_lag: Option<f64>,
    /// `sync_state`: `async`, `potential`, `sync` or `quorum`.
    pub sync_state: Option<String>,
    /// `sync_priority`
    pub sync_priority: Option<i32>,
}

/// A row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Slot {
    /// `slot_name`
    pub name: String,
    /// `slot_type`: `physical` or `logical`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True while something uses it.
    pub active: bool,
    /// True for one that goes with its session.
    pub temporary: bool,
    /// `restart_lsn`: the oldest WAL it holds back.
    #[serde(default, deserialize_with = "as_text::deserialize")]
    pub restart: Option<Lsn>,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// `safe_wal_size`: how many bytes may be written before it is in danger.
    pub safe: Option<i64>,
}

/// `pg_stat_archiver`; ages in seconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Archiver {
    /// `archived_count`
    pub archived: u64,
    /// `last_archived_wal`
    pub last_archived: Option<String>,
    /// Since `last_archived_time`; none: never.
    pub last_archived_age: Option<f64>,
    /// `failed_count`
    pub failed: u64,
    /// `last_failed_wal`
    pub last_failed: Option<String>,
    /// Since `last_failed_time`; none: never.
    pub last_failed_age: Option<f64>,
}

/// The `.ready` files of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// How many.
    pub files: u64,
    /// The oldest, and its age in seconds; none where nothing waits.
    pub oldest: Option<(String, f64)>,
}

impl Observation {
    /// Reads the JSON of `sql/monitor/sample.sql`.
    pub fn parse(text: &str) -> Result<Observation, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// How far WAL is on this server: written on a primary, received or replayed on a standby, whichever is further.
    pub fn reach(&self) -> Option<Lsn> {
        let received = self.receiver.as_ref().and_then(|receiver| receiver.flushed).or(self.received);
        self.position.or_else(|| received.max(self.replayed))
    }

    /// True while a receiver is at work.
    pub fn is_streaming(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| receiver.status.as_deref() == Some("streaming"))
    }
}

/// How a node failed to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The machine says that nobody listens.
    Refused,
    /// Nothing came back.
    Silent,
    /// It takes connections and then says nothing, or too slowly.
    Hung,
    /// It runs and takes no sessions now.
    Starting,
    /// It runs and has no free connection.
    Full,
    /// It does not let us in.
    Denied,
    /// A connection broke that stood before.
    Broken,
    /// Anything else, such as a connection string that makes no sense.
    Other,
}

impl How {
    /// What an error of a connection means.
    pub fn of(error: &PostgresError) -> How {
        match error {
            PostgresError::AllFailed(errors) => errors.first().map_or(How::Other, How::of),
            PostgresError::Refused { .. } => How::Refused,
            PostgresError::Silent { .. } | PostgresError::Unreachable { .. } | PostgresError::NoTime { .. } => {
                How::Silent
            }
            PostgresError::Hung { .. } | PostgresError::QueryTimeout { .. } => How::Hung,
            PostgresError::StartingUp { .. } => How::Starting,
            PostgresError::TooManyConnections { .. } => How::Full,
            PostgresError::Authentication { .. }
            | PostgresError::NoPassword { .. }
            | PostgresError::AuthenticationMethod { .. } => How::Denied,
            PostgresError::Lost { .. } => How::Broken,
            _ => How::Other,
        }
    }

    /// True where the server itself has answered: it lives, whatever else is wrong.
    pub fn proves_alive(self) -> bool {
        matches!(self, How::Starting | How::Full | How::Denied)
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            How::Refused => "refused",
            How::Silent => "silent",
            How::Hung => "hung",
            How::Starting => "starting",
            How::Full => "full",
            How::Denied => "denied",
            How::Broken => "broken",
            How::Other => "unknown",
        }
    }
}

/// What a look at a node brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    /// It has no server to look at.
    NoServer,
    /// It answered.
    Seen(Box<Observation>),
    /// It did not.
    Unseen { how: How, why: String },
}

impl Sight {
    /// The answer, if there is one.
    pub fn seen(&self) -> Option<&Observation> {
        match self {
            Sight::Seen(observation) => Some(observation),
            Sight::NoServer | Sight::Unseen { .. } => None,
        }
    }
}

/// A look at a node and when it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// What it brought.
    pub sight: Sight,
    /// When, by our clock.
    pub at: SystemTime,
    /// How long the answer took.
    pub took: Duration,
    /// For how long the node has not answered; zero where it did.
    pub unseen_for: Duration,
}

fn system_id<'de, D: Deserializer<'de>>(from: D) -> Result<SystemId, D::Error> {
    let text = String::deserialize(from)?;
    // The server shows the unsigned number as a signed one.
    text.parse::<i64>().map(|number| SystemId(number.cast_unsigned())).map_err(serde::de::Error::custom)
}

/// Positions as PostgreSQL writes them, such as `16/B374D848`.
pub mod as_text {
    use super::{Deserialize, Deserializer, Lsn};
    use serde::Serializer;

    /// Reads one, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }

    /// Writes one, or null.
    pub fn serialize<S: Serializer>(lsn: &Option<Lsn>, into: S) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => into.collect_str(lsn),
            None => into.serialize_none(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A primary at this position.
    pub fn primary(position: &str) -> Observation {
        let text = format!(
            r#"{{"version":150018,"system_identifier":"-7","segment_size":16777216,"started":1.5,"in_recovery":false,
            "timeline":1,"position":"{position}","received":null,"replayed":null,"replayed_age":null,"pause":null,
            "delay":0,"synchronous_standby_names":"","archive_mode":"off","receiver":null,"senders":[],"slots":[],
            "archiver":{{"archived":0,"last_archived":null,"last_archived_age":null,"failed":0,"last_failed":null,
            "last_failed_age":null}}}}"#
        );
        Observation::parse(&text).expect("because it is what the statement answers")
    }

    /// A standby that streams from a host and port, and is so far.
    pub fn standby(flushed: &str, replayed: &str, from: (&str, u16)) -> Observation {
        let lsn = |text: &str| text.parse().expect("because it is well formed");
        let receiver = Receiver {
            status: Some("streaming".to_owned()),
            host: Some(from.0.to_owned()),
            port: Some(from.1),
            slot: None,
            conninfo: None,
            written: Some(lsn(flushed)),
            flushed: Some(lsn(flushed)),
            heard_age: Some(0.1),
        };
        Observation {
            in_recovery: true,
            position: None,
            received: Some(lsn(flushed)),
            replayed: Some(lsn(replayed)),
            pause: Some("not paused".to_owned()),
            receiver: Some(receiver),
            ..primary("0/0")
        }
    }

    #[test]
    fn the_answer_of_a_server_is_read_and_null_stays_unknown() {
        let seen = primary("16/B374D848");
        assert_eq!(seen.position, Some(Lsn(0x16_B374_D848)));
        assert_eq!(seen.system_identifier, SystemId(u64::MAX - 6));
        assert_eq!((seen.received, seen.receiver.clone()), (None, None));
        assert_eq!(seen.reach(), seen.position);
        assert!(Observation::parse("{}").is_err());
    }

    #[test]
    fn a_standby_reaches_as_far_as_it_has_flushed_or_replayed() {
        let mut seen = standby("0/500", "0/400", ("db1", 5432));
        assert_eq!(seen.reach(), Some(Lsn(0x500)));
        assert!(seen.is_streaming());
        // One that replays from an archive has received nothing, or something long ago.
        seen.receiver = None;
        seen.received = Some(Lsn(0x300));
        assert_eq!(seen.reach(), Some(Lsn(0x400)));
        assert!(!seen.is_streaming());
    }
}
