//! `base-backup take --to` and `--from`: real servers, a real sshd between; first copies, copies on top of old ones,
//! ends that are killed, and everything that must be refused. What was copied is started as a standby and compared row
//! by row. Both nodes are this machine, so the far end's key is bound to a shell that sees the other node's files where
//! the near end has its own.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sshd::Sshd;
use support::workspace::{make_dir, write_file};
use support::{Layout, Outcome, PATIENCE, Program, Server, Stop, wait_until};

/// A primary `alpha`, and a node `beta` whose server is not there yet.
struct Scene {
    layout: Layout,
    alpha: Server,
    beta: Server,
    sshd: Option<Sshd>,
}

impl Scene {
    /// Both on this machine, without an archive.
    fn local(name: &str) -> Scene {
        Scene::new(name, false, None)
    }

    /// Beta behind a sshd, the WAL in alpha's archive.
    fn remote(name: &str) -> Scene {
        Scene::new(name, true, Some(Sshd::start()))
    }

    fn new(name: &str, archiving: bool, sshd: Option<Sshd>) -> Scene {
        let mut layout = Layout::new(name, &["alpha", "beta"]);
        let alpha = Server::builder("alpha").wal_segsize(1).create();
        let beta = Server::builder("beta").wal_segsize(1).create();
        fs::remove_dir_all(beta.pgdata()).expect("because the test owns it");
        layout.node_mut("alpha").serve(&alpha);
        layout.node_mut("beta").serve(&beta);
        layout.node_mut("beta").without_archive();
        layout.set("archive", "ack", "local").set("backup", "deadline", "30s");
        match &sshd {
            Some(sshd) => {
                sshd::own(&sshd.key());
                layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
            }
            None => _ = layout.node_mut("beta").set("host", ""),
        }
        if !archiving {
            layout.node_mut("alpha").without_archive();
        }
        layout.write();
        let mut scene = Scene { layout, alpha, beta, sshd };
        scene.bind_key("alpha", "beta");
        if archiving {
            scene.connect_archive();
        }
        scene.alpha.start();
        scene
    }

    /// Whoever calls from the one node lands on the other.
    fn bind_key(&self, from: &str, to: &str) {
        let Some(sshd) = &self.sshd else { return };
        let config = |node: &str| self.layout.node(node).config.display().to_string();
        let far = sshd.path("far.sh");
        let script = format!(
            "exec sh -c \"$(printf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" | sed 's#{}#{}#g')\"\n",
            config(from),
            config(to)
        );
        fs::write(&far, script).expect("because the folder is the test's");
        sshd.authorize(&format!("command=\"sh {}\"", far.display()));
    }

    fn connect_archive(&mut self) {
        self.layout.program("alpha", "archive-wal").args(["--init", "alpha"]).run().expect_ok();
        let shared = self.layout.shared_file("alpha").display().to_string();
        let own = |name: &str| support::program(name).display().to_string();
        self.alpha.set("archive_mode", "on");
        self.alpha.set("archive_command", format!("{} --config {shared} %p", own("archive-wal")));
        self.beta.set("restore_command", format!("{} --config {shared} %f %p %r", own("restore-wal")));
    }

    fn call(&self, words: &[&str]) -> Program {
        self.layout.program("alpha", "base-backup").arg("take").args(["--to", "beta"]).args(words)
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.call(words).run()
    }

    /// Copies, lets PostgreSQL's own tool look at the copy, and gives back the report.
    fn copy(&self, words: &[&str]) -> Value {
        self.verified(self.call(words).arg("--json").run())
    }

    fn verified(&self, copied: Outcome) -> Value {
        let report = json(&copied.expect_ok());
        let complete = report["source"]["wal"] == "with the copy";
        let tool = self.beta.tool("pg_verifybackup").args(if complete { &[][..] } else { &["--no-parse-wal"] });
        tool.arg(self.beta.pgdata()).run().expect_ok();
        report
    }

    /// Starts beta on its copy, as a standby of alpha, and waits until it has all that alpha has.
    fn start_beta(&mut self) {
        assert!(self.beta.pgdata().join("standby.signal").exists(), "a copy is to become a standby");
        self.beta.follow(&self.alpha).set("archive_mode", "off");
        self.beta.start();
        // The end of a segment that was switched lies behind all that is written, until something is.
        self.alpha.execute("checkpoint");
        self.beta.wait_replayed(&self.alpha.wal_position(), PATIENCE);
    }

    fn same(&self, questions: &[&str]) {
        for question in questions {
            assert_eq!(self.beta.query(question), self.alpha.query(question), "{question}");
        }
    }

    fn no_session_is_left(&self) -> bool {
        self.alpha.query("select count(*) from pg_stat_activity where application_name like 'pgwarm%'") == "0"
    }

    /// True for what the copy of a server's data directory cannot start with.
    fn is_half(&self) -> bool {
        self.beta.pgdata().join("pgwarm-restore.json").exists()
            && !self.beta.pgdata().join("global/pg_control").exists()
    }
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// A number of a report.
fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {report:#}"))
}

