//! `base-backup` against real servers: taken under load, restored, recovered, compared row by row; and everything that
//! may go wrong on the way.

mod support;

#[path = "support/backups.rs"]
mod backups;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backups::{Scene, check_everything, file_of, label_of_now};
use rustix::process::Signal;
use serde_json::Value;
use support::workspace::{make_dir, write_file};
use support::{PATIENCE, Program, wait_until};

#[test]
fn what_was_committed_comes_back_from_a_backup_under_load() {
    let scene = Scene::new("life");
    let (space, moved) = (scene.alpha.dir().join("space"), scene.alpha.dir().join("moved"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute(
        "create table t (id bigserial primary key, word text); create table far (id int primary key) tablespace space;
         insert into far select generate_series(1, 5000); create unlogged table gone (id int) tablespace space;
         insert into gone select generate_series(1, 5000); insert into t (word) select repeat('x', 200) from generate_series(1, 40000)",
    );
    let stop = AtomicBool::new(false);
    let label = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = scene.alpha.connect();
            let mut databases = 0;
            while !stop.load(Ordering::Relaxed) {
                let done = client.batch_execute(
                    "insert into t (word) select md5(random()::text) from generate_series(1, 50);
                     update t set word = word || 'y' where id % 1000 = 7; delete from t where id % 997 = 3",
                );
                done.expect("because the server runs");
                databases += 1;
                client.batch_execute(&format!("create database d{databases}")).expect("because it is new");
                // Its files vanish, some of them between being listed and being read.
                if databases > 2 {
                    client.batch_execute(&format!("drop database d{databases}")).expect("because nobody uses it");
                }
            }
        });
        // At this rate the copy takes some seconds, so that much is written meanwhile.
        let taken = scene.run(&["take", "--rate-limit", "20MB", "--json"]);
        stop.store(true, Ordering::Relaxed);
        load.join().expect("because the load does not fail");
        let taken: Value = serde_json::from_str(&taken.expect_ok().stdout).expect("because it is JSON");
        assert_eq!(
            (&taken["kind"], &taken["role"], &taken["checksums"]),
            (&"full".into(), &"primary".into(), &true.into())
        );
        taken["label"].as_str().expect("because it has one").to_owned()
    });
    scene.alpha.execute("insert into far values (-1)");
    scene.archive_everything();
    scene.run(&["verify"]).expect_ok();
    assert_eq!(scene.listed(), (vec![label.clone()], vec![]));
    assert!(scene.json(&["show", &label])["verified"].is_string());
    let oid = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    let unlogged = scene.alpha.query("select pg_relation_filepath('gone')");
    let copy = scene.recover(&label, &["--map", &format!("{oid}={}", moved.display())]);
    assert!(!copy.pgdata().join(unlogged).exists() || copy.query("select count(*) from gone") == "0");
    for question in [
        "select count(*) || ' ' || coalesce(sum(hashtext(id || word)), 0) from t",
        "select count(*) || ' ' || sum(id) from far",
        "select string_agg(datname, ',' order by datname) from pg_database",
    ] {
        assert_eq!(copy.query(question), scene.alpha.query(question), "{question}");
    }
    let link = fs::read_link(copy.pgdata().join("pg_tblspc").join(oid)).expect("because the tablespace is linked");
    assert_eq!(link, moved);
    assert!(scene.no_session_is_left());
    check_everything(copy);
}

#[test]
fn a_damaged_page_is_named_and_the_backup_is_marked() {
    let scene = Scene::new("page");
    scene.alpha.execute("create table t as select generate_series(1, 20000) as id; checkpoint");
    let path = file_of(&scene.alpha, "t");
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("because the test owns it");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3 * 8192 + 4000).expect("because the table has more pages");
    file.write_all_at(&[byte[0] ^ 0xff], 3 * 8192 + 4000).expect("because the test owns it");
    let outcome = scene.run(&["take"]).expect_code(22);
    let relation = scene.alpha.query("select pg_relation_filepath('t')");
    assert!(outcome.stderr.contains(&format!("'{relation}' blocks 3")), "{outcome}");
    let (labels, _) = scene.listed();
    let shown = scene.json(&["show", &labels[0]]);
    assert_eq!(shown["damaged_pages"], serde_json::json!([{ "path": relation, "blocks": [3] }]));
    // It is whole, byte for byte, so verify has nothing to say; but it is never the one that is used unasked.
    scene.run(&["verify", &labels[0]]).expect_ok();
    scene.run(&["show", "latest"]).expect_code(1);
}

