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
        let mut layout = Layout::new(cluster, nodes);
        let mut alpha = Server::builder(cluster).wal_segsize(1).set("archive_mode", "on").create();
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
