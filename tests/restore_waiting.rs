//! Waiting: a warm standby that is fed from the archive alone, and what an operator can tell it.

mod support;

#[path = "support/scene.rs"]
mod scene;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::Signal;
use scene::*;
use support::workspace;
use support::{Layout, PATIENCE, Server, wait_until};

/// A warm standby: it has applied the first three of six transactions and waits for the fourth.
struct Warm {
    scene: Scene,
    layout: Layout,
    server: Server,
}

impl Warm {
    /// With `standby.signal`, or the pg_standby way, with `recovery.signal`.
    fn new(standby: bool) -> Warm {
        Warm::with(standby, |_| {})
    }

    fn with(standby: bool, options: impl Fn(&mut Layout)) -> Warm {
        let scene = Scene::new(6);
        let mut layout = scene.copied();
        layout.set("restore", "wait", "on");
        options(&mut layout);
        layout.write();
        let archive = archive_of(&layout, "alpha");
        for name in &scene.segments[3..] {
            fs::remove_file(stored_in(&archive, name)).expect("because it is there");
        }
        let mut server = scene.restored("warm");
        server.set("restore_command", restore_command(&layout, "alpha", ""));
        server.set("wal_retrieve_retry_interval", "200ms");
        if standby {
            server.standby_signal()
        } else {
            server.recovery_signal()
        };
        replay_at_once(&mut server);
        server.launch();
        server.wait_for_log(&format!("waiting for '{}'", scene.segments[3]), PATIENCE);
        Warm { scene, layout, server }
    }

    /// Brings one more transaction.
    fn bring(&self, n: usize) {
        let name = &self.scene.segments[n - 1];
        let to = archive_of(&self.layout, "alpha").join("wal").join(&name[..16]).join(format!("{name}.zst"));
        let half = to.with_extension("half");
        copy(&self.scene.stored(name), &half);
        // It comes in now, whenever it was made.
        support::Program::at("touch").arg(&half).run().expect_ok();
        fs::rename(half, to).expect("because the folder is ours");
    }

    fn trigger(&self, text: &str) {
        order(&self.server.pgdata().join("trigger"), text);
    }

    fn control(&self, word: &str) -> PathBuf {
        self.layout.node("alpha").spool.join("control").join(word)
    }

    #[track_caller]
    fn opens_with(&mut self, wanted: &str) {
        assert_eq!(outcome(&mut self.server), Came::Open, "{}", self.server.log());
        assert_eq!(transactions(&self.server), wanted);
        assert_eq!(leftovers(&self.server), Vec::<String>::new());
    }
}

/// From 15 on a server reads ahead, and a call that waits keeps it from replaying what it has read.
fn replay_at_once(server: &mut Server) {
    if server.binaries().major >= 15 {
        server.set("recovery_prefetch", "off");
    }
}

#[test]
fn what_comes_is_applied_at_once_and_smart_applies_all_of_it() {
    for (standby, text) in [(true, ""), (false, "smart\n")] {
        let mut warm = Warm::new(standby);
        let begun = Instant::now();
        warm.bring(4);
        wait_until(PATIENCE, "the fourth", || {
            warm.server.log_has(&format!("waiting for '{}'", warm.scene.segments[4]))
        });
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        // Both come after the call that waits for the first of them has begun.
        warm.bring(6);
        warm.bring(5);
        warm.trigger(text);
        warm.opens_with("1 2 3 4 5 6");
    }
}

#[test]
fn fast_and_its_old_name_end_before_what_is_there() {
    for (standby, text) in [(true, "fast"), (false, "NOW\n")] {
        let mut warm = Warm::new(standby);
        order(&warm.control("PAUSE"), "");
        // Until the call that waits has read the order, it may hand over what comes.
        warm.server.wait_for_log("paused: ", PATIENCE);
        warm.bring(4);
        warm.trigger(text);
        warm.opens_with("1 2 3");
    }
}

#[test]
fn a_signal_means_fast() {
    let mut warm = Warm::new(false);
    workspace::send(wait_for_caller(&warm.server), Signal::USR1);
    warm.opens_with("1 2 3");
}

#[test]
fn a_trigger_of_last_time_opens_nothing() {
    for standby in [true, false] {
        let mut warm = Warm::new(standby);
        warm.server.stop(support::Stop::Fast);
        assert_eq!(leftovers(&warm.server), Vec::<String>::new(), "SIGTERM leaves no temporary");
        warm.trigger("fast");
        let trigger = warm.server.pgdata().join("trigger");
        let old = support::Program::at("touch").args(["-d", "1 hour ago"]).arg(&trigger);
        old.run().expect_ok();
        let before = warm.server.log().len();
        warm.server.launch();
        wait_until(PATIENCE, "it waits again", || warm.server.log()[before..].contains("waiting for '"));
        assert!(warm.server.log()[before..].contains("is older than this start of the server"));
        warm.bring(4);
        wait_until(PATIENCE, "the fourth", || warm.server.log()[before..].contains(&warm.scene.segments[4]));
        warm.trigger("smart");
        warm.opens_with("1 2 3 4");
    }
}

