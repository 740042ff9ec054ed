//! Ends the WAL receiver for good: a position counts only once nothing can move it any more.

use std::fs;
use std::time::Duration;

use super::{Next, Scene};
use crate::error::{Class, Failure};
use crate::failover::journal::{Entry, Journal};
use crate::postgres::connection::{Connection, Statement};
use crate::postgres::facts::column;
use crate::postgres::own_settings;
use crate::postgres::server::Status;
use crate::postgres::settings::Settings;
use crate::system::clock::Deadline;

const UPSTREAM_SETTING: Statement =
    Statement { name: "upstream_setting", text: include_str!("../../../sql/upstream_setting.sql") };
const RELOAD: Statement = Statement { name: "reload", text: include_str!("../../../sql/reload.sql") };
const SET_UPSTREAM: &str = include_str!("../../../sql/set_upstream.sql");
const RESET_UPSTREAM: &str = include_str!("../../../sql/reset_upstream.sql");

/// The setting that makes a standby stream.
const SETTING: &str = "primary_conninfo";

/// What stands in the file of `ALTER SYSTEM`.
const AUTO: &str = "postgresql.auto.conf";

/// How long the receiver may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// By whom the setting was changed, in the journal.
const OWN: &str = "own";
const SYSTEM: &str = "system";

/// Ends the receiver and waits until its process is gone.
pub fn stop(scene: &Scene<'_>, journal: &mut Journal) -> Result<Next, Failure> {
    let Status::Running(running) = scene.server.status()? else {
        return Ok(Next::Go("no server runs, so nothing is received".to_owned()));
    };
    let pgdata = scene.pgdata();
    let mut own = own_settings::read(&pgdata)?;
    let overridden = own_settings::overridden(&scene.server.config_file(), &pgdata).unwrap_or_default();
    let ours = own.contains_key(SETTING) && !overridden.iter().any(|it| it.name == SETTING);
    let session = scene.connect();
    match (ours, session) {
        (true, _) => {
            let before = own.get(SETTING).cloned();
            if before.as_deref() != Some("") {
                remember(journal, before, OWN)?;
                own.insert(SETTING.to_owned(), String::new());
                own_settings::write(&pgdata, &own)?;
            }
            scene.server.reload()?;
        }
        (false, Ok(mut session)) => by_system(journal, &mut session)?,
        (false, Err(failure)) => {
            let settings = Settings::read(&scene.server.config_file(), &pgdata)?;
            if settings.get(SETTING).is_some_and(|setting| !setting.value.is_empty()) {
                return Err(failure.hinted(format!(
                    "This server streams, and cannot be told to stop: put the line \"{}\" at the end of its postgresql.conf.",
                    own_settings::include_line(&pgdata)
                )));
            }
        }
    }
    let deadline = Deadline::after(PATIENCE);
    while let Some(process) = process(running.pid) {
        if deadline.expired() {
            let text = format!("the WAL receiver (process {process}) did not end within {} s", PATIENCE.as_secs());
            return Err(Failure::new(Class::Timeout, text).hinted("Look at the server's log."));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(Next::Go("no WAL receiver is left".to_owned()))
}

fn by_system(journal: &mut Journal, session: &mut Connection) -> Result<(), Failure> {
    let row = session.query_one(&UPSTREAM_SETTING, &[])?;
    let read = |name: &str| column::<Option<String>>(&row, name).map_err(|error| Failure::new(Class::Bug, error));
    let (value, file) = (read("value")?.unwrap_or_default(), read("file")?);
    if value.is_empty() {
        return Ok(());
    }
    // What another file says comes back by itself once ours is taken away.
    let written = file.is_some_and(|file| file.ends_with(AUTO)).then_some(value);
    remember(journal, written, SYSTEM)?;
    set(session, "")
}

/// The first run knows how it was; a later one would only find what the first has made of it.
fn remember(journal: &mut Journal, conninfo: Option<String>, by: &str) -> Result<(), Failure> {
    if journal.received().is_none() {
        journal.note(Entry::Received { conninfo, by: by.to_owned() })?;
    }
    Ok(())
}

fn set(session: &mut Connection, upstream: &str) -> Result<(), Failure> {
    let literal = format!("'{}'", upstream.replace('\'', "''"));
    session.execute("set_upstream", &SET_UPSTREAM.replace("{upstream}", &literal))?;
    session.query(&RELOAD, &[])?;
    Ok(())
}

/// Lets the server receive again as it did before.
pub fn restore(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    let Some((conninfo, by)) = journal.received() else { return Ok(()) };
    if by == OWN {
        let pgdata = scene.pgdata();
        let mut own = own_settings::read(&pgdata)?;
        own.extend(conninfo.map(|conninfo| (SETTING.to_owned(), conninfo)));
        own_settings::write(&pgdata, &own)?;
        return match scene.server.status()? {
            Status::Running(_) => Ok(scene.server.reload()?),
            Status::Down | Status::Orphans(_) => Ok(()),
        };
    }
    let mut session = scene.connect()?;
    match conninfo {
        Some(conninfo) => set(&mut session, &conninfo),
        None => reset(&mut session),
    }
}

/// Leaves nothing of ours behind on a primary, which streams from nobody.
pub fn forget(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    match journal.received() {
        Some((_, by)) if by == SYSTEM => reset(&mut scene.connect()?),
        _ => Ok(()),
    }
}

fn reset(session: &mut Connection) -> Result<(), Failure> {
    session.execute("reset_upstream", RESET_UPSTREAM)?;
    session.query(&RELOAD, &[])?;
    Ok(())
}

/// True where no WAL receiver works, so that what was received lies in the files.
pub fn is_gone(scene: &Scene<'_>) -> Result<bool, Failure> {
    Ok(match scene.server.status()? {
        Status::Running(running) => process(running.pid).is_none(),
        Status::Down | Status::Orphans(_) => true,
    })
}

/// The process of the WAL receiver below a postmaster.
fn process(postmaster: u32) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let title = fs::read(entry.path().join("cmdline")).ok().filter(|_| parent == postmaster)?;
        String::from_utf8_lossy(&title).contains("walreceiver").then_some(process)
    })
}
