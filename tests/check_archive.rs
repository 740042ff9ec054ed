//! `check-archive` on archives that real servers filled: whole, with a hole, damaged, and after a failover that left
//! segments behind.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sshd::Sshd;
use support::{Layout, Outcome, PATIENCE, Program, Server, wait_until};

/// One node with a server that archives to its own archive.
struct Scene {
    layout: Layout,
    alpha: Server,
}

impl Scene {
    /// Archives so many segments of 1 MiB.
    fn new(name: &str, segments: usize) -> Scene {
        let mut alpha = Server::builder(name).wal_segsize(1).set("archive_mode", "on").create();
        let mut layout = Layout::new(name, &["alpha"]);
        layout.set("archive", "worker", "off").set("archive", "to", "own").set("archive", "ack", "local");
        layout.node_mut("alpha").serve(&alpha);
        layout.write();
        alpha.set("archive_command", archive_command(&layout, "alpha"));
        layout.program("alpha", "archive-wal").arg("--init").run().expect_ok();
        alpha.start();
        let scene = Scene { layout, alpha };
        for _ in 0..segments {
            scene.segment();
        }
        scene
    }

    /// Commits something, ends the segment and waits until it is archived.
    fn segment(&self) -> String {
        let name = segment(&self.alpha);
        let stored = self.stored(&name);
        wait_until(PATIENCE, "the segment is archived", || stored.exists());
        name
    }

    fn wal(&self) -> PathBuf {
        wal(&self.layout, "alpha")
    }

    fn stored(&self, name: &str) -> PathBuf {
        self.wal().join(&name[..16]).join(format!("{name}.zst"))
    }

    fn check(&self, words: &[&str]) -> Outcome {
        self.layout.program("alpha", "check-archive").args(words).run()
    }

    /// The report, and the exit code checked.
    fn report(&self, code: i32, words: &[&str]) -> Value {
        report(self.check(&[&["--json"], words].concat()).expect_code(code))
    }
}

fn segment(server: &Server) -> String {
    server.execute("create table if not exists t (at timestamptz); insert into t values (now())");
    server.switch_wal()
}

fn archive_command(layout: &Layout, node: &str) -> String {
    let program = support::program("archive-wal");
    format!("{} --config {} %p", program.display(), layout.shared_file(node).display())
}

fn wal(layout: &Layout, node: &str) -> PathBuf {
    let cluster = layout.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let archive = layout.node(node).archive.clone().expect("because the node has an archive");
    let clusters: Vec<PathBuf> = fs::read_dir(&archive).into_iter().flatten().flatten().map(|e| e.path()).collect();
    assert_eq!(clusters.len(), 1, "one cluster is in the archive of {cluster}");
    clusters[0].join("wal")
}

fn report(outcome: Outcome) -> Value {
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    assert_eq!(report["format"], 1);
    known_to_the_schema(&report);
    report
}

/// Every key that is printed stands in the schema, at its place.
fn known_to_the_schema(report: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../etc/check-archive.schema.json")).expect("it is JSON");
    fn walk(value: &Value, schema: &Value, root: &Value, path: &str) {
        let named = schema["$ref"].as_str().and_then(|name| root.pointer(name.trim_start_matches('#')));
        let schema = named.unwrap_or(schema);
        if let Some(either) = schema["oneOf"].as_array().filter(|_| !value.is_null()) {
            return walk(value, &either[1], root, path);
        }
        for (key, inner) in value.as_object().into_iter().flatten() {
            let known = schema["properties"].get(key);
            walk(
                inner,
                known.unwrap_or_else(|| panic!("the schema lacks {path}.{key}")),
                root,
                &format!("{path}.{key}"),
            );
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(value.get(key).is_some() || value.is_null(), "{path}.{key} is missing");
        }
        for inner in value.as_array().into_iter().flatten() {
            walk(inner, &schema["items"], root, path);
        }
    }
    walk(report, &schema, &schema, "");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// First and last segment of every stretch in a list.
fn stretches(list: &Value) -> Vec<(String, String)> {
    let stretches = list.as_array().into_iter().flatten();
    stretches.map(|gap| (text(&gap["first"]).to_owned(), text(&gap["last"]).to_owned())).collect()
}

/// Runs a line that check-archive printed, as an operator would.
fn run_line(line: &str) {
    let programs = support::program("archive-wal");
    let programs = programs.parent().expect("because a program is in a folder");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    Program::at("/bin/sh").args(["-c", line]).env("PATH", path).run().expect_ok();
}

/// Sets the time of writing of a file to what it was.
fn set_modified(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).expect("because the test owns it");
    file.set_modified(time).expect("because the test owns it");
}

