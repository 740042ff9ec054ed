//! Takes back what the new primary never had, with PostgreSQL's own `pg_rewind`, behind two guards.
//!
//! `pg_rewind` changes pages while the old control file still calls the data clean, and it replaces the settings and
//! removes `standby.signal`: a server started on half of its work, or right after it, would take writes on damaged or
//! forked data. So while it works the control file is marked (see `postgres::control::marked`), which its very last
//! write undoes, and the directory has a mode that every server refuses, until settings and signal are back. Both
//! outlive `kill -9` and a power failure. A rewind that did not end is never tried again: the data are replaced.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::archive::spool::Spool;
use crate::backup::Watcher;
use crate::cluster::contact;
use crate::cluster::standby::configuration;
use crate::cluster::standby::{StandbyError, ask, door};
use crate::config::{Config, Node};
use crate::error::Class;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::own_settings::{self, Signal};
use crate::postgres::server::Server;
use crate::postgres::settings::Settings;
use crate::system::clock::Deadline;
use crate::system::durable;
use crate::system::process::{Call, Outcome};

/// Which file is which of those that are kept.
const LIST: &str = "files.json";

/// No file of settings is larger, in bytes.
const SETTINGS_MAX: u64 = 1 << 20;

/// Files at the top of a data directory that belong to the data, or to the server that ran.
const NOT_SETTINGS: &[&str] = &[
    "PG_VERSION",
    "backup_manifest",
    "current_logfiles",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
];

/// What a single-user server keeps of the WAL that the rewind reads afterwards: all (wal_keep_size, in megabytes).
const KEEP_ALL_WAL: &str = "wal_keep_size=100000000";

/// A rewind.
pub struct Rewind<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The server of this node.
    pub server: &'a Server,
    /// The primary.
    pub source: &'a Node,
    /// True where own WAL may be fetched from the archives.
    pub archive: bool,
    /// Who is told what goes on.
    pub watcher: &'a dyn Watcher,
}

/// How far an earlier run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was changed.
    Fresh,
    /// It began and did not end.
    Half,
    /// It ended; settings and signal are not back.
    Rewound,
}

