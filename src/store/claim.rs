//! Who begins a timeline, and where the one before it ends: a small record in an archive, made by exclusive creation.
//!
//! A claim closes the end of its parent timeline: from the segment of the fork on, a place takes no whole segment of it
//! any more, whoever offers one. Every store asks [`Claim::refuses`] before it publishes a file below `wal/`. What a
//! claim is made for, and how it becomes a fact, is not known here: see `archive::claims`.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::{Encoding, Store, StoreError, StorePath};
use crate::wal::lsn::text_or_none;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalName};

/// The folder of the claims, at the root of an archive.
pub const FOLDER: &str = "claims";

/// The folder of everything that a claim closes.
const WAL: &str = "wal/";

/// No claim is larger, in bytes.
const SIZE_MAX: u64 = 16 << 10;

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Somebody is about to begin the timeline; its history is not served yet.
    Claimed,
    /// The timeline has begun.
    Confirmed,
    /// It was given up. Nothing is closed; its history, should there be one, is not served.
    Void,
}

/// The claim to one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The version of this form: 1.
    pub format: u32,
    /// The timeline that begins.
    pub timeline: TimelineId,
    /// The timeline that it leaves.
    pub parent: TimelineId,
    /// Where it leaves it. None while that is not known: then nothing is closed yet.
    #[serde(with = "text_or_none")]
    pub fork: Option<Lsn>,
    /// The size of a segment, in bytes.
    pub segment_size: SegmentSize,
    /// The node that begins it.
    pub node: String,
    /// Drawn anew for each attempt, so that a node knows its own claim again.
    pub id: String,
    /// How far it has come.
    pub state: State,
    /// When it came so far, by that node's clock, with offset.
    pub at: String,
}

impl Claim {
    /// True where a file may not be stored any more: a segment of the parent, at the fork or behind it.
    ///
    /// The segment of the fork itself still comes as `.partial`, and goes on under the name of the new timeline.
    pub fn refuses(&self, name: WalName) -> bool {
        let (Some(fork), true) = (self.fork, self.state != State::Void) else { return false };
        let last = fork.segment(self.segment_size);
        let number = name.segment().and_then(|segment| segment.number(self.segment_size));
        let behind = match (name, number) {
            (WalName::Segment(_), Some(number)) => number >= last,
            (WalName::Partial(_), Some(number)) => number > last,
            _ => false,
        };
        behind && name.timeline() == self.parent
    }

    /// Who claims what, for a message.
    pub fn words(&self) -> String {
        let Claim { timeline, parent, node, at, .. } = self;
        let fork = self.fork.map_or_else(|| "a position not known yet".to_owned(), |fork| fork.to_string());
        let verb = if self.state == State::Confirmed { "leaves" } else { "is about to leave" };
        format!("timeline {timeline} of node {node} {verb} timeline {parent} at {fork} (since {at})")
    }

    /// The path of the claim to a timeline.
    pub fn path(timeline: TimelineId) -> StorePath {
        format!("{FOLDER}/{:08X}.json", timeline.0).parse().expect("because digits are plain")
    }

    /// The content of its file.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("because plain data has no reason not to become JSON");
        json.push(b'\n');
        json
    }

    /// Reads the content of a claim's file.
    pub fn parse(file: impl Read) -> io::Result<Claim> {
        let mut text = Vec::new();
        file.take(SIZE_MAX).read_to_end(&mut text)?;
        let unclear = |error| io::Error::new(io::ErrorKind::InvalidData, format!("it cannot be understood: {error}"));
        serde_json::from_slice(&text).map_err(unclear)
    }
}

/// The name of the WAL file that a path stands for; none for a path that no claim closes.
pub fn closable(path: &StorePath) -> Option<WalName> {
    let below = path.as_str().starts_with(WAL);
    below.then(|| Encoding::split(path.file_name()).0.parse().ok()).flatten()
}

