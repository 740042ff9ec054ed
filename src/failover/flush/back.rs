//! The ways back of a primary that was flushed: as the primary that it was, or as a standby of who took over.

use std::collections::BTreeSet;

use super::{LOOK_AGAIN, forget_progress};
use crate::archive::claims;
use crate::error::{Class, Failure};
use crate::failover::act::Scene;
use crate::failover::handover;
use crate::failover::observation::{Relation, Serving, relation};
use crate::failover::observe::end_of_wal;
use crate::postgres::connection::Statement;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::facts::column;
use crate::postgres::local_wal;
use crate::postgres::own_settings::{self, Signal};
use crate::postgres::server::Status;
use crate::store::claim::State;

const STREAMS: Statement = Statement { name: "streams", text: include_str!("../../../sql/streams.sql") };

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
                 standby ('flush-primary --follow {}').",
                claim.node, claim.node
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

/// Comes back as a standby of the node that took over. Only a primary that lost nothing can: its WAL must end where the
/// new timeline begins, or before.
pub fn follow(scene: &Scene<'_>, name: &str) -> Result<String, Failure> {
    let _one_run = scene.lock()?;
    let node = scene.node(name)?;
    let pgdata = scene.server.pgdata().to_owned();
    let control = ControlFile::read(&pgdata)?;
    let follows = own_settings::signal(&pgdata)? == Some(Signal::Standby);
    if scene.server.status()? == Status::Down {
        if !follows {
            refuse_unless_behind(scene, node, &control)?;
        }
        settle(scene, node)?;
        let log = scene.spool.root().join("server.log");
        scene.server.start(&log, &[], scene.deadline())?;
    } else if !follows {
        return Err(Failure::new(Class::Refused, "the server runs, and is no standby")
            .hinted("Only a primary that has been flushed can follow: run flush-primary first."));
    }
    let deadline = scene.deadline();
    loop {
        let streaming = scene.connect().ok().and_then(|mut session| session.query(&STREAMS, &[]).ok());
        let status = streaming.and_then(|rows| column::<Option<String>>(rows.first()?, "status").ok().flatten());
        if status.as_deref() == Some("streaming") {
            break;
        }
        if deadline.expired() {
            return Err(Failure::new(Class::Timeout, format!("this server runs, but does not stream from {name}"))
                .hinted("Look at its log, and at pg_hba.conf of the new primary."));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    forget(scene, &BTreeSet::new()).or_else(|failure| if is_passing(&failure) { Ok(()) } else { Err(failure) })?;
    handover::forget(&scene.spool)?;
    forget_progress(scene);
    Ok(format!("{} streams from {name}", scene.config.local.node))
}

fn is_passing(failure: &Failure) -> bool {
    matches!(failure.class, Class::Remote | Class::Timeout)
}

/// A server with WAL that the new timeline does not have would go wrong sooner or later.
fn refuse_unless_behind(scene: &Scene<'_>, node: &crate::config::Node, control: &ControlFile) -> Result<(), Failure> {
    let refuse = |text: String| {
        let rejoin = "Bring this node back by 'standby-init --rejoin', which finds the cheapest way that is safe.";
        Err(Failure::new(Class::Refused, text).hinted(rejoin))
    };
    if control.state != ClusterState::ShutDown {
        return refuse(format!("this server did not shut down cleanly: '{}'", control.state));
    }
    let pgdata = scene.server.pgdata();
    let Some(history) = local_wal::history(pgdata, control.checkpoint_timeline)? else {
        return refuse(format!("the history of timeline {} is missing here", control.checkpoint_timeline));
    };
    let end = end_of_wal(pgdata, control, &history, control.checkpoint)?.end;
    let there = scene.observer.peers().view(scene.config, node);
    let Some(there) = there.is() else {
        return refuse(format!("what {} is cannot be told: {}", node.name, there.why()));
    };
    if there.system != control.system_id || there.server != Serving::Primary {
        return refuse(format!("{} is no primary of this cluster", node.name));
    }
    match relation((&history, end), (&there.history, there.wal_end)) {
        Relation::Ahead => Ok(()),
        Relation::Same => refuse(format!("{} is on this node's own timeline", node.name)),
        Relation::Behind | Relation::Parted => {
            refuse(format!("this node has WAL up to {end} that {} does not have", node.name))
        }
    }
}

/// The settings of a standby, in our own file.
fn settle(scene: &Scene<'_>, node: &crate::config::Node) -> Result<(), Failure> {
    let pgdata = scene.server.pgdata();
    let conninfo = node.conninfo.clone().unwrap_or_default();
    let mut own = own_settings::read(pgdata)?;
    own.insert("primary_conninfo".to_owned(), format!("{conninfo} application_name={}", scene.config.local.node));
    own.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
    own_settings::write(pgdata, &own)?;
    let lost = own_settings::overridden(&scene.server.config_file(), pgdata)?;
    if let Some(first) = lost.first() {
        let text = format!("'{}' would not hold: our settings are not read last", first.name);
        return Err(Failure::new(Class::Refused, text).hinted(format!(
            "Put the line \"{}\" at the end of postgresql.conf, and take '{}' out of postgresql.auto.conf.",
            own_settings::include_line(pgdata),
            first.name
        )));
    }
    Ok(own_settings::put_signal(pgdata, Signal::Standby)?)
}
