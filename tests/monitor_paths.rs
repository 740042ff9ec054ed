//! Every way that WAL comes to a node, shown as it is: a delayed standby behind a slot, one that lives from the archive
//! alone, a slot that nobody uses; and a real haproxy that asks the daemons where writes and reads may go.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::port::Port;
use support::program::Running;
use support::workspace::write_file;
use support::{Layout, PATIENCE, Program, Server, Stop, program, wait_until};

const SEGMENT: u64 = 1 << 20;

/// `db1` archives into its own archive; `db2` streams through a slot and replays an hour later; `db3` replays what
/// that archive brings and streams from nobody.
struct Scene {
    db1: Server,
    db2: Server,
    db3: Server,
    layout: Layout,
    http: [Port; 2],
}

impl Scene {
    fn start() -> Scene {
        let mut db1 = Server::builder("db1").wal_segsize(1).tcp().set("archive_mode", "on").create();
        let mut layout = Layout::new("paths", &["db1", "db2", "db3"]);
        layout.node_mut("db1").serve(&db1);
        layout.set("archive", "to", "own").set("archive", "ack", "local").set("archive", "worker", "off");
        layout.set("restore", "from", "own").set("restore", "worker", "off").set("relay", "to", "");
        layout.set("queue", "free_min", "0").set("monitor", "interval", "250ms").set("monitor", "history", "500ms");
        layout.set("monitor", "deadline", "2s").write();
        layout.program("db1", "archive-wal").args(["--init", "db1"]).run().expect_ok();
        let shared = layout.shared_file("db1").display().to_string();
        let call = |name: &str, words: &str| format!("{} --config {shared} {words}", program(name).display());
        db1.set("archive_command", call("archive-wal", "%p")).set("max_slot_wal_keep_size", "2MB");
        db1.start();
        db1.query("select pg_create_physical_replication_slot('db2')");
        let (mut db2, mut db3) = (db1.base_backup("db2"), db1.base_backup("db3"));
        for standby in [&mut db2, &mut db3] {
            standby.set("archive_mode", "off").set("archive_command", "");
        }
        db2.set("primary_slot_name", "db2").set("recovery_min_apply_delay", "1h").follow(&db1).start();
        db3.set("restore_command", call("restore-wal", "%f %p")).standby_signal();
        db3.start();
        let http = [Port::reserve(), Port::reserve()];
        for (name, server) in [("db2", &db2), ("db3", &db3)] {
            layout.node_mut(name).serve(server).without_archive();
        }
        for (name, port) in ["db1", "db2"].into_iter().zip(&http) {
            layout.node_mut(name).set_local("monitor", "http", port.number);
        }
        layout.write();
        wait_until(PATIENCE, "it streams", || db1.query("select count(*) from pg_stat_replication") == "1");
        Scene { db1, db2, db3, layout, http }
    }

