//! The picture of clusters that were made up.

use proptest::prelude::*;

use super::*;
use crate::monitor::observation::tests::{primary, standby};
use crate::monitor::observation::{How, Sender};
use crate::monitor::registry::tests::registry;
use crate::monitor::report::ArchiveState;
use crate::wal::{SegmentSize, SystemId};

/// A cluster: db1 is the primary, db2 follows it, db3 follows db2, dr1 holds an archive, w votes.
#[derive(Clone)]
pub struct Scene {
    pub watched: Vec<Watched>,
    pub tide: Tide,
    pub at: SystemTime,
}

fn lsn(text: &str) -> Lsn {
    text.parse().expect("because it is well formed")
}

fn sender(name: &str, at: &str) -> Sender {
    Sender {
        name: Some(name.to_owned()),
        address: None,
        state: Some("streaming".to_owned()),
        sent: Some(lsn(at)),
        written: Some(lsn(at)),
        flushed: Some(lsn(at)),
        replayed: Some(lsn(at)),
        write_lag: None,
        flush_lag: None,
        replay_lag: Some(0.25),
        sync_state: Some("quorum".to_owned()),
        sync_priority: Some(1),
    }
}

fn node(name: &str, kind: NodeKind, server: bool) -> Node {
    let conninfo = server.then(|| format!("host={name} dbname=postgres"));
    Node { name: name.to_owned(), kind, conninfo, ..Node::default() }
}

/// A report of an archive that reaches so far.
pub fn report(tip: &str, restorable: Option<&str>) -> Report {
    let archive = ArchiveState {
        segment_size: Some(SegmentSize::DEFAULT),
        timeline: Some(TimelineId(1)),
        tip: Some(lsn(tip)),
        restorable: restorable.map(lsn),
        ..ArchiveState::default()
    };
    Report {
        pgwarm: "0.1.0".to_owned(),
        archive: Some(Ok(archive)),
        queues: Default::default(),
        archive_free: None,
        drill: None,
    }
}

impl Scene {
    pub fn healthy() -> Scene {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut one = primary("0/5000100");
        one.senders = vec![Sender { replayed: Some(lsn("0/4F00000")), ..sender("db2", "0/5000000") }];
        let mut two = standby("0/5000000", "0/4F00000", ("db1", 5432));
        two.senders = vec![sender("db3", "0/4800000")];
        let three = standby("0/4800000", "0/4800000", ("10.0.0.2", 5432));
        let roster =
            registry(&[("db1", "primary"), ("db2", "standby"), ("db3", "standby"), ("dr1", "dr"), ("w", "witness")]);
        let look = |sight: Sight| Look { sight, at, took: Duration::from_millis(2), unseen_for: Duration::ZERO };
        let watch = |name: &str, kind: NodeKind, seen: Option<Observation>| Watched {
            node: node(name, kind, seen.is_some()),
            registry: seen.is_some().then(|| roster.clone()),
            look: look(seen.map_or(Sight::NoServer, |seen| Sight::Seen(Box::new(seen)))),
            own_report: None,
        };
        let mut watched = vec![
            watch("db1", NodeKind::Node, Some(one)),
            watch("db2", NodeKind::Node, Some(two)),
            watch("db3", NodeKind::Node, Some(three)),
            watch("dr1", NodeKind::Dr, None),
            watch("w", NodeKind::Witness, None),
        ];
        watched[3].own_report = Some(report("0/4000000", Some("0/4000000")));
        let mut tide = Tide::new(100);
        tide.note(at - Duration::from_secs(20), lsn("0/3000100"));
        tide.note(at, lsn("0/5000100"));
        Scene { watched, tide, at }
    }

    pub fn view(&self) -> View {
        View::of("main", "db1", self.at, &self.watched, &self.tide)
    }

    fn one(&mut self, name: &str) -> &mut Watched {
        self.watched.iter_mut().find(|one| one.node.name == name).expect("because the scene has it")
    }

    pub fn set(&mut self, name: &str, sight: Sight) {
        self.one(name).look.sight = sight;
    }

    /// The same with a node that does not answer.
    pub fn gone(mut self, name: &str, how: How) -> Scene {
        self.set(name, Sight::Unseen { how, why: "no answer".to_owned() });
        self.one(name).registry = None;
        self
    }

    /// The same with a standby that takes writes on another timeline; its registry says what it said before.
    pub fn promoted(mut self, name: &str, timeline: u32) -> Scene {
        let seen = Observation { timeline: TimelineId(timeline), ..primary("0/5000200") };
        self.set(name, Sight::Seen(Box::new(seen)));
        self
    }

    /// The same with a witness that has a server of its own, and keeps a copy on it that is so old.
    pub fn keeping(mut self, age: Option<f64>) -> Scene {
        let copied = |age| Copied { system_identifier: "-7".to_owned(), timeline: 1, primary: "db1".to_owned(), age };
        let roster = self.one("db1").registry.clone().map(|roster| Registry { copied: age.map(copied), ..roster });
        let own = Observation { system_identifier: SystemId(9), timeline: TimelineId(7), ..primary("9/0") };
        let one = self.one("w");
        one.node.conninfo = Some("host=w".to_owned());
        one.registry = roster;
        self.set("w", Sight::Seen(Box::new(own)));
        self
    }

