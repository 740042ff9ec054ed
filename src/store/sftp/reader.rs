//! A file on the other machine that is being read.

use std::io::{self, Read};
use std::time::Duration;

use super::session::{Handle, Lease};
use super::trouble::{Context, Trouble};
use crate::store::{Place, StorePath};

/// An open file on the other machine, with a session of its own.
pub(super) struct Reader {
    // Before the session: it is closed through it.
    pub(super) file: Handle,
    pub(super) lease: Lease,
    pub(super) place: Place,
    pub(super) path: StorePath,
    pub(super) deadline: Duration,
    /// The end was read: nothing is outstanding.
    pub(super) ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer).map_err(|error| {
            let context = Context { place: &self.place, deadline: self.deadline, action: "read" };
            io::Error::from(context.explain(&self.lease, self.path.as_str(), Trouble::Io(error)))
        })?;
        self.ended = count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.ended {
            // What was read ahead is still on its way.
            self.lease.break_off();
        }
    }
}
