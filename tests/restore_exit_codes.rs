//! The exit codes of `restore-wal`, by what PostgreSQL makes of them: six transactions in six segments, and each way in
//! which the second one can fail to be read. No restore may open with fewer than six, and no standby may die of it.

mod support;

#[path = "support/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use scene::*;
use sshd::Sshd;
use support::workspace::{self, write_file};
use support::{Layout, PATIENCE, Server, wait_until};

const ALL: &str = "1 2 3 4 5 6";

/// One way for the second segment to be unreadable.
struct Fault {
    name: &'static str,
    /// Breaks it.
    inflict: fn(&Scene, &Layout),
    /// What the server's log must say.
    says: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault { name: "hole", inflict: |scene, layout| remove(&second(scene, layout)), says: "is missing, but '" },
    Fault { name: "unreadable", inflict: |scene, layout| mode(&second(scene, layout), 0), says: "[storage]" },
    Fault {
        name: "truncated",
        inflict: |scene, layout| change(&second(scene, layout), |bytes| bytes.truncate(bytes.len() / 2)),
        says: "[corrupt]",
    },
    Fault {
        name: "flipped",
        inflict: |scene, layout| {
            change(&second(scene, layout), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
            })
        },
        says: "[corrupt]",
    },
    Fault {
        name: "zeros",
        inflict: |scene, layout| change(&second(scene, layout), |bytes| bytes.fill(0)),
        says: "[corrupt]",
    },
    Fault {
        name: "other",
        inflict: |scene, layout| {
            let other = fs::read(stored_in(&archive_of(layout, "alpha"), &scene.segments[2])).expect("it is there");
            change(&second(scene, layout), |bytes| *bytes = other.clone());
        },
        says: "[corrupt]",
    },
    Fault { name: "nodir", inflict: |_, layout| hide(&archive_of(layout, "alpha")), says: "HINT" },
    Fault { name: "folder", inflict: |_, layout| mode(&archive_of(layout, "alpha").join("wal"), 0), says: "[storage]" },
    Fault {
        name: "foreign",
        inflict: |_, layout| {
            change(&archive_of(layout, "alpha").join("identity.json"), |bytes| {
                let text = String::from_utf8_lossy(bytes).replace("\"main\"", "\"prod\"");
                *bytes = text.into_bytes();
            })
        },
        says: "[refused]",
    },
    Fault {
        name: "config",
        inflict: |_, layout| change(&layout.shared_file("alpha"), |bytes| bytes.extend(b"[restore]\nnonsense = 1\n")),
        says: "[config]",
    },
];

fn second(scene: &Scene, layout: &Layout) -> std::path::PathBuf {
    stored_in(&archive_of(layout, "alpha"), &scene.segments[1])
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("because it is there");
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("because it is there");
}

fn hide(path: &Path) {
    fs::rename(path, path.with_extension("hidden")).expect("because it is there");
}

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("because it is there");
    change(&mut bytes);
    fs::write(path, bytes).expect("because it is ours");
}

/// Puts everything back as it was.
fn mend(scene: &Scene, layout: &Layout) {
    let archive = archive_of(layout, "alpha");
    if archive.join("wal").is_dir() {
        mode(&archive.join("wal"), 0o700);
    }
    let _ = fs::remove_dir_all(archive.with_extension("hidden"));
    if archive.exists() {
        fs::remove_dir_all(&archive).expect("because it is ours");
    }
    copy(&scene.archive(), &archive);
    layout.write();
}

/// A restore or a standby of the scene.
fn server(scene: &Scene, layout: &Layout, name: &str, standby: bool) -> Server {
    let mut server = scene.restored(name);
    server.set("restore_command", restore_command(layout, "alpha", "")).set("wal_retrieve_retry_interval", "200ms");
    if standby {
        server.standby_signal()
    } else {
        server.recovery_signal()
    };
    server
}

