//! Finds out what the ladder must know: how the data stand to the primary, and where the WAL is that each way needs.

use std::path::Path;

use super::ladder::{Beginning, Held, Situation};
use crate::archive::holdings;
use crate::archive::places::Archive;
use crate::cluster::standby::StandbyError;
use crate::cluster::standby::facts::{Activity, Data, Facts, Upstream};
use crate::cluster::standby::lineage::{Fork, Relation};
use crate::cluster::standby::observe::Look;
use crate::cluster::standby::plan;
use crate::error::Failure;
use crate::postgres::local_wal::{Found, LocalWal};
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineHistory};

/// So many segments the last checkpoint before a fork may lie back in the archives.
const FAR: u64 = 4096;

/// Looks.
pub fn situation(look: &Look<'_>, facts: &Facts) -> Result<Situation, StandbyError> {
    let upstream = facts.upstream.as_ref().ok_or_else(|| plan::checks::no_upstream(facts))?;
    let archives = look.sites.of(&look.config.places(&look.config.restore.from));
    let archives: Vec<Archive> = archives.iter().filter_map(|site| site.archive().ok()).collect();
    let wanted = Wanted { facts, upstream, archives: &archives };
    let data = plan::data(&facts.own.directory);
    let mut situation = Situation {
        relation: Err("there are no data".to_owned()),
        clean: true,
        hints: false,
        beyond: 0,
        upstream_reaches: false,
        archives_reach: Held::Not("everything".to_owned()),
        behind: 0,
        beginning: Beginning::Nowhere("the checkpoint before the fork".to_owned()),
        replayable: Held::Not("WAL".to_owned()),
        no_rewind: upstream.no_rewind.clone(),
        no_restore: wanted.no_restore(),
    };
    let Some(data) = data else { return Ok(situation) };
    situation.clean = data.control.state.is_clean();
    situation.hints = data.control.checksums || data.control.wal_log_hints;
    situation.relation = wanted.relation(data);
    let end = data.ends.map_or(data.control.checkpoint, |(_, wal)| wal);
    match situation.relation {
        Ok(Relation::Diverged(fork)) => {
            situation.beyond = end.0.saturating_sub(fork.at.0);
            wanted.rewind(&mut situation, &facts.own.pgdata, data, fork)?;
        }
        Ok(Relation::Surplus(fork)) => {
            situation.beyond = end.0.saturating_sub(fork.at.0);
            wanted.follow(&mut situation, fork.at);
        }
        Ok(Relation::OnTheWay(_)) => wanted.follow(&mut situation, end),
        _ => {}
    }
    Ok(situation)
}

/// What is looked for, and where.
struct Wanted<'a> {
    facts: &'a Facts,
    upstream: &'a Upstream,
    archives: &'a [Archive],
}

