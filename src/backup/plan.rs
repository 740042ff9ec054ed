//! Which files of a data directory belong to a backup, and how they are put together for storing.
//!
//! Leaves out what `pg_basebackup` leaves out (`basebackup.c`: excludeDirContents, excludeFiles, temporary and unlogged
//! relations): a server makes all of it anew. Links below `pg_tblspc` are followed once, other links and special files
//! are left out with a warning, as there. A file that vanishes while the directories are read is no error: the server
//! removed it, and WAL says so.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BackupError;
use super::checksum::PAGE;

/// The last file to be copied: a standby's says until where its data must be recovered.
pub const CONTROL: &str = "global/pg_control";

/// A file below this size goes into a bundle, in bytes.
pub const SMALL: u64 = 4 << 20;

/// A bundle holds so many bytes at most, and one file more.
pub const BUNDLE: u64 = 64 << 20;

/// What each fork file of a relation holds at most, in pages (RELSEG_SIZE).
const SEGMENT_PAGES: u64 = (1 << 30) / PAGE as u64;

/// Directories whose content is left out.
const EMPTIED: &[&str] =
    &["pg_wal", "pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"];

/// Files that are left out wherever they are. The signal files say what role a server has, not what its data are: what
/// is restored from a standby's backup must not become a standby by itself.
const LEFT_OUT: &[&str] = &[
    "postgresql.auto.conf.tmp",
    "current_logfiles",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
];

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its oid.
    pub oid: u32,
    /// Where it is.
    pub location: String,
}

/// What tells a file from other files and from other states of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// When its content was last written (`mtime`), in nanoseconds since 1970.
    pub modified: i64,
    /// When anything of it last changed (`ctime`), in nanoseconds since 1970; no program can set it.
    pub changed: i64,
    /// Its number in the file system.
    pub inode: u64,
}

impl Stamp {
    /// The stamp of a file that was looked at.
    pub fn of(data: &fs::Metadata) -> Stamp {
        let time = |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Stamp {
            modified: time(data.mtime(), data.mtime_nsec()),
            changed: time(data.ctime(), data.ctime_nsec()),
            inode: data.ino(),
        }
    }
}

/// A file to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the data directory.
    pub path: String,
    /// Where it is.
    pub file: PathBuf,
    /// Its size when it was listed, in bytes.
    pub size: u64,
    /// What tells its state from others.
    pub stamp: Stamp,
    /// For files with pages: the block number of the first one.
    pub first_block: Option<u32>,
}

/// What belongs to the backup.
#[derive(Debug, Default)]
pub struct Tree {
    /// The files, without the control file.
    pub files: Vec<SourceFile>,
    /// Every directory, parents first.
    pub directories: Vec<String>,
    /// The tablespaces.
    pub tablespaces: Vec<Tablespace>,
    /// What was left out that a person may want to know of.
    pub warnings: Vec<String>,
}

/// Files that are stored together.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// One file.
    File(SourceFile),
    /// Small ones.
    Bundle(Vec<SourceFile>),
}

impl Work {
    /// How many bytes it holds.
    pub fn size(&self) -> u64 {
        match self {
            Work::File(file) => file.size,
            Work::Bundle(files) => files.iter().map(|file| file.size).sum(),
        }
    }
}

/// Reads the directories. `version_directory` is what a tablespace's folder of this server is called, such as
/// `PG_15_202209061`.
pub fn walk(pgdata: &Path, version_directory: &str) -> Result<Tree, BackupError> {
    let mut tree = Tree::default();
    Walk { tree: &mut tree, version_directory }.folder("", pgdata, true)?;
    Ok(tree)
}

struct Walk<'a> {
    tree: &'a mut Tree,
    version_directory: &'a str,
}

