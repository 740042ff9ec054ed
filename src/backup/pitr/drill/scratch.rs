//! The directory of a drill: one drill at a time, and nothing of it is left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backup::BackupError;
use crate::postgres::control::ControlFile;
use crate::postgres::own_settings;
use crate::postgres::server::{Mode, Server};
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::system::lock::{Lock, Taken};

/// The length of a socket's path, with the longest name in its directory (sockaddr_un).
const SOCKET_MAX: usize = 107 - "/.s.PGSQL.65535".len();

/// How long a server that is left from a killed drill may take to end.
const ENDING: Duration = Duration::from_secs(60);

/// How often to try again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The directory; it goes when this is dropped, and the server in it before.
pub struct Scratch {
    path: PathBuf,
    over: Arc<AtomicBool>,
    _only_one: Lock,
}

impl Scratch {
    /// Takes the directory below `parent`, and removes what a killed drill left there.
    pub fn take(parent: &Path) -> Result<Scratch, BackupError> {
        durable::create_directory_durable(parent).map_err(|error| {
            let reason = format!("cannot create '{}': {error}", parent.display());
            BackupError::refused(
                reason,
                "Make it for this user, or set drill.directory to a place with room for a restore.",
            )
        })?;
        let lock = parent.join("drill.lock");
        let only_one = match Lock::try_take(&lock).map_err(BackupError::io("lock", &lock))? {
            Taken::Held(lock) => lock,
            Taken::Busy { owner } => return Err(BackupError::Busy { owner }),
        };
        sweep(parent)?;
        let scratch = Scratch { path: place(parent), over: Arc::default(), _only_one: only_one };
        for folder in [scratch.path.clone(), scratch.socket(), scratch.spool()] {
            durable::create_directory_durable(&folder).map_err(BackupError::io("create", folder))?;
        }
        if scratch.socket().as_os_str().len() > SOCKET_MAX {
            let reason = format!("'{}' is too long for the path of a socket", scratch.socket().display());
            return Err(BackupError::refused(reason, "Set drill.directory to a shorter path."));
        }
        Ok(scratch)
    }

    /// What ends the drill from another thread.
    pub fn ending(&self) -> impl Fn() -> Result<(), BackupError> + Send + use<> {
        let (path, over) = (self.path.clone(), Arc::clone(&self.over));
        move || {
            over.store(true, Ordering::SeqCst);
            path.parent().map_or(Ok(()), sweep)
        }
    }

    /// True once the drill was told to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the data go.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where the socket is.
    pub fn socket(&self) -> PathBuf {
        self.path.join("s")
    }

    /// A spool of its own for what fetches the WAL: neither queues nor orders of this node touch a drill.
    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// Who may connect: everybody who reaches the socket, which is its owner alone.
    pub fn hba(&self) -> PathBuf {
        self.path.join("hba.conf")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The server.
    pub fn server(&self, pg_bin: Option<&Path>) -> Server {
        Server::at(&self.data(), pg_bin, Some(&self.data().join("postgresql.conf")))
    }

    /// Writes what the server needs beside our settings: who may connect, and where the data came without a
    /// `postgresql.conf`, as those of Debian do, one that is large enough to recover.
    pub fn configure(&self) -> Result<(), BackupError> {
        let write =
            |path: &Path, text: &str| durable::replace(path, text.as_bytes()).map_err(BackupError::io("write", path));
        write(&self.hba(), "local all all trust\n")?;
        let (data, conf) = (self.data(), self.data().join("postgresql.conf"));
        let ident = data.join("pg_ident.conf");
        if !ident.exists() {
            write(&ident, "")?;
        }
        if !conf.exists() {
            let limits = ControlFile::read(&data)?.limits;
            let lines = [
                ("max_connections", limits.max_connections),
                ("max_worker_processes", limits.max_worker_processes),
                ("max_wal_senders", limits.max_wal_senders),
                ("max_prepared_transactions", limits.max_prepared_transactions),
                ("max_locks_per_transaction", limits.max_locks_per_transaction),
            ];
            let lines: String =
                lines.iter().map(|(name, value)| own_settings::line(name, &value.to_string())).collect();
            write(&conf, &format!("{lines}include_if_exists '{}'\n", own_settings::FILE))?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.path.parent().map(sweep) {
            log::warn!("what the drill left cannot be removed: {error}");
        }
    }
}

fn place(parent: &Path) -> PathBuf {
    parent.join("scratch")
}

/// Ends the server of a drill and removes its directory; nothing there is fine.
fn sweep(parent: &Path) -> Result<(), BackupError> {
    let path = place(parent);
    if path.join("data").exists() {
        Server::at(&path.join("data"), None, None).stop(Mode::Immediate, Deadline::after(ENDING))?;
    }
    let patience = Deadline::after(ENDING);
    loop {
        match fs::remove_dir_all(&path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The worker that fetched ahead for the server may write once more before it ends.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && !patience.expired() => {
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(error) => return Err(BackupError::io("remove", path)(error)),
        }
    }
}
