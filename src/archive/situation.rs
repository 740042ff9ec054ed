//! What the server that asks is doing, and so what an exit code would make it do.
//!
//! To PostgreSQL 1 to 125 means "there is no such file": archive recovery then ends and the server opens, a standby
//! asks again. Above 125 recovery is aborted: right for a restore, which goes on at the next start, and wrong for a
//! standby, which would be killed by every outage of an archive. So the code depends on the signal file in the data
//! directory.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::ArchiveError;
use super::waiting::Say;
use crate::error::Class;
use crate::system::durable;

/// Who asks ("Archive Recovery", settings and signal files).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `standby.signal`: it asks again and does not open by itself.
    Standby,
    /// `recovery.signal`: "absent" is the end of recovery.
    Recovery,
    /// Neither: `pg_rewind`, or a person.
    Other,
}

impl Mode {
    /// What the data directory says; `standby.signal` wins, as in the server.
    pub fn of(pgdata: Option<&Path>) -> Mode {
        let has = |signal: &str| pgdata.is_some_and(|pgdata| pgdata.join(signal).exists());
        match (has("standby.signal"), has("recovery.signal")) {
            (true, _) => Mode::Standby,
            (false, true) => Mode::Recovery,
            (false, false) => Mode::Other,
        }
    }

    /// The exit code for "cannot tell".
    ///
    /// A standby that PostgreSQL is promoting opens after the next code up to 125. It may do so although a machine
    /// cannot be reached: that is what failovers are for. It may not where something is known to be damaged or missing.
    pub fn exit(self, say: Say, class: Class) -> u8 {
        match self {
            Mode::Standby if say == Say::Promote && !is_outage(class) => Class::Abort.code(),
            Mode::Standby => class.code().min(125),
            Mode::Recovery | Mode::Other => Class::Abort.code(),
        }
    }
}

/// True where nobody has to do anything for it to be well again.
pub fn is_outage(class: Class) -> bool {
    matches!(class, Class::Remote | Class::Timeout | Class::Busy)
}

/// The server of a data directory, by its `postmaster.pid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postmaster {
    process: Pid,
    /// When it was started, in whole seconds.
    pub started: SystemTime,
}

impl Postmaster {
    /// The one that runs there; none where the file is missing or is being written.
    pub fn of(pgdata: &Path) -> Option<Postmaster> {
        let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let process = Pid::from_raw(lines.next()?.trim().parse().ok()?)?;
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(lines.nth(1)?.trim().parse().ok()?);
        Some(Postmaster { process, started })
    }

    /// False once it is gone; then nobody waits for an answer any more.
    pub fn is_alive(&self) -> bool {
        test_kill_process(self.process).is_ok()
    }

    /// Tells it to promote, as `pg_ctl promote` does: a standby does not open for a mere "absent".
    pub fn promote(&self, pgdata: &Path) -> Result<(), ArchiveError> {
        let order = pgdata.join("promote");
        durable::replace(&order, b"").map_err(ArchiveError::io("write", &order))?;
        kill_process(self.process, Signal::USR1).map_err(|error| ArchiveError::io("obey", &order)(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_standby_is_answered_below_126() {
        assert_eq!(Mode::Standby.exit(Say::Wait, Class::Corrupt), 22);
        assert_eq!(Mode::Standby.exit(Say::Smart, Class::Storage), 30);
        for mode in [Mode::Recovery, Mode::Other] {
            for say in [Say::Wait, Say::Smart, Say::Stop, Say::Promote] {
                assert_eq!(mode.exit(say, Class::Remote), 255, "{mode:?} {say:?}");
            }
        }
    }

    #[test]
    fn a_promotion_bears_an_outage_but_no_damage() {
        assert_eq!(Mode::Standby.exit(Say::Promote, Class::Remote), 40);
        assert_eq!(Mode::Standby.exit(Say::Promote, Class::Corrupt), 255);
    }

    #[test]
    fn standby_signal_goes_before_recovery_signal() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Mode::of(Some(folder.path())), Mode::Other);
        fs::write(folder.path().join("recovery.signal"), "").expect("it is written");
        assert_eq!(Mode::of(Some(folder.path())), Mode::Recovery);
        fs::write(folder.path().join("standby.signal"), "").expect("it is written");
        assert_eq!(Mode::of(Some(folder.path())), Mode::Standby);
    }
}
