//! Segments as a forger writes them: what real servers write seldom, and what they never do.

use proptest::prelude::*;

use super::*;
use crate::error::{Class, Explain};
use crate::wal::SegmentNumber;
use crate::wal::forge::Forge;
use crate::wal::page::LONG_HEADER;

const MIB: usize = 1 << 20;

fn check(depth: Depth, partial: bool, named: (SegmentName, Vec<u8>)) -> Result<SegmentReport, SegmentError> {
    let expected = Expected { name: named.0, system_id: None, size: None, partial };
    let mut checker = Checker::with_depth(expected, depth);
    checker.feed(0, &named.1)?;
    checker.finish()
}

fn whole(named: (SegmentName, Vec<u8>)) -> Result<SegmentReport, SegmentError> {
    check(Depth::Records, false, named)
}

fn full_segment(length: usize) -> (Forge, SegmentName, Vec<u8>) {
    let mut forge = Forge::new(3, 8192);
    forge.fill(MIB + 1, length);
    let (name, bytes) = forge.segment(0);
    (forge, name, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_inside_a_record_is_found(at in 0usize..MIB, flip in 1u8..=255) {
        // Records of 96 bytes without padding; what continues into the next segment has no CRC here. In the last page a
        // changed length makes a record one that continues there, and no page comes that would say otherwise.
        let (_, name, mut bytes) = full_segment(72);
        let until = whole((name, bytes.clone())).expect("because nothing is changed").records_until;
        prop_assume!(at % 8192 >= LONG_HEADER && at < MIB - 8192 && (at as u64) < until.0 - 3 * MIB as u64);
        bytes[at] ^= flip;
        let torn = matches!(whole((name, bytes)), Err(SegmentError::Torn { .. }));
        prop_assert!(torn);
    }

    #[test]
    fn no_bytes_make_the_checker_panic(
        changes in proptest::collection::vec((0usize..MIB, any::<[u8; 4]>()), 1..20),
        partial: bool,
        length in 0usize..=MIB,
    ) {
        let (_, name, mut bytes) = full_segment(3_000);
        for (at, with) in changes {
            let end = (at + 4).min(MIB);
            bytes[at..end].copy_from_slice(&with[..end - at]);
        }
        bytes.truncate(length);
        let _ = check(Depth::Records, partial, (name, bytes));
    }

    #[test]
    fn the_size_of_the_pieces_changes_nothing(piece in 1usize..40_000, cut in 0usize..MIB) {
        let (_, name, mut bytes) = full_segment(3_000);
        bytes.truncate(cut);
        let expected = Expected { name, system_id: None, size: None, partial: true };
        let mut checker = Checker::new(expected);
        let mut answer = Ok(());
        for (index, chunk) in bytes.chunks(piece).enumerate() {
            answer = answer.and_then(|()| checker.feed((index * piece) as u64, chunk));
        }
        let answer = answer.and_then(|()| checker.finish());
        prop_assert_eq!(answer, check(Depth::Records, true, (name, bytes)));
    }
}

#[test]
fn a_record_longer_than_a_segment_fills_it() {
    let mut forge = Forge::new(3, 8192);
    forge.message(3 * MIB);
    for index in 0..3 {
        assert_eq!(whole(forge.segment(index)).map(|report| report.ends), Ok(Ending::Full));
    }
    assert!(matches!(whole(forge.segment(3)), Err(SegmentError::Torn { why: Tear::Zeros, .. })));
}

#[test]
fn a_switch_that_fills_its_page_is_a_switch() {
    for spare in (0..64).step_by(8) {
        let mut forge = Forge::new(3, 8192);
        // A header of 40, two records, and the switch of 24 bytes at or over the end of the page.
        forge.message(8192 - 40 - 24 - 24 - spare);
        let end = forge.switch();
        let report = whole(forge.segment(0)).expect("because the switch is whole");
        assert_eq!(report.ends, Ending::Switched, "{spare}");
        assert!(report.valid_until >= Lsn(end.0 + 24));
    }
}

#[test]
fn pages_of_the_parent_timeline_may_come_first_and_only_first() {
    let mut forge = Forge::new(3, 8192);
    forge.fill(5 * 8192, 1000);
    let parent = forge.segment(0);
    forge.promote(TimelineId(4));
    forge.fill(MIB + 1, 1000);
    let (name, bytes) = forge.segment(0);
    let report = whole((name, bytes.clone())).expect("because it turns once");
    assert_eq!((report.first_page.timeline, report.last_timeline), (TimelineId(1), TimelineId(4)));

    let mut back = bytes.clone();
    back[9 * 8192 + 4] = 2;
    let found = whole((name, back));
    assert!(matches!(found, Err(SegmentError::TimelineGoesBack { offset: 73_728, .. })), "{found:?}");
    let low = SegmentName::new(TimelineId(3), SegmentNumber(3), forge.size);
    assert!(matches!(whole((low, bytes)), Err(SegmentError::TimelineTooHigh { .. })));
    assert!(matches!(check(Depth::Pages, false, parent).map(|report| report.ends), Ok(Ending::Empty { .. })));
}

#[test]
fn an_early_switch_on_a_new_timeline_leaves_only_old_pages() {
    let mut forge = Forge::new(3, 8192);
    forge.message(100);
    forge.promote(TimelineId(2));
    forge.switch();
    let report = whole(forge.segment(0)).expect("because the end of recovery stands on the old page");
    assert_eq!((report.last_timeline, report.ends), (TimelineId(1), Ending::Switched));
}

#[test]
fn a_hole_is_found_by_headers_alone_also_between_slices() {
    let (_, name, mut bytes) = full_segment(1000);
    bytes[20 * 8192..24 * 8192].fill(0);
    let hole = check(Depth::Pages, false, (name, bytes.clone()));
    let (from, to) = (20 * 8192, 24 * 8192);
    assert_eq!(hole, Err(SegmentError::Hole { name, from, to }));
    let expected = Expected { name, system_id: None, size: None, partial: false };
    let known = Known::new(&expected, &bytes).expect("because its first page is good");
    let (left, right) = bytes.split_at(24 * 8192);
    let run = |offset, part| check_pages(&known, offset, part).expect("because it is good in itself");
    assert_eq!(run(0, left).join(&known, run(to, right)), Err(SegmentError::Hole { name, from, to }));
    assert!(matches!(check_pages(&known, 5, left), Err(SegmentError::Order { .. })));
}

#[test]
fn behind_a_partial_end_stands_what_was_there_before() {
    let mut old = Forge::new(3, 8192);
    old.fill(MIB + 1, 1000);
    let mut new = Forge::new(9, 8192);
    new.fill(300_000, 1000);
    let (name, mut bytes) = new.segment(0);
    let end = new.position();
    let used = end.offset(new.size) as usize;
    bytes[used..].copy_from_slice(&old.segment(0).1[used..]);
    let report = check(Depth::Records, true, (name, bytes.clone())).expect("because it may end early");
    assert_eq!((report.valid_until, report.records_until), (end, end));
    assert!(matches!(whole((name, bytes)), Err(SegmentError::Torn { .. } | SegmentError::OtherAddress { .. })));
}

#[test]
fn bytes_out_of_order_are_our_mistake() {
    let (_, name, bytes) = full_segment(1000);
    let mut checker = Checker::new(Expected { name, system_id: None, size: None, partial: false });
    assert_eq!(checker.feed(0, &bytes[..100]), Ok(()));
    let again = checker.feed(0, &bytes[..100]).map_err(|error| error.class());
    assert_eq!(again, Err(Class::Bug));
}
