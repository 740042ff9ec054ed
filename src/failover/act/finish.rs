//! What comes behind the promotion, and the end of the story.

use std::time::Instant;

use serde_json::json;

use super::{Scene, promote, receiver, recover};
use crate::error::{Class, Failure};
use crate::failover::act::{Next, claim, switchover};
use crate::failover::journal::{Entry, Journal};
use crate::failover::observe::view;
use crate::failover::plan::Step;
use crate::failover::report::Report;
use crate::system::clock::Deadline;
use crate::system::notify::{Level, Notifier};
use crate::system::process::Call;
use crate::wal::TimelineId;

/// Does what comes behind the promotion, for a run that finds the server promoted already.
pub fn forward(scene: &Scene<'_>, journal: &mut Journal) -> Result<Report, Failure> {
    let steps = journal.decided().and_then(|(_, verdict)| verdict.plan.clone()).map(|plan| plan.steps);
    let steps = as_begun(journal, steps.unwrap_or_default());
    let behind = steps.iter().position(Step::is_irreversible).map_or(0, |at| at + 1);
    let timeline = journal.claim().map(|claim| claim.timeline);
    for step in &steps[behind..] {
        scene.watcher.begins(step);
        journal.note(Entry::Begins { step: step.clone() })?;
        let begun = Instant::now();
        let next = match step {
            Step::Configure => promote::configure(scene)?,
            Step::Open => promote::open(scene, timeline.unwrap_or(TimelineId(0)))?,
            Step::Archive => promote::archive(scene, journal)?,
            Step::Confirm => claim::confirm(scene, journal)?,
            Step::Follow { node } => switchover::follow(scene, node)?,
            _ => action(scene, timeline.unwrap_or(TimelineId(0)))?,
        };
        let (Next::Go(detail) | Next::Again(detail)) = next;
        let took = begun.elapsed();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        journal.note(Entry::Done { step: step.clone(), detail: detail.clone(), took_ms })?;
        scene.watcher.done(step, &detail, took);
    }
    Ok(summary(journal, scene))
}

/// A server that has opened meanwhile, told so by an earlier run, fits no plan any more; what is left comes behind it.
pub fn opened(scene: &Scene<'_>, mut journal: Journal, failure: Failure, begun: Instant) -> Result<Report, Failure> {
    if journal.has_done("open") || !super::takes_writes(scene) {
        return Err(failure);
    }
    log::info!("the server has opened meanwhile: {}", failure.message);
    let done = forward(scene, &mut journal)?;
    conclude(scene, journal, done, begun)
}

/// What began as a switchover ends as one, also where only a failover is left to be decided about: the primary that was
/// flushed comes back as a standby.
pub fn as_begun(journal: &Journal, mut steps: Vec<Step>) -> Vec<Step> {
    let Some(flushed) = switchover::flushed(journal) else { return steps };
    steps.retain(|step| !matches!(step, Step::Disarm { node } if *node == flushed));
    if !steps.iter().any(|step| matches!(step, Step::Follow { .. })) {
        let at = steps.iter().position(|step| *step == Step::Act).unwrap_or(steps.len());
        steps.insert(at, Step::Follow { node: flushed });
    }
    steps
}

/// What the journal tells, and what to do next.
pub fn summary(journal: &Journal, scene: &Scene<'_>) -> Report {
    let mut report = Report::of(journal, &scene.config.local.node);
    report.outage_ms = switchover::outage(journal);
    if let Ok(own) = view::look(scene.config, scene.config.own()) {
        report.timeline = report.timeline.or(Some(own.history.timeline));
    }
    let out: Vec<String> = crate::archive::shipping::disarmed(&scene.spool).unwrap_or_default().into_iter().collect();
    let advice = &mut report.advice;
    for node in &out {
        advice.push(format!(
            "Nothing is shipped to {node} any more; once it is a standby of this node, run 'archive-wal --arm {node}' here."
        ));
    }
    if !journal.has_done("follow") {
        advice.push("Do not start the old primary as it is; make it a standby of this node first.".to_owned());
        advice.push("Let the other standbys follow this node.".to_owned());
    }
    advice.push("Run ANALYZE where clients depend on fresh statistics: those of the activity are gone.".to_owned());
    if report.loss.bytes > 0 {
        advice.push("Keep the files of whoever holds the lost WAL until it is decided what becomes of it.".to_owned());
    }
    report
}

/// Ends the operation: nothing of it stays in the settings, everybody is told, the journal is put away.
pub fn conclude(scene: &Scene<'_>, journal: Journal, mut report: Report, begun: Instant) -> Result<Report, Failure> {
    receiver::forget(scene, &journal)?;
    recover::forget(scene)?;
    let config = scene.config;
    report.run_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let notifier = Notifier::new(&config.notify, &config.local.spool, &config.local.node, "trigger-failover");
    let (level, words) = match report.loss.bytes {
        0 => (Level::Warning, format!("{} is the primary now", config.local.node)),
        bytes => {
            (Level::Critical, format!("{} is the primary now, and {bytes} bytes of WAL are lost", config.local.node))
        }
    };
    notifier.report("role", level, &words, json!({ "timeline": report.timeline, "loss": report.loss }));
    journal.end("done")?;
    Ok(report)
}

/// Runs the operator's action, which must succeed.
pub fn action(scene: &Scene<'_>, timeline: TimelineId) -> Result<Next, Failure> {
    let failover = &scene.config.failover;
    let Some((program, words)) = failover.action.split_first() else {
        return Ok(Next::Go("none is configured".to_owned()));
    };
    let call = Call::new(program).args(words);
    let call = call.env("PGWARM_NODE", &scene.config.local.node).env("PGWARM_TIMELINE", timeline.to_string());
    let outcome = call.run(Deadline::after(failover.action_deadline))?;
    if outcome.status.is_success() {
        return Ok(Next::Go(format!("'{program}' succeeded")));
    }
    let text = format!(
        "this node is the primary now, but failover.action failed: {}, {}",
        outcome.status,
        outcome.complaint()
    );
    Err(Failure::new(Class::Refused, text).hinted("Mend it and run trigger-failover again: only this step is left."))
}
