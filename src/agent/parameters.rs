//! What people set in the cluster manager: `OCF_RESKEY_…`, with the names that the `heartbeat:pgsql` agent made known.
//!
//! `pgwarm.ini` is the truth. What is set here is laid over it where it can be, and what has no meaning any more is
//! named as ignored rather than refused, so that a resource can change its agent without being written anew.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Source;
use crate::error::{Class, Failure};

/// What the cluster manager puts in front of the names.
const PREFIX: &str = "OCF_RESKEY_";

/// How long an action may take where nobody says so.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What is left of an action's time for what comes after a stop that had to be forced.
const MARGIN: Duration = Duration::from_secs(10);

/// A parameter of the resource.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it may hold, in the words of the meta-data.
    pub kind: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
    /// What it does; of one that is ignored: why.
    pub says: &'static str,
    /// False: known from the other agent, without effect here.
    pub honoured: bool,
}

const fn row(name: &'static str, kind: &'static str, default: &'static str, says: &'static str) -> Row {
    Row { name, kind, default, says, honoured: true }
}

const fn ignored(name: &'static str, why: &'static str) -> Row {
    Row { name, kind: "string", default: "", says: why, honoured: false }
}

/// Every parameter.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("pgwarm_config", "string", "/etc/pgwarm/pgwarm.ini", "The shared configuration of pgwarm: the truth about nodes, archives and the server."),
    row("pgwarm_local", "string", "", "The local configuration; empty: pgwarm.local.ini beside the shared one."),
    row("rep_mode", "string", "none", "none: one server without replication; slave: a standby that is never promoted; async, sync: promotable."),
    row("node_list", "string", "", "Nodes of the cluster, separated by blanks; NAME=NODE where pgwarm calls one otherwise. Empty: every database node."),
    row("pgdata", "string", "", "The data directory; empty: as pgwarm.ini says."),
    row("pgctl", "string", "", "The path of pg_ctl; its folder holds PostgreSQL's programs. Empty: as pgwarm.ini says."),
    row("config", "string", "", "The server's postgresql.conf; empty: as pgwarm.ini says."),
    row("pgdba", "string", "", "The user that everything is done as; empty: the owner of the data directory."),
    row("start_opt", "string", "", "Options for postgres, separated by blanks, such as '-c port=5433'."),
    row("logfile", "string", "", "Gets what the server says before its own logging begins; empty: server.log in the spool."),
    row("stop_escalate", "integer", "90", "Seconds that a primary gets to stop in order; then it is stopped at once. 0: at once."),
    row("stop_escalate_in_slave", "integer", "90", "The same of a standby."),
    row("monitor_sql", "string", "", "A statement that a primary must carry out to count as well."),
    row("check_wal_receiver", "boolean", "false", "Shows in an attribute whether a standby receives WAL."),
    row("tmpdir", "string", "/var/lib/pgsql/tmp", "Where PGSQL.lock lies."),
    row("lock", "string", "evidence", "A PGSQL.lock at start: evidence removes it once the data are proven to fit; strict refuses until somebody does."),
    row("rejoin", "string", "follow", "A former primary at start: follow only where it lost nothing; any: also rewind, restore, copy; none: by hand."),
    row("trust", "string", "fenced", "A silent node that the cluster has lost counts as stopped: fenced, where stonith is enabled; membership; no."),
    row("crm_attr_timeout", "integer", "5", "Seconds that one call of the cluster's tools may take."),
    ignored("psql", "pgwarm speaks to the server itself"),
    ignored("pglibs", "the server's programs find their libraries themselves"),
    ignored("pghost", "node.NAME.conninfo says it"),
    ignored("pgport", "node.NAME.conninfo says it"),
    ignored("pgdb", "node.NAME.conninfo says it"),
    ignored("socketdir", "the server's own settings say it"),
    ignored("ctl_opt", "pg_ctl is not used to start and stop"),
    ignored("monitor_user", "node.NAME.conninfo says it"),
    ignored("monitor_password", "a password belongs in .pgpass"),
    ignored("master_ip", "a standby streams from the node that is the primary, and is led to the next one"),
    ignored("repuser", "standby.user says it"),
    ignored("primary_conninfo_opt", "node.NAME.conninfo says it"),
    ignored("restore_command", "restore-wal is what PostgreSQL calls; standby-init sets it"),
    ignored("archive_cleanup_command", "restore-wal --cleanup is what PostgreSQL calls; standby-init sets it"),
    ignored("recovery_end_command", "failover.action runs at the end of a promotion"),
    ignored("restart_on_promote", "two histories of one timeline would be the result"),
    ignored("xlog_check_count", "what other nodes hold is read, not waited for"),
    ignored("stop_escalate_in_promote", "nothing is stopped in a promotion"),
    ignored("replication_slot_name", "standby.slots says it"),
    ignored("external_standby_node_list", "every node stands in pgwarm.ini"),
];

