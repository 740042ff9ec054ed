//! Small fixed scripts on another node, through the system's ssh.
//!
//! A script is ours and constant; whatever varies travels as arguments, each quoted for the shell there, or on standard
//! input. ssh is told the same as for the archives: it asks nobody, and it trusts no unknown host key.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::archive::places::ssh_settings;
use crate::config::{Config, Node};
use crate::error::{Class, Explain, Failure};
use crate::store::ssh::arguments;
use crate::system::clock::Deadline;
use crate::system::process::{Call, Ended, Outcome, ProcessError};

/// The exit code by which ssh says that it failed itself.
const SSH_FAILED: i32 = 255;

/// Why a script did not run on another node.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The configuration does not say how to reach it.
    #[error("node '{node}' cannot be reached: {reason}")]
    NoWay { node: String, reason: String },
    /// ssh could not be run here, or took too long.
    #[error("cannot reach node '{node}'")]
    Process { node: String, source: ProcessError },
    /// ssh ran and failed.
    #[error("cannot reach node '{node}': {reason}")]
    Unreachable { node: String, reason: String },
}

impl Explain for RemoteError {
    fn class(&self) -> Class {
        match self {
            RemoteError::NoWay { .. } => Class::Config,
            RemoteError::Process { source: ProcessError::Timeout { .. }, .. } => Class::Timeout,
            RemoteError::Process { .. } | RemoteError::Unreachable { .. } => Class::Remote,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RemoteError::NoWay { node, .. } => Some(format!("Set node.{node}.host in the shared configuration.")),
            RemoteError::Process { source, .. } => source.hint(),
            RemoteError::Unreachable { node, .. } => {
                Some(format!("Log in to {node} once by hand, as the user who runs this, with 'ssh -o BatchMode=yes'."))
            }
        }
    }
}

/// Another node as ssh reaches it.
#[derive(Debug, Clone)]
pub struct Remote {
    node: String,
    program: PathBuf,
    /// Everything up to and with the host.
    words: Vec<OsString>,
    patience: Duration,
}

impl Remote {
    /// The way to a node, as the configuration says it. Nothing is connected yet.
    pub fn new(config: &Config, node: &Node) -> Result<Remote, RemoteError> {
        let settings = ssh_settings(config, node)
            .map_err(|error| RemoteError::NoWay { node: node.name.clone(), reason: Failure::from(error).message })?;
        let words = arguments(&settings);
        Ok(Remote {
            node: node.name.clone(),
            program: settings.program,
            words,
            patience: settings.connect_timeout + settings.deadline,
        })
    }

    /// How long connecting and one operation may take together.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Runs a script there with these arguments (`$1`, `$2`, …) and this input.
    ///
    /// The outcome is the script's, whatever its exit code; an error means that ssh itself did not succeed.
    pub fn run(
        &self,
        script: &str,
        args: &[&str],
        input: Option<Vec<u8>>,
        deadline: Deadline,
    ) -> Result<Outcome, RemoteError> {
        let feed = |call: Call| match input {
            Some(input) => call.stdin(input),
            None => call,
        };
        self.run_with(script, args, feed, deadline)
    }

    /// The same, with the call changed before it is made: other limits, other input.
    pub fn run_with(
        &self,
        script: &str,
        args: &[&str],
        change: impl FnOnce(Call) -> Call,
        deadline: Deadline,
    ) -> Result<Outcome, RemoteError> {
        let call = change(Call::new(&self.program).args(&self.words).arg(command(script, args)));
        let outcome = call.run(deadline).map_err(|source| RemoteError::Process { node: self.node.clone(), source })?;
        let reason = match outcome.status {
            Ended::Exit(SSH_FAILED) => outcome.complaint(),
            Ended::Exit(_) => return Ok(outcome),
            Ended::Signal(signal) => format!("ssh was ended by signal {signal}"),
        };
        Err(RemoteError::Unreachable { node: self.node.clone(), reason })
    }
}

/// One command line for the shell of the account there, whichever it is: it starts a POSIX shell for the script.
fn command(script: &str, args: &[&str]) -> String {
    let words = ["sh", "-c", script, "pgwarm"].into_iter().chain(args.iter().copied());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// Quotes a word: between single quotes nothing has a meaning but the single quote itself.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_arrive_as_they_are() {
        let wild = ["", "a b", "it's", "$(touch pwned)", "`x`", "a\nb", "\\", "*", "--"];
        let line = command("printf '<%s>' \"$@\"", &wild);
        let outcome = Call::new("sh").args(["-c", &line]).run(Deadline::after(Duration::from_secs(20)));
        let stdout = outcome.map(|outcome| String::from_utf8_lossy(&outcome.stdout).into_owned());
        let expected: String = wild.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(stdout.ok(), Some(expected));
    }
}
