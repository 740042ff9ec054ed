//! Carries out actions: each finds out first what there is, does what is missing, and may be asked for again.

mod promote;
mod standby;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use super::eyes::{Agent, LOCATION};
use super::judge::{self, Found, Score, Status};
use super::ocf::{Action, Ocf, say_reason};
use super::parameters::RepMode;
use crate::archive::spool::{Spool, remove_if_there};
use crate::error::{Class, Failure};
use crate::postgres::own_settings;
use crate::postgres::server::{Mode, ServerError};
use crate::system::clock::Deadline;

/// How often to look whether a server has come to what it was started for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a stop at once may take, and what is kept for it of the time of an action.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Carries out an action.
pub fn carry_out(agent: &Agent, action: Action) -> Result<Ocf, Failure> {
    let valid = validate::validate(agent);
    if let Err((code, failure)) = valid {
        return without_validity(agent, action, code, failure);
    }
    match action {
        Action::Start => start(agent),
        Action::Stop => stop(agent),
        Action::Status => status(agent),
        Action::Monitor => monitor(agent),
        Action::Promote if agent.parameters.mode.promotable() => promote::promote(agent),
        Action::Demote if agent.parameters.mode.promotable() => promote::demote(agent),
        Action::Promote | Action::Demote => Ok(Ocf::Unimplemented),
        Action::Notify => notify(agent),
        Action::Reload => agent.server.reload().map(|()| Ocf::Success).map_err(Failure::from),
        Action::ValidateAll => Ok(Ocf::Success),
        Action::Methods | Action::MetaData => Ok(Ocf::Success),
    }
}

/// What is answered where the parameters do not hold: nothing runs then, unless it does.
fn without_validity(agent: &Agent, action: Action, code: Ocf, failure: Failure) -> Result<Ocf, Failure> {
    say_reason(&failure);
    match action {
        Action::Stop => {
            stop_server(agent, agent.parameters.stop)?;
            agent.say(Status::Unknown);
            Ok(Ocf::Success)
        }
        Action::Monitor | Action::Status => match agent.found()? {
            Found::Stopped { .. } => Ok(Ocf::NotRunning),
            _ => Ok(code),
        },
        Action::Notify => Ok(Ocf::Success),
        _ => Ok(code),
    }
}

/// Tells what there is, and, if it is asked again and again, publishes it.
fn monitor(agent: &Agent) -> Result<Ocf, Failure> {
    let parameters = &agent.parameters;
    let mut found = agent.found()?;
    if found == Found::Primary && !serves(agent) {
        found = Found::Mute;
    }
    if parameters.mode.promotable() && !parameters.probe {
        match agent.publish(found) {
            Ok(Some(node)) => standby::lead_to(agent, &node.name),
            Ok(None) => {}
            Err(failure) => log::warn!("what was found cannot be told: {}", failure.message),
        }
    }
    if parameters.mode == RepMode::Follower && found == Found::Standby && !parameters.probe {
        match agent.astray() {
            Ok(Some(node)) => standby::lead_to(agent, &node.name),
            Ok(None) => {}
            Err(failure) => log::warn!("whom this server follows cannot be told: {}", failure.message),
        }
    }
    Ok(judge::monitor(parameters.mode, found, parameters.probe))
}

/// Carries out the statement that a primary must be able to, if there is one.
fn serves(agent: &Agent) -> bool {
    let Some(statement) = &agent.parameters.monitor_sql else { return true };
    match agent.connect().and_then(|mut session| session.execute("monitor_sql", statement)) {
        Ok(()) => true,
        Err(error) => {
            say_reason(&Failure::of(&error));
            false
        }
    }
}

fn status(agent: &Agent) -> Result<Ocf, Failure> {
    Ok(match agent.found()? {
        Found::Stopped { .. } => Ocf::NotRunning,
        Found::Orphans | Found::Mute => Ocf::Generic,
        Found::Waiting | Found::Standby | Found::Primary => Ocf::Success,
    })
}

fn start(agent: &Agent) -> Result<Ocf, Failure> {
    if agent.parameters.mode != RepMode::None {
        return standby::start(agent);
    }
    if !matches!(agent.found()?, Found::Standby | Found::Primary) {
        launch(agent)?;
    }
    Ok(Ocf::Success)
}

