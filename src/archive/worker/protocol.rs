//! What a call and the worker say to each other over the socket: one line of JSON each way.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::archive::fetch::{Answer, Asker};
use crate::archive::push::Pushed;
use crate::archive::spool::Spool;
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::wal::WalName;

/// A call's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The caller's configuration; a worker with another one does not answer.
    pub fingerprint: u64,
    /// The caller's version; after an upgrade the old worker leaves.
    pub version: String,
    /// How long the caller waits, in milliseconds.
    pub deadline_ms: u64,
    /// What it wants.
    pub what: What,
}

impl Request {
    /// A request of this program.
    pub fn new(fingerprint: u64, deadline: Deadline, what: What) -> Self {
        let deadline_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
        Request { fingerprint, version: env!("CARGO_PKG_VERSION").to_owned(), deadline_ms, what }
    }

    /// True where a worker with this configuration may answer.
    pub fn suits(&self, fingerprint: u64) -> bool {
        self.fingerprint == fingerprint && self.version == env!("CARGO_PKG_VERSION")
    }
}

/// What a caller can want.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum What {
    /// Make this file safe.
    Push {
        /// Absolute path of the file.
        path: PathBuf,
        /// Its name.
        name: WalName,
    },
    /// Put this file there.
    Fetch {
        /// The file.
        name: WalName,
        /// Absolute path of where it goes.
        target: PathBuf,
        /// The server that asks, where it is known.
        asker: Option<Asker>,
    },
    /// Say how you are.
    Status,
}

/// The worker's reply.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The file is safe.
    Pushed(Pushed),
    /// The file is there, or in none of the places.
    Fetched(Answer),
    /// It did not work, and this belongs to this very call.
    Failed(Failure),
    /// The worker runs with another configuration or version; the caller does the work itself.
    OtherConfiguration,
    /// How it is.
    Status {
        /// Its process id.
        process: u32,
        /// Files shipped before they were asked for.
        prepared: usize,
        /// Segments fetched before they were asked for.
        prefetched: usize,
    },
}

/// What the worker says as soon as it has a request.
pub const HEARING: &str = "hearing";

/// A worker that does not even say that it heard within this time is stopped or stuck.
const HEARD: Duration = Duration::from_secs(3);

/// Connects without waiting: a worker that does not take calls any more has a full queue of them.
fn connect(path: &Path) -> Option<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// A timeout of nothing would mean none at all.
fn at_least_a_moment(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

/// Asks the worker. `None` where there is none to ask, it does not listen, or it went away before it answered: the
/// caller then does the work itself, which is harmless even if the worker had done it.
pub fn ask(spool: &Spool, request: &Request, deadline: Deadline) -> Option<Reply> {
    let (path, _folder) = spool.reach_socket().ok()?;
    let mut stream = connect(&path)?;
    let json = serde_json::to_string(request).expect("because plain data has no reason not to become JSON");
    stream.set_write_timeout(Some(HEARD)).ok()?;
    stream.write_all(format!("{json}\n").as_bytes()).ok()?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    stream.set_read_timeout(Some(at_least_a_moment(deadline.remaining().min(HEARD)))).ok()?;
    reader.read_line(&mut line).ok().filter(|_| line.trim_end() == HEARING)?;
    line.clear();
    stream.set_read_timeout(Some(at_least_a_moment(deadline.remaining()))).ok()?;
    match reader.read_line(&mut line) {
        Ok(0) => None,
        Ok(_) => match serde_json::from_str(&line) {
            Ok(Reply::OtherConfiguration) | Err(_) => None,
            Ok(reply) => Some(reply),
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            let failure = Failure::new(Class::Timeout, "the worker did not answer in time")
                .hinted("'check-node' shows which place is slow; PostgreSQL tries again.");
            Some(Reply::Failed(failure))
        }
        Err(_) => None,
    }
}
