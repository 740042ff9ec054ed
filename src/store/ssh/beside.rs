//! The far end of a store on this machine: `serve-archive`, which speaks sftp to a machine that offers nothing else.
//!
//! It is a process of its own because of the libraries that sftp takes: a program that PostgreSQL calls for every
//! segment would load them at each start. What goes wrong over there, it says in the words of its own store.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::child::FarChild;
use super::diagnosis::{Diagnosis, ended};

/// How to reach an sftp server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who to log in as.
    pub user: String,
    /// The private key; none: the agent's keys, then the user's usual ones.
    pub key: Option<PathBuf>,
    /// The known_hosts file; none: the user's own and the system's.
    pub known_hosts: Option<PathBuf>,
    /// How long connecting and logging in may take, each step.
    pub connect_timeout: Duration,
    /// How long one request may take, or one piece of a transfer.
    pub deadline: Duration,
    /// A peer whose kernel does not answer for so long is dead.
    pub dead_after: Duration,
}

/// A far end of this machine, and the archive that it serves from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpFarEnd {
    /// Where `serve-archive` is.
    pub program: PathBuf,
    /// How it reaches the other machine.
    pub settings: SftpSettings,
    /// The archive's directory there, which holds a folder for each cluster.
    pub archive: PathBuf,
    /// The name of the cluster.
    pub cluster: String,
}

impl SftpFarEnd {
    /// Starts it; also our ends of its input and output.
    pub(super) fn start(&self) -> Result<(FarChild, (OwnedFd, OwnedFd)), Diagnosis> {
        let mut command = Command::new(&self.program);
        command.args(self.words());
        let host = self.settings.host.clone();
        let explain = |words: &str, status| ended(words, status, "serve-archive");
        FarChild::start(command, host, Box::new(explain)).map_err(|error| Diagnosis {
            reason: format!("cannot start '{}', which speaks sftp: {error}", self.program.display()),
            hint: Some("Install all programs of pgwarm in one folder of this machine.".to_owned()),
        })
    }

    /// How long this end waits for its hello, and for one operation. The process keeps the deadlines of the settings
    /// itself and says which has passed; so this bounds only a process that hangs, and lies far above what its several
    /// steps may take, behind the files of others too.
    pub(super) fn patience(&self) -> (Duration, Duration) {
        // Connecting, the handshake, logging in, the channel; then one look at the root.
        let hello = self.settings.connect_timeout.saturating_mul(4).saturating_add(self.settings.deadline);
        (hello.saturating_add(Duration::from_secs(1)), self.settings.deadline.saturating_mul(20).saturating_add(hello))
    }

    /// What follows its name. Each value stands in one word with its option, so that none is taken for another option.
    fn words(&self) -> Vec<OsString> {
        let settings = &self.settings;
        let time = |time: Duration| format!("{}ms", time.as_millis());
        let mut words = Vec::from([
            word("--archive", &self.archive),
            word("--cluster", &self.cluster),
            word("--sftp-host", &settings.host),
            word("--sftp-port", settings.port.to_string()),
            word("--sftp-user", &settings.user),
            word("--connect-timeout", time(settings.connect_timeout)),
            word("--deadline", time(settings.deadline)),
            word("--dead-after", time(settings.dead_after)),
        ]);
        let paths = [("--sftp-key", &settings.key), ("--known-hosts", &settings.known_hosts)];
        words.extend(paths.iter().filter_map(|(name, path)| Some(word(name, path.as_deref()?))));
        words
    }
}

fn word(name: &str, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut word = OsString::from(format!("{name}="));
    word.push(value);
    word
}
