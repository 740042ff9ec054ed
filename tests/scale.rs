//! What the programs cost with a thousand and with a million segments in the archive: it must be the same.
//!
//! Run by `scripts/scale`: it makes four archives of empty files before the real segments, which takes a while.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgwarm::archive::identity::Identity;
use pgwarm::wal::{SegmentName, SegmentNumber, SegmentSize, SystemId, TimelineId};
use sshd::Sshd;
use support::workspace::{Account, make_dir, write_file};
use support::{Layout, PATIENCE, Program, Server, Workspace, wait_until};

const RUNS: usize = 11;

/// Where the real segments begin: behind a million others.
const BEGIN: u64 = 1_000_448;

/// No median may be larger than that many times the other.
const RATIO_MAX: f64 = 1.5;

/// The one step that looks at the whole archive, once a recovery: before it tells the server that WAL has ended, it
/// reads the names of all folders, one for 4 GiB of WAL, since a hole may be as wide as anything.
const LAST_OF_RECOVERY: usize = 3;

/// What that step may cost for each folder, in milliseconds.
const FOLDER_MAX: f64 = 0.002;

/// How many segments are in a folder.
const FOLDER: u64 = 256;

/// What is measured.
const STEPS: [&str; 6] = [
    "archive-wal, a new segment",
    "restore-wal, a segment that is there",
    "restore-wal, an absent one (standby)",
    "restore-wal, an absent one (recovery)",
    "relay-wal, one segment",
    "relay-wal, nothing to do",
];

fn segment(number: u64) -> SegmentName {
    SegmentName::new(TimelineId(1), SegmentNumber(number), SegmentSize::DEFAULT)
}

/// Real segments from `BEGIN` on, in a folder, and the server that wrote them.
fn real_segments() -> (Server, PathBuf) {
    let builder = Server::builder("aged").set("archive_mode", "on").set("archive_timeout", 0);
    let mut server = builder.create();
    let archive = server.dir().join("archive");
    make_dir(&archive);
    let path = archive.display().to_string();
    server.set("archive_command", format!("cp %p {path}/%f.new && mv {path}/%f.new {path}/%f"));
    let begin = segment(BEGIN).to_string();
    server.tool("pg_resetwal").args(["-f", "-l", &begin]).arg(server.pgdata()).run().expect_ok();
    server.start();
    let last = (0..RUNS).map(|_| server.switch_wal()).fold(String::new(), |_, name| name);
    wait_until(PATIENCE, "all are archived", || archive.join(&last).exists());
    (server, archive)
}

/// Two nodes whose archives hold so many names before the real segments.
struct Scene {
    layout: Layout,
    times: Vec<Vec<f64>>,
}

impl Scene {
    fn new(sshd: &Sshd, server: &Server, count: u64) -> Scene {
        let mut layout = Layout::new("shop", &["beta", "gamma"]);
        layout.set("archive", "to", "own").set("archive", "ack", "local").set("archive", "worker", "off");
        layout.set("restore", "from", "own").set("restore", "worker", "off");
        layout.node_mut("gamma").set("kind", "dr");
        layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
        layout.write();
        let identity = Identity::new("shop", SystemId(server.system_identifier()), SegmentSize::DEFAULT).to_json();
        for node in ["beta", "gamma"] {
            let root = layout.node(node).archive.clone().expect("because every node has one").join("shop");
            make_dir(&root);
            write_file(&root.join("identity.json"), &identity);
            fill(&root.join("wal"), count);
        }
        let pgdata = layout.node("beta").pgdata.clone();
        for folder in [pgdata.clone(), pgdata.join("global"), pgdata.join("pg_wal")] {
            make_dir(&folder);
        }
        write_file(&pgdata.join("PG_VERSION"), &server.binaries().major.to_string());
        let control = pgdata.join("global/pg_control");
        fs::copy(server.pgdata().join("global/pg_control"), &control).expect("because the server wrote it");
        Account::unprivileged().own(&control);
        Scene { layout, times: vec![Vec::new(); STEPS.len()] }
    }

