//! When transactions ended: the commit and abort records of the write-ahead log (PostgreSQL: xl_xact_commit,
//! xl_xact_abort).
//!
//! [`Commits`] collects, while a [`super::record::Walker`] walks, the first and the last one; [`scan`] does so for one
//! segment, [`walk`] serves any visitor. Of what else such a record holds (subtransactions, dropped files) only the id
//! of a prepared transaction is read, for that is the one by which a recovery finds it.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use super::lsn::Lsn;
use super::page::{LONG_HEADER, PageHeader, first_page, u32_at, u64_at};
use super::record::{Record, RecordHeader, Tear, Visit, Walker};

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
    /// The transaction that ended; 0 where it had no id. For a prepared one its own, not that of the session that
    /// finished it.
    pub xid: u32,
    /// Microseconds since 2000-01-01 00:00:00 UTC, by the primary's clock (TimestampTz).
    pub time: i64,
}

impl Ended {
    /// Reads the record of a transaction's end; none where it is another record, or its data were not asked for.
    pub fn read(record: &Record<'_>) -> Option<Ended> {
        let end = end_of(&record.header)?;
        let data = main_data(record.data)?;
        let time = u64_at(data.get(..8)?, 0) as i64;
        let prepared = match end {
            End::CommitPrepared | End::AbortPrepared => prepared_xid(end, record.header.info, data),
            End::Commit | End::Abort => None,
        };
        Some(Ended { end, start: record.start, until: record.end, xid: prepared.unwrap_or(record.header.xid), time })
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

/// Bits of xl_info and of the word behind the time (XLOG_XACT_HAS_INFO, XACT_XINFO_HAS_*).
const HAS_INFO: u8 = 0x80;
const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_PREPARED: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_GID: u32 = 1 << 7;
const HAS_STATISTICS: u32 = 1 << 8;

/// The sizes that an entry about dropped statistics has had: from 15 on, and from 18 on (xl_xact_stats_item).
const STATISTICS: [usize; 2] = [12, 16];

/// The id of the prepared transaction that such a record ends (ParseCommitRecord, ParseAbortRecord).
///
/// Which of the two sizes an entry about statistics has does not stand in the record: the right one is that with which
/// the parts fill the record exactly.
fn prepared_xid(end: End, info: u8, data: &[u8]) -> Option<u32> {
    let word = (info & HAS_INFO != 0).then(|| data.get(8..12))??;
    let bits = u32_at(word, 0);
    if bits & HAS_PREPARED == 0 {
        return None;
    }
    // An abort invalidates nothing.
    let bits = if end == End::AbortPrepared { bits & !HAS_INVALIDATIONS } else { bits };
    STATISTICS.into_iter().find_map(|entry| {
        let mut at: usize = 12 + if bits & HAS_DATABASE != 0 { 8 } else { 0 };
        let lists = [(HAS_SUBTRANSACTIONS, 4), (HAS_RELATIONS, 12), (HAS_STATISTICS, entry), (HAS_INVALIDATIONS, 16)];
        for (_, size) in lists.into_iter().filter(|(bit, _)| bits & bit != 0) {
            let count = u32_at(data.get(at..at.checked_add(4)?)?, 0) as usize;
            at = count.checked_mul(size)?.checked_add(at + 4)?;
        }
        let xid = u32_at(data.get(at..at.checked_add(4)?)?, 0);
        at += 4;
        if bits & HAS_GID != 0 {
            at += data.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
        at += if bits & HAS_ORIGIN != 0 { 16 } else { 0 };
        (at == data.len()).then_some(xid)
    })
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
    let (mut walker, mut commits) = (Walker::new(), Commits::default());
    walk(segment, &mut walker, &mut commits, |_, _| false)?;
    Ok(commits)
}

/// Walks over a segment, or the beginning of one, as far as its WAL is valid, until the visitor has seen enough.
///
/// With a walker that has walked the segment before, records that lie in both are seen. Holds one page.
pub fn walk<V: Visit>(
    segment: &mut dyn Read,
    walker: &mut Walker,
    visitor: &mut V,
    enough: impl Fn(&Walker, &V) -> bool,
) -> io::Result<()> {
    let mut page = Vec::new();
    segment.take(LONG_HEADER as u64).read_to_end(&mut page)?;
    let Ok(first) = first_page(&page) else {
        walker.tear(Tear::FileEnds);
        return Ok(());
    };
    let (block, mut address) = (u64::from(first.block_size), first.page_address);
    let end = address.0.saturating_add(first.segment_size.bytes());
    loop {
        segment.take(block - page.len() as u64).read_to_end(&mut page)?;
        match PageHeader::parse(&page) {
            Ok(header) if header.address == address => walker.page(&header, &page, visitor),
            // The end of a whole segment: the walk may go on in the next.
            _ if page.is_empty() && address.0 == end => return Ok(()),
            _ => walker.tear(Tear::FileEnds),
        }
        if walker.is_over() || enough(walker, visitor) {
            return Ok(());
        }
        address = Lsn(address.0.saturating_add(block));
        page.clear();
    }
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
    fn a_prepared_transaction_is_known_by_its_own_id() {
        let mut long = 1_000i64.to_ne_bytes().to_vec();
        let bits = HAS_DATABASE | HAS_SUBTRANSACTIONS | HAS_STATISTICS | HAS_INVALIDATIONS | HAS_PREPARED | HAS_GID;
        long.extend(bits.to_ne_bytes());
        long.extend([0; 8]);
        long.extend(2u32.to_ne_bytes());
        long.extend([1; 8]);
        for entry in STATISTICS {
            let mut data = long.clone();
            data.extend(1u32.to_ne_bytes());
            data.extend(vec![2; entry]);
            data.extend(1u32.to_ne_bytes());
            data.extend([3; 16]);
            data.extend(4711u32.to_ne_bytes());
            data.extend(b"name\0");
            assert_eq!(prepared_xid(End::CommitPrepared, 0xB0, &data), Some(4711), "{entry}");
            assert_eq!(prepared_xid(End::CommitPrepared, 0x30, &data), None);
            data.pop();
            assert_eq!(prepared_xid(End::CommitPrepared, 0xB0, &data), None);
        }
        let wild: Vec<u8> = [&long[..12], &[0xFF; 40]].concat();
        assert_eq!(prepared_xid(End::AbortPrepared, 0xC0, &wild), None);
    }

    #[test]
    fn a_record_in_two_segments_is_seen_by_one_walk_over_both() {
        let mut forge = Forge::new(3, 8192);
        forge.fill((1 << 20) - 8192 + 7_900, 56);
        let big = vec![0; 600];
        let across = forge.record(RMGR_XACT, 0x00, &[&data(77, false, false, true)[..], &big].concat());
        forge.message(100);
        let (first, second) = (forge.segment(0).1, forge.segment(1).1);
        assert_eq!(scan(&mut first.as_slice()).ok().and_then(|commits| commits.last), None);
        let (mut walker, mut commits) = (Walker::new(), Commits::default());
        for segment in [&first, &second] {
            let walked = walk(&mut segment.as_slice(), &mut walker, &mut commits, |_, _| false);
            walked.expect("because memory can be read");
        }
        assert_eq!(commits.last.map(|ended| (ended.start, ended.time)), Some((across, 77)));
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
