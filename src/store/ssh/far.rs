//! A program of ours at the far end of an ssh of its own, other than the store's: its streams are the caller's.

use std::io;
use std::os::fd::OwnedFd;

use super::child::FarChild;
use super::command::{FarCommand, SshSettings, far_objection};
use super::diagnosis::Diagnosis;
use super::session::Carrier;

/// A running program at the far end. Dropping it ends its ssh, and with its input the program.
pub struct FarProgram {
    child: FarChild,
}

/// Our ends of its streams.
pub struct FarStreams {
    /// What it reads.
    pub input: OwnedFd,
    /// What it writes.
    pub output: OwnedFd,
}

impl FarProgram {
    /// Starts it; nothing is known yet of whether the machine is reached.
    pub fn start(settings: &SshSettings, command: &FarCommand) -> Result<(FarProgram, FarStreams), Diagnosis> {
        if let Some(reason) = far_objection(settings) {
            return Err(Diagnosis { reason, hint: Some("Correct it in the node's section.".to_owned()) });
        }
        let started = FarChild::ssh(settings, command).map_err(|error| not_started(settings, &error));
        let (child, (input, output)) = started?;
        log::debug!("ssh to {} is process {}", settings.host, child.id());
        Ok((FarProgram { child }, FarStreams { input, output }))
    }

    /// Ends it at once; may be called again.
    pub fn end(&self) {
        self.child.end();
    }

    /// Why it ended by itself; waits a moment for its last words.
    pub fn why_it_ended(&self) -> Diagnosis {
        self.child.epitaph()
    }
}

/// Why ssh itself does not run.
pub(super) fn not_started(settings: &SshSettings, error: &io::Error) -> Diagnosis {
    Diagnosis {
        reason: format!("cannot start '{}': {error}", settings.program.display()),
        hint: Some("Install the OpenSSH client, or say where it is with 'program' in [ssh].".to_owned()),
    }
}
