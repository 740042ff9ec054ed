//! What each program takes on its command line, one function a program.
//!
//! The id of an argument is its long name, or the name in its help for one without dashes:
//! `matches.get_flag("dry-run")`, `matches.get_one::<PathBuf>("path")`. Nothing here looks at files or the environment.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};

use super::PROGRAMS;
use crate::config::{Source, value};
use crate::error::{Class, Failure};
use crate::store::serve::is_plain_name;
use crate::wal::Lsn;

/// The command of every program, for completions and manual pages.
pub fn all() -> Vec<Command> {
    PROGRAMS.iter().map(|program| (program.command)()).collect()
}

/// `archive-wal`: `archive_command`, and what an operator does about it.
pub fn archive_wal() -> Command {
    configured("archive-wal", "Archives one WAL file to the places that the configuration names")
        .override_usage(
            "archive-wal [OPTIONS] <PATH> [NAME]\n       \
             archive-wal [OPTIONS] <--flush | --init [PLACE] | --arm [NODE] | --disarm NODE | --refuse | --discard | --status>",
        )
        .arg(path("path", "The file, as PostgreSQL's %p").value_name("PATH"))
        .arg(text("name", "Its name, as %f; else the last part of PATH").value_name("NAME").requires("path"))
        .arg(flag("flush", "Ship what a stopped server left in pg_wal, up to its last checkpoint"))
        .arg(
            text("init", "Make the archive of the node PLACE, or of every node that holds one")
                .long("init")
                .value_name("PLACE")
                .num_args(0..=1)
                .default_missing_value(""),
        )
        .arg(
            text("arm", "Ship again, whatever the configuration says; with NODE: to the archive of that node")
                .long("arm")
                .value_name("NODE")
                .num_args(0..=1)
                .default_missing_value(""),
        )
        .arg(text("disarm", "Take the archive of NODE out until it is armed again").long("disarm").value_name("NODE"))
        .arg(flag("refuse", "Refuse every file, so that PostgreSQL keeps it"))
        .arg(flag("discard", "Throw WAL away; needs archive.discard_confirmation"))
        .arg(flag("status", "Show queues, places and the switch"))
        .arg(flag("worker", "Be the worker").hide(true))
        .arg(flag("no-worker", "Do the work in this process"))
        .group(
            ArgGroup::new("job")
                .args(["path", "flush", "init", "arm", "disarm", "refuse", "discard", "status", "worker", "show-config"])
                .required(true),
        )
}

/// `restore-wal`: `restore_command` and `archive_cleanup_command`.
pub fn restore_wal() -> Command {
    configured("restore-wal", "Fetches one WAL file from the places that the configuration names, verified")
        .override_usage(
            "restore-wal [OPTIONS] <NAME> <TARGET> [RESTART]\n       restore-wal [OPTIONS] --cleanup <RESTART>\n       \
             restore-wal [OPTIONS] --forget <NODE>",
        )
        .arg(text("name", "The file's name, as PostgreSQL's %f").value_name("NAME").requires("target"))
        .arg(path("target", "Where to put it, as %p").value_name("TARGET"))
        .arg(
            text("restart", "The oldest file still needed, as %r; not used, and pg_rewind refuses it")
                .value_name("RESTART"),
        )
        .arg(
            text("cleanup", "Remove what a restart from RESTART (%r) no longer needs from the own archive")
                .long("cleanup")
                .value_name("RESTART")
                .num_args(0..=1)
                .default_missing_value(""),
        )
        .arg(
            text("forget", "Forget what a node that is gone needed of the own archive")
                .long("forget")
                .value_name("NODE"),
        )
        .arg(flag("wait", "Wait for a segment that is not there yet"))
        .arg(flag("partial", "Serve a .partial where no whole segment exists"))
        .arg(path("trigger", "End waiting as soon as FILE exists").long("trigger").value_name("FILE"))
        .arg(flag("no-worker", "Do the work in this process"))
        .group(ArgGroup::new("job").args(["name", "cleanup", "forget", "show-config"]).required(true))
}

