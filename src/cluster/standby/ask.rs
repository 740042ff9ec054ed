//! What is asked of servers, and the few things done there: a slot made, a slot dropped, a checkpoint.

use std::time::Duration;

use super::StandbyError;
use super::facts::{Slot, There, Upstream};
use super::request::slot_name;
use crate::cluster::contact::{self, ContactError};
use crate::config::{Config, Node};
use crate::error::{Class, Failure};
use crate::postgres::base_copy;
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::error::PostgresError;
use crate::postgres::facts::{NodeFacts, column};
use crate::system::clock::Deadline;
use crate::wal::{Lsn, SegmentName, TimelineHistory, TimelineId, WalName};

/// How long a server may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether a slot is free.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a checkpoint may take.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(600);

const UPSTREAM: Statement = Statement { name: "upstream", text: include_str!("../../../sql/upstream.sql") };
const OLDEST_WAL: Statement = Statement { name: "oldest_wal", text: include_str!("../../../sql/oldest_wal.sql") };
const HISTORY: Statement =
    Statement { name: "timeline_history", text: include_str!("../../../sql/timeline_history.sql") };
const SLOT: Statement = Statement { name: "slot", text: include_str!("../../../sql/slot.sql") };
const MAKE_SLOT: Statement = Statement { name: "make_slot", text: include_str!("../../../sql/make_slot.sql") };
const DROP_SLOT: Statement = Statement { name: "drop_slot", text: include_str!("../../../sql/drop_slot.sql") };

/// Why a server did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The configuration does not lead there.
    #[error(transparent)]
    Contact(#[from] ContactError),
    /// The server.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl From<AskError> for StandbyError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Contact(error) => error.into(),
            AskError::Postgres(error) => error.into(),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Contact(error) => Failure::of(&error),
            AskError::Postgres(error) => Failure::of(&error),
        }
    }
}

/// A session with the server of a node.
pub fn open(config: &Config, node: &Node) -> Result<Connection, AskError> {
    Ok(connect(&contact::conninfo(config, node)?, PATIENCE, "standby-init")?)
}

/// What a server is and how far it has come.
pub fn there(connection: &mut Connection) -> Result<There, PostgresError> {
    let facts = connection.node_facts()?;
    let ours = |command: &String| command.is_empty() || command.contains("archive-wal");
    let off = facts.archive_mode.as_deref() == Some("off");
    let library = facts.archive_library.as_ref().is_some_and(|library| !library.is_empty());
    Ok(There {
        primary: !facts.in_recovery,
        system_id: facts.system_id,
        timeline: facts.timeline,
        position: position(&facts),
        received: facts.received,
        segment_size: facts.segment_size,
        major: facts.version / 10_000,
        archived: facts.archiver.last_archived.and_then(|name| name.parse().ok()),
        ships: off || (!library && facts.archive_command.as_ref().is_none_or(ours)),
    })
}

/// Written on a primary, replayed on a standby.
fn position(facts: &NodeFacts) -> Lsn {
    facts.current.or(facts.replayed).unwrap_or(Lsn::INVALID)
}

/// Everything that matters about a server that is to be copied or followed.
pub fn upstream(config: &Config, node: &Node, slot: Option<&str>) -> Result<Upstream, StandbyError> {
    let mut connection = open(config, node)?;
    let there = there(&mut connection)?;
    let row = connection.query_one(&UPSTREAM, &[])?;
    let size: Option<i64> = column(&row, "size").map_err(unexpected)?;
    let keep: Option<i64> = column(&row, "slot_keep").map_err(unexpected)?;
    let conninfo = contact::primary_conninfo(config, node, config.standby.user.as_deref())?;
    Ok(Upstream {
        node: node.name.clone(),
        conninfo: conninfo.to_string(),
        size: size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        spaces: base_copy::tablespaces(&mut connection)?.into_iter().collect(),
        slot: slot.map_or(Ok(Slot::Unasked), |slot| look_at_slot(&mut connection, slot))?,
        slots_bounded: keep.is_some_and(|keep| keep >= 0),
        // Another role replicates then; what it may do is seen when it tries.
        may_replicate: config.standby.user.is_some() || column(&row, "may_replicate").map_err(unexpected)?,
        no_rewind: no_rewind(
            column(&row, "may_read").map_err(unexpected)?,
            column(&row, "full_pages").map_err(unexpected)?,
            &node.name,
        ),
        wal_level: column(&row, "wal_level").map_err(unexpected)?,
        // What these two need may be denied; then the archives are asked, or nothing is concluded.
        oldest: oldest(&mut connection),
        history: history(config, node, there.timeline),
        there,
    })
}

