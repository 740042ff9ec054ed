//! The line between source and target: frames over a pair of descriptors, with patience but never for ever.
//!
//! Each end says from time to time that it lives, so silence means that it does not. Whoever writes waits for room as
//! long as the other end lives. Where this end fails, [`Line::hurry`] lets it say so and not wait long for anything
//! else, whatever the other end does: what still arrives is thrown away, so that two ends that fail never wait for each
//! other. [`Line::stop`] ends every wait. Which program or thread is at the other end is not known here.

use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

use super::message::Message;
use crate::error::Failure;
use crate::store::wire::{self, Kind, WireError};
use crate::system::clock::Deadline;

/// How often each end says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// An end that says nothing for so long is dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long the other end may take nothing from us. A disk that is made durable holds everything up for minutes.
const STALL_MAX: Duration = Duration::from_secs(900);

/// The same once this end has failed.
const HURRY_MAX: Duration = Duration::from_secs(10);

/// How many messages and pieces of data wait to be looked at.
const WAITING_MAX: usize = 64;

/// How long the last words of the other end are waited for.
const LAST_MOMENT: Duration = Duration::from_secs(3);

/// How soon a wait notices that the line was stopped.
const TICK: Duration = Duration::from_millis(50);

/// Why the conversation ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The other end is gone.
    #[error("the other end is gone")]
    Ended,
    /// It is there and does nothing.
    #[error("the other end was silent for {} s", after.as_secs())]
    Silent { after: Duration },
    /// It said why it ends.
    #[error("{0}")]
    Failed(Failure),
    /// What it says makes no sense.
    #[error("the other end does not speak our protocol: {0}")]
    Wire(WireError),
    /// This end gave up.
    #[error("this end gave up")]
    Stopped,
}

impl LineError {
    /// What a message is where another one was due.
    pub fn out_of_place(message: &Message) -> LineError {
        let words: String = format!("{message:?}").chars().take(80).collect();
        LineError::Wire(WireError::Body(format!("out of place: {words}")))
    }
}

impl From<WireError> for LineError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) if error.kind() == io::ErrorKind::TimedOut => LineError::Silent { after: SILENCE_MAX },
            WireError::Io(_) => LineError::Ended,
            other => LineError::Wire(other),
        }
    }
}

/// Our end.
pub struct Line {
    output: Mutex<Output>,
    hurried: AtomicBool,
    stopped: AtomicBool,
}

/// Where this end writes.
struct Output {
    end: OwnedFd,
    /// A frame was begun and not ended: nothing that follows could be understood.
    broken: bool,
}

/// What the other end has said and nobody has looked at yet.
pub struct Incoming {
    queue: Receiver<Heard>,
    over: Mutex<Option<LineError>>,
}

/// What arrives.
pub enum Heard {
    /// Words.
    Message(Message),
    /// The body of a frame of data.
    Data(Vec<u8>),
}

impl Line {
    /// A line that writes there; the preamble is written.
    pub fn open(end: OwnedFd) -> Result<Line, LineError> {
        ioctl_fionbio(&end, true).map_err(|_| LineError::Ended)?;
        let output = Mutex::new(Output { end, broken: false });
        let line = Line { output, hurried: AtomicBool::new(false), stopped: AtomicBool::new(false) };
        let mut preamble = Vec::new();
        wire::write_preamble(&mut preamble).expect("because memory takes every byte");
        line.put(&preamble)?;
        Ok(line)
    }

    /// Talks over a pair of descriptors: one that the other end writes to, one that it reads from. What `talk` gives
    /// back goes through `farewell`, which may still say something.
    pub fn converse<T, E: From<LineError>>(
        (input, output): (OwnedFd, OwnedFd),
        talk: impl FnOnce(&Line, &Incoming) -> Result<T, E>,
        farewell: impl FnOnce(&Line, &E),
    ) -> Result<T, E> {
        let line = Line::open(output)?;
        let (heard, queue) = bounded(WAITING_MAX);
        let incoming = Incoming { queue, over: Mutex::new(None) };
        std::thread::scope(|scope| {
            scope.spawn(|| line.stay_alive());
            scope.spawn(|| {
                let over = line.listen(input, &mut |it| line.pass(it, &heard));
                *incoming.over.lock().unwrap_or_else(PoisonError::into_inner) = Some(over);
                drop(heard);
            });
            let outcome = talk(&line, &incoming);
            if let Err(error) = &outcome {
                line.hurry();
                farewell(&line, error);
            }
            line.stop();
            outcome
        })
    }

