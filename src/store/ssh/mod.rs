//! An archive on another machine, through the system's own ssh and `serve-archive` at the far end.
//!
//! One ssh process per place serves all threads for as long as it lives; the user's ssh configuration, agent, jump
//! hosts and certificates all work, and host keys are always checked. When the connection breaks, everybody waiting
//! hears why, and the next call connects anew. Nothing is repeated here: whoever calls decides what to try again.
//! A file counts as stored only when the far end has said so, and it says so only after its fsyncs.
//!
//! A machine that offers sftp only is reached in the same way, except that `serve-archive` runs on this machine and
//! speaks sftp to the other: [`FarEnd`].

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::unbounded;

use super::wire::{self, Kind, PROGRAM, Reply, Request, Want};
use super::{Entry, Payload, Place, Published, Space, Store, StoreError, StorePath};

mod beside;
mod child;
mod command;
mod diagnosis;
mod far;
mod pipe;
mod reader;
mod send;
mod session;

#[cfg(test)]
mod tests;

pub use beside::{SftpFarEnd, SftpSettings};
pub use command::{FarCommand, SshSettings, arguments};
pub use diagnosis::Diagnosis;
pub use far::{FarProgram, FarStreams};

use child::FarChild;
use reader::RemoteFile;
use session::{Broken, Expect, Operation, Session};

/// How a connection is made; tests make others.
type Connector = dyn Fn(Want) -> Result<Arc<Session>, Broken> + Send + Sync;

/// Where the far end of a store runs, and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FarEnd {
    /// On the other machine, by the system's ssh.
    Ssh(SshSettings),
    /// On this machine.
    Sftp(SftpFarEnd),
}

/// A store behind ssh.
pub struct SshStore {
    place: Place,
    allowed: Duration,
    connector: Box<Connector>,
    link: Mutex<Link>,
    changed: Condvar,
}

/// Where the connection stands.
enum Link {
    Down,
    /// Somebody is connecting: the number of the attempt.
    Connecting(u64),
    Up(Arc<Session>),
    /// The attempt of that number failed; whoever waited for it hears the same.
    Failed(u64, Broken),
}

impl SshStore {
    /// Connects to an archive that is there. Fails where the other machine cannot be reached, or the archive's root is
    /// missing there.
    pub fn connect(far: FarEnd, place: Place) -> Result<SshStore, StoreError> {
        let allowed = far.limits().operation;
        let connector = connector(far, &place);
        SshStore::over(place, allowed, connector)
    }

    /// Makes a new archive: the cluster's folder in the archive's directory, and the identity file in it. Says whether
    /// the identity is new or was there before.
    pub fn init(
        settings: &SshSettings,
        place: Place,
        identity: &StorePath,
        content: &[u8],
    ) -> Result<Published, StoreError> {
        let session =
            connector(FarEnd::Ssh(settings.clone()), &place)(Want::Init).map_err(|broken| broken.into_error(&place))?;
        let operation = Operation::new("create", identity.as_str(), settings.deadline);
        let request = Request::Init { path: identity.to_string() };
        let outcome = send::record(&session, &request, content, &operation).and_then(|reply| session.published(reply));
        // The reader holds the session too: only giving it up ends the process.
        session.give_up(closed());
        outcome
    }

    fn over(place: Place, allowed: Duration, connector: Box<Connector>) -> Result<SshStore, StoreError> {
        let session = connector(Want::Store).map_err(|broken| broken.into_error(&place))?;
        Ok(SshStore { place, allowed, connector, link: Mutex::new(Link::Up(session)), changed: Condvar::new() })
    }

    /// The connection; a new one where the last one broke. Several callers share one attempt and its failure.
    fn session(&self) -> Result<Arc<Session>, StoreError> {
        let mut link = self.link();
        let mut awaited = None;
        let attempt = loop {
            match &*link {
                Link::Up(session) if session.is_up() => return Ok(Arc::clone(session)),
                Link::Failed(attempt, broken) if awaited == Some(*attempt) => {
                    return Err(broken.clone().into_error(&self.place));
                }
                Link::Connecting(attempt) => {
                    awaited = Some(*attempt);
                    // The one who connects has a deadline, so this wait has one too.
                    link = self.changed.wait(link).unwrap_or_else(PoisonError::into_inner);
                }
                Link::Failed(attempt, _) => break attempt + 1,
                Link::Up(_) | Link::Down => break 0,
            }
        };
        *link = Link::Connecting(attempt);
        drop(link);
        let attempt = Attempt { store: self, number: attempt };
        attempt.end((self.connector)(Want::Store))
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operation(&self, action: &'static str, path: &StorePath) -> Operation {
        Operation::new(action, path.as_str(), self.allowed)
    }

    /// One request, one reply, on a connection that is up.
    fn call(&self, request: &Request, operation: &Operation) -> Result<(Arc<Session>, Reply), StoreError> {
        let session = self.session()?;
        let reply = session.call(request, operation)?;
        Ok((session, reply))
    }
}

/// An attempt to connect. Should it panic, those who wait must not wait for ever.
struct Attempt<'a> {
    store: &'a SshStore,
    number: u64,
}

impl Attempt<'_> {
    fn end(self, outcome: Result<Arc<Session>, Broken>) -> Result<Arc<Session>, StoreError> {
        *self.store.link() = match &outcome {
            Ok(session) => Link::Up(Arc::clone(session)),
            Err(broken) => Link::Failed(self.number, broken.clone()),
        };
        outcome.map_err(|broken| broken.into_error(&self.store.place))
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut link = self.store.link();
        if matches!(&*link, Link::Connecting(number) if *number == self.number) {
            *link = Link::Down;
        }
        drop(link);
        self.store.changed.notify_all();
    }
}

