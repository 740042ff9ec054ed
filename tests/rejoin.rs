//! `standby-init --rejoin` on real servers: each rung of the ladder, what is kept aside, and a rewind killed half-way.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

#[path = "standby/scene.rs"]
mod scene;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use scene::Scene;
use serde_json::Value;
use support::workspace::{make_dir, write_file};
use support::{Binaries, Server, Stop};

/// Alpha with a standby beta that has everything.
fn pair() -> Scene {
    pair_with(|alpha| _ = alpha.set("wal_keep_size", "64MB"))
}

/// The same, with a backup, which keeps in the archive what no standby needs any more.
fn pair_with(tune: impl FnOnce(&mut Server)) -> Scene {
    let scene = Scene::with(&["beta"], |_| {}, tune);
    scene.alpha.execute("create table t as select generate_series(1, 20000) as id");
    scene.layout.program("alpha", "base-backup").arg("take").run().expect_ok();
    scene.json("beta", &["--from", "alpha"]);
    scene.same_rows("alpha", "beta");
    scene
}

/// Beta takes over while alpha goes on writing for itself, then alpha ends as `how` says.
fn split(scene: &mut Scene, how: Stop) {
    scene.server("beta").promote();
    scene.alpha.execute("insert into t values (-1)");
    scene.alpha.execute("insert into t values (-2); create table only_here as select generate_series(1, 5000) as id");
    scene.server("beta").execute("insert into t values (-3)");
    scene.alpha.stop(how);
}

/// The rung that was taken: the first open one.
fn taken(done: &Value) -> &str {
    let rungs = done["rungs"].as_array().expect("because a rejoin weighs them");
    let open = rungs.iter().find(|rung| !rung["cost"].is_null()).expect("because one was taken");
    open["rung"].as_str().unwrap_or_default()
}

/// Alpha is a standby of beta's, with beta's rows, and with its own settings.
fn alpha_is_back(scene: &Scene) {
    assert!(scene.alpha.in_recovery());
    assert_eq!(scene.alpha.query("show cluster_name"), "alpha");
    scene.server("beta").execute("insert into t values (-9)");
    scene.same_rows("beta", "alpha");
    assert_eq!(scene.alpha.query("select count(*) from t where id in (-1, -2)"), "0");
    scene.stop("alpha");
    let checked = scene.alpha.tool("pg_checksums").arg("--check").arg("--pgdata").arg(scene.pgdata("alpha")).run();
    checked.expect_ok();
}

#[test]
fn a_primary_that_was_shut_down_in_order_just_follows() {
    let mut scene = pair();
    scene.alpha.stop(Stop::Fast);
    scene.server("beta").promote();
    let plan = scene.json("alpha", &["--rejoin", "--dry-run"]);
    assert_eq!(taken(&plan), "follow");
    assert!(!scene.pgdata("alpha").join("standby.signal").exists());
    let done = scene.json("alpha", &["--rejoin"]);
    assert_eq!((taken(&done), &done["kept"]), ("follow", &Value::Null));
    assert_eq!(done["proof"]["streaming"]["timeline"], 2);
    // Once it is back, it stays, and the same call says so again.
    let again = scene.json("alpha", &["--rejoin"]);
    assert_eq!((&again["proof"]["streaming"]["node"], &again["kept"]), (&"beta".into(), &Value::Null));
    alpha_is_back(&scene);
    // Other ways are open too, to whoever asks for them: WAL of the archives, or a new copy of data that are whole.
    scene.json("alpha", &["--rejoin", "--rung", "follow-archive"]);
    alpha_is_back(&scene);
    let done = scene.json("alpha", &["--rejoin", "--rung", "clone"]);
    let steps = done["steps"].as_array().expect("because a plan has steps");
    assert!(steps.iter().any(|step| step["step"] == "clone"), "{done:#}");
    alpha_is_back(&scene);
    killed_while_it_waits(&scene);
    alpha_is_back(&scene);
    scene.archive_gives_back("beta");
}

/// Killed while it waits for the server to stream, and the machine goes down with it: the next run starts the server
/// again instead of waiting for one that nobody starts.
fn killed_while_it_waits(scene: &Scene) {
    let rules = scene.pgdata("beta").join("pg_hba.conf");
    let before = fs::read_to_string(&rules).expect("because the server has one");
    let set = |text: &str| {
        write_file(&rules, text);
        scene.server("beta").query("select pg_reload_conf()");
    };
    set(&format!("local replication all reject\nhost replication all all reject\n{before}"));
    let running = scene.call("alpha", &["--rejoin"]).spawn();
    support::wait_until(support::PATIENCE, "it waits", || running.stderr().contains("wait until it streams"));
    running.signal(rustix::process::Signal::KILL);
    drop(running);
    scene.stop("alpha");
    set(&before);
    let done = scene.json("alpha", &["--rejoin"]);
    assert_eq!(done["proof"]["streaming"]["node"], "beta", "{done:#}");
}

