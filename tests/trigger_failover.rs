//! `trigger-failover` on real servers behind real sshds: when it promotes, when it refuses, and what becomes of the
//! WAL.

mod support;

#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use scene::{Scene, refused};
use support::{PATIENCE, kills, wait_until};

/// The standby takes over from a machine that is off; what it held and nobody had archived is archived, and a restore
/// finds every row.
#[test]
fn a_primary_that_is_off_is_replaced_and_the_archive_has_no_hole() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    refused(scene.trigger("beta", &[]), "primary-alive");
    // The archiver fails from here on, as it does where the archive is full; the standby streams all the same.
    scene.on_mut("alpha").set("archive_command", "false").reload();
    let mut lost = Vec::new();
    for _ in 0..4 {
        scene.insert("alpha", 5);
        lost.push(scene.on("alpha").switch_wal());
    }
    scene.wait_caught_up("beta");
    assert!(lost.iter().all(|name| !scene.holds("beta", name)), "{:?}", scene.held("beta"));
    scene.power_off("alpha");
    let report = scene.trigger_json("beta", &[]);
    assert_eq!((report["outcome"].as_str(), report["timeline"].as_u64()), (Some("promoted"), Some(2)));
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    assert!(report["last_commit"].is_string());
    assert!(lost.iter().all(|name| scene.holds("beta", name)), "{:?}", scene.held("beta"));
    assert!(scene.holds("beta", "00000002.history"));
    assert_eq!(scene.rows("beta"), 30);
    scene.insert("beta", 5);
    scene.archive_gives_back("beta");
    // Nothing is left of the operation, and it is not done twice.
    assert_eq!(scene.journal("beta"), "");
    refused(scene.trigger("beta", &[]), "already-primary");
}

/// Frozen, it would go on at any moment: only a fence helps, and the old primary's last WAL is not lost with it.
#[test]
fn a_primary_that_hangs_is_fenced_and_what_it_returns_with_is_refused() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.on("alpha").freeze();
    refused(scene.trigger("beta", &[]), "node-hangs");
    refused(scene.trigger("beta", &["--down", "alpha"]), "node-hangs");
    let report = scene.trigger_json("beta", &["--fence"]);
    let phases = report["phases"].as_array().cloned().unwrap_or_default();
    assert_eq!(phases[0]["step"].as_str(), Some("fence"), "{report:#}");
    assert_eq!(scene.rows("beta"), 10);
    // It is started again as if nothing had been, and finds every archive closed to it, its own included.
    let alpha = scene.on_mut("alpha");
    assert!(!alpha.is_running());
    alpha.start();
    scene.insert("alpha", 3);
    let late = scene.on("alpha").switch_wal();
    let kept = scene.layout.node("alpha").spool.join("quarantine").join(format!("{late}.zst"));
    wait_until(PATIENCE, "the late segment is in quarantine", || kept.exists());
    assert!(!scene.holds("beta", &late) && !scene.holds("alpha", &late));
    let failed = "select failed_count > 0 from pg_stat_archiver";
    wait_until(PATIENCE, "the server knows that it is not archived", || scene.on("alpha").query(failed) == "t");
    let path = scene.on("alpha").pgdata().join("pg_wal").join(&late).display().to_string();
    let said = scene.call("alpha", "archive-wal", &[&path]).run().expect_code(20);
    assert!(said.stderr.contains("timeline 2 of node beta leaves timeline 1"), "{said}");
    scene.archive_gives_back("beta");
}

/// What only the archive has is fetched, the beginning of a segment that was never finished included.
#[test]
fn wal_that_lies_elsewhere_is_fetched_before_anybody_is_promoted() {
    let mut scene = Scene::two();
    scene.insert("alpha", 5);
    scene.wait_caught_up("beta");
    // Cut off from the stream and from the archives, the standby falls behind.
    scene.on_mut("beta").set("primary_conninfo", "").set("restore_command", "false").reload();
    scene.insert("alpha", 20);
    let archived = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "the segment is archived", || scene.holds("beta", &archived));
    scene.insert("alpha", 7);
    scene.stop("alpha");
    scene.call("alpha", "archive-wal", &["--flush"]).run().expect_ok();
    scene.sshd("alpha").stop();
    let planned = scene.trigger("beta", &["--dry-run", "--fast", "--accept-loss"]).expect_ok();
    assert!(planned.stdout.contains("transactions that would be lost: 27"), "{planned}");
    refused(scene.trigger("beta", &["--fast"]), "left-behind");
    let report = scene.trigger_json("beta", &[]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    assert_eq!(scene.rows("beta"), 32);
    scene.archive_gives_back("beta");
}

