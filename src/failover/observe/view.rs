//! A node's data directory and server as its own machine sees them: control file, processes, files of WAL, and SQL
//! where the server takes it.

use std::path::Path;
use std::time::SystemTime;

use chrono::{DateTime, Local};

use super::tail::end_of_wal;
use crate::cluster::contact;
use crate::config::{Config, Node};
use crate::error::{Class, Failure};
use crate::failover::observation::{Commit, Receiver, Serving, View};
use crate::postgres::connection::{Connection, Row, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::control::ControlFile;
use crate::postgres::facts::{NodeFacts, column};
use crate::postgres::local_wal;
use crate::postgres::own_settings;
use crate::postgres::resolve::{Endpoint, Environment, Host};
use crate::postgres::server::{Server, Status};
use crate::wal::{Lsn, TimelineHistory, TimelineId};

const STANDBY_FACTS: Statement =
    Statement { name: "standby_facts", text: include_str!("../../../sql/standby_facts.sql") };

/// What a server says over one session.
struct Live {
    facts: NodeFacts,
    receives: Receives,
}

/// What a standby says of its receiver.
struct Receives {
    paused: bool,
    upstream: Option<String>,
    timeline: Option<TimelineId>,
    flushed: Option<Lsn>,
    receiver: Option<Receiver>,
}

/// Looks at a node of this machine, or says why that cannot be done.
pub fn look(config: &Config, node: &Node) -> Result<View, String> {
    seen(config, node).map_err(|failure| failure.message)
}

fn seen(config: &Config, node: &Node) -> Result<View, Failure> {
    let server = Server::new(config, node)?;
    let pgdata = server.pgdata().to_owned();
    let control = ControlFile::read(&pgdata)?;
    let status = server.status()?;
    let live = match (&status, &node.conninfo) {
        (Status::Running(_), Some(conninfo)) => ask(config, conninfo).ok(),
        _ => None,
    };
    let recovers = own_settings::signal(&pgdata)?.is_some();
    let serving = serving(&status, live.as_ref(), recovers);
    let history = lineage(&pgdata, &control, live.as_ref())?;
    let (wal_end, last_commit) = end(&pgdata, &control, &history, live.as_ref())?;
    let follows = live.as_ref().and_then(|live| upstream(config, live.receives.upstream.as_deref()));
    let follows = follows.or_else(|| upstream(config, configured(&server).as_deref()));
    let trigger = pgdata.join(&config.restore.trigger);
    Ok(View {
        system: control.system_id,
        segment_size: control.segment_size,
        server: serving,
        state: control.state,
        recovers,
        history,
        checkpoint: control.checkpoint,
        wal_end,
        replayed: live.as_ref().and_then(|live| live.facts.replayed),
        paused: live.as_ref().is_some_and(|live| live.receives.paused),
        receiver: live.and_then(|live| live.receives.receiver),
        follows,
        last_commit,
        trigger: trigger.exists().then(|| trigger.display().to_string()),
    })
}

fn ask(config: &Config, conninfo: &str) -> Result<Live, Failure> {
    let mut connection = connect(&Conninfo::parse(conninfo)?, config.failover.contact, "trigger-failover")?;
    let facts = connection.node_facts()?;
    let receives = receives(config, &mut connection)?;
    Ok(Live { facts, receives })
}

fn receives(config: &Config, connection: &mut Connection) -> Result<Receives, Failure> {
    let row = connection.query_one(&STANDBY_FACTS, &[])?;
    let position = |name: &str| text(&row, name).and_then(|text| text.parse().ok());
    let timeline = column::<Option<i64>>(&row, "timeline").ok().flatten();
    let host = text(&row, "sender_host").unwrap_or_default();
    let port = column::<Option<i32>>(&row, "sender_port").ok().flatten();
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
    let age = column::<Option<f64>>(&row, "message_age").ok().flatten().map(|age| age.max(0.0) * 1000.0);
    let receiver = text(&row, "status").map(|_| Receiver {
        from: node_at(config, &host, port),
        address: format!("{host}:{port}"),
        message_age_ms: age.map(|age| age as u64),
        told: position("told_lsn"),
    });
    Ok(Receives {
        paused: column(&row, "paused").unwrap_or(false),
        upstream: text(&row, "upstream"),
        timeline: timeline.and_then(|number| u32::try_from(number).ok()).map(TimelineId),
        flushed: position("flushed_lsn"),
        receiver,
    })
}

/// A text that may be NULL; a role that may not see it gets none.
fn text(row: &Row, name: &str) -> Option<String> {
    column::<Option<String>>(row, name).ok().flatten()
}

/// What the processes say, and SQL where there is any.
fn serving(status: &Status, live: Option<&Live>, recovers: bool) -> Serving {
    match (status, live) {
        (Status::Down, _) => Serving::Down,
        (_, Some(live)) if live.facts.in_recovery => Serving::Standby,
        (_, Some(_)) => Serving::Primary,
        (Status::Running(running), None) if running.standby => Serving::Standby,
        // It starts, or it does not let us in: the signal file says what it was started as.
        (Status::Running(running), None) if running.ready && recovers => Serving::Standby,
        _ => Serving::Starting,
    }
}

/// The timeline that the data directory is on, with its ancestors.
fn lineage(pgdata: &Path, control: &ControlFile, live: Option<&Live>) -> Result<TimelineHistory, Failure> {
    let known = [Some(control.checkpoint_timeline), Some(control.min_recovery_timeline)];
    let told = [live.map(|live| live.facts.timeline), live.and_then(|live| live.receives.timeline)];
    let newest = known.into_iter().chain(told).flatten().max().unwrap_or(control.checkpoint_timeline);
    let missing = |timeline| {
        let folder = pgdata.join("pg_wal");
        let text = format!("the history of timeline {timeline} is missing in '{}'", folder.display());
        Failure::new(Class::Corrupt, text)
    };
    local_wal::followed(pgdata, newest)?.ok_or_else(|| missing(newest))
}

/// Where WAL ends: what a primary writes is asked from itself, everything else is read from the files.
fn end(
    pgdata: &Path,
    control: &ControlFile,
    history: &TimelineHistory,
    live: Option<&Live>,
) -> Result<(Lsn, Option<Commit>), Failure> {
    if let Some(current) = live.and_then(|live| live.facts.current) {
        return Ok((current, None));
    }
    let sure = [
        Some(control.checkpoint),
        Some(control.min_recovery_point),
        live.and_then(|live| live.facts.replayed),
        live.and_then(|live| live.receives.flushed),
    ];
    let sure = sure.into_iter().flatten().max().unwrap_or(control.checkpoint);
    let tail = end_of_wal(pgdata, control, history, sure)?;
    let replayed = live.and_then(|live| live.facts.replayed).unwrap_or(Lsn::INVALID);
    let read = tail.commits.last.map(|commit| Commit { until: commit.until, xid: commit.xid, at: time(commit.at()) });
    let told = live.and_then(|live| live.facts.replayed_at).map(|at| Commit { until: replayed, xid: 0, at: time(at) });
    Ok((tail.end.max(replayed), read.or(told)))
}

fn time(at: SystemTime) -> String {
    DateTime::<Local>::from(at).to_rfc3339_opts(chrono::SecondsFormat::Micros, false)
}

/// What the files of settings say the server streams from, where it cannot be asked.
fn configured(server: &Server) -> Option<String> {
    let settings = crate::postgres::settings::Settings::read(&server.config_file(), server.pgdata()).ok()?;
    settings.get("primary_conninfo").map(|setting| setting.value.clone()).filter(|value| !value.is_empty())
}

/// The node that a connection string leads to.
fn upstream(config: &Config, conninfo: Option<&str>) -> Option<String> {
    let endpoints = endpoints(conninfo.filter(|text| !text.is_empty())?)?;
    endpoints.iter().find_map(|(host, port)| node_at(config, host, *port))
}

/// The node whose server is at an address.
fn node_at(config: &Config, host: &str, port: u16) -> Option<String> {
    let there = |node: &&Node| {
        let endpoints = contact::conninfo(config, node).ok().and_then(|conninfo| resolved(&conninfo));
        let mut endpoints = endpoints.into_iter().flatten();
        endpoints.any(|(their_host, their_port)| their_host == host && their_port == port)
    };
    config.nodes.iter().find(there).map(|node| node.name.clone())
}

/// Where a connection string leads, as `pg_stat_wal_receiver` shows it.
fn endpoints(conninfo: &str) -> Option<Vec<(String, u16)>> {
    resolved(&Conninfo::parse(conninfo).ok()?)
}

fn resolved(conninfo: &Conninfo) -> Option<Vec<(String, u16)>> {
    let resolved = conninfo.resolve(&Environment::of_process()).ok()?;
    let host = |endpoint: &Endpoint| match (&endpoint.host, endpoint.address) {
        (Host::Name(name), _) => name.clone(),
        (Host::Socket(directory), _) => directory.display().to_string(),
        (_, Some(address)) => address.to_string(),
        _ => String::new(),
    };
    Some(resolved.endpoints.iter().map(|endpoint| (host(endpoint), endpoint.port)).collect())
}