/// Does the work on both cores.
fn each<T: Sync>(all: &[T], work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let run = || {
        while let Some(one) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            work(one);
        }
    };
    std::thread::scope(|scope| [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().expect("it holds")));
}

#[test]
fn a_restore_never_opens_early_and_goes_on_when_mended() {
    let scene = Scene::new(6);
    each(FAULTS, |fault| {
        let layout = scene.copied();
        (fault.inflict)(&scene, &layout);
        let mut server = server(&scene, &layout, fault.name, false);
        server.launch();
        assert_eq!(outcome(&mut server), Came::Down, "{}", fault.name);
        let log = server.log();
        assert!(log.contains(fault.says) && log.contains("restore-wal: HINT: "), "{}: {log}", fault.name);
        assert!(!log.contains("selected new timeline"), "{}: {log}", fault.name);
        mend(&scene, &layout);
        server.launch();
        assert_eq!(outcome(&mut server), Came::Open, "{}: {}", fault.name, server.log());
        assert_eq!(transactions(&server), ALL, "{}", fault.name);
        assert_eq!(leftovers(&server), Vec::<String>::new());
    });
}

#[test]
fn a_standby_survives_and_goes_on_when_mended() {
    let scene = Scene::new(6);
    // To a standby a segment that is missing is one that has not come yet.
    each(&FAULTS[1..], |fault| {
        let layout = scene.copied();
        let mut server = server(&scene, &layout, fault.name, true);
        // It is healthy first: the end of WAL is reached, then the fault strikes and WAL goes on.
        let later: Vec<_> =
            scene.segments[1..].iter().map(|name| stored_in(&archive_of(&layout, "alpha"), name)).collect();
        later.iter().for_each(|path| remove(path));
        server.start();
        wait_until(PATIENCE, "the first transaction", || has(&server, "1"));
        // The standby asks all the time: it must not see the WAL before the fault is in it.
        let pause = layout.node("alpha").spool.join("control").join("PAUSE");
        order(&pause, "");
        server.wait_for_log("paused: ", PATIENCE);
        mend(&scene, &layout);
        (fault.inflict)(&scene, &layout);
        remove(&pause);
        server.wait_for_log(fault.says, PATIENCE);
        let seen = server.log().len();
        // Two more rounds of it.
        wait_until(PATIENCE, "the standby asks again", || server.log()[seen..].matches("HINT: ").count() > 1);
        assert!(server.is_running() && server.in_recovery() && transactions(&server) != ALL, "{}", fault.name);
        mend(&scene, &layout);
        wait_until(PATIENCE, &format!("{}: all six", fault.name), || has(&server, ALL));
        assert!(server.in_recovery());
    });
}

#[test]
fn a_call_that_is_killed_opens_nothing() {
    let scene = Scene::new(6);
    each(&[Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT], |signal| {
        let mut layout = scene.copied();
        layout.set("restore", "wait", "on").write();
        remove(&second(&scene, &layout));
        let mut server = server(&scene, &layout, "killed", false);
        server.launch();
        server.wait_for_log("waiting for '", PATIENCE);
        workspace::send(wait_for_caller(&server), *signal);
        assert_eq!(outcome(&mut server), Came::Down, "{signal:?}");
        assert!(!server.log_has("selected new timeline"));
        mend(&scene, &layout);
        order(&server.pgdata().join("trigger"), "");
        layout.set("restore", "wait", "off").write();
        server.launch();
        assert_eq!(outcome(&mut server), Came::Open, "{signal:?}: {}", server.log());
        assert_eq!(transactions(&server), ALL);
        assert_eq!(leftovers(&server), Vec::<String>::new());
    });
}

/// The archive lies on another node, behind an sshd.
fn far(scene: &Scene, sshd: &Sshd) -> Layout {
    let mut layout = Layout::new(CLUSTER, &["alpha", "beta"]);
    sshd::own(&sshd.key());
    layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
    layout.set("archive", "to", "nodes").set("archive", "ack", "local");
    layout.set("restore", "from", "nodes").set("restore", "retry", "0s").set("restore", "worker", "off");
    layout.set("ssh", "connect_timeout", "5s").set("archive", "retry", "1s");
    layout.node_mut("beta").without_archive();
    copy(&scene.archive(), &archive_of(&layout, "alpha"));
    layout.write();
    layout
}

