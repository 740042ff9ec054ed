//! Incremental backups of real servers: what changed and only that is stored, a chain is restored in one pass, and
//! nothing that was restorable is lost, whatever breaks on the way.

mod support;

#[path = "support/backups.rs"]
mod backups;
#[path = "support/sshd.rs"]
mod sshd;
#[path = "support/volume.rs"]
mod volume;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use backups::{Scene, check_everything, file_of};
use rustix::process::Signal;
use serde_json::Value;
use support::workspace::make_dir;
use support::{PATIENCE, Program, Server, wait_until};
use volume::Volume;

/// Long enough for a file's time to be trusted.
const SETTLED: Duration = Duration::from_millis(3100);

/// A table of so many blocks, each row on a block of its own.
fn table(server: &Server, name: &str, blocks: u32) {
    server.execute(&format!(
        "create table {name} (id int, filler text) with (fillfactor = 10, autovacuum_enabled = off);
         alter table {name} alter filler set storage plain;
         insert into {name} select id, repeat(md5(id::text), 140) from generate_series(1, {blocks}) id"
    ));
}

/// Runs statements one by one: some refuse to stand beside others.
fn each(server: &Server, statements: &[&str]) {
    let mut client = server.connect();
    for statement in statements {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("'{statement}' was refused: {error:?}"));
    }
}

/// Sums of what a table holds.
fn content(server: &Server, table: &str) -> String {
    server.query(&format!("select count(*) || ' ' || coalesce(sum(hashtext({table}::text)::bigint), 0) from {table}"))
}

/// Takes an incremental backup; what it says of itself.
fn increment(scene: &Scene, words: &[&str]) -> Value {
    let taken = scene.json(&[&["take", "--incremental"], words].concat());
    assert_eq!(taken["kind"], "incremental", "{taken:#}");
    taken
}

fn label(taken: &Value) -> String {
    taken["label"].as_str().unwrap_or_else(|| panic!("no label in {taken:#}")).to_owned()
}

/// How many files in all, how many as in the parent, and of how many only blocks are stored.
fn stored(scene: &Scene, label: &str) -> (usize, usize, usize) {
    let text = fs::read_to_string(scene.folder(label).join("index.json")).expect("because every backup has one");
    let index: Value = serde_json::from_str(&text).expect("because it is JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let files: Vec<Value> = list(&index["objects"]).iter().flat_map(|object| list(&object["files"])).collect();
    let unchanged = list(&index["unchanged"]).len();
    let partly = files.iter().filter(|file| file["blocks"].is_u64()).count();
    (files.len() + unchanged, unchanged, partly)
}

/// Waits until a checkpoint that begins now is later than every file, so that times can be trusted.
fn settle(scene: &Scene) {
    scene.alpha.execute("checkpoint");
    let begin = SystemTime::now();
    wait_until(PATIENCE, "times have settled", || begin.elapsed().is_ok_and(|passed| passed > SETTLED));
}

const TABLES: &[&str] = &["steady", "updated", "grown", "cut", "emptied", "renewed", "packed", "far"];

/// Changes of every kind between two backups.
fn change(server: &Server, round: u32) {
    server.execute(&format!(
        "update updated set id = -id where id % 100 = {round};
         insert into grown select id, repeat('g', 4000) from generate_series(1, 300) id;
         update far set id = -id where id = {round};
         insert into gone select 1;
         create index i{round} on steady (id);
         delete from cut where id > {}",
        700 - 50 * round
    ));
    let again = "insert into emptied select id, 'again' from generate_series(1, 600) id";
    let regrown = "insert into cut select id, repeat('c', 4000) from generate_series(1, 900) id";
    let statements = match round {
        1 => vec!["vacuum (truncate) cut", "truncate emptied", "vacuum full packed", "drop table renewed"],
        2 => vec!["vacuum (truncate) cut", again, "reindex table updated"],
        _ => vec![regrown],
    };
    each(server, &statements);
    if round == 2 {
        table(server, "renewed", 700);
    }
    // Hint bits alone, and maps that know no LSN.
    each(server, &["select count(*) from updated", "vacuum (freeze) steady"]);
}

/// Has a server summarize its WAL, where it knows how to; how changes are found then.
fn summarize(server: &Server) -> &'static str {
    if server.query("show server_version_num").as_str() < "170000" {
        return "comparing";
    }
    each(server, &["alter system set summarize_wal = on", "select pg_reload_conf()"]);
    "summaries"
}

