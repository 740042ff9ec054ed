//! Opens the own server as of a time: it is restarted to recover up to there, and then opens by itself.

use std::collections::BTreeMap;

use super::{Next, Scene, promote};
use crate::error::{Class, Failure};
use crate::failover::journal::Journal;
use crate::postgres::own_settings::{self, Signal};
use crate::postgres::server::Mode;

/// What such a recovery is told, with the time left out. A delay of the standby's would hold it up as well.
const SETTINGS: &[(&str, &str)] = &[
    ("recovery_target_action", "promote"),
    ("recovery_target_inclusive", "on"),
    ("primary_conninfo", ""),
    ("recovery_min_apply_delay", "0"),
];

/// Restarts the server towards the target. From here on there is no way back.
pub fn recover(scene: &Scene<'_>, journal: &Journal, until: &str) -> Result<Next, Failure> {
    if super::takes_writes(scene) {
        return Ok(Next::Go("it has opened already".to_owned()));
    }
    let pgdata = scene.pgdata();
    // First: once a promotion is under way nothing is held back, and a standby would replay what lies behind the time.
    scene.server.stop(Mode::Fast, scene.deadline())?;
    promote::prepare(scene, journal)?;
    own_settings::put_signal(&pgdata, Signal::Recovery)?;
    let mut wanted: BTreeMap<String, String> = BTreeMap::from([("recovery_target_time".to_owned(), until.to_owned())]);
    wanted.extend(SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut options = Vec::new();
    if scene.config.local.server_start.is_empty() {
        // On the command line they hold whatever any file says, and are gone with the next start.
        for (name, value) in &wanted {
            options.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
    } else {
        in_file(scene, wanted)?;
    }
    let log = scene.spool.root().join("server.log");
    scene.server.start(&log, &options, scene.deadline())?;
    Ok(Next::Go(format!("recovering up to {until}")))
}

/// Where a command of the operator starts the server, our own file is the only way to tell it.
fn in_file(scene: &Scene<'_>, wanted: BTreeMap<String, String>) -> Result<(), Failure> {
    let pgdata = scene.pgdata();
    let mut own = own_settings::read(&pgdata)?;
    own.extend(wanted);
    own_settings::write(&pgdata, &own)?;
    let lost = own_settings::overridden(&scene.server.config_file(), &pgdata)?;
    let Some(first) = lost.first() else { return Ok(()) };
    let text = format!("'{}' would not hold: our settings are not read last", first.name);
    Err(Failure::new(Class::Refused, text).hinted(format!(
        "Put the line \"{}\" at the end of postgresql.conf, and take '{}' out of postgresql.auto.conf.",
        own_settings::include_line(&pgdata),
        first.name
    )))
}

/// Takes the target out of our settings once it has been reached.
pub fn forget(scene: &Scene<'_>) -> Result<(), Failure> {
    let pgdata = scene.pgdata();
    let mut own = own_settings::read(&pgdata)?;
    let before = own.len();
    own.retain(|name, _| !name.starts_with("recovery_target"));
    if own.len() != before {
        own_settings::write(&pgdata, &own)?;
    }
    Ok(())
}