/// How the server takes part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepMode {
    /// One server, no replication.
    None,
    /// A standby that is never promoted.
    Follower,
    /// Promotable; nobody waits for a standby.
    Async,
    /// Promotable; commits wait for a standby while there is one.
    Sync,
}

impl RepMode {
    /// True where one node is promoted.
    pub fn promotable(self) -> bool {
        matches!(self, RepMode::Async | RepMode::Sync)
    }
}

/// How far a former primary may be brought back without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoin {
    /// Only where nothing of it is lost.
    Follow,
    /// Every way that `standby-init --rejoin` knows.
    Any,
    /// Not at all.
    None,
}

/// When the cluster's word for a silent node being stopped is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Where it fences nodes.
    Fenced,
    /// Where it has quorum.
    Membership,
    /// Never.
    No,
}

/// What is to be called what in the cluster and in pgwarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// To the cluster manager.
    pub member: String,
    /// To pgwarm.
    pub node: String,
}

/// What a notification tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// `pre` or `post`, and the action, such as `post-promote`.
    pub what: String,
    /// The members that are promoted.
    pub promoted: Vec<String>,
    /// The members whose servers are standbys.
    pub standbys: Vec<String>,
}

/// The parameters, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The resource's name, which every attribute begins with.
    pub resource: String,
    /// Where the configuration is, and what is laid over it, without values that need the own node's name.
    pub source: Source,
    /// `node.NAME.KEY` of the own node.
    pub own: Vec<(&'static str, String)>,
    /// The user; none: the owner of the data directory.
    pub user: Option<String>,
    pub mode: RepMode,
    /// The nodes; none: every database node, by its own name.
    pub names: Option<Vec<Name>>,
    pub start_options: Vec<String>,
    pub log: Option<PathBuf>,
    pub stop: Duration,
    pub stop_standby: Duration,
    pub monitor_sql: Option<String>,
    pub check_receiver: bool,
    /// The lock file.
    pub lock: PathBuf,
    pub strict_lock: bool,
    pub rejoin: Rejoin,
    pub trust: Trust,
    /// How long one call of the cluster's tools may take.
    pub tools: Duration,
    /// How long the action may take.
    pub timeout: Duration,
    /// True for a monitor that only asks what is there.
    pub probe: bool,
    /// This node as the cluster manager calls it, where it says so.
    pub member: Option<String>,
    pub notice: Notice,
}

/// Reads them; `variable` answers what the environment holds.
pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Parameters, Failure> {
    let set = |name: &str| variable(&format!("{PREFIX}{name}")).filter(|value| !value.trim().is_empty());
    let text = |name: &str| set(name).or_else(|| default(name));
    let meta = |name: &str| variable(&format!("{PREFIX}CRM_meta_{name}")).unwrap_or_default();
    let seconds = |name: &str| number(name, text(name)).map(Duration::from_secs);
    let timeout = meta("timeout").parse().map(Duration::from_millis).unwrap_or(TIMEOUT);
    let most = timeout.saturating_sub(MARGIN).max(Duration::from_secs(1));
    let path = |name: &str| set(name).map(PathBuf::from);
    let folder = path("pgctl").and_then(|pgctl| pgctl.parent().map(Path::to_owned));
    let programs = folder.map(|folder| format!("local.pg_bin={}", folder.display()));
    let resource = variable("OCF_RESOURCE_INSTANCE").unwrap_or_else(|| "pgsql".to_owned());
    let list = |name: &str| meta(name).split_whitespace().map(str::to_owned).collect();
    Ok(Parameters {
        resource: resource.split(':').next().unwrap_or_default().to_owned(),
        source: Source {
            file: path("pgwarm_config"),
            local: path("pgwarm_local"),
            set: programs.into_iter().collect(),
        },
        own: [("pgdata", set("pgdata")), ("config_file", set("config"))]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
        user: set("pgdba"),
        mode: word(
            "rep_mode",
            text("rep_mode"),
            &[
                ("none", RepMode::None),
                ("slave", RepMode::Follower),
                ("async", RepMode::Async),
                ("sync", RepMode::Sync),
            ],
        )?,
        names: set("node_list").map(|list| list.split_whitespace().map(name).collect()),
        start_options: text("start_opt").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        log: path("logfile").filter(|path| path != Path::new("/dev/null")),
        stop: seconds("stop_escalate")?.min(most),
        stop_standby: seconds("stop_escalate_in_slave")?.min(most),
        monitor_sql: set("monitor_sql"),
        check_receiver: word("check_wal_receiver", text("check_wal_receiver"), BOOLEAN)?,
        lock: PathBuf::from(text("tmpdir").unwrap_or_default()).join("PGSQL.lock"),
        strict_lock: word("lock", text("lock"), &[("evidence", false), ("strict", true)])?,
        rejoin: word(
            "rejoin",
            text("rejoin"),
            &[("follow", Rejoin::Follow), ("any", Rejoin::Any), ("none", Rejoin::None)],
        )?,
        trust: word(
            "trust",
            text("trust"),
            &[("fenced", Trust::Fenced), ("membership", Trust::Membership), ("no", Trust::No)],
        )?,
        tools: seconds("crm_attr_timeout")?.max(Duration::from_secs(1)),
        timeout,
        // A monitor that is not repeated is a probe, and its interval not always said.
        probe: matches!(meta("interval").as_str(), "" | "0"),
        member: Some(meta("on_node")).filter(|name| !name.is_empty()),
        notice: Notice {
            what: format!("{}-{}", meta("notify_type"), meta("notify_operation")),
            promoted: list("notify_promote_uname"),
            standbys: list("notify_slave_uname"),
        },
    })
}