/// `relay-wal`: from cron, or as a loop.
pub fn relay_wal() -> Command {
    configured("relay-wal", "Sends on what the own archive and the queues hold and the next places lack")
        .arg(flag("loop", "Go on until told to end, pausing relay.interval"))
        .arg(flag("full", "Compare everything, also what a turn before has seen there"))
        .arg(text("to", "Only to NODE; may be given again").long("to").value_name("NODE").action(ArgAction::Append))
        .arg(
            text("rate", "At most so many bytes a second, such as 10MB; 0: no limit")
                .long("rate")
                .value_name("SIZE")
                .value_parser(|text: &str| value::size(text).map_err(|mistake| mistake.message)),
        )
}

/// What `base-backup take` knows of incremental backups.
fn incremental() -> [Arg; 2] {
    let help = "take: store only what differs from the newest usable backup; a full one if there is none";
    let parent = text("parent", "take: let the incremental backup build on this one");
    [
        flag("incremental", help).conflicts_with_all(["to", "from"]),
        parent.long("parent").value_name("LABEL").requires("incremental"),
    ]
}

/// `base-backup`: the word first, then what it needs.
pub fn base_backup() -> Command {
    let command = configured("base-backup", "Takes base backups into an archive, lists, verifies, restores and expires them")
        .override_usage(
            "base-backup take [--incremental [--parent LABEL]] [--place NODE] [--jobs N] [--rate-limit SIZE]\n       \
             [--note KEY=VALUE] [--keep-it]\n       \
             base-backup take --of NODE [--incremental [--parent LABEL]] [--place NODE] [...]\n       \
             base-backup take <--to NODE | --from NODE> [--map OLD=NEW] [--wal-dir DIR] [--keep-config] [--copy-wal]\n       \
             base-backup list\n       \
             base-backup show <LABEL>\n       \
             base-backup verify [LABEL]\n       \
             base-backup restore <LABEL | latest> --to <DIR> [--map OID=DIR] [--wal-dir DIR] [--delta]\n       \
             base-backup annotate <LABEL> --note KEY=VALUE\n       \
             base-backup keep <LABEL>\n       \
             base-backup release <LABEL>\n       \
             base-backup expire [--keep N] [--days D]",
        )
        .arg(
            Arg::new("job")
                .help("What to do")
                .value_name("JOB")
                .value_parser(jobs(
                    &["take", "list", "show", "verify", "restore", "annotate", "keep", "release", "expire"],
                    &["receive", "send"],
                ))
                .required_unless_present("show-config"),
        )
        .arg(text("label", "The backup, as 'list' shows it, or 'latest'").value_name("LABEL"))
        .arg(text("place", "The node whose archive is meant; else this one").long("place").value_name("NODE"))
        .arg(number("jobs", "Work on so many files at once; 0: one for each core", 64))
        .arg(
            text("rate-limit", "take: read at most so many bytes a second, such as 50MB; 0: no limit")
                .long("rate-limit")
                .value_name("SIZE")
                .value_parser(|text: &str| value::size(text).map_err(|mistake| mistake.message)),
        )
        .arg(
            text("note", "take, annotate: write this about it; without a value: forget it; may be given again")
                .long("note")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append),
        )
        .arg(flag("keep-it", "take: mark it to be kept by expire"))
        .arg(flag("attached", "take: end when standard input ends").hide(true))
        .args(incremental())
        .arg(number("keep", "expire: keep so many backups; 0: no number", 10_000))
        .arg(number("days", "expire: keep what restores to any time of so many days; 0: no number", 36_500));
    into_directories(command)
}

