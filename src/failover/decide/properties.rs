//! What must hold whatever was seen and whatever is allowed.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::NodeKind;
use crate::failover::observation::{Contact, Fact, Fenced, Holder, Holdings, Known, Other, Receiver, Serving, View};
use crate::failover::samples::{MIB, claim, fact, history, other, plain, policy, view};
use crate::store::claim::State;
use crate::wal::{Lsn, SegmentNumber, SystemId};

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
            // A fence counts for nothing against a server that answers afterwards.
            let answers = matches!(fresh, Some(Contact::Primary | Contact::Answers(_)));
            let fenced = seen.is_fenced(&other.name) && !answers;
            prop_assert!(!may || fenced || fences_first(&plan, &other.name), "{}", other.name);
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