/// New databases of a template with a large table; the pages of a copied file keep their old LSNs.
fn create_databases(scene: &Scene, round: u32) {
    let server = &scene.alpha;
    let strategies = if server.query("show server_version_num").as_str() >= "150000" {
        vec![("logged", " strategy wal_log"), ("copied", " strategy file_copy")]
    } else {
        vec![("copied", "")]
    };
    for (name, strategy) in strategies {
        server.execute(&format!("create database {name}{round} template model{strategy}"));
    }
}

fn in_database(server: &Server, database: &str, sql: &str) -> String {
    let outcome = server.tool("psql").args(["-X", "-A", "-t", "-d", database, "-c", sql]).run().expect_ok();
    outcome.stdout.trim().to_owned()
}

/// A primary with tables of at least 5 MiB, one in a tablespace, one unlogged, and a database to copy.
fn furnished(name: &str) -> Scene {
    let scene = Scene::new(name);
    let space = scene.alpha.dir().join("space");
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    for name in TABLES {
        table(&scene.alpha, name, 700);
    }
    scene.alpha.execute("alter table far set tablespace space; create index on updated (id)");
    scene.alpha.execute("create unlogged table gone as select generate_series(1, 200000) as id");
    scene.alpha.execute("create database model");
    in_database(
        &scene.alpha,
        "model",
        "create table m as select id, repeat('m', 1000) from generate_series(1, 7000) id",
    );
    in_database(&scene.alpha, "model", "vacuum freeze m");
    scene
}

/// Ends the load, also where the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_chain_brings_back_what_was_committed_while_everything_changes() {
    let scene = furnished("chain");
    let how = summarize(&scene.alpha);
    let full = scene.take();
    let stop = AtomicBool::new(false);
    let labels: Vec<String> = std::thread::scope(|threads| {
        let _ended = EndOnDrop(&stop);
        threads.spawn(|| {
            let mut client = scene.alpha.connect();
            client.batch_execute("create table busy (id bigserial primary key, word text)").expect("because it is new");
            while !stop.load(Ordering::Relaxed) {
                let done = client.batch_execute(
                    "insert into busy (word) select repeat(md5(random()::text), 20) from generate_series(1, 100);
                     update updated set filler = filler where id % 61 = 7; delete from busy where id % 7 = 3",
                );
                done.expect("because the server runs");
            }
        });
        let taken = (1..=3).map(|round| {
            change(&scene.alpha, round);
            create_databases(&scene, round);
            let taken = increment(&scene, &[]);
            assert_eq!(taken["found_by"], how, "{taken:#}");
            let (_, unchanged, partly) = stored(&scene, &label(&taken));
            assert!(unchanged > 0 && partly >= 2, "round {round}: {unchanged} unchanged, {partly} stored in part");
            label(&taken)
        });
        taken.collect()
    });
    let parents: Vec<Value> = labels.iter().map(|label| scene.json(&["show", label])["parent"].clone()).collect();
    assert_eq!(parents, [full.as_str(), &labels[0], &labels[1]]);
    scene.archive_everything();
    scene.run(&["verify"]).expect_ok();
    let space = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    let moved = scene.alpha.dir().join("moved");
    for label in [&labels[0], &labels[2]] {
        let copy = scene.recover(label, &["--map", &format!("{space}={}", moved.display())]);
        for table in TABLES.iter().chain(&["busy"]) {
            assert_eq!(content(&copy, table), content(&scene.alpha, table), "{table} from {label}");
        }
        assert_eq!(copy.query("select count(*) from gone"), "0");
        for database in scene
            .alpha
            .query("select string_agg(datname, ' ') from pg_database where datname ~ '^(logged|copied)'")
            .split(' ')
        {
            let question = "select count(*) || ' ' || sum(hashtext(m::text)::bigint) from m";
            let expected = in_database(&scene.alpha, "model", question);
            assert_eq!(in_database(&copy, database, question), expected, "{database} from {label}");
        }
        check_everything(copy);
        fs::remove_dir_all(&moved).expect("because the test owns it");
    }
}