/// Starts the server and waits until it serves, as long as the action may take.
fn launch(agent: &Agent) -> Result<Found, Failure> {
    let parameters = &agent.parameters;
    // Whoever is told why it took too long learns more than one who is killed.
    let deadline = Deadline::after(parameters.timeout.mul_f32(0.9));
    let spool = Spool::new(&agent.config.local.spool);
    spool.prepare()?;
    let log: PathBuf = parameters.log.clone().unwrap_or_else(|| spool.root().join("server.log"));
    match agent.server.start(&log, &parameters.start_options, deadline) {
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        let found = agent.found()?;
        match found {
            Found::Standby | Found::Primary => return Ok(found),
            // A warm standby never serves, and says so.
            Found::Waiting if own_settings_say_warm(agent) => return Ok(found),
            Found::Stopped { .. } => {
                return Err(Failure::new(Class::Postgres, "the server ended while it started")
                    .hinted(format!("Look at its log, and at '{}'.", log.display())));
            }
            Found::Waiting | Found::Orphans | Found::Mute => {}
        }
        if deadline.expired() {
            let why = agent.connect().err().map(|error| Failure::of(&error).message).unwrap_or_default();
            return Err(Failure::new(Class::Timeout, format!("the server does not serve in time: {why}"))
                .hinted("It may still be recovering, which takes more time for start; or its conninfo is wrong."));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn own_settings_say_warm(agent: &Agent) -> bool {
    let own = own_settings::read(agent.server.pgdata()).unwrap_or_default();
    own.get("hot_standby").is_some_and(|value| value == "off")
}

fn stop(agent: &Agent) -> Result<Ocf, Failure> {
    let promotable = agent.parameters.mode.promotable();
    let member = agent.member();
    let found = agent.found()?;
    if promotable {
        agent.score(&member, Score::Never);
        agent.put(&member, LOCATION, None);
    }
    let patience = match found {
        Found::Standby | Found::Waiting => agent.parameters.stop_standby,
        _ => agent.parameters.stop,
    };
    stop_server(agent, patience)?;
    if promotable {
        agent.say(Status::Stop);
    }
    Ok(Ocf::Success)
}

/// Stops the server in order, and at once where that takes too long.
fn stop_server(agent: &Agent, patience: Duration) -> Result<(), Failure> {
    if patience.is_zero() {
        return Ok(agent.server.stop(Mode::Immediate, Deadline::after(AT_ONCE))?);
    }
    match agent.server.stop(Mode::Fast, Deadline::after(patience)) {
        Ok(()) => Ok(()),
        Err(error @ (ServerError::Timeout { .. } | ServerError::Process { .. } | ServerError::Failed { .. })) => {
            log::warn!("{}; it is stopped at once", Failure::of(&error).message);
            Ok(agent.server.stop(Mode::Immediate, Deadline::after(AT_ONCE))?)
        }
        Err(error) => Err(error.into()),
    }
}

/// What others did. A notification cannot fail: whatever goes wrong, the next monitor mends.
fn notify(agent: &Agent) -> Result<Ocf, Failure> {
    if !agent.parameters.mode.promotable() {
        return Ok(Ocf::Success);
    }
    let notice = &agent.parameters.notice;
    let found = agent.found()?;
    match (notice.what.as_str(), found) {
        ("post-promote", Found::Standby | Found::Waiting) => {
            let promoted = notice.promoted.first().and_then(|member| agent.node_of(member));
            if let Some(node) = promoted {
                standby::lead_to(agent, &node.name);
            }
        }
        ("post-start" | "post-stop" | "post-promote", Found::Primary) => {
            if let Err(failure) = agent.publish(found) {
                log::warn!("what was found cannot be told: {}", failure.message);
            }
        }
        ("post-demote", Found::Standby) => {
            let receives = agent.view().is_ok_and(|view| view.receiver.is_some());
            if !receives {
                agent.say(Status::Alone);
            }
        }
        _ => {}
    }
    Ok(Ocf::Success)
}

/// Removes the lock, if it is there.
fn remove_lock(agent: &Agent) {
    let lock = &agent.parameters.lock;
    match remove_if_there(lock) {
        Ok(true) => log::info!("the lock '{}' is removed", lock.display()),
        Ok(false) => {}
        Err(error) => log::warn!("the lock '{}' cannot be removed: {error}", lock.display()),
    }
}
