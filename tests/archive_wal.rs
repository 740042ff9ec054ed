//! `archive-wal` as PostgreSQL calls it: what arrives, what is refused, the switch, `--flush` and `--init`.

mod support;

#[path = "support/archiving.rs"]
mod archiving;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use archiving::{Scene, check, decode, files, refused};
use serde_json::Value;
use support::workspace::{Account, make_dir};
use support::{PATIENCE, Server, Stop, wait_until};

/// A segment that the server has finished and will not touch: a copy outside of `pg_wal`, under its own name.
fn copy_of(scene: &Scene, name: &str) -> PathBuf {
    let folder = scene.layout.dir.join("copies");
    if !folder.exists() {
        make_dir(&folder);
    }
    let copy = folder.join(name);
    fs::copy(scene.wal(name), &copy).expect("because the segment is there");
    Account::unprivileged().own(&copy);
    copy
}

fn change(path: &PathBuf, at: usize, with: &[u8]) {
    let mut content = fs::read(path).expect("because the test made it");
    content[at..at + with.len()].copy_from_slice(with);
    fs::write(path, content).expect("because the test made it");
}

#[test]
fn every_compression_arrives_whole_in_every_place() {
    let mut scene = Scene::new(|_| {}).started();
    let cases = [("zstd", "zst", "ssh"), ("lz4", "lz4", "sftp"), ("gzip", "gz", "ssh"), ("none", "", "sftp")];
    for (method, extension, transport) in cases {
        scene.layout.set("archive", "compress", method);
        scene.layout.node_mut("beta").set("transport", transport);
        scene.rewrite();
        scene.server.execute("create table if not exists t (x int); insert into t select generate_series(1, 2000)");
        let name = scene.switch();
        scene.wait_drained();
        let original = fs::read(scene.wal(&name)).expect("because it is not recycled yet");
        for node in ["alpha", "beta"] {
            let path = scene.stored(node, &name).expect("because it was archived");
            let found = path.extension().map(|extension| extension.to_string_lossy().into_owned());
            assert_eq!(found.unwrap_or_default(), extension);
            assert!(scene.content(node, &name) == original, "{method} in {node} by {transport}");
        }
    }
    assert!(files(&scene.layout.node("alpha").spool.join("outgoing")).is_empty());
    // It is the sftp store that went there: what it says of a closed port is not what ssh says.
    let again = scene.wal(&scene.done().pop_last().expect("because all were archived")).display().to_string();
    let told = scene.archive_wal(&["--set", "node.beta.ssh_port=1", &again]);
    refused(told, 40, &["127.0.0.1:1: Connection refused"]);
}

#[test]
fn segments_of_64_mib_arrive_whole() {
    let scene = Scene::sized(64, |_| {}).started();
    scene.server.pgbench_init(2);
    let name = scene.switch();
    scene.wait_drained();
    let original = fs::read(scene.wal(&name)).expect("because it is not recycled yet");
    assert_eq!(original.len(), 64 << 20);
    assert!(scene.content("alpha", &name) == original && scene.content("beta", &name) == original);
}

#[test]
fn the_names_of_backup_and_promotion_arrive() {
    let scene = Scene::new(|_| {}).started();
    let mut standby = scene.server.base_backup("beta");
    standby.follow(&scene.server);
    standby.start();
    scene.wait_drained();
    assert!(files(&scene.root("beta")).iter().any(|path| path.to_string_lossy().ends_with(".backup")));
    scene.server.execute("create table t (x int); insert into t select generate_series(1, 100)");
    standby.wait_replayed(&scene.server.wal_position(), PATIENCE);
    standby.promote();
    let history = scene.root("beta").join("wal/00000002.history");
    wait_until(PATIENCE, "the history is archived", || history.exists());
    standby.execute("insert into t select generate_series(1, 100)");
    let first = standby.switch_wal();
    scene.wait_stored("beta", &first);
    assert!(first.starts_with("00000002"));
    let partial = files(&scene.root("beta")).into_iter().find(|path| path.to_string_lossy().contains(".partial"));
    let partial = partial.expect("because a promotion ends the old timeline in a partial segment");
    assert_eq!(decode(&partial).len(), 1 << 20);
    scene.content("beta", &first);
}

