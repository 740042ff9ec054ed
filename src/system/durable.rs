//! Durable files: the one place that knows which fsync belongs where.
//!
//! A file is durable once its content is fsynced, then its name, which lives in its directory; a directory is durable
//! once its parent is fsynced too. Each function here keeps one such promise and has kept it when it returns `Ok`.
//! A file whose fsync failed is never fsynced again and believed: the kernel reports a lost write once, so such a file
//! is thrown away and written anew. What this module leaves out: locking, and telling whose file it is.

use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

/// The beginning of every temporary name.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// How naming a new file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// The file has its name now.
    Published,
    /// The name was taken; what holds it was not touched.
    Occupied,
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

/// Makes an open file's content, or the names in an open directory, durable.
pub fn sync(file: impl AsFd) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::fsync(file.as_fd()))?)
}

/// Makes a directory (0700), and the missing ones above it, durable; one that is there already is made durable too.
pub fn create_directory_durable(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !path.is_dir() {
                return Err(error);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => {
            create_directory_durable(parent)?;
            return create_directory_durable(path);
        }
        Err(error) => return Err(error),
    }
    sync_directory(path)?;
    sync_directory(parent)
}

/// Makes a folder (0700) inside an open directory and makes it durable; one that is there already is fine.
pub fn create_directory_at(parent: impl AsFd, name: &str) -> io::Result<()> {
    let parent = parent.as_fd();
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => sync(parent),
        Err(error) => Err(error.into()),
    }
}

/// Gives the finished file `temporary` the name `target` in the same directory, durably, without clobbering: content
/// fsynced, named, directory fsynced. Where the name is taken, `temporary` stays as it is.
pub fn publish_new(temporary: &Path, target: &Path) -> io::Result<Publication> {
    sync(&File::open(temporary)?)?;
    let publication = name_at(rustix::fs::CWD, temporary, rustix::fs::CWD, target)?;
    if publication == Publication::Published {
        sync_directory(parent_of(target))?;
    }
    Ok(publication)
}

/// Writes a small file (0600) over an older one or none, durably: a reader sees the old content or the new, whole.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = TemporaryFile::create_in(parent_of(path))?;
    temporary.file_mut().write_all(bytes)?;
    temporary.replace(name)
}

/// The directory that holds a path; `.` where the path is a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Renames without clobbering; both names on one file system.
fn name_at(from_at: BorrowedFd, from: &Path, to_at: BorrowedFd, to: &Path) -> io::Result<Publication> {
    match rustix::fs::renameat_with(from_at, from, to_at, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Publication::Published),
        Err(Errno::EXIST) => Ok(Publication::Occupied),
        // The file system (NFS, some FUSE ones) or an old kernel knows no such rename: a hard link refuses as well.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_at(from_at, from, to_at, to),
        Err(error) => Err(error.into()),
    }
}

/// Names a file by a second link and takes the first away.
fn link_at(from_at: BorrowedFd, from: &Path, to_at: BorrowedFd, to: &Path) -> io::Result<Publication> {
    match rustix::fs::linkat(from_at, from, to_at, to, AtFlags::empty()) {
        Ok(()) => {
            rustix::fs::unlinkat(from_at, from, AtFlags::empty())?;
            Ok(Publication::Published)
        }
        Err(Errno::EXIST) => Ok(Publication::Occupied),
        Err(error) => Err(error.into()),
    }
}

/// A file under a temporary name (0600), removed on drop unless it was given its name.
#[derive(Debug)]
pub struct TemporaryFile {
    folder: OwnedFd,
    name: String,
    file: File,
    named: bool,
}