impl Rewind<'_> {
    /// How far an earlier run came.
    pub fn stage(&self) -> Result<Stage, StandbyError> {
        let control = self.control_path();
        let now = fs::read(&control).map_err(StandbyError::io("read", &control))?;
        if ControlFile::parse(&control, &now)?.marked {
            return Ok(Stage::Half);
        }
        match fs::read(self.kept().join("pg_control")) {
            Ok(before) if before != now => Ok(Stage::Rewound),
            Ok(_) => Ok(Stage::Fresh),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stage::Fresh),
            Err(error) => Err(StandbyError::io("read", &self.kept())(error)),
        }
    }

    /// Looks whether it would succeed, and fetches the own WAL for it. Changes nothing else.
    pub fn rehearse(&self) -> Result<(), StandbyError> {
        self.watcher.phase("rehearsing the rewind");
        let major = ask::there(&mut ask::open(self.config, self.source)?)?.major;
        match ask::checkpoint(self.config, self.source) {
            Err(error) if major < 16 => return Err(error),
            _ => {}
        }
        let outcome = self.call(&["--dry-run"])?;
        if outcome.status.is_success() && !told(&outcome, "no rewind required") {
            return Ok(());
        }
        Err(failed(&outcome, "Nothing was changed; mend that, or take another way back with --rung."))
    }

    /// Rewinds, from wherever an earlier run came to.
    pub fn run(&self, stage: Stage) -> Result<(), StandbyError> {
        if stage == Stage::Fresh {
            self.keep()?;
            door::close(self.server.pgdata())?;
            self.mark()?;
            self.watcher.phase("rewinding");
            let outcome = self.call(&[])?;
            if !outcome.status.is_success() || self.stage()? != Stage::Rewound {
                return Err(failed(&outcome, "No server starts on these data. Run this again: it replaces them."));
            }
        }
        self.put_back()?;
        own_settings::put_signal(self.server.pgdata(), Signal::Standby)?;
        sync_all(self.server.pgdata())?;
        door::open(self.server.pgdata())?;
        let kept = self.kept();
        fs::remove_dir_all(&kept).map_err(StandbyError::io("remove", &kept))
    }

    fn call(&self, more: &[&str]) -> Result<Outcome, StandbyError> {
        let mut conninfo = contact::conninfo(self.config, self.source)?;
        conninfo.remove("password");
        let mut source = OsString::from("--source-server=");
        source.push(conninfo.to_string());
        let mut call = Call::new(self.server.program("pg_rewind")?).bound().env("LC_ALL", "C");
        call = call.arg("--target-pgdata").arg(self.server.pgdata()).arg(source).arg("--no-ensure-shutdown");
        if self.archive {
            call = call.arg("--restore-target-wal");
            let file = self.server.config_file();
            if !file.starts_with(self.server.pgdata()) {
                // PostgreSQL 14 has no such option, says so in the rehearsal, and another way is taken.
                call = call.arg("--config-file").arg(file);
            }
        }
        Ok(call.args(more).run(Deadline::after(self.config.standby.copy_deadline))?)
    }

    fn control_path(&self) -> PathBuf {
        self.server.pgdata().join("global/pg_control")
    }

    fn kept(&self) -> PathBuf {
        Spool::new(&self.config.local.spool).root().join("rewind")
    }

    /// Keeps the settings of this node, and the control file, which says last that all is kept.
    fn keep(&self) -> Result<(), StandbyError> {
        let (pgdata, kept) = (self.server.pgdata(), self.kept());
        durable::create_directory_durable(&kept).map_err(StandbyError::io("create", &kept))?;
        let names = self.settings_files()?;
        for (at, name) in names.iter().enumerate() {
            let (from, to) = (pgdata.join(name), kept.join(at.to_string()));
            let bytes = fs::read(&from).map_err(StandbyError::io("read", &from))?;
            durable::replace(&to, &bytes).map_err(StandbyError::io("write", &to))?;
        }
        let (list, names) = (kept.join(LIST), serde_json::to_vec(&names));
        let names = names.expect("because plain data has no reason not to become JSON");
        durable::replace(&list, &names).map_err(StandbyError::io("write", &list))?;
        let control = fs::read(self.control_path()).map_err(StandbyError::io("read", &self.control_path()))?;
        let to = kept.join("pg_control");
        durable::replace(&to, &control).map_err(StandbyError::io("write", &to))
    }

    /// The files in the data directory that say how this node's server is run: `pg_rewind` replaces them by those of
    /// the primary.
    fn settings_files(&self) -> Result<Vec<PathBuf>, StandbyError> {
        let pgdata = self.server.pgdata();
        let mut found = Vec::new();
        for entry in fs::read_dir(pgdata).map_err(StandbyError::io("list", pgdata))? {
            let entry = entry.map_err(StandbyError::io("list", pgdata))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let data = entry.metadata().map_err(StandbyError::io("look at", &entry.path()))?;
            let of_data = NOT_SETTINGS.contains(&name.as_str())
                || ["backup_label", "tablespace_map"].iter().any(|prefix| name.starts_with(prefix));
            if data.is_file() && data.len() <= SETTINGS_MAX && !of_data {
                found.push(PathBuf::from(name));
            }
        }
        let file = self.server.config_file();
        let settings = Settings::read(&file, pgdata)?;
        let deeper = settings.iter().filter_map(|(_, setting)| setting.file.strip_prefix(pgdata).ok());
        found.extend(deeper.filter(|path| path.components().count() > 1).map(Path::to_owned));
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Marks the control file: the last thing before, and the first that is undone after.
    fn mark(&self) -> Result<(), StandbyError> {
        let path = self.control_path();
        let bytes = fs::read(&path).map_err(StandbyError::io("read", &path))?;
        durable::replace(&path, &control::marked(&path, &bytes)?).map_err(StandbyError::io("write", &path))
    }

    /// Gives the node its own settings back.
    fn put_back(&self) -> Result<(), StandbyError> {
        let (pgdata, kept) = (self.server.pgdata(), self.kept());
        configuration::uninstall(pgdata)?;
        let list = kept.join(LIST);
        let names = fs::read(&list).map_err(StandbyError::io("read", &list))?;
        let names: Vec<PathBuf> = serde_json::from_slice(&names).map_err(|error| StandbyError::CannotTell {
            what: format!("which files are kept in '{}'", kept.display()),
            why: error.to_string(),
            class: Class::Corrupt,
        })?;
        for (at, name) in names.iter().enumerate() {
            let (from, to) = (kept.join(at.to_string()), pgdata.join(name));
            let bytes = fs::read(&from).map_err(StandbyError::io("read", &from))?;
            if let Some(folder) = to.parent() {
                durable::create_directory_durable(folder).map_err(StandbyError::io("create", folder))?;
            }
            durable::replace(&to, &bytes).map_err(StandbyError::io("write", &to))?;
        }
        Ok(())
    }
}

