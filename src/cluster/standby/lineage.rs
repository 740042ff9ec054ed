//! Whether the data of one server can go on behind another: their timelines and positions compared. Pure.
//!
//! A standby can follow a server as long as everything in its data lies on the way that led to that server. WAL that it
//! holds beyond the fork and never replayed is no part of the data, but would be replayed at the next start: the server
//! reads its own `pg_wal` first.

use serde::Serialize;

use crate::archive::window::shown;
use crate::wal::timeline::{TimelineHistory, fork};
use crate::wal::{Lsn, TimelineId};

/// Where a data directory stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The way it came.
    pub history: TimelineHistory,
    /// No page of it holds a change from beyond this position.
    pub data: Lsn,
    /// The valid WAL in its `pg_wal` ends here.
    pub wal: Lsn,
}

/// Where the server stands that is to be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Theirs {
    /// The way it came.
    pub history: TimelineHistory,
    /// How far it has come.
    pub position: Lsn,
    /// True where it takes writes: there is nothing beyond its position.
    pub primary: bool,
}

/// The last position that two ways share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fork {
    /// The timeline that it lies on.
    pub timeline: TimelineId,
    /// The position.
    #[serde(serialize_with = "shown::text")]
    pub at: Lsn,
}

/// How a data directory stands to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It lies on the other's way; the fork is where it has to change the timeline.
    OnTheWay(Option<Fork>),
    /// Its data lie on the other's way; WAL that was never replayed does not.
    Surplus(Fork),
    /// It holds changes that the other does not have.
    Diverged(Fork),
    /// The other is still on a timeline that this one has left.
    LeftBehind(Fork),
    /// They share no timeline.
    Strangers,
}

/// Compares.
pub fn relation(own: &Own, theirs: &Theirs) -> Relation {
    let Some((timeline, at)) = fork(&own.history, &theirs.history) else { return Relation::Strangers };
    if own.history.timeline == theirs.history.timeline && at == Lsn(u64::MAX) {
        // On one timeline only a primary proves that there is no more.
        let beyond = Fork { timeline, at: theirs.position };
        return match theirs.primary {
            true if own.data > theirs.position => Relation::Diverged(beyond),
            true if own.wal > theirs.position => Relation::Surplus(beyond),
            _ => Relation::OnTheWay(None),
        };
    }
    let fork = Fork { timeline, at };
    if timeline == theirs.history.timeline {
        return Relation::LeftBehind(fork);
    }
    if timeline != own.history.timeline {
        // Both left the timeline, each its own way.
        return Relation::Diverged(fork);
    }
    match () {
        () if own.data > at => Relation::Diverged(fork),
        () if own.wal > at => Relation::Surplus(fork),
        () => Relation::OnTheWay(Some(fork)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId(timeline), text).expect("because it is well formed")
    }

    fn own(history: TimelineHistory, data: u64, wal: u64) -> Own {
        Own { history, data: Lsn(data), wal: Lsn(wal) }
    }

    fn theirs(history: TimelineHistory, position: u64) -> Theirs {
        Theirs { history, position: Lsn(position), primary: true }
    }

    #[test]
    fn a_promotion_is_followed_up_to_the_fork_and_no_farther() {
        let new = theirs(history(2, "1\t0/5000\n"), 0x9000);
        let fork = Fork { timeline: TimelineId(1), at: Lsn(0x5000) };
        let old = |data, wal| relation(&own(TimelineHistory::first(), data, wal), &new);
        assert_eq!(old(0x4000, 0x5000), Relation::OnTheWay(Some(fork)));
        assert_eq!(old(0x5000, 0x5000), Relation::OnTheWay(Some(fork)));
        assert_eq!(old(0x5000, 0x5001), Relation::Surplus(fork));
        assert_eq!(old(0x5001, 0x5001), Relation::Diverged(fork));
    }

    #[test]
    fn nobody_follows_a_primary_that_was_left_or_that_holds_less() {
        let promoted = own(history(2, "1\t0/5000\n"), 0x8000, 0x8000);
        let left = relation(&promoted, &theirs(TimelineHistory::first(), 0x9000));
        assert_eq!(left, Relation::LeftBehind(Fork { timeline: TimelineId(1), at: Lsn(0x5000) }));
        let same = |data, wal, primary| {
            let there = Theirs { primary, ..theirs(TimelineHistory::first(), 0x7000) };
            relation(&own(TimelineHistory::first(), data, wal), &there)
        };
        let end = Fork { timeline: TimelineId(1), at: Lsn(0x7000) };
        assert_eq!(same(0x7000, 0x7000, true), Relation::OnTheWay(None));
        assert_eq!(same(0x7000, 0x7100, true), Relation::Surplus(end));
        assert_eq!(same(0x7100, 0x7100, true), Relation::Diverged(end));
        // Another standby may just be behind.
        assert_eq!(same(0x7100, 0x7100, false), Relation::OnTheWay(None));
    }

    #[test]
    fn two_promotions_of_one_timeline_part_for_good() {
        let mine = own(history(2, "1\t0/5000\n"), 0x5100, 0x5100);
        let other = theirs(history(3, "1\t0/6000\n"), 0x9000);
        assert_eq!(relation(&mine, &other), Relation::Diverged(Fork { timeline: TimelineId(1), at: Lsn(0x5000) }));
        let same_number = theirs(history(2, "1\t0/4000\n"), 0x9000);
        assert_eq!(
            relation(&mine, &same_number),
            Relation::Diverged(Fork { timeline: TimelineId(1), at: Lsn(0x4000) })
        );
        let stranger = theirs(TimelineHistory { timeline: TimelineId(9), ancestors: Vec::new() }, 1);
        assert_eq!(relation(&mine, &stranger), Relation::Strangers);
    }

    proptest! {
        /// Nothing that the other server lacks is ever called to be on its way.
        #[test]
        fn on_the_way_means_within_the_shared_part(at in 1u64..0x9000, data in 0u64..0x9000, more in 0u64..0x900) {
            let new = theirs(history(2, &format!("1\t0/{at:X}\n")), 0xA000);
            match relation(&own(TimelineHistory::first(), data, data + more), &new) {
                Relation::OnTheWay(_) => prop_assert!(data + more <= at),
                Relation::Surplus(_) => prop_assert!(data <= at && data + more > at),
                Relation::Diverged(_) => prop_assert!(data > at),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
