//! A private sshd on loopback, with keys, known hosts and forced commands of its own.
//!
//! Started by root it runs as `postgres`, otherwise as whoever runs the tests; an sshd that is not root lets in only
//! its own user, which is all that is wanted. PAM is off: with it, or under an sshd that is root, the locked password
//! of Debian's `postgres` would have the account refused. Nothing of the machine's own ssh configuration is used, and
//! everything is gone when the value is dropped.

#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// The account that servers run as when the tests are run by root.
const UNPRIVILEGED: &str = "postgres";

/// A running sshd.
pub struct Sshd {
    folder: tempfile::TempDir,
    port: u16,
    settings: String,
    child: Option<Child>,
}

impl Sshd {
    /// Starts an sshd whose user may log in with [`Sshd::key`].
    pub fn start() -> Sshd {
        Sshd::start_with("")
    }

    /// The same, with more lines for its configuration.
    pub fn start_with(settings: &str) -> Sshd {
        let folder = tempfile::Builder::new().prefix("sshd-").tempdir().expect("a folder");
        // Others must be able to look up what is beneath; each file has its own mode.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let mut sshd = Sshd { folder, port: 0, settings: settings.to_owned(), child: None };
        sshd.make_key("host_key");
        own(&sshd.path("host_key"));
        sshd.make_key("client_key");
        let key = fs::read_to_string(sshd.path("client_key.pub")).expect("made just now");
        sshd.write("authorized_keys", &key);
        own(sshd.folder.path());
        sshd.restart();
        sshd
    }

    /// Starts it again, on the same port if it had one, with the host key that is there now.
    pub fn restart(&mut self) {
        self.stop();
        for attempt in 0.. {
            if self.port == 0 || attempt > 0 {
                self.port = free_port();
            }
            if self.try_start() {
                break;
            }
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(attempt < 5, "sshd does not start: {log}");
        }
        self.trust_host_key();
    }

    fn try_start(&mut self) -> bool {
        let at = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "{}\nPort {}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n\
             MaxSessions 100\nPrintMotd no\nSubsystem sftp internal-sftp\n",
            self.settings,
            self.port,
            at("host_key"),
            at("authorized_keys")
        );
        self.write("sshd_config", &text);
        let log = fs::File::create(self.path("log")).expect("the folder is ours");
        let mut command = as_server("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut child = child.expect("sshd is installed");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if child.try_wait().expect("it is our child").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The only user who can log in.
    pub fn user(&self) -> String {
        server_user()
    }

    /// The private key that may log in.
    pub fn key(&self) -> PathBuf {
        self.path("client_key")
    }

    /// The file that knows this host's key.
    pub fn known_hosts(&self) -> PathBuf {
        self.path("known_hosts")
    }

    /// What lets any ssh log in here: port, user, key and known hosts.
    pub fn ssh_options(&self) -> Vec<String> {
        vec![
            format!("-oPort={}", self.port),
            format!("-oUser={}", self.user()),
            format!("-oIdentityFile={}", self.key().display()),
            "-oIdentitiesOnly=yes".to_owned(),
            format!("-oUserKnownHostsFile={}", self.known_hosts().display()),
        ]
    }

    /// Makes a new folder that belongs to the user here.
    pub fn new_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("the folder is ours");
        own(&path);
        path
    }

    /// A path among this sshd's files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces authorized_keys by one line: the options, then the client's key.
    pub fn authorize(&self, options: &str) {
        let key = fs::read_to_string(self.path("client_key.pub")).expect("made at the start");
        self.write("authorized_keys", &format!("{options} {key}"));
    }

    /// Makes a key pair of that name, and tells where the private half is.
    pub fn make_key(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
        assert!(command.stdin(Stdio::null()).status().expect("ssh-keygen is installed").success());
        path
    }

    /// Gives the host another key, which nobody knows yet; it counts after a restart.
    pub fn change_host_key(&mut self) {
        let known = fs::read(self.known_hosts()).expect("written at the start");
        self.stop();
        self.make_key("host_key");
        own(&self.path("host_key"));
        assert!(self.try_start(), "sshd does not start again");
        fs::write(self.known_hosts(), known).expect("the folder is ours");
    }

    fn trust_host_key(&self) {
        let key = fs::read_to_string(self.path("host_key.pub")).expect("made at the start");
        self.write("known_hosts", &format!("[127.0.0.1]:{} {key}", self.port));
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = fs::File::create(self.path(name)).expect("the folder is ours");
        file.write_all(text.as_bytes()).expect("there is room");
    }

    /// Every process beneath this sshd whose name is that; all of them where it is empty.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let Some(child) = &self.child else { return Vec::new() };
        let all = all_processes();
        let mut family = vec![child.id()];
        let mut at = 0;
        while at < family.len() {
            let parent = family[at];
            family.extend(all.iter().filter(|(_, of, _)| *of == parent).map(|(id, ..)| *id));
            at += 1;
        }
        let named = |id: &u32| name.is_empty() || all.iter().any(|(other, _, comm)| other == id && comm == name);
        family[1..].iter().copied().filter(named).collect()
    }

    /// Sends a signal to every process beneath it that has this name; how many there were.
    pub fn signal(&self, name: &str, signal: Signal) -> usize {
        let found = self.processes(name);
        for id in &found {
            send(*id, signal);
        }
        found.len()
    }

    /// Ends it and everything beneath it at once.
    pub fn stop(&mut self) {
        let beneath = self.processes("");
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for id in beneath {
            send(id, Signal::KILL);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command that runs as the user of the servers.
pub fn as_server(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", UNPRIVILEGED, "--regid", UNPRIVILEGED, "--clear-groups", "--"]).arg(program);
    command
}

/// Gives a file to the user of the servers.
pub fn own(path: &Path) {
    if geteuid().is_root() {
        let id = |option: &str| -> u32 {
            let output = Command::new("id").args([option, UNPRIVILEGED]).output().expect("id is installed");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("the account exists")
        };
        chown(path, Some(id("-u")), Some(id("-g"))).expect("root may");
    }
}

fn server_user() -> String {
    if geteuid().is_root() {
        return UNPRIVILEGED.to_owned();
    }
    let output = Command::new("id").arg("-un").output().expect("id is installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

/// Sends a signal to one process beneath an sshd, or to one that was: it outlives the sshd above it for a moment, and
/// for ever where it is stopped.
pub fn send(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
}

/// Every process: its number, its parent's, its name as the kernel keeps it.
pub fn all_processes() -> Vec<(u32, u32, String)> {
    let entries = fs::read_dir("/proc").expect("this is Linux");
    entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.split_once('(')?;
            let (name, rest) = rest.rsplit_once(')')?;
            Some((id, rest.split_whitespace().nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}
