//! The steps of a switchover that reach over to the primary: it is flushed there, and comes back as a standby.

use std::time::{Duration, Instant};

use super::{Next, Scene, receiver};
use crate::config::Node;
use crate::error::{Class, Failure};
use crate::failover::flush::Flushed;
use crate::failover::handover;
use crate::failover::journal::{Entry, Journal};
use crate::failover::observation::{Fenced, Handover};
use crate::failover::observe::{peer, view};
use crate::failover::plan::Step;
use crate::system::clock::Deadline;
use crate::system::process::{Ended, Outcome};
use crate::wal::Lsn;

/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How often to ask another node that is busy.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What getting there and back may take beside the work itself.
const WAY: Duration = Duration::from_secs(30);

/// Has the primary stop in order, with everything it wrote sent on. A primary that was flushed already says so again.
pub fn flush(scene: &Scene<'_>, journal: &mut Journal, name: &str) -> Result<Next, Failure> {
    let node = scene.node(name)?;
    let failover = &scene.config.failover;
    let patience = failover.sessions + failover.drain * 2 + failover.stop * 3 + scene.config.archive.deadline + WAY;
    let words = ["--for", &scene.config.local.node, "--json"];
    let outcome = on_peer(scene, node, "flush-primary", &words, Deadline::after(patience))?;
    let flushed = peer::answer(&outcome).and_then(|text| serde_json::from_slice::<Flushed>(text).ok());
    let Some(flushed) = flushed.filter(|_| outcome.status.is_success()) else {
        let text = format!("{name} was not flushed: {}, {}", outcome.status, outcome.complaint());
        return Err(Failure::new(Class::Remote, text));
    };
    let handover = &flushed.handover;
    let how = format!("it was flushed, and stopped at {}", handover.end);
    journal.note(Entry::Proved { fenced: Fenced { node: name.to_owned(), how: how.clone() } })?;
    journal.note(Entry::HandedOver { flushed: Box::new(flushed) })?;
    Ok(Next::Go(how))
}

/// The primary that this operation has flushed, or was about to.
pub fn flushed(journal: &Journal) -> Option<String> {
    journal.lines().iter().rev().find_map(|line| match &line.entry {
        Entry::Begins { step: Step::Flush { node } } => Some(node.clone()),
        _ => None,
    })
}

/// True where a flush was begun and not ended.
pub fn is_flushing(journal: &Journal) -> bool {
    flushed(journal).is_some() && !journal.has_done("flush")
}

/// Sees the flush through that an earlier run has begun.
pub fn flush_on(scene: &Scene<'_>, journal: &mut Journal) -> Result<(), Failure> {
    let Some(node) = flushed(journal) else { return Ok(()) };
    let begun = Instant::now();
    let (Next::Go(detail) | Next::Again(detail)) = flush(scene, journal, &node)?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(journal.note(Entry::Done { step: Step::Flush { node }, detail, took_ms })?)
}