#[test]
fn only_what_changed_is_stored_and_what_is_unchanged_is_not_even_read() {
    let scene = Scene::new("small");
    table(&scene.alpha, "t", 2000);
    // Or the first reader writes hint bits into every block.
    scene.alpha.execute("vacuum t");
    settle(&scene);
    let full = scene.take();
    let none = increment(&scene, &[]);
    let (files, unchanged, partly) = stored(&scene, &label(&none));
    // Besides the control file only what a server writes all the time.
    assert!(files - unchanged < 20 && partly == 0, "{unchanged} of {files} unchanged, {partly} partly: {none:#}");
    assert!(none["stored"].as_u64() < Some(1 << 20), "{none:#}");
    let relation = scene.alpha.query("select pg_relation_filepath('t')");
    scene.alpha.execute("update t set id = -id where id % 100 = 0");
    let few = increment(&scene, &[]);
    let blocks = scene.folder(&label(&few)).join(format!("blocks/{relation}.zst"));
    assert!(blocks.exists() && !scene.folder(&label(&few)).join(format!("files/{relation}.zst")).exists());
    let whole = fs::metadata(scene.folder(&full).join(format!("files/{relation}.zst"))).map(|data| data.len());
    assert!(fs::metadata(&blocks).map(|data| data.len() * 10).ok() < whole.ok(), "a tenth would be far too much");
    // A parent of one's own choice, and one that is none.
    let other = increment(&scene, &["--parent", &full]);
    assert_eq!(other["parent"], Value::from(full.clone()));
    scene.run(&["take", "--incremental", "--parent", "20200101T000000F"]).expect_code(1);
    scene.run(&["take", "--parent", &full]).expect_code(2);
    scene.run(&["verify"]).expect_ok();
    check_everything(scene.recover(&label(&other), &[]));
}

#[test]
fn what_no_wal_names_is_not_read_and_without_summaries_all_is_compared() {
    let scene = Scene::new("named");
    let how = summarize(&scene.alpha);
    table(&scene.alpha, "t", 2000);
    scene.alpha.execute("vacuum t");
    let full = scene.take();
    scene.alpha.execute("update t set id = -id where id % 500 = 0");
    let expected = content(&scene.alpha, "t");
    scene.alpha.execute("checkpoint");
    // A page that no WAL names; who reads it finds it damaged.
    let relation = file_of(&scene.alpha, "t");
    let damage = || {
        let file = fs::OpenOptions::new().write(true).open(&relation).expect("because it is there");
        file.write_all_at(b"damage", 100 * 8192 + 4000).expect("because the test owns it");
    };
    damage();
    if how == "summaries" {
        let taken = increment(&scene, &[]);
        assert_eq!(taken["found_by"], how, "{taken:#}");
        assert_eq!(stored(&scene, &label(&taken)).2, 1, "{taken:#}");
        let show = scene.run(&["show", &label(&taken)]).expect_ok();
        assert!(show.stdout.contains("found by the server's WAL summaries"), "{show}");
        scene.archive_everything();
        let copy = scene.recover(&label(&taken), &[]);
        assert_eq!(content(&copy, "t"), expected);
        check_everything(copy);
        // Files of another past of this directory may have the names of those that are looked for.
        let folder = fs::read_dir(scene.alpha.pgdata().join("pg_wal/summaries")).expect("because it is there");
        let summaries: Vec<_> = folder.map(|entry| entry.expect("because it can be listed").path()).collect();
        for summary in &summaries {
            let file = fs::OpenOptions::new().write(true).open(summary).expect("because the test owns it");
            file.set_modified(SystemTime::now() - Duration::from_secs(600)).expect("because the test owns it");
        }
        damage();
        let told = scene.run(&["take", "--incremental", "--parent", &full]).expect_code(22);
        assert!(told.stderr.contains(&format!("is older than '{full}'")), "{told}");
        summaries.iter().for_each(|summary| fs::remove_file(summary).expect("because the test owns it"));
        damage();
    }
    scene.run(&["take", "--incremental", "--parent", &full]).expect_code(22);
    let newest = scene.listed().0.pop().expect("because it was just taken");
    let taken = scene.json(&["show", &newest]);
    assert_eq!((&taken["found_by"], &taken["kind"]), (&"comparing".into(), &"incremental".into()), "{taken:#}");
}

