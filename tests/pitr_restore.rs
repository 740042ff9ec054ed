//! `pitr-restore` on real servers: every kind of target compared with what was committed there, timelines, holes,
//! kills.

mod support;

#[path = "pitr/scene.rs"]
mod scene;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use scene::{Copy, Row, Scene, commit, read, rows, run_line, spoil, up_to, verify_as_postgres_does};
use serde_json::Value;
use support::workspace::{make_dir, write_file};
use support::{PATIENCE, Server, wait_until};

const COMMIT_TIMES: &[(&str, &str)] = &[("track_commit_timestamp", "on"), ("max_prepared_transactions", "5")];

/// A primary with rows 1 to 5, a backup, rows 6 to 15 with a restore point behind row 10, all archived.
fn with_rows(cluster: &str) -> (Scene, String, Vec<Row>) {
    let scene = Scene::with(cluster, &["alpha"], COMMIT_TIMES);
    scene.alpha.execute("create table t (n int primary key)");
    let mut all: Vec<Row> = (1..=5).map(|n| commit(&scene.alpha, n)).collect();
    let label = scene.take();
    commit_the_rest(&scene, &mut all);
    (scene, label, all)
}

/// Rows 6 to 15.
fn commit_the_rest(scene: &Scene, all: &mut Vec<Row>) {
    for n in 6..=15 {
        all.push(commit(&scene.alpha, n));
        if n == 10 {
            scene.alpha.execute("select pg_create_restore_point('behind ten')");
        }
        if n % 4 == 0 {
            scene.archive_everything(&scene.alpha);
        }
    }
    scene.archive_everything(&scene.alpha);
}

