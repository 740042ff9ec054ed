//! Which blocks may differ from the parent's, as the server's own WAL summaries say (PostgreSQL 17 and later, where
//! `summarize_wal` is on): the others need not be read.
//!
//! Why nothing is lost. The parent began with a checkpoint at P, this backup with one at S, on the same timeline, and
//! the parent ended at or before S. Take a block of a main fork that no WAL between P and S names.
//!
//! - The parent holds it as it was at P. The checkpoint had written all that was changed before; whatever changed it
//!   while the parent copied it, wholly or torn, is named by WAL that was flushed before the page was, so before the
//!   parent ended. So it is as it was at S too, and replay from S makes of it what it makes of the server's own page.
//! - A parent that built on summaries itself holds what its own parent held, by the same argument. A file that nobody
//!   wrote since it was read is taken from it unread: only where the last write came before the parent's checkpoint, so
//!   the file has nothing that the blocks the parent did not read lack.
//! - Hint bits alone: with page checksums or `wal_log_hints` the first after a checkpoint is WAL that names the block;
//!   without them they may differ, in a page that says the same. Checksums switched on or off by `pg_checksums` between
//!   the two rewrite pages without WAL: both backups must agree on them.
//! - A file that was cut, or dropped and made anew under its old name, has a limit: from there on all is read. So is
//!   every block that the parent's file does not reach. A database that was created or dropped, by whatever strategy,
//!   is named as relation 0: all of it is read, since a copy of files keeps pages that no WAL names. What is cut,
//!   dropped or created after S is done again by replay.
//! - The free space map is not in WAL. A visibility map that is cut changes its last page without naming it, and some
//!   releases count that limit in blocks of the heap. Both are read as ever, and so is whatever is no relation.
//! - WAL of `wal_level = minimal` is not summarized, `pg_resetwal` removes the summaries, and old ones are pruned: each
//!   is a gap. `pg_rewind` and a restore come with another timeline. A server that was put back to an older state on
//!   its timeline writes WAL that the archive refuses, which is found out before a backup begins; where that WAL was
//!   never archived, the summaries of it that were left are older than a parent taken since.
//!
//! What is not proven so, for whatever reason, is read and compared. Blocks are read in stretches of a few: less would
//! be no faster. What is read is compared all the same, so a summary that names too much costs nothing but time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::thread;
use std::time::Duration;

use super::BackupError;
use super::catalog::Description;
use super::plan::{self, SourceFile};
use super::session::Session;
use crate::postgres::connection::Statement;
use crate::postgres::facts::{column, lsn};
use crate::system::clock::Deadline;
use crate::wal::{Lsn, TimelineId};

const STATE: Statement = Statement { name: "summarizer_state", text: include_str!("../../sql/summarizer_state.sql") };
const RANGES: Statement = Statement { name: "summary_ranges", text: include_str!("../../sql/summary_ranges.sql") };
const CONTENTS: Statement =
    Statement { name: "summary_contents", text: include_str!("../../sql/summary_contents.sql") };

/// The first major version that has them.
const SINCE: u32 = 17;

/// So many blocks are read or left together: what a disk reads ahead anyway.
const STRETCH: u64 = 16;

/// How long to wait for the summarizer. A primary's checkpoint wakes it, and it looks twice a minute at least.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the server may take to read one summary: all that was written between two checkpoints.
const READING: Duration = Duration::from_secs(600);

/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// The tablespaces that have no folder of their own: `pg_default` and `pg_global`.
const DEFAULT: u32 = 1663;
const GLOBAL: u32 = 1664;

/// The backup that is being taken, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Where its recovery begins.
    pub start: Lsn,
    /// On which timeline.
    pub timeline: TimelineId,
    /// True where pages carry checksums.
    pub checksums: bool,
}

/// What WAL names between two backups.
#[derive(Debug, Default)]
pub struct Changes {
    /// Databases that were created or dropped, by tablespace and oid.
    databases: HashSet<(u32, u32)>,
    relations: HashMap<Relation, Written>,
}

/// A relation, by tablespace, database and number.
type Relation = (u32, u32, u32);

