//! `base-backup take --of NODE`: the node takes the backup of its own server, and sends it into an archive of ours.
//!
//! Its own pgwarm does the work there, so that it is the same backup in every respect: parallel, incremental, taken up
//! again after an interruption. Files travel once, encoded, by the way that its WAL takes. A node that offers sftp only
//! runs no pgwarm; its server is copied by the replication protocol, and the copy is stored.

use std::time::Duration;

use super::{Progress, Scene, open};
use crate::archive::places::Sites;
use crate::backup::Watcher;
use crate::backup::catalog::{self, Description};
use crate::backup::take::staged;
use crate::cli::output;
use crate::cluster::contact;
use crate::config::{Config, Node, Transport};
use crate::error::{Class, Failure};
use crate::failover::observe::peer::{self, Way};
use crate::system::clock::Deadline;
use crate::system::process::Outcome;

/// How long it may take: as long as a large server over a slow line.
const PATIENCE: Duration = Duration::from_secs(7 * 86_400);

impl Scene<'_> {
    /// Has another node take a backup of its server.
    pub(super) fn take_of(&self, sites: &Sites, name: &str) -> Result<u8, Failure> {
        let node = self.node(name)?;
        if node.transport == Transport::Sftp {
            return self.take_by_replication(sites, node);
        }
        // What cannot be stored here is better known before.
        let archive = open(sites, self.place)?;
        let (_, origins) = Config::load_with_origins(&self.context.source)?;
        let shared = std::path::absolute(&origins.shared.path).unwrap_or(origins.shared.path);
        let progress = Progress::new(self.context);
        progress.phase(&format!("{name} takes the backup"));
        let words = self.far_words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = Way::new(&shared).run(self.config, node, "base-backup", &words, Deadline::after(PATIENCE));
        progress.end();
        let outcome = outcome?;
        let answer = peer::answer(&outcome).ok_or_else(|| peer::no_answer(node, &outcome))?;
        if self.context.dry_run && outcome.status.is_success() {
            output::print(&format!("{name}: {}", String::from_utf8_lossy(answer)))?;
            return Ok(0);
        }
        let told: Description = serde_json::from_slice(answer).map_err(|_| failed(node, &outcome))?;
        // It counts where it is here.
        let description = catalog::get(&archive, &told.label)?;
        self.taken(&description)
    }

    /// Copies the server of a node without pgwarm, and stores the copy.
    fn take_by_replication(&self, sites: &Sites, node: &Node) -> Result<u8, Failure> {
        if self.context.dry_run {
            let place = open(sites, self.place)?.store.place().clone();
            let name = &node.name;
            output::print(&format!("would copy {name} by the replication protocol, and store that in the {place}\n"))?;
            return Ok(0);
        }
        let conninfo = contact::primary_conninfo(self.config, node, self.config.standby.user.as_deref())?.to_string();
        let progress = Progress::new(self.context);
        let taken = staged::take_of(&self.request(&progress)?, node, &conninfo, PATIENCE);
        progress.end();
        self.taken(&taken?)
    }

    /// What the far end is told.
    fn far_words(&self) -> Vec<String> {
        let mut words = vec!["take".to_owned(), "--json".to_owned(), "--place".to_owned(), self.place.to_owned()];
        let mut add = |name: &str, value: Option<String>| {
            words.push(format!("--{name}"));
            words.extend(value);
        };
        if self.context.dry_run {
            add("dry-run", None);
        }
        for name in ["incremental", "keep-it"] {
            if self.arguments.get_flag(name) {
                add(name, None);
            }
        }
        if let Some(label) = self.arguments.get_one::<String>("parent") {
            add("parent", Some(label.clone()));
        }
        if let Some(jobs) = self.arguments.get_one::<u32>("jobs") {
            add("jobs", Some(jobs.to_string()));
        }
        if let Some(rate) = self.arguments.get_one::<u64>("rate-limit") {
            add("rate-limit", Some(rate.to_string()));
        }
        for note in self.arguments.get_many::<String>("note").into_iter().flatten() {
            add("note", Some(note.clone()));
        }
        words
    }
}

/// What the far end said went wrong.
fn failed(node: &Node, outcome: &Outcome) -> Failure {
    let said = String::from_utf8_lossy(&outcome.stderr);
    let after = |word: &str| said.lines().rev().find_map(|line| Some(line.split_once(word)?.1.trim().to_owned()));
    let why = after("ERROR: ").unwrap_or_else(|| outcome.complaint());
    let failure = Failure::new(Class::Remote, format!("{} took no backup ({}): {why}", node.name, outcome.status));
    match after("HINT: ") {
        Some(hint) => failure.hinted(hint),
        None => failure,
    }
}
