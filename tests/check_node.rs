//! `check-node` against real servers and a real sshd: what is well, what is broken in a known way, and what cannot be
//! found out.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use sshd::Sshd;
use support::{Layout, Outcome, PATIENCE, Server, Stop, wait_until};

/// Two nodes behind one sshd; only `alpha` has a server.
struct Scene {
    sshd: Sshd,
    layout: Layout,
    alpha: Server,
}

impl Scene {
    fn new(name: &str, settings: &[(&str, &str)]) -> Scene {
        let sshd = Sshd::start();
        sshd::own(&sshd.key());
        let mut alpha = Server::builder(name).wal_segsize(1).set("archive_mode", "on").tcp().create();
        let mut layout = Layout::new(name, &["alpha", "beta"]);
        layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
        layout.set("ssh", "connect_timeout", "10s");
        layout.node_mut("alpha").serve(&alpha);
        layout.write();
        let programs = support::program("archive-wal");
        let programs = programs.parent().expect("because a program is in a folder").display().to_string();
        let shared = layout.shared_file("alpha").display().to_string();
        alpha.set("archive_command", format!("{programs}/archive-wal --config {shared} %p"));
        alpha.set("restore_command", format!("{programs}/restore-wal --config {shared} %f %p %r"));
        alpha.set("archive_timeout", "1min");
        for (setting, value) in settings {
            alpha.set(setting, value);
        }
        alpha.start();
        Scene { sshd, layout, alpha }
    }

    /// Makes both archives.
    fn with_archives(self) -> Scene {
        self.layout.program("alpha", "archive-wal").arg("--init").run().expect_ok();
        self.layout.program("alpha", "archive-wal").args(["--init", "beta"]).run().expect_ok();
        self
    }

    fn check(&self, words: &[&str]) -> Outcome {
        self.layout.program("alpha", "check-node").args(words).run()
    }

    /// The findings by check and subject.
    fn findings(&self, words: &[&str]) -> BTreeMap<(String, String), Value> {
        let outcome = self.check(&[&["--json"], words].concat());
        let report: Value =
            serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        assert_eq!(report["format"], 1);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        findings.into_iter().map(|finding| ((text(&finding["check"]), text(&finding["subject"])), finding)).collect()
    }

    fn level(&self, words: &[&str], check: &str, subject: &str) -> String {
        let findings = self.findings(words);
        let finding = findings.get(&(check.to_owned(), subject.to_owned()));
        let finding = finding.unwrap_or_else(|| panic!("no finding '{check}' about '{subject}' in {findings:#?}"));
        finding["level"].as_str().unwrap_or_default().to_owned()
    }
}

/// Every path below a folder with what a change would change.
fn snapshot(folder: &Path) -> Vec<(String, u64, i64, u32)> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    let row = |entry: walkdir::DirEntry| {
        let data = entry.metadata().ok()?;
        Some((entry.path().display().to_string(), data.len(), data.mtime_nsec(), data.mode()))
    };
    entries.filter_map(row).collect()
}

#[test]
fn a_node_that_is_well_is_said_to_be_so() {
    let scene = Scene::new("well", &[("fsync", "on"), ("max_wal_size", "1GB")]).with_archives();
    let segment = scene.alpha.switch_wal();
    let archive = scene.layout.node("alpha").archive.clone().expect("because alpha has one");
    let folder = archive.join("well/wal").join(&segment[..16]);
    wait_until(PATIENCE, "the segment is archived", || {
        fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some())
    });
    let findings = scene.findings(&[]);
    let mut wrong: Vec<_> = findings.values().filter(|finding| finding["level"] != "ok").collect();
    // How full this machine's disk is is not ours to say.
    wrong.retain(|finding| finding["check"] != "space");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let wanted = [
        "config",
        "config-mode",
        "key-mode",
        "spool",
        "archive-dir",
        "placement",
        "identity",
        "archive-age",
        "queue",
        "shipping",
        "chain",
        "worker",
        "role",
        "setting",
        "archiver",
        "ready",
        "ssh",
        "ssh-back",
        "clock",
        "version",
    ];
    for check in wanted {
        assert!(findings.keys().any(|(found, _)| found == check), "no finding of '{check}'");
    }
    let text = scene.check(&[]).stdout;
    assert!(text.contains("primary") && text.lines().count() > 25, "{text}");
}

