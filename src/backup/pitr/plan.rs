//! Chooses the backup and the way to a target, or says why it cannot be reached. Decides over what was observed; the
//! records of WAL it asks a [`Reader`] for.
//!
//! The rules are the server's: a backup can be used where it ended before the target, on the line of ancestors of the
//! timeline that is followed; every segment from its beginning to the target must be there; and a target that no
//! record reaches ends the recovery with an error, so it is refused here.

mod answer;
mod refuse;

use chrono::{DateTime, Utc};

use super::super::catalog::Description;
use super::locate::{self, Reader, Seen, Way};
use super::observe::Observation;
use super::{Along, Halt, Plan, Refusal, Target, Wish};
use crate::archive::continuity::{Continuity, judge};
use crate::archive::window::shown;
use crate::wal::commit::Ended;
use crate::wal::target::Stop;
use crate::wal::{Lsn, SegmentNumber, TimelineHistory, TimelineId};

/// Makes the plan.
pub fn plan(wish: &Wish, seen: &Observation, reader: &dyn Reader) -> Result<Plan, Halt> {
    let planner = Planner { wish, seen, reader, judged: judge(&seen.inventory) };
    let candidates = planner.candidates()?;
    let found = planner.find(&candidates).map_err(|halt| planner.with_window(halt, &candidates))?;
    planner.assemble(&candidates, &found)
}

struct Planner<'a> {
    wish: &'a Wish,
    seen: &'a Observation,
    reader: &'a dyn Reader,
    judged: Continuity,
}

/// A backup from which the timeline is reached.
struct Candidate<'a> {
    backup: &'a Description,
    way: Way,
}

impl Candidate<'_> {
    /// True where the WAL that it needs to be consistent is there.
    fn is_consistent(&self) -> bool {
        self.way.reached.is_some() && self.way.end() >= self.backup.stop_lsn
    }

    fn stopped(&self) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(&self.backup.stopped).ok().map(|time| time.to_utc())
    }
}

/// A candidate, and where recovery from it ends.
struct Found {
    at: usize,
    stop: Option<Stop>,
    last_commit: Option<Ended>,
    /// The last segment that is read.
    last: SegmentNumber,
}

