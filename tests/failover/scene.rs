//! A primary, its standby and a dr node that streams as well, each behind an sshd of its own, so that a machine can be
//! switched off and the others stay.
//!
//! Promises: WAL goes the way of a real cluster: our programs are `archive_command` and `restore_command` everywhere,
//! and every node has an archive. On each node our programs are found under a path of their own that reads that node's
//! configuration, as they would on a machine of its own.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::sshd::{self, Sshd};
use crate::support::workspace::{Account, make_dir, write_file};
use crate::support::{Layout, Outcome, PATIENCE, Program, Server, Stop, program, wait_until};

/// The name of the cluster, and of its folder in every archive.
pub const CLUSTER: &str = "main";

/// Our programs that nodes call on each other.
const CALLED: &[&str] = &["trigger-failover", "flush-primary", "standby-init", "serve-archive", "cluster-monitor"];

/// One node.
pub struct Node {
    pub name: String,
    pub server: Server,
    pub sshd: Sshd,
}

/// The cluster. `alpha` is the primary at first.
pub struct Scene {
    pub layout: Layout,
    pub nodes: Vec<Node>,
}

impl Scene {
    /// `alpha` and the standby `beta`.
    pub fn two() -> Scene {
        Scene::with(&["beta"], |_| {})
    }

    /// `alpha` and these standbys; one called `gamma` is a dr node. `change` sees the layout before it counts.
    pub fn with(standbys: &[&str], change: impl FnOnce(&mut Layout)) -> Scene {
        let names: Vec<&str> = ["alpha"].into_iter().chain(standbys.iter().copied()).collect();
        let mut layout = Layout::new(CLUSTER, &names);
        layout.set("archive", "ack", "local").set("archive", "worker", "off").set("restore", "worker", "off");
        layout.set("archive", "retry", "1s").set("restore", "retry", "0s").set("queue", "free_min", "0");
        layout.set("ssh", "connect_timeout", "5s").set("failover", "sessions", "200ms");
        let primary = Server::builder("alpha").wal_segsize(1).set("archive_mode", "on").create();
        layout.node_mut("alpha").serve(&primary);
        primary.include_ours();
        let mut nodes = vec![Node { name: "alpha".to_owned(), server: primary, sshd: Sshd::start() }];
        if names.contains(&"gamma") {
            layout.node_mut("gamma").set("kind", "dr");
        }
        let sshds: Vec<Sshd> = standbys.iter().map(|_| Sshd::start()).collect();
        change(&mut layout);
        reach(&mut layout, "alpha", &nodes[0].sshd);
        for (name, sshd) in standbys.iter().zip(&sshds) {
            reach(&mut layout, name, sshd);
        }
        layout.write();
        names.iter().for_each(|name| install(&layout, name));
        let mut scene = Scene { layout, nodes: Vec::new() };
        scene.connect_archive(&mut nodes[0]);
        nodes[0].server.start();
        scene.nodes = nodes;
        // Where the standbys are is known only once they are made; the archives have to be there before.
        scene.call("alpha", "archive-wal", &["--init"]).run().expect_ok();
        scene.on("alpha").execute("create table t (n bigserial primary key, made timestamptz default now())");
        for (name, sshd) in standbys.iter().zip(sshds) {
            let mut server = scene.on("alpha").base_backup(name);
            server.follow(scene.on("alpha"));
            scene.layout.node_mut(name).serve(&server);
            scene.nodes.push(Node { name: (*name).to_owned(), server, sshd });
        }
        scene.layout.write();
        for name in standbys {
            let at = scene.at(name);
            let mut node = scene.nodes.remove(at);
            scene.connect_archive(&mut node);
            node.server.start();
            scene.nodes.insert(at, node);
        }
        // Right behind a switch there is no record to replay up to, and a quiet server writes one only now and then.
        scene.on("alpha").execute("checkpoint");
        for name in standbys {
            scene.wait_caught_up(name);
        }
        scene
    }

    /// Sets what PostgreSQL calls on a node, and has it read our own settings.
    fn connect_archive(&self, node: &mut Node) {
        let shared = self.layout.shared_file(&node.name).display().to_string();
        let own = |name: &str| program(name).display().to_string();
        node.server.set("archive_command", format!("{} --config {shared} %p", own("archive-wal")));
        node.server.set("restore_command", format!("{} --config {shared} %f %p", own("restore-wal")));
    }

