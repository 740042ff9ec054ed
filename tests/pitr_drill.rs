//! `pitr-restore drill` on real servers: what it proves, what it finds, and that nothing of it is left.

mod support;

#[path = "pitr/scene.rs"]
mod scene;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::Signal;
use scene::{Scene, read};
use serde_json::Value;
use support::{PATIENCE, Server, wait_until};

/// A primary with a table and an index, and where its drills go.
fn scene(cluster: &str) -> (Scene, PathBuf) {
    let mut scene = Scene::new(cluster, &["alpha"]);
    let directory = scene.layout.dir.join("drill");
    scene.layout.set("drill", "directory", directory.display()).set("drill", "shared_buffers", "16MB").write();
    scene.alpha.execute("create table t as select n, md5(n::text) as word from generate_series(1, 5000) n");
    scene.alpha.execute("create index on t (word)");
    (scene, directory)
}

/// The record of a drill that ends with this code.
fn drill(scene: &Scene, words: &[&str], code: i32) -> Value {
    read(&scene.run("pitr-restore", &[&["drill", "--json"], words].concat()).expect_code(code))
}

/// How a check went.
fn verdict<'a>(record: &'a Value, name: &str) -> &'a str {
    let mut checks = record["checks"].as_array().into_iter().flatten();
    checks.find(|check| check["name"] == name).and_then(|check| check["result"].as_str()).unwrap_or("none")
}

/// What `check-node` says of drills.
fn finding(scene: &Scene, words: &[&str]) -> Value {
    let outcome = scene.run("check-node", &[&["--json"], words].concat());
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let mut findings = report["findings"].as_array().into_iter().flatten();
    findings.find(|finding| finding["check"] == "drill").cloned().unwrap_or_default()
}

fn records(scene: &Scene) -> usize {
    fs::read_dir(scene.archive().join("drills")).map_or(0, Iterator::count)
}

fn has_amcheck(server: &Server) -> bool {
    server.query("select count(*) from pg_available_extensions where name = 'amcheck'") == "1"
}

#[test]
fn a_good_drill_proves_how_far_a_restore_works_and_leaves_nothing() {
    let (scene, directory) = scene("proves");
    let before = read(&scene.run("pitr-restore", &["drill", "--last", "--json"]).expect_ok());
    assert_eq!((&before["proven"], &before["last"]), (&Value::Null, &Value::Null));
    let label = scene.take();
    for n in 5001..=5010 {
        scene.alpha.execute(&format!("insert into t values ({n}, 'x')"));
    }
    scene.archive_everything(&scene.alpha);
    let check = "drill.check=select count(*) = 5010 from t";
    let record = drill(&scene, &["--latest", "--set", check], 0);
    assert_eq!((&record["good"], &record["label"]), (&true.into(), &label.into()), "{record:#}");
    assert_eq!((verdict(&record, "check"), verdict(&record, "checksums")), ("passed", "passed"), "{record:#}");
    let expected = if has_amcheck(&scene.alpha) { "passed" } else { "skipped" };
    assert_eq!(verdict(&record, "amcheck"), expected, "{record:#}");
    assert!(!directory.join("scratch").exists());
    // What it has measured is what the next plan expects.
    let plan = scene.json("pitr-restore", &["plan"]);
    assert_eq!(plan["plan"]["expected"]["measured"], record["started"]);
    let random = drill(&scene, &[], 0);
    assert!(random["target"].as_str().is_some_and(|target| target.starts_with("position ")), "{random:#}");
    let last = read(&scene.run("pitr-restore", &["drill", "--last", "--json"]).expect_ok());
    assert_eq!((&last["proven"], &last["last"]), (&record, &random));
    let text = scene.run("pitr-restore", &["drill", "--last"]).expect_ok().stdout;
    let lsn = record["reached"]["lsn"].as_str().unwrap_or("none");
    assert!(text.contains(&format!("last proven   {lsn}")) && text.contains("last archived"), "{text}");
    let archive = read(&scene.run("check-archive", &["--names-only", "--json"]).expect_ok());
    assert_eq!((&archive["proven"], &archive["last_drill"]), (&record, &random));
    let node = finding(&scene, &["--set", "check.drill_age_warning=1h"]);
    assert_eq!(
        (&node["level"], node["message"].as_str().map(|it| it.contains("was proven"))),
        (&"ok".into(), Some(true))
    );
    assert_eq!(records(&scene), 2);
}