#[test]
fn the_same_content_is_done_and_other_content_is_a_conflict() {
    let mut scene = Scene::new(|_| {}).started();
    let name = scene.switch();
    scene.wait_drained();
    let copy = copy_of(&scene, &name);
    let stored = scene.stored("beta", &name).expect("because it was archived");
    let inode = fs::metadata(&stored).expect("because it is there").ino();
    scene.archive(&copy).expect_ok();
    scene.layout.set("archive", "compress", "gzip");
    scene.rewrite();
    scene.archive(&copy).expect_ok();
    assert_eq!(scene.stored("beta", &name).as_ref(), Some(&stored), "no second copy in another form");
    assert_eq!(fs::metadata(&stored).expect("because it is there").ino(), inode);

    // Another server with the same identity wrote other records under the same name.
    let before = fs::read(&stored).expect("because it is there");
    let twin = Server::builder("twin").wal_segsize(1).start();
    twin.execute("create table other (x int); insert into other select generate_series(1, 500)");
    let mut other = twin.switch_wal();
    while other < name {
        twin.execute("insert into other select generate_series(1, 500)");
        other = twin.switch_wal();
    }
    let theirs = scene.layout.dir.join("copies").join("theirs");
    fs::copy(twin.pgdata().join("pg_wal").join(&name), &theirs).expect("because the twin wrote it");
    Account::unprivileged().own(&theirs);
    let outcome = scene.archive_wal(&[&theirs.display().to_string(), &name]);
    let words = ["[conflict]", "written by node alpha at 20", "agree up to 0/", "HINT", "--refuse"];
    refused(outcome, 21, &words);
    assert!(fs::read(&stored).expect("because it is there") == before, "the archived file is unchanged");
}

#[test]
fn what_is_not_the_wal_of_its_name_is_not_stored() {
    let scene = Scene::new(|_| {}).started();
    let name = scene.switch();
    scene.wait_drained();
    let count = files(&scene.root("beta")).len();
    let copy = copy_of(&scene, &name);
    let text = copy.display().to_string();
    refused(scene.archive_wal(&[&text, "000000010000000000000077"]), 22, &["[corrupt]", "000000010000000000000077"]);
    let whole = fs::read(&copy).expect("because the test made it");
    fs::write(&copy, &whole[..whole.len() / 2]).expect("because the test made it");
    refused(scene.archive(&copy), 22, &["bytes"]);
    fs::write(&copy, [&whole[..], b"more"].concat()).expect("because the test made it");
    refused(scene.archive(&copy), 22, &["bytes"]);
    fs::write(&copy, b"").expect("because the test made it");
    refused(scene.archive(&copy), 22, &[]);
    fs::write(&copy, &whole).expect("because the test made it");
    change(&copy, 8192, &[0xFF; 24]);
    refused(scene.archive(&copy), 22, &[]);
    assert!(files(&scene.layout.node("alpha").spool.join("outgoing")).is_empty(), "nothing is left behind");
    fs::write(&copy, &whole).expect("because the test made it");
    // The first page's system identifier: XLogLongPageHeaderData.xlp_sysid.
    change(&copy, 24, &[7; 8]);
    refused(scene.archive(&copy), 20, &["system identifier"]);
    let other = Server::builder("other").wal_segsize(1).fresh_identity().start();
    let foreign = other.switch_wal();
    let path = scene.layout.dir.join("copies").join(&foreign);
    fs::copy(other.pgdata().join("pg_wal").join(&foreign), &path).expect("because the server wrote it");
    Account::unprivileged().own(&path);
    refused(scene.archive(&path), 20, &["system identifier", "HINT"]);
    for (bad, code) in [("00000002.history", 22), (&*format!("{name}.00000028.backup"), 22)] {
        let path = scene.layout.dir.join("copies").join(bad);
        fs::write(&path, "nothing of the kind").expect("because the folder is the test's");
        Account::unprivileged().own(&path);
        refused(scene.archive(&path), code, &[]);
    }
    assert_eq!(files(&scene.root("beta")).len(), count, "nothing was stored");
}

