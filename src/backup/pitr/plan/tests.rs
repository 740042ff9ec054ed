//! Plans over made-up archives: which backup, which way, and what is refused.

use std::collections::BTreeMap;

use super::*;
use crate::archive::continuity::{Gap, Inventory};
use crate::backup::BackupError;
use crate::backup::catalog::{Kind, Label};
use crate::backup::pitr::{EPOCH_MICROSECONDS, moment};
use crate::store::Encoding;
use crate::wal::commit::End;
use crate::wal::target::Goal;
use crate::wal::{SegmentName, SegmentSize, WalName};

const MIB: u64 = 1 << 20;

/// A record of a made-up log: where it begins, and the transaction and second of a commit, or a restore point's name.
struct Event {
    at: Lsn,
    xid: u32,
    second: i64,
    name: Option<&'static str>,
}

/// A made-up archive with segments of 1 MiB.
struct World {
    seen: Observation,
    events: Vec<Event>,
}

impl Reader for World {
    fn seek(
        &self,
        way: &Way,
        (from, to): (SegmentNumber, SegmentNumber),
        goal: &Goal,
        inclusive: bool,
    ) -> Result<Seen, BackupError> {
        let mut seen = Seen::default();
        for event in self.events.iter().filter(|it| (from..=to).contains(&it.at.segment(way.size))) {
            let time = event.second * 1_000_000;
            let (hit, itself) = match goal {
                Goal::Time(goal) => (event.name.is_none() && (time > *goal || !inclusive && time == *goal), false),
                Goal::Xid(xid) => (event.name.is_none() && event.xid == *xid, inclusive),
                Goal::Lsn(lsn) => (event.at >= *lsn, inclusive),
                Goal::Name(name) => (event.name == Some(name), true),
                Goal::Nothing => (false, false),
            };
            let until = Lsn(event.at.0 + 64);
            if hit {
                let replayed = if itself { until } else { event.at };
                seen.stop = Some(Stop { record: event.at, until, replayed, time: Some(time), xid: Some(event.xid) });
                if !itself {
                    break;
                }
            }
            if event.name.is_none() {
                seen.last_commit = Some(Ended { end: End::Commit, start: event.at, until, xid: event.xid, time });
            }
            if hit {
                break;
            }
        }
        Ok(seen)
    }
}

fn at(segment: u64, offset: u64) -> Lsn {
    Lsn(segment * MIB + offset)
}

fn second(second: i64) -> DateTime<Utc> {
    moment(second * 1_000_000).expect("because it is a time")
}

fn label(hour: u32) -> Label {
    format!("20000101T{hour:02}0000F").parse().expect("because it is a label")
}

/// A backup of that hour's name on a timeline, from one segment to another, whole at that second.
fn backup(hour: u32, timeline: u32, first: u64, last: u64, stopped: i64) -> Description {
    let size = SegmentSize::new(MIB).expect("because 1 MiB is a size");
    let name = |number| SegmentName::new(TimelineId(timeline), SegmentNumber(number), size);
    Description {
        format: 1,
        label: label(hour),
        kind: Kind::Full,
        parent: None,
        start_lsn: at(first, 40),
        stop_lsn: at(last, 500),
        start_segment: name(first),
        stop_segment: name(last),
        timeline: TimelineId(timeline),
        started: second(stopped - 5).to_rfc3339(),
        stopped: second(stopped).to_rfc3339(),
        system_identifier: "7".into(),
        major: 17,
        files: 1,
        size: 100,
        stored: 50,
        encoding: Encoding::Zstd,
        tablespaces: Vec::new(),
        checksums: true,
        found_by: None,
        damaged_pages: Vec::new(),
        node: "db1".into(),
        role: "primary".into(),
        manifest_sha256: String::new(),
        index_sha256: String::new(),
        annotations: BTreeMap::new(),
        keep: false,
        failed: None,
        verified: None,
    }
}

impl World {
    /// Timeline 1 with segments 1 to 9, a commit a second in each: transaction 100 + n at second 10 n, in segment n.
    fn new() -> World {
        let mut inventory = Inventory::new(SegmentSize::new(MIB).expect("because 1 MiB is a size"));
        hold(&mut inventory, 1, 1..=9);
        let event = |n: u64| Event { at: at(n, 1000), xid: 100 + n as u32, second: 10 * n as i64, name: None };
        World {
            seen: Observation {
                backups: vec![backup(1, 1, 2, 2, 25), backup(2, 1, 5, 6, 65)],
                doubtful: BTreeMap::new(),
                inventory,
                drills: Vec::new(),
                notices: Vec::new(),
            },
            events: (1..=9).map(event).collect(),
        }
    }

