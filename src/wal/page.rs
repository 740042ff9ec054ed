//! The header that every page of the write-ahead log begins with (PostgreSQL: XLogPageHeaderData,
//! XLogLongPageHeaderData).
//!
//! Reads the headers of PostgreSQL 13 to 18 in the byte order of this machine, and says in words what is wrong with
//! one that it cannot read. Whether a page belongs where it lies is for [`super::segment`] to judge.

use super::lsn::{Lsn, SegmentSize, SystemId, TimelineId};
use crate::error::{Class, Explain};

/// Length in bytes of the header of every page but a segment's first (SizeOfXLogShortPHD).
pub const SHORT_HEADER: usize = 24;

/// Length in bytes of the header of a segment's first page (SizeOfXLogLongPHD).
pub const LONG_HEADER: usize = 40;

/// The size of a page where the server was built without `--with-wal-blocksize`, in bytes (XLOG_BLCKSZ).
pub const DEFAULT_BLOCK_SIZE: u32 = 8192;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const LONG_HEADER_FLAG: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
/// XLP_ALL_FLAGS; the one not named above, XLP_BKP_REMOVABLE, changes nothing for a reader.
const ALL_FLAGS: u16 = 0x000F;

/// The magic number of each major version (XLOG_PAGE_MAGIC). A new major is one more row.
const MAGICS: &[(u16, u32)] = &[(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// The header of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Names the format of the pages (xlp_magic).
    pub magic: u16,
    /// The major version of PostgreSQL that the magic number stands for.
    pub major: u32,
    /// What the page begins with (xlp_info).
    pub flags: u16,
    /// The timeline of the first record that begins on the page (xlp_tli).
    pub timeline: TimelineId,
    /// The position of the page in the log (xlp_pageaddr).
    pub address: Lsn,
    /// How many bytes of a record begun on an earlier page are still to come, from this page on (xlp_rem_len).
    pub remaining: u32,
}

/// The header of a segment's first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// Names the format of the pages (xlp_magic).
    pub magic: u16,
    /// The major version of PostgreSQL that the magic number stands for.
    pub major: u32,
    /// The timeline of the page, which may be an ancestor of the segment's (xlp_tli).
    pub timeline: TimelineId,
    /// The position of the page, and so of the segment, in the log (xlp_pageaddr).
    pub page_address: Lsn,
    /// The cluster that wrote it (xlp_sysid).
    pub system_id: SystemId,
    /// The size of each segment of that cluster (xlp_seg_size).
    pub segment_size: SegmentSize,
    /// The size of a page in bytes (xlp_xlog_blcksz).
    pub block_size: u32,
}

/// Why bytes are no header of a WAL page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// There are fewer bytes than a header has.
    #[error("ends after {have} bytes, before its header of {need} bytes does")]
    TooShort { need: usize, have: usize },
    /// Every byte of the header is zero: nothing was ever written there, or a switch left it empty.
    #[error("is empty (zeros)")]
    Zero,
    /// The magic number is one of ours with its bytes exchanged.
    #[error("was written on a machine of other byte order")]
    OtherByteOrder,
    /// The magic number is none that we know.
    #[error("begins with the magic number 0x{0:04X}, which is no WAL of PostgreSQL 13 to 18")]
    Magic(u16),
    /// Flags are set that PostgreSQL does not know.
    #[error("has the unknown flags 0x{0:04X}")]
    Flags(u16),
    /// A segment's first page has the short header.
    #[error("lacks the long header that a segment begins with")]
    NotLong,
    /// The page size in the long header is none that PostgreSQL can be built with.
    #[error("names a page size of '{0}' bytes, which is no power of two from 1 to 64 KiB")]
    BlockSize(u32),
    /// The segment size in the long header is none that PostgreSQL allows.
    #[error("names a segment size of '{0}' bytes, which is no power of two from 1 MiB to 1 GiB")]
    SegmentSize(u32),
}

