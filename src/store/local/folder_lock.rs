//! The lock of a folder that is being written to: held for the few system calls between "is it there?" and "now it is".
//!
//! It is the kernel's lock (flock) on the folder itself, so it leaves no file behind and goes with its process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::system::clock::Deadline;

/// What is locked on file systems that cannot lock a folder (NFS): one file for the whole store, never listed.
const LOCK_FILE: &str = ".lock";

/// A lock, given back on drop.
pub(super) struct FolderLock {
    file: OwnedFd,
}

impl FolderLock {
    /// Waits for the lock of `folder`, a descriptor that nobody else shares; `None` where it took longer than
    /// `wait_max`.
    pub(super) fn wait(folder: BorrowedFd, root: impl AsFd, wait_max: Duration) -> io::Result<Option<Self>> {
        match Self::wait_for(folder.try_clone_to_owned()?, wait_max) {
            Err(Errno::BADF | Errno::OPNOTSUPP | Errno::NOLCK) => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(root, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR)?;
                Ok(Self::wait_for(file, wait_max)?)
            }
            other => Ok(other?),
        }
    }

    fn wait_for(file: OwnedFd, wait_max: Duration) -> Result<Option<Self>, Errno> {
        let deadline = Deadline::after(wait_max);
        let mut pause = Duration::from_micros(200);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(FolderLock { file })),
                Err(Errno::WOULDBLOCK) if deadline.expired() => return Ok(None),
                Err(Errno::WOULDBLOCK) => {
                    std::thread::sleep(pause.min(deadline.remaining()));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Other descriptors share this lock, so closing one does not give it back.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn one_holds_it_and_the_other_gives_up_in_time() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (one, two) = (File::open(folder.path())?, File::open(folder.path())?);
        let short = Duration::from_millis(30);
        let held = FolderLock::wait(one.as_fd(), &one, short)?;
        assert!(held.is_some());
        assert!(FolderLock::wait(two.as_fd(), &two, short)?.is_none());
        drop(held);
        assert!(FolderLock::wait(two.as_fd(), &two, short)?.is_some());
        Ok(())
    }
}
