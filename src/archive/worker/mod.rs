//! The worker: one process a node that does the work of `archive-wal` and `restore-wal` ahead of time.
//!
//! It keeps connections to the places warm, prepares the next files while PostgreSQL still asks for this one, and ends
//! when nobody has asked for a while. One at a time is proven by a held lock. It never touches `archive_status`, and it
//! gives no guarantee of its own: it runs the code that a call without a worker runs, and any doubt about it (it is
//! gone, it has another configuration) makes the call do the work itself.

mod lookahead;
mod prefetch;
mod protocol;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use protocol::{Reply, Request, What, ask};

use self::lookahead::LookAhead;
use self::prefetch::Prefetch;
use super::ArchiveError;
use super::encode::Way;
use super::places::Sites;
use super::push::Pusher;
use super::spool::{Spool, remove_if_there};
use crate::config::Config;
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::lock::{Lock, Taken};

/// How often the worker looks whether it is still needed.
const TICK: Duration = Duration::from_secs(1);

/// How long one round of draining queues may take.
const DRAIN: Duration = Duration::from_secs(60);

/// How long a caller may take to say what it wants.
const HEARING: Duration = Duration::from_secs(10);

/// How long a new worker waits for one that is leaving.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// How often it looks.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(20);

/// Everything the threads of a worker share.
struct Worker {
    config: Arc<Config>,
    pusher: Arc<Pusher>,
    lookahead: Arc<LookAhead>,
    prefetch: Arc<Prefetch>,
    calls: AtomicUsize,
    draining: AtomicUsize,
    /// A caller came with another configuration: a worker that has it must be able to take over.
    retired: AtomicBool,
}

/// Counts for as long as it lives, a panic included.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves until nobody has asked for `archive.worker_idle`. Returns at once where another worker serves already.
pub fn run(config: Config) -> Result<(), ArchiveError> {
    let spool = Spool::new(&config.local.spool);
    spool.prepare()?;
    let Some(_only_one) = take_over(&spool)? else { return Ok(()) };
    let listener = listen(&spool)?;
    let idle = config.archive.worker_idle;
    let config = Arc::new(config);
    let sites = Arc::new(Sites::new(&config));
    let pusher = Arc::new(Pusher::new(&config, &sites, Way::Map));
    pusher.sweep();
    let worker = Arc::new(Worker {
        lookahead: Arc::new(LookAhead::new(&config, &pusher)),
        prefetch: Arc::new(Prefetch::new(&config, &sites)?),
        pusher,
        calls: AtomicUsize::new(0),
        draining: AtomicUsize::new(0),
        retired: AtomicBool::new(false),
        config,
    });
    let served = serve(&worker, &listener, idle);
    // The name goes first, so that nobody connects to a worker that is leaving.
    let socket = spool.socket();
    remove_if_there(&socket).map_err(ArchiveError::io("remove", socket))?;
    let patience = Deadline::after(worker.config.archive.deadline);
    while worker.calls.load(Ordering::Acquire) > 0 && !patience.expired() {
        std::thread::sleep(TAKE_OVER_PAUSE);
    }
    worker.prefetch.clear();
    served
}

/// Takes the lock. A worker that serves keeps it; one that is leaving has taken its socket away and is waited for.
fn take_over(spool: &Spool) -> Result<Option<Lock>, ArchiveError> {
    let path = spool.lock("worker");
    let patience = Deadline::after(TAKE_OVER);
    loop {
        if let Taken::Held(lock) = Lock::try_take(&path).map_err(ArchiveError::io("lock", &path))? {
            return Ok(Some(lock));
        }
        if patience.expired() || spool.socket().exists() {
            return Ok(None);
        }
        std::thread::sleep(TAKE_OVER_PAUSE);
    }
}

fn listen(spool: &Spool) -> Result<UnixListener, ArchiveError> {
    let path = spool.socket();
    remove_if_there(&path).map_err(ArchiveError::io("remove", &path))?;
    let (reachable, _folder) = spool.reach_socket().map_err(ArchiveError::io("find", &path))?;
    let listener = UnixListener::bind(&reachable).map_err(ArchiveError::io("listen on", &path))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, private).map_err(ArchiveError::io("protect", &path))?;
    listener.set_nonblocking(true).map_err(ArchiveError::io("listen on", &path))?;
    Ok(listener)
}