/// What restores and copies of `base-backup` share: where they write, and what they leave or give up there.
fn into_directories(command: Command) -> Command {
    command
        .arg(path("wal-dir", "restore, take --to: make pg_wal a link to DIR").long("wal-dir").value_name("DIR"))
        .arg(flag("delta", "restore: overwrite an older state of the same system with what differs"))
        .arg(flag("drop-wal", "restore, take --to: give up WAL that lies only in the older state's pg_wal"))
        .arg(
            path("to", "restore: the data directory, empty or not there; take: the node that gets the copy")
                .long("to")
                .value_name("DIR | NODE"),
        )
        .arg(
            text("from", "take: copy the server of NODE into the data directory of this node")
                .long("from")
                .value_name("NODE")
                .conflicts_with("to"),
        )
        .arg(
            text("of", "take: back up the server of NODE, whose pgwarm does it, into the archive of this node")
                .long("of")
                .value_name("NODE")
                .conflicts_with_all(["to", "from"]),
        )
        .arg(
            text("map", "restore, take --to: put the tablespace OID (or OLD) into DIR; may be given again")
                .long("map")
                .value_name("OID=DIR")
                .action(ArgAction::Append),
        )
        .arg(flag("copy-wal", "take --to: send the WAL that the copy needs too, whatever is archived"))
        .arg(flag("keep-config", "take --to: let the node keep its own files of settings where it has them"))
}

/// `trigger-failover`: makes this node the primary.
pub fn trigger_failover() -> Command {
    configured("trigger-failover", "Makes this standby the primary, if nothing speaks against it")
        .override_usage(
            "trigger-failover [OPTIONS] [--fast | --target TIME | --switchover]\n       \
             trigger-failover --abort\n       \
             trigger-failover --rules",
        )
        .arg(flag("fast", "Open with what is here; what others have is not fetched"))
        .arg(
            text("target", "Open as of TIME, with offset, such as '2026-03-01 12:00:00+01:00'")
                .short('R')
                .long("target")
                .value_name("TIME"),
        )
        .arg(flag("switchover", "Change places with the primary, which is alive"))
        .args(lifts())
        .arg(flag("abort", "Give up an operation that was cut short"))
        .arg(flag("rules", "Print the rules, then end"))
        .arg(
            text("observe", "Print what this node, NODE, sees of itself").long("observe").value_name("NODE").hide(true),
        )
        .arg(text("look", "Print what this node, NODE, sees of all").long("look").value_name("NODE").hide(true))
        .group(ArgGroup::new("job").args([
            "fast",
            "target",
            "switchover",
            "abort",
            "rules",
            "observe",
            "look",
            "show-config",
        ]))
}

/// What lifts a rule of a change of role.
pub(super) fn lifts() -> [Arg; 7] {
    let lift = |argument: Arg| argument.help_heading("What lifts a rule");
    let nodes = |name: &'static str, help: &'static str| {
        lift(text(name, help).long(name).value_name("NODE").action(ArgAction::Append))
    };
    [
        lift(flag("fence", "Stop whoever may take writes first")),
        nodes("down", "NODE is certainly off or cut off from its clients; may be given again"),
        nodes("ignore", "Do without what only NODE may hold; may be given again"),
        lift(flag("take-claim", "Take over the claim of a node that is gone")),
        lift(flag("even-if-behind", "Promote this node although another is the better choice")),
        lift(flag("accept-loss", "Lose WAL that is known to be elsewhere")),
        lift(flag("without-configuration", "Go on without what a primary needs")),
    ]
}

/// `flush-primary`: the first half of a switchover.
pub fn flush_primary() -> Command {
    configured("flush-primary", "Stops this primary with everything sent on, so that a standby can take over")
        .override_usage(
            "flush-primary [OPTIONS]\n       \
             flush-primary --undo [--ignore NODE]",
        )
        .arg(flag("undo", "Start the primary again, if nobody has taken over"))
        .arg(
            text("ignore", "undo: do not ask the archive of NODE; may be given again")
                .long("ignore")
                .value_name("NODE")
                .action(ArgAction::Append)
                .requires("undo"),
        )
        .arg(text("for", "NODE takes over and sees for itself what it has").long("for").value_name("NODE").hide(true))
        .group(ArgGroup::new("job").args(["undo", "for", "show-config"]))
}

