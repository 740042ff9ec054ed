//! Says whether bytes are the WAL segment that their name promises.
//!
//! A [`Checker`] is fed a segment from its beginning in pieces of any size and holds one page at most. It proves that
//! every page lies where its header says, belongs to one cluster, version and line of timelines, and, at
//! [`Depth::Records`], that the records link up, have right checksums and run to the end of the segment or to a switch.
//! [`check_pages`] does the headers alone, on slices, so that threads can share a segment. Records begun in the
//! segment before, or not finished in this one, cannot be checked from one segment alone.

mod error;
mod pages;

use pages::{Found, all_zero};
pub use {
    error::SegmentError,
    pages::{Known, PageRun, check_pages},
};

use super::lsn::{Lsn, SegmentSize, SystemId, TimelineId};
use super::name::SegmentName;
use super::page::{LONG_HEADER, LongHeader, PageError, u32_at};
use super::record::{
    Progress, RMGR_XLOG, Record, RecordHeader, Tear, Visit, Walker, XLOG_CHECKPOINT_SHUTDOWN, XLOG_END_OF_RECOVERY,
};

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
                // A switch that ends with its page leaves no tail on it.
                let tail = ((end.0 - known.start.0 - offset) as usize).min(page.len());
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
        let end = Lsn(known.start.0.saturating_add(known.size()));
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

#[cfg(test)]
mod tests;
