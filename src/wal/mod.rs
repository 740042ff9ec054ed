//! The words of write-ahead logging: names, positions, timelines, pages, records. No I/O of its own in here.
//!
//! PostgreSQL's own terms stand in the documentation of each type, so that a search for them ends here.

pub mod agree;
pub mod checkpoint;
pub mod commit;
#[cfg(test)]
pub(crate) mod forge;
pub mod lsn;
pub mod name;
pub mod page;
pub mod record;
pub mod segment;
pub mod target;
pub mod timeline;

pub use agree::{Agreement, agree_until};
pub use lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineId};
pub use name::{ParseNameError, SegmentName, WalName};
pub use segment::{Checker, Ending, Expected, SegmentError, SegmentReport};
pub use timeline::TimelineHistory;