#[test]
fn a_file_that_cannot_be_read_fails_the_backup_and_the_next_run_goes_on() {
    let scene = Scene::new("unreadable");
    scene.alpha.execute("create table t as select generate_series(1, 200000) as id; checkpoint");
    let stranger = scene.alpha.pgdata().join("a stranger");
    write_file(&stranger, "x");
    fs::set_permissions(&stranger, fs::Permissions::from_mode(0o000)).expect("because the test owns it");
    let outcome = scene.run(&["take"]).expect_code(30);
    assert!(outcome.stderr.contains("a stranger"), "{outcome}");
    let (whole, unfinished) = scene.listed();
    assert_eq!((whole.len(), unfinished.len()), (0, 1));
    scene.run(&["restore", &unfinished[0], "--to", "/nonexistent/x"]).expect_code(20);
    wait_until(PATIENCE, "the session is gone", || scene.no_session_is_left());
    fs::remove_file(&stranger).expect("because the test owns it");
    assert_eq!(scene.take(), unfinished[0]);
    assert_eq!(scene.listed(), (unfinished, vec![]));
}

#[test]
fn kill_9_leaves_nothing_behind_and_the_next_run_ends_it() {
    let scene = Scene::new("killed");
    // Many files, so that a run that is killed has stored some of them whole.
    scene.alpha.execute("create table t as select generate_series(1, 60000) as id");
    for filler in 0..10 {
        scene.alpha.execute(&format!("create table filler_{filler} as table t"));
    }
    scene.alpha.execute("checkpoint");
    // At that rate the whole cluster takes far longer than all that is waited for here.
    let killed = |wait: &dyn Fn()| {
        let running = scene.call(&["take", "--rate-limit", "5MB"]).spawn();
        wait_until(PATIENCE, "the session is there", || !scene.no_session_is_left());
        wait();
        running.signal(Signal::KILL);
        drop(running);
        wait_until(PATIENCE, "the session is gone", || scene.no_session_is_left());
        let (whole, unfinished) = scene.listed();
        assert!(whole.is_empty(), "{whole:?} {unfinished:?}");
        unfinished
    };
    let mut unfinished = Vec::new();
    for pause in [50, 400, 1500] {
        // Not a condition but a moment: any one will do.
        unfinished = killed(&|| std::thread::sleep(Duration::from_millis(pause)));
    }
    assert_eq!(unfinished.len(), 1, "{unfinished:?}");
    let resume = scene.folder(&unfinished[0]).join("resume.json");
    let recorded = || fs::read_to_string(&resume).is_ok_and(|text| text.contains("base/"));
    killed(&|| wait_until(PATIENCE, "something is recorded for the next run", &recorded));
    scene.alpha.execute("insert into t values (-1)");
    let label = scene.take();
    assert_eq!(label, unfinished[0]);
    assert!(!resume.exists() && !scene.folder(&label).join("claim.json").exists());
    scene.run(&["verify", &label]).expect_ok();
    let copy = scene.recover(&label, &[]);
    let question = "select count(*) || ' ' || sum(id) from t";
    assert_eq!(copy.query(question), scene.alpha.query(question));
    check_everything(copy);
}

#[test]
fn a_second_run_is_told_who_works() {
    let scene = Scene::new("busy");
    let running = scene.call(&["take", "--rate-limit", "5MB"]).deadline(PATIENCE * 2).spawn();
    wait_until(PATIENCE, "it works", || !scene.no_session_is_left());
    let outcome = scene.run(&["take"]).expect_code(61);
    assert!(outcome.stderr.contains(&format!("pid {}", running.pid())), "{outcome}");
    scene.run(&["expire", "--keep", "1"]).expect_code(61);
    running.wait().expect_ok();
}