/// Brings the data of a crashed primary to a clean end, as `pg_rewind` wants them: a single-user server recovers,
/// writes a shutdown checkpoint and ends. It keeps every segment, for the rewind still reads them.
pub fn recover(config: &Config, server: &Server) -> Result<(), StandbyError> {
    let pgdata = server.pgdata();
    if ControlFile::read(pgdata)?.state.is_clean() {
        return Ok(());
    }
    // A single-user server takes no part in a recovery from an archive.
    own_settings::remove_signals(pgdata)?;
    let mut call = Call::new(server.program("postgres")?).bound().arg("--single").arg("-D").arg(pgdata);
    let file = server.config_file();
    if file != pgdata.join("postgresql.conf") {
        let mut setting = OsString::from("config_file=");
        setting.push(&file);
        call = call.arg("-c").arg(setting);
    }
    let outcome = call.args(["-c", KEEP_ALL_WAL, "template1"]).run(Deadline::after(config.standby.copy_deadline))?;
    if outcome.status.is_success() && ControlFile::read(pgdata)?.state.is_clean() {
        return Ok(());
    }
    Err(StandbyError::Program {
        program: "postgres",
        status: outcome.status.to_string(),
        said: outcome.complaint(),
        hint: "The data cannot recover from their crash; take another way back with --rung.".to_owned(),
    })
}

/// Makes everything durable that `pg_rewind` wrote, tablespaces included.
fn sync_all(pgdata: &Path) -> Result<(), StandbyError> {
    let links = pgdata.join("pg_tblspc");
    let spaces = fs::read_dir(&links).map_err(StandbyError::io("list", &links))?;
    let spaces = spaces.map(|entry| entry.map(|entry| entry.path()).map_err(StandbyError::io("list", &links)));
    for folder in spaces.chain([Ok(pgdata.to_owned())]) {
        let folder = folder?;
        let open = File::open(&folder).map_err(StandbyError::io("open", &folder))?;
        rustix::fs::syncfs(&open).map_err(|error| StandbyError::io("make durable", &folder)(error.into()))?;
    }
    Ok(())
}

fn told(outcome: &Outcome, words: &str) -> bool {
    [&outcome.stdout, &outcome.stderr].iter().any(|text| String::from_utf8_lossy(text).contains(words))
}

fn failed(outcome: &Outcome, hint: &str) -> StandbyError {
    let said = outcome.complaint();
    let said = if said.is_empty() { String::from_utf8_lossy(&outcome.stdout).trim().to_owned() } else { said };
    StandbyError::Program { program: "pg_rewind", status: outcome.status.to_string(), said, hint: hint.to_owned() }
}
