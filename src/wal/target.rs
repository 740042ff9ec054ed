//! Where a recovery ends: the targets of PostgreSQL, and the record at which each of them is reached
//! (recoveryStopsBefore, recoveryStopsAfter).
//!
//! A [`Seeker`] looks at every record of a walk and answers as the server would: which record is the first not to be
//! replayed, or the last to be. What it leaves out: whether the data are consistent by then, and the targets
//! `immediate` and the end of WAL, which no record marks.

use super::commit::{Ended, end_of};
use super::lsn::Lsn;
use super::page::u64_at;
use super::record::{RMGR_XLOG, Record, RecordHeader, Visit};

/// The record of a named restore point (XLOG_RESTORE_POINT).
pub const XLOG_RESTORE_POINT: u8 = 0x70;

/// The room for its name, the closing zero included (MAXFNAMELEN).
pub const NAME_ROOM: usize = 64;

/// What a record must be for a recovery to end there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// `recovery_target_time`: the first end of a transaction later than this; microseconds since 2000-01-01 UTC.
    Time(i64),
    /// `recovery_target_xid`: the end of this transaction, commit or abort.
    Xid(u32),
    /// `recovery_target_lsn`: the first record that begins here or later.
    Lsn(Lsn),
    /// `recovery_target_name`: the restore point of this name.
    Name(String),
    /// None: all records are walked over.
    Nothing,
}

/// Where a recovery would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Where the record begins that ends it.
    pub record: Lsn,
    /// Behind it.
    pub until: Lsn,
    /// Up to where WAL is replayed.
    pub replayed: Lsn,
    /// The time in that record, if it has one; microseconds since 2000-01-01 UTC.
    pub time: Option<i64>,
    /// The transaction of that record, if it ends one.
    pub xid: Option<u32>,
}

/// Looks for the first record that ends a recovery.
#[derive(Debug, Clone)]
pub struct Seeker<'a> {
    goal: &'a Goal,
    inclusive: bool,
    /// The first record that ends it, once seen.
    pub stop: Option<Stop>,
    /// The last commit that is replayed.
    pub last_commit: Option<Ended>,
    /// Behind the last record seen.
    pub until: Lsn,
}

impl<'a> Seeker<'a> {
    /// A seeker for this goal; `inclusive` is `recovery_target_inclusive`.
    pub fn new(goal: &'a Goal, inclusive: bool) -> Seeker<'a> {
        Seeker { goal, inclusive, stop: None, last_commit: None, until: Lsn::INVALID }
    }

    /// What the record is to the goal: nothing, or its time and transaction and whether it is replayed itself.
    fn ends_at(&self, record: &Record<'_>, ended: Option<&Ended>) -> Option<(Option<i64>, Option<u32>, bool)> {
        let of = |ended: &Ended, replayed: bool| (Some(ended.time), Some(ended.xid), replayed);
        match self.goal {
            Goal::Nothing => None,
            Goal::Time(time) => ended
                .filter(|ended| if self.inclusive { ended.time > *time } else { ended.time >= *time })
                .map(|ended| of(ended, false)),
            Goal::Xid(xid) => ended.filter(|ended| ended.xid == *xid).map(|ended| of(ended, self.inclusive)),
            Goal::Lsn(lsn) if record.start >= *lsn => {
                Some((ended.map(|ended| ended.time), ended.map(|ended| ended.xid), self.inclusive))
            }
            Goal::Lsn(_) => None,
            Goal::Name(name) => {
                let (time, found) = restore_point(record)?;
                (found == name.as_bytes()).then_some((Some(time), None, true))
            }
        }
    }
}

impl Visit for Seeker<'_> {
    fn wants(&self, header: &RecordHeader) -> bool {
        end_of(header).is_some() || (matches!(self.goal, Goal::Name(_)) && header.is(RMGR_XLOG, XLOG_RESTORE_POINT))
    }

    fn visit(&mut self, record: &Record<'_>) {
        if self.stop.is_some() {
            return;
        }
        let ended = Ended::read(record);
        let before = self.until;
        self.until = record.end;
        if let Some((time, xid, itself)) = self.ends_at(record, ended.as_ref()) {
            // Before the first record of a walk nothing is known but where it begins.
            let end_of_last = if before == Lsn::INVALID { record.start } else { before };
            let replayed = if itself { record.end } else { end_of_last };
            self.stop = Some(Stop { record: record.start, until: record.end, replayed, time, xid });
            if !itself {
                return;
            }
        }
        if let Some(ended) = ended.filter(Ended::is_commit) {
            self.last_commit = Some(ended);
        }
    }
}

