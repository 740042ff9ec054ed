//! Brings the data: a running server through the replication protocol, or a backup out of an archive.
//!
//! Both are written into a directory that is absent or empty, and have their control file last, so no server starts on
//! half of one. What an earlier run left half made is emptied first, but only where the journal says that it is ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::door;
use super::facts::{Directory, Upstream};
use super::observe;
use super::plan::layout::FRESH;
use super::step::Space;
use super::{StandbyError, ask};
use crate::archive::ArchiveError;
use crate::archive::places::Sites;
use crate::backup::restore::{Target, restore_with};
use crate::backup::{BackupError, Watcher, catalog};
use crate::config::{Config, Node};
use crate::error::Failure;
use crate::postgres::base_copy::{BaseCopy, PROGRAM, Wal};
use crate::system::clock::Deadline;
use crate::system::durable;

/// Empties directories that the journal names as copies under way. One that was started on since is somebody's data.
pub fn clear(folders: &[PathBuf]) -> Result<(), StandbyError> {
    for folder in folders {
        if let Directory::Data(data) = observe::look(folder)?
            && !data.label
        {
            return Err(StandbyError::refused(
                format!("'{}' was a copy under way, and a server has been started on it since", folder.display()),
                "Look at it, and move it away by hand.",
            ));
        }
        match fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(StandbyError::io("list", folder))?;
                    let path = entry.path();
                    let kind = entry.file_type().map_err(StandbyError::io("look at", &path))?;
                    let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    removed.map_err(StandbyError::io("remove", &path))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StandbyError::io("list", folder)(error)),
        }
        // A directory beside the real one is ours altogether.
        if folder.to_string_lossy().ends_with(FRESH) {
            fs::remove_dir(folder).map_err(StandbyError::io("remove", folder))?;
        }
    }
    Ok(())
}

/// Which backup is restored, and how.
pub struct Wanted<'a> {
    /// The node whose archive holds it.
    pub place: &'a str,
    /// Its label.
    pub label: &'a str,
    /// True: over what is there, of which only what differs is written.
    pub delta: bool,
    /// True where WAL that nobody else has is kept aside already.
    pub drop_wal: bool,
}

/// What a copy needs to know.
pub struct Order<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where it goes.
    pub folder: &'a Path,
    /// Its tablespaces.
    pub spaces: &'a [Space],
    /// Who is told how far it is.
    pub watcher: &'a dyn Watcher,
}

impl Order<'_> {
    /// Copies a running server by the replication protocol.
    pub fn clone_server(&self, node: &Node, rate: u64, deadline: Duration) -> Result<(), StandbyError> {
        let _held = ask::hold_wal(self.config, node)?;
        let source: Upstream = ask::upstream(self.config, node, None)?;
        self.watcher.phase("copying");
        let spaces: Vec<_> = self.spaces.iter().map(|space| (space.from.clone(), space.folder.clone())).collect();
        let copy = BaseCopy {
            major: source.there.major,
            conninfo: &source.conninfo,
            pgdata: self.folder,
            label: "pgwarm standby-init",
            fast: true,
            rate,
            wal: Wal::Fetched,
            wal_dir: None,
            spaces: &spaces,
        };
        let call = copy.call(self.config.local.pg_bin.as_deref())?;
        // No server is started on a copy that does not know yet that it is a standby.
        durable::create_directory_durable(self.folder).map_err(StandbyError::io("create", self.folder))?;
        door::close(self.folder)?;
        let outcome = call.run(Deadline::after(deadline))?;
        if outcome.status.is_success() {
            return Ok(());
        }
        Err(StandbyError::Program {
            program: PROGRAM,
            status: outcome.status.to_string(),
            said: outcome.complaint(),
            hint: "What was copied is removed; mend that and run it again.".to_owned(),
        })
    }

    /// Restores a backup.
    pub fn restore(
        &self,
        sites: &Sites,
        wanted: &Wanted<'_>,
        jobs: usize,
        settle: &dyn Fn() -> Result<(), StandbyError>,
    ) -> Result<(), StandbyError> {
        let place = wanted.place;
        let site = sites.get(place).ok_or_else(|| {
            StandbyError::refused(format!("node '{place}' holds no archive"), format!("Set node.{place}.archive."))
        })?;
        let archive = site.archive()?;
        let label = wanted
            .label
            .parse()
            .map_err(|error| BackupError::refused(format!("{error}"), "See 'base-backup list'."))?;
        let description = catalog::get(&archive, &label)?;
        let tablespaces = self.spaces.iter().map(|space| (space.oid, space.folder.clone())).collect();
        let (delta, drop_wal) = (wanted.delta, wanted.drop_wal);
        let target = Target { tablespaces, delta, drop_wal, ..Target::new(self.folder) };
        let settle = || settle().map_err(|error| ArchiveError::Elsewhere(Failure::of(&error)).into());
        restore_with(&archive, &description, &target, jobs, self.watcher, &settle)?;
        Ok(())
    }
}