impl Walk<'_> {
    /// Reads one directory; `path` is its name relative to the data directory, empty for the root.
    fn folder(&mut self, path: &str, at: &Path, must_exist: bool) -> Result<(), BackupError> {
        let entries = match fs::read_dir(at) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(()),
            Err(error) => return Err(BackupError::io("list", at)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(BackupError::io("list", at))?.file_name();
            names.push(name.into_string().map_err(|name| {
                BackupError::refused(
                    format!("'{}' in '{}' has a name that is not UTF-8", name.display(), at.display()),
                    "PostgreSQL makes no such name; move the file out of the data directory.",
                )
            })?);
        }
        names.sort();
        let unlogged = if is_database(path, self.version_directory) { unlogged(&names) } else { HashSet::new() };
        for name in names {
            self.entry(path, at, &name, &unlogged)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, at: &Path, name: &str, unlogged: &HashSet<u64>) -> Result<(), BackupError> {
        let inner = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        if is_left_out(path, name, unlogged, self.version_directory) || inner == CONTROL {
            return Ok(());
        }
        let full = at.join(name);
        let data = match fs::symlink_metadata(&full) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(BackupError::io("look at", full)(error)),
        };
        // pg_wal may be a link to another volume; what is restored has a plain directory.
        if path.is_empty() && EMPTIED.contains(&name) && (data.is_dir() || data.is_symlink()) {
            self.emptied(name, &full);
        } else if data.is_symlink() && path == "pg_tblspc" {
            self.tablespace(&inner, &full, name)?;
        } else if data.is_dir() {
            self.tree.directories.push(inner.clone());
            self.folder(&inner, &full, false)?;
        } else if data.is_file() {
            let first_block = first_block(path, name, self.version_directory);
            let stamp = Stamp::of(&data);
            self.tree.files.push(SourceFile { path: inner, file: full, size: data.len(), stamp, first_block });
        } else {
            self.tree.warnings.push(format!("'{inner}' is neither a file nor a directory and is left out"));
        }
        Ok(())
    }

    fn emptied(&mut self, name: &str, full: &Path) {
        self.tree.directories.push(name.to_owned());
        for inner in ["archive_status", "summaries"] {
            if name == "pg_wal" && full.join(inner).is_dir() {
                self.tree.directories.push(format!("{name}/{inner}"));
            }
        }
    }

    fn tablespace(&mut self, inner: &str, link: &Path, name: &str) -> Result<(), BackupError> {
        let Ok(oid) = name.parse() else {
            self.tree.warnings.push(format!("'{inner}' is no tablespace and is left out"));
            return Ok(());
        };
        let location = match fs::read_link(link) {
            Ok(location) => location,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(BackupError::io("read the link", link)(error)),
        };
        let text = location.to_str().ok_or_else(|| {
            BackupError::refused(
                format!("tablespace '{oid}' is at '{}', which is not UTF-8", location.display()),
                "Move the tablespace to a directory with a plain name.",
            )
        })?;
        self.tree.tablespaces.push(Tablespace { oid, location: text.to_owned() });
        let folder = location.join(self.version_directory);
        if folder.is_dir() {
            let path = format!("{inner}/{}", self.version_directory);
            self.tree.directories.push(path.clone());
            self.folder(&path, &folder, false)?;
        }
        Ok(())
    }
}

/// True for a directory that holds the relations of a database.
fn is_database(path: &str, version_directory: &str) -> bool {
    let Some((parent, name)) = path.rsplit_once('/') else { return false };
    let number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    number && (parent == "base" || parent.rsplit('/').next() == Some(version_directory))
}

/// True for what a backup does without.
fn is_left_out(path: &str, name: &str, unlogged: &HashSet<u64>, version_directory: &str) -> bool {
    if name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init") || LEFT_OUT.contains(&name) {
        return true;
    }
    if !is_database(path, version_directory) {
        return false;
    }
    is_temporary(name)
        || relation(name).is_some_and(|(number, fork, _)| fork != Some("init") && unlogged.contains(&number))
}

/// `t<backend>_<relation>`: a temporary relation (looks_like_temp_rel_name).
fn is_temporary(name: &str) -> bool {
    let Some((backend, rest)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else { return false };
    !backend.is_empty() && backend.bytes().all(|byte| byte.is_ascii_digit()) && relation(rest).is_some()
}

/// The relations of a directory that have an init fork: their other forks are made anew after a crash.
fn unlogged(names: &[String]) -> HashSet<u64> {
    let all = names.iter().filter_map(|name| relation(name));
    all.filter(|(_, fork, _)| *fork == Some("init")).map(|(number, _, _)| number).collect()
}

/// Takes the name of a relation's file apart: number, fork, number of the file.
pub(super) fn relation(name: &str) -> Option<(u64, Option<&str>, u32)> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, number(segment)?),
        None => (name, 0),
    };
    let (node, fork) = match name.split_once('_') {
        Some((node, fork @ ("fsm" | "vm" | "init"))) => (node, Some(fork)),
        Some(_) => return None,
        None => (name, None),
    };
    Some((number(node)?, fork, u32::try_from(segment).ok()?))
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The block number of a file's first page; none where it holds no pages with checksums.
fn first_block(path: &str, name: &str, version_directory: &str) -> Option<u32> {
    if path != "global" && !is_database(path, version_directory) {
        return None;
    }
    let (_, _, segment) = relation(name)?;
    u32::try_from(u64::from(segment) * SEGMENT_PAGES).ok()
}