fn far_server(scene: &Scene, layout: &Layout, standby: bool) -> Server {
    let mut server = server(scene, layout, "far", standby);
    server.set("restore_command", restore_command(layout, "beta", ""));
    server
}

#[test]
fn an_archive_behind_ssh_that_cannot_be_reached_ends_no_restore() {
    let scene = Scene::new(6);
    let mut sshd = Sshd::start();
    let layout = far(&scene, &sshd);
    let mut server = far_server(&scene, &layout, false);
    sshd.stop();
    server.launch();
    assert_eq!(outcome(&mut server), Came::Down);
    assert!(server.log_has("[remote]") && server.log_has("HINT: "), "{}", server.log());
    sshd.restart();
    sshd.change_host_key();
    server.launch();
    assert_eq!(outcome(&mut server), Came::Down);
    assert!(server.log().to_lowercase().contains("host key"), "{}", server.log());
    let key = fs::read_to_string(sshd.path("host_key.pub")).expect("because it was just made");
    write_file(&sshd.known_hosts(), &format!("[127.0.0.1]:{} {key}", sshd.port()));
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!(transactions(&server), ALL);
}

#[test]
fn a_standby_outlives_an_archive_behind_ssh_and_is_promoted_without_it() {
    let scene = Scene::new(6);
    let mut sshd = Sshd::start();
    let layout = far(&scene, &sshd);
    let archive = archive_of(&layout, "alpha");
    scene.segments[3..].iter().for_each(|name| remove(&stored_in(&archive, name)));
    let mut server = far_server(&scene, &layout, true);
    server.start();
    wait_until(PATIENCE, "what is there", || has(&server, "1 2 3"));
    sshd.stop();
    server.wait_for_log("[remote]", PATIENCE);
    mend(&scene, &layout);
    assert!(server.in_recovery() && transactions(&server) == "1 2 3");
    sshd.restart();
    wait_until(PATIENCE, "all six", || has(&server, ALL));
    // That is what failovers are for: the node with the archive is gone.
    sshd.stop();
    server.promote();
    assert_eq!(transactions(&server), ALL);
}

#[test]
fn the_end_of_wal_opens_the_server_with_all() {
    let scene = Scene::new(6);
    let layout = scene.copied();
    let mut server = server(&scene, &layout, "end", false);
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!(transactions(&server), ALL);
    assert!(!server.log_has("restore-wal: ERROR") && !server.log_has("restore-wal: WARNING"), "{}", server.log());
}

#[test]
fn a_segment_in_pg_wal_is_no_hole() {
    let scene = Scene::new(6);
    let layout = scene.copied();
    let mut server = server(&scene, &layout, "local", false);
    let raw = server.pgdata().join("pg_wal").join(&scene.segments[1]);
    layout.program("alpha", "restore-wal").arg(&scene.segments[1]).arg(&raw).run().expect_ok();
    remove(&second(&scene, &layout));
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!(transactions(&server), ALL);
}

#[test]
fn a_torn_segment_in_pg_wal_hides_no_hole() {
    let scene = Scene::new(6);
    let layout = scene.copied();
    let mut server = server(&scene, &layout, "torn", false);
    let raw = server.pgdata().join("pg_wal").join(&scene.segments[1]);
    layout.program("alpha", "restore-wal").arg(&scene.segments[1]).arg(&raw).run().expect_ok();
    // What a killed server leaves: the first record and nothing after it.
    change(&raw, |bytes| bytes[120..].fill(0));
    remove(&second(&scene, &layout));
    server.launch();
    assert_eq!(outcome(&mut server), Came::Down);
    assert!(server.log_has("is missing, but '"), "{}", server.log());
}