    /// The failover hole: timeline 2 left 1 in segment 9, but 5 to 8 of timeline 1 were never archived.
    fn holed() -> World {
        let mut world = World::new();
        world.seen.backups.pop();
        let inventory = &mut world.seen.inventory;
        for number in 5..=9 {
            let held = inventory.timelines.get_mut(&TimelineId(1)).expect("because it is there");
            held.whole.remove(SegmentNumber(number));
        }
        hold(inventory, 2, 9..=10);
        let history = TimelineHistory::parse(TimelineId(2), "1\t0/900300\tno recovery target specified\n");
        inventory.histories.insert(TimelineId(2), history.expect("because it is well formed"));
        world
    }

    fn plan(&self, target: Target) -> Result<Plan, Refusal> {
        self.wish(&Wish { target, inclusive: true, along: Along::Latest, backup: None })
    }

    fn wish(&self, wish: &Wish) -> Result<Plan, Refusal> {
        match plan(wish, &self.seen, self) {
            Ok(plan) => Ok(plan),
            Err(Halt::Refused(refusal)) => Err(*refusal),
            Err(Halt::Trouble(error)) => panic!("{error}"),
        }
    }
}

fn hold(inventory: &mut Inventory, timeline: u32, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let name = SegmentName::new(TimelineId(timeline), SegmentNumber(number), inventory.size);
        inventory.add(WalName::Segment(name), 1);
    }
}

#[test]
fn the_newest_backup_before_the_target_is_taken() {
    let world = World::new();
    for (target, hour, segments, commit) in [
        (Target::Latest, 2, 5, Some(109)),
        (Target::Immediate, 2, 2, None),
        (Target::Time(second(75)), 2, 4, Some(107)),
        (Target::Time(second(64)), 1, 6, Some(106)),
        (Target::Xid(108), 2, 4, Some(108)),
        (Target::Xid(105), 1, 4, Some(105)),
        (Target::Lsn(at(7, 1000)), 2, 3, Some(107)),
        (Target::Lsn(at(6, 400)), 1, 5, Some(106)),
    ] {
        let plan = world.plan(target.clone()).unwrap_or_else(|refusal| panic!("{target:?}: {refusal:?}"));
        assert_eq!(plan.backup.label, label(hour), "{target:?}");
        assert_eq!((plan.segments, plan.end.last_commit_xid), (segments, commit), "{target:?}");
        assert_eq!((plan.window.from, plan.window.until), (at(2, 500), at(10, 0)), "{target:?}");
        assert_eq!(plan.window.until_time, Some(second(90)), "{target:?}");
    }
}

#[test]
fn exclusive_leaves_out_the_target_itself() {
    let world = World::new();
    for (target, commit) in [(Target::Time(second(80)), 107), (Target::Xid(108), 107), (Target::Lsn(at(8, 1000)), 107)]
    {
        let wish = Wish { target, inclusive: false, along: Along::Latest, backup: None };
        let end = world.wish(&wish).map(|plan| plan.end);
        assert_eq!(end.map(|end| end.last_commit_xid), Ok(Some(commit)), "{wish:?}");
    }
}

#[test]
fn what_no_record_reaches_is_refused_with_what_can_be_reached() {
    let world = World::new();
    let reason = |target: Target| {
        let refusal = world.plan(target).expect_err("because it cannot be reached");
        assert!(refusal.gaps.is_empty(), "{refusal:?}");
        assert_eq!(refusal.window.as_ref().and_then(|window| window.until_time), Some(second(90)), "{refusal:?}");
        refusal.reason
    };
    let beyond = [Target::Time(second(90)), Target::Xid(500), Target::Lsn(at(9, 2000)), Target::Name("x".into())];
    for target in beyond.into_iter().chain([Target::Xid(101)]) {
        let reason = reason(target);
        assert!(reason.contains("not reached") && reason.contains("0/A00000"), "{reason}");
    }
    for target in [Target::Time(second(24)), Target::Lsn(at(2, 10))] {
        let reason = reason(target);
        assert!(reason.contains("before the end of the earliest backup"), "{reason}");
    }
}