/// Time and name of a restore point (xl_restore_point).
fn restore_point<'a>(record: &Record<'a>) -> Option<(i64, &'a [u8])> {
    if !record.header.is(RMGR_XLOG, XLOG_RESTORE_POINT) {
        return None;
    }
    let data = super::commit::main_data(record.data)?;
    let time = u64_at(data.get(..8)?, 0) as i64;
    let name = data.get(8..8 + NAME_ROOM)?;
    let length = name.iter().position(|byte| *byte == 0)?;
    Some((time, &name[..length]))
}

#[cfg(test)]
mod tests {
    use super::super::commit::{RMGR_XACT, walk};
    use super::super::forge::Forge;
    use super::super::record::Walker;
    use super::*;

    /// Two commits at 100 and 200, an abort at 250, a restore point, a commit at 300, then some more.
    struct Log {
        forge: Forge,
        starts: Vec<Lsn>,
    }

    fn log() -> Log {
        let mut forge = Forge::new(2, 8192);
        let ended = |info: u8, time: i64, forge: &mut Forge| {
            forge.message(300);
            forge.record(RMGR_XACT, info, &[&[255, 8][..], &time.to_ne_bytes()].concat())
        };
        let mut starts = vec![ended(0, 100, &mut forge), ended(0, 200, &mut forge), ended(0x20, 250, &mut forge)];
        let mut point = vec![255, 8 + NAME_ROOM as u8];
        point.extend(270i64.to_ne_bytes());
        point.extend(b"before the upgrade");
        point.resize(2 + 8 + NAME_ROOM, 0);
        starts.push(forge.record(RMGR_XLOG, XLOG_RESTORE_POINT, &point));
        starts.push(ended(0, 300, &mut forge));
        forge.message(10);
        Log { forge, starts }
    }

    /// Where it stops, whether the record itself is replayed, and the time of the last commit replayed.
    fn sought(goal: Goal, inclusive: bool) -> (Option<(Lsn, bool)>, Option<i64>) {
        let log = log();
        let (mut walker, mut seeker) = (Walker::new(), Seeker::new(&goal, inclusive));
        let segment = log.forge.segment(0).1;
        let walked = walk(&mut segment.as_slice(), &mut walker, &mut seeker, |_, seeker| seeker.stop.is_some());
        walked.expect("because memory can be read");
        (seeker.stop.map(|stop| (stop.record, stop.replayed > stop.record)), seeker.last_commit.map(|last| last.time))
    }

    #[test]
    fn a_time_ends_before_the_first_transaction_that_is_later() {
        let at = log().starts;
        assert_eq!(sought(Goal::Time(100), true), (Some((at[1], false)), Some(100)));
        assert_eq!(sought(Goal::Time(100), false), (Some((at[0], false)), None));
        // An abort counts, and so does no restore point.
        assert_eq!(sought(Goal::Time(249), true), (Some((at[2], false)), Some(200)));
        assert_eq!(sought(Goal::Time(250), true), (Some((at[4], false)), Some(200)));
        assert_eq!(sought(Goal::Time(300), true), (None, Some(300)));
    }

    #[test]
    fn a_position_and_a_transaction_end_before_or_behind_their_record() {
        let at = log().starts;
        for (goal, commit) in [(Goal::Lsn(at[1]), 200), (Goal::Lsn(Lsn(at[1].0 - 7)), 200)] {
            assert_eq!(sought(goal.clone(), true), (Some((at[1], true)), Some(commit)));
            assert_eq!(sought(goal, false), (Some((at[1], false)), Some(100)));
        }
        // The records of the forge have no transaction.
        assert_eq!(sought(Goal::Xid(0), true), (Some((at[0], true)), Some(100)));
        assert_eq!(sought(Goal::Xid(0), false), (Some((at[0], false)), None));
        assert_eq!(sought(Goal::Xid(7), true).0, None);
        assert_eq!(sought(Goal::Lsn(Lsn(1 << 40)), true).0, None);
    }

    #[test]
    fn a_restore_point_is_replayed_and_its_whole_name_counts() {
        let at = log().starts;
        for inclusive in [true, false] {
            let found = sought(Goal::Name("before the upgrade".into()), inclusive);
            assert_eq!(found, (Some((at[3], true)), Some(200)));
        }
        assert_eq!(sought(Goal::Name("before".into()), true).0, None);
        assert_eq!(sought(Goal::Nothing, true), (None, Some(300)));
    }
}
