//! One run at a time: a lock on a file, held by the kernel for the life of a value.
//!
//! The kernel's lock (flock) is the only proof that its owner lives: it goes with the process, also after `kill -9`.
//! What stands in the file is for messages only. The file is never deleted, since a deleted one could be locked by two.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    // Closing the file gives the lock back.
    _file: File,
}

/// How taking a lock ended.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Held(Lock),
    /// Another process has it, or another part of this one.
    Busy {
        /// Who, as they wrote it down: program, pid and since when.
        owner: String,
    },
}

impl Lock {
    /// Takes the lock at `path` if it is free; never waits. The file is made (0600) where it is missing, its folder
    /// not.
    pub fn try_take(path: &Path) -> io::Result<Taken> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy { owner: owner(&mut file)? }),
            Err(error) => return Err(error.into()),
        }
        // The lock is ours, and on a full disk it must be, or nothing could be removed there any more.
        if let Err(error) = sign(&mut file) {
            log::debug!("'{}' does not say who holds it: {error}", path.display());
        }
        Ok(Taken::Held(Lock { _file: file }))
    }
}

/// Writes down who has the lock.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(own_words().as_bytes())
}

/// What the owner wrote; an owner that has only just taken the lock may not have written yet.
fn owner(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    // A lock file holds one short line; more than that is not read into a message.
    file.take(200).read_to_string(&mut text)?;
    let line = text.lines().next().unwrap_or("").trim();
    Ok(if line.is_empty() { "another process".to_owned() } else { line.to_owned() })
}

/// Who this is.
fn own_words() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let now = chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, false);
    format!("{program} (pid {}) since {now}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_busy_while_held_and_free_afterwards() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("run.lock");
        let Taken::Held(lock) = Lock::try_take(&path)? else { panic!("the first taker must get it") };
        let Taken::Busy { owner } = Lock::try_take(&path)? else { panic!("the second taker must not get it") };
        assert!(owner.contains(&format!("(pid {})", std::process::id())), "{owner}");
        drop(lock);
        assert!(matches!(Lock::try_take(&path)?, Taken::Held(_)));
        assert!(path.exists());
        Ok(())
    }

    #[test]
    fn what_a_dead_owner_wrote_does_not_hold_the_lock() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("run.lock");
        std::fs::write(&path, "somebody (pid 1) since long ago, and more words than the next owner will write\n")?;
        assert!(matches!(Lock::try_take(&path)?, Taken::Held(_)));
        let text = std::fs::read_to_string(&path)?;
        assert!(text.contains(&std::process::id().to_string()) && !text.contains("somebody"), "{text}");
        Ok(())
    }

    #[test]
    fn the_kernel_gives_back_the_lock_of_a_killed_process() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("run.lock");
        std::fs::write(&path, "")?;
        let mut child = std::process::Command::new("flock")
            .arg("--no-fork")
            .arg(&path)
            .args(["sh", "-c", "echo held; exec sleep 60"])
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut word = [0u8; 5];
        child.stdout.as_mut().expect("because it is piped").read_exact(&mut word)?;
        let busy = matches!(Lock::try_take(&path)?, Taken::Busy { .. });
        child.kill()?;
        child.wait()?;
        assert!(busy);
        assert!(matches!(Lock::try_take(&path)?, Taken::Held(_)));
        Ok(())
    }

    #[test]
    fn a_full_disk_does_not_keep_a_lock_from_being_taken() -> io::Result<()> {
        assert!(matches!(Lock::try_take(Path::new("/dev/full"))?, Taken::Held(_)));
        Ok(())
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(Lock::try_take(Path::new("/nonexistent/run.lock")).is_err());
    }
}
