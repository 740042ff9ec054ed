//! Incremental backups by a server's own WAL summaries, beside one that reads and compares everything: whatever is
//! done between them, both must hold the same blocks.
//!
//! What is done is chosen by chance with a fixed seed: rows, tables, tablespaces and databases come, change and go, the
//! server crashes, and somebody writes while each backup is taken. Only large files matter: small ones are always read.

mod support;

#[path = "support/backups.rs"]
mod backups;
#[path = "support/sshd.rs"]
mod sshd;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use backups::{Scene, file_of, verify_as_postgres_does};
use support::workspace::make_dir;
use support::{PATIENCE, Server, Stop, wait_until};

/// What happens to chosen tables in one round.
const DEEDS: u32 = 6;

const TABLES: u64 = 3;

/// How many files are large: the tables, their indexes, the one that is cut, and one in each of three databases.
const LARGE: usize = 2 * TABLES as usize + 4;

const PAGE: usize = 8192;

/// Numbers as by chance, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Rows of 2 kB with keys in no order: four on a page of the table, as many on a page of its index.
fn rows(table: &str, seed: u64, count: u32) -> String {
    format!("insert into {table} select n, repeat(md5({seed} || ':' || n), 62) from generate_series(1, {count}) as n;")
}

/// A table of more than 4 MiB, and an index that is no smaller.
fn table(table: &str, seed: u64) -> String {
    format!(
        "create table {table} (id int, key text); alter table {table} alter key set storage plain;
         create index {table}_key on {table} (key);{}",
        rows(table, seed, 2600)
    )
}

/// One of the things that people do to a table.
fn deed(dice: &mut Dice) -> Vec<String> {
    let t = format!("t{}", dice.roll(TABLES));
    let (seed, some) = (dice.roll(1 << 20), dice.roll(40));
    match dice.roll(14) {
        0 => vec![format!("update {t} set id = id + 1 where id % 40 = {some}")],
        1 => vec![format!("delete from {t} where id % 40 = {some}"), format!("vacuum {t}")],
        2 => vec![rows(&t, seed, 200)],
        // Cut at the end, and grown again over the cut.
        3 => vec![format!("delete from {t} where ctid > '({},0)'", 600 - some), format!("vacuum (truncate) {t}")],
        4 => vec![
            format!("delete from {t} where ctid > '({},0)'", 540 + some),
            format!("vacuum (truncate) {t}"),
            rows(&t, seed, 300),
        ],
        5 => vec![format!("begin; truncate {t}; {} commit", rows(&t, seed, 2600))],
        6 => vec![format!("drop table {t}; {}", table(&t, seed))],
        7 => vec![format!("vacuum full {t}")],
        8 => {
            vec![format!("alter table {t} set tablespace space"), format!("update {t} set id = -id where id = {some}")]
        }
        9 => vec![format!("reindex table {t}"), format!("vacuum (freeze) {t}")],
        10 => vec![format!("begin; {} truncate {t}; {} rollback", rows(&t, seed, 400), rows(&t, seed, 400))],
        11 => vec![format!("alter table {t} set unlogged; alter table {t} set logged")],
        12 => vec!["checkpoint".to_owned(), format!("update {t} set id = -id where id % 40 = {some}")],
        _ => vec![format!("begin; {} rollback", rows(&t, seed, 300)), format!("vacuum {t}")],
    }
}

fn psql(server: &Server, database: &str, sql: &str) {
    server.tool("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]).run().expect_ok();
}

fn each(server: &Server, statements: &[String]) {
    let mut client = server.connect();
    for statement in statements {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("'{statement}' was refused: {error:?}"));
    }
}

