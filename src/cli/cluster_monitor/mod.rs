//! `cluster-monitor`: status, lag, events and registrations of the cluster, by hand and as a daemon.
//!
//! Exit codes of `status`, `lag` and `node`: 0 all is well; 1 something is a warning or could not be found out; 20
//! something is critical. With `--nagios` those of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
//! `--json` prints the picture of the cluster ([`crate::monitor::view::View`] with `level` and `findings`), the events,
//! or the plan of a registration; its schema is `etc/cluster-monitor.schema.json`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use serde::Serialize;

use super::arguments::refuse_strangers;
use super::output;
use super::run::{self, Context};
use crate::cluster::check::{Finding, Level};
use crate::cluster::contact;
use crate::config::{Config, Node};
use crate::error::{Class, Failure};
use crate::monitor::gather::{Gathered, gather};
use crate::monitor::judge::{Limits, Picture, judge};
use crate::monitor::records::Records;
use crate::monitor::tide::Tide;
use crate::monitor::view::View;

pub mod arguments;
mod daemon;
mod events;
mod explain;
mod lag;
mod matrix;
mod node;
mod registration;
mod roles;
mod status;
mod upkeep;

/// How many positions of the primary a command remembers.
const POSITIONS_MAX: usize = 5000;

/// How long one statement of a command may take on the primary.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole `main`: what keeps a monitoring plugin from being asked at all is an answer in its own terms, too.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let nagios = words.iter().any(|word| word == "--nagios");
    let code = run::main_from("cluster-monitor", words.into_iter(), run);
    if !nagios || code <= Level::Unknown.nagios_code() {
        return ExitCode::from(code);
    }
    // A plugin is read by its standard output; that nothing can be written there changes nothing of the answer.
    let _ = output::print(&format!("PGWARM UNKNOWN - cluster-monitor ended with exit code {code}; run it by hand\n"));
    ExitCode::from(Level::Unknown.nagios_code())
}

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let word = |name: &str| arguments.get_one::<String>(name).map(String::as_str);
    let (job, what) = repmgr(word("job").unwrap_or_default(), word("what"));
    refuse_strangers("cluster-monitor", arguments, job, arguments::OPTIONS)?;
    match (job, what) {
        ("run", None) => daemon::run(context),
        ("status", None) => status::run(context),
        ("lag", None) => lag::run(context),
        ("events", None) => events::run(arguments, context),
        ("matrix", None) => matrix::run(arguments, context),
        ("node", None | Some("check")) => node::run(arguments, context),
        ("explain", None) => explain::run(arguments, context),
        ("promote", None) => roles::promote(arguments, context),
        ("switchover", None) => roles::switch_over(arguments, context),
        ("follow", node) => roles::follow(arguments, context, node),
        ("rejoin", None) => roles::rejoin(arguments, context),
        ("register", _) => registration::register(arguments, context, what),
        ("unregister", None) => registration::unregister(arguments, context),
        ("pause", None) => upkeep::pause(arguments, context),
        ("resume", None) => upkeep::resume(context),
        ("cleanup", None) => upkeep::clean_up(arguments, context),
        ("schema", None) => upkeep::schema(context),
        (job, _) => {
            let said = what.map(|what| format!(" {what}")).unwrap_or_default();
            Err(Failure::new(Class::Usage, format!("'{job}{said}' is nothing that can be done"))
                .hinted("Run 'cluster-monitor --help' to see how it is called."))
        }
    }
}

/// What repmgr's words mean here: there the noun goes first.
fn repmgr<'a>(job: &'a str, what: Option<&'a str>) -> (&'a str, Option<&'a str>) {
    match (job, what) {
        (noun @ ("primary" | "standby" | "dr" | "witness"), Some("register")) => ("register", Some(noun)),
        ("primary" | "standby" | "dr" | "witness", Some("unregister")) => ("unregister", None),
        ("standby", Some(verb @ ("promote" | "switchover" | "follow"))) | ("node", Some(verb @ "rejoin")) => {
            (verb, None)
        }
        ("cluster", Some("show")) => ("status", None),
        ("cluster", Some("event" | "events")) => ("events", None),
        ("cluster", Some(verb @ ("matrix" | "cleanup"))) => (verb, None),
        ("service", Some(verb @ ("pause" | "status"))) => (verb, None),
        ("service", Some("unpause")) => ("resume", None),
        as_it_is => as_it_is,
    }
}

