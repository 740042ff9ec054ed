//! Puts the shared configuration, and our programs, on every other node: observe, plan, act.
//!
//! Only the shared file travels, never the local one. What is replaced is what was looked at: a file that somebody else
//! changed meanwhile is left alone. One node that fails stops no other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::remote::Remote;
use crate::config::{Config, Node, Transport};
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::system::process::Ended;

mod diff;
mod scripts;

pub use diff::unified;

/// Programs are larger than configuration files, so more time is allowed for each.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(120);

/// A file to be put on other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cargo {
    /// Its content.
    pub content: Vec<u8>,
    /// SHA-256 of it, in hexadecimal.
    pub checksum: String,
    /// Its mode there.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What is put on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The shared configuration file.
    Configuration,
    /// One of our programs.
    Program,
}

/// What is to be done with one file on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The node.
    pub node: String,
    /// The path there.
    pub path: PathBuf,
    /// Which of the files to send, by its place in the list.
    pub cargo: usize,
    /// What was found there.
    pub found: Found,
}

/// What lies where a file is to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The very same.
    Same,
    /// Nothing.
    Absent,
    /// Something else, with this checksum; text only where it is a configuration file.
    Other { checksum: String, text: Option<String> },
    /// Nothing is sent there, and that is as it should be.
    Skipped(String),
    /// It could not be found out.
    Failed(Failure),
}

/// How one file fared on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// The node.
    pub node: String,
    /// The path there.
    pub path: PathBuf,
    /// `same`, `put`, `replaced`, `skipped`, `pending` (only a plan) or `failed`.
    pub outcome: Outcome,
    /// Why it was skipped or failed.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The class of a failure.
    pub class: Option<Class>,
}

/// The outcome in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was there already.
    Same,
    /// It is new there.
    Put,
    /// It took the place of another, which is kept as `.previous`.
    Replaced,
    /// Nothing is sent there.
    Skipped,
    /// It would be put; nothing was done.
    Pending,
    /// It is not there.
    Failed,
}

/// SHA-256 in hexadecimal, as `sha256sum` prints it.
pub fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cargo {
    /// The shared configuration file as it lies here.
    pub fn configuration(path: &Path) -> io::Result<Cargo> {
        Ok(Cargo::new(fs::read(path)?, 0o644, Kind::Configuration))
    }

    /// One of our programs as it lies here.
    pub fn program(path: &Path) -> io::Result<Cargo> {
        Ok(Cargo::new(fs::read(path)?, 0o755, Kind::Program))
    }

    fn new(content: Vec<u8>, mode: u32, kind: Kind) -> Cargo {
        let checksum = checksum(&content);
        Cargo { content, checksum, mode, kind }
    }
}

/// What to send: the shared file under its own path, and programs by name from a folder.
#[derive(Debug, Clone)]
pub struct Load {
    /// The shared file's path, here and there.
    pub shared: PathBuf,
    /// The folder our programs are in here, and there unless the node says otherwise.
    pub folder: PathBuf,
    /// Names of programs; empty: none are sent.
    pub programs: Vec<String>,
    /// What is sent: the shared file first, then the programs in their order.
    pub cargo: Vec<Cargo>,
}

/// Looks at every node at the same time and says what is to be done. Nothing is changed.
pub fn plan(config: &Config, nodes: &[&Node], load: &Load) -> Vec<Step> {
    each(nodes, |node| plan_node(config, node, load))
}

/// Does what the plan says, all nodes at the same time.
pub fn act(config: &Config, nodes: &[&Node], load: &Load, steps: &[Step]) -> Vec<Fate> {
    each(nodes, |node| {
        steps.iter().filter(|step| step.node == node.name).map(|step| act_step(config, node, load, step)).collect()
    })
}

/// What became of a plan that is not carried out.
pub fn pending(steps: &[Step]) -> Vec<Fate> {
    steps.iter().map(|step| settled(step).unwrap_or_else(|| fate(step, Outcome::Pending))).collect()
}

impl Step {
    /// True where carrying it out changes something.
    pub fn is_change(&self) -> bool {
        matches!(self.found, Found::Absent | Found::Other { .. })
    }

    /// What would change, for people: a unified diff of a text, one line for a program. Empty where nothing changes.
    pub fn difference(&self, load: &Load) -> String {
        let cargo = &load.cargo[self.cargo];
        let there = format!("{}:{}", self.node, self.path.display());
        let old = match (&self.found, cargo.kind) {
            (Found::Absent, Kind::Configuration) => "",
            (Found::Other { text: Some(text), .. }, Kind::Configuration) => text,
            (Found::Absent, _) => return format!("program {there} is new\n"),
            (Found::Other { .. }, _) => return format!("program {there} differs\n"),
            _ => return String::new(),
        };
        unified(old, &String::from_utf8_lossy(&cargo.content), &there, &load.shared.display().to_string())
    }
}

