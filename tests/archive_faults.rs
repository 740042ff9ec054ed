//! `archive-wal` in trouble: every failure has an exit code from 1 to 125, PostgreSQL keeps the file and counts the
//! failure, and once the cause is mended everything arrives.

mod support;

#[path = "support/archiving.rs"]
mod archiving;
#[path = "support/sshd.rs"]
mod sshd;
#[path = "support/volume.rs"]
mod volume;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use archiving::{Scene, files, refused};
use rustix::process::Signal;
use support::workspace::write_file;
use support::{PATIENCE, wait_until};
use volume::Volume;

/// Breaks archiving, sees it fail from the server's side, mends it, and sees that nothing is missing.
#[track_caller]
fn fails_and_heals(scene: &mut Scene, node: &str, words: &[&str], mend: impl FnOnce(&mut Scene)) {
    let (archiver, failed) = (scene.archiver(), scene.counts().1);
    let name = scene.switch();
    wait_until(PATIENCE, "the server counts the failure", || scene.counts().1 > failed);
    assert!(scene.ready().contains(&name), "the server keeps what was not archived");
    let outcome = scene.archive(&scene.wal(&name));
    let code = outcome.code.unwrap_or_else(|| panic!("died by a signal: {outcome}"));
    assert!((1..=125).contains(&code), "{outcome}");
    for word in words {
        assert!(outcome.stderr.contains(word), "no '{word}' in {outcome}");
    }
    assert!(outcome.stderr.contains("archive-wal: ERROR: [") && outcome.stderr.contains("HINT: "), "{outcome}");
    assert!(scene.server.log_has("archive command failed with exit code"), "the server's log has the failure");
    mend(scene);
    scene.wait_drained();
    assert_eq!(scene.archiver(), archiver, "the archiver lived all the time");
    for name in scene.done().iter().filter(|name| name.len() == 24) {
        scene.content(node, name);
    }
    scene.content(node, &name);
}

#[test]
fn every_failure_has_a_code_that_postgresql_counts() {
    let scene = Scene::new(|_| {}).started();
    let name = scene.switch();
    scene.wait_drained();
    let wal = scene.wal(&name).display().to_string();
    let with = |set: &str| scene.call(&["--set", set, &wal]).run();
    refused(scene.archive(&scene.wal("0000000100000000000000EE")), 30, &["0000000100000000000000EE"]);
    refused(scene.archive(Path::new("/nonexistent/000000010000000000000001")), 30, &[]);
    refused(scene.archive(&scene.wal("postgresql.conf")), 2, &["[usage]", "postgresql.conf"]);
    refused(scene.archive(&scene.wal(&format!("{name}.zst"))), 2, &[]);
    refused(scene.archive_wal(&[]), 2, &[]);
    refused(with("archive.nonsense=1"), 10, &["[config]"]);
    refused(with("archive.deadline=never"), 10, &[]);
    refused(support::Program::own("archive-wal").args(["--config", "/nonexistent.ini", &wal]).run(), 10, &[]);
    refused(with("archive.to=nobody"), 10, &[]);
    // A place whose connection is refused; nothing may wait in a queue for `ack = all` to hold.
    refused(with("node.beta.ssh_port=1"), 40, &["ack = all", "beta"]);
    forget_outages(&scene);
    refused(with("ssh.program=/nonexistent"), 40, &["/nonexistent"]);
    forget_outages(&scene);
    refused(with("cluster.name=other"), 30, &["--init"]);
    forget_outages(&scene);
    scene.archive(&scene.wal(&name)).expect_ok();
}

/// A place that failed is left alone for a while; a test need not wait so long.
fn forget_outages(scene: &Scene) {
    files(&scene.layout.node("alpha").spool.join("down")).iter().for_each(|mark| {
        fs::remove_file(mark).expect("because root may");
    });
}

#[test]
fn a_queue_that_may_not_grow_refuses_even_where_ack_holds() {
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "ack", "local").set("queue", "free_min", "1000TiB");
    })
    .started();
    scene.beta.stop();
    fails_and_heals(&mut scene, "beta", &["queue.free_min"], |scene| scene.beta.restart());
}

#[test]
fn a_dead_peer_fails_and_heals() {
    let mut scene = Scene::new(|_| {}).started();
    scene.beta.stop();
    fails_and_heals(&mut scene, "beta", &["[remote]", "beta"], |scene| scene.beta.restart());
}

