//! The cluster as one picture: what was seen of every node, put together. Pure.
//!
//! [`Watched`] is what was gathered; [`View::of`] makes the picture: who is the primary, who follows whom, how far
//! each node is on every path. `--json`, `/status.json` and the page all show this one form. Whether something is wrong
//! is judged in `judge`. What is not known stays `null` here and is never shown as a zero.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::observation::{Look, Observation, Sight, as_text};
use super::registry::{Copied, Pause, Registry, kind_word};
use super::report::Report;
use super::tide::Tide;
use crate::config::{Node, NodeKind};
use crate::wal::{Lsn, TimelineId};

pub mod lag;
pub mod upstream;

pub use lag::{Hop, Lag, Mark};

/// A node of the configuration and what was seen of it.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What the configuration says of it.
    pub node: Node,
    /// What a look at its server brought.
    pub look: Look,
    /// The registry as its server holds it; none: no such schema there, or not asked.
    pub registry: Option<Registry>,
    /// What is known of it at first hand, because it is this node; goes before what its registry says.
    pub own_report: Option<Report>,
}

impl Watched {
    /// What its server says as one of this cluster. That of a witness is none: it takes writes, and they mean nothing.
    pub fn member(&self) -> Option<&Observation> {
        self.look.sight.seen().filter(|_| self.node.kind != NodeKind::Witness)
    }

    /// Of what its server keeps a copy, where it is a witness's.
    fn copied(&self) -> Option<&Copied> {
        self.registry.as_ref().and_then(|registry| registry.copied.as_ref())
    }
}

/// The picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// The version of this form: 1.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The node that looked.
    pub observer: String,
    /// When, by its clock, with offset (RFC 3339).
    pub time: String,
    /// The same in seconds since 1970.
    pub epoch: f64,
    /// The node that is the primary; none: none answers as one.
    pub primary: Option<String>,
    /// Other nodes that take writes too.
    pub rivals: Vec<String>,
    /// What every distance is measured from.
    pub reference: Option<Reference>,
    /// The pause, while there is one.
    pub pause: Option<Pause>,
    /// How far the monitor's schema is; none: it could not be read, or is not there.
    pub schema: Option<i32>,
    /// `synchronous_standby_names` of the primary.
    pub synchronous_standby_names: Option<String>,
    /// Every node of the configuration, in its order.
    pub nodes: Vec<NodeView>,
    /// Nodes that are registered and not in the configuration.
    pub strangers: Vec<String>,
}

/// The position that distances are measured from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reference {
    /// The node that has it.
    pub node: String,
    /// How far it is.
    #[serde(serialize_with = "lsn")]
    pub lsn: Lsn,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// True where it is the primary's own, now; false where no primary answers and this is the furthest that is known.
    pub live: bool,
}

/// What a node does, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Standby,
    /// Holds an archive and no server.
    Dr,
    /// Votes and holds no data.
    Witness,
    /// It has a server that did not answer.
    Unknown,
}