#[test]
fn a_transaction_in_the_window_of_a_backup_takes_the_one_before() {
    let mut world = World::new();
    // Clocks disagree: the second backup says it ended before a transaction that it does not hold.
    world.seen.backups[1].stopped = second(55).to_rfc3339();
    world.seen.backups[1].stop_lsn = at(6, 2000);
    let plan = world.plan(Target::Time(second(57))).expect("because the first backup leads there");
    assert_eq!((plan.backup.label, plan.end.last_commit_xid), (label(1), Some(105)));
}

#[test]
fn the_nearest_restore_point_behind_a_backup_is_taken() {
    let mut world = World::new();
    let point = |segment| Event { at: at(segment, 2000), xid: 0, second: 0, name: Some("here") };
    world.events.push(point(3));
    world.events.push(point(7));
    world.events.sort_by_key(|event| event.at);
    let plan = world.plan(Target::Name("here".into())).expect("because it is there");
    assert_eq!((plan.backup.label, plan.end.record), (label(2), Some(at(7, 2000))));
    world.events.retain(|event| event.at != at(7, 2000));
    let plan = world.plan(Target::Name("here".into())).expect("because it is there");
    assert_eq!((plan.backup.label, plan.end.record), (label(1), Some(at(3, 2000))));
}

#[test]
fn the_failover_hole_is_refused_and_what_lies_before_it_is_not() {
    let world = World::holed();
    let numbers = |gaps: &[Gap]| gaps.iter().map(|gap| (gap.timeline.0, gap.first.0, gap.last.0)).collect::<Vec<_>>();
    for target in [Target::Latest, Target::Time(second(62)), Target::Xid(109), Target::Lsn(at(9, 0x400))] {
        let refusal = world.plan(target.clone()).expect_err("because of the hole");
        assert_eq!(numbers(&refusal.gaps), [(1, 5, 8)], "{target:?}: {refusal:?}");
    }
    for target in [Target::Time(second(35)), Target::Xid(104), Target::Lsn(at(4, 0)), Target::Immediate] {
        assert!(world.plan(target.clone()).is_ok(), "{target:?}");
    }
    // The server would look for the same segments on timeline 1 alone.
    let along = Along::Timeline(TimelineId(1));
    let refusal = world.wish(&Wish { target: Target::Latest, inclusive: true, along, backup: None });
    assert_eq!(refusal.map_err(|refusal| numbers(&refusal.gaps)), Err(vec![(1, 5, 8)]));
}

#[test]
fn the_way_leads_through_the_timelines() {
    let mut world = World::holed();
    hold(&mut world.seen.inventory, 1, 5..=8);
    let plan = world.plan(Target::Latest).expect("because nothing is missing");
    let legs: Vec<_> = plan.legs.iter().map(|leg| (leg.timeline.0, leg.segments, leg.left_at)).collect();
    assert_eq!(legs, [(1, 7, Some(Lsn(0x90_0300))), (2, 2, None)]);
    // A backup that timeline 2 left behind leads to timeline 1 only.
    world.seen.backups.push(backup(3, 1, 9, 10, 99));
    let plan = world.plan(Target::Latest).expect("because the first backup leads there");
    assert_eq!(plan.backup.label, label(1));
    let along = Along::Timeline(TimelineId(3));
    let refusal = world.wish(&Wish { target: Target::Latest, inclusive: true, along, backup: None });
    assert!(refusal.is_err_and(|refusal| refusal.reason.contains("there is no timeline 3")));
}

#[test]
fn damaged_backups_are_taken_only_where_they_are_named() {
    let mut world = World::new();
    world.seen.doubtful.insert(label(2), "damaged pages".to_owned());
    let plan = world.plan(Target::Latest).expect("because the other one is good");
    assert_eq!((plan.backup.label.clone(), plan.notices.len()), (label(1), 1));
    let wish = Wish { target: Target::Latest, inclusive: true, along: Along::Current, backup: Some(label(2)) };
    assert_eq!(world.wish(&wish).map(|plan| plan.backup.label), Ok(label(2)));
    assert_eq!(second(0).timestamp_micros(), EPOCH_MICROSECONDS);
}