/// The files of an old primary that is stopped, and whose machine is up, are worth as much as its word.
#[test]
fn the_tail_in_the_files_of_a_stopped_primary_is_fetched_over_ssh() {
    let mut scene = Scene::two();
    scene.insert("alpha", 5);
    scene.wait_caught_up("beta");
    scene.on_mut("alpha").set("archive_command", "false").reload();
    scene.on_mut("beta").set("primary_conninfo", "").reload();
    scene.insert("alpha", 8);
    scene.on_mut("alpha").kill();
    let report = scene.trigger_json("beta", &[]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    assert_eq!(scene.rows("beta"), 13);
    scene.archive_gives_back("beta");
}

/// 2warm's table: the standby, which relays, is down, and WAL goes straight to the dr node; the primary is down, and
/// the standby takes over; both are down, and the dr node does, and not before.
#[test]
fn the_dr_node_takes_over_only_where_no_standby_can() {
    let mut scene = Scene::with(&["beta", "gamma"], |layout| _ = layout.set("archive", "ack", "standby"));
    scene.insert("alpha", 5);
    scene.power_off("beta");
    scene.insert("alpha", 5);
    let segment = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "the dr node's archive holds it", || scene.holds("gamma", &segment));
    refused(scene.trigger("gamma", &[]), "primary-alive");
    scene.sshd("beta").restart();
    scene.on_mut("beta").start();
    scene.wait_caught_up("beta");
    scene.wait_caught_up("gamma");
    scene.power_off("alpha");
    let refusal = refused(scene.trigger("gamma", &[]), "better-node");
    assert!(refusal.stderr.contains("beta"), "{refusal}");
    scene.power_off("beta");
    let report = scene.trigger_json("gamma", &[]);
    assert_eq!(report["node"].as_str(), Some("gamma"));
    assert_eq!(scene.rows("gamma"), 10);
    // One elsewhere has to hold what it archives.
    scene.sshd("beta").restart();
    scene.archive_gives_back("gamma");
}

/// The last row of 2warm's table: the dr node is down, and so is the program that relays to it. Nobody waits for it,
/// the standby takes over as ever, and once it is back a relay gives it all that it lacks.
#[test]
fn a_relay_that_is_down_holds_up_nobody_and_catches_up() {
    let mut scene = Scene::with(&["beta", "gamma"], |layout| {
        layout.set("archive", "ack", "standby").set("relay", "interval", "1s");
    });
    scene.insert("alpha", 5);
    let relay = scene.call("beta", "relay-wal", &["--loop"]).spawn();
    let relayed = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "it is relayed", || scene.holds("gamma", &relayed));
    relay.signal(rustix::process::Signal::KILL);
    drop(relay);
    scene.power_off("gamma");
    scene.insert("alpha", 5);
    let segment = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "the standby's archive holds it", || scene.holds("beta", &segment));
    let failed = scene.call("beta", "relay-wal", &[]).run();
    assert!(failed.code == Some(40) && failed.stderr.contains("gamma"), "{failed}");
    scene.wait_caught_up("beta");
    scene.power_off("alpha");
    let report = scene.trigger_json("beta", &[]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    scene.insert("beta", 5);
    // It is back, with the same server and the archive as it was.
    scene.sshd("gamma").restart();
    scene.on_mut("gamma").start();
    scene.call("beta", "relay-wal", &[]).run().expect_ok();
    assert!(scene.holds("gamma", &segment) && scene.holds("gamma", "00000002.history"));
    scene.archive_gives_back("beta");
    scene.call("beta", "relay-wal", &[]).run().expect_ok();
    scene.archive_of_gives_back("gamma", "beta");
    scene.wait_same_rows("beta", "gamma");
}

