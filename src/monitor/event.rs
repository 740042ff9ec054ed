//! What has changed: events, with the names that repmgr's users know where the thing is the same. Pure.
//!
//! A state is a word about a subject: the level of a finding, or the role of a node. An event is a state that became
//! another one. What is unknown changes nothing: a state holds until something is known again. What the daemon has told
//! of is kept per subject in the database, so that of several daemons that see a change one tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::view::{Role, View};
use crate::cluster::check::{Finding, Level};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its name, as in `event_notifications`.
    pub event: String,
    /// The node it is about.
    pub node: String,
    /// The number of that node, if it is known.
    pub node_id: Option<i32>,
    /// False where it is bad.
    pub successful: bool,
    /// `ok`, `warning` or `critical`.
    pub level: String,
    /// One line for people.
    pub details: String,
    /// When, with offset (RFC 3339).
    pub time: String,
    /// The node that saw it.
    pub observer: String,
    /// What it is about: a change of the same subject to the same state is one event, whoever sees it.
    pub subject: String,
    /// The state that the subject now has.
    pub state: String,
}

/// States by subject.
pub type States = BTreeMap<String, String>;

/// The events of the findings: the check, the name where it gets bad, the name where it is well again.
const NAMES: &[(&str, &str, &str)] = &[
    ("node", "standby_failure", "standby_recovery"),
    ("primary", "primary_lost", "primary_back"),
    ("witness", "witness_failure", "witness_recovery"),
    ("copy", "witness_copy_stale", "witness_copy_current"),
    ("replication", "child_node_disconnect", "child_node_reconnect"),
    ("synchronous", "synchronous_degraded", "synchronous_restored"),
    ("system", "foreign_node", "foreign_node_gone"),
    ("replay", "replay_paused", "replay_resumed"),
    ("lag", "lag_high", "lag_normal"),
    ("slot", "slot_retention", "slot_retention_ended"),
    ("archiver", "archiver_failure", "archiver_recovery"),
    ("gap", "archive_gap", "archive_gap_closed"),
    ("queue", "queue_growth", "queue_drained"),
    ("drill", "drill_missing", "drill_done"),
];

/// Events that are no change of a finding, in the order of a node's life.
pub const OTHER_NAMES: &[&str] = &[
    "cluster_created",
    "primary_register",
    "primary_unregister",
    "standby_register",
    "standby_unregister",
    "dr_register",
    "dr_unregister",
    "witness_register",
    "witness_unregister",
    "repmgrd_start",
    "repmgrd_reload",
    "repmgrd_shutdown",
    "standby_promote",
    "standby_switchover",
    "standby_follow",
    "node_rejoin",
    "role_change",
    "rogue_promotion",
    "rogue_promotion_ended",
    "monitor_pause",
    "monitor_resume",
    "cluster_cleanup",
];

/// Every name of an event that the monitor itself gives.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().flat_map(|(_, bad, good)| [*bad, *good]).chain(OTHER_NAMES.iter().copied())
}

/// The states that a picture and its findings show. What was bad before, and has no finding because it is seen to be
/// over, is well again: a slot that was dropped, a replay that goes on.
pub fn states(known: &States, view: &View, findings: &[Finding]) -> States {
    let over = |subject: &str| subject.split_once(':').is_some_and(|(check, about)| is_over(view, check, about));
    let bad = known.iter().filter(|(subject, state)| *state != "ok" && over(subject));
    let mut states: States = bad.map(|(subject, _)| (subject.clone(), "ok".to_owned())).collect();
    for finding in findings.iter().filter(|finding| finding.level != Level::Unknown) {
        if NAMES.iter().any(|(check, ..)| *check == finding.check) && !shadowed(view, finding) {
            states.insert(format!("{}:{}", finding.check, finding.subject), finding.level.to_string());
        }
    }
    for node in view.nodes.iter().filter(|node| matches!(node.role, Role::Primary | Role::Standby)) {
        states.insert(format!("role:{}", node.name), node.role.word().to_owned());
        let rogue = if view.rivals.contains(&node.name) { "critical" } else { "ok" };
        states.insert(format!("rogue:{}", node.name), rogue.to_owned());
    }
    states
}

