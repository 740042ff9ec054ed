//! What each rule says to the plain cases.

use std::collections::BTreeSet;

use super::*;
use crate::config::NodeKind;
use crate::failover::observation::{
    Contact, Fenced, Handover, Holder, Holdings, Known, Other, Partial, Receiver, Serving, View,
};
use crate::failover::samples::{MIB, claim, fact, history, holder, other, own_of, plain, policy, unknown, view};
use crate::store::claim::State;
use crate::wal::{Lsn, SegmentNumber, SystemId, TimelineId};

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
        let lives = !matches!(contact, Contact::Hung(_));
        seen.others[0].contact = fact(contact);
        lift(&mut policy, Lift::Fence);
        let plan = decide(&seen, &policy).plan.expect("because it is stopped first");
        assert_eq!(plan.steps[0], Step::Fence { node: "alpha".to_owned() });
        assert!(plan.steps.contains(&Step::Disarm { node: "alpha".to_owned() }));
        seen.fenced.push(Fenced { node: "alpha".to_owned(), how: "the fence succeeded".to_owned() });
        let plan = decide(&seen, &policy).plan.expect("because it is stopped");
        // Whoever answers all the same was started again.
        assert_eq!(plan.steps[0].word() == "fence", lives);
    }
}

#[test]
fn a_standby_whose_files_cannot_be_seen_is_named_where_it_has_received_more() {
    let told = |received: u64| {
        let mut seen = plain();
        let contact = Contact::Standby { received: Some(Lsn(received)) };
        seen.others.push(other("gamma", fact(contact), unknown()));
        decide(&seen, &policy()).plan.expect("because gamma is a standby").loss.unknown.join(", ")
    };
    assert!(told(9 * MIB).contains("what gamma has received, up to 0/900000"), "{}", told(9 * MIB));
    assert!(!told(MIB).contains("gamma"), "{}", told(MIB));
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

#[test]
fn numbers_and_names_of_rules_are_given_once_and_rise() {
    let numbers: Vec<u16> = RULES.iter().map(|rule| rule.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let names: BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), RULES.len());
}
