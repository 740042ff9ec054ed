//! Checks of the server's settings: one row a setting, each a pure function of all settings.

use super::super::facts::{Server, Settings, SettingsSource};
use super::super::{Finding, Level};

/// What is wrong with a setting: how bad, in what words, and the cure.
type Wrong = (Level, String, &'static str);

/// A setting, what PostgreSQL takes where it is not set, and what is wrong with its value.
struct Rule {
    name: &'static str,
    default: &'static str,
    judge: fn(&str, &Settings) -> Option<Wrong>,
}

const RULES: &[Rule] = &[
    Rule { name: "archive_mode", default: "off", judge: archive_mode },
    Rule { name: "archive_library", default: "", judge: archive_library },
    Rule { name: "archive_command", default: "", judge: archive_command },
    Rule { name: "archive_timeout", default: "0", judge: archive_timeout },
    Rule { name: "restore_command", default: "", judge: restore_command },
    Rule { name: "wal_level", default: "replica", judge: wal_level },
    Rule { name: "hot_standby", default: "on", judge: hot_standby },
    Rule { name: "fsync", default: "on", judge: fsync },
    Rule { name: "full_page_writes", default: "on", judge: full_page_writes },
    Rule { name: "max_wal_senders", default: "10", judge: max_wal_senders },
    Rule { name: "max_wal_size", default: "1GB", judge: max_wal_size },
];

/// Every setting that is looked at.
pub(super) const NAMES: &[&str] = &[
    "archive_mode",
    "archive_library",
    "archive_command",
    "archive_timeout",
    "restore_command",
    "wal_level",
    "hot_standby",
    "fsync",
    "full_page_writes",
    "max_wal_senders",
    "max_wal_size",
    "wal_log_hints",
    "data_checksums",
];

/// `setting`: everything that archiving, restoring and standbys depend on.
pub(super) fn judge(server: &Server) -> Vec<Finding> {
    let settings = match &server.settings {
        Ok(settings) => settings,
        Err(why) => {
            return vec![
                Finding::unknown("setting", "all", why).fix("Run this command as the user who owns the server."),
            ];
        }
    };
    let mut found: Vec<_> = RULES.iter().map(|rule| apply(rule, settings)).collect();
    found.push(rewind(server, settings));
    if !settings.pending.is_empty() {
        let message = format!("changed, but not in force before a restart: {}", settings.pending.join(", "));
        found.push(Finding::new(Level::Warning, "setting", "pending_restart", message).fix("Restart the server."));
    }
    found
}

fn apply(rule: &Rule, settings: &Settings) -> Finding {
    if settings.source == SettingsSource::Server && !settings.values.contains_key(rule.name) {
        // PostgreSQL 14 has no archive_library; everything else that a server does not show, it hides.
        if rule.name == "archive_library" {
            return Finding::ok("setting", rule.name, "not known to this version of the server");
        }
        return Finding::unknown("setting", rule.name, "the role that connects may not see it")
            .fix("Grant it the role pg_monitor.");
    }
    let value = get(settings, rule.name, rule.default);
    let origin = match settings.source {
        SettingsSource::Server => "",
        SettingsSource::Files => " (from the files)",
    };
    match (rule.judge)(value, settings) {
        None => Finding::ok("setting", rule.name, format!("'{value}'{origin}")),
        Some((level, words, fix)) => {
            Finding::new(level, "setting", rule.name, format!("'{value}'{origin}: {words}")).fix(fix)
        }
    }
}

fn get<'a>(settings: &'a Settings, name: &str, default: &'a str) -> &'a str {
    settings.values.get(name).map_or(default, String::as_str)
}

/// Reads a boolean as PostgreSQL does: any unambiguous beginning of true, false, yes, no, on, off, or 1 and 0.
fn is_on(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value == "1" || value == "on" || (!value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value)))
}

