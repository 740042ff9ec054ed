//! `serve-archive` and the ssh store over a real sshd.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};

use pgwarm::error;
use pgwarm::error::Explain;
use pgwarm::store::sftp::SftpStore;
use pgwarm::store::ssh::{FarEnd, SftpFarEnd, SftpSettings, SshSettings, SshStore};
use pgwarm::store::wire::{self, Kind, Reply, Request, Want};
use pgwarm::store::{Place, Published, Store, StoreError, StorePath};

#[path = "support/sshd.rs"]
mod sshd;

/// The suite of the library, over the library's public face.
#[path = "../src/store"]
mod suite {
    pub use pgwarm::store::*;

    #[allow(dead_code)]
    #[path = "conformance.rs"]
    pub mod conformance;
}

use sshd::{Sshd, own};
use suite::conformance::{self, TestFile, noise, path};

const PROGRAM: &str = env!("CARGO_BIN_EXE_serve-archive");
const PATIENCE: Duration = Duration::from_secs(30);

fn place() -> Place {
    Place { node: "far".to_owned(), location: "127.0.0.1".to_owned() }
}

fn archive(sshd: &Sshd, name: &str) -> PathBuf {
    let archive = sshd.new_folder(name);
    sshd.new_folder(&format!("{name}/main"));
    archive
}

fn settings(sshd: &Sshd, archive: &Path) -> SshSettings {
    SshSettings {
        program: PathBuf::from("ssh"),
        host: "127.0.0.1".to_owned(),
        user: Some(sshd.user()),
        port: Some(sshd.port()),
        key: Some(sshd.key()),
        jump: None,
        known_hosts: Some(sshd.known_hosts()),
        options: Vec::new(),
        connect_timeout: PATIENCE,
        deadline: PATIENCE,
        dead_after: Duration::from_secs(6),
        remote_programs: Path::new(PROGRAM).parent().map(Path::to_owned),
        archive: archive.to_owned(),
        cluster: "main".to_owned(),
    }
}

fn connect(settings: &SshSettings) -> Result<SshStore, StoreError> {
    SshStore::connect(FarEnd::Ssh(settings.clone()), place())
}

fn refused(settings: &SshSettings) -> StoreError {
    connect(settings).map(drop).expect_err("it must be refused")
}

fn read(store: &SshStore, at: &StorePath) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    store.open(at).expect("it answers")?.read_to_end(&mut content).expect("it reads");
    Some(content)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Every name beneath a folder, temporary ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = walkdir::WalkDir::new(folder)
        .min_depth(1)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| entry.path().strip_prefix(folder).unwrap_or(entry.path()).display().to_string())
        .collect();
    found.sort();
    found
}

#[test]
fn over_ssh_it_keeps_what_every_place_must_keep() {
    let sshd = Sshd::start();
    let mut count = 0;
    conformance::suite(&mut || {
        count += 1;
        let archive = archive(&sshd, &format!("archive {count}"));
        Box::new(connect(&settings(&sshd, &archive)).expect("it connects"))
    });
}

#[test]
fn an_archive_whose_path_needs_quoting_is_made_and_used() {
    let sshd = Sshd::start();
    let mut settings = settings(&sshd, &sshd.new_folder("it's $(touch pwned) & co"));
    assert!(matches!(refused(&settings), StoreError::RootMissing { .. }));
    let identity = path("identity.json");
    assert_eq!(SshStore::init(&settings, place(), &identity, b"{}").expect("made"), Published::New);
    let again = SshStore::init(&settings, place(), &identity, b"{}").expect("there");
    assert_eq!(again, Published::Occupied(identity.clone()));
    wait_until("no far end is left", || sshd.processes("serve-archive").is_empty());
    let store = connect(&settings).expect("it connects");
    assert_eq!(read(&store, &identity), Some(b"{}".to_vec()));
    settings.archive = sshd.path("missing");
    let error = SshStore::init(&settings, place(), &identity, b"{}").expect_err("never made above");
    assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
}

