//! Every rung, closed and open, from facts made up here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::cluster::standby::facts::{Activity, Backup, Own, Reads, Slot, There};
use crate::cluster::standby::settings::Commands;
use crate::config::StandbyMode;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::wal::{SegmentSize, SystemId, TimelineHistory, TimelineId};

const FORK: Fork = Fork { timeline: TimelineId(1), at: Lsn(0x500_0000) };

/// A former primary that was shut down behind the fork, and all WAL that anybody could need.
fn diverged() -> Situation {
    Situation {
        relation: Ok(Relation::Diverged(FORK)),
        clean: true,
        hints: true,
        beyond: 4096,
        upstream_reaches: true,
        archives_reach: Held::All,
        behind: 1 << 20,
        beginning: Beginning::Local { redo: Lsn(0x400_0000) },
        replayable: Held::All,
        no_rewind: None,
        no_restore: None,
    }
}

fn there() -> There {
    There {
        primary: true,
        system_id: SystemId(7),
        timeline: TimelineId(2),
        position: Lsn(0x600_0000),
        received: None,
        segment_size: SegmentSize::DEFAULT,
        major: 15,
        archived: None,
        ships: true,
    }
}

fn control() -> ControlFile {
    ControlFile {
        system_id: SystemId(7),
        control_version: 1300,
        catalog_version: 0,
        major: Some(15),
        state: ClusterState::ShutDown,
        checkpoint: Lsn(0x500_1000),
        redo: Lsn(0x500_1000),
        checkpoint_time: 0,
        checkpoint_timeline: TimelineId(1),
        min_recovery_point: Lsn(0),
        min_recovery_timeline: TimelineId(0),
        backup_start: Lsn(0),
        wal_log_hints: true,
        marked: false,
        segment_size: SegmentSize::DEFAULT,
        limits: Default::default(),
        wal_block_size: 8192,
        checksums: false,
    }
}

fn facts() -> Facts {
    let data = Data {
        control: control(),
        history: Some(TimelineHistory::first()),
        signal: None,
        label: false,
        half_rewound: false,
        ends: Some((Lsn(0x500_1100), Lsn(0x500_1100))),
        spaces: BTreeMap::new(),
    };
    let history = TimelineHistory::parse(TimelineId(2), "1\t0/5000000\n").expect("because it is well formed");
    Facts {
        own: Own {
            node: "db1".to_owned(),
            pgdata: PathBuf::from("/data"),
            directory: Directory::Data(Box::new(data)),
            server: Activity::Down,
            reads: Reads { file: "/data/postgresql.conf".into(), outside: false, included: true, auto: Vec::new() },
            reachable: true,
            free: 1 << 40,
            spaces: BTreeMap::new(),
        },
        others: Vec::new(),
        upstream: Some(Upstream {
            node: "db2".to_owned(),
            there: there(),
            conninfo: "host=db2".to_owned(),
            history: Ok(history),
            size: 3 << 30,
            spaces: BTreeMap::new(),
            oldest: None,
            slot: Slot::Unasked,
            slots_bounded: true,
            may_replicate: true,
            no_rewind: None,
            wal_level: "replica".to_owned(),
        }),
        source: None,
        backup: Some(Backup {
            place: "db1".to_owned(),
            label: "20261121T140312F".to_owned(),
            system_id: SystemId(7),
            timeline: TimelineId(1),
            stop: Lsn(0x300_0000),
            size: 2 << 30,
            spaces: BTreeMap::new(),
            lacks: None,
        }),
        archives: vec![("db1".to_owned(), Ok(SystemId(7)))],
        commands: Commands { restore: Some("restore-wal %f %p".to_owned()), cleanup: None, archive: None },
        set: BTreeMap::new(),
        stamp: "20261121T150000Z".to_owned(),
    }
}

fn request() -> Request {
    Request {
        job: crate::cluster::standby::request::Job::Rejoin(None),
        mode: StandbyMode::Streaming,
        upstream: None,
        slot: None,
        delay: Duration::ZERO,
        tablespaces: BTreeMap::new(),
        keep_old: false,
    }
}

fn steps(situation: &Situation, facts: &Facts) -> Vec<&'static str> {
    let plan = rejoin(&request(), None, facts, situation).expect("because a way is open");
    plan.steps.iter().map(Step::name).collect()
}

