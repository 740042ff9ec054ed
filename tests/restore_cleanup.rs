//! `archive_cleanup_command`: what goes, what stays, and who is asked.

mod support;

#[path = "support/scene.rs"]
mod scene;

use std::fs;
use std::path::Path;

use scene::*;
use support::workspace::{make_dir, write_file};
use support::{Layout, Outcome, Program};

const IDENTITY: &str = r#"{"format": 1, "cluster": "main", "system_identifier": "7", "segment_size": 16777216}"#;

/// The archive of `alpha` with segments 1 to 9 of two timelines, read by `alpha` and `beta`, relayed to `dr1`.
struct Shelf {
    layout: Layout,
}

impl Shelf {
    fn new() -> Shelf {
        let mut layout = Layout::new(CLUSTER, &["alpha", "beta", "dr1"]);
        layout.node_mut("dr1").set("kind", "dr");
        layout.set("archive", "to", "own").set("archive", "ack", "local").set("restore", "from", "own, alpha");
        layout.node_mut("beta").set_local("restore", "from", "own");
        layout.write();
        let root = archive_of(&layout, "alpha");
        for folder in ["", "wal", "wal/0000000100000000", "wal/0000000200000000", "consumers", "backup"] {
            make_dir(&root.join(folder));
        }
        write_file(&root.join("identity.json"), IDENTITY);
        for timeline in [1, 2] {
            for n in 1..=9 {
                write_file(&root.join(format!("wal/{timeline:08X}00000000/{timeline:08X}00000000{n:08X}.zst")), "x");
            }
        }
        write_file(&root.join("wal/00000002.history"), "1\t0/5000100\tno target\n");
        write_file(&root.join("wal/0000000100000000/000000010000000000000002.00000028.backup"), "label");
        write_file(&root.join("wal/0000000100000000/000000010000000000000003.partial.zst"), "x");
        Shelf { layout }
    }

    fn says(&self, who: &str, oldest: &str) {
        let text = format!(
            r#"{{"who": "{who}", "what": "test", "oldest_needed": "{oldest}", "at": "2026-01-01T00:00:00+00:00"}}"#
        );
        write_file(&archive_of(&self.layout, "alpha").join(format!("consumers/{who}.json")), &text);
    }

    fn everybody_says(&self, oldest: &str) {
        ["alpha", "beta", "dr1", "relay-dr1"].iter().for_each(|who| self.says(who, oldest));
    }

    fn program(&self) -> Program {
        self.layout.program("alpha", "restore-wal")
    }

    fn clean(&self, words: &[&str]) -> Outcome {
        self.program().args(words).run().expect_ok()
    }

