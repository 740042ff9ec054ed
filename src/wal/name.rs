//! Names of the four kinds of files that PostgreSQL archives.
//!
//! A [`WalName`] can only be made by parsing or from its parts, so what carries the type is well formed: nothing
//! slices strings. Segment, `.partial` and `.backup` names depend on the segment size only through the number they
//! stand for, so a name is parsed without knowing the size.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::lsn::{SegmentNumber, SegmentSize, TimelineId};

/// The 24 hexadecimal digits that name a segment (PostgreSQL: XLogFileName).
///
/// Ordered by timeline first, then by position: the order in which the archiver sends segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

/// Any name that `archive_command` and `restore_command` can be called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WalName {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that ended, or one still being received (`.partial`).
    Partial(SegmentName),
    /// The label of a finished base backup (`.backup`): the segment and the offset where the backup begins.
    Backup(SegmentName, u32),
    /// The history of a timeline (`.history`).
    History(TimelineId),
}

/// A text that names no WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no name of a WAL segment, nor of a .partial, .backup or .history file")]
pub struct ParseNameError(pub String);

impl SegmentName {
    /// Names the segment with this number (XLogFileName).
    pub fn new(timeline: TimelineId, number: SegmentNumber, size: SegmentSize) -> Self {
        let per_log = size.segments_per_log();
        SegmentName { timeline, log: (number.0 / per_log) as u32, segment: (number.0 % per_log) as u32 }
    }

    /// The timeline in the first eight digits.
    pub fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The number of the segment, or none where the last eight digits are too high for this size (XLogFromFileName).
    pub fn number(self, size: SegmentSize) -> Option<SegmentNumber> {
        let per_log = size.segments_per_log();
        (u64::from(self.segment) < per_log)
            .then(|| SegmentNumber(u64::from(self.log) * per_log + u64::from(self.segment)))
    }

    /// The first sixteen digits: the folder of an archive that holds this segment.
    pub fn folder(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }

    /// The position inside the log without the timeline: what `pg_archivecleanup` compares.
    pub fn position(self) -> (u32, u32) {
        (self.log, self.segment)
    }

    /// True for the all-zero name that PostgreSQL passes as `%r` before it knows a restart point.
    pub fn is_zero(self) -> bool {
        self.timeline.0 == 0 && self.log == 0 && self.segment == 0
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

impl FromStr for SegmentName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let wrong = || ParseNameError(text.to_owned());
        if text.len() != 24 {
            return Err(wrong());
        }
        let part = |from: usize| text.get(from..from + 8).and_then(eight_digits).ok_or_else(wrong);
        Ok(SegmentName { timeline: TimelineId(part(0)?), log: part(8)?, segment: part(16)? })
    }
}

/// Reads eight upper-case hexadecimal digits, the only form PostgreSQL writes and accepts.
fn eight_digits(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

impl WalName {
    /// The segment inside the name; a history has none.
    pub fn segment(self) -> Option<SegmentName> {
        match self {
            WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _) => Some(segment),
            WalName::History(_) => None,
        }
    }

    /// The timeline that the name begins with.
    pub fn timeline(self) -> TimelineId {
        match self {
            WalName::History(timeline) => timeline,
            WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _) => segment.timeline(),
        }
    }

    /// True where the file holds WAL pages: a whole segment or a partial one.
    pub fn holds_wal(self) -> bool {
        matches!(self, WalName::Segment(_) | WalName::Partial(_))
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalName::Segment(segment) => segment.fmt(f),
            WalName::Partial(segment) => write!(f, "{segment}.partial"),
            WalName::Backup(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
            WalName::History(timeline) => write!(f, "{:08X}.history", timeline.0),
        }
    }
}

impl FromStr for WalName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let wrong = || ParseNameError(text.to_owned());
        let Some((stem, rest)) = text.split_once('.') else {
            return text.parse().map(WalName::Segment);
        };
        match rest {
            "history" => eight_digits(stem).map(|id| WalName::History(TimelineId(id))).ok_or_else(wrong),
            "partial" => stem.parse().map(WalName::Partial).map_err(|_| wrong()),
            _ => {
                let offset = rest.strip_suffix(".backup").and_then(eight_digits).ok_or_else(wrong)?;
                stem.parse().map(|segment| WalName::Backup(segment, offset)).map_err(|_| wrong())
            }
        }
    }
}

impl TryFrom<String> for SegmentName {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for WalName {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<WalName> for String {
    fn from(name: WalName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_name() -> impl Strategy<Value = WalName> {
        let segment = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(timeline, log, segment)| SegmentName {
            timeline: TimelineId(timeline),
            log,
            segment,
        });
        prop_oneof![
            segment.clone().prop_map(WalName::Segment),
            segment.clone().prop_map(WalName::Partial),
            (segment, any::<u32>()).prop_map(|(segment, offset)| WalName::Backup(segment, offset)),
            any::<u32>().prop_map(|id| WalName::History(TimelineId(id))),
        ]
    }

    proptest! {
        #[test]
        fn a_name_reads_back_what_it_prints(name in any_name()) {
            prop_assert_eq!(name.to_string().parse::<WalName>(), Ok(name));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = text.parse::<WalName>();
        }

        #[test]
        fn what_parses_prints_the_same(text in "[0-9A-Fa-f]{8,24}(\\.partial|\\.history|\\.[0-9A-F]{8}\\.backup)?") {
            if let Ok(name) = text.parse::<WalName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn a_number_names_itself_at_every_size(raw in 0..1u64 << 34, shift in 20u32..=30) {
            let size = SegmentSize::new(1 << shift).expect("because every such power is allowed");
            let number = SegmentNumber(raw % ((1 << 32) * size.segments_per_log()));
            prop_assert_eq!(SegmentName::new(TimelineId(3), number, size).number(size), Some(number));
        }
    }

    #[test]
    fn foreign_names_are_refused() {
        let foreign = [
            "",
            ".",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000g",
            "000000010000000000000aB1",
            "000000010000000000000001.Partial",
            "000000010000000000000001.partial.partial",
            "000000010000000000000001.0000028.backup",
            "0000001.history",
            "00000001.history.zst",
            "../0000000100000000000001",
            "00000001000000000000000é",
        ];
        for text in foreign {
            assert_eq!(text.parse::<WalName>(), Err(ParseNameError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn digits_too_high_for_the_size_have_no_number() {
        let name: SegmentName = "000000010000000000000100".parse().expect("because it is well formed");
        assert_eq!(name.number(SegmentSize::DEFAULT), None);
        assert!(name.number(SegmentSize::new(1 << 20).expect("because 1 MiB is a size")).is_some());
    }
}