/// Stops a standby and lets PostgreSQL look at every page.
fn check_pages(mut standby: Server) {
    if standby.exit_status().is_none() {
        standby.stop(Stop::Fast);
    }
    standby.tool("pg_checksums").arg("--check").arg("--pgdata").arg(standby.pgdata()).run().expect_ok();
}

/// Every file below a directory, with its content.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    entries
        .filter(|it| it.file_type().is_file())
        .map(|it| (it.path().to_owned(), fs::read(it.path()).unwrap_or_default()))
        .collect()
}

const TABLES: &[&str] = &[
    "select count(*) || ' ' || coalesce(sum(hashtext(id || word)), 0) from t",
    "select count(*) || ' ' || sum(id) from far",
    "select string_agg(datname, ',' order by datname) from pg_database",
];

#[test]
fn a_copy_is_made_under_load_and_the_next_one_sends_what_differs() {
    let mut scene = Scene::remote("life");
    let at = |name: &str| scene.beta.dir().join(name);
    let (space, moved, waldir) = (scene.alpha.dir().join("space"), at("moved"), at("wal"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute(
        "create table t (id bigserial primary key, word text); create table far (id int primary key) tablespace space;
         insert into far select generate_series(1, 50000); create unlogged table gone (id int);
         insert into t (word) select md5(id::text) || repeat('x', 200) from generate_series(1, 80000) as id",
    );
    let stop = AtomicBool::new(false);
    let map = format!("{}={}", space.display(), moved.display());
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = scene.alpha.connect();
            client.batch_execute("create database made_meanwhile").expect("because it is new");
            while !stop.load(Ordering::Relaxed) {
                let done = client.batch_execute(
                    "insert into t (word) select md5(random()::text) from generate_series(1, 50);
                     update t set word = word || 'y' where id % 1000 = 7; delete from t where id % 997 = 3",
                );
                done.expect("because the server runs");
            }
        });
        let wal = waldir.display().to_string();
        let copied = scene.run(&["--rate-limit", "25MB", "--map", &map, "--wal-dir", &wal, "--json"]);
        stop.store(true, Ordering::Relaxed);
        load.join().expect("because the load does not fail");
        scene.verified(copied)
    });
    assert_eq!((&report["base"], &report["source"]["role"]), (&"fresh".into(), &"primary".into()));
    assert!(number(&report, "/source/travelled") < number(&report, "/source/changed"), "{report:#}");
    assert_eq!(fs::read_link(scene.beta.pgdata().join("pg_wal")).ok(), Some(waldir.clone()));
    assert!(fs::read_dir(&moved).is_ok_and(|it| it.count() == 1));
    let label = fs::read_to_string(scene.beta.pgdata().join("backup_label")).expect("because the copy has one");
    assert!(label.contains("BACKUP METHOD: streamed") && label.contains("LABEL: pgwarm copy from alpha to beta\n"));
    scene.start_beta();
    scene.same(TABLES);
    scene.beta.stop(Stop::Fast);

    // The standby has gone its own way in files that are its own; what differs is little all the same.
    write_file(&scene.beta.pgdata().join("base/stray"), "x");
    scene.alpha.execute("update t set word = 'changed' where id in (5, 40000); checkpoint");
    let whole = number(&report, "/source/size");
    let before = content(&scene.beta.pgdata());
    let plan = json(&scene.run(&["--dry-run", "--json"]).expect_ok());
    assert!(plan["range"].is_null() && number(&plan, "/source/changed") < whole / 2, "{plan:#}");
    assert!(number(&plan, "/target/removed") > 0 && before == content(&scene.beta.pgdata()), "{plan:#}");
    let report = scene.copy(&[]);
    assert_eq!(report["base"], "delta");
    // The load, hint bits and autovacuum have touched most pages of one table.
    assert!(number(&report, "/source/changed") < whole / 2, "{report:#}");
    assert!(number(&report, "/source/travelled") < whole / 20, "{report:#}");
    assert!(!scene.beta.pgdata().join("base/stray").exists() && number(&report, "/target/removed") > 0);
    // Without being told again, tablespace and WAL stay where the old copy had them.
    assert_eq!(fs::read_link(scene.beta.pgdata().join("pg_wal")).ok(), Some(waldir));
    scene.start_beta();
    scene.same(TABLES);
    assert!(scene.no_session_is_left());
    check_pages(scene.beta);
}

