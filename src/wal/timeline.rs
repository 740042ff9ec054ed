//! Timelines: which one holds a position, and where two of them part (PostgreSQL: TimeLineHistoryEntry).
//!
//! Reads history files as PostgreSQL does (readTimeLineHistory). It keeps the reasons that stand in them, not their
//! comments and blank lines. Where the file of an ancestor lies is not known here.

use std::fmt;

use super::lsn::{Lsn, SegmentNumber, SegmentSize, TimelineId};

/// A timeline and those it descends from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline itself.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first; none for the first timeline.
    pub ancestors: Vec<Ancestor>,
}

/// One line of a history file: a timeline and where the next one branched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that is no longer its own (PostgreSQL: switchpoint).
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
