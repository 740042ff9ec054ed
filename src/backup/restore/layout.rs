//! The directories of a restore: where each file of a backup goes, and never outside.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Target;
use super::patch::Patch;
use crate::backup::BackupError;
use crate::backup::plan::CONTROL;
use crate::backup::read::{Sink, Taker};

/// The directories of a restore.
pub struct Layout<'a> {
    /// The data directory.
    pub pgdata: &'a Path,
    /// Where each tablespace is.
    pub places: &'a BTreeMap<u32, PathBuf>,
    /// Where `pg_wal` leads, if it is a link.
    wal: Option<&'a Path>,
    control: Mutex<Vec<u8>>,
    written: AtomicU64,
}

impl<'a> Layout<'a> {
    /// The directories of a target.
    pub fn new(target: &'a Target, places: &'a BTreeMap<u32, PathBuf>) -> Layout<'a> {
        let (pgdata, wal) = (target.pgdata.as_path(), target.wal.as_deref());
        Layout { pgdata, places, wal, control: Mutex::default(), written: AtomicU64::new(0) }
    }

    /// Makes every directory, and the links to tablespaces and to WAL.
    pub fn prepare(&self, names: &[String]) -> Result<(), BackupError> {
        if let Some(wal) = self.wal {
            self.link(wal, &self.pgdata.join("pg_wal"))?;
        }
        for name in names {
            self.directory(&self.resolve(name)?)?;
        }
        for (oid, place) in self.places {
            self.link(place, &self.pgdata.join(format!("pg_tblspc/{oid}")))?;
        }
        Ok(())
    }

    /// Makes one directory (0700); what else has the name goes.
    fn directory(&self, path: &Path) -> Result<(), BackupError> {
        match fs::create_dir(path) {
            Ok(()) => {}
            // pg_wal may be a link to another volume.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path).map_err(BackupError::io("remove", path))?;
                fs::create_dir(path).map_err(BackupError::io("create", path))?;
            }
            Err(error) => return Err(BackupError::io("create", path)(error)),
        }
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(BackupError::io("set the mode of", path))
    }

    /// Makes a link, or turns one that leads elsewhere; a directory in its place stays.
    fn link(&self, to: &Path, link: &Path) -> Result<(), BackupError> {
        match fs::read_link(link) {
            Ok(there) if there == to => return Ok(()),
            Ok(_) => fs::remove_file(link).map_err(BackupError::io("remove", link))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                return Err(BackupError::refused(
                    format!("'{}' is no link, and should lead to '{}'", link.display(), to.display()),
                    "Move the directory away, or restore without mapping it.",
                ));
            }
        }
        std::os::unix::fs::symlink(to, link).map_err(BackupError::io("link", link))
    }

    /// Where a name of the backup is; never outside.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, BackupError> {
        let plain = |path: &str| Path::new(path).components().all(|it| matches!(it, Component::Normal(_)));
        if name.is_empty() || !plain(name) {
            return Err(BackupError::refused(
                format!("'{name}' would lie outside the directory"),
                "Somebody changed the index of the backup, or the node that sends it; use another one.",
            ));
        }
        let tablespace = name.strip_prefix("pg_tblspc/").and_then(|rest| rest.split_once('/'));
        let place = tablespace.and_then(|(oid, rest)| Some(self.places.get(&oid.parse().ok()?)?.join(rest)));
        Ok(place.unwrap_or_else(|| self.pgdata.join(name)))
    }

    /// Writes a small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        self.begin(name, bytes.len() as u64)?(bytes)
    }

    /// The content of the control file, which is written last, and how many bytes were written.
    pub fn finish(self) -> (Vec<u8>, u64) {
        (self.control.into_inner().unwrap_or_else(PoisonError::into_inner), self.written.into_inner())
    }

    /// Opens a file; what has its name and is none goes first.
    fn open(&self, path: &Path, size: u64) -> Result<Patch, BackupError> {
        match fs::symlink_metadata(path) {
            Ok(data) if data.is_file() => {}
            Ok(data) if data.is_dir() => fs::remove_dir_all(path).map_err(BackupError::io("remove", path))?,
            Ok(_) => fs::remove_file(path).map_err(BackupError::io("remove", path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::io("look at", path)(error)),
        }
        Patch::open(path, size).map_err(BackupError::io("open", path))
    }
}

impl Sink for Layout<'_> {
    fn begin<'a>(&'a self, name: &str, size: u64) -> Result<Taker<'a>, BackupError> {
        if name == CONTROL {
            return Ok(Box::new(|bytes| {
                self.control.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                Ok(())
            }));
        }
        let path = self.resolve(name)?;
        let mut patch = self.open(&path, size)?;
        Ok(Box::new(move |bytes| {
            let written = patch.take(bytes).map_err(BackupError::io("write", &path))?;
            self.written.fetch_add(written, Ordering::Relaxed);
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_outside() {
        let (target, places) = (Target::new("/data"), BTreeMap::from([(16400, PathBuf::from("/space"))]));
        let layout = Layout::new(&target, &places);
        let resolve = |name: &str| layout.resolve(name).ok();
        assert_eq!(resolve("base/5/1"), Some("/data/base/5/1".into()));
        assert_eq!(resolve("pg_tblspc/16400/PG_15_1/5/1"), Some("/space/PG_15_1/5/1".into()));
        for name in ["", "/etc/passwd", "../x", "base/../../x"] {
            assert_eq!(resolve(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_in_the_way_makes_room_and_what_a_link_led_to_stays() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (pgdata, space) = (folder.path().join("data"), folder.path().join("space"));
        let old = folder.path().join("old");
        for folder in [&pgdata, &space, &old, &pgdata.join("pg_tblspc")] {
            fs::create_dir(folder)?;
        }
        fs::write(old.join("theirs"), "x")?;
        std::os::unix::fs::symlink(&old, pgdata.join("pg_tblspc/7"))?;
        std::os::unix::fs::symlink(old.join("theirs"), pgdata.join("conf"))?;
        fs::write(pgdata.join("base"), "a file")?;
        let (target, places) = (Target::new(&pgdata), BTreeMap::from([(7, space.clone())]));
        let layout = Layout::new(&target, &places);
        let names = ["base", "pg_tblspc", "pg_tblspc/7/PG_15_1"].map(str::to_owned);
        let done = layout.prepare(&names).and_then(|()| layout.write("conf", b"ours"));
        assert!(done.is_ok(), "{done:?}");
        assert_eq!(fs::read_link(pgdata.join("pg_tblspc/7"))?, space);
        assert!(pgdata.join("base").is_dir() && space.join("PG_15_1").is_dir());
        assert_eq!((fs::read(pgdata.join("conf"))?, fs::read(old.join("theirs"))?), (b"ours".into(), b"x".into()));
        assert_eq!(layout.finish().1, 4);
        Ok(())
    }
}
