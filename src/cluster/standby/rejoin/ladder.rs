//! The ways back for a former primary, cheapest first, and which of them are open. Pure.
//!
//! Follow, follow with WAL of the archives, rewind, rewind with WAL of the archives, restore a backup, copy the
//! primary. A rung that is closed says why; the first open one is taken. Nothing here changes anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::standby::StandbyError;
use crate::cluster::standby::facts::{Data, Directory, Facts, Upstream};
use crate::cluster::standby::lineage::{Fork, Relation};
use crate::cluster::standby::plan::{self, Plan, checks, layout::Layout};
use crate::cluster::standby::request::{Request, Source};
use crate::cluster::standby::step::Step;
use crate::wal::Lsn;

/// A way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Go on behind the primary, which still has the WAL for it.
    Follow,
    /// The same, with WAL that only the archives still hold.
    FollowArchive,
    /// `pg_rewind`
    Rewind,
    /// `pg_rewind`, with own WAL that only the archives still hold.
    RewindArchive,
    /// Restore a backup.
    Restore,
    /// Copy the primary.
    Clone,
}

/// Every rung, from the bottom up.
pub const RUNGS: [Rung; 6] =
    [Rung::Follow, Rung::FollowArchive, Rung::Rewind, Rung::RewindArchive, Rung::Restore, Rung::Clone];

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Rung::Follow => "follow",
            Rung::FollowArchive => "follow-archive",
            Rung::Rewind => "rewind",
            Rung::RewindArchive => "rewind-archive",
            Rung::Restore => "restore",
            Rung::Clone => "clone",
        })
    }
}

/// What a rung costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// How much is read, written or sent at most, in bytes.
    pub bytes: u64,
    /// Of what.
    pub what: String,
}

/// A rung, and whether it is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Weighed {
    /// Which.
    pub rung: Rung,
    /// What it costs; none where it is closed.
    pub cost: Option<Cost>,
    /// Why it is closed.
    pub why: Option<String>,
}

/// Where WAL is that a rung needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// All of it is there.
    All,
    /// Some of it is missing, or cannot be told: what.
    Not(String),
}

/// Where a rewind would begin to read: the last checkpoint before the fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// The own `pg_wal` has it, and everything from there on.
    Local { redo: Lsn },
    /// The archives have what the own `pg_wal` lacks.
    Archives { segments: u64 },
    /// Nobody has it.
    Nowhere(String),
}

/// What is known beside the facts of every plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// How the data stand to the primary; or why nothing can be done with them.
    pub relation: Result<Relation, String>,
    /// True where the server was shut down in order.
    pub clean: bool,
    /// False: pages carry neither checksums nor logged hint bits, and `pg_rewind` refuses (wal_log_hints).
    pub hints: bool,
    /// The own WAL from the fork on, in bytes.
    pub beyond: u64,
    /// True where the primary's `pg_wal` reaches back to where these data end.
    pub upstream_reaches: bool,
    /// Whether the archives hold what lies between.
    pub archives_reach: Held,
    /// How much lies between here and there, in bytes.
    pub behind: u64,
    /// Where a rewind would begin.
    pub beginning: Beginning,
    /// Whether what a rewound server must replay is still somewhere.
    pub replayable: Held,
    /// Why `pg_rewind` cannot be used at all.
    pub no_rewind: Option<String>,
    /// Why the backup cannot be used.
    pub no_restore: Option<String>,
}

/// Every rung, weighed.
pub fn weigh(situation: &Situation, upstream: &Upstream, backup_size: Option<u64>) -> Vec<Weighed> {
    let open = |rung, bytes, what: &str| Weighed { rung, cost: Some(Cost { bytes, what: what.to_owned() }), why: None };
    let closed = |rung, why: String| Weighed { rung, cost: None, why: Some(why) };
    let weighed = |rung| match verdict(rung, situation, upstream) {
        Err(why) => closed(rung, why),
        Ok(()) => match rung {
            Rung::Follow => open(rung, situation.behind, "WAL to replay"),
            Rung::FollowArchive => open(rung, situation.behind, "WAL to fetch and replay"),
            Rung::Rewind => open(rung, situation.beyond, "own WAL taken back, and the pages it changed"),
            Rung::RewindArchive => {
                open(rung, situation.beyond, "own WAL taken back, some fetched first, and its pages")
            }
            Rung::Restore => open(rung, backup_size.unwrap_or_default(), "backup to write, then WAL to replay"),
            Rung::Clone => open(rung, upstream.size, "data to copy from the primary"),
        },
    };
    RUNGS.into_iter().map(weighed).collect()
}

/// Whether a rung is open, or why not.
fn verdict(rung: Rung, situation: &Situation, upstream: &Upstream) -> Result<(), String> {
    match rung {
        Rung::Follow | Rung::FollowArchive => {
            match situation.relation.clone()? {
                Relation::OnTheWay(_) | Relation::Surplus(_) => {}
                Relation::Diverged(fork) => return Err(format!("the data hold changes beyond {}", fork.at)),
                Relation::LeftBehind(_) | Relation::Strangers => return Err("the data are not on its way".to_owned()),
            }
            match (rung, situation.upstream_reaches, &situation.archives_reach) {
                (Rung::Follow, true, _) | (Rung::FollowArchive, _, Held::All) => Ok(()),
                (Rung::Follow, false, _) => Err(format!("{} no longer has the WAL from there on", upstream.node)),
                (_, _, Held::Not(what)) => Err(format!("the archives lack {what}")),
                (_, _, Held::All) => Ok(()),
            }
        }
        Rung::Rewind | Rung::RewindArchive => can_rewind(rung, situation),
        Rung::Restore => situation.no_restore.clone().map_or(Ok(()), Err),
        Rung::Clone if !upstream.may_replicate => Err("the role may not replicate".to_owned()),
        Rung::Clone => Ok(()),
    }
}