/// Puts small files together, in the order of their paths; the largest work comes first, so that no thread is left with
/// a large file at the end.
pub fn arrange(files: Vec<SourceFile>) -> Vec<Work> {
    let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.size < SMALL);
    let mut work: Vec<Work> = large.into_iter().map(Work::File).collect();
    let (mut bundle, mut filled) = (Vec::new(), 0);
    for file in small {
        filled += file.size;
        bundle.push(file);
        if filled >= BUNDLE {
            work.push(Work::Bundle(std::mem::take(&mut bundle)));
            filled = 0;
        }
    }
    if !bundle.is_empty() {
        work.push(Work::Bundle(bundle));
    }
    work.sort_by_key(|work| std::cmp::Reverse(work.size()));
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "PG_15_202209061";

    fn left_out(path: &str, name: &str) -> bool {
        let names = ["20000", "20000_init", "20000_fsm", "30000"].map(str::to_owned);
        is_left_out(path, name, &unlogged(&names), VERSION)
    }

    #[test]
    fn what_a_server_makes_anew_is_left_out() {
        for (path, name) in [
            ("", "postmaster.pid"),
            ("", "postmaster.opts"),
            ("", "backup_label.old"),
            ("", "standby.signal"),
            ("", "postgresql.auto.conf.tmp"),
            ("base/5", "pg_internal.init.123"),
            ("base", "pgsql_tmp"),
            ("base/5", "20000"),
            ("base/5", "20000.1"),
            ("base/5", "20000_fsm"),
            ("base/5", "t3_16384"),
            ("base/5", "t3_16384_vm.2"),
            ("pg_tblspc/16400/PG_15_202209061/5", "20000"),
        ] {
            assert!(left_out(path, name), "{path}/{name}");
        }
        for (path, name) in [
            ("base/5", "20000_init"),
            ("base/5", "30000"),
            ("base/5", "PG_VERSION"),
            ("global", "20000"),
            ("base/5", "t_16384"),
            ("", "postgresql.auto.conf"),
            ("pg_xact", "0000"),
        ] {
            assert!(!left_out(path, name), "{path}/{name}");
        }
    }

    #[test]
    fn pages_are_counted_over_the_files_of_a_relation() {
        assert_eq!(first_block("base/5", "16384", VERSION), Some(0));
        assert_eq!(first_block("base/5", "16384.2", VERSION), Some(262_144));
        assert_eq!(first_block("global", "1262_fsm", VERSION), Some(0));
        assert_eq!(first_block("pg_tblspc/16400/PG_15_202209061/5", "16390.1", VERSION), Some(131_072));
        for (path, name) in [("global", "pg_filenode.map"), ("base/5", "PG_VERSION"), ("pg_xact", "0000"), ("", "1")] {
            assert_eq!(first_block(path, name, VERSION), None, "{path}/{name}");
        }
    }

    fn file(path: &str, size: u64) -> SourceFile {
        SourceFile { path: path.to_owned(), file: path.into(), size, stamp: Stamp::default(), first_block: None }
    }

    #[test]
    fn small_files_share_bundles_and_large_ones_come_first() {
        let mut files: Vec<_> = (0..40).map(|at| file(&format!("s{at}"), SMALL - 1)).collect();
        files.push(file("large", 1 << 30));
        let work = arrange(files);
        assert!(matches!(&work[0], Work::File(file) if file.path == "large"));
        let bundled: usize =
            work[1..].iter().map(|work| if let Work::Bundle(files) = work { files.len() } else { 0 }).sum();
        assert_eq!(bundled, 40);
        assert!(work[1..].iter().all(|work| work.size() < BUNDLE + SMALL));
    }

    #[test]
    fn a_directory_is_read_as_pg_basebackup_reads_it() -> Result<(), Box<dyn std::error::Error>> {
        let root = tempfile::tempdir()?;
        let place = tempfile::tempdir()?;
        let at = |path: &str| root.path().join(path);
        for folder in ["base/5", "global", "pg_wal/archive_status", "pg_tblspc", "pg_stat_tmp"] {
            fs::create_dir_all(at(folder))?;
        }
        fs::create_dir_all(place.path().join(VERSION).join("5"))?;
        fs::create_dir_all(place.path().join("PG_14_1").join("5"))?;
        for file in ["PG_VERSION", "base/5/1", "global/pg_control", "pg_wal/0001", "pg_stat_tmp/x", "postmaster.pid"] {
            fs::write(at(file), "x")?;
        }
        fs::write(place.path().join(VERSION).join("5/2"), "x")?;
        fs::write(place.path().join("PG_14_1/5/3"), "x")?;
        std::os::unix::fs::symlink(place.path(), at("pg_tblspc/16400"))?;
        std::os::unix::fs::symlink("/etc/hostname", at("base/link"))?;
        let tree = walk(root.path(), VERSION)?;
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["PG_VERSION", "base/5/1", "pg_tblspc/16400/PG_15_202209061/5/2"]);
        assert!(tree.directories.contains(&"pg_wal/archive_status".to_owned()));
        assert_eq!(tree.tablespaces.len(), 1);
        assert_eq!(tree.warnings.len(), 1, "{:?}", tree.warnings);
        Ok(())
    }
}