/// `pitr-restore`: the word first, then where to.
pub fn pitr_restore() -> Command {
    let to =
        |name: &'static str, value: &'static str, help: &'static str| text(name, help).long(name).value_name(value);
    configured("pitr-restore", "Plans, makes and rehearses restores to a point in time")
        .override_usage(
            "pitr-restore plan [TARGET] [--timeline N] [--backup LABEL] [--to DIR]\n       \
             pitr-restore run [TARGET] --to <DIR> [--delta] [--map OID=DIR] [--action WORD] [--start]\n       \
             pitr-restore drill [TARGET | --random] [--backup LABEL]\n       \
             pitr-restore drill --last",
        )
        .arg(
            Arg::new("job")
                .help("What to do")
                .value_name("JOB")
                .value_parser(["plan", "run", "drill"])
                .required_unless_present("show-config"),
        )
        .arg(to("time", "TIME", "Target: the state at this time, with its offset: '2026-03-01 12:00:00+01:00'"))
        .arg(to("xid", "ID", "Target: this transaction").value_parser(value_parser!(u64)))
        .arg(to("lsn", "LSN", "Target: this position").value_parser(value_parser!(Lsn)))
        .arg(to("name", "NAME", "Target: this restore point (pg_create_restore_point)"))
        .arg(flag("immediate", "Target: the end of the backup"))
        .arg(flag("latest", "Target: all the WAL there is; the default of plan and run"))
        .arg(flag("random", "drill: some moment that can be reached"))
        .group(ArgGroup::new("target").args(["time", "xid", "lsn", "name", "immediate", "latest", "random"]))
        .arg(flag("exclusive", "Stop just before the target, not just behind it"))
        .arg(
            to("timeline", "N", "Follow this timeline: a number, latest or current (the backup's)")
                .default_value("latest"),
        )
        .arg(to("backup", "LABEL", "Restore from this backup; else from the newest that leads there"))
        .arg(to("place", "NODE", "The node whose archive holds the backups; else this one"))
        .arg(
            to("action", "WORD", "run: what happens at the target: pause, promote or shutdown")
                .value_parser(["pause", "promote", "shutdown"]),
        )
        .arg(path("to", "The data directory to restore into").long("to").value_name("DIR"))
        .arg(to("map", "OID=DIR", "Put the tablespace OID into DIR; may be given again").action(ArgAction::Append))
        .arg(path("wal-dir", "Make pg_wal a link to DIR").long("wal-dir").value_name("DIR"))
        .arg(flag("delta", "Overwrite an older state of the same system with what differs"))
        .arg(flag("drop-wal", "Give up WAL that lies only in the older state's pg_wal"))
        .arg(flag("standby", "run: make it a standby, which waits for more WAL"))
        .arg(flag("ship", "run: let it archive as the server it came from; else archive_mode is off"))
        .arg(
            to("setting", "NAME=VALUE", "run: set this too, such as port=5433; may be given again")
                .action(ArgAction::Append),
        )
        .arg(flag("start", "run: start it and wait until the target is reached"))
        .arg(
            to("deadline", "TIME", "run, drill: give recovery so long, such as 2h; else drill.deadline")
                .value_parser(|text: &str| value::time(text).map_err(|mistake| mistake.message)),
        )
        .arg(number("jobs", "Work on so many files at once; 0: one for each core", 64))
        .arg(flag("last", "drill: show what the last drills have proven"))
}

/// The words of a program; the hidden ones are for programs of ours.
fn jobs(shown: &[&'static str], hidden: &[&'static str]) -> PossibleValuesParser {
    let hidden = hidden.iter().map(|word| PossibleValue::new(word).hide(true));
    PossibleValuesParser::new(shown.iter().map(PossibleValue::new).chain(hidden))
}

