//! `kill -9`, two hundred times, while a server archives over ssh: whatever was acknowledged is there, whole and the
//! same, no final name is ever half a file, and every queue runs empty.
//!
//! One major version is enough: who is killed are our own programs.
//!
//! `PGWARM_TEST_SEED` repeats a run. The test offers segments beside the server's own archiver, which sits out ten
//! seconds after each call that is killed under it; so most victims are the test's calls.

mod support;

#[path = "support/archiving.rs"]
mod archiving;
#[path = "support/sshd.rs"]
mod sshd;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archiving::{Scene, check, decode, files, stored_below};
use pgwarm::store::Encoding;
use pgwarm::wal::WalName;
use rustix::process::Signal;
use support::workspace::{children_of, is_alive, send};
use support::{PATIENCE, Running, wait_until};

const KILLS: usize = 200;

/// After so long the load ends, however few were killed; the test then fails.
const LIMIT: Duration = Duration::from_secs(120);

/// How many calls of the test run at a time.
const CALLS: usize = 3;

/// How many segments may wait before the load pauses.
const BACKLOG: usize = 12;

/// Between two kills of the server's own call; its archiver comes back after ten seconds.
const SPARE_THE_ARCHIVER: Duration = Duration::from_secs(12);

/// A small generator (xorshift64*), so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap_or_default() % below
    }
}

/// What the killing has done so far.
#[derive(Default, Debug)]
struct Toll {
    calls: usize,
    workers: usize,
    far_ends: usize,
    servers_calls: usize,
}

impl Toll {
    fn total(&self) -> usize {
        self.calls + self.workers + self.far_ends + self.servers_calls
    }
}

#[test]
fn whatever_is_killed_nothing_acknowledged_is_lost() {
    let seed = std::env::var("PGWARM_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_240_229);
    eprintln!("seed {seed}");
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "worker", "on").set("archive", "ack", "local").set("archive", "worker_idle", "5s");
    });
    // Everything stays in pg_wal, to be compared with.
    scene.server.set("wal_keep_size", "8GB").set("max_wal_size", "8GB").set("checkpoint_timeout", "1h");
    let scene = scene.started();
    scene.server.execute("create table t (x int)");
    let (over, mut acknowledged) = (AtomicBool::new(false), BTreeSet::new());
    let toll = thread::scope(|threads| {
        threads.spawn(|| load(&scene, &over));
        let watcher = threads.spawn(|| watch(&scene, &over));
        let toll = kill(&scene, &mut Dice(seed), &mut acknowledged);
        over.store(true, Ordering::Release);
        let seen = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(seen > 0, "the watcher saw files come");
        toll
    });
    eprintln!("{toll:?}, {} acknowledged calls of the test", acknowledged.len());
    assert!(toll.total() >= KILLS, "{toll:?}");
    assert!(toll.calls > 20 && toll.workers > 10 && toll.far_ends > 10 && toll.servers_calls > 0, "{toll:?}");
    settle(&scene);
    compare(&scene, &acknowledged);
}