/// True where a trouble is seen to be over. What is not seen is over for nobody.
fn is_over(view: &View, check: &str, about: &str) -> bool {
    let (name, rest) = about.split_once(['/', ' ']).unwrap_or((about, ""));
    let Some(node) = view.node(name) else {
        return check == "synchronous" && view.synchronous_standby_names.as_deref() == Some("");
    };
    let runs = node.state == "running";
    match check {
        "replay" => runs && !node.replay_paused,
        "lag" | "replication" => runs && node.role == Role::Primary,
        "slot" => runs && node.slots.iter().all(|slot| slot.name != rest),
        "system" => {
            let primary = view.primary.as_ref().and_then(|name| view.node(name));
            runs && primary.is_some_and(|primary| primary.system_identifier == node.system_identifier)
        }
        "queue" => {
            let place = rest.trim_start_matches("for ");
            node.report.as_ref().is_some_and(|report| !report.queues.contains_key(place))
        }
        _ => false,
    }
}

/// True for what another subject tells: the loss of the primary is one event and not two, and a rival has its own.
fn shadowed(view: &View, finding: &Finding) -> bool {
    let primary_gone = view.primary.is_none() && finding.check == "node" && finding.level != Level::Ok;
    let registered = view.node(&finding.subject).and_then(|node| node.registered.as_deref());
    (primary_gone && registered == Some("primary")) || (finding.check == "primary" && !view.rivals.is_empty())
}

/// What changed between what was known and what is seen now. A subject that nothing was known of is an event only where
/// it is bad from the start.
pub fn changes(known: &States, now: &States, view: &View, findings: &[Finding]) -> Vec<Event> {
    let changed = now.iter().filter_map(|(subject, state)| {
        let before = known.get(subject).map(String::as_str);
        let (check, about) = subject.split_once(':')?;
        let quiet = match before {
            Some(before) => before == state,
            None => state == "ok" || check == "role",
        };
        (!quiet).then(|| describe(view, findings, (check, about), before, state))
    });
    changed.collect()
}

fn describe(
    view: &View,
    findings: &[Finding],
    (check, about): (&str, &str),
    before: Option<&str>,
    state: &str,
) -> Event {
    let good = state == "ok" || check == "role";
    let finding = findings.iter().find(|finding| finding.check == check && finding.subject == about);
    // Subjects such as 'db1/slot' and 'db1 for dr1' begin with the node that they are about.
    let node = about.split(['/', ' ']).next().unwrap_or(about);
    let timeline = view.node(node).and_then(|node| node.timeline).map_or(0, |timeline| timeline.0);
    let details = match check {
        "role" => format!(
            "{} became {state} on timeline {timeline}",
            before.map_or(node.to_owned(), |was| format!("{node}, a {was},"))
        ),
        "rogue" if good => format!("{node} no longer takes writes beside the primary"),
        "rogue" => {
            let primary = view.primary.as_deref().unwrap_or("no node");
            format!("{node} was promoted to timeline {timeline} while {primary} is the primary: two nodes take writes")
        }
        _ => finding.map_or_else(|| "it is over".to_owned(), |finding| finding.message.clone()),
    };
    // The loss of the primary is about the node that was it.
    let registered = view.nodes.iter().find(|one| one.registered.as_deref() == Some("primary"));
    let node = match (check, good, &view.primary) {
        ("primary", true, Some(primary)) => primary,
        ("primary", _, _) => registered.map_or(node, |registered| &registered.name),
        _ => node,
    };
    Event {
        event: name(check, good).to_owned(),
        node: node.to_owned(),
        node_id: view.node(node).and_then(|node| node.id),
        successful: good,
        level: if check == "role" { "warning".to_owned() } else { state.to_owned() },
        details,
        time: view.time.clone(),
        observer: view.observer.clone(),
        subject: format!("{check}:{about}"),
        state: state.to_owned(),
    }
}

