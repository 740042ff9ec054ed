//! `kill -9` of `relay-wal` and of the far end, at any moment: what is there is whole, and in the end all is there.
//!
//! One major version is enough: who is killed are our own programs.
//!
//! `PGWARM_TEST_SEED` repeats a run.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

#[path = "relay/scene.rs"]
mod scene;

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use scene::{Scene, Stock};
use support::{Outcome, PATIENCE, wait_until};

/// How many kills the target sees before it is emptied.
const KILLS: usize = 8;

/// How many kills of each end there are at least.
const ENOUGH: usize = 32;

/// A small generator (xorshift): the same seed makes the same moments.
struct Dice(u64);

impl Dice {
    fn seeded() -> Dice {
        let seed = std::env::var("PGWARM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(20_261_121);
        eprintln!("PGWARM_TEST_SEED={seed}");
        Dice(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Whatever has a name at the target is what PostgreSQL wrote, and what left the queue is there.
fn expect_whole(scene: &Scene, queued: &[&str]) {
    let held = scene.held("gamma");
    for (name, content) in &held {
        assert!(*content == Stock::get().files[name], "'{name}' differs");
    }
    for name in queued {
        let waits = scene.queue_of("gamma").join(name).exists();
        assert!(waits || held.contains_key(*name), "'{name}' is neither queued nor there");
    }
}

/// Runs a turn and kills one of its ends so many microseconds after it began, or after both ends have met. True where
/// the kill came in time.
fn killed_turn(scene: &Scene, after: u64, far_end: bool, met: bool) -> bool {
    let mut relay = scene.relay(&["--json"]).spawn();
    if met {
        let both = || relay.has_ended() || !scene.sshd.processes("serve-archive").is_empty();
        wait_until(PATIENCE, "the far end works", both);
    }
    std::thread::sleep(Duration::from_micros(after));
    let hit = if far_end {
        scene.sshd.signal("serve-archive", Signal::KILL) > 0
    } else {
        let runs = !relay.has_ended();
        relay.signal(Signal::KILL);
        runs
    };
    let Outcome { code, signal, stderr, .. } = relay.wait();
    match (far_end, hit) {
        (true, true) => assert!(matches!(code, Some(0 | 40)), "{code:?} {signal:?} {stderr}"),
        (false, true) => assert!(signal == Some(9) || code == Some(0), "{code:?} {stderr}"),
        (_, false) => assert_eq!(code, Some(0), "{stderr}"),
    }
    hit
}

#[test]
fn nothing_is_lost_or_half_there_whoever_is_killed_and_when() {
    let scene = Scene::new(&["gamma"]);
    let stock = Stock::get();
    let first = stock.timeline(1);
    let second = stock.timeline(2);
    scene.feed(&first);
    scene.feed(&["00000002.history", stock.partial(), stock.label()]);
    let everything: Vec<&str> = stock.files.keys().map(String::as_str).collect();
    let mut dice = Dice::seeded();
    let mut kills = [0, 0];
    while kills[0] < ENOUGH || kills[1] < ENOUGH {
        scene.queue("gamma", &second);
        for _ in 0..KILLS {
            let far_end = kills[1] < kills[0];
            let met = far_end || dice.below(3) > 0;
            let after = dice.below(if met { 100_000 } else { 300_000 });
            kills[usize::from(far_end)] += usize::from(killed_turn(&scene, after, far_end, met));
            expect_whole(&scene, &second);
        }
        scene.turn(&[]);
        scene.expect_held("gamma", &everything);
        assert_eq!(scene.queued("gamma"), 0);
        assert_eq!(scene.turn(&[]).stdout, "");
        for gone in ["wal", "relays"] {
            fs::remove_dir_all(scene.root("gamma").join(gone)).expect("because a turn made it");
        }
    }
    eprintln!("{} kills of relay-wal, {} of the far end", kills[0], kills[1]);
}
