//! Our ends of the pipes to ssh: never blocking past a moment, whatever the other end does.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::system::clock::Deadline;

/// How large a pipe is made, in bytes: the far end must have something to do while this end reads a file.
const PIPE_SIZE: usize = 1 << 20;

/// A stream that took a byte this recently gets on, and a frame begun is then finished past its deadline.
const MOVING: Duration = Duration::from_secs(1);

/// Makes a pipe for our data: reading end, writing end.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    // Refused where the user's allowance for pipes is used up; then the usual 64 KiB must do.
    let _ = fcntl_setpipe_size(&writing, PIPE_SIZE);
    Ok((reading, writing))
}

/// The writing end.
pub(super) struct PipeWriter(OwnedFd);

impl PipeWriter {
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&end, true)?;
        Ok(PipeWriter(end))
    }

    /// Writes everything. Past the deadline it goes on only while bytes still leave, and no longer than `grace`: half
    /// a frame cannot be taken back, and giving the connection up would hit everybody who uses it.
    pub(super) fn write_all(&mut self, mut bytes: &[u8], deadline: Deadline, grace: Duration) -> io::Result<()> {
        let end = Instant::now() + deadline.remaining() + grace;
        let mut moved: Option<Instant> = None;
        while !bytes.is_empty() {
            match rustix::io::write(&self.0, bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    moved = Some(Instant::now());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let moving = moved.map_or(Duration::ZERO, |at| MOVING.saturating_sub(at.elapsed()));
                    let patience = deadline.remaining().max(moving).min(end.saturating_duration_since(Instant::now()));
                    if patience.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let mut ends = [PollFd::new(&self.0, PollFlags::OUT)];
                    wait(&mut ends, Some(patience))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes a few bytes if there is room at once; true if they left. A pipe takes so few all or not at all.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> bool {
        debug_assert!(bytes.len() <= 4096, "because a pipe takes no more in one piece");
        rustix::io::write(&self.0, bytes) == Ok(bytes.len())
    }
}

/// The reading end. It ends when the other end does, or when the [`Stop`] that belongs to it is dropped.
pub(super) struct PipeReader {
    end: OwnedFd,
    stop: OwnedFd,
}

/// Ends a [`PipeReader`] by being dropped.
pub(super) struct Stop(#[expect(dead_code, reason = "it works by being closed")] OwnedFd);

impl PipeReader {
    pub(super) fn new(end: OwnedFd) -> io::Result<(Self, Stop)> {
        ioctl_fionbio(&end, true)?;
        let (stop, stopper) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((PipeReader { end, stop }, Stop(stopper)))
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.end, &mut *buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let ends = &mut [
                        PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::IN),
                        PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
                    ];
                    wait(ends, None)?;
                    if !ends[1].revents().is_empty() {
                        return Ok(0);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Waits until one of the ends is ready, or the time is over.
fn wait(ends: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<()> {
    // A time too long to say is as good as none at all.
    let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
    match poll(ends, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pipe_does_not_hold_us_past_the_deadline() {
        let (_reading, writing) = pipe().expect("a pipe");
        let mut writer = PipeWriter::new(writing).expect("a writer");
        let begun = Instant::now();
        let deadline = Deadline::after(Duration::from_millis(50));
        let error = writer.write_all(&vec![0; 4 << 20], deadline, Duration::from_secs(2)).expect_err("it is full");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert!(!writer.try_write(b"x"));
    }

    #[test]
    fn a_reader_ends_when_it_is_stopped() {
        let (reading, _writing) = pipe().expect("a pipe");
        let (mut reader, stop) = PipeReader::new(reading).expect("a reader");
        let waiting = std::thread::spawn(move || reader.read(&mut [0; 8]).map_err(|error| error.kind()));
        drop(stop);
        assert_eq!(waiting.join().expect("it ends"), Ok(0));
    }
}