    pub fn seen(&mut self, name: &str) -> &mut Observation {
        match &mut self.one(name).look.sight {
            Sight::Seen(seen) => seen,
            other => panic!("{name} is {other:?}"),
        }
    }
}

#[test]
fn every_path_has_its_distance_and_a_path_that_is_not_used_has_none() {
    let view = Scene::healthy().view();
    assert_eq!((view.primary.as_deref(), view.rivals.len()), (Some("db1"), 0));
    let lag = |name: &str| view.node(name).expect("because the scene has it").lag.clone();
    let bytes = |mark: Option<Mark>| mark.and_then(|mark| mark.bytes);
    let two = lag("db2");
    assert_eq!((bytes(two.flushed), bytes(two.replayed)), (Some(0x100), Some(0x10_0100)));
    // The primary wrote 32 MiB in 20 s, so 1 MiB and a bit is 0.6 s.
    let seconds = two.replayed.and_then(|mark| mark.seconds).expect("because the record goes back so far");
    assert!((seconds - 0.625).abs() < 0.001, "{seconds}");
    assert_eq!((two.archived, two.relayed, two.restorable, two.hop), (None, None, None, None));
    // A cascade: behind the primary, and behind its own upstream.
    let three = lag("db3");
    assert_eq!(bytes(three.flushed), Some(0x80_0100));
    let hop = three.hop.expect("because it follows a standby");
    assert_eq!((hop.upstream.as_str(), hop.bytes), ("db2", Some(0x80_0000)));
    let dr = lag("dr1");
    assert_eq!((bytes(dr.relayed), bytes(dr.restorable)), (Some(0x100_0100), Some(0x100_0100)));
    assert_eq!((dr.sent, dr.flushed, dr.replayed), (None, None, None));
    assert_eq!(lag("w"), Lag::default());
    assert_eq!(lag("db1").flushed, None);
}

#[test]
fn a_standby_of_archived_wal_is_never_shown_as_without_lag() {
    let mut scene = Scene::healthy();
    let three = scene.seen("db3");
    (three.receiver, three.received, three.replayed) = (None, None, Some(lsn("0/3000000")));
    let view = scene.view();
    let three = view.node("db3").expect("because the scene has it");
    assert_eq!((three.replication, three.upstream.as_deref()), (Some("archive"), None));
    assert_eq!((three.lag.sent, three.lag.written, three.lag.flushed), (None, None, None));
    assert_eq!(three.lag.replayed.and_then(|mark| mark.bytes), Some(0x200_0100));
    // The record does not go back so far, and the server itself says nothing: that is unknown, not zero.
    assert_eq!(three.lag.replayed.and_then(|mark| mark.seconds), None);
}

#[test]
fn a_standby_is_found_by_address_by_name_and_when_it_is_silent() {
    let view = Scene::healthy().view();
    let upstream = |view: &View, name: &str| view.node(name).and_then(|node| node.upstream.clone());
    assert_eq!(upstream(&view, "db2").as_deref(), Some("db1"));
    // db3 names an address that no connection string holds; db2 sends to a receiver of its name.
    assert_eq!(upstream(&view, "db3").as_deref(), Some("db2"));
    let view = Scene::healthy().gone("db2", How::Hung).view();
    let two = view.node("db2").expect("because the scene has it");
    assert_eq!((two.state, two.upstream.as_deref(), two.role), ("hung", Some("db1"), Role::Unknown));
    assert_eq!(two.lag.flushed.and_then(|mark| mark.bytes), Some(0x100));
    assert_eq!(two.sync_state.as_deref(), Some("quorum"));
}

#[test]
fn a_receiver_is_matched_by_the_name_it_gives_itself() {
    let mut scene = Scene::healthy();
    let receiver = scene.seen("db3").receiver.as_mut().expect("because it streams");
    receiver.conninfo = Some("user=rep dbname=replication host=10.0.0.2 application_name=third".to_owned());
    scene.seen("db2").senders = vec![sender("third", "0/4900000"), sender("db3", "0/1000000")];
    let view = scene.view();
    let three = view.node("db3").expect("because the scene has it");
    assert_eq!(three.lag.sent.map(|mark| mark.lsn), Some(lsn("0/4900000")));
}

#[test]
fn without_a_primary_distances_are_taken_from_what_was_known_last() {
    let view = Scene::healthy().gone("db1", How::Refused).view();
    assert_eq!(view.primary, None);
    let reference = view.reference.clone().expect("because standbys answer");
    assert_eq!((reference.node.as_str(), reference.lsn, reference.live), ("db2", lsn("0/5000100"), false));
    assert_eq!(view.node("db2").and_then(|node| node.lag.flushed?.bytes), Some(0x100));
    // The registry comes from whoever has a copy.
    assert_eq!(view.node("db1").and_then(|node| node.id), Some(1));
}

