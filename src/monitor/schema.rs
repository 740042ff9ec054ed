//! The monitor's schema in the database: made and upgraded in place, a step after the other, in one transaction.
//!
//! A step that has run is never run again and never changed; what a newer version needs is a new step. A schema that is
//! newer than this program is left alone and used: steps only add.

use crate::error::{Class, Explain};
use crate::postgres::connection::{Connection, Statement};
use crate::postgres::error::PostgresError;

/// The steps, in order; the version of a schema is how many of them have run.
const STEPS: &[Statement] = &[
    Statement { name: "001_nodes", text: include_str!("../../sql/monitor/001_nodes.sql") },
    Statement { name: "002_lag", text: include_str!("../../sql/monitor/002_lag.sql") },
    Statement { name: "003_copies", text: include_str!("../../sql/monitor/003_copies.sql") },
];

const GRANTS: Statement = Statement { name: "grants", text: include_str!("../../sql/monitor/grants.sql") };
const VERSION: Statement = Statement { name: "version", text: include_str!("../../sql/monitor/version.sql") };
const META: Statement = Statement { name: "meta", text: include_str!("../../sql/monitor/meta.sql") };
const SET_VERSION: Statement =
    Statement { name: "set_version", text: include_str!("../../sql/monitor/set_version.sql") };
const LOCK: Statement = Statement { name: "upgrade_lock", text: include_str!("../../sql/monitor/upgrade_lock.sql") };

/// The version that this program makes.
pub const VERSION_NOW: i32 = STEPS.len() as i32;

/// What can be wrong with the schema.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// It belongs to another cluster.
    #[error("the monitor's schema in this database belongs to cluster '{there}', not to '{wanted}'")]
    Foreign { there: String, wanted: String },
    /// It is not there, and may not be made.
    #[error("the monitor's schema cannot be made in this database")]
    Denied { source: PostgresError },
}

impl Explain for SchemaError {
    fn class(&self) -> Class {
        match self {
            SchemaError::Postgres(error) => error.class(),
            SchemaError::Foreign { .. } => Class::Refused,
            SchemaError::Denied { .. } => Class::Postgres,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SchemaError::Postgres(error) => error.hint(),
            SchemaError::Foreign { .. } => {
                Some("Use another database in the nodes' conninfo, one for each cluster.".to_owned())
            }
            SchemaError::Denied { .. } => {
                Some("Run 'cluster-monitor schema | psql' as a superuser, and grant pgwarm_monitor.".to_owned())
            }
        }
    }
}

/// What bringing the schema up to date did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brought {
    /// The version before; 0: there was none.
    pub from: i32,
    /// The version now.
    pub to: i32,
}

/// The version of the schema there; none: there is no schema.
pub fn version(connection: &mut Connection) -> Result<Option<(i32, String)>, PostgresError> {
    let present = connection.query_one(&VERSION, &[])?;
    if !connection.column::<bool>(&VERSION, &present, "present")? {
        return Ok(None);
    }
    let row = connection.query_one(&META, &[])?;
    let version = connection.column(&META, &row, "version")?;
    Ok(Some((version, connection.column(&META, &row, "cluster")?)))
}

/// Brings the schema up to date, for this cluster. Costs two small statements where it is.
pub fn bring_up_to_date(connection: &mut Connection, cluster: &str) -> Result<Brought, SchemaError> {
    if let Some(done) = up_to_date(connection, cluster)? {
        return Ok(done);
    }
    connection.execute("begin", "BEGIN")?;
    let brought = upgrade(connection, cluster);
    match &brought {
        Ok(_) => connection.execute("commit", "COMMIT")?,
        Err(_) => connection.execute("rollback", "ROLLBACK")?,
    }
    brought
}

fn up_to_date(connection: &mut Connection, cluster: &str) -> Result<Option<Brought>, SchemaError> {
    let Some((version, there)) = version(connection)? else { return Ok(None) };
    if there != cluster {
        return Err(SchemaError::Foreign { there, wanted: cluster.to_owned() });
    }
    Ok((version >= VERSION_NOW).then_some(Brought { from: version, to: version }))
}

/// Waits until nobody else changes what is kept there; until the transaction ends.
pub fn lock(connection: &mut Connection) -> Result<(), PostgresError> {
    connection.query(&LOCK, &[]).map(drop)
}

fn upgrade(connection: &mut Connection, cluster: &str) -> Result<Brought, SchemaError> {
    lock(connection)?;
    // Another one may have done it while we waited.
    if let Some(done) = up_to_date(connection, cluster)? {
        return Ok(done);
    }
    let from = version(connection)?.map_or(0, |(version, _)| version);
    let denied = |source: PostgresError| match &source {
        // insufficient_privilege
        PostgresError::Query { code, .. } if code == "42501" => SchemaError::Denied { source },
        _ => source.into(),
    };
    for step in &STEPS[usize::try_from(from).unwrap_or(0)..] {
        connection.execute(step.name, step.text).map_err(denied)?;
    }
    connection.query(&SET_VERSION, &[&VERSION_NOW, &cluster]).map_err(denied)?;
    connection.execute(GRANTS.name, GRANTS.text).map_err(denied)?;
    Ok(Brought { from, to: VERSION_NOW })
}

/// Everything as one script for psql: for a database in which the monitor's own user may not make a schema.
pub fn script(cluster: &str, from: i32) -> String {
    let steps = STEPS.iter().skip(usize::try_from(from).unwrap_or(0)).map(|step| step.text);
    let quoted = cluster.replace('\'', "''");
    let version = SET_VERSION.text.replace("$1", &VERSION_NOW.to_string()).replace("$2", &format!("'{quoted}'"));
    let all: Vec<&str> = steps.chain([version.trim_end()]).collect();
    format!("BEGIN;\n{}\n;\n{}COMMIT;\n", all.join("\n"), GRANTS.text)
}
