//! `serve-archive`: serves one archive on standard input and output, for the `ssh` store of another node.
//!
//! Fit for a forced command: it reads no configuration and no environment, looks at nothing that the other end's ssh
//! asked to run, and ends with its input. Where its own command line names an sftp server, it serves the archive behind
//! that, for the store of its own node; then it logs in as any ssh of its user, with home and agent.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ArgMatches;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::run::Bare;
use crate::error::{Class, Failure};
use crate::store::Place;
use crate::store::serve::{Depot, ServeSettings, serve, serve_with};
use crate::store::sftp::SftpStore;
use crate::store::ssh::SftpSettings;

/// Runs the program.
pub fn run(arguments: &ArgMatches, _: &Bare) -> Result<u8, Failure> {
    let sftp = sftp_settings(arguments);
    let settings = ServeSettings {
        archive: arguments.get_one::<PathBuf>("archive").cloned().unwrap_or_default(),
        cluster: arguments.get_one::<String>("cluster").cloned(),
        read_only: arguments.get_flag("read-only"),
        elsewhere: sftp.is_some(),
    };
    let input = Input::new().map_err(|error| Failure::new(Class::Bug, format!("cannot catch signals: {error}")))?;
    match sftp {
        None => serve(&settings, input, io::stdout())?,
        Some(sftp) => serve_with(&settings, input, io::stdout(), &|root: &Path, place: Place| {
            let store = SftpStore::open(sftp.clone(), &root.display().to_string(), place)?;
            Ok(Box::new(store) as Box<dyn Depot>)
        })?,
    }
    Ok(0)
}

/// How to reach the sftp server, if the command line names one.
fn sftp_settings(arguments: &ArgMatches) -> Option<SftpSettings> {
    let host = arguments.get_one::<String>("sftp-host")?.clone();
    let path = |name: &str| arguments.get_one::<PathBuf>(name).cloned();
    let time = |name: &str| arguments.get_one::<Duration>(name).copied().unwrap_or_default();
    Some(SftpSettings {
        host,
        port: arguments.get_one::<u16>("sftp-port").copied().unwrap_or(22),
        user: arguments.get_one::<String>("sftp-user").cloned().unwrap_or_default(),
        key: path("sftp-key"),
        known_hosts: path("known-hosts"),
        connect_timeout: time("connect-timeout"),
        deadline: time("deadline"),
        dead_after: time("dead-after"),
    })
}

/// Standard input that also ends on SIGTERM, SIGINT and SIGHUP, so that what is half received is removed and what is
/// being committed is finished. A second signal ends the program at once.
struct Input {
    stdin: io::Stdin,
    signalled: UnixStream,
}

impl Input {
    fn new() -> io::Result<Self> {
        let (signalled, signals) = UnixStream::pair()?;
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, Class::Remote.code().into(), Arc::clone(&again))?;
            signal_hook::flag::register(signal, Arc::clone(&again))?;
            signal_hook::low_level::pipe::register(signal, signals.try_clone()?)?;
        }
        Ok(Input { stdin: io::stdin(), signalled })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let ends = &mut [
                PollFd::from_borrowed_fd(self.stdin.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signalled.as_fd(), PollFlags::IN),
            ];
            match poll(ends, None) {
                Ok(_) if !ends[1].revents().is_empty() => return Ok(0),
                // Straight from the descriptor: a buffer in between would hide what the next poll should see.
                Ok(_) => return Ok(rustix::io::read(self.stdin.as_fd(), buffer)?),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