/// Exchanges the content of a stored file, and gives it back to the account.
fn overwrite(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("because the test owns it");
    sshd::own(path);
}

#[test]
fn an_archive_that_is_whole_is_said_to_be_so_and_is_read_once() {
    let scene = Scene::new("whole", 4);
    scene.report(0, &["--dry-run"]);
    let first = scene.report(0, &[]);
    assert_eq!(first["verdict"], "ok");
    for list in ["gaps", "orphans", "damaged", "acknowledged"] {
        assert_eq!(first[list].as_array().map(Vec::len), Some(0), "{first}");
    }
    let files = first["verification"]["files"].as_u64().expect("a number");
    assert!(files >= 4, "{first}");
    assert_eq!(first["timelines"][0]["segments"].as_u64(), Some(files));
    let notices = first["notices"].to_string();
    assert!(notices.contains("no base backup in this archive: nothing can be restored from it alone"), "{notices}");
    // The commit in the newest segment is as old as the test.
    let committed =
        scene.alpha.query("select extract(epoch from max(at))::bigint from t").parse::<i64>().expect("a number");
    let told = chrono::DateTime::parse_from_rfc3339(text(&first["newest"]["last_commit"])).expect("a time").timestamp();
    assert!((told - committed).abs() <= 1, "{told} {committed}");
    // What was read once is not read again, but what came since is.
    scene.segment();
    let second = scene.report(0, &[]);
    assert_eq!(second["verification"]["files"], 1);
    assert_eq!(second["verification"]["remembered"], files);
    let names = scene.report(0, &["--names-only"]);
    assert_eq!(
        (names["verification"]["contents"].clone(), names["verification"]["files"].clone()),
        (false.into(), 0.into())
    );
    // Without the mark everything is read again.
    fs::remove_file(scene.layout.node("alpha").spool.join("verified/alpha.json")).expect("because there is a mark");
    assert_eq!(scene.report(0, &[])["verification"]["files"], files + 1);
    let text = scene.check(&[]).expect_ok().stdout;
    assert!(text.contains("whole; 0 files read") && text.contains("first segment"), "{text}");
    assert_eq!(scene.check(&["--quiet"]).expect_ok().stdout, "");
}

#[test]
fn a_segment_that_was_removed_is_named_healed_or_acknowledged() {
    let scene = Scene::new("removed", 2);
    let (gone, next) = (scene.segment(), scene.segment());
    scene.segment();
    // One is still in pg_wal, the other is nowhere.
    for name in [&gone, &next] {
        fs::remove_file(scene.stored(name)).expect("because it is archived");
    }
    let _ = fs::remove_file(scene.alpha.pgdata().join("pg_wal").join(&next));
    let report = scene.report(20, &[]);
    assert_eq!(stretches(&report["gaps"]), [(gone.clone(), next.clone())]);
    let copy = &report["gaps"][0]["copies"][0];
    assert_eq!((text(&copy["first"]), &copy["kind"], &copy["proven"]), (gone.as_str(), &"pg_wal".into(), &true.into()));
    assert_eq!(stretches(&report["gaps"][0]["nowhere"]), [(next.clone(), next.clone())]);
    run_line(text(&copy["commands"][0]["line"]));
    assert_eq!(stretches(&scene.report(20, &[])["gaps"]), [(next.clone(), next.clone())]);
    // Accepted, it is shown and no finding; what is there cannot be accepted.
    scene.check(&["--acknowledge", &gone, "--reason", "lost"]).expect_code(20);
    scene.check(&["--acknowledge", &next]).expect_code(2);
    scene.check(&["--dry-run", "--acknowledge", &next, "--reason", "disk failed"]).expect_ok();
    scene.report(20, &[]);
    scene.check(&["--acknowledge", &format!("{next}..{next}"), "--reason", "disk failed"]).expect_ok();
    let report = scene.report(0, &[]);
    assert_eq!(stretches(&report["acknowledged"]), [(next.clone(), next)]);
    assert_eq!(report["acknowledged"][0]["reason"], "disk failed");
    assert!(scene.check(&[]).expect_ok().stdout.contains("acknowledged: 0"), "it is shown");
}