#[test]
fn an_archiver_that_dies_by_a_signal_is_seen_by_the_age_of_what_waits() {
    let mut scene = Scene::new("killed", &[]).with_archives();
    // The server counts no such death; the words keep every other check of the command content.
    scene.alpha.set("archive_command", "kill -TERM $$ # archive-wal %p");
    scene.alpha.reload();
    scene.alpha.switch_wal();
    let ready = scene.alpha.pgdata().join("pg_wal/archive_status");
    wait_until(PATIENCE, "a segment waits", || {
        fs::read_dir(&ready)
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".ready")))
    });
    let limits = ["--set", "check.queue_age_warning=1s", "--set", "check.queue_age_critical=2s", "alpha"];
    wait_until(PATIENCE, "the wait is found", || scene.level(&limits, "ready", "pg_wal/archive_status") == "critical");
    assert_eq!(scene.level(&limits, "archiver", "pg_stat_archiver"), "ok");
    scene.check(&limits).expect_code(20);
    let line = scene.check(&[&["--nagios"], &limits[..]].concat()).expect_code(2).stdout;
    assert!(line.starts_with("PGWARM CRITICAL - ") && line.contains("'ready pg_wal/archive_status'="), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn a_server_that_is_down_is_judged_by_its_files_and_nothing_is_changed() {
    let mut scene = Scene::new("down", &[("fsync", "off"), ("wal_level", "replica")]).with_archives();
    // Nobody but check-node may be at work while the files are compared.
    scene.layout.set("archive", "worker", "off").write();
    scene.alpha.stop(Stop::Fast);
    let before = [snapshot(&scene.layout.dir), snapshot(&scene.alpha.pgdata())];
    let findings = scene.findings(&[]);
    assert_eq!(before, [snapshot(&scene.layout.dir), snapshot(&scene.alpha.pgdata())]);
    let about = |check: &str, subject: &str| {
        let finding = &findings[&(check.to_owned(), subject.to_owned())];
        (finding["level"].as_str().unwrap_or_default(), finding["message"].as_str().unwrap_or_default())
    };
    assert_eq!(about("role", "alpha"), ("critical", "the server is down"));
    assert_eq!(about("setting", "archive_mode"), ("ok", "'on' (from the files)"));
    assert_eq!(about("setting", "fsync").0, "critical");
    assert_eq!(about("archiver", "pg_stat_archiver"), ("unknown", "cannot tell: the server is down"));
    assert!(findings.iter().any(|((check, _), finding)| check == "identity" && finding["level"] == "ok"));
}

#[test]
fn a_key_that_is_confined_to_the_archive_leaves_unknown_what_it_cannot_ask() {
    let scene = Scene::new("confined", &[]).with_archives();
    let serve = support::program("serve-archive");
    let archive = scene.layout.node("beta").archive.clone().expect("because beta has one");
    let command = format!("restrict,command=\"{} --archive {}\"", serve.display(), archive.display());
    scene.sshd.authorize(&command);
    for (check, expected) in [("ssh", "ok"), ("identity", "ok"), ("clock", "unknown"), ("ssh-back", "unknown")] {
        assert_eq!(scene.level(&["beta"], check, "beta"), expected, "{check}");
    }
}

#[test]
fn a_node_that_cannot_be_reached_is_critical_and_an_unknown_host_key_is_never_taken() {
    let mut scene = Scene::new("far", &[]).with_archives();
    scene.sshd.change_host_key();
    let findings = scene.findings(&["beta"]);
    let ssh = &findings[&("ssh".to_owned(), "beta".to_owned())];
    assert_eq!(ssh["level"], "critical", "{ssh}");
    assert!(ssh["fix"].as_str().is_some_and(|fix| fix.ends_with('.')));
    assert!(!findings.keys().any(|(check, _)| check == "clock"));
    scene.layout.program("alpha", "check-node").args(["--ping", "beta"]).run().expect_code(40);
    scene.sshd.stop();
    scene.layout.program("alpha", "check-node").args(["--ping", "beta"]).run().expect_code(40);
}

/// As the README has it: a conninfo without a host is right on its own node, and on another one leads to its host.
#[test]
fn the_own_server_is_not_taken_for_another_nodes() {
    let mut scene = Scene::new("hostless", &[]);
    let hostless = format!("port={} user=postgres dbname=postgres", scene.alpha.port());
    // What listens beside alpha is alpha, and nothing does on beta's host.
    scene.layout.node_mut("beta").set("host", "127.0.0.77").set("conninfo", hostless);
    scene.layout.write();
    let socket = scene.alpha.socket_dir().display().to_string();
    let said = scene.layout.program("alpha", "check-node").arg("--json").env("PGHOST", socket).run();
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let role = findings.iter().find(|finding| finding["check"] == "role" && finding["subject"] == "beta");
    let role = role.unwrap_or_else(|| panic!("nothing is said of beta: {said}"));
    assert!(role["level"] == "unknown" && role["message"].to_string().contains("127.0.0.77"), "{role:#}");
}

#[test]
fn two_primaries_and_a_foreign_archive_are_critical() {
    let mut scene = Scene::new("two", &[]).with_archives();
    let stranger = Server::builder("stranger").fresh_identity().wal_segsize(1).start();
    scene.layout.node_mut("beta").serve(&stranger);
    scene.layout.write();
    assert_eq!(scene.level(&[], "primaries", "two"), "critical");
    scene.layout.node_mut("alpha").serve(&stranger);
    scene.layout.write();
    let findings = scene.findings(&["alpha"]);
    let identity = findings.iter().find(|((check, _), _)| check == "identity").map(|(_, finding)| finding);
    assert_eq!(identity.map(|finding| &finding["level"]), Some(&Value::from("critical")), "{identity:?}");
}

#[test]
fn every_problem_of_the_configuration_is_told_and_a_monitor_gets_its_line() {
    let mut layout = Layout::new("wrong", &["alpha"]);
    layout.set("archive", "retrry", "10s").set("check", "free_warning", "many").write();
    let outcome = layout.program("alpha", "check-node").run().expect_code(10);
    assert!(outcome.stderr.contains("retrry") && outcome.stderr.contains("free_warning"), "{}", outcome.stderr);
    let outcome = layout.program("alpha", "check-node").arg("--nagios").run().expect_code(2);
    assert!(outcome.stdout.starts_with("PGWARM CRITICAL - "), "{}", outcome.stdout);
}

#[test]
fn wide_modes_and_a_spool_in_the_data_directory_are_found() {
    let mut scene = Scene::new("modes", &[]);
    // The configuration refuses a path inside; a link is only seen through by looking.
    let (inside, spool) = (scene.alpha.pgdata().join("spool"), scene.layout.dir.join("spool-link"));
    support::workspace::make_dir(&inside);
    std::os::unix::fs::symlink(&inside, &spool).expect("because the test owns the folder");
    scene.layout.node_mut("alpha").spool = spool.clone();
    scene.layout.write();
    let shared = scene.layout.shared_file("alpha");
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o660))
        .expect("because the test owns it");
    assert_eq!(scene.level(&["alpha"], "config-mode", &shared.display().to_string()), "critical");
    assert_eq!(scene.level(&["alpha"], "placement", &spool.display().to_string()), "warning");
    assert_eq!(
        scene.level(&["alpha"], "archive-dir", &scene.layout.dir.join("alpha/archive/modes").display().to_string()),
        "critical"
    );
}