    fn at(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name == name).unwrap_or_else(|| panic!("there is no node '{name}'"))
    }

    /// The server of a node.
    pub fn on(&self, name: &str) -> &Server {
        &self.nodes[self.at(name)].server
    }

    /// The server of a node, to be changed.
    pub fn on_mut(&mut self, name: &str) -> &mut Server {
        let at = self.at(name);
        &mut self.nodes[at].server
    }

    /// The sshd of a node.
    pub fn sshd(&mut self, name: &str) -> &mut Sshd {
        let at = self.at(name);
        &mut self.nodes[at].sshd
    }

    /// A call of one of our programs on a node.
    pub fn call(&self, node: &str, name: &str, words: &[&str]) -> Program {
        self.layout.program(node, name).args(words)
    }

    /// `trigger-failover` on a node, run to its end.
    pub fn trigger(&self, node: &str, words: &[&str]) -> Outcome {
        self.call(node, "trigger-failover", words).run()
    }

    /// The same, and what it prints.
    pub fn trigger_json(&self, node: &str, words: &[&str]) -> Value {
        let outcome = self.trigger(node, &[words, &["--json"]].concat()).expect_ok();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// Switches a machine off: its server and its sshd are gone at once.
    pub fn power_off(&mut self, name: &str) {
        self.on_mut(name).kill();
        self.sshd(name).stop();
    }

    /// Writes rows on a node, one transaction each.
    pub fn insert(&self, node: &str, count: u32) {
        let mut client = self.on(node).connect();
        for _ in 0..count {
            client.batch_execute("insert into t default values").expect("because it is the primary");
        }
    }

    /// How many rows a node knows.
    pub fn rows(&self, node: &str) -> u64 {
        self.on(node).query("select count(*) from t").parse().expect("because it is a number")
    }

    /// Waits until a standby has replayed everything that the primary has written.
    #[track_caller]
    pub fn wait_caught_up(&self, standby: &str) {
        let written = self.on("alpha").wal_position();
        self.on(standby).wait_replayed(&written, PATIENCE);
    }

    /// Where a node keeps the cluster's files.
    pub fn root(&self, node: &str) -> PathBuf {
        self.layout.node(node).archive.clone().expect("because every node here holds one").join(CLUSTER)
    }

    /// True where a node's archive holds a file.
    pub fn holds(&self, node: &str, name: &str) -> bool {
        let wal = self.root(node).join("wal");
        let folder = if name.ends_with(".history") { wal } else { wal.join(&name[..16]) };
        ["", ".zst"].iter().any(|form| folder.join(format!("{name}{form}")).is_file())
    }

    /// Every name of WAL in a node's archive, sorted.
    pub fn held(&self, node: &str) -> Vec<String> {
        let walk = walkdir::WalkDir::new(self.root(node).join("wal")).into_iter().flatten();
        let files = walk.filter(|entry| entry.file_type().is_file()).map(|entry| entry.file_name().to_os_string());
        let mut names: Vec<String> =
            files.map(|name| name.to_string_lossy().trim_end_matches(".zst").to_owned()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// Restores a node's archive into a new server, from a backup of the beginning, and opens it at the end of the WAL.
    #[track_caller]
    pub fn restored_from(&self, node: &str, backup: &Path) -> Server {
        let mut server = Server::builder("restored").wal_segsize(1).create();
        fs::remove_dir_all(server.pgdata()).expect("because the test owns it");
        Program::at("cp").arg("-a").arg(backup).arg(server.pgdata()).run().expect_ok();
        for name in ["standby.signal", "postmaster.pid", "pgwarm.conf", "postgresql.auto.conf"] {
            let _ = fs::remove_file(server.pgdata().join(name));
        }
        let restore = program("restore-wal").display().to_string();
        let shared = self.layout.shared_file(node).display().to_string();
        server.set("restore_command", format!("{restore} --config {shared} --set restore.from=own %f %p"));
        server.set("archive_mode", "off").recovery_signal();
        server.start();
        wait_until(PATIENCE, "the restored server has opened", || !server.in_recovery());
        server
    }

    /// Copies the data directory of a server that has never run, to be restored later.
    pub fn backup(&self) -> Server {
        self.on("alpha").base_backup("backup")
    }

    /// Stops a server in order.
    pub fn stop(&mut self, name: &str) {
        self.on_mut(name).stop(Stop::Fast);
    }

    /// The journal of the operation that is under way on a node; empty where there is none.
    pub fn journal(&self, node: &str) -> String {
        fs::read_to_string(self.layout.node(node).spool.join("failover/current.journal")).unwrap_or_default()
    }
}

/// Puts our programs where a node has them. The caller names its own configuration, which lies at the same place on a
/// machine of its own; here each node's programs read that node's.
fn install(layout: &Layout, name: &str) {
    let shared = layout.shared_file(name).display().to_string();
    let programs = layout.node(name).dir.join("bin");
    make_dir(&programs);
    for called in CALLED {
        let path = programs.join(called);
        let script = format!(
            "#!/bin/sh\nfor word do shift; case $word in --config) skip=1;; *) if [ \"$skip\" ]; then skip=; \
             else set -- \"$@\" \"$word\"; fi;; esac; done\nexec {} {} \"$@\"\n",
            program(called).display(),
            if *called == "serve-archive" { String::new() } else { format!("--config {shared}") }
        );
        write_file(&path, &script);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("because it was just written");
        Account::unprivileged().own(&path);
    }
}

/// Says how a node is reached, and where our programs are on it.
fn reach(layout: &mut Layout, name: &str, far: &Sshd) {
    sshd::own(&far.key());
    let programs = layout.node(name).dir.join("bin").display().to_string();
    let node = layout.node_mut(name);
    node.set("ssh_port", far.port()).set("ssh_user", far.user()).set("programs", programs);
    node.set("ssh_key", far.key().display()).set("ssh_known_hosts", far.known_hosts().display());
}

/// The rule that an outcome names.
pub fn rule(outcome: &Outcome) -> Option<String> {
    let (_, rest) = outcome.stderr.split_once("rule ")?;
    Some(rest.split_once('(')?.1.split_once(')')?.0.to_owned())
}

/// Fails unless a call was refused by this rule.
#[track_caller]
pub fn refused(outcome: Outcome, name: &str) -> Outcome {
    let outcome = outcome.expect_code(20);
    assert_eq!(rule(&outcome).as_deref(), Some(name), "{outcome}");
    outcome
}

/// Long enough for what should take a moment.
pub const SOON: Duration = Duration::from_secs(10);