/// The same rows in a tablespace, with a large table beside them; the backup is the last of a chain of three, which
/// were taken while somebody wrote to that table. Also what a restore maps.
fn with_chain(cluster: &str) -> (Scene, String, Vec<Row>, String) {
    let scene = Scene::with(cluster, &["alpha"], COMMIT_TIMES);
    let (space, moved) = (scene.place("space"), scene.place("moved"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute(
        "create table t (n int primary key) tablespace space;
         create table large tablespace space as select n, repeat('x', 1000) from generate_series(1, 5000) as n",
    );
    let (stop, mut all) = (AtomicBool::new(false), Vec::new());
    let label = std::thread::scope(|threads| {
        let _ended = EndOnDrop(&stop);
        threads.spawn(|| {
            let mut client = scene.alpha.connect();
            while !stop.load(Ordering::Relaxed) {
                let done =
                    client.batch_execute("update large set n = -n where n % 100 = 7; delete from large where n = 1");
                done.expect("because the server runs");
            }
        });
        let mut label = String::new();
        for (rows, kind) in [(1..=3, &[][..]), (4..=4, &["--incremental"]), (5..=5, &["--incremental"])] {
            all.extend(rows.map(|n| commit(&scene.alpha, n)));
            let taken = scene.json("base-backup", &[&["take"], kind].concat());
            assert_eq!(taken["kind"] == "incremental", !kind.is_empty(), "{taken:#}");
            label = taken["label"].as_str().unwrap_or_default().to_owned();
        }
        label
    });
    commit_the_rest(&scene, &mut all);
    let oid = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    (scene, label, all, format!("{oid}={}", moved.display()))
}

/// Ends the load, also where the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the large table holds.
fn large(server: &Server) -> String {
    server.query("select count(*) || ' ' || sum(hashtext(l::text)) from large as l")
}

fn row(all: &[Row], n: u32) -> &Row {
    &all[n as usize - 1]
}

#[test]
fn each_kind_of_target_holds_exactly_what_was_committed_there() {
    let (scene, label, all, map) = with_chain("targets");
    let copy = Copy::new("copy");
    let (xid, lsn, time) = (&row(&all, 8).xid, &row(&all, 9).lsn, &row(&all, 12).time);
    // The position is that of the next record, so the one that begins there belongs to row 10.
    let cases: &[(&[&str], u32)] = &[
        (&["--xid", xid], 8),
        (&["--xid", xid, "--exclusive"], 7),
        (&["--lsn", lsn, "--exclusive"], 9),
        (&["--name", "behind ten"], 10),
        (&["--time", time], 12),
        (&["--time", time, "--exclusive"], 11),
        (&["--immediate"], 5),
    ];
    let over = ["--delta", "--map", &map];
    for (words, expected) in cases {
        let said = copy.run(&scene, &[words, &over[..]].concat());
        assert_eq!(said["plan"]["backup"]["label"], label, "{said:#}");
        assert_eq!(rows(&copy.0), up_to(*expected), "{words:?}");
        assert!(copy.0.in_recovery(), "{words:?}");
        let (reached, end) = (&said["reached"], &said["plan"]["end"]);
        assert_eq!((&reached["lsn"], &reached["timeline"]), (&end["lsn"], &1.into()), "{words:?} {said:#}");
        if *expected > 5 {
            assert_eq!(large(&copy.0), large(&scene.alpha), "{words:?}");
            let commit = row(&all, *expected).xid.parse::<u64>().expect("because it is a number");
            assert_eq!((&reached["last_commit_xid"], &end["last_commit_xid"]), (&commit.into(), &commit.into()));
        }
        copy.stop();
    }
    // With the record itself row 10 may be in or not: it is what comes first at that position.
    let said = copy.run(&scene, &[&["--lsn", &row(&all, 13).lsn, "--action", "promote"], &over[..]].concat());
    assert!(!copy.0.in_recovery(), "{said:#}");
    assert!(rows(&copy.0).starts_with("13 "), "{}", rows(&copy.0));
    copy.0.execute("insert into t values (1000)");
    assert_eq!(copy.0.query("show recovery_target_lsn"), row(&all, 13).lsn);
    let told = fs::read_to_string(copy.0.pgdata().join("pgwarm.conf")).expect("because it was written");
    assert!(!told.contains("recovery_target") && told.contains("archive_mode = 'off'"), "{told}");
    copy.stop();
    let said = copy.run(&scene, &[&["--action", "shutdown", "--xid", xid], &over[..]].concat());
    assert_eq!(
        (&said["reached"]["lsn"], copy.0.pgdata().join("postmaster.pid").exists()),
        (&said["plan"]["end"]["lsn"], false)
    );
    copy.run(&scene, &over);
    assert_eq!((rows(&copy.0), copy.0.in_recovery()), (up_to(15), false));
    assert_eq!(copy.0.query("show archive_mode"), "off");
    copy.stop();
    stands_by_and_ships(&scene, &copy, lsn, &over);
}

/// As a standby it goes on with what comes; as a server that ships it archives what it writes.
fn stands_by_and_ships(scene: &Scene, copy: &Copy, before: &str, over: &[&str]) {
    let said = copy.run(scene, &[over, &["--standby"]].concat());
    assert!(copy.0.in_recovery(), "{said:#}");
    commit(&scene.alpha, 16);
    scene.archive_everything(&scene.alpha);
    wait_until(PATIENCE, "it replays what comes", || rows(&copy.0) == up_to(16));
    copy.stop();
    copy.run(scene, &[over, &["--ship", "--lsn", before, "--exclusive", "--action", "promote"]].concat());
    assert_eq!((copy.0.query("show archive_mode"), rows(&copy.0)), ("on".to_owned(), up_to(9)));
    let own = scene.archive_everything(&copy.0);
    assert!(own.starts_with("00000002"), "{own}");
}

#[test]
fn what_is_restored_passes_pg_verifybackup_and_is_started_by_hand() {
    let scene = Scene::with("byhand", &["alpha"], COMMIT_TIMES);
    let (space, moved) = (scene.place("space"), scene.place("moved"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute("create table t (n int) tablespace space; insert into t values (1)");
    let label = scene.take();
    // A prepared transaction is found by its own number.
    scene.alpha.execute("begin; insert into t values (2); prepare transaction 'two'");
    let prepared = scene.alpha.query("select transaction from pg_prepared_xacts");
    scene.alpha.execute("commit prepared 'two'");
    scene.alpha.execute("insert into t values (3)");
    scene.archive_everything(&scene.alpha);
    let mut copy = Copy::new("copy");
    let map =
        format!("{}={}", scene.alpha.query("select oid from pg_tablespace where spcname = 'space'"), moved.display());
    let words = ["--xid", &prepared, "--map", &map, "--action", "promote"];
    let dry = copy.call(&scene, &[&words[..], &["--dry-run"]].concat()).run().expect_ok();
    assert!(dry.stdout.contains("empty or not there") && !copy.0.pgdata().exists(), "{dry}");
    let said = read(&copy.call(&scene, &words).run().expect_ok());
    assert_eq!((&said["plan"]["backup"]["label"], &said["reached"]), (&label.into(), &Value::Null));
    verify_as_postgres_does(&scene.alpha, &copy.0.pgdata(), &["pgwarm.conf", "postgresql.conf"]);
    assert!(copy.0.pgdata().join("recovery.signal").exists() && moved.join("").is_dir());
    copy.0.set("max_prepared_transactions", "5").start();
    wait_until(PATIENCE, "recovery has ended", || !copy.0.in_recovery());
    assert_eq!(rows(&copy.0), up_to(2));
    assert_eq!(
        copy.0.query("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'space'"),
        moved.display().to_string()
    );
}

/// A primary of which four segments were not archived when it was lost, and what was promoted in its place.
struct Failover {
    scene: Scene,
    beta: Server,
    lost: Vec<String>,
    rows: Vec<Row>,
}

fn failover() -> Failover {
    let mut scene = Scene::with("hole", &["alpha"], COMMIT_TIMES);
    scene.alpha.set("wal_keep_size", "512MB").reload();
    scene.alpha.execute("create table t (n int primary key)");
    scene.take();
    let mut rows = vec![commit(&scene.alpha, 1)];
    let mut beta = scene.alpha.base_backup("beta");
    beta.follow(&scene.alpha);
    beta.start();
    scene.archive_everything(&scene.alpha);
    scene.alpha.set("archive_command", "false").reload();
    let mut lost = Vec::new();
    for n in 2..=5 {
        rows.push(commit(&scene.alpha, n));
        lost.push(scene.alpha.switch_wal());
    }
    rows.push(commit(&scene.alpha, 6));
    beta.wait_replayed(&scene.alpha.query("select pg_current_wal_flush_lsn()"), PATIENCE);
    scene.alpha.kill();
    // The new primary is the server of this node from now on.
    scene.layout.node_mut("alpha").serve(&beta);
    scene.layout.write();
    beta.promote();
    rows.push(commit(&beta, 7));
    scene.archive_everything(&beta);
    Failover { scene, beta, lost, rows }
}

#[test]
fn the_failover_hole_is_refused_healed_and_then_crossed() {
    let Failover { scene, beta: _beta, lost, rows: all } = failover();
    let plan = |words: &[&str], code: i32| {
        read(&scene.run("pitr-restore", &[&["plan", "--json"], words].concat()).expect_code(code))
    };
    let refused = plan(&[], 20);
    assert_eq!((&refused["possible"], &refused["missing"][0]["count"]), (&false.into(), &4.into()), "{refused:#}");
    assert_eq!(
        (&refused["missing"][0]["first"], &refused["missing"][0]["last"]),
        (&lost[0].as_str().into(), &lost[3].as_str().into())
    );
    let seven = &row(&all, 7).xid;
    for words in [&["--timeline", "1"][..], &["--xid", seven], &["--time", &row(&all, 7).time]] {
        assert_eq!(plan(words, 20)["missing"][0]["first"], lost[0].as_str(), "{words:?}");
    }
    // What lies before it is not affected.
    assert_eq!(plan(&["--xid", &row(&all, 1).xid], 0)["plan"]["end"]["last_commit_xid"].to_string(), row(&all, 1).xid);
    let copy = Copy::new("copy");
    let outcome = copy.call(&scene, &[]).run().expect_code(20);
    assert!(!copy.0.pgdata().exists(), "{outcome}");
    let printed = scene.run("pitr-restore", &["plan"]).expect_code(20);
    let copies = refused["missing"][0]["copies"].as_array().expect("a list");
    let here = copies.iter().find(|copy| copy["proven"] == true).unwrap_or_else(|| panic!("{refused:#}"));
    for command in here["commands"].as_array().expect("a list") {
        let line = command["line"].as_str().unwrap_or_default();
        assert!(printed.stdout.contains(line), "{printed}");
        run_line(line);
    }
    let said = copy.run(&scene, &["--xid", seven]);
    let legs: Vec<_> =
        said["plan"]["legs"].as_array().into_iter().flatten().map(|leg| leg["timeline"].to_string()).collect();
    assert_eq!((legs, &said["reached"]["timeline"]), (vec!["1".to_owned(), "2".to_owned()], &2.into()), "{said:#}");
    assert_eq!(rows(&copy.0), up_to(7));
    copy.stop();
    // The parent alone ends where it was left; the lost rows are there, the one after the failover is not.
    copy.run(&scene, &["--delta", "--timeline", "1", "--xid", &row(&all, 5).xid]);
    assert_eq!(rows(&copy.0), up_to(5));
}

#[test]
fn what_cannot_be_reached_is_refused_before_anything_is_touched() {
    let (scene, label, all) = with_rows("refused");
    let copy = Copy::new("copy");
    let refused = |words: &[&str], code: i32, told: &str| {
        let outcome = copy.call(&scene, words).run().expect_code(code);
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(all.contains(told), "{words:?}: {outcome}");
        assert!(!copy.0.pgdata().exists(), "{words:?}");
    };
    let last = row(&all, 15);
    refused(&["--time", "2026-03-01 12:00:00"], 2, "no offset");
    refused(&["--time", &last.time], 20, "not reached");
    refused(&["--time", "2020-01-01 00:00:00+00"], 20, "before the end of the earliest backup");
    refused(&["--xid", "4000000000"], 20, "not reached");
    refused(&["--xid", &row(&all, 3).xid], 20, "nowhere between backup");
    refused(&["--name", "behind"], 20, "not reached");
    refused(&["--timeline", "9"], 20, "no timeline 9");
    refused(&["--backup", "20200101T000000F"], 20, "no backup");
    refused(&["--action", "pause"], 2, "needs a target");
    // A damaged segment on the way is found while the target is looked for.
    let segment = scene.stored(&segment_of(&scene, &row(&all, 9).lsn));
    let whole = fs::read(&segment).expect("because it is archived");
    spoil(&segment, whole.len() / 2);
    refused(&["--xid", &row(&all, 14).xid], 22, "is not the WAL");
    fs::write(&segment, whole).expect("because the test owns it");
    // So is a damaged file of the backup, while it is restored; no server starts on what is there then.
    let relation = scene.alpha.query("select pg_relation_filepath('pg_proc')");
    let folder = scene.archive().join("backup").join(&label);
    let bundle = fs::read_dir(folder.join("bundle")).expect("because small files are bundled").flatten().next();
    let stored = bundle.map_or(folder.join(format!("files/{relation}.zst")), |entry| entry.path());
    spoil(&stored, fs::metadata(&stored).map_or(0, |data| data.len() as usize) / 2);
    copy.call(&scene, &["--xid", &row(&all, 14).xid]).run().expect_code(22);
    assert!(!copy.0.pgdata().join("global/pg_control").exists());
}

/// The segment of a position.
fn segment_of(scene: &Scene, lsn: &str) -> String {
    scene.alpha.query(&format!("select pg_walfile_name('{lsn}')"))
}

#[test]
fn a_run_that_is_killed_is_taken_up_again_wherever_it_was() {
    let (scene, _, all) = with_rows("killed");
    let copy = Copy::new("copy");
    let words = ["--start", "--xid", &row(&all, 14).xid];
    let mark = copy.0.pgdata().join("pgwarm-restore.json");
    let running = copy.call(&scene, &words).spawn();
    wait_until(PATIENCE, "the restore is under way", || mark.exists());
    running.signal(Signal::KILL);
    drop(running);
    assert!(!copy.0.pgdata().join("global/pg_control").exists() || !mark.exists());
    // Recovery is held up, so that the second kill hits a run that waits for it.
    let control = scene.layout.node("alpha").spool.join("control");
    make_dir(&control);
    write_file(&control.join("PAUSE"), "");
    let running = copy.call(&scene, &words).spawn();
    let pid_file = copy.0.pgdata().join("postmaster.pid");
    wait_until(PATIENCE, "the server runs", || pid_file.exists());
    running.signal(Signal::KILL);
    drop(running);
    let server = || fs::read_to_string(&pid_file).ok().and_then(|text| text.lines().next().map(str::to_owned));
    let pid = server();
    assert!(pid.is_some(), "the server outlives the run");
    fs::remove_file(control.join("PAUSE")).expect("because it is there");
    let said = read(&copy.call(&scene, &words).run().expect_ok());
    assert_eq!((rows(&copy.0), &said["restored"]), (up_to(14), &Value::Null), "{said:#}");
    assert_eq!(server(), pid);
}

#[test]
fn a_server_that_fails_is_told_with_its_own_words() {
    let (scene, _, all) = with_rows("fails");
    let copy = Copy::new("copy");
    let words = ["--start", "--xid", &row(&all, 14).xid];
    let strange = [&words[..], &["--setting", "shared_preload_libraries=nowhere"]].concat();
    let failed = copy.call(&scene, &strange).run().expect_code(50);
    assert!(failed.stderr.contains("nowhere") && failed.stderr.contains("A library of the original"), "{failed}");
    // WAL that goes away behind the plan stops the server, and it is said why.
    let plan = scene.json("pitr-restore", &["plan", "--xid", &row(&all, 14).xid]);
    let last = plan["plan"]["legs"][0]["last"].as_str().unwrap_or_default().to_owned();
    let words = ["--xid", &row(&all, 14).xid, "--delta"];
    read(&copy.call(&scene, &words).run().expect_ok());
    let (stored, away) = (scene.stored(&last), scene.place("away"));
    fs::rename(&stored, &away).expect("because it is archived");
    // It may answer before it finds out.
    let log = copy.0.dir().join("log");
    copy.0.tool("pg_ctl").args(["start", "-w", "-t", "20", "-D"]).arg(copy.0.pgdata()).arg("-l").arg(&log).run();
    copy.0.wait_for_log("before configured recovery target was reached", PATIENCE);
    wait_until(PATIENCE, "it is down", || !copy.0.pgdata().join("postmaster.pid").exists());
    fs::rename(&away, &stored).expect("because it was moved there");
    let said = copy.run(&scene, &words);
    assert_eq!((rows(&copy.0), &said["reached"]["timeline"]), (up_to(14), &1.into()));
}
