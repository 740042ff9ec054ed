//! The server's side of a backup: the non-exclusive API, in one session.
//!
//! The backup ends with the session, whatever happens to us: the server takes a lost connection for an abort. So there
//! is nothing to clean up after `kill -9`, and dropping a [`Session`] is enough.

use std::path::Path;
use std::time::Duration;

use super::BackupError;
use super::checksum::PAGE;
use crate::postgres::connection::{Connection, Row, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::facts::NodeFacts;
use crate::wal::{Lsn, TimelineId};

const START: Statement = Statement { name: "backup_start", text: include_str!("../../sql/backup_start.sql") };
const START_14: Statement = Statement { name: "backup_start_14", text: include_str!("../../sql/backup_start_14.sql") };
const STOP: Statement = Statement { name: "backup_stop", text: include_str!("../../sql/backup_stop.sql") };
const STOP_14: Statement = Statement { name: "backup_stop_14", text: include_str!("../../sql/backup_stop_14.sql") };
const LAYOUT: Statement = Statement { name: "page_layout", text: include_str!("../../sql/page_layout.sql") };

/// How long to wait for a connection and for plain questions.
const PATIENCE: Duration = Duration::from_secs(30);

/// A checkpoint that is spread takes as long as the server is told to, an hour at most and a half.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5400);

/// A session with the server that is backed up.
pub struct Session {
    connection: Connection,
    recovering: bool,
}

/// What the server said at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Where the data are consistent.
    pub lsn: Lsn,
    /// The content of `backup_label`, byte for byte.
    pub label: String,
    /// The content of `tablespace_map`, byte for byte; empty where there are no tablespaces.
    pub map: String,
}

/// What `backup_label` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelFile {
    /// START WAL LOCATION
    pub start: Lsn,
    /// START TIMELINE
    pub timeline: TimelineId,
}

impl Session {
    /// Connects to the server of this node.
    pub fn open(conninfo: &str) -> Result<Session, BackupError> {
        let conninfo = Conninfo::parse(conninfo).map_err(|error| BackupError::Postgres(error.into()))?;
        let mut connection = connect(&conninfo, PATIENCE, "base-backup")?;
        if connection.server_version_num() >= 140_000 {
            // The session says nothing while files are copied, which may take hours.
            connection.execute("idle_session_timeout", "SET idle_session_timeout = 0")?;
        }
        let recovering = connection.is_in_recovery()?;
        Ok(Session { connection, recovering })
    }

    /// True where the server is a standby.
    pub fn is_standby(&self) -> bool {
        self.recovering
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.connection.server_version_num() / 10_000
    }

    /// What the server says about itself.
    pub fn facts(&mut self) -> Result<NodeFacts, BackupError> {
        Ok(self.connection.node_facts()?)
    }