/// What was written of a main fork.
#[derive(Debug, Default)]
struct Written {
    /// The first block of all that is new; none where it was never cut.
    cut: Option<u64>,
    /// Stretches of which a block was written.
    stretches: BTreeSet<u64>,
}

/// What was written of one file.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// `None`: nothing at all.
    written: Option<&'a Written>,
    /// The number of its first block.
    first: u64,
}

/// Why summaries are not used.
#[derive(Debug)]
pub struct Unused {
    /// The reason.
    pub why: String,
    /// True where the server makes them, so that somebody counts on them.
    pub expected: bool,
}

/// What has changed since that parent; the error says why that is not certain.
pub fn since(session: &mut Session, parent: &Description, begun: Begun) -> Result<Changes, Unused> {
    let off = |why| Unused { why, expected: false };
    if session.major() < SINCE {
        return Err(off(format!("PostgreSQL {} makes none", session.major())));
    }
    match state(session) {
        Ok(State { summarizes: true, .. }) => {}
        Ok(_) => return Err(off("summarize_wal is off".to_owned())),
        Err(error) => return Err(off(error.to_string())),
    }
    named(session, parent, begun).map_err(|why| Unused { why, expected: true })
}

/// What WAL names since that parent.
fn named(session: &mut Session, parent: &Description, begun: Begun) -> Result<Changes, String> {
    agree(parent, begun)?;
    let told = |error: BackupError| error.to_string();
    await_summarizer(session, begun).map_err(told)??;
    let ranges = ranges(session, parent, begun).map_err(told)??;
    covered(&ranges, parent.start_lsn, begun.start)?;
    let mut changes = Changes::default();
    // One that was removed meanwhile is an error of the server.
    let add_all = |session: &mut Session| {
        ranges.into_iter().try_for_each(|range| add(&mut changes, session, begun.timeline, range))
    };
    session.patiently(READING, add_all).map_err(told)?;
    Ok(changes)
}

/// Whether the argument above holds for the two.
fn agree(parent: &Description, begun: Begun) -> Result<(), String> {
    if parent.timeline != begun.timeline {
        return Err(format!(
            "'{}' is of timeline {}, this backup of {}",
            parent.label, parent.timeline, begun.timeline
        ));
    }
    if parent.stop_lsn > begun.start {
        return Err(format!("'{}' ends at {}, this backup begins at {}", parent.label, parent.stop_lsn, begun.start));
    }
    if parent.checksums != begun.checksums {
        return Err(format!("page checksums were switched on or off since '{}'", parent.label));
    }
    Ok(())
}

/// What the summarizer says of itself.
struct State {
    summarizes: bool,
    timeline: i64,
    come: Option<Lsn>,
}

fn state(session: &mut Session) -> Result<State, BackupError> {
    let row = session.connection().query_one(&STATE, &[])?;
    let read = || {
        let (summarizes, timeline) = (column(&row, "summarizes")?, column(&row, "timeline")?);
        Ok(State { summarizes, timeline, come: lsn(&row, "lsn")? })
    };
    read().map_err(wrong(&STATE))
}

/// Waits until the server has summarized its WAL up to the start of this backup.
fn await_summarizer(session: &mut Session, begun: Begun) -> Result<Result<(), String>, BackupError> {
    let until = Deadline::after(PATIENCE);
    loop {
        let State { summarizes, timeline, come } = state(session)?;
        if !summarizes {
            return Ok(Err("summarize_wal was switched off".to_owned()));
        }
        if timeline == i64::from(begun.timeline.0) && come >= Some(begun.start) {
            return Ok(Ok(()));
        }
        if until.expired() {
            let come = come.unwrap_or(Lsn::INVALID);
            return Ok(Err(format!("WAL is summarized up to {come} of timeline {timeline}, not to {}", begun.start)));
        }
        thread::sleep(PAUSE);
    }
}

