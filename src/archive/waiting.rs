//! Waiting for WAL as a warm standby does: what an operator, a promotion or a signal says in the meantime.
//!
//! The trigger file speaks pg_standby's language (empty or `smart`: apply all there is, then open; `fast`: open now)
//! and OmniPITR's (`NOW`). The control folder holds PAUSE, CONTINUE and STOP. `pg_ctl promote` is seen by its signal
//! file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;

use super::ArchiveError;
use super::spool::remove_if_there;
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::wal::SegmentName;

/// How long an empty trigger file must stay empty to be one.
const SETTLING: Duration = Duration::from_millis(200);

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
    /// An end that has been ordered: this segment and what follows are not handed over, what lies before is.
    EndAt(SegmentName),
    /// Hand over what is there, partial segments included, then end.
    Stop,
    /// The server was told to promote: like smart, and sooner.
    Promote,
}

/// Where orders are looked for.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The trigger file; none where nobody waits.
    pub trigger: Option<PathBuf>,
    /// The control folder.
    pub control: PathBuf,
    /// What `pg_ctl promote` writes.
    pub promote: Option<PathBuf>,
    /// A trigger that is older was left from last time, or came with a base backup: it opens no server.
    pub trigger_since: Option<SystemTime>,
    /// The same for STOP.
    pub stop_since: Option<SystemTime>,
}

impl Orders {
    /// Only the control folder.
    pub fn in_folder(control: &Path) -> Self {
        let control = control.to_owned();
        Orders { trigger: None, control, promote: None, trigger_since: None, stop_since: None }
    }

    /// What is said now. A trigger that cannot be read is an error: it must not be taken for silence.
    pub fn look(&self) -> Result<Say, ArchiveError> {
        if let Some(say) = self.triggered()? {
            return Ok(say);
        }
        if let Some(promote) = &self.promote
            && read(promote)?.is_some()
        {
            return Ok(Say::Promote);
        }
        let stop = self.control.join("STOP");
        if read(&stop)?.is_some() && is_of_now(&stop, self.stop_since) {
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

    fn triggered(&self) -> Result<Option<Say>, ArchiveError> {
        let Some(path) = &self.trigger else { return Ok(None) };
        let Some(text) = read_settled(path)? else { return Ok(None) };
        if !is_of_now(path, self.trigger_since) {
            return Ok(None);
        }
        if text.starts_with("fast") || text.starts_with("NOW") {
            let end = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
            return Ok(Some(end.map_or(Say::Fast, Say::EndAt)));
        }
        if text.trim().is_empty() || text.starts_with("smart") {
            return Ok(Some(Say::Smart));
        }
        let (path, text) = (path.display(), text.trim());
        log::warn!("the trigger file '{path}' says '{text}', which means nothing; write smart or fast");
        Ok(None)
    }

    fn control_says(&self, word: &str) -> Result<bool, ArchiveError> {
        Ok(read(&self.control.join(word))?.is_some())
    }

    /// Notes where a fast trigger ended recovery. PostgreSQL then asks for the segment before that once more, and
    /// must get it; it may also ask for this one again before it has ended, and must not.
    pub fn used_fast(&self, end: SegmentName) -> Result<(), ArchiveError> {
        let Some(trigger) = &self.trigger else { return Ok(()) };
        if read(trigger)?.is_none() {
            return Ok(());
        }
        durable::replace(trigger, format!("fast {end}\n").as_bytes()).map_err(ArchiveError::io("write", trigger))
    }

    /// True where the file that stops removal is there.
    pub fn removal_paused(&self) -> Result<bool, ArchiveError> {
        self.control_says("KEEP")
    }
}

/// False for a file from before `since`; it says so once per call of the program.
fn is_of_now(path: &Path, since: Option<SystemTime>) -> bool {
    let Some(since) = since else { return true };
    let written = fs::metadata(path).and_then(|data| data.modified());
    let stale = written.is_ok_and(|written| written < since);
    static TOLD: Once = Once::new();
    if stale {
        TOLD.call_once(|| {
            let path = path.display();
            log::warn!(
                "'{path}' is older than this start of the server and is not obeyed; write it again, or remove it"
            );
        });
    }
    !stale
}

/// Reads a trigger. One that `echo fast > trigger` is about to fill is empty for a moment, and empty means smart: so an
/// empty one is believed only when it has stayed so.
fn read_settled(path: &Path) -> Result<Option<String>, ArchiveError> {
    let patience = Deadline::after(SETTLING);
    loop {
        match read(path)? {
            Some(text) if text.is_empty() && !patience.expired() => std::thread::sleep(SETTLING / 10),
            other => return Ok(other),
        }
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
        let trigger = Some(folder.path().join("trigger"));
        let promote = Some(folder.path().join("promote"));
        let orders = Orders { trigger, promote, ..Orders::in_folder(&folder.path().join("control")) };
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
    fn a_fast_trigger_remembers_where_it_ended_recovery() {
        let (folder, orders) = orders();
        fs::write(folder.path().join("trigger"), "fast").expect("the trigger is written");
        let end = "00000001000000000000000A".parse().expect("because it is well formed");
        orders.used_fast(end).expect("it is noted");
        assert_eq!(orders.look().expect("it looks"), Say::EndAt(end));
    }

    #[test]
    fn what_was_left_from_last_time_is_not_obeyed() {
        let (folder, mut orders) = orders();
        fs::write(folder.path().join("trigger"), "fast").expect("the trigger is written");
        orders.trigger_since = Some(SystemTime::now() + Duration::from_secs(60));
        assert_eq!(orders.look().expect("it looks"), Say::Wait);
        orders.trigger_since = Some(SystemTime::UNIX_EPOCH);
        assert_eq!(orders.look().expect("it looks"), Say::Fast);
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
