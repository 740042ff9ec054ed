//! What a server is to the cluster manager, and what every node is worth: tables.

use super::*;

use Found::{Mute, Orphans, Primary, Standby, Stopped, Waiting};
use RepMode::{Async, Follower, None as Single, Sync};

fn nodes(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn sender(name: &str, state: &str, sync: &str, flushed: u64) -> Sender {
    Sender { name: name.to_owned(), state: state.to_owned(), sync: sync.to_owned(), flushed: Some(Lsn(flushed)) }
}

/// Each state in each mode, asked again and again and as a probe.
#[test]
fn every_state_has_its_code() {
    let (stopped, crashed) = (Stopped { crashed: false }, Stopped { crashed: true });
    #[rustfmt::skip]
    let table = [
        //               none  foll. async sync  probe (async)
        (stopped,        [7,   7,    7,    7,    7]),
        (crashed,        [7,   7,    9,    9,    7]),
        (Waiting,        [1,   0,    0,    0,    0]),
        (Standby,        [0,   0,    0,    0,    0]),
        (Primary,        [0,   1,    8,    8,    8]),
        (Orphans,        [1,   1,    1,    1,    1]),
        (Mute,           [1,   1,    1,    1,    1]),
    ];
    for (found, codes) in table {
        let seen = [(Single, false), (Follower, false), (Async, false), (Sync, false), (Async, true)];
        let seen = seen.map(|(mode, probe)| monitor(mode, found, probe).code());
        assert_eq!(seen, codes, "{found:?}");
    }
}

#[test]
fn the_primary_tells_what_every_standby_is_worth() {
    #[rustfmt::skip]
    let table = [
        // mode  state        sync         status          data                    score
        (Async, "streaming", "async",     "HS:async",     "STREAMING|ASYNC",      "100"),
        (Async, "streaming", "quorum",    "HS:sync",      "STREAMING|QUORUM",     "100"),
        (Async, "catchup",   "async",     "HS:connected", "CATCHUP|ASYNC",        "-INFINITY"),
        (Async, "backup",    "async",     "HS:connected", "BACKUP|ASYNC",         "-INFINITY"),
        (Async, "streaming", "potential", "HS:potential", "STREAMING|POTENTIAL",  "100"),
        (Sync,  "streaming", "sync",      "HS:sync",      "STREAMING|SYNC",       "100"),
        (Sync,  "streaming", "quorum",    "HS:sync",      "STREAMING|QUORUM",     "100"),
        (Sync,  "streaming", "async",     "HS:async",     "STREAMING|ASYNC",      "-INFINITY"),
        (Sync,  "streaming", "potential", "HS:potential", "STREAMING|POTENTIAL",  "-INFINITY"),
    ];
    for (mode, state, sync, status, data, score) in table {
        let found = classify(mode, &nodes(&["beta"]), &[sender("Beta", state, sync, 5)]);
        let words = (found[0].status.to_string(), found[0].data.to_string(), found[0].score.to_string());
        assert_eq!(words, (status.to_owned(), data.to_owned(), score.to_owned()), "{mode:?} {state} {sync}");
        assert_eq!((Status::of(status), Data::of(data)), (Some(found[0].status), Some(found[0].data.clone())));
    }
    let gone = classify(Async, &nodes(&["beta"]), &[sender("pg_basebackup", "backup", "async", 5)]);
    assert_eq!((gone[0].status, gone[0].data.to_string().as_str()), (Status::Alone, "DISCONNECT"));
    assert_eq!(gone[0].score, Score::Never);
}

/// With three nodes and more the one that has most comes first, also while the primary lives.
#[test]
fn whoever_has_most_comes_first() {
    let senders = [
        sender("beta", "streaming", "async", 5),
        sender("gamma", "streaming", "async", 9),
        sender("delta", "catchup", "async", 1),
    ];
    let found = classify(Async, &nodes(&["beta", "gamma", "delta", "epsilon"]), &senders);
    let scores: Vec<String> = found.iter().map(|it| it.score.to_string()).collect();
    assert_eq!(scores, ["99", "100", "-INFINITY", "-INFINITY"]);
}

#[test]
fn commits_wait_for_who_streams_and_for_nobody_where_nobody_does() {
    let all = nodes(&["beta", "gamma"]);
    let both = [sender("gamma", "streaming", "async", 1), sender("beta", "streaming", "async", 1)];
    assert_eq!(sync_names(&wait_for(&all, &both)), "FIRST 1 (\"beta\", \"gamma\")");
    assert_eq!(sync_names(&wait_for(&all, &both[..1])), "FIRST 1 (\"gamma\")");
    assert_eq!(sync_names(&wait_for(&all, &[sender("beta", "catchup", "async", 1)])), "");
}

fn candidate(node: &str, data: &str, at: Option<(u32, u64)>) -> Candidate {
    Candidate { node: node.to_owned(), data: Data::of(data), at: at.map(|(timeline, lsn)| (timeline, Lsn(lsn))) }
}

#[test]
fn where_no_primary_is_the_one_with_the_most_leads() {
    #[rustfmt::skip]
    let table = [
        // mode  own data              own at     another's data      at            score
        (Async, "",                   (1, 5),    "",                 Some((1, 4)), "1000"),
        (Async, "",                   (1, 5),    "",                 Some((1, 6)), "99"),
        // A timeline goes before a position.
        (Async, "LATEST",             (1, 9),    "STREAMING|ASYNC",  Some((2, 3)), "99"),
        (Async, "STREAMING|ASYNC",    (2, 3),    "LATEST",           Some((1, 9)), "1000"),
        // As much as the last primary: it goes first.
        (Async, "STREAMING|ASYNC",    (1, 5),    "LATEST",           Some((1, 5)), "99"),
        (Async, "LATEST",             (1, 5),    "STREAMING|ASYNC",  Some((1, 5)), "1000"),
        // Equal in everything: the first by name.
        (Async, "",                   (1, 5),    "",                 Some((1, 5)), "1000"),
        // Who was not connected when the primary last looked never leads, and counts for nothing.
        (Async, "DISCONNECT",         (1, 9),    "",                 None,         "-INFINITY"),
        (Async, "STREAMING|ASYNC",    (1, 5),    "DISCONNECT",       Some((1, 9)), "1000"),
        (Async, "CATCHUP|ASYNC",      (1, 5),    "",                 None,         "-INFINITY"),
        // Where commits wait, only who they waited for.
        (Sync,  "STREAMING|ASYNC",    (1, 5),    "",                 None,         "-INFINITY"),
        (Sync,  "STREAMING|SYNC",     (1, 5),    "STREAMING|ASYNC",  Some((1, 9)), "1000"),
        (Sync,  "STREAMING|QUORUM",   (1, 5),    "",                 None,         "1000"),
        (Follower, "",                   (1, 5),    "",                 None,         "-INFINITY"),
    ];
    for (mode, data, at, other, other_at, score) in table {
        let (own, others) = (candidate("alpha", data, Some(at)), [candidate("beta", other, other_at)]);
        assert_eq!(alone(mode, &own, &others).to_string(), score, "{mode:?} {own:?} {others:?}");
    }
    assert_eq!(alone(Async, &candidate("alpha", "", None), &[]), Score::Never);
}

#[test]
fn positions_survive_as_text_and_compare_as_text() {
    let (low, high) = ((9, Lsn(0x1_0000_0000)), (10, Lsn(5)));
    assert_eq!(parse_location(&location(low)), Some(low));
    assert!(location(low) < location(high));
    assert_eq!(parse_location("nonsense"), None);
}

#[test]
fn a_list_of_members_without_the_one_that_asks_says_nothing_of_the_others() {
    let others = [Name { member: "db2".to_owned(), node: "beta".to_owned() }];
    let gone = |members: &str| lost(members, "db1", others.iter());
    assert_eq!(gone("DB1 db2\n"), Some(BTreeSet::new()));
    assert_eq!(gone("db1"), Some(BTreeSet::from(["beta".to_owned()])));
    assert_eq!((gone(""), gone("db3 db2")), (None, None));
}
