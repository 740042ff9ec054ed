//! The primary's half of a switchover: it stops in order, everything it wrote is elsewhere, and it says so.
//!
//! The first checkpoint is made while clients still write, so that little is left for the last one. From a smart stop
//! on nobody new is let in; what is in the log by then is switched away and archived; then sessions are ended. The
//! control file proves that the stop was clean, the places prove that they hold its last record, and only then the
//! handover is written down. Killed anywhere, it is run again and goes on; [`undo`] starts the primary again as long
//! as nobody has taken over.

mod back;
mod stop;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{Local, SecondsFormat};
use serde::{Deserialize, Serialize};

use super::act::Scene;
use super::handover;
use super::observation::Handover;
use super::observe::end_of_wal;
use super::report::Phase;
use crate::archive::encode::Way;
use crate::archive::flush::{last_segment, plan};
use crate::archive::layout;
use crate::archive::push::Pusher;
use crate::archive::spool::remove_if_there;
use crate::config::{Config, NodeKind, PlaceWord};
use crate::error::{Class, Failure};
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::local_wal;
use crate::postgres::own_settings;
use crate::postgres::server::Status;
use crate::store::Encoding;
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::wal::{TimelineId, WalName};

pub use back::undo;

/// What a flush came to: what `flush-primary --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flushed {
    /// The version of this form: 1.
    pub format: u32,
    /// What was written down.
    pub handover: Handover,
    /// From when on nobody new was let in, by this node's clock, with offset.
    pub closed_at: String,
    /// Each thing that was done.
    pub phases: Vec<Phase>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// What is remembered while it is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    closed_at: String,
    /// The timeline that it was the primary on: once that has changed, this is an old story.
    timeline: TimelineId,
}

/// What has been done so far, with how long it took.
#[derive(Default)]
struct Story {
    phases: Vec<Phase>,
    warnings: Vec<String>,
}

impl Story {
    fn tell<T>(&mut self, step: &str, work: impl FnOnce() -> Result<(T, String), Failure>) -> Result<T, Failure> {
        let begun = Instant::now();
        let (value, detail) = work()?;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        log::info!("{step}: {detail}");
        self.phases.push(Phase { step: step.to_owned(), detail, took_ms });
        Ok(value)
    }

    fn warn(&mut self, words: String) {
        log::warn!("{words}");
        self.warnings.push(words);
    }
}

/// What would be done; changes nothing.
pub fn consider(scene: &Scene<'_>) -> Result<Vec<String>, Failure> {
    stop::primary(scene)?;
    let failover = &scene.config.failover;
    let words = places(scene);
    let places = scene.config.places(&words);
    let places: Vec<&str> = places.iter().map(|node| node.name.as_str()).collect();
    Ok(vec![
        "make a checkpoint".to_owned(),
        format!("let nobody new in, and give sessions {} s to end", failover.sessions.as_secs_f64()),
        "make another checkpoint, end the segment, wait until everything is archived".to_owned(),
        "stop the server, fast if need be".to_owned(),
        format!("ship what is left to {}", places.join(", ")),
        "prove that they hold the last checkpoint, and write the handover down".to_owned(),
    ])
}

/// Flushes the primary. `receiver`: a node that proves by itself that it has everything.
pub fn flush(scene: &Scene<'_>, receiver: Option<&str>) -> Result<Flushed, Failure> {
    let _one_run = scene.lock()?;
    let mut story = Story::default();
    if let Some(done) = done_before(scene)? {
        return Ok(done);
    }
    let closed_at = match scene.server.status()? {
        Status::Down => closed_before(scene)?,
        Status::Running(_) | Status::Orphans(_) => stop::stop(scene, &mut story)?,
    };
    let control = verify(scene)?;
    story.tell("ship", || ship(scene))?;
    let handover = prove(scene, &control, receiver, &mut story)?;
    publish(scene, &handover, &mut story);
    handover::keep(&scene.spool, &handover)?;
    Ok(Flushed { format: 1, handover, closed_at, phases: story.phases, warnings: story.warnings })
}

