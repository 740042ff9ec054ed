//! THE table: every option of the configuration, a row each.
//!
//! The parser, the range check, the suggestions for unknown names, `--set`, `--show-config`, the sample files and the
//! README's table are all made from these rows. The structs beside are filled from them in `build`; a test makes sure
//! that each row is read there and that each reading has its row.

use super::value::Kind;
use Kind::{Choice, LoosePath, Name, Number, Path, Places, Size, Switch, Text, Time, Words};
use Standard::{Is, Nothing, Required};
use Stands::{Both, Local, Shared};

/// What holds where no file says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    /// Someone must say it.
    Required,
    /// Not set, and that has a meaning of its own.
    Nothing,
    /// This text, read like one in a file.
    Is(&'static str),
}

/// Which file an option belongs in. The local file may still override anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// The shared file: the same on every node.
    Shared,
    /// The local file: differs from node to node.
    Local,
    /// Either: mostly the same, and often overridden.
    Both,
}

/// A section of the file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// What stands in brackets; `node` stands for every `node.NAME`.
    pub name: &'static str,
    /// What it is about, in one sentence.
    pub doc: &'static str,
}

/// An option.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its section; `node` for every `node.NAME`.
    pub section: &'static str,
    /// Its key.
    pub key: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What holds where no file says anything.
    pub default: Standard,
    /// Which file it belongs in.
    pub stands: Stands,
    /// What it does, in one sentence.
    pub doc: &'static str,
}

/// Every section, in the order of the sample file.
#[rustfmt::skip]
pub const SECTIONS: &[Section] = &[
    Section { name: "cluster", doc: "The cluster." },
    Section { name: "local",   doc: "This machine; belongs in the local file." },
    Section { name: "archive", doc: "What archive-wal does with a file that PostgreSQL offers." },
    Section { name: "queue",   doc: "What waits here for a place that is down." },
    Section { name: "restore", doc: "How restore-wal answers PostgreSQL." },
    Section { name: "relay",   doc: "How relay-wal sends on what this node holds." },
    Section { name: "backup",  doc: "How base-backup takes, restores and removes backups." },
    Section { name: "failover", doc: "How trigger-failover and flush-primary change roles." },
    Section { name: "drill",   doc: "How 'pitr-restore drill' rehearses a restore." },
    Section { name: "standby", doc: "How standby-init makes this node a standby." },
    Section { name: "ssh",     doc: "The way to other nodes." },
    Section { name: "notify",  doc: "Programs told about what happens; started directly, never through a shell." },
    Section { name: "log",     doc: "Where messages go beside standard error." },
    Section { name: "check",   doc: "When check-node warns, and when it calls it critical." },
    Section { name: "monitor", doc: "What cluster-monitor watches, keeps, answers and tells." },
    Section { name: "node",    doc: "One section for each node: what it is, where it is, how it is reached." },
];

