//! How far a change of role has come: lines appended to a file of the spool, each durable before anything depends on
//! it.
//!
//! A step is written down before it is begun and after it is done. Whoever comes after a crash reads the lines, knows
//! what the operation was about and which claim is its own, decides again, and carries the steps out again: each looks
//! first whether it is done. A line that was cut short by the crash counts for nothing. Operations that ended are kept,
//! with the facts they were decided on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, SecondsFormat, TimeDelta};
use serde::{Deserialize, Serialize};

use super::decide::Verdict;
use super::flush::Flushed;
use super::observation::{Fenced, Observation};
use super::plan::Step;
use super::rules::Policy;
use crate::archive::ArchiveError;
use crate::archive::spool::Spool;
use crate::store::claim::Claim;
use crate::system::durable;

/// So many operations that ended are kept.
const KEPT: usize = 20;

/// An operation is gone on with as it was begun for so long, in minutes. Behind that, who was proven or said to be
/// stopped may have been started again, and is neither.
const HOLDS: i64 = 60;

/// The operation that is under way.
const CURRENT: &str = "current.journal";

/// What stands in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// An operation begins.
    Begun { id: String, node: String, policy: Policy },
    /// A decision, with everything it was made from.
    Decided { seen: Box<Observation>, verdict: Verdict },
    /// A step is about to be carried out.
    Begins { step: Step },
    /// It is done.
    Done { step: Step, detail: String, took_ms: u64 },
    /// The claim that belongs to this operation.
    Claims { claim: Claim },
    /// A node is proven to be stopped.
    Proved { fenced: Fenced },
    /// The old primary has stopped in order.
    HandedOver { flushed: Box<Flushed> },
    /// How the server was set before its receiver was stopped, for the way back.
    Received { conninfo: Option<String>, by: String },
    /// It is over.
    Ended { how: String },
}

/// A line with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, with offset.
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// The journal of one operation, open.
pub struct Journal {
    folder: PathBuf,
    file: File,
    lines: Vec<Line>,
    /// So many lines are so old that what they prove or allow does not count any more.
    old: usize,
}