const BOOLEAN: &[(&str, bool)] = &[
    ("false", false),
    ("true", true),
    ("no", false),
    ("yes", true),
    ("off", false),
    ("on", true),
    ("0", false),
    ("1", true),
];

fn default(name: &str) -> Option<String> {
    ROWS.iter().find(|row| row.name == name).map(|row| row.default.to_owned()).filter(|value| !value.is_empty())
}

fn name(word: &str) -> Name {
    let (member, node) = word.split_once('=').unwrap_or((word, word));
    Name { member: member.to_owned(), node: node.to_owned() }
}

fn number(name: &str, value: Option<String>) -> Result<u64, Failure> {
    let value = value.unwrap_or_default();
    value.trim().trim_end_matches('s').parse().map_err(|_| {
        Failure::new(Class::Config, format!("the parameter {name} is '{value}', which is no number of seconds"))
    })
}

fn word<T: Copy>(name: &str, value: Option<String>, words: &[(&str, T)]) -> Result<T, Failure> {
    let value = value.unwrap_or_default();
    let found = words.iter().find(|(word, _)| *word == value.trim()).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Failure::new(Class::Config, format!("the parameter {name} is '{value}'"))
            .hinted(format!("It may be {}.", known.join(", ")))
    })
}

impl Parameters {
    /// What another program of ours is told to read the same configuration.
    pub fn arguments(&self) -> Vec<OsString> {
        let files = [("--config", &self.source.file), ("--local", &self.source.local)];
        let files = files.into_iter().filter_map(|(option, path)| Some([option.into(), path.clone()?.into()]));
        files.flatten().chain(self.source.set.iter().flat_map(|set| ["--set".into(), set.into()])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Parameters, Failure> {
        let all: Vec<(String, String)> =
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        read(&|name| all.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn nothing_set_is_one_server_without_replication() {
        let plain = with(&[]).expect("because the defaults hold together");
        assert_eq!((plain.mode, plain.probe, plain.strict_lock), (RepMode::None, true, false));
        assert_eq!((plain.stop, plain.timeout), (Duration::from_secs(90), TIMEOUT));
        assert_eq!(plain.resource, "pgsql");
        assert_eq!(plain.lock, Path::new("/var/lib/pgsql/tmp/PGSQL.lock"));
    }

    #[test]
    fn what_is_set_is_laid_over_the_configuration() {
        let found = with(&[
            ("OCF_RESOURCE_INSTANCE", "db:1"),
            ("OCF_RESKEY_pgctl", "/usr/lib/postgresql/15/bin/pg_ctl"),
            ("OCF_RESKEY_pgdata", "/srv/data"),
            ("OCF_RESKEY_rep_mode", "sync"),
            ("OCF_RESKEY_node_list", "one two.example.org=two"),
            ("OCF_RESKEY_psql", "/nowhere"),
            ("OCF_RESKEY_CRM_meta_timeout", "60000"),
            ("OCF_RESKEY_CRM_meta_interval", "0"),
        ])
        .expect("because it holds together");
        assert_eq!(found.resource, "db");
        assert_eq!(found.source.set, ["local.pg_bin=/usr/lib/postgresql/15/bin"]);
        assert_eq!(found.own, [("pgdata", "/srv/data".to_owned())]);
        assert_eq!(found.stop, Duration::from_secs(50));
        assert!(found.probe && found.mode.promotable());
        let names = found.names.expect("because they are set");
        assert_eq!((names[1].member.as_str(), names[1].node.as_str()), ("two.example.org", "two"));
    }

    #[test]
    fn a_word_that_nobody_knows_is_a_wrong_configuration() {
        for (name, value) in [("rep_mode", "multi"), ("stop_escalate", "soon"), ("trust", "everybody")] {
            let failure = with(&[(&format!("OCF_RESKEY_{name}"), value)]).expect_err("because it means nothing");
            assert_eq!(failure.class, Class::Config, "{name}");
        }
    }
}
