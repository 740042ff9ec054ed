//! What is explained of a cluster of three database nodes and a witness.

use super::*;
use crate::failover::observation::Serving;
use crate::failover::samples::{MIB, fact, holder, other, policy, unknown, view};

const NODES: [&str; 3] = ["alpha", "beta", "gamma"];

/// `alpha` is the primary and the end of its WAL is given; `beta` and `gamma` stream from it.
fn cluster(ends: [u64; 3]) -> Vec<Viewpoint> {
    let own = |at: usize| {
        let serving = if at == 0 { Serving::Primary } else { Serving::Standby };
        let mut view = view(serving, 7, 1, ends[at]);
        let received =
            Receiver { from: Some("alpha".to_owned()), address: "a".into(), message_age_ms: Some(5), told: None };
        view.receiver = (at != 0).then_some(received);
        view
    };
    let contact = |at: usize| if at == 0 { Contact::Primary } else { Contact::Standby { received: None } };
    let point = |at: usize| Viewpoint {
        node: NODES[at].to_owned(),
        kind: NodeKind::Node,
        seen: fact(Observation {
            cluster: "main".to_owned(),
            node: NODES[at].to_owned(),
            kind: NodeKind::Node,
            at: "now".to_owned(),
            own: fact(own(at)),
            others: (0..3)
                .filter(|it| *it != at)
                .map(|it| other(NODES[it], fact(contact(it)), fact(own(it))))
                .collect(),
            archives: vec![holder(NODES[at], &[])],
            fenced: Vec::new(),
            missing: Vec::new(),
        }),
    };
    let witness = Viewpoint { node: "w".to_owned(), kind: NodeKind::Witness, seen: unknown() };
    (0..3).map(point).chain([witness]).collect()
}

fn explained(points: &[Viewpoint]) -> Explanation {
    explain("main", points, &BTreeSet::new(), &policy())
}

fn rules(explanation: &Explanation, of: impl Fn(&Candidate) -> Option<&Answer>) -> Vec<&str> {
    explanation.candidates.iter().map(|one| of(one).map_or("-", |answer| answer.name.as_str())).collect()
}

#[test]
fn the_one_with_more_wal_would_win_and_what_only_the_primary_has_would_be_lost() {
    let explanation = explained(&cluster([3 * MIB + 500, 3 * MIB + 100, 3 * MIB + 300]));
    assert_eq!(explanation.gone, ["alpha"]);
    assert_eq!(rules(&explanation, |one| one.now.as_ref()), ["already-primary", "primary-alive", "primary-alive", "-"]);
    assert_eq!(rules(&explanation, |one| one.then.as_ref()), ["-", "better-node", "go", "-"]);
    assert_eq!(explanation.winner.as_deref(), Some("gamma"));
    let loss = explanation.candidates[2].then.as_ref().and_then(|then| then.loss.clone());
    let loss = loss.expect("because it goes");
    assert_eq!((loss.bytes, loss.unknown.as_slice()), (200, [].as_slice()));
    assert_eq!(loss.held_by, ["alpha up to 0/3001F4"]);
}

#[test]
fn of_two_that_have_the_same_the_first_wins_and_nothing_is_lost() {
    let explanation = explained(&cluster([3 * MIB, 3 * MIB, 3 * MIB]));
    assert_eq!(explanation.winner.as_deref(), Some("beta"));
    let loss = explanation.candidates[1].then.as_ref().and_then(|then| then.loss.clone());
    assert_eq!(loss, Some(Loss::default()));
}

#[test]
fn who_cannot_be_asked_is_no_candidate_and_says_why() {
    let mut points = cluster([3 * MIB, 3 * MIB, 3 * MIB]);
    points[1].seen = unknown();
    let explanation = explained(&points);
    assert_eq!(explanation.candidates[1].unasked.as_deref(), Some("no answer"));
    assert_eq!(explanation.winner.as_deref(), Some("gamma"));
}

#[test]
fn any_node_may_be_supposed_to_be_gone() {
    let gone: BTreeSet<String> = ["alpha", "beta"].map(str::to_owned).into();
    let explanation = explain("main", &cluster([3 * MIB, 3 * MIB, 3 * MIB]), &gone, &policy());
    assert_eq!(rules(&explanation, |one| one.then.as_ref()), ["-", "-", "go", "-"]);
    // What only the files of the other standby could have given is not there either.
    let ahead = explain("main", &cluster([3 * MIB, 3 * MIB + 64, 3 * MIB]), &gone, &policy());
    let loss = ahead.candidates[2].then.as_ref().and_then(|then| then.loss.clone()).expect("because it goes");
    assert_eq!((loss.bytes, loss.held_by.len()), (64, 1));
}

#[test]
fn a_primary_that_is_gone_already_needs_no_supposition() {
    let mut points = cluster([3 * MIB, 3 * MIB, 3 * MIB]);
    points[0].seen = unknown();
    for point in &mut points[1..3] {
        let Known::Is(seen) = &mut point.seen.known else { panic!("they saw something") };
        *seen = suppose(seen, &["alpha".to_owned()].into());
    }
    let explanation = explained(&points);
    assert!(explanation.gone.is_empty());
    assert_eq!(rules(&explanation, |one| one.now.as_ref()), ["-", "go", "go", "-"]);
    assert_eq!(explanation.winner.as_deref(), Some("beta"));
}