impl Wanted<'_> {
    /// How the data stand to the primary; or why nothing can be done with them.
    fn relation(&self, data: &Data) -> Result<Relation, String> {
        if data.half_rewound {
            return Err("a rewind of them began and did not end".to_owned());
        }
        if self.facts.own.server != Activity::Down {
            return Err("a server runs on them".to_owned());
        }
        match plan::stands(data, self.upstream) {
            Ok(Relation::Strangers) => Err("they share no timeline with the primary".to_owned()),
            Ok(relation) => Ok(relation),
            Err(error) => Err(Failure::of(&error).message),
        }
    }

    /// The WAL from here on.
    fn follow(&self, situation: &mut Situation, from: Lsn) {
        situation.behind = self.upstream.there.position.0.saturating_sub(from.0);
        situation.upstream_reaches = self.upstream_reaches(from);
        situation.archives_reach = self.archives_reach(from);
    }

    /// True where the primary's own `pg_wal` begins early enough; what it does not show is tried.
    fn upstream_reaches(&self, from: Lsn) -> bool {
        let size = self.upstream.there.segment_size;
        let oldest = self.upstream.oldest.and_then(|oldest| oldest.number(size));
        oldest.is_none_or(|oldest| oldest <= from.segment(size))
    }

    /// Whether the archives hold what the primary no longer has.
    fn archives_reach(&self, from: Lsn) -> Held {
        let size = self.upstream.there.segment_size;
        let Ok(history) = &self.upstream.history else { return Held::Not("a known history".to_owned()) };
        let first = from.segment(size);
        let behind = self.upstream.oldest.and_then(|oldest| oldest.number(size));
        // Where the primary does not say where its WAL begins, nothing can be built on it.
        let behind = behind.unwrap_or_else(|| self.upstream.there.position.segment(size));
        self.held(history, first, behind)
    }

    /// Whether the archives hold the segments from `first` up to, and without, `behind`.
    fn held(&self, history: &TimelineHistory, first: SegmentNumber, behind: SegmentNumber) -> Held {
        let size = self.upstream.there.segment_size;
        let name = |number| SegmentName::new(history.owner_of_segment(number, size), number, size);
        let names: Vec<SegmentName> = (first.0..behind.0).map(SegmentNumber).map(name).collect();
        if names.is_empty() {
            return Held::All;
        }
        if self.facts.commands.restore.is_none() || self.archives.is_empty() {
            return Held::Not("everything: there is no archive".to_owned());
        }
        match holdings::missing(self.archives, &names) {
            Ok(missing) => match missing.first() {
                None => Held::All,
                Some(segment) => Held::Not(format!("{} segments, '{segment}' first", missing.len())),
            },
            Err(error) => Held::Not(format!("an answer: {}", Failure::of(&error).message)),
        }
    }

    /// Where a rewind would begin, and whether what it leaves can be replayed.
    fn rewind(&self, situation: &mut Situation, pgdata: &Path, data: &Data, fork: Fork) -> Result<(), StandbyError> {
        let Some(history) = &data.history else { return Ok(()) };
        let size = data.control.segment_size;
        let wal = LocalWal::new(pgdata, &data.control, history);
        situation.beginning = match wal.checkpoint_before(fork.at)? {
            Found::Checkpoint(checkpoint) => {
                situation.replayable = self.replayable(checkpoint.redo);
                Beginning::Local { redo: checkpoint.redo }
            }
            Found::Before(segment) => {
                // How far back it lies, only the records there tell. They are fetched before anything is changed, and
                // all of this is asked again then.
                situation.replayable = Held::All;
                match self.first_archived(history, segment) {
                    Some(oldest) => Beginning::Archives { segments: segment.0 + 1 - oldest.0 },
                    None => {
                        let name = SegmentName::new(history.owner_of_segment(segment, size), segment, size);
                        Beginning::Nowhere(format!("'{name}'"))
                    }
                }
            }
        };
        Ok(())
    }

    /// How far back the archives go without a gap, from this segment on; none where they lack it.
    fn first_archived(&self, history: &TimelineHistory, from: SegmentNumber) -> Option<SegmentNumber> {
        let size = self.upstream.there.segment_size;
        let earliest = from.0.saturating_sub(FAR).max(1);
        let name = |number| SegmentName::new(history.owner_of_segment(number, size), number, size);
        let names: Vec<SegmentName> = (earliest..=from.0).map(SegmentNumber).map(name).collect();
        let missing = holdings::missing(self.archives, &names).ok()?;
        let last = missing.into_iter().filter_map(|name| name.number(size)).max();
        let oldest = last.map_or(SegmentNumber(earliest), SegmentNumber::next);
        (oldest <= from).then_some(oldest)
    }

    /// Whether everything from the redo position on is still with the primary or in an archive.
    fn replayable(&self, redo: Lsn) -> Held {
        match self.upstream_reaches(redo) {
            true => Held::All,
            false => self.archives_reach(redo),
        }
    }

    /// Why the backup cannot be used.
    fn no_restore(&self) -> Option<String> {
        let Some(backup) = &self.facts.backup else { return Some("no archive holds a whole backup".to_owned()) };
        let Ok(history) = &self.upstream.history else { return Some("the primary's history is not known".to_owned()) };
        if backup.system_id != self.upstream.there.system_id {
            return Some(format!("backup '{}' is of another cluster", backup.label));
        }
        let left = history.switch_point(backup.timeline);
        if !history.contains(backup.timeline) || left.is_some_and(|left| backup.stop > left) {
            return Some(format!("backup '{}' ended beyond the fork, on timeline {}", backup.label, backup.timeline));
        }
        if let Some(segment) = backup.lacks {
            return Some(format!("no archive has '{segment}' yet, in which the primary's timeline begins"));
        }
        if self.upstream_reaches(backup.stop) {
            return None;
        }
        match self.archives_reach(backup.stop) {
            Held::All => None,
            Held::Not(what) => Some(format!("after backup '{}', the archives lack {what}", backup.label)),
        }
    }
}
