//! `relay-wal` from a standby's archive to dr nodes over a real sshd, with WAL that real servers wrote.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

#[path = "relay/scene.rs"]
mod scene;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scene::{Scene, Stock, snapshot};
use serde_json::Value;
use support::workspace::{Account, write_file};
use support::{Outcome, PATIENCE, wait_until};

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// All files of the stock.
fn everything() -> Vec<&'static str> {
    Stock::get().files.keys().map(String::as_str).collect()
}

#[test]
fn a_first_turn_a_later_one_and_one_without_its_cursor_come_to_the_same() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    // There is nothing to relay yet, and that must not be remembered as the end.
    assert_eq!(scene.turn(&[]).stdout, "");
    scene.feed(&all[..5]);
    let first = scene.turn(&[]);
    assert!(first.stdout.starts_with("relayed 5 files (") && first.stdout.ends_with(" to gamma\n"), "{first}");
    scene.expect_held("gamma", &all[..5]);
    assert_eq!(scene.turn(&[]).stdout, "");
    scene.feed(&all[5..8]);
    assert!(scene.turn(&[]).stdout.starts_with("relayed 3 files ("));
    scene.expect_held("gamma", &all[..8]);
    let before = snapshot(&scene.root("gamma"));
    fs::remove_file(scene.cursor("gamma")).expect("because a turn has written it");
    assert_eq!(scene.turn(&[]).stdout, "");
    assert_eq!(snapshot(&scene.root("gamma")), before);
    assert_eq!(fs::metadata(scene.cursor("gamma")).map(|data| data.permissions().mode() & 0o777).ok(), Some(0o600));
}

#[test]
fn what_the_target_lost_comes_back_with_full_and_a_new_target_is_filled() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all[..6]);
    scene.turn(&[]);
    fs::remove_file(scene.stored("gamma", all[2])).expect("because it is there");
    assert_eq!(scene.turn(&[]).stdout, "");
    assert!(scene.turn(&["--full"]).stdout.starts_with("relayed 1 files ("));
    scene.expect_held("gamma", &all[..6]);
    // Another disk: the cursor has gone with the old one.
    fs::remove_dir_all(scene.root("gamma")).expect("because it is there");
    scene.make_archive("gamma", Stock::get().system);
    scene.turn(&[]);
    scene.expect_held("gamma", &all[..6]);
}

#[test]
fn a_hole_stops_a_turn_until_it_is_filled() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all[..3]);
    scene.feed(&all[4..6]);
    for _ in 0..2 {
        let stopped = scene.relay(&[]).run().expect_code(22);
        let said = format!(
            "relay-wal: ERROR: [corrupt] relaying to gamma stops: '{}' is missing in the archive of beta",
            all[3]
        );
        assert!(stopped.stderr.starts_with(&said), "{stopped}");
        assert!(stopped.stderr.contains("relay-wal: HINT: Find the missing segment"), "{stopped}");
        scene.expect_held("gamma", &all[..3]);
    }
    scene.feed(&all[3..4]);
    scene.turn(&[]);
    scene.expect_held("gamma", &all[..6]);
}

#[test]
fn a_hole_is_no_hole_where_somebody_brought_the_segment_to_the_target() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all[..3]);
    scene.feed(&all[4..6]);
    scene.relay(&[]).run().expect_code(22);
    scene.archive(&all[3..4], "gamma");
    scene.turn(&[]);
    scene.expect_held("gamma", &all[..6]);
}

#[test]
fn what_arrives_late_below_the_beginning_goes_too_and_in_order() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all[5..7]);
    scene.turn(&[]);
    scene.expect_held("gamma", &all[5..7]);
    // Two of the four older ones come out of a queue: the rest is waited for, and newer WAL is not held up.
    scene.feed(&all[1..3]);
    scene.feed(&all[7..8]);
    let waits = scene.relay(&[]).run().expect_code(22);
    assert!(waits.stderr.contains(&format!("'{}' is missing", all[3])), "{waits}");
    scene.expect_held("gamma", &[&all[1..3], &all[5..8]].concat());
    scene.feed(&all[3..5]);
    scene.turn(&[]);
    scene.expect_held("gamma", &all[1..8]);
    assert_eq!(scene.turn(&[]).stdout, "");
}

