//! A data directory by the replication protocol, for hosts without pgwarm: PostgreSQL's own `pg_basebackup`.
//!
//! No crate speaks that protocol, and the tool of the server's own version knows every detail of it. It is weaker than
//! a copy between two pgwarms: all of it travels, by one connection, and one that was interrupted begins anew. The
//! directory must be empty, or be left from such a run: a note in the spool says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::{Map, Which, Wish};
use crate::archive::spool::{Spool, remove_if_there};
use crate::backup::restore::claim::{is_empty, stopped};
use crate::backup::session::Session;
use crate::backup::{BackupError, Watcher};
use crate::config::{Config, Node};
use crate::error::{Class, Failure};
use crate::postgres::base_copy::{BaseCopy, PROGRAM, Wal, hold_wal};
use crate::postgres::own_settings::{self, Signal};
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::system::lock::{Lock, Taken};
use crate::system::process::Call;

/// The note of a run under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Where it writes to.
    folders: Vec<PathBuf>,
}

/// Copies the server that `conninfo` leads to into an empty directory of this machine, within `patience` in all.
pub fn clone(
    config: &Config,
    from: &Node,
    conninfo: &str,
    pgdata: &Path,
    wish: &Wish,
    watcher: &dyn Watcher,
    patience: Duration,
) -> Result<(), BackupError> {
    watcher.phase("connecting");
    let mut session = Session::open(conninfo)?;
    let copy = BaseCopy {
        major: session.major(),
        conninfo,
        pgdata,
        label: &format!("pgwarm copy from {}", from.name),
        fast: wish.fast_checkpoint,
        rate: wish.rate_max,
        wal: Wal::Fetched,
        wal_dir: wish.wal_dir.as_deref(),
        spaces: &spaces(wish)?,
    };
    let call = copy.call(config.local.pg_bin.as_deref())?;
    let spool = Spool::new(&config.local.spool);
    spool.prepare()?;
    let lock = spool.lock("clone");
    let _one_run = match Lock::try_take(&lock).map_err(BackupError::io("lock", &lock))? {
        Taken::Held(lock) => lock,
        Taken::Busy { owner } => return Err(BackupError::Busy { owner }),
    };
    let note = spool.root().join("clone.json");
    let folders: Vec<PathBuf> = std::iter::once(pgdata.to_owned())
        .chain(wish.wal_dir.clone())
        .chain(wish.maps.iter().map(|map| map.to.clone()))
        .collect();
    make_room(&folders, &note, wish.dry_run)?;
    if wish.dry_run {
        return Ok(());
    }
    let text = serde_json::to_vec(&Note { folders }).expect("because plain data has no reason not to become JSON");
    durable::replace(&note, &text).map_err(BackupError::io("write", &note))?;
    hold_wal(session.connection(), &format!("pgwarm_copy_{}", std::process::id()));
    watcher.phase("pg_basebackup copies");
    run(call, from, patience)?;
    own_settings::put_signal(pgdata, Signal::Standby)?;
    remove_if_there(&note).map_err(BackupError::io("remove", note))?;
    Ok(())
}

/// Where tablespaces go: from, to.
fn spaces(wish: &Wish) -> Result<Vec<(PathBuf, PathBuf)>, BackupError> {
    let space = |map: &Map| match &map.which {
        Which::Location(old) => Ok((old.clone(), map.to.clone())),
        _ => Err(BackupError::refused(
            "pg_basebackup knows tablespaces by their directories only",
            "Write --map OLD=NEW with the directory that the tablespace has at the source.",
        )),
    };
    wish.maps.iter().map(space).collect()
}

/// Runs the program that copies.
pub fn run(call: Call, from: &Node, patience: Duration) -> Result<(), BackupError> {
    let far = |failure| BackupError::Far { node: from.name.clone(), failure };
    let outcome = call.run(Deadline::after(patience)).map_err(|error| far(Failure::of(&error)))?;
    if outcome.status.is_success() {
        return Ok(());
    }
    let failure =
        Failure::new(Class::Postgres, format!("{PROGRAM} ended with {}: {}", outcome.status, outcome.complaint()));
    Err(far(failure
        .hinted("The server must let this user replicate: a line 'replication' in pg_hba.conf, and a free walsender.")))
}

/// Makes sure that the directories are empty; what an earlier run left is removed.
fn make_room(folders: &[PathBuf], note: &Path, dry_run: bool) -> Result<(), BackupError> {
    let left: Vec<PathBuf> = match fs::read(note) {
        Ok(bytes) => serde_json::from_slice::<Note>(&bytes).map(|note| note.folders).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(BackupError::io("read", note)(error)),
    };
    for folder in folders {
        if is_empty(folder)? {
            continue;
        }
        stopped(folder)?;
        if !left.contains(folder) {
            return Err(BackupError::refused(
                format!("'{}' is not empty", folder.display()),
                "By the replication protocol a copy begins anew: empty the directory yourself, or install pgwarm on both \
                 nodes, which sends only what differs.",
            ));
        }
        if dry_run {
            continue;
        }
        for entry in fs::read_dir(folder).map_err(BackupError::io("list", folder))? {
            let path = entry.map_err(BackupError::io("list", folder))?.path();
            let real = fs::symlink_metadata(&path).map_err(BackupError::io("look at", &path))?.is_dir();
            let removed = if real { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(BackupError::io("remove", path))?;
        }
    }
    Ok(())
}