/// A flush that was finished, and still holds.
fn done_before(scene: &Scene<'_>) -> Result<Option<Flushed>, Failure> {
    let Some(handover) = handover::kept(&scene.spool)? else { return Ok(None) };
    if scene.server.status()? != Status::Down {
        // It runs again, so it hands nothing over any more.
        handover::forget(&scene.spool)?;
        return Ok(None);
    }
    let control = ControlFile::read(scene.server.pgdata())?;
    if control.state != ClusterState::ShutDown || control.checkpoint != handover.checkpoint {
        return Ok(None);
    }
    let closed_at = closed_before(scene).unwrap_or_else(|_| handover.at.clone());
    Ok(Some(Flushed { format: 1, handover, closed_at, phases: Vec::new(), warnings: Vec::new() }))
}

/// When an earlier run let nobody in any more.
fn closed_before(scene: &Scene<'_>) -> Result<String, Failure> {
    let path = scene.spool.root().join("flush.json");
    let read = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Progress>(&text).ok());
    let timeline = ControlFile::read(scene.server.pgdata())?.checkpoint_timeline;
    read.filter(|progress| progress.timeline == timeline).map(|progress| progress.closed_at).ok_or_else(|| {
        Failure::new(Class::Refused, "no server runs here, and it was not flush-primary that stopped it").hinted(
            "Start it, and run this again; what a stopped server still has to ship, 'archive-wal --flush' ships.",
        )
    })
}

/// Writes down that nobody is let in from now on.
fn remember(scene: &Scene<'_>) -> Result<String, Failure> {
    let closed_at = now();
    let timeline = ControlFile::read(scene.server.pgdata())?.checkpoint_timeline;
    let json = serde_json::to_vec(&Progress { closed_at: closed_at.clone(), timeline });
    let json = json.expect("because plain data has no reason not to become JSON");
    let path = scene.spool.root().join("flush.json");
    let written = durable::replace(&path, &json);
    written.map_err(|error| Failure::new(Class::Storage, format!("cannot write '{}': {error}", path.display())))?;
    Ok(closed_at)
}

/// Forgets that the server was stopped by us.
fn forget_progress(scene: &Scene<'_>) {
    // Left there, it only names a time of the past.
    let _ = remove_if_there(&scene.spool.root().join("flush.json"));
}

/// The control file knows whether the stop was clean.
fn verify(scene: &Scene<'_>) -> Result<ControlFile, Failure> {
    let pgdata = scene.server.pgdata();
    let control = ControlFile::read(pgdata)?;
    let standby = own_settings::signal(pgdata)?.is_some();
    if control.state == ClusterState::ShutDown && !standby {
        return Ok(control);
    }
    let text = match standby {
        true => "the data directory is that of a standby".to_owned(),
        false => format!("the server did not shut down cleanly: its control file says '{}'", control.state),
    };
    Err(Failure::new(Class::Refused, text)
        .hinted("Start it again ('flush-primary --undo'), and look into its log for what kept it up."))
}

/// Ships what a clean stop leaves in `pg_wal`: up to the last checkpoint, and nothing behind it.
fn ship(scene: &Scene<'_>) -> Result<((), String), Failure> {
    let leftovers = plan(scene.server.pgdata())?;
    let mut wider = Config::clone(scene.config);
    wider.archive.to = places(scene);
    let pusher = Pusher::new(&Arc::new(wider), &scene.sites, Way::Read);
    let mut waiting = BTreeSet::new();
    for leftover in &leftovers {
        let deadline = Deadline::after(scene.config.archive.deadline);
        waiting.extend(pusher.push(&leftover.path, leftover.name, 2, deadline)?.queued);
    }
    let mut text = format!("{} files", leftovers.len());
    if !waiting.is_empty() {
        let waiting: Vec<_> = waiting.into_iter().collect();
        text.push_str(&format!("; what {} lack waits in their queues", waiting.join(", ")));
    }
    Ok(((), text))
}

