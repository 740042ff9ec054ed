//! What must hold whatever was seen and whatever is allowed, and what each rule says to the plain cases.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::NodeKind;
use crate::failover::observation::{
    Contact, Fact, Fenced, Handover, Holder, Holdings, Known, Other, Partial, Receiver, Serving, View,
};
use crate::postgres::control::ClusterState;
use crate::store::claim::{Claim, State};
use crate::wal::{Lsn, SegmentNumber, SegmentSize, SystemId, TimelineHistory, TimelineId};

pub(in crate::failover) const MIB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(MIB).expect("because 1 MiB is a size")
}

fn history(number: u8) -> TimelineHistory {
    let parse = |timeline, text| TimelineHistory::parse(TimelineId(timeline), text).expect("because it is well formed");
    match number {
        0 | 1 => TimelineHistory::first(),
        2 => parse(2, "1\t0/380000\n"),
        _ => parse(2, "1\t0/200000\n"),
    }
}

pub(in crate::failover) fn view(server: Serving, system: u64, timeline: u8, end: u64) -> View {
    View {
        system: SystemId(system),
        segment_size: size(),
        server,
        state: ClusterState::InArchiveRecovery,
        recovers: server == Serving::Standby || server == Serving::Down,
        history: history(timeline),
        checkpoint: Lsn(MIB),
        wal_end: Lsn(end),
        replayed: Some(Lsn(end)),
        paused: false,
        receiver: None,
        follows: None,
        last_commit: None,
        trigger: None,
    }
}

pub(in crate::failover) fn fact<T>(value: T) -> Fact<T> {
    Fact::new("test", Ok(value))
}

pub(in crate::failover) fn unknown<T>() -> Fact<T> {
    Fact::new("test", Err("no answer".to_owned()))
}

pub(in crate::failover) fn other(name: &str, contact: Fact<Contact>, view: Fact<View>) -> Other {
    let upstream = name == "alpha";
    Other { name: name.to_owned(), kind: NodeKind::Node, upstream, contact, view, handover: None }
}

pub(in crate::failover) fn holder(name: &str, whole: &[(u64, u64)]) -> Holder {
    let whole = whole.iter().map(|(first, last)| (SegmentNumber(*first), SegmentNumber(*last))).collect();
    let held = Holdings {
        system: SystemId(7),
        newest: TimelineHistory::first(),
        claims: Vec::new(),
        whole,
        partial: None,
        handovers: Vec::new(),
    };
    Holder { name: name.to_owned(), own: name == "beta", holds: fact(held) }
}

/// A standby whose primary is gone: nobody listens there.
pub(in crate::failover) fn plain() -> Observation {
    Observation {
        cluster: "main".to_owned(),
        node: "beta".to_owned(),
        kind: NodeKind::Node,
        at: "now".to_owned(),
        own: fact(view(Serving::Standby, 7, 1, 3 * MIB + 100)),
        others: vec![other("alpha", fact(Contact::Refused("nobody listens".to_owned())), unknown())],
        archives: vec![holder("beta", &[])],
        fenced: Vec::new(),
        missing: Vec::new(),
    }
}

pub(in crate::failover) fn policy() -> Policy {
    Policy {
        intent: Intent::Failover,
        lifted: BTreeSet::new(),
        down: BTreeSet::new(),
        ignored: BTreeSet::new(),
        fence: false,
        age_max: Duration::from_secs(60),
        fresh: Duration::from_secs(10),
        claim: None,
    }
}

/// The rule that refuses, or `go`.
fn said(change: impl FnOnce(&mut Observation, &mut Policy)) -> String {
    let (mut seen, mut policy) = (plain(), policy());
    change(&mut seen, &mut policy);
    decide(&seen, &policy).name
}

fn words(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(Step::word).collect()
}

fn lift(policy: &mut Policy, lift: Lift) {
    policy.lifted.insert(lift);
}

#[test]
fn a_standby_whose_primary_is_gone_is_promoted() {
    let verdict = decide(&plain(), &policy());
    let plan = verdict.plan.expect("because nothing speaks against it");
    let expected = [
        "stop-receiver",
        "replay",
        "disarm",
        "fill-hole",
        "claim",
        "decide-again",
        "promote",
        "configure",
        "open",
        "archive",
        "confirm",
        "action",
    ];
    assert_eq!(words(&plan.steps), expected);
    assert_eq!((plan.timeline, plan.fork), (TimelineId(2), Lsn(3 * MIB + 100)));
    assert_eq!(plan.loss.unknown.len(), 1, "what alpha did not send on cannot be told: {:?}", plan.loss);
}

