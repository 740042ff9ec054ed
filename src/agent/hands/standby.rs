//! Starts a server as a standby, and leads it to the primary.
//!
//! Every server of a replicated resource starts as a standby, a first primary too: what it has is settled before
//! anybody writes. An old primary starts only where its data are proven to lie on the way of the cluster; what an admin
//! had to vouch for by removing a lock file is read from control files, histories and archives.

use std::path::Path;

use super::{launch, remove_lock};
use crate::agent::eyes::{Agent, BASELINE, LOCATION};
use crate::agent::judge::{Found, Score, Status};
use crate::agent::ocf::Ocf;
use crate::agent::parameters::{Rejoin, RepMode};
use crate::archive::places::Sites;
use crate::archive::spool::Spool;
use crate::backup::Unwatched;
use crate::cluster::standby::act::Actor;
use crate::cluster::standby::journal::Journal;
use crate::cluster::standby::observe::Look;
use crate::cluster::standby::rejoin::ladder::Rung;
use crate::cluster::standby::request::{Job, Request, slot_name};
use crate::cluster::standby::run as story;
use crate::cluster::standby::settings::Commands;
use crate::config::StandbyMode;
use crate::error::{Class, Failure};
use crate::failover::handover;
use crate::failover::observation::{Observation, Relation, relation};
use crate::failover::observe::Observer;
use crate::postgres::own_settings::{self, Signal};

/// Starts it as a standby.
pub fn start(agent: &Agent) -> Result<Ocf, Failure> {
    let member = agent.member();
    match agent.found()? {
        Found::Standby | Found::Waiting => {
            settled(agent);
            return Ok(Ocf::Success);
        }
        Found::Primary => {
            return Err(Failure::new(Class::Refused, "the server runs already, and as a primary")
                .hinted("Stop it, or let the cluster find it: 'crm resource refresh'."));
        }
        Found::Orphans | Found::Mute => super::stop_server(agent, agent.parameters.stop)?,
        Found::Stopped { .. } => {}
    }
    if agent.parameters.mode.promotable() {
        agent.say(Status::Stop);
        agent.score(&member, Score::Never);
        agent.put(&member, BASELINE, None);
        agent.put(&member, LOCATION, None);
    }
    refuse_by_lock(agent)?;
    match agent.primary().map(|node| node.name.clone()) {
        Some(primary) => behind(agent, &primary)?,
        None => alone(agent)?,
    }
    if agent.parameters.mode == RepMode::Follower && agent.found()? == Found::Primary {
        return Err(Failure::new(Class::Refused, "the server came up as a primary"));
    }
    settled(agent);
    Ok(Ocf::Success)
}

/// A lock of a strict resource stands until somebody takes it away.
fn refuse_by_lock(agent: &Agent) -> Result<(), Failure> {
    let lock = &agent.parameters.lock;
    if !agent.parameters.strict_lock || !lock.exists() {
        return Ok(());
    }
    Err(Failure::new(Class::Refused, format!("'{}' says that this node was the primary", lock.display()))
        .hinted("Make sure that its data fit, and remove it; with lock=evidence that is found out here."))
}

/// It is up as a standby: whatever was in its way is proven to be nothing.
fn settled(agent: &Agent) {
    remove_lock(agent);
    if !agent.parameters.mode.promotable() {
        return;
    }
    agent.say(Status::Alone);
    if let Err(failure) = agent.publish(Found::Standby) {
        log::warn!("what was found cannot be told: {}", failure.message);
    }
}

/// Starts it behind a primary that is there.
fn behind(agent: &Agent, primary: &str) -> Result<(), Failure> {
    let standby = own_settings::signal(agent.server.pgdata())? == Some(Signal::Standby);
    let jobs: &[Job] = match agent.parameters.rejoin {
        _ if standby => &[Job::Follow(primary.to_owned())],
        Rejoin::Follow => &[Job::Rejoin(Some(Rung::Follow)), Job::Rejoin(Some(Rung::FollowArchive))],
        Rejoin::Any => &[Job::Rejoin(None)],
        Rejoin::None => {
            return Err(Failure::new(Class::Refused, format!("this node was the primary, and {primary} is it now"))
                .hinted("Bring it back by 'standby-init --rejoin', or set the parameter rejoin."));
        }
    };
    let mut last = None;
    for job in jobs {
        match tell(agent, job.clone()) {
            Ok(()) => {
                forget_handover(agent);
                return Ok(());
            }
            Err(failure) => last = last.or(Some(failure)),
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(Class::Bug, "there was nothing to try")))
}

