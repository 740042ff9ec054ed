//! A standby's archive, dr nodes behind a real sshd, and WAL that a real server wrote, also through a promotion.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sshd::{self, Sshd};
use crate::support::template;
use crate::support::workspace::{Account, make_dir, write_file};
use crate::support::{Binaries, Layout, Outcome, PATIENCE, Program, Server, wait_until};

use pgwarm::archive::identity::Identity;
use pgwarm::archive::spool::Spool;
use pgwarm::store::{Encoding, Payload};
use pgwarm::wal::{SegmentSize, SystemId};

/// Files by name, as PostgreSQL wrote them.
pub type Files = BTreeMap<String, Vec<u8>>;

/// How many whole segments timeline 1 has at least.
const SEGMENTS: usize = 12;

/// What a primary and the standby that was promoted archived.
pub struct Stock {
    pub system: u64,
    pub files: Files,
}

impl Stock {
    /// Made once for all test processes, as long as what this file says of it stays the same.
    pub fn get() -> &'static Stock {
        static STOCK: OnceLock<Stock> = OnceLock::new();
        let binaries = Binaries::under_test();
        let recipe = xxhash_rust::xxh3::xxh3_64(include_bytes!("scene.rs"));
        let name = format!("stock-{}-{recipe:016x}", binaries.version);
        STOCK.get_or_init(|| template::kept(binaries, &name, Stock::make, Stock::read))
    }

    /// Reads what was kept.
    fn read(folder: &Path) -> Stock {
        let read = |entry: fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("because nobody removes it"))
        };
        let files: Files = fs::read_dir(folder.join("wal")).expect("because it was made").flatten().map(read).collect();
        let system = fs::read_to_string(folder.join("system")).expect("because it was made");
        let stock = Stock { system: system.parse().expect("because it is a number"), files };
        assert!(stock.timeline(1).len() >= SEGMENTS, "{:?}", stock.files.keys());
        assert_eq!(stock.timeline(2).len(), 3, "{:?}", stock.files.keys());
        assert!(stock.partial().ends_with(".partial") && stock.label().ends_with(".backup"));
        stock
    }

    fn make(folder: &Path) {
        let builder = Server::builder("stock").wal_segsize(1).set("archive_mode", "on");
        let mut primary = builder.set("archive_timeout", 0).create();
        let archive = primary.dir().join("archive");
        make_dir(&archive);
        let path = archive.display().to_string();
        primary.set("archive_command", format!("cp %p {path}/%f.new && mv {path}/%f.new {path}/%f"));
        primary.start();
        primary.execute("create table t (n int)");
        for _ in 0..4 {
            primary.switch_wal();
        }
        // Its label is archived between two segments.
        let mut standby = primary.base_backup("promoted");
        for _ in 0..SEGMENTS - 5 {
            primary.switch_wal();
        }
        standby.follow(&primary).start();
        standby.wait_replayed(&primary.wal_position(), PATIENCE);
        primary.execute("insert into t select generate_series(1, 100)");
        standby.wait_replayed(&primary.wal_position(), PATIENCE);
        standby.promote();
        let mut last = String::new();
        for _ in 0..3 {
            last = standby.switch_wal();
        }
        let holds = |name: &str| archive.join(name).exists();
        wait_until(PATIENCE, "everything is archived", || holds(&last) && holds("00000002.history"));
        let kept = folder.join("wal");
        make_dir(&kept);
        for entry in fs::read_dir(&archive).expect("because it was made").flatten() {
            fs::copy(entry.path(), kept.join(entry.file_name())).expect("because nobody removes it");
        }
        write_file(&folder.join("system"), &primary.system_identifier().to_string());
    }

    /// The whole segments of a timeline, oldest first.
    pub fn timeline(&self, number: u32) -> Vec<&'static str> {
        let prefix = format!("{number:08X}");
        self.filter(|name| name.len() == 24 && name.starts_with(&prefix))
    }

    fn filter(&self, wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
        // The stock lives as long as the process.
        self.files.keys().filter(|name| wanted(name)).map(|name| &*name.clone().leak()).collect()
    }

    /// The segment in which timeline 1 was left.
    pub fn partial(&self) -> &'static str {
        self.filter(|name| name.ends_with(".partial")).first().expect("because a promotion archives one")
    }

    /// The label of the base backup.
    pub fn label(&self) -> &'static str {
        self.filter(|name| name.ends_with(".backup")).first().expect("because a backup archives one")
    }
}

/// The cluster: `beta` relays, every other node is a dr node.
pub struct Scene {
    pub sshd: Sshd,
    pub layout: Layout,
}

impl Scene {
    /// Every node has an empty archive.
    pub fn new(drs: &[&str]) -> Scene {
        Scene::with(drs, |_| {})
    }

    /// The same, with more configuration.
    pub fn with(drs: &[&str], configure: impl FnOnce(&mut Layout)) -> Scene {
        let sshd = Sshd::start();
        sshd::own(&sshd.key());
        let nodes: Vec<&str> = ["beta"].into_iter().chain(drs.iter().copied()).collect();
        let mut layout = Layout::new("shop", &nodes);
        layout.set("archive", "to", "own").set("archive", "ack", "local").set("archive", "worker", "off");
        layout.set("archive", "retry", "1s").set("queue", "free_min", "1MB");
        layout.set("ssh", "connect_timeout", "10s").set("relay", "interval", "100ms");
        for dr in drs {
            layout.node_mut(dr).set("kind", "dr");
        }
        layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
        configure(&mut layout);
        layout.write();
        let scene = Scene { sshd, layout };
        for node in &nodes {
            scene.make_archive(node, Stock::get().system);
        }
        scene
    }

