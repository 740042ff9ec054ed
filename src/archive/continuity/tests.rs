//! The judgement over archives that are whole, lack one segment, or lack a whole ancestor.

use proptest::prelude::*;

use super::*;
use crate::wal::timeline::Ancestor;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn inventory(names: &[&str], histories: &[(u32, &str)]) -> Inventory {
    let mut inventory = Inventory::new(SIZE);
    for name in names {
        inventory.add(name.parse().expect("because the test names WAL files"), 1);
    }
    for (timeline, text) in histories {
        let timeline = TimelineId(*timeline);
        let parsed = TimelineHistory::parse(timeline, text).expect("because the test writes histories");
        inventory.histories.insert(timeline, parsed);
    }
    inventory
}

fn names(timeline: u32, from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|n| SegmentName::new(TimelineId(timeline), SegmentNumber(n), SIZE).to_string()).collect()
}

fn stretches(found: &Continuity) -> Vec<(u32, u64, u64)> {
    found.gaps.iter().map(|gap| (gap.timeline.0, gap.first.0, gap.last.0)).collect()
}

/// A family of timelines: parent and fork segment of each, and how far each goes on.
#[derive(Debug, Clone)]
struct Family(Vec<(usize, u64, u64)>);

fn any_family() -> impl Strategy<Value = Family> {
    proptest::collection::vec((any::<prop::sample::Index>(), 0u64..12, 0u64..12), 1..6).prop_map(|members| {
        let mut family: Vec<(usize, u64, u64)> = Vec::new();
        for (parent, fork, length) in members {
            let parent = if family.is_empty() { 0 } else { parent.index(family.len()) };
            let fork = family.get(parent).map_or(3, |(_, begin, _)| begin + fork);
            family.push((parent, fork, fork + length));
        }
        Family(family)
    })
}

impl Family {
    fn at(fork: u64) -> Lsn {
        Lsn(SegmentNumber(fork).start(SIZE).0 + 0x100)
    }

    fn history(&self, member: usize) -> TimelineHistory {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        let mut next = member;
        while next > 0 {
            let (parent, fork, _) = self.0[next];
            let timeline = TimelineId(parent as u32 + 1);
            ancestors.push(Ancestor { timeline, switch_point: Family::at(fork), reason: String::new() });
            next = parent;
        }
        ancestors.reverse();
        TimelineHistory { timeline: TimelineId(member as u32 + 1), ancestors }
    }

    /// A timeline ends before the last segment that was left; that one was archived as `.partial`.
    fn end(&self, member: usize) -> u64 {
        let forks = self.0.iter().skip(1).filter(|(parent, ..)| *parent == member).map(|(_, fork, _)| *fork);
        forks.max().map_or(self.0[member].2 + 1, |fork| fork.max(self.0[member].2 + 1))
    }

    /// Everything that an archive of this family holds, but one segment.
    fn archive(&self, without: Option<(usize, u64)>) -> Inventory {
        let mut inventory = Inventory::new(SIZE);
        for (member, (_, begin, _)) in self.0.iter().enumerate() {
            let timeline = TimelineId(member as u32 + 1);
            for number in *begin..self.end(member) {
                if without != Some((member, number)) {
                    let name = SegmentName::new(timeline, SegmentNumber(number), SIZE);
                    inventory.add(WalName::Segment(name), 1);
                }
            }
            if member > 0 {
                inventory.histories.insert(timeline, self.history(member));
            }
        }
        inventory
    }

    /// True where the segment must have existed, going by what else there is; the first one of the root need not.
    fn misses(&self, member: usize, number: u64) -> bool {
        let (_, begin, _) = self.0[member];
        let (first, last) = (number == begin, number + 1 == self.end(member));
        let left_behind = self.0.iter().skip(1).any(|(parent, fork, _)| *parent == member && *fork > number);
        (!last || left_behind) && (member > 0 || !first)
    }
}

proptest! {
    #[test]
    fn a_whole_family_lacks_nothing(family in any_family()) {
        prop_assert_eq!(judge(&family.archive(None)), Continuity::default());
    }

    #[test]
    fn one_segment_that_was_removed_is_named_and_no_other(
        family in any_family(),
        member in any::<prop::sample::Index>(),
        number in any::<prop::sample::Index>(),
    ) {
        let member = member.index(family.0.len());
        let begin = family.0[member].1;
        let number = begin + number.index((family.end(member) - begin) as usize) as u64;
        let found = judge(&family.archive(Some((member, number))));
        // The only segment of the only root leaves nothing that could need it, unless a timeline left it later.
        let alone = member == 0 && family.end(0) == begin + 1;
        if family.misses(member, number) && !alone {
            prop_assert_eq!(stretches(&found), [(member as u32 + 1, number, number)]);
        } else if !alone {
            prop_assert_eq!(stretches(&found), []);
        }
    }

    #[test]
    fn what_is_reached_is_followed_segment_by_segment(
        family in any_family(),
        member in any::<prop::sample::Index>(),
        removed in proptest::option::of((any::<prop::sample::Index>(), 0u64..30)),
        from in 0u64..40,
    ) {
        let without = removed.map(|(member, number)| (member.index(family.0.len()), number));
        let archive = family.archive(without);
        let history = family.history(member.index(family.0.len()));
        let (mut next, mut reached) = (SegmentNumber(from), None);
        loop {
            let owner = history.owner_of_segment(next, SIZE);
            if !archive.holds(owner, next) {
                break;
            }
            reached = Some((owner, next));
            next = next.next();
        }
        prop_assert_eq!(archive.reach(&history, SegmentNumber(from)), reached);
        // Backwards from there the same stretch is found, and what came before it.
        if let Some((_, last)) = reached {
            let first = archive.since(&history, last);
            prop_assert!(first.0 <= from);
            let holds = |n: u64| archive.holds(history.owner_of_segment(SegmentNumber(n), SIZE), SegmentNumber(n));
            prop_assert!((first.0..=last.0).all(holds));
            prop_assert!(first.0 == 0 || !holds(first.0 - 1));
        }
    }
}

