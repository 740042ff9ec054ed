//! Says whether bytes are the WAL segment that their name promises.
//!
//! A [`Checker`] is fed a segment from its beginning in pieces of any size and holds one page at most. It proves that
//! every page lies where its header says, belongs to one cluster, version and line of timelines, and, at
//! [`Depth::Records`], that the records link up, have right checksums and run to the end of the segment or to a switch.
//! [`check_pages`] does the headers alone, on slices, so that threads can share a segment. Records begun in the
//! segment before, or not finished in this one, cannot be checked from one segment alone.

use super::lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineId};
use super::name::SegmentName;
use super::page::{DEFAULT_BLOCK_SIZE, LONG_HEADER, LongHeader, PageError, PageHeader, first_page, u32_at};
use super::record::{
    Progress, RMGR_XLOG, Record, RecordHeader, Tear, Visit, Walker, XLOG_CHECKPOINT_SHUTDOWN, XLOG_END_OF_RECOVERY,
};
use crate::error::{Class, Explain};

/// What is known about a segment before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The name it has or shall get.
    pub name: SegmentName,
    /// The cluster it must come from; none accepts any.
    pub system_id: Option<SystemId>,
    /// The size it must have; none believes its long header.
    pub size: Option<SegmentSize>,
    /// True where WAL may end inside it: a `.partial` file, or the segment being written. What follows the end of WAL
    /// is then not looked at, and the file may be shorter than a segment.
    pub partial: bool,
}

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// The page headers: the segment is in its place.
    Pages,
    /// The records and their CRCs too: the segment is complete and undamaged.
    #[default]
    Records,
}

/// What the first page tells, with what was expected: all that is needed to judge any other page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The name of the segment.
    pub name: SegmentName,
    /// The position of its first byte.
    pub start: Lsn,
    /// True where WAL may end inside it.
    pub partial: bool,
    /// The header of its first page.
    pub first: LongHeader,
}

/// A run of pages whose headers are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRun {
    /// Where the run begins in the segment, in bytes.
    pub offset: u64,
    /// Where it ends, with the empty pages, in bytes.
    pub end: u64,
    /// How many pages with a header it holds.
    pub pages: u64,
    /// The timeline of its first page; none where all are empty.
    pub first_timeline: Option<TimelineId>,
    /// The timeline of its last page; none where all are empty.
    pub last_timeline: Option<TimelineId>,
    /// The offset of the first page without a header, and what stands there, if there is one.
    pub stops: Option<(u64, Tear)>,
}

/// How a segment ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// WAL runs to the last byte, and goes on in the next segment.
    Full,
    /// A switch record, then zeros (`pg_switch_wal`, `archive_timeout`).
    Switched,
    /// WAL ends inside the segment without a switch; only a partial segment may.
    Torn { at: Lsn, why: Tear },
    /// Empty pages from this position on, and nobody looked for a switch before them ([`Depth::Pages`] only).
    Empty { from: Lsn },
}

/// What a check found out about a good segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The header of the first page.
    pub first_page: LongHeader,
    /// How many pages with a header it holds.
    pub pages: u64,
    /// How many records end in it; 0 at [`Depth::Pages`].
    pub records: u64,
    /// The timeline of its last page with a header.
    pub last_timeline: TimelineId,
    /// Where valid WAL ends: the end of the segment, of the switch record, or of the last good record. At
    /// [`Depth::Pages`], the end of the last page with a header.
    pub valid_until: Lsn,
    /// Behind the last record that is complete inside the segment and whose CRC was right.
    pub records_until: Lsn,
    /// How it ends.
    pub ends: Ending,
}

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

impl Known {
    /// Judges a segment by its first [`LONG_HEADER`] bytes.
    pub fn new(expected: &Expected, beginning: &[u8]) -> Result<Known, SegmentError> {
        let name = expected.name;
        let first = first_page(beginning).map_err(|error| SegmentError::NoWal { name, error })?;
        let size = expected.size.unwrap_or(first.segment_size);
        if let Some(system_id) = expected.system_id.filter(|id| *id != first.system_id) {
            return Err(SegmentError::OtherCluster { name, found: first.system_id, expected: system_id });
        }
        if first.segment_size != size {
            return Err(SegmentError::OtherSize { name, found: first.segment_size, expected: size });
        }
        let number: SegmentNumber = name.number(size).ok_or(SegmentError::NameTooHigh { name, size })?;
        let known = Known { name, start: number.start(size), partial: expected.partial, first };
        known.place(0, first.page_address, first.timeline)?;
        Ok(known)
    }