#[test]
fn rules_about_this_node() {
    let own = |change: fn(&mut View)| said(|seen, _| change(own_of(seen)));
    assert_eq!(said(|seen, _| seen.own = unknown()), "own-unknown");
    assert_eq!(own(|own| own.server = Serving::Starting), "own-unknown");
    assert_eq!(own(|own| own.server = Serving::Primary), "already-primary");
    assert_eq!(own(|own| own.system = SystemId(8)), "wrong-system");
    assert_eq!(
        own(|own| {
            own.server = Serving::Down;
            own.recovers = false;
        }),
        "not-a-standby"
    );
    assert_eq!(own(|own| own.server = Serving::Down), "go");
    let missing = |seen: &mut Observation| seen.missing.push("its configuration".to_owned());
    assert_eq!(said(|seen, _| missing(seen)), "configuration");
    let lifted = said(|seen, policy| {
        missing(seen);
        lift(policy, Lift::WithoutConfiguration);
    });
    assert_eq!(lifted, "go");
}

fn own_of(seen: &mut Observation) -> &mut View {
    match &mut seen.own.known {
        Known::Is(own) => own,
        Known::Unknown(why) => panic!("{why}"),
    }
}

fn contact(contact: Contact) -> impl FnOnce(&mut Observation, &mut Policy) {
    move |seen, _| seen.others[0].contact = fact(contact)
}

#[test]
fn rules_about_a_primary_that_may_live() {
    let why = || "why".to_owned();
    assert_eq!(said(contact(Contact::Primary)), "primary-alive");
    assert_eq!(said(contact(Contact::Answers(why()))), "node-answers");
    assert_eq!(said(contact(Contact::Hung(why()))), "node-hangs");
    assert_eq!(said(contact(Contact::Silent(why()))), "node-silent");
    assert_eq!(said(|seen, _| seen.others[0].contact = unknown()), "node-silent");
    // Its own machine knows better than a connection that is refused, or than a firewall.
    let machine = |server| move |seen: &mut Observation| seen.others[0].view = fact(view(server, 7, 1, 3 * MIB));
    assert_eq!(said(|seen, _| machine(Serving::Primary)(seen)), "primary-alive");
    assert_eq!(said(|seen, _| machine(Serving::Starting)(seen)), "node-answers");
    let silent_but_stopped = said(|seen, _| {
        seen.others[0].contact = fact(Contact::Silent(why()));
        machine(Serving::Down)(seen);
    });
    assert_eq!(silent_but_stopped, "go");
}

#[test]
fn a_fence_stops_first_whoever_may_live() {
    for contact in [Contact::Primary, Contact::Answers("full".to_owned()), Contact::Hung("late".to_owned())] {
        let (mut seen, mut policy) = (plain(), policy());
        seen.others[0].contact = fact(contact);
        lift(&mut policy, Lift::Fence);
        let plan = decide(&seen, &policy).plan.expect("because it is stopped first");
        assert_eq!(plan.steps[0], Step::Fence { node: "alpha".to_owned() });
        assert!(plan.steps.contains(&Step::Disarm { node: "alpha".to_owned() }));
        seen.fenced.push(Fenced { node: "alpha".to_owned(), how: "the fence succeeded".to_owned() });
        let plan = decide(&seen, &policy).plan.expect("because it is stopped");
        assert_ne!(plan.steps[0].word(), "fence");
    }
}

#[test]
fn silence_is_met_by_a_fence_or_a_word_and_not_by_wal_that_flows() {
    let silent = |seen: &mut Observation| seen.others[0].contact = fact(Contact::Silent("quiet".to_owned()));
    let flows = |seen: &mut Observation| {
        let receiver = Receiver {
            from: Some("alpha".to_owned()),
            address: "alpha:5432".to_owned(),
            message_age_ms: Some(500),
            told: None,
        };
        let mut gamma = view(Serving::Standby, 7, 1, 3 * MIB);
        gamma.receiver = Some(receiver);
        seen.others.push(other("gamma", fact(Contact::Standby { received: None }), fact(gamma)));
    };
    let vouched = |policy: &mut Policy| _ = policy.down.insert("alpha".to_owned());
    assert_eq!(
        said(|seen, policy| {
            silent(seen);
            vouched(policy);
        }),
        "go"
    );
    assert_eq!(
        said(|seen, policy| {
            silent(seen);
            policy.fence = true;
        }),
        "go"
    );
    assert_eq!(
        said(|seen, _| {
            silent(seen);
            flows(seen);
        }),
        "wal-flows"
    );
    let handed_over = said(|seen, _| {
        silent(seen);
        seen.others[0].handover = Some(handover());
    });
    assert_eq!(handed_over, "go");
}