/// A number with a unit of PostgreSQL's, in seconds or bytes; a bare number counts in `base`. None: not readable.
fn quantity(value: &str, base: f64) -> Option<f64> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let factor = match unit.trim() {
        "" => base,
        "B" => 1.0,
        "kB" => 1024.0,
        "MB" => 1_048_576.0,
        "GB" => 1_073_741_824.0,
        "TB" => 1_099_511_627_776.0,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

fn archive_mode(value: &str, _: &Settings) -> Option<Wrong> {
    let on = is_on(value) || value.eq_ignore_ascii_case("always");
    (!on).then(|| {
        let fix = "Set archive_mode = on and restart the server.";
        (Level::Critical, "nothing is archived".to_owned(), fix)
    })
}

fn archive_library(value: &str, _: &Settings) -> Option<Wrong> {
    (!value.is_empty()).then(|| {
        let fix = "Set archive_library = '' and reload the server.";
        (Level::Critical, "the server calls this library and never archive_command".to_owned(), fix)
    })
}

fn archive_command(value: &str, settings: &Settings) -> Option<Wrong> {
    // What SHOW says while archive_mode is off, whatever the files say.
    if value == "(disabled)" && !is_on(get(settings, "archive_mode", "off")) {
        return None;
    }
    let fix = "Set archive_command = 'archive-wal %p' (with its full path) and reload the server.";
    let wrong = |words: &str| Some((Level::Critical, words.to_owned(), fix));
    if value.trim().is_empty() {
        return wrong("nothing is archived, and pg_wal grows until it is full");
    }
    if !value.contains("archive-wal") {
        return wrong("does not call archive-wal");
    }
    if !value.contains("%p") {
        return wrong("does not say which file: %p is missing");
    }
    if hides_failure(value) {
        return wrong("hides failures: what archive-wal could not ship counts as archived, and is lost");
    }
    None
}

/// True where a command line answers success though its program failed.
fn hides_failure(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    let squeezed = words.join(" ");
    let ends = ["; true", "|| true", "|| :", "; :", "; exit 0", "|| exit 0", "&"];
    ends.iter().any(|end| squeezed.ends_with(end)) || squeezed.contains(" | ")
}

fn archive_timeout(value: &str, _: &Settings) -> Option<Wrong> {
    let fix = "Set archive_timeout = 1min, or as much as you can afford to lose, and reload the server.";
    match quantity(value, 1.0) {
        Some(seconds) if seconds <= 0.0 => {
            Some((Level::Warning, "a quiet server keeps its newest transactions to itself".to_owned(), fix))
        }
        Some(seconds) if seconds > 3600.0 => {
            Some((Level::Warning, "more than an hour of transactions can be lost with this machine".to_owned(), fix))
        }
        Some(_) => None,
        None => Some((Level::Unknown, "cannot be read as a time".to_owned(), fix)),
    }
}

fn restore_command(value: &str, _: &Settings) -> Option<Wrong> {
    let fix =
        "Set restore_command = 'restore-wal %f %p' (with its full path), on the primary too: it becomes a standby.";
    if value.trim().is_empty() {
        return Some((Level::Warning, "a standby here cannot fetch what streaming has missed".to_owned(), fix));
    }
    if !value.contains("restore-wal") {
        return Some((Level::Warning, "does not call restore-wal".to_owned(), fix));
    }
    if !(value.contains("%f") && value.contains("%p")) {
        return Some((Level::Critical, "does not say which file: it needs %f and %p".to_owned(), fix));
    }
    let hides = hides_failure(value);
    hides.then(|| (Level::Critical, "hides failures, and a restore may end too early".to_owned(), fix))
}

fn wal_level(value: &str, _: &Settings) -> Option<Wrong> {
    value.eq_ignore_ascii_case("minimal").then(|| {
        let words = "too little is written to WAL for a standby or a restore";
        (Level::Critical, words.to_owned(), "Set wal_level = replica and restart the server.")
    })
}

fn hot_standby(value: &str, _: &Settings) -> Option<Wrong> {
    (!is_on(value)).then(|| {
        let words = "a standby cannot be asked how far it is";
        (Level::Warning, words.to_owned(), "Set hot_standby = on and restart the server.")
    })
}

fn fsync(value: &str, _: &Settings) -> Option<Wrong> {
    (!is_on(value)).then(|| {
        let words = "a crash of the machine destroys the data";
        (Level::Critical, words.to_owned(), "Set fsync = on and reload the server.")
    })
}

fn full_page_writes(value: &str, _: &Settings) -> Option<Wrong> {
    (!is_on(value)).then(|| {
        let words = "torn pages cannot be mended, and a standby refuses base backups";
        (Level::Warning, words.to_owned(), "Set full_page_writes = on and reload the server.")
    })
}

fn max_wal_senders(value: &str, _: &Settings) -> Option<Wrong> {
    (value.trim() == "0").then(|| {
        let words = "no standby can stream and no base backup can be taken";
        (Level::Warning, words.to_owned(), "Set max_wal_senders = 10 and restart the server.")
    })
}

fn max_wal_size(value: &str, _: &Settings) -> Option<Wrong> {
    let fix = "Set max_wal_size = 1GB or more and reload the server.";
    match quantity(value, 1_048_576.0) {
        Some(bytes) if bytes < 256.0 * 1_048_576.0 => Some((
            Level::Warning,
            "checkpoints come so often that they slow the server and its standbys".to_owned(),
            fix,
        )),
        Some(_) => None,
        None => Some((Level::Unknown, "cannot be read as a size".to_owned(), fix)),
    }
}

/// pg_rewind needs page checksums or hint bits in WAL; without either a former primary must be cloned anew.
fn rewind(server: &Server, settings: &Settings) -> Finding {
    let subject = "wal_log_hints";
    let checksums = match (&server.control, settings.values.get("data_checksums")) {
        (Ok(Some(control)), _) => Some(control.checksums),
        (_, Some(value)) => Some(is_on(value)),
        _ => None,
    };
    let hints = is_on(get(settings, "wal_log_hints", "off"));
    match (checksums, hints) {
        (Some(true), _) => Finding::ok("setting", subject, "data pages have checksums, so pg_rewind works"),
        (_, true) => Finding::ok("setting", subject, "on, so pg_rewind works"),
        (None, false) => Finding::unknown("setting", subject, "off, and the control file cannot be read"),
        (Some(false), false) => {
            let message = "off, and data pages have no checksums: pg_rewind refuses such a cluster";
            Finding::new(Level::Warning, "setting", subject, message)
                .fix("Set wal_log_hints = on and restart, or turn on checksums with pg_checksums while it is down.")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::facts::Facts;
    use super::super::tests::{healthy, judge_setting};
    use super::*;

    #[test]
    fn booleans_and_quantities_are_read_as_the_server_reads_them() {
        for (text, expected) in [("on", true), ("tr", true), ("Y", true), ("1", true), ("off", false), ("", false)] {
            assert_eq!(is_on(text), expected, "{text}");
        }
        assert_eq!(quantity("2min", 1.0), Some(120.0));
        assert_eq!(quantity("64", 1_048_576.0), Some(67_108_864.0));
        assert_eq!(quantity("1 GB", 1.0), Some(1_073_741_824.0));
        assert_eq!(quantity("soon", 1.0), None);
    }

    #[test]
    fn every_rule_is_asked_for() {
        for rule in RULES {
            assert!(NAMES.contains(&rule.name), "{}", rule.name);
        }
    }

    #[test]
    fn each_wrong_value_is_found() {
        let cases = [
            ("archive_mode", "off", Level::Critical),
            ("archive_mode", "always", Level::Ok),
            ("archive_library", "basic_archive", Level::Critical),
            ("archive_command", "", Level::Critical),
            ("archive_command", "cp %p /mnt/%f", Level::Critical),
            ("archive_command", "/usr/bin/archive-wal", Level::Critical),
            ("archive_command", "archive-wal %p || true", Level::Critical),
            ("archive_command", "archive-wal %p &", Level::Critical),
            ("archive_command", "archive-wal %p 2>&1 | logger", Level::Critical),
            ("archive_command", "archive-wal --config /etc/x.ini %p", Level::Ok),
            ("archive_timeout", "0", Level::Warning),
            ("archive_timeout", "2h", Level::Warning),
            ("archive_timeout", "90", Level::Ok),
            ("restore_command", "", Level::Warning),
            ("restore_command", "restore-wal %f", Level::Critical),
            ("wal_level", "minimal", Level::Critical),
            ("wal_level", "logical", Level::Ok),
            ("hot_standby", "off", Level::Warning),
            ("fsync", "off", Level::Critical),
            ("full_page_writes", "off", Level::Warning),
            ("max_wal_senders", "0", Level::Warning),
            ("max_wal_size", "64MB", Level::Warning),
            ("max_wal_size", "2048", Level::Ok),
        ];
        for (name, value, expected) in cases {
            assert_eq!(judge_setting(name, Some(value)), expected, "{name} = '{value}'");
        }
    }

    #[test]
    fn what_is_not_set_is_judged_by_its_default() {
        let settings = Settings { source: SettingsSource::Files, values: BTreeMap::new(), pending: Vec::new() };
        let level = |name: &str| RULES.iter().find(|rule| rule.name == name).map(|rule| apply(rule, &settings).level);
        assert_eq!(level("archive_mode"), Some(Level::Critical));
        assert_eq!(level("wal_level"), Some(Level::Ok));
    }

    #[test]
    fn what_a_server_does_not_show_is_unknown() {
        assert_eq!(judge_setting("archive_mode", None), Level::Unknown);
        assert_eq!(judge_setting("archive_library", None), Level::Ok);
    }

    fn rewind_level(checksums: Option<bool>, hints: &str) -> Level {
        let mut facts: Facts = healthy();
        let server = facts.server.as_mut().expect("because a healthy node has a server");
        match (&mut server.control, checksums) {
            (Ok(Some(control)), Some(on)) => control.checksums = on,
            _ => server.control = Err("denied".into()),
        }
        if let Ok(settings) = &mut server.settings {
            settings.values.insert("wal_log_hints".into(), hints.into());
        }
        let settings = server.settings.clone().expect("because a healthy node has settings");
        rewind(server, &settings).level
    }

    #[test]
    fn rewinding_needs_checksums_or_hints() {
        assert_eq!(rewind_level(Some(true), "off"), Level::Ok);
        assert_eq!(rewind_level(Some(false), "on"), Level::Ok);
        assert_eq!(rewind_level(Some(false), "off"), Level::Warning);
        assert_eq!(rewind_level(None, "off"), Level::Unknown);
    }
}
