//! The configuration of several nodes that share one machine: the same `pgwarm.ini` for all, a small `pgwarm.local.ini`
//! each.
//!
//! Promises: every node has a data directory path, a spool and (unless it is told otherwise) an archive of its own, and
//! all of them are reached at 127.0.0.1 at the port of the test's sshd.
//! Leaves out: starting anything; a test joins a server to a node by pointing the node at it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::program::Program;
use super::server::{Binaries, Server};
use super::workspace::{Workspace, make_dir, write_file};

/// The file that is the same on every node.
pub const SHARED_FILE: &str = "pgwarm.ini";
/// The file that says which node this is.
pub const LOCAL_FILE: &str = "pgwarm.local.ini";

/// A section of an INI file: its name, then keys and values in their order.
type Section = (String, Vec<(String, String)>);

/// One `[node.NAME]`, and where its things are.
#[derive(Debug, Clone)]
pub struct LayoutNode {
    pub name: String,
    /// The node's own directory around all that follows.
    pub dir: PathBuf,
    /// The directory with its configuration files.
    pub config: PathBuf,
    /// Its archive; none: it holds none.
    pub archive: Option<PathBuf>,
    pub spool: PathBuf,
    pub pgdata: PathBuf,
    keys: Vec<(String, String)>,
    local: Vec<Section>,
}

impl LayoutNode {
    /// Sets a key of its `[node.NAME]`, such as `kind`.
    pub fn set(&mut self, key: &str, value: impl ToString) -> &mut LayoutNode {
        put(&mut self.keys, key, value.to_string());
        self
    }

    /// Sets a key in its local file, where this machine differs.
    pub fn set_local(&mut self, section: &str, key: &str, value: impl ToString) -> &mut LayoutNode {
        put(section_of(&mut self.local, section), key, value.to_string());
        self
    }

    /// Makes it hold no archive.
    pub fn without_archive(&mut self) -> &mut LayoutNode {
        self.archive = None;
        self
    }

    /// Points it at a server: its data directory and how to connect.
    pub fn serve(&mut self, server: &Server) -> &mut LayoutNode {
        self.pgdata = server.pgdata();
        self.set("conninfo", server.conninfo())
    }
}

/// The nodes and what they share.
#[derive(Debug)]
pub struct Layout {
    /// The directory around everything; it goes with the layout.
    pub dir: PathBuf,
    nodes: Vec<LayoutNode>,
    shared: Vec<Section>,
    // The directory must not go before the last program that uses it.
    workspace: Arc<Workspace>,
}

impl Layout {
    /// A cluster of that name with these nodes, all of kind `node`; nothing is written yet.
    pub fn new(cluster: &str, nodes: &[&str]) -> Layout {
        let workspace = Workspace::shared();
        let dir = workspace.fresh_dir(cluster);
        let mut layout = Layout { dir, nodes: Vec::new(), shared: Vec::new(), workspace };
        layout.set("cluster", "name", cluster);
        for name in nodes {
            layout.add(name);
        }
        layout
    }

    fn add(&mut self, name: &str) {
        let dir = self.dir.join(name);
        make_dir(&dir);
        let (config, archive, spool) = (dir.join("etc"), dir.join("archive"), dir.join("spool"));
        for made in [&config, &archive, &spool] {
            make_dir(made);
        }
        let pgdata = dir.join("data");
        let (name, keys, local) = (name.to_owned(), Vec::new(), Vec::new());
        let mut node = LayoutNode { name, dir, config, archive: Some(archive), spool, pgdata, keys, local };
        node.set("kind", "node").set("host", "127.0.0.1").set("programs", self.workspace.programs().display());
        node.set_local("local", "pg_bin", Binaries::under_test().bin.display());
        self.nodes.push(node);
    }

    /// The node of that name.
    #[track_caller]
    pub fn node(&self, name: &str) -> &LayoutNode {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("the layout has no node '{name}'"))
    }

    /// The node of that name, to be changed; `write` makes the change count.
    #[track_caller]
    pub fn node_mut(&mut self, name: &str) -> &mut LayoutNode {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("the layout has no node '{name}'"))
    }

    /// Sets a key in the file that all nodes share.
    pub fn set(&mut self, section: &str, key: &str, value: impl ToString) -> &mut Layout {
        put(section_of(&mut self.shared, section), key, value.to_string());
        self
    }

    /// Says how every node is reached by ssh: all of them are behind the same sshd.
    pub fn reach_by_ssh(&mut self, port: u16, user: &str, key: &Path, known_hosts: &Path) -> &mut Layout {
        for node in &mut self.nodes {
            node.set("ssh_port", port).set("ssh_user", user);
            node.set("ssh_key", key.display()).set("ssh_known_hosts", known_hosts.display());
        }
        self
    }

    /// Writes every node's files.
    pub fn write(&self) -> &Layout {
        let shared = self.shared_text();
        for node in &self.nodes {
            write_file(&node.config.join(SHARED_FILE), &shared);
            write_file(&node.config.join(LOCAL_FILE), &local_text(node));
        }
        self
    }

    /// The text of `pgwarm.ini`.
    pub fn shared_text(&self) -> String {
        let mut sections = self.shared.clone();
        for node in &self.nodes {
            let mut keys = node.keys.clone();
            put(&mut keys, "pgdata", node.pgdata.display().to_string());
            if let Some(archive) = &node.archive {
                put(&mut keys, "archive", archive.display().to_string());
            }
            sections.push((format!("node.{}", node.name), keys));
        }
        render(&sections)
    }

    /// A call of one of our programs with that node's configuration.
    #[track_caller]
    pub fn program(&self, node: &str, name: &str) -> Program {
        Program::own(name).arg("--config").arg(self.shared_file(node))
    }

    /// That node's `pgwarm.ini`.
    #[track_caller]
    pub fn shared_file(&self, node: &str) -> PathBuf {
        self.node(node).config.join(SHARED_FILE)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if std::env::var_os("PGWARM_TEST_KEEP").is_none() {
            // A worker may still write there; the workspace removes what is left.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The text of `pgwarm.local.ini`.
fn local_text(node: &LayoutNode) -> String {
    let mut sections = node.local.clone();
    let local = section_of(&mut sections, "local");
    put(local, "node", node.name.clone());
    put(local, "spool", node.spool.display().to_string());
    render(&sections)
}

fn section_of<'a>(sections: &'a mut Vec<Section>, name: &str) -> &'a mut Vec<(String, String)> {
    let place = sections.iter().position(|(found, _)| found == name).unwrap_or_else(|| {
        sections.push((name.to_owned(), Vec::new()));
        sections.len() - 1
    });
    &mut sections[place].1
}

fn put(keys: &mut Vec<(String, String)>, key: &str, value: String) {
    match keys.iter_mut().find(|(found, _)| found == key) {
        Some((_, old)) => *old = value,
        None => keys.push((key.to_owned(), value)),
    }
}

fn render(sections: &[Section]) -> String {
    let mut text = String::new();
    for (name, keys) in sections {
        text.push_str(&format!("[{name}]\n"));
        for (key, value) in keys {
            text.push_str(&format!("{key} = {value}\n"));
        }
        text.push('\n');
    }
    text
}