/// The summaries that reach into what lies between the two backups, in their order. One that ends behind the beginning
/// of the parent, and was written before it, tells of another past of this directory.
fn ranges(
    session: &mut Session,
    parent: &Description,
    begun: Begun,
) -> Result<Result<Vec<(Lsn, Lsn)>, String>, BackupError> {
    let timeline = i64::from(begun.timeline.0);
    let (from, to) = (parent.start_lsn.to_string(), begun.start.to_string());
    let rows = session.connection().query(&RANGES, &[&timeline, &from, &to, &parent.started])?;
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        let read = || Ok((lsn(&row, "start_lsn")?, lsn(&row, "end_lsn")?, column::<Option<bool>>(&row, "older")?));
        let (start, end, older) = read().map_err(wrong(&RANGES))?;
        let (Some(start), Some(end), Some(false)) = (start, end, older) else {
            let parent = &parent.label;
            return Ok(Err(format!("the WAL summary up to {} is older than '{parent}'", end.unwrap_or(Lsn::INVALID))));
        };
        ranges.push((start, end));
    }
    Ok(Ok(ranges))
}

/// Whether summaries, in their order, leave no gap.
fn covered(ranges: &[(Lsn, Lsn)], from: Lsn, to: Lsn) -> Result<(), String> {
    let mut come = from;
    for (start, end) in ranges {
        if *start > come {
            break;
        }
        come = come.max(*end);
    }
    if come >= to { Ok(()) } else { Err(format!("there is no WAL summary from {come} on")) }
}

/// Adds what one summary names.
fn add(
    changes: &mut Changes,
    session: &mut Session,
    timeline: TimelineId,
    range: (Lsn, Lsn),
) -> Result<(), BackupError> {
    let (timeline, from, to) = (i64::from(timeline.0), range.0.to_string(), range.1.to_string());
    for row in session.connection().query(&CONTENTS, &[&timeline, &from, &to, &(STRETCH as i64)])? {
        let number = |name| {
            let value = column::<i64>(&row, name)?;
            u32::try_from(value).map_err(|_| format!("column '{name}' is {value}"))
        };
        let read = || {
            let relation = (number("space")?, number("database")?, number("relation")?);
            Ok((relation, column::<Option<i64>>(&row, "cut")?, column::<Vec<i64>>(&row, "written")?))
        };
        let (relation, cut, written) = read().map_err(wrong(&CONTENTS))?;
        changes.add(relation, cut.map(i64::cast_unsigned), written.into_iter().map(i64::cast_unsigned));
    }
    Ok(())
}

fn wrong(statement: &Statement) -> impl Fn(String) -> BackupError + use<> {
    let statement = statement.name;
    move |detail| BackupError::Answer { statement, detail }
}

impl Changes {
    fn add(&mut self, relation: Relation, cut: Option<u64>, stretches: impl Iterator<Item = u64>) {
        let (space, database, number) = relation;
        if number == 0 {
            self.databases.insert((space, database));
            return;
        }
        let written = self.relations.entry(relation).or_default();
        written.cut = written.cut.into_iter().chain(cut).min();
        written.stretches.extend(stretches);
    }

    /// What was written of a file; `None` where nothing is known of it, so that all must be read.
    pub fn of(&self, file: &SourceFile) -> Option<Named<'_>> {
        let first = u64::from(file.first_block?);
        let relation = main_fork(&file.path)?;
        let (space, database, _) = relation;
        if self.databases.contains(&(space, database)) {
            return None;
        }
        Some(Named { written: self.relations.get(&relation), first })
    }
}

impl Named<'_> {
    /// Whether a block of the file must be read, and up to which block, at most `until`, that holds.
    pub fn alike(&self, block: u64, until: u64) -> (bool, u64) {
        let must = self.must_read(block);
        let mut end = block;
        while end < until && self.must_read(end) == must {
            end = (end / STRETCH + 1) * STRETCH;
        }
        (must, end.min(until))
    }

    /// All blocks of a stretch share their fate; one that was cut is read as a whole.
    fn must_read(&self, block: u64) -> bool {
        let stretch = (self.first + block) / STRETCH;
        let cut = |written: &Written| written.cut.is_some_and(|cut| stretch >= cut / STRETCH);
        self.written.is_some_and(|written| cut(written) || written.stretches.contains(&stretch))
    }
}