fn name(check: &str, good: bool) -> &'static str {
    match (check, good) {
        ("role", _) => "role_change",
        ("rogue", false) => "rogue_promotion",
        ("rogue", true) => "rogue_promotion_ended",
        _ => {
            let row = NAMES.iter().find(|(known, ..)| *known == check);
            row.map_or("state_change", |(_, bad, well)| if good { well } else { bad })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::judge::tests::{judged, limits};
    use crate::monitor::observation::{How, Sight, tests::standby};
    use crate::monitor::view::tests::Scene;

    fn of(scene: &Scene) -> (States, View, Vec<Finding>) {
        let view = scene.view();
        let findings = judged(&view, &limits());
        (states(&States::new(), &view, &findings), view, findings)
    }

    fn between(before: &Scene, after: &Scene) -> Vec<(String, String)> {
        let (known, ..) = of(before);
        let (_, view, findings) = of(after);
        let now = states(&known, &view, &findings);
        changes(&known, &now, &view, &findings).into_iter().map(|event| (event.event, event.node)).collect()
    }

    #[test]
    fn what_is_seen_to_be_over_is_told_to_be() {
        let mut paused = Scene::healthy();
        paused.seen("db2").pause = Some("paused".to_owned());
        assert_eq!(between(&Scene::healthy(), &paused), [pair("replay_paused", "db2")]);
        assert_eq!(between(&paused, &Scene::healthy()), [pair("replay_resumed", "db2")]);
        // One that does not answer has not gone on.
        let gone = between(&paused, &Scene::healthy().gone("db2", How::Refused));
        assert!(!gone.iter().any(|(event, _)| event == "replay_resumed"), "{gone:?}");
        let (_, view, findings) = of(&Scene::healthy());
        let known: States = ["slot:db1/dropped", "slot:db9/unknown", "queue:db1 for dr1", "lag:db2"]
            .map(|subject| (subject.to_owned(), "critical".to_owned()))
            .into();
        let now = states(&known, &view, &findings);
        let over = |subject: &str| now.get(subject).map(String::as_str) == Some("ok");
        assert!(over("slot:db1/dropped") && over("lag:db2"), "{now:?}");
        assert!(!over("slot:db9/unknown") && !over("queue:db1 for dr1"), "{now:?}");
    }

    fn pair(event: &str, node: &str) -> (String, String) {
        (event.to_owned(), node.to_owned())
    }

    #[test]
    fn a_quiet_cluster_has_no_events_and_a_first_look_tells_only_what_is_bad() {
        let scene = Scene::healthy();
        assert_eq!(between(&scene, &scene), []);
        let (now, view, findings) = of(&scene);
        assert_eq!(changes(&States::new(), &now, &view, &findings), []);
        let broken = Scene::healthy().gone("db2", How::Refused);
        let (now, view, findings) = of(&broken);
        let events = changes(&States::new(), &now, &view, &findings);
        assert_eq!(events.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(), ["standby_failure"]);
        assert!(!events[0].successful && events[0].node_id == Some(2) && events[0].level == "warning");
    }

    #[test]
    fn the_loss_of_the_primary_is_one_event_and_its_return_another() {
        let (well, lost) = (Scene::healthy(), Scene::healthy().gone("db1", How::Refused));
        assert_eq!(between(&well, &lost), [pair("primary_lost", "db1")]);
        assert_eq!(between(&lost, &well), [pair("primary_back", "db1")]);
    }

    #[test]
    fn a_promotion_behind_our_back_is_told_as_what_it_is() {
        let well = Scene::healthy();
        let rogue = Scene::healthy().promoted("db2", 2);
        let events = between(&well, &rogue);
        assert!(events.contains(&pair("rogue_promotion", "db2")) && events.contains(&pair("role_change", "db2")));
        assert!(!events.iter().any(|(event, _)| event.starts_with("primary_")), "{events:?}");
    }

    #[test]
    fn what_is_unknown_changes_nothing() {
        let well = Scene::healthy();
        let silent = Scene::healthy().gone("db2", How::Silent);
        // Not yet away for long enough to be lost.
        assert_eq!(between(&well, &silent), []);
        let mut back = Scene::healthy();
        back.set("db2", Sight::Seen(Box::new(standby("0/5000000", "0/5000000", ("db1", 5432)))));
        assert_eq!(between(&silent, &back), []);
    }

    #[test]
    fn names_are_unique_and_plain() {
        let all: Vec<_> = names().collect();
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert!(all.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }
}
