//! The cluster of these tests: `db1` is the primary and archives to `dr1`, `db2` follows it, synchronous by quorum,
//! `db3` follows `db2`, `dr1` holds an archive and no server, `w` votes.
//!
//! Leaves out: an sshd, so nothing is relayed; what reaches `dr1` is a test's to put there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::port::Port;
use crate::support::program::Running;
use crate::support::workspace::write_file;
use crate::support::{Layout, Outcome, PATIENCE, Server, program, wait_until};

/// All of it.
pub struct Scene {
    pub db1: Server,
    pub db2: Server,
    pub db3: Server,
    pub layout: Layout,
    /// Where each daemon answers.
    pub http: BTreeMap<&'static str, u16>,
    _ports: Vec<Port>,
}

const NODES: [&str; 5] = ["db1", "db2", "db3", "dr1", "w"];

impl Scene {
    /// Starts the servers, and waits until both standbys stream.
    pub fn start(cluster: &str) -> Scene {
        let mut db1 = Server::builder("db1").wal_segsize(1).set("archive_mode", "on").create();
        let mut layout = Layout::new(cluster, &NODES);
        layout.node_mut("dr1").set("kind", "dr");
        layout.node_mut("w").set("kind", "witness").without_archive();
        layout.node_mut("db1").serve(&db1);
        layout.set("archive", "to", "own").set("archive", "ack", "local").set("archive", "alternate", "");
        layout.set("archive", "worker", "off").set("restore", "from", "own").set("relay", "to", "");
        layout.set("queue", "free_min", "0").set("monitor", "interval", "250ms").set("monitor", "history", "500ms");
        layout.set("monitor", "deadline", "2s").set("monitor", "lost_after", "3s").set("monitor", "survey", "1s");
        layout.write();
        layout.program("db1", "archive-wal").args(["--init", "db1"]).run().expect_ok();
        let shared = layout.shared_file("db1").display().to_string();
        db1.set("archive_command", format!("{} --config {shared} %p", program("archive-wal").display()));
        db1.start();
        let follow = |upstream: &Server, name: &str| {
            let mut standby = upstream.base_backup(name);
            standby.set("archive_mode", "off").set("archive_command", "").follow(upstream);
            standby.start();
            standby
        };
        let db2 = follow(&db1, "db2");
        let db3 = follow(&db2, "db3");
        db1.set("synchronous_standby_names", "ANY 1 (db2)");
        db1.reload();
        for (name, server) in [("db2", &db2), ("db3", &db3)] {
            layout.node_mut(name).serve(server).without_archive();
        }
        let ports: Vec<Port> = NODES.iter().map(|_| Port::reserve()).collect();
        let http: BTreeMap<_, _> = NODES.into_iter().zip(ports.iter().map(|port| port.number)).collect();
        for (name, port) in &http {
            layout.node_mut(name).set_local("monitor", "http", port);
        }
        layout.write();
        let streams = |server: &Server| {
            server.query("select count(*) from pg_stat_wal_receiver where status = 'streaming'") == "1"
        };
        wait_until(PATIENCE, "both standbys stream", || streams(&db2) && streams(&db3));
        Scene { db1, db2, db3, layout, http, _ports: ports }
    }

    /// Registers every node, the primary first.
    pub fn registered(self) -> Scene {
        for node in NODES {
            self.run(node, &["register"]).expect_ok();
        }
        self.db2.wait_replayed(&self.db1.wal_position(), PATIENCE);
        self.db3.wait_replayed(&self.db1.wal_position(), PATIENCE);
        self
    }

    /// Runs the program on a node.
    pub fn run(&self, node: &str, words: &[&str]) -> Outcome {
        self.layout.program(node, "cluster-monitor").args(words).run()
    }