/// Segment after segment, as long as the archiving keeps up.
fn load(scene: &Scene, over: &AtomicBool) {
    let mut session = scene.server.connect();
    while !over.load(Ordering::Acquire) {
        if scene.ready().len() >= BACKLOG {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let sql = "insert into t select generate_series(1, 3000); select pg_switch_wal()";
        session.batch_execute(sql).expect("because the server runs");
    }
}

/// Looks at every final name as soon as it appears: it must be whole from the first moment on.
fn watch(scene: &Scene, over: &AtomicBool) -> usize {
    let mut seen = BTreeSet::new();
    while !over.load(Ordering::Acquire) {
        for (name, path) in final_names(&scene.root("beta").join("wal")) {
            if seen.insert(path.clone()) {
                check(&name, &decode(&path));
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    seen.len()
}

/// The stored files whose names, without extension, are names of WAL.
fn final_names(wal: &Path) -> Vec<(String, PathBuf)> {
    let found = files(wal).into_iter().filter_map(|path| {
        let stored = path.file_name()?.to_str()?.to_owned();
        let (name, _) = Encoding::split(&stored);
        name.parse::<WalName>().ok().map(|_| (name.to_owned(), path.clone()))
    });
    found.collect()
}

/// Offers what waits and kills at random until enough have died.
fn kill(scene: &Scene, dice: &mut Dice, acknowledged: &mut BTreeSet<String>) -> Toll {
    let (mut toll, mut calls) = (Toll::default(), Vec::<(String, Running)>::new());
    let (begun, mut spared) = (Instant::now(), Instant::now());
    while toll.total() < KILLS && begun.elapsed() < LIMIT {
        collect(&mut calls, acknowledged);
        offer(scene, dice, &mut calls);
        thread::sleep(Duration::from_millis(dice.roll(200) as u64));
        match dice.roll(4) {
            0 if !calls.is_empty() => {
                let victim = dice.roll(calls.len());
                if !calls[victim].1.has_ended() {
                    calls[victim].1.signal(Signal::KILL);
                    toll.calls += 1;
                }
            }
            1 => toll.far_ends += scene.beta.signal("serve-archive", Signal::KILL),
            2 => toll.workers += workers(scene).into_iter().map(|worker| send(worker, Signal::KILL)).count(),
            _ if spared.elapsed() > SPARE_THE_ARCHIVER => {
                let archiver = scene.archiver().parse().ok();
                let killed = archiver.map(children_of).unwrap_or_default();
                killed.iter().for_each(|call| send(*call, Signal::KILL));
                if !killed.is_empty() {
                    toll.servers_calls += killed.len();
                    spared = Instant::now();
                }
            }
            _ => {}
        }
    }
    for (name, call) in calls {
        if call.wait().code == Some(0) {
            acknowledged.insert(name);
        }
    }
    toll
}

/// Takes the answers of the calls that have ended.
fn collect(calls: &mut Vec<(String, Running)>, acknowledged: &mut BTreeSet<String>) {
    let all = std::mem::take(calls);
    for (name, mut call) in all {
        if !call.has_ended() {
            calls.push((name, call));
            continue;
        }
        let outcome = call.wait();
        match (outcome.code, outcome.signal) {
            (Some(0), _) => drop(acknowledged.insert(name)),
            (Some(code), _) => assert!((1..=125).contains(&code), "{outcome}"),
            (None, signal) => assert_eq!(signal, Some(9), "{outcome}"),
        }
    }
}

/// Calls the program for something that waits, with and without the worker.
fn offer(scene: &Scene, dice: &mut Dice, calls: &mut Vec<(String, Running)>) {
    let ready: Vec<_> = scene.ready().into_iter().collect();
    while calls.len() < CALLS && !ready.is_empty() {
        let name = ready[dice.roll(ready.len())].clone();
        let path = scene.wal(&name).display().to_string();
        let alone = ["--no-worker", &path];
        let words = if dice.roll(2) == 0 { &alone[..] } else { &alone[1..] };
        calls.push((name, scene.call(words).spawn()));
    }
}

/// The living workers of this scene.
fn workers(scene: &Scene) -> Vec<u32> {
    let shared = scene.layout.shared_file("alpha").display().to_string();
    let ours = sshd::all_processes().into_iter().filter(|(_, _, comm)| comm == "archive-wal").map(|(id, ..)| id);
    ours.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("--worker --config") && line.contains(&shared) && is_alive(*id)
    })
    .collect()
}

/// Lets it all come to rest: nothing waits, in the server or in a queue.
fn settle(scene: &Scene) {
    scene.wait_drained();
    let mut rounds = 0;
    wait_until(PATIENCE, "the queues are empty", || {
        rounds += 1;
        if rounds % 200 == 0 {
            scene.switch();
        }
        scene.queued("beta").is_empty() && scene.queued("alpha").is_empty() && scene.ready().is_empty()
    });
}

/// Everything that the server or a call of the test was told to be safe is in both archives, whole and the same.
fn compare(scene: &Scene, acknowledged: &BTreeSet<String>) {
    let done = scene.done();
    assert!(done.len() > 20, "{done:?}");
    for name in done.iter().chain(acknowledged) {
        let original = fs::read(scene.wal(name)).expect("because wal_keep_size keeps it");
        for node in ["alpha", "beta"] {
            let stored = stored_below(&scene.root(node).join("wal"), name);
            let stored = stored.unwrap_or_else(|| panic!("{node} has lost '{name}'"));
            assert!(decode(&stored) == original, "'{name}' in {node} is not what the server wrote");
        }
    }
    for node in ["alpha", "beta"] {
        for (name, path) in final_names(&scene.root(node).join("wal")) {
            check(&name, &decode(&path));
        }
    }
    eprintln!("{} files compared in two archives", done.len());
}
