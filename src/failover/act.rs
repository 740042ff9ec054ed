//! Carries out a plan: each step written down before it is begun and after it is done, and each fit to be repeated.
//!
//! Up to the step from which there is no way back, whatever goes wrong is taken back: the claim is given up and the
//! receiver started again. Behind it there is only forward, by this run or the next.

mod back;
mod claim;
mod fence;
mod fetch;
mod finish;
mod hole;
mod promote;
mod receiver;
mod recover;
mod scene;
mod switchover;

use std::time::{Duration, Instant};

use super::decide::{Verdict, decide};
use super::journal::{Entry, Journal};
use super::observation::{Observation, Serving};
use super::plan::{Plan, Step};
use super::report::Report;
use super::rules::{Intent, Policy};
use crate::error::{Class, Failure};

pub use back::abort;
use back::taken_back;
pub use scene::Scene;

/// Facts that change while a plan is carried out make another plan; so many at most.
const PLANS_MAX: usize = 6;

/// Tells of what happens.
pub trait Watcher: Sync {
    /// A decision was made.
    fn decided(&self, _verdict: &Verdict) {}
    /// A step begins.
    fn begins(&self, _step: &Step) {}
    /// A step is done, with what it found or did.
    fn done(&self, _step: &Step, _detail: &str, _took: Duration) {}
}

/// How a step ended.
enum Next {
    /// The plan goes on.
    Go(String),
    /// The plan does not fit any more.
    Again(String),
}

/// Looks and decides; changes nothing.
pub fn consider(scene: &Scene<'_>, policy: &Policy) -> Result<(Observation, Verdict), Failure> {
    let seen = scene.observer.look(&[]);
    let verdict = decide(&seen, policy);
    Ok((seen, verdict))
}

/// Changes the role of this node, or goes on where an earlier run was cut short.
pub fn run(scene: &Scene<'_>, policy: &Policy) -> Result<Report, Failure> {
    let _one_run = scene.lock()?;
    let begun = Instant::now();
    let mut journal = match Journal::unfinished(&scene.spool)? {
        Some(journal) => resumed(journal, policy)?,
        None => {
            let (seen, verdict) = consider(scene, policy)?;
            scene.watcher.decided(&verdict);
            let Some(plan) = verdict.plan.clone() else { return Err(refused(&verdict)) };
            let mut journal = Journal::begin(&scene.spool, &scene.config.local.node, policy)?;
            journal.note(Entry::Decided { seen: Box::new(seen), verdict })?;
            return carry_out(scene, journal, policy, Some(plan), begun);
        }
    };
    if is_past_return(&journal) && takes_writes(scene) {
        let done = finish::forward(scene, &mut journal)?;
        return finish::conclude(scene, journal, done, begun);
    }
    let policy = with_what_was_allowed(&journal, policy);
    carry_out(scene, journal, &policy, None, begun)
}

/// A run that goes on need not be told again what the first one was, unless that was long ago.
fn with_what_was_allowed(journal: &Journal, policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    if journal.is_old() {
        log::warn!(
            "that was long ago: what was lifted, and who was fenced or said to be down, does not count any more"
        );
    } else if let Some(before) = journal.policy() {
        policy.lifted.extend(&before.lifted);
        policy.down.extend(before.down.iter().cloned());
        policy.ignored.extend(before.ignored.iter().cloned());
    }
    policy
}

/// An operation goes on as it was begun; the flags may be others.
fn resumed(journal: Journal, policy: &Policy) -> Result<Journal, Failure> {
    match journal.policy() {
        Some(before) if before.intent != policy.intent => {
            let failure = Failure::new(Class::Refused, "an operation of another kind was begun here and not ended");
            Err(failure.hinted("Run it again as it was begun, or give it up with 'trigger-failover --abort'."))
        }
        _ => {
            log::info!(
                "going on with what was begun at {}",
                journal.lines().first().map_or("", |line| line.at.as_str())
            );
            Ok(journal)
        }
    }
}

fn is_past_return(journal: &Journal) -> bool {
    journal.has_begun("promote") || journal.has_begun("recover")
}