impl Role {
    /// The word for people and for events.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::Dr => "dr",
            Role::Witness => "witness",
            Role::Unknown => "unknown",
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    pub name: String,
    /// Its number; none: not registered, or unknown.
    pub id: Option<i32>,
    /// `node`, `dr` or `witness`, as configured.
    pub kind: &'static str,
    pub role: Role,
    /// The role it is registered with; none: not registered, or unknown.
    pub registered: Option<String>,
    /// The node that the registry says it follows.
    pub registered_upstream: Option<String>,
    /// `running`, `no server`, or how it failed to answer.
    pub state: &'static str,
    /// What came instead of an answer.
    pub trouble: Option<String>,
    /// For how long it has not answered, in seconds.
    pub unseen_seconds: f64,
    /// How long its answer took, in seconds.
    pub answer_seconds: f64,
    /// `server_version_num`
    pub version: Option<u32>,
    pub timeline: Option<TimelineId>,
    /// As text, for it is larger than what a script may hold as a number.
    pub system_identifier: Option<String>,
    /// How long the server has been up, in seconds.
    pub up_seconds: Option<f64>,
    /// The node it follows.
    pub upstream: Option<String>,
    /// `streaming`, `archive` (it replays what its archive brings), or none.
    pub replication: Option<&'static str>,
    /// `async`, `potential`, `sync` or `quorum`, as its upstream says.
    pub sync_state: Option<String>,
    /// The slot it streams through.
    pub slot: Option<String>,
    /// True while replay is paused.
    pub replay_paused: bool,
    /// `recovery_min_apply_delay`, in seconds; none: none.
    pub apply_delay_seconds: Option<f64>,
    /// How long ago the last replayed transaction was committed, by the standby's clock, in seconds.
    pub replayed_age_seconds: Option<f64>,
    /// How far it is behind on each path.
    pub lag: Lag,
    /// `pg_stat_archiver`, where the node archives.
    pub archiver: Option<ArchiverView>,
    pub slots: Vec<SlotView>,
    /// What its daemon said last.
    pub report: Option<Report>,
    /// How old that is, in seconds; none: there is no report.
    pub report_age_seconds: Option<f64>,
    /// The server of a witness, where it has one that answers.
    pub witness: Option<WitnessView>,
}

/// The server of a witness.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WitnessView {
    /// True where it follows another server, which a witness must not.
    pub in_recovery: bool,
    /// How old the copy of the registry is that it keeps, in seconds; none: it keeps none.
    pub copy_age_seconds: Option<f64>,
}

/// The archiver of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArchiverView {
    pub archived: u64,
    pub failed: u64,
    pub last_archived: Option<String>,
    pub last_archived_age_seconds: Option<f64>,
    pub last_failed: Option<String>,
    /// True where the last failure is newer than the last success.
    pub failing: bool,
    /// Files that wait; none: not asked, or not allowed to.
    pub ready: Option<u64>,
    /// The age of the oldest of them.
    pub ready_age_seconds: Option<f64>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotView {
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How much WAL it holds back, in bytes; none: none yet.
    pub retained_bytes: Option<u64>,
    /// How much may still be written before it is in danger, in bytes; none: without limit.
    pub safe_bytes: Option<i64>,
}