/// Where the last WAL goes: also to the places that get theirs later at other times, for nobody relays it any more.
fn places(scene: &Scene<'_>) -> Vec<PlaceWord> {
    let archive = &scene.config.archive;
    archive.to.iter().chain(&archive.alternate).chain(&scene.config.relay.to).cloned().collect()
}

/// Finds out who holds the last record. Nobody beside this node: then nothing may be handed over.
fn prove(
    scene: &Scene<'_>,
    control: &ControlFile,
    receiver: Option<&str>,
    story: &mut Story,
) -> Result<Handover, Failure> {
    let pgdata = scene.server.pgdata();
    let history = local_wal::history(pgdata, control.checkpoint_timeline)?.ok_or_else(|| {
        Failure::new(Class::Corrupt, format!("the history of timeline {} is missing", control.checkpoint_timeline))
    })?;
    let end = end_of_wal(pgdata, control, &history, control.checkpoint)?.end;
    let segment = last_segment(control);
    let mut held_by = Vec::new();
    for site in scene.sites.of(&scene.config.places(&places(scene))) {
        let holds = site.archive().and_then(|archive| {
            for name in [WalName::Partial(segment), WalName::Segment(segment)] {
                for encoding in Encoding::ALL {
                    if archive.store.look(&layout::stored(name, encoding))?.is_some() {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        });
        match holds {
            Ok(true) => held_by.push(format!("the archive of {}", site.name())),
            Ok(false) => story.warn(format!("the archive of {} does not hold the last checkpoint", site.name())),
            Err(error) => story.warn(format!("the archive of {} cannot be asked: {error}", site.name())),
        }
    }
    for node in scene.config.nodes.iter().filter(|node| is_standby_elsewhere(scene, node, receiver)) {
        let view = scene.observer.peers().view(scene.config, node);
        match view.is() {
            Some(view) if view.wal_end >= end && view.history.contains(control.checkpoint_timeline) => {
                held_by.push(format!("the server of {}", node.name));
            }
            Some(view) => story.warn(format!("{} has WAL up to {} only, of {end}", node.name, view.wal_end)),
            None => story.warn(format!("what {} has cannot be told: {}", node.name, view.why())),
        }
    }
    let own = format!("the archive of {}", scene.config.local.node);
    if receiver.is_none() && !held_by.iter().any(|holder| *holder != own) {
        let text = format!("nobody beside this node is proven to hold the last checkpoint at {}", control.checkpoint);
        return Err(Failure::new(Class::Refused, text).hinted(
            "Bring a standby or an archive back and run this again, or start the primary by 'flush-primary --undo'.",
        ));
    }
    Ok(Handover {
        format: 1,
        id: durable::temporary_name().trim_start_matches(durable::TEMPORARY_PREFIX).to_owned(),
        node: scene.config.local.node.clone(),
        system: control.system_id,
        timeline: control.checkpoint_timeline,
        checkpoint: control.checkpoint,
        end,
        at: now(),
        held_by,
    })
}

fn is_standby_elsewhere(scene: &Scene<'_>, node: &crate::config::Node, receiver: Option<&str>) -> bool {
    let here = node.name == scene.config.local.node || Some(node.name.as_str()) == receiver;
    !here && node.kind != NodeKind::Witness && node.pgdata.is_some()
}

/// Puts the handover where whoever takes over finds it, also when this machine is off.
fn publish(scene: &Scene<'_>, handover: &Handover, story: &mut Story) {
    for site in scene.sites.all() {
        let published = site.archive().and_then(|archive| handover::publish(&archive, handover));
        if let Err(error) = published {
            story.warn(format!("the handover is not written down in the archive of {}: {error}", site.name()));
        }
    }
}

fn now() -> String {
    Local::now().to_rfc3339_opts(SecondsFormat::Millis, false)
}

/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
