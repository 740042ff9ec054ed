//! One directory per test process, short enough for socket paths, and the unprivileged account that works in it.
//!
//! Promises: the directory goes when the last user of it goes, and with it every process that was started in it and is
//! still there, such as a worker that a program left behind. `PGWARM_TEST_KEEP=1` keeps the files.
//! A test process that is killed outright leaves its directory to the next one; its servers end by themselves.
//! `PGWARM_TEST_DIR` says where workspaces go.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::fs::{FlockOperation, StatVfsMountFlags, flock};
use rustix::process::{Pid, Signal, kill_process};

/// The variable by which processes started in a workspace are found again.
const TAG: &str = "PGWARM_TEST_WORKSPACE";

/// What the names of workspaces begin with.
const PREFIX: &str = "pgwarm-";

/// The file that a living test process holds locked.
const OWNER: &str = "owner";

/// Socket paths end at 107 bytes, and names of workspace, node and socket come on top of this.
const PARENT_LENGTH_MAX: usize = 20;

/// What must be free in memory before workspaces go there; a few clusters of three nodes fit several times.
const MEMORY_MIN: u64 = 4 << 30;

/// The account under which servers and programs run: `postgres` (or `PGWARM_TEST_USER`) if the tests run as root, else
/// whoever runs them.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// True if a command has to change to it.
    pub switch: bool,
}

impl Account {
    /// The account of this test process.
    pub fn unprivileged() -> &'static Account {
        static ACCOUNT: OnceLock<Account> = OnceLock::new();
        ACCOUNT.get_or_init(|| {
            let own = rustix::process::geteuid().as_raw();
            if own != 0 {
                return Account::find(|_, uid| uid == own).unwrap_or_else(|| Account {
                    name: own.to_string(),
                    uid: own,
                    gid: rustix::process::getegid().as_raw(),
                    switch: false,
                });
            }
            let wanted = std::env::var("PGWARM_TEST_USER").unwrap_or_else(|_| "postgres".to_owned());
            let found = Account::find(|name, _| name == wanted).unwrap_or_else(|| {
                panic!("root runs the tests' servers as user '{wanted}', which does not exist; see scripts/install")
            });
            Account { switch: true, ..found }
        })
    }

    fn find(wanted: impl Fn(&str, u32) -> bool) -> Option<Account> {
        let accounts = fs::read_to_string("/etc/passwd").expect("because every Linux has /etc/passwd");
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            wanted(name, uid).then(|| Account { name: name.to_owned(), uid, gid, switch: false })
        })
    }

    /// A command that runs as this account and gets `at_our_end` when the test process ends before it.
    pub fn command(&self, program: impl AsRef<Path>, at_our_end: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--pdeathsig={at_our_end}"));
        if self.switch {
            command.args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid)]);
            command.args(["--init-groups", "--inh-caps=-all"]);
        }
        command.arg("--").arg(program.as_ref());
        command
    }

    /// Makes the account the owner of `path`.
    pub fn own(&self, path: &Path) {
        if self.switch {
            chown(path, Some(self.uid), Some(self.gid))
                .unwrap_or_else(|error| panic!("could not give '{}' to '{}': {error}", path.display(), self.name));
        }
    }
}

/// The directory; see the head of this file.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    next: AtomicU32,
    programs: OnceLock<Programs>,
    // Tells other test processes that this one is alive.
    _owned: File,
}

/// Where our own programs are; if that is a copy, its ownership.
#[derive(Debug)]
struct Programs {
    dir: PathBuf,
    copy: Option<File>,
}

impl Workspace {
    /// The one of this process, made where nobody holds it yet.
    pub fn shared() -> Arc<Workspace> {
        static SHARED: Mutex<Weak<Workspace>> = Mutex::new(Weak::new());
        let mut shared = lock(&SHARED);
        shared.upgrade().unwrap_or_else(|| {
            let workspace = Arc::new(Workspace::separate());
            *shared = Arc::downgrade(&workspace);
            workspace
        })
    }

    /// One that nobody else in this process uses.
    pub fn separate() -> Workspace {
        let parent = parent_of_workspaces();
        remove_abandoned(&parent);
        let root = make_root(&parent);
        let _owned = take_ownership(&root);
        Account::unprivileged().own(&root);
        Workspace { root, next: AtomicU32::new(1), programs: OnceLock::new(), _owned }
    }

    /// The top of it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a directory of its own (0700, the account's) whose name begins with `name`.
    pub fn fresh_dir(&self, name: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.root.join(format!("{name}.{number}"));
        make_dir(&dir);
        dir
    }

    /// The directory with our own programs: where cargo has put them, or a copy if the account cannot reach that.
    pub fn programs(&self) -> &Path {
        let found = self.programs.get_or_init(|| {
            let dir = build_directory();
            let reached = Account::unprivileged().command("/usr/bin/test", "KILL").arg("-x").arg(&dir).status();
            if reached.is_ok_and(|status| status.success()) {
                return Programs { dir, copy: None };
            }
            let copy = copy_of_programs(&dir);
            Programs { copy: Some(take_ownership(&copy)), dir: copy }
        });
        &found.dir
    }

    /// A command as the account, in a clean environment that carries the workspace's tag.
    pub fn command(&self, program: impl AsRef<Path>, at_our_end: &str) -> Command {
        let mut command = Account::unprivileged().command(program, at_our_end);
        command.env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", &self.root).env("USER", &Account::unprivileged().name);
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env(TAG, &self.root);
        command.current_dir(&self.root);
        command
    }

