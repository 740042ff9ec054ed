//! The promotion itself, and what belongs to it on this node.

use std::time::Duration;

use super::{Next, Scene, hole};
use crate::archive::left_out;
use crate::archive::shipping;
use crate::archive::spool::remove_if_there;
use crate::cluster::standby::configuration::{Set, configuration_set};
use crate::error::{Class, Failure};
use crate::failover::journal::{Entry, Journal};
use crate::failover::observe::view;
use crate::failover::plan::Step;
use crate::failover::rules::{Intent, Policy};
use crate::postgres::connection::{Connection, Statement};
use crate::postgres::facts::column;
use crate::postgres::own_settings;
use crate::postgres::server::Status;
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::wal::{Lsn, TimelineId, WalName};

const PROMOTE: Statement = Statement { name: "promote", text: include_str!("../../../sql/promote.sql") };
const IS_OPEN: Statement = Statement { name: "is_open", text: include_str!("../../../sql/is_open.sql") };
const REPLAYED: Statement = Statement { name: "replayed", text: include_str!("../../../sql/replayed.sql") };
const RESUME: Statement = Statement { name: "resume_replay", text: include_str!("../../../sql/resume_replay.sql") };

/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Starts the server as the standby that it is.
pub fn start(scene: &Scene<'_>) -> Result<Next, Failure> {
    if scene.server.status()? == Status::Down {
        let log = scene.spool.root().join("server.log");
        scene.server.start(&log, &[], scene.deadline())?;
    }
    Ok(Next::Again("the server was started".to_owned()))
}

