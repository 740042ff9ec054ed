//! The worker of `archive-wal`: it helps, it is one, it goes, and whatever happens to it no call fails by it.

mod support;

#[path = "support/archiving.rs"]
mod archiving;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use archiving::Scene;
use rustix::process::Signal;
use serde_json::Value;
use support::workspace::{Account, is_alive, send};
use support::{Layout, PATIENCE, comes_true, wait_for, wait_until};

fn scene(change: impl FnOnce(&mut Layout)) -> Scene {
    Scene::new(|layout| {
        layout.set("archive", "worker", "on");
        change(layout);
    })
}

fn status(scene: &Scene) -> Value {
    let outcome = scene.archive_wal(&["--status", "--json"]).expect_ok();
    serde_json::from_str(&outcome.stdout).expect("because --json prints JSON")
}

/// The process of the worker that answers, if one does.
fn worker(scene: &Scene) -> Option<u32> {
    status(scene)["worker"]["process"].as_u64().and_then(|process| u32::try_from(process).ok())
}

/// The processes that are workers of this scene, answering or not.
fn workers(scene: &Scene) -> Vec<u32> {
    let shared = scene.layout.shared_file("alpha").display().to_string();
    let all = sshd::all_processes().into_iter().map(|(id, ..)| id);
    all.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("archive-wal --worker") && line.contains(&shared) && is_alive(*id)
    })
    .collect()
}

fn running_worker(scene: &Scene) -> u32 {
    wait_for(PATIENCE, "a worker that answers", || worker(scene))
}

#[test]
fn what_waits_is_shipped_before_it_is_asked_for() {
    let mut scene = scene(|layout| {
        layout.set("archive", "lookahead", "4");
    })
    .started();
    scene.switch();
    scene.wait_drained();
    let worker = running_worker(&scene);
    scene.server.set("archive_command", "false").reload();
    let names: Vec<_> = (0..6).map(|_| scene.switch()).collect();
    let before = marks(&scene);
    // One call, as the server would make it: the worker goes on with what follows.
    scene.archive(&scene.wal(&names[0])).expect_ok();
    wait_until(PATIENCE, "four more are prepared", || status(&scene)["worker"]["prepared"] == 4);
    for name in &names[1..5] {
        scene.content("beta", name);
    }
    assert!(scene.stored("beta", &names[5]).is_none(), "no more than archive.lookahead");
    scene.archive(&scene.wal(&names[1])).expect_ok();
    wait_until(PATIENCE, "the next one is prepared", || scene.stored("beta", &names[5]).is_some());
    assert_eq!(marks(&scene), before, "archive_status belongs to the server");
    assert_eq!(running_worker(&scene), worker);
    let log = fs::read_to_string(scene.layout.node("alpha").spool.join("worker.log")).unwrap_or_default();
    assert!(!log.contains("ERROR"), "{log}");
}

/// Every mark in `archive_status` with all that a touch would change.
fn marks(scene: &Scene) -> Vec<(String, u64, i64, i64, i64)> {
    let mut found: Vec<_> = archiving::files(&scene.wal("archive_status"))
        .iter()
        .map(|path| {
            let data = fs::metadata(path).expect("because the server archives nothing now");
            (path.display().to_string(), data.ino(), data.mtime(), data.mtime_nsec(), data.ctime_nsec())
        })
        .collect();
    let data = fs::metadata(scene.wal("archive_status")).expect("because it is there");
    found.push(("itself".to_owned(), data.ino(), data.mtime(), data.mtime_nsec(), data.ctime_nsec()));
    found
}

#[test]
fn a_failure_ahead_is_told_to_the_call_that_it_belongs_to() {
    let mut scene = scene(|_| {}).started();
    scene.switch();
    scene.wait_drained();
    running_worker(&scene);
    let command = scene.server.query("show archive_command");
    scene.server.set("archive_command", "false").reload();
    let (first, second) = (scene.switch(), scene.switch());
    // Other content stands in the way of the second one only.
    let folder = scene.root("beta").join("wal").join(&second[..16]);
    let taken = folder.join(&second);
    fs::write(&taken, fs::read(scene.wal(&first)).expect("because it is there")).expect("because root may");
    Account::unprivileged().own(&taken);
    scene.archive(&scene.wal(&first)).expect_ok();
    wait_until(PATIENCE, "the second was tried ahead", || status(&scene)["worker"]["prepared"] == 1);
    scene.server.set("archive_command", command).reload();
    scene.server.wait_for_log(&format!("[conflict] '{second}' already exists"), PATIENCE);
    assert!(scene.ready().contains(&second) && !scene.ready().contains(&first));
    fs::remove_file(&taken).expect("because root may");
    scene.wait_drained();
    scene.content("beta", &second);
}

#[test]
fn nothing_is_discarded_ahead_of_its_turn() {
    let mut scene = scene(|layout| {
        layout.set("archive", "discard_confirmation", "I accept a broken WAL chain");
    })
    .started();
    scene.switch();
    scene.wait_drained();
    running_worker(&scene);
    scene.server.set("archive_command", "false").reload();
    let names: Vec<_> = (0..3).map(|_| scene.switch()).collect();
    scene.archive_wal(&["--discard"]).expect_ok();
    scene.archive(&scene.wal(&names[0])).expect_ok();
    scene.archive_wal(&["--arm"]).expect_ok();
    for name in &names[1..] {
        scene.archive(&scene.wal(name)).expect_ok();
        scene.content("beta", name);
    }
    assert_eq!(status(&scene)["broken_chains"][0]["count"], 1);
    // What was shipped ahead is still refused while the switch says so.
    let more: Vec<_> = (0..2).map(|_| scene.switch()).collect();
    scene.archive(&scene.wal(&more[0])).expect_ok();
    wait_until(PATIENCE, "it is prepared", || scene.stored("beta", &more[1]).is_some());
    scene.archive_wal(&["--refuse"]).expect_ok();
    scene.archive(&scene.wal(&more[1])).expect_code(20);
}