#[test]
fn a_forced_command_serves_its_archive_and_nothing_else() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let outside = sshd.new_folder("outside/main");
    fs::write(outside.join("secret"), b"secret").expect("the folder is ours");
    sshd.new_folder("archive/other");
    symlink("../../outside/main", archive.join("main/link")).expect("the folder is ours");
    symlink("../../outside/main/secret", archive.join("main/file")).expect("the folder is ours");
    sshd.authorize(&format!("command=\"{PROGRAM} --archive {} --cluster main\",restrict", archive.display()));

    // Asked for another directory, it serves its own.
    let store = connect(&settings(&sshd, &sshd.path("outside"))).expect("it connects");
    assert!(store.look(&path("secret")).expect("it answers").is_none());
    for at in ["link/secret", "link/new", "file"] {
        let opened = store.open(&path(at));
        assert!(matches!(opened, Ok(None) | Err(_)), "'{at}' leads outside");
        let file = TestFile::new(b"x");
        let published = store.publish(&path(at), &file.payload, &[]);
        assert!(!matches!(published, Ok(Published::New)), "'{at}' was written outside: {published:?}");
        assert!(!matches!(store.remove(&path(&format!("{at}/x"))), Ok(true)));
    }
    assert_eq!(names(&outside), ["secret"]);

    // Another cluster is refused.
    let other = SshSettings { cluster: "other".to_owned(), ..settings(&sshd, &archive) };
    assert!(refused(&other).to_string().contains("not served here"));

    // A command is not run.
    let mut shell = Command::new("ssh");
    shell.args(sshd.ssh_options()).args(["-T", "-oBatchMode=yes", "127.0.0.1", "touch"]).arg(outside.join("pwned"));
    let output = shell.stdin(Stdio::null()).output().expect("ssh runs");
    assert!(output.stdout.starts_with(b"pgwarm"), "{output:?}");
    assert_eq!(names(&outside), ["secret"]);
}

#[test]
fn paths_that_lead_out_are_refused_by_the_far_end_itself() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    fs::write(sshd.path("archive/secret"), b"secret").expect("the folder is ours");
    let mut child = sshd::as_server(PROGRAM)
        .args(["--cluster", "main", "--archive"])
        .arg(&archive)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut bytes = Vec::new();
    wire::write_preamble(&mut bytes).expect("memory");
    let hello = Request::Hello { program: "test".to_owned(), cluster: "main".to_owned(), want: Want::Store };
    wire::put_frame(&mut bytes, Kind::Request, &hello.encode());
    let bad = ["../secret", "/etc/passwd", "a/../../secret", ".", "..", "a//b", "\0"];
    for text in bad {
        let path = text.to_owned();
        wire::put_frame(&mut bytes, Kind::Request, &Request::Look { path: path.clone() }.encode());
        wire::put_frame(&mut bytes, Kind::Request, &Request::Open { path: path.clone(), chunks: 1 }.encode());
        wire::put_frame(&mut bytes, Kind::Request, &Request::Remove { path: path.clone() }.encode());
        wire::put_frame(&mut bytes, Kind::Request, &Request::Put { path, rivals: vec![], size: 1 }.encode());
        wire::put_frame(&mut bytes, Kind::Data, b"x");
        let sha256 = "0".repeat(64);
        wire::put_frame(&mut bytes, Kind::Request, &Request::Commit { size: 1, sha256 }.encode());
    }
    child.stdin.take().expect("piped").write_all(&bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends with its input");
    assert!(output.status.success());
    let (mut input, mut body) = (&output.stdout[..], Vec::new());
    wire::read_preamble(&mut input).expect("ours");
    assert_eq!(wire::read_frame(&mut input, &mut body).expect("a frame"), Some(Kind::Reply));
    let mut refusals = 0;
    while wire::read_frame(&mut input, &mut body).expect("a frame").is_some() {
        assert!(matches!(Reply::decode(&body), Ok(Reply::Failed(_))), "{}", String::from_utf8_lossy(&body));
        refusals += 1;
    }
    assert_eq!(refusals, bad.len() * 4);
    assert_eq!(names(&archive), ["secret"]);
}

/// A serve-archive that has received the first half of a file.
fn half_way(archive: &Path) -> std::process::Child {
    let child = half_sent(archive, &[]);
    wait_until("the file has begun", || names(archive).iter().any(|name| name.contains(".tmp-")));
    child
}

