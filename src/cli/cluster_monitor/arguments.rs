//! What `cluster-monitor` takes on its command line.

use clap::{Arg, ArgAction, Command};

use crate::cli::arguments::{configured, flag, lifts, number, standby_ways, text};
use crate::config::value;

/// Every job, in the order of the help.
const JOBS: &[&str] = &[
    "run",
    "status",
    "lag",
    "events",
    "matrix",
    "node",
    "explain",
    "promote",
    "switchover",
    "follow",
    "rejoin",
    "register",
    "unregister",
    "pause",
    "resume",
    "cleanup",
    "schema",
    "primary",
    "standby",
    "dr",
    "witness",
    "cluster",
    "service",
];

/// Which options belong to which job; the others are a mistake that must not pass unseen.
pub const OPTIONS: &[(&str, &[&str])] = &[
    ("node", &["events", "node", "explain", "register", "unregister"]),
    ("force", &["register", "unregister"]),
    ("event", &["events"]),
    ("limit", &["events"]),
    ("keep", &["cleanup"]),
    ("for", &["pause"]),
    ("reason", &["pause"]),
    ("nagios", &["node"]),
    ("gone", &["explain"]),
    ("fence", CHANGES),
    ("down", CHANGES),
    ("ignore", CHANGES),
    ("take-claim", CHANGES),
    ("even-if-behind", CHANGES),
    ("accept-loss", CHANGES),
    ("without-configuration", CHANGES),
    ("slot", &["follow", "rejoin"]),
    ("upstream", &["follow", "rejoin"]),
    ("mode", &["rejoin"]),
    ("delay", &["rejoin"]),
    ("map", &["rejoin"]),
    ("rung", &["rejoin"]),
    ("keep-old", &["rejoin"]),
    ("jobs", &["rejoin"]),
    ("rate-limit", &["rejoin"]),
];

/// The jobs that ask the rules of a change of role.
const CHANGES: &[&str] = &["promote", "switchover", "explain"];

/// The command: the word first, then what it needs.
pub fn cluster_monitor() -> Command {
    configured("cluster-monitor", "Watches the cluster: status, lag, events and registrations, by hand and as a daemon")
        .override_usage(
            "cluster-monitor run\n       \
             cluster-monitor status\n       \
             cluster-monitor lag\n       \
             cluster-monitor events [--node NODE] [--event NAME] [--limit N]\n       \
             cluster-monitor matrix\n       \
             cluster-monitor node check [--node NODE] [--nagios]\n       \
             cluster-monitor explain [--node NODE] [--gone NODE]\n       \
             cluster-monitor promote [--dry-run] [what lifts a rule]\n       \
             cluster-monitor switchover [--dry-run] [what lifts a rule]\n       \
             cluster-monitor follow [NODE] [--slot [NAME]]\n       \
             cluster-monitor rejoin [--upstream NODE] [--slot [NAME]] [--rung RUNG]\n       \
             cluster-monitor register [primary | standby | dr | witness] [--node NODE] [--force]\n       \
             cluster-monitor unregister [--node NODE] [--force]\n       \
             cluster-monitor pause [--for TIME] [--reason TEXT]\n       \
             cluster-monitor resume\n       \
             cluster-monitor cleanup [--keep TIME]\n       \
             cluster-monitor schema",
        )
        .arg(
            Arg::new("job")
                .help("What to do; repmgr's words, such as 'standby register', are understood too")
                .value_name("JOB")
                .value_parser(clap::builder::PossibleValuesParser::new(JOBS))
                .required_unless_present("show-config"),
        )
        .arg(text("what", "register: what the node must be; node: 'check'; follow: the node").value_name("WORD"))
        .arg(text("node", "The node that is meant; else this one, or all").long("node").value_name("NODE"))
        .arg(flag("force", "register, unregister: a person knows better"))
        .arg(flag("here", "matrix: only what this node reaches").hide(true))
        .arg(text("event", "events: only those of this name").long("event").value_name("NAME"))
        .arg(number("limit", "events: so many at most (20)", 100_000))
        .arg(time("keep", "cleanup: keep what is younger; else as [monitor] says"))
        .arg(time("for", "pause: go on by itself after so long"))
        .arg(text("reason", "pause: why").long("reason").value_name("TEXT"))
        .arg(
            text("gone", "explain: suppose that NODE is gone, else the primary; may be given again")
                .long("gone")
                .value_name("NODE")
                .action(ArgAction::Append),
        )
        .arg(
            flag("nagios", "node: one line and exit codes 0 to 3, as monitoring plugins answer").conflicts_with("json"),
        )
        .args(lifts())
        .args(standby_ways().map(|argument| argument.help_heading("How a standby follows or comes back")))
}

fn time(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .value_name("TIME")
        .value_parser(|text: &str| value::time(text).map_err(|mistake| mistake.message))
}
