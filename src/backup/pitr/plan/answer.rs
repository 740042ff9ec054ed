//! Puts a plan together, once the backup and the end are known.

use super::super::locate::{self, Way};
use super::super::{Chosen, End, Expected, Halt, Leg, Plan, Target, Window, moment};
use super::{Candidate, Found, Planner};
use crate::backup::BackupError;
use crate::backup::catalog::Description;
use crate::wal::{SegmentName, SegmentNumber, TimelineId};

impl Planner<'_> {
    /// The plan.
    pub(super) fn assemble(&self, candidates: &[Candidate<'_>], found: &Found) -> Result<Plan, Halt> {
        let chosen = &candidates[found.at];
        let way = &chosen.way;
        let segments = found.last.0 + 1 - way.first.0;
        let bytes = segments * way.size.bytes();
        let lsn = match (&self.wish.target, found.stop) {
            (_, Some(stop)) => stop.replayed,
            (Target::Immediate, None) => chosen.backup.stop_lsn,
            _ => way.end(),
        };
        let mut notices = self.seen.notices.clone();
        notices.extend(self.tail(chosen, found));
        notices.extend(self.passed_over(chosen.backup));
        Ok(Plan {
            target: self.wish.target.aim(self.wish.inclusive),
            backup: Chosen::new(chosen.backup),
            timeline: way.history.timeline,
            legs: legs(way, found.last),
            segments,
            bytes,
            end: End {
                lsn,
                record: found.stop.map(|stop| stop.record),
                record_time: found.stop.and_then(|stop| moment(stop.time?)),
                last_commit: found.last_commit.and_then(|ended| moment(ended.time)),
                last_commit_xid: found.last_commit.map(|ended| ended.xid),
            },
            window: self.window(candidates, chosen)?,
            expected: self.expected(chosen.backup.size, bytes),
            notices,
            way: way.clone(),
        })
    }

    /// What can be reached on the way of a candidate, from the earliest backup on it.
    pub(super) fn window(&self, all: &[Candidate<'_>], chosen: &Candidate<'_>) -> Result<Window, BackupError> {
        let same = |it: &&Candidate<'_>| it.is_consistent() && it.way.history == chosen.way.history;
        let earliest = all.iter().rev().find(same).unwrap_or(chosen);
        let last = match chosen.way.reached {
            Some(reached) => locate::last_commit(self.reader, &chosen.way, reached)?,
            None => None,
        };
        Ok(Window {
            from: earliest.backup.stop_lsn,
            from_time: earliest.stopped(),
            until: chosen.way.end(),
            until_time: last.and_then(|ended| moment(ended.time)),
        })
    }

    /// WAL behind the last whole segment that only a partial one holds.
    fn tail(&self, chosen: &Candidate<'_>, found: &Found) -> Option<String> {
        if self.wish.target != Target::Latest {
            return None;
        }
        let name = chosen.way.name(found.last.next());
        let held = self.seen.inventory.timelines.get(&name.timeline())?;
        held.partial.contains(&found.last.next()).then(|| {
            format!("'{name}.partial' holds the WAL behind that; to replay it too, add --set restore.partial=on")
        })
    }

    /// Backups that are newer and were not taken, and why.
    fn passed_over(&self, chosen: &Description) -> Option<String> {
        let newer = self.seen.backups.iter().filter(|it| it.stop_lsn > chosen.stop_lsn);
        let why = |it: &Description| Some(format!("{} ({})", it.label, self.seen.doubtful.get(&it.label)?));
        let all: Vec<String> = newer.filter_map(why).collect();
        let told = self.wish.backup.is_none() && !all.is_empty();
        told.then(|| format!("newer backups are passed over: {}", all.join(", ")))
    }

    /// The newest good drill, scaled to the bytes at hand.
    fn expected(&self, size: u64, wal: u64) -> Option<Expected> {
        let measures = |it: &&crate::archive::drills::Drill| it.good && it.backup_bytes > 0 && it.wal_bytes > 0;
        let measured = self.seen.drills.iter().rev().find(measures)?;
        let share = |bytes: u64, of: u64| bytes as f64 / of as f64;
        Some(Expected {
            restore_seconds: measured.seconds("restore")? * share(size, measured.backup_bytes),
            replay_seconds: measured.seconds("replay")? * share(wal, measured.wal_bytes),
            measured: measured.started.clone(),
        })
    }
}

fn legs(way: &Way, last: SegmentNumber) -> Vec<Leg> {
    let name = |timeline, number| SegmentName::new(timeline, number, way.size);
    let leg = |(timeline, first, last): (TimelineId, SegmentNumber, SegmentNumber)| Leg {
        timeline,
        first: name(timeline, first),
        last: name(timeline, last),
        segments: last.0 + 1 - first.0,
        left_at: None,
    };
    let mut legs: Vec<Leg> = way.stretches(last).into_iter().map(leg).collect();
    let left = legs.len().saturating_sub(1);
    for leg in &mut legs[..left] {
        leg.left_at = way.history.switch_point(leg.timeline);
    }
    legs
}
