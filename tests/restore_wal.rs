//! `restore-wal` as `restore_command` of real servers: holes after a failover, places in order, fetching ahead,
//! `pg_rewind`, segment sizes and forms.

mod support;

#[path = "support/scene.rs"]
mod scene;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;

use scene::*;
use sshd::Sshd;
use support::{Layout, PATIENCE, Server, Stop, program, wait_until};

fn restore(scene: &Scene, layout: &Layout, node: &str, name: &str) -> Server {
    let mut server = scene.restored(name);
    server.set("restore_command", restore_command(layout, node, ""));
    server.recovery_signal();
    server
}

fn archive_command(scene: &Scene) -> String {
    let config = scene.layout.shared_file("alpha");
    format!("{} --config {} --no-worker %p", program("archive-wal").display(), config.display())
}

/// The failover hole: transactions 1 and 2 archived, 3 to 5 only streamed when the primary dies, 6 and 7 after it.
fn failover() -> (Scene, Vec<String>) {
    let mut scene = Scene::new(2);
    let mut standby = scene.restored("heir");
    standby.set("archive_mode", "on").set("archive_command", archive_command(&scene)).follow(&scene.primary);
    standby.start();
    scene.primary.set("archive_mode", "on").set("archive_command", "false").reload();
    let lost: Vec<String> = (3..=5).map(|n| commit(&scene.primary, n)).collect();
    standby.wait_replayed(&scene.primary.wal_position(), PATIENCE);
    scene.primary.kill();
    standby.promote();
    let last = [6, 7].map(|n| commit(&standby, n))[1].clone();
    wait_until(PATIENCE, "the new timeline is archived", || scene.stored(&last).is_file());
    let raw = standby.pgdata().join("pg_wal");
    for name in &lost {
        copy(&raw.join(name), &scene.layout.dir.join(name));
    }
    (scene, lost)
}

#[test]
fn a_restore_across_the_failover_hole_refuses_until_it_is_filled() {
    let (scene, lost) = failover();
    let layout = scene.copied();
    let mut server = restore(&scene, &layout, "alpha", "latest");
    server.launch();
    assert_eq!(outcome(&mut server), Came::Down, "{}", server.log());
    let log = server.log();
    assert!(log.contains(&format!("'{}' is missing, but ", lost[0])) && log.contains("HINT: Find '"), "{log}");
    for name in &lost {
        let to = archive_of(&layout, "alpha").join("wal").join(&name[..16]).join(name);
        copy(&scene.layout.dir.join(name), &to);
    }
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!(transactions(&server), "1 2 3 4 5 6 7");

    // What lies before the hole can be reached with the hole in place.
    let layout = scene.copied();
    let mut server = restore(&scene, &layout, "alpha", "before");
    let second = &scene.segments[1];
    let number = u32::from_str_radix(&second[16..], 16).expect("because it is a segment");
    if server.binaries().major >= 15 {
        // It would read ahead into the hole before it notices that it has arrived.
        server.set("recovery_prefetch", "off");
    }
    server
        .set("recovery_target_lsn", format!("0/{:X}", (number << 20) + 0x40))
        .set("recovery_target_action", "promote");
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert!(["1", "1 2"].contains(&transactions(&server).as_str()));
}

#[test]
fn a_timeline_can_be_restored_to_its_own_end() {
    let mut scene = Scene::new(3);
    let mut heir = restore(&scene, &scene.layout, "alpha", "heir");
    heir.set("archive_mode", "on").set("archive_command", archive_command(&scene));
    heir.launch();
    assert_eq!(outcome(&mut heir), Came::Open, "{}", heir.log());
    let other = commit(&heir, 99);
    wait_until(PATIENCE, "timeline 2 is archived", || scene.stored(&other).is_file());
    drop(heir);
    let layout = scene.copied();
    let mut server = restore(&scene, &layout, "alpha", "current");
    server.set("recovery_target_timeline", "current");
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!((transactions(&server), server.timeline()), ("1 2 3".to_owned(), 3));
    // A history that was lost would end a restore on timeline 1 and take its number a second time.
    fs::remove_file(stored_in(&archive_of(&layout, "alpha"), "00000002.history")).expect("because it is there");
    let mut server = restore(&scene, &layout, "alpha", "lost");
    server.launch();
    assert_eq!(outcome(&mut server), Came::Down);
    assert!(server.log_has("'00000002.history' is missing, but WAL of timeline 2 is in the "), "{}", server.log());
    scene.primary.stop(Stop::Fast);
}

/// `beta` looks in its own archive first, then in that of `alpha`, behind an sshd.
fn two_places(scene: &Scene, sshd: &Sshd) -> Layout {
    let mut layout = Layout::new(CLUSTER, &["alpha", "beta"]);
    sshd::own(&sshd.key());
    layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
    layout.set("archive", "ack", "local").set("restore", "retry", "0s").set("restore", "from", "own, nodes");
    ["alpha", "beta"].iter().for_each(|node| copy(&scene.archive(), &archive_of(&layout, node)));
    layout.write();
    layout
}