/// A serve-archive with more words on its command line, to which the first half of a file was sent.
fn half_sent(archive: &Path, words: &[String]) -> std::process::Child {
    let mut child = sshd::as_server(PROGRAM)
        .arg("--archive")
        .arg(archive)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut bytes = Vec::new();
    wire::write_preamble(&mut bytes).expect("memory");
    let hello = Request::Hello { program: "test".to_owned(), cluster: "main".to_owned(), want: Want::Store };
    wire::put_frame(&mut bytes, Kind::Request, &hello.encode());
    let put = Request::Put { path: "wal/half".to_owned(), rivals: vec![], size: 2 };
    wire::put_frame(&mut bytes, Kind::Request, &put.encode());
    wire::put_frame(&mut bytes, Kind::Data, b"x");
    child.stdin.as_mut().expect("piped").write_all(&bytes).expect("it reads");
    child
}

#[test]
fn half_a_file_leaves_nothing_when_the_input_ends_or_a_signal_comes() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let mut child = half_way(&archive);
    drop(child.stdin.take());
    assert!(!child.wait().expect("it ends").success());
    assert_eq!(names(&archive), [""; 0]);

    let mut child = half_way(&archive);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
    let status = child.wait().expect("it ends");
    assert!(status.code().is_some_and(|code| code != 0), "it ends in order: {status}");
    assert_eq!(names(&archive), [""; 0]);
}

#[test]
fn many_files_at_once_share_one_connection() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let store = connect(&settings(&sshd, &archive)).expect("it connects");
    let content: Vec<Vec<u8>> = (0..32).map(|seed| noise(1 << 20 | seed, seed as u64)).collect();
    thread::scope(|scope| {
        for (number, content) in content.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                let at = path(&format!("wal/{number}"));
                let file = TestFile::new(content);
                assert_eq!(store.publish(&at, &file.payload, &[]).expect("stored"), Published::New);
                assert_eq!(store.publish(&at, &file.payload, &[]).expect("there"), Published::Occupied(at.clone()));
                assert!(read(store, &at).as_ref() == Some(content), "{at}");
            });
        }
    });
    assert_eq!(names(&archive).len(), 32);
    assert_eq!(sshd.processes("serve-archive").len(), 1);
}

#[test]
fn root_is_not_served() {
    if !geteuid().is_root() {
        return;
    }
    let output = Command::new(PROGRAM).args(["--archive", "/"]).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(i32::from(error::Class::Refused.code())));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("serve-archive: ERROR: [refused] "));
}

#[test]
fn a_host_key_unknown_or_changed_is_refused() {
    let mut sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let known = settings(&sshd, &archive);
    drop(connect(&known).expect("it connects"));
    let unknown = SshSettings { known_hosts: Some(sshd.path("nothing")), ..known.clone() };
    let error = refused(&unknown);
    assert!(error.to_string().contains("the host key of '127.0.0.1' is not known"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("nothing")));
    sshd.change_host_key();
    let error = refused(&known);
    assert!(error.to_string().contains("is not the one that is known"), "{error}");
    assert!(matches!(error, StoreError::Unreachable { .. }) && error.hint().is_some());
}

#[test]
fn a_wrong_key_a_closed_port_and_a_missing_program_are_told_apart() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let good = settings(&sshd, &archive);
    let wrong_key = SshSettings { key: Some(sshd.make_key("stranger")), ..good.clone() };
    assert!(refused(&wrong_key).to_string().contains("does not accept the key"));
    let closed = SshSettings { port: Some(1), ..good.clone() };
    assert!(refused(&closed).to_string().contains("refused the connection"));
    let elsewhere = SshSettings { remote_programs: Some(sshd.path("nowhere")), ..good.clone() };
    assert!(refused(&elsewhere).to_string().contains("cannot be run on"));
    let not_in_path = SshSettings { remote_programs: None, ..good.clone() };
    let error = refused(&not_in_path);
    assert!(error.hint().is_some_and(|hint| hint.contains("'programs'")), "{error}");
    let no_ssh = SshSettings { program: PathBuf::from("/nowhere/ssh"), ..good };
    assert!(refused(&no_ssh).to_string().contains("cannot start '/nowhere/ssh'"));
}

#[test]
fn a_login_script_that_prints_is_shown() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    sshd.authorize(&format!("command=\"echo Welcome back; exec {PROGRAM} --archive {}\"", archive.display()));
    let error = refused(&settings(&sshd, &archive));
    assert!(matches!(&error, StoreError::Protocol { detail, .. } if detail.contains("Welcome back")), "{error}");
}

