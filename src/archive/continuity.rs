//! Whether the WAL of an archive hangs together: a pure judgement over names and histories.
//!
//! An [`Inventory`] is what an archive holds, small even for ten million segments. [`judge`] says for each timeline
//! what is there, what is missing and why it must have existed, and which timelines nothing leads to. Contents are
//! not looked at here, nor where a missing segment may still be found.
//!
//! What must be there: everything between the lowest position that anything here needs and the end of each timeline's
//! use, which is its own last segment or, where another timeline left it, the segment before the fork. The fork segment
//! itself is read from the child, which holds a copy; so a `.partial` of it on the parent is enough, and anywhere else
//! a `.partial` stands for no segment.

pub mod ranges;

use std::collections::{BTreeMap, BTreeSet};

use ranges::Ranges;

use crate::wal::timeline::TimelineHistory;
use crate::wal::{Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineId, WalName};

/// What one timeline holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Whole segments.
    pub whole: Ranges,
    /// Partial segments.
    pub partial: BTreeSet<SegmentNumber>,
    /// Stored files of WAL, each encoding counted.
    pub files: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
}

/// What a base backup needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupNeed {
    /// Its label.
    pub label: String,
    /// The segment in which it begins.
    pub start: SegmentName,
}

/// What an archive holds, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The size of each segment.
    pub size: SegmentSize,
    /// By timeline.
    pub timelines: BTreeMap<TimelineId, Held>,
    /// The histories that could be read.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// What the backups need.
    pub backups: Vec<BackupNeed>,
    /// WAL that is known to have existed, up to this segment: what was discarded on purpose.
    pub known_until: BTreeMap<TimelineId, SegmentNumber>,
}

/// What [`Inventory::add`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The name is new.
    New,
    /// The name was there: two encodings of one file.
    Again,
    /// At this segment size the name stands for no segment.
    NoSegment,
}

/// Why a segment that is missing must have existed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// A later segment of the timeline is here.
    Inside,
    /// Another timeline left this one behind it.
    Fork {
        /// The timeline that left.
        child: TimelineId,
        /// Where it left.
        at: Lsn,
    },
    /// The timeline began in or before it.
    Begin {
        /// Where it began.
        at: Lsn,
    },
    /// A backup begins in it.
    Backup {
        /// Its label.
        label: String,
    },
    /// It was discarded.
    Discarded,
}

/// A stretch of one timeline that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first segment missing.
    pub first: SegmentNumber,
    /// The last segment missing.
    pub last: SegmentNumber,
    /// Why it must have existed.
    pub because: Because,
}

/// A timeline that nothing here leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orphan {
    /// There is WAL of it, and no history.
    NoHistory {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Its history names a parent of which nothing is here, though it must have been.
    NoParent {
        /// The timeline.
        timeline: TimelineId,
        /// Its parent.
        parent: TimelineId,
        /// Where it left the parent.
        at: Lsn,
    },
    /// The parent's WAL is missing right before the fork.
    BehindGap {
        /// The timeline.
        timeline: TimelineId,
        /// Its parent.
        parent: TimelineId,
        /// Where it left the parent.
        at: Lsn,
    },
    /// Two histories say different things about where a timeline began.
    Contradiction {
        /// The timeline.
        timeline: TimelineId,
        /// The history that says otherwise.
        other: TimelineId,
    },
}

/// The judgement about an inventory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Continuity {
    /// What is missing, by timeline and position.
    pub gaps: Vec<Gap>,
    /// Timelines that nothing leads to.
    pub orphans: Vec<Orphan>,
}

impl Orphan {
    /// The timeline that hangs in the air.
    pub fn timeline(&self) -> TimelineId {
        match self {
            Orphan::NoHistory { timeline }
            | Orphan::NoParent { timeline, .. }
            | Orphan::BehindGap { timeline, .. }
            | Orphan::Contradiction { timeline, .. } => *timeline,
        }
    }
}

impl Inventory {
    /// An inventory of nothing.
    pub fn new(size: SegmentSize) -> Self {
        Inventory {
            size,
            timelines: BTreeMap::new(),
            histories: BTreeMap::new(),
            backups: Vec::new(),
            known_until: BTreeMap::new(),
        }
    }

    /// Counts a stored file of so many bytes. Histories and backup labels are not counted here.
    pub fn add(&mut self, name: WalName, bytes: u64) -> Added {
        let Some(number) = name.segment().and_then(|segment| segment.number(self.size)) else {
            return if name.segment().is_some() { Added::NoSegment } else { Added::New };
        };
        let new = match name {
            WalName::Segment(_) => self.held_mut(name.timeline(), bytes).whole.insert(number),
            WalName::Partial(_) => self.held_mut(name.timeline(), bytes).partial.insert(number),
            WalName::Backup(..) | WalName::History(_) => true,
        };
        if new { Added::New } else { Added::Again }
    }