#[test]
fn of_two_primaries_the_confirmed_one_counts_and_of_two_confirmed_the_newer() {
    let view = Scene::healthy().promoted("db2", 2).view();
    assert_eq!((view.primary.as_deref(), view.rivals.as_slice()), (Some("db1"), &["db2".to_owned()][..]));
    let mut after = Scene::healthy().promoted("db2", 2);
    after.one("db2").registry = Some(registry(&[("db1", "standby"), ("db2", "primary")]));
    let view = after.view();
    assert_eq!((view.primary.as_deref(), view.rivals.as_slice()), (Some("db2"), &["db1".to_owned()][..]));
}

#[test]
fn the_archiver_of_the_primary_counts_as_archived_and_slots_know_what_they_hold() {
    let mut scene = Scene::healthy();
    let one = scene.seen("db1");
    one.archive_mode = "on".to_owned();
    one.archiver.last_archived = Some("000000010000000000000003".to_owned());
    one.archiver.last_failed_age = Some(3.0);
    one.archiver.last_archived_age = Some(5.0);
    one.slots = vec![crate::monitor::observation::Slot {
        name: "db2".to_owned(),
        kind: "physical".to_owned(),
        active: true,
        temporary: false,
        restart: Some(lsn("0/4000000")),
        wal_status: Some("reserved".to_owned()),
        safe: None,
    }];
    let view = scene.view();
    let one = view.node("db1").expect("because the scene has it");
    assert_eq!(one.lag.archived.map(|mark| mark.lsn), Some(lsn("0/4000000")));
    assert!(one.archiver.as_ref().is_some_and(|archiver| archiver.failing && archiver.ready.is_none()));
    assert_eq!(one.slots[0].retained_bytes, Some(0x100_0100));
}

proptest! {
    /// Whatever the positions are, nobody is shown as closer than it is, and who has no position has no distance.
    #[test]
    fn distances_are_those_of_the_positions(
        primary_at in 1u64..1 << 40,
        flushed in proptest::option::of(1u64..1 << 40),
        replayed in proptest::option::of(1u64..1 << 40),
        tip in proptest::option::of(1u64..1 << 40),
    ) {
        let mut scene = Scene::healthy();
        scene.tide = Tide::new(4);
        scene.seen("db1").position = Some(Lsn(primary_at));
        scene.seen("db1").senders.clear();
        let two = scene.seen("db2");
        if let Some(receiver) = two.receiver.as_mut() {
            (receiver.flushed, receiver.written) = (flushed.map(Lsn), flushed.map(Lsn));
        }
        two.replayed = replayed.map(Lsn);
        let mut given = report("0/1", None);
        if let Some(Ok(archive)) = given.archive.as_mut() {
            archive.tip = tip.map(Lsn);
        }
        scene.one("dr1").own_report = Some(given);
        let view = scene.view();
        let lag = |name: &str| view.node(name).map(|node| node.lag.clone()).unwrap_or_default();
        for (mark, position) in [
            (lag("db2").flushed, flushed),
            (lag("db2").replayed, replayed),
            (lag("dr1").relayed, tip),
        ] {
            let distance = position.map(|position| primary_at.saturating_sub(position));
            prop_assert_eq!(mark.and_then(|mark| mark.bytes), distance);
            // Without a record of the primary's positions the only time that is known is that of no distance.
            let seconds = mark.and_then(|mark| mark.seconds);
            prop_assert!(seconds.is_none() || mark.and_then(|mark| mark.bytes) == Some(0));
        }
    }
}

#[test]
fn the_server_of_a_witness_is_none_of_the_cluster_and_its_copy_counts_last() {
    let view = Scene::healthy().keeping(Some(3.0)).view();
    // It takes writes on a later timeline and is further, all of which means nothing.
    assert_eq!((view.primary.as_deref(), view.rivals.len()), (Some("db1"), 0));
    let witness = view.node("w").expect("because the scene has it");
    assert_eq!((witness.role, witness.state, witness.timeline), (Role::Witness, "running", None));
    assert_eq!((&witness.lag, &witness.archiver), (&Lag::default(), &None));
    let all = ["db1", "db2", "db3"];
    let alone = all.into_iter().fold(Scene::healthy().keeping(Some(3.0)), |scene, name| scene.gone(name, How::Hung));
    let view = alone.view();
    assert_eq!((view.primary.as_deref(), &view.reference), (None, &None));
    let db1 = view.node("db1").expect("because the scene has it");
    assert_eq!((db1.id, db1.registered.as_deref()), (Some(1), Some("primary")));
    // A database that is no copy of this registry says nothing about the cluster.
    let other = all.into_iter().fold(Scene::healthy().keeping(None), |scene, name| scene.gone(name, How::Hung));
    assert_eq!(other.view().schema, None);
}