#[test]
fn a_label_in_another_encoding_than_utf8_is_archived() {
    let scene = Scene::new(|_| {}).started();
    scene.switch();
    scene.wait_drained();
    let name = "000000010000000000000001.00000028.backup";
    let path = scene.wal(name);
    fs::write(&path, b"START WAL LOCATION: 0/100028 (file 000000010000000000000001)\nLABEL: caf\xe9\n")
        .expect("because root may write there");
    Account::unprivileged().own(&path);
    scene.archive(&path).expect_ok();
    assert!(scene.stored("beta", name).is_some());
}

#[test]
fn the_switch_refuses_ships_again_and_discards_only_when_confirmed() {
    let mut scene = Scene::new(|_| {}).started();
    let shipped = scene.switch();
    scene.wait_drained();
    let copy = copy_of(&scene, &shipped).display().to_string();
    scene.archive_wal(&["--refuse"]).expect_ok();
    refused(scene.archive_wal(&[&copy]), 20, &["[refused]", "--arm"]);
    let kept = scene.switch();
    wait_until(PATIENCE, "the server notices", || scene.counts().1 > 0);
    assert!(scene.ready().contains(&kept));
    refused(scene.archive_wal(&["--discard"]), 20, &["discard_confirmation"]);
    refused(scene.call(&["--set", "archive.shipping=discard", &copy]).run(), 10, &["discard_confirmation"]);
    scene.archive_wal(&["--arm"]).expect_ok();
    scene.wait_drained();
    assert!(scene.stored("beta", &kept).is_some());

    scene.layout.set("archive", "discard_confirmation", "I accept a broken WAL chain");
    scene.rewrite();
    scene.archive_wal(&["--discard"]).expect_ok();
    refused(scene.call(&["--set", "archive.discard_confirmation=no", &copy]).run(), 20, &["discard_confirmation"]);
    let gone = [scene.switch(), scene.switch(), scene.switch()];
    scene.wait_drained();
    scene.archive_wal(&["--arm"]).expect_ok();
    let after = scene.switch();
    scene.wait_drained();
    assert!(scene.stored("beta", &after).is_some());
    assert!(gone.iter().all(|name| scene.stored("beta", name).is_none()));
    let status = scene.archive_wal(&["--status", "--json"]).expect_ok();
    let status: Value = serde_json::from_str(&status.stdout).expect("because --json prints JSON");
    let chain = &status["broken_chains"][0];
    let discarded = gone.len() as u64;
    assert_eq!((&chain["first"], chain["count"].as_u64()), (&Value::from(&*gone[0]), Some(discarded)));
    assert_eq!(chain["last"], Value::from(&*gone[2]));
    assert!(status["broken_chains"][1].is_null(), "{status}");
}

#[test]
fn a_call_that_changes_nothing_is_never_taken_for_success() {
    let scene = Scene::new(|_| {}).started();
    let name = scene.switch();
    scene.wait_drained();
    refused(scene.archive_wal(&["--dry-run", &scene.wal(&name).display().to_string()]), 2, &["--dry-run"]);
}