/// A standby that lags is not promoted while another one can be reached that does not; told to, it fetches the rest.
#[test]
fn a_standby_that_lags_gives_way_to_a_better_one() {
    let mut scene = Scene::with(&["beta", "delta"], |_| {});
    scene.insert("alpha", 5);
    scene.wait_caught_up("beta");
    scene.on_mut("alpha").set("archive_command", "false").reload();
    scene.on_mut("beta").set("primary_conninfo", "").reload();
    scene.insert("alpha", 9);
    scene.wait_caught_up("delta");
    scene.power_off("alpha");
    let refusal = refused(scene.trigger("beta", &[]), "better-node");
    assert!(refusal.stderr.contains("delta has"), "{refusal}");
    scene.trigger("beta", &["--even-if-behind"]).expect_ok();
    assert_eq!(scene.rows("beta"), 14);
    scene.archive_gives_back("beta");
}

/// Standbys that live on shipped WAL, one of which lets nobody in, and a dr node that does, go on along the new
/// timeline without being told.
#[test]
fn a_warm_a_hot_and_a_dr_node_follow_the_new_timeline() {
    let mut scene = Scene::with(&["beta", "gamma", "delta", "epsilon"], |_| {});
    for shipped_to in ["gamma", "delta"] {
        scene.on_mut(shipped_to).set("primary_conninfo", "").reload();
    }
    scene.stop("epsilon");
    let begun = |scene: &Scene| scene.on("epsilon").log().matches("consistent recovery state").count();
    let before = begun(&scene);
    scene.on_mut("epsilon").set("hot_standby", "off").set("primary_conninfo", "").launch();
    // Before it replays nobody can say what it is, and nobody is promoted beside it.
    wait_until(PATIENCE, "the warm one replays", || begun(&scene) > before);
    scene.insert("alpha", 10);
    let first = scene.on("alpha").switch_wal();
    scene.insert("alpha", 5);
    scene.wait_caught_up("beta");
    // A server that is still starting may become anything.
    let replayed = format!("restored log file \"{first}\"");
    wait_until(PATIENCE, "the warm one is a standby", || scene.on("epsilon").log_has(&replayed));
    scene.power_off("alpha");
    scene.trigger("beta", &[]).expect_ok();
    scene.insert("beta", 5);
    let last = scene.on("beta").switch_wal();
    for follower in ["gamma", "delta"] {
        scene.wait_same_rows("beta", follower);
        assert!(scene.on(follower).in_recovery());
    }
    let replayed = format!("restored log file \"{last}\"");
    wait_until(PATIENCE, "the warm one has it too", || scene.on("epsilon").log_has(&replayed));
    scene.stop("epsilon");
    scene.on_mut("epsilon").set("hot_standby", "on").launch();
    wait_until(PATIENCE, "it lets somebody in", || scene.on("epsilon").accepts());
    scene.wait_same_rows("beta", "epsilon");
    scene.archive_gives_back("beta");
}

/// Killed behind any line of its journal and run again, it ends with one primary that has everything.
#[test]
fn killed_anywhere_it_goes_on() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.power_off("alpha");
    let call = || scene.call("beta", "trigger-failover", &[]);
    let kills = kills::behind_every_line(call, || scene.journal("beta"), scene::PROMOTES);
    assert!(kills > 15, "{kills} kills");
    let last = scene.trigger("beta", &[]);
    assert!(last.code == Some(0) || scene::rule(&last).as_deref() == Some("already-primary"), "{last}");
    assert!(!scene.on("beta").in_recovery());
    assert_eq!((scene.rows("beta"), scene.journal("beta").as_str()), (10, ""));
    assert!(scene.holds("beta", "00000002.history") && !scene.holds("beta", "00000003.history"));
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// What the new primary needs is looked for before anything is done, and its action must succeed.
#[test]
fn a_missing_program_is_found_before_and_a_failing_one_is_said_after() {
    let mut scene = Scene::with(&["beta"], |layout| {
        layout.set("failover", "action", "/nowhere/move-the-address");
    });
    scene.insert("alpha", 5);
    scene.wait_caught_up("beta");
    scene.power_off("alpha");
    refused(scene.trigger("beta", &[]), "configuration");
    let failed = scene.trigger("beta", &["--set", "failover.action=false"]).expect_code(20);
    assert!(failed.stderr.contains("failover.action failed"), "{failed}");
    assert!(!scene.on("beta").in_recovery());
    scene.trigger("beta", &["--set", "failover.action=true"]).expect_ok();
    assert_eq!(scene.journal("beta"), "");
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

#[test]
fn the_rules_are_printed_without_a_configuration() {
    let printed = support::Program::own("trigger-failover").arg("--rules").run().expect_ok();
    assert_eq!(printed.stdout, include_str!("failover/rules.txt"));
}
