//! What is dear to make and alike for all tests: made once, kept, and copied by every test that wants it.
//!
//! Data directories to start from are such: `initdb` runs once per version, segment size and account.
//! Promises: what is kept is complete or absent, whoever else makes the same one at the same time.
//! A copy has the system identifier of its template, so all servers made from one seem to be one cluster; a test that
//! needs strangers asks for a fresh identity and pays for a real `initdb`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use super::program::Program;
use super::server::Binaries;
use super::workspace::{Account, Workspace};

/// The file in PGDATA that holds a server's own settings, read last.
pub const SETTINGS: &str = "pgwarm-test.conf";

/// Puts a data directory that never ran at `pgdata`.
pub fn data_directory(binaries: &Binaries, segment_mib: u32, fresh: bool, pgdata: &Path) {
    if fresh {
        return initdb(binaries, segment_mib, pgdata);
    }
    let name = format!("data-{}-{segment_mib}-{}", binaries.version, Account::unprivileged().name);
    kept(
        binaries,
        &name,
        |made| initdb(binaries, segment_mib, &made.join("data")),
        |kept| copy(&kept.join("data"), pgdata),
    );
}

/// Uses what these binaries made once, under a name that says what it is; makes it where it is not there yet. `make`
/// fills a directory that the unprivileged account can write to; `using` must not keep what it is shown.
pub fn kept<T>(binaries: &Binaries, name: &str, make: impl FnOnce(&Path), using: impl FnOnce(&Path) -> T) -> T {
    let store = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kept = store.join(name);
    // Made with the same binaries; a package upgrade within the same minor version makes a new one.
    let is_current = || kept.metadata().is_ok_and(|made| made.mtime() >= binaries.changed_at);
    let lock = lock_file(store, name);
    hold(&lock, FlockOperation::LockShared);
    if !is_current() {
        // Letting go first: two holders of a shared lock that both wait for the other would wait for ever.
        hold(&lock, FlockOperation::Unlock);
        hold(&lock, FlockOperation::LockExclusive);
        if !is_current() {
            fill(name, &kept, make);
        }
    }
    using(&kept)
}

/// The same for what our own programs had a hand in: made anew whenever they were.
pub fn kept_with_ours<T>(name: &str, make: impl FnOnce(&Path), using: impl FnOnce(&Path) -> T) -> T {
    let mut binaries = Binaries::under_test().clone();
    let ours = super::program("archive-wal").metadata().map_or(0, |data| data.mtime());
    binaries.changed_at = binaries.changed_at.max(ours);
    let name = format!("{name}-{}-{}", binaries.version, Account::unprivileged().name);
    kept(&binaries, &name, make, using)
}

fn lock_file(store: &Path, name: &str) -> File {
    let path = store.join(format!("{name}.lock"));
    fs::create_dir_all(store)
        .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(&path))
        .unwrap_or_else(|error| panic!("could not open '{}': {error}", path.display()))
}

fn hold(lock: &File, how: FlockOperation) {
    flock(lock, how).unwrap_or_else(|error| panic!("could not lock the templates: {error}"));
}

/// Called with the lock held exclusively.
fn fill(name: &str, kept: &Path, make: impl FnOnce(&Path)) {
    // The account may be unable to reach the build directory, so it is made in the workspace.
    let workspace = Workspace::shared();
    let made = workspace.fresh_dir("kept");
    make(&made);
    let half = kept.with_file_name(format!("{name}.half"));
    for stale in [half.as_path(), kept] {
        if stale.exists() {
            fs::remove_dir_all(stale).unwrap_or_else(|error| panic!("could not remove '{}': {error}", stale.display()));
        }
    }
    copy(&made, &half);
    // Its age says which binaries made it.
    File::open(&half)
        .and_then(|dir| dir.set_modified(SystemTime::now()))
        .and_then(|()| fs::rename(&half, kept))
        .and_then(|()| fs::remove_dir_all(&made))
        .unwrap_or_else(|error| panic!("could not keep '{}': {error}", kept.display()));
}

fn initdb(binaries: &Binaries, segment_mib: u32, pgdata: &Path) {
    let call = Program::at(binaries.bin.join("initdb")).env("LD_LIBRARY_PATH", binaries.library_path());
    let segment = format!("--wal-segsize={segment_mib}");
    let options = ["--no-sync", "--data-checksums", "--auth=trust", "--username=postgres", "--encoding=UTF8"];
    call.args(options).args(["--locale=C", "--no-instructions", &segment, "--pgdata"]).arg(pgdata).run().expect_ok();
    // Read last, so it wins over what initdb wrote.
    let configuration = pgdata.join("postgresql.conf");
    let mut text = fs::read_to_string(&configuration).expect("because initdb has just written it");
    text.push_str(&format!("\ninclude_if_exists = '{SETTINGS}'\n"));
    fs::write(&configuration, text).expect("because initdb has just written it");
}

/// `cp` keeps the owner and shares blocks where the file system can.
pub fn copy(source: &Path, target: &Path) {
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto", "-T", "--"])
        .args([source, target])
        .output()
        .unwrap_or_else(|error| panic!("could not start 'cp': {error}"));
    assert!(copied.status.success(), "could not copy '{}': {copied:?}", source.display());
}