/// `standby-init`: one job, then what kind of standby it is.
pub fn standby_init() -> Command {
    configured("standby-init", "Makes this node a standby, and keeps it one: copy, adopt, follow, rejoin")
        .override_usage(
            "standby-init --from <archive | NODE> [--mode MODE] [--upstream NODE] [--slot [NAME]] [--delay TIME]\n       \
             standby-init --adopt [--mode MODE] [--upstream NODE] [--slot [NAME]] [--delay TIME]\n       \
             standby-init --follow <NODE> [--slot [NAME]]\n       \
             standby-init --rejoin [--upstream NODE] [--slot [NAME]] [--rung RUNG]\n       \
             standby-init --abandon",
        )
        .arg(text("from", "Copy the running server of NODE, or restore a backup: 'archive'").long("from").value_name("SOURCE"))
        .arg(flag("adopt", "Take the data directory that is there as it is"))
        .arg(text("follow", "Let this standby go on behind NODE").long("follow").value_name("NODE"))
        .arg(flag("rejoin", "Bring a former primary back, the cheapest way that is safe"))
        .arg(flag("abandon", "Remove what a run that was killed left half made"))
        .args(standby_ways())
        .arg(text("place", "--from archive: the node whose archive is meant").long("place").value_name("NODE"))
        .arg(text("label", "--from archive: the backup; else the newest good one").long("label").value_name("LABEL"))
        .group(ArgGroup::new("job").args(["from", "adopt", "follow", "rejoin", "abandon", "show-config"]).required(true))
}

/// How a standby is made, follows or comes back.
pub(super) fn standby_ways() -> [Arg; 9] {
    [
        text("mode", "What kind of standby; else standby.mode").long("mode").value_name("MODE").value_parser([
            "streaming",
            "hot",
            "warm",
            "cold",
        ]),
        text("upstream", "Stream from NODE; else from the primary").long("upstream").value_name("NODE"),
        text("slot", "Make a replication slot there; its name, else one made from this node's")
            .long("slot")
            .value_name("NAME")
            .num_args(0..=1)
            .default_missing_value(""),
        text("delay", "Keep replay so far behind, such as 1h")
            .long("delay")
            .value_name("TIME")
            .value_parser(|text: &str| value::time(text).map_err(|mistake| mistake.message)),
        text("map", "Put the tablespace OID into DIR; may be given again")
            .long("map")
            .value_name("OID=DIR")
            .action(ArgAction::Append),
        text("rung", "rejoin: take this way back, or none").long("rung").value_name("RUNG").value_parser([
            "follow",
            "follow-archive",
            "rewind",
            "rewind-archive",
            "restore",
            "clone",
        ]),
        flag("keep-old", "Keep the directory that is replaced"),
        number("jobs", "Work on so many files at once; 0: one for each core", 64),
        text("rate-limit", "Copy at most so many bytes a second, such as 50MB; 0: no limit")
            .long("rate-limit")
            .value_name("SIZE")
            .value_parser(|text: &str| value::size(text).map_err(|mistake| mistake.message)),
    ]
}

/// `check-node`: changes nothing.
pub fn check_node() -> Command {
    configured("check-node", "Says what is wrong on this node or others, and how to mend it; changes nothing")
        .arg(
            text("node", "The nodes to check; else all, with everything about this one")
                .value_name("NODE")
                .num_args(0..),
        )
        .arg(
            text("ping", "Only reach NODE over ssh")
                .long("ping")
                .value_name("NODE")
                .hide(true)
                .conflicts_with_all(["node", "nagios"]),
        )
        .arg(flag("nagios", "One line and exit codes 0 to 3, as monitoring plugins answer").conflicts_with("json"))
}

/// `check-archive`: changes nothing but its own mark, and the list of accepted gaps when told to.
pub fn check_archive() -> Command {
    configured("check-archive", "Says whether the WAL of an archive is whole, what is missing, and where that still is")
        .arg(text("node", "The node whose archive to check; else the own one").value_name("NODE"))
        .arg(flag("names-only", "Look at names only, read no contents"))
        .arg(flag("full", "Read everything, also what an earlier run found good").conflicts_with("names-only"))
        .arg(
            text("acknowledge", "Accept that these segments are missing: shown from now on, and no finding")
                .long("acknowledge")
                .value_name("FIRST..LAST")
                .requires("reason")
                .conflicts_with_all(["names-only", "full"]),
        )
        .arg(text("reason", "Why they are accepted").long("reason").value_name("TEXT").requires("acknowledge"))
}

