//! What the tests of `restore-wal` begin with: a primary that archived one transaction a segment, and a base backup
//! from before them that can be restored as often as a test likes.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::support::workspace::{all_below, write_file};
use super::support::{Layout, PATIENCE, Program, Server, program, wait_for, wait_until};

/// The name of the cluster, and of its folder in every archive.
pub const CLUSTER: &str = "main";

/// A primary on node `alpha`, a backup of it, and the segments written since.
pub struct Scene {
    pub layout: Layout,
    pub primary: Server,
    backup: Server,
    segment_mib: u32,
    /// The segment of each transaction.
    pub segments: Vec<String>,
}

impl Scene {
    /// With 1 MiB segments, zstd, and so many transactions.
    pub fn new(transactions: u32) -> Scene {
        Scene::with(1, "zstd", transactions)
    }

    pub fn with(segment_mib: u32, compress: &str, transactions: u32) -> Scene {
        let mut layout = Layout::new(CLUSTER, &["alpha"]);
        layout.set("archive", "compress", compress).set("archive", "to", "own").set("archive", "ack", "local");
        let mut primary = Server::builder("primary").wal_segsize(segment_mib).create();
        layout.node_mut("alpha").serve(&primary);
        layout.write();
        layout.program("alpha", "archive-wal").arg("--init").run().expect_ok();
        let config = layout.shared_file("alpha");
        let command = format!("{} --config {} --no-worker %p", program("archive-wal").display(), config.display());
        primary.set("archive_mode", "on").set("archive_command", command).start();
        primary.execute("create table t (n int)");
        primary.set("archive_mode", "off");
        let backup = primary.base_backup("backup");
        let mut scene = Scene { layout, primary, backup, segment_mib, segments: Vec::new() };
        for n in 1..=transactions {
            scene.commit(n);
        }
        scene
    }

    /// One more transaction in a segment of its own, archived.
    pub fn commit(&mut self, n: u32) -> String {
        let segment = commit(&self.primary, n);
        wait_until(PATIENCE, &format!("'{segment}' is archived"), || self.stored(&segment).is_file());
        self.segments.push(segment.clone());
        segment
    }

    /// The archive's root for this cluster.
    pub fn archive(&self) -> PathBuf {
        archive_of(&self.layout, "alpha")
    }

    /// Where the primary's archive keeps a file.
    pub fn stored(&self, name: &str) -> PathBuf {
        stored_in(&self.archive(), name)
    }

    /// A layout of its own with a copy of the archive on node `alpha`.
    pub fn copied(&self) -> Layout {
        let mut layout = Layout::new(CLUSTER, &["alpha"]);
        layout.set("archive", "to", "own").set("archive", "ack", "local");
        layout.set("restore", "from", "own").set("restore", "retry", "0s").set("restore", "worker", "off");
        copy(&self.archive(), &archive_of(&layout, "alpha"));
        layout.write();
        layout
    }

    /// A server made of the backup; nothing runs yet.
    pub fn restored(&self, name: &str) -> Server {
        let mut server = Server::builder(name).wal_segsize(self.segment_mib).create();
        fs::remove_dir_all(server.pgdata()).expect("because the folder is ours");
        copy(&self.backup.pgdata(), &server.pgdata());
        server.set("archive_mode", "off");
        server
    }
}

/// One transaction, and the end of its segment.
pub fn commit(server: &Server, n: u32) -> String {
    server.execute(&format!("insert into t values ({n})"));
    server.query("select pg_walfile_name(pg_switch_wal())")
}

pub fn archive_of(layout: &Layout, node: &str) -> PathBuf {
    layout.node(node).archive.clone().expect("because the node holds one").join(CLUSTER)
}

/// Where an archive keeps a file, in whatever form; its zstd name where it has none.
pub fn stored_in(archive: &Path, name: &str) -> PathBuf {
    let folder = if name.ends_with(".history") { archive.join("wal") } else { archive.join("wal").join(&name[..16]) };
    let forms = ["", ".zst", ".lz4", ".gz"].map(|form| folder.join(format!("{name}{form}")));
    forms.iter().find(|path| path.is_file()).unwrap_or(&forms[1]).clone()
}

/// The `restore_command` of a node.
pub fn restore_command(layout: &Layout, node: &str, options: &str) -> String {
    format!("{} --config {} {options} %f %p", program("restore-wal").display(), layout.shared_file(node).display())
}

pub fn copy(from: &Path, to: &Path) {
    Program::at("cp").arg("-a").arg(from).arg(to).run().expect_ok();
}

/// How a started server came out.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// It takes writes.
    Open,
    /// It ended by itself.
    Down,
}

/// Waits until it takes writes or ends.
pub fn outcome(server: &mut Server) -> Came {
    wait_for(PATIENCE, "the end of recovery", || {
        if server.exit_status().is_some() {
            return Some(Came::Down);
        }
        let up = server.accepts() && !server.log_has("the database system is shutting down");
        (up && is_open(server)).then_some(Came::Open)
    })
}

/// True once it takes writes. A server that is just ending counts as closed.
pub fn is_open(server: &Server) -> bool {
    let mut config = postgres::Config::new();
    config.host_path(server.socket_dir()).port(server.port()).user("postgres").dbname("postgres");
    let Ok(mut client) = config.connect(postgres::NoTls) else { return false };
    client.query_one("select not pg_is_in_recovery()", &[]).is_ok_and(|row| row.get(0))
}

/// The transactions a server knows.
pub fn transactions(server: &Server) -> String {
    server.query("select string_agg(n::text, ' ' order by n) from t")
}

/// True once it knows these.
pub fn has(server: &Server, wanted: &str) -> bool {
    server.accepts() && transactions(server) == wanted
}

/// The processes of one of our programs below a server.
pub fn callers(server: &Server, name: &str) -> Vec<u32> {
    all_below(server.pid())
        .into_iter()
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
        .collect()
}

/// Waits until a call of `restore-wal` is waiting below that server.
pub fn wait_for_caller(server: &Server) -> u32 {
    wait_for(PATIENCE, "a call of restore-wal", || callers(server, "restore-wal").first().copied())
}

/// Names in pg_wal that PostgreSQL did not put there.
pub fn leftovers(server: &Server) -> Vec<String> {
    let names = fs::read_dir(server.pgdata().join("pg_wal")).expect("because the server is ours");
    let names = names.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("pgwarm")).collect()
}

/// Writes a file as the account of the servers.
pub fn order(path: &Path, text: &str) {
    if let Some(folder) = path.parent()
        && !folder.is_dir()
    {
        super::support::workspace::make_dir(folder);
    }
    write_file(path, text);
}

/// Long enough for something that should take about a second.
pub const SOON: Duration = Duration::from_secs(4);
