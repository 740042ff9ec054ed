//! A switchover in one command, under load, there and back, and with its driver killed on the way.

mod support;

#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use scene::{Scene, refused};
use support::{PATIENCE, kills, wait_for, wait_until};

/// Rows of a client have numbers from here on.
const FIRST: i64 = 1_000_000;

/// Rows that a client has sent, each under a number of its own.
#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<i64>,
    /// No answer came: it may be there or not.
    unknown: BTreeSet<i64>,
}

/// A client that writes into whichever of two servers takes it.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    client: thread::JoinHandle<Written>,
}

impl Load {
    fn begin(scene: &Scene) -> Load {
        let configs = ["alpha", "beta"].map(|name| {
            let (server, mut config) = (scene.on(name), postgres::Config::new());
            config.host_path(server.socket_dir()).port(server.port()).user("postgres").dbname("postgres");
            config
        });
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let client = thread::spawn(move || {
            let (mut written, mut session) = (Written::default(), None);
            for number in FIRST.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Some(mut client) = session.take().or_else(|| primary_of(&configs)) {
                    if client.execute("insert into t (n) values ($1)", &[&number]).is_ok() {
                        written.acknowledged.insert(number);
                        count.fetch_add(1, Ordering::Relaxed);
                        session = Some(client);
                    } else {
                        written.unknown.insert(number);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            written
        });
        let load = Load { stop, done, client };
        load.wait_for_more();
        load
    }

    fn wait_for_more(&self) {
        let before = self.done.load(Ordering::Relaxed);
        wait_until(PATIENCE, "the client writes", || self.done.load(Ordering::Relaxed) > before + 20);
    }

    /// Ends it: every row that was acknowledged is there once, and none that was not sent.
    #[track_caller]
    fn end(self, scene: &Scene, primary: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.client.join().expect("because it does not panic");
        let there = scene.on(primary).query(&format!("select string_agg(n::text, ' ') from t where n >= {FIRST}"));
        let there: Vec<i64> = there.split(' ').filter_map(|number| number.parse().ok()).collect();
        let once: BTreeSet<i64> = there.iter().copied().collect();
        let lost: Vec<_> = written.acknowledged.difference(&once).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let strange: Vec<_> =
            once.iter().filter(|n| !written.acknowledged.contains(n) && !written.unknown.contains(n)).collect();
        assert!(strange.is_empty() && once.len() == there.len(), "nobody sent {strange:?}, or it is there twice");
    }
}

/// A session with the server that takes writes.
fn primary_of(configs: &[postgres::Config]) -> Option<postgres::Client> {
    configs.iter().find_map(|config| {
        let mut client = config.connect(postgres::NoTls).ok()?;
        let primary = client.query_one("select not pg_is_in_recovery()", &[]).is_ok_and(|row| row.get(0));
        primary.then_some(client)
    })
}

#[test]
fn two_nodes_change_places_under_load_and_back_again() {
    let scene = Scene::two();
    let load = Load::begin(&scene);
    let report = scene.trigger_json("beta", &["--switchover"]);
    assert!(report["outage_ms"].as_u64().is_some(), "{report:#}");
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    load.wait_for_more();
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
    load.end(&scene, "beta");
    scene.wait_same_rows("beta", "alpha");
    scene.archive_gives_back("beta");
}

/// Killed behind any line of its journal while a client writes, it is run again and ends with one primary, one standby,
/// and every row.
#[test]
fn the_driver_may_be_killed_anywhere() {
    let scene = Scene::two();
    scene.insert("alpha", 10);
    let load = Load::begin(&scene);
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
    load.wait_for_more();
    load.end(&scene, "beta");
    scene.wait_same_rows("beta", "alpha");
    assert_eq!(scene.journal("beta"), "");
    scene.archive_gives_back("beta");
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
    scene.archive_gives_back("alpha");
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
    scene.insert("beta", 1);
    scene.wait_same_rows("beta", "alpha");
    scene.archive_gives_back("beta");
}
