//! A file of the far end, read as a stream: a bounded part of it is on its way, and a reader may stop anywhere.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::session::{Event, Expect, Operation, Session};
use crate::store::wire::{CHUNKS_AHEAD, Reply, Request};
use crate::store::{StoreError, StorePath};

/// A file open at the far end.
pub(super) struct RemoteFile {
    session: Arc<Session>,
    path: String,
    allowed: Duration,
    handle: u32,
    sender: Sender<Event>,
    events: Receiver<Event>,
    chunk: Vec<u8>,
    at: usize,
    /// The last chunk is here, or reading failed: the far end has closed the file.
    over: bool,
}

impl RemoteFile {
    /// Opens a file; its first chunks come with the answer. `None` where it is absent.
    pub(super) fn open(
        session: Arc<Session>,
        path: &StorePath,
        allowed: Duration,
    ) -> Result<Option<RemoteFile>, StoreError> {
        let operation = Operation::new("open", path.as_str(), allowed);
        let (sender, events) = unbounded();
        let request = Request::Open { path: path.to_string(), chunks: CHUNKS_AHEAD };
        session.turn(&operation)?.request(&request, Expect::Opened(CHUNKS_AHEAD), &sender, &operation)?;
        let handle = match session.reply(&events, &operation)? {
            Reply::Opened { handle } => handle,
            Reply::Absent => return Ok(None),
            other => return Err(session.misfit(&other)),
        };
        let path = path.to_string();
        let (chunk, at, over) = (Vec::new(), 0, false);
        Ok(Some(RemoteFile { session, path, allowed, handle, sender, events, chunk, at, over }))
    }

    /// Waits for the next chunk, and asks for one more in its place.
    fn next_chunk(&mut self) -> Result<(), StoreError> {
        let operation = Operation::new("read", &self.path, self.allowed);
        let event = self.session.event(&self.events, &operation).inspect_err(|_| self.over = true)?;
        let Event::Data { bytes, last } = event else {
            self.over = true;
            let detail = "a reply instead of data".to_owned();
            return Err(StoreError::Protocol { place: self.session.place().clone(), detail });
        };
        (self.chunk, self.at, self.over) = (bytes, 0, last);
        if !last {
            let request = Request::Read { handle: self.handle };
            self.session.turn(&operation)?.request(&request, Expect::Chunks(1), &self.sender, &operation)?;
        }
        Ok(())
    }
}

impl Read for RemoteFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.over || buffer.is_empty() {
                return Ok(0);
            }
            self.next_chunk().map_err(read_error)?;
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        if !self.over {
            self.session.leave(self.handle);
        }
    }
}

/// A store's error inside an error of reading, with a kind that tells silence from other trouble.
fn read_error(error: StoreError) -> io::Error {
    let kind = match &error {
        StoreError::Timeout { .. } => io::ErrorKind::TimedOut,
        StoreError::Unreachable { .. } => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
