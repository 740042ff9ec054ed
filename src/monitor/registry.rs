//! What the cluster has agreed on: the registered nodes, the pause and the reports, as a server holds them.
//!
//! It is read from every node that answers, since each has a copy; the primary's counts. What the registry says of a
//! role is what was observed last. Writing is for `records`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::report::{Report, Reported};
use crate::config::NodeKind;
use crate::postgres::connection::{Connection, Statement};
use crate::postgres::error::PostgresError;

const VERSION: Statement = Statement { name: "version", text: include_str!("../../sql/monitor/version.sql") };
const REGISTRY: Statement = Statement { name: "registry", text: include_str!("../../sql/monitor/registry.sql") };

const COPY_KNOWN: Statement = Statement { name: "copy_known", text: include_str!("../../sql/monitor/copy_known.sql") };

/// The version of the schema that brought copies.
pub const COPIES_SINCE: i32 = 3;

/// The monitor's schema as one server holds it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Registry {
    /// How far the schema has been brought.
    pub version: i32,
    /// The cluster's name.
    pub cluster: String,
    /// The nodes, by id.
    pub nodes: Vec<Registered>,
    /// The pause, while there is one.
    pub pause: Option<Pause>,
    /// What the nodes say of themselves, by name.
    #[serde(deserialize_with = "lenient")]
    pub reports: BTreeMap<String, Reported>,
    /// Of what this is the copy that a witness keeps; none: it is the registry itself, or nobody asked.
    #[serde(skip)]
    pub copied: Option<Copied>,
}

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub id: i32,
    pub name: String,
    pub kind: String,
    /// `primary`, `standby`, `dr` or `witness`.
    pub role: String,
    /// The node it followed last.
    pub upstream_id: Option<i32>,
    pub conninfo: Option<String>,
    /// False once it was taken out of service.
    pub active: bool,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, with offset (RFC 3339).
    pub since: String,
    /// When it ends by itself; none: never.
    pub until: Option<String>,
    /// The node on which it was ordered.
    pub node: String,
    /// Why; may be empty.
    pub reason: String,
}

/// Of what a witness keeps a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// The system identifier of that cluster, as the server writes it.
    pub system_identifier: String,
    /// The timeline that its primary was on.
    pub timeline: i64,
    /// That primary.
    pub primary: String,
    /// How old the copy is, in seconds by the witness's clock.
    pub age: f64,
}

impl Copied {
    /// What is kept there, and how many nodes are written down in that database. The schema must be recent enough.
    pub fn read(connection: &mut Connection) -> Result<(Option<Copied>, i64), PostgresError> {
        let row = connection.query_one(&COPY_KNOWN, &[])?;
        let nodes = connection.column(&COPY_KNOWN, &row, "nodes")?;
        let system: Option<String> = connection.column(&COPY_KNOWN, &row, "system_identifier")?;
        let Some(system_identifier) = system else { return Ok((None, nodes)) };
        let copied = Copied {
            system_identifier,
            timeline: connection.column(&COPY_KNOWN, &row, "timeline")?,
            primary: connection.column(&COPY_KNOWN, &row, "primary_name")?,
            age: connection.column(&COPY_KNOWN, &row, "age")?,
        };
        Ok((Some(copied), nodes))
    }
}

impl Registry {
    /// Reads it; none where the server has no such schema.
    pub fn read(connection: &mut Connection) -> Result<Option<Registry>, PostgresError> {
        // A table that is missing would be an error in the server's log at every look.
        let present = connection.query_one(&VERSION, &[])?;
        if !connection.column::<bool>(&VERSION, &present, "present")? {
            return Ok(None);
        }
        let row = connection.query_one(&REGISTRY, &[])?;
        let text: String = connection.column(&REGISTRY, &row, "registry")?;
        serde_json::from_str(&text).map(Some).map_err(|error| PostgresError::Answer {
            server: connection.server().to_owned(),
            statement: REGISTRY.name.to_owned(),
            detail: error.to_string(),
        })
    }

    /// The same of the server of a witness, where it is to be known of what it is a copy.
    pub fn read_copy(connection: &mut Connection) -> Result<Option<Registry>, PostgresError> {
        let Some(mut registry) = Registry::read(connection)? else { return Ok(None) };
        if registry.version >= COPIES_SINCE {
            registry.copied = Copied::read(connection)?.0;
        }
        Ok(Some(registry))
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Registered> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The name of the node with that id.
    pub fn name_of(&self, id: i32) -> Option<&str> {
        self.nodes.iter().find(|node| node.id == id).map(|node| node.name.as_str())
    }

    /// True where that node is registered as the primary in service.
    pub fn confirms_primary(&self, name: &str) -> bool {
        self.node(name).is_some_and(|node| node.role == "primary" && node.active)
    }
}

/// The word of a kind, as in the configuration.
pub fn kind_word(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Node => "node",
        NodeKind::Dr => "dr",
        NodeKind::Witness => "witness",
    }
}

/// A report of a newer version that is not understood is none; the others still count.
fn lenient<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Reported>, D::Error> {
    #[derive(Deserialize)]
    struct Raw {
        age: f64,
        report: serde_json::Value,
    }
    let raw: BTreeMap<String, Raw> = BTreeMap::deserialize(from)?;
    let read = |raw: Raw| Reported { age: raw.age, report: serde_json::from_value::<Report>(raw.report).ok() };
    Ok(raw.into_iter().map(|(name, raw)| (name, read(raw))).collect())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A registry of these nodes: name and role.
    pub fn registry(nodes: &[(&str, &str)]) -> Registry {
        let node = |(at, (name, role)): (usize, &(&str, &str))| Registered {
            id: i32::try_from(at).unwrap_or(0) + 1,
            name: (*name).to_owned(),
            kind: if ["dr", "witness"].contains(role) { (*role).to_owned() } else { "node".to_owned() },
            role: (*role).to_owned(),
            upstream_id: (*role == "standby").then_some(1),
            conninfo: None,
            active: true,
        };
        Registry {
            version: 3,
            cluster: "main".to_owned(),
            nodes: nodes.iter().enumerate().map(node).collect(),
            pause: None,
            reports: BTreeMap::new(),
            copied: None,
        }
    }

    #[test]
    fn a_report_that_is_not_understood_hides_no_other() {
        let text = r#"{"version":2,"cluster":"main","nodes":[],"pause":null,"reports":{
            "db1":{"age":1.5,"report":{"pgwarm":"9.0","archive":7}},
            "db2":{"age":2,"report":{"pgwarm":"0.1.0","archive":null,"queues":{},"archive_free":null,"drill":null}}}}"#;
        let read: Registry = serde_json::from_str(text).expect("because the outer form is right");
        assert_eq!(read.reports["db1"].report, None);
        assert_eq!(read.reports["db2"].report.as_ref().map(|report| report.pgwarm.as_str()), Some("0.1.0"));
    }
}
