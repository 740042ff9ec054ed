//! What a witness keeps on a server of its own: a copy of the nodes, the pause, the newest events and the reports, so
//! that it can still tell of the cluster when no server of it answers.
//!
//! The server is independent: it takes writes and has a system identifier of its own, or nothing is written to it. A
//! copy is marked as one. A database with a registry that is no copy, or with the copy of another cluster, is left
//! alone, and so is a copy that was made of a newer timeline: an old primary that comes back must not take away what
//! is known of the new one.

use super::records::Records;
use super::registry::Copied;
use super::schema::{self, SchemaError};
use crate::error::{Class, Explain};
use crate::postgres::connection::{Connection, Statement};
use crate::postgres::error::PostgresError;

const COPY_PLACE: Statement = Statement { name: "copy_place", text: include_str!("../../sql/monitor/copy_place.sql") };
const COPY_READ: Statement = Statement { name: "copy_read", text: include_str!("../../sql/monitor/copy_read.sql") };
const COPY_CLEAR: Statement = Statement { name: "copy_clear", text: include_str!("../../sql/monitor/copy_clear.sql") };
const COPY_WRITE: Statement = Statement { name: "copy_write", text: include_str!("../../sql/monitor/copy_write.sql") };
const COPY_MARK: Statement = Statement { name: "copy_mark", text: include_str!("../../sql/monitor/copy_mark.sql") };
const COPY_REPORTS: Statement =
    Statement { name: "copy_reports", text: include_str!("../../sql/monitor/copy_reports.sql") };

/// Why a witness keeps no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the servers.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The schema there.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// It would be of no use when the cluster is gone.
    #[error("the server of the witness {witness} belongs to the cluster it is to judge")]
    Dependent { witness: String },
    /// Somebody's registry.
    #[error("the database of the witness {witness} holds a registry of its own, which is no copy")]
    Taken { witness: String },
    /// Another cluster of the same name.
    #[error("the witness {witness} keeps the copy of another cluster: its system identifier is {there}, not {own}")]
    Other { witness: String, there: String, own: String },
    /// What is there is newer.
    #[error("the witness {witness} keeps a copy of {primary} on timeline {there}, and this primary is on {own}")]
    Older { witness: String, primary: String, there: i64, own: i64 },
}

impl Explain for CopyError {
    fn class(&self) -> Class {
        match self {
            CopyError::Postgres(error) => error.class(),
            CopyError::Schema(error) => error.class(),
            CopyError::Taken { .. } | CopyError::Other { .. } => Class::Conflict,
            CopyError::Dependent { .. } | CopyError::Older { .. } => Class::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            CopyError::Postgres(error) => return error.hint(),
            CopyError::Schema(error) => return error.hint(),
            CopyError::Dependent { witness } => {
                format!("Let node.{witness}.conninfo name a server made with 'initdb', or take it out.")
            }
            CopyError::Taken { .. } => "Let the conninfo of the witness name another database there.".to_owned(),
            CopyError::Other { witness, .. } => {
                format!("Name another database there, or replace it: 'register --force --node {witness}'.")
            }
            CopyError::Older { witness, primary, .. } => format!(
                "Find out whether {primary} was promoted after this one; if it was not, run 'register --force --node \
                 {witness}'."
            ),
        })
    }
}

/// What is copied, as the primary has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    system_identifier: String,
    timeline: i64,
    primary: String,
    roster: String,
    reports: String,
}

impl Original {
    /// Reads it from the primary of that name.
    pub fn read(primary: &str, records: &mut Records) -> Result<Original, PostgresError> {
        let connection = records.connection();
        let row = connection.query_one(&COPY_READ, &[])?;
        Ok(Original {
            system_identifier: connection.column(&COPY_READ, &row, "system_identifier")?,
            timeline: connection.column(&COPY_READ, &row, "timeline")?,
            primary: primary.to_owned(),
            roster: connection.column(&COPY_READ, &row, "roster")?,
            reports: connection.column(&COPY_READ, &row, "reports")?,
        })
    }

    /// Whether a copy may stand where `there` stands. With `force` a person has decided that it may replace another.
    fn may_replace(&self, witness: &str, there: (Option<&Copied>, i64), force: bool) -> Result<(), CopyError> {
        let witness = || witness.to_owned();
        match there {
            (None, 0) => Ok(()),
            (None, _) => Err(CopyError::Taken { witness: witness() }),
            _ if force => Ok(()),
            (Some(known), _) if known.system_identifier != self.system_identifier => Err(CopyError::Other {
                witness: witness(),
                there: known.system_identifier.clone(),
                own: self.system_identifier.clone(),
            }),
            (Some(known), _) if known.timeline > self.timeline => Err(CopyError::Older {
                witness: witness(),
                primary: known.primary.clone(),
                there: known.timeline,
                own: self.timeline,
            }),
            (Some(_), _) => Ok(()),
        }
    }
}

/// The way to the server of a witness.
pub struct Copy<'a> {
    /// The witness.
    pub witness: &'a str,
    /// The cluster.
    pub cluster: &'a str,
    /// A person has decided that it may replace another copy.
    pub force: bool,
}

