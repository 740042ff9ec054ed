//! Checks that look at several values: what each of them allows, but together makes no sense or loses data.

use std::path::Path;
use std::time::Duration;

use super::check_monitor;
use super::options::nearest;
use super::value::time_text;
use super::{Ack, Config, Node, NodeKind, PlaceWord, Shipping, Transport};
use crate::store::Encoding;

/// What `archive.discard_confirmation` must read before anything is discarded.
pub const DISCARD_CONFIRMATION: &str = "I accept a broken WAL chain";

/// Something that does not hold together, and the value to change.
pub struct Finding {
    /// The section of that value, as in brackets.
    pub section: String,
    /// Its key.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do, as a full sentence.
    pub hint: String,
}

/// Collects findings.
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(
        &mut self,
        section: &str,
        key: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.0.push(Finding { section: section.to_string(), key, message: message.into(), hint: hint.into() });
    }
}

/// Runs every check.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    for node in &config.nodes {
        check_node(node, &mut findings);
    }
    check_equal_archives(config, &mut findings);
    if check_own(config, &mut findings) {
        let before = findings.0.len();
        check_places(config, &mut findings);
        check_hosts(config, &mut findings);
        // A place that is missing from a list would only be reported a second time.
        if findings.0.len() == before {
            check_ack(config, &mut findings);
        }
        check_spool(config, &mut findings);
    }
    check_archive(config, &mut findings);
    check_sets(config, &mut findings);
    check_deadlines(config, &mut findings);
    check_thresholds(config, &mut findings);
    check_ssh_options(config, &mut findings);
    check_monitor::check(config, &mut findings);
    findings.0
}

/// The section of this machine must exist.
fn check_own(config: &Config, findings: &mut Findings) -> bool {
    let wanted = &config.local.node;
    if config.node(wanted).is_some() {
        return true;
    }
    let hint = match nearest(wanted, config.nodes.iter().map(|node| node.name.as_str())) {
        Some(near) => format!("Did you mean '{near}'?"),
        None => format!("Add a section [node.{wanted}] to the shared file, or correct local.node."),
    };
    findings.add("local", "node", format!("local.node is '{wanted}', but there is no section [node.{wanted}]"), hint);
    false
}

/// What one node says of itself.
fn check_node(node: &Node, findings: &mut Findings) {
    let section = format!("node.{}", node.name);
    let words = [("host", &node.host), ("ssh_user", &node.ssh_user), ("ssh_jump", &node.ssh_jump)];
    for (key, text) in words.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?))) {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:%@,[]".contains(c);
        // A word that begins with '-' would be an option to ssh.
        if text.starts_with('-') || !text.chars().all(plain) {
            let message = format!("{section}.{key} = '{text}' is no plain name");
            findings.add(&section, key, message, "Write a host or user name, or an address, without blanks.");
        }
    }
    if let Some(conninfo) = &node.conninfo
        && holds_password(conninfo)
    {
        // The text itself is not repeated: it would carry the password into a log.
        let message = format!("{section}.conninfo holds a password");
        findings.add(&section, "conninfo", message, "Take it out and put it into ~/.pgpass of the server's user.");
    }
    if node.transport == Transport::Sftp && node.ssh_jump.is_some() {
        let message = format!("{section}.ssh_jump is set, but sftp cannot jump");
        findings.add(&section, "ssh_jump", message, "Use 'transport = ssh', or remove ssh_jump.");
    }
    if let (Some(archive), Some(pgdata)) = (&node.archive, &node.pgdata)
        && archive.starts_with(pgdata)
    {
        let message = format!("{section}.archive '{}' lies inside its pgdata", archive.display());
        findings.add(&section, "archive", message, "Put it outside: what happens to PGDATA must not happen to it.");
    }
}

