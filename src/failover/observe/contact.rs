//! Connects to the server of another node and says what came of it. Nothing it says means dead but what proves it.

use crate::cluster::contact::conninfo;
use crate::config::{Config, Node};
use crate::error::Failure;
use crate::failover::observation::{Contact, Fact};
use crate::postgres::connection::connect;
use crate::postgres::conninfo::Conninfo;
use crate::postgres::error::PostgresError;

/// Asks a server what it is.
pub fn contact(config: &Config, node: &Node) -> Fact<Contact> {
    // Without the host of the node put in, the own server would answer for the other one.
    match conninfo(config, node) {
        Ok(conninfo) => Fact::new(format!("its server ({conninfo})"), ask(config, &conninfo)),
        Err(error) => Fact::new("its server", Err(Failure::from(error).message)),
    }
}

fn ask(config: &Config, conninfo: &Conninfo) -> Result<Contact, String> {
    let asked = connect(conninfo, config.failover.contact, "trigger-failover").and_then(|mut connection| {
        let facts = connection.node_facts()?;
        Ok(if facts.in_recovery { Contact::Standby { received: facts.received } } else { Contact::Primary })
    });
    asked.or_else(|error| read(&error))
}

/// What an error proves: a server that answered is there, whatever it said.
fn read(error: &PostgresError) -> Result<Contact, String> {
    let leaves = error.leaves();
    let has = |test: fn(&PostgresError) -> bool| leaves.iter().any(|error| test(error));
    let words = error.to_string();
    if error.proves_alive() || has(|error| matches!(error, PostgresError::Tls { .. })) {
        Ok(Contact::Answers(words))
    } else if has(|error| matches!(error, PostgresError::Hung { .. })) {
        Ok(Contact::Hung(words))
    } else if has(|error| matches!(error, PostgresError::Silent { .. } | PostgresError::Unreachable { .. })) {
        Ok(Contact::Silent(words))
    } else if !leaves.is_empty() && leaves.iter().all(|error| matches!(error, PostgresError::Refused { .. })) {
        Ok(Contact::Refused(words))
    } else {
        Err(words)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_refusal_by_every_address_counts_as_down() {
        let server = || "alpha".to_owned();
        let refused =
            || PostgresError::Refused { server: server(), source: std::io::ErrorKind::ConnectionRefused.into() };
        let silent = || PostgresError::Silent { server: server(), after: Duration::from_secs(3) };
        let full = || PostgresError::TooManyConnections { server: server(), detail: "full".to_owned() };
        let lost = PostgresError::Lost { server: server(), detail: "it ended".to_owned() };
        assert!(matches!(read(&refused()), Ok(Contact::Refused(_))));
        assert!(matches!(read(&PostgresError::AllFailed(vec![refused(), silent()])), Ok(Contact::Silent(_))));
        assert!(matches!(read(&PostgresError::AllFailed(vec![refused(), full()])), Ok(Contact::Answers(_))));
        assert!(read(&lost).is_err());
    }
}