#[test]
fn an_agent_serves_where_no_key_is_named() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let socket = sshd.path("agent");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().expect("it runs");
    wait_until("the agent listens", || socket.exists());
    let added =
        Command::new("ssh-add").arg("-q").arg(sshd.key()).env("SSH_AUTH_SOCK", &socket).status().expect("it runs");
    assert!(added.success());
    let mut settings = SshSettings { key: None, ..settings(&sshd, &archive) };
    settings.options = vec!["-oIdentityFile=none".to_owned()];
    assert!(refused(&settings).to_string().contains("does not accept the key"));
    settings.options.push(format!("-oIdentityAgent={}", socket.display()));
    let connected = connect(&settings).map(drop);
    let _ = agent.kill();
    let _ = agent.wait();
    connected.expect("the agent has the key");
}

#[test]
fn a_jump_host_leads_there() {
    let (bastion, sshd) = (Sshd::start(), Sshd::start());
    let archive = archive(&sshd, "archive");
    let config = sshd.path("ssh_config");
    let text = format!(
        "Host bastion\n HostName 127.0.0.1\n Port {}\n User {}\n IdentityFile {}\n UserKnownHostsFile {}\n",
        bastion.port(),
        bastion.user(),
        bastion.key().display(),
        bastion.known_hosts().display()
    );
    fs::write(&config, text).expect("the folder is ours");
    let mut settings = SshSettings { jump: Some("bastion".to_owned()), ..settings(&sshd, &archive) };
    settings.options = vec!["-F".to_owned(), config.display().to_string()];
    let store = connect(&settings).expect("it connects");
    let file = TestFile::new(b"content");
    assert_eq!(store.publish(&path("wal/a"), &file.payload, &[]).expect("stored"), Published::New);
    assert!(!bastion.processes("sshd").is_empty(), "the way leads through the bastion");
}

#[test]
fn folders_that_cannot_be_written_are_told_apart() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let store = connect(&settings(&sshd, &archive)).expect("it connects");
    let file = TestFile::new(b"content");
    fs::set_permissions(archive.join("main"), fs::Permissions::from_mode(0o500)).expect("the folder is ours");
    let error = store.publish(&path("a"), &file.payload, &[]).expect_err("it may not be written");
    assert!(
        matches!(&error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied),
        "{error:?}"
    );
    fs::set_permissions(archive.join("main"), fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    assert_eq!(store.publish(&path("a"), &file.payload, &[]).expect("stored"), Published::New);
    fs::rename(archive.join("main"), archive.join("gone")).expect("the folder is ours");
    let error = store.publish(&path("b"), &file.payload, &[]).expect_err("the root is gone");
    assert!(matches!(error, StoreError::RootMissing { .. }), "{error:?}");
    assert!(store.look(&path("a")).is_err(), "a missing root is no absence");
}

/// A file system of its own; needs root.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, options: &str) -> Option<Tmpfs> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success()).then(|| Tmpfs(at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_and_a_read_only_file_system_are_told_apart() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let Some(mounted) = Tmpfs::mount(archive.clone(), "size=3m") else {
        eprintln!("not tried: a tmpfs cannot be mounted here");
        return;
    };
    own(&archive);
    sshd.new_folder("archive/main");
    let store = connect(&settings(&sshd, &archive)).expect("it connects");
    let (small, large) = (TestFile::new(&noise(1 << 20, 1)), TestFile::new(&noise(4 << 20, 2)));
    let by_sftp = connect_by(&by_sftp(&sshd, &archive)).expect("it connects");
    for store in [&store, &by_sftp] {
        let error = store.publish(&path("wal/large"), &large.payload, &[]).expect_err("it does not fit");
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert_eq!(names(&archive), [""; 0], "nothing stays of it");
    }
    assert_eq!(store.publish(&path("wal/small"), &small.payload, &[]).expect("it fits"), Published::New);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&mounted.0).status().expect("mount runs");
    assert!(remounted.success());
    let error = store.publish(&path("wal/other"), &small.payload, &[]).expect_err("read-only");
    assert!(error.hint().is_some_and(|hint| hint.contains("read-only")), "{error:?}");
    assert!(read(&store, &path("wal/small")).is_some());
}

