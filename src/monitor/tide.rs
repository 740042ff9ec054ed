//! Where the primary was when: turns a distance in bytes into one in seconds, for every path alike.
//!
//! A node that holds everything up to a position is as old as the last moment at which the primary was no further. So
//! one record of the primary's positions answers for streaming, replay and archives alike, also where nothing reports
//! a lag of its own. What came before the record is unknown, not zero. The memory is bounded.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::wal::Lsn;

/// The primary's positions over time, oldest first; both only grow.
#[derive(Debug, Clone)]
pub struct Tide {
    marks: VecDeque<(SystemTime, Lsn)>,
    most: usize,
}

impl Tide {
    /// An empty record of so many moments at most.
    pub fn new(most: usize) -> Tide {
        Tide { marks: VecDeque::new(), most: most.max(2) }
    }

    /// Notes where the primary is. Positions that go back (another timeline, or a clock set back) begin a new record.
    pub fn note(&mut self, at: SystemTime, position: Lsn) {
        if self.marks.back().is_some_and(|(last, known)| at < *last || position < *known) {
            self.marks.clear();
        }
        // Of a standstill the first and the last moment say it all.
        let standing = self.marks.iter().rev().take(2).filter(|(_, known)| *known == position).count();
        if standing == 2 {
            self.marks.pop_back();
        }
        self.marks.push_back((at, position));
        if self.marks.len() > self.most {
            self.marks.pop_front();
        }
    }

    /// Puts what somebody else remembers before it, oldest first; what does not fit before it is left out.
    pub fn precede(&mut self, past: &[(SystemTime, Lsn)]) {
        for (at, position) in past.iter().rev() {
            let fits = self.marks.front().is_none_or(|(first, known)| at < first && position <= known);
            if !fits || self.marks.len() >= self.most {
                return;
            }
            self.marks.push_front((*at, *position));
        }
    }

    /// How old everything up to a position is at a moment. None where the record does not go back so far.
    pub fn age(&self, position: Lsn, at: SystemTime) -> Option<Duration> {
        let (_, newest) = self.marks.back()?;
        if position >= *newest {
            return Some(Duration::ZERO);
        }
        let next = self.marks.partition_point(|(_, known)| *known <= position);
        let (before, after) = (self.marks.get(next.checked_sub(1)?)?, self.marks.get(next)?);
        let step = after.0.duration_since(before.0).unwrap_or_default();
        let share = (position.0 - before.1.0) as f64 / (after.1.0 - before.1.0) as f64;
        let then = before.0 + step.mul_f64(share);
        Some(at.duration_since(then).unwrap_or_default())
    }

    /// The newest position and when it was noted.
    pub fn newest(&self) -> Option<(SystemTime, Lsn)> {
        self.marks.back().copied()
    }

    /// How many moments it holds.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// True while nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    #[test]
    fn an_age_is_the_time_since_the_primary_was_there() {
        let mut tide = Tide::new(100);
        for (second, position) in [(0, 1000), (10, 2000), (20, 2000), (30, 2000), (31, 3000)] {
            tide.note(at(second), Lsn(position));
        }
        assert_eq!(tide.len(), 4);
        let age = |position: u64| tide.age(Lsn(position), at(40)).map(|age| age.as_secs_f64());
        assert_eq!(age(3000), Some(0.0));
        assert_eq!(age(9000), Some(0.0));
        // It had everything until the standstill ended, not only until it began.
        assert_eq!(age(2000), Some(10.0));
        assert_eq!(age(1500), Some(35.0));
        assert_eq!(age(2500), Some(9.5));
        assert_eq!(age(1000), Some(40.0));
        assert_eq!(age(999), None);
        assert_eq!(Tide::new(9).age(Lsn(1), at(1)), None);
    }

    #[test]
    fn positions_that_go_back_begin_a_new_record() {
        let mut tide = Tide::new(100);
        tide.note(at(0), Lsn(5000));
        tide.note(at(1), Lsn(4000));
        assert_eq!((tide.len(), tide.newest()), (1, Some((at(1), Lsn(4000)))));
        tide.note(at(0), Lsn(4100));
        assert_eq!(tide.len(), 1);
    }

    #[test]
    fn what_others_remember_goes_before_as_far_as_it_fits() {
        let mut tide = Tide::new(4);
        tide.note(at(30), Lsn(3000));
        tide.precede(&[(at(0), Lsn(9000)), (at(10), Lsn(1000)), (at(20), Lsn(2000))]);
        assert_eq!(tide.age(Lsn(1500), at(40)), Some(Duration::from_secs(25)));
        assert_eq!(tide.age(Lsn(999), at(40)), None);
        tide.precede(&[(at(1), Lsn(100)), (at(2), Lsn(200))]);
        assert_eq!(tide.len(), 4);
        tide.precede(&[(at(31), Lsn(100))]);
        assert_eq!(tide.len(), 4);
    }

    proptest! {
        #[test]
        fn less_is_never_younger_and_memory_is_bounded(
            steps in proptest::collection::vec((0u64..20, 0u64..5000), 1..200),
            most in 2usize..50,
            probes in proptest::collection::vec(0u64..1_000_000, 2),
        ) {
            let mut tide = Tide::new(most);
            let (mut second, mut position) = (0, 0);
            for (pause, bytes) in steps {
                (second, position) = (second + pause, position + bytes);
                tide.note(at(second), Lsn(position));
            }
            prop_assert!(tide.len() <= most);
            let now = at(second);
            let (low, high) = (probes[0].min(probes[1]), probes[0].max(probes[1]));
            if let (Some(older), Some(younger)) = (tide.age(Lsn(low), now), tide.age(Lsn(high), now)) {
                prop_assert!(older >= younger);
            }
            prop_assert_eq!(tide.age(Lsn(position), now), Some(Duration::ZERO));
        }
    }
}
