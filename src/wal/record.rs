//! Walks the records of the write-ahead log page by page (PostgreSQL: XLogRecord, XLogReadRecord).
//!
//! A [`Walker`] is given pages in order and finds where each record begins and ends, checks its link to the record
//! before and its CRC-32C, and so finds where valid WAL ends. It follows records over pages and segments, and over
//! records given up after a crash. It copies the data of a record only where the visitor asks for it; what the
//! data mean is left to the visitor. It trusts the page headers given to it: [`super::segment`] checks those.

use super::lsn::Lsn;
use super::page::{PageHeader, u32_at, u64_at};

/// Length in bytes of the header of a record (SizeOfXLogRecord).
pub const RECORD_HEADER: usize = 24;

/// The resource manager of the log itself (RM_XLOG_ID).
pub const RMGR_XLOG: u8 = 0;

/// The record that closes a segment before it is full (XLOG_SWITCH).
pub const XLOG_SWITCH: u8 = 0x40;

/// A checkpoint at shutdown, or at the end of a recovery (XLOG_CHECKPOINT_SHUTDOWN).
pub const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;

/// The end of a recovery: the first record of a new timeline (XLOG_END_OF_RECOVERY).
pub const XLOG_END_OF_RECOVERY: u8 = 0x90;

/// No record is longer, in bytes (XLogRecordMaxSize).
const LONGEST_RECORD: u32 = 1020 << 20;

/// Of a record's header, the part its CRC covers: all but the CRC itself.
const HEADER_UNDER_CRC: usize = 20;

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the whole record with this header, in bytes (xl_tot_len).
    pub length: u32,
    /// The transaction that wrote it, or 0 (xl_xid).
    pub xid: u32,
    /// Where the record before begins (xl_prev).
    pub previous: Lsn,
    /// Flags; the upper four bits belong to the resource manager (xl_info).
    pub info: u8,
    /// Whose record it is (xl_rmid).
    pub rmgr: u8,
    /// CRC-32C of the data and of the header without this field (xl_crc).
    pub crc: u32,
}

/// One complete record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The position of its first byte.
    pub start: Lsn,
    /// The position behind it, rounded up to eight bytes: where the next one may begin. For a switch the server itself
    /// names the end of the segment instead.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// What follows the header, without the page headers in between; empty unless the visitor wanted it.
    pub data: &'a [u8],
}

/// What is done with the records. `()` does nothing.
pub trait Visit {
    /// True where the data of such a record are needed.
    fn wants(&self, _header: &RecordHeader) -> bool {
        false
    }

    /// Takes a complete record whose CRC is right.
    fn visit(&mut self, _record: &Record<'_>) {}
}

impl Visit for () {}

/// Why valid WAL ends at a place where more was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Tear {
    /// Zeros follow, with no switch record before them.
    #[error("zeros follow, and no switch record stands before them")]
    Zeros,
    /// The file ends.
    #[error("the file ends")]
    FileEnds,
    /// A page follows that this file held in its earlier life under another name.
    #[error("a page of an older segment follows, written for {0}")]
    Recycled(Lsn),
    /// A page follows that is none.
    #[error("the next page {0}")]
    Page(super::page::PageError),
    /// A page follows of another place, timeline or version.
    #[error("the next page does not belong there")]
    ForeignPage,
    /// The length in a record's header is too small or too large.
    #[error("a record of '{0}' bytes cannot be")]
    Length(u32),
    /// A record does not link to the one before it.
    #[error("the record there links back to {found} instead of {expected}")]
    Link { found: Lsn, expected: Lsn },
    /// The CRC of a record is wrong.
    #[error("the record there has a wrong checksum")]
    Checksum,
    /// A record goes on for longer or shorter than its next page says, or that page begins with no record's rest.
    #[error("the next page continues '{found}' bytes of a record where '{expected}' are open")]
    Continuation { found: u32, expected: u32 },
}

/// How a walk stands after the pages it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Valid WAL reaches to the end of the pages given; a record may be open there.
    Open,
    /// A switch record ends at this position; zeros must follow up to the end of the segment.
    Switched(Lsn),
    /// Valid WAL ends at this position.
    Torn { at: Lsn, why: Tear },
}

/// A record of which not all pages have been seen.
#[derive(Debug)]
struct Open {
    start: Lsn,
    head: [u8; RECORD_HEADER],
    have: u32,
    length: u32,
    crc: u32,
    wanted: bool,
}