/// What happens between two backups.
fn round(scene: &mut Scene, dice: &mut Dice, round: u32) {
    // Hints in pages that were written in an earlier round, with and without WAL.
    let seen = (0..TABLES).filter(|_| dice.roll(2) == 0).map(|n| format!("select count(*) from t{n}"));
    each(&scene.alpha, &seen.collect::<Vec<_>>());
    for _ in 0..DEEDS {
        each(&scene.alpha, &deed(dice));
    }
    each(&scene.alpha, &[format!("select nextval('s') from generate_series(1, {})", 1 + dice.roll(70))]);
    psql(&scene.alpha, "model", &format!("update m set id = -id where id % 60 = {round}"));
    // The same number again and again: its files have their old names, and no WAL names their blocks.
    let twin = "create database twin template model strategy file_copy oid 70000".to_owned();
    let mut statements = vec!["drop database if exists twin".to_owned(), twin];
    if round == 1 {
        statements.push("create database logged template model strategy wal_log".to_owned());
    } else {
        statements.push("alter database logged set tablespace space".to_owned());
    }
    each(&scene.alpha, &statements);
    if round == 2 {
        crash(scene);
    }
}

/// The server crashes; a table that had been cut has pages again that no WAL names, as they are left where it crashes
/// while it makes room for rows that are to come.
fn crash(scene: &mut Scene) {
    each(
        &scene.alpha,
        &["delete from cut where ctid > '(300,0)'", "vacuum (truncate) cut", "checkpoint"].map(str::to_owned),
    );
    let file = file_of(&scene.alpha, "cut");
    scene.alpha.kill();
    let file = fs::OpenOptions::new().write(true).open(file).expect("because it is there");
    assert!(file.metadata().is_ok_and(|data| data.len() < 320 * PAGE as u64));
    file.set_len(600 * PAGE as u64).expect("because the test owns it");
    scene.alpha.start();
}

/// Ends the load, also where the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes an increment, found as told; with `load` while somebody writes.
fn increment(scene: &Scene, parent: &str, found_by: &str, load: bool) -> String {
    let stop = AtomicBool::new(!load);
    std::thread::scope(|threads| {
        let _ended = EndOnDrop(&stop);
        threads.spawn(|| {
            let (mut client, mut dice) = (scene.alpha.connect(), Dice(7));
            while !stop.load(Ordering::Relaxed) {
                let (n, some) = (dice.roll(TABLES), dice.roll(200));
                let write = format!("update t{n} set id = id + 200 where id % 200 = {some}; select nextval('s')");
                client.batch_execute(&write).expect("because the server runs");
            }
        });
        let taken = scene.json(&["take", "--incremental", "--parent", parent]);
        assert_eq!(taken["found_by"], found_by, "{taken:#}");
        taken["label"].as_str().unwrap_or_else(|| panic!("no label in {taken:#}")).to_owned()
    })
}

/// The main forks that are large enough to be read in part, by their paths.
fn large(folder: &Path, path: &str, found: &mut BTreeMap<String, PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot list '{}': {error}", folder.display()));
    for entry in entries.map(|entry| entry.expect("because it can be listed")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let data = fs::metadata(entry.path()).expect("because it is there");
        if data.is_dir() {
            large(&entry.path(), &format!("{path}/{name}"), found);
        } else if data.len() >= 4 << 20 && name.bytes().all(|byte| byte.is_ascii_digit()) {
            found.insert(format!("{path}/{name}"), entry.path());
        }
    }
}

/// A page without what a reader may leave in it: hint bits and what they were written with.
fn without_hints(page: &[u8]) -> Vec<u8> {
    let number = |at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
    let (lower, special) = (number(12), number(16));
    let mut plain = page.to_vec();
    plain[8..12].fill(0);
    // An index has something behind its items.
    if special == PAGE {
        plain[20..24].fill(0);
        for item in (24..lower).step_by(4) {
            let word = u32::from_le_bytes([page[item], page[item + 1], page[item + 2], page[item + 3]]);
            if word >> 15 & 3 == 1 {
                plain[(word & 0x7fff) as usize + 21] &= 0xf0;
            }
        }
    }
    plain
}

/// Both must hold the same blocks; where hints are written without WAL, they may lack in one.
fn same_blocks(one: &Server, other: &Server, hints_too: bool) {
    let files = |server: &Server| {
        let mut found = BTreeMap::new();
        ["base", "pg_tblspc"].iter().for_each(|top| large(&server.pgdata().join(top), top, &mut found));
        found
    };
    let (ones, others) = (files(one), files(other));
    assert!(ones.keys().eq(others.keys()) && ones.len() == LARGE, "{:?}, {:?}", ones.keys(), others.keys());
    for (path, file) in ones {
        let read = |file: &Path| fs::read(file).expect("because it is there");
        let (a, b) = (read(&file), read(&others[&path]));
        assert_eq!(a.len(), b.len(), "{path}");
        let differs = |a: &[u8], b: &[u8]| a != b && (hints_too || without_hints(a) != without_hints(b));
        let pages = a.chunks(PAGE).zip(b.chunks(PAGE)).enumerate();
        let wrong: Vec<_> = pages.filter(|(_, (a, b))| differs(a, b)).map(|(block, _)| block).collect();
        assert_eq!(wrong, Vec::<usize>::new(), "blocks of {path}");
    }
}

