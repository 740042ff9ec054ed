//! `trigger-failover` where something is in its way: a host that nobody hears of, somebody else's claim, settings that
//! are missing, an old primary whose archive did not learn in time; and what a person asks of it beside a promotion.

mod support;

#[path = "support/archiving.rs"]
mod archiving;
#[path = "failover/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgwarm::store::Encoding;
use scene::{Scene, refused};
use support::workspace::{make_dir, write_file};
use support::{PATIENCE, Server, Stop, wait_until};

/// The claim of a node that is gone.
const CLAIM: &str = r#"{ "format": 1, "timeline": 2, "parent": 1, "fork": null, "segment_size": 1048576,
    "node": "delta", "id": "somebody", "state": "claimed", "at": "2026-01-01T00:00:00+00:00" }"#;

/// The journal of the operation that is under way, in a spool.
const CURRENT: &str = "failover/current.journal";

/// An address whose packets go nowhere: the queue of those who wait to be let in is full, so nothing is answered.
struct BlackHole {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    fn new() -> BlackHole {
        let listener = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
        rustix::net::listen(&listener, 0).expect("because the socket is ours");
        let address = listener.local_addr().expect("because it is bound");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        BlackHole { listener, _waiting: waiting }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("because it is bound").port()
    }
}

/// Nothing comes back from the primary's machine, neither from its server nor from its sshd: it takes bounded time to
/// find that out, and then a person who vouches for it.
#[test]
fn a_silent_host_is_neither_dead_nor_waited_for() {
    let hole = BlackHole::new();
    let port = hole.port();
    let mut scene = Scene::with(&["beta"], |layout| {
        layout.set("failover", "contact", "1s").set("ssh", "connect_timeout", "1s");
    });
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.power_off("alpha");
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    scene.layout.node_mut("alpha").set("conninfo", conninfo).set("ssh_port", port);
    scene.layout.write();
    let begun = Instant::now();
    let refusal = refused(scene.trigger("beta", &[]), "node-silent");
    assert!(refusal.stderr.contains("--down alpha"), "{refusal}");
    refused(scene.trigger("beta", &["--fence", "--fast"]), "node-silent");
    standby_asks_in_passing(&mut scene);
    let report = scene.trigger_json("beta", &["--down", "alpha"]);
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
    assert!(report["loss"]["unknown"].to_string().contains("alpha"), "{report:#}");
    assert_eq!(scene.rows("beta"), 10);
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// What its server asks of restore-wal again and again costs it the wait for the silent host once in a while only. The
/// answer is never that the segment does not exist.
fn standby_asks_in_passing(scene: &mut Scene) {
    scene.layout.set("restore", "retry", "10s").set("archive", "retry", "1h").write();
    let pgdata = scene.on("beta").pgdata();
    let ask = || {
        let asked = scene.call("beta", "restore-wal", &["0000000100000000000000FF", "pg_wal/asked"]).dir(&pgdata).run();
        assert!(asked.stderr.contains("cannot tell whether") && asked.code.is_some_and(|code| code > 1), "{asked}");
        asked.took
    };
    let first = ask();
    let later: Duration = (0..5).map(|_| ask()).sum();
    assert!(later < Duration::from_secs(2), "the first took {first:?}, five more took {later:?}");
    scene.layout.set("restore", "retry", "0s").set("archive", "retry", "1s").write();
}

/// A claim belongs to the node that made it, until a person says that this node is gone for good.
#[test]
fn a_claim_of_another_node_is_taken_over_only_where_that_is_asked_for() {
    let mut scene = Scene::with(&["beta", "delta"], |_| {});
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.wait_caught_up("delta");
    scene.power_off("alpha");
    // Delta begins, and is killed between its claim and its promotion.
    let running = scene.call("delta", "trigger-failover", &[]).spawn();
    let claim = scene.root("beta").join("claims/00000002.json");
    wait_until(PATIENCE, "delta has claimed", || claim.exists() || scene.journal("delta").contains(scene::PROMOTES));
    running.signal(rustix::process::Signal::KILL);
    drop(running);
    assert!(!scene.journal("delta").contains(scene::PROMOTES), "it was killed too late for this test");
    let refusal = refused(scene.trigger("beta", &[]), "claimed");
    assert!(refusal.stderr.contains("timeline 2 of node delta"), "{refusal}");
    // One that may have been told to open is not given up while it runs: it might open without a claim.
    let lines = fs::OpenOptions::new().append(true).open(scene.layout.node("delta").spool.join(CURRENT));
    writeln!(lines.expect("because delta was killed"), r#"{{"at":"2026-01-01T00:00:00+00:00",{}}}"#, scene::PROMOTES)
        .expect("because the journal is ours");
    let refusal = scene.trigger("delta", &["--abort"]).expect_code(20);
    assert!(refusal.stderr.contains("at any moment") && claim.exists(), "{refusal}");
    // Given up once it is stopped, it is in nobody's way, and delta is the standby that it was.
    scene.stop("delta");
    let said = scene.trigger("delta", &["--abort"]).expect_ok();
    assert!(said.stdout.contains("given up"), "{said}");
    assert!(!claim.exists() && scene.on("delta").in_recovery());
    assert!(scene.trigger("delta", &["--abort"]).expect_ok().stdout.contains("nothing is under way"));
    // A node that is gone cannot give anything up.
    let data = scene.on("delta").pgdata();
    scene.on("delta").tool("pg_ctl").args(["stop", "-m", "immediate", "-D"]).arg(&data).run().expect_ok();
    scene.sshd("delta").stop();
    write_file(&claim, CLAIM);
    refused(scene.trigger("beta", &[]), "claimed");
    let report = scene.trigger_json("beta", &["--take-claim"]);
    assert_eq!(report["timeline"].as_u64(), Some(2), "{report:#}");
    assert!(fs::read_to_string(&claim).is_ok_and(|text| text.contains(r#""node": "beta""#)));
    assert_eq!(scene.rows("beta"), 10);
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// The settings of a primary are there before anybody is promoted, and hold afterwards.
#[test]
fn the_settings_of_a_primary_are_asked_for_before_and_installed_after() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    let sets = scene.layout.node("beta").dir.clone();
    for set in ["standby", "failover"] {
        let folder = sets.join(set);
        make_dir(&folder);
        write_file(
            &folder.join("postgresql.conf"),
            if set == "standby" { "work_mem = 5MB\n" } else { "work_mem = 6MB\n" },
        );
        scene.layout.node_mut("beta").set_local("standby", &format!("conf_{set}"), folder.display());
    }
    scene.layout.write();
    let (there, away) = (sets.join("failover"), sets.join("away"));
    fs::rename(&there, &away).expect("because the folder is ours");
    scene.power_off("alpha");
    let refusal = refused(scene.trigger("beta", &[]), "configuration");
    assert!(refusal.stderr.contains("failover"), "{refusal}");
    assert!(scene.on("beta").in_recovery());
    fs::rename(&away, &there).expect("because the folder is ours");
    scene.trigger("beta", &[]).expect_ok();
    wait_until(PATIENCE, "the settings of a primary hold", || scene.on("beta").query("show work_mem") == "6MB");
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// Its machine was off when its timeline was closed, so its own archive takes what it goes on writing. No other node
/// replays that: the dr node, which lives from archives alone, follows the new timeline.
#[test]
fn wal_in_an_archive_that_did_not_learn_in_time_is_replayed_by_nobody() {
    let mut scene = Scene::with(&["beta", "gamma"], |layout| {
        layout.set("archive", "ack", "standby");
    });
    scene.on_mut("gamma").set("primary_conninfo", "").reload();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.power_off("alpha");
    scene.trigger("beta", &[]).expect_ok();
    // Alpha's archive is out of shipping, so the dr node's takes its place: one elsewhere holds everything.
    scene.insert("beta", 5);
    scene.sshd("alpha").restart();
    scene.on_mut("alpha").start();
    scene.insert("alpha", 100);
    let late = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "alpha's own archive holds it", || scene.holds("alpha", &late));
    let failed = "select failed_count > 0 from pg_stat_archiver";
    wait_until(PATIENCE, "alpha is told that it is not archived", || scene.on("alpha").query(failed) == "t");
    let segment = scene.on("beta").switch_wal();
    wait_until(PATIENCE, "the dr node's archive holds the new timeline's", || scene.holds("gamma", &segment));
    wait_until(PATIENCE, "the dr node has replayed it", || scene.rows("gamma") == 15);
    scene.stop("alpha");
    // What it had to itself goes into its spool, and it is a standby like any other.
    let done = scene.call("alpha", "standby-init", &["--rejoin", "--json"]).run().expect_ok();
    assert!(done.stdout.contains(r#""transactions": 100"#), "{done}");
    wait_until(PATIENCE, "the old primary follows", || scene.rows("alpha") == 15);
    scene.call("beta", "archive-wal", &["--disarm", "gamma"]).run().expect_ok();
    let status = scene.call("beta", "archive-wal", &["--status"]).run().expect_ok();
    assert!(status.stdout.contains("disarmed  alpha") && status.stdout.contains("disarmed  gamma"), "{status}");
    scene.call("beta", "archive-wal", &["--arm", "alpha"]).run().expect_ok();
    let segment = scene.on("beta").switch_wal();
    wait_until(PATIENCE, "alpha's archive takes part again", || scene.holds("alpha", &segment));
    scene.call("beta", "relay-wal", &["--set", "relay.to=alpha"]).run().expect_ok();
    scene.wait_same_rows("beta", "alpha");
    scene.archive_gives_back("beta");
    // What alpha had to itself lies in its archive to this day, and leads nobody astray.
    scene.archive_of_gives_back("alpha", "beta");
}

/// A cold standby is opened as of a time; one that has gone past it is not.
#[test]
fn a_point_in_time_is_reached_from_before_it_only() {
    let mut scene = Scene::with(&["beta", "delta"], |_| {});
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.stop("beta");
    let time = scene.on("alpha").query("select clock_timestamp()::timestamptz(3)");
    std::thread::sleep(Duration::from_millis(20));
    scene.insert("alpha", 20);
    scene.wait_caught_up("delta");
    let last = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "the segment is archived", || scene.holds("beta", &last));
    scene.power_off("alpha");
    let target = format!("{time}:00");
    refused(scene.trigger("delta", &["--target", &target]), "target-passed");
    let report = scene.trigger_json("beta", &["--target", &target]);
    assert_eq!(report["timeline"].as_u64(), Some(2), "{report:#}");
    assert_eq!(scene.rows("beta"), 10);
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// One that replays an hour late has the WAL already: it is opened as of a time within that hour, and at once.
#[test]
fn a_delayed_standby_is_opened_as_of_a_time_that_it_has_not_replayed() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.on_mut("beta").set("recovery_min_apply_delay", "1h").reload();
    scene.insert("alpha", 5);
    let time = scene.on("alpha").query("select clock_timestamp()::timestamptz(3)");
    std::thread::sleep(Duration::from_millis(20));
    scene.insert("alpha", 20);
    let received = format!("select pg_last_wal_receive_lsn() >= '{}'", scene.on("alpha").wal_position());
    wait_until(PATIENCE, "it has received everything", || scene.on("beta").query(&received) == "t");
    assert_eq!(scene.rows("beta"), 10);
    scene.power_off("alpha");
    let report = scene.trigger_json("beta", &["--target", &format!("{time}:00")]);
    assert_eq!(report["timeline"].as_u64(), Some(2), "{report:#}");
    assert_eq!(scene.rows("beta"), 15);
    scene.insert("beta", 3);
    scene.archive_gives_back("beta");
}

/// A standby that waits for WAL, holds each segment back for an hour, and was told to pause by hand on top: with a
/// segment that it holds back, one that lies with the old primary only, and a time between two rows.
fn held_back() -> (Scene, String) {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.layout.set("restore", "wait", "on").set("restore", "delay", "1h").set("restore", "poll", "200ms").write();
    scene.on_mut("beta").set("primary_conninfo", "").reload();
    scene.insert("alpha", 5);
    let time = scene.on("alpha").query("select clock_timestamp()::timestamptz(3)");
    std::thread::sleep(Duration::from_millis(20));
    scene.insert("alpha", 20);
    let held = scene.on("alpha").switch_wal();
    wait_until(PATIENCE, "the segment is archived", || scene.holds("beta", &held));
    scene.insert("alpha", 7);
    wait_until(PATIENCE, "it is held back", || scene.on("beta").log_has("it is held back by restore.delay"));
    assert_eq!(scene.rows("beta"), 10);
    scene.on_mut("alpha").kill();
    (scene, format!("{time}:00"))
}

/// A promotion waits for nothing that a warm standby waits for, and applies everything.
#[test]
fn a_standby_that_waits_and_holds_back_is_promoted_with_everything() {
    let (mut scene, _) = held_back();
    let control = scene.layout.node("beta").spool.join("control");
    make_dir(&control);
    write_file(&control.join("PAUSE"), "");
    let report = scene.trigger_json("beta", &[]);
    assert_eq!(report["loss"]["bytes"].as_u64(), Some(0), "{report:#}");
    assert_eq!(scene.rows("beta"), 42);
    fs::remove_file(control.join("PAUSE")).expect("because it is there");
    scene.insert("beta", 1);
    scene.layout.set("restore", "wait", "off").set("restore", "delay", "0").write();
    scene.archive_gives_back("beta");
}

/// The same opened as of a time, with nothing behind it.
#[test]
fn a_standby_that_waits_and_holds_back_is_opened_as_of_a_time() {
    let (mut scene, time) = held_back();
    let report = scene.trigger_json("beta", &["--target", &time]);
    assert_eq!(report["timeline"].as_u64(), Some(2), "{report:#}");
    assert_eq!(scene.rows("beta"), 15);
    scene.insert("beta", 1);
    scene.layout.set("restore", "wait", "off").set("restore", "delay", "0").write();
    scene.archive_gives_back("beta");
}

/// A standby that lets nobody in and waits for WAL in its restore command is told by the trigger file; one that lies
/// there from before the server was started promotes nobody.
#[test]
fn a_warm_standby_is_told_by_its_trigger_file_and_a_stale_one_tells_nothing() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.stop("beta");
    scene.layout.set("restore", "wait", "on").set("restore", "poll", "200ms").write();
    let trigger = scene.on("beta").pgdata().join("trigger");
    write_file(&trigger, "fast\n");
    std::thread::sleep(Duration::from_millis(1100));
    let beta = scene.on_mut("beta");
    beta.set("hot_standby", "off").set("primary_conninfo", "");
    beta.launch();
    scene.insert("alpha", 5);
    let last = scene.on("alpha").switch_wal();
    let replays = format!("restored log file \"{last}\"");
    wait_until(PATIENCE, "it replays shipped WAL", || scene.on("beta").log_has(&replays));
    assert!(trigger.exists() && !scene.on("beta").log_has("archive recovery complete"));
    fs::remove_file(&trigger).expect("because it is there");
    scene.on_mut("alpha").stop(Stop::Immediate);
    scene.sshd("alpha").stop();
    let report = scene.trigger_json("beta", &["--fast"]);
    let phases = report["phases"].to_string();
    assert!(phases.contains("told by the trigger file"), "{report:#}");
    assert_eq!(scene.rows("beta"), 15);
    assert!(!trigger.exists());
    scene.layout.set("restore", "wait", "off").write();
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// One that streams and lets nobody in cannot be asked to promote itself.
#[test]
fn a_standby_without_sessions_is_told_by_pg_ctl() {
    let mut scene = Scene::two();
    scene.stop("beta");
    // Where to stream from stands in our own settings: nobody else's can be changed without a session.
    let upstream = scene.on("alpha").follow_settings("beta");
    write_file(&scene.on("beta").pgdata().join("pgwarm.conf"), &format!("primary_conninfo = '{upstream}'\n"));
    scene.on_mut("beta").unset("primary_conninfo").set("hot_standby", "off").launch();
    scene.insert("alpha", 10);
    let written = scene.on("alpha").wal_position();
    let received = format!("select count(*) from pg_stat_replication where flush_lsn >= '{written}'");
    wait_until(PATIENCE, "it has received everything", || scene.on("alpha").query(&received) == "1");
    scene.power_off("alpha");
    let report = scene.trigger_json("beta", &[]);
    assert!(report["phases"].to_string().contains("told by pg_ctl"), "{report:#}");
    assert_eq!((report["loss"]["bytes"].as_u64(), scene.rows("beta")), (Some(0), 10), "{report:#}");
    scene.insert("beta", 1);
    scene.archive_gives_back("beta");
}

/// Promoted by hand, a former primary offers what every archive refuses: the end of the timeline that it had to
/// itself, and what it had made ready behind that. It is kept whole, somebody is told, and what follows is archived.
#[test]
fn a_former_primary_that_is_promoted_by_hand_archives_on() {
    let mut scene = Scene::with(&["beta"], |layout| {
        let told = layout.node("alpha").dir.join("told");
        let hook = layout.node("alpha").dir.join("hook");
        write_file(&hook, &format!("for last; do :; done\necho \"$last\" >> {}\n", told.display()));
        layout.set("notify", "warning", format!("sh {} first", hook.display()));
    });
    for _ in 0..4 {
        scene.insert("alpha", 5);
        scene.on("alpha").switch_wal();
    }
    scene.on("alpha").execute("checkpoint");
    scene.trigger("beta", &["--switchover"]).expect_ok();
    let left = segments_of(scene.on("alpha"), "00000001");
    let contents: Vec<_> = left.iter().map(|path| fs::read(path).expect("because the server keeps it")).collect();
    for _ in 0..5 {
        scene.insert("beta", 5);
        scene.on("beta").switch_wal();
    }
    wait_until(PATIENCE, "alpha has everything", || scene.rows("alpha") == 45);
    scene.stop("beta");
    scene.on("alpha").promote();
    scene.insert("alpha", 3);
    scene.on("alpha").switch_wal();
    scene.on("alpha").execute("checkpoint");
    scene.archive_gives_back("alpha");
    let folder = scene.layout.node("alpha").spool.join("quarantine");
    let kept = archiving::files(&folder);
    assert!(!kept.is_empty(), "{}", scene.on("alpha").log());
    for file in &kept {
        let name = &name_of(file);
        let at = left.iter().position(|path| name_of(path) == *name).expect("because alpha left it there");
        assert!(archiving::decode(file) == contents[at], "'{name}' has changed");
        assert!(!scene.holds("alpha", name) && !scene.holds("beta", name));
    }
    let told = fs::read_to_string(scene.layout.node("alpha").dir.join("told")).unwrap_or_default();
    assert!(told.contains("went into quarantine"), "{told}");
    // Behind the fork lay what the file had held before. The same with nothing there is whole, and other content.
    let (name, mut whole) = (name_of(&kept[0]), archiving::decode(&kept[0]));
    whole[8192..].fill(0);
    let offered = scene.on("alpha").pgdata().join("pg_wal").join(&name);
    fs::write(&offered, &whole).expect("because the test may write there");
    let path = offered.display().to_string();
    let said = scene.call("alpha", "archive-wal", &[&path]).run().expect_ok();
    assert!(said.stderr.contains("this server has left its timeline before it"), "{said}");
    assert!(archiving::decode(&folder.join(format!("{name}.1.zst"))) == whole);
    fs::remove_file(&offered).expect("because it was just written");
    let checked = scene.call("alpha", "check-node", &["alpha"]).run();
    assert!(checked.stdout.contains("that no archive takes"), "{checked}");
    scene.call("alpha", "check-archive", &[]).run().expect_ok();
}

/// What waited in the queue of an old primary, for a place that has since been closed to it, waits for ever: once the
/// node is a standby on the new timeline it goes into quarantine.
#[test]
fn what_waited_for_a_place_that_is_closed_now_is_set_aside() {
    let mut scene = Scene::two();
    scene.insert("alpha", 10);
    scene.wait_caught_up("beta");
    scene.sshd("beta").stop();
    scene.on_mut("beta").set("primary_conninfo", "").reload();
    scene.insert("alpha", 5);
    let lost = scene.on("alpha").switch_wal();
    let queue = scene.layout.node("alpha").spool.join("queue/beta");
    let waiting = || archiving::files(&queue).iter().map(|path| name_of(path)).collect::<Vec<_>>();
    wait_until(PATIENCE, "it waits for beta", || waiting().contains(&lost));
    scene.power_off("alpha");
    scene.sshd("beta").restart();
    scene.trigger("beta", &[]).expect_ok();
    scene.insert("beta", 3);
    scene.sshd("alpha").restart();
    scene.call("alpha", "standby-init", &["--rejoin"]).run().expect_ok();
    scene.wait_same_rows("beta", "alpha");
    scene.call("alpha", "relay-wal", &["--set", "relay.to=beta"]).run().expect_ok();
    assert_eq!(waiting(), Vec::<String>::new());
    let kept = archiving::files(&scene.layout.node("alpha").spool.join("quarantine"));
    assert!(kept.iter().any(|path| name_of(path) == lost) && !scene.holds("beta", &lost), "{kept:?}");
    scene.archive_gives_back("beta");
}

/// The whole segments of a timeline in `pg_wal`.
fn segments_of(server: &Server, timeline: &str) -> Vec<PathBuf> {
    let mut found = archiving::files(&server.pgdata().join("pg_wal"));
    found.retain(|path| name_of(path).len() == 24 && name_of(path).starts_with(timeline));
    found
}

/// The name of a file of WAL, whatever form it is stored in.
fn name_of(file: &Path) -> String {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Encoding::split(name).0.to_owned()
}