    /// Adds what another place holds. Where both know a history, this one's counts.
    pub fn join(&mut self, other: Inventory) {
        for (timeline, theirs) in other.timelines {
            let held = self.timelines.entry(timeline).or_default();
            let numbers = theirs.whole.stretches().flat_map(|(first, last)| first.0..=last.0);
            for number in numbers {
                held.whole.insert(SegmentNumber(number));
            }
            held.partial.extend(theirs.partial);
            held.files += theirs.files;
            held.bytes += theirs.bytes;
        }
        for (timeline, history) in other.histories {
            self.histories.entry(timeline).or_insert(history);
        }
        self.backups.extend(other.backups);
        for (timeline, last) in other.known_until {
            let known = self.known_until.entry(timeline).or_insert(last);
            *known = last.max(*known);
        }
    }

    fn held_mut(&mut self, timeline: TimelineId, bytes: u64) -> &mut Held {
        let held = self.timelines.entry(timeline).or_default();
        held.files += 1;
        held.bytes += bytes;
        held
    }

    /// True where the whole segment is here.
    pub fn holds(&self, timeline: TimelineId, number: SegmentNumber) -> bool {
        self.timelines.get(&timeline).is_some_and(|held| held.whole.contains(number))
    }

    /// The history of a timeline; the first one needs no file.
    pub fn history(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        let first = || (timeline == TimelineId(1)).then(TimelineHistory::first);
        self.histories.get(&timeline).cloned().or_else(first)
    }

    /// Follows whole segments along a history from this one on; the last one before something is missing, with the
    /// timeline it is read from. None where the first is missing already.
    pub fn reach(&self, history: &TimelineHistory, from: SegmentNumber) -> Option<(TimelineId, SegmentNumber)> {
        let (mut reached, mut next) = (None, from);
        loop {
            let owner = history.owner_of_segment(next, self.size);
            let Some(end) = self.timelines.get(&owner).and_then(|held| held.whole.end_of(next)) else { return reached };
            let last = match history.switch_point(owner).map(|at| at.segment(self.size)) {
                Some(fork) if fork <= end && fork > next => fork.previous().unwrap_or(end),
                _ => end,
            };
            reached = Some((owner, last));
            next = last.next();
        }
    }

    /// Follows whole segments along a history backwards from this one, which is here; the first one of the stretch.
    pub fn since(&self, history: &TimelineHistory, last: SegmentNumber) -> SegmentNumber {
        let mut first = last;
        loop {
            let owner = history.owner_of_segment(first, self.size);
            let start = self.timelines.get(&owner).and_then(|held| held.whole.start_of(first));
            let Some(start) = start else { return first.next() };
            let parent = history.ancestors.iter().rev().find(|ancestor| ancestor.timeline < owner);
            first = parent.map_or(start, |parent| parent.switch_point.segment(self.size).max(start).min(first));
            let Some(before) = first.previous() else { return first };
            let earlier = history.owner_of_segment(before, self.size);
            if !self.holds(earlier, before) {
                return first;
            }
            first = before;
        }
    }

    /// The lowest position that anything here holds or needs.
    fn floor(&self) -> Option<SegmentNumber> {
        let held = self.timelines.values().flat_map(|held| [held.whole.first(), held.partial.first().copied()]);
        let backups = self.backups.iter().map(|backup| backup.start.number(self.size));
        held.chain(backups).flatten().min()
    }
}

/// Where a timeline left another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    parent: TimelineId,
    at: Lsn,
}

/// Judges what is missing.
pub fn judge(inventory: &Inventory) -> Continuity {
    let Some(floor) = inventory.floor() else { return Continuity::default() };
    let mut found = Continuity::default();
    let links = links(inventory, &mut found.orphans);
    let mut timelines: BTreeSet<TimelineId> = inventory.timelines.keys().copied().collect();
    timelines.extend(inventory.known_until.keys());
    timelines.extend(links.values().map(|link| link.parent));
    timelines.extend(inventory.backups.iter().map(|backup| backup.start.timeline()));
    for timeline in timelines {
        let judged = Judged { inventory, links: &links, floor, timeline };
        judged.orphan(&mut found.orphans);
        judged.gaps(&mut found);
    }
    found.orphans.sort_by_key(Orphan::timeline);
    found
}

