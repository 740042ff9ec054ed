//! Positions in the write-ahead log, and the numbers that divide it.
//!
//! All arithmetic between an LSN, a segment number and a segment size is done here and nowhere else. Nothing assumes
//! segments of 16 MiB: the size is read from the control file or from the long header of a segment's first page.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log in bytes from its start (PostgreSQL: XLogRecPtr, `pg_lsn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

/// The number of a segment counted from the start of the log (PostgreSQL: XLogSegNo).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SegmentNumber(pub u64);

/// A timeline (PostgreSQL: TimeLineID). The first one is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimelineId(pub u32);

/// What `initdb` drew for this cluster, the same on every node of it (PostgreSQL: system identifier).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SystemId(pub u64);

/// The size of a segment in bytes: a power of two from 1 MiB to 1 GiB (PostgreSQL: `wal_segment_size`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u32);

/// A text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no LSN; an LSN is written as two hexadecimal numbers, like 16/B374D848")]
pub struct ParseLsnError(pub String);

/// A number that is no segment size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' bytes is no size of a WAL segment; it is a power of two from 1 MiB to 1 GiB")]
pub struct SegmentSizeError(pub u64);

impl Lsn {
    /// No position at all (PostgreSQL: InvalidXLogRecPtr).
    pub const INVALID: Lsn = Lsn(0);

    /// The segment that holds the byte at this position (XLByteToSeg).
    pub fn segment(self, size: SegmentSize) -> SegmentNumber {
        SegmentNumber(self.0 / size.bytes())
    }

    /// How far into its segment the position lies, in bytes (XLogSegmentOffset).
    pub fn offset(self, size: SegmentSize) -> u64 {
        self.0 % size.bytes()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let wrong = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let half = |digits: &str| {
            let fits = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if fits { u32::from_str_radix(digits, 16).map_err(|_| wrong()) } else { Err(wrong()) }
        };
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl FromStr for SystemId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(SystemId)
    }
}

impl SegmentSize {
    /// The size `initdb` chooses when it is told nothing: 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// Checks that a number of bytes is a size PostgreSQL allows (IsValidWalSegSize).
    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        let allowed = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        if allowed { Ok(SegmentSize(bytes as u32)) } else { Err(SegmentSizeError(bytes)) }
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments share the eight middle digits of a name (XLogSegmentsPerXLogId).
    pub fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u64) -> Result<Self, SegmentSizeError> {
        SegmentSize::new(bytes)
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.bytes()
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

impl SegmentNumber {
    /// The position of the segment's first byte (XLogSegNoOffsetToRecPtr).
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.0 * size.bytes())
    }

    /// The position just past the segment's last byte.
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.next().start(size)
    }

    /// The segment that follows.
    pub fn next(self) -> SegmentNumber {
        SegmentNumber(self.0 + 1)
    }

    /// The segment before, or none before the first.
    pub fn previous(self) -> Option<SegmentNumber> {
        self.0.checked_sub(1).map(SegmentNumber)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Stores positions and identifiers as people read them: numbers of JSON end at 2^53.
pub mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The same where there may be none.
pub mod text_or_none {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_size() -> impl Strategy<Value = SegmentSize> {
        (20u32..=30).prop_map(|shift| SegmentSize::new(1 << shift).expect("because every such power is allowed"))
    }

    proptest! {
        #[test]
        fn an_lsn_reads_back_what_it_prints(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse::<Lsn>(), Ok(Lsn(raw)));
        }

        #[test]
        fn a_position_lies_inside_its_segment(raw in 0..u64::MAX / 2, size in any_size()) {
            let lsn = Lsn(raw);
            let segment = lsn.segment(size);
            prop_assert!(segment.start(size) <= lsn && lsn < segment.end(size));
            prop_assert_eq!(segment.start(size).0 + lsn.offset(size), raw);
        }

        #[test]
        fn only_powers_of_two_between_the_bounds_are_sizes(bytes: u64) {
            let allowed = bytes.count_ones() == 1 && (1u64 << 20..=1 << 30).contains(&bytes);
            prop_assert_eq!(SegmentSize::new(bytes).is_ok(), allowed);
        }
    }

    #[test]
    fn texts_that_are_no_lsn_are_refused() {
        for text in ["", "/", "0", "1/", "/1", "1/123456789", "g/0", "+1/0", "1/ 2", "1/2/3"] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError(text.to_owned())), "{text}");
        }
    }
}
