//! Writes WAL for tests, as a server would lay it out: what a real server writes only once in a crash, on demand.

use super::lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineId};
use super::name::SegmentName;
use super::record::{RMGR_XLOG, XLOG_END_OF_RECOVERY, XLOG_SWITCH};

const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const OVERWRITE: u16 = 8;

/// The resource manager of logical messages, which may hold anything (RM_LOGICALMSG_ID).
pub(crate) const RMGR_MESSAGE: u8 = 21;

/// A log that begins at the start of a segment.
pub(crate) struct Forge {
    pub(crate) size: SegmentSize,
    pub(crate) timeline: TimelineId,
    pub(crate) system_id: SystemId,
    first: SegmentNumber,
    block: usize,
    bytes: Vec<u8>,
    last: Lsn,
}

impl Forge {
    /// An empty log on timeline 1 in segments of 1 MiB, which begins with this segment.
    pub(crate) fn new(first: u64, block: usize) -> Forge {
        let size = SegmentSize::new(1 << 20).expect("because 1 MiB is a size");
        let (timeline, system_id) = (TimelineId(1), SystemId(7_000_000_000));
        Forge { size, timeline, system_id, first: SegmentNumber(first), block, bytes: Vec::new(), last: Lsn(8) }
    }

    /// The position at which the next byte is written.
    pub(crate) fn position(&self) -> Lsn {
        Lsn(self.first.start(self.size).0 + self.bytes.len() as u64)
    }

    /// Writes a record; returns where it begins.
    pub(crate) fn record(&mut self, rmgr: u8, info: u8, data: &[u8]) -> Lsn {
        self.page_if_due(0, 0);
        let start = self.position();
        let record = self.encode(rmgr, info, data);
        self.put(&record);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.last = start;
        start
    }

    /// Writes a record that says nothing in so many bytes.
    pub(crate) fn message(&mut self, length: usize) -> Lsn {
        let data: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        self.record(RMGR_MESSAGE, 0, &data)
    }

    /// Writes messages until so many bytes are there.
    pub(crate) fn fill(&mut self, bytes: usize, length: usize) {
        while self.bytes.len() < bytes {
            self.message(length);
        }
    }

    /// Closes the segment with a switch.
    pub(crate) fn switch(&mut self) -> Lsn {
        let start = self.record(RMGR_XLOG, XLOG_SWITCH, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(self.size.bytes() as usize), 0);
        start
    }

    /// Ends a recovery and goes on in this timeline.
    pub(crate) fn promote(&mut self, timeline: TimelineId) -> Lsn {
        self.timeline = timeline;
        let mut data = vec![255, 20];
        data.extend([0; 8]);
        data.extend(timeline.0.to_ne_bytes());
        data.extend([0; 8]);
        self.record(RMGR_XLOG, XLOG_END_OF_RECOVERY, &data)
    }

    /// Begins a record of so many bytes of data, gives it up at the end of the page and goes on behind, as after a
    /// crash. The record must not fit on the page.
    pub(crate) fn give_up(&mut self, length: usize) -> Lsn {
        self.page_if_due(0, 0);
        let start = self.position();
        let record = self.encode(RMGR_MESSAGE, 0, &vec![1; length]);
        let room = self.block - self.bytes.len() % self.block;
        assert!(room < record.len());
        self.bytes.extend(&record[..room]);
        self.page_if_due(0, OVERWRITE);
        start
    }

    /// The segment with this index and its name; the last one is filled with zeros.
    pub(crate) fn segment(&self, index: u64) -> (SegmentName, Vec<u8>) {
        let size = self.size.bytes() as usize;
        let from = index as usize * size;
        let mut bytes = self.bytes[from..self.bytes.len().min(from + size)].to_vec();
        bytes.resize(size, 0);
        (SegmentName::new(self.timeline, SegmentNumber(self.first.0 + index), self.size), bytes)
    }

    fn encode(&self, rmgr: u8, info: u8, data: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend((24 + data.len() as u32).to_ne_bytes());
        record.extend(0u32.to_ne_bytes());
        record.extend(self.last.0.to_ne_bytes());
        record.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), &record);
        record.extend(crc.to_ne_bytes());
        record.extend(data);
        record
    }

    fn put(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            let flags = if self.bytes.len().is_multiple_of(self.block) { CONTRECORD } else { 0 };
            self.page_if_due(rest.len() as u32, flags);
            let room = self.block - self.bytes.len() % self.block;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
    }

    /// Writes a page header if the position is the start of a page.
    fn page_if_due(&mut self, remaining: u32, flags: u16) {
        if !self.bytes.len().is_multiple_of(self.block) {
            return;
        }
        let address = self.position();
        let long = address.offset(self.size) == 0;
        let flags = flags | if long { LONG } else { 0 };
        self.bytes.extend(0xD110u16.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.timeline.0.to_ne_bytes());
        self.bytes.extend(address.0.to_ne_bytes());
        self.bytes.extend(remaining.to_ne_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(self.system_id.0.to_ne_bytes());
            self.bytes.extend((self.size.bytes() as u32).to_ne_bytes());
            self.bytes.extend((self.block as u32).to_ne_bytes());
        }
    }
}