    /// Makes the archive of a node for a system.
    pub fn make_archive(&self, node: &str, system: u64) {
        let root = self.root(node);
        make_dir(&root);
        let size = SegmentSize::new(1 << 20).expect("because 1 MiB is a size");
        let identity = Identity::new("shop", SystemId(system), size).to_json();
        crate::support::workspace::write_file(&root.join("identity.json"), &identity);
    }

    /// The archive of a node.
    pub fn root(&self, node: &str) -> PathBuf {
        self.layout.node(node).archive.clone().expect("because every node has one").join("shop")
    }

    /// `archive-wal` of these files on beta, in this order, into the places of `to`.
    pub fn archive(&self, names: &[&str], to: &str) {
        let folder = self.layout.dir.join("offered");
        if !folder.exists() {
            make_dir(&folder);
        }
        for name in names {
            let path = folder.join(name);
            fs::write(&path, &Stock::get().files[*name]).expect("because the folder is there");
            Account::unprivileged().own(&path);
            let call = self.layout.program("beta", "archive-wal").args(["--no-worker", "--set"]);
            call.arg(format!("archive.to={to}")).arg(&path).run().expect_ok();
        }
    }

    /// Puts these files into beta's archive.
    pub fn feed(&self, names: &[&str]) {
        self.archive(names, "own");
    }

    /// Puts a file into beta's queue for a node, as a place that was down would have made `archive-wal` do.
    pub fn queue(&self, node: &str, names: &[&str]) {
        let draft = self.layout.dir.join("draft");
        for name in names {
            fs::write(&draft, &Stock::get().files[*name]).expect("because the folder is there");
            let folder = self.queue_of(node);
            for made in [folder.parent().expect("because it is beneath the spool").to_owned(), folder.clone()] {
                if !made.exists() {
                    make_dir(&made);
                }
            }
            let payload = Payload::of_file(&draft, Encoding::None).expect("because it was just written");
            fs::copy(&payload.file, folder.join(name)).expect("because the folder is there");
            Account::unprivileged().own(&folder.join(name));
        }
    }

    /// Beta's queue for a node.
    pub fn queue_of(&self, node: &str) -> PathBuf {
        Spool::new(&self.layout.node("beta").spool).queue(node)
    }

    /// What waits on beta for a node.
    pub fn queued(&self, node: &str) -> usize {
        fs::read_dir(self.queue_of(node)).map_or(0, Iterator::count)
    }

    /// A call of `relay-wal` on beta.
    pub fn relay(&self, words: &[&str]) -> Program {
        self.layout.program("beta", "relay-wal").args(words)
    }

    /// One turn that must succeed.
    pub fn turn(&self, words: &[&str]) -> Outcome {
        self.relay(words).run().expect_ok()
    }

    /// Every WAL file of a node's archive by its plain name, decoded. A name that is there twice fails.
    pub fn held(&self, node: &str) -> Files {
        let mut files = Files::new();
        for path in paths(&self.root(node).join("wal")) {
            let stored = path.file_name().expect("because it came from a listing").to_string_lossy().into_owned();
            if stored.starts_with('.') {
                continue;
            }
            let (name, encoding) = Encoding::split(&stored);
            let file = Box::new(fs::File::open(&path).expect("because nobody removes it"));
            let mut content = Vec::new();
            let decoded = encoding.decoder(file).and_then(|mut decoder| decoder.read_to_end(&mut content));
            decoded.unwrap_or_else(|error| panic!("'{}' is damaged: {error}", path.display()));
            assert!(files.insert(name.to_owned(), content).is_none(), "'{name}' is there twice");
        }
        files
    }

    /// The names a node holds.
    pub fn names(&self, node: &str) -> Vec<String> {
        self.held(node).into_keys().collect()
    }

    /// Asserts that a node holds exactly these files, each as PostgreSQL wrote it.
    #[track_caller]
    pub fn expect_held(&self, node: &str, names: &[&str]) {
        let held = self.held(node);
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        assert_eq!(held.keys().map(String::as_str).collect::<Vec<_>>(), wanted, "in the archive of {node}");
        for (name, content) in &held {
            assert!(*content == Stock::get().files[name], "'{name}' of {node} differs");
        }
    }

    /// Where a file of a node's archive is, by its plain name.
    pub fn stored(&self, node: &str, name: &str) -> PathBuf {
        let found = paths(&self.root(node).join("wal"));
        let fits = |path: &PathBuf| path.file_name().is_some_and(|it| Encoding::split(&it.to_string_lossy()).0 == name);
        found.into_iter().find(fits).unwrap_or_else(|| panic!("{node} holds no '{name}'"))
    }

    /// Where beta's cursor for a node lies.
    pub fn cursor(&self, node: &str) -> PathBuf {
        self.root(node).join("relays/beta.json")
    }
}

/// Every file beneath a folder.
pub fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.path().to_owned()).collect();
    found.sort();
    found
}

/// The content of every file beneath a folder, by path.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    paths(folder).into_iter().map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
}
