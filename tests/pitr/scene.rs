//! What the tests of restores begin with: a primary that archives into its own archive, and backups of it.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::workspace::Account;
use super::support::{Layout, Outcome, PATIENCE, Program, Server, Stop, program, wait_until};

/// A primary on node `alpha`.
pub struct Scene {
    pub cluster: String,
    pub layout: Layout,
    pub alpha: Server,
}

impl Scene {
    /// A cluster of that name, whose nodes all hold an archive; only `alpha` has a server.
    pub fn new(cluster: &str, nodes: &[&str]) -> Scene {
        Scene::with(cluster, nodes, &[])
    }

    /// With settings of the server.
    pub fn with(cluster: &str, nodes: &[&str], settings: &[(&str, &str)]) -> Scene {
        let mut layout = Layout::new(cluster, nodes);
        let mut alpha = Server::builder(cluster).wal_segsize(1).set("archive_mode", "on").create();
        for (name, value) in settings {
            alpha.set(name, value);
        }
        layout.node_mut("alpha").serve(&alpha);
        layout.set("archive", "to", "own").set("archive", "ack", "local").set("backup", "deadline", "30s").write();
        let shared = layout.shared_file("alpha");
        alpha.set("archive_command", format!("{} --config {} %p", program("archive-wal").display(), shared.display()));
        layout.program("alpha", "archive-wal").args(["--init", "alpha"]).run().expect_ok();
        alpha.start();
        Scene { cluster: cluster.to_owned(), layout, alpha }
    }

    /// A call of one of our programs on `alpha`.
    pub fn call(&self, name: &str, words: &[&str]) -> Program {
        self.layout.program("alpha", name).args(words).deadline(PATIENCE * 2)
    }

    pub fn run(&self, name: &str, words: &[&str]) -> Outcome {
        self.call(name, words).run()
    }

    /// What a call that succeeds prints as JSON.
    pub fn json(&self, name: &str, words: &[&str]) -> Value {
        read(&self.run(name, &[words, &["--json"]].concat()).expect_ok())
    }

    /// Takes a backup and answers its label.
    pub fn take(&self) -> String {
        let taken = self.json("base-backup", &["take"]);
        taken["label"].as_str().unwrap_or_else(|| panic!("no label in {taken:#}")).to_owned()
    }

    /// The archive's root for this cluster.
    pub fn archive(&self) -> PathBuf {
        self.layout.node("alpha").archive.clone().expect("because alpha has one").join(&self.cluster)
    }

    /// Where the archive keeps a file of WAL.
    pub fn stored(&self, name: &str) -> PathBuf {
        let wal = self.archive().join("wal");
        if name.ends_with(".history") { wal.join(name) } else { wal.join(&name[..16]).join(format!("{name}.zst")) }
    }

    /// Ends the segment of a server and waits until it is in the archive; its name.
    pub fn archive_everything(&self, server: &Server) -> String {
        let segment = server.switch_wal();
        let stored = self.stored(&segment);
        wait_until(PATIENCE, &format!("'{}' is there", stored.display()), || stored.exists());
        segment
    }

    /// A directory that is not there yet.
    pub fn place(&self, name: &str) -> PathBuf {
        self.alpha.dir().join(name)
    }
}

/// A server that `pitr-restore` makes, and starts where it is told to.
pub struct Copy(pub Server);

impl Copy {
    pub fn new(name: &str) -> Copy {
        let server = Server::builder(name).wal_segsize(1).create();
        fs::remove_dir_all(server.pgdata()).expect("because the test owns it");
        Copy(server)
    }

    /// A call of `pitr-restore run` into its directory, with a port and a socket of its own.
    pub fn call(&self, scene: &Scene, words: &[&str]) -> Program {
        let (port, socket) = (self.0.port(), self.0.socket_dir().display());
        let call = scene.call("pitr-restore", &["run", "--json", "--to"]).arg(self.0.pgdata());
        call.arg("--setting")
            .arg(format!("port={port}"))
            .arg("--setting")
            .arg(format!("unix_socket_directories={socket}"))
            .args(words)
    }

    /// Restores and starts it; what the call says in JSON.
    #[track_caller]
    pub fn run(&self, scene: &Scene, words: &[&str]) -> Value {
        read(&self.call(scene, &[&["--start"], words].concat()).run().expect_ok())
    }

    /// Stops it, if it runs.
    pub fn stop(&self) {
        if self.0.pgdata().join("postmaster.pid").exists() {
            self.0.tool("pg_ctl").args(["stop", "-m", "fast", "-w", "-D"]).arg(self.0.pgdata()).run().expect_ok();
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.0.pgdata().join("postmaster.pid").exists() {
            let stop = self.0.tool("pg_ctl").args(["stop", "-m", "immediate", "-w", "-D"]);
            let _ = stop.arg(self.0.pgdata()).run();
        }
    }
}

/// One committed row, and where in the log it was committed.
#[derive(Debug, Clone)]
pub struct Row {
    pub n: u32,
    pub xid: String,
    /// The end of the log behind it.
    pub lsn: String,
    /// When, to the microsecond, UTC.
    pub time: String,
}

/// Commits the next row into `t (n)`; the server must have track_commit_timestamp.
pub fn commit(server: &Server, n: u32) -> Row {
    let mut client = server.connect();
    let mut one = |sql: &str| -> String {
        let row = client.query_one(sql, &[]).unwrap_or_else(|error| panic!("'{sql}': {error:?}"));
        row.get(0)
    };
    let xid = one(&format!("insert into t values ({n}) returning pg_current_xact_id()::text"));
    let lsn = one("select pg_current_wal_insert_lsn()::text");
    let time = one(&format!(
        "select to_char(pg_xact_commit_timestamp('{xid}'::xid) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'"
    ));
    Row { n, xid, lsn, time }
}

/// What is in `t`: the highest row, and how many.
pub fn rows(server: &Server) -> String {
    server.query("select coalesce(max(n), 0) || ' ' || count(*) from t")
}

/// Rows 1 to `n`, as [`rows`] shows them.
pub fn up_to(n: u32) -> String {
    format!("{n} {n}")
}

/// Runs a line that one of our programs printed, as an operator would.
pub fn run_line(line: &str) {
    let programs = program("archive-wal");
    let programs = programs.parent().expect("because a program is in a folder");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    Program::at("/bin/sh").args(["-c", line]).env("PATH", path).run().expect_ok();
}

/// What a call has printed as JSON.
#[track_caller]
pub fn read(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// `pg_verifybackup`; what a recovery's settings touch is left out, and so is WAL, which is in the archive.
pub fn verify_as_postgres_does(server: &Server, pgdata: &Path, ignored: &[&str]) {
    let mut tool = server.tool("pg_verifybackup").arg("--no-parse-wal");
    for path in ignored {
        tool = tool.arg(format!("--ignore={path}"));
    }
    tool.arg(pgdata).run().expect_ok();
}

/// `pg_checksums` on a server that is stopped for it.
pub fn check_pages(mut server: Server) {
    server.stop(Stop::Fast);
    server.tool("pg_checksums").arg("--check").arg("--pgdata").arg(server.pgdata()).run().expect_ok();
}

/// Changes one byte of a file.
pub fn spoil(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("'{}': {error}", path.display()));
    bytes[at] ^= 0xff;
    fs::write(path, bytes).expect("because the test owns it");
    Account::unprivileged().own(path);
}
