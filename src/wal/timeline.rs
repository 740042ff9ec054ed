//! Timelines: which one holds a position, and where two of them part (PostgreSQL: TimeLineHistoryEntry).
//!
//! Reads history files as PostgreSQL does (readTimeLineHistory). It keeps the reasons that stand in them, not their
//! comments and blank lines. Where the file of an ancestor lies is not known here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lsn::{Lsn, SegmentNumber, SegmentSize, TimelineId, text};
use crate::error::{Class, Explain};

/// A timeline and those it descends from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline itself.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first; none for the first timeline.
    pub ancestors: Vec<Ancestor>,
}

/// One line of a history file: a timeline and where the next one branched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that is no longer its own (PostgreSQL: switchpoint).
    #[serde(with = "text")]
    pub switch_point: Lsn,
    /// What the server wrote about why, like `no recovery target specified`; may be empty.
    pub reason: String,
}

/// A history file that PostgreSQL would refuse to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history of timeline {timeline} is damaged in line {line}: {fault}")]
pub struct ParseHistoryError {
    /// The timeline of the file.
    pub timeline: TimelineId,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: HistoryFault,
}

/// What can be wrong with a line of a history file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFault {
    /// The line does not begin with a number.
    #[error("a timeline number is expected")]
    NoTimeline,
    /// The number is not followed by an LSN.
    #[error("the position of the switch is expected behind the timeline")]
    NoSwitchPoint,
    /// The timelines do not increase from line to line.
    #[error("timelines must increase from line to line")]
    NotIncreasing,
    /// A timeline is not lower than the one whose history this is.
    #[error("an ancestor must be lower than the timeline itself")]
    NotLower,
}

impl Explain for ParseHistoryError {
    fn class(&self) -> Class {
        Class::Corrupt
    }

    fn hint(&self) -> Option<String> {
        Some("The server that began this timeline has the file in its pg_wal; compare it with the copies in the other places of the archive.".to_owned())
    }
}

impl TimelineHistory {
    /// The first timeline of a cluster, which has no history file.
    pub fn first() -> TimelineHistory {
        TimelineHistory { timeline: TimelineId(1), ancestors: Vec::new() }
    }

    /// Reads the text of a history file (readTimeLineHistory).
    pub fn parse(timeline: TimelineId, text: &str) -> Result<TimelineHistory, ParseHistoryError> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        let mut last_line = 0;
        for (index, line) in text.lines().enumerate() {
            let wrong = |fault| ParseHistoryError { timeline, line: index + 1, fault };
            let content = line.trim_start_matches(is_space);
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let ancestor = parse_line(content).map_err(wrong)?;
            if ancestors.last().is_some_and(|last| ancestor.timeline <= last.timeline) {
                return Err(wrong(HistoryFault::NotIncreasing));
            }
            ancestors.push(ancestor);
            last_line = index + 1;
        }
        if ancestors.last().is_some_and(|last| last.timeline >= timeline) {
            return Err(ParseHistoryError { timeline, line: last_line, fault: HistoryFault::NotLower });
        }
        Ok(TimelineHistory { timeline, ancestors })
    }

    /// True for the timelines this one descends from, not for itself.
    pub fn is_ancestor(&self, timeline: TimelineId) -> bool {
        self.ancestors.iter().any(|ancestor| ancestor.timeline == timeline)
    }

    /// True for the timeline itself and those it descends from (tliInHistory).
    pub fn contains(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.is_ancestor(timeline)
    }

    /// Where this history leaves an ancestor (tliSwitchPoint); none for the timeline itself and for strangers.
    pub fn switch_point(&self, timeline: TimelineId) -> Option<Lsn> {
        self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline).map(|ancestor| ancestor.switch_point)
    }

    /// Where the timeline itself begins; the start of the log for one without ancestors.
    pub fn begins(&self) -> Lsn {
        self.ancestors.last().map_or(Lsn::INVALID, |parent| parent.switch_point)
    }

    /// The timeline that holds the byte at a position (tliOfPointInHistory).
    pub fn timeline_at(&self, position: Lsn) -> TimelineId {
        self.newest_begun(|begin| begin <= position)
    }

    /// The timeline under whose name a recovery along this history reads a segment (XLogFileReadAnyTLI): the newest one
    /// that begins in it or before it. A segment with a switch point in it is read from the child.
    pub fn owner_of_segment(&self, segment: SegmentNumber, size: SegmentSize) -> TimelineId {
        self.newest_begun(|begin| begin.segment(size) <= segment)
    }

    /// Goes from the newest timeline to older ones, as the server does. That matters: a recovery that stopped before
    /// its parent began leaves switch points that go back, and then the order decides.
    fn newest_begun(&self, begun: impl Fn(Lsn) -> bool) -> TimelineId {
        let begins = self.ancestors.iter().map(|ancestor| ancestor.switch_point);
        let children = self.ancestors.iter().skip(1).map(|ancestor| ancestor.timeline).chain([self.timeline]);
        let newest = children.zip(begins).collect::<Vec<_>>().into_iter().rev().find(|(_, begin)| begun(*begin));
        newest.map_or_else(|| self.oldest(), |(timeline, _)| timeline)
    }

    fn oldest(&self) -> TimelineId {
        self.ancestors.first().map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// The timeline and the position where its part of the history ends; the end of the log for the timeline itself.
    fn spans(&self) -> impl Iterator<Item = (TimelineId, Lsn)> {
        let own = (self.timeline, Lsn(u64::MAX));
        self.ancestors.iter().map(|ancestor| (ancestor.timeline, ancestor.switch_point)).chain([own])
    }
}