#[test]
fn a_database_that_is_copied_again_under_its_old_number_is_read_though_no_wal_names_its_blocks() {
    let scene = Scene::new("twin");
    let how = summarize(&scene.alpha);
    if scene.alpha.query("show server_version_num").as_str() < "150000" {
        eprintln!("not tested: this server gives a database no number of choice");
        return;
    }
    let twin = "create database twin template model strategy file_copy oid 70000";
    scene.alpha.execute("create database model");
    let filled = "create table m as select id, repeat('m', 1000) as filler from generate_series(1, 7000) id";
    in_database(&scene.alpha, "model", filled);
    each(&scene.alpha, &[twin]);
    scene.take();
    in_database(&scene.alpha, "model", "update m set id = -id where id % 50 = 0");
    each(&scene.alpha, &["drop database twin", twin]);
    let taken = increment(&scene, &[]);
    assert_eq!(taken["found_by"], how, "{taken:#}");
    let relation = in_database(&scene.alpha, "twin", "select pg_relation_filepath('m')");
    let blocks = scene.folder(&label(&taken)).join(format!("blocks/{relation}.zst"));
    assert!(blocks.exists(), "the file has its old name, so that only what differs is stored");
    scene.archive_everything();
    let copy = scene.recover(&label(&taken), &[]);
    let question = "select count(*) || ' ' || sum(hashtext(m::text)::bigint) from m";
    assert_eq!(in_database(&copy, "twin", question), in_database(&scene.alpha, "model", question));
    check_everything(copy);
}

