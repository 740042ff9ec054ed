//! The far end of the `ssh` store: answers requests for one archive on a pair of streams.
//!
//! It can touch nothing but the archive it was started for: the directory comes from its command line, the cluster is
//! a plain name, every path is parsed. Requests are read in order and answered in order. Data goes to the disk as it
//! arrives; commits (fsync, publish, fsync of the folder) run several at once, beside the receiving of the next file. A
//! file is acknowledged only once it is durable under its name. What was half received when the streams end leaves
//! nothing under a final name.
//!
//! It reads no configuration: what it may do stands in its command line, which a forced command in authorized_keys
//! fixes. It knows nothing of ssh.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Sender, bounded};

use super::local::LocalStore;
use super::wire::{self, PROGRAM, Refusal, Reply, Request, Want, WireError};
use super::{Place, StoreError};
use crate::error::{Class, Explain, Failure};

mod answers;
mod depot;
mod init;
mod intake;
mod work;

pub use depot::{Depot, Incoming};

use answers::Answer;
use intake::Frames;
use work::Job;

/// How many commits and other requests run at once. Commits wait for the disk, not for a processor.
const WORKERS: usize = 4;

/// How many answers may wait for their turn before no further request is read.
const ANSWERS_WAITING: usize = 256;

/// What `serve-archive` may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSettings {
    /// The directory that holds a folder for each cluster.
    pub archive: PathBuf,
    /// The only cluster that is served; none: any that has a folder there.
    pub cluster: Option<String>,
    /// Refuse every request that would write.
    pub read_only: bool,
    /// The archive is on yet another machine, behind the depot: it is used, never made.
    pub elsewhere: bool,
}

/// Why the far end stopped, other than by the end of its input.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The near end speaks nonsense, or the streams broke.
    #[error("the near end does not speak our protocol: {0}")]
    Wire(#[from] WireError),
    /// What was asked for is not served, or cannot be.
    #[error("{0}")]
    Refused(Failure),
}

impl Explain for ServeError {
    fn class(&self) -> Class {
        match self {
            ServeError::Wire(_) => Class::Remote,
            ServeError::Refused(failure) => failure.class,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ServeError::Wire(WireError::Io(_)) => None,
            ServeError::Wire(_) => Some("Install the same pgwarm version on both nodes.".to_owned()),
            ServeError::Refused(failure) => failure.hint.clone(),
        }
    }
}

/// Serves an archive on this machine until the input ends.
pub fn serve(settings: &ServeSettings, input: impl Read, output: impl Write + Send) -> Result<(), ServeError> {
    serve_with(settings, input, output, &|root: &Path, place: Place| {
        Ok(Box::new(LocalStore::open(root, place)?) as Box<dyn Depot>)
    })
}

/// How a depot is opened.
pub(crate) type Opener<'a> = &'a dyn Fn(&Path, Place) -> Result<Box<dyn Depot>, StoreError>;

/// As [`serve`], with what `opener` opens.
pub(crate) fn serve_with(
    settings: &ServeSettings,
    input: impl Read,
    mut output: impl Write + Send,
    opener: Opener<'_>,
) -> Result<(), ServeError> {
    wire::write_preamble(&mut output).and_then(|()| output.flush()).map_err(WireError::Io)?;
    let mut frames = Frames::new(input);
    let Some((cluster, want)) = hello(&mut frames)? else { return Ok(()) };
    let root = match admit(settings, &cluster, want) {
        Ok(root) => root,
        Err(failure) => {
            say(&mut output, &Reply::Failed(Refusal::from(failure.clone())))?;
            return Err(ServeError::Refused(failure));
        }
    };
    let place = Place { node: host_name(), location: root.display().to_string() };
    if want == Want::Init {
        return init::serve(settings, &root, place, &mut frames, &mut output, opener);
    }
    match opener(&root, place) {
        Ok(depot) => {
            say(&mut output, &Reply::Hello { program: PROGRAM.to_owned() })?;
            converse(settings, &*depot, &mut frames, output)
        }
        Err(error) => {
            let refusal = Refusal::from(error);
            say(&mut output, &Reply::Failed(refusal.clone()))?;
            Err(ServeError::Refused(refusal.failure))
        }
    }
}

/// Reads the preamble and the first request.
fn hello(frames: &mut Frames<impl Read>) -> Result<Option<(String, Want)>, ServeError> {
    if wire::read_preamble(frames.input())?.is_none() {
        return Ok(None);
    }
    match frames.request()? {
        Some(Request::Hello { program, cluster, want }) => {
            log::debug!("the near end is {program}, cluster '{cluster}'");
            Ok(Some((cluster, want)))
        }
        Some(_) => Err(WireError::Body("the first request is no hello".to_owned()).into()),
        None => Ok(None),
    }
}