/// The picture with its judgement, as a command makes it.
struct Judged {
    view: View,
    /// The worst level of all findings.
    level: Level,
    /// Every finding, also the good ones.
    findings: Vec<Finding>,
}

impl Judged {
    /// Looks at everything once, and judges it.
    fn now(config: &Arc<Config>) -> Judged {
        let gathered = gather(config);
        let view = gathered.view(config, &tide(config, &gathered));
        // A command looks once, so what does not answer now is gone now.
        let limits = Limits { check: &config.check, lost_after: Duration::ZERO, reports_every: config.monitor.history };
        let findings = judge(&view, &limits);
        let level = Level::worst(findings.iter().map(|finding| finding.level));
        Judged { view, level, findings }
    }

    fn picture(&self) -> Picture<'_> {
        Picture { view: &self.view, level: self.level, findings: &self.findings }
    }

    fn code(&self) -> u8 {
        match self.level {
            Level::Ok => 0,
            Level::Warning | Level::Unknown => Class::Absent.code(),
            Level::Critical => Class::Refused.code(),
        }
    }
}

/// Where the primary was when, as the database remembers it; nothing where it cannot be asked in time.
fn tide(config: &Config, gathered: &Gathered) -> Tide {
    let mut tide = Tide::new(POSITIONS_MAX);
    let view = gathered.view(config, &tide);
    let remembered = view.primary.as_deref().and_then(|name| contact::text(config, name)).and_then(|conninfo| {
        let records = Records::open(&conninfo, config.monitor.deadline, "cluster-monitor");
        records.and_then(|mut records| records.positions()).ok()
    });
    for (at, lsn) in remembered.unwrap_or_default() {
        tide.note(at, lsn);
    }
    if let Some(reference) = view.reference.filter(|reference| reference.live) {
        tide.note(gathered.at, reference.lsn);
    }
    tide
}

/// The node that the command is about.
fn wanted<'a>(arguments: &ArgMatches, config: &'a Config) -> Result<&'a Node, Failure> {
    match arguments.get_one::<String>("node") {
        None => Ok(config.own()),
        Some(name) => config.node(name).ok_or_else(|| {
            let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
            Failure::new(Class::Usage, format!("there is no node '{name}'"))
                .hinted(format!("The configuration knows {}.", names.join(", ")))
        }),
    }
}

/// A way to write: the primary that the picture shows.
fn records(config: &Config, view: &View) -> Result<Records, Failure> {
    let conninfo = view.primary.as_deref().and_then(|name| contact::text(config, name));
    let conninfo = conninfo.ok_or_else(|| {
        Failure::new(Class::Postgres, "no node answers as the primary, and what is to be written is kept there")
            .hinted("Run 'cluster-monitor status' to see which nodes answer.")
    })?;
    Ok(Records::open(&conninfo, PATIENCE, "cluster-monitor")?)
}

/// Prints plain data as JSON.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).expect("because plain data has no reason not to become JSON");
    output::print(&format!("{json}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_repmgr_mean_what_they_say() {
        for (noun, verb, job, what) in [
            ("standby", Some("register"), "register", Some("standby")),
            ("witness", Some("unregister"), "unregister", None),
            ("standby", Some("promote"), "promote", None),
            ("standby", Some("switchover"), "switchover", None),
            ("standby", Some("follow"), "follow", None),
            ("node", Some("rejoin"), "rejoin", None),
            ("node", Some("check"), "node", Some("check")),
            ("cluster", Some("show"), "status", None),
            ("cluster", Some("event"), "events", None),
            ("service", Some("unpause"), "resume", None),
            ("follow", Some("db1"), "follow", Some("db1")),
            ("primary", Some("promote"), "primary", Some("promote")),
        ] {
            assert_eq!(repmgr(noun, verb), (job, what), "{noun} {verb:?}");
        }
    }

    #[test]
    fn every_option_belongs_to_jobs_that_there_are() {
        let mut command = arguments::cluster_monitor();
        command.build();
        for (option, jobs) in arguments::OPTIONS {
            assert!(command.get_arguments().any(|one| one.get_id() == option), "there is no --{option}");
            for job in *jobs {
                let parsed = command.clone().try_get_matches_from(["cluster-monitor", job]);
                assert!(parsed.is_ok(), "there is no job '{job}'");
            }
        }
    }
}