#[test]
fn a_label_that_comes_late_goes_along() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all);
    scene.turn(&[]);
    scene.feed(&[Stock::get().label()]);
    scene.turn(&[]);
    scene.expect_held("gamma", &[all, vec![Stock::get().label()]].concat());
}

#[test]
fn a_promotion_is_followed_with_its_history_first() {
    let scene = Scene::new(&["gamma"]);
    let stock = Stock::get();
    scene.feed(&stock.timeline(1));
    scene.turn(&[]);
    let second = stock.timeline(2);
    // Its segments are there before their history: they wait for it.
    scene.feed(&second[..1]);
    scene.turn(&[]);
    scene.expect_held("gamma", &stock.timeline(1));
    scene.feed(&["00000002.history", stock.partial(), stock.label()]);
    scene.feed(&second[1..]);
    scene.turn(&[]);
    scene.expect_held("gamma", &everything());
    let modified = |name: &str| fs::metadata(scene.stored("gamma", name)).and_then(|data| data.modified()).ok();
    assert!(modified("00000002.history") <= modified(second[0]));
    assert_eq!(scene.turn(&[]).stdout, "");
}

#[test]
fn a_first_turn_after_a_promotion_brings_both_timelines() {
    let scene = Scene::new(&["gamma"]);
    scene.feed(&everything());
    let turn = json(&scene.turn(&["--json"]));
    assert_eq!(turn[0]["relayed"], everything().len());
    scene.expect_held("gamma", &everything());
}

#[test]
fn a_hole_in_the_old_timeline_is_told_and_does_not_hold_up_the_new_one() {
    let scene = Scene::new(&["gamma"]);
    let stock = Stock::get();
    let (first, second) = (stock.timeline(1), stock.timeline(2));
    scene.feed(&first[..first.len() - 2]);
    scene.feed(&["00000002.history"]);
    scene.feed(&second);
    let stopped = scene.relay(&[]).run().expect_code(22);
    assert!(stopped.stderr.contains("as its history in the archive of beta"), "{stopped}");
    let sent = [&first[..first.len() - 2], &second, &["00000002.history"][..]].concat();
    scene.expect_held("gamma", &sent);
    // What is still to come is not removed here meanwhile.
    let record = fs::read_to_string(scene.root("beta").join("consumers/relay-gamma.json")).expect("because it relayed");
    assert!(record.contains(first[first.len() - 2]), "{record}");
}

#[test]
fn a_queue_is_drained_histories_first_and_leaves_nothing() {
    let scene = Scene::new(&["gamma"]);
    let mut queued = Stock::get().timeline(2);
    queued.push("00000002.history");
    queued.extend(&Stock::get().timeline(1)[3..6]);
    scene.queue("gamma", &queued);
    // A file that cannot go stays and is told; it keeps nothing else from being safe.
    let third = scene.queue_of("gamma").join(Stock::get().timeline(1)[5]);
    let good = fs::read(&third).expect("because it is queued");
    fs::write(&third, &good[..good.len() / 2]).expect("because it is ours");
    let damaged = scene.relay(&[]).run().expect_code(22);
    assert!(damaged.stderr.contains("is not the WAL its name says"), "{damaged}");
    let others: Vec<_> = queued.iter().copied().filter(|name| *name != Stock::get().timeline(1)[5]).collect();
    scene.expect_held("gamma", &others);
    assert_eq!(scene.queued("gamma"), 1);
    fs::write(&third, &good).expect("because it is ours");
    let drained = json(&scene.turn(&["--json"]));
    assert_eq!((&drained[0]["drained"], &drained[0]["failure"]), (&Value::from(1), &Value::Null));
    scene.expect_held("gamma", &queued);
    assert_eq!(scene.queued("gamma"), 0);
}

