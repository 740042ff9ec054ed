//! What `cluster-monitor` takes on its command line.

use clap::{Arg, Command};

use crate::cli::arguments::{configured, flag, number, text};
use crate::config::value;

/// Every job, in the order of the help.
const JOBS: &[&str] = &[
    "run",
    "status",
    "lag",
    "events",
    "matrix",
    "node",
    "register",
    "unregister",
    "witness",
    "pause",
    "resume",
    "cleanup",
    "schema",
    "primary",
    "standby",
    "dr",
];

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
             cluster-monitor register [primary | standby | dr | witness] [--node NODE] [--force]\n       \
             cluster-monitor unregister [--node NODE] [--force]\n       \
             cluster-monitor pause [--for TIME] [--reason TEXT]\n       \
             cluster-monitor resume\n       \
             cluster-monitor cleanup [--keep TIME]\n       \
             cluster-monitor schema",
        )
        .arg(
            Arg::new("job")
                .help("What to do; the nouns of repmgr go before 'register' and 'unregister' too")
                .value_name("JOB")
                .value_parser(clap::builder::PossibleValuesParser::new(JOBS))
                .required_unless_present("show-config"),
        )
        .arg(text("what", "register: what the node must be; node: 'check'").value_name("WORD"))
        .arg(text("node", "The node that is meant; else this one, or all").long("node").value_name("NODE"))
        .arg(flag("force", "register, unregister: a person knows better"))
        .arg(flag("here", "matrix: only what this node reaches").hide(true))
        .arg(text("event", "events: only those of this name").long("event").value_name("NAME"))
        .arg(number("limit", "events: so many at most (20)", 100_000))
        .arg(time("keep", "cleanup: keep what is younger; else as [monitor] says"))
        .arg(time("for", "pause: go on by itself after so long"))
        .arg(text("reason", "pause: why").long("reason").value_name("TEXT"))
        .arg(
            flag("nagios", "node: one line and exit codes 0 to 3, as monitoring plugins answer").conflicts_with("json"),
        )
}

fn time(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .value_name("TIME")
        .value_parser(|text: &str| value::time(text).map_err(|mistake| mistake.message))
}