    /// The size of a page in bytes.
    pub fn block_size(&self) -> usize {
        self.first.block_size as usize
    }

    /// The size of the segment in bytes.
    pub fn size(&self) -> u64 {
        self.first.segment_size.bytes()
    }

    /// Checks that a page with this address and timeline may lie at this offset.
    fn place(&self, offset: u64, found: Lsn, timeline: TimelineId) -> Result<(), SegmentError> {
        let (name, expected) = (self.name, Lsn(self.start.0 + offset));
        if found != expected {
            return Err(SegmentError::OtherAddress { name, offset, found, expected });
        }
        // Lower is right: the first segment of a timeline begins with a copy of its parent's pages.
        let highest = name.timeline();
        if timeline > highest || timeline.0 == 0 {
            return Err(SegmentError::TimelineTooHigh { name, offset, found: timeline, highest });
        }
        Ok(())
    }

    /// Judges one page by its header.
    fn page(&self, offset: u64, page: &[u8]) -> Result<Found, SegmentError> {
        let name = self.name;
        let header = match PageHeader::parse(page) {
            Ok(header) => header,
            Err(PageError::Zero) if self.partial || all_zero(page) => return Ok(Found::Other(Tear::Zeros)),
            Err(error) if self.partial => return Ok(Found::Other(Tear::Page(error))),
            Err(error) => return Err(SegmentError::Page { name, offset, error }),
        };
        let fault = match self.place(offset, header.address, header.timeline) {
            Ok(()) if header.magic == self.first.magic => return Ok(Found::Page(header)),
            Ok(()) => SegmentError::OtherMajor { name, offset, found: header.major, expected: self.first.major },
            Err(fault) => fault,
        };
        if !self.partial {
            return Err(fault);
        }
        // The server reuses old segments without clearing them: behind the end of WAL stands what they held.
        let recycled = header.address.0 < self.start.0 && header.address.0 % self.size() == offset;
        Ok(Found::Other(if recycled { Tear::Recycled(header.address) } else { Tear::ForeignPage }))
    }
}

enum Found {
    Page(PageHeader),
    Other(Tear),
}

/// Checks the headers of the pages in a slice of a segment that begins and ends at page boundaries.
///
/// Keeps no state, so that slices can be checked in parallel; [`PageRun::join`] then checks what lies between them.
pub fn check_pages(known: &Known, offset: u64, bytes: &[u8]) -> Result<PageRun, SegmentError> {
    let (name, block) = (known.name, known.block_size());
    let end = offset + bytes.len() as u64;
    let mut run = PageRun::empty(offset);
    if offset % block as u64 != 0 || bytes.len() % block != 0 {
        return Err(SegmentError::Order { name, found: offset, expected: offset / block as u64 * block as u64 });
    }
    if end > known.size() {
        return Err(SegmentError::Length { name, found: end, expected: known.size() });
    }
    for page in bytes.chunks_exact(block) {
        let at = run.end;
        run.add(known, at, block as u64, &known.page(at, page)?)?;
    }
    Ok(run)
}

impl PageRun {
    fn empty(offset: u64) -> PageRun {
        PageRun { offset, end: offset, pages: 0, first_timeline: None, last_timeline: None, stops: None }
    }

    /// Adds the run that follows. Runs must be joined in order.
    pub fn join(self, known: &Known, next: PageRun) -> Result<PageRun, SegmentError> {
        let name = known.name;
        if next.offset != self.end {
            return Err(SegmentError::Order { name, found: next.offset, expected: self.end });
        }
        if let (Some((from, _)), true, false) = (&self.stops, next.pages > 0, known.partial) {
            return Err(SegmentError::Hole { name, from: *from, to: next.offset });
        }
        if let (Some(before), Some(found)) = (self.last_timeline, next.first_timeline)
            && found < before
        {
            return Err(SegmentError::TimelineGoesBack { name, offset: next.offset, found, before });
        }
        Ok(PageRun {
            offset: self.offset,
            end: next.end,
            pages: self.pages + next.pages,
            first_timeline: self.first_timeline.or(next.first_timeline),
            last_timeline: next.last_timeline.or(self.last_timeline),
            stops: self.stops.or(next.stops),
        })
    }

