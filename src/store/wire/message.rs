//! What is said in control frames: requests, replies, and entries in a form that travels.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Refusal, WireError};
use crate::store::{Entry, EntryKind};

/// The version of the program, for messages.
pub const PROGRAM: &str = concat!("pgwarm ", env!("CARGO_PKG_VERSION"));

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// To use an archive that is there.
    Store,
    /// To make a new one: only [`Request::Init`] and [`Request::Ping`] are answered.
    Init,
}

/// What the near end asks. Paths are checked by the far end as they arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first one, once.
    Hello { program: String, cluster: String, want: Want },
    /// [`Store::look`](crate::store::Store::look).
    Look { path: String },
    /// [`Store::list`](crate::store::Store::list).
    List { folder: String },
    /// [`Store::open`](crate::store::Store::open), and the first so many chunks.
    Open { path: String, chunks: u32 },
    /// One more chunk.
    Read { handle: u32 },
    /// The reader is gone; not answered.
    Close { handle: u32 },
    /// [`Store::publish`](crate::store::Store::publish); data frames and `Commit` or `Abort` follow.
    Put { path: String, rivals: Vec<String>, size: u64 },
    /// Ends a put. `sha256` is in hexadecimal.
    Commit { size: u64, sha256: String },
    /// Ends a put that its sender could not finish.
    Abort,
    /// [`Store::settle`](crate::store::Store::settle).
    Settle { path: String },
    /// [`Store::replace`](crate::store::Store::replace); data frames follow, the last one marked.
    Replace { path: String },
    /// [`Store::remove`](crate::store::Store::remove).
    Remove { path: String },
    /// [`Store::space`](crate::store::Store::space).
    Space,
    /// Makes the cluster's folder and the identity file `path` in it; data frames follow, the last one marked.
    Init { path: String },
    /// Is anybody there?
    Ping,
}

/// What the far end answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`.
    Hello { program: String },
    /// To `Look`.
    Entry(Option<WireEntry>),
    /// To `List`: in as many frames as it takes.
    Entries { entries: Vec<WireEntry>, more: bool },
    /// To `List` and `Open`: there is no such thing.
    Absent,
    /// To `Open`: data frames follow.
    Opened { handle: u32 },
    /// To `Put` and `Init`: durable under its name.
    Published,
    /// To `Put` and `Init`: this path was there before.
    Occupied { path: String },
    /// To `Abort`.
    Aborted,
    /// To `Settle` and `Remove`.
    Flag(bool),
    /// To `Replace` and `Ping`.
    Done,
    /// To `Space`.
    Space { free: u64, total: u64 },
    /// To anything.
    Failed(Refusal),
}

impl Request {
    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("because these types hold nothing that JSON cannot")
    }

    /// Reads the body of a frame.
    pub fn decode(body: &[u8]) -> Result<Request, WireError> {
        serde_json::from_slice(body).map_err(|error| WireError::Body(format!("no request: {error}")))
    }
}

impl Reply {
    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("because these types hold nothing that JSON cannot")
    }

    /// Reads the body of a frame.
    pub fn decode(body: &[u8]) -> Result<Reply, WireError> {
        serde_json::from_slice(body).map_err(|error| WireError::Body(format!("no reply: {error}")))
    }
}

/// An [`Entry`] that travels; the time is in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEntry {
    name: String,
    kind: char,
    size: u64,
    modified: i64,
}

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> Self {
        let nanoseconds = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let modified = match entry.modified.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => nanoseconds(since),
            Err(before) => -nanoseconds(before.duration()),
        };
        let kind = match entry.kind {
            EntryKind::File => 'f',
            EntryKind::Folder => 'd',
            EntryKind::Other => 'o',
        };
        WireEntry { name: entry.name.clone(), kind, size: entry.size, modified }
    }
}

impl From<WireEntry> for Entry {
    fn from(wire: WireEntry) -> Self {
        let distance = Duration::from_nanos(wire.modified.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        let moment = if wire.modified < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
        let kind = match wire.kind {
            'f' => EntryKind::File,
            'd' => EntryKind::Folder,
            _ => EntryKind::Other,
        };
        Entry { name: wire.name, kind, size: wire.size, modified: moment.unwrap_or(epoch) }
    }
}

/// Writes a hash in hexadecimal.
pub(crate) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a hash in hexadecimal.
pub(crate) fn unhex(text: &str) -> Result<[u8; 32], WireError> {
    let wrong = || WireError::Body(format!("'{text}' is no SHA-256"));
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut hash = [0u8; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_survives_the_journey(
            name in "[a-z0-9.]{1,20}",
            size in any::<u64>(),
            at in -4_000_000_000i64..4_000_000_000,
        ) {
            let distance = Duration::new(at.unsigned_abs(), 123_456_789);
            let epoch = SystemTime::UNIX_EPOCH;
            let modified = if at < 0 { epoch - distance } else { epoch + distance };
            let entry = Entry { name, kind: EntryKind::File, size, modified };
            let reply = Reply::Entry(Some(WireEntry::from(&entry)));
            let Ok(Reply::Entry(Some(back))) = Reply::decode(&reply.encode()) else {
                return Err(TestCaseError::fail("another reply"));
            };
            prop_assert_eq!(Entry::from(back), entry);
        }

        #[test]
        fn a_hash_survives_the_journey(hash in any::<[u8; 32]>()) {
            prop_assert_eq!(unhex(&hex(&hash)).ok(), Some(hash));
        }

        #[test]
        fn a_text_that_is_no_hash_is_an_error(text in "\\PC{0,80}") {
            prop_assume!(text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()));
            prop_assert!(unhex(&text).is_err());
        }
    }
}