impl Drop for SshStore {
    fn drop(&mut self) {
        if let Link::Up(session) = &*self.link() {
            session.give_up(closed());
        }
    }
}

fn closed() -> Broken {
    Broken::Lost { reason: "the store was closed".to_owned(), hint: None }
}

/// How long a file may take: the deadline is meant for a segment, so a longer file gets it once for every part of so
/// many bytes.
fn patience(allowed: Duration, size: u64) -> Duration {
    const PART: u64 = 64 << 20;
    allowed.saturating_mul(u32::try_from(size / PART).unwrap_or(u32::MAX).saturating_add(1))
}

/// How long this end waits.
struct Limits {
    /// Until the far end has said hello.
    hello: Duration,
    /// For one operation.
    operation: Duration,
    /// For a sign of life.
    dead_after: Duration,
}

impl FarEnd {
    fn limits(&self) -> Limits {
        match self {
            FarEnd::Ssh(settings) => Limits {
                // A second more than ssh itself gets: its own words say better what is wrong.
                hello: settings.connect_timeout + Duration::from_secs(1),
                operation: settings.deadline,
                dead_after: settings.dead_after,
            },
            FarEnd::Sftp(far) => {
                let (hello, operation) = far.patience();
                Limits { hello, operation, dead_after: operation }
            }
        }
    }

    fn cluster(&self) -> &str {
        match self {
            FarEnd::Ssh(settings) => &settings.cluster,
            FarEnd::Sftp(far) => &far.cluster,
        }
    }

    /// Starts it; also our ends of its input and output.
    fn start(&self) -> Result<(FarChild, (OwnedFd, OwnedFd)), Diagnosis> {
        match self {
            FarEnd::Ssh(settings) => {
                if let Some(reason) = command::objection(settings) {
                    return Err(Diagnosis { reason, hint: Some("Correct it in the node's section.".to_owned()) });
                }
                let started = FarChild::ssh(settings, &FarCommand::serve_archive(settings));
                started.map_err(|error| far::not_started(settings, &error))
            }
            FarEnd::Sftp(far) => far.start(),
        }
    }
}

/// Connects by starting the far end.
fn connector(far: FarEnd, place: &Place) -> Box<Connector> {
    let place = place.clone();
    Box::new(move |want| {
        let started = far.start().map_err(|Diagnosis { reason, hint }| Broken::Lost { reason, hint });
        let (child, streams) = started?;
        log::debug!("the way to the {place} is process {}", child.id());
        let hello = Request::Hello { program: PROGRAM.to_owned(), cluster: far.cluster().to_owned(), want };
        let limits = far.limits();
        let operation = Operation::new("say", "hello", limits.hello);
        Session::start(place.clone(), limits.dead_after, streams, Box::new(child), &hello, &operation)
    })
}

impl Store for SshStore {
    fn place(&self) -> &Place {
        &self.place
    }

    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError> {
        match self.call(&Request::Look { path: path.to_string() }, &self.operation("look at", path))? {
            (_, Reply::Entry(entry)) => Ok(entry.map(Entry::from)),
            (session, other) => Err(session.misfit(&other)),
        }
    }

    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError> {
        let session = self.session()?;
        let operation = self.operation("list", folder);
        let (sender, events) = unbounded();
        let request = Request::List { folder: folder.to_string() };
        session.turn(&operation)?.request(&request, Expect::Entries, &sender, &operation)?;
        let mut found = Vec::new();
        loop {
            match session.reply(&events, &operation)? {
                Reply::Absent => return Ok(None),
                Reply::Entries { entries, more } => {
                    found.extend(entries.into_iter().map(Entry::from));
                    if !more {
                        return Ok(Some(found));
                    }
                }
                other => return Err(session.misfit(&other)),
            }
        }
    }

    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let file = RemoteFile::open(self.session()?, path, self.allowed)?;
        Ok(file.map(|file| Box::new(file) as Box<dyn Read + Send>))
    }

    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError> {
        let session = self.session()?;
        let operation = Operation::new("store", path.as_str(), patience(self.allowed, payload.size));
        let reply = send::file(&session, path, payload, rivals, &operation)?;
        session.published(reply)
    }

    fn settle(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.flag(&Request::Settle { path: path.to_string() }, &self.operation("settle", path))
    }

    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError> {
        let session = self.session()?;
        let request = Request::Replace { path: path.to_string() };
        match send::record(&session, &request, content, &self.operation("replace", path))? {
            Reply::Done => Ok(()),
            other => Err(session.misfit(&other)),
        }
    }

    fn remove(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.flag(&Request::Remove { path: path.to_string() }, &self.operation("remove", path))
    }

    fn space(&self) -> Result<Space, StoreError> {
        match self.call(&Request::Space, &self.operation("measure", &StorePath::root()))? {
            (_, Reply::Space { free, total }) => Ok(Space { free, total }),
            (session, other) => Err(session.misfit(&other)),
        }
    }
}

impl SshStore {
    fn flag(&self, request: &Request, operation: &Operation) -> Result<bool, StoreError> {
        match self.call(request, operation)? {
            (_, Reply::Flag(flag)) => Ok(flag),
            (session, other) => Err(session.misfit(&other)),
        }
    }
}
