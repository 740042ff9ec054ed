//! The directories that a copy goes into: where each name lies, what is made, what is removed, what is made durable.
//!
//! They are taken, laid out and swept as a restore does it. What is added here: a link of the old copy is never
//! followed into data of somebody else. Places that are the source's own, or hold another cluster's data, are refused
//! before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::super::plan::CONTROL;
use super::super::super::restore::claim;
use super::super::super::restore::layout::Layout;
use super::super::super::restore::{self, sweep};
use super::super::super::{BackupError, manifest};
use super::super::message::{Identity, Offer, Shape, Space, Which, Wish};
use super::standing::Standing;
use crate::postgres::own_settings::{self, Signal};
use crate::system::clock::Deadline;
use crate::system::durable;

/// How long a run that was killed may take to let go of the directory.
const LET_GO: Duration = Duration::from_secs(10);

/// Settings of a node, which it may keep.
const SETTINGS: &[&str] =
    &["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf", own_settings::FILE];

/// The directories; see the head of this file.
#[derive(Debug)]
pub struct Ground {
    target: restore::Target,
    /// Where tablespaces are.
    places: BTreeMap<u32, PathBuf>,
    /// Directories outside that are ours, or belong to the old copy.
    known: BTreeSet<PathBuf>,
    /// Files of settings that stay as they are.
    kept: Vec<String>,
}

/// What makes a copy whole, beside its files.
pub struct Last<'a> {
    /// `backup_label`
    pub label: &'a str,
    /// `backup_manifest`
    pub manifest: &'a str,
    /// The control file.
    pub control: &'a [u8],
}

impl Ground {
    /// Decides where everything goes, or says why it must not; changes nothing.
    pub fn choose(
        pgdata: &Path,
        standing: &Standing,
        offer: &Offer,
        shape: &Shape,
        wish: &Wish,
    ) -> Result<Ground, BackupError> {
        let mark = if let Standing::Unfinished(mark) = standing { Some(mark) } else { None };
        let known = claim::known_places(pgdata, mark)?;
        let wal = wish.wal_dir.clone().or_else(|| fs::read_link(pgdata.join("pg_wal")).ok());
        let ground = Ground {
            target: restore::Target { wal, ..restore::Target::new(pgdata) },
            places: places(pgdata, shape, wish)?,
            known,
            kept: if wish.keep_config { settings(pgdata) } else { Vec::new() },
        };
        let own_wal = pgdata.join("pg_wal");
        let wal = ground.target.wal.as_deref();
        if let Some(folder) = wal {
            ground.check(folder, folder, "the directory for WAL")?;
        }
        if offer.wal_directory.is_some() && Identity::of(wal.unwrap_or(&own_wal)) == offer.wal_directory {
            return Err(owned_by_source(&own_wal, "--wal-dir DIR"));
        }
        for space in &shape.spaces {
            ground.check_place(space, &offer.version_directory)?;
        }
        Ok(ground)
    }

    fn check_place(&self, space: &Space, version_directory: &str) -> Result<(), BackupError> {
        let Some(place) = self.places.get(&space.oid) else { return Ok(()) };
        if space.directory.is_some() && Identity::of(place) == space.directory {
            return Err(owned_by_source(place, &format!("--map {}=DIR", space.oid)));
        }
        if self.places.iter().any(|(oid, other)| *oid != space.oid && other == place) {
            return Err(BackupError::refused(
                format!("two tablespaces would go into '{}'", place.display()),
                "Give each a directory of its own with --map.",
            ));
        }
        self.check(place, &place.join(version_directory), &format!("tablespace {}", space.oid))
    }

    /// Refuses a place inside the data directory, and one whose content somebody else may need.
    fn check(&self, place: &Path, content: &Path, what: &str) -> Result<(), BackupError> {
        let name = place.display();
        if !place.is_absolute() || place.starts_with(&self.target.pgdata) {
            return Err(BackupError::refused(
                format!("'{name}' for {what} is not an absolute path outside the data directory"),
                "Name another one.",
            ));
        }
        if self.known.contains(place) || claim::is_empty(content)? {
            return Ok(());
        }
        Err(BackupError::refused(
            format!("'{name}' for {what} is not empty, and not of the old copy"),
            "Name another directory, or empty it yourself.",
        ))
    }