#[test]
fn flush_ships_what_a_stopped_server_left_and_nothing_from_the_future() {
    let mut scene = Scene::new(|_| {}).started();
    // Recycled segments under future names come from checkpoints.
    for _ in 0..4 {
        scene.switch();
    }
    scene.wait_drained();
    scene.server.execute("checkpoint");
    refused(scene.archive_wal(&["--flush"]), 20, &["postmaster.pid", "HINT"]);
    scene.archive_wal(&["--refuse"]).expect_ok();
    let kept: Vec<_> = (0..3).map(|_| scene.switch()).collect();
    scene.server.stop(Stop::Fast);
    let waiting = scene.ready();
    assert!(kept.iter().all(|name| waiting.contains(name)), "{waiting:?}");
    scene.archive_wal(&["--arm"]).expect_ok();
    let plan = scene.archive_wal(&["--flush", "--dry-run"]).expect_ok();
    assert!(kept.iter().all(|name| scene.stored("beta", name).is_none()), "{plan}");
    let before = files(&scene.root("beta")).len();
    let outcome = scene.archive_wal(&["--flush"]).expect_ok();
    let control = scene.server.tool("pg_controldata").arg(scene.server.pgdata()).run().expect_ok().stdout;
    let line = control.lines().find(|line| line.contains("REDO WAL file")).unwrap_or_default();
    let last = line.rsplit(' ').next().unwrap_or_default().to_owned();
    for name in &waiting {
        assert!(*name < last && scene.content("beta", name).len() == 1 << 20, "{name} {last}");
    }
    assert!(scene.stored("beta", &last).is_none(), "the segment of the last checkpoint is not full");
    let partial = scene.stored("beta", &format!("{last}.partial")).expect("because it holds the last checkpoint");
    assert!(decode(&partial) == fs::read(scene.wal(&last)).expect("because the server has stopped"));
    let future: Vec<_> = fs::read_dir(scene.wal("")).expect("because it is there").flatten().collect();
    let future = future.iter().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.len() == 24 && name > last
    });
    assert!(future.count() > 0, "the test needs recycled segments to mean anything");
    assert_eq!(files(&scene.root("beta")).len(), before + waiting.len() + 1, "{outcome}");
    scene.archive_wal(&["--flush"]).expect_ok();
    // A server that goes on after a flush completes the segment under its own name.
    scene.server.start();
    scene.wait_drained();
    wait_until(PATIENCE, "the segment is complete", || {
        scene.switch();
        scene.stored("beta", &last).is_some()
    });
    scene.content("beta", &last);
}

#[test]
fn a_switchover_after_a_flush_leaves_one_partial_and_no_conflict() {
    let mut scene = Scene::new(|_| {}).started();
    let mut standby = scene.server.base_backup("next");
    standby.follow(&scene.server);
    standby.start();
    scene.server.execute("create table t (x int); insert into t select generate_series(1, 20000)");
    scene.wait_drained();
    scene.server.stop(Stop::Fast);
    scene.archive_wal(&["--flush"]).expect_ok();
    standby.promote();
    let first = standby.switch_wal();
    scene.wait_stored("beta", &first);
    assert_eq!(standby.query("select failed_count from pg_stat_archiver"), "0", "{}", standby.log());
}

#[test]
fn init_is_idempotent_adds_a_place_later_and_refuses_a_foreign_one() {
    let mut scene = Scene::unmade(1, |_| {});
    scene.archive_wal(&["--init", "alpha"]).expect_ok();
    let identity = scene.root("alpha").join("identity.json");
    let first = fs::read(&identity).expect("because it was made");
    refused(scene.archive_wal(&["--init", "nobody"]), 20, &["nobody"]);
    scene.archive_wal(&["--init", "--dry-run"]).expect_ok();
    assert!(!scene.root("beta").exists());
    scene.archive_wal(&["--init", "beta"]).expect_ok();
    scene.archive_wal(&["--init"]).expect_ok();
    scene.archive_wal(&["--init"]).expect_ok();
    for node in ["alpha", "beta", "gamma"] {
        assert!(fs::read(scene.root(node).join("identity.json")).expect("because it was made") == first, "{node}");
    }
    scene.server.start();
    let name = scene.switch();
    scene.wait_drained();
    check(&name, &scene.content("beta", &name));
    let other = Server::builder("other").wal_segsize(1).fresh_identity().create();
    scene.layout.node_mut("alpha").pgdata = other.pgdata();
    scene.rewrite();
    refused(scene.archive_wal(&["--init"]), 20, &["not ours", "system identifier"]);
    assert!(fs::read(&identity).expect("because it was made") == first);
}
