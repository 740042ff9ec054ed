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
use crate::support::{Layout, Outcome, PATIENCE, Program, Server, Stop, program, template, wait_until};

/// The name of the cluster, and of its folder in every archive.
pub const CLUSTER: &str = "main";

/// Our programs that nodes call on each other.
const CALLED: &[&str] = &["trigger-failover", "flush-primary", "standby-init", "serve-archive", "cluster-monitor"];

/// What stands in a journal from which there is no way back.
pub const PROMOTES: &str = r#""entry":"begins","step":{"step":"promote"}"#;

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
    ///
    /// Servers and archives are made once and copied for each test; every standby is a copy of the same one.
    pub fn with(standbys: &[&str], change: impl FnOnce(&mut Layout)) -> Scene {
        let names: Vec<&str> = ["alpha"].into_iter().chain(standbys.iter().copied()).collect();
        let mut scene = beginning(|kept| {
            let folder = |name: &str| kept.join(if name == "alpha" { "alpha" } else { "beta" });
            let build = |name: &str| Server::builder(name).set("archive_mode", "on");
            let scene = Scene::of(&names, change, |name| build(name).copy_of(&folder(name).join("data")));
            for name in &names {
                let archive = scene.layout.node(name).archive.clone().expect("because every node here holds one");
                template::copy(&folder(name).join("archive"), &archive);
            }
            scene
        });
        scene.start(standbys);
        scene
    }

    /// The nodes with their configuration and their servers, which `server` makes; nothing runs but the sshds.
    fn of(names: &[&str], change: impl FnOnce(&mut Layout), server: impl Fn(&str) -> Server) -> Scene {
        let mut layout = Layout::new(CLUSTER, names);
        layout.set("archive", "ack", "local").set("archive", "worker", "off").set("restore", "worker", "off");
        layout.set("archive", "retry", "1s").set("restore", "retry", "0s").set("queue", "free_min", "0");
        layout.set("ssh", "connect_timeout", "5s").set("failover", "sessions", "200ms");
        if names.contains(&"gamma") {
            layout.node_mut("gamma").set("kind", "dr");
        }
        let make = |name: &&str| Node { name: (*name).to_owned(), server: server(name), sshd: Sshd::start() };
        let nodes: Vec<Node> = names.iter().map(make).collect();
        change(&mut layout);
        for node in &nodes {
            reach(&mut layout, &node.name, &node.sshd);
            layout.node_mut(&node.name).serve(&node.server);
            install(&layout, &node.name);
        }
        layout.write();
        let mut scene = Scene { layout, nodes };
        names.iter().for_each(|name| scene.connect_archive(name));
        scene
    }

    /// Starts `alpha`, then the standbys, and waits until they have everything.
    fn start(&mut self, standbys: &[&str]) {
        self.on_mut("alpha").start();
        for name in standbys {
            let primary = self.on("alpha").follow_settings(name);
            let server = self.on_mut(name);
            server.set("primary_conninfo", primary).standby_signal();
            server.launch();
        }
        for name in standbys {
            wait_until(PATIENCE, &format!("'{name}' accepts connections"), || self.on(name).accepts());
            self.wait_caught_up(name);
        }
    }

    /// Makes what tests begin with: `alpha` and `beta`.
    fn make() -> Scene {
        let build = |name: &str| Server::builder(name).wal_segsize(1).set("archive_mode", "on").create();
        let mut scene = Scene::of(&["alpha", "beta"], |_| {}, build);
        scene.on("alpha").include_ours();
        scene.call("alpha", "archive-wal", &["--init"]).run().expect_ok();
        scene.on_mut("alpha").start();
        scene.on("alpha").execute("create table t (n bigserial primary key, made timestamptz default now())");
        let pgdata = scene.on("beta").pgdata();
        fs::remove_dir_all(&pgdata).expect("because the test owns it");
        let options = ["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--pgdata"];
        scene.on("alpha").tool("pg_basebackup").args(options).arg(&pgdata).run().expect_ok();
        scene.stop("alpha");
        scene.start(&["beta"]);
        scene
    }

    /// Stops everything and leaves data directories and archives in a folder.
    fn keep(mut self, folder: &Path) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            self.stop(name);
            let kept = folder.join(name);
            make_dir(&kept);
            let archive = self.layout.node(name).archive.clone().expect("because every node here holds one");
            template::copy(&self.on(name).pgdata(), &kept.join("data"));
            template::copy(&archive, &kept.join("archive"));
        }
    }

    /// Sets what PostgreSQL calls on a node.
    fn connect_archive(&mut self, node: &str) {
        let shared = self.layout.shared_file(node).display().to_string();
        let own = |name: &str| program(name).display().to_string();
        let server = self.on_mut(node);
        // A standby that has found nothing looks again soon, so that no test waits for that.
        server.set("wal_retrieve_retry_interval", "500ms");
        server.set("archive_command", format!("{} --config {shared} %p", own("archive-wal")));
        server.set("restore_command", format!("{} --config {shared} %f %p", own("restore-wal")));
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

    /// Fails unless the primary's own archive gives back every row of it: with the data that `alpha` had when the scene
    /// began, and every segment from there to the end of the WAL, whoever wrote it.
    #[track_caller]
    pub fn archive_gives_back(&self, primary: &str) {
        self.archive_of_gives_back(primary, primary);
    }

    /// The same of another node's archive.
    #[track_caller]
    pub fn archive_of_gives_back(&self, node: &str, primary: &str) {
        let last = self.on(primary).switch_wal();
        wait_until(PATIENCE, &format!("'{last}' is archived"), || self.holds(node, &last));
        let restored = self.restored_from(node);
        assert_eq!(every_row(&restored), every_row(self.on(primary)));
        assert!(restored.log_has(&format!("restored log file \"{last}\"")), "it went another way");
    }

    /// A new server that has recovered from a node's archive to its end.
    #[track_caller]
    fn restored_from(&self, node: &str) -> Server {
        let mut server = beginning(|kept| Server::builder("restored").copy_of(&kept.join("alpha/data")));
        let restore = program("restore-wal").display().to_string();
        let shared = self.layout.shared_file(node).display().to_string();
        server.set("restore_command", format!("{restore} --config {shared} --set restore.from=own %f %p"));
        server.set("archive_mode", "off").recovery_signal();
        server.start();
        wait_until(PATIENCE, "the restored server has opened", || !server.in_recovery());
        server
    }

    /// Waits until a standby has every row of the primary's, and no other.
    #[track_caller]
    pub fn wait_same_rows(&self, primary: &str, standby: &str) {
        let rows = every_row(self.on(primary));
        wait_until(PATIENCE, &format!("'{standby}' has the rows of '{primary}'"), || {
            every_row(self.on(standby)) == rows
        });
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

/// Uses what every scene begins with: `alpha` and `beta` as they were stopped, each with `data` and `archive`.
fn beginning<T>(using: impl FnOnce(&Path) -> T) -> T {
    template::kept_with_ours("failover", |made| Scene::make().keep(made), using)
}

/// Every row of a server, in one text: how many, and a sum over all that is in them.
pub fn every_row(server: &Server) -> String {
    server.query("select count(*) || ' ' || coalesce(md5(string_agg(t::text, ' ' order by n, made)), '') from t")
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
