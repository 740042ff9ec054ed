//! The whole story of a run: what an earlier one left, the plan, the steps, and what is done when one fails.

use super::StandbyError;
use super::act::{Acted, Actor};
use super::facts::{Activity, Facts};
use super::former::{self, Former};
use super::journal::Entry;
use super::observe::Look;
use super::plan::{self, Plan};
use super::rejoin::ladder::{self, Weighed};
use super::rejoin::situation::situation;
use super::request::Job;
use super::step::Step;
use crate::error::Failure;
use crate::postgres::control::ControlFile;
use crate::postgres::own_settings;

/// What is going to be done, and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The run, as it stands in the journal.
    pub entry: Entry,
    /// What the operator should know beforehand.
    pub notes: Vec<String>,
    /// A former primary: every way back.
    pub rungs: Vec<Weighed>,
    /// True where an earlier run is gone on with.
    pub resumed: bool,
}

/// Makes the plan. `no_rewind` says why a rewind is out of the question, where one was just tried.
pub fn plan(look: &Look<'_>, no_rewind: Option<&str>) -> Result<Plan, StandbyError> {
    let facts = look.gather()?;
    match &look.request.job {
        Job::Make(source) => plan::make(look.request, source, &facts, former(look, &facts)?),
        Job::Adopt => plan::adopt(look.request, &facts, former(look, &facts)?),
        Job::Follow(_) => follow(look, &facts),
        // It is back already, whoever brought it: what is left is to see that it follows.
        Job::Rejoin(_) if matches!(facts.own.server, Activity::Standby(_)) => follow(look, &facts),
        Job::Rejoin(only) => {
            plan::checks::server_is_down(&facts.own)?;
            let mut situation = situation(look, &facts)?;
            situation.no_rewind = no_rewind.map(str::to_owned).or(situation.no_rewind);
            ladder::rejoin(look.request, *only, &facts, &situation)
        }
    }
}

/// Whom the standby that is there followed.
fn former(look: &Look<'_>, facts: &Facts) -> Result<Option<Former>, StandbyError> {
    Ok(former::slot(look.config, &own_settings::read(&facts.own.pgdata)?))
}

fn follow(look: &Look<'_>, facts: &Facts) -> Result<Plan, StandbyError> {
    let ours = own_settings::read(&facts.own.pgdata)?;
    let former = former::slot(look.config, &ours);
    plan::follow(look.request, facts, ours, former)
}

/// Says what is going to be done: the rest of an earlier run, or a new plan. Changes nothing.
pub fn prepare(look: &Look<'_>, earlier: Option<Entry>) -> Result<Prepared, StandbyError> {
    match earlier {
        Some(entry) if entry.request == *look.request && goes_on(look, &entry)? => {
            Ok(Prepared { entry, notes: Vec::new(), rungs: Vec::new(), resumed: true })
        }
        _ => fresh(look, None),
    }
}

fn fresh(look: &Look<'_>, no_rewind: Option<&str>) -> Result<Prepared, StandbyError> {
    let plan = plan(look, no_rewind)?;
    let entry = Entry::new(look.request, &plan.steps);
    Ok(Prepared { entry, notes: plan.notes, rungs: plan.rungs, resumed: false })
}

/// A rewind that did not end is not gone on with: the data are replaced.
fn goes_on(look: &Look<'_>, entry: &Entry) -> Result<bool, StandbyError> {
    let rewinds = matches!(entry.steps.get(entry.done), Some(Step::Rewind { .. }));
    let pgdata = look.config.own().pgdata.as_ref().filter(|_| rewinds && entry.at_work);
    Ok(match pgdata {
        Some(pgdata) => !ControlFile::read(pgdata)?.marked,
        None => true,
    })
}

/// Does it. Where a rewind fails, the next way back is taken, and told as well.
pub fn run(
    actor: &Actor<'_>,
    look: &Look<'_>,
    tell: &dyn Fn(&Prepared) -> Result<(), Failure>,
) -> Result<(Prepared, Acted), StandbyError> {
    let earlier = actor.journal.read()?;
    if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.request != *look.request) {
        actor.undo(earlier)?;
    }
    let mut prepared = prepare(look, earlier)?;
    loop {
        tell(&prepared).map_err(StandbyError::Below)?;
        let error = match actor.act(&mut prepared.entry) {
            Ok(acted) => return Ok((prepared, acted)),
            Err(error) => error,
        };
        let rewinding = matches!(prepared.entry.steps.get(prepared.entry.done), Some(Step::Rewind { .. }));
        if !rewinding || look.request.job != Job::Rejoin(None) {
            // What failed first is what is to be told.
            if let Err(second) = actor.undo(&prepared.entry) {
                log::warn!("{second}");
            }
            return Err(error);
        }
        let why = Failure::of(&error).message;
        log::warn!("the rewind failed, so the next way back is taken: {why}");
        prepared = fresh(look, Some(&why))?;
    }
}
