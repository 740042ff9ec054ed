//! A primary `alpha` that archives, and nodes whose servers `standby-init` makes: each with a port and a socket of its
//! own through its configuration sets, all behind one sshd.
//!
//! Promises: what `standby-init` started is stopped when the scene is dropped. Leaves out: any archive but alpha's.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sshd::{self, Sshd};
use crate::support::workspace::{make_dir, write_file};
use crate::support::{Binaries, Layout, Outcome, PATIENCE, Program, Server, program, wait_until};

/// The name of the cluster.
pub const CLUSTER: &str = "main";

/// The primary, the other nodes, and the way to them.
pub struct Scene {
    pub layout: Layout,
    pub alpha: Server,
    /// Where the others' servers listen; their data directories are what the tests are about.
    pub others: Vec<(String, Server)>,
    sshd: Sshd,
}

impl Scene {
    /// Alpha runs; nothing is where the others' data directories shall be.
    pub fn new(others: &[&str]) -> Scene {
        Scene::with(others, |_| {}, |_| {})
    }

    /// The same; `change` sees the layout, and `tune` alpha before it starts.
    pub fn with(others: &[&str], change: impl FnOnce(&mut Layout), tune: impl FnOnce(&mut Server)) -> Scene {
        let names: Vec<&str> = std::iter::once("alpha").chain(others.iter().copied()).collect();
        let mut layout = Layout::new(CLUSTER, &names);
        let mut alpha = Server::builder("alpha").wal_segsize(1).set("archive_mode", "on").create();
        alpha.include_ours();
        let sshd = Sshd::start();
        sshd::own(&sshd.key());
        layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
        layout.node_mut("alpha").serve(&alpha);
        layout.set("archive", "to", "alpha").set("archive", "ack", "1").set("archive", "worker", "off");
        layout.set("restore", "from", "alpha").set("restore", "retry", "1s").set("restore", "worker", "off");
        layout.set("standby", "deadline", "45s");
        let others: Vec<(String, Server)> = others.iter().map(|name| ((*name).to_owned(), place(name))).collect();
        for (name, server) in &others {
            layout.node_mut(name).serve(server);
            let sets = layout.node(name).dir.clone();
            for set in ["standby", "failover"] {
                make_dir(&sets.join(set));
                write_file(&sets.join(set).join("postgresql.conf"), &own_settings(server, set));
                layout.node_mut(name).set_local("standby", &format!("conf_{set}"), sets.join(set).display());
            }
        }
        change(&mut layout);
        layout.write();
        layout.program("alpha", "archive-wal").args(["--init", "alpha"]).run().expect_ok();
        let config = layout.shared_file("alpha").display().to_string();
        let archive = program("archive-wal").display().to_string();
        alpha.set("archive_command", format!("{archive} --config {config} %p"));
        tune(&mut alpha);
        alpha.start();
        Scene { layout, alpha, others, sshd }
    }

    /// A call of the program on that node.
    pub fn call(&self, node: &str, words: &[&str]) -> Program {
        let call = self.layout.program(node, "standby-init").args(words);
        call.env("LD_LIBRARY_PATH", Binaries::under_test().library_path()).deadline(PATIENCE * 2)
    }

    pub fn run(&self, node: &str, words: &[&str]) -> Outcome {
        self.call(node, words).run()
    }