fn no_rewind(may_read: bool, full_pages: bool, node: &str) -> Option<String> {
    match (may_read, full_pages) {
        (false, _) => Some(format!("the role that we connect to {node} as may not read its files")),
        (_, false) => Some(format!("full_page_writes is off on {node}")),
        _ => None,
    }
}

fn oldest(connection: &mut Connection) -> Option<SegmentName> {
    let rows = connection.query(&OLDEST_WAL, &[]).ok()?;
    column::<String>(rows.first()?, "segment").ok()?.parse().ok()
}

/// The history of a timeline as a server holds it. In a session of its own: a refusal ends what a session can be used
/// for.
pub fn history(config: &Config, node: &Node, timeline: TimelineId) -> Result<TimelineHistory, String> {
    if timeline.0 <= 1 {
        return Ok(TimelineHistory { timeline, ancestors: Vec::new() });
    }
    let name = WalName::History(timeline).to_string();
    let words = |error: AskError| Failure::from(error).message;
    let mut connection = open(config, node).map_err(words)?;
    let row = connection.query_one(&HISTORY, &[&name]).map_err(|error| words(error.into()))?;
    let text = column::<Option<String>>(&row, "history")?.ok_or_else(|| format!("{} has no '{name}'", node.name))?;
    TimelineHistory::parse(timeline, &text).map_err(|error| error.to_string())
}

fn look_at_slot(connection: &mut Connection, slot: &str) -> Result<Slot, StandbyError> {
    let rows = connection.query(&SLOT, &[&slot])?;
    let Some(row) = rows.first() else { return Ok(Slot::Absent) };
    Ok(match (column(row, "physical").map_err(unexpected)?, column(row, "active").map_err(unexpected)?) {
        (false, _) => Slot::Logical,
        (true, true) => Slot::Active,
        (true, false) => Slot::Free,
    })
}

/// What a slot of that name is.
pub fn slot(config: &Config, node: &Node, slot: &str) -> Result<Slot, StandbyError> {
    look_at_slot(&mut open(config, node)?, slot)
}

/// Makes a slot.
pub fn make_slot(config: &Config, node: &Node, slot: &str) -> Result<(), StandbyError> {
    open(config, node)?.query(&MAKE_SLOT, &[&slot])?;
    Ok(())
}

/// Holds back WAL on a server for as long as the session lives. One that has no slot left may still do.
pub fn hold_wal(config: &Config, node: &Node) -> Result<Connection, StandbyError> {
    let mut connection = open(config, node)?;
    let name = format!("{}_copy", slot_name(&config.local.node).chars().take(58).collect::<String>());
    base_copy::hold_wal(&mut connection, &name);
    Ok(connection)
}

/// How a person drops a slot.
pub fn dropping(slot: &str) -> String {
    format!("SELECT pg_drop_replication_slot('{}')", slot.replace('\'', "''"))
}

/// Drops a slot, if it is there. The server takes a moment to see that whoever used it is gone.
pub fn drop_slot(config: &Config, node: &Node, slot: &str) -> Result<(), StandbyError> {
    let (mut connection, until) = (open(config, node)?, Deadline::after(PATIENCE));
    loop {
        connection.query(&DROP_SLOT, &[&slot])?;
        match look_at_slot(&mut connection, slot)? {
            Slot::Active if !until.expired() => std::thread::sleep(LOOK_AGAIN),
            Slot::Active => {
                return Err(StandbyError::refused(
                    format!("the slot '{slot}' on {} is in use", node.name),
                    format!("Drop it when nobody uses it: {}", dropping(slot)),
                ));
            }
            _ => return Ok(()),
        }
    }
}

/// Makes a checkpoint. A new primary's control file says only then that it is on its new timeline, and `pg_rewind` up
/// to 15 believes that file.
pub fn checkpoint(config: &Config, node: &Node) -> Result<(), StandbyError> {
    let mut connection = open(config, node)?;
    connection.set_patience(CHECKPOINT_PATIENCE)?;
    Ok(connection.execute("checkpoint", "CHECKPOINT")?)
}

/// A column that is not what it must be.
pub fn unexpected(detail: String) -> StandbyError {
    StandbyError::CannotTell { what: "what the server answered".to_owned(), why: detail, class: Class::Postgres }
}