    fn add(&mut self, known: &Known, offset: u64, length: u64, found: &Found) -> Result<(), SegmentError> {
        let name = known.name;
        self.end = offset + length;
        match (found, &self.stops) {
            (Found::Page(_), Some((from, _))) if !known.partial => {
                Err(SegmentError::Hole { name, from: *from, to: offset })
            }
            // Behind the end of WAL a partial segment may hold anything.
            (_, Some(_)) => Ok(()),
            (Found::Other(tear), None) => {
                self.stops = Some((offset, tear.clone()));
                Ok(())
            }
            (Found::Page(header), None) => {
                let found = header.timeline;
                if let Some(before) = self.last_timeline.filter(|before| found < *before) {
                    return Err(SegmentError::TimelineGoesBack { name, offset, found, before });
                }
                self.pages += 1;
                self.first_timeline.get_or_insert(found);
                self.last_timeline = Some(found);
                Ok(())
            }
        }
    }
}

/// Checks a segment that is read once, from its beginning.
#[derive(Debug)]
pub struct Checker {
    expected: Expected,
    depth: Depth,
    known: Option<Known>,
    run: PageRun,
    walker: Walker,
    turn: Turn,
    /// The beginning of a page whose rest has not been fed.
    carry: Vec<u8>,
}

impl Checker {
    /// A checker of headers and records.
    pub fn new(expected: Expected) -> Checker {
        Checker::with_depth(expected, Depth::Records)
    }

    /// A checker that goes so deep.
    pub fn with_depth(expected: Expected, depth: Depth) -> Checker {
        Checker {
            expected,
            depth,
            known: None,
            run: PageRun::empty(0),
            walker: Walker::new(),
            turn: Turn(TimelineId(0)),
            carry: Vec::new(),
        }
    }

