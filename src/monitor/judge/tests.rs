//! Judgements about clusters that were made up.

use super::*;
use crate::monitor::observation::{How, Ready, Slot};
use crate::monitor::report::{Drill, QueueState};
use crate::monitor::view::tests::{Scene, report};

const MIB: u64 = 1 << 20;

/// Thresholds that are easy to reach.
pub fn limits() -> Check {
    Check {
        queue_age_warning: Duration::from_secs(300),
        queue_age_critical: Duration::from_secs(3600),
        archive_age_warning: Duration::from_secs(3600),
        archive_age_critical: Duration::from_secs(86_400),
        free_warning: 20,
        free_critical: 10,
        lag_warning: 64 * MIB,
        lag_critical: 128 * MIB,
        slot_warning: 64 * MIB,
        slot_critical: 128 * MIB,
        drill_age_warning: Duration::ZERO,
    }
}

/// Judges with these thresholds; a silent node is lost after three seconds.
pub fn judged(view: &View, check: &Check) -> Vec<Finding> {
    judge(view, &Limits { check, lost_after: Duration::from_secs(3), reports_every: Duration::from_secs(10) })
}

#[track_caller]
fn level(scene: &Scene, check: &str, subject: &str) -> Level {
    let findings = judged(&scene.view(), &limits());
    let found = findings.iter().find(|finding| finding.check == check && finding.subject == subject);
    found.unwrap_or_else(|| panic!("no finding '{check}' about '{subject}' in {findings:#?}")).level
}

#[test]
fn a_cluster_that_is_well_has_nothing_else_to_say() {
    let findings = judged(&Scene::healthy().view(), &limits());
    let bad: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(findings.len() > 12);
}

#[test]
fn who_does_not_answer_is_lost_at_once_after_a_while_or_not_at_all() {
    assert_eq!(level(&Scene::healthy().gone("db2", How::Refused), "node", "db2"), Level::Warning);
    assert_eq!(level(&Scene::healthy().gone("db1", How::Refused), "node", "db1"), Level::Critical);
    let mut silent = Scene::healthy().gone("db2", How::Silent);
    assert_eq!(level(&silent, "node", "db2"), Level::Unknown);
    silent.watched[1].look.unseen_for = Duration::from_secs(3);
    assert_eq!(level(&silent, "node", "db2"), Level::Warning);
    assert_eq!(level(&Scene::healthy().gone("db1", How::Full), "node", "db1"), Level::Warning);
    assert_eq!(level(&Scene::healthy().gone("db1", How::Refused), "primary", "main"), Level::Critical);
    assert_eq!(level(&Scene::healthy().promoted("db3", 2), "primary", "main"), Level::Critical);
}

#[test]
fn a_standby_that_streamed_and_does_not_is_a_warning_and_one_that_never_did_is_well() {
    let mut scene = Scene::healthy();
    scene.seen("db3").receiver = None;
    assert_eq!(level(&scene, "replication", "db3"), Level::Warning);
    for one in &mut scene.watched {
        if let Some(registry) = &mut one.registry {
            registry.nodes[2].upstream_id = None;
        }
    }
    assert_eq!(level(&scene, "replication", "db3"), Level::Ok);
    // Far behind all the same.
    scene.seen("db1").position = Some(crate::wal::Lsn(0x5000000 + 100 * MIB));
    assert_eq!(level(&scene, "lag", "db3"), Level::Warning);
    scene.seen("db3").delay = 60.0;
    let findings = judged(&scene.view(), &limits());
    assert!(!findings.iter().any(|finding| finding.check == "lag" && finding.subject == "db3"));
}

#[test]
fn slots_are_judged_by_what_they_hold_and_by_what_they_lost() {
    let slot = |restart: u64, status: &str| {
        let mut scene = Scene::healthy();
        scene.seen("db1").position = Some(crate::wal::Lsn(1000 * MIB));
        scene.seen("db1").slots = vec![Slot {
            name: "s".to_owned(),
            kind: "physical".to_owned(),
            active: false,
            temporary: false,
            restart: Some(crate::wal::Lsn(restart)),
            wal_status: Some(status.to_owned()),
            safe: None,
        }];
        level(&scene, "slot", "db1/s")
    };
    assert_eq!(slot(999 * MIB, "reserved"), Level::Ok);
    assert_eq!(slot(930 * MIB, "extended"), Level::Warning);
    assert_eq!(slot(800 * MIB, "extended"), Level::Critical);
    assert_eq!(slot(999 * MIB, "unreserved"), Level::Warning);
    assert_eq!(slot(999 * MIB, "lost"), Level::Critical);
}