#[test]
fn a_connection_lost_in_the_middle_leaves_nothing_and_the_next_run_succeeds() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let store = connect(&settings(&sshd, &archive)).expect("it connects");
    let file = TestFile::new(&noise(32 << 20, 3));
    for victim in ["serve-archive", "sshd"] {
        let at = path(&format!("wal/{victim}"));
        let temporary = || names(&archive).iter().any(|name| name.contains(".tmp-"));
        let error = thread::scope(|scope| {
            let publishing = scope.spawn(|| store.publish(&at, &file.payload, &[]));
            // In the middle: a temporary file is there, and cannot be whole, since its process is stopped first.
            wait_until("something arrives", temporary);
            let far_ends = sshd.processes("serve-archive");
            far_ends.iter().for_each(|id| sshd::send(*id, Signal::STOP));
            assert!(sshd.signal(victim, Signal::KILL) > 0);
            far_ends.iter().for_each(|id| sshd::send(*id, Signal::CONT));
            wait_until("it ends", || {
                !far_ends.iter().any(|id| sshd::all_processes().iter().any(|(other, ..)| other == id))
            });
            publishing.join().expect("no panic").expect_err("the connection broke")
        });
        assert!(matches!(error, StoreError::Unreachable { .. }), "{victim}: {error}");
        assert!(!archive.join("main").join(at.as_str()).exists());
        assert_eq!(store.publish(&at, &file.payload, &[]).expect("the next run"), Published::New, "{victim}");
        assert_eq!(sshd.processes("serve-archive").len(), 1, "{victim}");
    }
    // An sshd that is gone ends the far end in order: nothing temporary stays of that one.
    let stays: Vec<_> = names(&archive).into_iter().filter(|name| name.contains(".tmp-")).collect();
    assert!(stays.len() <= 1, "only a killed serve-archive leaves its temporary file: {stays:?}");
}

#[test]
fn a_peer_that_hangs_is_noticed_within_the_deadline() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let limits = SshSettings {
        deadline: Duration::from_secs(3),
        dead_after: Duration::from_secs(3),
        ..settings(&sshd, &archive)
    };
    let store = connect(&limits).expect("it connects");
    let file = TestFile::new(&noise(16 << 20, 4));
    // Once while it answers nothing, once while it does not even read.
    for name in ["serve-archive", "sshd"] {
        let stopped = sshd.processes(name);
        assert!(!stopped.is_empty());
        stopped.iter().for_each(|id| sshd::send(*id, Signal::STOP));
        let begun = Instant::now();
        thread::scope(|scope| {
            for number in 0..4 {
                let (store, file) = (&store, &file);
                scope.spawn(move || {
                    let error =
                        store.publish(&path(&format!("wal/{number}")), &file.payload, &[]).expect_err("it hangs");
                    assert!(error.is_transient(), "{error}");
                });
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(9), "{name}: {:?}", begun.elapsed());
        stopped.iter().for_each(|id| sshd::send(*id, Signal::CONT));
        assert!(store.look(&path("wal/none")).expect("a new connection").is_none());
    }
}

#[test]
fn what_was_acknowledged_is_there_whatever_was_killed() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let limits = SshSettings { deadline: Duration::from_secs(10), ..settings(&sshd, &archive) };
    let store = connect(&limits).expect("it connects");
    let over = AtomicBool::new(false);
    let files: Vec<TestFile> = (0..8).map(|seed| TestFile::new(&noise(300_000 + seed, seed as u64))).collect();
    let acknowledged: Vec<(usize, usize)> = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut state = 88_172_645_463_325_252u64;
            let mut kills = 0;
            while !over.load(Ordering::Relaxed) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                thread::sleep(Duration::from_millis(100 + state % 400));
                kills += sshd.signal(if state & 1 == 0 { "serve-archive" } else { "sshd" }, Signal::KILL);
            }
            kills
        });
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let (store, files) = (&store, &files);
                scope.spawn(move || {
                    let mine = (0..25).map(|n| worker * 25 + n);
                    let stored = |n: &usize| {
                        let at = path(&format!("wal/{n}"));
                        (0..3).any(|_| store.publish(&at, &files[n % 8].payload, &[]).is_ok())
                    };
                    mine.filter(stored).map(|n| (n, n % 8)).collect::<Vec<_>>()
                })
            })
            .collect();
        let done = workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
        over.store(true, Ordering::Relaxed);
        assert!(killer.join().expect("no panic") > 2, "something was killed");
        done
    });
    assert!(acknowledged.len() >= 100, "only {} of 200 got through", acknowledged.len());
    for (number, file) in acknowledged {
        let there = fs::read(archive.join(format!("main/wal/{number}"))).expect("it was acknowledged");
        assert!(there == fs::read(files[file].path()).expect("ours"), "{number} is whole");
    }
    // What stands under a final name is whole, acknowledged or not.
    for name in names(&archive).iter().filter(|name| !name.contains(".tmp-")) {
        let number: usize = name.rsplit('/').next().and_then(|n| n.parse().ok()).expect("a number");
        assert!(fs::read(archive.join(name)).expect("there") == fs::read(files[number % 8].path()).expect("ours"));
    }
}