    /// What is left of a timeline, by the numbers of the segments.
    fn left(&self, timeline: u32) -> String {
        let folder = archive_of(&self.layout, "alpha").join(format!("wal/{timeline:08X}00000000"));
        let mut names = names_in(&folder);
        names.retain(|name| name.len() == 28);
        names.iter().map(|name| name[23..24].to_owned()).collect::<Vec<_>>().join("")
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let listing = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = listing.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_all_zero_name_removes_nothing_and_says_nothing_to_anybody() {
    let shelf = Shelf::new();
    shelf.everybody_says("000000010000000000000008");
    shelf.clean(&["--cleanup", "000000000000000000000000"]);
    assert_eq!(shelf.left(1), "123456789");
}

#[test]
fn one_silent_consumer_keeps_all_until_it_is_forgotten_by_name() {
    let shelf = Shelf::new();
    for who in ["alpha", "beta", "relay-dr1"] {
        shelf.says(who, "000000010000000000000008");
    }
    // A fifth that is in no configuration any more holds the others back.
    shelf.says("gamma", "000000010000000000000002");
    let said = shelf.clean(&["--cleanup", "--dry-run"]);
    assert!(said.stdout.contains("all WAL is kept: dr1: has not said yet"), "{said}");
    shelf.clean(&["--cleanup"]);
    assert_eq!(shelf.left(1), "123456789");
    shelf.says("dr1", "000000010000000000000007");
    shelf.clean(&["--cleanup"]);
    assert_eq!(shelf.left(1), "23456789");
    let said = shelf.clean(&["--forget", "gamma"]);
    assert_eq!(said.stdout, "forgot what gamma needs\n");
    shelf.clean(&["--cleanup"]);
    assert_eq!(shelf.left(1), "789");
}

#[test]
fn the_oldest_of_standbys_relays_and_backups_wins_on_every_timeline() {
    let shelf = Shelf::new();
    shelf.everybody_says("000000020000000000000008");
    shelf.says("relay-dr1", "000000010000000000000006");
    let backup = archive_of(&shelf.layout, "alpha").join("backup/monday");
    make_dir(&backup);
    // One that is being made, or cannot be read, keeps all.
    shelf.clean(&["--cleanup"]);
    assert_eq!(shelf.left(1), "123456789");
    write_file(&backup.join("backup.json"), r#"{"start_segment": "000000010000000000000004", "label": "monday"}"#);
    let before = shelf.left(1);
    let said = shelf.clean(&["--cleanup", "--dry-run"]);
    assert!(said.stdout.contains("would remove 000000010000000000000003.zst\n"), "{said}");
    assert!(said.stdout.contains("before '000000010000000000000004', kept for backup monday"), "{said}");
    assert_eq!(said.stdout.lines().count(), 8, "{said}");
    assert_eq!(shelf.left(1), before);
    shelf.clean(&["--cleanup"]);
    assert_eq!((shelf.left(1).as_str(), shelf.left(2).as_str()), ("456789", "456789"));
    let root = archive_of(&shelf.layout, "alpha").join("wal");
    assert!(root.join("00000002.history").is_file());
    let kept = names_in(&root.join("0000000100000000"));
    assert!(kept.contains(&"000000010000000000000002.00000028.backup".to_owned()));
    assert!(!kept.iter().any(|name| name.contains("partial")), "{kept:?}");
}

#[test]
fn a_restart_point_is_reported_before_anything_goes() {
    let shelf = Shelf::new();
    shelf.everybody_says("000000010000000000000003");
    shelf.says("beta", "000000010000000000000009");
    shelf.says("dr1", "000000010000000000000009");
    shelf.says("relay-dr1", "000000010000000000000009");
    shelf.clean(&["--cleanup", "000000020000000000000005"]);
    assert_eq!((shelf.left(1).as_str(), shelf.left(2).as_str()), ("56789", "56789"));
    let record = archive_of(&shelf.layout, "alpha").join("consumers/alpha.json");
    assert!(fs::read_to_string(record).expect("it is there").contains("000000020000000000000005"));
}

#[test]
fn keep_stops_removal_and_the_limit_slows_it() {
    let shelf = Shelf::new();
    shelf.everybody_says("000000010000000000000008");
    let keep = shelf.layout.node("alpha").spool.join("control/KEEP");
    order(&keep, "");
    shelf.clean(&["--cleanup"]);
    assert_eq!(shelf.left(1), "123456789");
    fs::remove_file(keep).expect("because it is there");
    shelf.clean(&["--cleanup", "--set", "restore.remove_max=2"]);
    assert_eq!(shelf.left(1), "3456789");
    shelf.clean(&["--cleanup"]);
    assert_eq!((shelf.left(1).as_str(), shelf.left(2).as_str()), ("89", "89"));
}

#[test]
fn a_failure_stays_below_126() {
    let shelf = Shelf::new();
    write_file(&archive_of(&shelf.layout, "alpha").join("consumers/alpha.json"), "nonsense");
    let said = shelf.program().arg("--cleanup").run().expect_code(20);
    assert!(said.stderr.contains("cannot be understood") && said.stderr.contains("HINT: "), "{said}");
    assert_eq!(shelf.left(1), "123456789");
    shelf.program().args(["--cleanup", "nonsense"]).run().expect_code(2);
}