fn each<T: Send>(nodes: &[&Node], work: impl Fn(&Node) -> Vec<T> + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let handles: Vec<_> = nodes.iter().map(|node| scope.spawn(move || work(node))).collect();
        let join = |handle: thread::ScopedJoinHandle<'_, Vec<T>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().flat_map(join).collect()
    })
}

fn plan_node(config: &Config, node: &Node, load: &Load) -> Vec<Step> {
    let step = |cargo: usize, path: PathBuf, found: Found| Step { node: node.name.clone(), path, cargo, found };
    if node.transport == Transport::Sftp {
        return vec![step(0, load.shared.clone(), Found::Skipped("it offers sftp only and runs no pgwarm".to_owned()))];
    }
    let remote = match Remote::new(config, node) {
        Ok(remote) => remote,
        Err(error) => return vec![step(0, load.shared.clone(), Found::Failed(error.into()))],
    };
    let shared = look(&remote, load).unwrap_or_else(Found::Failed);
    let reached = !matches!(shared, Found::Failed(_));
    let mut steps = vec![step(0, load.shared.clone(), shared)];
    if !reached || load.programs.is_empty() {
        return steps;
    }
    let folder = node.programs.clone().unwrap_or_else(|| load.folder.clone());
    match sums(&remote, &folder, load) {
        Ok(found) => {
            let each = load.programs.iter().zip(found).enumerate();
            steps.extend(each.map(|(index, (name, found))| step(index + 1, folder.join(name), found)));
        }
        Err(failure) => steps.push(step(1, folder, Found::Failed(failure))),
    }
    steps
}

/// Reads the shared file there.
fn look(remote: &Remote, load: &Load) -> Result<Found, Failure> {
    let path = text(&load.shared)?;
    let outcome = remote.run(scripts::LOOK, &[path], None, Deadline::after(remote.patience()))?;
    let content = after_mark(&outcome.stdout, b"pgwarm-file ").ok_or_else(|| no_shell(&outcome.complaint()))?;
    let (state, content) = split_line(content);
    Ok(match state {
        b"absent" => Found::Absent,
        b"present" if checksum(content) == load.cargo[0].checksum => Found::Same,
        b"present" => {
            Found::Other { checksum: checksum(content), text: Some(String::from_utf8_lossy(content).into_owned()) }
        }
        _ => Found::Failed(Failure::new(Class::Refused, format!("'{path}' there cannot be read by this account"))),
    })
}

/// Asks for the checksums of the programs there, in the order of the load.
fn sums(remote: &Remote, folder: &Path, load: &Load) -> Result<Vec<Found>, Failure> {
    let mut args = vec![text(folder)?];
    args.extend(load.programs.iter().map(String::as_str));
    let outcome = remote.run(scripts::SUMS, &args, None, Deadline::after(remote.patience()))?;
    let answer = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let find = |name: &str| {
        answer.lines().find_map(|line| {
            let (sum, found) = line.strip_prefix("pgwarm-sum ")?.split_once(' ')?;
            (found == name).then(|| sum.to_owned())
        })
    };
    let judge = |(name, cargo): (&String, &Cargo)| match find(name).as_deref() {
        Some("absent") => Ok(Found::Absent),
        Some("unreadable") => {
            Ok(Found::Failed(Failure::new(Class::Refused, format!("'{name}' there cannot be read by this account"))))
        }
        Some(sum) if sum == cargo.checksum => Ok(Found::Same),
        Some(sum) => Ok(Found::Other { checksum: sum.to_owned(), text: None }),
        None => Err(no_shell(&outcome.complaint())),
    };
    load.programs.iter().zip(&load.cargo[1..]).map(judge).collect()
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(Class::Config, format!("the path '{}' is not UTF-8", path.display())))
}

fn no_shell(complaint: &str) -> Failure {
    Failure::new(Class::Remote, format!("the account there runs no shell for us: {complaint}"))
        .hinted("Use an account without a forced command for 'distribute', or copy the file by hand.")
}

/// What follows a mark, wherever a login shell's own words put it.
fn after_mark<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some(&bytes[at + mark.len()..])
}

fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

fn fate(step: &Step, outcome: Outcome) -> Fate {
    Fate { node: step.node.clone(), path: step.path.clone(), outcome, detail: None, hint: None, class: None }
}