fn takes_writes(scene: &Scene<'_>) -> bool {
    super::observe::view::look(scene.config, scene.config.own()).is_ok_and(|own| own.server == Serving::Primary)
}

/// Plans and acts until it is done, there is nothing to plan, or something fails.
fn carry_out(
    scene: &Scene<'_>,
    mut journal: Journal,
    policy: &Policy,
    first: Option<Plan>,
    begun: Instant,
) -> Result<Report, Failure> {
    let mut plan = first;
    for _ in 0..PLANS_MAX {
        let current = match plan.take() {
            Some(plan) => plan,
            None => match plan_again(scene, &mut journal, policy)? {
                Ok(plan) => plan,
                Err(verdict) if is_past_return(&journal) => {
                    let failure = refused(&verdict).hinted(
                        "The promotion was under way: start this server, see what it has become, and run this again.",
                    );
                    return finish::opened(scene, journal, failure, begun);
                }
                // What a run that was killed has begun on the primary is still at work, so that it is neither this nor
                // that; once it has ended, there is something to decide about.
                Err(_) if switchover::is_flushing(&journal) => match switchover::flush_on(scene, &mut journal) {
                    Ok(()) => continue,
                    Err(failure) => return Err(taken_back(scene, journal, failure)),
                },
                Err(verdict) => return Err(taken_back(scene, journal, refused(&verdict))),
            },
        };
        let seen_at = Instant::now();
        match steps(scene, &mut journal, policy, &current, seen_at) {
            Ok(None) => {
                let done = finish::summary(&journal, scene);
                return finish::conclude(scene, journal, done, begun);
            }
            Ok(Some(why)) => log::info!("planning anew: {why}"),
            Err(failure) if is_past_return(&journal) => {
                let failure =
                    failure.hinted("There is no way back any more: mend the cause and run trigger-failover again.");
                return finish::opened(scene, journal, failure, begun);
            }
            Err(failure) => return Err(taken_back(scene, journal, failure)),
        }
    }
    let failure = Failure::new(Class::Timeout, "the facts went on changing while the plan was carried out");
    if is_past_return(&journal) {
        return finish::opened(scene, journal, failure.hinted("Run trigger-failover again."), begun);
    }
    Err(taken_back(scene, journal, failure))
}

fn plan_again(scene: &Scene<'_>, journal: &mut Journal, policy: &Policy) -> Result<Result<Plan, Verdict>, Failure> {
    let policy = policy_now(journal, policy);
    let seen = scene.observer.look(&journal.fenced());
    let verdict = decide(&seen, &policy);
    scene.watcher.decided(&verdict);
    journal.note(Entry::Decided { seen: Box::new(seen), verdict: verdict.clone() })?;
    let plan = verdict.plan.clone().map(|plan| Plan { steps: finish::as_begun(journal, plan.steps), ..plan });
    Ok(plan.ok_or(verdict))
}

/// What is allowed once an operation is under way: its own claim is no obstacle, and a switchover whose primary has
/// been flushed is a failover from then on.
fn policy_now(journal: &Journal, policy: &Policy) -> Policy {
    let mut now = policy.clone();
    now.claim = Some(journal.id());
    if now.intent == Intent::Switchover && journal.has_done("flush") {
        now.intent = Intent::Failover;
        // Whoever was silent beside a primary that lived is not the primary.
        let decided = journal.decided().filter(|_| !journal.is_old());
        let silent = decided.map(|(seen, _)| seen.others.iter().map(|other| other.name.clone()));
        now.down.extend(silent.into_iter().flatten());
    }
    now
}