/// Starts it where nobody takes writes: on what it has, unless that has gone its own way.
fn alone(agent: &Agent) -> Result<(), Failure> {
    let observer = Observer::new(&agent.config, &agent.shared);
    refuse_parted(&observer.look(&[]))?;
    rest(agent)?;
    match launch(agent)? {
        Found::Primary => Err(Failure::new(Class::Refused, "the server came up as a primary")),
        _ => Ok(()),
    }
}

/// Makes the settings those of a standby that waits for a primary, and starts nothing.
pub fn rest(agent: &Agent) -> Result<(), Failure> {
    let pgdata = agent.server.pgdata();
    let mut own = own_settings::read(pgdata)?;
    own.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
    own.entry("hot_standby".to_owned()).or_insert_with(|| "on".to_owned());
    own_settings::write(pgdata, &own)?;
    Ok(own_settings::put_signal(pgdata, Signal::Standby)?)
}

/// Data that hold what the cluster's own way does not have must not be started on.
fn refuse_parted(seen: &Observation) -> Result<(), Failure> {
    let own = seen.own.is().ok_or_else(|| Failure::new(Class::Storage, seen.own.why()))?;
    let ours = (&own.history, own.wal_end);
    let parted = |history, end| relation(ours, (history, end)) == Relation::Parted;
    for holder in &seen.archives {
        let Some(held) = holder.holds.is() else { continue };
        let newest = &held.newest;
        if newest.timeline > own.history.timeline && parted(newest, newest.begins()) {
            let text = format!(
                "the cluster has gone on as timeline {} ({}), and this node, on timeline {} up to {}, is not part of it",
                newest.timeline, holder.name, own.history.timeline, own.wal_end
            );
            return Err(Failure::new(Class::Refused, text).hinted(
                "Start the primary first; then 'standby-init --rejoin' brings this node back and keeps what only it has.",
            ));
        }
    }
    Ok(())
}

/// Leads a running standby to the primary. What goes wrong is told, and tried again by the next monitor.
pub fn lead_to(agent: &Agent, primary: &str) {
    match tell(agent, Job::Follow(primary.to_owned())) {
        Ok(()) => {
            forget_handover(agent);
            log::info!("this server streams from {primary}");
        }
        Err(failure) => log::warn!("this server cannot be led to {primary}: {}", failure.message),
    }
}

/// Has the part that makes standbys do it.
fn tell(agent: &Agent, job: Job) -> Result<(), Failure> {
    let config = &agent.config;
    let sites = Sites::new(config);
    let request = Request {
        job,
        mode: StandbyMode::Streaming,
        upstream: None,
        slot: config.standby.slots.then(|| slot_name(&config.local.node)),
        delay: std::time::Duration::ZERO,
        tablespaces: Default::default(),
        keep_old: false,
    };
    let commands = commands(agent)?;
    let look = Look { config, sites: &sites, request: &request, commands: &commands };
    let journal = Journal::take(&Spool::new(&config.local.spool))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let actor =
        Actor { config, sites: &sites, journal: &journal, watcher: &Unwatched, jobs, rate: config.backup.rate_max };
    let noted = |prepared: &story::Prepared| {
        prepared.notes.iter().for_each(|note| log::info!("{note}"));
        Ok(())
    };
    story::run(&actor, &look, &noted)?;
    Ok(())
}

/// How PostgreSQL calls the programs beside this one.
fn commands(agent: &Agent) -> Result<Commands, Failure> {
    let wrong = |error| Failure::new(Class::Storage, format!("cannot find this program: {error}"));
    let program = std::env::current_exe().map_err(wrong)?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    Ok(Commands::of(folder, &agent.parameters.arguments(), &agent.config))
}

/// A handover is the proof of a primary that is stopped, which this node is no more.
pub fn forget_handover(agent: &Agent) {
    let spool = Spool::new(&agent.config.local.spool);
    if !matches!(handover::kept(&spool), Ok(Some(_))) {
        return;
    }
    let sites = Sites::new(&agent.config);
    for site in sites.all() {
        let gone = site.archive().and_then(|archive| handover::withdraw(&archive, &agent.config.local.node));
        if let Err(error) = gone {
            log::warn!("the handover stays in the archive of {}: {error}", site.name());
        }
    }
    if let Err(error) = handover::forget(&spool) {
        log::warn!("{error}");
    }
}
