//! What is wrong with the archiver, the archive, the queues and the drills of a node. Pure.

use std::time::Duration;

use super::Limits;
use crate::cluster::check::{Finding, Level, Measure};
use crate::monitor::report::{Drill, Report};
use crate::monitor::view::{ArchiverView, NodeView, View};

/// Judges one node.
pub fn judge(view: &View, node: &NodeView, limits: &Limits<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(node.archiver.as_ref().map(|archiver| judge_archiver(node, archiver, limits)));
    let Some(report) = &node.report else { return findings };
    if let Some(age) = node.report_age_seconds {
        // A node that stopped speaking makes what it said last a thing of the past, not a thing that is well.
        let late = limits.reports_every.mul_f64(3.0) + Duration::from_secs(10);
        if !limits.reports_every.is_zero() && Duration::from_secs_f64(age.max(0.0)) > late {
            let message = format!("its daemon last spoke {age:.0} s ago");
            let fix = format!("Start 'cluster-monitor run' on {}.", node.name);
            findings.push(Finding::new(Level::Warning, "daemon", node.name.clone(), message).fix(fix));
            return findings;
        }
    }
    findings.extend(archive(node, report));
    findings.extend(queues(node, report, limits));
    findings.extend(drill(view, node, report, limits));
    findings
}

/// The archiver works: its last call succeeded, and nothing waits for long. Only the wait shows a death by a signal.
fn judge_archiver(node: &NodeView, archiver: &ArchiverView, limits: &Limits<'_>) -> Finding {
    let check = limits.check;
    let (warning, critical) = (check.queue_age_warning.as_secs_f64(), check.queue_age_critical.as_secs_f64());
    let waits = archiver.ready_age_seconds.map_or(Level::Ok, |age| Level::of(age, warning, critical));
    let level = Level::worst([waits, if archiver.failing { Level::Warning } else { Level::Ok }]);
    let waiting = match (archiver.ready, archiver.ready_age_seconds) {
        (Some(files), Some(age)) => format!("{files} files wait, the oldest for {age:.0} s"),
        (Some(_), None) => "nothing waits".to_owned(),
        (None, _) => "what waits is unknown".to_owned(),
    };
    let failing = match (&archiver.last_failed, archiver.failing) {
        (Some(name), true) => format!("the last call failed ('{name}', {} failures in all), ", archiver.failed),
        _ => String::new(),
    };
    let message = format!("{failing}{waiting}");
    let fix = format!("Run 'archive-wal --status' on {}, and look into its server's log.", node.name);
    let finding = Finding::new(level, "archiver", node.name.clone(), message).fix(fix);
    match archiver.ready {
        Some(_) => {
            let age = archiver.ready_age_seconds.unwrap_or(0.0);
            finding.value(Measure::limited(age, "s", warning, critical))
        }
        None => finding,
    }
}

fn archive(node: &NodeView, report: &Report) -> Vec<Finding> {
    let subject = node.name.clone();
    let state = match report.archive.as_ref() {
        None => return Vec::new(),
        Some(Err(why)) => return vec![Finding::unknown("archive", subject, why)],
        Some(Ok(state)) => state,
    };
    let fix = format!("Run 'check-archive' on {}: it says where the missing segments still are.", node.name);
    let gap = match state.missing {
        0 => Finding::ok("gap", subject, "no segment is missing"),
        missing => {
            let are = if missing == 1 { "segment is" } else { "segments are" };
            let message = format!("{missing} {are} missing in its archive");
            Finding::new(Level::Critical, "gap", subject, message).fix(fix)
        }
    };
    vec![gap.value(Measure::plain(state.missing as f64, ""))]
}

fn queues(node: &NodeView, report: &Report, limits: &Limits<'_>) -> Vec<Finding> {
    let check = limits.check;
    let (warning, critical) = (check.queue_age_warning.as_secs_f64(), check.queue_age_critical.as_secs_f64());
    let judge = |(place, queue): (&String, &crate::monitor::report::QueueState)| {
        let age = queue.oldest_age.unwrap_or(0.0);
        let message = match queue.files {
            0 => "empty".to_owned(),
            files => format!("{files} files ({} bytes), the oldest for {age:.0} s", queue.bytes),
        };
        let fix = format!("Bring {place} back; the queue on {} then drains by itself.", node.name);
        let subject = format!("{} for {place}", node.name);
        Finding::new(Level::of(age, warning, critical), "queue", subject, message)
            .fix(fix)
            .value(Measure::limited(age, "s", warning, critical))
    };
    report.queues.iter().map(judge).collect()
}

/// A restore was proven, and not too long ago.
fn drill(view: &View, node: &NodeView, report: &Report, limits: &Limits<'_>) -> Option<Finding> {
    let subject = node.name.clone();
    let most = limits.check.drill_age_warning;
    let holds = matches!(&report.archive, Some(Ok(state)) if !state.backups.is_empty());
    let fix = "Run a restore drill with 'pitr-restore': only a restore that was made proves a backup.";
    match &report.drill {
        Some(Drill { successful: false, detail, .. }) => {
            Some(Finding::new(Level::Critical, "drill", subject, format!("the last drill failed: {detail}")).fix(fix))
        }
        Some(Drill { at, .. }) => {
            let age = (view.epoch - at).max(0.0);
            let late = !most.is_zero() && age > most.as_secs_f64();
            let level = if late { Level::Warning } else { Level::Ok };
            let message = format!("a restore was proven {age:.0} s ago");
            Some(Finding::new(level, "drill", subject, message).fix(fix).value(Measure::plain(age, "s")))
        }
        None if holds && !most.is_zero() => {
            Some(Finding::new(Level::Warning, "drill", subject, "no restore was ever proven").fix(fix))
        }
        None => None,
    }
}