#[test]
fn each_obstacle_leads_to_the_next_rung() {
    let facts = facts();
    let follow = |situation: &Situation| steps(situation, &facts);
    let mut situation = diverged();
    situation.relation = Ok(Relation::OnTheWay(Some(FORK)));
    let plain = ["put-history", "configure", "start", "prove"];
    assert_eq!(follow(&situation), plain);
    situation.upstream_reaches = false;
    assert_eq!(follow(&situation), plain);
    let weighed = weigh(&situation, facts.upstream.as_ref().expect("because there is one"), None);
    assert!(weighed[0].why.as_ref().is_some_and(|why| why.contains("no longer has the WAL")));
    // WAL that was never replayed is kept aside before it goes.
    situation.relation = Ok(Relation::Surplus(FORK));
    assert_eq!(follow(&situation)[..2], ["keep-aside", "remove-surplus"]);
    // A way that is closed by both servers and archives leaves a new copy.
    situation.archives_reach = Held::Not("4 segments".to_owned());
    assert_eq!(follow(&situation)[1], "restore");

    let mut situation = diverged();
    let rewind = ["keep-aside", "configure", "rewind", "start", "prove"];
    assert_eq!(follow(&situation), rewind);
    situation.clean = false;
    assert_eq!(follow(&situation), ["keep-aside", "recover", "configure", "rewind", "start", "prove"]);
    situation.beginning = Beginning::Archives { segments: 3 };
    let plan = rejoin(&request(), None, &facts, &situation).expect("because a way is open");
    assert!(plan.steps.iter().any(|step| matches!(step, Step::Rewind { archive: true, .. })));
    situation.beginning = Beginning::Nowhere("'000000010000000000000004'".to_owned());
    let restore = ["keep-aside", "restore", "configure", "start", "prove"];
    assert_eq!(follow(&situation), restore);
    situation.no_restore = Some("no archive holds a whole backup".to_owned());
    let clone = ["keep-aside", "clone", "configure", "exchange", "start", "prove", "remove-old"];
    assert_eq!(follow(&situation), clone);
}

#[test]
fn nothing_is_rewound_that_a_rewind_would_break() {
    let facts = facts();
    let changes: [fn(&mut Situation); 4] = [
        |it| it.hints = false,
        |it| it.no_rewind = Some("the rehearsal failed".to_owned()),
        |it| it.replayable = Held::Not("'000000010000000000000004'".to_owned()),
        |it| it.relation = Err("a rewind of them began and did not end".to_owned()),
    ];
    for change in changes {
        let mut situation = diverged();
        change(&mut situation);
        assert!(!steps(&situation, &facts).contains(&"rewind"));
    }
}

#[test]
fn a_primary_that_was_left_behind_is_nobody_to_go_to() {
    let mut situation = diverged();
    situation.relation = Ok(Relation::LeftBehind(FORK));
    let error = rejoin(&request(), None, &facts(), &situation).expect_err("because that would lose everything since");
    assert!(error.to_string().contains("still on timeline 1"), "{error}");
}

#[test]
fn only_the_rung_that_was_asked_for_is_taken() {
    let (facts, situation) = (facts(), diverged());
    let plan = rejoin(&request(), Some(Rung::Clone), &facts, &situation).expect("because it is open");
    assert_eq!(plan.steps[1].name(), "clone");
    let closed = rejoin(&request(), Some(Rung::Follow), &facts, &situation).expect_err("because the data diverged");
    assert!(closed.to_string().contains("follow: the data hold changes beyond 0/5000000"), "{closed}");
}

#[test]
fn data_of_unknown_worth_are_kept_when_they_are_replaced() {
    let mut situation = diverged();
    situation.relation = Err("a rewind of them began and did not end".to_owned());
    situation.no_restore = Some("no archive holds a whole backup".to_owned());
    let plan = rejoin(&request(), None, &facts(), &situation).expect("because a way is open");
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::RemoveOld { .. } | Step::KeepAside { .. })));
    assert!(
        plan.notes.iter().any(|note| note.contains("stays in '/data.before-20261121T150000Z'")),
        "{:?}",
        plan.notes
    );
}

#[test]
fn a_running_server_and_another_cluster_are_refused() {
    let mut running = facts();
    running.own.server = Activity::Primary(there());
    let refused = |facts: &Facts| rejoin(&request(), None, facts, &diverged()).expect_err("because it is wrong");
    assert!(refused(&running).to_string().contains("a primary runs on"));
    let mut other = facts();
    if let Directory::Data(data) = &mut other.own.directory {
        data.control.system_id = SystemId(8);
    }
    assert!(refused(&other).to_string().contains("holds another cluster"));
}
