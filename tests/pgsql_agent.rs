//! `pgsql-agent` on real servers, with a cluster manager of scripts that keeps real state: every action in every state,
//! a first start, a switchover, a failover, and old primaries that come back.

mod support;

#[path = "support/pacemaker.rs"]
mod pacemaker;
#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use pacemaker::Pacemaker;
use scene::Scene;
use support::{PATIENCE, wait_until};

fn cluster(scene: &Scene) -> Pacemaker {
    let configs: Vec<_> =
        scene.nodes.iter().map(|node| (node.name.as_str(), scene.layout.shared_file(&node.name))).collect();
    Pacemaker::new(&configs)
}

/// A switchover loses nothing and the old primary follows; a dead primary is replaced; one that went on by itself is not
/// let in again before its way is found back.
#[test]
fn a_life_in_a_cluster() {
    let mut scene = Scene::two();
    let mut cluster = cluster(&scene);
    // It is found as it runs.
    cluster.probe("alpha").expect_code(8);
    assert_eq!(cluster.score("alpha"), "");
    cluster.monitor("beta").expect_ok();
    cluster.monitor("alpha").expect_code(8);
    let told = |member: &str| {
        (cluster.attribute(member, "status"), cluster.attribute(member, "data-status"), cluster.score(member))
    };
    let words = |status: &str, data: &str, score: &str| (status.to_owned(), data.to_owned(), score.to_owned());
    assert_eq!(told("alpha"), words("PRI", "LATEST", "1000"));
    assert_eq!(told("beta"), words("HS:async", "STREAMING|ASYNC", "100"));
    // While it lives nobody else is promoted, whoever asks for it.
    let refused = cluster.run("beta", "promote").expect_code(1);
    assert!(refused.stderr.contains("ocf-exit-reason:rule 20 (primary-alive)"), "{refused}");
    assert!(scene.on("beta").in_recovery());
    assert_eq!(cluster.score("beta"), "1");
    // A switchover.
    scene.insert("alpha", 10);
    cluster.run("alpha", "demote").expect_ok();
    cluster.probe("alpha").expect_ok();
    cluster.monitor("beta").expect_ok();
    assert_eq!(cluster.promote_best(), "beta");
    cluster.monitor("beta").expect_code(8);
    assert_eq!(told("beta"), words("PRI", "LATEST", "1000"));
    scene.insert("beta", 5);
    wait_until(PATIENCE, "the old primary follows", || scene.rows("alpha") == 15);
    cluster.monitor("alpha").expect_ok();
    cluster.monitor("beta").expect_code(8);
    assert_eq!(told("alpha"), words("HS:async", "STREAMING|ASYNC", "100"));
    assert!(cluster.lock().exists());
    // A failover: the primary's machine is gone.
    scene.power_off("beta");
    cluster.run("beta", "monitor").expect_code(9);
    cluster.lose("beta");
    cluster.monitor("alpha").expect_ok();
    assert_eq!(cluster.promote_best(), "alpha");
    scene.insert("alpha", 5);
    assert_eq!(cluster.attribute("beta", "data-status"), "DISCONNECT");
    // It comes back having gone on by itself, and is kept out.
    scene.on_mut("beta").start();
    scene.insert("beta", 3);
    // Who set up the standby has to leave the settings to the agent.
    scene.on_mut("beta").unset("primary_conninfo").reload();
    scene.stop("beta");
    cluster.join("beta");
    cluster.run("beta", "monitor").expect_code(7);
    let refused = cluster.run("beta", "start").expect_code(1);
    assert!(refused.stderr.contains("no way back is open: follow: the data hold changes beyond"), "{refused}");
    cluster.run("beta", "monitor").expect_code(7);
    // With leave to do more, it finds its way.
    cluster.set("rejoin", "any");
    cluster.run("beta", "start").expect_ok();
    wait_until(PATIENCE, "it follows", || scene.rows("beta") == 20);
    cluster.monitor("alpha").expect_code(8);
    assert_eq!(cluster.attribute("beta", "data-status"), "STREAMING|ASYNC");
}