/// Every option, in the order of the sample file.
#[rustfmt::skip]
pub const OPTIONS: &[Row] = &[
    row("cluster", "name", Name, Required, Shared, "Names the cluster; every archive has a folder of that name."),

    row("local", "node", Name, Required, Local, "Says which [node.NAME] this machine is."),
    row("local", "spool", Path, Is("/var/lib/pgwarm/spool"), Local, "Holds queues, caches and the worker's socket; outside PGDATA."),
    row("local", "pg_bin", Path, Nothing, Local, "Holds PostgreSQL's own programs; empty: found by the running server or in PATH."),
    row("local", "server_start", Words, Nothing, Local, "Starts the server, such as 'sudo systemctl start postgresql'; empty: started directly."),
    row("local", "server_stop", Words, Nothing, Local, "Stops the server; empty: the postmaster gets the signal itself."),

    row("archive", "shipping", Choice(&["armed", "refuse", "discard"]), Is("armed"), Both, "Ships, keeps PostgreSQL from recycling, or throws WAL away."),
    row("archive", "discard_confirmation", Text, Nothing, Both, "Must read 'I accept a broken WAL chain' before anything is discarded."),
    row("archive", "to", Places, Is("own, nodes"), Both, "Lists the places a file goes to."),
    row("archive", "alternate", Places, Is("dr"), Both, "Lists where it goes instead while a place of 'to' on another node is down."),
    row("archive", "ack", Kind::Ack, Is("standby"), Both, "Says how many places must hold a file durably before PostgreSQL may recycle it."),
    row("archive", "compress", Choice(&["zstd", "lz4", "gzip", "none"]), Is("zstd"), Both, "Says how files are stored."),
    row("archive", "level", Number(-7, 19), Is("0"), Both, "Sets the compression level; 0 is the method's own (zstd 1, gzip 6)."),
    row("archive", "deadline", Time("1s", "1h"), Is("60s"), Both, "Bounds the time one file may take in all."),
    row("archive", "worker", Switch, Is("on"), Both, "Hands files to a worker that keeps its connections open."),
    row("archive", "worker_idle", Time("1s", "1d"), Is("60s"), Both, "Ends the worker after so long without a call."),
    row("archive", "lookahead", Number(0, 64), Is("8"), Both, "Lets the worker prepare so many of the next ready segments; 0: none."),
    row("archive", "retry", Time("1s", "1h"), Is("10s"), Both, "Leaves a place that failed alone for so long."),

    row("queue", "free_min", Size, Is("1GiB"), Both, "Queues nothing while the spool's file system has less than this free."),

    row("restore", "from", Places, Is("own, queue, nodes, dr"), Both, "Lists where a file is looked for, in order."),
    row("restore", "wait", Switch, Is("off"), Both, "Waits for a segment that is not there yet, as a warm standby does."),
    row("restore", "poll", Time("100ms", "1h"), Is("1s"), Both, "Says how often to look while waiting."),
    row("restore", "wait_max", Time("0", "365d"), Is("0"), Both, "Gives up waiting after so long; 0: never."),
    row("restore", "delay", Time("0", "365d"), Is("0"), Both, "Holds each segment back until it is so old."),
    row("restore", "trigger", LoosePath, Is("trigger"), Both, "Ends waiting as soon as this file exists; relative to PGDATA."),
    row("restore", "control", LoosePath, Is("control"), Both, "Holds the files PAUSE, CONTINUE and STOP; relative to the spool."),
    row("restore", "partial", Switch, Is("off"), Both, "Serves a .partial under the full name where no whole segment exists."),
    row("restore", "retry", Time("0", "1h"), Is("10s"), Both, "Has a restore ask places that cannot tell again for so long; a standby asks again itself."),
    row("restore", "deadline", Time("1s", "1h"), Is("60s"), Both, "Bounds the time one file may take in all, waiting apart."),
    row("restore", "worker", Switch, Is("on"), Both, "Uses the worker and lets it fetch ahead."),
    row("restore", "remove_max", Number(1, 1_000_000), Is("10000"), Both, "Lets one clean-up remove so many files at most."),
    row("restore", "prefetch", Number(0, 64), Is("8"), Both, "Lets the worker fetch so many of the next segments; 0: none."),

    row("relay", "to", Places, Is("dr"), Both, "Lists where the own archive is sent on to."),
    row("relay", "rate_max", Size, Is("0"), Both, "Bounds the bytes sent in a second over all places; 0: no limit."),
    row("relay", "interval", Time("100ms", "1d"), Is("5s"), Both, "Pauses so long between two turns of 'relay-wal --loop'."),

    row("backup", "jobs", Number(0, 64), Is("0"), Both, "Works on so many files at once; 0: one for each core."),
    row("backup", "compress", Choice(&["zstd", "lz4", "none"]), Is("zstd"), Both, "Says how the files of a backup are stored."),
    row("backup", "level", Number(-7, 19), Is("0"), Both, "Sets the compression level of zstd; 0 is 1."),
    row("backup", "checkpoint", Choice(&["fast", "spread"]), Is("fast"), Both, "Makes the checkpoint of a backup at once, or spread as the server is told."),
    row("backup", "rate_max", Size, Is("0"), Both, "Bounds the bytes read from the server's files in a second; 0: no limit."),
    row("backup", "deadline", Time("1s", "1d"), Is("5min"), Both, "Waits so long for the WAL of a backup to reach the archive."),
    row("backup", "keep", Number(0, 10_000), Is("0"), Both, "Keeps so many backups when 'base-backup expire' runs; 0: no number."),
    row("backup", "keep_days", Number(0, 36_500), Is("0"), Both, "Keeps what restores to any time of so many days; 0: no number."),

    row("failover", "fence", Words, Nothing, Both, "Stops a node for certain; gets its name as the last word; only exit code 0 proves it."),
    row("failover", "fence_deadline", Time("1s", "1h"), Is("30s"), Both, "Ends the fence after so long; then nothing is proven."),
    row("failover", "action", Words, Nothing, Both, "Runs on the new primary at the end, such as moving an address; must return 0."),
    row("failover", "action_deadline", Time("1s", "1h"), Is("1min"), Both, "Ends the action after so long."),
    row("failover", "contact", Time("100ms", "1min"), Is("3s"), Both, "Bounds each question to another node."),
    row("failover", "deadline", Time("1s", "1d"), Is("5min"), Both, "Waits so long for WAL to be replayed and for a promotion to end."),
    row("failover", "sessions", Time("0", "1h"), Is("1s"), Both, "flush-primary: lets sessions end by themselves for so long."),
    row("failover", "drain", Time("1s", "1h"), Is("30s"), Both, "flush-primary: waits so long for WAL to be archived."),
    row("failover", "stop", Time("1s", "1h"), Is("30s"), Both, "flush-primary: lets the server write its last checkpoint and send it on for so long."),
    row("drill", "directory", Path, Is("/var/lib/pgwarm/drill"), Both, "Holds the server that a drill restores; needs room for a whole backup."),
    row("drill", "target", Choice(&["random", "latest"]), Is("random"), Both, "Says what a drill recovers to where the command line does not."),
    row("drill", "shared_buffers", Size, Is("128MB"), Both, "Is the buffer memory of that server."),
    row("drill", "deadline", Time("1min", "30d"), Is("1d"), Both, "Gives a recovery that is waited for so long."),
    row("drill", "amcheck", Switch, Is("on"), Both, "Checks tables and indexes with pg_amcheck, where that is there."),
    row("drill", "database", Text, Is("postgres"), Both, "Is the database that sql_file and check are run in."),
    row("drill", "sql_file", Path, Nothing, Both, "Holds SQL that must run without an error."),
    row("drill", "check", Text, Nothing, Both, "Is a query whose first column must be true in every row, and which must have one."),
    row("standby", "mode", Choice(&["streaming", "hot", "warm", "cold"]), Is("streaming"), Both, "Makes a standby stream, replay shipped WAL and answer queries, only replay, or not start."),
    row("standby", "user", Text, Nothing, Both, "Is the user a standby streams as; empty: that of the node's conninfo."),
    row("standby", "slots", Switch, Is("off"), Both, "Makes each standby a replication slot on the server it streams from."),
    row("standby", "conf_standby", Path, Nothing, Both, "Holds postgresql.conf, pg_hba.conf, pg_ident.conf of a standby, or some of them."),
    row("standby", "conf_failover", Path, Nothing, Both, "Holds the same files for the day it has taken over."),
    row("standby", "conf_mode", Choice(&["copy", "reference"]), Is("copy"), Both, "Copies these sets into PGDATA, or includes their postgresql.conf where it is."),
    row("standby", "deadline", Time("1s", "30d"), Is("1h"), Both, "Bounds the time a standby may take to start, and then to catch up."),
    row("standby", "copy_deadline", Time("1min", "365d"), Is("1d"), Both, "Bounds the time a copy, a recovery or a rewind may take."),

    row("ssh", "program", LoosePath, Is("ssh"), Both, "Names the ssh program: a path, or a name looked up in PATH."),
    row("ssh", "connect_timeout", Time("1s", "5min"), Is("10s"), Both, "Bounds the time a connection may take to come up."),
    row("ssh", "deadline", Time("1s", "1h"), Is("30s"), Both, "Bounds the time one operation may take."),
    row("ssh", "dead_after", Time("2s", "5min"), Is("6s"), Both, "Takes a peer that does not answer for so long for dead."),
    row("ssh", "options", Words, Nothing, Both, "Puts these words before the host in the ssh command, such as '-o Key=value'."),

    row("notify", "ok", Words, Nothing, Both, "Runs when something is well again."),
    row("notify", "warning", Words, Nothing, Both, "Runs when a person should look."),
    row("notify", "critical", Words, Nothing, Both, "Runs when WAL, a standby or the cluster is at risk."),
    row("notify", "repeat", Time("1s", "365d"), Is("1h"), Both, "Sends the same message again only after so long."),
    row("notify", "deadline", Time("1s", "1h"), Is("10s"), Both, "Ends a program that takes longer."),

    row("log", "level", Choice(&["error", "warn", "info", "debug"]), Is("info"), Both, "Says how much is told."),
    row("log", "file", Path, Nothing, Both, "Appends messages to this file also."),
    row("log", "syslog", Switch, Is("off"), Both, "Sends messages to syslog also."),

    row("check", "queue_age_warning", Time("1s", "365d"), Is("5min"), Both, "Warns when the oldest file not yet archived or queued is so old."),
    row("check", "queue_age_critical", Time("1s", "365d"), Is("1h"), Both, "Calls that critical from here on."),
    row("check", "archive_age_warning", Time("1s", "365d"), Is("1h"), Both, "Warns when the newest segment in the archive is so old."),
    row("check", "archive_age_critical", Time("1s", "365d"), Is("1d"), Both, "Calls that critical from here on."),
    row("check", "free_warning", Number(0, 100), Is("20"), Both, "Warns when less than so many percent of a file system are free."),
    row("check", "free_critical", Number(0, 100), Is("10"), Both, "Calls that critical below so many percent."),

    row("check", "lag_warning", Size, Is("256MB"), Both, "Warns when a node is so far behind the primary."),
    row("check", "lag_critical", Size, Is("4GB"), Both, "Calls that critical from here on."),
    row("check", "slot_warning", Size, Is("1GB"), Both, "Warns when a replication slot holds back so much WAL."),
    row("check", "slot_critical", Size, Is("10GB"), Both, "Calls that critical from here on."),
    row("check", "drill_age_warning", Time("0", "3650d"), Is("0"), Both, "Warns when the last proven restore is so old; 0: never."),

    row("monitor", "interval", Time("100ms", "1h"), Is("1s"), Both, "Looks at every node so often."),
    row("monitor", "deadline", Time("100ms", "1min"), Is("900ms"), Both, "Bounds the time a node may take to answer."),
    row("monitor", "lost_after", Time("1s", "1h"), Is("3s"), Both, "Calls a node lost that has not answered for so long."),
    row("monitor", "history", Time("0", "1d"), Is("10s"), Both, "Writes this node's lag into the database so often; 0: never."),
    row("monitor", "keep", Time("1min", "3650d"), Is("30d"), Both, "Keeps the history of lag for so long."),
    row("monitor", "keep_events", Time("1min", "3650d"), Is("365d"), Both, "Keeps events for so long."),
    row("monitor", "survey", Time("1s", "1d"), Is("5min"), Both, "Lists the own archive whole so often, to find gaps."),
    row("monitor", "relay", Switch, Is("off"), Both, "Relays WAL, as 'relay-wal --loop' does."),
    row("monitor", "expire", Time("0", "365d"), Is("0"), Both, "Removes backups so often, as 'base-backup expire' does; 0: never."),
    row("monitor", "drill", Time("0", "365d"), Is("0"), Both, "Rehearses a restore so often, as 'pitr-restore drill' does; 0: never."),
    row("monitor", "http", Text, Nothing, Both, "Answers HTTP there, as address:port; a port alone: loopback only."),
    row("monitor", "pid_file", Path, Nothing, Both, "Holds the daemon's process id while it runs."),
    row("monitor", "event_notification_command", Words, Nothing, Both, "Runs for each event, with %n %a %e %s %t %d filled in."),
    row("monitor", "event_notifications", Text, Nothing, Both, "Names the events to run it for, with commas; empty: all."),

    row("node", "id", Number(1, 2_147_483_647), Nothing, Shared, "Is its number in events and views; empty: given at registration."),
    row("node", "kind", Choice(&["node", "dr", "witness"]), Is("node"), Shared, "Says what it is for: a database node, disaster recovery, or a vote."),
    row("node", "host", Text, Nothing, Shared, "Is its host name or address; needed where other nodes reach it."),
    row("node", "pgdata", Path, Nothing, Shared, "Is its data directory."),
    row("node", "config_file", Path, Nothing, Shared, "Is its postgresql.conf; empty: in PGDATA, or where Debian keeps it."),
    row("node", "conninfo", Text, Nothing, Shared, "Is its libpq connection string or URI, without a password."),
    row("node", "archive", Path, Nothing, Shared, "Is the directory of its archive; empty: it holds none."),
    row("node", "transport", Choice(&["ssh", "sftp"]), Is("ssh"), Shared, "Says how it is reached; sftp needs no pgwarm there, and is weaker."),
    row("node", "ssh_user", Text, Nothing, Shared, "Is the user to log in as; empty: as ssh decides."),
    row("node", "ssh_port", Number(1, 65535), Nothing, Shared, "Is the port of its sshd; empty: as ssh decides."),
    row("node", "ssh_key", Path, Nothing, Both, "Is the private key's file on this machine; empty: as ssh decides."),
    row("node", "ssh_jump", Text, Nothing, Both, "Is the host to jump through (ProxyJump)."),
    row("node", "ssh_known_hosts", Path, Nothing, Both, "Is the known_hosts file; empty: the user's own."),
    row("node", "programs", Path, Nothing, Shared, "Is the directory of pgwarm's programs there; empty: found in its PATH."),
];