/// The relation of whose main fork a file is a part.
fn main_fork(path: &str) -> Option<Relation> {
    let (folder, name) = path.rsplit_once('/')?;
    let (number, None, _) = plan::relation(name)? else { return None };
    let number = u32::try_from(number).ok()?;
    match folder.split('/').collect::<Vec<_>>()[..] {
        ["global"] => Some((GLOBAL, 0, number)),
        ["base", database] => Some((DEFAULT, database.parse().ok()?, number)),
        ["pg_tblspc", space, _, database] => Some((space.parse().ok()?, database.parse().ok()?, number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Stamp;
    use super::*;

    fn file(path: &str, first_block: Option<u32>) -> SourceFile {
        SourceFile { path: path.to_owned(), file: path.into(), size: 0, stamp: Stamp::default(), first_block }
    }

    #[test]
    fn only_a_cover_without_a_gap_will_do() {
        let ranges: Vec<_> = [(5, 10), (10, 20), (15, 18), (20, 30)].map(|(a, b)| (Lsn(a), Lsn(b))).into();
        for (from, to, whole) in [(5, 30, true), (7, 25, true), (4, 25, false), (7, 31, false)] {
            assert_eq!(covered(&ranges, Lsn(from), Lsn(to)).is_ok(), whole, "{from} to {to}");
        }
        let torn = [ranges[0], ranges[3]];
        assert!(covered(&torn, Lsn(5), Lsn(30)).is_err() && covered(&[], Lsn(5), Lsn(6)).is_err());
        assert!(covered(&torn, Lsn(5), Lsn(10)).is_ok());
    }

    #[test]
    fn files_are_found_by_their_paths_and_nothing_but_main_forks() {
        assert_eq!(main_fork("base/5/16384"), Some((DEFAULT, 5, 16384)));
        assert_eq!(main_fork("base/5/16384.3"), Some((DEFAULT, 5, 16384)));
        assert_eq!(main_fork("global/1262"), Some((GLOBAL, 0, 1262)));
        assert_eq!(main_fork("pg_tblspc/16400/PG_18_202506291/5/16390"), Some((16400, 5, 16390)));
        let others = ["base/5/16384_fsm", "base/5/16384_vm", "base/5/16384_init.1", "base/5/pg_filenode.map", "1"];
        for path in others.iter().chain(&["base/16384", "pg_xact/0000", "pg_tblspc/16400/5/16390"]) {
            assert_eq!(main_fork(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_written_cut_or_of_a_new_database_is_read() {
        let mut changes = Changes::default();
        changes.add((DEFAULT, 5, 10), None, [0, 3].into_iter());
        changes.add((DEFAULT, 5, 10), Some(100), [4].into_iter());
        changes.add((DEFAULT, 5, 10), Some(200), [].into_iter());
        changes.add((DEFAULT, 6, 0), Some(0), [].into_iter());
        changes.add((DEFAULT, 5, 11), None, [131_072 / STRETCH].into_iter());
        let all = |path: &str, first: u32, until: u64| {
            let file = file(path, Some(first));
            let named = changes.of(&file).expect("because it is a relation");
            let mut pieces = vec![named.alike(0, until)];
            while pieces[pieces.len() - 1].1 < until {
                pieces.push(named.alike(pieces[pieces.len() - 1].1, until));
            }
            pieces
        };
        assert_eq!(all("base/5/10", 0, 300), [(true, 16), (false, 48), (true, 80), (false, 96), (true, 300)]);
        assert_eq!(all("base/5/10.1", 131_072, 40), [(true, 40)], "all behind the cut");
        assert_eq!(all("base/5/11", 0, 131_072), [(false, 131_072)]);
        assert_eq!(all("base/5/11.1", 131_072, 40), [(true, 16), (false, 40)]);
        assert_eq!(all("base/5/12", 0, 7), [(false, 7)], "nobody names it");
        for (path, first) in [("base/6/10", Some(0)), ("base/5/10_vm", Some(0)), ("base/5/10", None)] {
            assert!(changes.of(&file(path, first)).is_none(), "{path}");
        }
    }
}
