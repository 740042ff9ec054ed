//! What is wrong in a picture of the cluster: a pure judgement, one finding for each thing that was looked at.
//!
//! The same findings make the verdict of `status`, the line of `node check` and, where they change, the events of the
//! daemon; there is no second opinion. What could not be found out is `unknown`, which is neither well nor an event.

use std::time::Duration;

use serde::Serialize;

use super::view::{NodeView, Role, View};
use crate::cluster::check::{Finding, Level, Measure};
use crate::config::Check;

mod archive;
mod replication;
mod witness;

/// What the judgement depends on besides the picture.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// The thresholds.
    pub check: &'a Check,
    /// A silent node is lost after so long; zero: at once.
    pub lost_after: Duration,
    /// A node writes its report so often; zero: never.
    pub reports_every: Duration,
}

/// The picture with its judgement: `/status.json`, and `cluster-monitor status --json`.
#[derive(Debug, Serialize)]
pub struct Picture<'a> {
    /// The picture.
    #[serde(flatten)]
    pub view: &'a View,
    /// The worst level of all findings.
    pub level: Level,
    /// Every finding, also the good ones.
    pub findings: &'a [Finding],
}

/// Judges everything.
pub fn judge(view: &View, limits: &Limits<'_>) -> Vec<Finding> {
    let mut findings = vec![primary(view)];
    findings.extend(synchronous(view));
    findings.extend(view.pause.as_ref().map(|pause| {
        let until = pause.until.as_ref().map_or(String::new(), |until| format!(", until {until}"));
        let message = format!("paused on {} since {}{until}: {}", pause.node, pause.since, pause.reason);
        let message = message.trim_end_matches([' ', ':']).to_owned();
        Finding::new(Level::Warning, "pause", view.cluster.clone(), message).fix("Run 'cluster-monitor resume'.")
    }));
    for node in &view.nodes {
        findings.push(answers(view, node, limits));
        findings.extend(registration(view, node));
        findings.extend(witness::judge(view, node, limits));
        findings.extend(replication::judge(view, node, limits));
        findings.extend(archive::judge(view, node, limits));
    }
    findings.extend(view.strangers.iter().map(|name| {
        Finding::new(Level::Warning, "registration", name.clone(), "is registered, and is not in the configuration")
            .fix(format!("Add [node.{name}] to the shared file, or run 'cluster-monitor unregister --node {name}'."))
    }));
    findings
}

/// There is one primary, not none and not two.
fn primary(view: &View) -> Finding {
    let subject = view.cluster.clone();
    match (&view.primary, view.rivals.is_empty()) {
        (Some(primary), true) => Finding::ok("primary", subject, primary.clone()),
        (Some(primary), false) => {
            let message = format!("{primary} is the primary, and {} take writes too", view.rivals.join(", "));
            Finding::new(Level::Critical, "primary", subject, message).fix(format!(
                "Stop {} now: what is written there is not on {primary}. Then rejoin it as a standby.",
                view.rivals.join(", ")
            ))
        }
        (None, _) => {
            let message = match &view.reference {
                Some(reference) => format!("no node answers as the primary; {} is the furthest", reference.node),
                None => "no node answers as the primary".to_owned(),
            };
            Finding::new(Level::Critical, "primary", subject, message)
                .fix("Bring the primary back, or promote a standby with 'trigger-failover'.")
        }
    }
}

/// Every node that has a server answers.
fn answers(view: &View, node: &NodeView, limits: &Limits<'_>) -> Finding {
    let name = node.name.clone();
    let check = if node.role == Role::Witness { "witness" } else { "node" };
    let Some(trouble) = &node.trouble else {
        let message = match node.state {
            "running" if node.role == Role::Witness => "its own server answers".to_owned(),
            "running" => format!("{} on timeline {}", node.role.word(), node.timeline.map_or(0, |timeline| timeline.0)),
            state => state.to_owned(),
        };
        return Finding::ok(check, name, message);
    };
    let away = Duration::from_secs_f64(node.unseen_seconds);
    let certain = node.state == "refused" || away >= limits.lost_after;
    let level = match node.state {
        "starting" | "full" | "denied" => Level::Warning,
        _ if !certain => return Finding::unknown(check, name, trouble),
        _ if node.role == Role::Witness => Level::Warning,
        _ if node.registered.as_deref() == Some("primary") || view.primary.is_none() => Level::Critical,
        _ => Level::Warning,
    };
    let fix = match node.state {
        "refused" => format!("Start the server on {}.", node.name),
        "denied" => "Let the monitor's user in: pg_hba.conf, ~/.pgpass and the role 'pgwarm_monitor'.".to_owned(),
        "full" => "Raise max_connections, or end sessions that nobody needs.".to_owned(),
        "starting" => "Wait; look into the server's log where it takes long.".to_owned(),
        _ => format!("Look at {} and at the network to it.", node.name),
    };
    Finding::new(level, check, name, format!("{}: {trouble}", node.state)).fix(fix)
}

/// A node is registered as what it is.
fn registration(view: &View, node: &NodeView) -> Option<Finding> {
    // Without a registry there is nothing to say, and its lack is said once, by the schema's absence in the picture.
    view.schema?;
    let subject = node.name.clone();
    let Some(registered) = &node.registered else {
        let fix = format!("Run 'cluster-monitor register' on {}, or start its daemon.", node.name);
        return Some(Finding::new(Level::Warning, "registration", subject, "is not registered").fix(fix));
    };
    let observed = match node.role {
        Role::Unknown => return None,
        // A dr node with a server that follows stays a dr node.
        Role::Standby if registered == "dr" => "dr",
        role => role.word(),
    };
    if observed == registered {
        return Some(Finding::ok("registration", subject, registered.clone()));
    }
    let message = format!("is registered as {registered}, and is a {observed}");
    let fix = format!("Run 'cluster-monitor register --force --node {}' once this is as it should be.", node.name);
    Some(Finding::new(Level::Warning, "registration", subject, message).fix(fix))
}

/// Enough synchronous standbys are there for commits to end.
fn synchronous(view: &View) -> Option<Finding> {
    let names = view.synchronous_standby_names.as_deref().filter(|names| !names.trim().is_empty())?;
    let wanted = wanted_synchronous(names);
    let states = view.nodes.iter().filter(|node| node.upstream == view.primary);
    let there = states.filter(|node| matches!(node.sync_state.as_deref(), Some("sync" | "quorum"))).count();
    let message = format!("{there} of {wanted} synchronous standbys that '{names}' asks for");
    let level = if there < wanted { Level::Critical } else { Level::Ok };
    let value = Measure::plain(there as f64, "");
    let fix = "Commits wait: bring a standby back that it names, or change synchronous_standby_names.";
    Some(Finding::new(level, "synchronous", view.cluster.clone(), message).fix(fix).value(value))
}

/// How many standbys `synchronous_standby_names` waits for: `FIRST 2 (a, b)`, `ANY 1 (*)`, `2 (a, b)`, or a plain list.
fn wanted_synchronous(names: &str) -> usize {
    let Some((before, _)) = names.split_once('(') else { return 1 };
    before.split_whitespace().next_back().and_then(|number| number.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
pub mod tests;