fn handover() -> Handover {
    Handover {
        format: 1,
        id: "h".to_owned(),
        node: "alpha".to_owned(),
        system: SystemId(7),
        timeline: TimelineId(1),
        checkpoint: Lsn(3 * MIB),
        end: Lsn(3 * MIB + 100),
        at: "now".to_owned(),
        held_by: Vec::new(),
    }
}

fn claim(node: &str, state: State) -> Claim {
    Claim {
        format: 1,
        timeline: TimelineId(2),
        parent: TimelineId(1),
        fork: None,
        segment_size: size(),
        node: node.to_owned(),
        id: "c".to_owned(),
        state,
        at: "now".to_owned(),
    }
}

fn held(seen: &mut Observation) -> &mut Holdings {
    match &mut seen.archives[0].holds.known {
        Known::Is(held) => held,
        Known::Unknown(why) => panic!("{why}"),
    }
}

#[test]
fn rules_about_the_archives() {
    let claims = |node: &'static str, state| said(move |seen, _| held(seen).claims.push(claim(node, state)));
    assert_eq!(claims("gamma", State::Claimed), "claimed");
    assert_eq!(claims("beta", State::Claimed), "go");
    assert_eq!(claims("gamma", State::Void), "go");
    assert_eq!(said(|seen, _| held(seen).newest = history(3)), "other-timeline");
    assert_eq!(
        said(|seen, _| seen.archives.push(Holder { holds: unknown(), ..holder("gamma", &[]) })),
        "archive-unknown"
    );
    // The archive of a primary that is gone is gone with it.
    assert_eq!(said(|seen, _| seen.archives.push(Holder { holds: unknown(), ..holder("alpha", &[]) })), "go");
    assert_eq!(said(|seen, _| held(seen).whole = vec![(SegmentNumber(5), SegmentNumber(6))]), "hole");
    assert_eq!(said(|seen, _| held(seen).whole = vec![(SegmentNumber(3), SegmentNumber(6))]), "go");
}

#[test]
fn a_number_that_was_given_up_is_not_taken_again() {
    let (mut seen, policy) = (plain(), policy());
    held(&mut seen).claims.push(claim("gamma", State::Void));
    assert_eq!(decide(&seen, &policy).plan.map(|plan| plan.timeline), Some(TimelineId(3)));
}

#[test]
fn wal_of_two_places_is_put_together_and_a_partial_tail_counts() {
    let mut seen = plain();
    held(&mut seen).whole = vec![(SegmentNumber(3), SegmentNumber(4))];
    let mut more = holder("gamma", &[(5, 6)]);
    if let Known::Is(held) = &mut more.holds.known {
        held.partial = Some(Partial { number: SegmentNumber(7), until: Lsn(7 * MIB + 77) });
    }
    seen.archives.push(more);
    let plan = decide(&seen, &policy()).plan.expect("because there is no gap");
    assert_eq!(plan.fork, Lsn(7 * MIB + 77));
    assert!(words(&plan.steps).contains(&"fetch"));
}

#[test]
fn the_node_with_the_most_is_promoted_and_dr_only_where_nobody_else_can_be() {
    let gamma = |kind, end| {
        move |seen: &mut Observation| {
            let view = view(Serving::Standby, 7, 1, end);
            let standby = other("gamma", fact(Contact::Standby { received: None }), fact(view));
            seen.others.push(Other { kind, ..standby });
        }
    };
    assert_eq!(said(|seen, _| gamma(NodeKind::Node, 4 * MIB)(seen)), "better-node");
    assert_eq!(said(|seen, _| gamma(NodeKind::Node, 3 * MIB)(seen)), "go");
    // A dr node that is ahead is where the rest is fetched from.
    let (mut seen, policy) = (plain(), policy());
    gamma(NodeKind::Dr, 4 * MIB)(&mut seen);
    let plan = decide(&seen, &policy).plan.expect("because beta is no dr node");
    assert_eq!(plan.fork, Lsn(4 * MIB));
    assert!(words(&plan.steps).contains(&"fetch"));
    seen.kind = NodeKind::Dr;
    seen.others[1].kind = NodeKind::Node;
    assert_eq!(decide(&seen, &policy).name, "better-node");
}