#[test]
fn twenty_calls_at_once_start_one_worker_and_it_leaves_when_idle() {
    let mut scene = scene(|layout| {
        layout.set("archive", "worker_idle", "1s");
    })
    .started();
    scene.server.set("archive_command", "false").reload();
    let names: Vec<_> = (0..20).map(|_| scene.switch()).collect();
    for worker in workers(&scene) {
        send(worker, Signal::KILL);
    }
    let calls: Vec<_> =
        names.iter().map(|name| scene.call(&[&scene.wal(name).display().to_string()]).spawn()).collect();
    calls.into_iter().for_each(|call| drop(call.wait().expect_ok()));
    names.iter().for_each(|name| drop(scene.content("beta", name)));
    wait_until(PATIENCE, "one worker is left", || workers(&scene).len() <= 1);
    wait_until(PATIENCE, "an idle worker leaves", || workers(&scene).is_empty());
    assert!(!scene.layout.node("alpha").spool.join("worker.sock").exists());
    assert!(
        scene.beta.processes("serve-archive").is_empty()
            || comes_true(PATIENCE, &mut || { scene.beta.processes("serve-archive").is_empty() })
    );
}

#[test]
fn another_configuration_gets_a_worker_of_its_own() {
    let mut scene = scene(|_| {}).started();
    scene.switch();
    scene.wait_drained();
    let old = running_worker(&scene);
    scene.layout.set("archive", "compress", "gzip");
    scene.rewrite();
    let name = scene.switch();
    scene.wait_drained();
    let stored = scene.stored("beta", &name).expect("because it was archived");
    assert!(stored.to_string_lossy().ends_with(".gz"), "the call obeys the new configuration at once");
    wait_until(PATIENCE, "the old worker is gone", || !is_alive(old));
    wait_until(PATIENCE, "a new worker serves", || {
        scene.switch();
        scene.wait_drained();
        worker(&scene).is_some_and(|new| new != old)
    });
}

#[test]
fn a_worker_that_is_killed_or_stands_still_costs_no_call() {
    // Segments that are too large to wait in memory, so that the spool shows who is at work.
    let mut scene = Scene::sized(8, |layout| {
        layout.set("archive", "worker", "on").set("archive", "compress", "none").set("archive", "deadline", "40s");
    })
    .started();
    scene.switch();
    scene.wait_drained();
    let first = running_worker(&scene);
    scene.server.set("archive_command", "false").reload();
    let names: Vec<_> = (0..4).map(|_| scene.switch()).collect();
    send(first, Signal::KILL);
    // While it dies it holds its lock, and the next call would do without a worker.
    wait_until(PATIENCE, "it is gone", || !is_alive(first));
    scene.archive(&scene.wal(&names[0])).expect_ok();
    let second = running_worker(&scene);
    assert_ne!(first, second);
    send(second, Signal::STOP);
    let outcome = scene.archive(&scene.wal(&names[1])).expect_ok();
    assert!(outcome.took < Duration::from_secs(20), "{outcome}");
    send(second, Signal::KILL);
    wait_until(PATIENCE, "it is gone", || !is_alive(second));
    // In the middle: the far end stands still, so the worker is at it when it dies.
    let third = {
        scene.archive(&scene.wal(&names[2])).expect_ok();
        running_worker(&scene)
    };
    scene.beta.signal("serve-archive", Signal::STOP);
    let call = scene.call(&["--set", "archive.retry=1s", &scene.wal(&names[3]).display().to_string()]).spawn();
    wait_until(PATIENCE, "the worker is at it", || {
        !archiving::files(&scene.layout.node("alpha").spool.join("outgoing")).is_empty()
    });
    send(third, Signal::KILL);
    call.wait().expect_ok();
    scene.content("beta", &names[3]);
}

#[test]
fn a_socket_that_nobody_answers_costs_no_call() {
    let mut scene = scene(|_| {}).started();
    scene.server.set("archive_command", "false").reload();
    let name = scene.switch();
    for worker in workers(&scene) {
        send(worker, Signal::KILL);
    }
    let socket = scene.layout.node("alpha").spool.join("worker.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("because the folder is the test's");
    Account::unprivileged().own(&socket);
    let outcome = scene.archive(&scene.wal(&name)).expect_ok();
    assert!(outcome.took < Duration::from_secs(20), "{outcome}");
    drop(listener);
    // The worker that this call started has taken the name over.
    running_worker(&scene);
    assert!(fs::metadata(&socket).expect("because a worker listens").file_type().is_socket());
}

#[test]
fn a_worker_drains_a_queue_without_being_asked_again() {
    let mut scene = scene(|layout| {
        layout.set("archive", "ack", "local");
    })
    .started();
    scene.switch();
    scene.wait_drained();
    running_worker(&scene);
    scene.beta.stop();
    let names = [scene.switch(), scene.switch()];
    scene.wait_drained();
    assert_eq!(status(&scene)["queues"][0]["files"], 2);
    scene.beta.restart();
    wait_until(PATIENCE, "the queue is empty", || scene.queued("beta").is_empty());
    names.iter().for_each(|name| drop(scene.content("beta", name)));
}

#[test]
fn a_connection_that_died_meanwhile_fails_no_call() {
    let mut scene = scene(|_| {}).started();
    for _ in 0..5 {
        scene.switch();
        scene.wait_drained();
        running_worker(&scene);
        scene.beta.restart();
    }
    assert_eq!(scene.counts().1, 0, "{}", scene.server.log());
}