/// True if a connection string names a password: as a keyword, in a URI's user part, or as a URI's parameter.
fn holds_password(conninfo: &str) -> bool {
    let lower = conninfo.to_ascii_lowercase();
    // Blanks may stand around '=', in libpq's own reading.
    let tight: String = lower.chars().filter(|c| !c.is_whitespace()).collect();
    if tight.contains("password=") {
        return true;
    }
    let Some((_, rest)) = lower.split_once("://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// Two nodes that share one directory would count as two places.
fn check_equal_archives(config: &Config, findings: &mut Findings) {
    for (at, node) in config.nodes.iter().enumerate() {
        let same = |other: &&Node| {
            other.host.is_some()
                && other.archive.is_some()
                && (&other.host, other.ssh_port, &other.archive) == (&node.host, node.ssh_port, &node.archive)
        };
        if let Some(other) = config.nodes[..at].iter().find(same) {
            let message = format!("nodes '{}' and '{}' have the same archive on the same host", other.name, node.name);
            let section = format!("node.{}", node.name);
            findings.add(&section, "archive", message, "Give each its own directory; one place must not count twice.");
        }
    }
}

/// The options that list places: section, key, words.
fn place_lists(config: &Config) -> [(&'static str, &'static str, &[PlaceWord]); 4] {
    [
        ("archive", "to", &config.archive.to),
        ("archive", "alternate", &config.archive.alternate),
        ("restore", "from", &config.restore.from),
        ("relay", "to", &config.relay.to),
    ]
}

/// Words that make no sense in a list, and names of nodes that are none or hold no archive.
fn check_places(config: &Config, findings: &mut Findings) {
    for (section, key, words) in place_lists(config) {
        if words.is_empty() && (key == "from" || section == "archive" && key == "to") {
            let message = format!("{section}.{key} names no place");
            findings.add(section, key, message, "Name at least one place, such as 'own'.");
        }
        for word in words {
            let unfit = match word {
                PlaceWord::Queue => section != "restore",
                PlaceWord::Own => section == "relay" || key == "alternate",
                _ => false,
            };
            if unfit {
                let message = format!("{section}.{key} cannot hold '{word}'");
                findings.add(section, key, message, format!("Remove '{word}' from the list."));
            }
            if let PlaceWord::Node(name) = word {
                check_named_place(config, (section, key), name, findings);
            }
        }
    }
}

fn check_named_place(config: &Config, (section, key): (&str, &'static str), name: &str, findings: &mut Findings) {
    match config.node(name) {
        Some(node) if node.archive.is_some() => {}
        Some(_) => findings.add(
            section,
            key,
            format!("{section}.{key} names '{name}', which holds no archive"),
            format!("Set 'archive' in [node.{name}], or take it off the list."),
        ),
        None => {
            let names =
                config.nodes.iter().map(|node| node.name.as_str()).chain(super::value::PLACE_WORDS.iter().copied());
            let hint = match nearest(name, names) {
                Some(near) => format!("Did you mean '{near}'?"),
                None => format!("Add a section [node.{name}], or take it off the list."),
            };
            findings.add(section, key, format!("{section}.{key} names '{name}', which is no node"), hint);
        }
    }
}

/// Every other node that is a place must be reachable.
fn check_hosts(config: &Config, findings: &mut Findings) {
    let words: Vec<PlaceWord> = place_lists(config).iter().flat_map(|(_, _, words)| words.iter().cloned()).collect();
    for node in config.places(&words) {
        if node.host.is_none() && node.name != config.local.node {
            let section = format!("node.{}", node.name);
            let message = format!("{section}.host is not set, but files go to its archive or come from it");
            let hint =
                format!("Set 'host' in [{section}], or take the node off archive.to, restore.from and relay.to.");
            findings.add(&section, "host", message, hint);
        }
    }
}

/// An acknowledgement that can never come would stop archiving for good.
///
/// Only a database node is asked: the same file is read on a dr node, where `own, dr` names one place instead of two.
fn check_ack(config: &Config, findings: &mut Findings) {
    if config.own().kind != NodeKind::Node {
        return;
    }
    let places = config.places(&config.archive.to);
    match config.archive.ack {
        Ack::Count(count) if count as usize > places.len() => {
            let message = format!("archive.ack asks for {count} places, but archive.to has {}", places.len());
            findings.add("archive", "ack", message, "Ask for fewer, or add places to archive.to.");
        }
        Ack::Standby => {
            let alternates = config.places(&config.archive.alternate);
            let elsewhere = places.iter().chain(&alternates).any(|node| node.name != config.local.node);
            if !elsewhere {
                let message = "archive.ack asks for a place on another node, but there is none";
                let hint =
                    "Add a node with 'host' and 'archive', or set 'ack = local' if losing this machine may lose WAL.";
                findings.add("archive", "ack", message, hint);
            }
        }
        Ack::All if places.is_empty() => {
            let hint = "Set 'archive' for at least one node that archive.to names.";
            findings.add("archive", "ack", "archive.ack asks for all places, but there is none", hint);
        }
        _ => {}
    }
}

/// The spool must survive what happens to the data directory, and keep apart from the archive.
fn check_spool(config: &Config, findings: &mut Findings) {
    let own = config.own();
    let spool = &config.local.spool;
    let mut apart = |other: Option<&Path>, what: &str| {
        if other.is_some_and(|other| spool.starts_with(other) || other.starts_with(spool)) {
            let message = format!("local.spool '{}' and the {what} of this node lie in each other", spool.display());
            findings.add("local", "spool", message, "Put the spool into a directory of its own.");
        }
    };
    apart(own.pgdata.as_deref(), "pgdata");
    apart(own.archive.as_deref(), "archive");
}

fn check_archive(config: &Config, findings: &mut Findings) {
    let archive = &config.archive;
    if archive.shipping == Shipping::Discard && archive.discard_confirmation != DISCARD_CONFIRMATION {
        let message = "archive.shipping is 'discard', but it is not confirmed";
        let hint = format!("Set 'discard_confirmation = {DISCARD_CONFIRMATION}' in [archive], or 'shipping = armed'.");
        findings.add("archive", "shipping", message, hint);
    }
    if archive.compress == Encoding::Gzip && !(0..=9).contains(&archive.level) {
        let message = format!("archive.level is {}, but gzip has levels from 1 to 9", archive.level);
        findings.add("archive", "level", message, "Write a level from 1 to 9, or 0 for gzip's own.");
    }
}

/// What one configuration set says holds until the other says it anew.
fn check_sets(config: &Config, findings: &mut Findings) {
    let (given, missing) = match (&config.standby.conf_standby, &config.standby.conf_failover) {
        (Some(_), None) => ("conf_standby", "conf_failover"),
        (None, Some(_)) => ("conf_failover", "conf_standby"),
        _ => return,
    };
    let message = format!("standby.{given} is set, but standby.{missing} is not");
    findings.add("standby", given, message, "Set both, or neither.");
}

/// What is inside something else must not be allowed to take longer.
fn check_deadlines(config: &Config, findings: &mut Findings) {
    let (ssh, archive, restore) = (&config.ssh, &config.archive, &config.restore);
    let pairs: [(&str, &'static str, Duration, &str, Duration); 5] = [
        ("ssh", "connect_timeout", ssh.connect_timeout, "ssh.deadline", ssh.deadline),
        ("ssh", "dead_after", ssh.dead_after, "ssh.deadline", ssh.deadline),
        ("ssh", "deadline", ssh.deadline, "archive.deadline", archive.deadline),
        ("ssh", "deadline", ssh.deadline, "restore.deadline", restore.deadline),
        ("restore", "retry", restore.retry, "restore.deadline", restore.deadline),
    ];
    for (section, key, inner, outer_name, outer) in pairs {
        if inner > outer {
            let message =
                format!("{section}.{key} ({}) is longer than {outer_name} ({})", time_text(inner), time_text(outer));
            findings.add(section, key, message, format!("Lower {section}.{key}, or raise {outer_name}."));
        }
    }
}

/// A warning must come before it is critical.
fn check_thresholds(config: &Config, findings: &mut Findings) {
    let check = &config.check;
    let ages = [
        ("queue_age_warning", check.queue_age_warning, "queue_age_critical", check.queue_age_critical),
        ("archive_age_warning", check.archive_age_warning, "archive_age_critical", check.archive_age_critical),
    ];
    for (key, warning, other, critical) in ages {
        if warning > critical {
            let message =
                format!("check.{key} ({}) comes after check.{other} ({})", time_text(warning), time_text(critical));
            findings.add("check", key, message, "A warning must come first.");
        }
    }
    if check.free_warning < check.free_critical {
        let message = format!(
            "check.free_warning ({}) comes after check.free_critical ({})",
            check.free_warning, check.free_critical
        );
        findings.add("check", "free_warning", message, "A warning must come first, so with more free.");
    }
}

/// Host keys are always checked; an option must not turn that off by the back door.
fn check_ssh_options(config: &Config, findings: &mut Findings) {
    for word in &config.ssh.options {
        let plain = word.to_ascii_lowercase().replace([' ', '\t', '=', '"'], "");
        let plain = plain.strip_prefix("-o").unwrap_or(&plain);
        let off = ["stricthostkeycheckingno", "stricthostkeycheckingoff", "userknownhostsfile/dev/null"];
        if off.iter().any(|wrong| plain.starts_with(wrong)) {
            let message = format!("ssh.options holds '{word}', which turns off the check of host keys");
            findings.add("ssh", "options", message, "Remove it, and put the nodes' keys into known_hosts.");
        }
        if word.contains(['\n', '\r', '\0']) {
            findings.add("ssh", "options", "ssh.options holds a line break", "Remove it.");
        }
    }
}