#[test]
fn fast_leaves_behind_only_what_it_is_told_to() {
    let ahead = |seen: &mut Observation, policy: &mut Policy| {
        held(seen).whole = vec![(SegmentNumber(3), SegmentNumber(4))];
        policy.intent = Intent::Fast;
    };
    assert_eq!(said(ahead), "left-behind");
    let (mut seen, mut policy) = (plain(), policy());
    ahead(&mut seen, &mut policy);
    lift(&mut policy, Lift::AcceptLoss);
    let verdict = decide(&seen, &policy);
    let plan = verdict.plan.expect("because the loss is accepted");
    assert_eq!((plan.fork, plan.loss.bytes), (Lsn(3 * MIB + 100), 2 * MIB - 100));
    assert_eq!(verdict.lifted[0].1, "left-behind");
}

#[test]
fn a_switchover_wants_a_primary_that_streams_to_this_node() {
    let switchover = |change: fn(&mut Observation)| {
        said(move |seen, policy| {
            policy.intent = Intent::Switchover;
            seen.others[0] = other("alpha", fact(Contact::Primary), fact(view(Serving::Primary, 7, 1, 4 * MIB)));
            own_of(seen).receiver = Some(Receiver {
                from: Some("alpha".to_owned()),
                address: "alpha:5432".to_owned(),
                message_age_ms: Some(1),
                told: None,
            });
            change(seen);
        })
    };
    assert_eq!(switchover(|_| {}), "go");
    assert_eq!(switchover(|seen| own_of(seen).receiver = None), "not-streaming");
    assert_eq!(switchover(|seen| seen.others[0].view = unknown()), "one-primary");
    assert_eq!(switchover(|seen| seen.others[0].contact = fact(Contact::Hung("late".to_owned()))), "node-hangs");
}

fn any_contact() -> BoxedStrategy<Fact<Contact>> {
    let end = (0u64..5).prop_map(|n| Some(Lsn(n * MIB)));
    let known = prop_oneof![
        2 => Just(Contact::Primary),
        3 => end.prop_map(|received| Contact::Standby { received }),
        1 => Just(Contact::Answers("a".to_owned())),
        4 => Just(Contact::Refused("r".to_owned())),
        2 => Just(Contact::Silent("s".to_owned())),
        1 => Just(Contact::Hung("h".to_owned())),
    ];
    any_fact(known)
}

fn any_fact<T: std::fmt::Debug + Clone + 'static>(value: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Fact<T>> {
    let known = prop_oneof![4 => value.prop_map(Known::Is), 1 => Just(Known::Unknown("unknown".to_owned()))].boxed();
    let age = prop_oneof![9 => 0u64..60_000, 1 => 60_001u64..600_000];
    (known, age).prop_map(|(known, age_ms)| Fact { known, source: "test".to_owned(), age_ms }).boxed()
}

fn any_view(common: u32) -> BoxedStrategy<View> {
    let server = prop_oneof![
        common => Just(Serving::Standby),
        2 => Just(Serving::Down),
        1 => Just(Serving::Primary),
        1 => Just(Serving::Starting),
    ];
    let system = prop_oneof![9 => Just(7u64), 1 => Just(8u64)];
    let timeline = prop_oneof![8 => Just(1u8), 1 => Just(2u8), 1 => Just(3u8)];
    let receiver = prop_oneof![2 => Just(None), 1 => Just(Some("alpha")), 1 => Just(Some("gamma"))];
    (server, system, timeline, 2 * MIB..6 * MIB, receiver, 0u64..20_000)
        .prop_map(|(server, system, timeline, end, from, age)| View {
            receiver: from.map(|from| Receiver {
                from: Some(from.to_owned()),
                address: from.to_owned(),
                message_age_ms: Some(age),
                told: None,
            }),
            ..view(server, system, timeline, end)
        })
        .boxed()
}

