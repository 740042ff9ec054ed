//! The rules of `check-node`: from facts to findings. Pure; each check is a function, in the order they are printed.

use std::time::Duration;

use super::facts::Facts;
use super::{Finding, Measure};

mod archive;
mod drills;
mod files;
mod peers;
mod server;
mod settings;

/// The settings that the rules look at.
pub const SETTING_NAMES: &[&str] = settings::NAMES;

/// Judges everything.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(local) = &facts.local {
        found.extend(files::configuration(local));
        found.extend(files::keys(local));
        found.push(files::spool(local));
        found.extend(files::archive(local));
        found.extend(files::placement(local));
        found.extend(files::space(local, &facts.limits));
        found.extend(archive::identity(facts, local));
        found.extend(archive::age(local, &facts.limits));
        found.extend(drills::judge(local, &facts.limits));
        found.extend(archive::queues(facts, local));
        found.push(archive::quarantine(local));
        found.push(archive::shipping(local));
        found.push(archive::chain(local));
        found.extend(archive::worker(local));
    }
    if let Some(server) = &facts.server {
        found.push(server::role(facts, server));
        found.extend(server::pgdata(facts, server));
        found.extend(settings::judge(server));
        found.push(server::archiver(server));
        found.push(server::ready(server, &facts.limits));
    }
    for peer in &facts.peers {
        found.extend(peers::judge(facts, peer));
    }
    found.extend(peers::primaries(facts));
    found
}

