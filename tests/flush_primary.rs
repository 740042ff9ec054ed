//! `flush-primary` on real servers: it stops in order, proves who holds its last record, and comes back if nobody has
//! taken over.

mod support;

#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use scene::Scene;
use serde_json::Value;
use support::{PATIENCE, wait_until};

#[test]
fn a_flushed_primary_is_held_elsewhere_and_comes_back_if_nobody_took_over() {
    let mut scene = Scene::with(&["beta", "gamma"], |_| {});
    scene.insert("alpha", 10);
    let call = |node: &str, words: &[&str]| scene.call(node, "flush-primary", words).run();
    let planned = call("alpha", &["--dry-run"]).expect_ok();
    assert!(planned.stdout.contains("stop the server"), "{planned}");
    assert!(call("beta", &[]).expect_code(20).stderr.contains("is a standby"));
    // A session that stays does not keep it up for ever.
    let _idle = scene.on("alpha").connect();
    let flushed = call("alpha", &["--json"]).expect_ok();
    let flushed: Value = serde_json::from_str(&flushed.stdout).expect("because it is JSON");
    let held_by = flushed["handover"]["held_by"].to_string();
    for holder in ["archive of beta", "archive of gamma", "server of beta", "server of gamma"] {
        assert!(held_by.contains(holder), "{flushed:#}");
    }
    let again = call("alpha", &["--json"]).expect_ok();
    let again: Value = serde_json::from_str(&again.stdout).expect("because it is JSON");
    assert_eq!(again["handover"]["id"], flushed["handover"]["id"], "it is not flushed twice");
    let record = scene.root("beta").join("handovers/alpha.json");
    assert!(record.exists());
    assert!(!scene.on_mut("alpha").is_running());
    scene.call("alpha", "flush-primary", &["--undo"]).run().expect_ok();
    assert!(!record.exists(), "a primary that runs hands nothing over");
    assert!(!scene.on("alpha").in_recovery());
    scene.insert("alpha", 1);
    wait_until(PATIENCE, "the standby goes on", || scene.rows("beta") == 11);
    scene.archive_gives_back("alpha");
}

/// The machine of a flushed primary may be switched off: its handover speaks for it.
#[test]
fn a_standby_takes_over_from_a_flushed_primary_that_is_off_and_there_is_no_way_back_then() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.call("alpha", "flush-primary", &[]).run().expect_ok();
    scene.on_mut("alpha").is_running();
    let report = scene.trigger_json("beta", &[]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    assert_eq!(scene.rows("beta"), 10);
    let refusal = scene.call("alpha", "flush-primary", &["--undo"]).run().expect_code(20);
    assert!(refusal.stderr.contains("timeline 2 of node beta leaves timeline 1"), "{refusal}");
    scene.call("alpha", "standby-init", &["--rejoin"]).run().expect_ok();
    scene.insert("beta", 5);
    wait_until(PATIENCE, "the old primary follows", || scene.rows("alpha") == 15);
    assert!(scene.on("alpha").in_recovery());
    scene.wait_same_rows("beta", "alpha");
    scene.archive_gives_back("beta");
}
