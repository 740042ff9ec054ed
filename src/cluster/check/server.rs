//! Looks at servers: the own one through SQL and its files, those of other nodes through SQL alone.
//!
//! A server counts as down only where that is certain: here, with no `postmaster.pid` of a living process. A server
//! elsewhere that does not answer is unknown, since from here it cannot be told from a broken network.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::facts::{Archiver, Control, Role, Server, Settings, SettingsSource, Told, Waiting};
use super::local::{bounded, told, waiting};
use super::rules::SETTING_NAMES;
use crate::config::{Config, Node, NodeKind};
use crate::error::{Explain, Failure};
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::contact;
use crate::postgres::control::{ControlError, ControlFile};
use crate::postgres::facts::{ArchiverFacts, NodeFacts};
use crate::postgres::settings::Settings as FileSettings;

const CHECK_SETTINGS: Statement =
    Statement { name: "check_settings", text: include_str!("../../../sql/check_settings.sql") };

/// What a server said over one connection.
struct Live {
    facts: NodeFacts,
    settings: Result<Settings, String>,
}

/// Gathers everything about the own server; none where this node is configured to have none.
pub fn gather(node: &Node, patience: Duration) -> Option<Server> {
    if node.kind == NodeKind::Witness || (node.conninfo.is_none() && node.pgdata.is_none()) {
        return None;
    }
    let live = node.conninfo.as_ref().map(|conninfo| ask(conninfo, patience));
    let pgdata = node.pgdata.clone();
    let running = pgdata.clone().map_or_else(
        || Err("the configuration names no pgdata".to_owned()),
        |pgdata| bounded(pgdata, |path| postmaster(path).map(Some)).map(|running| running == Some(true)),
    );
    let control = match (&live, &pgdata) {
        (_, Some(pgdata)) => bounded(pgdata.clone(), read_control),
        (Some(Ok(live)), None) => Ok(Some(control_of(live))),
        _ => Ok(None),
    };
    Some(Server {
        role: role(live.as_ref(), &running),
        data_directory: live.as_ref().and_then(|live| live.as_ref().ok()).and_then(data_directory),
        settings: settings(live.as_ref(), pgdata.as_deref()),
        control,
        archiver: archiver(live.as_ref(), &running),
        ready: pgdata.map_or(Err("the configuration names no pgdata".to_owned()), |pgdata| {
            bounded(pgdata.join("pg_wal/archive_status"), ready)
        }),
    })
}

/// What the server of another node does.
pub fn role_of(config: &Config, node: &Node, patience: Duration) -> Option<Result<Role, String>> {
    if node.kind == NodeKind::Witness || node.conninfo.is_none() {
        return None;
    }
    // Without the host of the node put in, the own server would answer for the other one.
    let conninfo = contact::conninfo(config, node).map_err(words);
    Some(conninfo.and_then(|conninfo| {
        let mut connection = connect(&conninfo, patience, "check-node").map_err(words)?;
        let standby = connection.is_in_recovery().map_err(words)?;
        Ok(if standby { Role::Standby } else { Role::Primary })
    }))
}

fn words(error: impl Explain) -> String {
    Failure::from(error).message
}

fn ask(conninfo: &str, patience: Duration) -> Result<Live, String> {
    let conninfo = Conninfo::parse(conninfo).map_err(words)?;
    let mut connection = connect(&conninfo, patience, "check-node").map_err(words)?;
    let facts = connection.node_facts().map_err(words)?;
    let settings = live_settings(&mut connection);
    Ok(Live { facts, settings })
}

fn live_settings(connection: &mut Connection) -> Result<Settings, String> {
    let rows = connection.query(&CHECK_SETTINGS, &[&SETTING_NAMES]).map_err(words)?;
    let mut settings = Settings { source: SettingsSource::Server, values: BTreeMap::new(), pending: Vec::new() };
    for row in rows {
        let unread = |error: &dyn std::error::Error| error.to_string();
        let name: String = row.try_get("name").map_err(|error| unread(&error))?;
        let value: String = row.try_get("value").map_err(|error| unread(&error))?;
        let pending: bool = row.try_get("pending_restart").map_err(|error| unread(&error))?;
        if pending {
            settings.pending.push(name.clone());
        }
        settings.values.insert(name, value);
    }
    Ok(settings)
}

fn role(live: Option<&Result<Live, String>>, running: &Result<bool, String>) -> Result<Role, String> {
    match (live, running) {
        (Some(Ok(live)), _) if live.facts.in_recovery => Ok(Role::Standby),
        (Some(Ok(_)), _) => Ok(Role::Primary),
        (_, Ok(false)) => Ok(Role::Down),
        (Some(Err(why)), _) => Err(why.clone()),
        (None, Ok(true)) => Err("a server runs, but the configuration has no conninfo to ask it".to_owned()),
        (None, Err(why)) => Err(why.clone()),
    }
}

