//! The pure part: what a server is to the cluster manager, and what every node is worth.
//!
//! The four states are those of the first proposal for this agent: stopped; started and not serving; a hot standby; the
//! primary. A first primary goes through all of them, and no state is pretended: the second is that of a server that is
//! up and recovers, without sessions. The words of the attributes and the scores are those of `heartbeat:pgsql`.

use std::collections::BTreeSet;
use std::fmt;

use super::ocf::Ocf;
use super::parameters::{Name, RepMode};
use crate::wal::Lsn;

/// The score of the primary, and of who is to become it.
pub const PRIMARY: i32 = 1000;

/// The score of a standby that may be promoted; each one that is behind another gets one less.
pub const PROMOTABLE: i32 = 100;

/// The lowest score that still is one: less would mean never.
pub const LEAST: i32 = 1;

/// What is found of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing works in the data directory. `crashed`: it was the primary and did not shut down.
    Stopped { crashed: bool },
    /// It is up and recovers, and takes no sessions yet.
    Waiting,
    /// A hot standby.
    Standby,
    /// It takes writes.
    Primary,
    /// Its postmaster is gone, other processes are not.
    Orphans,
    /// It is up and cannot be asked.
    Mute,
}

/// What a monitor answers.
pub fn monitor(mode: RepMode, found: Found, probe: bool) -> Ocf {
    match (mode, found) {
        (_, Found::Stopped { crashed: true }) if mode.promotable() && !probe => Ocf::FailedPromoted,
        (_, Found::Stopped { .. }) => Ocf::NotRunning,
        (_, Found::Orphans | Found::Mute) => Ocf::Generic,
        (RepMode::None, Found::Standby | Found::Primary) => Ocf::Success,
        // Nobody promotes a plain server, so one that only recovers serves nobody.
        (RepMode::None, Found::Waiting) => Ocf::Generic,
        (RepMode::Follower, Found::Primary) => Ocf::Generic,
        (_, Found::Waiting | Found::Standby) => Ocf::Success,
        (_, Found::Primary) => Ocf::Promoted,
    }
}

/// What a node is, in `RESOURCE-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Primary,
    Sync,
    Async,
    Potential,
    Connected,
    Alone,
    Stop,
    Unknown,
}

const STATUSES: &[(Status, &str)] = &[
    (Status::Primary, "PRI"),
    (Status::Sync, "HS:sync"),
    (Status::Async, "HS:async"),
    (Status::Potential, "HS:potential"),
    (Status::Connected, "HS:connected"),
    (Status::Alone, "HS:alone"),
    (Status::Stop, "STOP"),
    (Status::Unknown, "UNKNOWN"),
];

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STATUSES.iter().find(|(status, _)| status == self).map_or("", |(_, word)| word))
    }
}

impl Status {
    /// The status of that word.
    pub fn of(word: &str) -> Option<Status> {
        STATUSES.iter().find(|(_, name)| *name == word).map(|(status, _)| *status)
    }
}

/// What the data of a node were worth when the primary last looked, in `RESOURCE-data-status`; it outlives a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// The primary's own.
    Latest,
    /// Connected: state and sync state as `pg_stat_replication` has them, in capitals.
    Connected { state: String, sync: String },
    /// Not connected.
    Disconnect,
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Latest => f.write_str("LATEST"),
            Data::Connected { state, sync } => write!(f, "{state}|{sync}"),
            Data::Disconnect => f.write_str("DISCONNECT"),
        }
    }
}

impl Data {
    /// The data status of those words.
    pub fn of(words: &str) -> Option<Data> {
        match (words, words.split_once('|')) {
            ("LATEST", _) => Some(Data::Latest),
            ("DISCONNECT", _) => Some(Data::Disconnect),
            (_, Some((state, sync))) => Some(Data::Connected { state: state.to_owned(), sync: sync.to_owned() }),
            _ => None,
        }
    }

    /// True where a node with such data may become the primary when there is none.
    fn may_lead(&self, mode: RepMode) -> bool {
        match self {
            Data::Latest => true,
            Data::Disconnect => false,
            Data::Connected { state, sync } => state == "STREAMING" && (is_sync(sync) || mode == RepMode::Async),
        }
    }
}

/// A quorum of standbys confirms as well as one that is named (sync_state `quorum`).
fn is_sync(sync: &str) -> bool {
    matches!(sync, "SYNC" | "QUORUM")
}

/// A score: never, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Score {
    Never,
    Of(i32),
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Score::Never => f.write_str("-INFINITY"),
            Score::Of(score) => write!(f, "{score}"),
        }
    }
}

/// One row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// `application_name`: the standby, as pgwarm calls it.
    pub name: String,
    /// `state`
    pub state: String,
    /// `sync_state`
    pub sync: String,
    /// Up to where it has it durably (`flush_lsn`).
    pub flushed: Option<Lsn>,
}

