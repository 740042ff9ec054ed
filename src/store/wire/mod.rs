//! The protocol between `ssh` at this end and `serve-archive` at the other: frames over a pair of byte streams.
//!
//! Each direction begins with a preamble (a word nobody's login script prints, and the version), then come frames: the
//! length of the body as a big-endian `u32`, a byte that says the kind, the body. Control bodies are JSON, data is raw.
//! Requests are answered in the order in which they came; the frames of one request stand together, so nothing needs a
//! number. No frame is longer than [`FRAME_MAX`], and whatever arrives malformed is an error, never a panic.
//!
//! ```text
//! near end                                    far end
//! preamble, Hello                          →
//!                                          ←  preamble, Hello | Failed
//! Look | List | Settle | Remove | Space … →
//!                                          ←  Entry | Entries* | Flag | Space | Failed
//! Put, data*, Commit | Abort               →
//!                                          ←  Published | Occupied | Aborted | Failed, after the file is durable
//! Open{chunks}                             →
//!                                          ←  Absent | Failed | Opened, then up to so many data frames
//! Read{handle}                             →
//!                                          ←  one data frame | Failed
//! Close{handle}                            →  (no answer)
//! ```
//!
//! A reader of a file asks for its next chunks itself, so what travels unread is bounded and a slow or forgotten
//! reader never holds up anybody else's answer. This module does no input or output beyond `Read` and `Write`.

use std::io::{self, Read, Write};

mod message;
mod trouble;

pub use message::{PROGRAM, Reply, Request, Want, WireEntry};
pub(crate) use message::{hex, unhex};
pub use trouble::{Refusal, Trouble};

/// The version of this protocol. Both ends must speak the same one.
pub const VERSION: u16 = 1;

/// What each direction begins with, before the version.
pub const MAGIC: [u8; 6] = *b"pgwarm";

/// The longest body that is accepted, in bytes.
pub const FRAME_MAX: usize = 1 << 20;

/// How much data is put into one frame, in bytes: big enough that its head costs nothing, small enough that a slow
/// line gets on within a deadline.
pub const CHUNK: usize = 256 << 10;

/// How many chunks of a file are on their way before the reader asks for more: 4 MiB, the usual compressed segment in
/// one round trip.
pub const CHUNKS_AHEAD: u32 = 16;

/// The longest record that [`Request::Replace`] and [`Request::Init`] carry, in bytes.
pub const RECORD_MAX: usize = 16 << 20;

/// What stands in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`Request`].
    Request = 1,
    /// A [`Reply`].
    Reply = 2,
    /// Data, and more of it follows.
    Data = 3,
    /// The last data of a file or record; may be empty.
    Last = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Request, Kind::Reply, Kind::Data, Kind::Last].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What can go wrong with the stream itself.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream broke; an end in the middle of a frame is `UnexpectedEof`.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The stream begins with something else, told as far as it can be printed.
    #[error("it begins with '{0}'")]
    NotOurs(String),
    /// The other end speaks another version.
    #[error("it speaks version {0}, this end version {VERSION}")]
    Version(u16),
    /// A frame longer than any we send.
    #[error("a frame of {0} bytes")]
    TooLong(u64),
    /// A kind of frame that this version does not have.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    /// A body that cannot be understood, or does not belong here.
    #[error("{0}")]
    Body(String),
}

/// Writes what a direction begins with.
pub fn write_preamble(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&MAGIC)?;
    output.write_all(&VERSION.to_be_bytes())
}

/// Reads what a direction must begin with. `None`: it ended before it began.
pub fn read_preamble(input: &mut impl Read) -> Result<Option<()>, WireError> {
    let mut head = [0u8; MAGIC.len() + 2];
    let count = read_up_to(input, &mut head)?;
    if count == 0 {
        return Ok(None);
    }
    if count < head.len() || head[..MAGIC.len()] != MAGIC {
        // A login script that prints something is the usual reason: show what it prints.
        let mut text = head[..count].to_vec();
        let mut more = [0u8; 56];
        if count == head.len() {
            let extra = input.read(&mut more).unwrap_or(0);
            text.extend_from_slice(&more[..extra]);
        }
        let line: String = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().escape_debug().collect();
        return Err(WireError::NotOurs(line));
    }
    let version = u16::from_be_bytes([head[MAGIC.len()], head[MAGIC.len() + 1]]);
    if version == VERSION { Ok(Some(())) } else { Err(WireError::Version(version)) }
}