fn any_holder(name: &'static str) -> BoxedStrategy<Holder> {
    let ranges = proptest::collection::vec((2u64..8, 0u64..3), 0..3);
    let claim = prop_oneof![
        6 => Just(None),
        1 => Just(Some(claim("gamma", State::Claimed))),
        1 => Just(Some(claim("beta", State::Claimed))),
        1 => Just(Some(claim("gamma", State::Void))),
    ];
    let held =
        (ranges, prop_oneof![8 => Just(1u8), 1 => Just(3u8)], claim).prop_map(|(ranges, newest, claim)| Holdings {
            system: SystemId(7),
            newest: history(newest),
            claims: claim.into_iter().collect(),
            whole: ranges
                .into_iter()
                .map(|(first, more)| (SegmentNumber(first), SegmentNumber(first + more)))
                .collect(),
            partial: None,
            handovers: Vec::new(),
        });
    any_fact(held).prop_map(move |holds| Holder { name: name.to_owned(), own: name == "beta", holds }).boxed()
}

fn any_other(name: &'static str) -> BoxedStrategy<Other> {
    let kind = prop_oneof![3 => Just(NodeKind::Node), 1 => Just(NodeKind::Dr)];
    (any_contact(), any_fact(any_view(3)), kind)
        .prop_map(move |(contact, view, kind)| Other { kind, ..other(name, contact, view) })
        .boxed()
}

fn any_observation() -> BoxedStrategy<Observation> {
    let fenced = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![Fenced { node: "alpha".to_owned(), how: "fenced".to_owned() }]),
    ];
    let others = prop_oneof![
        1 => any_other("alpha").prop_map(|alpha| vec![alpha]),
        1 => (any_other("alpha"), any_other("gamma")).prop_map(|(alpha, gamma)| vec![alpha, gamma]),
    ];
    let own = prop_oneof![9 => any_view(20).prop_map(fact), 1 => any_fact(any_view(5))];
    (own, others, any_holder("beta"), any_holder("gamma"), fenced, any::<bool>())
        .prop_map(|(own, others, beta, gamma, fenced, dr)| Observation {
            own,
            others,
            archives: vec![beta, gamma],
            fenced,
            kind: if dr { NodeKind::Dr } else { NodeKind::Node },
            ..plain()
        })
        .boxed()
}

fn any_policy() -> BoxedStrategy<Policy> {
    let lifts = [Lift::Fence, Lift::TakeClaim, Lift::EvenIfBehind, Lift::AcceptLoss, Lift::WithoutConfiguration];
    let nodes = ["alpha".to_owned(), "gamma".to_owned()];
    let intent = prop_oneof![4 => Just(Intent::Failover), 1 => Just(Intent::Fast), 1 => Just(Intent::Switchover)];
    (
        intent,
        proptest::sample::subsequence(lifts.to_vec(), 0..=5),
        proptest::sample::subsequence(nodes.to_vec(), 0..=2),
        proptest::sample::subsequence(nodes.to_vec(), 0..=2),
        any::<bool>(),
    )
        .prop_map(|(intent, lifted, down, ignored, fence)| Policy {
            intent,
            lifted: lifted.into_iter().collect(),
            down: down.into_iter().collect(),
            ignored: ignored.into_iter().collect(),
            fence,
            ..policy()
        })
        .boxed()
}

