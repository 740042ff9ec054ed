//! `standby-init` on real servers: every source and every kind of standby, followed, refused, and killed on the way.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

#[path = "standby/scene.rs"]
mod scene;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;
use scene::{Scene, rows};
use serde_json::Value;
use support::workspace::{Account, make_dir, write_file};
use support::{PATIENCE, Server, wait_until};

fn steps(value: &Value) -> Vec<&str> {
    let steps = value["steps"].as_array().expect("because a plan has steps");
    steps.iter().map(|step| step["step"].as_str().unwrap_or_default()).collect()
}

#[test]
fn a_running_primary_is_copied_and_streamed_from_and_every_other_kind_follows() {
    let scene = Scene::new(&["beta"]);
    scene.alpha.execute("create table t as select generate_series(1, 20000) as id");
    let plan = scene.json("beta", &["--from", "alpha", "--slot", "--dry-run"]);
    assert_eq!(steps(&plan), ["make-slot", "clone", "configure", "start", "prove"]);
    assert!(!scene.pgdata("beta").exists());
    let made = scene.json("beta", &["--from", "alpha", "--slot"]);
    let streaming = &made["proof"]["streaming"];
    assert_eq!((&streaming["node"], &streaming["slot"]), (&"alpha".into(), &"pgwarm_beta".into()), "{made:#}");
    assert_eq!(streaming["port"], scene.alpha.port());
    let active = "select active from pg_replication_slots where slot_name = 'pgwarm_beta'";
    assert_eq!(scene.alpha.query(active), "t");
    scene.alpha.execute("insert into t values (-1)");
    scene.same_rows("alpha", "beta");
    let beta = scene.server("beta");
    // The standby's own set holds, and our settings win over it.
    assert_eq!((beta.query("show work_mem"), beta.query("show cluster_name")), ("5MB".to_owned(), "beta".to_owned()));
    assert!(beta.query("show restore_command").contains("restore-wal"));
    let ours = fs::read_to_string(scene.pgdata("beta").join("pgwarm.conf")).expect("because it was written");
    assert!(ours.contains("application_name=beta") && !ours.contains("password"), "{ours}");
    assert_eq!(scene.pgdata("beta").metadata().map(|it| it.permissions().mode() & 0o777).ok(), Some(0o700));
    // Where the stream fails, shipped WAL goes on: alpha lets no walsender in any more.
    scene.refused("beta", &["--from", "alpha"], "a standby runs on");
    scene.refused("alpha", &["--from", "beta"], "a primary runs on");
    scene.refused("alpha", &["--rejoin"], "a primary runs on");

    // The old standby stays until the new one has proven itself, and is gone then.
    scene.stop("beta");
    let hot = scene.json("beta", &["--from", "alpha", "--mode", "hot"]);
    assert_eq!(steps(&hot), ["clone", "configure", "exchange", "start", "prove", "remove-old", "drop-slot"]);
    assert_eq!(scene.alpha.query("select count(*) from pg_replication_slots"), "0", "it would keep WAL for ever");
    assert_eq!(hot["proof"]["streaming"], Value::Null);
    let left: Vec<_> = fs::read_dir(beta.dir()).expect("because it is ours").flatten().collect();
    assert!(!left.iter().any(|it| it.file_name().to_string_lossy().contains("before-")), "{left:?}");
    scene.alpha.execute("insert into t values (-2)");
    scene.archive_everything();
    wait_until(PATIENCE, "shipped WAL is replayed", || rows(beta) == rows(&scene.alpha));
    assert_eq!(beta.query("select count(*) from pg_stat_wal_receiver"), "0");

    // Another kind of the same directory.
    scene.stop("beta");
    let warm = scene.json("beta", &["--adopt", "--mode", "warm"]);
    assert!(warm["proof"]["segment"].is_string(), "{warm:#}");
    let refused = beta.tool("psql").args(["-c", "select 1"]).run();
    assert!(refused.stderr.contains("the database system is not accepting connections"), "{refused}");
    scene.stop("beta");
    scene.json("beta", &["--adopt"]);
    scene.alpha.execute("insert into t values (-3)");
    scene.same_rows("alpha", "beta");
}