#[test]
fn a_chain_over_primary_and_standby_trusts_summaries_only_where_the_standby_has_come_far_enough() {
    let sshd = sshd::Sshd::start();
    sshd::own(&sshd.key());
    let mut scene = Scene::with_nodes("both", &["alpha", "beta"]).reached_through(&sshd);
    let how = summarize(&scene.alpha);
    table(&scene.alpha, "t", 1000);
    scene.alpha.execute("vacuum t");
    let mut beta = scene.alpha.base_backup("beta");
    beta.follow(&scene.alpha).set("archive_mode", "off").start();
    scene.layout.node_mut("beta").serve(&beta);
    scene.layout.write();
    let take = |node: &str, kind: &[&str]| {
        let words = [&["take", "--place", "beta", "--json"], kind].concat();
        let outcome = scene.layout.program(node, "base-backup").args(words).run().expect_ok();
        serde_json::from_str::<Value>(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    };
    let mut change = |round: u32| {
        let update = format!("update t set id = -id where id % 300 = {round}");
        each(&scene.alpha, &[&update, "checkpoint"]);
        beta.wait_replayed(&scene.alpha.wal_position(), PATIENCE);
        // Wakes its summarizer, which on a standby may sleep for half a minute.
        beta.reload();
    };
    take("alpha", &[]);
    change(1);
    let second = take("beta", &["--incremental"]);
    // Nothing has let the standby begin anywhere else since, so it begins before the parent has ended.
    let third = take("beta", &["--incremental"]);
    change(2);
    let fourth = take("alpha", &["--incremental"]);
    let found: Vec<_> = [&second, &third, &fourth].map(|it| it["found_by"].clone()).into();
    assert_eq!(found, [how, "comparing", how], "{second:#} {third:#} {fourth:#}");
    scene.archive_everything();
    for taken in [second, fourth] {
        let copy = scene.recover(&label(&taken), &["--place", "beta"]);
        assert_eq!(content(&copy, "t"), content(&scene.alpha, "t"));
        check_everything(copy);
    }
}

#[test]
fn no_change_is_missed_that_neither_lsn_nor_mtime_tells() {
    let mut scene = Scene::new("sly");
    for name in ["a", "b"] {
        table(&scene.alpha, name, 700);
        let update = format!("update {name} set id = {}", if name == "a" { 1 } else { 2 });
        each(&scene.alpha, &[&update, &format!("vacuum full {name}")]);
    }
    settle(&scene);
    scene.take();
    // Somebody puts older content of the same size under the same name and gives it the old time.
    let (from, to) = (file_of(&scene.alpha, "b"), file_of(&scene.alpha, "a"));
    scene.alpha.stop(support::Stop::Fast);
    let before = fs::metadata(&to).expect("because it is there");
    let target = fs::OpenOptions::new().write(true).open(&to).expect("because the test owns it");
    target.write_all_at(&fs::read(&from).expect("because it is there"), 0).expect("because the test owns it");
    target.set_modified(before.modified().expect("because files have times")).expect("because the test owns it");
    drop(target);
    let after = fs::metadata(&to).expect("because it is there");
    let visible = |data: &fs::Metadata| (data.len(), data.mtime(), data.mtime_nsec(), data.ino());
    assert_eq!(visible(&before), visible(&after));
    scene.alpha.start();
    let taken = increment(&scene, &[]);
    assert_eq!(stored(&scene, &label(&taken)).2, 1, "{taken:#}");
    scene.archive_everything();
    let copy = scene.recover(&label(&taken), &[]);
    assert_eq!(content(&copy, "a"), content(&scene.alpha, "a"));
    assert_eq!(copy.query("select min(id) from a"), "2");
}

#[test]
fn a_chain_can_be_put_together_by_hand() {
    let scene = Scene::new("byhand");
    for name in ["t", "cut", "dropped"] {
        table(&scene.alpha, name, 700);
    }
    let full = scene.take();
    each(&scene.alpha, &["update t set id = -id where id % 50 = 0", "delete from cut where id > 600", "vacuum cut"]);
    scene.alpha.execute("drop table dropped; checkpoint");
    table(&scene.alpha, "new", 600);
    let newest = label(&increment(&scene, &[]));
    let hand = scene.alpha.dir().join("hand");
    make_dir(&hand);
    let script = r#"
        set -e
        cd "$1"
        shift
        for backup; do
            for bundle in "$backup"/bundle/*.tar.zst; do tar --zstd -xf "$bundle"; done
            (cd "$backup/files" && find . -name '*.zst') | while read -r file; do
                mkdir -p "$(dirname "$file")"
                zstd -q -d -c "$backup/files/$file" > "${file%.zst}"
            done
            test ! -d "$backup/blocks" || (cd "$backup/blocks" && find . -name '*.zst') | while read -r file; do
                zstd -dc "$backup/blocks/$file" | perl -e 'open F,"+<",shift; while(read STDIN,$h,8){($b,$n)=unpack"VV",$h; seek F,8192*$b,0; while($n--){read STDIN,$p,8192; print F $p}}' "${file%.zst}"
            done
            cp "$backup/backup_label" "$backup/backup_manifest" .
        done
        sed -n 's/.*"Path": "\([^"]*\)", "Size": \([0-9]*\),.*/\2 \1/p' backup_manifest > ../sizes
        while read -r size file; do truncate -s "$size" "$file"; done < ../sizes
        find . -type f | cut -c3- | grep -v '^backup_manifest$' | while read -r file; do
            grep -q " $file\$" ../sizes || rm "$file"
        done
    "#;
    let backups = [&full, &newest].map(|label| scene.folder(label));
    Program::at("/bin/sh").args(["-c", script, "sh"]).arg(&hand).args(backups).run().expect_ok();
    scene.alpha.tool("pg_verifybackup").arg("--no-parse-wal").arg(&hand).run().expect_ok();
    assert!(scene.folder(&newest).join("blocks").exists());
}

#[test]
fn a_chain_stands_and_falls_with_its_parents() {
    let scene = Scene::new("falls");
    table(&scene.alpha, "t", 700);
    scene.run(&["take", "--incremental"]).expect_ok();
    let full = scene.listed().0.remove(0);
    assert_eq!(scene.json(&["show", &full])["kind"], "full", "without a parent a full one is taken");
    scene.alpha.execute("update t set id = -id where id < 20");
    let first = label(&increment(&scene, &[]));
    scene.alpha.execute("update t set id = -id where id < 40");
    let second = label(&increment(&scene, &[]));
    // What the newest needs stays, whatever the rules say.
    scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert_eq!(scene.listed().0, [full.clone(), first.clone(), second.clone()]);
    // Damage in a parent is found through the child and through the parent itself.
    let relation = scene.alpha.query("select pg_relation_filepath('t')");
    let blocks = scene.folder(&first).join(format!("blocks/{relation}.zst"));
    let whole = fs::read(&blocks).expect("because it is stored");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&blocks, &flipped).expect("because the test owns it");
    let outcome = scene.run(&["verify", &second]).expect_code(22);
    assert!(outcome.stdout.contains(&first) && outcome.stdout.contains(&relation), "{outcome}");
    let target = scene.alpha.dir().join("restored").display().to_string();
    scene.run(&["restore", &second, "--to", &target]).expect_code(22);
    assert!(!Path::new(&target).join("global/pg_control").exists());
    scene.run(&["verify", &first]).expect_code(22);
    let list = scene.run(&["list"]).expect_ok();
    assert!(list.stdout.contains(&format!("{first}  damaged")), "{list}");
    assert_eq!(scene.json(&["show", "latest"])["label"], Value::from(full.clone()));
    scene.run(&["take", "--incremental", "--parent", &second]).expect_code(20);
    let third = increment(&scene, &[]);
    assert_eq!(third["parent"], Value::from(full.clone()), "the newest that can be used");
    fs::write(&blocks, &whole).expect("because the test owns it");
    scene.run(&["verify"]).expect_ok();
    // A parent that is gone.
    let description = scene.folder(&first).join("backup.json");
    let away = description.with_extension("away");
    fs::rename(&description, &away).expect("because it is there");
    let list = scene.run(&["list"]).expect_ok();
    assert!(list.stdout.contains(&format!("{second}  needs {first}, which is missing")), "{list}");
    let outcome = scene.run(&["restore", &second, "--to", &target]).expect_code(22);
    assert!(outcome.stderr.contains(&format!("'{first}', which it builds on, is missing")), "{outcome}");
    fs::rename(&away, &description).expect("because it is there");
    scene.run(&["show", &second]).expect_ok();
    let after = scene.take();
    scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert_eq!(scene.listed().0, [after]);
}

