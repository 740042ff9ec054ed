//! Whether the parameters and what is installed here fit together. A wrong configuration is wrong everywhere; what is
//! missing, or may not be read, is so on this node.

use std::io;

use crate::agent::eyes::Agent;
use crate::agent::ocf::Ocf;
use crate::agent::parameters::RepMode;
use crate::error::{Class, Failure};
use crate::postgres::control::{ControlError, ControlFile};
use crate::postgres::own_settings;

/// Checks; the code says what kind of trouble it is.
pub fn validate(agent: &Agent) -> Result<(), (Ocf, Failure)> {
    let here = |failure: Failure| (Ocf::Installed, failure);
    let everywhere = |text: String, hint: String| (Ocf::Configured, Failure::new(Class::Config, text).hinted(hint));
    let pgdata = agent.server.pgdata();
    match ControlFile::read(pgdata) {
        Ok(_) => {}
        Err(ControlError::Io { path, source }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let text = format!("'{}' may not be read", path.display());
            return Err((Ocf::Permission, Failure::new(Class::Storage, text).hinted("Set pgdba to its owner.")));
        }
        Err(error) => return Err(here(Failure::of(&error))),
    }
    for program in ["postgres", "pg_ctl"] {
        agent.server.program(program).map_err(|error| here(Failure::of(&error)))?;
    }
    let mode = agent.parameters.mode;
    if mode == RepMode::None {
        return Ok(());
    }
    let own = agent.config.own();
    if own.conninfo.is_none() {
        let (text, hint) = (format!("node.{}.conninfo is not set", own.name), "A standby is asked by SQL.".to_owned());
        return Err(everywhere(text, hint));
    }
    if let Some(name) = agent.names.iter().find(|name| agent.config.node(&name.node).is_none()) {
        let hint = "Write NAME=NODE into node_list where the cluster calls a node otherwise.".to_owned();
        return Err(everywhere(format!("pgwarm.ini knows no node '{}'", name.node), hint));
    }
    if !agent.names.iter().any(|name| name.node == own.name) {
        return Err(everywhere(format!("node_list lacks this node, '{}'", own.name), "Add it.".to_owned()));
    }
    reads_our_settings(agent).map_err(here)
}

/// What the agent sets stands in our own file of settings, which the server must read last.
fn reads_our_settings(agent: &Agent) -> Result<(), Failure> {
    let (file, pgdata) = (agent.server.config_file(), agent.server.pgdata());
    let settings = crate::postgres::settings::Settings::read(&file, pgdata)?;
    if settings.includes(&pgdata.join(own_settings::FILE)) {
        return Ok(());
    }
    Err(Failure::new(Class::Postgres, format!("'{}' does not include pgwarm's own settings", file.display()))
        .hinted(format!("Put the line \"{}\" at its end.", own_settings::include_line(pgdata))))
}