/// Puts the head of a frame, and its body, behind what is in the buffer.
///
/// # Panics
/// If the body is longer than [`FRAME_MAX`]: all callers cut data into chunks.
pub fn put_frame(buffer: &mut Vec<u8>, kind: Kind, body: &[u8]) {
    assert!(body.len() <= FRAME_MAX, "because data is cut into chunks and messages are short");
    buffer.extend_from_slice(&(body.len() as u32).to_be_bytes());
    buffer.push(kind as u8);
    buffer.extend_from_slice(body);
}

/// Reads one frame; its body replaces what is in the buffer. `None`: the stream ended between two frames.
pub fn read_frame(input: &mut impl Read, body: &mut Vec<u8>) -> Result<Option<Kind>, WireError> {
    let mut head = [0u8; 5];
    match read_up_to(input, &mut head)? {
        0 => return Ok(None),
        5 => {}
        _ => return Err(WireError::Io(io::ErrorKind::UnexpectedEof.into())),
    }
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = Kind::from_byte(head[4]).ok_or(WireError::UnknownKind(head[4]))?;
    if length > FRAME_MAX {
        return Err(WireError::TooLong(length as u64));
    }
    body.resize(length, 0);
    input.read_exact(body)?;
    Ok(Some(kind))
}

/// Fills the buffer as far as the stream goes.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, kind, body);
        bytes
    }

    #[test]
    fn a_stream_that_begins_otherwise_is_shown() {
        let error = read_preamble(&mut &b"Welcome to the machine\nmore"[..]).expect_err("no preamble");
        assert_eq!(error.to_string(), "it begins with 'Welcome to the machine'");
        let error = read_preamble(&mut &b"pgwarm\x00\x02"[..]).expect_err("another version");
        assert_eq!(error.to_string(), "it speaks version 2, this end version 1");
        assert!(matches!(read_preamble(&mut &b"pgw"[..]), Err(WireError::NotOurs(_))));
        assert!(matches!(read_preamble(&mut &b""[..]), Ok(None)));
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_is_read() {
        let mut bytes = (FRAME_MAX as u32 + 1).to_be_bytes().to_vec();
        bytes.push(Kind::Data as u8);
        let mut body = Vec::new();
        assert!(matches!(read_frame(&mut &bytes[..], &mut body), Err(WireError::TooLong(_))));
        assert_eq!(body.capacity(), 0);
    }

    #[test]
    fn a_frame_cut_short_is_no_end_of_the_stream() {
        let whole = frame(Kind::Data, b"abc");
        for length in 1..whole.len() {
            let mut body = Vec::new();
            assert!(read_frame(&mut &whole[..length], &mut body).is_err(), "{length} bytes");
        }
        assert!(matches!(read_frame(&mut &whole[..0], &mut Vec::new()), Ok(None)));
    }

    proptest! {
        #[test]
        fn whatever_arrives_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_preamble(&mut &bytes[..]);
            let mut input = &bytes[..];
            let mut body = Vec::new();
            while let Ok(Some(_)) = read_frame(&mut input, &mut body) {
                let _ = Request::decode(&body);
                let _ = Reply::decode(&body);
            }
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
        }

        #[test]
        fn a_damaged_message_is_an_error_or_another_message(at in 0usize..60, byte in any::<u8>()) {
            let (path, rivals) = ("wal/0000000100000000/x.zst".to_owned(), vec!["a".to_owned()]);
            let request = Request::Put { path, rivals, size: 7 };
            let mut body = request.encode();
            let at = at % body.len();
            body[at] = byte;
            let _ = Request::decode(&body);
        }

        #[test]
        fn frames_come_out_as_they_went_in(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                put_frame(&mut bytes, Kind::Last, body);
            }
            let (mut input, mut body, mut seen) = (&bytes[..], Vec::new(), Vec::new());
            while let Some(kind) = read_frame(&mut input, &mut body).map_err(|e| TestCaseError::fail(e.to_string()))? {
                prop_assert_eq!(kind, Kind::Last);
                seen.push(body.clone());
            }
            prop_assert_eq!(seen, bodies);
        }
    }
}