#[test]
fn kill_9_in_take_and_in_expire_loses_nothing() {
    let scene = Scene::new("killed");
    for name in ["a", "b", "c"] {
        table(&scene.alpha, name, 1500);
    }
    let full = scene.take();
    for name in ["a", "b", "c"] {
        scene.alpha.execute(&format!("update {name} set id = -id where id % 3 = 0"));
    }
    for pause in [100, 1000, 2500] {
        let running = scene.call(&["take", "--incremental", "--rate-limit", "8MB"]).spawn();
        wait_until(PATIENCE, "the session is there", || !scene.no_session_is_left());
        // Not a condition but a moment: any one will do.
        std::thread::sleep(Duration::from_millis(pause));
        running.signal(Signal::KILL);
        drop(running);
        wait_until(PATIENCE, "the session is gone", || scene.no_session_is_left());
        // It is unfinished, and what it builds on stays meanwhile.
        let newer = scene.json(&["expire", "--keep", "1", "--dry-run"]);
        assert_eq!(newer["report"]["backups"][0]["removed"], false, "{newer:#}");
    }
    let (whole, unfinished) = scene.listed();
    assert_eq!((&whole[..], unfinished.len()), (&[full.clone()][..], 1));
    let first = label(&increment(&scene, &[]));
    assert_eq!(first, unfinished[0], "the next run goes on with it");
    scene.alpha.execute("update a set id = -id where id % 7 = 0");
    let second = label(&increment(&scene, &[]));
    let last = scene.take();
    let all = [full, first, second.clone(), last.clone()];
    for pause in [0, 2, 4, 6, 8, 10, 14, 18, 25, 40] {
        let running = scene.call(&["expire", "--keep", "1"]).spawn();
        std::thread::sleep(Duration::from_millis(pause));
        running.signal(Signal::KILL);
        drop(running);
        // Whatever is left is the beginning of what was there, and each of it can be restored.
        let (left, _) = scene.listed();
        let older = &left[..left.len() - 1];
        assert!(all.starts_with(older) && left.last() == Some(&last), "{left:?}");
        let list = scene.json(&["list"]);
        assert_eq!(list["unusable"], serde_json::json!([]), "{list:#}");
    }
    scene.run(&["verify"]).expect_ok();
    scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert_eq!(scene.listed(), (vec![last.clone()], vec![]));
    assert!(!scene.folder(&second).exists());
    scene.run(&["verify"]).expect_ok();
}

