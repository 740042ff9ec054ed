//! From what is wanted and what is known to the steps that lead there, or to the reason why none may be taken. Pure.
//!
//! [`checks`] holds the conditions, [`layout`] says where new directories go; here are the stories: a new copy, a
//! directory that is taken as it is, a standby that goes on behind another server. The ladder of a former primary is in
//! `rejoin::ladder`, and ends in the same steps.

pub mod checks;
pub mod layout;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::layout::Layout;
use super::StandbyError;
use super::ask;
use super::facts::{Activity, Data, Directory, Facts, Slot, There, Upstream};
use super::former::Former;
use super::lineage::{self, Own, Relation, Theirs};
use super::rejoin::ladder::Weighed;
use super::request::{Request, Source};
use super::settings::{self as recovery, Wanted};
use super::step::{Goal, Step};
use crate::error::Class;
use crate::wal::Lsn;
use crate::wal::timeline::TimelineHistory;

/// What is going to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the operator should know beforehand.
    pub notes: Vec<String>,
    /// A former primary: every way back, and what it would cost.
    pub rungs: Vec<Weighed>,
}

/// A new copy, perhaps in the place of a standby that followed somebody before.
pub fn make(request: &Request, source: &Source, facts: &Facts, former: Option<Former>) -> Result<Plan, StandbyError> {
    checks::server_is_down(&facts.own)?;
    checks::mode_is_possible(request, facts)?;
    let layout = Layout::of(request, source, facts)?;
    checks::one_cluster(facts, layout.system)?;
    checks::replaceable(&facts.own, source, layout.system)?;
    let mut plan = Plan { notes: checks::notes(request, facts), ..Plan::default() };
    copy(&mut plan, request, facts, &layout)?;
    leave(&mut plan, request, facts, former);
    Ok(plan)
}

/// The steps of a copy, which may replace whatever is there.
pub fn copy(plan: &mut Plan, request: &Request, facts: &Facts, layout: &Layout) -> Result<(), StandbyError> {
    checks::settings_will_hold(&facts.own, true)?;
    checks::room(&facts.own, layout)?;
    plan.steps.extend(slot_step(request, facts)?);
    plan.steps.push(layout.copy.clone());
    plan.steps.push(configure(request, facts, &layout.folder, true));
    if !layout.moves.is_empty() {
        plan.steps.push(Step::Exchange { moves: layout.moves.clone(), spaces: layout.spaces.clone() });
    }
    start(plan, request, facts);
    let old: Vec<PathBuf> = layout.moves.iter().map(|it| it.old.clone()).collect();
    if old.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = old.iter().map(|it| format!("'{}'", it.display())).collect();
    match request.mode.starts() && !request.keep_old {
        true => plan.steps.push(Step::RemoveOld { folders: old }),
        false => plan.notes.push(format!("what is replaced stays in {}", names.join(", "))),
    }
    Ok(())
}

/// The directory that is there, as it is.
pub fn adopt(request: &Request, facts: &Facts, former: Option<Former>) -> Result<Plan, StandbyError> {
    checks::server_is_down(&facts.own)?;
    checks::mode_is_possible(request, facts)?;
    let data = checks::usable_data(&facts.own)?;
    checks::one_cluster(facts, data.control.system_id)?;
    checks::settings_will_hold(&facts.own, data.label)?;
    let mut plan = Plan { notes: checks::notes(request, facts), ..Plan::default() };
    if let Some(upstream) = &facts.upstream {
        match stands(data, upstream)? {
            Relation::OnTheWay(None) => {}
            Relation::OnTheWay(Some(_)) => plan.steps.push(put_history(upstream)?),
            other => return Err(checks::not_on_the_way(other, &upstream.node)),
        }
    } else if !data.is_standby() {
        return Err(StandbyError::refused(
            format!(
                "the data in '{}' are those of a primary, and no other server is there to compare them with",
                facts.own.pgdata.display()
            ),
            "Start the new primary first, or name it with --upstream.",
        ));
    }
    plan.steps.splice(0..0, slot_step(request, facts)?);
    plan.steps.push(configure(request, facts, &facts.own.pgdata, false));
    start(&mut plan, request, facts);
    leave(&mut plan, request, facts, former);
    Ok(plan)
}

/// Another server to stream from.
pub fn follow(
    request: &Request,
    facts: &Facts,
    ours: BTreeMap<String, String>,
    former: Option<Former>,
) -> Result<Plan, StandbyError> {
    let upstream = facts.upstream.as_ref().ok_or_else(|| checks::no_upstream(facts))?;
    let data = checks::usable_data(&facts.own)?;
    checks::one_cluster(facts, data.control.system_id)?;
    checks::settings_will_hold(&facts.own, false)?;
    let (relation, running) = match &facts.own.server {
        Activity::Down if data.is_standby() => (stands(data, upstream)?, false),
        Activity::Standby(there) => (running(data, there, upstream)?, true),
        Activity::Silent(why) => {
            return Err(StandbyError::refused(
                format!("a server runs on '{}' and does not say what it is: {why}", facts.own.pgdata.display()),
                "Check the node's conninfo; a server that is starting needs a moment.",
            ));
        }
        Activity::Down | Activity::Primary(_) => return Err(checks::is_primary(&facts.own)),
    };
    let mut plan = Plan { notes: checks::notes(request, facts), ..Plan::default() };
    plan.steps.extend(slot_step(request, facts)?);
    match relation {
        Relation::OnTheWay(None) => {}
        Relation::OnTheWay(Some(_)) => plan.steps.push(put_history(upstream)?),
        other => return Err(checks::not_on_the_way(other, &upstream.node)),
    }
    let moved = recovery::follow(ours, &upstream.conninfo, request.slot.as_deref());
    plan.steps.push(Step::Configure { folder: facts.own.pgdata.clone(), copied: false, settings: moved });
    plan.steps.push(if running { Step::Reload } else { Step::Start });
    plan.steps.push(Step::Prove { goal: goal(request, facts) });
    leave(&mut plan, request, facts, former);
    Ok(plan)
}

