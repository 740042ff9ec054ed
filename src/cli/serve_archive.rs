//! `serve-archive`: serves one archive on standard input and output, for the `ssh` store of another node.
//!
//! Fit for a forced command: it reads no configuration and no environment, looks at nothing that the other end's ssh
//! asked to run, and ends with its input.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Arg, ArgAction, Command, value_parser};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Class, Failure};
use crate::store::serve::{ServeSettings, is_plain_name, serve};

/// The command line.
pub fn command() -> Command {
    Command::new("serve-archive")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves one archive on standard input and output: the far end of the ssh store")
        .long_about(
            "Serves one archive on standard input and output. The ssh store of another node starts it; nobody else \
             needs to. As a forced command in authorized_keys it confines a key to one archive:\n\n  \
             command=\"serve-archive --archive /srv/wal --cluster main\",restrict ssh-ed25519 AAAA...",
        )
        .arg(
            Arg::new("archive")
                .long("archive")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The archive's directory, which holds a folder for each cluster"),
        )
        .arg(
            Arg::new("cluster")
                .long("cluster")
                .value_name("NAME")
                .value_parser(|text: &str| {
                    if is_plain_name(text) { Ok(text.to_owned()) } else { Err("letters, digits, '_' and '-' only") }
                })
                .help("The only cluster to serve [default: the one that is asked for]"),
        )
        .arg(
            Arg::new("read-only")
                .long("read-only")
                .action(ArgAction::SetTrue)
                .help("Refuse everything that would write"),
        )
}

/// Runs the program.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help goes to standard output and is no error; clap knows which is which.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Class::Usage.code() } else { 0 });
        }
    };
    let settings = ServeSettings {
        archive: matches.get_one::<PathBuf>("archive").cloned().unwrap_or_default(),
        cluster: matches.get_one::<String>("cluster").cloned(),
        read_only: matches.get_flag("read-only"),
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("serve-archive: ERROR: [{}] {failure}", failure.class.name());
            if let Some(hint) = &failure.hint {
                eprintln!("HINT: {hint}");
            }
            ExitCode::from(failure.class.code())
        }
    }
}

fn run(settings: &ServeSettings) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Err(Failure::new(Class::Refused, "the archive is not served to root")
            .hinted("Log in as the user who owns the archive, usually 'postgres'."));
    }
    let input = Input::new().map_err(|error| Failure::new(Class::Bug, format!("cannot catch signals: {error}")))?;
    Ok(serve(settings, input, io::stdout())?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
        let parse = |words: &[&str]| command().try_get_matches_from(words).is_ok();
        assert!(parse(&["serve-archive", "--archive", "/srv/wal", "--cluster", "main", "--read-only"]));
        assert!(!parse(&["serve-archive"]));
        assert!(!parse(&["serve-archive", "--archive", "/srv/wal", "--cluster", "../x"]));
    }
}
