//! Sending a file or a record: everything in one go, then one answer.

use std::io::{self, Read};

use crossbeam_channel::unbounded;

use super::session::{Expect, Operation, Session, Turn};
use super::{Kind, Published, Reply, Request, StoreError, StorePath, wire};
use crate::store::Payload;

/// The head of a frame, in bytes.
const HEAD: usize = 5;

/// Sends a file; the answer comes once it is durable at the far end.
pub(super) fn file(
    session: &Session,
    path: &StorePath,
    payload: &Payload,
    rivals: &[StorePath],
    operation: &Operation,
) -> Result<Reply, StoreError> {
    let unreadable = |source: io::Error| StoreError::Payload { path: payload.file.display().to_string(), source };
    // Opened before anything is sent, so that the usual mistake costs the far end nothing.
    let mut source = payload.open().map_err(unreadable)?;
    let (sender, events) = unbounded();
    let rivals = rivals.iter().map(StorePath::to_string).collect();
    let put = Request::Put { path: path.to_string(), rivals, size: payload.size };
    let mut turn = session.turn(operation)?;
    turn.request(&put, Expect::Reply, &sender, operation)?;
    let sent = content(&mut turn, &mut *source, payload.size, operation)?;
    let end = match &sent {
        // What was announced, not what was found: the far end compares.
        Ok(()) => Request::Commit { size: payload.size, sha256: wire::hex(&payload.sha256()) },
        Err(_) => Request::Abort,
    };
    turn.more(&end, operation)?;
    drop(turn);
    let reply = session.reply(&events, operation)?;
    match sent {
        Ok(()) => Ok(reply),
        Err(Stopped::Source(error)) => Err(unreadable(error)),
        Err(Stopped::Late) => Err(operation.timeout(session.place())),
        Err(Stopped::Longer) => Err(StoreError::Damaged {
            place: session.place().clone(),
            path: path.to_string(),
            detail: format!("its source is longer than the {} bytes announced", payload.size),
        }),
    }
}

/// Why a file was not sent to its end.
enum Stopped {
    Source(io::Error),
    Late,
    Longer,
}

/// Sends the data of a file, at most `size` bytes. The outer error: the connection is gone.
fn content(
    turn: &mut Turn<'_>,
    source: &mut dyn Read,
    size: u64,
    operation: &Operation,
) -> Result<Result<(), Stopped>, StoreError> {
    let mut frame = Vec::with_capacity(HEAD + wire::CHUNK);
    let mut sent = 0u64;
    while sent < size {
        // Between two frames a put can be taken back without harm to the others.
        if operation.deadline.expired() {
            return Ok(Err(Stopped::Late));
        }
        frame.clear();
        frame.resize(HEAD, 0);
        let want = (size - sent).min(wire::CHUNK as u64);
        let count = match (&mut *source).take(want).read_to_end(&mut frame) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Ok(Err(Stopped::Source(error))),
        };
        frame[..4].copy_from_slice(&(count as u32).to_be_bytes());
        frame[4] = Kind::Data as u8;
        turn.raw(&frame, operation)?;
        sent += count as u64;
    }
    Ok(match source.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Stopped::Longer),
        Err(error) => Err(Stopped::Source(error)),
    })
}

/// Sends a request with a small content behind it.
pub(super) fn record(
    session: &Session,
    request: &Request,
    content: &[u8],
    operation: &Operation,
) -> Result<Reply, StoreError> {
    if content.len() > wire::RECORD_MAX {
        let detail = format!("a record of {} bytes is longer than {}", content.len(), wire::RECORD_MAX);
        return Err(StoreError::Protocol { place: session.place().clone(), detail });
    }
    let (sender, events) = unbounded();
    let mut turn = session.turn(operation)?;
    turn.request(request, Expect::Reply, &sender, operation)?;
    let mut frame = Vec::new();
    let mut parts = content.chunks(wire::CHUNK).peekable();
    if parts.peek().is_none() {
        wire::put_frame(&mut frame, Kind::Last, &[]);
        turn.raw(&frame, operation)?;
    }
    while let Some(part) = parts.next() {
        frame.clear();
        wire::put_frame(&mut frame, if parts.peek().is_some() { Kind::Data } else { Kind::Last }, part);
        turn.raw(&frame, operation)?;
    }
    drop(turn);
    session.reply(&events, operation)
}

impl Session {
    /// What the answer to a put or an init says.
    pub(super) fn published(&self, reply: Reply) -> Result<Published, StoreError> {
        match reply {
            Reply::Published => Ok(Published::New),
            Reply::Occupied { path } => Ok(Published::Occupied(path.parse()?)),
            other => Err(self.misfit(&other)),
        }
    }
}
