//! Gaps that a person has looked at and accepted: a small file at the root of the archive that says which and why.
//!
//! An acknowledged gap is shown and counts as no finding; what is missing stays missing, and no restore crosses it.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::continuity::Gap;
use super::places::Archive;
use crate::store::{StoreError, StorePath};
use crate::wal::{SegmentName, SegmentNumber, SegmentSize};

/// The file, at the root of an archive.
const FILE: &str = "acknowledged.json";

/// No such file is larger, in bytes.
const SIZE_MAX: u64 = 16 << 20;

/// A gap that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The first segment.
    pub first: SegmentName,
    /// The last segment, on the same timeline.
    pub last: SegmentName,
    /// Why it is accepted.
    pub reason: String,
    /// The node on which it was said.
    pub node: String,
    /// When, with offset.
    pub at: String,
}

impl Acknowledgement {
    fn covers(&self, gap: &Gap, number: SegmentNumber, size: SegmentSize) -> bool {
        let (first, last) = (self.first.number(size), self.last.number(size));
        self.first.timeline() == gap.timeline && first.is_some_and(|f| f <= number) && last.is_some_and(|l| l >= number)
    }
}

/// What was acknowledged in an archive, oldest first.
pub fn read(archive: &Archive) -> Result<Vec<Acknowledgement>, ArchiveError> {
    let Some(file) = archive.store.open(&path())? else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    let read = file.take(SIZE_MAX).read_to_end(&mut text);
    read.map_err(|error| StoreError::from_read(archive.store.place(), FILE, error))?;
    serde_json::from_slice(&text).map_err(|error| ArchiveError::Refused {
        reason: format!("the record '{FILE}' in the {} cannot be understood: {error}", archive.store.place()),
        hint: "Correct it or move it aside; without it every gap counts again.".to_owned(),
    })
}

/// Writes down everything that was acknowledged, durably.
pub fn write(archive: &Archive, all: &[Acknowledgement]) -> Result<(), ArchiveError> {
    let json = serde_json::to_string_pretty(all).expect("because plain data has no reason not to become JSON");
    Ok(archive.store.replace(&path(), format!("{json}\n").as_bytes())?)
}

/// Cuts a gap into the parts that somebody accepted, with the words of who did, and the others.
pub fn split<'a>(gap: &Gap, all: &'a [Acknowledgement], size: SegmentSize) -> Vec<(Gap, Option<&'a Acknowledgement>)> {
    let mut parts: Vec<(Gap, Option<&Acknowledgement>)> = Vec::new();
    let mut next = gap.first;
    while next <= gap.last {
        let said = all.iter().find(|said| said.covers(gap, next, size));
        // The part ends where this acknowledgement does, or where the next one begins.
        let end = match said {
            Some(said) => said.last.number(size),
            None => {
                let begins = all.iter().filter(|said| said.first.timeline() == gap.timeline);
                let begins = begins.filter_map(|said| said.first.number(size)).filter(|first| *first > next);
                begins.min().and_then(SegmentNumber::previous)
            }
        };
        let last = end.unwrap_or(gap.last).min(gap.last);
        parts.push((Gap { first: next, last, ..gap.clone() }, said));
        next = last.next();
    }
    parts
}

fn path() -> StorePath {
    FILE.parse().expect("because the name is plain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::continuity::Because;
    use crate::wal::TimelineId;

    fn gap(first: u64, last: u64) -> Gap {
        let (first, last) = (SegmentNumber(first), SegmentNumber(last));
        Gap { timeline: TimelineId(1), first, last, because: Because::Inside }
    }

    fn said(timeline: u32, first: u64, last: u64) -> Acknowledgement {
        let name = |n| SegmentName::new(TimelineId(timeline), SegmentNumber(n), SegmentSize::DEFAULT);
        let (first, last) = (name(first), name(last));
        Acknowledgement { first, last, reason: "lost".into(), node: "db1".into(), at: "now".into() }
    }

    fn parts(gap: &Gap, all: &[Acknowledgement]) -> Vec<(u64, u64, bool)> {
        let parts = split(gap, all, SegmentSize::DEFAULT).into_iter();
        parts.map(|(part, said)| (part.first.0, part.last.0, said.is_some())).collect()
    }

    #[test]
    fn a_gap_is_cut_where_somebody_accepted_it() {
        assert_eq!(parts(&gap(5, 9), &[]), [(5, 9, false)]);
        assert_eq!(parts(&gap(5, 9), &[said(1, 1, 20)]), [(5, 9, true)]);
        assert_eq!(parts(&gap(5, 9), &[said(1, 6, 7)]), [(5, 5, false), (6, 7, true), (8, 9, false)]);
        assert_eq!(parts(&gap(5, 9), &[said(1, 8, 9), said(1, 1, 5)]), [(5, 5, true), (6, 7, false), (8, 9, true)]);
        assert_eq!(parts(&gap(5, 9), &[said(2, 1, 20)]), [(5, 9, false)]);
    }
}
