//! The process that carries a connection, ssh as a rule: started apart from our signals and descriptors, its words
//! kept, its end certain.
//!
//! It gets a process group of its own: a signal meant for the group of the server or the terminal would otherwise
//! tear the connection while this program still finishes in order. It cannot outlive us for long: its input ends with
//! us, whatever ends us, and on that the far end and then ssh end too.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process_group};

use super::command::{FarCommand, SshSettings, arguments, far_command};
use super::diagnosis::{Diagnosis, diagnose};
use super::pipe::pipe;
use super::session::Carrier;
use crate::system::clock::Deadline;

/// How many lines of ssh's words are kept: enough for its longest warning.
const LINES_KEPT: usize = 40;
/// The longest line that is kept, in bytes.
const LINE_MAX: u64 = 1000;
/// How long an ended ssh is given to say its last words and be gone.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// What the last words of a process and its end mean.
type Explain = dyn Fn(&str, Option<ExitStatus>) -> Diagnosis + Send + Sync;

/// A running process.
pub(super) struct FarChild {
    explain: Box<Explain>,
    child: Mutex<Child>,
    words: Arc<Mutex<VecDeque<String>>>,
    silent: Receiver<()>,
}

impl FarChild {
    /// Starts ssh with this command at the far end; also our ends of its input and output.
    pub(super) fn ssh(settings: &SshSettings, command: &FarCommand) -> io::Result<(FarChild, (OwnedFd, OwnedFd))> {
        let mut ssh = Command::new(&settings.program);
        ssh.args(arguments(settings)).arg(far_command(settings, command));
        let (host, program, settings) = (settings.host.clone(), command.program, settings.clone());
        FarChild::start(ssh, host, Box::new(move |words, status| diagnose(words, status, program, &settings)))
    }

    /// Starts a process that leads to this host; also our ends of its input and output.
    pub(super) fn start(
        mut command: Command,
        host: String,
        explain: Box<Explain>,
    ) -> io::Result<(FarChild, (OwnedFd, OwnedFd))> {
        let (their_input, our_writing) = pipe()?;
        let (our_reading, their_output) = pipe()?;
        keep_descriptors_here();
        let mut child = command
            .stdin(Stdio::from(their_input))
            .stdout(Stdio::from(their_output))
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let (spoke, silent) = bounded(0);
        if let Some(stderr) = child.stderr.take() {
            let heard = Arc::clone(&words);
            thread::Builder::new().name("ssh-words".to_owned()).spawn(move || {
                listen(stderr, &heard, &host);
                drop(spoke);
            })?;
        }
        let child = FarChild { explain, child: Mutex::new(child), words, silent };
        Ok((child, (our_writing, our_reading)))
    }

    /// The process, for messages.
    pub(super) fn id(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Waits a moment for a process that is ending anyway.
    fn wait(&self) -> Option<ExitStatus> {
        let deadline = Deadline::after(LAST_MOMENT);
        loop {
            let state = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            match state {
                Ok(Some(status)) => return Some(status),
                Ok(None) if !deadline.expired() => thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }
}

impl Carrier for FarChild {
    fn end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Once it is reaped, its number may belong to somebody else.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // The whole group: a jump host's ssh and a ProxyCommand are in it.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }

    fn epitaph(&self) -> Diagnosis {
        // The channel closes when the words end; nothing is ever sent.
        let _ = self.silent.recv_timeout(LAST_MOMENT);
        let status = self.wait();
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        (self.explain)(&words.join("\n"), status)
    }
}

impl Drop for FarChild {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keeps the last lines of what ssh and the far end say.
fn listen(stderr: ChildStderr, words: &Mutex<VecDeque<String>>, host: &str) {
    let mut input = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        log::debug!("{host}: {text}");
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == LINES_KEPT {
            words.pop_front();
        }
        words.push_back(text);
    }
}

/// Marks every descriptor of ours, inherited ones included, as not to be handed on: PostgreSQL's files and sockets
/// have no business in a process that outlasts the command PostgreSQL started.
fn keep_descriptors_here() {
    let Ok(list) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = list.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        // SAFETY: the descriptor is only marked, neither read, written nor closed. Should it be closed or reused
        // meanwhile, the mark fails or falls on one of ours, and all of ours bear it anyway.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl_getfd(descriptor) {
            let _ = fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC);
        }
    }
}