fn restored(scene: &Scene, label: &str, name: &str, space: &str) -> Server {
    let copy = scene.empty_server(name);
    let map = format!("{space}={}", copy.dir().join("space").display());
    let target = copy.pgdata().display().to_string();
    scene.run(&["restore", label, "--to", &target, "--map", &map]).expect_ok();
    verify_as_postgres_does(&copy);
    copy
}

/// What the tables and the sequence hold, and where each row lies.
fn content(server: &Server) -> Vec<String> {
    let sums = (0..TABLES).map(|n| format!("select count(*) || ' ' || sum(hashtext(ctid || t::text)) from t{n} as t"));
    let others = ["select last_value::text from s", "select count(*) || ' ' || sum(hashtext(key)) from cut"];
    sums.chain(others.map(str::to_owned)).map(|question| server.query(&question)).collect()
}

/// A chain of increments with chance in between; at its end all is as where everything was read.
fn chain(name: &str, (seed, rounds): (u64, u32), checksums: bool) {
    let mut scene = Scene::new(name);
    if scene.alpha.query("show server_version_num").as_str() < "170000" {
        eprintln!("not tested: this server makes no WAL summaries");
        return;
    }
    scene.alpha.set("summarize_wal", "on").set("autovacuum", "off").set("shared_buffers", "2MB");
    scene.alpha.stop(Stop::Fast);
    if !checksums {
        scene.alpha.set("wal_log_hints", "off");
        scene.alpha.tool("pg_checksums").arg("--disable").arg("--pgdata").arg(scene.alpha.pgdata()).run().expect_ok();
    }
    scene.alpha.start();
    let space = scene.alpha.dir().join("space");
    make_dir(&space);
    scene.alpha.execute(&format!("create tablespace space location '{}'", space.display()));
    each(&scene.alpha, &["create sequence s".to_owned(), "create database model".to_owned()]);
    psql(&scene.alpha, "model", "create table m as select id, repeat('m', 1000) from generate_series(1, 5000) id");
    (0..TABLES).for_each(|n| scene.alpha.execute(&table(&format!("t{n}"), n)));
    scene.alpha.execute(&format!("{}; drop index cut_key", table("cut", TABLES)));
    let mut dice = Dice(seed);
    let full = scene.take();
    let mut last = full.clone();
    for number in 1..=rounds {
        round(&mut scene, &mut dice, number);
        last = increment(&scene, &last, "summaries", number < rounds);
    }
    scene.alpha.set("summarize_wal", "off").reload();
    let compared = increment(&scene, &full, "comparing", false);
    scene.archive_everything();
    let space = scene.alpha.query("select oid from pg_tablespace where spcname = 'space'");
    let (truth, mut copy) = (restored(&scene, &compared, "truth", &space), restored(&scene, &last, "copy", &space));
    same_blocks(&copy, &truth, checksums);
    copy.recovery_signal();
    copy.start();
    wait_until(PATIENCE, "recovery has ended", || !copy.in_recovery());
    assert_eq!(content(&copy), content(&scene.alpha));
    if copy.query("select count(*) from pg_available_extensions where name = 'amcheck'") == "1" {
        let tool = copy.tool("pg_amcheck").args(["--install-missing", "--heapallindexed"]);
        tool.args(["--database=postgres", "--database=twin", "--relation=public.*"]).run().expect_ok();
    }
}

#[test]
fn a_chain_by_summaries_holds_every_block_that_was_changed() {
    chain("dice", (3, 3), true);
}

#[test]
fn a_chain_by_summaries_may_lack_hints_that_are_written_without_wal_and_nothing_else() {
    chain("hints", (11, 2), false);
}
