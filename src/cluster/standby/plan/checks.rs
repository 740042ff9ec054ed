//! What must hold before anything is touched. Each condition says what to do where it does not.

use super::layout::Layout;
use crate::cluster::standby::StandbyError;
use crate::cluster::standby::facts::{Activity, Data, Directory, Facts, Own};
use crate::cluster::standby::lineage::Relation;
use crate::cluster::standby::request::{Request, Source};
use crate::postgres::own_settings;
use crate::wal::{SystemId, TimelineId};

/// So much stays free beside a copy, in bytes.
const ROOM_KEPT: u64 = 64 << 20;

/// Nothing is put under a running server.
pub fn server_is_down(own: &Own) -> Result<(), StandbyError> {
    let pgdata = own.pgdata.display();
    let (what, hint) = match &own.server {
        Activity::Down => return Ok(()),
        Activity::Standby(_) => (
            "a standby",
            "Stop it first ('pg_ctl stop -m fast'); --follow changes the server that a running standby follows.",
        ),
        Activity::Primary(_) => {
            ("a primary", "Nothing was touched. Only a primary that was stopped and left behind can be made a standby.")
        }
        Activity::Silent(_) => ("a server", "Stop it first ('pg_ctl stop -m fast')."),
    };
    Err(StandbyError::refused(format!("{what} runs on '{pgdata}'"), hint))
}

/// A directory may be replaced where it holds nothing, or a standby of the same cluster.
pub fn replaceable(own: &Own, source: &Source, system: SystemId) -> Result<(), StandbyError> {
    if matches!((&own.directory, source), (Directory::HalfRestored, Source::Archive { .. })) {
        return Ok(());
    }
    let Some(data) = may_hold(own)? else { return Ok(()) };
    of_cluster(own, data, system)?;
    if data.is_standby() || data.half_rewound { Ok(()) } else { Err(is_primary(own)) }
}

/// What lies in the data directory must be a data directory, or nothing.
pub fn may_hold(own: &Own) -> Result<Option<&Data>, StandbyError> {
    match &own.directory {
        Directory::Absent | Directory::Empty => Ok(None),
        Directory::Data(data) => Ok(Some(data)),
        Directory::HalfRestored => Err(StandbyError::refused(
            format!("a restore into '{}' began and did not end", own.pgdata.display()),
            "'standby-init --from archive' goes on with it.",
        )),
        Directory::Strange(name) => Err(StandbyError::refused(
            format!("'{}' is no data directory and not empty: it holds '{name}'", own.pgdata.display()),
            "Look at what lies there, and empty it by hand if nobody needs it.",
        )),
    }
}

/// The data must be those of this cluster.
pub fn of_cluster(own: &Own, data: &Data, system: SystemId) -> Result<(), StandbyError> {
    let found = data.control.system_id;
    if found == system {
        return Ok(());
    }
    Err(StandbyError::refused(
        format!("'{}' holds another cluster: its system identifier is {found}, not {system}", own.pgdata.display()),
        "Name the right directory in the configuration, or move that one away by hand.",
    ))
}

/// A primary's data are not replaced: they may hold what nobody else has.
pub fn is_primary(own: &Own) -> StandbyError {
    StandbyError::refused(
        format!("the data in '{}' are those of a primary", own.pgdata.display()),
        "'standby-init --rejoin' brings a former primary back, and keeps what only it has.",
    )
}

/// A data directory that a server can be started on.
pub fn usable_data(own: &Own) -> Result<&Data, StandbyError> {
    let pgdata = own.pgdata.display();
    let data = may_hold(own)?.ok_or_else(|| {
        StandbyError::refused(format!("there is no data directory '{pgdata}'"), "'standby-init --from' makes one.")
    })?;
    if data.half_rewound {
        return Err(StandbyError::refused(
            format!("the data in '{pgdata}' are half rewound, and no server can use them"),
            "'standby-init --rejoin' replaces them.",
        ));
    }
    Ok(data)
}

/// Everybody must belong to the same cluster.
pub fn one_cluster(facts: &Facts, system: SystemId) -> Result<(), StandbyError> {
    let servers = facts.upstream.iter().chain(&facts.source).map(|it| (&it.node, it.there.system_id, "server"));
    let archives = facts.archives.iter().filter_map(|(node, id)| Some((node, *id.as_ref().ok()?, "archive")));
    match servers.chain(archives).find(|(_, found, _)| *found != system) {
        None => Ok(()),
        Some((node, found, what)) => Err(StandbyError::refused(
            format!("the {what} of {node} belongs to another cluster: its system identifier is {found}, not {system}"),
            "Correct the configuration: one of the nodes in it belongs elsewhere.",
        )),
    }
}