    /// What it prints with `--json`.
    pub fn json(&self, node: &str, words: &[&str]) -> Value {
        let outcome = self.run(node, &[words, &["--json"]].concat()).expect_ok();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// It refuses, and says why.
    #[track_caller]
    pub fn refused(&self, node: &str, words: &[&str], why: &str) {
        let outcome = self.run(node, words).expect_code(20);
        assert!(outcome.stderr.contains(why), "'{why}' is not what it says: {outcome}");
    }

    /// The server of a node, to be asked.
    #[track_caller]
    pub fn server(&self, node: &str) -> &Server {
        if node == "alpha" {
            return &self.alpha;
        }
        let found = self.others.iter().find(|(name, _)| name == node);
        &found.unwrap_or_else(|| panic!("there is no server '{node}'")).1
    }

    pub fn pgdata(&self, node: &str) -> PathBuf {
        self.server(node).pgdata()
    }

    /// Stops what the program started.
    pub fn stop(&self, node: &str) {
        self.stop_as(node, "fast");
    }

    pub fn stop_as(&self, node: &str, mode: &str) {
        let server = self.server(node);
        server.tool("pg_ctl").args(["stop", "-m", mode, "-w", "-D"]).arg(server.pgdata()).run().expect_ok();
    }

    /// Starts a data directory as an operator would, and hands over how that ended.
    pub fn start_by_hand(&self, node: &str) -> Outcome {
        let server = self.server(node);
        let log = server.dir().join("by-hand.log");
        server.tool("pg_ctl").args(["start", "-w", "-t", "10", "-l"]).arg(log).arg("-D").arg(server.pgdata()).run()
    }

    /// What a server by hand said.
    pub fn log_by_hand(&self, node: &str) -> String {
        fs::read_to_string(self.server(node).dir().join("by-hand.log")).unwrap_or_default()
    }

    /// Waits until every row of alpha's (or whoever is the primary's) tables is there too.
    #[track_caller]
    pub fn same_rows(&self, primary: &str, standby: &str) {
        let (primary, standby) = (self.server(primary), self.server(standby));
        standby.wait_replayed(&primary.wal_position(), PATIENCE);
        assert_eq!(rows(standby), rows(primary));
    }

    /// Ends the segment and waits until alpha has archived it.
    pub fn archive_everything(&self) {
        let segment = self.alpha.switch_wal();
        let stored = self.archive().join("wal").join(&segment[..16]).join(format!("{segment}.zst"));
        wait_until(PATIENCE, &format!("'{segment}' is archived"), || stored.exists());
    }

    /// Fails unless alpha's archive gives back every row of the primary's, from its newest backup on.
    #[track_caller]
    pub fn archive_gives_back(&self, primary: &str) {
        let last = self.server(primary).switch_wal();
        let stored = self.archive().join("wal").join(&last[..16]).join(format!("{last}.zst"));
        wait_until(PATIENCE, &format!("'{last}' is archived"), || stored.exists());
        let mut restored = place("restored");
        restored.set("archive_mode", "off").set("max_connections", 100);
        let restore = self.layout.program("alpha", "base-backup").args(["restore", "latest", "--to"]);
        restore.arg(restored.pgdata()).run().expect_ok();
        let restore = program("restore-wal").display().to_string();
        let shared = self.layout.shared_file("alpha").display().to_string();
        restored.set("restore_command", format!("{restore} --config {shared} %f %p")).recovery_signal();
        restored.start();
        wait_until(PATIENCE, "the restored server has opened", || !restored.in_recovery());
        assert_eq!(rows(&restored), rows(self.server(primary)));
        assert!(restored.log_has(&format!("restored log file \"{last}\"")), "it went another way");
    }

    pub fn archive(&self) -> PathBuf {
        self.layout.node("alpha").archive.clone().expect("because alpha holds one").join(CLUSTER)
    }

    /// The spool of a node.
    pub fn spool(&self, node: &str) -> &Path {
        &self.layout.node(node).spool
    }

    /// Changes the local file of a node.
    pub fn set_local(&mut self, node: &str, section: &str, key: &str, value: impl ToString) {
        self.layout.node_mut(node).set_local(section, key, value);
        self.layout.write();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for (_, server) in &self.others {
            let pid = fs::read_to_string(server.pgdata().join("postmaster.pid")).unwrap_or_default();
            if let Some(pid) = pid.lines().next().and_then(|pid| pid.parse().ok()) {
                crate::support::workspace::send(pid, rustix::process::Signal::QUIT);
            }
            if std::thread::panicking() {
                let log = self.layout.node(&server_name(server)).spool.join("server-start.log");
                eprintln!("--- {}\n{}", log.display(), fs::read_to_string(&log).unwrap_or_default());
            }
        }
    }
}

fn server_name(server: &Server) -> String {
    let folder = server.dir().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder.split('.').next().unwrap_or_default().to_owned()
}

/// A port and a socket, and no data directory.
fn place(name: &str) -> Server {
    let server = Server::builder(name).wal_segsize(1).create();
    fs::remove_dir_all(server.pgdata()).expect("because the test owns it");
    server
}

/// What makes a copy of alpha's settings this node's own.
pub fn own_settings(server: &Server, set: &str) -> String {
    format!(
        "port = {}\nunix_socket_directories = '{}'\ncluster_name = '{}'\nwork_mem = '{}MB'\n",
        server.port(),
        server.socket_dir().display(),
        server_name(server),
        if set == "standby" { 5 } else { 6 },
    )
}

/// Every row of the tables of the tests, in one text.
pub fn rows(server: &Server) -> String {
    server.query(
        "select coalesce(string_agg(it, ' ' order by it), '') from
            (select 'count ' || count(*) || ' ' || coalesce(sum(hashtext(t::text)), 0) as it from t) as all_rows",
    )
}
