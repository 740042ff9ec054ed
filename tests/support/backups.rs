//! What the tests of base backups begin with: a primary that archives into its own archive, and calls of `base-backup`.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sshd;
use super::support::{self, Layout, Outcome, PATIENCE, Program, Server, Stop, wait_until};

/// A primary that archives into its own archive.
pub struct Scene {
    pub cluster: String,
    pub layout: Layout,
    pub alpha: Server,
}

impl Scene {
    pub fn new(name: &str) -> Scene {
        Scene::with_nodes(name, &["alpha"])
    }

    /// With more nodes, of which only `alpha` has a server.
    pub fn with_nodes(name: &str, nodes: &[&str]) -> Scene {
        Scene::prepared(name, nodes, |_| {})
    }

    /// The same; `prepare` may do something with the directory of alpha's archive while it is empty.
    pub fn prepared(name: &str, nodes: &[&str], prepare: impl FnOnce(&Path)) -> Scene {
        let mut layout = Layout::new(name, nodes);
        let alpha = Server::builder(name).wal_segsize(1).set("archive_mode", "on").create();
        layout.node_mut("alpha").serve(&alpha);
        layout.set("archive", "ack", "local").set("backup", "deadline", "30s").write();
        let mut scene = Scene { cluster: name.to_owned(), layout, alpha };
        scene.connect_archive();
        prepare(scene.layout.node("alpha").archive.as_deref().expect("because alpha has one"));
        scene.layout.program("alpha", "archive-wal").args(["--init", "alpha"]).run().expect_ok();
        scene.alpha.start();
        scene
    }

    /// Makes beta reachable, and its archive.
    pub fn reached_through(mut self, sshd: &sshd::Sshd) -> Scene {
        self.layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts()).write();
        self.layout.program("alpha", "archive-wal").args(["--init", "beta"]).run().expect_ok();
        self
    }

    /// Sets the commands that PostgreSQL calls.
    pub fn connect_archive(&mut self) {
        let shared = self.layout.shared_file("alpha").display().to_string();
        let own = |name: &str| support::program(name).display().to_string();
        self.alpha.set("archive_command", format!("{} --config {shared} %p", own("archive-wal")));
        self.alpha.set("restore_command", format!("{} --config {shared} %f %p %r", own("restore-wal")));
    }

    pub fn call(&self, words: &[&str]) -> Program {
        self.layout.program("alpha", "base-backup").args(words)
    }

    pub fn run(&self, words: &[&str]) -> Outcome {
        self.call(words).run()
    }

    pub fn json(&self, words: &[&str]) -> Value {
        let outcome = self.run(&[words, &["--json"]].concat()).expect_ok();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// Takes a backup and answers its label.
    pub fn take(&self) -> String {
        let taken = self.json(&["take"]);
        taken["label"].as_str().unwrap_or_else(|| panic!("no label in {taken:#}")).to_owned()
    }

    pub fn archive(&self) -> PathBuf {
        self.layout.node("alpha").archive.clone().expect("because alpha has one").join(&self.cluster)
    }

    pub fn wal(&self) -> PathBuf {
        self.archive().join("wal")
    }

    pub fn folder(&self, label: &str) -> PathBuf {
        self.archive().join("backup").join(label)
    }

    /// Labels that `list` shows as whole, and as unfinished.
    pub fn listed(&self) -> (Vec<String>, Vec<String>) {
        let list = self.json(&["list"]);
        let texts = |value: &Value, key: &str| -> Vec<String> {
            let all = value.as_array().cloned().unwrap_or_default();
            all.iter().map(|it| it.get(key).unwrap_or(it).as_str().unwrap_or_default().to_owned()).collect()
        };
        (texts(&list["backups"], "label"), texts(&list["unfinished"], "label"))
    }

    /// A server without a data directory, which fetches WAL from the archive.
    pub fn empty_server(&self, name: &str) -> Server {
        let shared = self.layout.shared_file("alpha").display().to_string();
        let restore = support::program("restore-wal").display().to_string();
        let copy = Server::builder(name)
            .wal_segsize(1)
            .set("archive_mode", "off")
            .set("restore_command", format!("{restore} --config {shared} %f %p %r"))
            .create();
        fs::remove_dir_all(copy.pgdata()).expect("because the test owns it");
        copy
    }

    /// Ends the segment and waits until it is in the archive.
    pub fn archive_everything(&self) {
        let segment = self.alpha.switch_wal();
        let wal = self.wal().join(&segment[..16]).join(format!("{segment}.zst"));
        wait_until(PATIENCE, &format!("'{}' is there", wal.display()), || wal.exists());
    }

    /// Restores a backup and starts a server on it that recovers to the end of the WAL.
    pub fn recover(&self, label: &str, words: &[&str]) -> Server {
        let mut copy = self.empty_server("copy");
        let target = copy.pgdata().display().to_string();
        self.run(&[&["restore", label, "--to", &target], words].concat()).expect_ok();
        verify_as_postgres_does(&copy);
        copy.recovery_signal();
        copy.start();
        wait_until(PATIENCE, "recovery has ended", || !copy.in_recovery());
        copy
    }

    /// True where no session of ours is left on the server.
    pub fn no_session_is_left(&self) -> bool {
        self.alpha.query("select count(*) from pg_stat_activity where application_name like 'pgwarm%'") == "0"
    }
}

/// `pg_verifybackup`; the WAL is in the archive, not in the directory.
pub fn verify_as_postgres_does(copy: &Server) {
    copy.tool("pg_verifybackup").arg("--no-parse-wal").arg(copy.pgdata()).run().expect_ok();
}

/// `pg_amcheck` while it runs, `pg_checksums` when it is stopped.
pub fn check_everything(mut copy: Server) {
    if copy.query("select count(*) from pg_available_extensions where name = 'amcheck'") == "1" {
        copy.tool("pg_amcheck").args(["--all", "--install-missing", "--heapallindexed"]).run().expect_ok();
    }
    copy.stop(Stop::Fast);
    copy.tool("pg_checksums").arg("--check").arg("--pgdata").arg(copy.pgdata()).run().expect_ok();
}

/// A file of a relation.
pub fn file_of(server: &Server, relation: &str) -> PathBuf {
    server.pgdata().join(server.query(&format!("select pg_relation_filepath('{relation}')")))
}

/// What a backup that begins now would be called.
pub fn label_of_now() -> String {
    chrono::Utc::now().format("%Y%m%dT%H%M%SF").to_string()
}
