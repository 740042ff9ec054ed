//! When transactions ended: the commit and abort records of the write-ahead log (PostgreSQL: xl_xact_commit,
//! xl_xact_abort).
//!
//! [`Commits`] collects, while a [`super::record::Walker`] walks, the first and the last one; [`scan`] does so for one
//! segment. What else such a record holds (subtransactions, dropped files, the id of a prepared transaction) is not
//! read: the id given is the record's own, which is 0 or that of the finishing session for a prepared transaction.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use super::lsn::Lsn;
use super::page::{LONG_HEADER, PageHeader, first_page, u32_at, u64_at};
use super::record::{Progress, Record, RecordHeader, Tear, Visit, Walker};

/// The resource manager of transactions (RM_XACT_ID).
pub const RMGR_XACT: u8 = 1;

/// Of a record's flags, those that say what a transaction does (XLOG_XACT_OPMASK).
const OPERATION: u8 = 0x70;

/// Seconds from 1970 to the epoch of PostgreSQL, 2000-01-01 00:00:00 UTC.
const EPOCH: u64 = 946_684_800;

/// What a transaction ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// XLOG_XACT_COMMIT
    Commit,
    /// XLOG_XACT_COMMIT_PREPARED
    CommitPrepared,
    /// XLOG_XACT_ABORT
    Abort,
    /// XLOG_XACT_ABORT_PREPARED
    AbortPrepared,
}

/// The record of a transaction that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Where the record begins.
    pub start: Lsn,
    /// The position behind the record.
    pub until: Lsn,
    /// The transaction that wrote the record; 0 where it had no id.
    pub xid: u32,
    /// Microseconds since 2000-01-01 00:00:00 UTC, by the primary's clock (TimestampTz).
    pub time: i64,
}

impl Ended {
    /// Reads the record of a transaction's end; none where it is another record, or its data were not asked for.
    pub fn read(record: &Record<'_>) -> Option<Ended> {
        let end = end_of(&record.header)?;
        let time = u64_at(main_data(record.data)?.get(..8)?, 0) as i64;
        Some(Ended { end, start: record.start, until: record.end, xid: record.header.xid, time })
    }

    /// True where it made something visible.
    pub fn is_commit(&self) -> bool {
        matches!(self.end, End::Commit | End::CommitPrepared)
    }

    /// The time by this machine's reckoning.
    pub fn at(&self) -> SystemTime {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH);
        let distance = Duration::from_micros(self.time.unsigned_abs());
        // Either is a time that a machine can hold: the sum of 64 bits of microseconds is less than 300 000 years.
        if self.time < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }.unwrap_or(epoch)
    }
}

/// How the transaction of a record ended, if that is what the record says.
pub fn end_of(header: &RecordHeader) -> Option<End> {
    if header.rmgr != RMGR_XACT {
        return None;
    }
    match header.info & OPERATION {
        0x00 => Some(End::Commit),
        0x20 => Some(End::Abort),
        0x30 => Some(End::CommitPrepared),
        0x40 => Some(End::AbortPrepared),
        _ => None,
    }
}

/// The main data of a record without block references: behind an origin and the id of a top-level transaction, where
/// there are such (XLR_BLOCK_ID_ORIGIN, XLR_BLOCK_ID_TOPLEVEL_XID, XLR_BLOCK_ID_DATA_SHORT, XLR_BLOCK_ID_DATA_LONG).
pub(super) fn main_data(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        match *rest.first()? {
            253 => rest = rest.get(3..)?,
            252 => rest = rest.get(5..)?,
            255 => return rest.get(2..2 + usize::from(*rest.get(1)?)),
            254 => {
                let length = u32_at(rest.get(..5)?, 1) as usize;
                return rest.get(5..)?.get(..length);
            }
            _ => return None,
        }
    }
}

/// Collects the ends of transactions while a walker walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commits {
    /// The first commit.
    pub first: Option<Ended>,
    /// The last commit.
    pub last: Option<Ended>,
    /// How many commits.
    pub count: u64,
}

impl Visit for Commits {
    fn wants(&self, header: &RecordHeader) -> bool {
        end_of(header).is_some()
    }

    fn visit(&mut self, record: &Record<'_>) {
        if let Some(ended) = Ended::read(record).filter(Ended::is_commit) {
            self.first.get_or_insert(ended);
            self.last = Some(ended);
            self.count += 1;
        }
    }
}