/// True where a server runs in this data directory: its first line of `postmaster.pid` names a living process.
fn postmaster(pgdata: &Path) -> Result<bool, String> {
    let path = pgdata.join("postmaster.pid");
    let Some(text) = told("read", &path, fs::read_to_string(&path))? else {
        // Without the data directory nothing is known about a server in it.
        return match told("look up", pgdata, fs::metadata(pgdata))? {
            Some(_) => Ok(false),
            None => Err(format!("there is no data directory '{}'", pgdata.display())),
        };
    };
    let number = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    let Some(pid) = number.and_then(|number| rustix::process::Pid::from_raw(number.abs())) else {
        return Err(format!("'{}' names no process", path.display()));
    };
    match rustix::process::test_kill_process(pid) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(true),
        Err(_) => Ok(false),
    }
}

fn data_directory(live: &Live) -> Option<PathBuf> {
    let said = live.facts.data_directory.as_ref()?;
    Some(fs::canonicalize(said).unwrap_or_else(|_| said.clone()))
}

fn read_control(pgdata: &Path) -> Told<Control> {
    match ControlFile::read(pgdata) {
        Ok(file) => Ok(Some(Control {
            system_identifier: file.system_id,
            segment_size: file.segment_size,
            checksums: file.checksums,
        })),
        Err(ControlError::Missing { .. }) => Ok(None),
        Err(error) => Err(words(error)),
    }
}

fn control_of(live: &Live) -> Control {
    let checksums = live.settings.as_ref().ok().and_then(|settings| settings.values.get("data_checksums"));
    Control {
        system_identifier: live.facts.system_id,
        segment_size: live.facts.segment_size,
        checksums: checksums.is_some_and(|value| value == "on"),
    }
}

fn settings(live: Option<&Result<Live, String>>, pgdata: Option<&Path>) -> Result<Settings, String> {
    if let Some(Ok(live)) = live {
        return live.settings.clone();
    }
    let pgdata = pgdata.ok_or("the server does not answer, and the configuration names no pgdata")?;
    let files = FileSettings::read(&configuration_file(pgdata), pgdata).map_err(words)?;
    let values = files.iter().map(|(name, setting)| (name.to_owned(), setting.value.clone())).collect();
    Ok(Settings { source: SettingsSource::Files, values, pending: Vec::new() })
}

/// Where `postgresql.conf` is: in the data directory, or where the last start was told (`postmaster.opts`).
fn configuration_file(pgdata: &Path) -> PathBuf {
    let options = fs::read_to_string(pgdata.join("postmaster.opts")).unwrap_or_default();
    let named = options.split('"').find_map(|word| word.trim_start_matches("--").strip_prefix("config_file="));
    named.map_or_else(|| pgdata.join("postgresql.conf"), PathBuf::from)
}

fn archiver(live: Option<&Result<Live, String>>, running: &Result<bool, String>) -> Told<Archiver> {
    match live {
        Some(Ok(live)) => Ok(Some(judge_archiver(&live.facts.archiver))),
        _ if *running == Ok(false) => Ok(None),
        Some(Err(why)) => Err(why.clone()),
        None => Err("the configuration has no conninfo".to_owned()),
    }
}

fn judge_archiver(facts: &ArchiverFacts) -> Archiver {
    let failing = match (facts.last_failed_at, facts.last_archived_at) {
        (Some(failed), Some(archived)) => failed > archived,
        (Some(_), None) => true,
        (None, _) => false,
    };
    Archiver {
        archived: facts.archived_count,
        failed: facts.failed_count,
        failed_name: facts.last_failed.clone(),
        failing,
    }
}

fn ready(status: &Path) -> Told<Waiting> {
    waiting(status, |name| name.ends_with(".ready"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pid_file_is_a_server_that_is_down_and_no_directory_is_not() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(postmaster(folder.path()), Ok(false));
        assert!(postmaster(&folder.path().join("none")).is_err());
        fs::write(folder.path().join("postmaster.pid"), format!("{}\n/data\n", std::process::id()))?;
        assert_eq!(postmaster(folder.path()), Ok(true));
        // No Linux has so many processes.
        fs::write(folder.path().join("postmaster.pid"), "2000000000\n")?;
        assert_eq!(postmaster(folder.path()), Ok(false));
        fs::write(folder.path().join("postmaster.pid"), "")?;
        assert!(postmaster(folder.path()).is_err());
        Ok(())
    }

    #[test]
    fn a_configuration_outside_the_data_directory_is_found() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(configuration_file(folder.path()), folder.path().join("postgresql.conf"));
        let options = "/usr/bin/postgres \"-D\" \"/data\" \"-c\" \"config_file=/etc/pg/a b.conf\"\n";
        fs::write(folder.path().join("postmaster.opts"), options)?;
        assert_eq!(configuration_file(folder.path()), Path::new("/etc/pg/a b.conf"));
        Ok(())
    }

    #[test]
    fn silence_of_a_running_server_is_unknown() {
        let silent = Some(Err("timeout".to_owned()));
        assert_eq!(role(silent.as_ref(), &Ok(true)), Err("timeout".to_owned()));
        assert_eq!(role(silent.as_ref(), &Ok(false)), Ok(Role::Down));
        assert_eq!(role(silent.as_ref(), &Err("denied".into())), Err("timeout".to_owned()));
    }
}
