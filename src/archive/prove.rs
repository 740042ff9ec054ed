//! Damage must not travel: what an archive or a queue holds is read and checked before it is sent on.

use std::io::{self, Read};

use super::ArchiveError;
use super::identity::Identity;
use crate::store::{Encoding, Payload};
use crate::wal::WalName;
use crate::wal::segment::{Checker, Depth, Expected};
use crate::wal::timeline::TimelineHistory;

/// How much is decoded and checked at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// Checks that a stored file can be decoded and is the WAL of this cluster that its name says.
///
/// A compressed file carries checksums of its own, so its pages are enough; of a plain one every record is checked.
pub fn prove(payload: &Payload, name: WalName, identity: &Identity) -> Result<(), ArchiveError> {
    let damaged = |detail: String| ArchiveError::NotTheWal { name, place: payload.file.display().to_string(), detail };
    let stored = payload.open().map_err(ArchiveError::io("read", &payload.file))?;
    let mut content = payload.encoding.decoder(stored).map_err(|error| damaged(error.to_string()))?;
    let Some(segment) = name.segment().filter(|_| name.holds_wal()) else {
        let mut text = String::new();
        content.read_to_string(&mut text).map_err(|error| damaged(error.to_string()))?;
        return match name {
            WalName::History(timeline) => {
                TimelineHistory::parse(timeline, &text).map(drop).map_err(|error| damaged(error.to_string()))
            }
            _ => Ok(()),
        };
    };
    let expected = Expected {
        name: segment,
        system_id: Some(identity.system_identifier),
        size: Some(identity.segment_size),
        partial: matches!(name, WalName::Partial(_)),
    };
    let depth = if payload.encoding == Encoding::None { Depth::Records } else { Depth::Pages };
    let mut checker = Checker::with_depth(expected, depth);
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(error.to_string())),
        };
        checker.feed(offset, &buffer[..count]).map_err(|error| damaged(error.to_string()))?;
        offset += count as u64;
    }
    checker.finish().map(drop).map_err(|error| damaged(error.to_string()))
}