/// Reads a segment, or the beginning of one, as far as its WAL is valid, and collects its commits.
///
/// Holds one page. A record begun in the segment before is not seen. Whether the segment is the right one and whole is
/// for [`super::Checker`] to say.
pub fn scan(segment: &mut dyn Read) -> io::Result<Commits> {
    let (mut walker, mut commits, mut page) = (Walker::new(), Commits::default(), Vec::new());
    segment.take(LONG_HEADER as u64).read_to_end(&mut page)?;
    let Ok(first) = first_page(&page) else { return Ok(commits) };
    let (block, mut address) = (u64::from(first.block_size), first.page_address);
    while !walker.is_over() {
        segment.take(block - page.len() as u64).read_to_end(&mut page)?;
        match PageHeader::parse(&page) {
            Ok(header) if header.address == address => walker.page(&header, &page, &mut commits),
            _ => walker.tear(Tear::FileEnds),
        }
        address = Lsn(address.0.saturating_add(block));
        page.clear();
    }
    debug_assert!(!matches!(walker.progress(), Progress::Open));
    Ok(commits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::forge::Forge;

    /// A commit record with this main data in front of which stand the parts that a record may have.
    fn data(time: i64, origin: bool, top: bool, long: bool) -> Vec<u8> {
        let mut data = Vec::new();
        if origin {
            data.extend([253, 1, 0]);
        }
        if top {
            data.extend([252, 9, 0, 0, 0]);
        }
        match long {
            true => {
                data.push(254);
                data.extend(300u32.to_ne_bytes());
            }
            false => data.extend([255, 8]),
        }
        data.extend(time.to_ne_bytes());
        data.resize(data.len() + if long { 292 } else { 0 }, 7);
        data
    }

    fn scanned(forge: &Forge) -> Commits {
        scan(&mut forge.segment(0).1.as_slice()).expect("because memory can be read")
    }

    #[test]
    fn the_last_commit_is_found_whatever_stands_before_its_data() {
        for (origin, top, long) in
            [(false, false, false), (true, false, true), (true, true, false), (false, true, true)]
        {
            let mut forge = Forge::new(3, 8192);
            forge.message(100);
            let first = forge.record(RMGR_XACT, 0x00, &data(1_000_000, origin, top, long));
            forge.fill(60_000, 700);
            let last = forge.record(RMGR_XACT, 0x30 | 0x80, &data(2_500_000, origin, top, long));
            forge.record(RMGR_XACT, 0x20, &data(9_000_000, false, false, false));
            forge.record(RMGR_XACT, 0x50, &data(9_000_000, false, false, false));
            forge.record(21, 0x00, &data(9_000_000, false, false, false));
            forge.switch();
            let commits = scanned(&forge);
            assert_eq!(commits.count, 2);
            assert_eq!(commits.first.map(|ended| (ended.start, ended.time)), Some((first, 1_000_000)));
            let found = commits.last.expect("because there is one");
            assert_eq!((found.start, found.end), (last, End::CommitPrepared));
            let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH) + Duration::from_micros(2_500_000);
            assert_eq!(found.at(), expected);
        }
    }

    #[test]
    fn times_before_the_epoch_are_times() {
        let ended = Ended { end: End::Commit, start: Lsn(1), until: Lsn(2), xid: 3, time: -1_000_000 };
        assert_eq!(ended.at(), SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH - 1));
    }

    #[test]
    fn damage_ends_the_search_and_nonsense_has_no_commits() {
        let mut forge = Forge::new(3, 8192);
        forge.record(RMGR_XACT, 0x00, &data(5, false, false, false));
        forge.fill(20_000, 700);
        forge.record(RMGR_XACT, 0x00, &data(6, false, false, false));
        let (_, mut bytes) = forge.segment(0);
        bytes[9_000] ^= 1;
        let commits = scan(&mut bytes.as_slice()).expect("because memory can be read");
        assert_eq!(commits.last.map(|ended| ended.time), Some(5));
        assert_eq!(scan(&mut [7u8; 100].as_slice()).ok(), Some(Commits::default()));
        assert_eq!(scan(&mut [].as_slice()).ok(), Some(Commits::default()));
    }

    #[test]
    fn a_record_too_short_for_a_time_is_none() {
        for bytes in [&[][..], &[255], &[255, 8, 1], &[254, 1], &[253], &[1, 2, 3]] {
            assert!(main_data(bytes).and_then(|data| data.get(..8)).is_none(), "{bytes:?}");
        }
    }
}