/// Waits until everything that is here is replayed; a pause is ended, a delay is not waited for.
pub fn replay(scene: &Scene<'_>, journal: &Journal) -> Result<Next, Failure> {
    if !scene.config.restore.delay.is_zero() {
        // What is taken back must not leave a standby that has lost its delay.
        return Ok(Next::Go("restore.delay holds WAL back; the promotion ends that and replays the rest".to_owned()));
    }
    leave_out(scene, journal)?;
    let Ok(mut session) = scene.connect() else {
        return Ok(Next::Go("the server takes no sessions; the promotion replays what is here".to_owned()));
    };
    let own = view::look(scene.config, scene.config.own()).map_err(|why| Failure::new(Class::Storage, why))?;
    let deadline = scene.deadline();
    loop {
        let row = session.query_one(&REPLAYED, &[])?;
        let wrong = |error| Failure::new(Class::Bug, error);
        let replayed: Option<String> = column(&row, "replayed_lsn").map_err(wrong)?;
        let replayed = replayed.and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID);
        if replayed >= own.wal_end {
            return Ok(Next::Go(format!("replayed up to {replayed}")));
        }
        if column::<Option<i64>>(&row, "delay_ms").map_err(wrong)?.unwrap_or(0) > 0 {
            return Ok(Next::Go(format!(
                "replayed up to {replayed}; the promotion ends the delay and replays the rest"
            )));
        }
        if column(&row, "paused").map_err(wrong)? {
            session.query(&RESUME, &[])?;
        }
        if deadline.expired() {
            let text = format!("only {replayed} of {} was replayed in time", own.wal_end);
            return Err(Failure::new(Class::Timeout, text).hinted("Allow more time by failover.deadline."));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Takes the archive of the old primary out of shipping, before this node archives anything of its own.
pub fn disarm(scene: &Scene<'_>, node: &str) -> Result<Next, Failure> {
    if !scene.config.places(&scene.config.archive.to).iter().any(|place| place.name == node) {
        return Ok(Next::Go(format!("nothing is shipped to {node}")));
    }
    shipping::disarm(&scene.spool, node)?;
    Ok(Next::Go(format!("'archive-wal --arm {node}' ends that")))
}

/// Counts the archives again that an operation has taken out.
pub fn rearm(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    for line in journal.lines() {
        if let Entry::Begins { step: Step::Disarm { node } } = &line.entry {
            shipping::rearm(&scene.spool, node)?;
        }
    }
    Ok(())
}

/// Tells the server to end recovery. From here on there is no way back.
pub fn promote(scene: &Scene<'_>, journal: &Journal, policy: &Policy) -> Result<Next, Failure> {
    if let Ok(mut session) = scene.connect() {
        if is_open(&mut session)?.0 {
            return Ok(Next::Go("it was promoted already".to_owned()));
        }
        prepare(scene, journal)?;
        session.query(&PROMOTE, &[])?;
        return Ok(Next::Go("told by pg_promote".to_owned()));
    }
    prepare(scene, journal)?;
    // A warm standby takes no sessions. Where restore-wal waits for WAL, its trigger file is what ends that.
    if policy.intent == Intent::Fast && scene.config.restore.wait {
        let trigger = scene.pgdata().join(&scene.config.restore.trigger);
        let wrong = |error| Failure::new(Class::Storage, format!("cannot write '{}': {error}", trigger.display()));
        durable::replace(&trigger, b"fast\n").map_err(wrong)?;
        return Ok(Next::Go(format!("told by the trigger file '{}'", trigger.display())));
    }
    scene.server.promote(scene.deadline())?;
    Ok(Next::Go("told by pg_ctl".to_owned()))
}

/// What has to be in order while the server is a standby still.
pub fn prepare(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    leave_out(scene, journal)?;
    hole::settle(scene)
}

/// Has `restore-wal` wait for nothing, and not ask the archives that the decision goes without.
fn leave_out(scene: &Scene<'_>, journal: &Journal) -> Result<(), Failure> {
    let archives = journal.decided().map(|(seen, _)| seen.archives.as_slice()).unwrap_or_default();
    let unknown = archives.iter().filter(|holder| !holder.own && holder.holds.is().is_none());
    Ok(left_out::set(&scene.spool, &unknown.map(|holder| holder.name.clone()).collect())?)
}

/// Installs the settings of a primary.
///
/// What a restart is needed for, and whether the files hold, the server says itself; `check-node` shows it.
pub fn configure(scene: &Scene<'_>) -> Result<Next, Failure> {
    let Some(set) = configuration_set(scene.config, Set::Failover)? else {
        return Ok(Next::Go("there are none of their own".to_owned()));
    };
    let pgdata = scene.pgdata();
    let mut own = own_settings::read(&pgdata)?;
    own.extend(set.settings(&pgdata));
    set.install(&pgdata)?;
    own_settings::write(&pgdata, &own)?;
    scene.server.reload()?;
    Ok(Next::Go(format!("those of '{}'", set.folder().display())))
}

/// Waits until the server takes writes on the timeline that was claimed.
pub fn open(scene: &Scene<'_>, timeline: TimelineId) -> Result<Next, Failure> {
    left_out::refresh(&scene.spool)?;
    let deadline = scene.deadline();
    let mut session: Option<Connection> = None;
    loop {
        if session.is_none() {
            session = scene.connect().ok();
        }
        match session.as_mut().map(is_open) {
            Some(Ok((true, Some(found)))) if found == timeline => break,
            Some(Ok((true, Some(found)))) => {
                let text = format!("this server opened on timeline {found}, and {timeline} was claimed");
                return Err(Failure::new(Class::Conflict, text).hinted(
                    "Find out who else uses the archive; until then stop this server, for its history may conflict.",
                ));
            }
            Some(Err(_)) => session = None,
            _ => {}
        }
        if scene.server.status()? == Status::Down {
            return Err(Failure::new(Class::Postgres, "the server ended instead of opening")
                .hinted("Look at its log, mend the cause, and start it."));
        }
        if deadline.expired() {
            return Err(Failure::new(Class::Timeout, "the server did not open in time")
                .hinted("It may still be replaying: look at its log, and run this again."));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    left_out::clear(&scene.spool)?;
    let trigger = scene.pgdata().join(&scene.config.restore.trigger);
    if remove_if_there(&trigger).unwrap_or(false) {
        log::info!("the trigger file '{}' is removed", trigger.display());
    }
    Ok(Next::Go(format!("timeline {timeline} takes writes")))
}

/// Whether the server takes writes, and on which timeline.
fn is_open(session: &mut Connection) -> Result<(bool, Option<TimelineId>), Failure> {
    let row = session.query_one(&IS_OPEN, &[])?;
    let wrong = |error| Failure::new(Class::Bug, error);
    let timeline: Option<i64> = column(&row, "timeline").map_err(wrong)?;
    let timeline = timeline.and_then(|number| u32::try_from(number).ok()).map(TimelineId);
    Ok((column(&row, "open").map_err(wrong)?, timeline))
}

/// Ships the history of the new timeline at once, as the server's archiver will do too: the same bytes twice are one
/// file. Until it is archived, no other node finds the timeline.
pub fn archive(scene: &Scene<'_>, journal: &Journal) -> Result<Next, Failure> {
    let Some(claim) = journal.claim() else { return Ok(Next::Go("nothing was claimed".to_owned())) };
    let name = WalName::History(claim.timeline);
    let path = scene.pgdata().join("pg_wal").join(name.to_string());
    let pushed = scene.pusher().push(&path, name, 1, Deadline::after(scene.config.archive.deadline));
    match pushed {
        Ok(pushed) => Ok(Next::Go(format!("'{name}' is in the archives of {}", pushed.stored.join(", ")))),
        // Nobody loses anything: the server keeps it and tries again.
        Err(error) => {
            let failure = Failure::from(error);
            log::warn!("'{name}' is not archived as it should be: {}", failure.message);
            Ok(Next::Go(format!("not yet: {}", failure.message)))
        }
    }
}