#[derive(Debug)]
enum State {
    /// No page has been seen.
    Fresh,
    /// The next record begins behind the last.
    Between,
    /// So many bytes are left of a record whose beginning was not seen.
    Skipping(u32),
    /// A record is open.
    Inside(Open),
    Switched,
    Torn {
        at: Lsn,
        why: Tear,
    },
}

/// Follows the records through pages given in order, from the first page of any segment.
#[derive(Debug)]
pub struct Walker {
    state: State,
    /// Where the last complete record begins, once there was one.
    last: Option<Lsn>,
    /// Behind the last complete record.
    until: Lsn,
    records: u64,
    data: Vec<u8>,
}

impl Default for Walker {
    fn default() -> Self {
        Walker::new()
    }
}

impl Walker {
    /// A walker that has seen nothing.
    pub fn new() -> Self {
        Walker { state: State::Fresh, last: None, until: Lsn::INVALID, records: 0, data: Vec::new() }
    }

    /// The position behind the last complete record (or behind the rest of one begun before the walk).
    pub fn until(&self) -> Lsn {
        self.until
    }

    /// Where the last complete record begins; none before the first.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last
    }

    /// How many complete records were seen.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The header of the record open at the end of the pages given, once enough of it was seen.
    pub fn open_record(&self) -> Option<(Lsn, Option<RecordHeader>)> {
        match &self.state {
            State::Inside(open) => {
                Some((open.start, (open.have as usize >= RECORD_HEADER).then(|| read_header(&open.head))))
            }
            _ => None,
        }
    }

    /// How the walk stands.
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Switched => Progress::Switched(self.until),
            State::Torn { at, why } => Progress::Torn { at: *at, why: why.clone() },
            _ => Progress::Open,
        }
    }

    /// True where further pages of this segment change nothing.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Switched | State::Torn { .. })
    }

    /// Says that no valid page follows, for a reason that the caller sees. A switch before it makes that right.
    pub fn tear(&mut self, why: Tear) {
        if self.is_over() {
            return;
        }
        // An open record is not valid; whatever stands before it is.
        let at = self.until;
        self.state = State::Torn { at, why };
    }

    /// Walks over the next page. `page` is the whole page with its header, or the beginning of the file's last one.
    pub fn page<V: Visit>(&mut self, header: &PageHeader, page: &[u8], visitor: &mut V) {
        self.enter(header);
        let mut at = header.length();
        while at < page.len() {
            let rest = &page[at..];
            let here = behind(header.address, at);
            let taken = match &mut self.state {
                State::Between => self.begin(here, rest, visitor),
                State::Inside(_) => self.go_on(here, rest, visitor),
                State::Skipping(left) => {
                    let taken = rest.len().min(*left as usize);
                    *left -= taken as u32;
                    if *left == 0 {
                        self.state = State::Between;
                        self.until = aligned(behind(here, taken));
                    }
                    taken
                }
                State::Fresh | State::Switched | State::Torn { .. } => return,
            };
            // A record begins on a multiple of eight bytes (MAXALIGN), and so do pages.
            at = (at + taken).next_multiple_of(8);
        }
    }

    /// Checks that the page begins with what the last one left open.
    fn enter(&mut self, header: &PageHeader) {
        let found = if header.continues() { header.remaining } else { 0 };
        let expected = match &self.state {
            State::Torn { .. } => return,
            State::Fresh => {
                self.until = header.address;
                self.state = if found > 0 { State::Skipping(found) } else { State::Between };
                return;
            }
            // Only the first page of the next segment has a long header; there the log goes on.
            State::Switched if header.is_long() => {
                self.state = State::Between;
                0
            }
            State::Switched => return,
            State::Between => 0,
            State::Skipping(left) => *left,
            State::Inside(open) => open.length - open.have,
        };
        if header.overwrites() {
            self.state = State::Between;
        } else if found != expected {
            self.tear(Tear::Continuation { found, expected });
        }
    }

    /// Begins a record; returns how many bytes of `rest` belong to it.
    fn begin<V: Visit>(&mut self, start: Lsn, rest: &[u8], visitor: &mut V) -> usize {
        // Only the last page of a cut file can have so few: a record begins on a multiple of eight.
        if rest.len() < 4 {
            return rest.len();
        }
        let length = u32_at(rest, 0);
        if length == 0 {
            self.tear(Tear::Zeros);
            return 0;
        }
        if !(RECORD_HEADER as u32..=LONGEST_RECORD).contains(&length) {
            self.tear(Tear::Length(length));
            return 0;
        }
        if let Some(whole) = rest.get(..length as usize) {
            self.whole(start, whole, visitor);
            return whole.len();
        }
        self.data.clear();
        let open = Open { start, head: [0; RECORD_HEADER], have: 0, length, crc: 0, wanted: false };
        self.state = State::Inside(open);
        self.go_on(start, rest, visitor)
    }

    /// A record that lies on one page, as most do.
    fn whole<V: Visit>(&mut self, start: Lsn, record: &[u8], visitor: &mut V) {
        let (head, data) = record.split_at(RECORD_HEADER);
        let header = read_header(head);
        if !self.links(start, &header) {
            return;
        }
        if crc32c::crc32c_append(crc32c::crc32c(data), &head[..HEADER_UNDER_CRC]) != header.crc {
            return self.tear(Tear::Checksum);
        }
        let end = aligned(behind(start, record.len()));
        let data = if visitor.wants(&header) { data } else { &[] };
        visitor.visit(&Record { start, end, header, data });
        self.complete(start, end, &header);
    }

    /// Takes more of an open record; returns how many bytes of `rest` belong to it.
    fn go_on<V: Visit>(&mut self, here: Lsn, rest: &[u8], visitor: &mut V) -> usize {
        let State::Inside(open) = &mut self.state else { return rest.len() };
        let mine = &rest[..rest.len().min((open.length - open.have) as usize)];
        let of_head = mine.len().min(RECORD_HEADER.saturating_sub(open.have as usize));
        let (head, data) = mine.split_at(of_head);
        let from = open.have as usize;
        if of_head > 0 {
            open.head[from..from + of_head].copy_from_slice(head);
        }
        open.have += mine.len() as u32;
        if (open.have as usize) < RECORD_HEADER {
            return mine.len();
        }
        let (start, header) = (open.start, read_header(&open.head));
        if of_head > 0 {
            open.wanted = visitor.wants(&header);
            if !self.links(start, &header) {
                return mine.len();
            }
        }
        self.finish_open(here, mine.len(), data, &header, visitor);
        mine.len()
    }

    /// Adds data to an open record whose header is known, and completes it with its last byte.
    fn finish_open<V: Visit>(&mut self, here: Lsn, taken: usize, data: &[u8], header: &RecordHeader, visitor: &mut V) {
        let State::Inside(open) = &mut self.state else { return };
        open.crc = crc32c::crc32c_append(open.crc, data);
        if open.wanted {
            self.data.extend_from_slice(data);
        }
        if open.have < open.length {
            return;
        }
        let start = open.start;
        if crc32c::crc32c_append(open.crc, &open.head[..HEADER_UNDER_CRC]) != header.crc {
            return self.tear(Tear::Checksum);
        }
        let end = aligned(behind(here, taken));
        visitor.visit(&Record { start, end, header: *header, data: &self.data });
        self.complete(start, end, header);
    }

    /// Checks the link to the record before; the first record of a walk must at least point backwards.
    fn links(&mut self, start: Lsn, header: &RecordHeader) -> bool {
        let right = match self.last {
            Some(last) => header.previous == last,
            None => header.previous < start,
        };
        if !right {
            let expected = self.last.unwrap_or(start);
            self.tear(Tear::Link { found: header.previous, expected });
        }
        right
    }

    fn complete(&mut self, start: Lsn, end: Lsn, header: &RecordHeader) {
        self.last = Some(start);
        self.until = end;
        self.records += 1;
        let switch = header.is(RMGR_XLOG, XLOG_SWITCH);
        self.state = if switch { State::Switched } else { State::Between };
    }
}