#[test]
fn a_copy_that_went_its_own_way_is_overwritten_only_when_that_is_said() {
    let mut scene = Scene::local("astray");
    scene.alpha.execute("create table t as select id, md5(id::text) as word from generate_series(1, 60000) as id");
    let first = scene.copy(&[]);
    assert_eq!(first["source"]["wal"], "with the copy");
    // Nobody ever started it, so it holds nothing of its own.
    assert_eq!(scene.copy(&[])["base"], "delta");
    scene.start_beta();
    scene.beta.promote();
    scene.beta.execute("insert into t values (-1, 'only here'); create table mine (id int); checkpoint");
    scene.beta.stop(Stop::Fast);
    let refused = scene.run(&[]).expect_code(20);
    assert!(refused.stderr.contains("may hold what nobody else has"), "{refused}");
    assert!(scene.beta.pgdata().join("global/pg_control").exists());
    scene.alpha.execute("insert into t values (-2, 'only there')");
    let own = "port = 1 # of beta";
    write_file(&scene.beta.pgdata().join("pg_ident.conf"), own);
    let report = scene.copy(&["--drop-wal", "--keep-config"]);
    assert!(number(&report, "/source/changed") < number(&report, "/source/size") / 3, "{report:#}");
    assert_eq!(fs::read_to_string(scene.beta.pgdata().join("pg_ident.conf")).ok().as_deref(), Some(own));
    scene.start_beta();
    scene.same(&["select count(*) || ' ' || sum(hashtext(id || word)) from t", "select count(*) from pg_class"]);
    // A damaged page travels as it is, and is told.
    let relation = scene.alpha.query("select pg_relation_filepath('t')");
    let path = scene.alpha.pgdata().join(&relation);
    scene.alpha.execute("checkpoint");
    let file = fs::OpenOptions::new().write(true).open(path).expect("because the test owns it");
    file.write_all_at(b"damage", 2 * 8192 + 4000).expect("because the test owns it");
    scene.beta.stop(Stop::Fast);
    let outcome = scene.run(&["--json"]).expect_code(22);
    assert!(outcome.stderr.contains(&format!("'{relation}' blocks 2")), "{outcome}");
    assert_eq!(json(&outcome)["source"]["damaged_pages"][0]["blocks"], serde_json::json!([2]));
}

