//! Claims the new timeline in every archive that can be reached, confirms it, or gives it up.

use chrono::Local;

use super::{Next, Scene};
use crate::archive::claims::{self, Made};
use crate::archive::places::Archive;
use crate::error::{Class, Explain, Failure};
use crate::failover::journal::{Entry, Journal};
use crate::failover::rules::{Lift, Policy};
use crate::store::claim::{Claim, State};
use crate::wal::{Lsn, TimelineId};

/// Claims a timeline, in the order of the nodes' names, so that two who claim meet in the first archive both reach.
pub fn claim(
    scene: &Scene<'_>,
    journal: &mut Journal,
    policy: &Policy,
    timeline: TimelineId,
    parent: TimelineId,
    fork: Option<Lsn>,
) -> Result<Next, Failure> {
    let before = journal.claim().cloned().filter(|claim| claim.timeline == timeline);
    if before.is_none() {
        // A number that somebody else was quicker to take leaves ours behind.
        withdraw(scene, journal)?;
    }
    let claim = Claim {
        format: 1,
        timeline,
        parent,
        fork,
        segment_size: crate::postgres::control::ControlFile::read(&scene.pgdata())?.segment_size,
        node: scene.config.local.node.clone(),
        id: journal.id(),
        state: State::Claimed,
        at: now(),
    };
    journal.note(Entry::Claims { claim: claim.clone() })?;
    let (mut made, mut unreached) = (Vec::new(), Vec::new());
    for site in scene.observer.sites().all() {
        let archive = match site.archive() {
            Ok(archive) => archive,
            Err(error) if error.is_outage() => {
                unreached.push(site.name().to_owned());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match in_one(scene, &archive, &claim, policy) {
            Ok(None) => made.push(site.name().to_owned()),
            Ok(Some(why)) => return Ok(Next::Again(why)),
            Err(error) if error.class == Class::Remote || error.class == Class::Timeout => {
                unreached.push(site.name().to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    let mut text = format!("timeline {timeline} is claimed in the archives of {}", made.join(", "));
    if made.is_empty() {
        text = "no archive can be reached, so nothing is claimed and nobody is fenced".to_owned();
        log::warn!("{text}");
    } else if !unreached.is_empty() {
        text.push_str(&format!("; {} could not be reached", unreached.join(", ")));
    }
    Ok(Next::Go(text))
}

/// Claims in one archive. A reason where the facts have changed.
fn in_one(scene: &Scene<'_>, archive: &Archive, claim: &Claim, policy: &Policy) -> Result<Option<String>, Failure> {
    match claims::make(archive, &scene.spool, claim)? {
        Made::Ours => {
            if claims::of(archive, claim.timeline)?.as_ref() != Some(claim) {
                claims::update(archive, claim)?;
            }
            Ok(None)
        }
        Made::Begun => Ok(Some(format!("timeline {} has begun in the {}", claim.timeline, archive.store.place()))),
        Made::Others(found) if policy.lifted.contains(&Lift::TakeClaim) && found.state == State::Claimed => {
            log::warn!("the claim of node {} to timeline {} is taken over", found.node, found.timeline);
            claims::withdraw(archive, &found)?;
            in_one(scene, archive, claim, &Policy { lifted: Default::default(), ..policy.clone() })
        }
        Made::Others(found) => Err(claims::taken(archive, &found).into()),
    }
}

/// Says in every archive that the timeline has begun, and where.
pub fn confirm(scene: &Scene<'_>, journal: &mut Journal) -> Result<Next, Failure> {
    let Some(claim) = journal.claim().cloned() else { return Ok(Next::Go("nothing was claimed".to_owned())) };
    let history = crate::postgres::local_wal::history(&scene.pgdata(), claim.timeline)?;
    let begins = history.map(|history| history.begins());
    let claim = Claim { state: State::Confirmed, fork: begins.or(claim.fork), at: now(), ..claim };
    journal.note(Entry::Claims { claim: claim.clone() })?;
    let (mut told, mut untold) = (Vec::new(), Vec::new());
    for site in scene.observer.sites().all() {
        let confirmed = site.archive().and_then(|archive| match claims::of(&archive, claim.timeline)? {
            Some(_) => claims::update(&archive, &claim),
            // One that could not be reached before is closed now.
            None => claims::copy(&archive, &scene.spool, &claim).map(drop),
        });
        match confirmed {
            Ok(()) => told.push(site.name().to_owned()),
            Err(error) if error.is_outage() => untold.push(site.name().to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    let mut text = format!("confirmed in the archives of {}", told.join(", "));
    if !untold.is_empty() {
        text.push_str(&format!("; {} will learn of it by a relay", untold.join(", ")));
    }
    Ok(Next::Go(text))
}

/// Gives the claim of an operation up, wherever it stands.
pub fn withdraw(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    let Some(claim) = journal.claim() else { return Ok(()) };
    let mut unreached = Vec::new();
    for site in scene.observer.sites().all() {
        let withdrawn = site.archive().and_then(|archive| claims::withdraw(&archive, claim));
        match withdrawn {
            Ok(()) => {}
            // It was not reached to claim there either, or whoever finds the claim there is told whose it is.
            Err(error) if error.is_outage() => unreached.push(site.name().to_owned()),
            Err(error) => {
                return Err(Failure::new(
                    error.class(),
                    format!("the claim stays in the archive of {}: {error}", site.name()),
                ));
            }
        }
    }
    if !unreached.is_empty() {
        log::warn!("whether the archives of {} hold the claim cannot be told", unreached.join(", "));
    }
    Ok(())
}

fn now() -> String {
    Local::now().to_rfc3339()
}
