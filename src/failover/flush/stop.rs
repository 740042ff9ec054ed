//! Stops a primary in order: checkpoint, nobody new, checkpoint and switch, everything archived, then the sessions.

use std::fs;
use std::thread;

use super::{LOOK_AGAIN, Scene, Story, remember};
use crate::error::{Class, Failure};
use crate::postgres::connection::Connection;
use crate::postgres::server::Mode;
use crate::system::clock::Deadline;

const CHECKPOINT: &str = include_str!("../../../sql/checkpoint.sql");

/// So many WAL files that wait may be named in a message.
const NAMED: usize = 3;

/// A session with the server, which must be a primary.
pub fn primary(scene: &Scene<'_>) -> Result<Connection, Failure> {
    let mut session = scene.connect()?;
    if session.is_in_recovery()? {
        let text = format!("the server of {} is a standby", scene.config.local.node);
        return Err(Failure::new(Class::Refused, text).hinted("Run this on the primary."));
    }
    Ok(session)
}

/// Stops it. Returns from when on nobody new was let in.
pub fn stop(scene: &Scene<'_>, story: &mut Story) -> Result<String, Failure> {
    let failover = &scene.config.failover;
    let mut session = primary(scene)?;
    session.set_patience(failover.drain)?;
    story.tell("checkpoint", || {
        session.execute("checkpoint", CHECKPOINT)?;
        Ok(((), "most of the work is done while clients still write".to_owned()))
    })?;
    // Connections to the places take long to come up; nobody waits for them yet.
    story.tell("reach", || Ok(((), reach(scene))))?;
    let closed_at = remember(scene)?;
    // A command of the operator's stops it in one go.
    let gently = scene.config.local.server_stop.is_empty();
    let left = thread::scope(|scope| {
        let patience = Deadline::after(failover.sessions + failover.drain * 2);
        let smart = gently.then(|| scope.spawn(move || scene.server.stop(Mode::Smart, patience)));
        let drained = empty(scene, session, story);
        let sessions = Deadline::after(failover.sessions);
        let mut left = !gently;
        if let Some(smart) = smart {
            while !smart.is_finished() && !sessions.expired() {
                thread::sleep(LOOK_AGAIN);
            }
            left = !smart.is_finished();
            if left {
                // The thread sees the end that the next signal brings.
                fast(scene, story)?;
            }
            let ended = smart.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let (Err(error), false) = (&ended, left) {
                return Err(Failure::of(error));
            }
            left = false;
        }
        drained.map(|()| left)
    })?;
    if left {
        fast(scene, story)?;
    }
    Ok(closed_at)
}

/// With nobody new let in: checkpoint, switch, and everything archived. The session ends with this.
fn empty(scene: &Scene<'_>, mut session: Connection, story: &mut Story) -> Result<(), Failure> {
    story.tell("switch", || {
        session.execute("checkpoint", CHECKPOINT)?;
        let switched = session.switch_wal()?;
        Ok(((), format!("'{}' ends at {}", switched.segment, switched.end)))
    })?;
    let deadline = Deadline::after(scene.config.failover.drain);
    loop {
        let waiting = waiting(scene)?;
        if waiting.is_empty() {
            return Ok(());
        }
        if deadline.expired() {
            let named = waiting.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            // What is not archived now is shipped once the server has stopped.
            story.warn(format!(
                "{} files are not archived yet ({named}); they are shipped after the stop",
                waiting.len()
            ));
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// What the archiver has still to do.
fn waiting(scene: &Scene<'_>) -> Result<Vec<String>, Failure> {
    let folder = scene.server.pgdata().join("pg_wal/archive_status");
    let wrong = |error| Failure::new(Class::Storage, format!("cannot list '{}': {error}", folder.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_suffix(".ready").map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

/// Ends sessions; in the end everything, which leaves no clean stop behind.
fn fast(scene: &Scene<'_>, story: &mut Story) -> Result<(), Failure> {
    let limit = scene.config.failover.stop;
    let stopped = story.tell("stop", || {
        let stopped = scene.server.stop(Mode::Fast, Deadline::after(limit));
        let text = stopped.as_ref().map_or_else(ToString::to_string, |()| "sessions were ended".to_owned());
        Ok((stopped.is_ok(), text))
    })?;
    if !stopped {
        story.warn("the server did not stop in time and is ended at once; what is left needs a recovery".to_owned());
        scene.server.stop(Mode::Immediate, Deadline::after(limit))?;
    }
    Ok(())
}

/// Opens every archive, all at the same time; one that is not reached is noticed when it is needed.
fn reach(scene: &Scene<'_>) -> String {
    let sites: Vec<_> = scene.sites.all().collect();
    let reached: Vec<bool> = thread::scope(|scope| {
        let opened: Vec<_> = sites.iter().map(|site| scope.spawn(|| site.archive().is_ok())).collect();
        opened.into_iter().map(|thread| thread.join().unwrap_or(false)).collect()
    });
    let reached = reached.into_iter().filter(|reached| *reached).count();
    format!("{reached} of {} archives", sites.len())
}