#[test]
fn damage_in_the_archive_is_found_by_verify_and_refused_by_restore() {
    let scene = Scene::new("damage");
    scene.alpha.execute("create table t as select generate_series(1, 200000) as id; checkpoint");
    let label = scene.take();
    let relation = scene.alpha.query("select pg_relation_filepath('t')");
    let stored = scene.folder(&label).join(format!("files/{relation}.zst"));
    let whole = fs::read(&stored).expect("because it is stored");
    let target = scene.alpha.dir().join("restored");
    let text = target.display().to_string();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], &[]] {
        fs::write(&stored, damaged).expect("because the test owns it");
        let outcome = scene.run(&["verify", &label]).expect_code(22);
        assert!(outcome.stdout.contains(&relation), "{outcome}");
        scene.run(&["restore", &label, "--to", &text]).expect_code(22);
        assert!(!target.join("global/pg_control").exists());
        fs::remove_dir_all(&target).expect("because the test owns it");
    }
    fs::remove_file(&stored).expect("because the test owns it");
    scene.run(&["verify", &label]).expect_code(22);
    fs::write(&stored, whole).expect("because the test owns it");
    support::workspace::Account::unprivileged().own(&stored);
    scene.run(&["verify", &label]).expect_ok();
    let first = scene.json(&["show", &label])["start_segment"].as_str().unwrap_or_default().to_owned();
    let wal = scene.wal().join(&first[..16]).join(format!("{first}.zst"));
    fs::rename(&wal, wal.with_extension("away")).expect("because it is archived");
    let outcome = scene.run(&["verify", &label]).expect_code(22);
    assert!(outcome.stdout.contains(&first), "{outcome}");
    assert_eq!(scene.json(&["show", &label])["verified"], Value::Null);
    make_dir(&target);
    write_file(&target.join("somebody"), "x");
    scene.run(&["restore", &label, "--to", &text]).expect_code(20);
}

#[test]
fn a_standby_is_backed_up_while_the_primary_works() {
    let sshd = sshd::Sshd::start();
    sshd::own(&sshd.key());
    let scene = Scene::with_nodes("spare", &["alpha", "beta"]);
    let mut scene = scene.reached_through(&sshd);
    scene.alpha.execute("create table t as select generate_series(1, 100000) as id");
    let mut beta = scene.alpha.base_backup("beta");
    beta.follow(&scene.alpha).set("archive_mode", "off").start();
    scene.layout.node_mut("beta").serve(&beta);
    scene.layout.write();
    scene.alpha.execute("insert into t values (-1)");
    beta.wait_replayed(&scene.alpha.wal_position(), PATIENCE);
    let taken = scene.layout.program("beta", "base-backup").args(["take", "--json"]).run().expect_ok();
    let taken: Value = serde_json::from_str(&taken.stdout).expect("because it is JSON");
    assert_eq!((&taken["role"], &taken["node"]), (&"standby".into(), &"beta".into()));
    scene.alpha.execute("insert into t values (-2)");
    scene.archive_everything();
    let copy = scene.recover(taken["label"].as_str().unwrap_or_default(), &["--place", "beta"]);
    let question = "select count(*) || ' ' || sum(id) from t";
    assert_eq!(copy.query(question), scene.alpha.query(question));
    check_everything(copy);
    // A connection string that leads to another server than the data directory is found out.
    let conninfo = format!("node.beta.conninfo={}", scene.alpha.conninfo());
    let outcome = scene.layout.program("beta", "base-backup").args(["take", "--set", &conninfo]).run().expect_code(20);
    assert!(outcome.stderr.contains("is not the data directory of the server"), "{outcome}");
}

#[test]
fn a_backup_goes_into_the_archive_of_another_node() {
    let sshd = sshd::Sshd::start();
    sshd::own(&sshd.key());
    let scene = Scene::with_nodes("away", &["alpha", "beta"]).reached_through(&sshd);
    scene.alpha.execute("create table t as select generate_series(1, 200000) as id");
    let words = ["--place", "beta"];
    let taken = scene.json(&[&["take"], &words[..]].concat());
    let label = taken["label"].as_str().unwrap_or_default();
    assert_eq!(scene.listed().0.len(), 0);
    scene.run(&[&["verify", label], &words[..]].concat()).expect_ok();
    let far = scene.layout.node("beta").archive.clone().expect("because beta has one").join("away/backup").join(label);
    assert!(far.join("backup.json").exists());
    let copy = scene.recover("latest", &words);
    assert_eq!(copy.query("select count(*) from t"), "200000");
}

#[test]
fn no_backup_begins_where_wal_does_not_arrive() {
    let mut scene = Scene::new("unshipped");
    scene.alpha.set("archive_command", "false");
    scene.alpha.reload();
    let outcome = scene.run(&["take", "--set", "backup.deadline=2s"]).expect_code(60);
    assert!(outcome.stderr.contains("No backup was begun"), "{outcome}");
    assert_eq!(scene.listed(), (vec![], vec![]));
    assert!(scene.no_session_is_left());
}

