//! `pgsql-agent` on real servers, with a cluster manager of scripts that keeps real state: every action in every state,
//! a first start, a switchover, a failover, and old primaries that come back.

mod support;

#[path = "support/pacemaker.rs"]
mod pacemaker;
#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::process::Command;

use pacemaker::Pacemaker;
use rustix::process::Signal;
use scene::Scene;
use support::workspace::{self, Account, write_file};
use support::{Layout, PATIENCE, Program, Server, Stop, program, wait_until};

fn cluster(scene: &Scene) -> Pacemaker {
    let configs: Vec<_> =
        scene.nodes.iter().map(|node| (node.name.as_str(), scene.layout.shared_file(&node.name))).collect();
    Pacemaker::new(&configs)
}

/// A switchover loses nothing and the old primary follows; a dead primary is replaced; one that went on by itself is
/// not let in again before its way is found back.
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
    old_primaries(&mut scene, &mut cluster);
}

/// A failover, and what becomes of the old primary.
fn old_primaries(scene: &mut Scene, cluster: &mut Pacemaker) {
    scene.power_off("beta");
    cluster.monitor("beta").expect_code(9);
    cluster.probe("beta").expect_code(7);
    cluster.lose("beta");
    // Nobody can tell what has become of it: only a cluster that fences may say that it is stopped.
    let conninfo = scene.on("beta").conninfo();
    scene.layout.node_mut("beta").set("conninfo", "");
    scene.layout.write();
    cluster.option("stonith-enabled", "false");
    cluster.monitor("alpha").expect_ok();
    let refused = cluster.run("alpha", "promote").expect_code(1);
    assert!(refused.stderr.contains("ocf-exit-reason:rule 24 (node-silent)"), "{refused}");
    cluster.option("stonith-enabled", "true");
    cluster.monitor("alpha").expect_ok();
    assert_eq!(cluster.promote_best(), "alpha");
    scene.layout.node_mut("beta").set("conninfo", conninfo);
    scene.layout.write();
    scene.insert("alpha", 5);
    assert_eq!(cluster.attribute("beta", "data-status"), "DISCONNECT");
    // It comes back having gone on by itself, and is kept out.
    scene.on_mut("beta").start();
    scene.insert("beta", 3);
    // Who set up the standby has to leave the settings to the agent.
    scene.on_mut("beta").unset("primary_conninfo").reload();
    scene.stop("beta");
    cluster.join("beta");
    cluster.probe("beta").expect_code(7);
    let refused = cluster.run("beta", "start").expect_code(1);
    assert!(refused.stderr.contains("no way back is open: follow: the data hold changes beyond"), "{refused}");
    cluster.probe("beta").expect_code(7);
    // With leave to do more, it finds its way.
    cluster.set("rejoin", "any");
    cluster.run("beta", "start").expect_ok();
    wait_until(PATIENCE, "it follows", || scene.rows("beta") == 20);
    cluster.monitor("alpha").expect_code(8);
    assert_eq!(cluster.attribute("beta", "data-status"), "STREAMING|ASYNC");
    scene.wait_same_rows("alpha", "beta");
    scene.archive_gives_back("alpha");
}

