//! A primary, a dr node without a server and a witness with one: where a copy of the registry is kept.

use std::time::Duration;

use serde_json::Value;

use crate::scene::get;
use crate::support::port::Port;
use crate::support::{Layout, Outcome, PATIENCE, Server, wait_until};

/// All of it.
pub struct Kept {
    pub db1: Server,
    /// That of the witness.
    pub own: Server,
    pub layout: Layout,
    http: Port,
}

impl Kept {
    /// Starts the servers and registers the primary.
    pub fn start(cluster: &str) -> Kept {
        let db1 = Server::builder("db1").wal_segsize(1).start();
        let own = Server::builder("w").fresh_identity().wal_segsize(1).start();
        let mut layout = Layout::new(cluster, &["db1", "dr1", "w"]);
        let http = Port::reserve();
        layout.node_mut("db1").serve(&db1);
        layout.node_mut("dr1").set("kind", "dr");
        layout.node_mut("w").set("kind", "witness").set_local("monitor", "http", http.number);
        layout.node_mut("w").serve(&own).without_archive();
        layout.set("monitor", "interval", "250ms").set("monitor", "history", "500ms").set("monitor", "deadline", "2s");
        layout.write();
        let kept = Kept { db1, own, layout, http };
        kept.run("db1", &["register"]).expect_ok();
        kept
    }

    /// Runs the program on a node.
    pub fn run(&self, node: &str, words: &[&str]) -> Outcome {
        self.layout.program(node, "cluster-monitor").args(words).run()
    }

    /// What the copy has: names and roles.
    pub fn names(&self) -> String {
        self.own.query("select string_agg(name || ' ' || role, ',' order by id) from pgwarm.nodes")
    }

    /// The daemon of the witness copies what is registered, said, paused and taken back later; and tells of it when the
    /// primary hangs.
    pub fn is_followed_and_told_of(&self) {
        let daemon = self.layout.program("w", "cluster-monitor").arg("run").deadline(Duration::from_secs(300)).spawn();
        self.run("dr1", &["register"]).expect_ok();
        wait_until(PATIENCE, "the new node is copied", || self.names() == "db1 primary,dr1 dr,w witness");
        let reports = "select count(*) from pgwarm.reports";
        wait_until(PATIENCE, "its report is copied", || self.own.query(reports) == "1");
        self.run("db1", &["pause", "--reason", "test"]).expect_ok();
        self.run("db1", &["unregister", "--node", "dr1"]).expect_ok();
        let pauses = "select count(*) from pgwarm.pauses";
        wait_until(PATIENCE, "it is gone there, too", || {
            self.names() == "db1 primary,w witness" && self.own.query(pauses) == "1"
        });
        self.db1.freeze();
        let asked = (self.run("w", &["status", "--json"]), self.run("w", &["events"]));
        let shown = || get(self.http.number, "/status.json").1;
        wait_until(PATIENCE, "its daemon sees the hang", || shown().contains("\"primary\":null"));
        let shown = shown();
        self.db1.thaw();
        let seen = json(asked.0.expect_code(20));
        let (db1, w) = (&seen["nodes"][0], &seen["nodes"][2]);
        assert_eq!((&seen["primary"], &db1["state"], &db1["id"]), (&Value::Null, &"hung".into(), &1.into()));
        assert_eq!((&db1["registered"], &seen["pause"]["reason"]), (&"primary".into(), &"test".into()), "{seen:#}");
        assert_eq!((&w["state"], &w["role"]), (&"running".into(), &"witness".into()));
        assert!(asked.1.expect_ok().stdout.contains("dr_unregister"));
        assert!(shown.contains("\"registered\":\"primary\""), "{shown}");
        daemon.signal(rustix::process::Signal::TERM);
        daemon.wait().expect_ok();
    }
}

/// What was printed, as JSON.
pub fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}