#[test]
fn damage_is_found_by_content_and_a_changed_file_is_read_again() {
    let scene = Scene::new("damage", 3);
    let (name, other) = (scene.segment(), scene.segment());
    scene.report(0, &[]);
    let stored = scene.stored(&name);
    let good = fs::read(&stored).expect("because it is archived");
    let modified = fs::metadata(&stored).and_then(|data| data.modified()).expect("because it is archived");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0x40;
    // Size and time are the same: only reading everything can tell.
    overwrite(&stored, &bad);
    set_modified(&stored, modified);
    scene.report(0, &[]);
    let report = scene.report(22, &["--full"]);
    assert!(text(&report["damaged"][0]["path"]).ends_with(&format!("{name}.zst")), "{report}");
    // A file that was found bad is read every time.
    let report = scene.report(22, &[]);
    assert_eq!(
        (report["verification"]["files"].clone(), report["damaged"].as_array().map(Vec::len)),
        (1.into(), Some(1))
    );
    overwrite(&stored, &good);
    scene.report(0, &[]);
    // Another time of writing is enough to be read again.
    overwrite(&stored, &bad);
    set_modified(&stored, modified - Duration::from_secs(60));
    scene.report(22, &[]);
    overwrite(&stored, &good);
    // The right bytes of another segment are damage, too.
    overwrite(&stored, &fs::read(scene.stored(&other)).expect("because it is archived"));
    let report = scene.report(22, &[]);
    assert!(text(&report["damaged"][0]["why"]).contains("page of another place"), "{report}");
}

#[test]
fn a_foreign_segment_and_two_encodings_are_told_apart() {
    let scene = Scene::new("foreign", 2);
    let name = scene.segment();
    let stored = scene.stored(&name);
    let plain = stored.with_extension("");
    let wal_file = scene.alpha.pgdata().join("pg_wal").join(&name);
    fs::copy(&wal_file, &plain).expect("because it is still there");
    sshd::own(&plain);
    let report = scene.report(0, &[]);
    assert!(report["notices"].to_string().contains("two encodings"), "{report}");
    // The same name from another cluster: its identifier differs, everything else fits.
    let mut foreign = fs::read(&wal_file).expect("because it is still there");
    foreign[24] ^= 1;
    overwrite(&plain, &foreign);
    let report = scene.report(22, &[]);
    assert!(text(&report["damaged"][0]["why"]).contains("from another cluster"), "{report}");
    fs::remove_file(&plain).expect("because the test wrote it");
    overwrite(&stored.with_file_name("README"), b"x");
    let report = scene.report(0, &[]);
    assert!(report["notices"].to_string().contains("README"), "{report}");
}

