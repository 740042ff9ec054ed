//! Judges pages by their headers alone, whole segments or slices of them. Keeps no state between calls.

use super::{Expected, SegmentError};
use crate::wal::page::{DEFAULT_BLOCK_SIZE, LongHeader, PageError, PageHeader, first_page};
use crate::wal::record::Tear;
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineId};

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
    pub(super) fn page(&self, offset: u64, page: &[u8]) -> Result<Found, SegmentError> {
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

/// What stands in the place of a page.
pub(super) enum Found {
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
    if !offset.is_multiple_of(block as u64) || !bytes.len().is_multiple_of(block) {
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
    pub(super) fn empty(offset: u64) -> PageRun {
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

    pub(super) fn add(&mut self, known: &Known, offset: u64, length: u64, found: &Found) -> Result<(), SegmentError> {
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

/// True where all bytes are zero. Compares with zeros, which is fast in every build.
pub(super) fn all_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; DEFAULT_BLOCK_SIZE as usize] = [0; DEFAULT_BLOCK_SIZE as usize];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}