/// What the primary says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The node, as pgwarm calls it.
    pub node: String,
    pub status: Status,
    pub data: Data,
    pub score: Score,
}

/// What the primary says of the other nodes.
pub fn classify(mode: RepMode, nodes: &[String], senders: &[Sender]) -> Vec<Verdict> {
    let of = |node: &String| senders.iter().filter(|it| same(&it.name, node)).max_by_key(|it| it.state == "streaming");
    let may_lead = |sender: &Sender| data(sender).may_lead(mode);
    // Whoever has least is asked last.
    let mut order: Vec<&Sender> = nodes.iter().filter_map(of).filter(|sender| may_lead(sender)).collect();
    order.sort_by_key(|sender| std::cmp::Reverse(sender.flushed));
    let verdict = |node: &String| {
        let Some(sender) = of(node) else {
            return Verdict { node: node.clone(), status: Status::Alone, data: Data::Disconnect, score: Score::Never };
        };
        let rank = order.iter().position(|it| same(&it.name, node));
        Verdict {
            node: node.clone(),
            status: status(sender),
            data: data(sender),
            score: rank.map_or(Score::Never, |rank| Score::Of(less(PROMOTABLE, rank))),
        }
    };
    nodes.iter().map(verdict).collect()
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn data(sender: &Sender) -> Data {
    Data::Connected { state: sender.state.to_uppercase(), sync: sender.sync.to_uppercase() }
}

fn status(sender: &Sender) -> Status {
    match (sender.state.as_str(), sender.sync.as_str()) {
        ("streaming", "sync" | "quorum") => Status::Sync,
        ("streaming", "async") => Status::Async,
        ("streaming", "potential") => Status::Potential,
        _ => Status::Connected,
    }
}

fn less(score: i32, rank: usize) -> i32 {
    score.saturating_sub(i32::try_from(rank).unwrap_or(score)).max(LEAST)
}

/// Whom commits wait for: every standby that streams, in the order of the list; nobody where there is none, for one
/// that is alone goes on.
pub fn wait_for(nodes: &[String], senders: &[Sender]) -> Vec<String> {
    let streaming: BTreeSet<&str> =
        senders.iter().filter(|it| it.state == "streaming").map(|it| it.name.as_str()).collect();
    nodes.iter().filter(|node| streaming.iter().any(|name| same(name, node))).cloned().collect()
}

/// `synchronous_standby_names` for them.
pub fn sync_names(nodes: &[String]) -> String {
    match nodes {
        [] => String::new(),
        _ => format!("FIRST 1 ({})", nodes.iter().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(", ")),
    }
}

/// A standby where no primary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node, as pgwarm calls it.
    pub node: String,
    /// What its data were worth; none: nobody ever said.
    pub data: Option<Data>,
    /// Its timeline and where its WAL ends; none: not told.
    pub at: Option<(u32, Lsn)>,
}

/// What a standby is worth where no primary is: the one with the most gets the score of a primary. Whether it may
/// really be promoted is decided when it is.
pub fn alone(mode: RepMode, own: &Candidate, others: &[Candidate]) -> Score {
    let leads = |it: &Candidate| it.data.as_ref().is_none_or(|data| data.may_lead(mode));
    if !mode.promotable() || !leads(own) || own.at.is_none() {
        return Score::Never;
    }
    let latest = |it: &Candidate| it.data == Some(Data::Latest);
    let worth = |it: &Candidate| (it.at, latest(it), std::cmp::Reverse(it.node.clone()));
    let rank = others.iter().filter(|it| leads(it) && worth(it) > worth(own)).count();
    Score::Of(if rank == 0 { PRIMARY } else { less(PROMOTABLE, rank) })
}

/// The nodes that are in the cluster no more, by its list of members. None where the list lacks the member that asks:
/// such a list is not the cluster's, and from an empty one everybody would be gone.
pub fn lost<'a>(members: &str, own: &str, others: impl Iterator<Item = &'a Name>) -> Option<BTreeSet<String>> {
    let there = |member: &str| members.split_whitespace().any(|it| same(it, member));
    there(own).then(|| others.filter(|name| !there(&name.member)).map(|name| name.node.clone()).collect())
}

/// A position with its timeline, as `RESOURCE-xlog-loc` holds it: eight digits and sixteen, so that they compare as
/// texts.
pub fn location((timeline, lsn): (u32, Lsn)) -> String {
    format!("{timeline:08X}#{:016X}", lsn.0)
}

/// Reads a position.
pub fn parse_location(text: &str) -> Option<(u32, Lsn)> {
    let (timeline, lsn) = text.split_once('#')?;
    Some((u32::from_str_radix(timeline, 16).ok()?, Lsn(u64::from_str_radix(lsn, 16).ok()?)))
}

#[cfg(test)]
mod tests;