/// Where each timeline began, as its own history says, or else the history of one that came after it.
fn links(inventory: &Inventory, orphans: &mut Vec<Orphan>) -> BTreeMap<TimelineId, Link> {
    let mut links: BTreeMap<TimelineId, Link> = BTreeMap::new();
    // The own history is the last line of its file, so every timeline is first told of by itself.
    for history in inventory.histories.values() {
        if let Some(parent) = history.ancestors.last() {
            links.insert(history.timeline, Link { parent: parent.timeline, at: parent.switch_point });
        }
    }
    for history in inventory.histories.values() {
        for pair in history.ancestors.windows(2) {
            let told = Link { parent: pair[0].timeline, at: pair[0].switch_point };
            let child = pair[1].timeline;
            if *links.entry(child).or_insert(told) != told {
                orphans.push(Orphan::Contradiction { timeline: child, other: history.timeline });
            }
        }
    }
    links
}

/// One timeline being judged.
struct Judged<'a> {
    inventory: &'a Inventory,
    links: &'a BTreeMap<TimelineId, Link>,
    floor: SegmentNumber,
    timeline: TimelineId,
}

impl Judged<'_> {
    fn held(&self) -> Option<&Held> {
        self.inventory.timelines.get(&self.timeline)
    }

    /// WAL without a history: a server that is told to follow this timeline finds nothing.
    fn orphan(&self, orphans: &mut Vec<Orphan>) {
        if self.held().is_some() && self.inventory.history(self.timeline).is_none() {
            orphans.push(Orphan::NoHistory { timeline: self.timeline });
        }
    }

    /// Timelines that left this one, and where; the first to leave first.
    fn forks(&self) -> Vec<(Lsn, TimelineId)> {
        let children = self.links.iter().filter(|(_, link)| link.parent == self.timeline);
        let mut forks: Vec<_> = children.map(|(child, link)| (link.at, *child)).collect();
        forks.sort();
        forks
    }

    /// The first segment that must be here.
    fn begin(&self) -> SegmentNumber {
        if let Some(link) = self.links.get(&self.timeline) {
            return link.at.segment(self.inventory.size).max(self.floor);
        }
        // Nothing is known of the time before: the archive begins where it begins.
        let held = self.held().and_then(|held| held.whole.first().or(held.partial.first().copied()));
        let backups = self.backups().map(|(number, _)| number);
        held.into_iter().chain(backups).min().unwrap_or(self.floor)
    }

    fn backups(&self) -> impl Iterator<Item = (SegmentNumber, &str)> {
        let own = self.inventory.backups.iter().filter(|backup| backup.start.timeline() == self.timeline);
        own.filter_map(|backup| Some((backup.start.number(self.inventory.size)?, backup.label.as_str())))
    }

    fn gaps(&self, found: &mut Continuity) {
        let size = self.inventory.size;
        let (nothing, begin, forks) = (Held::default(), self.begin(), self.forks());
        let held = self.held().unwrap_or(&nothing);
        let own_end = held.whole.last().map(SegmentNumber::next).max(held.partial.last().copied());
        let discarded = self.inventory.known_until.get(&self.timeline).map(|last| last.next());
        let backups = self.backups().map(|(number, _)| number.next()).max();
        let fork_end = forks.last().map(|(at, _)| at.segment(size));
        let known = own_end.max(discarded).max(backups);
        let told = self.held().is_some() || self.inventory.history(self.timeline).is_some() || known.is_some();
        if let Some(end) = fork_end.filter(|end| *end > begin && !told) {
            let children = forks.iter().filter(|(at, _)| at.segment(size) <= end && at.segment(size) > begin);
            found.orphans.extend(children.map(|(at, child)| Orphan::NoParent {
                timeline: *child,
                parent: self.timeline,
                at: *at,
            }));
            return;
        }
        let Some(end) = known.max(fork_end) else { return };
        let missing = held.whole.missing(begin, end);
        for (first, last) in missing.stretches() {
            let because = self.because(held, &forks, begin, (first, last));
            found.gaps.push(Gap { timeline: self.timeline, first, last, because });
        }
        for (at, child) in forks {
            let before = at.segment(size).previous();
            if before.is_some_and(|before| before >= begin && missing.contains(before)) {
                found.orphans.push(Orphan::BehindGap { timeline: child, parent: self.timeline, at });
            }
        }
    }

    fn because(
        &self,
        held: &Held,
        forks: &[(Lsn, TimelineId)],
        begin: SegmentNumber,
        (first, last): (SegmentNumber, SegmentNumber),
    ) -> Because {
        if let Some((_, label)) = self.backups().find(|(number, _)| (first..=last).contains(number)) {
            return Because::Backup { label: label.to_owned() };
        }
        let link = self.links.get(&self.timeline);
        if let Some(link) = link.filter(|_| first == begin) {
            return Because::Begin { at: link.at };
        }
        if held.whole.last().max(held.partial.last().copied()).is_some_and(|there| there > last) {
            return Because::Inside;
        }
        match forks.iter().find(|(at, _)| at.segment(self.inventory.size) > first) {
            Some((at, child)) => Because::Fork { child: *child, at: *at },
            None => Because::Discarded,
        }
    }
}

#[cfg(test)]
mod tests;