#[test]
fn the_failover_hole_is_the_four_segments_before_the_fork() {
    let mut there = names(1, 1, 9);
    there.extend(["00000001000000000000000E.partial".to_owned(), "00000002000000000000000E".to_owned()]);
    let there: Vec<&str> = there.iter().map(String::as_str).collect();
    let history = [(2, "1\t0/E000100\tno recovery target specified\n")];
    let found = judge(&inventory(&there, &history));
    assert_eq!(stretches(&found), [(1, 10, 13)]);
    assert_eq!(found.orphans.len(), 1);
    assert!(matches!(found.orphans[0], Orphan::BehindGap { timeline: TimelineId(2), parent: TimelineId(1), .. }));
    // Without the partial segment it is the history alone that shows it.
    let there: Vec<&str> = there.into_iter().filter(|name| !name.ends_with("partial")).collect();
    let found = judge(&inventory(&there, &history));
    assert_eq!(stretches(&found), [(1, 10, 13)]);
    assert_eq!(found.gaps[0].because, Because::Fork { child: TimelineId(2), at: Lsn(0xE00_0100) });
}

#[test]
fn a_partial_stands_for_the_fork_segment_only() {
    let whole = ["000000010000000000000001", "000000010000000000000002.partial", "000000020000000000000002"];
    let history = [(2, "1\t0/2000100\t\n")];
    assert_eq!(judge(&inventory(&whole, &history)), Continuity::default());
    let behind = ["000000010000000000000001", "000000010000000000000002.partial", "000000020000000000000003"];
    assert_eq!(stretches(&judge(&inventory(&behind, &history))), [(2, 2, 2)]);
    let inside = ["000000010000000000000001", "000000010000000000000002.partial", "000000010000000000000003"];
    assert_eq!(stretches(&judge(&inventory(&inside, &[]))), [(1, 2, 2)]);
}

#[test]
fn timelines_that_nothing_leads_to_are_orphans() {
    let there = ["000000010000000000000001", "000000010000000000000002", "000000030000000000000009"];
    let found = judge(&inventory(&there, &[(5, "4\t0/5000000\t\n")]));
    assert_eq!(
        found.orphans,
        [
            Orphan::NoHistory { timeline: TimelineId(3) },
            Orphan::NoParent { timeline: TimelineId(5), parent: TimelineId(4), at: Lsn(0x500_0000) },
        ]
    );
    assert_eq!(stretches(&found), []);
}

#[test]
fn two_histories_that_disagree_are_told() {
    let there = ["000000010000000000000001", "000000020000000000000001", "000000030000000000000001"];
    let found = judge(&inventory(&there, &[(2, "1\t0/1000100\t\n"), (3, "1\t0/1000200\t\n2\t0/1000300\t\n")]));
    assert_eq!(found.orphans, [Orphan::Contradiction { timeline: TimelineId(2), other: TimelineId(3) }]);
}

#[test]
fn an_archive_begun_after_a_failover_lacks_nothing_before_it() {
    let there = ["000000020000000000000007", "000000020000000000000008"];
    assert_eq!(judge(&inventory(&there, &[(2, "1\t0/7000100\t\n")])), Continuity::default());
    assert_eq!(judge(&inventory(&there, &[(2, "1\t0/3000100\t\n")])), Continuity::default());
}

#[test]
fn a_backup_and_what_was_discarded_need_what_nothing_else_shows() {
    let mut there = inventory(&["000000010000000000000005"], &[]);
    there.backups.push(BackupNeed { label: "b".to_owned(), start: names(1, 3, 3)[0].parse().expect("a name") });
    there.known_until.insert(TimelineId(1), SegmentNumber(7));
    let found = judge(&there);
    assert_eq!(stretches(&found), [(1, 3, 4), (1, 6, 7)]);
    assert_eq!(found.gaps[0].because, Because::Backup { label: "b".to_owned() });
    assert_eq!(found.gaps[1].because, Because::Discarded);
}

#[test]
fn two_encodings_of_one_name_are_seen() {
    let mut there = Inventory::new(SIZE);
    let name: WalName = "000000010000000000000005".parse().expect("a name");
    assert_eq!([there.add(name, 1), there.add(name, 1)], [Added::New, Added::Again]);
    let high: WalName = "000000010000000000000100".parse().expect("a name");
    assert_eq!(there.add(high, 1), Added::NoSegment);
}