    /// Hands on what was heard; throws it away once this end has failed.
    fn pass(&self, mut it: Heard, to: &Sender<Heard>) -> bool {
        while !self.hurried.load(Ordering::Relaxed) {
            match to.send_timeout(it, TICK) {
                Ok(()) => return true,
                Err(SendTimeoutError::Timeout(back)) => it = back,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
        true
    }

    /// Says something.
    pub fn say(&self, message: &Message) -> Result<(), LineError> {
        let mut bytes = Vec::new();
        wire::put_frame(&mut bytes, Kind::Request, &message.encode());
        self.put(&bytes)
    }

    /// Writes whole frames.
    pub fn put(&self, frames: &[u8]) -> Result<(), LineError> {
        self.write(&mut self.output.lock().unwrap_or_else(PoisonError::into_inner), frames)
    }

    /// This end has failed: nothing is waited for long any more.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    /// Ends every wait at this end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Says now and then that this end lives, until the line is stopped.
    fn stay_alive(&self) {
        let mut alive = Vec::new();
        wire::put_frame(&mut alive, Kind::Request, &Message::Alive.encode());
        let mut said = Instant::now();
        while !self.is_stopped() {
            std::thread::sleep(TICK);
            if said.elapsed() < ALIVE_EVERY {
                continue;
            }
            // Where somebody else is writing, that says as much.
            let free = match self.output.try_lock() {
                Ok(output) => Some(output),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if free.is_some_and(|mut output| self.write(&mut output, &alive).is_err()) {
                return;
            }
            said = Instant::now();
        }
    }

    /// Hears everything that comes, until the other end is gone or `take` has had enough; says why it ended.
    fn listen(&self, input: OwnedFd, take: &mut dyn FnMut(Heard) -> bool) -> LineError {
        self.hear(input, take).err().unwrap_or(LineError::Stopped)
    }

    fn hear(&self, input: OwnedFd, take: &mut dyn FnMut(Heard) -> bool) -> Result<(), LineError> {
        ioctl_fionbio(&input, true).map_err(|_| LineError::Ended)?;
        let mut input = BufReader::with_capacity(256 << 10, Ear { line: self, input });
        wire::read_preamble(&mut input)?.ok_or(LineError::Ended)?;
        let mut body = Vec::new();
        loop {
            let heard = match wire::read_frame(&mut input, &mut body)?.ok_or(LineError::Ended)? {
                Kind::Request => match Message::decode(&body)? {
                    Message::Alive => continue,
                    Message::Note(text) => {
                        log::warn!("{text}");
                        continue;
                    }
                    Message::Failed(failure) => return Err(LineError::Failed(failure)),
                    message => Heard::Message(message),
                },
                Kind::Data => Heard::Data(std::mem::take(&mut body)),
                kind => return Err(LineError::Wire(WireError::Body(format!("a frame of kind {kind:?}")))),
            };
            if !take(heard) {
                return Ok(());
            }
        }
    }

    fn write(&self, output: &mut Output, mut bytes: &[u8]) -> Result<(), LineError> {
        if output.broken {
            return Err(LineError::Stopped);
        }
        // Until the last byte has left; an early return leaves it so.
        output.broken = true;
        let mut moved = Instant::now();
        while !bytes.is_empty() {
            match rustix::io::write(&output.end, bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    moved = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.is_stopped() => return Err(LineError::Stopped),
                Err(Errno::AGAIN) if moved.elapsed() >= self.patience() => {
                    return Err(LineError::Silent { after: moved.elapsed() });
                }
                Err(Errno::AGAIN) => {
                    wait(&mut [PollFd::new(&output.end, PollFlags::OUT)]).map_err(|_| LineError::Ended)?;
                }
                Err(_) => return Err(LineError::Ended),
            }
        }
        output.broken = false;
        Ok(())
    }

    /// How long the other end may take nothing.
    fn patience(&self) -> Duration {
        if self.hurried.load(Ordering::Relaxed) { HURRY_MAX } else { STALL_MAX }
    }
}

impl Incoming {
    /// What comes next; waits for it.
    pub fn next(&self) -> Result<Heard, LineError> {
        // The one who listens has patience, so this wait ends.
        self.queue.recv().map_err(|_| self.over())
    }

    /// The next words; waits for them.
    pub fn message(&self) -> Result<Message, LineError> {
        match self.next()? {
            Heard::Message(message) => Ok(message),
            Heard::Data(_) => Err(LineError::Wire(WireError::Body("data out of place".to_owned()))),
        }
    }

    /// What has come; it is closed once nothing more will.
    pub fn queue(&self) -> &Receiver<Heard> {
        &self.queue
    }

    /// Why nothing more comes.
    pub fn over(&self) -> LineError {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner).take();
        over.unwrap_or(LineError::Ended)
    }

    /// What the other end said last, where it is gone: waits a moment for it. It says better what is wrong than the end
    /// of the line does.
    pub fn last_words(&self) -> Option<Failure> {
        let moment = Deadline::after(LAST_MOMENT);
        while self.queue.recv_timeout(moment.remaining()).is_ok() {}
        match self.over() {
            LineError::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

/// Reads what comes in; an end of patience is [`io::ErrorKind::TimedOut`].
struct Ear<'a> {
    line: &'a Line,
    input: OwnedFd,
}

impl Read for Ear<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match rustix::io::read(&self.input, &mut *buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                // Nobody listens any more, so it is the end.
                Err(Errno::AGAIN) if self.line.is_stopped() => return Ok(0),
                Err(Errno::AGAIN) if begun.elapsed() >= SILENCE_MAX => return Err(io::ErrorKind::TimedOut.into()),
                Err(Errno::AGAIN) => wait(&mut [PollFd::new(&self.input, PollFlags::IN)])?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Waits a moment for an end to be ready.
fn wait(ends: &mut [PollFd<'_>]) -> io::Result<()> {
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    match poll(ends, Some(&tick)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).expect("because a process may have a few pipes")
    }

    fn line(end: OwnedFd) -> Line {
        Line::open(end).expect("because the pipe is new")
    }

    #[test]
    fn words_and_data_arrive_in_order_and_the_end_is_told() {
        let (reading, writing) = pipe();
        let (_unread, ours) = pipe();
        let speaker = line(writing);
        let mut data = Vec::new();
        wire::put_frame(&mut data, Kind::Data, b"abc");
        for message in [Message::Listed, Message::Alive] {
            speaker.say(&message).expect("because there is room");
        }
        speaker.put(&data).expect("because there is room");
        drop(speaker);
        let mut heard = Vec::new();
        let end = line(ours).listen(reading, &mut |it| {
            heard.push(match it {
                Heard::Message(message) => format!("{message:?}"),
                Heard::Data(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            });
            true
        });
        assert_eq!(heard, ["Listed", "abc"]);
        assert!(matches!(end, LineError::Ended), "{end}");
    }

    #[test]
    fn a_stopped_line_waits_for_nobody() {
        let (_unread, writing) = pipe();
        let (silent, _kept) = pipe();
        let line = line(writing);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| line.put(&vec![0; 4 << 20]));
            let listener = scope.spawn(|| line.listen(silent, &mut |_| true));
            let alive = scope.spawn(|| line.stay_alive());
            line.stop();
            assert!(matches!(writer.join(), Ok(Err(LineError::Stopped))));
            assert!(matches!(listener.join(), Ok(LineError::Ended)));
            alive.join().expect("because it only waits");
        });
        // Half a frame has left, so nothing may follow it.
        assert!(matches!(line.say(&Message::Listed), Err(LineError::Stopped)));
    }

    #[test]
    fn two_ends_that_flood_each_other_both_hear_why_one_fails() {
        let ((to_b, from_a), (to_a, from_b)) = (pipe(), pipe());
        let mut frame = Vec::new();
        wire::put_frame(&mut frame, Kind::Data, &[7; 4000]);
        let flood = |line: &Line, rounds: usize| (0..rounds).try_for_each(|_| line.put(&frame));
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| {
                let talk = |line: &Line, _: &Incoming| {
                    flood(line, 50)?;
                    Err::<(), _>(LineError::Stopped)
                };
                let farewell = |line: &Line, _: &LineError| {
                    let failure = Failure::new(crate::error::Class::Storage, "the disk is full");
                    line.say(&Message::Failed(failure)).expect("because the other end reads it in the end");
                };
                Line::converse((to_a, from_a), talk, farewell)
            });
            let b = scope.spawn(|| {
                let talk = |line: &Line, incoming: &Incoming| {
                    // Reads nothing while it writes, far more than any pipe holds.
                    let reason = |error| incoming.last_words().map_or(error, LineError::Failed);
                    flood(line, 5000).map_err(reason)?;
                    loop {
                        incoming.next()?;
                    }
                };
                Line::converse((to_b, from_b), talk, |_: &Line, _: &LineError| {}) as Result<(), LineError>
            });
            (a.join().expect("because it returns"), b.join().expect("because it returns"))
        });
        assert!(matches!(a, Err(LineError::Stopped)));
        assert!(matches!(&b, Err(LineError::Failed(failure)) if failure.message == "the disk is full"), "{b:?}");
    }
}