#[test]
fn a_crashed_primary_is_rewound_and_what_only_it_had_is_kept() {
    let mut scene = pair();
    split(&mut scene, Stop::Immediate);
    let done = scene.json("alpha", &["--rejoin"]);
    assert_eq!(taken(&done), "rewind", "{done:#}");
    let kept = &done["kept"];
    // The two inserts; the table came in the same statement as the second.
    assert_eq!(kept["transactions"], 2, "{kept:#}");
    let folder = Path::new(kept["folder"].as_str().unwrap_or_default()).to_owned();
    assert!(folder.starts_with(scene.spool("alpha")) && folder.join("summary.json").exists());
    let segment = kept["segments"][0].as_str().unwrap_or_default();
    let dump = scene.alpha.tool("pg_waldump").arg("--path").arg(&folder).arg(segment).run();
    assert!(dump.stdout.contains("COMMIT"), "{dump}");
    alpha_is_back(&scene);
    assert_eq!(scene.pgdata("alpha").metadata().map(|it| it.permissions().mode() & 0o777).ok(), Some(0o700));
    assert!(!scene.spool("alpha").join("rewind").exists());
    scene.archive_gives_back("beta");
}

#[test]
fn wal_that_the_old_primary_has_recycled_comes_out_of_the_archive() {
    let mut scene = pair_with(|alpha| _ = alpha.set("min_wal_size", "2MB").set("max_wal_size", "2MB"));
    scene.server("beta").promote();
    scene.server("beta").execute("insert into t values (-3)");
    scene.alpha.execute("insert into t values (-1)");
    for _ in 0..6 {
        scene.archive_everything();
        scene.alpha.execute("insert into t values (-2); checkpoint");
    }
    scene.alpha.stop(Stop::Fast);
    let done = scene.json("alpha", &["--rejoin"]);
    assert_eq!(taken(&done), "rewind-archive", "{done:#}");
    alpha_is_back(&scene);
    scene.archive_gives_back("beta");
}

#[test]
fn a_backup_or_a_new_copy_ends_the_ladder() {
    let mut scene = pair();
    split(&mut scene, Stop::Fast);
    // Until the segment of the fork is archived on the new timeline, a recovery would take the old one's.
    scene.refused("alpha", &["--rejoin", "--rung", "restore"], "in which the primary's timeline begins");
    let segment = scene.server("beta").switch_wal();
    let stored = scene.archive().join("wal").join(&segment[..16]).join(format!("{segment}.zst"));
    support::wait_until(support::PATIENCE, "it is archived", || stored.exists());
    scene.refused("alpha", &["--rejoin", "--rung", "follow"], "follow: the data hold changes beyond");
    let done = scene.json("alpha", &["--rejoin", "--rung", "restore"]);
    assert_eq!(done["steps"][1]["delta"], true, "{done:#}");
    assert_eq!(done["kept"]["transactions"], 2);
    alpha_is_back(&scene);
    scene.archive_gives_back("beta");
}

#[test]
fn a_rewind_that_died_half_way_never_starts_and_is_replaced() {
    let mut scene = pair();
    split(&mut scene, Stop::Fast);
    // PostgreSQL's own programs, of which pg_rewind dies as soon as it writes a larger file.
    let (real, programs) = (Binaries::under_test().bin.clone(), scene.layout.dir.join("programs"));
    make_dir(&programs);
    for entry in fs::read_dir(&real).expect("because they are installed").flatten() {
        let (name, link) = (entry.file_name(), programs.join(entry.file_name()));
        if name != "pg_rewind" {
            std::os::unix::fs::symlink(entry.path(), link).expect("because the folder is ours");
        }
    }
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--dry-run*) ;; *) ulimit -f 64 ;; esac\nexec '{}' \"$@\"\n",
        real.join("pg_rewind").display()
    );
    let rewind = programs.join("pg_rewind");
    write_file(&rewind, &script);
    fs::set_permissions(&rewind, fs::Permissions::from_mode(0o755)).expect("because the file is ours");
    scene.set_local("alpha", "local", "pg_bin", programs.display());
    let pgdata = scene.pgdata("alpha");
    // Only this rung, so that it ends here.
    let outcome = scene.run("alpha", &["--rejoin", "--rung", "rewind"]).expect_code(50);
    assert!(outcome.stderr.contains("pg_rewind failed"), "{outcome}");
    let never_starts = |why: &str| {
        assert_ne!(scene.start_by_hand("alpha").code, Some(0));
        assert!(scene.log_by_hand("alpha").contains(why), "{}", scene.log_by_hand("alpha"));
    };
    never_starts("has invalid permissions");
    // Also where somebody does what that message says.
    fs::set_permissions(&pgdata, fs::Permissions::from_mode(0o700)).expect("because the directory is ours");
    never_starts("NAMEDATALEN");
    // The next run does not try again: it replaces them.
    scene.set_local("alpha", "local", "pg_bin", real.display());
    let done = scene.json("alpha", &["--rejoin"]);
    assert_eq!(taken(&done), "clone", "{done:#}");
    assert!(done["rungs"][2]["why"].as_str().is_some_and(|why| why.contains("began and did not end")), "{done:#}");
    alpha_is_back(&scene);
    scene.archive_gives_back("beta");
}