#[test]
fn expire_keeps_what_it_must_and_removes_wal_that_nothing_needs() {
    let scene = Scene::new("expire");
    let labels: Vec<String> = [&["take", "--keep-it", "--note", "why=before the move"][..], &["take"], &["take"]]
        .iter()
        .map(|words| {
            scene.alpha.execute("create table if not exists t (id int); insert into t values (1)");
            let taken = scene.json(words);
            let label = taken["label"].as_str().expect("because it has one").to_owned();
            // A label is a second: the next one must differ.
            wait_until(PATIENCE, "the next second", || label_of_now() > label);
            label
        })
        .collect();
    let shown = scene.json(&["show", &labels[0]]);
    assert_eq!((&shown["keep"], &shown["annotations"]["why"]), (&true.into(), &"before the move".into()), "{shown:#}");
    let wal = || walkdir::WalkDir::new(scene.wal()).into_iter().flatten().count();
    let before = wal();
    scene.run(&["release", &labels[0]]).expect_ok();
    scene.run(&["keep", &labels[0]]).expect_ok();
    let dry = scene.json(&["expire", "--keep", "1", "--dry-run"]);
    assert_eq!(dry["report"]["backups"][1]["removed"], true, "{dry:#}");
    assert_eq!((scene.listed().0, wal()), (labels.clone(), before));
    scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert_eq!(scene.listed().0, [labels[0].clone(), labels[2].clone()]);
    assert!(!scene.folder(&labels[1]).exists());
    scene.run(&["release", &labels[0]]).expect_ok();
    // A primary says what it needs once a minute; without the mark it does so with the next file.
    let _ = fs::remove_file(scene.layout.node("alpha").spool.join("reported"));
    scene.alpha.execute("checkpoint");
    scene.archive_everything();
    let before = wal();
    let outcome = scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert_eq!(scene.listed().0, [labels[2].clone()]);
    assert!(wal() < before, "{outcome}");
    scene.run(&["expire", "--keep", "1", "--days", "1"]).expect_ok();
    assert_eq!(scene.listed().0, [labels[2].clone()]);
    scene.run(&["verify"]).expect_ok();
}

#[test]
fn a_backup_can_be_put_together_by_hand_and_its_manifest_names_the_wal() {
    let scene = Scene::new("hand");
    scene.alpha.execute("create table t as select generate_series(1, 200000) as id; checkpoint");
    let label = scene.take();
    let shown = scene.json(&["show", &label]);
    let (hand, wal) = (scene.alpha.dir().join("hand"), scene.alpha.dir().join("wal"));
    make_dir(&hand);
    make_dir(&wal);
    let script = r#"
        set -e
        cd "$1"
        for bundle in "$2"/bundle/*.tar.zst; do tar --zstd -xf "$bundle"; done
        (cd "$2/files" && find . -name '*.zst') | while read -r file; do
            mkdir -p "$(dirname "$file")"
            zstd -q -d -c "$2/files/$file" > "${file%.zst}"
        done
        cp "$2/backup_label" "$2/backup_manifest" .
    "#;
    let folder = scene.folder(&label);
    Program::at("/bin/sh").args(["-c", script, "sh"]).args([&hand, &folder]).run().expect_ok();
    for key in ["start_segment", "stop_segment"] {
        let segment = shown[key].as_str().unwrap_or_default();
        let fetched = scene.layout.program("alpha", "restore-wal").args(["--no-worker", segment]);
        fetched.arg(wal.join(segment)).run().expect_ok();
    }
    let verify = || scene.alpha.tool("pg_verifybackup").arg("--wal-directory").args([&wal, &hand]).run();
    verify().expect_ok();
    // The tool would say so if anything differed.
    write_file(&hand.join("PG_VERSION"), "99\n");
    verify().expect_code(1);
}

#[test]
fn what_a_broken_removal_left_is_no_backup_and_goes_with_the_next_one() {
    let scene = Scene::new("broken");
    let label = scene.take();
    wait_until(PATIENCE, "the next second", || label_of_now() > label);
    let kept = scene.take();
    fs::remove_file(scene.folder(&label).join("backup.json")).expect("because it is there");
    assert_eq!(scene.listed(), (vec![kept.clone()], vec![label.clone()]));
    scene.run(&["show", &label]).expect_code(20);
    scene.run(&["expire"]).expect_ok();
    assert!(!scene.folder(&label).exists());
    assert_eq!(scene.listed(), (vec![kept.clone()], vec![]));
    // A description that cannot be understood is left alone, and so is all WAL.
    write_file(&scene.folder(&kept).join("backup.json"), "{}");
    let outcome = scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert!(outcome.stdout.contains(&format!("kept WAL: backup {kept}: its description cannot be read")), "{outcome}");
    assert!(scene.folder(&kept).exists());
    scene.run(&["verify", &kept]).expect_code(22);
}