/// From a cold start, commits waiting for a standby: everybody starts as one, the lock of the other agent means what is
/// asked for, the best is promoted, and nobody waits for a standby that is not there.
#[test]
fn a_first_start_and_commits_that_wait() {
    let mut scene = Scene::two();
    let mut cluster = cluster(&scene);
    cluster.set("rep_mode", "sync").set("lock", "strict");
    scene.insert("alpha", 3);
    scene.stop("alpha");
    scene.stop("beta");
    // The primary is led by the agent from here on.
    write_file(&cluster.lock(), "");
    let refused = cluster.run("alpha", "start").expect_code(1);
    assert!(refused.stderr.contains("PGSQL.lock' says that this node was the primary"), "{refused}");
    cluster.set("lock", "evidence");
    cluster.run("alpha", "start").expect_ok();
    assert!(scene.on("alpha").in_recovery() && !cluster.lock().exists());
    cluster.run("alpha", "start").expect_ok();
    cluster.run("beta", "start").expect_ok();
    cluster.monitor("alpha").expect_ok();
    cluster.monitor("beta").expect_ok();
    assert_eq!((cluster.score("alpha").as_str(), cluster.score("beta").as_str()), ("1000", "99"));
    assert_eq!(cluster.promote_best(), "alpha");
    let names = || scene.on("alpha").query("show synchronous_standby_names");
    wait_until(PATIENCE, "commits wait for the standby", || {
        cluster.monitor("alpha").expect_code(8);
        names() == "FIRST 1 (\"beta\")" && cluster.attribute("beta", "status") == "HS:sync"
    });
    assert_eq!(cluster.attribute("beta", "data-status"), "STREAMING|SYNC");
    assert_eq!(cluster.score("beta"), "100");
    scene.insert("alpha", 2);
    // A standby that stops keeps nobody waiting, and says itself that it stopped.
    cluster.run("beta", "stop").expect_ok();
    cluster.run("beta", "stop").expect_ok();
    cluster.probe("beta").expect_code(7);
    cluster.monitor("alpha").expect_code(8);
    wait_until(PATIENCE, "nobody waits", || names().is_empty());
    scene.insert("alpha", 1);
    assert_eq!(cluster.attribute("beta", "status"), "STOP");
    assert_eq!(
        (cluster.attribute("beta", "data-status").as_str(), cluster.score("beta").as_str()),
        ("DISCONNECT", "-INFINITY")
    );
    scene.archive_gives_back("alpha");
    // Where the primary dies now, that standby does not lead: it lacks what was committed since.
    kill(scene.on("alpha"));
    cluster.lose("alpha");
    cluster.run("beta", "start").expect_ok();
    cluster.monitor("beta").expect_ok();
    assert_eq!(cluster.score("beta"), "-INFINITY");
}

/// With rep_mode=slave a server is a standby and nothing else: it goes behind whoever is the primary, starts where
/// there is none, is promoted by nobody, and is wrong as a primary.
#[test]
fn a_standby_that_is_never_promoted() {
    let mut scene = Scene::with(&["beta", "delta"], |_| {});
    let mut cluster = Pacemaker::new(&[("delta", scene.layout.shared_file("delta"))]);
    cluster.set("rep_mode", "slave");
    for (action, code) in
        [("validate-all", 0), ("monitor", 0), ("status", 0), ("notify", 0), ("promote", 3), ("demote", 3)]
    {
        cluster.run("delta", action).expect_code(code);
    }
    // Who set up the standby has to leave the settings to the agent.
    scene.on_mut("delta").unset("primary_conninfo").reload();
    for (action, code) in [("stop", 0), ("stop", 0), ("monitor", 7), ("start", 0), ("start", 0), ("monitor", 0)] {
        cluster.run("delta", action).expect_code(code);
    }
    scene.insert("alpha", 5);
    scene.wait_same_rows("alpha", "delta");
    assert_eq!(cluster.score("delta"), "", "nobody is to promote it");
    // The primary is another one now.
    scene.wait_caught_up("beta");
    scene.power_off("alpha");
    scene.trigger("beta", &[]).expect_ok();
    scene.insert("beta", 5);
    wait_until(PATIENCE, "it goes behind the new primary", || {
        cluster.monitor("delta").expect_ok();
        scene.rows("delta") == 10
    });
    let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
    wait_until(PATIENCE, "it streams", || scene.on("beta").query(streams) == "1");
    scene.archive_gives_back("beta");
    // There is none at all.
    scene.power_off("beta");
    for (action, code) in [("stop", 0), ("start", 0), ("monitor", 0), ("promote", 3)] {
        cluster.run("delta", action).expect_code(code);
    }
    assert!(scene.on("delta").in_recovery());
    // Somebody promoted it by hand.
    scene.on("delta").promote();
    cluster.run("delta", "monitor").expect_code(1);
    let refused = cluster.run("delta", "start").expect_code(1);
    assert!(refused.stderr.contains("runs already, and as a primary"), "{refused}");
    cluster.run("delta", "stop").expect_ok();
    cluster.run("delta", "monitor").expect_code(7);
}