#[test]
fn a_full_disk_ends_it_and_what_was_there_can_still_be_restored() {
    let mut volume = None;
    let scene = Scene::prepared("disk", &["alpha"], |archive| {
        let owner = fs::metadata(archive).expect("because it is there").uid();
        volume = Volume::mount(archive, &format!("size=80m,uid={owner},mode=700"));
    });
    let Some(volume) = volume else {
        eprintln!("not tested: this machine does not let the tests mount");
        return;
    };
    table(&scene.alpha, "t", 2000);
    let full = scene.take();
    // Nothing that could be made much smaller.
    scene.alpha.execute(
        "update t set filler = (select string_agg(md5(t.id::text || n || random()), '') from generate_series(1, 140) n)",
    );
    scene.archive_everything();
    let filler = volume.fill_up_to(5 << 20);
    let outcome = scene.run(&["take", "--incremental"]).expect_code(30);
    assert!(outcome.stderr.contains("space"), "{outcome}");
    wait_until(PATIENCE, "the session is gone", || scene.no_session_is_left());
    let (whole, unfinished) = scene.listed();
    assert_eq!((&whole[..], unfinished.len()), (&[full.clone()][..], 1));
    scene.run(&["verify", &full]).expect_ok();
    let expired = scene.run(&["expire", "--keep", "1"]).expect_ok();
    assert!(expired.stdout.contains(&format!("kept WAL: backup {}: it is not finished", unfinished[0])), "{expired}");
    // Nor is a directory begun that has no room for what belongs there.
    let place = scene.archive().join("restored");
    let refused = scene.run(&["restore", &full, "--to", &place.display().to_string()]).expect_code(20);
    assert!(refused.stderr.contains("bytes free") && !place.exists(), "{refused}");
    fs::remove_file(filler).expect("because the test owns it");
    let taken = increment(&scene, &[]);
    assert_eq!(label(&taken), unfinished[0]);
    scene.archive_everything();
    let copy = scene.recover("latest", &[]);
    assert_eq!(content(&copy, "t"), content(&scene.alpha, "t"));
}