impl<'a> Planner<'a> {
    /// The backups that lead to the timeline, newest first.
    fn candidates(&self) -> Result<Vec<Candidate<'a>>, Halt> {
        let followed = self.followed()?;
        let mut candidates = Vec::new();
        for backup in self.seen.backups.iter().rev() {
            let named = self.wish.backup.as_ref();
            if named.is_some_and(|label| *label != backup.label)
                || (named.is_none() && self.seen.doubtful.contains_key(&backup.label))
            {
                continue;
            }
            let history = match &followed {
                Some(history) => history.clone(),
                None => self.history(backup.timeline)?,
            };
            let left = history.switch_point(backup.timeline);
            if !history.contains(backup.timeline) || left.is_some_and(|left| left < backup.stop_lsn) {
                continue;
            }
            let Some(first) = backup.start_segment.number(self.seen.inventory.size) else { continue };
            candidates.push(Candidate { backup, way: Way::new(&self.seen.inventory, history, first) });
        }
        if candidates.is_empty() {
            return Err(self.no_candidate(followed.as_ref()).into());
        }
        Ok(candidates)
    }

    /// The history of the timeline that is followed; none where each backup's own is.
    fn followed(&self) -> Result<Option<TimelineHistory>, Halt> {
        let inventory = &self.seen.inventory;
        match self.wish.along {
            Along::Current => Ok(None),
            Along::Timeline(timeline) => self.history(timeline).map(Some),
            Along::Latest => {
                let known = inventory.timelines.keys().chain(inventory.histories.keys());
                let backups = self.seen.backups.iter().map(|backup| backup.timeline);
                let newest = known.copied().chain(backups).max().unwrap_or(TimelineId(1));
                self.history(newest).map(Some)
            }
        }
    }

    fn history(&self, timeline: TimelineId) -> Result<TimelineHistory, Halt> {
        let inventory = &self.seen.inventory;
        if let Some(history) = inventory.history(timeline) {
            return Ok(history);
        }
        let known: Vec<String> = std::iter::once(TimelineId(1))
            .chain(inventory.histories.keys().copied())
            .map(|it| it.to_string())
            .collect();
        let file = format!("{:08X}.history", timeline.0);
        let there = inventory.timelines.contains_key(&timeline);
        Err(match there {
            true => Refusal::new(
                format!("the history of timeline {timeline} is not in the archive, though WAL of it is"),
                format!("Find '{file}' in pg_wal of a server that is or was on it, and run there 'archive-wal PATH'."),
            ),
            false => Refusal::new(
                format!("there is no timeline {timeline}"),
                format!("The archive knows timelines {}.", known.join(", ")),
            ),
        }
        .into())
    }

    /// Chooses a candidate and finds where recovery ends.
    fn find(&self, candidates: &[Candidate<'_>]) -> Result<Found, Halt> {
        match &self.wish.target {
            Target::Latest => self.latest(candidates),
            Target::Immediate => self.immediate(candidates),
            Target::Lsn(lsn) => self.position(candidates, *lsn),
            Target::Time(time) => self.time(candidates, *time),
            Target::Xid(_) | Target::Name(_) => self.search(candidates),
        }
    }

    fn latest(&self, candidates: &[Candidate<'_>]) -> Result<Found, Halt> {
        let newest = &candidates[0];
        self.whole(newest, self.end_of(newest))?;
        let last = self.consistent(newest)?;
        let last_commit = locate::last_commit(self.reader, &newest.way, last)?;
        Ok(Found { at: 0, stop: None, last_commit, last })
    }

    fn immediate(&self, candidates: &[Candidate<'_>]) -> Result<Found, Halt> {
        let usable = candidates.iter().position(Candidate::is_consistent);
        let at = usable.unwrap_or(0);
        self.consistent(&candidates[at])?;
        let stop = candidates[at].backup.stop_lsn;
        let last = before(stop).segment(self.seen.inventory.size);
        Ok(Found { at, stop: None, last_commit: None, last })
    }

    fn position(&self, candidates: &[Candidate<'_>], lsn: Lsn) -> Result<Found, Halt> {
        let at = candidates.iter().position(|it| it.backup.stop_lsn <= lsn);
        let at = at.ok_or_else(|| self.too_early(candidates, &format!("position {lsn}")))?;
        let candidate = &candidates[at];
        self.whole(candidate, lsn.segment(candidate.way.size).min(self.end_of(candidate)))?;
        self.consistent(candidate)?;
        match locate::position(self.reader, &candidate.way, lsn, self.wish.inclusive)? {
            Some(seen) => Ok(found(at, candidate, &seen)),
            None => Err(self.not_reached(candidate, &format!("position {lsn}")).into()),
        }
    }

    fn time(&self, candidates: &[Candidate<'_>], time: DateTime<Utc>) -> Result<Found, Halt> {
        let what = format!("time {}", shown::words(time));
        let goal = self.wish.target.goal();
        let early = |candidate: &Candidate<'_>| candidate.stopped().is_some_and(|stopped| stopped <= time);
        for (at, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| early(candidate)) {
            self.consistent(candidate)?;
            let Some(seen) = locate::time(self.reader, &candidate.way, &goal, self.wish.inclusive)? else {
                self.whole(candidate, self.end_of(candidate))?;
                return Err(self.not_reached(candidate, &what).into());
            };
            // Where clocks disagree, a transaction that is later than the target lies before the end of the backup.
            if seen.stop.is_some_and(|stop| stop.record >= candidate.backup.stop_lsn) {
                return Ok(found(at, candidate, &seen));
            }
        }
        Err(self.too_early(candidates, &what).into())
    }

    /// Reads all WAL, the newest first, for a transaction or a restore point.
    fn search(&self, candidates: &[Candidate<'_>]) -> Result<Found, Halt> {
        let (goal, what) = (self.wish.target.goal(), self.wish.target.aim(true).to_string());
        let mut hole: Option<Refusal> = None;
        // What was read for a newer backup on the same way: from which segment on, and what was found first.
        let mut newer: Option<(&Way, Option<Seen>)> = None;
        let mut early = false;
        for (at, candidate) in candidates.iter().enumerate() {
            let way = &candidate.way;
            hole = hole.or(self.whole(candidate, self.end_of(candidate)).err());
            let Some(reached) = way.reached.filter(|_| candidate.is_consistent()) else { continue };
            let same = newer.filter(|(read, _)| read.history == way.history && read.first <= reached.next());
            let last = same.and_then(|(read, _)| read.first.previous()).unwrap_or(reached);
            let mut first = same.and_then(|(_, seen)| seen);
            if way.first <= last {
                first = locate::through(self.reader, way, (way.first, last), &goal, self.wish.inclusive)?.or(first);
            }
            if let Some(seen) = first {
                if seen.stop.is_some_and(|stop| stop.record >= candidate.backup.stop_lsn) {
                    return Ok(found(at, candidate, &seen));
                }
                early = true;
            }
            newer = Some((way, first));
        }
        match hole {
            _ if early => Err(self.too_early(candidates, &what).into()),
            Some(hole) => {
                let reason = format!("{what} is not in the WAL that can be reached: {}", hole.reason);
                Err(Refusal { reason, ..hole }.into())
            }
            None => Err(self.not_found(candidates, &what).into()),
        }
    }
}

/// Where recovery from a candidate ends.
fn found(at: usize, candidate: &Candidate<'_>, seen: &Seen) -> Found {
    let until = seen.stop.map_or(candidate.way.end(), |stop| stop.until);
    let last = before(until).segment(candidate.way.size).max(candidate.way.first);
    Found { at, stop: seen.stop, last_commit: seen.last_commit, last }
}

/// The byte before a position: a segment that ends there is read, the next one is not.
fn before(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_sub(1))
}

#[cfg(test)]
mod tests;
