//! Whether there is room for a backup where it is to go.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Target, Way};
use crate::archive::places::Archive;
use crate::backup::BackupError;
use crate::backup::catalog::{self, Description};

/// Refuses where the file systems of a target have less room than the files of the backup take. An older state that
/// is overwritten gives back what it takes, so only fresh directories are looked at.
pub fn room(
    archive: &Archive,
    backup: &Description,
    target: &Target,
    places: &BTreeMap<u32, PathBuf>,
    way: Way,
) -> Result<(), BackupError> {
    if way != Way::Fresh {
        return Ok(());
    }
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    let index = catalog::index(archive, backup)?;
    for file in index.files() {
        let oid = file.path.strip_prefix("pg_tblspc/").and_then(|rest| rest.split('/').next()?.parse().ok());
        let folder = oid.and_then(|oid: u32| places.get(&oid)).unwrap_or(&target.pgdata);
        let (device, there) = nearest(folder)?;
        needed.entry(device).or_insert((there, 0)).1 += file.size;
    }
    for (folder, bytes) in needed.into_values() {
        let volume = rustix::fs::statvfs(&folder);
        let volume = volume.map_err(|error| BackupError::io("ask for room at", &folder)(error.into()))?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        if free < bytes {
            return Err(BackupError::refused(
                format!("'{}' has {free} bytes free, and the backup takes {bytes}", folder.display()),
                "Free space there, or name another directory with --to, and with --map for a tablespace.",
            ));
        }
    }
    Ok(())
}

/// The nearest directory above that is there, and its file system.
fn nearest(folder: &Path) -> Result<(u64, PathBuf), BackupError> {
    let mut there = folder;
    loop {
        match fs::metadata(there) {
            Ok(data) => return Ok((data.dev(), there.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                there = match there.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => return Err(BackupError::io("find", folder)(error)),
                };
            }
            Err(error) => return Err(BackupError::io("look at", there)(error)),
        }
    }
}
