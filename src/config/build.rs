//! Fills the structs from the settled values: one reading for each row of the table.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use xxhash_rust::xxh3::Xxh3;

use super::options::{OPTIONS, position};
use super::value::Value;
use super::{
    Ack, Archive, Backup, Check, Checkpoint, Cluster, ConfMode, Config, Drill, Failover, Local, Log, Monitor, Node,
    NodeKind, Notify, PlaceWord, Queue, Relay, Restore, Shipping, Ssh, Standby, StandbyMode, Transport,
};
use crate::store::Encoding;

/// The settled values of every option: one list for the plain sections, one for each node.
pub struct Settled {
    /// A value for each row of the table; those of `node` rows hold the defaults.
    pub plain: Vec<Value>,
    /// Each `[node.NAME]` in the order of the files, with a value for each row of the table.
    pub nodes: Vec<(String, Vec<Value>)>,
}

/// Reads values by section and key, and remembers which rows have been read.
struct Reader<'a> {
    values: &'a [Value],
    read: &'a [Cell<bool>],
}

impl Reader<'_> {
    fn value(&self, section: &str, key: &str) -> &Value {
        let at = position(section, key).expect("because a test makes every reading find its row");
        self.read[at].set(true);
        &self.values[at]
    }

    fn text(&self, section: &str, key: &str) -> Option<String> {
        match self.value(section, key) {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn word(&self, section: &str, key: &str) -> String {
        self.text(section, key).unwrap_or_default()
    }

    fn path(&self, section: &str, key: &str) -> Option<PathBuf> {
        match self.value(section, key) {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    fn given_path(&self, section: &str, key: &str) -> PathBuf {
        self.path(section, key).unwrap_or_default()
    }

    fn switch(&self, section: &str, key: &str) -> bool {
        matches!(self.value(section, key), Value::Switch(true))
    }

    /// A number in the type it is kept in; the table's range fits that type.
    fn number<T: TryFrom<i64>>(&self, section: &str, key: &str) -> Option<T> {
        match self.value(section, key) {
            Value::Number(number) => T::try_from(*number).ok(),
            _ => None,
        }
    }

    fn count(&self, section: &str, key: &str) -> u32 {
        self.number(section, key).unwrap_or_default()
    }

    fn time(&self, section: &str, key: &str) -> Duration {
        match self.value(section, key) {
            Value::Time(time) => *time,
            _ => Duration::ZERO,
        }
    }

    fn size(&self, section: &str, key: &str) -> u64 {
        match self.value(section, key) {
            Value::Size(bytes) => *bytes,
            _ => 0,
        }
    }

    fn places(&self, section: &str, key: &str) -> Vec<PlaceWord> {
        match self.value(section, key) {
            Value::Places(words) => words.clone(),
            _ => Vec::new(),
        }
    }

    fn words(&self, section: &str, key: &str) -> Vec<String> {
        match self.value(section, key) {
            Value::Words(words) => words.clone(),
            _ => Vec::new(),
        }
    }
}

/// Builds the configuration.
pub fn build(settled: &Settled) -> Config {
    build_marking(settled, &vec![Cell::new(false); OPTIONS.len()])
}

/// Builds the configuration and marks the rows it has read.
fn build_marking(settled: &Settled, read: &[Cell<bool>]) -> Config {
    let from = Reader { values: &settled.plain, read };
    Config {
        cluster: Cluster { name: from.word("cluster", "name") },
        local: local(&from),
        archive: archive(&from),
        queue: Queue { free_min: from.size("queue", "free_min") },
        restore: restore(&from),
        relay: Relay {
            to: from.places("relay", "to"),
            rate_max: from.size("relay", "rate_max"),
            interval: from.time("relay", "interval"),
        },
        backup: backup(&from),
        failover: failover(&from),
        drill: drill(&from),
        standby: standby(&from),
        ssh: ssh(&from),
        notify: notify(&from),
        log: log(&from),
        check: check(&from),
        monitor: monitor(&from),
        nodes: settled.nodes.iter().map(|(name, values)| node(name, &Reader { values, read })).collect(),
        fingerprint: fingerprint(settled),
    }
}

fn local(from: &Reader<'_>) -> Local {
    Local {
        node: from.word("local", "node"),
        spool: from.given_path("local", "spool"),
        pg_bin: from.path("local", "pg_bin"),
        server_start: from.words("local", "server_start"),
        server_stop: from.words("local", "server_stop"),
    }
}

fn archive(from: &Reader<'_>) -> Archive {
    Archive {
        shipping: match from.word("archive", "shipping").as_str() {
            "refuse" => Shipping::Refuse,
            "discard" => Shipping::Discard,
            _ => Shipping::Armed,
        },
        discard_confirmation: from.word("archive", "discard_confirmation"),
        to: from.places("archive", "to"),
        alternate: from.places("archive", "alternate"),
        ack: match from.value("archive", "ack") {
            Value::Ack(ack) => *ack,
            _ => Ack::Standby,
        },
        compress: match from.word("archive", "compress").as_str() {
            "lz4" => Encoding::Lz4,
            "gzip" => Encoding::Gzip,
            "none" => Encoding::None,
            _ => Encoding::Zstd,
        },
        level: from.number("archive", "level").unwrap_or_default(),
        deadline: from.time("archive", "deadline"),
        worker: from.switch("archive", "worker"),
        worker_idle: from.time("archive", "worker_idle"),
        lookahead: from.count("archive", "lookahead"),
        retry: from.time("archive", "retry"),
    }
}

fn restore(from: &Reader<'_>) -> Restore {
    Restore {
        from: from.places("restore", "from"),
        wait: from.switch("restore", "wait"),
        poll: from.time("restore", "poll"),
        wait_max: from.time("restore", "wait_max"),
        delay: from.time("restore", "delay"),
        trigger: from.given_path("restore", "trigger"),
        control: from.given_path("restore", "control"),
        partial: from.switch("restore", "partial"),
        retry: from.time("restore", "retry"),
        deadline: from.time("restore", "deadline"),
        worker: from.switch("restore", "worker"),
        remove_max: from.count("restore", "remove_max"),
        prefetch: from.count("restore", "prefetch"),
    }
}

fn backup(from: &Reader<'_>) -> Backup {
    Backup {
        jobs: from.count("backup", "jobs"),
        compress: match from.word("backup", "compress").as_str() {
            "lz4" => Encoding::Lz4,
            "none" => Encoding::None,
            _ => Encoding::Zstd,
        },
        level: from.number("backup", "level").unwrap_or_default(),
        checkpoint: match from.word("backup", "checkpoint").as_str() {
            "spread" => Checkpoint::Spread,
            _ => Checkpoint::Fast,
        },
        rate_max: from.size("backup", "rate_max"),
        deadline: from.time("backup", "deadline"),
        keep: from.count("backup", "keep"),
        keep_days: from.count("backup", "keep_days"),
    }
}

fn failover(from: &Reader<'_>) -> Failover {
    Failover {
        fence: from.words("failover", "fence"),
        fence_deadline: from.time("failover", "fence_deadline"),
        action: from.words("failover", "action"),
        action_deadline: from.time("failover", "action_deadline"),
        contact: from.time("failover", "contact"),
        deadline: from.time("failover", "deadline"),
        sessions: from.time("failover", "sessions"),
        drain: from.time("failover", "drain"),
        stop: from.time("failover", "stop"),
    }
}

fn drill(from: &Reader<'_>) -> Drill {
    Drill {
        directory: from.given_path("drill", "directory"),
        random: from.word("drill", "target") != "latest",
        shared_buffers: from.size("drill", "shared_buffers"),
        deadline: from.time("drill", "deadline"),
        amcheck: from.switch("drill", "amcheck"),
        database: from.word("drill", "database"),
        sql_file: from.path("drill", "sql_file"),
        check: from.text("drill", "check"),
    }
}

fn standby(from: &Reader<'_>) -> Standby {
    Standby {
        mode: match from.word("standby", "mode").as_str() {
            "hot" => StandbyMode::Hot,
            "warm" => StandbyMode::Warm,
            "cold" => StandbyMode::Cold,
            _ => StandbyMode::Streaming,
        },
        user: from.text("standby", "user"),
        slots: from.switch("standby", "slots"),
        conf_standby: from.path("standby", "conf_standby"),
        conf_failover: from.path("standby", "conf_failover"),
        conf_mode: match from.word("standby", "conf_mode").as_str() {
            "reference" => ConfMode::Reference,
            _ => ConfMode::Copy,
        },
        deadline: from.time("standby", "deadline"),
        copy_deadline: from.time("standby", "copy_deadline"),
    }
}

fn ssh(from: &Reader<'_>) -> Ssh {
    Ssh {
        program: from.given_path("ssh", "program"),
        connect_timeout: from.time("ssh", "connect_timeout"),
        deadline: from.time("ssh", "deadline"),
        dead_after: from.time("ssh", "dead_after"),
        options: from.words("ssh", "options"),
    }
}

fn notify(from: &Reader<'_>) -> Notify {
    Notify {
        ok: from.words("notify", "ok"),
        warning: from.words("notify", "warning"),
        critical: from.words("notify", "critical"),
        repeat: from.time("notify", "repeat"),
        deadline: from.time("notify", "deadline"),
    }
}

fn log(from: &Reader<'_>) -> Log {
    Log {
        level: match from.word("log", "level").as_str() {
            "error" => LevelFilter::Error,
            "warn" => LevelFilter::Warn,
            "debug" => LevelFilter::Debug,
            _ => LevelFilter::Info,
        },
        file: from.path("log", "file"),
        syslog: from.switch("log", "syslog"),
    }
}

fn check(from: &Reader<'_>) -> Check {
    Check {
        queue_age_warning: from.time("check", "queue_age_warning"),
        queue_age_critical: from.time("check", "queue_age_critical"),
        archive_age_warning: from.time("check", "archive_age_warning"),
        archive_age_critical: from.time("check", "archive_age_critical"),
        free_warning: from.count("check", "free_warning"),
        free_critical: from.count("check", "free_critical"),
        lag_warning: from.size("check", "lag_warning"),
        lag_critical: from.size("check", "lag_critical"),
        slot_warning: from.size("check", "slot_warning"),
        slot_critical: from.size("check", "slot_critical"),
        drill_age_warning: from.time("check", "drill_age_warning"),
    }
}

fn monitor(from: &Reader<'_>) -> Monitor {
    let names = from.word("monitor", "event_notifications");
    Monitor {
        interval: from.time("monitor", "interval"),
        deadline: from.time("monitor", "deadline"),
        lost_after: from.time("monitor", "lost_after"),
        history: from.time("monitor", "history"),
        keep: from.time("monitor", "keep"),
        keep_events: from.time("monitor", "keep_events"),
        survey: from.time("monitor", "survey"),
        relay: from.switch("monitor", "relay"),
        expire: from.time("monitor", "expire"),
        drill: from.time("monitor", "drill"),
        http: from.text("monitor", "http"),
        pid_file: from.path("monitor", "pid_file"),
        event_notification_command: from.words("monitor", "event_notification_command"),
        event_notifications: names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

fn node(name: &str, from: &Reader<'_>) -> Node {
    Node {
        name: name.to_string(),
        id: from.number("node", "id"),
        kind: match from.word("node", "kind").as_str() {
            "dr" => NodeKind::Dr,
            "witness" => NodeKind::Witness,
            _ => NodeKind::Node,
        },
        host: from.text("node", "host"),
        pgdata: from.path("node", "pgdata"),
        config_file: from.path("node", "config_file"),
        conninfo: from.text("node", "conninfo"),
        archive: from.path("node", "archive"),
        transport: match from.word("node", "transport").as_str() {
            "sftp" => Transport::Sftp,
            _ => Transport::Ssh,
        },
        ssh_user: from.text("node", "ssh_user"),
        ssh_port: from.number("node", "ssh_port"),
        ssh_key: from.path("node", "ssh_key"),
        ssh_jump: from.text("node", "ssh_jump"),
        ssh_known_hosts: from.path("node", "ssh_known_hosts"),
        programs: from.path("node", "programs"),
    }
}

/// Hashes every value as it would be written, so that `60s` and `1min` are the same. The hash is the same in every
/// build, since a worker may be older than the program that calls it.
fn fingerprint(settled: &Settled) -> u64 {
    let mut hash = Xxh3::new();
    let mut add = |section: &str, values: &[Value], nodes: bool| {
        for (row, value) in OPTIONS.iter().zip(values).filter(|(row, _)| (row.section == "node") == nodes) {
            for part in [section, ".", row.section, ".", row.key, "=", &value.to_string(), "\n"] {
                hash.update(part.as_bytes());
            }
        }
    };
    add("", &settled.plain, false);
    for (name, values) in &settled.nodes {
        add(name, values, true);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::super::options::Standard;
    use super::*;

    /// The defaults with the required names filled in.
    fn defaults() -> Settled {
        let values: Vec<Value> = OPTIONS
            .iter()
            .map(|row| match row.default {
                Standard::Required => Value::Text("db1".into()),
                Standard::Nothing => Value::Nothing,
                Standard::Is(text) => row.kind.parse(text).expect("because a test reads every default"),
            })
            .collect();
        Settled { plain: values.clone(), nodes: vec![("db1".into(), values)] }
    }

    #[test]
    fn every_row_is_read() {
        let read = vec![Cell::new(false); OPTIONS.len()];
        build_marking(&defaults(), &read);
        let forgotten: Vec<_> =
            OPTIONS.iter().zip(&read).filter(|(_, read)| !read.get()).map(|(row, _)| row.key).collect();
        assert_eq!(forgotten, Vec::<&str>::new());
    }

    #[test]
    fn every_word_of_a_choice_means_something_of_its_own() {
        for row in OPTIONS {
            let super::super::value::Kind::Choice(words) = row.kind else { continue };
            let mut seen: Vec<Config> = Vec::new();
            for word in words {
                let mut settled = defaults();
                let at = position(row.section, row.key).expect("because it is a row");
                settled.plain[at] = Value::Text(word.to_string());
                settled.nodes[0].1[at] = Value::Text(word.to_string());
                let built = Config { fingerprint: 0, ..build(&settled) };
                assert!(!seen.contains(&built), "{}.{} = {word}", row.section, row.key);
                seen.push(built);
            }
        }
    }

    #[test]
    fn the_fingerprint_follows_every_value() {
        let plain = build(&defaults()).fingerprint;
        for (at, row) in OPTIONS.iter().enumerate() {
            let mut settled = defaults();
            let changed = Value::Text("changed".into());
            match row.section {
                "node" => settled.nodes[0].1[at] = changed,
                _ => settled.plain[at] = changed,
            }
            assert_ne!(build(&settled).fingerprint, plain, "{}", row.key);
        }
        assert_eq!(build(&defaults()).fingerprint, plain);
    }
}
