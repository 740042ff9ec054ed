//! Fills the failover hole: what this standby received, and the old primary never archived.
//!
//! PostgreSQL marks streamed segments as archived the moment they are received, and a promotion archives only what
//! begins with it. Nobody else would ever bring them into the archive, and a restore would end before the failover
//! without a word.

use std::collections::BTreeSet;

use super::{Next, Scene};
use crate::archive::layout;
use crate::archive::places::Site;
use crate::archive::shipping;
use crate::archive::spool::remove_if_there;
use crate::archive::survey::wal_files;
use crate::error::{Class, Explain, Failure};
use crate::failover::observation::View;
use crate::failover::observe::view;
use crate::postgres::control::ControlFile;
use crate::postgres::local_wal::LocalWal;
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::wal::{SegmentName, SegmentNumber, WalName};

/// Ships every whole segment of the own `pg_wal` that a place of `archive.to` lacks.
///
/// What a place that is down cannot take waits in its queue, but only where no other place has it: it comes by a relay
/// else, and nobody can write while this goes on. Other content under the same name stops everything: then
/// this is not the standby that it seems to be.
pub fn fill(scene: &Scene<'_>) -> Result<Next, Failure> {
    let own = view::look(scene.config, scene.config.own()).map_err(|why| Failure::new(Class::Storage, why))?;
    let missing = missing(scene, &own)?;
    if missing.is_empty() {
        return Ok(Next::Go("nothing is missing in the archives".to_owned()));
    }
    let (pusher, folder) = (scene.pusher(), scene.pgdata().join("pg_wal"));
    let (mut shipped, mut waiting, mut failed) = (0, 0, Vec::new());
    for name in &missing {
        let deadline = Deadline::after(scene.config.archive.deadline);
        match pusher.push(&folder.join(name.to_string()), WalName::Segment(*name), 2, deadline) {
            Ok(pushed) if pushed.queued.is_empty() => shipped += 1,
            Ok(_) => waiting += 1,
            Err(error) if error.class() == Class::Conflict => return Err(error.into()),
            Err(error) => failed.push(format!("'{name}': {}", Failure::from(error).message)),
        }
    }
    if let Some(first) = failed.first() {
        log::warn!("{} segments that only this node holds did not reach every archive; {first}", failed.len());
    }
    let text = format!("{shipped} segments archived that nobody had archived, {waiting} wait in a queue");
    Ok(Next::Go(if failed.is_empty() { text } else { format!("{text}, {} failed: {}", failed.len(), failed[0]) }))
}

/// The whole segments of the own lineage up to the end of the own WAL that some place lacks, oldest first.
pub fn missing(scene: &Scene<'_>, own: &View) -> Result<Vec<SegmentName>, Failure> {
    let pgdata = scene.pgdata();
    let control = ControlFile::read(&pgdata)?;
    let wal = LocalWal::new(&pgdata, &control, &own.history);
    let last = own.wal_end.segment(own.segment_size);
    let here: BTreeSet<SegmentName> = wal
        .segments_from(SegmentNumber(0))?
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.number(own.segment_size).is_some_and(|number| number < last))
        .filter(|name| belongs(own, *name))
        .collect();
    let (mut missing, mut somewhere, mut untold) = (BTreeSet::new(), BTreeSet::new(), false);
    let out = shipping::disarmed(&scene.spool)?;
    for site in scene.sites.of(&scene.config.places(&scene.config.archive.to)) {
        if out.contains(site.name()) {
            continue;
        }
        match held(&site, &here) {
            Ok(held) => {
                missing.extend(here.difference(&held).filter(|name| !is_expired(**name, &held)));
                somewhere.extend(held);
            }
            Err(failure) => {
                log::warn!("whether the archive of {} lacks anything cannot be told: {}", site.name(), failure.message);
                untold = true;
            }
        }
    }
    if untold {
        missing.extend(here.difference(&somewhere).filter(|name| !is_expired(**name, &somewhere)));
    }
    Ok(missing.into_iter().collect())
}

/// Marks what is left of timelines that are over as done, while no archiver looks at it.
///
/// A node that was the primary before still has the segment in which its timeline was left. Its first checkpoint as the
/// primary again would offer that one to the archiver, every archive refuses it, and PostgreSQL offers nothing else
/// before it. Nothing is lost: up to the fork it goes on under the next timeline's name.
pub fn settle(scene: &Scene<'_>) -> Result<(), Failure> {
    let own = view::look(scene.config, scene.config.own()).map_err(|why| Failure::new(Class::Storage, why))?;
    let pgdata = scene.pgdata();
    let wal = LocalWal::new(&pgdata, &ControlFile::read(&pgdata)?, &own.history);
    let status = pgdata.join("pg_wal/archive_status");
    for (name, _) in wal.segments_from(SegmentNumber(0))? {
        let behind = name.number(own.segment_size).is_some_and(|number| number > own.wal_end.segment(own.segment_size));
        if behind || belongs(&own, name) {
            continue;
        }
        let (done, ready) = (status.join(format!("{name}.done")), status.join(format!("{name}.ready")));
        durable::replace(&done, b"")
            .and_then(|()| remove_if_there(&ready).map(drop))
            .map_err(|error| Failure::new(Class::Storage, format!("cannot mark '{}': {error}", done.display())))?;
        log::info!("'{name}' is of a timeline that was left before it; nobody archives it");
    }
    Ok(())
}

/// A segment behind the end of its timeline was left there by somebody else.
fn belongs(own: &View, name: SegmentName) -> bool {
    let number = name.number(own.segment_size);
    number.is_some_and(|number| own.history.owner_of_segment(number, own.segment_size) == name.timeline())
}

/// What lies before everything that a place holds was removed there on purpose.
fn is_expired(name: SegmentName, held: &BTreeSet<SegmentName>) -> bool {
    held.iter().map(|held| held.position()).min().is_some_and(|oldest| name.position() < oldest)
}

/// Those of the segments that a place holds, and its older ones beside them; one listing for each folder.
fn held(site: &Site, wanted: &BTreeSet<SegmentName>) -> Result<BTreeSet<SegmentName>, Failure> {
    let archive = site.archive()?;
    let mut folders: Vec<SegmentName> = Vec::new();
    for name in wanted {
        if folders.last().is_none_or(|last| last.folder() != name.folder()) {
            folders.push(*name);
        }
    }
    let mut held = BTreeSet::new();
    for any in folders {
        let entries = archive.store.list(&layout::folder(any))?.unwrap_or_default();
        let names = wal_files(entries, &any.folder()).0.into_iter();
        held.extend(names.filter_map(|(name, _)| match name {
            WalName::Segment(segment) => Some(segment),
            _ => None,
        }));
    }
    Ok(held)
}