/// Checks what is asked for; the cluster's directory.
fn admit(settings: &ServeSettings, cluster: &str, want: Want) -> Result<PathBuf, Failure> {
    if !is_plain_name(cluster) {
        return Err(Failure::new(Class::Refused, format!("'{}' is no name of a cluster", cluster.escape_debug())));
    }
    if settings.elsewhere && want == Want::Init {
        return Err(Failure::new(Class::Refused, "an archive behind another server is not made from here")
            .hinted("Make its folder there by hand and copy identity.json from another archive of this cluster."));
    }
    match &settings.cluster {
        Some(only) if only != cluster => {
            Err(Failure::new(Class::Refused, format!("cluster '{cluster}' is not served here, only '{only}'"))
                .hinted("Check '[cluster] name' here and the forced command in authorized_keys there."))
        }
        _ => Ok(settings.archive.join(cluster)),
    }
}

/// True for letters, digits, `_` and `-`: what a cluster may be called.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Reads requests until the input ends. Everything begun is finished before this returns.
fn converse(
    settings: &ServeSettings,
    depot: &dyn Depot,
    frames: &mut Frames<impl Read>,
    output: impl Write + Send,
) -> Result<(), ServeError> {
    thread::scope(|scope| {
        let (answer_to, answers) = bounded(ANSWERS_WAITING);
        let (job_to, jobs) = bounded::<Job>(WORKERS);
        for _ in 0..WORKERS {
            let jobs = jobs.clone();
            scope.spawn(move || jobs.iter().for_each(|job| job.run(depot)));
        }
        // Nobody but the workers may hold the receiving end: once they are gone, sending must fail, not wait.
        drop(jobs);
        let writer = scope.spawn(move || answers::write(depot, &answers, output));
        let read = read_requests(settings, depot, frames, &answer_to, &job_to);
        drop((answer_to, job_to));
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer of answers broke")));
        read?;
        // Who hangs up while we still answer is gone on purpose; the requests that matter were carried out.
        if let Err(error) = written {
            log::debug!("cannot answer any more: {error}");
        }
        Ok(())
    })
}

fn read_requests(
    settings: &ServeSettings,
    depot: &dyn Depot,
    frames: &mut Frames<impl Read>,
    answers: &Sender<Answer>,
    jobs: &Sender<Job>,
) -> Result<(), ServeError> {
    while let Some(request) = frames.request()? {
        let answer = match request {
            Request::Hello { .. } | Request::Commit { .. } | Request::Abort | Request::Init { .. } => {
                return Err(WireError::Body(format!("out of place: {request:?}")).into());
            }
            Request::Ping => Answer::Now(Reply::Done),
            Request::Open { path, chunks } => Answer::Open { path, chunks },
            Request::Read { handle } => Answer::Read { handle },
            Request::Close { handle } => Answer::Close { handle },
            Request::Put { path, rivals, size } => {
                let begun = if settings.read_only { Err(read_only()) } else { intake::begin(depot, &path) };
                intake::receive(frames, begun, &rivals, size)?.hand_to(jobs)
            }
            Request::Replace { path } => {
                let content = frames.record()?;
                if settings.read_only { Answer::refuse(read_only()) } else { Job::replace(path, content).hand_to(jobs) }
            }
            Request::Settle { .. } | Request::Remove { .. } if settings.read_only => Answer::refuse(read_only()),
            Request::Look { .. }
            | Request::List { .. }
            | Request::Settle { .. }
            | Request::Remove { .. }
            | Request::Space => Job::call(request).hand_to(jobs),
        };
        if answers.send(answer).is_err() {
            break;
        }
    }
    Ok(())
}

/// What `--read-only` answers to every write.
fn read_only() -> Refusal {
    let failure = Failure::new(Class::Refused, "this archive is served read-only")
        .hinted("Start serve-archive without --read-only there, or leave that node out of the places written to.");
    Refusal::from(failure)
}

/// Sends one reply at once.
fn say(output: &mut impl Write, reply: &Reply) -> Result<(), WireError> {
    let mut bytes = Vec::new();
    wire::put_frame(&mut bytes, wire::Kind::Reply, &reply.encode());
    output.write_all(&bytes)?;
    Ok(output.flush()?)
}

/// This machine's name, for messages only.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "far end".to_owned(), |n| n.trim().to_owned())
}
