//! Writes a backup into an empty directory, so that a server can recover from it.
//!
//! Every file is compared with the manifest while it is written. The control file comes last, when everything else is
//! on disk: a directory without it cannot be started by mistake. Settings of a recovery are not ours to write here;
//! without `restore_command` a server must not be started on what is restored.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::catalog::Description;
use super::plan::CONTROL;
use super::read::{Contents, Sink, Taker};
use super::{BackupError, Watcher, manifest};
use crate::archive::places::Archive;
use crate::system::durable;

/// Where a backup goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The data directory: absent, or empty.
    pub pgdata: PathBuf,
    /// Where tablespaces go instead of where they were.
    pub tablespaces: BTreeMap<u32, PathBuf>,
}

/// Restores a backup.
pub fn restore(
    archive: &Archive,
    description: &Description,
    target: &Target,
    jobs: usize,
    watcher: &dyn Watcher,
) -> Result<(), BackupError> {
    let contents = Contents::open(archive, description)?;
    let label = contents.label()?;
    let places = places(description, target)?;
    for folder in std::iter::once(&target.pgdata).chain(places.values()) {
        make_empty(folder)?;
    }
    let layout = Layout { pgdata: &target.pgdata, places: &places, control: Mutex::default() };
    layout.directories(contents.directories())?;
    watcher.phase("restoring");
    // The first trouble is the one to tell; the directory has no control file, so no server starts on it.
    if let Some(error) = contents.read_all(jobs, &layout, watcher).into_iter().next() {
        return Err(error);
    }
    watcher.phase("making it durable");
    write(&target.pgdata.join("backup_label"), &label)?;
    write(&target.pgdata.join(manifest::NAME), &contents.manifest)?;
    for folder in std::iter::once(&target.pgdata).chain(places.values()) {
        sync_all(folder)?;
    }
    let control = layout.control.into_inner().unwrap_or_else(PoisonError::into_inner);
    let path = target.pgdata.join(CONTROL);
    write(&path, &control)?;
    File::open(&path).and_then(|file| durable::sync(&file)).map_err(BackupError::io("make durable", &path))?;
    let folder = target.pgdata.join("global");
    durable::sync_directory(&folder).map_err(BackupError::io("make durable", &folder))
}

/// Where each tablespace goes.
fn places(description: &Description, target: &Target) -> Result<BTreeMap<u32, PathBuf>, BackupError> {
    if let Some(oid) = target.tablespaces.keys().find(|oid| !description.tablespaces.iter().any(|it| it.oid == **oid)) {
        let known: Vec<String> =
            description.tablespaces.iter().map(|it| format!("{} at '{}'", it.oid, it.location)).collect();
        return Err(BackupError::refused(
            format!("backup '{}' has no tablespace '{oid}'", description.label),
            if known.is_empty() { "It has none at all.".to_owned() } else { format!("It has {}.", known.join(", ")) },
        ));
    }
    let place = |it: &super::plan::Tablespace| {
        let place = target.tablespaces.get(&it.oid).cloned().unwrap_or_else(|| PathBuf::from(&it.location));
        let place = std::path::absolute(&place).map_err(BackupError::io("find", &place))?;
        Ok((it.oid, place))
    };
    description.tablespaces.iter().map(place).collect()
}

/// Makes a directory for the server's user alone; one that is there must be empty.
fn make_empty(folder: &Path) -> Result<(), BackupError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(BackupError::refused(
                    format!("'{}' is not empty", folder.display()),
                    "Name a directory that is empty or not there, with --to, or with --map for a tablespace.",
                ));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(BackupError::io("create", folder))?;
        }
        Err(error) => return Err(BackupError::io("list", folder)(error)),
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(BackupError::io("set the mode of", folder))
}

/// The directories of a restore.
struct Layout<'a> {
    pgdata: &'a Path,
    places: &'a BTreeMap<u32, PathBuf>,
    control: Mutex<Vec<u8>>,
}

impl Layout<'_> {
    /// Makes every directory, and the links to tablespaces.
    fn directories(&self, names: &[String]) -> Result<(), BackupError> {
        for name in names {
            let path = self.resolve(name)?;
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => continue,
                Err(error) => return Err(BackupError::io("create", path)(error)),
            }
            fs::set_permissions(&path, Permissions::from_mode(0o700))
                .map_err(BackupError::io("set the mode of", &path))?;
        }
        for (oid, place) in self.places {
            let link = self.pgdata.join(format!("pg_tblspc/{oid}"));
            std::os::unix::fs::symlink(place, &link).map_err(BackupError::io("link", &link))?;
        }
        Ok(())
    }

    /// Where a name of the backup is; never outside.
    fn resolve(&self, name: &str) -> Result<PathBuf, BackupError> {
        let plain = |path: &str| Path::new(path).components().all(|it| matches!(it, Component::Normal(_)));
        if name.is_empty() || !plain(name) {
            return Err(BackupError::refused(
                format!("'{name}' would lie outside the directory"),
                "The index of the backup was changed by somebody; use another backup.",
            ));
        }
        let tablespace = name.strip_prefix("pg_tblspc/").and_then(|rest| rest.split_once('/'));
        let place = tablespace.and_then(|(oid, rest)| Some(self.places.get(&oid.parse().ok()?)?.join(rest)));
        Ok(place.unwrap_or_else(|| self.pgdata.join(name)))
    }
}

impl Sink for Layout<'_> {
    fn begin<'a>(&'a self, name: &str, _size: u64) -> Result<Taker<'a>, BackupError> {
        if name == CONTROL {
            return Ok(Box::new(|bytes| {
                self.control.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                Ok(())
            }));
        }
        let path = self.resolve(name)?;
        let mut file = create(&path)?;
        Ok(Box::new(move |bytes| file.write_all(bytes).map_err(BackupError::io("write", &path))))
    }
}

fn create(path: &Path) -> Result<File, BackupError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(BackupError::io("create", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    create(path)?.write_all(bytes).map_err(BackupError::io("write", path))
}

/// Makes everything in a file system durable: one call instead of one for each of a hundred thousand files.
fn sync_all(folder: &Path) -> Result<(), BackupError> {
    let open = File::open(folder).map_err(BackupError::io("open", folder))?;
    rustix::fs::syncfs(&open).map_err(|error| BackupError::io("make durable", folder)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_outside() {
        let places = BTreeMap::from([(16400, PathBuf::from("/space"))]);
        let layout = Layout { pgdata: Path::new("/data"), places: &places, control: Mutex::default() };
        let resolve = |name: &str| layout.resolve(name).ok();
        assert_eq!(resolve("base/5/1"), Some("/data/base/5/1".into()));
        assert_eq!(resolve("pg_tblspc/16400/PG_15_1/5/1"), Some("/space/PG_15_1/5/1".into()));
        for name in ["", "/etc/passwd", "../x", "base/../../x"] {
            assert_eq!(resolve(name), None, "{name}");
        }
    }
}