    /// The picture as a node sees it.
    pub fn status(&self, node: &str) -> Value {
        let outcome = self.run(node, &["status", "--json"]);
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// Starts a node's daemon; it ends with the value.
    pub fn daemon(&self, node: &str) -> Running {
        self.layout.program(node, "cluster-monitor").arg("run").deadline(Duration::from_secs(300)).spawn()
    }

    /// Has every daemon write what it tells into one file.
    pub fn notify(&mut self) {
        let file = self.file();
        let script = self.layout.dir.join("tell");
        write_file(&script, &format!("#!/bin/sh\necho \"$1 $2\" >> '{}'\n", file.display()));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("because the file is ours");
        self.layout.set("monitor", "event_notification_command", format!("{} %e %a", script.display())).write();
    }

    fn file(&self) -> PathBuf {
        self.layout.dir.join("told")
    }

    /// What was told, in order.
    pub fn told(&self) -> Vec<String> {
        fs::read_to_string(self.file()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// How often each event about a change was told; what each daemon says of itself is left out.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.told().into_iter().filter(|line| !line.starts_with("repmgrd_")) {
            *counts.entry(line).or_default() += 1;
        }
        counts
    }

    /// Waits until something was told so often, and no more often.
    #[track_caller]
    pub fn wait_told(&self, what: &str, times: usize) {
        wait_until(PATIENCE, &format!("'{what}' is told"), || self.counts().get(what).copied() == Some(times));
    }

    /// Holds the lag view against what PostgreSQL itself says, with replay held up at a known position.
    pub fn lag_is_that_of_the_servers(&self) {
        self.db3.execute("select pg_wal_replay_pause()");
        let paused = "select pg_get_wal_replay_pause_state()";
        wait_until(PATIENCE, "replay stands still", || self.db3.query(paused) == "paused");
        let stands = self.db3.query("select pg_last_wal_replay_lsn()");
        // A commit flushes what the message only put into the buffers.
        self.db1.execute("select pg_logical_emit_message(false, 'test', repeat('x', 300000)); create table flushed ()");
        let there = self.db1.query("select pg_current_wal_lsn()");
        let arrived = format!("select pg_last_wal_receive_lsn() >= '{there}'");
        wait_until(PATIENCE, "the WAL has arrived", || self.db3.query(&arrived) == "t");
        let outcome = self.run("w", &["lag", "--json"]);
        let lag: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
        let row = lag["nodes"].as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "db3")).cloned();
        let row = row.unwrap_or_else(|| panic!("no row of db3 in {lag:#}"));
        assert_eq!(row["lag"]["replayed"]["lsn"], stands.as_str());
        let reference = lag["reference"]["lsn"].as_str().unwrap_or_default().to_owned();
        let bytes = self.db1.query(&format!("select '{reference}'::pg_lsn - '{stands}'::pg_lsn"));
        assert_eq!(row["lag"]["replayed"]["bytes"].to_string(), bytes);
        assert!(row["lag"]["replayed"]["bytes"].as_u64() > Some(300_000), "{row:#}");
        assert!(row["lag"]["flushed"]["bytes"].as_u64() < Some(100_000), "{row:#}");
        assert_eq!(row["lag"]["hop"]["upstream"], "db2");
        self.db3.execute("select pg_wal_replay_resume()");
    }

    /// The archive of the primary is reported within one segment of where it is.
    pub fn archive_is_followed(&self) {
        for _ in 0..3 {
            self.db1.switch_wal();
        }
        let archived = "select last_archived_wal from pg_stat_archiver";
        let last = "select pg_walfile_name(pg_current_wal_lsn() - 1048576)";
        wait_until(PATIENCE, "the archive has it", || self.db1.query(archived) >= self.db1.query(last));
        let near = "select coalesce(last_wal_primary_location - last_wal_archived_location <= 2 * 1048576, false) \
                    from (select primary_lsn as last_wal_primary_location, archived_lsn as last_wal_archived_location \
                            from pgwarm.lag_history where node_id = (select id from pgwarm.nodes where name = 'db1') \
                           order by sampled_at desc limit 1) as newest";
        wait_until(PATIENCE, "the report is within a segment", || self.db1.query(near) == "t");
    }
}

/// Asks a daemon: the status code and the body; 0 where nobody answers.
pub fn get(port: u16, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return (0, String::new()) };
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("because the time is not zero");
    let mut text = String::new();
    let asked = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    if asked.and_then(|()| stream.read_to_string(&mut text)).is_err() {
        return (0, String::new());
    }
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (code, body)
}