/// The last timeline that two histories share, and the position up to which they share it (as `pg_rewind` finds its
/// divergence). None where they share nothing; [`u64::MAX`] as the position where they are the same timeline.
pub fn fork(a: &TimelineHistory, b: &TimelineHistory) -> Option<(TimelineId, Lsn)> {
    let mut shared = None;
    for ((left, left_end), (right, right_end)) in a.spans().zip(b.spans()) {
        if left != right {
            break;
        }
        shared = Some((left, left_end.min(right_end)));
        // The same number behind different switch points is another timeline.
        if left_end != right_end {
            break;
        }
    }
    shared
}

impl fmt::Display for TimelineHistory {
    /// The text of a history file; parsing it gives the same history again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Ancestor { timeline, switch_point, reason } in &self.ancestors {
            writeln!(f, "{timeline}\t{switch_point}\t{reason}")?;
        }
        Ok(())
    }
}

/// The white space of C's isspace().
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C')
}

/// Reads one line as sscanf("%u\t%X/%X") does, but takes no sign and no number too large for 32 bits.
fn parse_line(line: &str) -> Result<Ancestor, HistoryFault> {
    let (timeline, rest) = number(line, 10).ok_or(HistoryFault::NoTimeline)?;
    let (high, rest) = number(rest, 16).ok_or(HistoryFault::NoSwitchPoint)?;
    let rest = rest.strip_prefix('/').ok_or(HistoryFault::NoSwitchPoint)?;
    let (low, reason) = number(rest, 16).ok_or(HistoryFault::NoSwitchPoint)?;
    Ok(Ancestor {
        timeline: TimelineId(timeline),
        switch_point: Lsn(u64::from(high) << 32 | u64::from(low)),
        reason: reason.trim_matches(is_space).to_owned(),
    })
}

