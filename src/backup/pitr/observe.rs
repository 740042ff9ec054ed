//! What a plan is made of: the backups of one archive, and the WAL and histories of all the places that a restore asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::BackupError;
use super::super::catalog::{self, Description, Found, Label};
use super::super::chain::{self, Obstacle};
use crate::archive::continuity::Inventory;
use crate::archive::drills::{self, Drill};
use crate::archive::places::{Archive, Site, Sites};
use crate::archive::survey::survey;
use crate::config::Config;
use crate::error::Failure;

/// What was seen.
#[derive(Debug)]
pub struct Observation {
    /// The backups of the archive that can be restored, oldest first.
    pub backups: Vec<Description>,
    /// Those of them that are taken only where they are named, and why.
    pub doubtful: BTreeMap<Label, String>,
    /// What WAL is where it would be fetched from.
    pub inventory: Inventory,
    /// What drills have measured, oldest first.
    pub drills: Vec<Drill>,
    /// What a person should know.
    pub notices: Vec<String>,
}

/// The archive of the backups, and all archives that WAL comes from, in the order they are asked.
pub struct Places {
    /// The archive of the backups.
    pub archive: Archive,
    /// Whose it is.
    pub site: Arc<Site>,
    /// Where WAL comes from; that archive among them.
    pub wal: Vec<Archive>,
    /// Places that cannot be asked, and why.
    pub unknown: Vec<String>,
}

impl Places {
    /// Opens the archive of a node, and those of `restore.from`.
    pub fn open(config: &Config, sites: &Sites, place: &str) -> Result<Places, BackupError> {
        let site = sites.get(place).cloned().ok_or_else(|| {
            BackupError::refused(
                format!("node '{place}' holds no archive"),
                format!("Set node.{place}.archive, or name a node that holds one with --place."),
            )
        })?;
        let archive = site.archive()?;
        let (mut wal, mut unknown) = (Vec::new(), Vec::new());
        for other in sites.of(&config.places(&config.restore.from)) {
            if other.name() == place {
                wal.push(archive.clone());
                continue;
            }
            match other.archive() {
                Ok(other) if other.identity.system_identifier != archive.identity.system_identifier => {
                    unknown.push(format!("the {} is that of another system", other.store.place()));
                }
                Ok(other) => wal.push(other),
                Err(error) => {
                    let why = Failure::from(error).message;
                    unknown.push(format!("the archive of {} cannot be asked: {why}", other.name()));
                }
            }
        }
        if !wal.iter().any(|open| open.store.place() == archive.store.place()) {
            wal.insert(0, archive.clone());
        }
        Ok(Places { archive, site, wal, unknown })
    }
}

/// Looks at everything.
pub fn observe(places: &Places) -> Result<Observation, BackupError> {
    let (mut backups, mut doubtful) = (Vec::new(), BTreeMap::new());
    let mut notices = places.unknown.clone();
    let listed = catalog::list(&places.archive)?;
    let known = chain::known(&listed);
    for found in &listed {
        match found {
            Found::Whole(backup) => match chain::obstacle(&known, backup) {
                Some(missing @ Obstacle::Missing(_)) => {
                    notices.push(format!("backup '{}' is left out: {missing}", backup.label));
                }
                obstacle => {
                    doubtful.extend(obstacle.map(|it| (backup.label.clone(), it.to_string())));
                    backups.push((**backup).clone());
                }
            },
            Found::Unreadable(label, why) => notices.push(format!("backup '{label}' is left out: {why}")),
            Found::Unfinished(_) => {}
        }
    }
    // Labels sort by the time of their beginning; what counts here is where they end.
    backups.sort_by_key(|backup| (backup.timeline, backup.stop_lsn));
    let mut inventory = Inventory::new(places.archive.identity.segment_size);
    for archive in &places.wal {
        let seen = survey(archive)?;
        let damaged = seen.damaged.iter().map(|damage| format!("'{}' is damaged: {}", damage.path, damage.detail));
        notices.extend(damaged);
        inventory.join(seen.inventory);
    }
    Ok(Observation { backups, doubtful, inventory, drills: drills::all(&places.archive)?, notices })
}
