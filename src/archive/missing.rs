//! What an archive lacks, for people and for JSON: why it must have existed, where it still is, what brings it back.

use serde::Serialize;

use super::ArchiveError;
use super::continuity::{Because, Gap};
use super::copies::{Copy, Elsewhere, Search};
use super::places::{Archive, Sites};
use crate::config::{Config, Node};
use crate::wal::SegmentName;

/// A gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The first segment missing.
    pub first: SegmentName,
    /// The last segment missing.
    pub last: SegmentName,
    /// How many.
    pub count: u64,
    /// Why they must have existed.
    pub why: String,
    /// Where they still are.
    pub copies: Vec<Copy>,
    /// The stretches that are in none of the places asked.
    pub nowhere: Vec<Stretch>,
    /// Places that could not tell.
    pub unknown: Vec<String>,
}

/// Segments of one timeline in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The first.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
}

/// Looks for what is missing in the archive of a node. `arguments` tell our programs on this node which configuration
/// to read; `read` says whether what lies in this node's `pg_wal` is to be proven.
pub fn find(
    config: &Config,
    sites: &Sites,
    target: (&Node, &Archive),
    gaps: &[Gap],
    arguments: &str,
    read: bool,
    elsewhere: &Elsewhere<'_>,
) -> Result<Vec<Missing>, ArchiveError> {
    if gaps.is_empty() {
        return Ok(Vec::new());
    }
    let size = target.1.identity.segment_size;
    let search = Search::new(config, sites, target, arguments, read, elsewhere)?;
    let describe = |gap: &Gap| {
        let found = search.find(gap);
        let name = |number| SegmentName::new(gap.timeline, number, size);
        let stretch = |(first, last)| Stretch { first: name(first), last: name(last) };
        Missing {
            first: name(gap.first),
            last: name(gap.last),
            count: gap.last.0 - gap.first.0 + 1,
            why: why(gap),
            copies: found.copies,
            nowhere: found.nowhere.into_iter().map(stretch).collect(),
            unknown: found.unknown,
        }
    };
    Ok(gaps.iter().map(describe).collect())
}

fn why(gap: &Gap) -> String {
    let timeline = gap.timeline;
    match &gap.because {
        Because::Inside => format!("later segments of timeline {timeline} are here"),
        Because::Fork { child, at } => format!("timeline {child} left timeline {timeline} behind them, at {at}"),
        Because::Begin { at } => format!("timeline {timeline} began there, at {at}"),
        Because::Backup { label } => format!("backup '{label}' needs them"),
        Because::Discarded => "they were discarded".to_owned(),
    }
}