#[test]
fn a_backup_becomes_a_standby_with_its_tablespaces_and_a_cold_one_lies_still() {
    let scene = Scene::new(&["beta"]);
    let (space, moved) = (scene.alpha.dir().join("space"), scene.server("beta").dir().join("moved"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute(
        "create table t as select generate_series(1, 20000) as id;
         create table far tablespace space as select generate_series(1, 1000) as id",
    );
    scene.layout.program("alpha", "base-backup").arg("take").run().expect_ok();
    scene.alpha.execute("insert into t values (-1); insert into far values (-1)");
    let oid = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    let map = format!("{oid}={}", moved.display());
    scene.refused("beta", &["--from", "archive"], "is not empty");
    let cold = scene.json("beta", &["--from", "archive", "--map", &map, "--mode", "cold"]);
    assert_eq!(steps(&cold), ["restore", "configure"]);
    assert_eq!(cold["proof"], Value::Null);
    // Whoever starts it gets a standby and no second primary.
    assert!(scene.pgdata("beta").join("standby.signal").exists());
    let made = scene.json("beta", &["--adopt"]);
    assert_eq!(made["proof"]["streaming"]["node"], "alpha");
    scene.same_rows("alpha", "beta");
    assert_eq!(scene.server("beta").query("select count(*) from far"), "1001");
    assert_eq!(fs::read_link(scene.pgdata("beta").join("pg_tblspc").join(&oid)).ok(), Some(moved.clone()));

    // Over an old copy only the differences are written.
    scene.stop("beta");
    scene.alpha.execute("insert into t values (-2)");
    let again = scene.json("beta", &["--from", "archive", "--map", &map]);
    assert_eq!((&again["steps"][0]["step"], &again["steps"][0]["delta"]), (&"restore".into(), &true.into()));
    scene.same_rows("alpha", "beta");

    // A copy of the running server with the tablespace of the old one in its way.
    scene.stop("beta");
    scene.json("beta", &["--from", "alpha", "--map", &map, "--keep-old"]);
    scene.same_rows("alpha", "beta");
    let kept: Vec<_> = fs::read_dir(scene.server("beta").dir()).expect("because it is ours").flatten().collect();
    let kept: Vec<_> = kept.iter().map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(kept.iter().filter(|name| name.contains(".before-")).count(), 2, "{kept:?}");
    assert_eq!(fs::read_link(scene.pgdata("beta").join("pg_tblspc").join(&oid)).ok(), Some(moved));
}

#[test]
fn a_cascade_and_a_delayed_standby_follow_after_a_promotion() {
    let mut scene = Scene::new(&["beta", "gamma"]);
    scene.alpha.execute("create table t as select generate_series(1, 5000) as id");
    scene.json("beta", &["--from", "alpha"]);
    let gamma = scene.json("gamma", &["--from", "beta", "--upstream", "beta", "--slot", "gammas_own"]);
    assert_eq!(
        (&gamma["proof"]["streaming"]["node"], &gamma["proof"]["streaming"]["slot"]),
        (&"beta".into(), &"gammas_own".into())
    );
    scene.alpha.execute("insert into t values (-1)");
    scene.same_rows("alpha", "gamma");
    // Behind alpha itself, an hour back: proven by what it has received. The slot on beta would keep WAL for ever.
    let slots = "select count(*) from pg_replication_slots";
    assert_eq!(scene.server("beta").query(slots), "1");
    scene.stop("gamma");
    let adopted = scene.json("gamma", &["--adopt", "--delay", "1h", "--upstream", "alpha"]);
    assert_eq!(steps(&adopted), ["configure", "start", "prove", "drop-slot"]);
    assert_eq!(scene.server("beta").query(slots), "0");
    scene.alpha.execute("insert into t values (-2)");
    let server = scene.server("gamma");
    scene.same_rows("alpha", "beta");
    assert_eq!(server.query("show recovery_min_apply_delay"), "1h");
    let received = format!("select pg_last_wal_receive_lsn() >= '{}'", scene.alpha.wal_position());
    wait_until(PATIENCE, "the delayed one has received it", || server.query(&received) == "t");
    assert_eq!(server.query("select count(*) from t where id = -2"), "0");
    scene.stop("gamma");
    scene.json("gamma", &["--adopt", "--upstream", "alpha"]);
    scene.same_rows("alpha", "gamma");

    // Alpha goes; beta takes over; gamma follows, running all the while.
    scene.alpha.stop(support::Stop::Fast);
    let (beta, server) = (scene.server("beta"), scene.server("gamma"));
    beta.promote();
    beta.execute("insert into t values (-3)");
    let started = server.query("select pg_postmaster_start_time()");
    let followed = scene.json("gamma", &["--follow", "beta", "--slot"]);
    assert_eq!(steps(&followed), ["make-slot", "put-history", "configure", "reload", "prove"]);
    assert_eq!(followed["proof"]["streaming"]["timeline"], 2, "{followed:#}");
    assert_eq!(server.query("select pg_postmaster_start_time()"), started);
    scene.same_rows("beta", "gamma");
    assert_eq!(beta.query(slots), "1");
    let without = scene.json("gamma", &["--follow", "beta"]);
    assert_eq!(steps(&without), ["configure", "reload", "prove", "drop-slot"]);
    assert_eq!(beta.query(slots), "0");
    // Nobody goes back to one that was left behind, and nobody follows another with what only he has.
    scene.alpha.start();
    scene.alpha.execute("insert into t values (-4)");
    scene.refused("gamma", &["--follow", "alpha"], "is still on timeline 1, which this node left");
    assert_eq!(
        scene.server("gamma").query("select count(*) from pg_stat_wal_receiver where status = 'streaming'"),
        "1"
    );
    scene.refused("beta", &["--follow", "alpha"], "are those of a primary");
}

#[test]
fn what_is_not_ours_to_replace_is_left_alone() {
    let scene = Scene::with(&["beta"], |layout| _ = layout.set("standby", "copy_deadline", "2min"), |_| {});
    scene.alpha.execute("create table t as select 1 as id");
    let (pgdata, words) = (scene.pgdata("beta"), ["--from", "alpha"]);
    make_dir(&pgdata);
    write_file(&pgdata.join("letter.txt"), "mine");
    scene.refused("beta", &words, "is no data directory and not empty: it holds 'letter.txt'");
    assert_eq!(fs::read_to_string(pgdata.join("letter.txt")).ok().as_deref(), Some("mine"));
    fs::remove_dir_all(&pgdata).expect("because the test owns it");

    let stranger = Server::builder("stranger").wal_segsize(1).fresh_identity().create();
    fs::rename(stranger.pgdata(), &pgdata).expect("because the test owns both");
    scene.refused("beta", &words, "holds another cluster");
    scene.refused("beta", &["--adopt"], "belongs to another cluster");
    fs::remove_dir_all(&pgdata).expect("because the test owns it");

    let primary = Server::builder("primary").wal_segsize(1).create();
    fs::rename(primary.pgdata(), &pgdata).expect("because the test owns both");
    scene.refused("beta", &words, "are those of a primary");
    fs::remove_dir_all(&pgdata).expect("because the test owns it");

    scene.refused("beta", &["--from", "archive"], "no archive of restore.from holds a whole backup");
    scene.refused("beta", &["--from", "nobody"], "'nobody' is no other node");
    scene.run("beta", &["--from", "alpha", "--label", "x"]).expect_code(2);
    scene.run("beta", &["--follow", "alpha", "--delay", "1h"]).expect_code(2);
    // A mistake in a set is found before anything is copied.
    write_file(&scene.layout.node("beta").dir.join("standby/postgresql.conf"), "port 1 2\n");
    scene.run("beta", &words).expect_code(10);
    write_file(&scene.layout.node("beta").dir.join("failover/pg_hba.conf"), "local all all trust\n");
    scene.refused("beta", &words, "has no pg_hba.conf, and the other one has");
    assert!(!pgdata.exists());
    let slots = scene.alpha.query("select count(*) from pg_replication_slots");
    assert_eq!(slots, "0");
}

#[test]
fn kill_9_in_the_middle_leaves_nothing_that_starts_and_the_next_run_ends_it() {
    let scene = Scene::new(&["beta"]);
    scene.alpha.execute("create table t as select generate_series(1, 200000) as id");
    let words = ["--from", "alpha", "--slot", "--rate-limit", "4MB"];
    let slots = "select count(*) from pg_replication_slots";
    let senders = "select count(*) from pg_stat_replication";
    let pgdata = scene.pgdata("beta");
    for pause in [100, 1000] {
        let running = scene.call("beta", &words).spawn();
        wait_until(PATIENCE, "the copy is under way", || pgdata.join("base").exists());
        // Not a condition but a moment: any one will do.
        std::thread::sleep(Duration::from_millis(pause));
        running.signal(Signal::KILL);
        drop(running);
        wait_until(PATIENCE, "nothing copies any more", || scene.alpha.query(senders) == "0");
        assert_ne!(scene.start_by_hand("beta").code, Some(0));
        assert_eq!(scene.alpha.query(slots), "1");
    }
    // Another request begins anew; and what is given up leaves nothing.
    scene.run("beta", &["--abandon"]).expect_ok();
    assert_eq!(scene.alpha.query(slots), "0");
    assert_eq!(fs::read_dir(&pgdata).map(Iterator::count).unwrap_or_default(), 0);
    let running = scene.call("beta", &words).spawn();
    wait_until(PATIENCE, "the copy is under way", || pgdata.join("base").exists());
    running.signal(Signal::KILL);
    drop(running);
    let made = scene.json("beta", &["--from", "alpha", "--slot"]);
    assert_eq!(made["resumed"], true);
    assert_eq!(made["proof"]["streaming"]["slot"], "pgwarm_beta");
    scene.alpha.execute("insert into t values (-1)");
    scene.same_rows("alpha", "beta");
    scene.run("beta", &["--abandon"]).expect_ok();
    // A failure leaves nothing either: no copy, no slot.
    scene.stop("beta");
    let full = scene.run("beta", &["--from", "alpha", "--slot", "other", "--set", "standby.user=nobody"]);
    assert_ne!(full.code, Some(0));
    assert_eq!(scene.alpha.query("select string_agg(slot_name, ' ') from pg_replication_slots"), "pgwarm_beta");
    let beside: Vec<_> = fs::read_dir(scene.server("beta").dir()).expect("because it is ours").flatten().collect();
    assert!(!beside.iter().any(|it| it.file_name().to_string_lossy().contains("standby-init")), "{beside:?}");
}

#[test]
fn the_sets_change_places_by_a_reload_copied_or_where_they_are() {
    let mut scene = Scene::new(&["beta"]);
    scene.alpha.execute("create table t as select 1 as id");
    let dir = scene.layout.node("beta").dir.clone();
    for set in ["standby", "failover"] {
        let hba = format!("local all all trust\nlocal replication all trust\n# {set}\n");
        write_file(&dir.join(set).join("pg_hba.conf"), &hba);
    }
    let pgdata = scene.pgdata("beta");
    scene.json("beta", &["--from", "alpha"]);
    for mode in ["copy", "reference"] {
        scene.set_local("beta", "standby", "conf_mode", mode);
        scene.stop("beta");
        scene.json("beta", &["--adopt"]);
        let beta = scene.server("beta");
        assert_eq!(beta.query("show work_mem"), "5MB", "{mode}");
        let named = beta.query("show hba_file");
        assert_eq!(named, pgdata.join("pgwarm.hba.conf").display().to_string());
        assert!(fs::read_to_string(&named).is_ok_and(|text| text.ends_with("# standby\n")));
        // What trigger-failover does once it has promoted.
        let source = pgwarm::config::Source { file: Some(scene.layout.shared_file("beta")), ..Default::default() };
        let config = pgwarm::config::Config::load(&source).expect("because the test wrote it");
        let set = pgwarm::cluster::standby::configuration_set(&config, pgwarm::cluster::standby::Set::Failover);
        let set = set.ok().flatten().expect("because there is one");
        set.install(&pgdata).expect("because the directory is ours");
        for name in ["pgwarm.set.conf", "pgwarm.hba.conf"] {
            Account::unprivileged().own(&pgdata.join(name));
        }
        beta.query("select pg_reload_conf()");
        wait_until(PATIENCE, "the other set holds", || beta.query("show work_mem") == "6MB");
        assert!(fs::read_to_string(&named).is_ok_and(|text| text.ends_with("# failover\n")));
    }
    let included = fs::read_to_string(pgdata.join("pgwarm.set.conf")).unwrap_or_default();
    assert!(included.contains(&dir.join("failover/postgresql.conf").display().to_string()), "{included}");
}