/// `distribute`: the shared configuration, and the programs, to every node.
pub fn distribute() -> Command {
    configured("distribute", "Puts the shared configuration on every node")
        .arg(flag("programs", "Put pgwarm's programs there also"))
        .arg(text("to", "Only to NODE; may be given again").long("to").value_name("NODE").action(ArgAction::Append))
        .arg(flag("yes", "Do not ask"))
}

/// `serve-archive`: started by ssh; needs no configuration, so that nothing on that side can mislead it.
pub fn serve_archive() -> Command {
    plain("serve-archive", "Serves one archive over standard input and output; the far end of the ssh store")
        .arg(
            path("archive", "The archive, and all that may be touched")
                .long("archive")
                .value_name("DIR")
                .required(true),
        )
        .arg(text("cluster", "Only this cluster's folder").long("cluster").value_name("NAME").value_parser(
            |name: &str| {
                if is_plain_name(name) { Ok(name.to_owned()) } else { Err("letters, digits, '_' and '-' only") }
            },
        ))
        .arg(flag("read-only", "Refuse everything that writes"))
        .args(behind_sftp())
}

/// What makes `serve-archive` look for its archive behind an sftp server.
fn behind_sftp() -> [Arg; 8] {
    const HEADING: &str = "The archive of a node with transport = sftp; pgwarm's programs start it so themselves";
    let with_host = |argument: Arg, name: &'static str, value: &'static str| {
        argument.long(name).value_name(value).requires("sftp-host").help_heading(HEADING)
    };
    let time = |name, help| {
        let argument = text(name, help).value_parser(|text: &str| value::time(text).map_err(|mistake| mistake.message));
        with_host(argument, name, "TIME")
    };
    [
        text("sftp-host", "Serve what lies there, not on this machine")
            .long("sftp-host")
            .value_name("HOST")
            .requires_all(["cluster", "sftp-user", "connect-timeout", "deadline", "dead-after"])
            .help_heading(HEADING),
        with_host(
            text("sftp-port", "Its port; else 22").value_parser(value_parser!(u16).range(1..)),
            "sftp-port",
            "PORT",
        ),
        with_host(text("sftp-user", "Who to log in as"), "sftp-user", "USER"),
        with_host(path("sftp-key", "The private key; else the agent's, then the usual ones"), "sftp-key", "FILE"),
        with_host(path("known-hosts", "Its host key is in FILE; else in the usual ones"), "known-hosts", "FILE"),
        time("connect-timeout", "How long each step of connecting may take"),
        time("deadline", "How long one request may take"),
        time("dead-after", "How long its machine may be silent"),
    ]
}

/// A command with what every program has.
fn plain(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .arg(flag("verbose", "Tell more").short('v').conflicts_with("quiet"))
        .arg(flag("quiet", "Tell errors only").short('q'))
}

/// A command with what every program has that reads the configuration.
pub(super) fn configured(name: &'static str, about: &'static str) -> Command {
    const HEADING: &str = "Configuration";
    plain(name, about)
        .arg(flag("dry-run", "Show what would be done, and change nothing"))
        .arg(flag("json", "Print JSON instead of text"))
        .arg(path("config", "The shared file").long("config").value_name("FILE").help_heading(HEADING))
        .arg(path("local", "The local file").long("local").value_name("FILE").help_heading(HEADING))
        .arg(
            text("set", "Override one value; may be given again")
                .long("set")
                .value_name("SECTION.KEY=VALUE")
                .action(ArgAction::Append)
                .help_heading(HEADING),
        )
        .arg(flag("show-config", "Show every value with its origin, then end").help_heading(HEADING))
}

/// Refuses an option that a job does not know. `table` says to which jobs each option belongs; the others go with all.
pub fn refuse_strangers(
    program: &str,
    matches: &ArgMatches,
    job: &str,
    table: &[(&str, &[&str])],
) -> Result<(), Failure> {
    use clap::parser::ValueSource::CommandLine;
    let given = |option: &str| matches.value_source(option) == Some(CommandLine);
    match table.iter().find(|(option, jobs)| given(option) && !jobs.contains(&job)) {
        None => Ok(()),
        Some((option, jobs)) => Err(Failure::new(Class::Usage, format!("'{job}' takes no --{option}"))
            .hinted(format!("It belongs to {}; see '{program} --help'.", jobs.join(", ")))),
    }
}