#[test]
fn a_bad_configuration_fails_and_heals() {
    let mut scene = Scene::new(|_| {}).started();
    let shared = scene.layout.shared_file("alpha");
    write_file(&shared, "[archive]\nack = perhaps\n");
    fails_and_heals(&mut scene, "beta", &["[config]", "perhaps"], |scene| scene.rewrite());
}

#[test]
fn an_archive_of_another_cluster_fails_and_heals() {
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "ack", "local");
    })
    .started();
    let identity = scene.root("beta").join("identity.json");
    let ours = fs::read_to_string(&identity).expect("because it was made");
    let system = scene.server.system_identifier().to_string();
    fs::write(&identity, ours.replace(&system, "42")).expect("because root may");
    fails_and_heals(&mut scene, "beta", &["[refused]", "not ours", "42"], |_| {
        fs::write(&identity, &ours).expect("because root may");
    });
}

#[test]
fn a_missing_a_forbidden_and_a_read_only_archive_fail_and_heal() {
    let mut scene = Scene::new(|_| {}).started();
    let root = scene.root("beta");
    let aside = root.with_extension("aside");
    fs::rename(&root, &aside).expect("because root may");
    fails_and_heals(&mut scene, "beta", &["beta"], |_| fs::rename(&aside, &root).expect("because root may"));
    let mode = |mode| fs::set_permissions(&root, Permissions::from_mode(mode)).expect("because root may");
    mode(0o000);
    fails_and_heals(&mut scene, "beta", &["beta", "ermission denied"], |_| mode(0o700));
    let wal = root.join("wal");
    for folder in [&wal, &wal.join("0000000100000000")] {
        fs::set_permissions(folder, Permissions::from_mode(0o500)).expect("because root may");
    }
    fails_and_heals(&mut scene, "beta", &["beta", "ermission denied"], |_| {
        for folder in [&wal, &wal.join("0000000100000000")] {
            fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("because root may");
        }
    });
}

#[test]
fn a_changed_host_key_fails_and_heals() {
    let mut scene = Scene::new(|_| {}).started();
    scene.beta.change_host_key();
    fails_and_heals(&mut scene, "beta", &["host key"], |scene| scene.beta.restart());
}

#[test]
fn a_full_and_a_read_only_volume_at_the_far_end_fail_and_heal() {
    let mut scene = Scene::unmade(1, |layout| {
        layout.set("archive", "compress", "none");
    });
    let archive = scene.layout.node("beta").archive.clone().expect("because it holds one");
    let owner = fs::metadata(&archive).expect("because it is there").uid();
    let Some(volume) = Volume::mount(&archive, &format!("size=4m,uid={owner},mode=700")) else {
        eprintln!("not tested: this machine does not let the tests mount");
        return;
    };
    scene.archive_wal(&["--init"]).expect_ok();
    scene.server.start();
    scene.switch();
    scene.wait_drained();
    let filler = archive.join("filler");
    fs::write(&filler, vec![1; 44 << 20]).expect_err("because the volume is smaller");
    fails_and_heals(&mut scene, "beta", &["beta", "space"], |_| fs::remove_file(&filler).expect("because root may"));
    volume.remount("ro");
    fails_and_heals(&mut scene, "beta", &["beta", "ead-only"], |_| volume.remount("rw,size=64m"));
}

#[test]
fn a_signal_is_a_failure_and_never_a_crash() {
    let scene = Scene::new(|layout| {
        layout.set("ssh", "dead_after", "20s").set("ssh", "connect_timeout", "30s");
    })
    .started();
    let program = support::program("archive-wal").display().to_string();
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1] {
        // The far end stands still, so that the call is in the middle.
        let (archiver, failed) = (scene.archiver(), scene.counts().1);
        let stand_still = scene.layout.dir.join("stand-still");
        write_file(&stand_still, "exec sleep 50\n");
        scene.beta.authorize(&format!("command=\"sh {}\"", stand_still.display()));
        let name = scene.switch();
        let running = scene.call(&[&scene.wal(&name).display().to_string()]).spawn();
        let in_the_middle = || !support::workspace::children_of(running.pid()).is_empty();
        wait_until(PATIENCE, "the call is in the middle", in_the_middle);
        running.signal(signal);
        let outcome = running.wait();
        refused(outcome, 60, &["stopped by signal", "HINT"]);
        // The same with the call that the server made.
        let ours: Vec<u32> = sshd::all_processes()
            .into_iter()
            .filter(|(_, _, comm)| comm == "archive-wal")
            .map(|(id, ..)| id)
            .filter(|id| command_of(*id).starts_with(&program) && command_of(*id).contains(&scene.call_path()))
            .collect();
        ours.iter().for_each(|id| support::workspace::send(*id, signal));
        wait_until(PATIENCE, "the server counts the failure", || scene.counts().1 > failed);
        assert_eq!(scene.archiver(), archiver, "the archiver lives");
        scene.beta.authorize("");
        scene.beta.signal("sleep", Signal::KILL);
        scene.wait_drained();
        scene.content("beta", &name);
    }
}

