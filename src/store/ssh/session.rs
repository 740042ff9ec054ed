//! One connection used by many threads: whoever has the turn writes a request whole, a reader hands answers out in
//! order.
//!
//! The frames of one request stand together, so the writing end is passed from hand to hand; the waiters stand in a
//! queue in the order of their requests. Nothing here waits without a deadline. What times out while the far end is
//! silent takes the connection down with it; what merely stood in a long queue does not.

use std::collections::VecDeque;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::diagnosis::Diagnosis;
use super::pipe::{PipeReader, PipeWriter, Stop};
use crate::store::wire::{self, Kind, Refusal, Reply, Request, WireError};
use crate::store::{Place, StoreError};
use crate::system::clock::Deadline;

/// The process that carries the streams.
pub(super) trait Carrier: Send + Sync {
    /// Ends it at once. Called when the connection is given up; may be called again.
    fn end(&self);

    /// Why it ended by itself; waits a moment for its last words.
    fn epitaph(&self) -> Diagnosis;
}

/// Why a connection cannot be used any more.
#[derive(Debug, Clone)]
pub(super) enum Broken {
    /// It ended, or was given up.
    Lost { reason: String, hint: Option<String> },
    /// The far end speaks nonsense.
    Nonsense(String),
    /// The far end refused to serve.
    Refused(Refusal),
}

impl Broken {
    pub(super) fn into_error(self, place: &Place) -> StoreError {
        let place = place.clone();
        match self {
            Broken::Lost { reason, hint } => StoreError::Unreachable { place, reason, hint },
            Broken::Nonsense(detail) => StoreError::Protocol { place, detail },
            Broken::Refused(refusal) => refusal.into_error(&place),
        }
    }
}

/// What arrives for one waiter.
pub(super) enum Event {
    Reply(Reply),
    Data { bytes: Vec<u8>, last: bool },
    Broken(Broken),
}

/// What is still to come for one waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// One reply.
    Reply,
    /// Replies until one says that there is no more.
    Entries,
    /// `Opened`, then up to so many chunks.
    Opened(u32),
    /// So many chunks, fewer after the last or an error.
    Chunks(u32),
}

impl Expect {
    /// What is left once this has come. `None`: nothing. An error where it does not fit.
    fn after(self, event: &Event) -> Result<Option<Expect>, WireError> {
        Ok(match (self, event) {
            (_, Event::Reply(Reply::Failed(_))) => None,
            (Expect::Reply, Event::Reply(_)) => None,
            (Expect::Entries, Event::Reply(Reply::Entries { more: true, .. })) => Some(self),
            (Expect::Entries | Expect::Opened(_), Event::Reply(Reply::Absent)) => None,
            (Expect::Entries, Event::Reply(Reply::Entries { .. })) => None,
            (Expect::Opened(chunks), Event::Reply(Reply::Opened { .. })) if chunks > 0 => Some(Expect::Chunks(chunks)),
            (Expect::Opened(_), Event::Reply(Reply::Opened { .. })) => None,
            (Expect::Chunks(left), Event::Data { last, .. }) if !last && left > 1 => Some(Expect::Chunks(left - 1)),
            (Expect::Chunks(_), Event::Data { .. }) => None,
            _ => return Err(WireError::Body(format!("an answer that fits no request: {self:?} was expected"))),
        })
    }
}

struct Waiter {
    events: Sender<Event>,
    expect: Expect,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Waiter>,
    broken: Option<Broken>,
}

/// One operation: what it is, for messages, and when it must be over.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub action: &'static str,
    pub path: String,
    pub allowed: Duration,
    pub deadline: Deadline,
}

impl Operation {
    pub(super) fn new(action: &'static str, path: &str, allowed: Duration) -> Self {
        Operation { action, path: path.to_owned(), allowed, deadline: Deadline::after(allowed) }
    }

    pub(super) fn timeout(&self, place: &Place) -> StoreError {
        let (place, path) = (place.clone(), self.path.clone());
        StoreError::Timeout { place, action: self.action, path, after: self.allowed }
    }
}

/// One connection.
pub(super) struct Session {
    place: Place,
    dead_after: Duration,
    turn: (Sender<PipeWriter>, Receiver<PipeWriter>),
    waiting: Mutex<Waiting>,
    /// Files whose readers went away, to be closed with the next request.
    left_open: Mutex<Vec<u32>>,
    /// When anything last arrived, in milliseconds after `begun`.
    heard: AtomicU64,
    begun: Instant,
    stop: Mutex<Option<Stop>>,
    carrier: Box<dyn Carrier>,
}

/// The right to write. Given back when dropped.
pub(super) struct Turn<'a> {
    session: &'a Session,
    writer: Option<PipeWriter>,
}

