//! Keeps an eye on the own archive: what each timeline holds, what is missing, how far it reaches.
//!
//! Listing an archive costs more the larger it is, so that is done every `monitor.survey`; in between the end is
//! followed segment by segment, which costs the same at ten million. Contents are left to `check-archive`.

use std::io::Read;
use std::time::SystemTime;

use super::report::{ArchiveState, BackupMark, Bar};
use super::view::seconds;
use crate::archive::ArchiveError;
use crate::archive::continuity::{Gap, Held, Inventory, judge};
use crate::archive::places::{Archive, Site};
use crate::archive::survey::{Survey, survey};
use crate::archive::{acknowledged, confirm, layout, window};
use crate::store::Encoding;
use crate::wal::timeline::TimelineHistory;
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineId, WalName};

/// So many segments are followed in one step; a survey brings the rest.
const STEP_MAX: usize = 512;

/// A bar shows so many stretches at most: the newest ones.
const STRETCHES_MAX: usize = 64;

/// The report shows so many backups at most: the newest ones.
const BACKUPS_MAX: usize = 50;

/// No history file is larger, in bytes.
const HISTORY_MAX: u64 = 1 << 20;

/// Lists the archive whole and says what is there.
pub fn take_stock(site: &Site) -> Result<ArchiveState, ArchiveError> {
    let archive = site.archive()?;
    let survey = survey(&archive)?;
    let gaps = open_gaps(&archive, &survey.inventory)?;
    let inventory = &survey.inventory;
    let newest = inventory.timelines.iter().rev().find_map(|(timeline, held)| Some((*timeline, held.whole.last()?)));
    Ok(ArchiveState {
        segment_size: Some(inventory.size),
        timelines: bars(inventory, &gaps),
        timeline: newest.map(|(timeline, _)| timeline),
        tip: newest.map(|(_, last)| last.end(inventory.size)),
        restorable: restorable(&archive, &survey)?,
        missing: gaps.iter().map(|gap| gap.last.0 - gap.first.0 + 1).sum(),
        backups: backups(&survey),
        surveyed: seconds(SystemTime::now()),
    })
}

/// What is missing and nobody accepted.
fn open_gaps(archive: &Archive, inventory: &Inventory) -> Result<Vec<Gap>, ArchiveError> {
    let said = acknowledged::read(archive)?;
    let judged = confirm::confirm(archive, inventory, judge(inventory))?;
    let parts = judged.gaps.iter().flat_map(|gap| acknowledged::split(gap, &said, inventory.size));
    Ok(parts.filter(|(_, said)| said.is_none()).map(|(gap, _)| gap).collect())
}

fn bars(inventory: &Inventory, gaps: &[Gap]) -> Vec<Bar> {
    let bytes = |first: SegmentNumber, last: SegmentNumber| (first.start(inventory.size).0, last.end(inventory.size).0);
    let bar = |(timeline, held): (&TimelineId, &Held)| {
        let mut stretches: Vec<_> = held.whole.stretches().map(|(first, last)| bytes(first, last)).collect();
        stretches.drain(..stretches.len().saturating_sub(STRETCHES_MAX));
        let missing = gaps.iter().filter(|gap| gap.timeline == *timeline);
        Bar { timeline: *timeline, held: stretches, gaps: missing.map(|gap| bytes(gap.first, gap.last)).collect() }
    };
    inventory.timelines.iter().map(bar).collect()
}

/// How far the newest backup that can be restored gets.
fn restorable(archive: &Archive, survey: &Survey) -> Result<Option<Lsn>, ArchiveError> {
    for backup in survey.backups.iter().rev() {
        let windows = window::windows(archive, &survey.inventory, std::slice::from_ref(backup))?;
        if let Some(until) = windows.into_iter().find_map(|window| window.until) {
            return Ok(Some(until.until));
        }
    }
    Ok(None)
}

fn backups(survey: &Survey) -> Vec<BackupMark> {
    let finished = survey.backups.iter().filter(|backup| backup.start.is_some());
    let mut marks: Vec<_> = finished
        .map(|backup| BackupMark {
            label: backup.label.clone(),
            finished: backup.finished.map(|time| time.timestamp() as f64),
            stop: backup.stop,
        })
        .collect();
    marks.drain(..marks.len().saturating_sub(BACKUPS_MAX));
    marks
}

/// Follows the end: takes in the segments that came since, also those of a timeline that has begun since. Where nothing
/// was there yet, nothing is followed; the next survey finds the first.
pub fn follow(site: &Site, state: &mut ArchiveState) -> Result<(), ArchiveError> {
    let archive = site.archive()?;
    let (Some(size), Some(mut timeline), Some(mut tip)) = (state.segment_size, state.timeline, state.tip) else {
        return Ok(());
    };
    for _ in 0..STEP_MAX {
        let next = SegmentName::new(timeline, tip.segment(size), size);
        if !holds(&archive, next)? {
            let Some((child, begins)) = child_of(&archive, timeline)? else { break };
            // The child holds a copy of the segment in which it began.
            let first = begins.segment(size);
            if !holds(&archive, SegmentName::new(child, first, size))? {
                break;
            }
            (timeline, tip) = (child, first.start(size));
            continue;
        }
        let end = tip.segment(size).end(size);
        grow(state, timeline, tip, end);
        if state.restorable.is_some_and(|restorable| restorable >= tip) {
            state.restorable = state.restorable.max(Some(end));
        }
        tip = end;
    }
    (state.timeline, state.tip) = (Some(timeline), Some(tip));
    Ok(())
}

/// Takes a segment into the bar of its timeline.
fn grow(state: &mut ArchiveState, timeline: TimelineId, from: Lsn, to: Lsn) {
    let at = state.timelines.iter().position(|bar| bar.timeline == timeline).unwrap_or_else(|| {
        state.timelines.push(Bar { timeline, held: Vec::new(), gaps: Vec::new() });
        state.timelines.len() - 1
    });
    let held = &mut state.timelines[at].held;
    match held.last_mut().filter(|(_, end)| *end == from.0) {
        Some(last) => last.1 = to.0,
        None => held.push((from.0, to.0)),
    }
}

fn holds(archive: &Archive, segment: SegmentName) -> Result<bool, ArchiveError> {
    for encoding in Encoding::ALL {
        if archive.store.look(&layout::stored(WalName::Segment(segment), encoding))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The next timeline, if it left this one, and where.
fn child_of(archive: &Archive, parent: TimelineId) -> Result<Option<(TimelineId, Lsn)>, ArchiveError> {
    let child = TimelineId(parent.0.saturating_add(1));
    let path = layout::history(child);
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let mut text = String::new();
    if file.take(HISTORY_MAX).read_to_string(&mut text).is_err() {
        return Ok(None);
    }
    let history = TimelineHistory::parse(child, &text).ok();
    Ok(history.and_then(|history| Some((child, history.switch_point(parent)?))))
}