/// Makes a row, so that the table stays a table.
const fn row(
    section: &'static str,
    key: &'static str,
    kind: Kind,
    default: Standard,
    stands: Stands,
    doc: &'static str,
) -> Row {
    Row { section, key, kind, default, stands, doc }
}

/// The section a name in brackets belongs to: its row's name, and the node's name where it is a `node.NAME`.
pub fn section_of(name: &str) -> Option<(&'static str, Option<&str>)> {
    if let Some(node) = name.strip_prefix("node.") {
        return Some(("node", Some(node)));
    }
    SECTIONS.iter().find(|section| section.name == name && name != "node").map(|section| (section.name, None))
}

/// The position of an option in the table.
pub fn position(section: &str, key: &str) -> Option<usize> {
    OPTIONS.iter().position(|row| row.section == section && row.key == key)
}

/// What an unknown key was probably meant to be: a key of the same section, or the section which has it.
pub fn meant_key(section: &str, key: &str) -> Option<String> {
    let own = OPTIONS.iter().filter(|row| row.section == section).map(|row| row.key);
    if let Some(near) = nearest(key, own) {
        return Some(format!("Did you mean '{near}'?"));
    }
    let elsewhere = OPTIONS.iter().find(|row| row.key == key)?;
    Some(format!("'{key}' belongs in [{}].", bracket(elsewhere.section)))
}