impl Session {
    /// Begins to talk over a pair of streams and says hello; `hello` must be the first request.
    pub(super) fn start(
        place: Place,
        dead_after: Duration,
        (writing, reading): (OwnedFd, OwnedFd),
        carrier: Box<dyn Carrier>,
        hello: &Request,
        operation: &Operation,
    ) -> Result<Arc<Session>, Broken> {
        let ours =
            |error: std::io::Error| Broken::Lost { reason: format!("cannot set up a pipe: {error}"), hint: None };
        let writer = PipeWriter::new(writing).map_err(ours)?;
        let (reader, stop) = PipeReader::new(reading).map_err(ours)?;
        let turn = bounded(1);
        turn.0.send(writer).expect("because the channel was made just now with room for one");
        let session = Arc::new(Session {
            place,
            dead_after,
            turn,
            waiting: Mutex::default(),
            left_open: Mutex::default(),
            heard: AtomicU64::new(0),
            begun: Instant::now(),
            stop: Mutex::new(Some(stop)),
            carrier,
        });
        let listening = Arc::clone(&session);
        thread::Builder::new().name("ssh-reader".to_owned()).spawn(move || listening.listen(reader)).map_err(ours)?;
        session.say_hello(hello, operation).inspect_err(|broken| session.give_up(broken.clone()))?;
        Ok(session)
    }

    fn say_hello(&self, hello: &Request, operation: &Operation) -> Result<(), Broken> {
        // The reader may have found out more while this end still wrote.
        let late = || self.waiting().broken.clone().unwrap_or_else(|| no_hello(operation));
        let (sender, events) = unbounded();
        let mut turn = self.turn(operation).map_err(|_| late())?;
        turn.raw(&wire_preamble(), operation).map_err(|_| late())?;
        turn.request(hello, Expect::Reply, &sender, operation).map_err(|_| late())?;
        drop(turn);
        match events.recv_timeout(operation.deadline.remaining()) {
            Ok(Event::Reply(Reply::Hello { program })) => {
                log::debug!("the far end of the {} is {program}", self.place);
                Ok(())
            }
            Ok(Event::Reply(Reply::Failed(refusal))) => Err(Broken::Refused(refusal)),
            Ok(Event::Reply(_) | Event::Data { .. }) => Err(Broken::Nonsense("it does not answer a hello".to_owned())),
            Ok(Event::Broken(broken)) => Err(broken),
            Err(_) => Err(late()),
        }
    }

    /// The place this connection leads to.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// True until it broke.
    pub(super) fn is_up(&self) -> bool {
        self.waiting().broken.is_none()
    }

    /// Waits for the right to write.
    pub(super) fn turn(&self, operation: &Operation) -> Result<Turn<'_>, StoreError> {
        match self.turn.1.recv_timeout(operation.deadline.remaining()) {
            Ok(writer) => {
                let mut turn = Turn { session: self, writer: Some(writer) };
                turn.close_left_open();
                Ok(turn)
            }
            Err(_) => Err(operation.timeout(&self.place)),
        }
    }

    /// One request, one reply.
    pub(super) fn call(&self, request: &Request, operation: &Operation) -> Result<Reply, StoreError> {
        let (sender, events) = unbounded();
        self.turn(operation)?.request(request, Expect::Reply, &sender, operation)?;
        self.reply(&events, operation)
    }

    /// The next reply to a request of this operation.
    pub(super) fn reply(&self, events: &Receiver<Event>, operation: &Operation) -> Result<Reply, StoreError> {
        match self.event(events, operation)? {
            Event::Reply(reply) => Ok(reply),
            _ => Err(StoreError::Protocol { place: self.place.clone(), detail: "data instead of a reply".to_owned() }),
        }
    }

    /// What comes next for this operation; refusals and the end of the connection come as errors.
    pub(super) fn event(&self, events: &Receiver<Event>, operation: &Operation) -> Result<Event, StoreError> {
        match events.recv_timeout(operation.deadline.remaining()) {
            Ok(Event::Reply(Reply::Failed(refusal))) => Err(refusal.into_error(&self.place)),
            Ok(Event::Broken(broken)) => Err(broken.into_error(&self.place)),
            Ok(event) => Ok(event),
            Err(RecvTimeoutError::Timeout) => {
                if self.silence() >= self.dead_after.min(operation.allowed) {
                    self.give_up(silent(operation));
                }
                Err(operation.timeout(&self.place))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(StoreError::Protocol { place: self.place.clone(), detail: "an answer cut short".to_owned() })
            }
        }
    }

    /// An answer of the wrong kind: nothing that follows can be trusted.
    pub(super) fn misfit(&self, reply: &Reply) -> StoreError {
        let broken = Broken::Nonsense(format!("an answer that fits no request: {reply:?}"));
        self.give_up(broken.clone());
        broken.into_error(&self.place)
    }

    /// Closes a file whose reader is gone: now if nobody is writing, else with the next request.
    pub(super) fn leave(&self, handle: u32) {
        self.left_open.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        if let Ok(writer) = self.turn.1.try_recv() {
            Turn { session: self, writer: Some(writer) }.close_left_open();
        }
    }

    /// Ends the connection; every waiter hears why. The first reason stands.
    pub(super) fn give_up(&self, broken: Broken) {
        let left = {
            let mut waiting = self.waiting();
            waiting.broken.get_or_insert_with(|| broken.clone());
            std::mem::take(&mut waiting.queue)
        };
        for waiter in left {
            // Who has gone away does not mind.
            let _ = waiter.events.send(Event::Broken(broken.clone()));
        }
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.carrier.end();
    }

    fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(heard)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader's life: hands out what arrives, until the stream ends.
    fn listen(&self, reader: PipeReader) {
        let mut input = BufReader::with_capacity(64 << 10, reader);
        let end = self.hear(&mut input);
        // Ended by ourselves: the reason is known already, and the child must not be asked for another.
        if !self.is_up() {
            return;
        }
        let broken = match end {
            Ok(()) | Err(WireError::Io(_)) => {
                let Diagnosis { reason, hint } = self.carrier.epitaph();
                Broken::Lost { reason, hint }
            }
            Err(error) => Broken::Nonsense(error.to_string()),
        };
        self.give_up(broken);
    }

    fn hear(&self, input: &mut BufReader<PipeReader>) -> Result<(), WireError> {
        if wire::read_preamble(input)?.is_none() {
            return Ok(());
        }
        let mut body = Vec::new();
        while let Some(kind) = wire::read_frame(input, &mut body)? {
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.heard.store(now, Ordering::Relaxed);
            self.deliver(match kind {
                Kind::Reply => Event::Reply(Reply::decode(&body)?),
                Kind::Data => Event::Data { bytes: std::mem::take(&mut body), last: false },
                Kind::Last => Event::Data { bytes: std::mem::take(&mut body), last: true },
                Kind::Request => return Err(WireError::Body("a request where an answer should be".to_owned())),
            })?;
        }
        Ok(())
    }

    /// Hands an event to the first waiter, who leaves the queue once all of its answer is there.
    fn deliver(&self, event: Event) -> Result<(), WireError> {
        let mut waiting = self.waiting();
        let Some(first) = waiting.queue.front_mut() else {
            // After giving up, answers may still come in: nobody waits for them.
            return if waiting.broken.is_some() {
                Ok(())
            } else {
                Err(WireError::Body("an answer that fits no request".to_owned()))
            };
        };
        let left = first.expect.after(&event)?;
        // Who gave up waiting does not mind.
        let _ = first.events.send(event);
        match left {
            Some(expect) => first.expect = expect,
            None => drop(waiting.queue.pop_front()),
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.carrier.end();
    }
}

