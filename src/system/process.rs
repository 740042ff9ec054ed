//! Running other programs: with a deadline, in a process group of their own, never through a shell.
//!
//! A [`Call`] runs to its end or is ended with everything it started; nothing but descriptors 0 to 2 reaches it. What
//! it prints is kept up to a limit and read to the end all the same, so that it never blocks on a full pipe. A process
//! that outlives us is started with [`spawn_detached`]. Nothing in here knows which programs these are.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::clock::Deadline;
use crate::error::{Class, Explain};

/// How much of each output is kept when nothing else is said: 1 MiB.
pub const OUTPUT_MAX: usize = 1 << 20;

/// How long a process may take to end after SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How long to wait for the end of the output after the process is gone: a grandchild may hold the pipe for ever.
const LINGER: Duration = Duration::from_millis(200);

/// How often to look where the kernel has no pidfd to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    /// True for exit code 0.
    pub fn is_success(self) -> bool {
        self == Ended::Exit(0)
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exit(code),
            (None, signal) => Ended::Signal(signal.unwrap_or_default()),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exit(code) => write!(f, "exit code {code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a process left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: Ended,
    /// The first bytes of its standard output, up to the limit of the call.
    pub stdout: Vec<u8>,
    /// The first bytes of its standard error, up to the limit of the call.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// The last line of its standard error that is not empty: where programs say what went wrong. Ours end with a
    /// hint, which says nothing without the error before it.
    pub fn complaint(&self) -> String {
        let last = last_line(&self.stderr);
        if !last.contains(": HINT: ") {
            return last;
        }
        let text = String::from_utf8_lossy(&self.stderr);
        let error = text.lines().rev().map(str::trim).find(|line| line.contains(": ERROR: "));
        error.map_or(last, str::to_owned)
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program cannot be started.
    #[error("cannot start '{program}'")]
    Start { program: String, source: io::Error },
    /// The operating system lost track of it.
    #[error("cannot watch '{program}'")]
    Watch { program: String, source: io::Error },
    /// It was not done in time and has been ended.
    #[error("'{program}' was not done within {:.1} s and was ended{}", after.as_secs_f64(), said(complaint))]
    Timeout { program: String, after: Duration, complaint: String },
}

/// Appends what a program said last.
fn said(complaint: &str) -> String {
    if complaint.is_empty() { String::new() } else { format!("; it said '{complaint}'") }
}

impl Explain for ProcessError {
    fn class(&self) -> Class {
        match self {
            ProcessError::Start { .. } | ProcessError::Watch { .. } => Class::Storage,
            ProcessError::Timeout { .. } => Class::Timeout,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ProcessError::Start { program, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("Install '{program}', or put its full path into the configuration."))
            }
            _ => None,
        }
    }
}

/// One program to be run, and how.
#[derive(Debug, Clone)]
pub struct Call {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: usize,
    bound: bool,
    pulse: Option<Duration>,
}

impl Call {
    /// A call of this program: a path, or a name that is looked up in PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Call {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            stdin: None,
            limit: OUTPUT_MAX,
            bound: false,
            pulse: None,
        }
    }

    /// Adds one argument, passed as it is.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments, passed as they are.
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable in its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it in this directory instead of ours.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives it these bytes on its standard input; without them it reads from /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Keeps at most so many bytes of each output.
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Lets the kernel kill it when we are killed: for a program that must not go on where nobody waits for it.
    pub fn bound(mut self) -> Self {
        self.bound = true;
        self
    }

    /// Writes a line end to its standard input so often, and ends that input with us: what works for us on another
    /// machine learns so that nobody waits for it any more, also where the way to it is cut.
    pub fn pulse(mut self, every: Duration) -> Self {
        self.pulse = Some(every);
        self
    }

    /// Runs it and waits. When the deadline passes it gets SIGTERM, then SIGKILL, with its whole process group.
    pub fn run(self, deadline: Deadline) -> Result<Outcome, ProcessError> {
        let program = self.program.to_string_lossy().into_owned();
        let allowed = deadline.remaining();
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let fed = self.stdin.is_some() || self.pulse.is_some();
        command.stdin(if fed { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if self.bound {
            die_with_us(&mut command);
        }
        close_inherited_on_exec();
        let child = command.spawn().map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        let mut running = Running::new(child, self.stdin.unwrap_or_default(), self.limit, self.pulse);
        match running.watch(deadline) {
            Ok(Some(status)) => Ok(running.outcome(status)),
            Ok(None) => {
                running.end();
                let complaint = last_line(&running.stderr.kept);
                Err(ProcessError::Timeout { program, after: allowed, complaint })
            }
            Err(source) => {
                running.end();
                Err(ProcessError::Watch { program, source })
            }
        }
    }
}

/// A process being watched. Dropping it ends the process, so no early return leaves one behind.
struct Running {
    child: Child,
    pid: Pid,
    pidfd: Option<OwnedFd>,
    stdin: Option<Feed>,
    stdout: Drain,
    stderr: Drain,
    reaped: bool,
}

/// Bytes on their way into the process.
struct Feed {
    pipe: File,
    bytes: Vec<u8>,
    written: usize,
    pulse: Option<Pulse>,
}

/// Says from time to time that somebody is there.
struct Pulse {
    every: Duration,
    next: Deadline,
}

/// Bytes on their way out of it.
struct Drain {
    pipe: Option<File>,
    kept: Vec<u8>,
    limit: usize,
}

impl Running {
    fn new(mut child: Child, stdin: Vec<u8>, limit: usize, pulse: Option<Duration>) -> Self {
        let pid = Pid::from_child(&child);
        let pulse = pulse.map(|every| Pulse { every, next: Deadline::after(every) });
        let stdin = child.stdin.take().map(|pipe| Feed { pipe: pipe_file(pipe), bytes: stdin, written: 0, pulse });
        let stdout = Drain { pipe: child.stdout.take().map(pipe_file), kept: Vec::new(), limit };
        let stderr = Drain { pipe: child.stderr.take().map(pipe_file), kept: Vec::new(), limit };
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        Running { child, pid, pidfd, stdin, stdout, stderr, reaped: false }
    }

    /// Moves bytes until the process is gone and its output read, or until the deadline (`None`).
    fn watch(&mut self, deadline: Deadline) -> io::Result<Option<Ended>> {
        while !self.is_gone()? {
            if deadline.expired() {
                return Ok(None);
            }
            self.step(deadline)?;
        }
        // The output of the process is complete in the pipes; only what a grandchild may add is not waited for.
        let linger = Deadline::after(LINGER).or_before(deadline);
        loop {
            self.stdout.read()?;
            self.stderr.read()?;
            if self.is_drained() || linger.expired() {
                break;
            }
            self.step(linger)?;
        }
        self.reaped = true;
        self.child.wait().map(|status| Some(status.into()))
    }

    fn outcome(mut self, status: Ended) -> Outcome {
        let (stdout, stderr) = (std::mem::take(&mut self.stdout.kept), std::mem::take(&mut self.stderr.kept));
        Outcome { status, stdout, stderr }
    }

    /// True once the process has ended. It is not reaped: until then its number cannot become another's.
    fn is_gone(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match rustix::process::waitid(WaitId::Pid(self.pid), options) {
                Ok(status) => return Ok(status.is_some()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }

    /// Waits until something can be moved, the process ends or the deadline passes; then moves it.
    fn step(&mut self, deadline: Deadline) -> io::Result<()> {
        let mut waiting = Vec::with_capacity(4);
        // What has nothing to say is only asked whether somebody still reads.
        let wanted = |feed: &Feed| if feed.is_idle() { PollFlags::empty() } else { PollFlags::OUT };
        waiting.extend(self.stdin.iter().map(|feed| PollFd::new(&feed.pipe, wanted(feed))));
        waiting.extend(self.stdout.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        waiting.extend(self.stderr.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let mut pause = deadline.remaining();
        if let Some(pulse) = self.stdin.as_ref().and_then(|feed| feed.pulse.as_ref()) {
            pause = pause.min(pulse.next.remaining());
        }
        match &self.pidfd {
            // Once the process is gone its pidfd is always ready, and waiting for it would not wait at all.
            Some(pidfd) if !self.is_gone()? => waiting.push(PollFd::new(pidfd, PollFlags::IN)),
            _ => pause = pause.min(LOOK_AGAIN),
        }
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let unread = self.stdin.is_some() && waiting[0].revents().contains(PollFlags::ERR);
        drop(waiting);
        if unread || self.stdin.as_mut().is_some_and(Feed::is_over) {
            self.stdin = None;
        }
        self.stdout.read()?;
        self.stderr.read()
    }

    /// Ends the process and its group: SIGTERM, a grace, SIGKILL, reap. Errors mean it is gone already.
    fn end(&mut self) {
        if self.reaped {
            return;
        }
        let _ = rustix::process::kill_process_group(self.pid, Signal::TERM);
        let grace = Deadline::after(GRACE);
        while !(grace.expired() || self.is_gone().unwrap_or(true) && self.is_drained()) {
            if self.step(grace).is_err() {
                break;
            }
        }
        // The leader is not reaped yet, so the number still names this group and no other.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
        self.reaped = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Feed {
    /// True where all that there is is written.
    fn is_idle(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Writes what fits; true once all is written and nothing will follow, or nobody reads any more.
    fn is_over(&mut self) -> bool {
        let idle = self.is_idle();
        if let Some(pulse) = self.pulse.as_mut().filter(|pulse| idle && pulse.next.expired()) {
            pulse.next = Deadline::after(pulse.every);
            (self.bytes, self.written) = (vec![b'\n'], 0);
        }
        loop {
            if self.is_idle() {
                return self.pulse.is_none();
            }
            match self.pipe.write(&self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl Drain {
    /// Reads what is there, keeps what fits, and closes the pipe at its end.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let room = self.limit.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Our end of a pipe, made so that reading and writing never wait.
fn pipe_file(pipe: impl Into<OwnedFd>) -> File {
    let pipe: OwnedFd = pipe.into();
    if let Ok(flags) = rustix::fs::fcntl_getfl(&pipe) {
        let _ = rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK);
    }
    File::from(pipe)
}

/// The last line that is not empty, as text.
fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// Marks every descriptor above 2 close-on-exec.
///
/// Rust opens all of its own so; those that we inherited ourselves are not. PostgreSQL's archiver, for one, hands its
/// children whatever it has open, and a worker that holds such a thing keeps a server from stopping cleanly.
fn close_inherited_on_exec() {
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return };
    let numbers: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: the descriptor is borrowed for one fcntl. Where another thread closes it meanwhile the call fails
        // harmlessly, and where one opens another under this number, that one is close-on-exec already.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(descriptor.as_fd(), rustix::io::FdFlags::CLOEXEC);
    }
}

/// Makes the kernel kill a program when the thread that starts it ends; that thread waits for it.
fn die_with_us(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only prctl(2) and getppid(2) are called, which are async-signal-safe and allocate
    // nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // Whoever was killed before the kernel was told sends no signal any more.
            match rustix::process::getppid() == Some(parent) {
                true => Ok(()),
                false => Err(io::ErrorKind::Interrupted.into()),
            }
        });
    }
}

/// Starts a program that outlives us: a session of its own, the root as working directory, no descriptor of ours, input
/// from /dev/null, both outputs appended to `log` (created 0600) or thrown away. Returns its process number.
pub fn spawn_detached(program: impl AsRef<OsStr>, args: &[OsString], log: Option<&Path>) -> Result<u32, ProcessError> {
    let name = program.as_ref().to_string_lossy().into_owned();
    let wrong = |source| ProcessError::Start { program: name.clone(), source };
    let mut command = Command::new(program.as_ref());
    command.args(args).current_dir("/").stdin(Stdio::null());
    match log {
        None => command.stdout(Stdio::null()).stderr(Stdio::null()),
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(wrong)?;
            command.stdout(file.try_clone().map_err(wrong)?).stderr(file)
        }
    };
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    close_inherited_on_exec();
    let mut child = command.spawn().map_err(wrong)?;
    let number = child.id();
    // A caller that lives on must reap it, or its number stays taken by a zombie; one that ends leaves that to init.
    std::thread::spawn(move || child.wait());
    Ok(number)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    fn shell(script: &str) -> Call {
        Call::new("sh").args(["-c", script])
    }

    #[test]
    fn an_exit_code_and_a_signal_are_told_apart() -> Result<(), ProcessError> {
        assert_eq!(shell("exit 143").run(soon())?.status, Ended::Exit(143));
        assert_eq!(shell("kill -TERM $$").run(soon())?.status, Ended::Signal(15));
        assert!(shell("true").run(soon())?.status.is_success());
        Ok(())
    }

    #[test]
    fn input_longer_than_a_pipe_comes_back_whole() -> Result<(), ProcessError> {
        let bytes: Vec<u8> = (0..900_000u32).map(|n| n as u8).collect();
        let outcome = Call::new("cat").stdin(bytes.clone()).run(soon())?;
        assert!(outcome.stdout == bytes, "{} bytes came back", outcome.stdout.len());
        Ok(())
    }

    #[test]
    fn output_beyond_the_limit_is_read_but_not_kept() -> Result<(), ProcessError> {
        let outcome = shell("head -c 3000000 /dev/zero; echo end >&2").limit(1000).run(soon())?;
        assert_eq!((outcome.status, outcome.stdout.len()), (Ended::Exit(0), 1000));
        assert_eq!(outcome.complaint(), "end");
        Ok(())
    }

    #[test]
    fn a_program_that_reads_nothing_is_no_error() -> Result<(), ProcessError> {
        assert!(Call::new("true").stdin(vec![0; 1 << 20]).run(soon())?.status.is_success());
        Ok(())
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = Call::new("/no/such/program").run(soon()).expect_err("because there is no such program");
        assert_eq!(error.to_string(), "cannot start '/no/such/program'");
        assert!(error.hint().is_some_and(|hint| hint.contains("/no/such/program")));
    }

    #[test]
    fn the_deadline_ends_the_whole_group() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("child");
        // The grandchild ignores SIGTERM; only SIGKILL to the group ends it.
        let script = "(trap '' TERM; echo started >&2; exec sleep 300) & echo $! > \"$0\"; wait";
        let started = Instant::now();
        let call = Call::new("sh").args(["-c", script]).arg(&file);
        let error = call.run(Deadline::after(Duration::from_millis(300))).expect_err("because it takes too long");
        assert!(matches!(&error, ProcessError::Timeout { complaint, .. } if complaint == "started"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
        let pid: i32 = std::fs::read_to_string(&file)?.trim().parse()?;
        assert!(is_ended(pid), "process {pid} is still there");
        Ok(())
    }

    /// True once the process is gone or a zombie that its new parent has not reaped.
    fn is_ended(pid: i32) -> bool {
        let deadline = soon();
        loop {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')) {
                return true;
            }
            if deadline.expired() {
                return false;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_bound_program_does_not_outlive_who_started_it() -> Result<(), Box<dyn std::error::Error>> {
        assert!(shell("true").bound().run(soon())?.status.is_success());
        let mut command = Command::new("sleep");
        command.arg("300");
        die_with_us(&mut command);
        // The kernel looks at the thread that started it: one that ends stands for a process that is killed.
        let child = std::thread::spawn(move || command.spawn()).join().map_err(|_| "the thread panicked")??;
        assert!(is_ended(i32::try_from(child.id())?), "process {} is still there", child.id());
        Ok(())
    }

    #[test]
    fn a_pulse_goes_on_as_long_as_it_is_waited_for_and_its_end_is_seen() -> Result<(), Box<dyn std::error::Error>> {
        let beat = Duration::from_millis(5);
        let outcome = shell("read a && read b && read c && echo alive").pulse(beat).run(soon())?;
        assert_eq!(outcome.stdout, b"alive\n");
        assert!(shell("exec <&-; sleep 0.05").pulse(beat).run(soon())?.status.is_success(), "nobody reads");
        // Dropped, as it is where we are killed.
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo seen"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut running = Running::new(command.process_group(0).spawn()?, Vec::new(), OUTPUT_MAX, Some(beat));
        assert!(running.watch(Deadline::after(beat * 4))?.is_none());
        running.stdin = None;
        assert!(running.watch(soon())?.is_some_and(Ended::is_success));
        assert!(running.stdout.kept.starts_with(b"\n") && running.stdout.kept.ends_with(b"seen\n"));
        Ok(())
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_does_not_keep_us() -> Result<(), Box<dyn std::error::Error>> {
        let started = Instant::now();
        let outcome = shell("sleep 30 & echo $!").run(soon())?;
        assert!(started.elapsed() < Duration::from_secs(10));
        let pid: i32 = String::from_utf8(outcome.stdout)?.trim().parse()?;
        let pid = Pid::from_raw(pid).ok_or("no process number")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
        Ok(())
    }

    #[test]
    fn an_inherited_descriptor_does_not_reach_the_program() -> Result<(), Box<dyn std::error::Error>> {
        let file = File::open("/dev/null")?;
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
        let listing = format!("test ! -e /dev/fd/{}", file.as_raw_fd());
        assert!(shell(&listing).run(soon())?.status.is_success());
        Ok(())
    }

    #[test]
    fn a_detached_program_has_a_session_of_its_own_and_writes_to_its_log() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let script = "pwd; ps -o sid= -p $$ || cut -d' ' -f6 /proc/$$/stat; echo end >&2";
        let pid = spawn_detached("sh", &["-c".into(), script.into()], Some(&log))?;
        let deadline = soon();
        while !std::fs::read_to_string(&log)?.contains("end") {
            assert!(!deadline.expired(), "the program wrote nothing");
            std::thread::yield_now();
        }
        let text = std::fs::read_to_string(&log)?;
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines, ["/", pid.to_string().as_str(), "end"]);
        Ok(())
    }
}
