//! A server that archives: a primary `alpha` with an archive of its own, a node `beta` and a dr node `gamma`, each
//! behind an sshd of its own, so that one can go down and the other stay.
//!
//! Promises: the server calls our program itself; what is in an archive is read without our program's help.
//! Leaves out: the worker, unless a test switches it on.
//! Every test file that uses it includes `support/sshd.rs` as the module `sshd`.

// Every test crate compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use pgwarm::store::Encoding;
use pgwarm::wal::{Checker, Expected, WalName};

use crate::sshd::{self, Sshd};
use crate::support::workspace::write_file;
use crate::support::{Layout, Outcome, PATIENCE, Program, Server, program, wait_for, wait_until};

/// The name of the cluster.
pub const CLUSTER: &str = "main";

/// The server, the nodes and the ways to them.
pub struct Scene {
    pub server: Server,
    pub layout: Layout,
    pub beta: Sshd,
    pub gamma: Sshd,
}

impl Scene {
    /// Segments of 1 MiB, no worker, places tried again after a second. `change` sees the layout before it counts.
    pub fn new(change: impl FnOnce(&mut Layout)) -> Scene {
        Scene::sized(1, change)
    }

    /// The same with segments of so many MiB.
    pub fn sized(segment_mib: u32, change: impl FnOnce(&mut Layout)) -> Scene {
        let scene = Scene::unmade(segment_mib, change);
        scene.archive_wal(&["--init"]).expect_ok();
        scene
    }

    /// The same, with no archive made yet.
    pub fn unmade(segment_mib: u32, change: impl FnOnce(&mut Layout)) -> Scene {
        let mut server = Server::builder("alpha").wal_segsize(segment_mib).set("archive_mode", "on").create();
        let (beta, gamma) = (Sshd::start(), Sshd::start());
        let mut layout = Layout::new(CLUSTER, &["alpha", "beta", "gamma"]);
        for (name, far) in [("beta", &beta), ("gamma", &gamma)] {
            sshd::own(&far.key());
            let node = layout.node_mut(name);
            node.set("ssh_port", far.port()).set("ssh_user", far.user());
            node.set("ssh_key", far.key().display()).set("ssh_known_hosts", far.known_hosts().display());
        }
        layout.node_mut("gamma").set("kind", "dr");
        layout.node_mut("alpha").serve(&server);
        layout.set("archive", "to", "own, beta").set("archive", "ack", "all").set("archive", "worker", "off");
        layout.set("archive", "retry", "1s").set("ssh", "connect_timeout", "5s").set("queue", "free_min", "0");
        change(&mut layout);
        layout.write();
        let shared = layout.shared_file("alpha").display().to_string();
        server.set("archive_command", format!("{} --config {shared} %p", program("archive-wal").display()));
        Scene { server, layout, beta, gamma }
    }

    /// Starts the server.
    pub fn started(mut self) -> Scene {
        self.server.start();
        self
    }

    /// A call of the program on `alpha`.
    pub fn call(&self, words: &[&str]) -> Program {
        self.layout.program("alpha", "archive-wal").args(words)
    }

    /// The same, run to its end.
    pub fn archive_wal(&self, words: &[&str]) -> Outcome {
        self.call(words).run()
    }

    /// The program on one file of `pg_wal`, or any path.
    pub fn archive(&self, path: &Path) -> Outcome {
        self.call(&[&path.display().to_string()]).run()
    }

    /// A file of `pg_wal`.
    pub fn wal(&self, name: &str) -> PathBuf {
        self.server.pgdata().join("pg_wal").join(name)
    }

    /// Where a node keeps the cluster's files.
    pub fn root(&self, node: &str) -> PathBuf {
        self.layout.node(node).archive.clone().expect("because every node here holds one").join(CLUSTER)
    }

    /// Ends the current segment and answers its name.
    pub fn switch(&self) -> String {
        self.server.switch_wal()
    }

    /// The names that wait in `archive_status`.
    pub fn ready(&self) -> BTreeSet<String> {
        self.marked(".ready")
    }

    /// The names that the server was told to be safe.
    pub fn done(&self) -> BTreeSet<String> {
        self.marked(".done")
    }

