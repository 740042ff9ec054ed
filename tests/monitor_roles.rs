//! `cluster-monitor explain`, `promote`, `switchover`, `follow` and `rejoin` on real servers behind real sshds: the
//! programs of the roles under repmgr's words, and who would win before anybody does.

mod support;

#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use scene::{Scene, rule};
use serde_json::{Value, json};
use support::{Outcome, PATIENCE, wait_until};

fn monitor(scene: &Scene, node: &str, words: &[&str]) -> Outcome {
    scene.call(node, "cluster-monitor", words).run()
}

fn answer(scene: &Scene, node: &str, words: &[&str]) -> Value {
    let outcome = monitor(scene, node, &[words, &["--json"]].concat()).expect_ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn events(scene: &Scene, node: &str) -> String {
    scene.on(node).query("select string_agg(event, ',' order by event_timestamp) from pgwarm.repl_events")
}

/// The daemon sends on what the archive of the other node lacks, with nobody calling `relay-wal`.
fn relayed_by_the_daemon(scene: &Scene) {
    let last = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "both archives hold it", || scene.holds("alpha", &last) && scene.holds("beta", &last));
    let lost = scene.root("beta").join("wal").join(&last[..16]).join(format!("{last}.zst"));
    std::fs::remove_file(&lost).expect("because it is there");
    let duty = ["run", "--set", "monitor.relay=on", "--set", "relay.to=beta", "--set", "relay.interval=200ms"];
    let daemon = scene.call("alpha", "cluster-monitor", &duty).spawn();
    wait_until(PATIENCE, "it is relayed", || scene.holds("beta", &last));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait().expect_ok();
}

#[test]
fn roles_change_under_the_words_of_repmgr() {
    let mut scene = Scene::two();
    scene.insert("alpha", 5);
    for node in ["alpha", "beta"] {
        monitor(&scene, node, &["register"]).expect_ok();
    }
    scene.wait_caught_up("beta");
    // Asked anywhere, every node looks for itself, and the same rules answer.
    let told = answer(&scene, "alpha", &["explain"]);
    assert_eq!((told["winner"].as_str(), &told["gone"]), (Some("beta"), &json!(["alpha"])), "{told:#}");
    let beta = &told["candidates"][1];
    assert_eq!((beta["now"]["name"].as_str(), beta["then"]["rule"].as_u64()), (Some("primary-alive"), Some(0)));
    assert_eq!(beta["then"]["loss"]["bytes"].as_u64(), Some(0), "{told:#}");
    assert_eq!(told["candidates"][0]["now"]["name"], "already-primary");
    let none = monitor(&scene, "beta", &["explain", "--gone", "alpha", "--gone", "beta"]).expect_code(1);
    assert!(none.stdout.contains("no node could take over") && none.stdout.contains("rule 20"), "{none}");
    // What only the primary has counts as lost.
    scene.on("beta").freeze();
    scene.insert("alpha", 20);
    let told = answer(&scene, "alpha", &["explain", "--node", "beta"]);
    assert!(told["candidates"][1]["then"]["loss"]["bytes"].as_u64() > Some(1000), "{told:#}");
    scene.on("beta").thaw();
    scene.wait_caught_up("beta");
    let refused = monitor(&scene, "beta", &["standby", "promote"]).expect_code(20);
    assert_eq!(rule(&refused).as_deref(), Some("primary-alive"), "{refused}");
    monitor(&scene, "beta", &["status", "--fence"]).expect_code(2);
    relayed_by_the_daemon(&scene);
    let reached = answer(&scene, "beta", &["matrix"]);
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let way = &reached[from]["ways"][to];
        let ssh = if from == to { "nothing" } else { "yes" };
        assert_eq!((way["database"]["answer"].as_str(), way["ssh"]["answer"].as_str()), (Some("yes"), Some(ssh)));
    }
    // The primary goes, the other takes over, the first comes back, and they change places.
    scene.power_off("alpha");
    // What it reaches nobody knows; that nobody reaches it everybody does.
    let cut = monitor(&scene, "beta", &["matrix", "--json"]).expect_code(1);
    let cut: Value = serde_json::from_str(&cut.stdout).expect("because it is JSON");
    assert_eq!(
        (&cut[0]["ways"][1]["ssh"]["answer"], &cut[1]["ways"][0]["ssh"]["answer"]),
        (&json!("unknown"), &json!("no"))
    );
    assert_eq!(cut[1]["ways"][0]["database"]["answer"], "no");
    let report = answer(&scene, "beta", &["standby", "promote"]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    scene.sshd("alpha").restart();
    monitor(&scene, "alpha", &["node", "rejoin"]).expect_ok();
    assert!(scene.on("alpha").in_recovery());
    let planned = monitor(&scene, "alpha", &["follow", "--dry-run"]).expect_ok();
    assert!(planned.stdout.contains("beta"), "{planned}");
    monitor(&scene, "alpha", &["standby", "follow"]).expect_ok();
    scene.insert("beta", 5);
    let report = answer(&scene, "alpha", &["standby", "switchover"]);
    assert_eq!((report["outcome"].as_str(), report["loss"]["bytes"].as_u64()), (Some("promoted"), Some(0)));
    wait_until(PATIENCE, "they have changed places", || {
        scene.on("beta").in_recovery() && !scene.on("alpha").in_recovery()
    });
    assert_eq!(scene.rows("alpha"), 30);
    let expected = "cluster_created,primary_register,standby_register,repmgrd_start,repmgrd_shutdown,standby_promote,\
                    node_rejoin,standby_follow,standby_switchover";
    assert_eq!(events(&scene, "alpha"), expected);
}