/// Carries out one plan. A reason where another is needed.
fn steps(
    scene: &Scene<'_>,
    journal: &mut Journal,
    policy: &Policy,
    plan: &Plan,
    seen_at: Instant,
) -> Result<Option<String>, Failure> {
    for step in &plan.steps {
        scene.watcher.begins(step);
        journal.note(Entry::Begins { step: step.clone() })?;
        let begun = Instant::now();
        let next = act(scene, journal, policy, plan, step, seen_at)?;
        let took = begun.elapsed();
        let (detail, again) = match next {
            Next::Go(detail) => (detail, None),
            Next::Again(why) => (why.clone(), Some(why)),
        };
        if again.is_none() || matches!(step, Step::Fence { .. }) {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            journal.note(Entry::Done { step: step.clone(), detail: detail.clone(), took_ms })?;
        }
        scene.watcher.done(step, &detail, took);
        if again.is_some() {
            return Ok(again);
        }
    }
    Ok(None)
}

/// Carries out one step.
fn act(
    scene: &Scene<'_>,
    journal: &mut Journal,
    policy: &Policy,
    plan: &Plan,
    step: &Step,
    seen_at: Instant,
) -> Result<Next, Failure> {
    match step {
        Step::Fence { node } => fence::fence(scene, journal, node),
        Step::Start => promote::start(scene),
        Step::Flush { node } => switchover::flush(scene, journal, node),
        Step::Hold => switchover::hold(scene, journal),
        Step::StopReceiver => receiver::stop(scene, journal),
        Step::Fetch { from, until } => fetch::fetch(scene, from, *until),
        Step::Replay => promote::replay(scene, journal),
        Step::FillHole => hole::fill(scene),
        Step::Claim { timeline, parent, fork } => {
            let fork = switchover::fork_of(journal, *fork);
            claim::claim(scene, journal, policy, *timeline, *parent, fork)
        }
        Step::DecideAgain => decide_again(scene, journal, policy, plan, seen_at),
        Step::Disarm { node } => promote::disarm(scene, node),
        Step::Promote => promote::promote(scene, journal, policy),
        Step::Recover { until } => recover::recover(scene, journal, until),
        Step::Configure => promote::configure(scene),
        Step::Open => promote::open(scene, plan.timeline),
        Step::Archive => promote::archive(scene, journal),
        Step::Confirm => claim::confirm(scene, journal),
        Step::Follow { node } => switchover::follow(scene, node),
        Step::Act => finish::action(scene, plan.timeline),
    }
}

/// Looks once more, just before there is no way back: whoever may have come alive, claimed or archived meanwhile
/// counts.
fn decide_again(
    scene: &Scene<'_>,
    journal: &mut Journal,
    policy: &Policy,
    plan: &Plan,
    seen_at: Instant,
) -> Result<Next, Failure> {
    let policy = policy_now(journal, policy);
    let before = journal.decided().map(|(seen, _)| seen.clone());
    let seen = match before {
        Some(before) => scene.observer.look_again(&before, seen_at.elapsed(), &journal.fenced()),
        None => scene.observer.look(&journal.fenced()),
    };
    let verdict = decide(&seen, &policy);
    scene.watcher.decided(&verdict);
    journal.note(Entry::Decided { seen: Box::new(seen), verdict: verdict.clone() })?;
    let Some(now) = &verdict.plan else { return Err(refused(&verdict)) };
    if now.steps.iter().any(|step| matches!(step, Step::Fence { .. } | Step::Fetch { .. } | Step::Start)) {
        return Ok(Next::Again("there is more to be done before".to_owned()));
    }
    let claimed = journal.claim().map(|claim| (claim.timeline, claim.fork));
    let still =
        claimed.is_some_and(|(timeline, fork)| timeline == now.timeline && fork.is_none_or(|fork| fork == now.fork));
    if !still && !plan.steps.iter().any(|step| matches!(step, Step::Recover { .. })) {
        return Ok(Next::Again(format!("timeline {} may begin at {} now", now.timeline, now.fork)));
    }
    Ok(Next::Go(format!("rule {}: {}", verdict.rule, verdict.why)))
}

/// The failure for a verdict without a plan.
pub fn refused(verdict: &Verdict) -> Failure {
    let failure = Failure::new(Class::Refused, format!("rule {} ({}): {}", verdict.rule, verdict.name, verdict.why));
    if verdict.hint.is_empty() { failure } else { failure.hinted(verdict.hint.clone()) }
}