    fn status(&self) -> Value {
        let outcome = self.layout.program("db1", "cluster-monitor").args(["status", "--json"]).run();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    fn node(&self, name: &str) -> Value {
        let seen = self.status();
        let nodes = seen["nodes"].as_array().cloned().unwrap_or_default();
        nodes.into_iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no '{name}' in {seen:#}"))
    }

    /// A commit that leaves so many bytes of WAL behind it, and where the primary is then.
    fn write(&self, bytes: u32) {
        let fill = format!("select pg_logical_emit_message(true, 'test', repeat('x', {bytes}))");
        self.db1.execute(&fill);
    }

    fn daemon(&self, node: &str) -> Running {
        self.layout.program(node, "cluster-monitor").arg("run").deadline(Duration::from_secs(300)).spawn()
    }

    /// haproxy with the sample, its names and ports replaced; where it takes writes and reads.
    fn balance(&self) -> (Running, u16, u16) {
        let sample = std::fs::read_to_string("etc/haproxy.cfg.sample").expect("because it is in the tree");
        let (writes, reads) = (Port::reserve(), Port::reserve());
        let mut text = sample.replace("*:5000", &format!("127.0.0.1:{}", writes.number));
        text = text.replace("*:5001", &format!("127.0.0.1:{}", reads.number));
        for (name, server, http) in [("db1", &self.db1, &self.http[0]), ("db2", &self.db2, &self.http[1])] {
            let there = format!("server {name} {name}.example.net:5432 maxconn 300 check port 8008");
            let here = format!(
                "server {name} 127.0.0.1:{} maxconn 300 check addr 127.0.0.1 port {}",
                server.port(),
                http.number
            );
            assert!(text.contains(&there), "the sample has no '{there}'");
            text = text.replace(&there, &here);
        }
        let path = self.layout.dir.join("haproxy.cfg");
        write_file(&path, &text);
        let haproxy = Program::at("/usr/sbin/haproxy").args(["-db", "-f"]).arg(&path);
        (haproxy.deadline(Duration::from_secs(300)).spawn(), writes.number, reads.number)
    }
}

/// What a server behind a port says of itself; none where nobody is let through.
fn recovers(port: u16) -> Option<bool> {
    let mut config = postgres::Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres").connect_timeout(Duration::from_secs(2));
    let mut client = config.connect(postgres::NoTls).ok()?;
    client.query_one("select pg_is_in_recovery()", &[]).ok().map(|row| row.get(0))
}

#[test]
fn every_way_is_shown_as_it_is_and_balancers_are_led_right() {
    let scene = Scene::start();
    scene.db1.query("select pg_create_physical_replication_slot('nobody', true)");
    for _ in 0..3 {
        scene.write(200_000);
        scene.db1.switch_wal();
    }
    // What is written after the last segment went nobody but db2 has.
    scene.write(300_000);
    let archived = "select last_archived_wal = pg_walfile_name(pg_current_wal_lsn() - 1048576) from pg_stat_archiver";
    wait_until(PATIENCE, "the segments are archived", || scene.db1.query(archived) == "t");
    let behind = || -> u64 {
        let at = scene.db3.query("select pg_last_wal_replay_lsn()");
        scene.db1.query(&format!("select pg_current_wal_lsn() - '{at}'::pg_lsn")).parse().expect("it is a number")
    };
    wait_until(PATIENCE, "the archive is replayed", || behind() < 2 * SEGMENT);
    let (before, db3, after) = (behind(), scene.node("db3"), behind());
    // It is behind by what is not archived yet: never nothing, and right within a segment.
    let said = db3["lag"]["replayed"]["bytes"].as_u64().unwrap_or_else(|| panic!("{db3:#}"));
    assert!(said > 300_000 && said + SEGMENT >= before && said <= after + SEGMENT, "{before} {said} {after}");
    assert_eq!((db3["replication"].as_str(), &db3["lag"]["flushed"]), (Some("archive"), &Value::Null));
    assert_eq!((&db3["lag"]["sent"], &db3["upstream"]), (&Value::Null, &Value::Null));
    // A delayed one has everything and shows an hour of nothing, on purpose.
    let db2 = scene.node("db2");
    assert_eq!((db2["apply_delay_seconds"].as_f64(), db2["slot"].as_str()), (Some(3600.0), Some("db2")), "{db2:#}");
    assert!(db2["lag"]["flushed"]["bytes"].as_u64() < Some(SEGMENT), "{db2:#}");
    assert!(db2["lag"]["replayed"]["bytes"].as_u64() > Some(3 * SEGMENT), "{db2:#}");
    // A slot that nobody uses holds WAL back until it is bounded, and then it is lost.
    let slot = || {
        let db1 = scene.node("db1");
        let all = db1["slots"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|slot| slot["name"] == "nobody").unwrap_or_else(|| panic!("{db1:#}"))
    };
    assert!(slot()["retained_bytes"].as_u64() > Some(SEGMENT) && slot()["active"] == false, "{:#}", slot());
    for _ in 0..6 {
        scene.write(100_000);
        scene.db1.switch_wal();
    }
    scene.db1.execute("checkpoint");
    assert_eq!(slot()["wal_status"], "lost");
    let told = scene.status()["findings"].to_string();
    assert!(told.contains("db1/nobody"), "{told}");
    scene.db1.query("select pg_drop_replication_slot('nobody')");
    assert!(!scene.status().to_string().contains("nobody"));
    balancers_are_led_right(scene);
}

/// Writes go to the primary and reads to the standby, whoever that is.
fn balancers_are_led_right(scene: Scene) {
    let daemons = ["db1", "db2"].map(|node| scene.daemon(node));
    let (_haproxy, writes, reads) = scene.balance();
    wait_until(PATIENCE, "writes reach the primary", || recovers(writes) == Some(false));
    wait_until(PATIENCE, "reads reach the standby", || recovers(reads) == Some(true));
    let Scene { mut db1, db2, .. } = scene;
    db1.stop(Stop::Immediate);
    wait_until(PATIENCE, "nobody takes writes", || recovers(writes).is_none());
    db2.promote();
    wait_until(PATIENCE, "writes reach the new primary", || recovers(writes) == Some(false));
    wait_until(PATIENCE, "it gets no reads any more", || recovers(reads).is_none());
    drop(daemons);
}