fn can_rewind(rung: Rung, situation: &Situation) -> Result<(), String> {
    match situation.relation.clone()? {
        Relation::Diverged(_) => {}
        Relation::OnTheWay(_) | Relation::Surplus(_) => return Err("there is nothing to take back".to_owned()),
        Relation::LeftBehind(_) | Relation::Strangers => return Err("the data are not on its way".to_owned()),
    }
    if !situation.hints {
        return Err("the data have neither checksums nor wal_log_hints".to_owned());
    }
    if let Some(why) = &situation.no_rewind {
        return Err(why.clone());
    }
    if let Held::Not(what) = &situation.replayable {
        return Err(format!("neither the primary nor an archive has {what}, which must be replayed afterwards"));
    }
    let with_archive = rung == Rung::RewindArchive;
    match &situation.beginning {
        Beginning::Local { .. } if with_archive => Err("the own pg_wal has everything".to_owned()),
        Beginning::Archives { .. } if !with_archive => {
            Err("the own pg_wal no longer reaches back to the checkpoint before the fork".to_owned())
        }
        Beginning::Local { .. } | Beginning::Archives { .. } => Ok(()),
        Beginning::Nowhere(what) => Err(format!("neither pg_wal nor an archive has {what}")),
    }
}

/// The plan: the lowest open rung, or the one that was asked for.
pub fn rejoin(
    request: &Request,
    only: Option<Rung>,
    facts: &Facts,
    situation: &Situation,
) -> Result<Plan, StandbyError> {
    checks::server_is_down(&facts.own)?;
    checks::mode_is_possible(request, facts)?;
    let upstream = facts.upstream.as_ref().ok_or_else(|| checks::no_upstream(facts))?;
    checks::one_cluster(facts, upstream.there.system_id)?;
    if !matches!(facts.own.directory, Directory::HalfRestored)
        && let Some(data) = checks::may_hold(&facts.own)?
    {
        checks::of_cluster(&facts.own, data, upstream.there.system_id)?;
    }
    if let Ok(relation @ Relation::LeftBehind(_)) = situation.relation {
        return Err(checks::not_on_the_way(relation, &upstream.node));
    }
    let rungs = weigh(situation, upstream, facts.backup.as_ref().map(|backup| backup.size));
    let chosen = rungs.iter().find(|it| it.cost.is_some() && only.is_none_or(|only| only == it.rung));
    let rung = chosen.map(|it| it.rung).ok_or_else(|| none_open(&rungs, only))?;
    let mut plan = Plan { notes: checks::notes(request, facts), rungs, ..Plan::default() };
    let copied = matches!(rung, Rung::Restore | Rung::Clone);
    if let Ok(Relation::Diverged(fork) | Relation::Surplus(fork)) = situation.relation {
        plan.steps.push(Step::KeepAside { from: fork.at });
    } else if situation.relation.is_err() && copied {
        plan.notes.push("what the old data hold beyond the fork is not known, so the old directory stays".to_owned());
    }
    match rung {
        Rung::Restore | Rung::Clone => {
            let source = match rung {
                Rung::Restore => Source::Archive { place: None, label: None },
                _ => Source::Node(upstream.node.clone()),
            };
            let layout = Layout::of(request, &source, facts)?;
            let keep_old = request.keep_old || situation.relation.is_err();
            plan::copy(&mut plan, &Request { keep_old, ..request.clone() }, facts, &layout)?;
        }
        _ => in_place(&mut plan, rung, request, facts, situation, upstream)?,
    }
    Ok(plan)
}

/// The steps of the rungs that keep the directory.
fn in_place(
    plan: &mut Plan,
    rung: Rung,
    request: &Request,
    facts: &Facts,
    situation: &Situation,
    upstream: &Upstream,
) -> Result<(), StandbyError> {
    let label = plan::data(&facts.own.directory).is_some_and(|data: &Data| data.label);
    checks::settings_will_hold(&facts.own, label)?;
    match (rung, &situation.relation) {
        (Rung::Follow | Rung::FollowArchive, Ok(Relation::Surplus(fork))) => {
            plan.steps.push(Step::RemoveSurplus { from: fork.at });
            plan.steps.push(plan::put_history(upstream)?);
        }
        (Rung::Follow | Rung::FollowArchive, Ok(Relation::OnTheWay(Some(Fork { .. })))) => {
            plan.steps.push(plan::put_history(upstream)?);
        }
        (Rung::Rewind | Rung::RewindArchive, _) if !situation.clean => plan.steps.push(Step::Recover),
        _ => {}
    }
    plan.steps.extend(plan::slot_step(request, facts)?);
    plan.steps.push(plan::configure(request, facts, &facts.own.pgdata, false));
    if matches!(rung, Rung::Rewind | Rung::RewindArchive) {
        plan.steps.push(Step::Rewind { node: upstream.node.clone(), archive: rung == Rung::RewindArchive });
    }
    plan::start(plan, request, facts);
    Ok(())
}

fn none_open(rungs: &[Weighed], only: Option<Rung>) -> StandbyError {
    let closed: Vec<String> = rungs
        .iter()
        .filter(|it| only.is_none_or(|only| only == it.rung))
        .filter_map(|it| Some(format!("{}: {}", it.rung, it.why.as_ref()?)))
        .collect();
    StandbyError::refused(
        format!("no way back is open: {}", closed.join("; ")),
        match only {
            Some(_) => "Without --rung the cheapest way that is open is taken.",
            None => "Mend the first reason that can be mended; nothing was changed.",
        },
    )
}

#[cfg(test)]
mod tests;