/// Runs one of our programs there. What a run of ours that was killed had begun there may still be at work; it is let
/// end first.
fn on_peer(
    scene: &Scene<'_>,
    node: &Node,
    program: &str,
    words: &[&str],
    deadline: Deadline,
) -> Result<Outcome, Failure> {
    loop {
        let outcome = scene.observer.peers().run(scene.config, node, program, words, deadline)?;
        if outcome.status != Ended::Exit(i32::from(Class::Busy.code())) || deadline.expired() {
            return Ok(outcome);
        }
        log::debug!("{program} is at work on {} already: {}", node.name, outcome.complaint());
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Waits until the last record of the old primary, its shutdown checkpoint, is in the own files.
pub fn hold(scene: &Scene<'_>, journal: &Journal) -> Result<Next, Failure> {
    let Some(handover) = handover(journal) else {
        return Err(Failure::new(Class::Bug, "there is no handover to hold"));
    };
    // The sender waited for this node before it ended; what is not here by now comes out of the archives.
    let deadline = Deadline::after(scene.config.failover.contact);
    loop {
        // Nobody sends any more once the receiver has ended: the primary that it received from has stopped.
        let ended = receiver::is_gone(scene)?;
        let own = view::look(scene.config, scene.config.own()).map_err(|why| Failure::new(Class::Storage, why))?;
        if own.history.timeline != handover.timeline {
            let text =
                format!("this node is on timeline {}, the old primary on {}", own.history.timeline, handover.timeline);
            return Err(Failure::new(Class::Refused, text));
        }
        if own.wal_end >= handover.end {
            return Ok(Next::Go(format!("the shutdown checkpoint at {} is here", handover.checkpoint)));
        }
        if ended || deadline.expired() {
            return super::fetch::fetch(scene, std::slice::from_ref(&handover.node), handover.end);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The fork of a switchover is known once the primary has stopped: right behind its last record.
pub fn fork_of(journal: &Journal, planned: Option<Lsn>) -> Option<Lsn> {
    planned.map(|planned| handover(journal).map_or(planned, |handover| handover.end))
}

/// What the old primary wrote down, as far as it was flushed by this operation.
pub fn handover(journal: &Journal) -> Option<&Handover> {
    journal.lines().iter().rev().find_map(|line| match &line.entry {
        Entry::HandedOver { flushed } => Some(&flushed.handover),
        _ => None,
    })
}

/// Brings the old primary back as a standby of this node. Only a primary that lost nothing just follows; what it takes
/// otherwise is for a person to choose.
pub fn follow(scene: &Scene<'_>, name: &str) -> Result<Next, Failure> {
    let node = scene.node(name)?;
    let words = ["--rejoin", "--rung", "follow", "--upstream", &scene.config.local.node, "--json"];
    let deadline = Deadline::after(scene.config.failover.deadline);
    let outcome = on_peer(scene, node, "standby-init", &words, deadline)?;
    if !outcome.status.is_success() {
        let text = format!(
            "this node is the primary now, but {name} did not come back: {}, {}",
            outcome.status,
            outcome.complaint()
        );
        return Err(Failure::new(Class::Remote, text)
            .hinted(format!("Run 'standby-init --rejoin' on {name}, then trigger-failover here again.")));
    }
    for site in scene.sites.all() {
        // One that stays speaks of a timeline that is over, and counts for nothing.
        if let Err(error) = site.archive().and_then(|archive| handover::withdraw(&archive, name)) {
            log::debug!("the handover of {name} stays in the archive of {}: {error}", site.name());
        }
    }
    Ok(Next::Go(format!("{name} streams from this node")))
}

/// Brings the primary back that was flushed for nothing.
pub fn undo(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    let Some(name) = flushed(journal) else { return Ok(()) };
    let node = scene.node(&name)?;
    let deadline = Deadline::after(scene.config.failover.deadline);
    let outcome = on_peer(scene, node, "flush-primary", &["--undo"], deadline)?;
    if outcome.status.is_success() {
        log::warn!("{name} is the primary again");
        return Ok(());
    }
    let text = format!("{name} was stopped for the switchover and did not come back: {}", outcome.complaint());
    Err(Failure::new(Class::Remote, text).hinted(format!("Run 'flush-primary --undo' on {name}.")))
}

/// How long nobody could write: from when the old primary took no more to when this one did.
pub fn outage(journal: &Journal) -> Option<u64> {
    let closed = journal.lines().iter().rev().find_map(|line| match &line.entry {
        Entry::HandedOver { flushed } => Some(flushed.closed_at.clone()),
        _ => None,
    })?;
    let opened = journal.lines().iter().rev().find_map(|line| match &line.entry {
        Entry::Done { step: Step::Open, .. } => Some(line.at.clone()),
        _ => None,
    })?;
    let time = |text: &str| chrono::DateTime::parse_from_rfc3339(text).ok();
    u64::try_from((time(&opened)? - time(&closed)?).num_milliseconds()).ok()
}
