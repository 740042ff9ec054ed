//! What the archives and the own queue hold from the end of the own WAL on.
//!
//! Only the folders that matter are listed, so an archive of any age costs the same.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use crate::archive::ArchiveError;
use crate::archive::claims;
use crate::archive::layout;
use crate::archive::places::{Archive, Site};
use crate::archive::queue::{self, Queue};
use crate::archive::spool::Spool;
use crate::archive::survey::wal_files;
use crate::config::Config;
use crate::error::Failure;
use crate::failover::handover;
use crate::failover::observation::{Fact, Holder, Holdings, Partial, View};
use crate::store::claim::State;
use crate::store::{Encoding, StoreError};
use crate::wal::segment::{Checker, Expected};
use crate::wal::{SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalName};

/// So many folders of 4 GiB of WAL are looked at.
const FOLDERS_MAX: u64 = 256;

/// No history file is larger, in bytes: a line for each of a thousand timelines.
const HISTORY_MAX: u64 = 1 << 20;

/// How much is decoded and checked at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// What an archive holds, or why it cannot be told.
pub fn holdings(config: &Config, site: &Arc<Site>, own: &View) -> Result<Holdings, String> {
    let archive = site.archive().map_err(words)?;
    look(config, &archive, own).map_err(words)
}

fn words(error: impl Into<Failure>) -> String {
    error.into().message
}

fn look(config: &Config, archive: &Archive, own: &View) -> Result<Holdings, ArchiveError> {
    let claims = claims::all(archive)?;
    let hidden = |timeline: TimelineId| {
        let claim = claims.iter().find(|claim| claim.timeline == timeline);
        claim.is_some_and(|claim| {
            claim.state == State::Void || claim.node == config.local.node && claim.state == State::Claimed
        })
    };
    let mut newest = match history(archive, own.history.timeline)? {
        Some(there) => there,
        None => own.history.clone(),
    };
    // PostgreSQL looks for one number after the other, too; what was given up is passed over.
    let mut next = TimelineId(own.history.timeline.0 + 1);
    while let Some(found) = history(archive, next)? {
        if !hidden(next) {
            newest = found;
        }
        next = TimelineId(next.0 + 1);
    }
    let (whole, last_partial) = segments(archive, own)?;
    let behind = whole.iter().next_back().copied();
    let partial = match last_partial.filter(|(number, _)| behind.is_none_or(|last| *number > last)) {
        Some((number, encoding)) => tail(archive, own, number, encoding)?,
        None => None,
    };
    Ok(Holdings {
        system: archive.identity.system_identifier,
        newest,
        claims,
        whole: stretches(&whole),
        partial,
        handovers: handover::all(archive)?,
    })
}

/// The history of a timeline as an archive holds it; the first needs none.
pub fn history(archive: &Archive, timeline: TimelineId) -> Result<Option<TimelineHistory>, ArchiveError> {
    if timeline.0 <= 1 {
        return Ok(None);
    }
    let path = layout::history(timeline);
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let mut text = Vec::new();
    let read = file.take(HISTORY_MAX).read_to_end(&mut text);
    read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?;
    let parsed = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text));
    parsed.map(Some).map_err(|error| ArchiveError::NotTheWal {
        name: WalName::History(timeline),
        place: archive.store.place().to_string(),
        detail: error.to_string(),
    })
}

/// The number of a partial segment, and how it is stored.
type Tail = (SegmentNumber, Encoding);

