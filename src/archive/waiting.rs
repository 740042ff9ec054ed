//! Waiting for WAL as a warm standby does: what an operator, a promotion or a signal says in the meantime.
//!
//! The trigger file speaks pg_standby's language (empty or `smart`: apply all there is, then open; `fast`: open now)
//! and OmniPITR's (`NOW`). The control folder holds PAUSE, CONTINUE and STOP. `pg_ctl promote` is seen by its signal
//! file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;

use super::ArchiveError;
use super::spool::remove_if_there;
use crate::system::durable;

/// What to do about a segment that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Nothing special: hand it over or go on waiting.
    Wait,
    /// Neither hand over nor end: somebody paused the standby.
    Pause,
    /// Hand over what is there, end when something is not.
    Smart,
    /// End at once, even if the segment is there.
    Fast,
    /// Hand over what is there, partial segments included, then end.
    Stop,
    /// The server was told to promote: like smart, and sooner.
    Promote,
}

/// Where orders are looked for.
#[derive(Debug, Clone)]
pub struct Orders {
    trigger: PathBuf,
    control: PathBuf,
    promote: PathBuf,
}

impl Orders {
    /// The files for one standby.
    pub fn new(pgdata: &Path, trigger: &Path, control: &Path) -> Self {
        Orders { trigger: pgdata.join(trigger), control: control.to_owned(), promote: pgdata.join("promote") }
    }

    /// What is said now. A trigger that cannot be read is an error: it must not be taken for silence.
    pub fn look(&self) -> Result<Say, ArchiveError> {
        match read(&self.trigger)? {
            Some(text) if text.starts_with("fast") || text.starts_with("NOW") => return Ok(Say::Fast),
            Some(text) if text.trim().is_empty() || text.starts_with("smart") => return Ok(Say::Smart),
            Some(text) => log::warn!(
                "the trigger file '{}' says '{}', which means nothing; write smart or fast",
                self.trigger.display(),
                text.trim()
            ),
            None => {}
        }
        if read(&self.promote)?.is_some() {
            return Ok(Say::Promote);
        }
        if self.control_says("STOP")? {
            return Ok(Say::Stop);
        }
        if self.control_says("CONTINUE")? {
            for word in ["PAUSE", "CONTINUE"] {
                let path = self.control.join(word);
                remove_if_there(&path).map_err(ArchiveError::io("remove", path))?;
            }
            return Ok(Say::Wait);
        }
        Ok(if self.control_says("PAUSE")? { Say::Pause } else { Say::Wait })
    }

    fn control_says(&self, word: &str) -> Result<bool, ArchiveError> {
        Ok(read(&self.control.join(word))?.is_some())
    }

    /// A fast trigger counts once: it becomes a smart one, so that a second request for the same segment, with which
    /// PostgreSQL ends recovery, is answered.
    pub fn used_fast(&self) -> Result<(), ArchiveError> {
        if read(&self.trigger)?.is_none() {
            return Ok(());
        }
        durable::replace(&self.trigger, b"smart\n").map_err(ArchiveError::io("write", &self.trigger))
    }

    /// True where the file that stops removal is there.
    pub fn removal_paused(&self) -> Result<bool, ArchiveError> {
        self.control_says("KEEP")
    }
}

fn read(path: &Path) -> Result<Option<String>, ArchiveError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A folder above it that is missing is no order either.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(ArchiveError::io("read", path)(error)),
    }
}

/// Wakes a waiter when something changes in a folder; where the kernel cannot tell, the poll interval is what is left.
pub struct Bell {
    watch: Option<OwnedFd>,
}

impl Bell {
    /// Watches folders that exist; one that does not is left to the poll interval.
    pub fn new(folders: &[PathBuf]) -> Self {
        let flags = inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::DELETE;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        if let Some(watch) = &watch {
            for folder in folders {
                if inotify::add_watch(watch, folder, flags).is_err() {
                    log::debug!("'{}' is not watched", folder.display());
                }
            }
        }
        Bell { watch }
    }

    /// Sleeps until something changes, a signal comes, or the time is over.
    pub fn wait(&self, longest: Duration) {
        let Some(watch) = &self.watch else {
            std::thread::sleep(longest);
            return;
        };
        let timeout = Timespec::try_from(longest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // An interruption by a signal ends the wait: the caller looks again at everything anyway.
        let woken = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)).unwrap_or(1);
        if woken > 0 {
            let mut events = [0; 4096];
            while rustix::io::read(watch, &mut events).is_ok_and(|count| count > 0) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> (tempfile::TempDir, Orders) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("control")).expect("a control folder");
        let orders = Orders::new(folder.path(), Path::new("trigger"), &folder.path().join("control"));
        (folder, orders)
    }

    #[test]
    fn a_trigger_says_what_pg_standby_would_read() {
        let (folder, orders) = orders();
        assert_eq!(orders.look().expect("it looks"), Say::Wait);
        let cases = [
            ("", Say::Smart),
            ("smart", Say::Smart),
            ("fast\n", Say::Fast),
            ("NOW", Say::Fast),
            ("rubbish", Say::Wait),
        ];
        for (text, say) in cases {
            fs::write(folder.path().join("trigger"), text).expect("the trigger is written");
            assert_eq!(orders.look().expect("it looks"), say, "{text:?}");
        }
    }

    #[test]
    fn a_fast_trigger_counts_once() {
        let (folder, orders) = orders();
        fs::write(folder.path().join("trigger"), "fast").expect("the trigger is written");
        orders.used_fast().expect("it is downgraded");
        assert_eq!(orders.look().expect("it looks"), Say::Smart);
    }

    #[test]
    fn pause_lasts_until_continue() {
        let (folder, orders) = orders();
        fs::write(folder.path().join("control/PAUSE"), "").expect("PAUSE is written");
        assert_eq!(orders.look().expect("it looks"), Say::Pause);
        fs::write(folder.path().join("control/CONTINUE"), "").expect("CONTINUE is written");
        assert_eq!(orders.look().expect("it looks"), Say::Wait);
        assert_eq!(orders.look().expect("it looks"), Say::Wait);
    }

    #[test]
    fn a_promotion_is_seen_before_a_pause() {
        let (folder, orders) = orders();
        fs::write(folder.path().join("control/PAUSE"), "").expect("PAUSE is written");
        fs::write(folder.path().join("promote"), "").expect("promote is written");
        assert_eq!(orders.look().expect("it looks"), Say::Promote);
    }
}