impl RecordHeader {
    /// True for a record of this resource manager and kind; the lower four bits of xl_info do not count
    /// (XLR_INFO_MASK).
    pub fn is(&self, rmgr: u8, kind: u8) -> bool {
        self.rmgr == rmgr && self.info & 0xF0 == kind
    }
}

/// Reads a header of [`RECORD_HEADER`] bytes.
fn read_header(head: &[u8]) -> RecordHeader {
    RecordHeader {
        length: u32_at(head, 0),
        xid: u32_at(head, 4),
        previous: Lsn(u64_at(head, 8)),
        info: head[16],
        rmgr: head[17],
        crc: u32_at(head, 20),
    }
}

/// The position so many bytes on. No log reaches the end of the numbers, but a forged page address does.
fn behind(lsn: Lsn, bytes: usize) -> Lsn {
    Lsn(lsn.0.saturating_add(bytes as u64))
}

/// The next position at which a record may begin (MAXALIGN).
fn aligned(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_add(7) & !7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::forge::Forge;
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(Lsn, usize)>);

    impl Visit for Seen {
        fn wants(&self, header: &RecordHeader) -> bool {
            header.length.is_multiple_of(2)
        }

        fn visit(&mut self, record: &Record<'_>) {
            let length = record.header.length as usize - RECORD_HEADER;
            assert!(record.data.len() == if self.wants(&record.header) { length } else { 0 });
            assert!(record.data.iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8));
            self.0.push((record.start, length));
        }
    }

    fn walk(forge: &Forge, segments: u64, block: usize) -> (Walker, Seen) {
        let (mut walker, mut seen) = (Walker::new(), Seen::default());
        for index in 0..segments {
            for page in forge.segment(index).1.chunks(block) {
                match PageHeader::parse(page) {
                    Ok(header) => walker.page(&header, page, &mut seen),
                    Err(_) => walker.tear(Tear::Zeros),
                }
            }
        }
        (walker, seen)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_record_is_found_whole(
            lengths in proptest::collection::vec(prop_oneof![8 => 0usize..900, 2 => 900usize..40_000], 1..120),
            shift in 10u32..=16,
            switch in 0usize..120,
        ) {
            let block = 1 << shift;
            let mut forge = Forge::new(5, block);
            let mut written = Vec::new();
            for (index, length) in lengths.iter().enumerate() {
                if index == switch {
                    written.push((forge.switch(), 0));
                }
                written.push((forge.message(*length), *length));
            }
            let end = forge.position();
            let segments = (end.0 - (5 << 20)).div_ceil(1 << 20);
            let (walker, seen) = walk(&forge, segments, block);
            prop_assert_eq!(seen.0, written);
            prop_assert_eq!(walker.until(), end);
        }
    }

    #[test]
    fn a_record_given_up_after_a_crash_is_left_out() {
        let mut forge = Forge::new(1, 8192);
        let first = forge.message(100);
        let lost = forge.give_up(9000);
        let next = forge.message(200);
        let (walker, seen) = walk(&forge, 1, 8192);
        assert!(first < lost && lost < next);
        assert_eq!(seen.0, [(first, 100), (next, 200)]);
        assert_eq!(walker.progress(), Progress::Torn { at: forge.position(), why: Tear::Zeros });
    }

    #[test]
    fn a_record_whose_continuation_is_another_is_torn() {
        let mut forge = Forge::new(1, 8192);
        forge.message(100);
        let long = forge.message(30_000);
        let (_, mut bytes) = forge.segment(0);
        bytes[8192 + 16] ^= 1;
        let mut walker = Walker::new();
        for page in bytes.chunks(8192).take(3) {
            walker.page(&PageHeader::parse(page).expect("because it is written so"), page, &mut ());
        }
        let Progress::Torn { at, why: Tear::Continuation { .. } } = walker.progress() else { panic!("{walker:?}") };
        assert_eq!(at, long);
    }

    #[test]
    fn a_wrong_link_tears() {
        let mut forge = Forge::new(1, 8192);
        forge.message(100);
        let first = forge.message(40);
        let mut other = Forge::new(1, 8192);
        other.message(60);
        other.message(40);
        let second = other.message(40);
        let (_, mut bytes) = forge.segment(0);
        let (from, to) = (first.0 as usize & 0xF_FFFF, second.0 as usize & 0xF_FFFF);
        let copy = other.segment(0).1[to..to + 64].to_vec();
        bytes[from..from + 64].copy_from_slice(&copy);
        let mut walker = Walker::new();
        walker.page(&PageHeader::parse(&bytes).expect("because it is written so"), &bytes[..8192], &mut ());
        assert!(
            matches!(walker.progress(), Progress::Torn { at, why: Tear::Link { .. } } if at == first),
            "{walker:?}"
        );
    }
}
