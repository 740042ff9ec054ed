//! What the workers do: commits, and every request that is one call of the store.

use crossbeam_channel::{Sender, bounded};

use super::answers::Answer;
use super::{Depot, Incoming};
use crate::error::{Class, Failure};
use crate::store::wire::{Refusal, Reply, Request, WireEntry};
use crate::store::{Published, StoreError, StorePath};

/// How many entries of a folder go into one reply: far below the longest frame, whatever their names.
const ENTRIES_PER_REPLY: usize = 1000;

/// One thing to do, and where its answer goes.
pub(super) struct Job {
    task: Task,
    answer: Option<Sender<Vec<Reply>>>,
}

enum Task {
    Commit { incoming: Box<dyn Incoming>, size: u64, sha256: [u8; 32], rivals: Vec<StorePath> },
    Abort(Option<Box<dyn Incoming>>),
    Replace { path: String, content: Vec<u8> },
    Call(Request),
    Refuse(Refusal),
}

impl Job {
    pub(super) fn commit(incoming: Box<dyn Incoming>, size: u64, sha256: [u8; 32], rivals: Vec<StorePath>) -> Job {
        Job { task: Task::Commit { incoming, size, sha256, rivals }, answer: None }
    }

    pub(super) fn abort(incoming: Option<Box<dyn Incoming>>) -> Job {
        Job { task: Task::Abort(incoming), answer: None }
    }

    pub(super) fn refuse(refusal: Refusal) -> Job {
        Job { task: Task::Refuse(refusal), answer: None }
    }

    pub(super) fn replace(path: String, content: Vec<u8>) -> Job {
        Job { task: Task::Replace { path, content }, answer: None }
    }

    pub(super) fn call(request: Request) -> Job {
        Job { task: Task::Call(request), answer: None }
    }

    /// Gives the job to the workers; waits where all are busy, so that the near end is slowed down rather than queued.
    pub(super) fn hand_to(mut self, jobs: &Sender<Job>) -> Answer {
        let (answer, later) = bounded(1);
        self.answer = Some(answer);
        // Should the workers be gone, the answer's channel is closed with the job, and that is an answer too.
        let _ = jobs.send(self);
        Answer::Later(later)
    }

    pub(super) fn run(self, depot: &dyn Depot) {
        let replies = self.task.run(depot).unwrap_or_else(|refusal| vec![Reply::Failed(refusal)]);
        if let Some(answer) = self.answer {
            // The writer is gone only where the connection is.
            let _ = answer.send(replies);
        }
    }
}

impl Task {
    fn run(self, depot: &dyn Depot) -> Result<Vec<Reply>, Refusal> {
        let reply = match self {
            Task::Commit { incoming, size, sha256, rivals } => published(incoming.commit(size, sha256, &rivals)?),
            Task::Abort(incoming) => {
                drop(incoming);
                Reply::Aborted
            }
            Task::Replace { path, content } => {
                depot.replace(&parse(&path)?, &content)?;
                Reply::Done
            }
            Task::Call(request) => return call(depot, request),
            Task::Refuse(refusal) => return Err(refusal),
        };
        Ok(vec![reply])
    }
}

fn call(depot: &dyn Depot, request: Request) -> Result<Vec<Reply>, Refusal> {
    let reply = match request {
        Request::Look { path } => Reply::Entry(depot.look(&parse(&path)?)?.as_ref().map(WireEntry::from)),
        Request::List { folder } => return list(depot, &parse(&folder)?),
        Request::Settle { path } => Reply::Flag(depot.settle(&parse(&path)?)?),
        Request::Remove { path } => Reply::Flag(depot.remove(&parse(&path)?)?),
        Request::Space => {
            let space = depot.space()?;
            Reply::Space { free: space.free, total: space.total }
        }
        other => return Err(Failure::new(Class::Bug, format!("no call of the store: {other:?}")).into()),
    };
    Ok(vec![reply])
}

fn list(depot: &dyn Depot, folder: &StorePath) -> Result<Vec<Reply>, Refusal> {
    let Some(entries) = depot.list(folder)? else { return Ok(vec![Reply::Absent]) };
    if entries.is_empty() {
        return Ok(vec![Reply::Entries { entries: Vec::new(), more: false }]);
    }
    let parts = entries.chunks(ENTRIES_PER_REPLY);
    let last = parts.len() - 1;
    let part = |(at, part): (usize, &[_])| Reply::Entries {
        entries: part.iter().map(WireEntry::from).collect(),
        more: at < last,
    };
    Ok(parts.enumerate().map(part).collect())
}

/// The reply to a finished put.
pub(super) fn published(published: Published) -> Reply {
    match published {
        Published::New => Reply::Published,
        Published::Occupied(path) => Reply::Occupied { path: path.to_string() },
    }
}

fn parse(path: &str) -> Result<StorePath, StoreError> {
    path.parse().map_err(StoreError::Path)
}