/// A time span for people: its two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A number of bytes for people, in binary units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// An age with its two thresholds.
fn age_measure(age: Duration, warning: Duration, critical: Duration) -> Measure {
    Measure::limited(age.as_secs() as f64, "s", warning.as_secs() as f64, critical.as_secs() as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::super::Level;
    use super::super::facts::*;
    use super::*;
    use crate::config::{Check, Shipping};
    use crate::wal::{SegmentSize, SystemId};

    #[test]
    fn spans_and_sizes_read_well() {
        let spans = [(5, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")];
        for (seconds, text) in spans {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        let sizes = [(0, "0 B"), (1024, "1.0 KiB"), (16 << 20, "16.0 MiB"), (u64::MAX, "16384.0 PiB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }

    pub(crate) fn path(path: &str, mode: u32, is_directory: bool) -> LocalPath {
        let stat = Stat { mode, owner: 26, is_directory, resolved: PathBuf::from(path) };
        LocalPath { path: PathBuf::from(path), stat: Ok(Some(stat)) }
    }

    pub(crate) fn identity() -> Identity {
        Identity::new("main", SystemId(7123), SegmentSize::DEFAULT)
    }

    pub(crate) fn broken_chain() -> BrokenChain {
        let name = |text: &str| text.parse().expect("because it is well formed");
        let (first, last) = (name("000000010000000000000001"), name("000000010000000000000004"));
        BrokenChain { first, last, count: 4, since: "2026-01-01".into(), until: "2026-01-02".into() }
    }

    pub(crate) fn none_waiting() -> Waiting {
        Waiting { count: 0, bytes: 0, oldest: None }
    }

    pub(crate) fn waiting(age: u64) -> Waiting {
        let oldest = Some(("000000010000000000000001".to_owned(), Duration::from_secs(age)));
        Waiting { count: 2, bytes: 32 << 20, oldest }
    }

    /// A node on which nothing is wrong; each test spoils one thing.
    pub(crate) fn healthy() -> Facts {
        Facts {
            node: "alpha".into(),
            cluster: "main".into(),
            limits: Check {
                queue_age_warning: Duration::from_secs(300),
                queue_age_critical: Duration::from_secs(3600),
                archive_age_warning: Duration::from_secs(3600),
                archive_age_critical: Duration::from_secs(86_400),
                free_warning: 20,
                free_critical: 10,
                lag_warning: 256 << 20,
                lag_critical: 4 << 30,
                slot_warning: 1 << 30,
                slot_critical: 10 << 30,
                drill_age_warning: Duration::ZERO,
            },
            local: Some(healthy_local()),
            server: Some(healthy_server()),
            peers: vec![healthy_peer()],
        }
    }

    fn healthy_local() -> Local {
        let room = Ok(Some(Room { free: 80 << 30, total: 100 << 30 }));
        Local {
            user: 26,
            configuration: vec![path("/etc/pgwarm.ini", 0o640, false)],
            keys: vec![path("/home/postgres/.ssh/id", 0o600, false)],
            spool: path("/var/lib/pgwarm/spool", 0o700, true),
            spool_room: room.clone(),
            archive: Some(LocalArchive {
                root: path("/archive/main", 0o700, true),
                room,
                identity: Ok(Some(identity())),
                newest: Ok(Some(("000000010000000000000009".into(), Duration::from_secs(60)))),
                drills: Ok(None),
                backups: true,
            }),
            pgdata: Some(path("/var/lib/pgsql/data", 0o700, true)),
            queues: Ok(BTreeMap::from([("beta".to_owned(), Ok(none_waiting()))])),
            quarantine: Ok(None),
            switch: Ok(None),
            shipping: Shipping::Armed,
            discard_confirmed: false,
            broken: Ok(None),
            worker: Some(Worker::Running),
        }
    }

    pub(crate) fn good_settings() -> BTreeMap<String, String> {
        let values = [
            ("archive_mode", "on"),
            ("archive_command", "/usr/bin/archive-wal %p"),
            ("archive_library", ""),
            ("archive_timeout", "1min"),
            ("restore_command", "/usr/bin/restore-wal %f %p"),
            ("wal_level", "replica"),
            ("hot_standby", "on"),
            ("full_page_writes", "on"),
            ("fsync", "on"),
            ("wal_log_hints", "on"),
            ("max_wal_size", "1GB"),
            ("max_wal_senders", "10"),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(crate) fn healthy_server() -> Server {
        Server {
            role: Ok(Role::Primary),
            data_directory: Some("/var/lib/pgsql/data".into()),
            settings: Ok(Settings { source: SettingsSource::Server, values: good_settings(), pending: Vec::new() }),
            control: Ok(Some(Control {
                system_identifier: SystemId(7123),
                segment_size: SegmentSize::DEFAULT,
                checksums: true,
            })),
            archiver: Ok(Some(Archiver { archived: 9, failed: 0, failed_name: None, failing: false })),
            ready: Ok(Some(none_waiting())),
        }
    }

    fn healthy_peer() -> Peer {
        Peer {
            name: "beta".into(),
            kind: crate::config::NodeKind::Node,
            probe: Some(Ok(Probe {
                clock: Ok(Clock { ahead: 0.3, doubt: 1.1 }),
                version: Ok(Some(env!("CARGO_PKG_VERSION").into())),
                identity: Ok(Some(identity())),
                room: Ok(Some(Room { free: 80 << 30, total: 100 << 30 })),
                back: Back::Reached,
            })),
            has_archive: true,
            role: Some(Ok(Role::Standby)),
        }
    }

    /// The findings of one check about one subject, judged over everything.
    pub(crate) fn found(facts: &Facts, check: &str) -> Vec<Finding> {
        judge(facts).into_iter().filter(|finding| finding.check == check).collect()
    }

    /// The worst level that one check comes to.
    pub(crate) fn level(facts: &Facts, check: &str) -> Level {
        let findings = found(facts, check);
        assert!(!findings.is_empty(), "no finding of check '{check}'");
        Level::worst(findings.iter().map(|finding| finding.level))
    }

    /// The level of one setting with this value, everything else being well; `None` leaves it out.
    pub(crate) fn judge_setting(name: &str, value: Option<&str>) -> Level {
        let mut facts = healthy();
        let server = facts.server.as_mut().expect("because a healthy node has a server");
        let settings = server.settings.as_mut().expect("because a healthy node has settings");
        match value {
            Some(value) => settings.values.insert(name.to_owned(), value.to_owned()),
            None => settings.values.remove(name),
        };
        let findings = found(&facts, "setting");
        let finding = findings.iter().find(|finding| finding.subject == name);
        finding.unwrap_or_else(|| panic!("no finding about '{name}'")).level
    }

    #[test]
    fn the_schema_knows_every_check_and_every_key() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../../../etc/check-node.schema.json"))
            .expect("because the schema is JSON");
        let finding = &schema["$defs"]["finding"]["properties"];
        let known: Vec<_> = finding["check"]["enum"].as_array().into_iter().flatten().collect();
        for judged in judge(&healthy()) {
            assert!(known.contains(&&serde_json::Value::from(judged.check)), "{}", judged.check);
            let json = serde_json::to_value(&judged).expect("because plain data has no reason not to become JSON");
            for key in json.as_object().into_iter().flat_map(|object| object.keys()) {
                assert!(finding.get(key).is_some(), "{key}");
            }
        }
    }

    #[test]
    fn nothing_is_wrong_on_a_healthy_node() {
        let wrong: Vec<_> = judge(&healthy()).into_iter().filter(|finding| finding.level != Level::Ok).collect();
        assert_eq!(wrong, []);
    }

    #[test]
    fn whatever_is_critical_or_a_warning_says_how_to_mend_it() {
        let mut facts = healthy();
        let local = facts.local.as_mut().expect("because a healthy node has its own facts");
        local.spool = path("/var/lib/pgsql/data/spool", 0o755, true);
        local.switch = Ok(Some(Shipping::Discard));
        local.broken = Ok(Some(vec![broken_chain()]));
        local.spool_room = Ok(Some(Room { free: 1, total: 100 }));
        let server = facts.server.as_mut().expect("because a healthy node has a server");
        server.role = Ok(Role::Down);
        server.settings = Ok(Settings { source: SettingsSource::Files, values: BTreeMap::new(), pending: Vec::new() });
        server.ready = Ok(Some(waiting(7200)));
        facts.peers[0].probe = Some(Err("connection refused".into()));
        let bad: Vec<_> = judge(&facts)
            .into_iter()
            .filter(|finding| matches!(finding.level, Level::Critical | Level::Warning))
            .collect();
        assert!(bad.len() >= 9, "{bad:?}");
        for finding in bad {
            assert!(finding.fix.as_ref().is_some_and(|fix| fix.ends_with('.')), "{finding:?}");
        }
    }
}