/// Drops the slot that was used before, unless it is the one that is used from now on.
fn leave(plan: &mut Plan, request: &Request, facts: &Facts, former: Option<Former>) {
    let upstream = facts.upstream.as_ref().map(|upstream| &upstream.node);
    match former.map(|former| (former.node, former.slot)) {
        Some((Some(node), slot)) if (Some(&node), Some(&slot)) != (upstream, request.slot.as_ref()) => {
            plan.steps.push(Step::DropSlot { node, slot });
        }
        Some((None, slot)) => plan.notes.push(format!(
            "the slot '{slot}' stays on the server that was followed, which no node is; drop it there: {}",
            ask::dropping(&slot)
        )),
        _ => {}
    }
}

/// How the data of a stopped server stand to another one.
pub fn stands(data: &Data, upstream: &Upstream) -> Result<Relation, StandbyError> {
    let history = data.history.clone().ok_or_else(|| checks::no_history(data.timeline()))?;
    let (position, wal) = data.ends.unwrap_or((data.control.checkpoint, data.control.checkpoint));
    Ok(lineage::relation(&Own { history, data: position, wal }, &theirs(upstream)?))
}

/// How a running standby stands to another server. It replays whatever it has received.
fn running(data: &Data, there: &There, upstream: &Upstream) -> Result<Relation, StandbyError> {
    let history = data.history.clone().filter(|history| history.contains(there.timeline));
    let history = history.ok_or_else(|| checks::no_history(there.timeline))?;
    let end = there.position.max(there.received.unwrap_or(Lsn::INVALID));
    Ok(lineage::relation(&Own { history, data: end, wal: end }, &theirs(upstream)?))
}

fn theirs(upstream: &Upstream) -> Result<Theirs, StandbyError> {
    let history = known(upstream)?.clone();
    Ok(Theirs { history, position: upstream.there.position, primary: upstream.there.primary })
}

fn known(upstream: &Upstream) -> Result<&TimelineHistory, StandbyError> {
    upstream.history.as_ref().map_err(|why| StandbyError::CannotTell {
        what: format!("which way the timeline of {} came", upstream.node),
        why: why.clone(),
        class: Class::Postgres,
    })
}

/// The history of the new timeline must be in `pg_wal` before a recovery begins, or it goes on along the old one.
pub fn put_history(upstream: &Upstream) -> Result<Step, StandbyError> {
    let history = known(upstream)?;
    Ok(Step::PutHistory { node: upstream.node.clone(), timeline: history.timeline, text: history.to_string() })
}

/// Our settings, and the signal that makes a standby of it.
pub fn configure(request: &Request, facts: &Facts, folder: &Path, copied: bool) -> Step {
    Step::Configure { folder: folder.to_owned(), copied, settings: settings(request, facts) }
}

/// What our file is to say.
pub fn settings(request: &Request, facts: &Facts) -> BTreeMap<String, String> {
    let upstream = facts.upstream.as_ref();
    let mut commands = facts.commands.clone();
    // An archiver that is not ours stays as it is.
    if upstream.or(facts.source.as_ref()).is_some_and(|it| !it.there.ships) {
        commands.archive = None;
    }
    let mut settings = recovery::recovery(&Wanted {
        mode: request.mode,
        upstream: upstream.map(|it| it.conninfo.as_str()),
        slot: request.slot.as_deref(),
        delay: request.delay,
        commands: &commands,
    });
    settings.extend(facts.set.clone());
    settings
}

/// The slot on the upstream, where one is wanted and not there.
pub fn slot_step(request: &Request, facts: &Facts) -> Result<Option<Step>, StandbyError> {
    let (Some(slot), Some(upstream)) = (&request.slot, &facts.upstream) else { return Ok(None) };
    let refused = |what: &str| {
        Err(StandbyError::refused(
            format!("the slot '{slot}' on {} {what}", upstream.node),
            "Name another one with --slot, or drop that one if it is nobody's.",
        ))
    };
    match upstream.slot {
        Slot::Free => Ok(None),
        Slot::Active if !matches!(facts.own.server, Activity::Standby(_)) => refused("is in use by somebody else"),
        Slot::Active => Ok(None),
        Slot::Logical => refused("is a logical one"),
        Slot::Absent | Slot::Unasked => Ok(Some(Step::MakeSlot { node: upstream.node.clone(), slot: slot.clone() })),
    }
}

/// Starts it and waits until it works, unless it is to lie cold.
pub fn start(plan: &mut Plan, request: &Request, facts: &Facts) {
    if request.mode.starts() {
        plan.steps.push(Step::Start);
        plan.steps.push(Step::Prove { goal: goal(request, facts) });
    }
}

fn goal(request: &Request, facts: &Facts) -> Goal {
    let upstream = facts.upstream.as_ref().filter(|_| request.mode.streams());
    let upstream = upstream.map(|it| (it.node.clone(), it.conninfo.clone()));
    Goal { mode: request.mode, upstream, delayed: !request.delay.is_zero() }
}

/// What a directory holds, if it is a data directory.
pub fn data(directory: &Directory) -> Option<&Data> {
    match directory {
        Directory::Data(data) => Some(data),
        _ => None,
    }
}
