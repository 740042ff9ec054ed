//! Restoring into a directory that holds something already: an older state, half a restore, or what is not ours.

mod support;

#[path = "pitr/scene.rs"]
mod scene;

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use scene::{Scene, verify_as_postgres_does};
use support::workspace::{make_dir, write_file};
use support::{PATIENCE, Server, Stop, program, wait_until};

const MARK: &str = "pgwarm-restore.json";

/// Restores with `base-backup`; what it says in JSON.
fn restore(scene: &Scene, label: &str, to: &Path, words: &[&str]) -> serde_json::Value {
    let to = to.display().to_string();
    scene.json("base-backup", &[&["restore", label, "--to", &to], words].concat())
}

#[test]
fn an_older_state_is_overwritten_with_what_differs_only() {
    let scene = Scene::new("delta", &["alpha"]);
    let (space, moved, wal) = (scene.place("space"), scene.place("moved"), scene.place("wal"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute(
        "create table t as select n, repeat('x', 100) as word from generate_series(1, 60000) n; create table gone (n int);
         create table far tablespace space as select n from generate_series(1, 5000) n; checkpoint",
    );
    // The first to read the rows would otherwise write hints into every page.
    scene.alpha.execute("vacuum freeze t");
    let gone = scene.alpha.query("select pg_relation_filepath('gone')");
    let oid = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    let first = scene.take();
    scene.alpha.execute("update t set word = 'y' where n = 77; drop table gone; create table fresh as select 1 as n");
    let second = scene.take();
    scene.alpha.execute("insert into far values (-1)");
    scene.archive_everything(&scene.alpha);

    let mut copy = Server::builder("copy").wal_segsize(1).set("archive_mode", "off").create();
    let pgdata = copy.pgdata();
    fs::remove_dir_all(&pgdata).expect("because the test owns it");
    let (map, wal_dir) = (format!("{oid}={}", moved.display()), wal.display().to_string());
    let fresh = restore(&scene, &first, &pgdata, &["--map", &map, "--wal-dir", &wal_dir]);
    assert!(fresh["written"].as_u64() >= fresh["bytes"].as_u64(), "{fresh:#}");
    assert!(pgdata.join(&gone).exists());
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).ok(), Some(wal.clone()));
    write_file(&pgdata.join("notes"), "not of the backup");
    write_file(&wal.join("000000010000000000000001"), "old WAL");

    // It is not overwritten unasked, nor where it would lie in itself.
    let to = pgdata.display().to_string();
    let refused = scene.run("base-backup", &["restore", &second, "--to", &to]).expect_code(20);
    assert!(refused.stderr.contains("--delta"), "{refused}");
    let inside = format!("{oid}={}", pgdata.join("base").display());
    scene.run("base-backup", &["restore", &second, "--to", &to, "--map", &inside, "--delta"]).expect_code(20);
    assert!(pgdata.join("notes").exists() && pgdata.join("global/pg_control").exists());

    let delta = restore(&scene, &second, &pgdata, &["--map", &map, "--delta"]);
    let (bytes, written) = (delta["bytes"].as_u64().unwrap_or(0), delta["written"].as_u64().unwrap_or(u64::MAX));
    assert!(written * 10 < bytes, "{delta:#}");
    assert!(!pgdata.join("notes").exists() && !pgdata.join(&gone).exists());
    assert!(!pgdata.join(MARK).exists() && !pgdata.join("global/pg_control.before-restore").exists());
    assert!(!wal.join("000000010000000000000001").exists() && wal.join("archive_status").is_dir());
    verify_as_postgres_does(&scene.alpha, &pgdata, &[]);

    recover(&scene, &mut copy);
    for question in
        ["select count(*) || word from t where n > 70 and n < 79 group by word order by 1", "select sum(n) from far"]
    {
        assert_eq!(copy.query(question), scene.alpha.query(question), "{question}");
    }
    its_own_wal_is_given_up_only_when_told(&scene, copy, &second, &map);
}