    /// The connection, for a switch of WAL.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// True where pages and files have the sizes that page checksums are computed with here.
    pub fn has_usual_layout(&mut self) -> Result<bool, BackupError> {
        let row = self.connection.query_one(&LAYOUT, &[])?;
        let read = |name: &'static str| {
            row.try_get::<_, i64>(name).map_err(|error| answer(LAYOUT.name, format!("column '{name}': {error}")))
        };
        Ok(read("page")? == PAGE as i64 && read("pages")? == 131_072)
    }

    /// Asks something that may take so long, instead of what plain questions may.
    pub fn patiently<T>(
        &mut self,
        patience: Duration,
        ask: impl FnOnce(&mut Session) -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        self.connection.set_patience(patience)?;
        let answered = ask(self);
        // What went wrong first is what is told.
        let back = self.connection.set_patience(PATIENCE);
        answered.and_then(|answered| back.map(|()| answered).map_err(BackupError::from))
    }

    /// Begins the backup; with `fast` the server makes its checkpoint at once.
    pub fn start(&mut self, label: &str, fast: bool) -> Result<Lsn, BackupError> {
        let statement = if self.major() >= 15 { START } else { START_14 };
        let ask = |session: &mut Session| Ok(session.connection.query_one(&statement, &[&label, &fast])?);
        let row = self.patiently(CHECKPOINT_PATIENCE, ask)?;
        lsn(&row, "start_lsn", statement.name)
    }

    /// Makes sure that the session is alive and its server is what it was.
    pub fn confirm(&mut self) -> Result<(), BackupError> {
        if self.connection.is_in_recovery()? == self.recovering {
            return Ok(());
        }
        Err(BackupError::refused(
            "the server was promoted while it was backed up",
            "Take the backup again; what is stored already is used where it has not changed.",
        ))
    }

    /// Ends the backup that began on this timeline; refuses where the server was promoted since, or follows another
    /// timeline now.
    pub fn finish(&mut self, began_on: TimelineId) -> Result<(Stopped, LabelFile), BackupError> {
        self.confirm()?;
        let stopped = self.stop()?;
        let label = LabelFile::parse(&stopped.label)?;
        let now = self.facts()?.timeline;
        let (oldest, newest) = [label.timeline, began_on, now]
            .into_iter()
            .fold((now, now), |(oldest, newest), it| (oldest.min(it), newest.max(it)));
        if oldest == newest {
            return Ok((stopped, label));
        }
        Err(BackupError::refused(
            format!("the server went from timeline {} to {} while it was backed up", oldest.0, newest.0),
            "Take the backup again once the server has made a checkpoint on its new timeline; what is stored already is \
             used where it has not changed.",
        ))
    }

    /// Ends the backup.
    fn stop(&mut self) -> Result<Stopped, BackupError> {
        let statement = if self.major() >= 15 { STOP } else { STOP_14 };
        let ask = |session: &mut Session| Ok(session.connection.query_one(&statement, &[])?);
        let row = self.patiently(CHECKPOINT_PATIENCE, ask)?;
        let text = |name: &'static str| {
            let value = row.try_get::<_, Option<String>>(name);
            value.map_err(|error| answer(statement.name, format!("column '{name}': {error}")))
        };
        let label = text("label")?.ok_or_else(|| answer(statement.name, "no backup_label".to_owned()))?;
        Ok(Stopped { lsn: lsn(&row, "stop_lsn", statement.name)?, label, map: text("map")?.unwrap_or_default() })
    }
}

/// Makes sure that the data directory is that of the server which began the backup at `start`: its control file must
/// know the checkpoint that was made for it, or a later one; it is given back. A connection string that leads to
/// another server is found out so.
pub fn same_server(pgdata: &Path, standby: bool, start: Lsn) -> Result<ControlFile, BackupError> {
    let control = ControlFile::read(pgdata)?;
    let state = if standby { ClusterState::InArchiveRecovery } else { ClusterState::InProduction };
    if control.state == state && control.redo >= start {
        return Ok(control);
    }
    Err(BackupError::refused(
        format!(
            "'{}' is not the data directory of the server that answers: it is {} with redo at {}, the server's backup \
             begins at {start}",
            pgdata.display(),
            control.state,
            control.redo
        ),
        "Make pgdata and conninfo of this node name the same server; a backup is taken on the machine that holds the data.",
    ))
}

impl LabelFile {
    /// Reads the content of a `backup_label`.
    pub fn parse(text: &str) -> Result<LabelFile, BackupError> {
        let value = |key: &'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.ok_or_else(|| answer("backup_stop", format!("backup_label has no '{key}'")))
        };
        let start = value("START WAL LOCATION: ")?.split(' ').next().unwrap_or_default();
        let start = start.parse().map_err(|error| answer("backup_stop", format!("{error}")))?;
        let timeline = value("START TIMELINE: ")?.trim().parse();
        let timeline = timeline.map_err(|error| answer("backup_stop", format!("START TIMELINE: {error}")))?;
        Ok(LabelFile { start, timeline: TimelineId(timeline) })
    }
}

fn lsn(row: &Row, name: &str, statement: &'static str) -> Result<Lsn, BackupError> {
    let text: String = row.try_get(name).map_err(|error| answer(statement, error.to_string()))?;
    text.parse().map_err(|error| answer(statement, format!("{error}")))
}

fn answer(statement: &'static str, detail: String) -> BackupError {
    BackupError::Answer { statement, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_label_says_where_recovery_begins() {
        let text = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
                    START TIME: 2026-11-21 14:03:12 UTC\nLABEL: x\nSTART TIMELINE: 3\n";
        let read = LabelFile::parse(text).expect("because it is one");
        assert_eq!(read, LabelFile { start: Lsn(0x200_0028), timeline: TimelineId(3) });
        assert!(LabelFile::parse("nothing").is_err());
    }
}
