//! Runs a program to its end and keeps everything it said: stdout, stderr, exit code or signal.
//!
//! Promises: it runs as the unprivileged account in a clean environment, and never longer than its deadline.
//! Output goes to files, so that a worker it leaves behind cannot keep the test waiting for the end of a pipe.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::workspace::{self, Workspace};
use super::{PATIENCE, comes_true};

/// Where one of our own programs is, as the unprivileged account can start it.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let path = Workspace::shared().programs().join(name);
    assert!(path.is_file(), "cargo has built no program '{name}'");
    path
}

/// A call of a program that is being put together.
#[derive(Debug)]
pub struct Program {
    workspace: Arc<Workspace>,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    input: Vec<u8>,
    deadline: Duration,
}

impl Program {
    /// One of our own programs.
    #[track_caller]
    pub fn own(name: &str) -> Program {
        // The workspace is held first, or the copy would go before it is started.
        let workspace = Workspace::shared();
        let path = program(name);
        Program { workspace, ..Program::at(path) }
    }

    /// Any program, by path or by a name in PATH.
    pub fn at(path: impl Into<PathBuf>) -> Program {
        Program {
            workspace: Workspace::shared(),
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            input: Vec::new(),
            deadline: PATIENCE,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Program {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Program {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Where it runs; the top of the workspace otherwise.
    pub fn dir(mut self, directory: impl AsRef<Path>) -> Program {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// What it reads from stdin; nothing otherwise.
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Program {
        self.input = input.into();
        self
    }

    /// How long it may take; a minute otherwise.
    pub fn deadline(mut self, deadline: Duration) -> Program {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end; panics if that does not come before the deadline.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(self) -> Running {
        let files = self.workspace.fresh_dir("run");
        let (stdin, stdout, stderr) = (files.join("stdin"), files.join("stdout"), files.join("stderr"));
        fs::write(&stdin, &self.input).expect("because the workspace is writable");
        let create = |path: &Path| File::create(path).expect("because the workspace is writable");
        let mut command = self.workspace.command(&self.path, "KILL");
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(File::open(&stdin).expect("because it was just written"));
        command.stdout(Stdio::from(create(&stdout))).stderr(Stdio::from(create(&stderr)));
        // A group of its own, so that the deadline ends its children too.
        command.process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let child = workspace::spawn(command)
            .unwrap_or_else(|error| panic!("could not start '{}': {error}", self.path.display()));
        let (begin, deadline) = (Instant::now(), self.deadline);
        Running { program: self, child, begin, deadline, stdout, stderr, files, ended: false }
    }
}

/// A program that was started and not waited for. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    program: Program,
    child: Child,
    begin: Instant,
    deadline: Duration,
    stdout: PathBuf,
    stderr: PathBuf,
    files: PathBuf,
    ended: bool,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        workspace::send(self.pid(), signal);
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// True once it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.status().is_some()
    }

    fn status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("because the child is ours");
        self.ended |= status.is_some();
        status
    }

    /// Waits for its end; panics if that does not come before the deadline.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let mut status = None;
        let left = self.deadline.saturating_sub(self.begin.elapsed());
        let over = comes_true(left, &mut || {
            status = self.status();
            status.is_some()
        });
        let (stdout, stderr) = (self.stdout(), self.stderr());
        let call = format!("{} {:?}", self.program.path.display(), self.program.arguments);
        match status {
            Some(status) if over => Outcome {
                call,
                code: status.code(),
                signal: status.signal(),
                stdout,
                stderr,
                took: self.begin.elapsed(),
            },
            _ => panic!("'{call}' did not end within {:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.deadline),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            if let Some(group) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A worker that goes on writing there keeps its open file.
        let _ = fs::remove_dir_all(&self.files);
    }
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The program and its arguments.
    pub call: String,
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    /// Panics, showing everything, unless it exited with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Panics, showing everything, unless it exited with 0.
    #[track_caller]
    pub fn expect_ok(self) -> Outcome {
        self.expect_code(0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            to,
            "'{}' ended with code {:?}, signal {:?} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.call, self.code, self.signal, self.took, self.stdout, self.stderr
        )
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