/// Starts a restored server and waits until it takes writes.
fn recover(scene: &Scene, copy: &mut Server) {
    let shared = scene.layout.shared_file("alpha").display().to_string();
    copy.set("restore_command", format!("{} --config {shared} %f %p", program("restore-wal").display()));
    copy.recovery_signal();
    copy.start();
    wait_until(PATIENCE, "recovery has ended", || !copy.in_recovery());
}

/// While it runs nothing is touched; killed, its WAL is its own until somebody gives it up.
fn its_own_wal_is_given_up_only_when_told(scene: &Scene, mut copy: Server, label: &str, map: &str) {
    let (pgdata, to) = (copy.pgdata(), copy.pgdata().display().to_string());
    let words = ["restore", label, "--to", &to, "--delta"];
    let refused = scene.run("base-backup", &words).expect_code(20);
    assert!(refused.stderr.contains("a server runs"), "{refused}");
    copy.execute("insert into far values (-2)");
    copy.kill();
    let refused = scene.run("base-backup", &words).expect_code(20);
    assert!(refused.stderr.contains("--drop-wal"), "{refused}");
    restore(scene, label, &pgdata, &["--map", map, "--delta", "--drop-wal"]);
    verify_as_postgres_does(&scene.alpha, &pgdata, &[]);
    recover(scene, &mut copy);
    scene::check_pages(copy);
}

#[test]
fn half_a_restore_never_starts_and_is_taken_up_again() {
    let scene = Scene::new("half", &["alpha"]);
    scene
        .alpha
        .execute("create table t as select n, repeat(md5(n::text), 8) as word from generate_series(1, 150000) n");
    let label = scene.take();
    let to = scene.place("restored");
    let text = to.display().to_string();
    let words = ["restore", &label, "--to", &text, "--jobs", "1"];
    let table = to.join(scene.alpha.query("select pg_relation_filepath('t')"));
    // The largest file is the first to be written.
    for killed_at in [1, 8 << 20, 24 << 20] {
        let mut running = scene.call("base-backup", &words).spawn();
        wait_until(PATIENCE, "it writes", || {
            let size = fs::metadata(&table).map_or(0, |data| data.len());
            size >= killed_at || running.has_ended()
        });
        running.signal(Signal::KILL);
        drop(running);
        assert!(to.join(MARK).exists() && !to.join("global/pg_control").exists());
    }
    let outcome = scene.alpha.tool("pg_ctl").args(["start", "-D", &text]).run();
    assert_ne!(outcome.code, Some(0), "{outcome}");
    // What is there already is not written again.
    let rest = scene.json("base-backup", &words);
    assert!(rest["written"].as_u64() < rest["bytes"].as_u64(), "{rest:#}");
    assert!(!to.join(MARK).exists());
    verify_as_postgres_does(&scene.alpha, &to, &[]);
}

#[test]
fn what_is_not_the_same_system_is_refused() {
    let mut scene = Scene::new("foreign", &["alpha"]);
    let label = scene.take();
    let stranger = Server::builder("stranger").wal_segsize(1).fresh_identity().create();
    let foreign = stranger.pgdata().display().to_string();
    let refused = scene.run("base-backup", &["restore", &label, "--to", &foreign, "--delta"]).expect_code(20);
    assert!(refused.stderr.contains("another system"), "{refused}");
    let full = scene.place("full");
    make_dir(&full);
    write_file(&full.join("somebody"), "x");
    let text = full.display().to_string();
    scene.run("base-backup", &["restore", &label, "--to", &text, "--delta"]).expect_code(20);
    assert!(full.join("somebody").exists());
    // WAL that was never archived is not removed with the old state.
    scene.alpha.set("archive_command", "false").reload();
    scene.alpha.execute("create table late as select 1 as n");
    scene.alpha.switch_wal();
    scene.alpha.stop(Stop::Immediate);
    let own = scene.alpha.pgdata().display().to_string();
    let refused = scene.run("base-backup", &["restore", &label, "--to", &own, "--delta"]).expect_code(20);
    assert!(refused.stderr.contains("not archived"), "{refused}");
    assert!(scene.alpha.pgdata().join("global/pg_control").exists());
}