/// The number at the start of a text, behind any white space, and what follows it.
fn number(text: &str, radix: u32) -> Option<(u32, &str)> {
    let text = text.trim_start_matches(is_space);
    let end = text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    u32::from_str_radix(digits, radix).ok().map(|value| (value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_history() -> impl Strategy<Value = TimelineHistory> {
        let line = (1u32..9, 1u64..1 << 36, "[a-z]([a-z /]{0,20}[a-z])?");
        (proptest::collection::vec(line, 0..8), 1u32..9).prop_map(|(lines, step)| {
            let (mut timeline, mut position, mut ancestors) = (0, 0, Vec::new());
            for (tli, length, reason) in lines {
                timeline += tli;
                position += length;
                ancestors.push(Ancestor { timeline: TimelineId(timeline), switch_point: Lsn(position), reason });
            }
            TimelineHistory { timeline: TimelineId(timeline + step), ancestors }
        })
    }

    proptest! {
        #[test]
        fn a_history_reads_back_what_it_prints(history in any_history()) {
            prop_assert_eq!(TimelineHistory::parse(history.timeline, &history.to_string()), Ok(history));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "([0-9A-F/#\t\n ]|\\PC)*") {
            let _ = TimelineHistory::parse(TimelineId(9), &text);
        }

        #[test]
        fn a_position_belongs_to_the_first_timeline_that_ends_behind_it(history in any_history(), at in 0u64..1 << 39) {
            let first = history.spans().find(|(_, end)| at < end.0).map(|(timeline, _)| timeline);
            prop_assert_eq!(Some(history.timeline_at(Lsn(at))), first);
        }

        #[test]
        fn the_owner_of_a_segment_holds_its_last_byte(history in any_history(), at in 0u64..1 << 39) {
            let size = SegmentSize::DEFAULT;
            let segment = Lsn(at).segment(size);
            let last = Lsn(segment.end(size).0 - 1);
            prop_assert_eq!(history.owner_of_segment(segment, size), history.timeline_at(last));
        }

        #[test]
        fn a_child_forks_from_its_parent_where_it_begins(parent in any_history(), length in 1u64..1 << 30) {
            let mut child = parent.clone();
            let switch_point = Lsn(parent.begins().0 + length);
            child.ancestors.push(Ancestor { timeline: parent.timeline, switch_point, reason: String::new() });
            child.timeline = TimelineId(parent.timeline.0 + 1);
            prop_assert_eq!(fork(&parent, &child), Some((parent.timeline, switch_point)));
            prop_assert_eq!(fork(&child, &parent), fork(&parent, &child));
            prop_assert_eq!(fork(&child, &child), Some((child.timeline, Lsn(u64::MAX))));
            prop_assert!(child.is_ancestor(parent.timeline) && !child.is_ancestor(child.timeline));
        }
    }

    fn parse(text: &str) -> Result<TimelineHistory, (usize, HistoryFault)> {
        TimelineHistory::parse(TimelineId(7), text).map_err(|error| (error.line, error.fault))
    }

    #[test]
    fn a_file_is_read_as_the_server_reads_it() {
        let text =
            "# old\n\n1\t0/3000060\tno recovery target specified\n \t\n  3 1/0AbC before 2026-01-01 # noon\n5 2/0";
        let history = parse(text).expect("because the server takes it");
        let lines: Vec<_> = history.ancestors.iter().map(|a| (a.timeline.0, a.switch_point.0, &*a.reason)).collect();
        let wanted = [
            (1, 0x300_0060, "no recovery target specified"),
            (3, 0x1_0000_0ABC, "before 2026-01-01 # noon"),
            (5, 0x2_0000_0000, ""),
        ];
        assert_eq!(lines, wanted);
        assert_eq!(history.switch_point(TimelineId(3)), Some(Lsn(0x1_0000_0ABC)));
        assert_eq!((history.switch_point(TimelineId(7)), history.switch_point(TimelineId(2))), (None, None));
        assert_eq!(TimelineHistory::first().to_string(), "");
    }

    #[test]
    fn damage_is_named_with_its_line() {
        assert_eq!(parse("1\t0/1\n\nx"), Err((3, HistoryFault::NoTimeline)));
        assert_eq!(parse("99999999999\t0/1"), Err((1, HistoryFault::NoTimeline)));
        for text in ["1", "1\t", "1\t0", "1\t0/", "1\tx/1", "1\t0/123456789"] {
            assert_eq!(parse(text), Err((1, HistoryFault::NoSwitchPoint)), "{text}");
        }
        assert_eq!(parse("2\t0/1\n2\t0/2"), Err((2, HistoryFault::NotIncreasing)));
        assert_eq!(parse("1\t0/1\n7\t0/2\n"), Err((2, HistoryFault::NotLower)));
    }

    #[test]
    fn switch_points_that_go_back_are_read_from_the_newest() {
        // Timeline 3 came from a recovery along 2 that stopped before 2 began.
        let history = parse("1\t0/5000\n2\t0/4000\n").expect("because the server writes and takes it");
        assert_eq!(history.timeline_at(Lsn(0x4800)), TimelineId(7));
        assert_eq!(history.timeline_at(Lsn(0x3000)), TimelineId(1));
    }

    #[test]
    fn siblings_part_where_the_first_of_them_left() {
        let a = TimelineHistory::parse(TimelineId(2), "1\t0/5000\n").expect("because it is well formed");
        let b = TimelineHistory::parse(TimelineId(3), "1\t0/4000\n").expect("because it is well formed");
        assert_eq!(fork(&a, &b), Some((TimelineId(1), Lsn(0x4000))));
        let same_number = TimelineHistory::parse(TimelineId(2), "1\t0/4000\n").expect("because it is well formed");
        assert_eq!(fork(&a, &same_number), Some((TimelineId(1), Lsn(0x4000))));
        let stranger = TimelineHistory { timeline: TimelineId(9), ancestors: Vec::new() };
        assert_eq!(fork(&a, &stranger), None);
    }
}