#[test]
fn whichever_end_is_killed_the_next_run_goes_on() {
    let mut scene = Scene::remote("killed");
    scene.alpha.execute(
        "create table t as select id, md5(id::text) as word from generate_series(1, 300000) as id; checkpoint",
    );
    let target = scene.beta.pgdata();
    let weight = || content(&target).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let sshd = scene.sshd.as_ref().expect("because it is remote");
    let running = scene.call(&["--rate-limit", "8MB"]).spawn();
    wait_until(PATIENCE, "some of it is there", || weight() > 12 << 20);
    assert_eq!(sshd.signal("base-backup", Signal::KILL), 1);
    let outcome = running.wait().expect_code(40);
    assert!(outcome.stderr.contains("the connection to node 'beta' broke"), "{outcome}");
    assert!(scene.is_half());
    wait_until(PATIENCE, "the session is gone", || scene.no_session_is_left());
    let report = scene.copy(&[]);
    assert_eq!(report["base"], "resume");
    assert!(number(&report, "/source/size") - number(&report, "/source/changed") > 12 << 20, "{report:#}");

    let running = scene.call(&["--rate-limit", "8MB"]).spawn();
    wait_until(PATIENCE, "it has begun", || scene.is_half());
    running.signal(Signal::KILL);
    drop(running);
    wait_until(PATIENCE, "the session is gone", || scene.no_session_is_left());
    wait_until(PATIENCE, "the far end is gone", || sshd.processes("base-backup").is_empty());
    assert!(scene.is_half());
    scene.beta.launch();
    assert!(!scene.beta.wait_exit(PATIENCE).success(), "a server started on a half");
    assert!(scene.beta.log_has("could not find the database system"), "{}", scene.beta.log());

    scene.alpha.execute("insert into t values (-1, 'later')");
    let report = scene.copy(&[]);
    assert_eq!(report["base"], "resume");
    assert!(number(&report, "/source/changed") < number(&report, "/source/size") / 4, "{report:#}");
    scene.start_beta();
    scene.same(&["select count(*) || ' ' || sum(hashtext(id || word)) from t"]);
    check_pages(scene.beta);
}

#[test]
fn what_is_not_an_old_copy_is_never_touched() {
    let mut scene = Scene::remote("refused");
    let target = scene.beta.pgdata();
    let refused = |scene: &Scene, words: &[&str], why: &str| {
        let before = content(&target);
        let outcome = scene.run(words).expect_code(20);
        assert!(outcome.stderr.contains(why), "{why}: {outcome}");
        assert_eq!(content(&target), before, "{why}");
        assert!(scene.no_session_is_left());
    };
    make_dir(&target);
    write_file(&target.join("letter"), "dear");
    refused(&scene, &["--drop-wal"], "is not empty, and no data directory");
    fs::remove_dir_all(&target).expect("because the test owns it");

    let mut stranger = Server::builder("stranger").wal_segsize(1).fresh_identity().start();
    stranger.stop(Stop::Fast);
    fs::rename(stranger.pgdata(), &target).expect("because it is the same file system");
    refused(&scene, &["--drop-wal"], "holds data of another cluster");
    fs::remove_dir_all(&target).expect("because the test owns it");

    let space = scene.alpha.dir().join("space");
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    refused(&scene, &[], "is the source's own directory");
    refused(&scene, &["--map", "1=/nowhere"], "the source has no tablespace as named");
    refused(
        &scene,
        &["--map", &format!("{}={}/inner", space.display(), target.display())],
        "outside the data directory",
    );
    let used = scene.beta.dir().join("used");
    make_dir(&used);
    write_file(&used.join("letter"), "dear");
    let wal = used.display().to_string();
    refused(&scene, &["--map", &format!("{}=/tmp/x", space.display()), "--wal-dir", &wal], "is not empty, and not of");
    assert!(!target.exists());
    scene.alpha.execute("drop tablespace space");

    scene.copy(&[]);
    scene.start_beta();
    let outcome = scene.run(&["--drop-wal"]).expect_code(20);
    assert!(outcome.stderr.contains("a server runs on") && outcome.stderr.contains("(on node 'beta')"), "{outcome}");
    assert!(scene.beta.in_recovery());

    // The machine that answers is another node than the one that is meant.
    scene.bind_key("beta", "alpha");
    let outcome = scene.run(&[]).expect_code(20);
    assert!(outcome.stderr.contains("this is node 'alpha', not 'beta'"), "{outcome}");
    scene.run(&["--to", "gamma"]).expect_code(2);
}

