//! How people are told what WAL is missing, where it still is, and what brings it back.

use std::fmt::Write as _;

use super::output::{Palette, Tone};
use crate::archive::copies::{Copy, Kind};
use crate::archive::missing::Missing;
use crate::wal::SegmentName;

/// Of the commands of one copy, so many are printed; `--json` holds all.
const COMMANDS_SHOWN: usize = 16;

/// Some segments in a row.
pub fn range(first: SegmentName, last: SegmentName, count: u64) -> String {
    match count {
        1 => format!("{first}"),
        count => format!("{count} segments, {first} to {last}"),
    }
}

/// One gap.
pub fn missing(gap: &Missing, palette: Palette) -> String {
    let mut text = String::new();
    let word = palette.paint(Tone::Bad, "missing");
    let _ = writeln!(text, "{word}: {}: {}", range(gap.first, gap.last, gap.count), gap.why);
    for copy in &gap.copies {
        text.push_str(&copy_lines(copy));
    }
    for stretch in &gap.nowhere {
        let one = stretch.first == stretch.last;
        let names = if one { stretch.first.to_string() } else { format!("{} to {}", stretch.first, stretch.last) };
        let _ = writeln!(text, "  found in none of the places asked: {names}");
    }
    for unknown in &gap.unknown {
        let _ = writeln!(text, "  cannot tell: {unknown}");
    }
    if !gap.nowhere.is_empty() && gap.unknown.is_empty() {
        let _ = writeln!(
            text,
            "  if they are lost: take a new base backup, then run check-archive --acknowledge {}..{} --reason TEXT",
            gap.first, gap.last
        );
    }
    text
}

fn copy_lines(copy: &Copy) -> String {
    let kind = match copy.kind {
        Kind::Queue => "queue",
        Kind::PgWal => "pg_wal",
        Kind::Archive => "archive",
    };
    let proven = if copy.proven { ", content checked" } else { "" };
    let mut text = format!("  {} to {}: {kind} on {} ({}){proven}\n", copy.first, copy.last, copy.node, copy.place);
    for command in copy.commands.iter().take(COMMANDS_SHOWN) {
        let _ = writeln!(text, "    on {}: {}", command.node, command.line);
    }
    if copy.commands.len() > COMMANDS_SHOWN {
        let more = copy.commands.len() - COMMANDS_SHOWN;
        let _ = writeln!(text, "    and {more} more like these; --json prints them all");
    }
    text
}