    fn layout(&self) -> Layout<'_> {
        Layout::new(&self.target, &self.places)
    }

    /// Files of settings that stay as they are.
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// Where a name of the source is; never outside the directories of this copy.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, BackupError> {
        self.layout().resolve(name)
    }

    /// Takes the directories, puts the control file aside and makes what is missing. From here on until
    /// [`Ground::finish`] no server starts there. Nobody else comes in as long as the answer is held.
    pub fn prepare(&self, offer: &Offer, shape: &Shape, from: &str) -> Result<File, BackupError> {
        let pgdata = &self.target.pgdata;
        claim::make(pgdata)?;
        let lock = hold(pgdata)?;
        let outside: Vec<&PathBuf> = self.places.values().chain(&self.target.wal).collect();
        let places = self.known.iter().chain(outside.iter().copied()).cloned().collect();
        claim::begin(pgdata, &offer.system.to_string(), &format!("a copy of {from}"), places)?;
        outside.into_iter().try_for_each(|place| claim::make(place))?;
        let own_wal = pgdata.join("pg_wal");
        if self.target.wal.is_some() && fs::symlink_metadata(&own_wal).is_ok_and(|data| data.is_dir()) {
            // It becomes a link, and all that is in it is old.
            fs::remove_dir_all(&own_wal).map_err(BackupError::io("remove", own_wal))?;
        }
        self.layout().prepare(&shape.directories)?;
        Ok(lock)
    }

    /// Removes what is not among these files; in a dry run only counts it.
    pub fn sweep<'a>(
        &'a self,
        shape: &'a Shape,
        files: impl Iterator<Item = &'a str>,
        marks: &'a [String],
        dry_run: bool,
    ) -> Result<u64, BackupError> {
        let kept = self.kept.iter().chain(marks).map(String::as_str);
        sweep::sweep(&self.layout(), files.chain(kept), &shape.directories, dry_run)
    }

    /// Makes everything durable, and gives the directory its control file, last. A server that is started there is a
    /// standby, whatever its source was: two primaries are worse than one that waits.
    pub fn finish(&self, last: &Last<'_>) -> Result<(), BackupError> {
        let pgdata = &self.target.pgdata;
        self.write("backup_label", last.label.as_bytes())?;
        self.write(manifest::NAME, last.manifest.as_bytes())?;
        own_settings::put_signal(pgdata, Signal::Standby)?;
        for folder in std::iter::once(pgdata).chain(self.places.values()).chain(&self.target.wal) {
            restore::sync_all(folder)?;
        }
        self.write(CONTROL, last.control)?;
        claim::end(pgdata)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let path = self.target.pgdata.join(name);
        durable::replace(&path, bytes).map_err(BackupError::io("write", path))
    }
}

/// Waits a moment for a run that was killed just now.
fn hold(pgdata: &Path) -> Result<File, BackupError> {
    let moment = Deadline::after(LET_GO);
    loop {
        match claim::hold(pgdata) {
            Err(BackupError::Busy { .. }) if !moment.expired() => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
}

/// Where each tablespace goes: as wished, where the old copy has it, or where it is at the source.
fn places(pgdata: &Path, shape: &Shape, wish: &Wish) -> Result<BTreeMap<u32, PathBuf>, BackupError> {
    let means = |which: &Which, space: &Space| match which {
        Which::Oid(oid) => *oid == space.oid,
        Which::Location(location) => location.as_path() == Path::new(&space.location),
    };
    if let Some(map) = wish.maps.iter().find(|map| !shape.spaces.iter().any(|space| means(&map.which, space))) {
        let known: Vec<String> = shape.spaces.iter().map(|it| format!("{} at '{}'", it.oid, it.location)).collect();
        return Err(BackupError::refused(
            format!("the source has no tablespace as named for '{}'", map.to.display()),
            if known.is_empty() { "It has none at all.".to_owned() } else { format!("It has {}.", known.join(", ")) },
        ));
    }
    let place = |space: &Space| {
        let wished = wish.maps.iter().find(|map| means(&map.which, space)).map(|map| map.to.clone());
        let old = || fs::read_link(pgdata.join(format!("pg_tblspc/{}", space.oid))).ok();
        (space.oid, wished.or_else(old).unwrap_or_else(|| PathBuf::from(&space.location)))
    };
    // One inside the data directory (allow_in_place_tablespaces) comes as a directory of it.
    Ok(shape.spaces.iter().map(place).collect())
}

/// The files of settings that a data directory has.
fn settings(pgdata: &Path) -> Vec<String> {
    let plain = |name: &&&str| fs::symlink_metadata(pgdata.join(name)).is_ok_and(|data| data.is_file());
    SETTINGS.iter().filter(plain).map(|name| (*name).to_owned()).collect()
}

fn owned_by_source(place: &Path, option: &str) -> BackupError {
    BackupError::refused(
        format!("'{}' is the source's own directory", place.display()),
        format!("Give the copy one of its own with {option}."),
    )
}