/// Kills a server that the agent has started.
fn kill(server: &Server) {
    let pid = fs::read_to_string(server.pgdata().join("postmaster.pid")).expect("because it runs");
    let pid = pid.lines().next().and_then(|line| line.parse().ok()).expect("because it is the first line");
    workspace::send(pid, Signal::KILL);
}

/// One server, no replication: what any resource agent has to answer, and what this one answers to nonsense.
#[test]
fn a_plain_server() {
    let mut layout = Layout::new("main", &["alpha"]);
    let mut server = Server::builder("alpha").start();
    server.stop(Stop::Fast);
    layout.node_mut("alpha").serve(&server);
    layout.set("archive", "ack", "local").set("archive", "to", "own");
    layout.write();
    let mut cluster = Pacemaker::new(&[("alpha", layout.shared_file("alpha"))]);
    cluster.set("rep_mode", "none");
    for (action, code) in [("validate-all", 0), ("monitor", 7), ("status", 7), ("stop", 0), ("start", 0), ("start", 0)]
    {
        cluster.run("alpha", action).expect_code(code);
    }
    for (action, code) in [("monitor", 0), ("status", 0), ("reload", 0), ("notify", 0), ("promote", 3), ("demote", 3)] {
        cluster.run("alpha", action).expect_code(code);
    }
    as_root(&cluster, &server);
    // Parameters that mean nothing: the same everywhere.
    cluster.set("rep_mode", "multi");
    cluster.run("alpha", "start").expect_code(6);
    cluster.set("rep_mode", "async").set("node_list", "alpha omega");
    let wrong = cluster.run("alpha", "validate-all").expect_code(6);
    assert!(wrong.stderr.contains("pgwarm.ini knows no node 'omega'"), "{wrong}");
    // What is there is told all the same, and it can be stopped.
    cluster.run("alpha", "monitor").expect_code(6);
    cluster.run("alpha", "stop").expect_ok();
    cluster.run("alpha", "monitor").expect_code(7);
    // Nothing is known of a server that no configuration tells of; that it is stopped would be a guess.
    let nowhere = |action: &str| cluster.call("alpha", action).env("OCF_RESKEY_pgwarm_config", "/nonexistent").run();
    nowhere("monitor").expect_code(7);
    nowhere("start").expect_code(6);
    nowhere("stop").expect_code(1);
    let bare = |words: &[&str]| Program::own("pgsql-agent").args(words).run();
    bare(&[]).expect_code(1);
    bare(&["migrate_to"]).expect_code(3);
    assert!(bare(&["methods"]).expect_ok().stdout.contains("validate-all"));
    assert!(bare(&["meta-data"]).expect_ok().stdout.contains("<parameter name=\"rep_mode\""));
}

/// Pacemaker calls an agent as root. All that stays root is who asks the cluster manager.
fn as_root(cluster: &Pacemaker, server: &Server) {
    if !Account::unprivileged().switch {
        return;
    }
    let call = |action: &str| {
        let mut command = Command::new(program("pgsql-agent"));
        command.envs(cluster.variables("alpha")).arg(action).output().expect("because it was built")
    };
    let done = call("monitor");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(done.stdout.is_empty(), "{done:?}");
    assert_eq!(call("stop").status.code(), Some(0));
    let done = call("start");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let pid = fs::read_to_string(server.pgdata().join("postmaster.pid")).unwrap_or_default();
    let pid = pid.lines().next().unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("because it runs");
    let own = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().to_owned();
    let uid = Account::unprivileged().uid.to_string();
    assert_eq!(own("Uid:").split_whitespace().collect::<Vec<_>>(), [&uid; 4]);
    assert!(!own("Groups:").split_whitespace().any(|group| group == "0"), "{status}");
}
