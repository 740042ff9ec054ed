//! The words of write-ahead logging: names, positions, timelines, pages. No I/O in here.
//!
//! PostgreSQL's own terms stand in the documentation of each type, so that a search for them ends here.

pub mod lsn;
pub mod name;
pub mod page;
pub mod timeline;

pub use lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineId};
pub use name::{ParseNameError, SegmentName, WalName};