#[test]
fn timelines_that_nothing_leads_to_are_named() {
    let scene = Scene::new("orphan", 3);
    let wal = scene.wal();
    overwrite(&wal.join("00000007.history"), b"6\t0/9000000\tno recovery target specified\n");
    let report = scene.report(20, &["--names-only"]);
    assert_eq!(report["orphans"][0]["timeline"], 7);
    assert!(text(&report["orphans"][0]["why"]).contains("timeline 6"), "{report}");
    overwrite(&wal.join("00000007.history"), b"nonsense");
    let report = scene.report(22, &["--names-only"]);
    assert!(text(&report["damaged"][0]["path"]).ends_with("00000007.history"), "{report}");
    fs::remove_file(wal.join("00000007.history")).expect("because the test wrote it");
    // A partial segment behind the last whole one is no gap; behind a hole it shows the hole.
    let last = text(&scene.report(0, &[])["timelines"][0]["last"]).to_owned();
    // Something must stand in the segment being written, or the file is still a recycled one.
    scene.alpha.execute("insert into t values (now())");
    let number = u64::from_str_radix(&last[16..], 16).expect("hexadecimal digits");
    let partial = |number: u64| scene.stored(&format!("{}{number:08X}.partial", &last[..16]));
    let wal_file = scene.alpha.pgdata().join("pg_wal").join(format!("{}{:08X}", &last[..16], number + 1));
    let packed = zstd::encode_all(fs::File::open(&wal_file).expect("the one being written"), 1).expect("it is read");
    overwrite(&partial(number + 1), &packed);
    assert_eq!(scene.report(0, &[])["timelines"][0]["partials"], 1);
    fs::rename(partial(number + 1), partial(number + 3)).expect("because the test wrote it");
    assert_eq!(scene.report(22, &[])["gaps"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_was_discarded_and_what_waits_in_a_queue_is_told() {
    let mut scene = Scene::new("discarded", 2);
    let (waits, gone) = (scene.segment(), scene.segment());
    // The call that archived the last one drains queues before it ends.
    let done = |name: &str| scene.alpha.pgdata().join(format!("pg_wal/archive_status/{name}.done")).exists();
    wait_until(PATIENCE, "the archiver has nothing to do", || done(&gone));
    // A segment that the archive lacks waits in its queue, and nowhere else.
    let queue = scene.layout.node("alpha").spool.join("queue");
    for folder in [&queue, &queue.join("alpha")] {
        support::workspace::make_dir(folder);
    }
    fs::rename(scene.stored(&waits), queue.join("alpha").join(format!("{waits}.zst"))).expect("on one file system");
    fs::remove_file(scene.alpha.pgdata().join("pg_wal").join(&waits)).expect("because it is still there");
    let report = scene.report(20, &[]);
    let copy = &report["gaps"][0]["copies"][0];
    assert_eq!((text(&copy["first"]), &copy["kind"]), (waits.as_str(), &"queue".into()), "{report}");
    run_line(text(&copy["commands"][0]["line"]));
    scene.report(0, &[]);
    // Behind the newest segment nothing shows that there was more, but the record of what was discarded.
    scene.layout.set("archive", "discard_confirmation", "I accept a broken WAL chain").write();
    scene.layout.program("alpha", "archive-wal").arg("--discard").run().expect_ok();
    let lost = segment(&scene.alpha);
    let done = scene.alpha.pgdata().join(format!("pg_wal/archive_status/{lost}.done"));
    let lost_file = scene.alpha.pgdata().join("pg_wal").join(&lost);
    wait_until(PATIENCE, "it is discarded", || done.exists() || !lost_file.exists());
    let report = scene.report(20, &[]);
    assert_eq!(stretches(&report["gaps"]), [(lost.clone(), lost.clone())]);
    assert_eq!(
        (text(&report["gaps"][0]["why"]), text(&report["broken_chains"][0]["first"])),
        ("they were discarded", lost.as_str())
    );
    assert!(text(&report["newest"]["last"]) == gone, "{report}");
    scene.check(&["--acknowledge", &lost, "--reason", "on purpose"]).expect_ok();
    scene.report(0, &[]);
}

#[test]
fn a_backup_can_be_restored_as_far_as_the_wal_is_whole() {
    let scene = Scene::new("window", 1);
    let (start, stop) = (scene.segment(), scene.segment());
    let position = u64::from_str_radix(&stop[16..], 16).expect("hexadecimal digits") << 20;
    let (middle, last) = (scene.segment(), scene.segment());
    let backup = scene.wal().join("../backup");
    for folder in [&backup, &backup.join("b1"), &backup.join("unfinished")] {
        support::workspace::make_dir(folder);
    }
    let description = serde_json::json!({
        "label": "b1", "start_segment": start, "timeline": 1, "stop_lsn": format!("0/{:X}", position + 0x100),
        "stopped": "2026-01-02T03:04:05+00:00",
    });
    overwrite(&backup.join("b1/backup.json"), description.to_string().as_bytes());
    let report = scene.report(0, &[]);
    let window = &report["windows"][0];
    assert_eq!((&window["usable"], text(&window["until"]["last"])), (&true.into(), last.as_str()), "{report}");
    let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(text(value)).expect("a time").timestamp();
    assert_eq!(time(&report["earliest"]), 1_767_323_045);
    assert_eq!(report["latest"], report["newest"]["last_commit"]);
    assert!(report["notices"].to_string().contains("'unfinished' is not finished"), "{report}");
    // A hole behind it shortens the window, one inside makes the backup useless; so does damage.
    let good = fs::read(scene.stored(&middle)).expect("because it is archived");
    fs::remove_file(scene.stored(&middle)).expect("because it is archived");
    let report = scene.report(20, &[]);
    assert_eq!(text(&report["windows"][0]["until"]["last"]), stop);
    assert!(report["latest"].as_str() < report["newest"]["last_commit"].as_str(), "{report}");
    overwrite(&scene.stored(&middle), &good);
    overwrite(&scene.stored(&stop), b"nonsense");
    let report = scene.report(22, &[]);
    assert_eq!((&report["windows"][0]["usable"], &report["earliest"]), (&false.into(), &Value::Null), "{report}");
}

#[test]
fn what_base_backup_took_can_be_restored_and_says_from_when() {
    let scene = Scene::new("taken", 1);
    let taken = scene.layout.program("alpha", "base-backup").args(["take", "--json"]).run().expect_ok();
    let taken: Value = serde_json::from_str(&taken.stdout).expect("it is JSON");
    let last = scene.segment();
    let report = scene.report(0, &[]);
    let window = &report["windows"][0];
    assert_eq!(
        (&window["backup"], &window["usable"], &window["from"]),
        (&taken["label"], &true.into(), &taken["stop_lsn"])
    );
    assert_eq!(text(&window["until"]["last"]), last);
    let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(text(value)).expect("a time").timestamp();
    assert_eq!(time(&report["earliest"]), time(&taken["stopped"]));
    assert!(report["latest"].is_string(), "{report}");
}

/// What a failover left behind: two nodes behind one sshd, and the segments that never reached an archive.
struct Failover {
    _sshd: Sshd,
    layout: Layout,
    alpha: Server,
    beta: Server,
    lost: Vec<String>,
}

/// A primary whose archiving fails, a standby that streams: promoted, it leaves a hole that nobody fills by himself.
fn failover() -> Failover {
    let sshd = Sshd::start();
    sshd::own(&sshd.key());
    let mut alpha =
        Server::builder("hole").wal_segsize(1).set("archive_mode", "on").set("wal_keep_size", "512MB").tcp().create();
    let mut layout = Layout::new("hole", &["alpha", "beta"]);
    layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
    layout.set("archive", "worker", "off").set("ssh", "connect_timeout", "10s");
    layout.node_mut("alpha").serve(&alpha);
    layout.write();
    let program = |name: &str| layout.program("alpha", name);
    program("archive-wal").arg("--init").run().expect_ok();
    program("archive-wal").args(["--init", "beta"]).run().expect_ok();
    alpha.set("archive_command", archive_command(&layout, "alpha"));
    alpha.start();
    let mut beta = alpha.base_backup("beta");
    layout.node_mut("beta").serve(&beta);
    layout.write();
    beta.set("archive_command", archive_command(&layout, "beta"));
    beta.follow(&alpha);
    beta.start();
    let before = segment(&alpha);
    let stored = wal(&layout, "beta").join(&before[..16]).join(format!("{before}.zst"));
    wait_until(PATIENCE, "the segment is archived", || stored.exists());
    // From here on nothing is archived.
    alpha.set("archive_command", "false");
    alpha.reload();
    let lost: Vec<String> = (0..4).map(|_| segment(&alpha)).collect();
    // The fork comes to lie inside a segment, which is then archived as a partial one.
    alpha.execute("insert into t values (now())");
    beta.wait_replayed(&alpha.query("select pg_current_wal_flush_lsn()"), PATIENCE);
    alpha.kill();
    beta.promote();
    let history = wal(&layout, "beta").join("00000002.history");
    wait_until(PATIENCE, "the history is archived", || history.exists());
    let after = segment(&beta);
    let stored = wal(&layout, "beta").join(&after[..16]).join(format!("{after}.zst"));
    wait_until(PATIENCE, "the new primary archives", || stored.exists());

    Failover { _sshd: sshd, layout, alpha, beta, lost }
}

#[test]
fn the_hole_of_a_failover_is_named_found_and_healed() {
    let Failover { layout, alpha, beta, lost, _sshd } = failover();
    let check = |code| report(layout.program("beta", "check-archive").arg("--json").run().expect_code(code));
    let found = check(20);
    assert_eq!(stretches(&found["gaps"]), [(lost[0].clone(), lost[3].clone())]);
    assert_eq!((&found["gaps"][0]["count"], &found["orphans"][0]["timeline"]), (&4.into(), &2.into()));
    assert_eq!(
        (found["gaps"][0]["nowhere"].as_array().map(Vec::len), &found["timelines"][0]["partials"]),
        (Some(0), &1.into())
    );
    // The copy that is proven and on this node comes first.
    assert_eq!(found["gaps"][0]["copies"][0]["node"], "beta");
    let copies = found["gaps"][0]["copies"].as_array().expect("a list");
    let of = |node: &str| copies.iter().find(|copy| copy["node"] == node && copy["kind"] == "pg_wal");
    // The new primary has them, read and proven; the old one's are seen over ssh.
    let here = of("beta").unwrap_or_else(|| panic!("{found}"));
    let there = of("alpha").unwrap_or_else(|| panic!("{found}"));
    assert_eq!((&here["proven"], &there["proven"]), (&true.into(), &false.into()));
    assert_eq!((text(&there["first"]), text(&there["last"])), (lost[0].as_str(), lost[3].as_str()));
    let printed = layout.program("beta", "check-archive").run().expect_code(20).stdout;
    assert!(printed.contains(&format!("missing: 4 segments, {} to {}", lost[0], lost[3])), "{printed}");
    for command in here["commands"].as_array().expect("a list") {
        assert_eq!(command["node"], "beta");
        assert!(printed.contains(text(&command["line"])), "{printed}");
        run_line(text(&command["line"]));
    }
    assert_eq!(check(0)["verdict"], "ok");
    // What the other archive lacks, this one has; the commands that are printed there bring it.
    let gone = wal(&layout, "alpha").join(&lost[1][..16]).join(format!("{}.zst", lost[1]));
    fs::remove_file(&gone).expect("because the healing reached both archives");
    fs::remove_file(alpha.pgdata().join("pg_wal").join(&lost[1])).expect("because it was kept there");
    fs::remove_file(beta.pgdata().join("pg_wal").join(&lost[1])).expect("because it was kept there");
    let there = |code| report(layout.program("alpha", "check-archive").arg("--json").run().expect_code(code));
    let found = there(20);
    let copy = &found["gaps"][0]["copies"][0];
    assert_eq!((&copy["kind"], &copy["node"]), (&"archive".into(), &"beta".into()), "{found}");
    run_line(text(&copy["commands"][0]["line"]));
    there(0);
    // The archive of another node is checked from here as well.
    report(layout.program("alpha", "check-archive").args(["--json", "beta"]).run().expect_code(0));
}

/// Run it with `--ignored`: it makes a million files.
#[test]
#[ignore = "it makes a million files"]
fn a_million_names_take_seconds_and_little_memory() {
    let scene = Scene::new("million", 1);
    let wal = scene.wal();
    fs::remove_dir_all(wal.join("0000000100000000")).expect("because a segment was archived");
    for log in 1..=3907u32 {
        let folder = wal.join(format!("00000001{log:08X}"));
        fs::create_dir(&folder).expect("because the test owns it");
        for segment in 0..256u32 {
            // The hole is in the middle.
            if (log, segment) != (2000, 77) {
                File::create(folder.join(format!("00000001{log:08X}{segment:08X}.zst"))).expect("it is made");
            }
        }
    }
    overwrite(&wal.join("../identity.json"), identity(&wal).as_bytes());
    let begin = std::time::Instant::now();
    let line = format!(
        "ulimit -v 64000; {} --config {} --names-only --json",
        support::program("check-archive").display(),
        scene.layout.shared_file("alpha").display()
    );
    let outcome = Program::at("/bin/sh").args(["-c", &line]).run().expect_code(20);
    println!("a million names: {:?}", begin.elapsed());
    let report = report(outcome);
    assert_eq!(stretches(&report["gaps"])[0].0, "00000001000007D00000004D");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// The identity with segments of 16 MiB, so that a folder holds 256.
fn identity(wal: &Path) -> String {
    let text = fs::read_to_string(wal.join("../identity.json")).expect("because the archive was made");
    text.replace("1048576", "16777216")
}