#[test]
fn a_standby_is_copied_from_and_a_promotion_meanwhile_ends_it() {
    let mut scene = Scene::remote("pulled");
    scene.alpha.execute("create table t as select id, md5(id::text) as word from generate_series(1, 150000) as id");
    let (space, moved) = (scene.alpha.dir().join("space"), scene.beta.dir().join("space"));
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    scene.alpha.execute("create table far tablespace space as select generate_series(1, 1000) as id");
    scene.copy(&["--map", &format!("{}={}", space.display(), moved.display())]);
    scene.start_beta();
    a_backup_of_beta_is_taken_into_the_archive_of_alpha(&mut scene);
    // Beta's copy goes on to a third directory: it is pulled from there, by the node alpha, which gets another one.
    let mut gamma = Server::builder("gamma").wal_segsize(1).create();
    fs::remove_dir_all(gamma.pgdata()).expect("because the test owns it");
    let primary = scene.alpha.conninfo();
    scene.layout.node_mut("alpha").pgdata = gamma.pgdata();
    scene.layout.node_mut("beta").set("archive", "");
    scene.layout.write();
    let map = format!("{}={}", moved.display(), gamma.dir().join("space").display());
    let pull = |words: &[&str]| {
        let call = scene.layout.program("alpha", "base-backup").args(["take", "--from", "beta", "--map", &map]);
        call.args(words)
    };
    scene.alpha.execute("insert into t values (-1, 'later'); checkpoint");
    scene.beta.wait_replayed(&scene.alpha.wal_position(), PATIENCE);
    let report = json(&pull(&["--json", "--copy-wal"]).run().expect_ok());
    assert_eq!(
        (&report["source"]["role"], &report["from"], &report["to"]),
        (&"standby".into(), &"beta".into(), &"alpha".into())
    );
    gamma.tool("pg_verifybackup").arg(gamma.pgdata()).run().expect_ok();
    gamma.set("primary_conninfo", primary).start();
    gamma.wait_replayed(&scene.alpha.wal_position(), PATIENCE);
    let question = "select count(*) || ' ' || sum(hashtext(id || word)) from t";
    assert_eq!(gamma.query(question), scene.alpha.query(question));
    gamma.stop(Stop::Fast);

    let running = pull(&["--copy-wal", "--rate-limit", "4MB"]).spawn();
    let copying = "select count(*) from pg_stat_activity where application_name like 'pgwarm%' and backend_type = 'client backend'";
    wait_until(PATIENCE, "it copies", || {
        scene.beta.query(copying) != "0" && !gamma.pgdata().join("global/pg_control").exists()
    });
    scene.beta.promote();
    let outcome = running.wait().expect_code(20);
    assert!(outcome.stderr.contains("promoted while it was backed up"), "{outcome}");
    wait_until(PATIENCE, "the session is gone", || scene.beta.query(copying) == "0");
    assert!(!gamma.pgdata().join("global/pg_control").exists());
}

