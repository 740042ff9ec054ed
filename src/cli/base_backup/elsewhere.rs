//! `base-backup take --of NODE`: the node takes the backup of its own server, and sends it into an archive of ours.
//!
//! Its own pgwarm does the work there, so that it is the same backup in every respect: parallel, incremental, taken up
//! again after an interruption. Files travel once, encoded, by the way that its WAL takes. A node that offers sftp only
//! runs no pgwarm; its server is copied by the replication protocol, and the copy is stored.
//!
//! The far end works as long as somebody waits for it: it reads a pulse from its standard input, and ends where that
//! ends or stays away. The server ends the backup with the session, and the next run goes on with what is stored.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Progress, Scene, open};
use crate::archive::places::Sites;
use crate::backup::Watcher;
use crate::backup::catalog::{self, Description};
use crate::backup::take::staged;
use crate::cli::output;
use crate::cli::run::Context;
use crate::cluster::contact;
use crate::config::{Config, Node, Transport, value};
use crate::error::{Class, Failure};
use crate::failover::observe::peer::{self, Way};
use crate::system::clock::Deadline;
use crate::system::process::{Call, Ended, Outcome};

/// How long it may take: as long as a large server over a slow line.
const PATIENCE: Duration = Duration::from_secs(7 * 86_400);

/// The option by which the far end is told to look whether somebody waits for it.
pub const ATTACHED: &str = "attached";

/// How often the far end hears that somebody waits.
const PULSE: Duration = Duration::from_secs(5);

/// Without a pulse for so long nobody waits any more.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The highest exit code that is one of ours; a shell has its own above.
const CODE_MAX: i32 = 125;

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
        let (pulse, until) = (|call: Call| call.pulse(PULSE), Deadline::after(PATIENCE));
        let outcome = Way::new(&shared).run_with(self.config, node, "base-backup", &words, pulse, until);
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
        words.push(format!("--{ATTACHED}"));
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
            add("rate-limit", Some(value::size_text(*rate)));
        }
        for note in self.arguments.get_many::<String>("note").into_iter().flatten() {
            add("note", Some(note.clone()));
        }
        words
    }
}

/// What the far end said went wrong, in its own class.
fn failed(node: &Node, outcome: &Outcome) -> Failure {
    let said = String::from_utf8_lossy(&outcome.stderr);
    let after = |word: &str| said.lines().rev().find_map(|line| Some(line.split_once(word)?.1.trim().to_owned()));
    let class = match outcome.status {
        Ended::Exit(code) if code <= CODE_MAX => Class::of_code(code),
        _ => None,
    };
    let why = match after("ERROR: ") {
        // The class stands before our own line already.
        Some(why) => why.split_once("] ").filter(|_| why.starts_with('[')).map_or(why.clone(), |it| it.1.to_owned()),
        None => format!("{} ({})", outcome.complaint(), outcome.status),
    };
    let message = format!("{} took no backup: {why}", node.name);
    Failure { class: class.unwrap_or(Class::Remote), message, hint: after("HINT: ") }
}

/// Ends this program when nobody waits for it any more.
pub(super) fn end_when_left(context: &Context) {
    let (program, quiet) = (context.program, context.quiet);
    let watch = move || {
        let why = nobody_waits();
        if !quiet {
            crate::cli::run::report(program, &Failure::new(Class::Remote, format!("whoever asked for this {why}")));
        }
        // Nothing is undone here: what a run leaves that is killed, this one may leave.
        std::process::exit(i32::from(Class::Remote.code()));
    };
    std::thread::spawn(watch);
}

/// Waits until the pulse ends; says how.
fn nobody_waits() -> String {
    let stdin = io::stdin();
    let patience = Timespec { tv_sec: SILENCE_MAX.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)], Some(&patience)) {
            Ok(0) => return format!("has said nothing for {} s", SILENCE_MAX.as_secs()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return format!("cannot be listened to: {error}"),
        }
        match rustix::io::read(stdin.as_fd(), &mut [0; 64]) {
            Ok(0) => return "is gone".to_owned(),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return format!("cannot be listened to: {error}"),
        }
    }
}