/// The whole segments of the own timeline from the own end on, and the last partial one.
fn segments(archive: &Archive, own: &View) -> Result<(BTreeSet<SegmentNumber>, Option<Tail>), ArchiveError> {
    let (size, timeline) = (own.segment_size, own.history.timeline);
    let first = own.wal_end.segment(size);
    let per_log = size.segments_per_log();
    let (mut whole, mut partial) = (BTreeSet::new(), None);
    for log in first.0 / per_log..first.0 / per_log + FOLDERS_MAX {
        let any = SegmentName::new(timeline, SegmentNumber(log * per_log), size);
        let Some(entries) = archive.store.list(&layout::folder(any))? else { break };
        for (name, entry) in wal_files(entries, &any.folder()).0 {
            let Some(number) = name.segment().and_then(|segment| segment.number(size)) else { continue };
            match name {
                WalName::Segment(_) if number >= first => _ = whole.insert(number),
                WalName::Partial(_) if number >= first => {
                    let found = (number, Encoding::split(&entry.name).1);
                    partial = partial.filter(|(known, _)| *known > number).or(Some(found));
                }
                _ => {}
            }
        }
    }
    Ok((whole, partial))
}

fn stretches(numbers: &BTreeSet<SegmentNumber>) -> Vec<(SegmentNumber, SegmentNumber)> {
    let mut found: Vec<(SegmentNumber, SegmentNumber)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if last.next() == *number => *last = *number,
            _ => found.push((*number, *number)),
        }
    }
    found
}

/// Where valid WAL ends in a partial segment. One that is damaged holds nothing that could be used.
fn tail(
    archive: &Archive,
    own: &View,
    number: SegmentNumber,
    encoding: Encoding,
) -> Result<Option<Partial>, ArchiveError> {
    let segment = SegmentName::new(own.history.timeline, number, own.segment_size);
    let path = layout::stored(WalName::Partial(segment), encoding);
    let Some(stored) = archive.store.open(&path)? else { return Ok(None) };
    let read = |error| StoreError::from_read(archive.store.place(), path.as_str(), error);
    let mut content = encoding.decoder(stored).map_err(read)?;
    let mut checker = Checker::new(Expected {
        name: segment,
        system_id: Some(own.system),
        size: Some(own.segment_size),
        partial: true,
    });
    let (mut buffer, mut offset) = (vec![0; CHUNK], 0);
    loop {
        let count = content.read(&mut buffer).map_err(read)?;
        if count == 0 {
            break;
        }
        if let Err(error) = checker.feed(offset, &buffer[..count]) {
            log::warn!("'{path}' in the {} cannot be used: {error}", archive.store.place());
            return Ok(None);
        }
        offset += count as u64;
    }
    Ok(checker.finish().ok().map(|report| Partial { number, until: report.valid_until }))
}

/// What waits in the own queues is WAL that this node holds, too.
pub fn queue(config: &Config, own: &Fact<View>) -> Option<Holder> {
    let view = own.is()?;
    let spool = Spool::new(&config.local.spool);
    let told = queued(&spool, view).map_err(words);
    if told.as_ref().is_ok_and(|numbers| numbers.is_empty()) {
        return None;
    }
    let holds = told.map(|numbers| Holdings {
        system: view.system,
        newest: view.history.clone(),
        claims: Vec::new(),
        whole: stretches(&numbers),
        partial: None,
        handovers: Vec::new(),
    });
    Some(Holder { name: "queue".to_owned(), own: true, holds: Fact::new("its folder", holds) })
}

fn queued(spool: &Spool, own: &View) -> Result<BTreeSet<SegmentNumber>, ArchiveError> {
    let first = own.wal_end.segment(own.segment_size);
    let mut numbers = BTreeSet::new();
    for node in queue::nodes(spool)? {
        for queued in Queue::new(spool, &node).list()? {
            let WalName::Segment(segment) = queued.name else { continue };
            let number = segment.number(own.segment_size).filter(|number| *number >= first);
            numbers.extend(number.filter(|_| segment.timeline() == own.history.timeline));
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_join_neighbours() {
        let numbers: BTreeSet<_> = [3, 4, 5, 8, 9, 12].into_iter().map(SegmentNumber).collect();
        let found: Vec<_> = stretches(&numbers).iter().map(|(first, last)| (first.0, last.0)).collect();
        assert_eq!(found, [(3, 5), (8, 9), (12, 12)]);
    }
}