/// True where a plan makes sure of a node before it promotes.
fn fences_first(plan: &Plan, node: &str) -> bool {
    let promotes = plan.steps.iter().position(Step::is_irreversible).unwrap_or(0);
    plan.steps[..promotes].iter().any(|step| matches!(step, Step::Fence { node: fenced } if fenced == node))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nobody_is_promoted_beside_a_server_that_may_write(seen in any_observation(), policy in any_policy()) {
        let policy = Policy { intent: Intent::Failover, ..policy };
        let Some(plan) = decide(&seen, &policy).plan else { return Ok(()) };
        for other in &seen.others {
            let fresh = other.contact.within(policy.age_max);
            let writes = matches!(fresh, Some(Contact::Primary | Contact::Answers(_) | Contact::Hung(_)));
            let machine = other.view.within(policy.age_max).map(|view| view.server);
            let surely = matches!(fresh, Some(Contact::Primary | Contact::Hung(_)));
            let standby = machine == Some(Serving::Standby) && !surely;
            let may = (writes && !standby) || machine == Some(Serving::Primary);
            prop_assert!(!may || seen.is_fenced(&other.name) || fences_first(&plan, &other.name), "{}", other.name);
        }
    }

    #[test]
    fn nobody_is_promoted_on_unknown_alone(seen in any_observation(), policy in any_policy()) {
        let policy = Policy { intent: Intent::Failover, ..policy };
        let Some(plan) = decide(&seen, &policy).plan else { return Ok(()) };
        for other in &seen.others {
            let heard = !matches!(other.contact.within(policy.age_max), None | Some(Contact::Silent(_)));
            let seen_there = other.view.within(policy.age_max).is_some();
            let vouched = policy.down.contains(&other.name) || seen.is_fenced(&other.name);
            prop_assert!(heard || seen_there || vouched || fences_first(&plan, &other.name), "{}", other.name);
        }
    }

    #[test]
    fn a_strange_system_is_never_joined(seen in any_observation(), policy in any_policy()) {
        if decide(&seen, &policy).plan.is_some() {
            let own = seen.own.is().map(|own| own.system);
            prop_assert!(seen.others.iter().filter_map(|other| other.view.is()).all(|view| Some(view.system) == own));
        }
    }

    #[test]
    fn nobody_is_promoted_below_what_can_be_reached(seen in any_observation(), policy in any_policy()) {
        let mut policy = Policy { intent: Intent::Failover, ..policy };
        policy.lifted.remove(&Lift::AcceptLoss);
        let Some(plan) = decide(&seen, &policy).plan else { return Ok(()) };
        let own = seen.own.is().expect("because a plan needs it");
        prop_assert!(plan.fork >= own.wal_end);
        for other in &seen.others {
            let same = |view: &&View| view.history == own.history;
            let Some(view) = other.view.within(policy.age_max).filter(same) else { continue };
            prop_assert!(plan.fork >= view.wal_end, "{} has WAL up to {}", other.name, view.wal_end);
        }
        for holder in &seen.archives {
            let Some(held) = holder.holds.within(policy.age_max) else { continue };
            let last = held.whole.iter().map(|(_, last)| last.end(own.segment_size)).max();
            prop_assert!(last.is_none_or(|last| plan.fork >= last), "{} has WAL up to {last:?}", holder.name);
        }
        let fetches = plan.steps.iter().any(|step| matches!(step, Step::Fetch { until, .. } if *until == plan.fork));
        prop_assert_eq!(fetches, plan.fork > own.wal_end);
    }

    #[test]
    fn the_steps_before_the_last_one_back_are_all_there(seen in any_observation(), policy in any_policy()) {
        let Some(plan) = decide(&seen, &policy).plan else { return Ok(()) };
        let at = |word| plan.steps.iter().position(|step| step.word() == word);
        let promotes = plan.steps.iter().position(Step::is_irreversible).expect("because a plan promotes");
        for word in ["claim", "decide-again", "stop-receiver"] {
            prop_assert!(at(word).is_some_and(|at| at < promotes), "{word}");
        }
        let late = plan.steps[promotes + 1..].iter().any(|step| ["fence", "disarm"].contains(&step.word()));
        prop_assert!(!late);
        prop_assert_eq!(plan.steps.iter().filter(|step| step.is_irreversible()).count(), 1);
        let known = seen.archives.iter().filter_map(|holder| holder.holds.within(policy.age_max));
        let begun = known.map(|held| held.newest.timeline);
        prop_assert!(begun.into_iter().all(|begun| plan.timeline > begun));
    }

    #[test]
    fn what_is_old_counts_for_nothing(seen in any_observation(), policy in any_policy()) {
        let verdict = decide(&seen.aged(Duration::from_secs(61)), &policy);
        prop_assert_eq!(verdict.name.as_str(), "own-unknown");
    }

    #[test]
    fn a_flag_lifts_its_own_rule_and_no_other(seen in any_observation(), policy in any_policy()) {
        let verdict = decide(&seen, &policy);
        for (number, ..) in &verdict.lifted {
            let rule = RULES.iter().find(|rule| rule.number == *number).expect("because it is in the table");
            prop_assert!(policy.lifted.contains(&rule.lift));
        }
        let bare = Policy { lifted: BTreeSet::new(), down: BTreeSet::new(), ignored: BTreeSet::new(), ..policy };
        // Fewer flags never allow more.
        prop_assert!(decide(&seen, &bare).plan.is_none() || verdict.plan.is_some());
    }
}

#[test]
fn numbers_and_names_of_rules_are_given_once_and_rise() {
    let numbers: Vec<u16> = RULES.iter().map(|rule| rule.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let names: BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), RULES.len());
}