    /// What the first page told; none before it was fed.
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// Takes the next bytes; `offset` is where they lie in the segment.
    pub fn feed(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SegmentError> {
        let (name, expected) = (self.expected.name, self.run.end + self.carry.len() as u64);
        if offset != expected {
            return Err(SegmentError::Order { name, found: offset, expected });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let block = match &self.known {
                Some(known) => known.block_size(),
                None if self.carry.is_empty() && rest.len() >= LONG_HEADER => self.begin(rest)?,
                None if self.carry.len() >= LONG_HEADER => self.begin(&self.carry.clone())?,
                None => LONG_HEADER,
            };
            if self.carry.is_empty() && rest.len() >= block && self.known.is_some() {
                let whole = rest.len() - rest.len() % block;
                self.pages(&rest[..whole], block)?;
                rest = &rest[whole..];
                continue;
            }
            let taken = rest.len().min(block - self.carry.len());
            self.carry.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            if self.known.is_some() && self.carry.len() == block {
                let page = std::mem::take(&mut self.carry);
                self.pages(&page, block)?;
                self.carry = page;
                self.carry.clear();
            }
        }
        Ok(())
    }

    /// Ends the check: no more bytes will come.
    pub fn finish(mut self) -> Result<SegmentReport, SegmentError> {
        let name = self.expected.name;
        let found = self.run.end + self.carry.len() as u64;
        if self.known.is_none() {
            self.begin(&self.carry.clone())?;
        }
        let Some(known) = self.known.clone() else {
            let error = PageError::TooShort { need: LONG_HEADER, have: self.carry.len() };
            return Err(SegmentError::NoWal { name, error });
        };
        if found != known.size() && !known.partial {
            return Err(SegmentError::Length { name, found, expected: known.size() });
        }
        self.last_piece(&known)?;
        self.report(&known)
    }

    /// Reads the first page; returns the size of all pages in bytes.
    fn begin(&mut self, beginning: &[u8]) -> Result<usize, SegmentError> {
        let known = Known::new(&self.expected, beginning)?;
        let block = known.block_size();
        self.known = Some(known);
        Ok(block)
    }

    /// Checks whole pages.
    fn pages(&mut self, bytes: &[u8], block: usize) -> Result<(), SegmentError> {
        let Some(known) = self.known.clone() else { return Ok(()) };
        let end = self.run.end + bytes.len() as u64;
        if end > known.size() {
            return Err(SegmentError::Length { name: known.name, found: end, expected: known.size() });
        }
        for page in bytes.chunks_exact(block) {
            self.page(&known, page)?;
        }
        Ok(())
    }

    /// Checks one page, or what there is of the last page of a file cut short.
    fn page(&mut self, known: &Known, page: &[u8]) -> Result<(), SegmentError> {
        let (offset, length) = (self.run.end, page.len() as u64);
        if self.walker.is_over() {
            self.run.end += length;
            return if known.partial || all_zero(page) { Ok(()) } else { Err(after_switch(known, offset)) };
        }
        let found = known.page(offset, page)?;
        self.run.add(known, offset, length, &found)?;
        if self.depth == Depth::Pages {
            return Ok(());
        }
        match found {
            Found::Page(header) => {
                self.turn.see(header.timeline);
                self.walker.page(&header, page, &mut self.turn);
            }
            Found::Other(tear) => self.walker.tear(tear),
        }
        match self.walker.progress() {
            Progress::Torn { at, why } if !known.partial => Err(SegmentError::Torn { name: known.name, at, why }),
            Progress::Switched(end) if !known.partial => {
                let tail = (end.0 - known.start.0 - offset) as usize;
                if all_zero(&page[tail..]) { Ok(()) } else { Err(after_switch(known, offset + tail as u64)) }
            }
            _ => Ok(()),
        }
    }

    /// Takes what is left where a partial segment is no whole number of pages long.
    fn last_piece(&mut self, known: &Known) -> Result<(), SegmentError> {
        if !self.carry.is_empty() {
            let piece = std::mem::take(&mut self.carry);
            self.page(known, &piece)?;
        }
        if self.run.end < known.size() {
            self.walker.tear(Tear::FileEnds);
            self.run.stops.get_or_insert((self.run.end, Tear::FileEnds));
        }
        Ok(())
    }

    fn report(self, known: &Known) -> Result<SegmentReport, SegmentError> {
        let (name, last_timeline) = (known.name, self.run.last_timeline.unwrap_or(known.first.timeline));
        let end = Lsn(known.start.0 + known.size());
        let (ends, valid_until) = match (self.depth, self.walker.progress(), &self.run.stops) {
            (Depth::Records, Progress::Torn { at, why }, _) => (Ending::Torn { at, why }, at),
            (Depth::Records, Progress::Switched(at), _) => (Ending::Switched, at),
            (Depth::Pages, _, Some((offset, _))) => {
                let from = Lsn(known.start.0 + offset);
                (Ending::Empty { from }, from)
            }
            (Depth::Records, Progress::Open, _) | (Depth::Pages, _, None) => (Ending::Full, end),
        };
        let turned = self.turn.0 >= name.timeline() || self.may_turn_in_open_record();
        if self.depth == Depth::Records && !known.partial && !turned {
            return Err(SegmentError::OtherTimeline { name, found: self.turn.0 });
        }
        Ok(SegmentReport {
            first_page: known.first,
            pages: self.run.pages,
            records: self.walker.records(),
            last_timeline,
            valid_until,
            records_until: if self.depth == Depth::Records { self.walker.until() } else { known.start },
            ends,
        })
    }

    /// True where the record that turns to the new timeline may be the one that goes on in the next segment.
    fn may_turn_in_open_record(&self) -> bool {
        let open = self.walker.open_record();
        open.is_some_and(|(_, header)| header.is_none_or(|header| header.rmgr == RMGR_XLOG))
    }
}

fn after_switch(known: &Known, offset: u64) -> SegmentError {
    SegmentError::AfterSwitch { name: known.name, offset }
}

/// The highest timeline that the pages and records have turned to.
#[derive(Debug)]
struct Turn(TimelineId);

impl Turn {
    fn see(&mut self, timeline: TimelineId) {
        self.0 = self.0.max(timeline);
    }
}

impl Visit for Turn {
    fn wants(&self, header: &RecordHeader) -> bool {
        header.is(RMGR_XLOG, XLOG_CHECKPOINT_SHUTDOWN) || header.is(RMGR_XLOG, XLOG_END_OF_RECOVERY)
    }

    /// Both records hold eight bytes and then the timeline they begin (CheckPoint, xl_end_of_recovery), behind the two
    /// bytes that say how long the data are (XLR_BLOCK_ID_DATA_SHORT).
    fn visit(&mut self, record: &Record<'_>) {
        if record.data.len() >= 14 && record.data[0] == 255 {
            self.see(TimelineId(u32_at(record.data, 10)));
        }
    }
}

/// True where all bytes are zero. Compares with zeros, which is fast in every build.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; DEFAULT_BLOCK_SIZE as usize] = [0; DEFAULT_BLOCK_SIZE as usize];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}
