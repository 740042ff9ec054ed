//! The journal of a run: what was planned and how far it came, in the spool, durable before and after each step.
//!
//! It also is the only proof that a half-made copy is ours to be removed, and that a slot is. A run that finds the
//! journal of an earlier one with the same request goes on with its plan; with another request it first undoes what the
//! earlier one left, unless that has taken its place already.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StandbyError;
use super::request::Request;
use super::step::Step;
use crate::archive::spool::Spool;
use crate::error::Class;
use crate::system::durable;
use crate::system::lock::{Lock, Taken};

/// The version of the journal.
const FORMAT: u32 = 1;

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of this file.
    pub format: u32,
    /// When it began, with offset.
    pub begun: String,
    /// What was wanted.
    pub request: Request,
    /// Every step.
    pub steps: Vec<Step>,
    /// How many are done.
    pub done: usize,
    /// True where the next one has begun.
    pub at_work: bool,
    /// A slot that this run has made: node and name.
    pub made_slot: Option<(String, String)>,
}

impl Entry {
    /// A run that has done nothing.
    pub fn new(request: &Request, steps: &[Step]) -> Entry {
        Entry {
            format: FORMAT,
            begun: chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, false),
            request: request.clone(),
            steps: steps.to_vec(),
            done: 0,
            at_work: false,
            made_slot: None,
        }
    }

    /// True once the new data are where a server is started on them, or the old ones have been changed.
    pub fn in_place(&self) -> bool {
        let turn = self.steps.iter().position(|step| {
            matches!(
                step,
                Step::Exchange { .. }
                    | Step::Start
                    | Step::Reload
                    | Step::Rewind { .. }
                    | Step::RemoveSurplus { .. }
                    | Step::Restore { delta: true, .. }
            )
        });
        turn.is_some_and(|turn| self.done > turn || (self.done == turn && self.at_work))
    }

    /// The directories of a copy that is being made and has not taken its place.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        if self.in_place() {
            return Vec::new();
        }
        let begun = self.steps.iter().take(self.done + usize::from(self.at_work));
        let mut folders = Vec::new();
        for step in begun {
            if let Step::Clone { folder, spaces, .. } | Step::Restore { folder, spaces, .. } = step {
                folders.push(folder.clone());
                folders.extend(spaces.iter().map(|space| space.folder.clone()));
            }
        }
        folders
    }
}

/// The journal of this node, held by one run at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    _one_run: Lock,
}

impl Journal {
    /// Takes it.
    pub fn take(spool: &Spool) -> Result<Journal, StandbyError> {
        spool.prepare()?;
        let path = spool.lock("standby-init");
        match Lock::try_take(&path).map_err(StandbyError::io("lock", &path))? {
            Taken::Held(lock) => Ok(Journal { path: spool.root().join("standby-init.json"), _one_run: lock }),
            Taken::Busy { owner } => Err(StandbyError::Busy { owner }),
        }
    }

    /// What an earlier run left; none where there was none, or it ended well.
    pub fn read(&self) -> Result<Option<Entry>, StandbyError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StandbyError::io("read", &self.path)(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| StandbyError::CannotTell {
            what: format!("what '{}' says about an earlier run", self.path.display()),
            why: error.to_string(),
            class: Class::Corrupt,
        })
    }

    /// Writes it, durably.
    pub fn write(&self, entry: &Entry) -> Result<(), StandbyError> {
        let mut bytes = serde_json::to_vec_pretty(entry).expect("because plain data has no reason not to become JSON");
        bytes.push(b'\n');
        durable::replace(&self.path, &bytes).map_err(StandbyError::io("write", &self.path))
    }

    /// Closes it: nothing is left to be done, or to be undone.
    pub fn close(&self) -> Result<(), StandbyError> {
        crate::archive::spool::remove_if_there(&self.path).map_err(StandbyError::io("remove", &self.path))?;
        let folder = self.path.parent().unwrap_or(&self.path);
        durable::sync_directory(folder).map_err(StandbyError::io("make durable", folder))
    }
}