/// A kind of standby needs a server to stream from, or archives to restore from.
pub fn mode_is_possible(request: &Request, facts: &Facts) -> Result<(), StandbyError> {
    let mode = request.mode;
    if mode.starts() && !facts.own.reachable && mode.answers() {
        return Err(StandbyError::refused(
            format!("nobody can ask the server of {}: its conninfo is not set", facts.own.node),
            format!("Set node.{}.conninfo, so that it can be seen to work.", facts.own.node),
        ));
    }
    match (mode.streams(), &facts.upstream) {
        (true, None) => return Err(no_upstream(facts)),
        (true, Some(upstream)) if !upstream.may_replicate => {
            return Err(StandbyError::refused(
                format!("the role that we connect to {} as may not replicate", upstream.node),
                "Give it REPLICATION, or name one that has it: standby.user.",
            ));
        }
        (true, Some(upstream)) if upstream.wal_level == "minimal" => {
            return Err(StandbyError::refused(
                format!("wal_level of {} is minimal", upstream.node),
                "Set wal_level = replica there and restart it.",
            ));
        }
        _ => {}
    }
    if !mode.streams() && facts.commands.restore.is_none() {
        return Err(StandbyError::refused(
            format!("a {mode} standby lives on shipped WAL, and restore.from names no archive"),
            "Give a node an archive, or take --mode streaming.",
        ));
    }
    Ok(())
}

/// Nobody to stream from.
pub fn no_upstream(facts: &Facts) -> StandbyError {
    let said = |(node, answer): &(String, Result<_, String>)| match answer {
        Ok::<crate::cluster::standby::facts::There, _>(there) => {
            format!("{node} is a {}", if there.primary { "primary" } else { "standby" })
        }
        Err(why) => format!("{node}: {why}"),
    };
    let all: Vec<String> = facts.others.iter().map(said).collect();
    let all = if all.is_empty() { "no other node has a server".to_owned() } else { all.join("; ") };
    StandbyError::refused(
        format!("there is no primary to stream from: {all}"),
        "Name the server with --upstream, or take --mode hot to live on shipped WAL alone.",
    )
}

/// Our settings must come through: a person's files are not edited.
pub fn settings_will_hold(own: &Own, copied: bool) -> Result<(), StandbyError> {
    let reads = &own.reads;
    let file = reads.file.display();
    if copied && !reads.outside {
        return Ok(());
    }
    if !reads.included {
        return Err(StandbyError::refused(
            format!("'{file}' does not include our settings, and it is not ours to edit"),
            format!("Put this line at its end: {}", own_settings::include_line(&own.pgdata)),
        ));
    }
    if copied || reads.auto.is_empty() {
        return Ok(());
    }
    Err(StandbyError::refused(
        format!("postgresql.auto.conf of '{}' sets {}, and would win", own.pgdata.display(), reads.auto.join(", ")),
        "Take these out: ALTER SYSTEM RESET on a running server, or by hand where it is stopped.",
    ))
}

/// There must be room for a copy before it begins.
pub fn room(own: &Own, layout: &Layout) -> Result<(), StandbyError> {
    let needed = layout.size.saturating_add(ROOM_KEPT);
    if own.free >= needed {
        return Ok(());
    }
    Err(StandbyError::refused(
        format!(
            "'{}' has {} MiB free, and the copy takes {} MiB",
            layout.folder.display(),
            own.free >> 20,
            needed >> 20
        ),
        "Free space there; what is replaced is removed only after the copy has proven itself.",
    ))
}

/// The data cannot go on behind that server.
pub fn not_on_the_way(relation: Relation, node: &str) -> StandbyError {
    let (reason, hint) = match relation {
        Relation::Diverged(fork) => (
            format!("the data hold changes beyond {} on timeline {}, where {node} left", fork.at, fork.timeline),
            "Stop the server; 'standby-init --rejoin' takes them back, and keeps them aside.",
        ),
        Relation::Surplus(fork) => (
            format!("pg_wal holds WAL beyond {} on timeline {}, where {node} left", fork.at, fork.timeline),
            "Stop the server; 'standby-init --rejoin' keeps that WAL aside and goes on.",
        ),
        Relation::LeftBehind(fork) => (
            format!("{node} is still on timeline {}, which this node left at {}", fork.timeline, fork.at),
            "Follow the server that this node's timeline comes from; 'standby-init --rejoin' on the one left behind.",
        ),
        Relation::Strangers | Relation::OnTheWay(_) => {
            (format!("the data share no timeline with {node}"), "Make a new copy with 'standby-init --from'.")
        }
    };
    StandbyError::refused(reason, hint)
}

/// A timeline whose history nobody here has.
pub fn no_history(timeline: TimelineId) -> StandbyError {
    StandbyError::refused(
        format!("the history of timeline {timeline} is neither in the own pg_wal nor in an archive"),
        "Copy it there from the server that began it, or make a new copy with 'standby-init --from'.",
    )
}

/// What nobody must do anything about, and should know.
pub fn notes(request: &Request, facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(slot), Some(upstream)) = (&request.slot, &facts.upstream)
        && !upstream.slots_bounded
    {
        let node = &upstream.node;
        notes.push(format!("slot '{slot}' holds back WAL on {node} without bound; max_slot_wal_keep_size bounds it"));
    }
    for (node, answer) in &facts.others {
        if let Err(why) = answer {
            notes.push(format!("{node} did not say what it is: {why}"));
        }
    }
    for (node, answer) in &facts.archives {
        if let Err(why) = answer {
            notes.push(format!("the archive of {node} cannot be used now: {why}"));
        }
    }
    notes
}