impl Journal {
    /// The operation that was not ended; none where there is none.
    pub fn unfinished(spool: &Spool) -> Result<Option<Journal>, ArchiveError> {
        let folder = folder(spool);
        let path = folder.join(CURRENT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArchiveError::io("read", path)(error)),
        };
        let (lines, whole) = read(&text).map_err(|number| ArchiveError::Refused {
            reason: format!("line {number} of '{}' cannot be understood", path.display()),
            hint: "Nothing is done on a guess. See with check-node what every server is; where no promotion is under way, \
                   move the file away and run this again."
                .to_owned(),
        })?;
        if lines.is_empty() || matches!(lines.last(), Some(Line { entry: Entry::Ended { .. }, .. })) {
            let journal = Journal { file: open(&path, whole)?, folder, lines, old: 0 };
            journal.put_away()?;
            return Ok(None);
        }
        let old = if lines.last().is_some_and(Line::is_recent) { 0 } else { lines.len() };
        Ok(Some(Journal { file: open(&path, whole)?, folder, lines, old }))
    }

    /// Begins an operation.
    pub fn begin(spool: &Spool, node: &str, policy: &Policy) -> Result<Journal, ArchiveError> {
        let folder = folder(spool);
        spool.make(&folder)?;
        let path = folder.join(CURRENT);
        let mut journal = Journal { file: open(&path, 0)?, folder, lines: Vec::new(), old: 0 };
        let id = durable::temporary_name().trim_start_matches(durable::TEMPORARY_PREFIX).to_owned();
        journal.note(Entry::Begun { id, node: node.to_owned(), policy: policy.clone() })?;
        durable::sync_directory(&journal.folder).map_err(ArchiveError::io("fsync", &journal.folder))?;
        Ok(journal)
    }

    /// Writes a line and makes it durable.
    pub fn note(&mut self, entry: Entry) -> Result<(), ArchiveError> {
        let line = Line { at: Local::now().to_rfc3339_opts(SecondsFormat::Millis, false), entry };
        let mut json = serde_json::to_vec(&line).expect("because plain data has no reason not to become JSON");
        json.push(b'\n');
        let written = self.file.write_all(&json).and_then(|()| self.file.sync_data());
        written.map_err(ArchiveError::io("write", self.folder.join(CURRENT)))?;
        self.lines.push(line);
        Ok(())
    }

    /// Ends the operation and puts its journal away.
    pub fn end(mut self, how: &str) -> Result<(), ArchiveError> {
        self.note(Entry::Ended { how: how.to_owned() })?;
        self.put_away()
    }

    fn put_away(&self) -> Result<(), ArchiveError> {
        let stamp = self.lines.first().map_or_else(|| Local::now().to_rfc3339(), |line| line.at.clone());
        let stamp: String = stamp.chars().filter(|c| c.is_ascii_digit()).take(17).collect();
        let target = self.folder.join(format!("{stamp}.journal"));
        let current = self.folder.join(CURRENT);
        fs::rename(&current, &target).map_err(ArchiveError::io("rename", current))?;
        durable::sync_directory(&self.folder).map_err(ArchiveError::io("fsync", &self.folder))?;
        let mut ended: Vec<PathBuf> = fs::read_dir(&self.folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        ended.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
        ended.sort();
        for old in ended.iter().rev().skip(KEPT) {
            // One that stays is removed the next time.
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// Everything that was written.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What was asked for when the operation began.
    pub fn policy(&self) -> Option<&Policy> {
        self.entries().find_map(|entry| match entry {
            Entry::Begun { policy, .. } => Some(policy),
            _ => None,
        })
    }

    /// True where the operation was begun so long ago that nothing counts any more of what was allowed or proven then.
    pub fn is_old(&self) -> bool {
        self.old > 0
    }

    /// The operation's own name.
    pub fn id(&self) -> String {
        let begun = self.entries().find_map(|entry| match entry {
            Entry::Begun { id, .. } => Some(id.clone()),
            _ => None,
        });
        begun.unwrap_or_default()
    }

    /// The claim of this operation, as it was written down last.
    pub fn claim(&self) -> Option<&Claim> {
        self.entries().rev().find_map(|entry| match entry {
            Entry::Claims { claim } => Some(claim),
            _ => None,
        })
    }

    /// The nodes that are proven to be stopped.
    pub fn fenced(&self) -> Vec<Fenced> {
        let proved = |line: &Line| match &line.entry {
            Entry::Proved { fenced } => Some(fenced.clone()),
            _ => None,
        };
        self.lines[self.old..].iter().filter_map(proved).collect()
    }

    /// How the receiver was set before it was stopped.
    pub fn received(&self) -> Option<(Option<String>, String)> {
        self.entries().find_map(|entry| match entry {
            Entry::Received { conninfo, by } => Some((conninfo.clone(), by.clone())),
            _ => None,
        })
    }

    /// The last decision that came to a plan.
    pub fn decided(&self) -> Option<(&Observation, &Verdict)> {
        self.entries().rev().find_map(|entry| match entry {
            Entry::Decided { seen, verdict } if verdict.plan.is_some() => Some((&**seen, verdict)),
            _ => None,
        })
    }

    /// True where a step was begun, done or not.
    pub fn has_begun(&self, word: &str) -> bool {
        self.entries().any(|entry| matches!(entry, Entry::Begins { step } if step.word() == word))
    }

    /// True where a step was done.
    pub fn has_done(&self, word: &str) -> bool {
        self.entries().any(|entry| matches!(entry, Entry::Done { step, .. } if step.word() == word))
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.lines.iter().map(|line| &line.entry)
    }
}

impl Line {
    /// True for one that was written a short time ago, by this machine's clock; one of the future is of another clock.
    fn is_recent(&self) -> bool {
        let age = DateTime::parse_from_rfc3339(&self.at).map(|at| Local::now().signed_duration_since(at).abs());
        age.is_ok_and(|age| age <= TimeDelta::minutes(HOLDS))
    }
}

/// The folder of the journals.
pub fn folder(spool: &Spool) -> PathBuf {
    spool.root().join("failover")
}

fn open(path: &Path, length: u64) -> Result<File, ArchiveError> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = file.map_err(ArchiveError::io("open", path))?;
    // What a crash cut short must not run into the next line.
    file.set_len(length).map_err(ArchiveError::io("shorten", path))?;
    Ok(file)
}

/// Every line, and where the last one ends, in bytes. What a crash cut short lacks its end, or its middle where the end
/// came to the disk first: it counts for nothing. Fails with the number of a line that is whole and not understood.
fn read(text: &str) -> Result<(Vec<Line>, u64), usize> {
    let (mut lines, mut end) = (Vec::new(), 0);
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let cut_short = !line.ends_with('\n') || line.contains('\0');
        match serde_json::from_str(line) {
            Ok(understood) if line.ends_with('\n') => lines.push(understood),
            _ if cut_short && end + line.len() == text.len() => break,
            _ => return Err(at + 1),
        }
        end += line.len();
    }
    Ok((lines, end as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::samples::policy;

    #[test]
    fn what_was_written_is_known_after_a_crash_and_half_a_line_is_not() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        assert!(Journal::unfinished(&spool)?.is_none());
        let mut journal = Journal::begin(&spool, "beta", &policy())?;
        let id = journal.id();
        journal.note(Entry::Begins { step: Step::Promote })?;
        drop(journal);
        let path = super::folder(&spool).join(CURRENT);
        let mut torn = OpenOptions::new().append(true).open(&path).expect("because it is ours");
        torn.write_all(b"{\"at\":\"now\",\"entry\":\"do").expect("because it is ours");
        let mut journal = Journal::unfinished(&spool)?.expect("because it was not ended");
        assert_eq!((journal.id(), journal.policy()), (id, Some(&policy())));
        assert!(journal.has_begun("promote") && !journal.has_done("promote"));
        journal.note(Entry::Done { step: Step::Promote, detail: String::new(), took_ms: 1 })?;
        drop(journal);
        let journal = Journal::unfinished(&spool)?.expect("because it was not ended");
        assert!(journal.has_done("promote"));
        journal.end("done")?;
        assert!(Journal::unfinished(&spool)?.is_none());
        Ok(())
    }

    #[test]
    fn a_line_that_came_to_the_disk_in_part_hides_none_behind_it_and_a_strange_one_is_said() -> Result<(), ArchiveError>
    {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        drop(Journal::begin(&spool, "beta", &policy())?);
        let path = super::folder(&spool).join(CURRENT);
        let add = |text: &[u8]| {
            let file = OpenOptions::new().append(true).open(&path);
            file.and_then(|mut file| file.write_all(text)).expect("because it is ours");
        };
        add(b"\0\0\0\0,\"entry\":\"ended\"}\n");
        let mut journal = Journal::unfinished(&spool)?.expect("because it was not ended");
        journal.note(Entry::Begins { step: Step::Promote })?;
        drop(journal);
        let journal = Journal::unfinished(&spool)?.expect("because it was not ended");
        assert!(journal.has_begun("promote"));
        drop(journal);
        add(b"{\"at\":\"now\",\"entry\":\"of a later release\"}\n");
        let refused = Journal::unfinished(&spool).err().expect("because nobody knows what was begun");
        assert!(refused.to_string().contains("line 3 of"), "{refused}");
        Ok(())
    }

    #[test]
    fn what_was_proven_long_ago_is_not_proven_any_more() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        let proof = |node: &str| Fenced { node: node.to_owned(), how: "the fence succeeded".to_owned() };
        let mut journal = Journal::begin(&spool, "beta", &policy())?;
        journal.note(Entry::Proved { fenced: proof("alpha") })?;
        let journal = Journal::unfinished(&spool)?.expect("because it was not ended");
        assert_eq!((journal.is_old(), journal.fenced()), (false, vec![proof("alpha")]));
        let path = super::folder(&spool).join(CURRENT);
        let text = fs::read_to_string(&path).expect("because it is ours");
        let mut lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).expect("its line")).collect();
        lines.iter_mut().for_each(|line| line.at = "2026-01-01T00:00:00+00:00".to_owned());
        let text: String = lines.iter().map(|line| serde_json::json!(line).to_string() + "\n").collect();
        fs::write(&path, text).expect("because it is ours");
        let mut journal = Journal::unfinished(&spool)?.expect("because it was not ended");
        assert_eq!((journal.is_old(), journal.fenced()), (true, Vec::new()));
        journal.note(Entry::Proved { fenced: proof("gamma") })?;
        assert_eq!(journal.fenced(), [proof("gamma")]);
        Ok(())
    }

    #[test]
    fn an_operation_that_was_killed_while_it_ended_is_over() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        let mut journal = Journal::begin(&spool, "beta", &policy())?;
        journal.note(Entry::Ended { how: "done".to_owned() })?;
        drop(journal);
        assert!(Journal::unfinished(&spool)?.is_none());
        assert!(!super::folder(&spool).join(CURRENT).exists());
        Ok(())
    }
}