#[test]
fn a_damaged_copy_in_the_first_place_is_replaced_by_the_second_with_a_warning() {
    let (scene, sshd) = (Scene::new(4), Sshd::start());
    let layout = two_places(&scene, &sshd);
    let own = archive_of(&layout, "beta");
    fs::write(stored_in(&own, &scene.segments[0]), "rubbish").expect("because it is ours");
    fs::remove_file(stored_in(&own, &scene.segments[2])).expect("because it is there");
    let mut server = restore(&scene, &layout, "beta", "second");
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!(transactions(&server), "1 2 3 4");
    let warning = format!("'{}' was taken from the archive of alpha (", scene.segments[0]);
    assert!(server.log_has("restore-wal: WARNING: ") && server.log_has(&warning), "{}", server.log());
}

#[test]
fn a_standby_replays_what_the_worker_fetched_ahead_and_nothing_else() {
    let (scene, sshd) = (Scene::new(12), Sshd::start());
    let mut layout = two_places(&scene, &sshd);
    layout.set("restore", "from", "nodes").set("restore", "prefetch", "4").write();
    let spool = layout.node("beta").spool.join("prefetch");
    let call = |name: &str, server: &Server| {
        let target = server.pgdata().join("pg_wal/RECOVERYXLOG");
        layout.program("beta", "restore-wal").arg(name).arg(&target).run().expect_ok();
        fs::read(target).expect("because it was handed over")
    };
    let ready = || fs::read_dir(&spool).map_or(0, |listing| listing.count());
    let status = || {
        let said = layout.program("beta", "archive-wal").args(["--status", "--json"]).run().expect_ok();
        let status: serde_json::Value = serde_json::from_str(&said.stdout).expect("because it is JSON");
        status["worker"]["prefetched"].as_u64()
    };
    let mut server = restore(&scene, &layout, "beta", "ahead");
    call(&scene.segments[0], &server);
    wait_until(PATIENCE, "there is a worker", || status().is_some());
    call(&scene.segments[1], &server);
    wait_until(PATIENCE, "four are fetched ahead", || status() == Some(4));
    assert_eq!(ready(), 4, "no more than restore.prefetch");
    // One is damaged where it lies, and one is taken from there.
    fs::write(spool.join(&scene.segments[2]), "rubbish").expect("because it is ours");
    let third = call(&scene.segments[2], &server);
    assert_eq!(third.len(), 1 << 20);
    assert!(!spool.join(&scene.segments[1]).exists());
    // Another part of WAL: what lies here is of no use any more.
    call(&scene.segments[9], &server);
    wait_until(PATIENCE, "the rest is fetched", || status() == Some(2));
    wait_until(PATIENCE, "the old ones are gone", || ready() == 2);
    server.launch();
    assert_eq!(outcome(&mut server), Came::Open, "{}", server.log());
    assert_eq!(transactions(&server), "1 2 3 4 5 6 7 8 9 10 11 12");
    assert_eq!(leftovers(&server), Vec::<String>::new());
}

#[test]
fn pg_rewind_restores_what_the_target_lacks_and_leaves_nothing_behind() {
    let mut scene = Scene::new(1);
    let mut heir = scene.restored("heir");
    heir.follow(&scene.primary).start();
    heir.wait_replayed(&scene.primary.wal_position(), PATIENCE);
    scene.primary.set("restore_command", restore_command(&scene.layout, "alpha", "")).reload();
    heir.promote();
    heir.execute("insert into t values (50)");
    heir.execute("checkpoint");
    let diverged: Vec<String> = (2..=4).map(|n| scene.commit(n)).collect();
    scene.primary.stop(Stop::Fast);
    for name in &diverged[..2] {
        let local = scene.primary.pgdata().join("pg_wal").join(name);
        let _ = fs::remove_file(local);
    }
    let source = format!("--source-server={}", heir.conninfo());
    let rewind = scene.primary.tool("pg_rewind").args(["-c", "--no-sync"]).arg(source);
    let said = rewind.arg("-D").arg(scene.primary.pgdata()).run().expect_ok();
    assert!(said.stderr.contains("Done!"), "{said}");
    assert_eq!(leftovers(&scene.primary), Vec::<String>::new());
    let prefetch = scene.layout.node("alpha").spool.join("prefetch");
    assert_eq!(fs::read_dir(prefetch).map_or(0, |listing| listing.count()), 0);
}

#[test]
fn every_segment_size_and_every_form_comes_back() {
    for (size, form) in [(1, "none"), (1, "lz4"), (1, "gzip"), (64, "zstd")] {
        let scene = Scene::with(size, form, 2);
        let layout = scene.copied();
        let mut server = restore(&scene, &layout, "alpha", "form");
        server.launch();
        assert_eq!(outcome(&mut server), Came::Open, "{size} {form}: {}", server.log());
        assert_eq!(transactions(&server), "1 2", "{size} {form}");
    }
}
