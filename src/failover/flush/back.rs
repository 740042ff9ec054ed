//! The way back of a primary that was flushed, as long as nobody has taken over. Afterwards it comes back as a standby,
//! by `standby-init --rejoin`.

use std::collections::BTreeSet;

use super::forget_progress;
use crate::archive::claims;
use crate::error::{Class, Failure};
use crate::failover::act::Scene;
use crate::failover::handover;
use crate::postgres::control::ControlFile;
use crate::postgres::own_settings;
use crate::postgres::server::Status;
use crate::store::claim::State;

/// Starts the primary again, if nobody has taken over. Places named in `ignored` are not asked.
pub fn undo(scene: &Scene<'_>, ignored: &BTreeSet<String>) -> Result<String, Failure> {
    let _one_run = scene.lock()?;
    let pgdata = scene.server.pgdata().to_owned();
    let control = ControlFile::read(&pgdata)?;
    if let Status::Running(_) = scene.server.status()? {
        forget(scene, ignored)?;
        return Ok("the server runs; there was nothing to undo".to_owned());
    }
    if own_settings::signal(&pgdata)?.is_some() {
        return Err(Failure::new(Class::Refused, "the data directory is that of a standby")
            .hinted("It has become one after it was flushed; there is nothing to undo."));
    }
    refuse_if_taken(scene, &control, ignored)?;
    // The proof of being stopped must be gone everywhere before it stops being true.
    forget(scene, ignored)?;
    refuse_if_taken(scene, &control, ignored)?;
    let log = scene.spool.root().join("server.log");
    scene.server.start(&log, &[], scene.deadline())?;
    forget_progress(scene);
    Ok(format!("{} is the primary again, on timeline {}", scene.config.local.node, control.checkpoint_timeline))
}

fn forget(scene: &Scene<'_>, ignored: &BTreeSet<String>) -> Result<(), Failure> {
    if handover::kept(&scene.spool)?.is_none() {
        return Ok(());
    }
    for site in scene.sites.all().filter(|site| !ignored.contains(site.name())) {
        let gone = site.archive().and_then(|archive| handover::withdraw(&archive, &scene.config.local.node));
        gone.map_err(|error| unreached(site.name(), error.into()))?;
    }
    Ok(handover::forget(&scene.spool)?)
}

/// Whoever claims a timeline behind ours is taking over, or has.
fn refuse_if_taken(scene: &Scene<'_>, control: &ControlFile, ignored: &BTreeSet<String>) -> Result<(), Failure> {
    for site in scene.sites.all().filter(|site| !ignored.contains(site.name())) {
        let claims = site.archive().and_then(|archive| claims::all(&archive));
        let claims = claims.map_err(|error| unreached(site.name(), error.into()))?;
        let taken =
            claims.iter().find(|claim| claim.state != State::Void && claim.parent == control.checkpoint_timeline);
        if let Some(claim) = taken {
            let text = format!("in the archive of {}, {}", site.name(), claim.words());
            return Err(Failure::new(Class::Refused, text).hinted(format!(
                "If {} was not promoted, give its claim up there ('trigger-failover --abort'); else make this node its \
                 standby ('standby-init --rejoin').",
                claim.node
            )));
        }
    }
    Ok(())
}

fn unreached(name: &str, failure: Failure) -> Failure {
    let text =
        format!("whether somebody has taken over cannot be told from the archive of {name}: {}", failure.message);
    Failure::new(failure.class, text)
        .hinted(format!("Bring it back; if it is certain that nobody has taken over, use --ignore {name}."))
}
