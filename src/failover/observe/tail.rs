//! Where valid WAL ends in the files of a data directory, and what committed last in it.

use std::path::Path;

use crate::error::Failure;
use crate::postgres::control::ControlFile;
use crate::postgres::local_wal::LocalWal;
use crate::wal::commit::Commits;
use crate::wal::record::{RMGR_XLOG, Record, RecordHeader, Visit, XLOG_SWITCH};
use crate::wal::{Lsn, SegmentNumber, TimelineHistory};

/// What the end of the WAL looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Behind the last valid record; behind its segment where that record ends one early. Here a promotion forks.
    pub end: Lsn,
    /// The commits in the WAL that was read.
    pub commits: Commits,
}

/// Reads from the segment before a position on, which lies in valid WAL, to where it ends.
///
/// A position that was received may lie inside a record, and that record may begin a segment earlier.
pub fn end_of_wal(pgdata: &Path, control: &ControlFile, history: &TimelineHistory, from: Lsn) -> Result<Tail, Failure> {
    let wal = LocalWal::new(pgdata, control, history);
    let size = control.segment_size;
    let segment = from.segment(size);
    let before = segment.previous().unwrap_or(SegmentNumber(0));
    let first = if wal.find(before)?.is_some() { before } else { segment };
    let mut last = Last::default();
    let walked = wal.walk(first, &mut last)?;
    let end = if last.switched { walked.until.segment(size).end(size) } else { walked.until };
    // A segment that is not here any more was replayed; nothing ends before what was.
    let end = if walked.last.is_some() { end } else { from };
    Ok(Tail { end, commits: last.commits })
}

/// Remembers the commits, and whether the last record was a switch.
#[derive(Default)]
struct Last {
    commits: Commits,
    switched: bool,
}

impl Visit for Last {
    fn wants(&self, header: &RecordHeader) -> bool {
        self.commits.wants(header)
    }

    fn visit(&mut self, record: &Record<'_>) {
        self.switched = record.header.is(RMGR_XLOG, XLOG_SWITCH);
        self.commits.visit(record);
    }
}
