//! The way back, as long as there is one: what was claimed is given up, the old primary brought back where it was
//! flushed, and this server receives again.

use super::{Scene, claim, is_past_return, promote, receiver, switchover, takes_writes};
use crate::archive::left_out;
use crate::error::{Class, Failure};
use crate::failover::journal::Journal;
use crate::postgres::own_settings::{self, Signal};
use crate::postgres::server::Status;

/// Gives an operation up that was cut short, as far as there is a way back.
pub fn abort(scene: &Scene<'_>) -> Result<String, Failure> {
    let _one_run = scene.lock()?;
    let Some(journal) = Journal::unfinished(&scene.spool)? else {
        return Ok("nothing is under way".to_owned());
    };
    if is_past_return(&journal) {
        if takes_writes(scene) {
            return Err(Failure::new(Class::Refused, "this server has been promoted already; there is no way back")
                .hinted("Run trigger-failover again: it goes on where it was."));
        }
        if !is_standby_at_rest(scene)? {
            let text = "this server may have been told to open already, and may open at any moment";
            return Err(Failure::new(Class::Refused, text).hinted(
                "Run trigger-failover again: it goes on where it was. To give it up all the same, stop this server and \
                 run 'trigger-failover --abort' again, which starts it as the standby that it was.",
            ));
        }
        // What was told to its receiver is taken back in a session.
        promote::start(scene)?;
    }
    roll_back(scene, journal, "given up by hand")?;
    Ok("given up: nothing is claimed any more, and this server is the standby that it was".to_owned())
}

/// True where the own server is stopped and starts next as the standby that it was, whatever it was told: a promotion
/// that it never came to is forgotten with its processes, and one that it came to takes `standby.signal` away.
fn is_standby_at_rest(scene: &Scene<'_>) -> Result<bool, Failure> {
    let pgdata = scene.pgdata();
    let told = pgdata.join(&scene.config.restore.trigger);
    let told = told
        .try_exists()
        .map_err(|error| Failure::new(Class::Storage, format!("cannot look at '{}': {error}", told.display())))?;
    let stopped = scene.server.status()? == Status::Down;
    Ok(stopped && !told && own_settings::signal(&pgdata)? == Some(Signal::Standby))
}

/// Takes back what was done, and says so with what went wrong.
pub fn taken_back(scene: &Scene<'_>, journal: Journal, failure: Failure) -> Failure {
    let hint = failure.hint.clone().map(|hint| format!("{hint} ")).unwrap_or_default();
    match roll_back(scene, journal, &failure.message) {
        Ok(()) => failure.hinted(format!("{hint}Everything was taken back; this server is the standby that it was.")),
        Err(error) => failure.hinted(format!(
            "{hint}Not everything could be taken back ({}): run 'trigger-failover --abort', or try again.",
            error.message
        )),
    }
}

/// The way back: the claim is given up, then the old primary is brought back where it was flushed, then this server
/// receives again.
fn roll_back(scene: &Scene<'_>, journal: Journal, why: &str) -> Result<(), Failure> {
    claim::withdraw(scene, &journal)?;
    switchover::undo(scene, &journal)?;
    promote::rearm(scene, &journal)?;
    left_out::clear(&scene.spool)?;
    receiver::restore(scene, &journal)?;
    Ok(journal.end(&format!("taken back: {why}"))?)
}
