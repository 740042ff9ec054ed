//! Promotes and demotes.
//!
//! Whether this node may be promoted is decided where every promotion is: by the rules of `failover`. All that the
//! cluster manager adds is what it knows for certain about nodes that nobody can reach any more.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{launch, remove_lock, standby, stop_server};
use crate::agent::cluster::Ask;
use crate::agent::eyes::{Agent, BASELINE};
use crate::agent::judge::{self, Found, Score, Status};
use crate::agent::ocf::Ocf;
use crate::agent::parameters::Trust;
use crate::error::{Class, Failure};
use crate::failover::act::{self, Scene, Watcher};
use crate::failover::decide::Verdict;
use crate::failover::flush;
use crate::failover::plan::Step;
use crate::failover::rules::{Intent, Policy};
use crate::system::durable;

/// Makes this standby the primary, if no rule speaks against it.
pub fn promote(agent: &Agent) -> Result<Ocf, Failure> {
    match agent.found()? {
        Found::Primary => {}
        Found::Standby | Found::Waiting => run(agent)?,
        Found::Stopped { .. } => return Ok(Ocf::NotRunning),
        Found::Orphans | Found::Mute => {
            return Err(Failure::new(Class::Refused, "the server cannot be asked what it is")
                .hinted("Let the cluster recover it."));
        }
    }
    lock(agent);
    if let Err(failure) = agent.publish(Found::Primary) {
        log::warn!("what was found cannot be told: {}", failure.message);
    }
    Ok(Ocf::Success)
}

fn run(agent: &Agent) -> Result<(), Failure> {
    standby::forget_handover(agent);
    let herald = Herald { agent };
    let scene = Scene::new(&agent.config, &agent.shared, &herald)?;
    let member = agent.member();
    match act::run(&scene, &policy(agent)) {
        Ok(report) => {
            let baseline = report.fork.map(|fork| judge::location((report.timeline.map_or(0, |it| it.0), fork)));
            agent.put(&member, BASELINE, baseline.as_deref());
            Ok(())
        }
        Err(failure) => {
            // Whoever else can be promoted goes first from now on.
            agent.score(&member, Score::Of(judge::LEAST));
            Err(failure)
        }
    }
}

/// What is allowed: nothing is lifted, and a node counts as down only where the cluster manager knows that it is.
fn policy(agent: &Agent) -> Policy {
    let down = lost(agent).unwrap_or_else(|failure| {
        log::warn!("which nodes the cluster has lost cannot be told: {}", failure.message);
        BTreeSet::new()
    });
    Policy { down, ..Policy::strict(Intent::Failover, &agent.config) }
}

/// Nodes that are in the cluster no more. Where it fences, they were stopped before anybody is promoted.
fn lost(agent: &Agent) -> Result<BTreeSet<String>, Failure> {
    let fences = || -> Result<bool, Failure> {
        let option = agent.ask(&Ask::Option { name: "stonith-enabled".to_owned() })?;
        Ok(option.is_none_or(|word| matches!(word.as_str(), "true" | "yes" | "on" | "1")))
    };
    let trusted = match agent.parameters.trust {
        Trust::No => false,
        Trust::Membership => true,
        Trust::Fenced => fences()?,
    };
    if !trusted || agent.ask(&Ask::Quorum)?.as_deref() != Some("1") {
        return Ok(BTreeSet::new());
    }
    let members = agent.ask(&Ask::Members)?.unwrap_or_default();
    let lost = judge::lost(&members, &agent.member(), agent.others()).ok_or_else(|| {
        let text = format!("the cluster's list of members, '{members}', lacks this one, '{}'", agent.member());
        Failure::new(Class::Remote, text)
    })?;
    if !lost.is_empty() {
        log::warn!("the cluster vouches for {} to be stopped", lost.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    Ok(lost)
}

/// Tells the cluster's log how it goes, and the cluster what nobody but us is worth any more.
struct Herald<'a> {
    agent: &'a Agent,
}

impl Watcher for Herald<'_> {
    fn decided(&self, verdict: &Verdict) {
        log::info!("rule {} ({}): {}", verdict.rule, verdict.name, verdict.why);
    }

    fn done(&self, step: &Step, detail: &str, took: Duration) {
        log::info!("{}: {detail} ({:.2} s)", step.word(), took.as_secs_f64());
    }

    fn begins(&self, step: &Step) {
        if step.is_irreversible() {
            self.agent.devalue_others();
        }
    }
}

/// Leaves the lock that other tools look for, where there is a place for it.
fn lock(agent: &Agent) {
    let lock = &agent.parameters.lock;
    if !lock.parent().is_some_and(std::path::Path::is_dir) {
        return;
    }
    if let Err(error) = durable::replace(lock, b"") {
        log::warn!("the lock '{}' cannot be written: {error}", lock.display());
    }
}

/// Stops the primary with everything sent on, and lets it go on as a standby of whoever comes.
pub fn demote(agent: &Agent) -> Result<Ocf, Failure> {
    let member = agent.member();
    agent.score(&member, Score::Never);
    agent.put(&member, BASELINE, None);
    match agent.found()? {
        Found::Standby | Found::Waiting => return Ok(Ocf::Success),
        Found::Stopped { .. } => {}
        Found::Orphans | Found::Mute => stop_server(agent, agent.parameters.stop)?,
        Found::Primary => {
            hand_over(agent)?;
            let strict = agent.parameters.strict_lock;
            if !strict || agent.parameters.notice.standbys.is_empty() {
                remove_lock(agent);
            }
            standby::rest(agent)?;
            match launch(agent) {
                Ok(_) => {
                    agent.say(Status::Alone);
                    return Ok(Ocf::Success);
                }
                // It is no primary any more, which is what was asked for.
                Err(failure) => log::warn!("it does not come up as a standby: {}", failure.message),
            }
        }
    }
    agent.say(Status::Stop);
    Ok(Ocf::Success)
}

/// The primary's half of a switchover. What cannot be proven about other nodes does not keep it from being stopped.
fn hand_over(agent: &Agent) -> Result<(), Failure> {
    let herald = Herald { agent };
    let scene = Scene::new(&agent.config, &agent.shared, &herald)?;
    match flush::flush(&scene, None) {
        Ok(flushed) => log::info!("it stopped at {}", flushed.handover.end),
        Err(failure) => log::warn!("it is not handed over in order: {}", failure.message),
    }
    stop_server(agent, agent.parameters.stop)
}
