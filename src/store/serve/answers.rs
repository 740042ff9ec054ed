//! The writer: sends answers in the order of the requests, and reads the files it sends as it sends them.
//!
//! Files are read here, chunk by chunk as the near end asks, so that nothing is read that cannot be sent yet.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use crossbeam_channel::Receiver;

use super::Depot;
use crate::error::{Class, Failure};
use crate::store::StoreError;
use crate::store::wire::{self, Kind, Refusal, Reply};

/// How many files one connection may have open. A near end that leaves more open has lost count.
const HANDLES_MAX: usize = 256;

/// What is said next.
pub(super) enum Answer {
    /// It is known.
    Now(Reply),
    /// A worker is at it.
    Later(Receiver<Vec<Reply>>),
    /// Opens a file and sends its first chunks.
    Open { path: String, chunks: u32 },
    /// Sends one more chunk.
    Read { handle: u32 },
    /// Sends nothing, closes a file.
    Close { handle: u32 },
}

impl Answer {
    pub(super) fn refuse(refusal: Refusal) -> Answer {
        Answer::Now(Reply::Failed(refusal))
    }
}

/// Writes answers until there are no more to come.
pub(super) fn write(depot: &dyn Depot, answers: &Receiver<Answer>, output: impl Write) -> io::Result<()> {
    let mut writer = Writer { depot, output, frame: Vec::new(), open: HashMap::new(), opened: 0 };
    answers.iter().try_for_each(|answer| writer.answer(answer))
}

struct Writer<'a, W> {
    depot: &'a dyn Depot,
    output: W,
    frame: Vec<u8>,
    open: HashMap<u32, Box<dyn Read + Send>>,
    opened: u32,
}

impl<W: Write> Writer<'_, W> {
    fn answer(&mut self, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Now(reply) => self.say(&reply),
            Answer::Later(replies) => match replies.recv() {
                Ok(replies) => replies.iter().try_for_each(|reply| self.say(reply)),
                Err(_) => self.say(&broken("a worker broke")),
            },
            Answer::Open { path, chunks } => self.open(&path, chunks),
            Answer::Read { handle } => self.chunk(handle).map(|_| ()),
            Answer::Close { handle } => {
                self.open.remove(&handle);
                Ok(())
            }
        }
    }

    fn open(&mut self, path: &str, chunks: u32) -> io::Result<()> {
        let opened = path.parse().map_err(StoreError::Path).and_then(|path| self.depot.open(&path));
        let file = match opened {
            Ok(Some(file)) if self.open.len() < HANDLES_MAX => file,
            Ok(Some(_)) => return self.say(&broken("too many files are open at once")),
            Ok(None) => return self.say(&Reply::Absent),
            Err(error) => return self.say(&Reply::Failed(error.into())),
        };
        self.opened = self.opened.wrapping_add(1);
        let handle = self.opened;
        self.open.insert(handle, file);
        self.say(&Reply::Opened { handle })?;
        for _ in 0..chunks {
            if !self.chunk(handle)? {
                break;
            }
        }
        Ok(())
    }

    /// Sends the next chunk of a file; false once there is no more to come.
    fn chunk(&mut self, handle: u32) -> io::Result<bool> {
        let Some(file) = self.open.get_mut(&handle) else {
            // The reader asked ahead, and passes over what comes after the end; it must never look like an end itself.
            self.say(&broken("no such file is open"))?;
            return Ok(false);
        };
        match fill(file, &mut self.frame) {
            Ok(whole) => {
                self.output.write_all(&self.frame)?;
                self.output.flush()?;
                if !whole {
                    self.open.remove(&handle);
                }
                Ok(whole)
            }
            Err(error) => {
                self.open.remove(&handle);
                let refusal = error.downcast::<StoreError>().map_or_else(
                    |error| Failure::new(Class::Storage, format!("cannot read on: {error}")).into(),
                    Refusal::from,
                );
                self.say(&Reply::Failed(refusal))?;
                Ok(false)
            }
        }
    }

    fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.frame.clear();
        wire::put_frame(&mut self.frame, Kind::Reply, &reply.encode());
        self.output.write_all(&self.frame)?;
        self.output.flush()
    }
}

/// Reads the next chunk into a frame; false where it is the last.
fn fill(file: &mut Box<dyn Read + Send>, frame: &mut Vec<u8>) -> io::Result<bool> {
    const HEAD: usize = 5;
    frame.clear();
    frame.resize(HEAD, 0);
    // One byte more than fits tells the last chunk from a full one without another round.
    let count = file.take(wire::CHUNK as u64).read_to_end(frame)?;
    let whole = count == wire::CHUNK;
    let kind = if whole { Kind::Data } else { Kind::Last };
    frame[..4].copy_from_slice(&(count as u32).to_be_bytes());
    frame[4] = kind as u8;
    Ok(whole)
}

fn broken(words: &str) -> Reply {
    Reply::Failed(Failure::new(Class::Bug, words).into())
}