/// What an unknown section was probably meant to be.
pub fn meant_section(name: &str) -> String {
    match nearest(name, SECTIONS.iter().map(|section| section.name)) {
        Some(near) => format!("Did you mean [{}]?", bracket(near)),
        None => {
            let names: Vec<String> = SECTIONS.iter().map(|section| format!("[{}]", bracket(section.name))).collect();
            format!("The sections are {}.", names.join(", "))
        }
    }
}

/// How a section stands in brackets.
pub fn bracket(section: &str) -> &str {
    if section == "node" { "node.NAME" } else { section }
}

/// The nearest of several names, if one is near enough to be meant.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wrong.chars().count() / 3).clamp(1, 3);
    names.map(|name| (distance(wrong, name), name)).filter(|(far, _)| *far <= allowed).min().map(|(_, name)| name)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour; capitals do not count.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.to_lowercase().chars().collect();
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let replaced = above[column] + usize::from(a != b);
            let mut cost = replaced.min(above[column + 1] + 1).min(line[column] + 1);
            if row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b {
                cost = cost.min(before[column - 1] + 1);
            }
            line.push(cost);
        }
        before = std::mem::replace(&mut above, line);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::super::value;
    use super::*;

    #[test]
    fn every_default_and_every_range_can_be_read() {
        for row in OPTIONS {
            if let Kind::Time(least, most) = row.kind {
                let (least, most) = (value::time(least).ok(), value::time(most).ok());
                assert!(least.is_some() && least <= most, "{}", row.key);
            }
            if let Is(text) = row.default {
                let read = row.kind.parse(text);
                assert!(read.is_ok(), "{}.{}: {read:?}", row.section, row.key);
            }
        }
    }

    #[test]
    fn rows_are_unique_sorted_by_section_and_told_in_one_sentence() {
        for (at, row) in OPTIONS.iter().enumerate() {
            assert_eq!(position(row.section, row.key), Some(at));
            assert!(SECTIONS.iter().any(|section| section.name == row.section), "{}", row.section);
            assert!(row.doc.ends_with('.') && row.doc.len() <= 90, "{}.{}", row.section, row.key);
        }
        let order = |name| SECTIONS.iter().position(|section| section.name == name);
        assert!(OPTIONS.is_sorted_by_key(|row| order(row.section)));
    }

    #[test]
    fn a_wrong_name_finds_the_one_that_was_meant() {
        assert_eq!(meant_key("archive", "dedline").as_deref(), Some("Did you mean 'deadline'?"));
        assert_eq!(meant_key("archive", "Deadline").as_deref(), Some("Did you mean 'deadline'?"));
        assert_eq!(meant_key("archive", "prefetch").as_deref(), Some("'prefetch' belongs in [restore]."));
        assert_eq!(meant_key("archive", "colour"), None);
        assert_eq!(meant_section("archvie"), "Did you mean [archive]?");
        assert_eq!(meant_section("nodes"), "Did you mean [node.NAME]?");
        assert!(meant_section("printer").starts_with("The sections are [cluster], "));
    }

    #[test]
    fn distance_counts_letters() {
        for (from, to, far) in [("a", "a", 0), ("archvie", "archive", 1), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(from, to), far, "{from} {to}");
        }
    }
}