#[test]
fn synchronous_standbys_are_counted_in_every_form_of_the_setting() {
    for (names, wanted) in
        [("a, b", 1), ("FIRST 2 (a, b, c)", 2), ("ANY 1 (a, b)", 1), ("2 (a, b)", 2), ("any 3(*)", 3), ("*", 1)]
    {
        assert_eq!(wanted_synchronous(names), wanted, "{names}");
    }
    let mut scene = Scene::healthy();
    scene.seen("db1").synchronous_standby_names = "ANY 1 (db2, db3)".to_owned();
    assert_eq!(level(&scene, "synchronous", "main"), Level::Ok);
    scene.seen("db1").synchronous_standby_names = "ANY 2 (db2, db3)".to_owned();
    assert_eq!(level(&scene, "synchronous", "main"), Level::Critical);
}

#[test]
fn an_archiver_is_judged_by_its_last_call_and_by_what_waits() {
    let mut scene = Scene::healthy();
    let one = scene.seen("db1");
    one.archive_mode = "on".to_owned();
    one.ready = Some(Ok(Ready { files: 0, oldest: None }));
    assert_eq!(level(&scene, "archiver", "db1"), Level::Ok);
    scene.seen("db1").archiver.last_failed_age = Some(1.0);
    assert_eq!(level(&scene, "archiver", "db1"), Level::Warning);
    scene.seen("db1").archiver.last_archived_age = Some(0.5);
    assert_eq!(level(&scene, "archiver", "db1"), Level::Ok);
    // An archiver that dies by a signal counts no failure; the wait tells.
    scene.seen("db1").ready = Some(Ok(Ready { files: 3, oldest: Some(("x".to_owned(), 4000.0)) }));
    assert_eq!(level(&scene, "archiver", "db1"), Level::Critical);
}

#[test]
fn what_a_node_reports_is_judged_while_it_is_fresh() {
    let mut scene = Scene::healthy();
    let mut given = report("0/4000000", None);
    if let Some(Ok(archive)) = given.archive.as_mut() {
        archive.missing = 2;
    }
    given.queues.insert("dr1".to_owned(), QueueState { files: 3, bytes: 9, oldest_age: Some(400.0) });
    given.drill = Some(Drill { at: 1.0, successful: false, detail: "no".to_owned() });
    scene.watched[2].own_report = Some(given.clone());
    assert_eq!(level(&scene, "gap", "db3"), Level::Critical);
    assert_eq!(level(&scene, "queue", "db3 for dr1"), Level::Warning);
    assert_eq!(level(&scene, "drill", "db3"), Level::Critical);
    scene.watched[2].own_report = None;
    let told = crate::monitor::report::Reported { age: 41.0, report: Some(given) };
    for one in &mut scene.watched {
        if let Some(registry) = &mut one.registry {
            registry.reports.insert("db3".to_owned(), told.clone());
        }
    }
    assert_eq!(level(&scene, "daemon", "db3"), Level::Warning);
    let findings = judged(&scene.view(), &limits());
    assert!(!findings.iter().any(|finding| finding.check == "gap" && finding.subject == "db3"));
}

#[test]
fn registration_is_compared_with_what_is_seen() {
    assert_eq!(level(&Scene::healthy().promoted("db2", 2), "registration", "db2"), Level::Warning);
    let mut scene = Scene::healthy();
    for one in &mut scene.watched {
        if let Some(registry) = &mut one.registry {
            registry.nodes.remove(1);
            registry.nodes[1].name = "stranger".to_owned();
        }
    }
    assert_eq!(level(&scene, "registration", "db2"), Level::Warning);
    assert_eq!(level(&scene, "registration", "stranger"), Level::Warning);
    for one in &mut scene.watched {
        one.registry = None;
    }
    let findings = judged(&scene.view(), &limits());
    assert!(!findings.iter().any(|finding| finding.check == "registration"));
}

#[test]
fn the_copy_of_a_witness_is_there_and_new_and_its_server_another() {
    assert_eq!(level(&Scene::healthy().keeping(Some(5.0)), "copy", "w"), Level::Ok);
    assert_eq!(level(&Scene::healthy().keeping(Some(50.0)), "copy", "w"), Level::Warning);
    assert_eq!(level(&Scene::healthy().keeping(None), "copy", "w"), Level::Warning);
    let mut same = Scene::healthy().keeping(Some(5.0));
    same.seen("w").system_identifier = same.seen("db1").system_identifier;
    assert_eq!(level(&same, "copy", "w"), Level::Critical);
    let mut follows = Scene::healthy().keeping(Some(5.0));
    follows.seen("w").in_recovery = true;
    assert_eq!(level(&follows, "copy", "w"), Level::Critical);
    // Nothing can be copied while there is no primary; a witness that is away is no loss of data.
    let findings = judged(&Scene::healthy().keeping(Some(500.0)).gone("db1", How::Refused).view(), &limits());
    assert!(findings.iter().all(|finding| finding.check != "copy"), "{findings:#?}");
    let away = Scene::healthy().keeping(Some(5.0)).gone("w", How::Refused).gone("db1", How::Refused);
    assert_eq!(level(&away, "witness", "w"), Level::Warning);
}