impl View {
    /// Puts the picture together. `tide` knows where the primary was when, as far as anybody remembers.
    pub fn of(cluster: &str, observer: &str, at: SystemTime, watched: &[Watched], tide: &Tide) -> View {
        let (primary, rivals) = primaries(watched);
        let registry = registry(watched, primary);
        let reference = reference(watched, primary, tide);
        let measure = lag::Measure { reference: reference.as_ref(), tide, at };
        let upstreams = upstream::of_all(watched);
        let mut nodes: Vec<NodeView> = (0..watched.len())
            .map(|at| node_view(&watched[at], registry, upstreams[at].as_ref(), watched, &measure))
            .collect();
        lag::add_hops(&mut nodes);
        let name = |at: usize| watched[at].node.name.clone();
        let known = |name: &str| watched.iter().any(|one| one.node.name == name);
        let registered = registry.map(|registry| registry.nodes.as_slice()).unwrap_or_default();
        let strangers = registered.iter().filter(|node| !known(&node.name)).map(|node| node.name.clone()).collect();
        View {
            format: 1,
            cluster: cluster.to_owned(),
            observer: observer.to_owned(),
            time: rfc3339(at),
            epoch: seconds(at),
            primary: primary.map(name),
            rivals: rivals.into_iter().map(name).collect(),
            reference,
            pause: registry.and_then(|registry| registry.pause.clone()),
            schema: registry.map(|registry| registry.version),
            synchronous_standby_names: primary
                .and_then(|at| watched[at].member())
                .map(|seen| seen.synchronous_standby_names.clone()),
            nodes,
            strangers,
        }
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// The primary, and the others that take writes. Of several the one that its own copy of the registry confirms counts,
/// and of several of those the newest timeline: a node that was promoted behind our back is not confirmed, and one that
/// was the primary long ago is on an older timeline.
fn primaries(watched: &[Watched]) -> (Option<usize>, Vec<usize>) {
    let writable = |at: &usize| watched[*at].member().is_some_and(|seen| !seen.in_recovery);
    let all: Vec<usize> = (0..watched.len()).filter(writable).collect();
    let weight = |at: &usize| {
        let one = &watched[*at];
        let confirmed = one.registry.as_ref().is_some_and(|registry| registry.confirms_primary(&one.node.name));
        let seen = one.member();
        (confirmed, seen.map(|seen| seen.timeline), seen.and_then(|seen| seen.position))
    };
    let chosen = all.iter().copied().max_by_key(weight);
    (chosen, all.into_iter().filter(|at| Some(*at) != chosen).collect())
}

/// The primary's registry; without one that of any standby, and last the copy that a witness keeps.
fn registry(watched: &[Watched], primary: Option<usize>) -> Option<&Registry> {
    let own = primary.and_then(|at| watched[at].registry.as_ref());
    let of = |witness: bool| {
        let them = watched.iter().filter(move |one| (one.node.kind == NodeKind::Witness) == witness);
        them.filter(move |one| !witness || one.copied().is_some()).find_map(|one| one.registry.as_ref())
    };
    own.or_else(|| of(false)).or_else(|| of(true))
}

fn reference(watched: &[Watched], primary: Option<usize>, tide: &Tide) -> Option<Reference> {
    let of = |one: &Watched, live: bool| {
        let seen = one.member()?;
        Some(Reference { node: one.node.name.clone(), lsn: seen.reach()?, timeline: seen.timeline, live })
    };
    if let Some(live) = primary.and_then(|at| of(&watched[at], true)) {
        return Some(live);
    }
    let furthest = watched.iter().filter_map(|one| of(one, false)).max_by_key(|one| (one.timeline, one.lsn))?;
    // The primary may have been further before it went.
    let last = tide.newest().map(|(_, lsn)| lsn).filter(|lsn| *lsn > furthest.lsn);
    Some(Reference { lsn: last.unwrap_or(furthest.lsn), ..furthest })
}

fn node_view(
    one: &Watched,
    registry: Option<&Registry>,
    followed: Option<&upstream::Followed>,
    all: &[Watched],
    measure: &lag::Measure<'_>,
) -> NodeView {
    let name = &one.node.name;
    let registered = registry.and_then(|registry| registry.node(name));
    let (seen, server) = (one.member(), one.look.sight.seen());
    let (state, trouble) = match &one.look.sight {
        Sight::NoServer => ("no server", None),
        Sight::Seen(_) => ("running", None),
        Sight::Unseen { how, why } => (how.word(), Some(why.clone())),
    };
    let (report, report_age_seconds) = report(one, registry);
    let sender = followed.and_then(|followed| followed.sender(all));
    let lag = measure.node(one, seen, sender, report.as_ref());
    NodeView {
        name: name.clone(),
        id: registered.map(|node| node.id).or(one.node.id),
        kind: kind_word(one.node.kind),
        role: role(one),
        registered: registered.map(|node| node.role.clone()),
        registered_upstream: registered.and_then(|node| registry?.name_of(node.upstream_id?)).map(str::to_owned),
        state,
        trouble,
        unseen_seconds: one.look.unseen_for.as_secs_f64(),
        answer_seconds: one.look.took.as_secs_f64(),
        version: server.map(|server| server.version),
        timeline: seen.map(|seen| seen.timeline),
        system_identifier: server.map(|server| server.system_identifier.0.to_string()),
        up_seconds: server.map(|server| (seconds(one.look.at) - server.started).max(0.0)),
        upstream: followed.map(|followed| all[followed.upstream].node.name.clone()),
        replication: replication(seen, sender.is_some()),
        sync_state: sender.and_then(|sender| sender.sync_state.clone()),
        slot: seen.and_then(|seen| seen.receiver.as_ref()).and_then(|receiver| receiver.slot.clone()),
        replay_paused: seen.and_then(|seen| seen.pause.as_deref()).is_some_and(|pause| pause != "not paused"),
        apply_delay_seconds: seen.map(|seen| seen.delay).filter(|delay| *delay > 0.0),
        replayed_age_seconds: seen.and_then(|seen| seen.replayed_age),
        lag,
        archiver: seen.filter(|seen| seen.archive_mode != "off").map(archiver),
        slots: seen.map(slots).unwrap_or_default(),
        report,
        report_age_seconds,
        witness: server.filter(|_| one.node.kind == NodeKind::Witness).map(|server| WitnessView {
            in_recovery: server.in_recovery,
            copy_age_seconds: one.copied().map(|copied| copied.age),
        }),
    }
}

fn role(one: &Watched) -> Role {
    match (&one.look.sight, one.node.kind) {
        (_, NodeKind::Witness) => Role::Witness,
        (Sight::Seen(seen), _) if seen.in_recovery => Role::Standby,
        (Sight::Seen(_), _) => Role::Primary,
        (Sight::NoServer, NodeKind::Dr) => Role::Dr,
        _ => Role::Unknown,
    }
}

/// How WAL comes to a standby. One that does not answer still streams where its upstream says so.
fn replication(seen: Option<&Observation>, sent: bool) -> Option<&'static str> {
    match seen {
        Some(seen) if !seen.in_recovery => None,
        Some(seen) => Some(if seen.is_streaming() { "streaming" } else { "archive" }),
        None => sent.then_some("streaming"),
    }
}

fn report(one: &Watched, registry: Option<&Registry>) -> (Option<Report>, Option<f64>) {
    let told = registry.and_then(|registry| registry.reports.get(&one.node.name));
    match (&one.own_report, told) {
        (Some(own), _) => (Some(own.clone()), Some(0.0)),
        (None, Some(told)) => (told.report.clone(), Some(told.age)),
        (None, None) => (None, None),
    }
}

fn archiver(seen: &Observation) -> ArchiverView {
    let archiver = &seen.archiver;
    let ready = seen.ready.as_ref().and_then(|ready| ready.as_ref().ok());
    ArchiverView {
        archived: archiver.archived,
        failed: archiver.failed,
        last_archived: archiver.last_archived.clone(),
        last_archived_age_seconds: archiver.last_archived_age,
        last_failed: archiver.last_failed.clone(),
        failing: match (archiver.last_failed_age, archiver.last_archived_age) {
            (Some(failed), Some(archived)) => failed < archived,
            (failed, _) => failed.is_some(),
        },
        ready: ready.map(|ready| ready.files),
        ready_age_seconds: ready.and_then(|ready| ready.oldest.as_ref()).map(|(_, age)| *age),
    }
}

fn slots(seen: &Observation) -> Vec<SlotView> {
    let reach = seen.reach();
    let view = |slot: &super::observation::Slot| SlotView {
        name: slot.name.clone(),
        kind: slot.kind.clone(),
        active: slot.active,
        wal_status: slot.wal_status.clone(),
        retained_bytes: reach.zip(slot.restart).map(|(reach, restart)| reach.0.saturating_sub(restart.0)),
        safe_bytes: slot.safe,
    };
    seen.slots.iter().filter(|slot| !slot.temporary).map(view).collect()
}

fn lsn<S: serde::Serializer>(lsn: &Lsn, into: S) -> Result<S::Ok, S::Error> {
    as_text::serialize(&Some(*lsn), into)
}

/// Seconds since 1970.
pub fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// A moment with offset.
pub fn rfc3339(at: SystemTime) -> String {
    chrono::DateTime::<chrono::Local>::from(at).to_rfc3339_opts(chrono::SecondsFormat::Millis, false)
}

#[cfg(test)]
pub mod tests;