#[test]
fn a_store_that_is_dropped_leaves_no_process() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let store = connect(&settings(&sshd, &archive)).expect("it connects");
    assert_eq!(sshd.processes("serve-archive").len(), 1);
    drop(store);
    wait_until("the far end is gone", || sshd.processes("serve-archive").is_empty());
}

#[test]
fn ssh_gets_none_of_our_descriptors_and_a_process_group_of_its_own() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let file = fs::File::create(sshd.path("inherited")).expect("the folder is ours");
    // As a program finds it that PostgreSQL started: open, and not to be closed on exec.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("it is open");
    let store = connect(&settings(&sshd, &archive)).expect("it connects");
    let to_this_sshd = |id: &u32| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&format!("Port={}", sshd.port()))
    };
    let own = std::process::id();
    let children: Vec<u32> = sshd::all_processes()
        .into_iter()
        .filter(|(_, of, _)| *of == own)
        .map(|(id, ..)| id)
        .filter(to_this_sshd)
        .collect();
    assert_eq!(children.len(), 1);
    let open = fs::read_dir(format!("/proc/{}/fd", children[0])).expect("it runs");
    let targets: Vec<_> = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(!targets.is_empty() && !targets.contains(&sshd.path("inherited")), "{targets:?}");
    let group = |pid| rustix::process::getpgid(pid).expect("it runs");
    let child = i32::try_from(children[0]).ok().and_then(rustix::process::Pid::from_raw);
    assert_ne!(group(child), group(None));
    drop(store);
}

#[test]
#[ignore = "a measurement"]
fn how_fast_it_is() {
    let sshd = Sshd::start();
    let cipher = std::env::var("SSH_CIPHER").map(|c| vec![format!("-c{c}")]).unwrap_or_default();
    for (size, count) in [(2usize << 20, 200usize), (16 << 20, 40)] {
        let archive = archive(&sshd, &format!("archive{size}"));
        let options = SshSettings { options: cipher.clone(), ..settings(&sshd, &archive) };
        let store = connect(&options).expect("it connects");
        let file = TestFile::new(&noise(size, 9));
        let begun = Instant::now();
        thread::scope(|scope| {
            for worker in 0..8 {
                let (store, file) = (&store, &file);
                scope.spawn(move || {
                    for n in 0..count / 8 {
                        store.publish(&path(&format!("wal/{worker}-{n}")), &file.payload, &[]).expect("stored");
                    }
                });
            }
        });
        let took = begun.elapsed().as_secs_f64();
        let rate = (size * count) as f64 / took / 1e6;
        println!("{} MiB × {count}, 8 in flight: {rate:.0} MB/s, {:.1} ms each", size >> 20, took * 1e3 / count as f64);
        let begun = Instant::now();
        for n in 0..20 {
            store.publish(&path(&format!("one/{n}")), &file.payload, &[]).expect("stored");
        }
        println!("{} MiB one at a time: {:.1} ms each", size >> 20, begun.elapsed().as_secs_f64() * 50.0);
        let cpu = |name: &str| sshd.processes(name).into_iter().map(cpu_ticks).sum::<u64>() * 10 / (count as u64 + 20);
        println!("  far end, ms of processor each: sshd {}, serve-archive {}", cpu("sshd"), cpu("serve-archive"));
        let own = cpu_ticks(std::process::id()) * 10;
        println!("  this process so far: {own} ms");
        let begun = Instant::now();
        for n in 0..20 {
            read(&store, &path(&format!("one/{n}")));
        }
        println!("{} MiB read: {:.1} ms each", size >> 20, begun.elapsed().as_secs_f64() * 50.0);
    }
}