fn serve(worker: &Arc<Worker>, listener: &UnixListener, idle: Duration) -> Result<(), ArchiveError> {
    let mut last_call = Instant::now();
    loop {
        let tick = Timespec::try_from(TICK).expect("because a second fits");
        // An interrupted or failed poll is a tick like any other.
        let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&tick));
        match listener.accept() {
            Ok((stream, _)) => {
                last_call = Instant::now();
                let worker = Arc::clone(worker);
                worker.calls.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let _counted = Counted(&worker.calls);
                    worker.answer(stream);
                });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!("the worker cannot accept a call: {error}");
                std::thread::sleep(TICK);
            }
        }
        if worker.retired.load(Ordering::Acquire) {
            return Ok(());
        }
        worker.drain_queues();
        let busy = worker.calls.load(Ordering::Relaxed) + worker.draining.load(Ordering::Relaxed) > 0;
        if busy {
            last_call = last_call.max(Instant::now() - TICK);
        }
        if last_call.elapsed() > idle && !busy {
            return Ok(());
        }
    }
}

impl Worker {
    /// Reads one request and answers it. A caller that went away is no matter: what was done is done.
    fn answer(self: &Arc<Self>, stream: UnixStream) {
        let heard = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(HEARING)));
        let mut line = String::new();
        // Somebody may only look whether there is a worker.
        if !heard.and_then(|()| BufReader::new(&stream).read_line(&mut line)).is_ok_and(|count| count > 0) {
            return;
        }
        let _ = writeln!(&stream, "{}", protocol::HEARING);
        let reply = match serde_json::from_str::<Request>(&line) {
            Ok(request) if request.suits(self.config.fingerprint) => self.reply(request),
            Ok(Request { what: What::Status, .. }) => Reply::OtherConfiguration,
            // Another configuration, or another version of this program: the call does the work itself, and the worker
            // that it starts serves the next ones.
            _ => self.retire(),
        };
        let json = serde_json::to_string(&reply).expect("because plain data has no reason not to become JSON");
        let _ = writeln!(&stream, "{json}");
    }

    /// Leaves the place to a worker of the caller's kind; its socket goes first, so that the new one is waited for.
    fn retire(&self) -> Reply {
        if !self.retired.swap(true, Ordering::AcqRel) {
            log::info!("another configuration is in use now; this worker ends");
            let socket = Spool::new(&self.config.local.spool).socket();
            // Should it stay, the next worker replaces it.
            let _ = remove_if_there(&socket);
        }
        Reply::OtherConfiguration
    }

    fn reply(self: &Arc<Self>, request: Request) -> Reply {
        let deadline = Deadline::after(Duration::from_millis(request.deadline_ms));
        match request.what {
            What::Push { path, name } => {
                let reply = match self.lookahead.push(&path, name, deadline) {
                    Ok(pushed) => Reply::Pushed(pushed),
                    Err(failure) => return Reply::Failed(failure),
                };
                self.drain_queues();
                reply
            }
            What::Fetch { name, target, asker } => match self.prefetch.fetch(name, &target, asker, deadline) {
                Ok(answer) => Reply::Fetched(answer),
                Err(error) => Reply::Failed(Failure::from(error)),
            },
            What::Status => Reply::Status {
                process: std::process::id(),
                prepared: self.lookahead.prepared(),
                prefetched: self.prefetch.ready(),
            },
        }
    }

    /// Drains queues beside the calls, one round at a time.
    fn drain_queues(self: &Arc<Self>) {
        if !self.pusher.has_queued() || self.draining.swap(1, Ordering::AcqRel) == 1 {
            return;
        }
        let worker = Arc::clone(self);
        std::thread::spawn(move || {
            let _counted = Counted(&worker.draining);
            worker.pusher.drain(Deadline::after(DRAIN));
        });
    }
}
