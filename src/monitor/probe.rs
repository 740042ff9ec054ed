//! Looks at one server, over a connection that is kept: one small statement a look.
//!
//! A look never takes longer than the deadline it was made with. A connection that broke is made anew at once, within
//! the same look; what a server that hangs holds is given up, so no session and no descriptor is left behind.

use std::time::Duration;

use super::observation::{How, Observation, Ready, Sight};
use super::registry::Registry;
use crate::cluster::contact::{self, ContactError};
use crate::config::{Config, Node, NodeKind};
use crate::error::Failure;
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::error::PostgresError;
use crate::system::clock::Deadline;

const SAMPLE: Statement = Statement { name: "sample", text: include_str!("../../sql/monitor/sample.sql") };
const READY: Statement = Statement { name: "ready", text: include_str!("../../sql/monitor/ready.sql") };

/// The way to one server.
pub struct Probe {
    conninfo: Option<Conninfo>,
    malformed: Option<String>,
    purpose: String,
    patience: Duration,
    witness: bool,
    connection: Option<Connection>,
}

/// What a look brings besides the sample.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// What waits for the archiver.
    pub ready: Option<Result<Ready, String>>,
    /// The registry there.
    pub registry: Option<Registry>,
}

impl Probe {
    /// A probe of a node; nothing is connected yet. `purpose` becomes part of the session's `application_name`.
    pub fn new(config: &Config, node: &Node, patience: Duration, purpose: &str) -> Probe {
        let (conninfo, malformed) = match contact::conninfo(config, node) {
            Ok(conninfo) => (Some(conninfo), None),
            Err(ContactError::NoConninfo { .. }) => (None, None),
            Err(error) => (None, Some(Failure::from(error).message)),
        };
        let witness = node.kind == NodeKind::Witness;
        Probe { conninfo, malformed, purpose: purpose.to_owned(), patience, witness, connection: None }
    }

    /// True where there is no server to look at.
    pub fn has_no_server(&self) -> bool {
        self.conninfo.is_none() && self.malformed.is_none()
    }

    /// Looks once. With `full` also at what costs a little more: the archiver's folder and the registry.
    pub fn look(&mut self, full: bool) -> (Sight, Extra) {
        if let Some(why) = &self.malformed {
            return (Sight::Unseen { how: How::Other, why: why.clone() }, Extra::default());
        }
        if self.conninfo.is_none() {
            return (Sight::NoServer, Extra::default());
        }
        let until = Deadline::after(self.patience);
        match self.try_look(full) {
            Ok(seen) => seen,
            // The server may have been restarted since the last look: one that runs again is asked again.
            Err(PostgresError::Lost { .. }) if !until.expired() => {
                self.connection = None;
                self.try_look(full).unwrap_or_else(|error| self.unseen(&error))
            }
            Err(error) => self.unseen(&error),
        }
    }

    fn unseen(&mut self, error: &PostgresError) -> (Sight, Extra) {
        self.connection = None;
        let why = Failure::of(error).message;
        (Sight::Unseen { how: How::of(error), why }, Extra::default())
    }

    fn try_look(&mut self, full: bool) -> Result<(Sight, Extra), PostgresError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let conninfo = self.conninfo.as_ref().expect("because a node without one is not asked");
                connect(conninfo, self.patience, &self.purpose)?
            }
        };
        let connection = self.connection.insert(connection);
        let mut seen = sample(connection)?;
        let mut extra = Extra::default();
        if full {
            let read = if self.witness { Registry::read_copy } else { Registry::read };
            extra.registry = match read(connection) {
                // One of an older version, or one that the role may not read: the server itself answers all the same.
                Err(error @ PostgresError::Query { .. }) => {
                    log::debug!("{}", Failure::of(&error).message);
                    None
                }
                read => read?,
            };
            if seen.archive_mode != "off" {
                extra.ready = Some(ready(connection)?);
            }
            seen.ready.clone_from(&extra.ready);
        }
        Ok((Sight::Seen(Box::new(seen)), extra))
    }
}

fn sample(connection: &mut Connection) -> Result<Observation, PostgresError> {
    let row = connection.query_one(&SAMPLE, &[])?;
    let text: String = connection.column(&SAMPLE, &row, "sample")?;
    Observation::parse(&text).map_err(|detail| PostgresError::Answer {
        server: connection.server().to_owned(),
        statement: SAMPLE.name.to_owned(),
        detail,
    })
}

/// A role that may not list the folder leaves it unknown; anything else is trouble with the connection.
fn ready(connection: &mut Connection) -> Result<Result<Ready, String>, PostgresError> {
    let row = match connection.query_one(&READY, &[]) {
        Ok(row) => row,
        Err(error @ PostgresError::Query { .. }) => return Ok(Err(Failure::of(&error).message)),
        Err(error) => return Err(error),
    };
    let files: i64 = connection.column(&READY, &row, "files")?;
    let age: Option<f64> = connection.column(&READY, &row, "oldest_age")?;
    let oldest: Option<String> = connection.column(&READY, &row, "oldest")?;
    Ok(Ok(Ready { files: u64::try_from(files).unwrap_or(0), oldest: oldest.zip(age) }))
}