impl Copy<'_> {
    /// Whether a copy may be kept there. Nothing is changed.
    pub fn check(&self, original: &Original, there: &mut Connection) -> Result<(), CopyError> {
        self.is_independent(original, there)?;
        match schema::version(there)? {
            None => Ok(()),
            Some((_, cluster)) if cluster != self.cluster => {
                Err(SchemaError::Foreign { there: cluster, wanted: self.cluster.to_owned() }.into())
            }
            Some((version, _)) if version < super::registry::COPIES_SINCE => {
                Err(CopyError::Taken { witness: self.witness.to_owned() })
            }
            Some(_) => self.may_replace(original, there).map(drop),
        }
    }

    /// Writes the copy; the schema is made where it is missing. `known` is the roster that was written last: where it
    /// has not changed, only what the nodes say of themselves is written anew.
    pub fn write(
        &self,
        original: &Original,
        there: &mut Connection,
        known: &mut Option<String>,
    ) -> Result<(), CopyError> {
        self.check(original, there)?;
        schema::bring_up_to_date(there, self.cluster)?;
        there.execute("begin", "BEGIN")?;
        let written = self.write_in_transaction(original, there, known.take().as_ref() == Some(&original.roster));
        match written {
            Ok(()) => there.execute("commit", "COMMIT")?,
            Err(error) => {
                // What went wrong is worth telling; what cannot be taken back now ends with the connection.
                let _ = there.execute("rollback", "ROLLBACK");
                return Err(error);
            }
        }
        *known = Some(original.roster.clone());
        Ok(())
    }

    fn write_in_transaction(
        &self,
        original: &Original,
        there: &mut Connection,
        unchanged: bool,
    ) -> Result<(), CopyError> {
        // A command and the daemon may write at the same time, and a command may have emptied it.
        schema::lock(there)?;
        let unchanged = self.may_replace(original, there)? > 0 && unchanged;
        let Original { system_identifier, timeline, primary, roster, reports } = original;
        if !unchanged {
            there.query(&COPY_CLEAR, &[])?;
            there.query(&COPY_WRITE, &[roster])?;
        }
        there.query(&COPY_REPORTS, &[reports])?;
        there.query(&COPY_MARK, &[system_identifier, timeline, primary])?;
        Ok(())
    }

    fn is_independent(&self, original: &Original, there: &mut Connection) -> Result<(), CopyError> {
        let row = there.query_one(&COPY_PLACE, &[])?;
        let in_recovery: bool = there.column(&COPY_PLACE, &row, "in_recovery")?;
        let system: String = there.column(&COPY_PLACE, &row, "system_identifier")?;
        match in_recovery || system == original.system_identifier {
            true => Err(CopyError::Dependent { witness: self.witness.to_owned() }),
            false => Ok(()),
        }
    }

    /// Whether a copy may be written there; if so, how many nodes the one has that is there.
    fn may_replace(&self, original: &Original, there: &mut Connection) -> Result<i64, CopyError> {
        let (known, nodes) = Copied::read(there)?;
        original.may_replace(self.witness, (known.as_ref(), nodes), self.force)?;
        Ok(nodes)
    }
}

/// Empties the copy of this primary's cluster; false where there is none, and nothing is touched then.
pub fn clear(primary: &mut Connection, there: &mut Connection) -> Result<bool, PostgresError> {
    let row = primary.query_one(&COPY_PLACE, &[])?;
    let system_identifier: String = primary.column(&COPY_PLACE, &row, "system_identifier")?;
    let recent = schema::version(there)?.is_some_and(|(version, _)| version >= super::registry::COPIES_SINCE);
    if !recent || Copied::read(there)?.0.is_none_or(|known| known.system_identifier != system_identifier) {
        return Ok(false);
    }
    there.query(&COPY_CLEAR, &[])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(system: &str, timeline: i64) -> Copied {
        Copied { system_identifier: system.to_owned(), timeline, primary: "db2".to_owned(), age: 1.0 }
    }

    #[test]
    fn only_an_older_copy_of_the_same_cluster_is_replaced() {
        let original = Original {
            system_identifier: "7".to_owned(),
            timeline: 2,
            primary: "db1".to_owned(),
            roster: "{}".to_owned(),
            reports: "[]".to_owned(),
        };
        let may = |there: Option<Copied>, nodes: i64, force: bool| {
            original.may_replace("w", (there.as_ref(), nodes), force).map_err(|error| error.class())
        };
        assert_eq!(may(None, 0, false), Ok(()));
        for timeline in [1, 2] {
            assert_eq!(may(Some(copied("7", timeline)), 5, false), Ok(()));
        }
        assert_eq!(may(Some(copied("7", 3)), 5, false), Err(Class::Refused));
        assert_eq!(may(Some(copied("8", 1)), 5, false), Err(Class::Conflict));
        assert_eq!((may(Some(copied("7", 3)), 5, true), may(Some(copied("8", 1)), 5, true)), (Ok(()), Ok(())));
        // Nobody's word is enough to write over a registry that is no copy.
        assert_eq!((may(None, 1, false), may(None, 1, true)), (Err(Class::Conflict), Err(Class::Conflict)));
    }
}