/// Every claim in a place, oldest timeline first. One that cannot be understood is an error: it may close something.
pub fn all(store: &dyn Store) -> Result<Vec<Claim>, StoreError> {
    let mut claims = Vec::new();
    for entry in store.list(&FOLDER.parse()?)?.unwrap_or_default() {
        if !is_claim(&entry.name) {
            continue;
        }
        let path = format!("{FOLDER}/{}", entry.name).parse()?;
        // One may be taken away between two calls.
        let Some(file) = store.open(&path)? else { continue };
        let read = Claim::parse(file);
        claims.push(read.map_err(|error| StoreError::from_read(store.place(), path.as_str(), error))?);
    }
    claims.sort_by_key(|claim| claim.timeline);
    Ok(claims)
}

/// True for the name of a claim's file; what else lies in the folder is not ours.
pub fn is_claim(name: &str) -> bool {
    name.strip_suffix(".json").is_some_and(|stem| stem.len() == 8 && stem.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What keeps a file out of a place, asked through the place itself: for stores that cannot look at their own files.
pub fn refusal(store: &dyn Store, path: &StorePath) -> Result<(), StoreError> {
    let Some(name) = closable(path) else { return Ok(()) };
    let claims = all(store)?;
    let refused = claims.iter().find(|claim| claim.refuses(name));
    refused.map_or(Ok(()), |claim| Err(StoreError::superseded(store.place(), path, claim)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(state: State, fork: Option<Lsn>) -> Claim {
        Claim {
            format: 1,
            timeline: TimelineId(2),
            parent: TimelineId(1),
            fork,
            segment_size: SegmentSize::DEFAULT,
            node: "beta".to_owned(),
            id: "x".to_owned(),
            state,
            at: "now".to_owned(),
        }
    }

    fn refused(claim: &Claim, name: &str) -> bool {
        claim.refuses(name.parse().expect("because it is well formed"))
    }

    #[test]
    fn the_parent_is_closed_from_the_segment_of_the_fork_on() {
        let claim = claim(State::Claimed, Some(Lsn(0x500_0100)));
        for closed in ["000000010000000000000005", "000000010000000100000000", "000000010000000000000006.partial"] {
            assert!(refused(&claim, closed), "{closed}");
        }
        for open in [
            "000000010000000000000004",
            "000000010000000000000005.partial",
            "000000010000000000000005.00000028.backup",
            "000000020000000000000005",
            "000000020000000000000006",
            "00000002.history",
            "000000030000000000000006",
        ] {
            assert!(!refused(&claim, open), "{open}");
        }
    }

    #[test]
    fn a_fork_between_two_segments_closes_the_second() {
        let claim = claim(State::Confirmed, Some(Lsn(0x500_0000)));
        assert!(!refused(&claim, "000000010000000000000004"));
        assert!(refused(&claim, "000000010000000000000005"));
    }

    #[test]
    fn what_is_void_or_only_announced_closes_nothing() {
        assert!(!refused(&claim(State::Void, Some(Lsn(0x500_0100))), "000000010000000000000009"));
        assert!(!refused(&claim(State::Claimed, None), "000000010000000000000009"));
    }

    #[test]
    fn a_claim_survives_its_file() {
        for fork in [None, Some(Lsn(0x16_B374_D848))] {
            let claim = claim(State::Claimed, fork);
            assert_eq!(Claim::parse(claim.to_json().as_slice()).expect("because it was just written"), claim);
        }
        assert!(Claim::parse(&b"{}"[..]).is_err());
    }

    #[test]
    fn only_wal_is_closed() {
        let name = |path: &str| closable(&path.parse().expect("because it is plain"));
        assert!(name("wal/0000000100000000/000000010000000000000005.zst").is_some());
        assert!(name("backup/x/000000010000000000000005.zst").is_none());
        assert!(name("wal/0000000100000000/notes.txt").is_none());
    }
}
