//! Compares two contents of one segment name: what a message about a conflict has to say.

use std::io::{self, Read};

use super::lsn::{Lsn, SegmentSize};
use super::name::SegmentName;
use super::page::{DEFAULT_BLOCK_SIZE, LONG_HEADER, PageError, PageHeader, first_page};
use super::record::{Progress, Record, Tear, Visit, Walker};

/// How far two contents of a segment agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// Every byte is the same, and there are as many.
    pub identical: bool,
    /// The offset of the first byte that differs or that only one has; none where they are identical.
    pub first_difference: Option<u64>,
    /// Up to here both hold the same records; the start of the segment where they share none.
    pub records_agree_until: Lsn,
    /// Both end valid WAL at the same position, with the same bytes before it: they differ only behind.
    pub same_records: bool,
}

/// Reads two contents of the segment with this name and says how far they agree.
///
/// Neither has to be a good segment: what is no WAL agrees in no records. Reads both to their ends, with a page of
/// memory each.
pub fn agree_until(a: &mut dyn Read, b: &mut dyn Read, name: SegmentName, size: SegmentSize) -> io::Result<Agreement> {
    let start = name.number(size).map_or(Lsn::INVALID, |number| number.start(size));
    let (mut left, mut right) = (Side::new(start, a)?, Side::new(start, b)?);
    let block = left.block_size().or(right.block_size()).unwrap_or(DEFAULT_BLOCK_SIZE as usize);
    let mut first_difference = None;
    let mut offset = 0;
    loop {
        left.fill(block)?;
        right.fill(block)?;
        if first_difference.is_none() {
            first_difference = difference(&left.page, &right.page).map(|at| offset + at as u64);
            let bound = first_difference.map_or(u64::MAX, |at| start.0.saturating_add(at));
            left.shared.below = Lsn(bound);
        }
        left.walk(offset);
        right.walk(offset);
        offset += left.page.len().max(right.page.len()) as u64;
        if left.page.is_empty() && right.page.is_empty() {
            break;
        }
    }
    let identical = first_difference.is_none();
    let (left_end, right_end) = (left.end(size), right.end(size));
    let before_difference = first_difference.is_none_or(|at| start.0.saturating_add(at) >= left_end.0);
    Ok(Agreement {
        identical,
        first_difference,
        records_agree_until: left.shared.until.max(start),
        same_records: identical || (left_end > start && left_end == right_end && before_difference),
    })
}

/// One of the two contents.
struct Side<'a> {
    start: Lsn,
    from: &'a mut dyn Read,
    /// The page being looked at. Before the first [`Side::fill`], only the beginning of the first one.
    page: Vec<u8>,
    fresh: bool,
    read: u64,
    walker: Walker,
    shared: Shared,
}

/// Remembers the end of the last record that lies wholly below a position.
struct Shared {
    below: Lsn,
    until: Lsn,
}

impl Visit for Shared {
    fn visit(&mut self, record: &Record<'_>) {
        if record.end <= self.below {
            self.until = record.end;
        }
    }
}

impl<'a> Side<'a> {
    fn new(start: Lsn, from: &'a mut dyn Read) -> io::Result<Side<'a>> {
        let mut page = Vec::new();
        from.take(LONG_HEADER as u64).read_to_end(&mut page)?;
        let shared = Shared { below: Lsn(u64::MAX), until: start };
        Ok(Side { start, from, page, fresh: true, read: 0, walker: Walker::new(), shared })
    }

    /// The size of the pages, if the first one is a page at all.
    fn block_size(&self) -> Option<usize> {
        first_page(&self.page).ok().map(|header| header.block_size as usize)
    }

    /// Reads the next page, or what there is of it.
    fn fill(&mut self, block: usize) -> io::Result<()> {
        if !std::mem::take(&mut self.fresh) {
            self.page.clear();
        }
        let missing = block - self.page.len();
        self.from.take(missing as u64).read_to_end(&mut self.page)?;
        self.read += self.page.len() as u64;
        Ok(())
    }

    fn walk(&mut self, offset: u64) {
        if self.walker.is_over() || self.page.is_empty() {
            return;
        }
        match PageHeader::parse(&self.page) {
            Ok(header) if header.address.0.checked_sub(self.start.0) == Some(offset) => {
                self.walker.page(&header, &self.page, &mut self.shared);
            }
            Ok(header) => self.walker.tear(Tear::Recycled(header.address)),
            Err(PageError::Zero) => self.walker.tear(Tear::Zeros),
            Err(error) => self.walker.tear(Tear::Page(error)),
        }
    }

    /// Where valid WAL ends.
    fn end(&self, size: SegmentSize) -> Lsn {
        match self.walker.progress() {
            Progress::Open if self.read >= size.bytes() => Lsn(self.start.0.saturating_add(size.bytes())),
            Progress::Open => self.walker.until(),
            Progress::Switched(end) | Progress::Torn { at: end, .. } => end,
        }
    }
}

/// The index of the first byte that differs, or that only one has.
fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    Some(a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len())))
}