#[test]
fn pause_holds_and_continue_lets_go() {
    let warm = Warm::new(true);
    order(&warm.control("PAUSE"), "");
    warm.server.wait_for_log("paused: ", PATIENCE);
    warm.bring(4);
    warm.bring(5);
    assert!(!has(&warm.server, "1 2 3 4 5"));
    order(&warm.control("CONTINUE"), "");
    wait_until(PATIENCE, "the fifth", || has(&warm.server, "1 2 3 4 5"));
    assert!(!warm.control("PAUSE").exists() && !warm.control("CONTINUE").exists());
    warm.server.promote();
}

#[test]
fn a_promotion_is_noticed_at_once() {
    let mut warm = Warm::with(true, |layout| {
        layout.set("restore", "poll", "1h");
    });
    wait_until(PATIENCE, "it answers", || warm.server.accepts());
    let begun = Instant::now();
    warm.server.promote();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    warm.opens_with("1 2 3");
}

#[test]
fn waiting_ends_with_the_server_that_asked() {
    let mut warm = Warm::new(true);
    let caller = wait_for_caller(&warm.server);
    warm.server.kill();
    wait_until(SOON, "the call has ended", || !workspace::is_alive(caller));
}

#[test]
fn the_longest_wait_opens_nothing() {
    let longest = |layout: &mut Layout| {
        layout.set("restore", "wait_max", "1s");
    };
    let mut warm = Warm::with(false, longest);
    assert_eq!(outcome(&mut warm.server), Came::Down);
    assert!(warm.server.log_has("did not come within restore.wait_max") && warm.server.log_has("HINT: "));
    let mut warm = Warm::with(true, longest);
    let seen = warm.server.log().len();
    wait_until(PATIENCE, "it waits anew", || warm.server.log()[seen..].contains("waiting for '"));
    warm.bring(4);
    wait_until(PATIENCE, "the fourth", || has(&warm.server, "1 2 3 4"));
    assert!(warm.server.is_running());
}

#[test]
fn a_delay_holds_each_segment_back() {
    let warm = Warm::with(true, |layout| {
        layout.set("restore", "delay", "3s");
    });
    let touched = Instant::now();
    warm.bring(4);
    wait_until(PATIENCE, "the fourth", || has(&warm.server, "1 2 3 4"));
    assert!(touched.elapsed().as_millis() >= 3000, "{:?}", touched.elapsed());
}

#[test]
fn a_partial_is_served_under_stop_and_says_up_to_where() {
    let mut warm = Warm::new(true);
    let name = &warm.scene.segments[3];
    let raw = warm.layout.dir.join("raw");
    let layout = warm.scene.copied();
    layout.program("alpha", "restore-wal").arg(name).arg(&raw).run().expect_ok();
    let mut bytes = fs::read(&raw).expect("because it was just written");
    // A whole record or two, and the rest as a primary that died left it.
    bytes.truncate(64 << 10);
    let folder = archive_of(&warm.layout, "alpha").join("wal").join(&name[..16]);
    let partial = folder.join(format!("{name}.partial"));
    fs::write(&raw, bytes).expect("because it is ours");
    copy(&raw, &partial);
    let waiting = wait_for_caller(&warm.server);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(workspace::is_alive(waiting) && has(&warm.server, "1 2 3"), "it is not served unasked");
    order(&warm.control("STOP"), "");
    warm.opens_with("1 2 3 4");
    assert!(warm.server.log_has("serving the partial segment") && warm.server.log_has("which ends at 0/"));
}

#[test]
fn a_timeline_switch_reaches_warm_and_hot_standbys_through_the_archive_alone() {
    for wait in ["on", "off"] {
        let mut scene = Scene::new(2);
        scene.layout.set("restore", "wait", wait).set("restore", "worker", "off").set("restore", "from", "own").write();
        let standby = |name: &str| {
            let mut server = scene.restored(name);
            server.set("restore_command", restore_command(&scene.layout, "alpha", ""));
            server.set("wal_retrieve_retry_interval", "200ms").standby_signal();
            replay_at_once(&mut server);
            server.start();
            server
        };
        let (heir, fed) = (standby("heir"), standby("fed"));
        for server in [&heir, &fed] {
            wait_until(PATIENCE, "both", || has(server, "1 2"));
        }
        let (mut primary, mut heir) = (scene.primary, heir);
        primary.stop(support::Stop::Fast);
        let archive = format!(
            "{} --config {} --no-worker %p",
            support::program("archive-wal").display(),
            scene.layout.shared_file("alpha").display()
        );
        heir.stop(support::Stop::Fast);
        heir.set("archive_mode", "on").set("archive_command", archive);
        heir.start();
        heir.promote();
        commit(&heir, 3);
        commit(&heir, 4);
        wait_until(PATIENCE, &format!("wait = {wait}: the new timeline"), || has(&fed, "1 2 3 4"));
        assert!(fed.in_recovery());
    }
}