fn failed(step: &Step, failure: Failure) -> Fate {
    let Failure { class, message, hint } = failure;
    Fate { detail: Some(message), hint, class: Some(class), ..fate(step, Outcome::Failed) }
}

/// The fate of a step that needs no act.
fn settled(step: &Step) -> Option<Fate> {
    match &step.found {
        Found::Same => Some(fate(step, Outcome::Same)),
        Found::Skipped(why) => Some(Fate { detail: Some(why.clone()), ..fate(step, Outcome::Skipped) }),
        Found::Failed(failure) => Some(failed(step, failure.clone())),
        Found::Absent | Found::Other { .. } => None,
    }
}

fn act_step(config: &Config, node: &Node, load: &Load, step: &Step) -> Fate {
    if let Some(fate) = settled(step) {
        return fate;
    }
    match put(config, node, load, step) {
        Ok(()) if step.found == Found::Absent => fate(step, Outcome::Put),
        Ok(()) => fate(step, Outcome::Replaced),
        Err(failure) => failed(step, failure),
    }
}

fn put(config: &Config, node: &Node, load: &Load, step: &Step) -> Result<(), Failure> {
    let cargo = &load.cargo[step.cargo];
    let old = match &step.found {
        Found::Other { checksum, .. } => checksum,
        _ => "absent",
    };
    let (kind, patience) = match cargo.kind {
        Kind::Configuration => ("file", Duration::ZERO),
        Kind::Program => ("program", PROGRAM_PATIENCE),
    };
    let remote = Remote::new(config, node)?;
    let mode = format!("{:04o}", cargo.mode);
    let args = [text(&step.path)?, &cargo.checksum, &mode, old, kind];
    let deadline = Deadline::after(remote.patience() + patience);
    let outcome = remote.run(scripts::PUT, &args, Some(cargo.content.clone()), deadline)?;
    let path = step.path.display();
    match outcome.status {
        Ended::Exit(0) if outcome.stdout.ends_with(b"pgwarm-put\n") => Ok(()),
        Ended::Exit(0) => Err(no_shell("it answered nothing")),
        Ended::Exit(scripts::DAMAGED) => {
            Err(Failure::new(Class::Corrupt, format!("what arrived for '{path}' is not what was sent"))
                .hinted("Run the command again; the file there is unchanged."))
        }
        Ended::Exit(scripts::CHANGED) => {
            Err(Failure::new(Class::Conflict, format!("'{path}' was changed by somebody else meanwhile"))
                .hinted("Run the command again and look at the difference once more."))
        }
        Ended::Exit(scripts::DOES_NOT_RUN) => {
            Err(Failure::new(Class::Refused, format!("'{path}' does not run there: {}", outcome.complaint()))
                .hinted("Build pgwarm for that machine; the programs there are unchanged."))
        }
        status => Err(Failure::new(Class::Remote, format!("cannot put '{path}' ({status}): {}", outcome.complaint()))
            .hinted("The account there must be able to write into that folder.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(content: &str) -> Load {
        let cargo = Cargo::new(content.as_bytes().to_vec(), 0o644, Kind::Configuration);
        Load { shared: "/etc/x.ini".into(), folder: "/usr/bin".into(), programs: Vec::new(), cargo: vec![cargo] }
    }

    fn step(found: Found) -> Step {
        Step { node: "beta".into(), path: "/etc/x.ini".into(), cargo: 0, found }
    }

    #[test]
    fn checksums_are_those_of_sha256sum() {
        assert_eq!(checksum(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_difference_is_shown_where_there_is_one() {
        let old = Found::Other { checksum: "x".into(), text: Some("a\n".into()) };
        let text = step(old).difference(&load("b\n"));
        assert_eq!(text, "--- beta:/etc/x.ini\n+++ /etc/x.ini\n@@ -1,1 +1,1 @@\n-a\n+b\n");
        assert_eq!(step(Found::Same).difference(&load("b\n")), "");
    }

    #[test]
    fn a_plan_that_is_not_carried_out_keeps_what_failed_apart() {
        let failure = Failure::new(Class::Remote, "no route");
        let steps = [step(Found::Same), step(Found::Absent), step(Found::Failed(failure))];
        let outcomes: Vec<_> = pending(&steps).iter().map(|fate| fate.outcome).collect();
        assert_eq!(outcomes, [Outcome::Same, Outcome::Pending, Outcome::Failed]);
    }

    #[test]
    fn a_mark_is_found_behind_a_banner() {
        let (state, content) =
            split_line(after_mark(b"hello\npgwarm-file present\na\nb", b"pgwarm-file ").unwrap_or(b""));
        assert_eq!((state, content), (&b"present"[..], &b"a\nb"[..]));
    }
}