    fn marked(&self, mark: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.wal("archive_status")).expect("because every server has it");
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix(mark).map(str::to_owned)).collect()
    }

    /// Waits until nothing waits any more. A new segment wakes an archiver that has given up for a minute.
    #[track_caller]
    pub fn wait_drained(&self) {
        let mut rounds = 0;
        wait_until(PATIENCE, "everything is archived", || {
            rounds += 1;
            if rounds % 300 == 0 {
                self.switch();
            }
            self.ready().is_empty()
        });
    }

    /// What the server counts: archived and failed.
    pub fn counts(&self) -> (u64, u64) {
        let text = self.server.query("select archived_count || ' ' || failed_count from pg_stat_archiver");
        let mut numbers = text.split(' ').map(|number| number.parse().expect("because they are numbers"));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// The process of the server's archiver.
    pub fn archiver(&self) -> String {
        let question = "select pid from pg_stat_activity where backend_type = 'archiver'";
        // A server that has only just started may not have one yet.
        wait_for(PATIENCE, "an archiver", || Some(self.server.query(question)).filter(|pid| !pid.is_empty()))
    }

    /// Where a node's archive holds a file, in whatever form; fails where it holds two forms.
    #[track_caller]
    pub fn stored(&self, node: &str, name: &str) -> Option<PathBuf> {
        stored_below(&self.root(node).join("wal"), name)
    }

    /// Waits for a file in a node's archive.
    #[track_caller]
    pub fn wait_stored(&self, node: &str, name: &str) {
        wait_until(PATIENCE, &format!("'{name}' is in the archive of {node}"), || self.stored(node, name).is_some());
    }

    /// The content of a file in a node's archive, decoded and checked as the segment that its name says.
    #[track_caller]
    pub fn content(&self, node: &str, name: &str) -> Vec<u8> {
        let path = self.stored(node, name).unwrap_or_else(|| panic!("{node} does not hold '{name}'"));
        let content = decode(&path);
        check(name, &content);
        content
    }

    /// What waits in a queue of `alpha`.
    pub fn queued(&self, node: &str) -> Vec<PathBuf> {
        files(&self.layout.node("alpha").spool.join("queue").join(node))
    }

    /// Overwrites the shared file with the layout as it is now.
    pub fn rewrite(&self) {
        write_file(&self.layout.shared_file("alpha"), &self.layout.shared_text());
    }
}

/// Where a folder of WAL holds a file, in whatever form.
#[track_caller]
pub fn stored_below(wal: &Path, name: &str) -> Option<PathBuf> {
    let folder = if name.ends_with(".history") { wal.to_owned() } else { wal.join(&name[..16]) };
    let forms = Encoding::ALL.into_iter().map(|encoding| folder.join(format!("{name}{}", encoding.extension())));
    let found: Vec<_> = forms.filter(|path| path.exists()).collect();
    assert!(found.len() < 2, "'{name}' is there twice: {found:?}");
    found.into_iter().next()
}

/// The decoded content of a stored file.
#[track_caller]
pub fn decode(path: &Path) -> Vec<u8> {
    let (_, encoding) = Encoding::split(path.file_name().and_then(|name| name.to_str()).unwrap_or_default());
    let mut content = Vec::new();
    let file = File::open(path).unwrap_or_else(|error| panic!("'{}': {error}", path.display()));
    let read = encoding.decoder(Box::new(file)).and_then(|mut decoder| decoder.read_to_end(&mut content));
    read.unwrap_or_else(|error| panic!("'{}' does not decode: {error}", path.display()));
    content
}

/// Fails where a whole segment is not what its name says; other files pass.
#[track_caller]
pub fn check(name: &str, content: &[u8]) {
    let Ok(WalName::Segment(segment)) = name.parse() else { return };
    let mut checker = Checker::new(Expected { name: segment, system_id: None, size: None, partial: false });
    let checked = checker.feed(0, content).and_then(|()| checker.finish());
    checked.unwrap_or_else(|error| panic!("'{name}' is damaged: {error}"));
}

/// Every regular file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

/// Fails unless the outcome is that exit code and says so.
#[track_caller]
pub fn refused(outcome: Outcome, code: i32, words: &[&str]) -> Outcome {
    let outcome = outcome.expect_code(code);
    for word in words {
        assert!(outcome.stderr.contains(word), "no '{word}' in {outcome}");
    }
    outcome
}