fn cpu_ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// A `serve-archive` of this machine, as whoever the tests' servers run as, for an archive behind the sshd's sftp.
fn by_sftp(sshd: &Sshd, archive: &Path) -> SftpFarEnd {
    let program = sshd.path("as-server");
    let mut words = vec!["exec".to_owned()];
    let command = sshd::as_server(PROGRAM);
    words.extend(std::iter::once(command.get_program()).chain(command.get_args()).map(|w| w.display().to_string()));
    fs::write(&program, format!("#!/bin/sh\n{} \"$@\"\n", words.join(" "))).expect("the folder is ours");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    own(&sshd.key());
    let settings = SftpSettings {
        host: "127.0.0.1".to_owned(),
        port: sshd.port(),
        user: sshd.user(),
        key: Some(sshd.key()),
        known_hosts: Some(sshd.known_hosts()),
        connect_timeout: PATIENCE,
        deadline: PATIENCE,
        dead_after: Duration::from_secs(6),
    };
    SftpFarEnd { program, settings, archive: archive.to_owned(), cluster: "main".to_owned() }
}

fn connect_by(far: &SftpFarEnd) -> Result<SshStore, StoreError> {
    SshStore::connect(FarEnd::Sftp(far.clone()), place())
}

/// The store of the far end itself, in this process.
fn direct(far: &SftpFarEnd) -> Result<SftpStore, StoreError> {
    let root = far.archive.join(&far.cluster);
    SftpStore::open(far.settings.clone(), &root.display().to_string(), place())
}

/// What went wrong is told through the other process as it would be told in this one.
fn told_alike(near: StoreError, direct: StoreError) -> error::Failure {
    let told = error::Failure::from(near);
    assert_eq!(told, error::Failure::from(direct));
    told
}

#[test]
fn over_sftp_it_keeps_what_every_place_must_keep() {
    let sshd = Sshd::start();
    let mut count = 0;
    conformance::suite(&mut || {
        count += 1;
        let archive = archive(&sshd, &format!("archive {count}"));
        Box::new(connect_by(&by_sftp(&sshd, &archive)).expect("it connects"))
    });
    // Longer than what the process keeps in memory.
    let archive = archive(&sshd, "large");
    let store = connect_by(&by_sftp(&sshd, &archive)).expect("it connects");
    let content = noise((40 << 20) + 7, 5);
    assert_eq!(store.publish(&path("wal/x"), &TestFile::new(&content).payload, &[]).expect("stored"), Published::New);
    assert!(read(&store, &path("wal/x")) == Some(content));
    assert_eq!(names(&archive), ["main/wal/x"]);
}