fn wire_preamble() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write_preamble(&mut bytes).expect("because memory takes every byte");
    bytes
}

fn no_hello(operation: &Operation) -> Broken {
    let reason = format!("it did not say hello within {} s", operation.allowed.as_secs_f64());
    let hint = "Check that the machine is up and not overloaded; 'connect_timeout' is the limit.".to_owned();
    Broken::Lost { reason, hint: Some(hint) }
}

fn silent(operation: &Operation) -> Broken {
    let seconds = operation.allowed.as_secs_f64();
    let reason = format!("no answer to '{} {}' within {seconds} s", operation.action, operation.path);
    let hint = "Check that the machine is up and its disks answer; the next call connects anew.".to_owned();
    Broken::Lost { reason, hint: Some(hint) }
}

impl Turn<'_> {
    /// Stands in line for the answer and writes the request.
    pub(super) fn request(
        &mut self,
        request: &Request,
        expect: Expect,
        events: &Sender<Event>,
        operation: &Operation,
    ) -> Result<(), StoreError> {
        self.stand_in_line(expect, events)?;
        self.more(request, operation)
    }

    /// Joins the queue of waiters: before the request is written, so that no answer comes too early.
    fn stand_in_line(&self, expect: Expect, events: &Sender<Event>) -> Result<(), StoreError> {
        let mut waiting = self.session.waiting();
        if let Some(broken) = &waiting.broken {
            return Err(broken.clone().into_error(&self.session.place));
        }
        waiting.queue.push_back(Waiter { events: events.clone(), expect });
        Ok(())
    }

    /// Writes a request that belongs to the one before: the end of a put.
    pub(super) fn more(&mut self, request: &Request, operation: &Operation) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        wire::put_frame(&mut bytes, Kind::Request, &request.encode());
        self.raw(&bytes, operation)
    }

    /// Writes frames already made. A broken pipe is no error here: the reader finds out why, and tells the waiters.
    pub(super) fn raw(&mut self, bytes: &[u8], operation: &Operation) -> Result<(), StoreError> {
        let writer = self.writer.as_mut().expect("because it is only taken when the turn ends");
        match writer.write_all(bytes, operation.deadline, self.session.dead_after) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                self.session.give_up(silent(operation));
                Err(operation.timeout(&self.session.place))
            }
            Err(error) => {
                log::debug!("cannot write to the far end of the {}: {error}", self.session.place);
                Ok(())
            }
        }
    }

    fn close_left_open(&mut self) {
        let mut handles = self.session.left_open.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(handle) = handles.last() {
            let mut bytes = Vec::new();
            wire::put_frame(&mut bytes, Kind::Request, &Request::Close { handle: *handle }.encode());
            if !self.writer.as_mut().is_some_and(|writer| writer.try_write(&bytes)) {
                return;
            }
            handles.pop();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // There is room: the writer was taken from here.
            let _ = self.session.turn.0.send(writer);
        }
    }
}