/// What the command line says about the configuration.
pub fn source(matches: &ArgMatches) -> Source {
    Source {
        file: matches.get_one::<PathBuf>("config").cloned(),
        local: matches.get_one::<PathBuf>("local").cloned(),
        set: matches.get_many::<String>("set").map(|all| all.cloned().collect()).unwrap_or_default(),
    }
}

/// A switch with a long name.
pub(super) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

/// An option with a number from 0 on.
pub(super) fn number(name: &'static str, help: &'static str, most: u32) -> Arg {
    Arg::new(name).long(name).help(help).value_name("N").value_parser(value_parser!(u32).range(0..=i64::from(most)))
}

/// An argument with a text.
pub(super) fn text(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).help(help)
}

/// An argument with a path, which need not be UTF-8.
fn path(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).help(help).value_parser(value_parser!(PathBuf))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses words as a program would.
    fn parse(name: &str, words: &[&str]) -> Result<ArgMatches, clap::Error> {
        let program = super::super::program(name).expect("because the test names a program");
        (program.command)().try_get_matches_from(std::iter::once(name).chain(words.iter().copied()))
    }

    #[test]
    fn every_command_holds_together() {
        for (command, program) in all().into_iter().zip(PROGRAMS) {
            assert_eq!(command.get_name(), program.name);
            command.debug_assert();
        }
    }

    #[test]
    fn the_lines_that_postgresql_calls_are_accepted() {
        let matches = parse("archive-wal", &["pg_wal/000000010000000000000001"]).expect("because it is the plain call");
        assert_eq!(matches.get_one::<PathBuf>("path"), Some(&PathBuf::from("pg_wal/000000010000000000000001")));
        assert!(
            parse("restore-wal", &["00000002.history", "pg_wal/RECOVERYHISTORY", "000000010000000000000000"]).is_ok()
        );
        assert!(parse("restore-wal", &["--cleanup", "000000010000000000000003"]).is_ok());
        assert!(parse("restore-wal", &["--forget", "db2"]).is_ok());
        assert!(parse("restore-wal", &["--wait", "--trigger", "/t", "A", "B"]).is_ok());
        assert!(parse("relay-wal", &["--quiet"]).is_ok());
        assert!(parse("serve-archive", &["--archive", "/a"]).is_ok());
        assert!(parse("serve-archive", &["--archive", "/a", "--sftp-key", "/k"]).is_err());
        assert!(parse("serve-archive", &["--archive", "/a", "--cluster", "a", "--sftp-host", "b"]).is_err());
    }

    #[test]
    fn one_job_at_a_time_and_never_none() {
        assert!(parse("archive-wal", &["--show-config"]).is_ok());
        assert!(parse("restore-wal", &["--show-config", "--json"]).is_ok());
        for words in [&[][..], &["--flush", "--arm"], &["x", "--status"], &["x", "y", "z"]] {
            assert!(parse("archive-wal", words).is_err(), "{words:?}");
        }
        for words in [&[][..], &["A"], &["A", "B", "--cleanup", "C"]] {
            assert!(parse("restore-wal", words).is_err(), "{words:?}");
        }
        assert!(parse("check-node", &["--nagios", "--json"]).is_err());
    }

    #[test]
    fn init_takes_a_place_or_none() {
        let init = |words: &[&str]| {
            let matches = parse("archive-wal", words).expect("because --init may stand alone");
            matches.get_one::<String>("init").cloned()
        };
        assert_eq!(init(&["--init"]).as_deref(), Some(""));
        assert_eq!(init(&["--init", "db2"]).as_deref(), Some("db2"));
    }

    #[test]
    fn rates_carry_units() {
        let matches = parse("relay-wal", &["--rate", "10MB"]).expect("because it has a unit");
        assert_eq!(matches.get_one::<u64>("rate"), Some(&(10 << 20)));
        assert!(parse("relay-wal", &["--rate", "10"]).is_err());
    }
}