/// Beta, a standby, has the server, alpha the archive; alpha asks.
fn a_backup_of_beta_is_taken_into_the_archive_of_alpha(scene: &mut Scene) {
    let call = |scene: &Scene, words: &[&str]| {
        let call = scene.layout.program("alpha", "base-backup").args(words);
        call.env("LD_LIBRARY_PATH", scene.alpha.binaries().library_path()).run()
    };
    // The first reader of a row leaves a hint in its page.
    scene.alpha.execute("select count(*) from t; checkpoint");
    scene.beta.wait_replayed(&scene.alpha.wal_position(), PATIENCE);
    let dry = call(scene, &["take", "--of", "beta", "--dry-run"]).expect_ok();
    assert!(dry.stdout.contains("beta: would take a full backup"), "{dry}");
    let full = call(scene, &["take", "--of", "beta", "--json", "--note", "why=it's new", "--jobs", "2"]);
    let full = json(&full.expect_ok());
    assert_eq!((&full["node"], &full["role"]), (&"beta".into(), &"standby".into()), "{full:#}");
    assert_eq!(full["annotations"]["why"], "it's new");
    let refused = call(scene, &["take", "--of", "beta", "--incremental", "--parent", "20010101T000000F"]);
    let refused = refused.expect_code(1);
    assert!(refused.stderr.contains("beta took no backup") && refused.stderr.contains("20010101T000000F"), "{refused}");
    the_far_end_ends_where_nobody_waits_for_it(scene);
    // Without pgwarm there, by the replication protocol, on a parent that was taken the other way; and back.
    let mut taken: Vec<String> = Vec::new();
    for (transport, at) in [("sftp", 1), ("ssh", 2)] {
        scene.layout.node_mut("beta").set("transport", transport);
        scene.layout.write();
        scene.alpha.execute(&format!("update t set word = 'changed {at}' where id < 50; checkpoint"));
        scene.beta.wait_replayed(&scene.alpha.wal_position(), PATIENCE);
        let next = json(&call(scene, &["take", "--of", "beta", "--json", "--incremental"]).expect_ok());
        assert_eq!(
            (&next["kind"], &next["node"], &next["role"]),
            (&"incremental".into(), &"beta".into(), &"standby".into())
        );
        let (stored, whole) = (number(&next, "/stored"), number(&full, "/stored"));
        assert!(stored * 2 < whole, "{stored} of {whole}");
        taken.push(next["label"].as_str().unwrap_or_default().to_owned());
    }
    call(scene, &["verify"]).expect_ok();
    let oid = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    let there = scene.beta.dir().join("space").display().to_string();
    for label in ["latest", &taken[0]] {
        let target = scene.alpha.dir().join(format!("restored-{label}"));
        let space = scene.alpha.dir().join(format!("space-{label}"));
        let map = format!("{oid}={}", space.display());
        call(scene, &["restore", label, "--to", &target.display().to_string(), "--map", &map]).expect_ok();
        scene.alpha.tool("pg_verifybackup").arg("--no-parse-wal").arg(&target).run().expect_ok();
        let shown = json(&call(scene, &["show", label, "--json"]).expect_ok());
        assert_eq!(shown["tablespaces"][0]["location"], there, "{shown:#}");
        assert_eq!(fs::read_link(target.join("pg_tblspc").join(&oid)).ok(), Some(space));
    }
}

/// Whoever asked is killed: the node that takes the backup notices, and is free again.
fn the_far_end_ends_where_nobody_waits_for_it(scene: &Scene) {
    let sshd = scene.sshd.as_ref().expect("because beta is remote");
    let call = |words: &[&str]| {
        let call = scene.layout.program("alpha", "base-backup").args(["take", "--of", "beta"]).args(words);
        call.env("LD_LIBRARY_PATH", scene.alpha.binaries().library_path())
    };
    let sessions = "select count(*) from pg_stat_activity where application_name like 'pgwarm%'
                     and backend_type = 'client backend'";
    let slow = call(&["--rate-limit", "1MB"]).spawn();
    wait_until(PATIENCE, "it copies", || scene.beta.query(sessions) != "0");
    let busy = call(&[]).run().expect_code(61);
    assert!(busy.stderr.contains("beta took no backup: ") && busy.stderr.contains("base-backup (pid "), "{busy}");
    slow.signal(Signal::KILL);
    drop(slow);
    wait_until(Duration::from_secs(10), "the far end is gone", || sshd.processes("base-backup").is_empty());
    wait_until(PATIENCE, "its session is gone", || scene.beta.query(sessions) == "0");
}

#[test]
fn a_node_without_pgwarm_is_copied_by_the_replication_protocol() {
    let mut scene = Scene::local("bare");
    scene.alpha.execute("create table t as select id, md5(id::text) as word from generate_series(1, 20000) as id");
    scene.layout.node_mut("alpha").set("transport", "sftp");
    scene.layout.write();
    let clone = |words: &[&str]| {
        let call = scene.layout.program("beta", "base-backup").args(["take", "--from", "alpha"]).args(words);
        call.env("LD_LIBRARY_PATH", scene.alpha.binaries().library_path()).run()
    };
    clone(&["--dry-run"]).expect_ok();
    assert!(!scene.beta.pgdata().exists());
    clone(&[]).expect_ok();
    scene.beta.tool("pg_verifybackup").arg(scene.beta.pgdata()).run().expect_ok();
    let refused = clone(&[]).expect_code(20);
    assert!(refused.stderr.contains("is not empty"), "{refused}");
    scene.start_beta();
    scene.same(&["select count(*) || ' ' || sum(hashtext(id || word)) from t"]);
}
