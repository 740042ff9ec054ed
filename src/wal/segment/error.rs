//! What can be wrong with a segment, in words an operator can act on.

use crate::error::{Class, Explain};
use crate::wal::page::PageError;
use crate::wal::record::Tear;
use crate::wal::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId};

/// Why bytes are not the segment that their name promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The first page is none.
    #[error("segment '{name}' is no WAL: its first page {error}")]
    NoWal { name: SegmentName, error: PageError },
    /// Another page is none.
    #[error("segment '{name}' is damaged: the page at byte {offset} {error}")]
    Page { name: SegmentName, offset: u64, error: PageError },
    /// Another cluster wrote it.
    #[error("segment '{name}' is from another cluster: its system identifier is '{found}', not '{expected}'")]
    OtherCluster { name: SegmentName, found: SystemId, expected: SystemId },
    /// Its long header names another segment size.
    #[error("segment '{name}' is from a cluster with segments of {found}, not {expected}")]
    OtherSize { name: SegmentName, found: SegmentSize, expected: SegmentSize },
    /// The name stands for no segment at this size.
    #[error("'{name}' names no segment where segments are of {size}")]
    NameTooHigh { name: SegmentName, size: SegmentSize },
    /// It has too many or too few bytes.
    #[error("segment '{name}' has '{found}' bytes instead of '{expected}'")]
    Length { name: SegmentName, found: u64, expected: u64 },
    /// A page belongs elsewhere in the log.
    #[error("segment '{name}' holds a page of another place: byte {offset} should be LSN {expected}, but is {found}")]
    OtherAddress { name: SegmentName, offset: u64, found: Lsn, expected: Lsn },
    /// A page is of a timeline that the segment's cannot descend from.
    #[error("segment '{name}' holds a page of timeline {found} at byte {offset}, where it can be at most {highest}")]
    TimelineTooHigh { name: SegmentName, offset: u64, found: TimelineId, highest: TimelineId },
    /// A page is of an older timeline than the one before it.
    #[error("segment '{name}' goes back from timeline {before} to {found} at byte {offset}")]
    TimelineGoesBack { name: SegmentName, offset: u64, found: TimelineId, before: TimelineId },
    /// It ends whole, and all of it is of an older timeline.
    #[error("segment '{name}' is of timeline {found} to its end; it never reaches the timeline of its name")]
    OtherTimeline { name: SegmentName, found: TimelineId },
    /// A page is of another major version than the first.
    #[error("segment '{name}' holds a page of PostgreSQL {found} at byte {offset}, behind one of {expected}")]
    OtherMajor { name: SegmentName, offset: u64, found: u32, expected: u32 },
    /// WAL follows behind empty pages.
    #[error("segment '{name}' has a hole: pages from byte {from} on are empty, but WAL follows at byte {to}")]
    Hole { name: SegmentName, from: u64, to: u64 },
    /// Something follows behind a switch.
    #[error("segment '{name}' is damaged: behind its switch record, at byte {offset}, not all is zero")]
    AfterSwitch { name: SegmentName, offset: u64 },
    /// WAL ends too early.
    #[error("segment '{name}' is incomplete or damaged: valid WAL ends at {at}; {why}")]
    Torn { name: SegmentName, at: Lsn, why: Tear },
    /// The pieces were not given in order, or not cut at pages.
    #[error("segment '{name}' was read out of order: byte {found} where {expected} was due")]
    Order { name: SegmentName, found: u64, expected: u64 },
}

impl Explain for SegmentError {
    fn class(&self) -> Class {
        match self {
            SegmentError::NoWal { error, .. } | SegmentError::Page { error, .. } => error.class(),
            SegmentError::OtherCluster { .. } | SegmentError::OtherSize { .. } | SegmentError::NameTooHigh { .. } => {
                Class::Refused
            }
            SegmentError::Order { .. } => Class::Bug,
            _ => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            SegmentError::NoWal { error, .. } => return error.hint(),
            SegmentError::OtherCluster { .. } | SegmentError::OtherSize { .. } => {
                "Two clusters seem to share one archive or one configuration; give each cluster a name and an archive of its own."
            }
            SegmentError::OtherAddress { .. }
            | SegmentError::OtherTimeline { .. }
            | SegmentError::TimelineTooHigh { .. } => {
                "This is the content of another segment under this name; look for the right file in the other places of the archive."
            }
            SegmentError::NameTooHigh { .. } => {
                "Check that the segment size in the archive's identity file is the one of this cluster."
            }
            SegmentError::Order { .. } => return None,
            _ => {
                "Fetch the segment from another place of the archive or from the server's pg_wal, and look there with 'pg_waldump'."
            }
        };
        Some(text.to_owned())
    }
}
