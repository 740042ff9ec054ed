//! What is wrong with how WAL comes to a node and how it is replayed there. Pure.

use super::Limits;
use crate::cluster::check::{Finding, Level, Measure};
use crate::monitor::view::{Mark, NodeView, Role, SlotView, View};

/// Judges one node.
pub fn judge(view: &View, node: &NodeView, limits: &Limits<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(system(view, node));
    if node.role == Role::Standby {
        findings.push(source(view, node));
        findings.extend(timeline(view, node));
        findings.extend(paused(node));
    }
    findings.extend(lag(view, node, limits));
    findings.extend(node.slots.iter().map(|slot| judge_slot(node, slot, limits)));
    findings
}

/// A server of another cluster must not be taken for one of this.
fn system(view: &View, node: &NodeView) -> Option<Finding> {
    // That of a witness must be another's.
    if node.role == Role::Witness {
        return None;
    }
    let own = node.system_identifier.as_ref()?;
    let primary = view.primary.as_ref().and_then(|name| view.node(name))?.system_identifier.as_ref()?;
    if own == primary {
        return None;
    }
    let message = format!("is a server of another cluster: system identifier {own} instead of {primary}");
    let fix = format!("Correct conninfo of [node.{}].", node.name);
    Some(Finding::new(Level::Critical, "system", node.name.clone(), message).fix(fix))
}

/// A standby streams, or lives from its archive.
fn source(view: &View, node: &NodeView) -> Finding {
    let name = node.name.clone();
    if node.replication == Some("streaming") {
        let upstream = node.upstream.as_deref().unwrap_or("a server that is not in the configuration");
        let sync = node.sync_state.as_deref().filter(|state| *state != "async");
        let sync = sync.map(|state| format!(", {state}")).unwrap_or_default();
        return Finding::ok("replication", name, format!("streams from {upstream}{sync}"));
    }
    // Only what streamed before has lost something; who never did is a standby of archived WAL.
    let streamed = view.nodes.iter().any(|other| {
        let slot = |slot: &SlotView| slot.name == node.name && slot.kind == "physical";
        other.slots.iter().any(slot)
    });
    match node.registered_upstream.is_some() || streamed {
        true => {
            Finding::new(Level::Warning, "replication", name, "does not stream; it replays what its archive brings")
                .fix("Look into its log for why: the sender, pg_hba.conf, or WAL that is gone there.")
        }
        false => Finding::ok("replication", name, "replays what its archive brings"),
    }
}

/// A standby that does not get past a fork follows an old timeline for ever.
fn timeline(view: &View, node: &NodeView) -> Option<Finding> {
    let (own, reference) = (node.timeline?, view.reference.as_ref().filter(|reference| reference.live)?);
    let behind = own < reference.timeline;
    let message = format!("on timeline {}, the primary on {}", own.0, reference.timeline.0);
    let level = if behind { Level::Warning } else { Level::Ok };
    let fix = format!("Let {} follow {} with 'standby-init'.", node.name, reference.node);
    Some(Finding::new(level, "timeline", node.name.clone(), message).fix(fix))
}

fn paused(node: &NodeView) -> Option<Finding> {
    let level = if node.replay_paused { Level::Warning } else { return None };
    let finding = Finding::new(level, "replay", node.name.clone(), "replay is paused");
    Some(finding.fix("Run 'SELECT pg_wal_replay_resume()' there once it need not be."))
}

/// How far a node is behind, on the path by which WAL gets there.
fn lag(view: &View, node: &NodeView, limits: &Limits<'_>) -> Option<Finding> {
    if Some(&node.name) == view.primary.as_ref() {
        return None;
    }
    // A standby that is told to wait is judged by what it has, not by what it shows.
    let replayed = node.lag.replayed.filter(|_| node.apply_delay_seconds.is_none());
    let paths = [("replayed", replayed), ("flushed", node.lag.flushed), ("relayed", node.lag.relayed)];
    let (path, mark) = paths.into_iter().find_map(|(path, mark)| Some((path, mark?)))?;
    let Mark { bytes: Some(bytes), seconds, .. } = mark else { return None };
    let check = limits.check;
    let (warning, critical) = (check.lag_warning as f64, check.lag_critical as f64);
    let level = Level::of(bytes as f64, warning, critical);
    let since = seconds.map(|seconds| format!(", {seconds:.1} s")).unwrap_or_default();
    let message = format!("{path} is {bytes} bytes behind{since}");
    let fix = format!("Look at what keeps {} from following: its disk, its network, long queries there.", node.name);
    let value = Measure::limited(bytes as f64, "B", warning, critical);
    Some(Finding::new(level, "lag", node.name.clone(), message).fix(fix).value(value))
}

fn judge_slot(node: &NodeView, slot: &SlotView, limits: &Limits<'_>) -> Finding {
    let subject = format!("{}/{}", node.name, slot.name);
    let held = slot.retained_bytes.unwrap_or(0);
    let (warning, critical) = (limits.check.slot_warning as f64, limits.check.slot_critical as f64);
    let level = match slot.wal_status.as_deref() {
        Some("lost") => Level::Critical,
        Some("unreserved") => Level::worst([Level::Warning, Level::of(held as f64, warning, critical)]),
        _ => Level::of(held as f64, warning, critical),
    };
    let used = if slot.active { "in use" } else { "not in use" };
    let status = slot.wal_status.as_deref().unwrap_or("no WAL yet");
    let message = format!("holds back {held} bytes, {used}, {status}");
    let fix = match slot.wal_status.as_deref() {
        Some("lost") => {
            "WAL that it needs is gone: drop it, and let its standby go on from the archive or make it anew."
        }
        _ if slot.active => "Its standby is far behind: see 'cluster-monitor lag'.",
        _ => "Nobody uses it: bring its standby back, or drop the slot before the disk is full.",
    };
    let value = Measure::limited(held as f64, "B", warning, critical);
    Finding::new(level, "slot", subject, message).fix(fix).value(value)
}