#[test]
fn a_drill_that_finds_something_says_what_and_keeps_it() {
    let (scene, directory) = scene("finds");
    let label = scene.take();
    let wrong = drill(&scene, &["--latest", "--set", "drill.check=select n < 5000 from t"], 22);
    assert_eq!((&wrong["good"], verdict(&wrong, "check")), (&false.into(), "failed"));
    assert!(wrong["failure"].as_str().is_some_and(|failure| failure.contains("1 of 5000 rows")), "{wrong:#}");
    assert_eq!(verdict(&wrong, "checksums"), "passed");
    // A page that was damaged on the server is in the backup, which is taken when it is named.
    scene.alpha.execute("checkpoint");
    let path = scene.alpha.pgdata().join(scene.alpha.query("select pg_relation_filepath('t')"));
    let file = fs::OpenOptions::new().write(true).open(&path).expect("because the test owns it");
    file.write_all_at(&[0xA5; 64], 3 * 8192 + 4000).expect("because the table has more pages");
    scene.run("base-backup", &["take"]).expect_code(22);
    let listed = scene.json("base-backup", &["list"]);
    let damaged = listed["backups"].as_array().and_then(|all| all.last()).map(|it| it["label"].clone());
    let damaged = damaged.and_then(|label| label.as_str().map(str::to_owned)).unwrap_or_default();
    assert_ne!(damaged, label);
    let found = drill(&scene, &["--latest", "--backup", &damaged], 22);
    assert_eq!((&found["good"], verdict(&found, "checksums")), (&false.into(), "failed"), "{found:#}");
    if has_amcheck(&scene.alpha) {
        assert_eq!(verdict(&found, "amcheck"), "failed", "{found:#}");
    }
    let failed = drill(&scene, &["--latest", "--set", "drill.database=nowhere"], 50);
    assert!(failed["failure"].as_str().is_some_and(|failure| failure.contains("nowhere")), "{failed:#}");
    assert_eq!((records(&scene), directory.join("scratch").exists()), (3, false));
    let last = read(&scene.run("pitr-restore", &["drill", "--last", "--json"]).expect_ok());
    assert_eq!((&last["proven"], &last["last"]), (&Value::Null, &failed));
    let archive = scene.run("check-archive", &["--names-only"]).expect_ok().stdout;
    assert!(archive.contains("last drill: failed") && !archive.contains("proven:"), "{archive}");
    assert_eq!(finding(&scene, &[])["level"], "critical");
}

#[test]
fn one_drill_at_a_time_and_the_next_removes_what_a_killed_one_left() {
    let (scene, directory) = scene("killed");
    scene.take();
    let data = directory.join("scratch/data");
    let running = scene.call("pitr-restore", &["drill", "--latest"]).spawn();
    wait_until(PATIENCE, "it restores", || data.exists());
    let busy = scene.run("pitr-restore", &["drill", "--latest"]).expect_code(61);
    assert!(busy.stderr.contains(&format!("pid {}", running.pid())), "{busy}");
    wait_until(PATIENCE, "its server runs", || data.join("postmaster.pid").exists());
    running.signal(Signal::KILL);
    drop(running);
    assert!(data.exists());
    assert_eq!(drill(&scene, &["--latest"], 0)["good"], true);
    assert!(!directory.join("scratch").exists());
    // One that is told to end cleans up itself.
    let mut running = scene.call("pitr-restore", &["drill", "--latest"]).spawn();
    wait_until(PATIENCE, "it restores", || data.exists());
    running.signal(Signal::TERM);
    wait_until(PATIENCE, "it has ended", || running.has_ended());
    assert!(!directory.join("scratch").exists());
    assert_eq!(records(&scene), 1);
}

#[test]
fn the_daemon_rehearses_and_removes_old_backups_as_duties() {
    let (mut scene, _) = scene("duty");
    scene.layout.set("backup", "keep", "1").set("drill", "target", "latest");
    scene.layout.set("monitor", "drill", "1d").set("monitor", "expire", "1d").write();
    let (old, kept) = (scene.take(), scene.take());
    scene.run("cluster-monitor", &["register"]).expect_ok();
    let backup = |label: &str| scene.archive().join("backup").join(label);
    let daemon = scene.call("cluster-monitor", &["run"]).spawn();
    wait_until(PATIENCE, "the old backup is removed", || !backup(&old).exists());
    wait_until(PATIENCE, "it is rehearsed", || records(&scene) == 1);
    assert!(backup(&kept).join("backup.json").exists());
    daemon.signal(Signal::TERM);
    daemon.wait().expect_ok();
    let last = read(&scene.run("pitr-restore", &["drill", "--last", "--json"]).expect_ok());
    assert!(last["proven"].is_object(), "{last:#}");
}
