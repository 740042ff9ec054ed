//! A set of segment numbers, kept as stretches: its size grows with the number of holes, not with the archive.

use crate::wal::SegmentNumber;

/// Segment numbers in stretches that neither touch nor overlap, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a number; `false` where it was there. Cheapest where numbers come in order.
    pub fn insert(&mut self, number: SegmentNumber) -> bool {
        let n = number.0;
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == n => {
                *last = n;
                return true;
            }
            Some((_, last)) if *last >= n => {}
            _ => {
                self.0.push((n, n));
                return true;
            }
        }
        // The first stretch that ends at the number before this one, or later.
        let at = self.0.partition_point(|(_, last)| last + 1 < n);
        let (first, last) = self.0[at];
        if (first..=last).contains(&n) {
            return false;
        }
        if last + 1 == n {
            self.0[at].1 = n;
            self.join_with_next(at);
        } else if first == n + 1 {
            self.0[at].0 = n;
        } else {
            self.0.insert(at, (n, n));
        }
        true
    }

    fn join_with_next(&mut self, at: usize) {
        if let Some(&(first, last)) = self.0.get(at + 1)
            && self.0[at].1 + 1 == first
        {
            self.0[at].1 = last;
            self.0.remove(at + 1);
        }
    }

    /// True where the number is there.
    pub fn contains(&self, number: SegmentNumber) -> bool {
        self.stretch(number).is_some()
    }

    /// The end of the stretch that holds this number.
    pub fn end_of(&self, number: SegmentNumber) -> Option<SegmentNumber> {
        self.stretch(number).map(|(_, last)| SegmentNumber(last))
    }

    /// The beginning of the stretch that holds this number.
    pub fn start_of(&self, number: SegmentNumber) -> Option<SegmentNumber> {
        self.stretch(number).map(|(first, _)| SegmentNumber(first))
    }

    /// Takes a number out; `false` where it was not there.
    pub fn remove(&mut self, number: SegmentNumber) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < number.0);
        let Some(&(first, last)) = self.0.get(at).filter(|(first, _)| *first <= number.0) else { return false };
        let before = (first < number.0).then(|| (first, number.0 - 1));
        let behind = (number.0 < last).then(|| (number.0 + 1, last));
        self.0.splice(at..=at, before.into_iter().chain(behind));
        true
    }

    fn stretch(&self, number: SegmentNumber) -> Option<(u64, u64)> {
        let at = self.0.partition_point(|(_, last)| *last < number.0);
        self.0.get(at).copied().filter(|(first, _)| *first <= number.0)
    }

    /// The lowest number.
    pub fn first(&self) -> Option<SegmentNumber> {
        self.0.first().map(|(first, _)| SegmentNumber(*first))
    }

    /// The highest number.
    pub fn last(&self) -> Option<SegmentNumber> {
        self.0.last().map(|(_, last)| SegmentNumber(*last))
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Every stretch, its first and its last number, lowest first.
    pub fn stretches(&self) -> impl Iterator<Item = (SegmentNumber, SegmentNumber)> {
        self.0.iter().map(|(first, last)| (SegmentNumber(*first), SegmentNumber(*last)))
    }

    /// What is not there from `from` up to, but not with, `end`.
    pub fn missing(&self, from: SegmentNumber, end: SegmentNumber) -> Ranges {
        let (mut next, mut found) = (from.0, Vec::new());
        let at = self.0.partition_point(|(_, last)| *last < next);
        for &(first, last) in &self.0[at..] {
            if first >= end.0 {
                break;
            }
            if first > next {
                found.push((next, first - 1));
            }
            next = last + 1;
        }
        if next < end.0 {
            found.push((next, end.0 - 1));
        }
        Ranges(found)
    }
}

impl FromIterator<SegmentNumber> for Ranges {
    fn from_iter<I: IntoIterator<Item = SegmentNumber>>(numbers: I) -> Self {
        let mut ranges = Ranges::default();
        for number in numbers {
            ranges.insert(number);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0u64..60, 0..80), from in 0u64..60, length in 0u64..60) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for n in numbers {
                prop_assert_eq!(ranges.insert(SegmentNumber(n)), set.insert(n));
            }
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert_eq!(ranges.first().map(|n| n.0), set.first().copied());
            prop_assert_eq!(ranges.last().map(|n| n.0), set.last().copied());
            let stretches: Vec<_> = ranges.stretches().collect();
            prop_assert!(stretches.windows(2).all(|pair| pair[0].1.0 + 1 < pair[1].0.0));
            let missing = ranges.missing(SegmentNumber(from), SegmentNumber(from + length));
            for n in 0..140 {
                prop_assert_eq!(ranges.contains(SegmentNumber(n)), set.contains(&n));
                let lacks = (from..from + length).contains(&n) && !set.contains(&n);
                prop_assert_eq!(missing.contains(SegmentNumber(n)), lacks);
            }
            if let Some(end) = ranges.end_of(SegmentNumber(from)) {
                prop_assert!((from..=end.0).all(|n| set.contains(&n)) && !set.contains(&(end.0 + 1)));
            }
            if let Some(start) = ranges.start_of(SegmentNumber(from)) {
                prop_assert!((start.0..=from).all(|n| set.contains(&n)));
                prop_assert!(start.0 == 0 || !set.contains(&(start.0 - 1)));
            }
            prop_assert_eq!(ranges.remove(SegmentNumber(from)), set.remove(&from));
            prop_assert!((0..140).all(|n| ranges.contains(SegmentNumber(n)) == set.contains(&n)));
        }
    }
}