#[test]
fn what_goes_wrong_over_sftp_is_told_as_it_was_there() {
    let mut sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let good = by_sftp(&sshd, &archive);
    let with = |settings: SftpSettings| SftpFarEnd { settings, ..good.clone() };
    let refused = |far: &SftpFarEnd, words: &str| {
        let told = told_alike(
            connect_by(far).map(drop).expect_err("it must be refused"),
            direct(far).map(drop).expect_err("it must be refused"),
        );
        assert!(told.message.contains(words) && told.hint.is_some(), "{told:?}");
    };
    refused(&SftpFarEnd { archive: sshd.path("missing"), ..good.clone() }, "is missing");
    let stranger = sshd.make_key("stranger");
    own(&stranger);
    refused(&with(SftpSettings { key: Some(stranger), ..good.settings.clone() }), "was not let in");
    let nothing = Some(sshd.path("nothing"));
    refused(&with(SftpSettings { known_hosts: nothing, ..good.settings.clone() }), "is not known");
    // A listener that takes connections, and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = mute.local_addr().expect("it is bound").port();
    let connect_timeout = Duration::from_millis(700);
    refused(&with(SftpSettings { port, connect_timeout, ..good.settings.clone() }), "within 0.7 s");
    let missing = SftpFarEnd { program: PathBuf::from("/nowhere/serve-archive"), ..good.clone() };
    let error = connect_by(&missing).map(drop).expect_err("no program");
    assert!(error.to_string().contains("cannot start '/nowhere/serve-archive'") && error.hint().is_some(), "{error}");

    let (store, near) = (connect_by(&good).expect("it connects"), direct(&good).expect("it connects"));
    let root = archive.join("main");
    let file = TestFile::new(b"x");
    symlink("/", root.join("link")).expect("the folder is ours");
    for at in ["link/x", "link"].map(path) {
        told_alike(store.open(&at).map(drop).expect_err("a link"), near.open(&at).map(drop).expect_err("a link"));
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("it is ours");
    let denied = |store: &dyn Store| store.publish(&path("a/x"), &file.payload, &[]).expect_err("read-only");
    let told = told_alike(denied(&store), denied(&near));
    assert!(told.message.contains("permission denied"), "{told:?}");

    sshd.change_host_key();
    refused(&good, "is not the known one");
}

#[test]
fn an_sftp_server_that_hangs_is_noticed_and_nobody_outlives_who_asked() {
    let sshd = Sshd::start();
    let archive = archive(&sshd, "archive");
    let mut far = by_sftp(&sshd, &archive);
    far.settings.deadline = Duration::from_secs(2);
    far.settings.connect_timeout = Duration::from_secs(2);
    let store = connect_by(&far).expect("it connects");
    let beneath = sshd.processes("");
    beneath.iter().for_each(|id| sshd::send(*id, Signal::STOP));
    let begun = Instant::now();
    let error = store.publish(&path("wal/x"), &TestFile::new(b"x").payload, &[]).expect_err("it hangs");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(matches!(error, StoreError::Timeout { after, .. } if after == far.settings.deadline), "{error}");
    beneath.iter().for_each(|id| sshd::send(*id, Signal::CONT));
    assert!(store.look(&path("wal/none")).expect("a new session").is_none());

    let ours = || -> Vec<u32> {
        let serves = |id: &u32| {
            let words = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            words.contains("serve-archive") && words.contains(&archive.display().to_string())
        };
        let own = std::process::id();
        let all = sshd::all_processes();
        all.iter().filter(|(_, of, _)| *of == own).map(|(id, ..)| *id).filter(serves).collect()
    };
    // Killed, it is started again by the next call; the call that runs into its end hears of it.
    let [first] = ours()[..] else { panic!("one process serves: {:?}", ours()) };
    sshd::send(first, Signal::KILL);
    wait_until("a new process serves", || store.look(&path("wal/none")).is_ok_and(|found| found.is_none()));
    assert!(!ours().contains(&first));
    drop(store);
    wait_until("it is gone", || ours().is_empty());

    // Whoever asked is killed: the input ends.
    let settings = &far.settings;
    let (key, known) = (sshd.key().display().to_string(), sshd.known_hosts().display().to_string());
    let words = format!(
        "--cluster main --sftp-host {} --sftp-port {} --sftp-user {} --sftp-key {key} --known-hosts {known} \
         --connect-timeout 9s --deadline 9s --dead-after 9s",
        settings.host, settings.port, settings.user
    );
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut child = half_sent(&archive, &words);
    let (mut output, mut body) = (child.stdout.take().expect("piped"), Vec::new());
    wire::read_preamble(&mut output).expect("it is ours");
    wire::read_frame(&mut output, &mut body).expect("it answers");
    assert!(matches!(Reply::decode(&body), Ok(Reply::Hello { .. })), "it has logged in");
    drop(child.stdin.take());
    assert!(!child.wait().expect("it ends").success());
    assert_eq!(names(&archive), [""; 0]);
}

#[test]
fn only_serve_archive_is_linked_with_what_sftp_takes() {
    let loads = |program: &str| {
        let output = Command::new("ldd").arg(Path::new(PROGRAM).with_file_name(program)).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ["libssh2", "libssl", "libcrypto"].iter().any(|library| text.contains(library))
    };
    let heavy: Vec<_> = pgwarm::cli::PROGRAMS.iter().map(|program| program.name).filter(|name| loads(name)).collect();
    assert_eq!(heavy, ["serve-archive"], "the others start at every segment, or could; nothing of store::sftp in them");
}