impl TemporaryFile {
    /// Makes one in the directory at `folder`.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        Self::create_at(File::open(folder)?)
    }

    /// Makes one in an open directory.
    pub fn create_at(folder: impl Into<OwnedFd>) -> io::Result<Self> {
        let folder = folder.into();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = temporary_name();
            match rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(TemporaryFile { folder, name, file: file.into(), named: false }),
                Err(Errno::EXIST | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The open file.
    pub fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Its temporary name, without the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory that holds it.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Makes the content durable.
    pub fn sync_content(&self) -> io::Result<()> {
        sync(&self.file)
    }

    /// Gives it its name without clobbering. The name is durable only after [`TemporaryFile::sync_folder`].
    pub fn take_name(&mut self, name: &str) -> io::Result<Publication> {
        let publication = name_at(self.folder(), Path::new(&self.name), self.folder(), Path::new(name))?;
        self.named = publication == Publication::Published;
        Ok(publication)
    }

    /// Makes the names in its directory durable.
    pub fn sync_folder(&self) -> io::Result<()> {
        sync(&self.folder)
    }

    /// Content fsynced, named without clobbering, directory fsynced.
    pub fn publish_new(mut self, name: &str) -> io::Result<Publication> {
        self.sync_content()?;
        let publication = self.take_name(name)?;
        if publication == Publication::Published {
            self.sync_folder()?;
        }
        Ok(publication)
    }

    /// Content fsynced, renamed over whatever had the name, directory fsynced.
    pub fn replace(mut self, name: impl AsRef<Path>) -> io::Result<()> {
        self.sync_content()?;
        rustix::fs::renameat(&self.folder, &self.name, &self.folder, name.as_ref())?;
        self.named = true;
        self.sync_folder()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.named {
            // A leftover is swept later by whoever owns the directory; there is nobody to tell here.
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// A name that no other process and no other thread uses: `.tmp-<pid>-<counter>-<random>`.
pub fn temporary_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The pid alone does not do where several machines or containers share a directory.
    let random = RandomState::new().build_hasher().finish();
    format!("{TEMPORARY_PREFIX}{}-{count}-{random:016x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("because the folder is ours")
            .map(|entry| entry.expect("because it is readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("because it exists").permissions().mode() & 0o777
    }

    #[test]
    fn a_dropped_temporary_file_leaves_nothing() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let temporary = TemporaryFile::create_in(folder.path())?;
        assert_eq!(names(folder.path()), [temporary.name()]);
        assert!(temporary.name().starts_with(TEMPORARY_PREFIX));
        drop(temporary);
        assert!(names(folder.path()).is_empty());
        Ok(())
    }

    #[test]
    fn publishing_never_clobbers() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        for (content, expected) in [("first", Publication::Published), ("second", Publication::Occupied)] {
            let mut temporary = TemporaryFile::create_in(folder.path())?;
            temporary.file_mut().write_all(content.as_bytes())?;
            assert_eq!(temporary.publish_new("name")?, expected);
        }
        assert_eq!(fs::read(folder.path().join("name"))?, b"first");
        assert_eq!(names(folder.path()), ["name"]);
        assert_eq!(mode(&folder.path().join("name")), 0o600);
        Ok(())
    }

    #[test]
    fn a_link_does_where_the_rename_is_unknown() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let open = File::open(folder.path())?;
        for (from, expected) in [("one", Publication::Published), ("two", Publication::Occupied)] {
            fs::write(folder.path().join(from), from)?;
            assert_eq!(link_at(open.as_fd(), Path::new(from), open.as_fd(), Path::new("name"))?, expected);
        }
        assert_eq!(fs::read(folder.path().join("name"))?, b"one");
        assert_eq!(names(folder.path()), ["name", "two"]);
        Ok(())
    }

    #[test]
    fn paths_publish_like_names() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (temporary, target) = (folder.path().join(temporary_name()), folder.path().join("target"));
        fs::write(&temporary, "one")?;
        assert_eq!(publish_new(&temporary, &target)?, Publication::Published);
        fs::write(&temporary, "two")?;
        assert_eq!(publish_new(&temporary, &target)?, Publication::Occupied);
        assert_eq!(fs::read(&target)?, b"one");
        assert_eq!(fs::read(&temporary)?, b"two");
        Ok(())
    }

    #[test]
    fn replacing_leaves_the_new_content_and_nothing_else() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("record");
        replace(&path, b"old")?;
        replace(&path, b"new")?;
        assert_eq!(fs::read(&path)?, b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(folder.path()), ["record"]);
        Ok(())
    }

    #[test]
    fn directories_are_made_private_with_those_above() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let deep = folder.path().join("a/b/c");
        create_directory_durable(&deep)?;
        create_directory_durable(&deep)?;
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&folder.path().join("a")), 0o700);
        fs::write(deep.join("file"), "")?;
        assert!(create_directory_durable(&deep.join("file")).is_err());
        Ok(())
    }
}
