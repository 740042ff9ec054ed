//! A switchover in one command, under load, there and back, and with its driver killed on the way.

mod support;

#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use scene::{Scene, refused};
use support::{PATIENCE, Server, kills, wait_for, wait_until};

/// Writes into whichever of two servers takes it, until told to stop. How many rows were acknowledged.
fn load(servers: [&Server; 2], stop: &Arc<AtomicBool>, acknowledged: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let configs = servers.map(|server| {
        let mut config = postgres::Config::new();
        config.host_path(server.socket_dir()).port(server.port()).user("postgres").dbname("postgres");
        config
    });
    let (stop, acknowledged) = (Arc::clone(stop), Arc::clone(acknowledged));
    thread::spawn(move || {
        let mut session: Option<postgres::Client> = None;
        while !stop.load(Ordering::Relaxed) {
            let connected = session.take().or_else(|| {
                let open = configs.iter().filter_map(|config| config.connect(postgres::NoTls).ok());
                open.into_iter().find_map(|mut client| {
                    let primary = client.query_one("select not pg_is_in_recovery()", &[]).is_ok_and(|row| row.get(0));
                    primary.then_some(client)
                })
            });
            if let Some(mut client) = connected
                && client.execute("insert into t default values", &[]).is_ok()
            {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                session = Some(client);
            }
            thread::sleep(Duration::from_millis(5));
        }
    })
}

#[test]
fn two_nodes_change_places_under_load_and_back_again() {
    let scene = Scene::two();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = load([scene.on("alpha"), scene.on("beta")], &stop, &acknowledged);
    wait_until(PATIENCE, "somebody writes", || acknowledged.load(Ordering::Relaxed) > 20);
    let report = scene.trigger_json("beta", &["--switchover"]);
    assert!(report["outage_ms"].as_u64().is_some(), "{report:#}");
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    let before = acknowledged.load(Ordering::Relaxed);
    wait_until(PATIENCE, "they go on writing", || acknowledged.load(Ordering::Relaxed) > before + 20);
    assert!(scene.on("alpha").in_recovery() && !scene.on("beta").in_recovery());
    refused(scene.trigger("beta", &["--switchover"]), "already-primary");
    let report = scene.trigger_json("alpha", &["--switchover"]);
    assert_eq!(report["timeline"].as_u64(), Some(3), "{report:#}");
    // Once more: what the first round has left in pg_wal, under names of timelines that are over, is in nobody's way.
    // Each checkpoint offers it to the archiver, which would try nothing else.
    scene.on("alpha").execute("checkpoint");
    let archived = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "alpha archives again", || scene.holds("alpha", &archived));
    let report = scene.trigger_json("beta", &["--switchover"]);
    assert_eq!(report["timeline"].as_u64(), Some(4), "{report:#}");
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("because it does not panic");
    // Every acknowledged row is there; one whose answer was lost on the way may be, too.
    let (rows, acknowledged) = (scene.rows("beta"), acknowledged.load(Ordering::Relaxed));
    assert!(rows >= acknowledged && rows <= acknowledged + 2, "{rows} rows of {acknowledged}");
    wait_until(PATIENCE, "the standby follows", || scene.rows("alpha") == rows);
}

/// Killed behind any line of its journal, it is run again and ends with one primary, one standby, and every row.
#[test]
fn the_driver_may_be_killed_anywhere() {
    let scene = Scene::two();
    scene.insert("alpha", 10);
    let call = || scene.call("beta", "trigger-failover", &["--switchover"]);
    let kills = kills::behind_every_line(call, || scene.journal("beta"), scene::PROMOTES);
    assert!(kills > 15, "{kills} kills");
    // A try that was taken back restarted the primary; until the standby streams again, the next one is refused.
    let last = wait_for(PATIENCE, "a switchover that is not too early", || {
        let outcome = scene.trigger("beta", &["--switchover"]);
        (scene::rule(&outcome).as_deref() != Some("not-streaming")).then_some(outcome)
    });
    assert!(last.code == Some(0) || scene::rule(&last).as_deref() == Some("already-primary"), "{last}");
    assert!(!scene.on("beta").in_recovery() && scene.on("alpha").in_recovery());
    scene.insert("beta", 5);
    wait_until(PATIENCE, "the standby follows", || scene.rows("alpha") == 15);
    assert_eq!(scene.journal("beta"), "");
}

/// A standby that cannot take over leaves the primary as it was.
#[test]
fn a_switchover_that_fails_is_taken_back() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.on_mut("beta").set("primary_conninfo", "").reload();
    wait_until(PATIENCE, "it streams no more", || {
        scene.on("beta").query("select count(*) from pg_stat_wal_receiver") == "0"
    });
    refused(scene.trigger("beta", &["--switchover"]), "not-streaming");
    scene.insert("alpha", 1);
    assert_eq!(scene.rows("alpha"), 11);
}

/// Once the old primary has been flushed it counts as stopped; but not if somebody has started it again meanwhile.
#[test]
fn a_primary_that_was_started_again_after_its_flush_stays_the_only_one() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    let running = scene.call("beta", "trigger-failover", &["--switchover"]).spawn();
    wait_until(PATIENCE, "alpha has handed over", || scene.journal("beta").contains("handed_over"));
    running.signal(rustix::process::Signal::KILL);
    drop(running);
    assert!(!scene.journal("beta").contains(scene::PROMOTES), "it was killed too late for this test");
    assert!(!scene.on_mut("alpha").is_running());
    scene.on_mut("alpha").start();
    let refusal = refused(scene.trigger("beta", &["--switchover"]), "primary-alive");
    assert!(refusal.stderr.contains("Everything was taken back"), "{refusal}");
    assert!(scene.on("beta").in_recovery() && !scene.on("alpha").in_recovery());
    assert_eq!(scene.journal("beta"), "");
    // It is as if nothing had been: the standby streams, the archives take WAL, and the next try succeeds.
    scene.insert("alpha", 5);
    scene.wait_caught_up("beta");
    let archived = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "the segment is archived", || scene.holds("beta", &archived));
    scene.trigger("beta", &["--switchover"]).expect_ok();
    assert_eq!(scene.rows("beta"), 15);
}
