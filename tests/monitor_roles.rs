//! `cluster-monitor explain`, `promote`, `switchover`, `follow` and `rejoin` on real servers behind real sshds: the
//! programs of the roles under repmgr's words, and who would win before anybody does.

mod support;

#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use scene::{Scene, rule};
use serde_json::Value;
use support::{Outcome, PATIENCE, wait_until};

fn monitor(scene: &Scene, node: &str, words: &[&str]) -> Outcome {
    scene.call(node, "cluster-monitor", words).run()
}

fn json(scene: &Scene, node: &str, words: &[&str]) -> Value {
    let outcome = monitor(scene, node, &[words, &["--json"]].concat()).expect_ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn events(scene: &Scene, node: &str) -> String {
    scene.on(node).query("select string_agg(event, ',' order by event_timestamp) from pgwarm.repl_events")
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
    let told = json(&scene, "alpha", &["explain"]);
    assert_eq!((told["winner"].as_str(), &told["gone"]), (Some("beta"), &serde_json::json!(["alpha"])), "{told:#}");
    let beta = &told["candidates"][1];
    assert_eq!((beta["now"]["name"].as_str(), beta["then"]["rule"].as_u64()), (Some("primary-alive"), Some(0)));
    assert_eq!(beta["then"]["loss"]["bytes"].as_u64(), Some(0), "{told:#}");
    assert_eq!(told["candidates"][0]["now"]["name"], "already-primary");
    let none = monitor(&scene, "beta", &["explain", "--gone", "alpha", "--gone", "beta"]).expect_code(1);
    assert!(none.stdout.contains("no node could take over") && none.stdout.contains("rule 20"), "{none}");
    // What only the primary has counts as lost.
    scene.on("beta").freeze();
    scene.insert("alpha", 20);
    let told = json(&scene, "alpha", &["explain", "--node", "beta"]);
    assert!(told["candidates"][1]["then"]["loss"]["bytes"].as_u64() > Some(1000), "{told:#}");
    scene.on("beta").thaw();
    scene.wait_caught_up("beta");
    let refused = monitor(&scene, "beta", &["standby", "promote"]).expect_code(20);
    assert_eq!(rule(&refused).as_deref(), Some("primary-alive"), "{refused}");
    monitor(&scene, "beta", &["status", "--fence"]).expect_code(2);
    // The primary goes, the other takes over, the first comes back, and they change places.
    scene.power_off("alpha");
    let report = json(&scene, "beta", &["standby", "promote"]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    scene.sshd("alpha").restart();
    monitor(&scene, "alpha", &["node", "rejoin"]).expect_ok();
    assert!(scene.on("alpha").in_recovery());
    let planned = monitor(&scene, "alpha", &["follow", "--dry-run"]).expect_ok();
    assert!(planned.stdout.contains("beta"), "{planned}");
    monitor(&scene, "alpha", &["standby", "follow"]).expect_ok();
    scene.insert("beta", 5);
    let report = json(&scene, "alpha", &["standby", "switchover"]);
    assert_eq!((report["outcome"].as_str(), report["loss"]["bytes"].as_u64()), (Some("promoted"), Some(0)));
    wait_until(PATIENCE, "they have changed places", || {
        scene.on("beta").in_recovery() && !scene.on("alpha").in_recovery()
    });
    assert_eq!(scene.rows("alpha"), 30);
    let expected = "cluster_created,primary_register,standby_register,standby_promote,node_rejoin,standby_follow,\
                    standby_switchover";
    assert_eq!(events(&scene, "alpha"), expected);
}
