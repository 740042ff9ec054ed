//! Why a target cannot be reached, in words that say what to do.

use super::super::locate::Way;
use super::super::{Halt, Refusal};
use super::{Candidate, Planner, before};
use crate::archive::continuity::{Because, Gap, Held};
use crate::wal::{Lsn, SegmentNumber, TimelineHistory};

impl Planner<'_> {
    /// No backup is on the way.
    pub(super) fn no_candidate(&self, followed: Option<&TimelineHistory>) -> Refusal {
        let backups = &self.seen.backups;
        if backups.is_empty() {
            let hint = "Take one with 'base-backup take'; nothing before it can be restored.";
            return Refusal::new("there is no backup to restore from", hint);
        }
        let named = self.wish.backup.as_ref();
        if let Some(label) = named.filter(|label| !backups.iter().any(|it| it.label == **label)) {
            return Refusal::new(format!("there is no backup '{label}'"), "'base-backup list' shows every backup.");
        }
        let reason = match (followed, named) {
            (Some(history), Some(label)) => format!("backup '{label}' does not lead to timeline {}", history.timeline),
            (Some(history), None) => format!("no backup leads to timeline {}", history.timeline),
            (None, _) => "no backup can be used".to_owned(),
        };
        let all: Vec<String> = backups.iter().map(|it| format!("{} on timeline {}", it.label, it.timeline)).collect();
        Refusal::new(reason, format!("There are {}; with --timeline current each leads along its own.", all.join(", ")))
    }

    /// The target lies before every backup.
    pub(super) fn too_early(&self, candidates: &[Candidate<'_>], what: &str) -> Refusal {
        let word = if self.wish.backup.is_some() { "the backup" } else { "the earliest backup" };
        let backup = candidates[candidates.len() - 1].backup;
        Refusal::new(
            format!(
                "{what} lies before the end of {word}: '{}' ended at {}, {}",
                backup.label, backup.stop_lsn, backup.stopped
            ),
            "A backup can only be brought to what came after it; choose a later target, or --immediate for its end.",
        )
    }

    /// The target lies behind the WAL.
    pub(super) fn not_reached(&self, candidate: &Candidate<'_>, what: &str) -> Refusal {
        let (end, timeline) = (candidate.way.end(), candidate.way.history.timeline);
        Refusal::new(
            format!("{what} is not reached by the WAL that is there: on timeline {timeline} it ends at {end}"),
            "The server would end such a recovery with an error. Choose an earlier target, or --latest for all that is \
             there; 'archive-wal --status' and 'check-archive' tell whether more is under way.",
        )
    }

    /// A transaction or a restore point is in none of the WAL.
    pub(super) fn not_found(&self, candidates: &[Candidate<'_>], what: &str) -> Refusal {
        let (newest, earliest) = (&candidates[0], candidates[candidates.len() - 1].backup);
        let (end, timeline) = (newest.way.end(), newest.way.history.timeline);
        Refusal::new(
            format!(
                "{what} is not reached: it is nowhere between backup '{}' and {end}, the end of the WAL on timeline {timeline}",
                earliest.label
            ),
            "What happened before the earliest backup cannot be reached, and a transaction that wrote nothing left no \
             record. Choose a time or a position near it.",
        )
    }

    /// Refuses where a segment is missing from the beginning of the backup to this one.
    pub(super) fn whole(&self, candidate: &Candidate<'_>, last: SegmentNumber) -> Result<(), Refusal> {
        let gaps = self.gaps(&candidate.way, last);
        let Some(first) = gaps.first() else { return Ok(()) };
        let count: u64 = gaps.iter().map(|gap| gap.last.0 - gap.first.0 + 1).sum();
        let name = candidate.way.name(first.first);
        let from = &candidate.backup.label;
        let reason = match count {
            1 => format!("WAL segment '{name}' is missing on the way from backup '{from}'"),
            count => {
                format!("{count} WAL segments, the first of them '{name}', are missing on the way from backup '{from}'")
            }
        };
        let hint = "Run the commands above, which bring back what is missing, then make the plan again. Without it \
                    recovery would not get past the gap.";
        Err(Refusal::new(reason, hint).with_gaps(gaps))
    }

    /// Refuses where a backup's own WAL is not whole; else the last segment that hangs together.
    pub(super) fn consistent(&self, candidate: &Candidate<'_>) -> Result<SegmentNumber, Refusal> {
        let last = before(candidate.backup.stop_lsn).segment(candidate.way.size);
        self.whole(candidate, last)?;
        Ok(candidate.way.reached.unwrap_or(last))
    }

    /// What is missing up to a segment, and why it must have existed.
    fn gaps(&self, way: &Way, last: SegmentNumber) -> Vec<Gap> {
        let nothing = Held::default();
        let mut gaps = Vec::new();
        for (timeline, from, to) in way.stretches(last) {
            let held = self.seen.inventory.timelines.get(&timeline).unwrap_or(&nothing);
            let judged = || self.judged.gaps.iter().filter(|gap| gap.timeline == timeline);
            for (first, last) in held.whole.missing(from, to.next()).stretches() {
                let told = judged().find(|gap| gap.first <= last && gap.last >= first);
                let because = told.map_or(Because::Inside, |gap| gap.because.clone());
                gaps.push(Gap { timeline, first, last, because });
            }
        }
        gaps
    }

    /// The last segment that the timeline is known to have had.
    pub(super) fn end_of(&self, candidate: &Candidate<'_>) -> SegmentNumber {
        let (inventory, history) = (&self.seen.inventory, &candidate.way.history);
        let held = inventory.timelines.get(&history.timeline);
        let whole = held.and_then(|held| held.whole.last());
        let partial = held.and_then(|held| held.partial.last()?.previous());
        let known = inventory.known_until.get(&history.timeline).copied();
        // Whoever left it, or whom it left, shows that everything before the fork was there.
        let left = inventory.histories.values().filter_map(|it| it.switch_point(history.timeline));
        let forks = left.chain([history.begins()]).filter(|at| *at != Lsn::INVALID);
        let fork = forks.filter_map(|at| at.segment(inventory.size).previous()).max();
        let consistent = before(candidate.backup.stop_lsn).segment(inventory.size);
        whole.max(partial).max(known).max(fork).unwrap_or(consistent).max(consistent)
    }

    /// Tells what can be reached instead.
    pub(super) fn with_window(&self, halt: Halt, candidates: &[Candidate<'_>]) -> Halt {
        let Halt::Refused(refusal) = halt else { return halt };
        // A refusal is worth more than its window: where that cannot be read, it is left out.
        let newest = candidates.iter().find(|candidate| candidate.is_consistent());
        let window = newest.and_then(|candidate| self.window(candidates, candidate).ok());
        Refusal { window, ..*refusal }.into()
    }
}