fn command_of(id: u32) -> String {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

trait CallPath {
    fn call_path(&self) -> String;
}

impl CallPath for Scene {
    /// What tells this scene's calls from those of another test.
    fn call_path(&self) -> String {
        self.layout.shared_file("alpha").display().to_string()
    }
}

#[test]
fn the_dr_node_takes_what_the_standby_cannot_and_the_queue_drains() {
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "ack", "standby").set("archive", "alternate", "dr");
    })
    .started();
    let first = scene.switch();
    scene.wait_drained();
    assert!(scene.stored("gamma", &first).is_none(), "the alternate route is for outages");
    scene.beta.stop();
    let second = scene.switch();
    scene.wait_drained();
    scene.content("gamma", &second);
    assert!(scene.stored("beta", &second).is_none());
    assert_eq!(scene.queued("beta").len(), 1);
    // Both down: nothing elsewhere, so it is not safe.
    scene.gamma.stop();
    let failed = scene.counts().1;
    let third = scene.switch();
    wait_until(PATIENCE, "the server counts the failure", || scene.counts().1 > failed);
    assert!(scene.ready().contains(&third));
    refused(scene.archive(&scene.wal(&third)), 40, &["ack = standby"]);
    scene.beta.restart();
    scene.wait_drained();
    // The next call without a worker takes the queue along.
    wait_until(PATIENCE, "the queue is drained", || {
        scene.switch();
        scene.wait_drained();
        scene.queued("beta").is_empty()
    });
    for name in [&first, &second, &third] {
        scene.content("beta", name);
    }
}

#[test]
fn queues_of_several_places_share_one_copy_and_drain() {
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "to", "beta, gamma").set("archive", "ack", "local");
    })
    .started();
    scene.wait_drained();
    scene.beta.stop();
    scene.gamma.stop();
    let names = [scene.switch(), scene.switch()];
    scene.wait_drained();
    for name in &names {
        let inodes: Vec<_> = ["beta", "gamma"]
            .iter()
            .map(|node| {
                let queued = scene.queued(node);
                let path = queued.iter().find(|path| path.to_string_lossy().contains(name.as_str()));
                let path = path.unwrap_or_else(|| panic!("'{name}' waits in no queue of {node}: {queued:?}"));
                let data = fs::metadata(path).expect("because it was just listed");
                (data.ino(), data.nlink())
            })
            .collect();
        assert!(inodes[0] == inodes[1] && inodes[0].1 == 2, "{inodes:?}");
    }
    // The same file again is no second copy and no error.
    scene.archive(&scene.wal(&names[0])).expect_ok();
    assert_eq!(scene.queued("beta").len(), scene.queued("gamma").len());
    scene.beta.restart();
    wait_until(PATIENCE, "the queue of beta is drained", || {
        scene.switch();
        scene.wait_drained();
        scene.queued("beta").is_empty()
    });
    names.iter().for_each(|name| drop(scene.content("beta", name)));
    assert!(!scene.queued("gamma").is_empty());
    scene.gamma.restart();
    wait_until(PATIENCE, "the queue of gamma is drained", || {
        scene.switch();
        scene.wait_drained();
        scene.queued("gamma").is_empty()
    });
    names.iter().for_each(|name| drop(scene.content("gamma", name)));
}

#[test]
fn one_file_that_is_refused_does_not_keep_back_the_others() {
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "ack", "local");
    })
    .started();
    scene.switch();
    scene.wait_drained();
    scene.beta.stop();
    let names = [scene.switch(), scene.switch(), scene.switch()];
    scene.wait_drained();
    let folder = scene.root("beta").join("wal").join(&names[0][..16]);
    let taken = folder.join(&names[0]);
    let mut other = fs::read(scene.wal(&names[1])).expect("because it is not recycled yet");
    other.truncate(1 << 20);
    fs::write(&taken, &other).expect("because root may");
    support::workspace::Account::unprivileged().own(&taken);
    scene.beta.restart();
    wait_until(PATIENCE, "all but one are drained", || {
        scene.switch();
        scene.wait_drained();
        scene.queued("beta").len() == 1
    });
    scene.content("beta", &names[1]);
    scene.content("beta", &names[2]);
    assert!(fs::read(&taken).expect("because it is there") == other, "nothing is overwritten");
    assert!(files(&scene.layout.node("alpha").spool.join("outgoing")).is_empty());
}