impl Explain for PageError {
    fn class(&self) -> Class {
        match self {
            PageError::OtherByteOrder => Class::Refused,
            _ => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PageError::OtherByteOrder => {
                Some("WAL can only be read on machines of the same byte order as the one that wrote it.".to_owned())
            }
            PageError::Magic(_) => Some(
                "If the server is of a newer major version, install a pgwarm that knows it; else the file is damaged or no WAL."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl PageHeader {
    /// Reads the header at the start of a page. Checks the magic number and the flags, not the place.
    pub fn parse(page: &[u8]) -> Result<PageHeader, PageError> {
        let header: &[u8; SHORT_HEADER] =
            page.first_chunk().ok_or(PageError::TooShort { need: SHORT_HEADER, have: page.len() })?;
        let magic = u16_at(header, 0);
        let major = major_of(magic).ok_or_else(|| wrong_magic(header, magic))?;
        let flags = u16_at(header, 2);
        if flags & !ALL_FLAGS != 0 {
            return Err(PageError::Flags(flags));
        }
        let parsed = PageHeader {
            magic,
            major,
            flags,
            timeline: TimelineId(u32_at(header, 4)),
            address: Lsn(u64_at(header, 8)),
            remaining: u32_at(header, 16),
        };
        if page.len() < parsed.length() {
            return Err(PageError::TooShort { need: parsed.length(), have: page.len() });
        }
        Ok(parsed)
    }

    /// True where the page begins with the rest of an earlier record (XLP_FIRST_IS_CONTRECORD).
    pub fn continues(&self) -> bool {
        self.flags & FIRST_IS_CONTRECORD != 0
    }

    /// True where the record that was open at the end of the page before was given up after a crash
    /// (XLP_FIRST_IS_OVERWRITE_CONTRECORD).
    pub fn overwrites(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// True where the header is the long one (XLP_LONG_HEADER).
    pub fn is_long(&self) -> bool {
        self.flags & LONG_HEADER_FLAG != 0
    }

    /// The length of the header in bytes (XLogPageHeaderSize).
    pub fn length(&self) -> usize {
        if self.is_long() { LONG_HEADER } else { SHORT_HEADER }
    }
}

/// Reads the long header that a segment begins with: at least its first [`LONG_HEADER`] bytes are needed.
pub fn first_page(page: &[u8]) -> Result<LongHeader, PageError> {
    let header = PageHeader::parse(page)?;
    if !header.is_long() {
        return Err(PageError::NotLong);
    }
    let (size, block_size) = (u32_at(page, 32), u32_at(page, 36));
    if !(block_size.is_power_of_two() && (1 << 10..=1 << 16).contains(&block_size)) {
        return Err(PageError::BlockSize(block_size));
    }
    Ok(LongHeader {
        magic: header.magic,
        major: header.major,
        timeline: header.timeline,
        page_address: header.address,
        system_id: SystemId(u64_at(page, 24)),
        segment_size: SegmentSize::new(u64::from(size)).map_err(|_| PageError::SegmentSize(size))?,
        block_size,
    })
}

/// The major version whose pages carry this magic number.
pub fn major_of(magic: u16) -> Option<u32> {
    MAGICS.iter().find(|row| row.0 == magic).map(|row| row.1)
}

fn wrong_magic(header: &[u8; SHORT_HEADER], magic: u16) -> PageError {
    if header.iter().all(|byte| *byte == 0) {
        PageError::Zero
    } else if major_of(magic.swap_bytes()).is_some() {
        PageError::OtherByteOrder
    } else {
        PageError::Magic(magic)
    }
}

// The three readers below take offsets that their callers have checked against the length.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn long(magic: u16) -> Vec<u8> {
        let mut page = vec![0; LONG_HEADER];
        page[0..2].copy_from_slice(&magic.to_ne_bytes());
        page[2..4].copy_from_slice(&LONG_HEADER_FLAG.to_ne_bytes());
        page[4..8].copy_from_slice(&7u32.to_ne_bytes());
        page[8..16].copy_from_slice(&0x300_0000u64.to_ne_bytes());
        page[24..32].copy_from_slice(&42u64.to_ne_bytes());
        page[32..36].copy_from_slice(&(1u32 << 24).to_ne_bytes());
        page[36..40].copy_from_slice(&DEFAULT_BLOCK_SIZE.to_ne_bytes());
        page
    }

    #[test]
    fn a_long_header_of_every_major_is_read() {
        for (magic, major) in MAGICS {
            let header = first_page(&long(*magic)).expect("because it is well formed");
            assert_eq!((header.major, header.timeline, header.page_address), (*major, TimelineId(7), Lsn(0x300_0000)));
            assert_eq!((header.system_id, header.segment_size), (SystemId(42), SegmentSize::DEFAULT));
        }
    }

    #[test]
    fn what_is_no_header_is_named() {
        let page = long(0xD110);
        assert_eq!(first_page(&page[..20]), Err(PageError::TooShort { need: 24, have: 20 }));
        assert_eq!(first_page(&page[..30]), Err(PageError::TooShort { need: 40, have: 30 }));
        assert_eq!(first_page(&[0; 40]), Err(PageError::Zero));
        let change = |at: usize, with: &[u8]| {
            let mut other = page.clone();
            other[at..at + with.len()].copy_from_slice(with);
            first_page(&other)
        };
        assert_eq!(change(0, &0x10D1u16.to_ne_bytes()), Err(PageError::OtherByteOrder));
        assert_eq!(change(0, &0xD101u16.to_ne_bytes()), Err(PageError::Magic(0xD101)));
        assert_eq!(change(2, &0x12u16.to_ne_bytes()), Err(PageError::Flags(0x12)));
        assert_eq!(change(2, &0u16.to_ne_bytes()), Err(PageError::NotLong));
        assert_eq!(change(36, &512u32.to_ne_bytes()), Err(PageError::BlockSize(512)));
        assert_eq!(change(32, &3u32.to_ne_bytes()), Err(PageError::SegmentSize(3)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = first_page(&bytes);
            let mut framed = long(0xD118);
            let end = framed.len().min(bytes.len());
            framed[2..end.max(2)].copy_from_slice(&bytes[2.min(end)..end]);
            let _ = first_page(&framed);
        }
    }
}