    /// Kills what was started here and did not end, daemons that detached themselves included.
    fn end_leftovers(&self) {
        let tag = format!("{TAG}={}", self.root.display());
        for pid in all_pids() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == tag.as_bytes()) {
                send(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.end_leftovers();
        if let Some(programs) = self.programs.get().filter(|programs| programs.copy.is_some()) {
            let _ = fs::remove_dir_all(&programs.dir);
        }
        if std::env::var_os("PGWARM_TEST_KEEP").is_some() {
            eprintln!("kept '{}'", self.root.display());
        } else if let Err(error) = fs::remove_dir_all(&self.root) {
            // One that is being killed may still have put a file there.
            let again = fs::remove_dir_all(&self.root);
            if again.is_err() {
                eprintln!("could not remove '{}': {error}", self.root.display());
            }
        }
    }
}

/// Makes a directory with 0700 that belongs to the account.
pub fn make_dir(dir: &Path) {
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .unwrap_or_else(|error| panic!("could not make the directory '{}': {error}", dir.display()));
    Account::unprivileged().own(dir);
}

/// Writes a file with 0600 that belongs to the account.
pub fn write_file(path: &Path, content: &str) {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o600)))
        .unwrap_or_else(|error| panic!("could not write '{}': {error}", path.display()));
    Account::unprivileged().own(path);
}

/// Starts a command whose parent, as the kernel sees it, lives as long as the process.
///
/// A child that asked for a signal at its parent's death gets it when the *thread* that started it ends; a test may
/// start servers in threads that end before it does.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Whoever asked may have panicked meanwhile.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, started) = channel();
    lock(starter).send((command, answer)).expect("because the starter never ends");
    started.recv().expect("because the starter answers every order")
}

/// Sends a signal; a process that is gone already is fine.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// True if the process is there and not just waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// True if the process is stopped by a signal.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == 'T')
}

/// The processes whose parent is `pid`.
pub fn children_of(pid: u32) -> Vec<u32> {
    all_pids().into_iter().filter(|child| stat(*child).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// The processes below `pid`, however deep.
pub fn all_below(pid: u32) -> Vec<u32> {
    let mut found = children_of(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children_of(found[next]));
        next += 1;
    }
    found
}

fn all_pids() -> Vec<u32> {
    let listing = fs::read_dir("/proc").expect("because every Linux has /proc");
    listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// State letter and parent. The program's name before them is in brackets and may hold anything.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Memory if there is plenty, for a data directory is a thousand small files; else the usual temporary directory.
fn parent_of_workspaces() -> PathBuf {
    if let Some(named) = std::env::var_os("PGWARM_TEST_DIR") {
        return PathBuf::from(named);
    }
    let memory = PathBuf::from("/dev/shm");
    let fits = rustix::fs::statvfs(&memory).is_ok_and(|volume| {
        let runs_programs = !volume.f_flag.contains(StatVfsMountFlags::NOEXEC);
        runs_programs && volume.f_bavail.saturating_mul(volume.f_frsize) >= MEMORY_MIN
    });
    // What is kept to be looked at should not fill the memory.
    if fits && std::env::var_os("PGWARM_TEST_KEEP").is_none() { memory } else { temporary_directory() }
}

/// The one of the environment unless socket paths in it would be too long.
fn temporary_directory() -> PathBuf {
    let wanted = std::env::temp_dir();
    if wanted.as_os_str().len() <= PARENT_LENGTH_MAX { wanted } else { PathBuf::from("/tmp") }
}

fn make_root(parent: &Path) -> PathBuf {
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
    let made = made.unwrap_or_else(|error| panic!("could not make a directory in '{}': {error}", parent.display()));
    let root = made.keep();
    // The account passes through it, and so does the user that a test's sshd runs as.
    fs::set_permissions(&root, Permissions::from_mode(0o755)).expect("because the directory is ours");
    root
}

/// Locks the directory for as long as the process lives. It gets its name only when locked, so that nobody takes a
/// directory that is just being made for an abandoned one.
fn take_ownership(root: &Path) -> File {
    let half = root.join(".owner.half");
    let file = File::create(&half).expect("because the directory is ours");
    flock(&file, FlockOperation::NonBlockingLockExclusive).expect("because nobody else knows the file");
    fs::rename(&half, root.join(OWNER)).expect("because the directory is ours");
    file
}

/// Removes what test processes left that were killed.
fn remove_abandoned(parent: &Path) {
    let listing = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in listing.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(owner) = File::open(entry.path().join(OWNER)) else { continue };
        if flock(&owner, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where cargo has put this run's programs: above the directory that the test itself is in.
fn build_directory() -> PathBuf {
    let test = std::env::current_exe().expect("because a running program has a path");
    test.parent().and_then(Path::parent).expect("because cargo puts tests into deps/").to_owned()
}

fn copy_of_programs(built: &Path) -> PathBuf {
    let parent = temporary_directory();
    remove_abandoned(&parent);
    let copy = make_root(&parent);
    let listing = fs::read_dir(built).unwrap_or_else(|error| panic!("could not list '{}': {error}", built.display()));
    let is_program = |path: &PathBuf| {
        let plain = path.extension().is_none() && path.is_file();
        plain && fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o111 != 0)
    };
    for program in listing.flatten().map(|entry| entry.path()).filter(is_program) {
        let target = copy.join(program.file_name().expect("because it came from a directory listing"));
        // A link costs nothing; across file systems it takes a copy.
        fs::hard_link(&program, &target)
            .or_else(|_| fs::copy(&program, &target).map(drop))
            .unwrap_or_else(|error| panic!("could not take over '{}': {error}", program.display()));
    }
    copy
}

/// A test that panicked with the lock held leaves the data as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