    fn program(&self, name: &str) -> Program {
        self.layout.program("beta", name)
    }

    /// Waits for the end itself: a program that is looked at every few milliseconds seems to take as long.
    fn measure(&mut self, step: usize, name: &str, words: &[&str], code: i32) {
        let workspace = Workspace::shared();
        let mut command = workspace.command(support::program(name), "KILL");
        command.arg("--config").arg(self.layout.shared_file("beta")).args(words);
        command.current_dir(&self.layout.node("beta").pgdata);
        let begun = Instant::now();
        let output = command.output().expect("because cargo has built it");
        self.times[step].push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }

    /// Every step once, with the next of the real segments.
    fn round(&mut self, number: u64, archive: &std::path::Path) {
        let pgdata = self.layout.node("beta").pgdata.clone();
        let (name, absent) = (segment(number).to_string(), segment(number + 1).to_string());
        self.measure(0, "archive-wal", &[&archive.join(&name).display().to_string()], 0);
        self.measure(1, "restore-wal", &[&name, "pg_wal/RECOVERYXLOG"], 0);
        for (step, signal) in [(2, "standby.signal"), (3, "recovery.signal")] {
            write_file(&pgdata.join(signal), "");
            self.measure(step, "restore-wal", &[&absent, "pg_wal/RECOVERYXLOG"], 1);
            fs::remove_file(pgdata.join(signal)).expect("because it was just written");
        }
        self.measure(4, "relay-wal", &[], 0);
        self.measure(5, "relay-wal", &[], 0);
    }

    fn medians(&self) -> Vec<f64> {
        let median = |times: &Vec<f64>| {
            let mut sorted = times.clone();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        };
        self.times.iter().map(median).collect()
    }
}

/// Empty files under the names of so many segments before the real ones.
fn fill(wal: &std::path::Path, count: u64) {
    make_dir(wal);
    for number in BEGIN - count..BEGIN {
        let name = segment(number);
        let folder = wal.join(name.folder());
        if number == BEGIN - count || number % 256 == 0 {
            make_dir(&folder);
        }
        fs::File::create(folder.join(format!("{name}.zst"))).expect("because there are inodes");
    }
}

#[test]
#[ignore = "it makes two million files; scripts/scale runs it"]
fn a_million_segments_cost_what_a_thousand_do() {
    let (server, archive) = real_segments();
    let sshd = Sshd::start();
    sshd::own(&sshd.key());
    let count = std::env::var("PGWARM_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let mut few = Scene::new(&sshd, &server, 1000);
    let mut many = Scene::new(&sshd, &server, count);
    // A first turn lists everything once; it is told and not compared.
    for (name, scene) in [("1000", &few), ("many", &many)] {
        let outcome = scene.program("relay-wal").deadline(Duration::from_secs(600)).run().expect_ok();
        println!("first turn without a cursor, {name}: {:.0} ms", outcome.took.as_secs_f64() * 1000.0);
    }
    for number in (BEGIN..).take(RUNS) {
        // Whoever comes second finds the segment in the caches, so they take turns.
        let mut scenes = [&mut few, &mut many];
        if number % 2 == 1 {
            scenes.reverse();
        }
        for scene in scenes {
            scene.round(number, &archive);
        }
    }
    println!("{:<40} {:>10} {:>10} {:>7}", "median of 11, ms", "1000", count, "ratio");
    let mut worst = 0.0_f64;
    for (step, (few, many)) in few.medians().into_iter().zip(many.medians()).enumerate() {
        let listing = if step == LAST_OF_RECOVERY { FOLDER_MAX * (count / FOLDER) as f64 } else { 0.0 };
        worst = worst.max((many - listing) / few);
        println!("{:<40} {few:>10.1} {many:>10.1} {:>7.2}", STEPS[step], many / few);
    }
    assert!(worst <= RATIO_MAX, "the cost grows with the archive: {worst:.2} times");
}