#[test]
fn ack_by_number_counts_the_alternate() {
    let mut scene = Scene::new(|layout| {
        layout.set("archive", "ack", "2").set("archive", "alternate", "dr");
    })
    .started();
    scene.beta.stop();
    let name = scene.switch();
    scene.wait_drained();
    scene.content("alpha", &name);
    scene.content("gamma", &name);
    let outcome = scene.call(&["--set", "archive.ack=3", &scene.wal(&name).display().to_string()]).run();
    refused(outcome, 10, &["archive.ack"]);
}

#[test]
fn a_full_spool_fails_and_heals() {
    // Segments that are too large to wait in memory.
    let mut scene = Scene::unmade(16, |layout| {
        layout.set("archive", "compress", "none");
    });
    let spool = scene.layout.node("alpha").spool.clone();
    let owner = fs::metadata(&spool).expect("because it is there").uid();
    let Some(_volume) = Volume::mount(&spool, &format!("size=40m,uid={owner},mode=700")) else {
        eprintln!("not tested: this machine does not let the tests mount");
        return;
    };
    scene.archive_wal(&["--init"]).expect_ok();
    scene.server.start();
    scene.switch();
    scene.wait_drained();
    let filler = spool.join("filler");
    fs::write(&filler, vec![1; 44 << 20]).expect_err("because the volume is smaller");
    fails_and_heals(&mut scene, "beta", &["[storage]", "outgoing"], |_| {
        fs::remove_file(&filler).expect("because root may");
    });
}

#[test]
fn a_place_that_hangs_takes_no_longer_than_the_deadline() {
    let scene = Scene::new(|_| {}).started();
    scene.switch();
    scene.wait_drained();
    let hang = scene.layout.dir.join("hang");
    write_file(&hang, "exec sleep 50\n");
    scene.beta.authorize(&format!("command=\"sh {}\"", hang.display()));
    scene.archive_wal(&["--refuse"]).expect_ok();
    let name = scene.switch();
    scene.archive_wal(&["--arm", "--quiet"]).expect_ok();
    let path = scene.wal(&name).display().to_string();
    let with = |ack: &str| {
        forget_outages(&scene);
        let mut words = vec!["--set", "archive.deadline=3s", "--set", "ssh.deadline=3s"];
        words.extend(["--set", "ssh.connect_timeout=3s", "--set", "ssh.dead_after=2s", "--set", ack, &path]);
        scene.call(&words).run()
    };
    let outcome = refused(with("archive.ack=all"), 60, &["[timeout]", "beta"]);
    assert!(outcome.took < Duration::from_secs(6), "{outcome}");
    let outcome = with("archive.ack=local").expect_ok();
    assert!(outcome.took < Duration::from_secs(6), "{outcome}");
    assert!(scene.queued("beta").iter().any(|queued| queued.to_string_lossy().contains(&name)));
}

#[test]
fn a_retry_goes_on_where_the_last_try_ended() {
    let mut scene = Scene::new(|_| {}).started();
    scene.switch();
    scene.wait_drained();
    scene.beta.stop();
    let failed = scene.counts().1;
    let name = scene.switch();
    wait_until(PATIENCE, "the server counts the failure", || scene.counts().1 > failed);
    let outgoing = scene.layout.node("alpha").spool.join("outgoing");
    let look = |path: &Path| fs::metadata(path).map(|data| (data.ino(), data.mtime_nsec())).ok();
    let stored = scene.stored("alpha", &name).expect("because the own archive is up");
    let payload = outgoing.join(format!("{name}.zst"));
    let before = (look(&stored), look(&payload));
    assert!(before.1.is_some(), "what was compressed is kept");
    let record = fs::read_to_string(outgoing.join(format!("{name}.json"))).expect("because it is kept too");
    assert!(record.contains("\"stored\":[\"alpha\"") && !record.contains("\"beta\""), "{record}");
    scene.archive(&scene.wal(&name)).expect_code(40);
    assert_eq!((look(&stored), look(&payload)), before, "nothing is done twice");
    // Half a payload, as a crash of the machine leaves it, is not taken for a whole one.
    let half = fs::read(&payload).map(|whole| whole[..whole.len() / 2].to_vec()).expect("because it is there");
    fs::write(&payload, half).expect("because root may");
    scene.beta.restart();
    scene.wait_drained();
    scene.content("beta", &name);
    assert!(files(&outgoing).is_empty());
}