#[test]
fn a_queue_for_a_node_that_is_gone_is_told() {
    let scene = Scene::new(&["gamma"]);
    scene.queue("omega", &Stock::get().timeline(1)[..1]);
    let told = scene.relay(&[]).run().expect_code(10);
    assert!(told.stderr.contains("no node 'omega' holds an archive"), "{told}");
}

#[test]
fn other_content_at_the_target_is_a_conflict_and_stays() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.archive(&all[..2], "gamma");
    let taken = scene.stored("gamma", all[1]);
    let other = zstd::bulk::compress(&Stock::get().files[all[2]], 1).expect("because memory takes it");
    fs::write(&taken, &other).expect("because it is there");
    scene.feed(&all[..4]);
    let conflict = scene.relay(&[]).run().expect_code(21);
    assert!(conflict.stderr.contains(&format!("'{}' already exists in the archive of gamma", all[1])), "{conflict}");
    assert_eq!(fs::read(&taken).ok(), Some(other));
}

#[test]
fn damage_here_does_not_travel() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all[..4]);
    let bad = scene.stored("beta", all[1]);
    let mut content = fs::read(&bad).expect("because it is there");
    let middle = content.len() / 2;
    content[middle] ^= 0x55;
    fs::write(&bad, &content).expect("because it is ours");
    for _ in 0..2 {
        let damaged = scene.relay(&[]).run().expect_code(22);
        assert!(damaged.stderr.contains(&bad.display().to_string()), "{damaged}");
        scene.expect_held("gamma", &all[..1]);
    }
    // A plain file has no checksum of its own; its records have.
    let plain = bad.with_extension("");
    fs::remove_file(&bad).expect("because it is there");
    let mut content = Stock::get().files[all[1]].clone();
    content[2000] ^= 0x55;
    fs::write(&plain, &content).expect("because the folder is there");
    Account::unprivileged().own(&plain);
    scene.relay(&[]).run().expect_code(22);
    fs::write(&plain, &Stock::get().files[all[1]]).expect("because it is ours");
    scene.turn(&[]);
    scene.expect_held("gamma", &all[..4]);
}

#[test]
fn a_foreign_archive_is_refused() {
    let scene = Scene::new(&["gamma"]);
    scene.feed(&Stock::get().timeline(1)[..1]);
    fs::remove_dir_all(scene.root("gamma")).expect("because it is there");
    scene.make_archive("gamma", 42);
    let refused = scene.relay(&[]).run().expect_code(20);
    assert!(refused.stderr.contains("is not ours"), "{refused}");
    scene.queue("gamma", &Stock::get().timeline(1)[1..2]);
    scene.relay(&[]).run().expect_code(20);
    assert_eq!(scene.names("gamma"), Vec::<String>::new());
    assert_eq!(scene.queued("gamma"), 1);
}

#[test]
fn one_relay_works_at_a_time() {
    let scene = Scene::new(&["gamma"]);
    let first = scene.relay(&["--loop"]).spawn();
    let lock = scene.layout.node("beta").spool.join("relay.lock");
    wait_until(PATIENCE, "the loop holds its lock", || {
        fs::read_to_string(&lock).is_ok_and(|text| text.ends_with('\n'))
    });
    let second = scene.turn(&[]);
    assert!(second.stdout.starts_with("another relay-wal works already: relay-wal (pid "), "{second}");
    let third = scene.relay(&["--loop"]).run().expect_code(61);
    assert!(third.stderr.contains("[busy] another relay-wal works already"), "{third}");
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, Some(0));
    assert_eq!(scene.turn(&[]).stdout, "");
}

#[test]
fn a_rate_is_kept() {
    let scene = Scene::with(&["gamma"], |layout| {
        layout.set("archive", "compress", "none");
    });
    let all = Stock::get().timeline(1);
    scene.feed(&all[..3]);
    scene.queue("gamma", &all[3..4]);
    let begun = Instant::now();
    scene.turn(&["--rate", "2MB"]);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "4 MiB in {:?}", begun.elapsed());
    scene.expect_held("gamma", &all[..4]);
}

