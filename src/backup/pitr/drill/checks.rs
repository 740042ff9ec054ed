//! What a drill checks on the server that it has restored.

use std::time::{Duration, Instant};

use super::super::follow::conninfo;
use crate::archive::drills::Verdict;
use crate::backup::{BackupError, Watcher};
use crate::config;
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::control::ControlFile;
use crate::postgres::error::PostgresError;
use crate::postgres::server::{Running, Server, ServerError, Status};
use crate::system::clock::Deadline;
use crate::system::process::{Call, Outcome};

const AMCHECK: Statement = Statement { name: "amcheck_there", text: include_str!("../../../../sql/amcheck_there.sql") };
const SEARCH_PATH: Statement =
    Statement { name: "usual_search_path", text: include_str!("../../../../sql/usual_search_path.sql") };

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(86_400);

/// So much of what a checking program says is kept, in characters.
const SAID_MAX: usize = 2000;

/// Who writes down how a check went.
pub trait Notes {
    /// One check is over.
    fn note(&mut self, name: &str, begun: Instant, result: Verdict, detail: String);
}

/// The checks.
pub struct Checks<'a> {
    /// Which.
    pub config: &'a config::Drill,
    /// The server.
    pub server: &'a Server,
    /// Roles to ask it as.
    pub users: &'a [String],
}

impl Checks<'_> {
    /// What takes a server that runs: SQL of the operator's, tables and indexes.
    pub fn while_it_runs(&self, notes: &mut dyn Notes, watcher: &dyn Watcher) -> Result<(), BackupError> {
        let Status::Running(running) = self.server.status()? else {
            let pgdata = self.server.pgdata().to_owned();
            return Err(ServerError::NotRunning { pgdata }.into());
        };
        if let Some(file) = &self.config.sql_file {
            watcher.phase("running the SQL file");
            let begun = Instant::now();
            let text = std::fs::read_to_string(file).map_err(BackupError::io("read", file))?;
            let mut connection = self.operators_session(&running)?;
            let (result, detail) = answer(connection.execute("sql_file", &text).map(|()| String::new()))?;
            notes.note("sql_file", begun, result, detail);
        }
        if let Some(query) = &self.config.check {
            watcher.phase("asking the query");
            let begun = Instant::now();
            let (result, detail) = ask(&mut self.operators_session(&running)?, query)?;
            notes.note("check", begun, result, detail);
        }
        if self.config.amcheck {
            watcher.phase("checking tables and indexes");
            let begun = Instant::now();
            let (result, detail) = self.amcheck(&running)?;
            notes.note("amcheck", begun, result, detail);
        }
        Ok(())
    }

    /// What takes one that was stopped: the checksums of all pages.
    pub fn when_it_is_stopped(&self, notes: &mut dyn Notes, watcher: &dyn Watcher) -> Result<(), BackupError> {
        watcher.phase("checking page checksums");
        let begun = Instant::now();
        let pgdata = self.server.pgdata();
        let (result, detail) = if ControlFile::read(pgdata)?.checksums {
            let call = Call::new(self.server.program("pg_checksums")?).args(["--check", "--pgdata"]).arg(pgdata);
            verdict(&finish(call)?)
        } else {
            (Verdict::Skipped, "the pages carry no checksums".to_owned())
        };
        notes.note("checksums", begun, result, detail);
        Ok(())
    }

    fn amcheck(&self, running: &Running) -> Result<(Verdict, String), BackupError> {
        let skipped = |why: &str| Ok((Verdict::Skipped, why.to_owned()));
        let (user, mut connection) = self.session(running)?;
        if connection.query(&AMCHECK, &[])?.is_empty() {
            return skipped("the extension amcheck is not installed");
        }
        let Ok(program) = self.server.program("pg_amcheck") else { return skipped("there is no pg_amcheck") };
        let host = running.socket_dir.clone().unwrap_or_default();
        let call = Call::new(program)
            .args(["--all", "--install-missing", "--heapallindexed", "--no-password", "--username", &user, "--host"])
            .arg(host)
            .args(["--port", &running.port.to_string()]);
        Ok(verdict(&finish(call)?))
    }

    /// A session of its own for what the operator wrote, which finds its tables as the operator's sessions do.
    fn operators_session(&self, running: &Running) -> Result<Connection, BackupError> {
        let mut connection = self.session(running)?.1;
        connection.query_one(&SEARCH_PATH, &[])?;
        Ok(connection)
    }

    fn session(&self, running: &Running) -> Result<(String, Connection), BackupError> {
        let mut refused = None;
        for user in self.users {
            match connect(&conninfo(running, user, &self.config.database)?, PATIENCE, "drill") {
                Ok(connection) => return Ok((user.clone(), connection)),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let server = self.server.pgdata().display().to_string();
        Err(refused.unwrap_or(PostgresError::NoTime { server }).into())
    }
}

/// Every row must say true, and there must be one.
fn ask(connection: &mut Connection, query: &str) -> Result<(Verdict, String), BackupError> {
    let rows = connection.texts("check", query);
    answer(rows.map(|rows| match rows.iter().filter(|row| row.as_deref() != Some("t")).count() {
        _ if rows.is_empty() => "the query has no row".to_owned(),
        0 => String::new(),
        wrong => format!("{wrong} of {} rows are not true", rows.len()),
    }))
}

/// A complaint is a failure, and so is an error of the server's; that it cannot be asked is none of the data's.
fn answer(result: Result<String, PostgresError>) -> Result<(Verdict, String), BackupError> {
    match result {
        Ok(complaint) if complaint.is_empty() => Ok((Verdict::Passed, String::new())),
        Ok(complaint) => Ok((Verdict::Failed, complaint)),
        Err(error @ PostgresError::Query { .. }) => Ok((Verdict::Failed, error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn finish(call: Call) -> Result<Outcome, BackupError> {
    Ok(call.run(Deadline::after(PATIENCE))?)
}

fn verdict(outcome: &Outcome) -> (Verdict, String) {
    if outcome.status.is_success() {
        return (Verdict::Passed, String::new());
    }
    let said = [&outcome.stdout[..], &outcome.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (Verdict::Failed, lines.join(" | ").chars().take(SAID_MAX).collect())
}
