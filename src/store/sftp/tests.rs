//! The sftp store against a real sshd on loopback.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::error::{Class, Explain};
use crate::store::conformance::{self, TestFile, noise, path};
use crate::system::clock::Deadline;

/// An sshd of our own, ended on drop; run as an unprivileged user, since the tests may be run by root.
struct Server {
    child: Child,
    port: u16,
    user: String,
    folder: tempfile::TempDir,
    roots: std::cell::Cell<u32>,
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("because the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Who the server runs as: user, uid, gid.
fn account() -> (String, u32, u32) {
    let id = |what: &str, user: &str| run(Command::new("id").args([what, user]));
    let me = run(Command::new("id").arg("-un"));
    let user = if me == "root" { "postgres".to_owned() } else { me };
    let number = |text: String| text.parse().expect("because id prints a number");
    (user.clone(), number(id("-u", &user)), number(id("-g", &user)))
}

fn give(file: &Path) {
    let (_, uid, gid) = account();
    chown(file, Some(uid), Some(gid)).expect("because root may, and the owner too");
}

impl Server {
    fn start() -> Server {
        let sshd =
            ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"].into_iter().find(|s| Path::new(s).exists());
        let sshd = sshd.expect("because the tests need sshd: install the package openssh-server");
        let (user, uid, gid) = account();
        let folder = tempfile::tempdir().expect("because the tests need a temporary directory");
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "other", "client"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(at(name)));
        }
        run(Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-N", "", "-f"]).arg(at("host_ecdsa")));
        fs::copy(at("client.pub"), at("authorized_keys")).expect("because the folder is ours");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("because loopback is there");
        let port = listener.local_addr().expect("because it is bound").port();
        drop(listener);
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nHostKey {0}/host_ecdsa\nPidFile none\n\
             AuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             MaxStartups 100\nSubsystem sftp internal-sftp\n",
            folder.path().display()
        );
        fs::write(at("config"), text).expect("because the folder is ours");
        for entry in fs::read_dir(folder.path()).expect("because the folder is ours") {
            give(&entry.expect("because it is readable").path());
        }
        give(folder.path());
        let mut command = if run(Command::new("id").arg("-u")) == "0" {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]).arg(sshd);
            command
        } else {
            Command::new(sshd)
        };
        let log = fs::File::create(at("log")).expect("because the folder is ours");
        command.args(["-D", "-e", "-f"]).arg(at("config")).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().expect("because sshd is installed");
        let server = Server { child, port, user, folder, roots: std::cell::Cell::new(0) };
        let deadline = Deadline::after(Duration::from_secs(20));
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                !deadline.expired(),
                "sshd does not listen: {}",
                fs::read_to_string(server.at("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server.know("host");
        server
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes known_hosts with this key for the server.
    fn know(&self, key: &str) {
        let public = fs::read_to_string(self.at(&format!("{key}.pub"))).expect("because it was made");
        let line = format!("[127.0.0.1]:{} {public}", self.port);
        fs::write(self.at("known_hosts"), line).expect("because the folder is ours");
    }

    fn settings(&self) -> SftpSettings {
        SftpSettings {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: self.user.clone(),
            key: Some(self.at("client")),
            known_hosts: Some(self.at("known_hosts")),
            connect_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(10),
            dead_after: Duration::from_secs(6),
        }
    }

    /// A directory of its own, that the server may write to.
    fn root(&self) -> PathBuf {
        self.roots.set(self.roots.get() + 1);
        let root = self.at(&format!("root{}", self.roots.get()));
        fs::create_dir(&root).expect("because the folder is ours");
        give(&root);
        root
    }

    fn open(&self, root: &Path) -> Result<SftpStore, StoreError> {
        self.open_with(self.settings(), root)
    }

    fn open_with(&self, settings: SftpSettings, root: &Path) -> Result<SftpStore, StoreError> {
        let place = Place { node: "there".to_owned(), location: format!("{}:{}", self.user, root.display()) };
        SftpStore::open(settings, &root.display().to_string(), place)
    }

    /// The processes that serve the sessions: children of the one that listens, and theirs.
    fn sessions(&self) -> Vec<u32> {
        let children = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        };
        let mut found = children(self.child.id());
        found.extend(found.clone().into_iter().flat_map(children));
        found
    }

    fn signal(&self, name: &str) {
        for pid in self.sessions() {
            run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in self.sessions() {
            // A session may have ended by itself.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_passes_the_suite() {
    let server = Server::start();
    conformance::suite(&mut || Box::new(server.open(&server.root()).expect("because the server works")));
}

#[test]
fn without_its_root_it_cannot_tell() {
    let server = Server::start();
    let root = server.root();
    let store = server.open(&root).expect("because the server works");
    conformance::root_gone(&store, || fs::remove_dir_all(&root).expect("because it is ours"));
}

#[test]
fn only_a_known_host_is_spoken_to() -> io::Result<()> {
    let server = Server::start();
    let root = server.root();
    let refused = |what: &str| {
        let error = server.open(&root).err().expect("because the host must be refused");
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some());
    };
    server.know("other");
    refused("is not the known one");
    fs::write(server.at("known_hosts"), "")?;
    refused("is not known");
    fs::remove_file(server.at("known_hosts"))?;
    refused("is not known");
    server.know("host");
    let good = fs::read_to_string(server.at("known_hosts"))?;
    fs::write(server.at("known_hosts"), format!("{good}@revoked {good}"))?;
    refused("revoked");
    fs::write(server.at("known_hosts"), &good)?;
    run(Command::new("ssh-keygen").arg("-H").arg("-f").arg(server.at("known_hosts")));
    assert!(fs::read_to_string(server.at("known_hosts"))?.starts_with('|'));
    assert!(server.open(&root).is_ok(), "a hashed name is a name");
    server.know("host_ecdsa");
    assert!(server.open(&root).is_ok(), "the key is asked for that is known, not the one the library likes best");
    Ok(())
}

#[test]
fn who_is_not_let_in_is_told_so() {
    let server = Server::start();
    let settings = SftpSettings { key: Some(server.at("other")), ..server.settings() };
    let error = server.open_with(settings, &server.root()).err().expect("because the key is not authorized");
    assert!(error.to_string().contains("was not let in"), "{error}");
    assert_eq!(error.class(), Class::Remote);
}

#[test]
fn a_missing_root_is_said_and_never_made() {
    let server = Server::start();
    let missing = server.at("missing");
    let error = server.open(&missing).err().expect("because it is missing");
    assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
    assert!(!missing.exists());
    let error = server.open(&server.at("config")).err().expect("because it is a file");
    assert!(error.to_string().contains("no directory"), "{error}");
}

#[test]
fn a_root_that_may_only_be_read_is_refused_and_keeps_the_session() {
    let server = Server::start();
    let root = server.root();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("because it is ours");
    let store = server.open(&root).expect("because it can be read");
    let sessions = server.sessions().len();
    for _ in 0..2 {
        let error =
            store.publish(&path("a/x"), &TestFile::new(b"x").payload, &[]).expect_err("because it is read-only");
        assert!(matches!(error, StoreError::Remote { .. }), "{error}");
        assert_eq!(error.class(), Class::Storage);
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
    assert!(matches!(store.look(&path("a/x")), Ok(None)));
    assert_eq!(server.sessions().len(), sessions, "a refusal is no reason for a new session");
}

#[test]
fn a_peer_that_stops_is_noticed_and_a_new_session_is_made_afterwards() {
    let server = Server::start();
    let deadline = Duration::from_secs(2);
    let settings = SftpSettings { deadline, connect_timeout: deadline, ..server.settings() };
    let root = server.root();
    let store = server.open_with(settings, &root).expect("because the server works");
    let file = TestFile::new(&noise(5 << 20, 1));
    store.publish(&path("wal/x"), &file.payload, &[]).expect("because the server works");
    let mut reader = store.open(&path("wal/x")).expect("because it is there").expect("because it is there");

    reader.read_exact(&mut [0; 10]).expect("because the server works");
    store.look(&path("wal/x")).expect("because the server works");

    // The reader has one session, and one more is idle.
    server.signal("STOP");
    let begin = Instant::now();
    let error = store.publish(&path("wal/y"), &file.payload, &[]).expect_err("because nobody answers");
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    let error = reader.read_to_end(&mut Vec::new()).expect_err("because nobody answers");
    assert!(matches!(error.downcast(), Ok(StoreError::Timeout { .. })));
    drop(reader);
    let waited = begin.elapsed();
    assert!(waited < deadline * 3, "one deadline each, not one more for every file that is closed: {waited:?}");
    store.publish(&path("wal/y"), &file.payload, &[]).expect("because a new session is made");
}

#[test]
fn a_session_that_was_ended_is_made_anew() {
    let server = Server::start();
    let store = server.open(&server.root()).expect("because the server works");
    // More than can be on the way to a reader that has asked for its beginning.
    let file = TestFile::new(&noise(12 << 20, 1));
    store.publish(&path("x"), &file.payload, &[]).expect("because the server works");
    let mut reader = store.open(&path("x")).expect("because it is there").expect("because it is there");
    reader.read_exact(&mut [0; 10]).expect("because the server works");
    server.signal("KILL");
    let error = reader.read_to_end(&mut Vec::new()).expect_err("because the session is gone");
    assert!(matches!(error.downcast(), Ok(StoreError::Unreachable { .. })));
    let deadline = Deadline::after(Duration::from_secs(10));
    while store.look(&path("y")).is_err() {
        assert!(!deadline.expired(), "a new session must be made");
    }
}

#[test]
fn files_are_read_and_written_side_by_side() {
    let server = Server::start();
    let store = server.open(&server.root()).expect("because the server works");
    let content = noise(6 << 20, 1);
    let file = TestFile::new(&content);
    store.publish(&path("x"), &file.payload, &[]).expect("because the server works");
    let mut one = store.open(&path("x")).expect("because it is there").expect("because it is there");
    let mut two = store.open(&path("x")).expect("because it is there").expect("because it is there");
    let (mut left, mut right) = (vec![0; 700_001], vec![0; 700_001]);
    one.read_exact(&mut left).expect("because the server works");
    two.read_exact(&mut right).expect("because the server works");
    store.publish(&path("y"), &file.payload, &[]).expect("because the server works");
    drop(two);
    one.read_to_end(&mut left).expect("because the server works");
    assert!(right == content[..700_001]);
    assert!(left == content);
    assert!(conformance::read(&store, &path("y")) == Some(content));
}

#[test]
fn symbolic_links_lead_nowhere() -> io::Result<()> {
    let server = Server::start();
    let (root, outside) = (server.root(), server.root());
    fs::write(outside.join("secret"), "secret")?;
    symlink(&outside, root.join("link"))?;
    symlink(outside.join("secret"), root.join("leaf"))?;
    let store = server.open(&root).expect("because the server works");
    assert!(store.open(&path("leaf")).is_err());
    for at in ["link/secret", "link/none"].map(path) {
        assert!(store.look(&at).is_err(), "{at}");
        assert!(store.open(&at).is_err(), "{at}");
        assert!(store.settle(&at).is_err(), "{at}");
        assert!(store.remove(&at).is_err(), "{at}");
        assert!(store.replace(&at, b"x").is_err(), "{at}");
        assert!(store.publish(&at, &TestFile::new(b"x").payload, &[]).is_err(), "{at}");
    }
    assert!(store.list(&path("link")).is_err());
    assert!(store.remove(&path("leaf")).is_err());
    assert_eq!(fs::read(outside.join("secret"))?, b"secret");
    assert_eq!(fs::read_dir(&outside)?.count(), 1);
    Ok(())
}

#[test]
fn files_are_private_and_leftovers_are_swept() -> io::Result<()> {
    let server = Server::start();
    let root = server.root();
    fs::create_dir(root.join("wal"))?;
    give(&root.join("wal"));
    for name in [".tmp-1-0-old", ".tmp-1-1-new"] {
        fs::write(root.join("wal").join(name), "")?;
    }
    let old = fs::File::options().write(true).open(root.join("wal/.tmp-1-0-old"))?;
    old.set_modified(SystemTime::now() - TEMPORARY_AGE_MAX * 2)?;
    let store = server.open(&root).expect("because the server works");
    store.publish(&path("wal/x"), &TestFile::new(b"x").payload, &[]).expect("because the server works");
    store.publish(&path("new/x"), &TestFile::new(b"x").payload, &[]).expect("because the server works");
    let mut names: Vec<_> = fs::read_dir(root.join("wal"))?.map(|e| Ok(e?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    assert_eq!(names, [".tmp-1-1-new", "x"]);
    for (name, expected) in [("wal/x", 0o600), ("new", 0o700)] {
        assert_eq!(fs::metadata(root.join(name))?.permissions().mode() & 0o777, expected, "{name}");
    }
    Ok(())
}