#[test]
fn a_loop_survives_an_outage_and_ends_when_told() {
    let mut scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    let relay = scene.relay(&["--loop", "--set", "archive.retry=1s"]).spawn();
    scene.feed(&all[..2]);
    wait_until(PATIENCE, "the first are there", || scene.names("gamma") == all[..2]);
    scene.sshd.stop();
    scene.feed(&all[2..4]);
    wait_until(PATIENCE, "the outage is told", || relay.stderr().contains("[remote]"));
    scene.sshd.restart();
    wait_until(PATIENCE, "the others are there", || scene.names("gamma") == all[..4]);
    let begun = Instant::now();
    relay.signal(Signal::TERM);
    let ended = relay.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_loop_ends_also_in_the_middle_of_something_long() {
    let scene = Scene::new(&["gamma"]);
    scene.feed(&Stock::get().timeline(1)[..3]);
    let relay = scene.relay(&["--loop", "--rate", "1kB"]).spawn();
    wait_until(PATIENCE, "one has gone", || scene.names("gamma").len() == 1);
    let begun = Instant::now();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let scene = Scene::new(&["gamma"]);
    let all = Stock::get().timeline(1);
    scene.feed(&all[..3]);
    scene.turn(&[]);
    scene.feed(&all[3..5]);
    scene.queue("gamma", &all[5..6]);
    let before = snapshot(&scene.layout.dir);
    let would = scene.turn(&["--dry-run", "--full"]);
    assert!(would.stdout.starts_with("would relay 3 files ("), "{would}");
    let mut after = snapshot(&scene.layout.dir);
    after.retain(|path, _| before.contains_key(path) || !path.ends_with("stdout"));
    assert_eq!(after, before);
}

#[test]
fn one_dr_node_that_is_down_does_not_stop_the_other() {
    let mut scene = Scene::new(&["delta", "gamma"]);
    scene.layout.node_mut("delta").set("ssh_port", 1);
    scene.layout.write();
    let all = Stock::get().timeline(1);
    scene.feed(&all[..3]);
    let outcome = scene.relay(&["--json"]).run().expect_code(40);
    scene.expect_held("gamma", &all[..3]);
    let rows = json(&outcome);
    let row = |target: &str| rows.as_array().and_then(|rows| rows.iter().find(|row| row["target"] == target)).cloned();
    assert_eq!(row("gamma").map(|row| (row["relayed"].clone(), row["failure"].clone())), Some((3.into(), Value::Null)));
    assert_eq!(row("delta").map(|row| row["failure"]["class"].clone()), Some("remote".into()));
    scene.turn(&["--to", "gamma"]);
    let unknown = scene.relay(&["--to", "beta"]).run().expect_code(2);
    assert!(unknown.stderr.contains("nothing is relayed to 'beta'"), "{unknown}");
}

#[test]
fn hooks_are_told_once() {
    let scene = Scene::with(&["gamma"], |layout| {
        let script = layout.dir.join("hook");
        write_file(&script, &format!("#!/bin/sh\necho \"$@\" >>{}\n", layout.dir.join("told").display()));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("because it is ours");
        for level in ["ok", "critical"] {
            layout.set("notify", level, format!("{} {level}", script.display()));
        }
    });
    let all = Stock::get().timeline(1);
    let told = || fs::read_to_string(scene.layout.dir.join("told")).unwrap_or_default();
    scene.feed(&all[..1]);
    scene.turn(&[]);
    assert_eq!(told(), "");
    scene.feed(&all[2..3]);
    for _ in 0..3 {
        scene.relay(&[]).run().expect_code(22);
    }
    assert_eq!(told().lines().count(), 1, "{}", told());
    assert!(told().starts_with("critical relaying to gamma stops"), "{}", told());
    scene.feed(&all[1..2]);
    scene.turn(&[]);
    scene.turn(&[]);
    let lines: BTreeSet<String> = told().lines().map(str::to_owned).collect();
    assert_eq!((told().lines().count(), lines.contains("ok relaying works again")), (2, true), "{}", told());
}
