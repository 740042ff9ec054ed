//! Opening files beneath a directory that is held open, so that no symbolic link leads out of it.
//!
//! The directory is held by descriptor and remembered by identity: another directory that later stands under the same
//! path (the bare mount point of a volume that went away) is not taken for it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::store::StorePath;

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Identity { device: stat.st_dev, inode: stat.st_ino }
    }

    /// The identity of an open file.
    pub(super) fn of_file(file: &OwnedFd) -> io::Result<Self> {
        Ok(Identity::of(&rustix::fs::fstat(file)?))
    }
}

/// A directory held open.
#[derive(Debug)]
pub(super) struct Beneath {
    path: PathBuf,
    root: OwnedFd,
    identity: Identity,
    /// Set once the kernel turned out to have no openat2.
    step_by_step: AtomicBool,
}

impl Beneath {
    /// Opens the directory; a symbolic link to one is followed, here and nowhere else.
    pub(super) fn open_root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let identity = Identity::of_file(&root)?;
        Ok(Beneath { path: path.to_owned(), root, identity, step_by_step: AtomicBool::new(false) })
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// True while the directory still stands under the path where it was opened; false where another one does.
    pub(super) fn still_there(&self) -> io::Result<bool> {
        Ok(Identity::of(&rustix::fs::stat(&self.path)?) == self.identity)
    }

    /// Opens what is at `path`; no component may be a symbolic link.
    pub(super) fn open(&self, path: &StorePath, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !self.step_by_step.load(Ordering::Relaxed) {
            let text = if path.as_str().is_empty() { "." } else { path.as_str() };
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, text, flags, Mode::empty(), resolve) {
                Ok(file) => return Ok(file),
                // EPERM is how a container's system call filter refuses a call it does not know.
                Err(Errno::NOSYS | Errno::PERM) => self.step_by_step.store(true, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            }
        }
        self.walk(path, flags)
    }

    /// The same, one component at a time: a component is plain, so it leads nowhere but down.
    fn walk(&self, path: &StorePath, flags: OFlags) -> io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut held: Option<OwnedFd> = None;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let flags = if components.peek().is_some() { step } else { flags };
            held = Some(rustix::fs::openat(held.as_ref().unwrap_or(&self.root), component, flags, Mode::empty())?);
        }
        match held {
            Some(file) => Ok(file),
            None => Ok(rustix::fs::openat(&self.root, ".", flags, Mode::empty())?),
        }
    }

    /// Looks at what is at `path` without following it; `None` where there is nothing.
    pub(super) fn stat(&self, path: &StorePath) -> io::Result<Option<Stat>> {
        let folder = match path.folder() {
            None => return Ok(Some(rustix::fs::fstat(&self.root)?)),
            Some(folder) => match self.open(&folder, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(folder) => folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        stat_at(&folder, path.file_name())
    }
}

/// Looks at a name in an open folder without following it; `None` where there is nothing.
pub(super) fn stat_at(folder: impl std::os::fd::AsFd, name: &str) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn path(text: &str) -> StorePath {
        text.parse().expect("because it is plain")
    }

    #[test]
    fn both_ways_refuse_symbolic_links() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("in"))?;
        fs::create_dir(&outside)?;
        fs::write(outside.join("secret"), "")?;
        fs::write(root.join("in/file"), "")?;
        std::os::unix::fs::symlink(&outside, root.join("link"))?;
        std::os::unix::fs::symlink(outside.join("secret"), root.join("in/leaf"))?;
        for step_by_step in [false, true] {
            let beneath = Beneath::open_root(&root)?;
            beneath.step_by_step.store(step_by_step, Ordering::Relaxed);
            assert!(beneath.open(&path("in/file"), OFlags::RDONLY).is_ok());
            assert!(beneath.open(&StorePath::root(), OFlags::RDONLY | OFlags::DIRECTORY).is_ok());
            for text in ["link/secret", "in/leaf", "link"] {
                let error = beneath.open(&path(text), OFlags::RDONLY).expect_err("because it is a link");
                assert_ne!(error.kind(), io::ErrorKind::NotFound, "{text}");
            }
            assert!(beneath.stat(&path("link/secret")).is_err());
            let error = beneath.open(&path("in/none"), OFlags::RDONLY).expect_err("because it is absent");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        Ok(())
    }

    #[test]
    fn a_directory_put_in_its_place_is_not_the_same() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("root");
        fs::create_dir(&root)?;
        let beneath = Beneath::open_root(&root)?;
        assert!(beneath.still_there()?);
        fs::rename(&root, folder.path().join("away"))?;
        fs::create_dir(&root)?;
        assert!(!beneath.still_there()?);
        Ok(())
    }
}
