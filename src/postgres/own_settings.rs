//! Our own file of settings, `PGDATA/pgwarm.conf`, and the signal files of recovery.
//!
//! What pgwarm sets stands in this one file, written whole and durably; the files of people are never edited. Only in a
//! data directory that pgwarm has just made, a copy, the copy's `postgresql.conf` is made to include it, and lines of
//! the copy's `postgresql.auto.conf` that would win over it are put out of force. Everywhere else [`overridden`] says
//! what does not hold, and why. Whether the server has read the file is not known here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::settings::{Setting, Settings, SettingsError};
use crate::error::{Class, Explain};
use crate::system::durable;

/// The name of our file, in the data directory.
pub const FILE: &str = "pgwarm.conf";

/// The configuration set in force, which our file includes first where it is there: what we set wins over it.
pub const SET_FILE: &str = "pgwarm.set.conf";

/// Where the copy's `postgresql.auto.conf` is kept as it came.
pub const AUTO_BEFORE: &str = "postgresql.auto.conf.before-pgwarm";

const AUTO: &str = "postgresql.auto.conf";

const HEAD: &str = "# Written by pgwarm, which replaces this file; set your own values elsewhere.\n";

/// What went wrong with our settings.
#[derive(Debug, thiserror::Error)]
pub enum OwnSettingsError {
    /// A file cannot be read or written.
    #[error("cannot {job} '{}'", path.display())]
    File { job: &'static str, path: PathBuf, source: io::Error },
    /// The settings cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A value that no file of settings can hold.
    #[error("'{name}' cannot be set to a text with a line break in it")]
    Text { name: String },
}

impl Explain for OwnSettingsError {
    fn class(&self) -> Class {
        match self {
            OwnSettingsError::File { .. } => Class::Storage,
            OwnSettingsError::Settings(error) => error.class(),
            OwnSettingsError::Text { .. } => Class::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            OwnSettingsError::File { .. } => Some("Run this as the user who owns the data directory.".to_owned()),
            OwnSettingsError::Settings(error) => error.hint(),
            OwnSettingsError::Text { .. } => Some("Write the value on one line.".to_owned()),
        }
    }
}

/// A setting of ours that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overridden {
    /// Its name.
    pub name: String,
    /// What holds instead; none: our file is not included at all, or the setting is not in it.
    pub by: Option<Setting>,
}

/// Which way a server recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// As a standby, until it is promoted.
    Standby,
    /// Up to a target, or to the end of the WAL.
    Recovery,
}

impl Signal {
    /// The name of its file.
    pub fn file(self) -> &'static str {
        match self {
            Signal::Standby => "standby.signal",
            Signal::Recovery => "recovery.signal",
        }
    }
}

/// Reads what our file sets; nothing where it is absent. What it includes is not ours.
pub fn read(pgdata: &Path) -> Result<BTreeMap<String, String>, OwnSettingsError> {
    let path = pgdata.join(FILE);
    if !exists(&path)? {
        return Ok(BTreeMap::new());
    }
    let settings = Settings::read(&path, Path::new("/nonexistent"))?;
    let ours = settings.iter().filter(|(_, setting)| setting.file == path);
    Ok(ours.map(|(name, setting)| (name.to_owned(), setting.value.clone())).collect())
}

/// Writes our file anew with these settings, durably.
pub fn write(pgdata: &Path, settings: &BTreeMap<String, String>) -> Result<(), OwnSettingsError> {
    let mut text = format!("{HEAD}include_if_exists '{SET_FILE}'\n");
    for (name, value) in settings {
        if value.contains(['\n', '\r', '\0']) {
            return Err(OwnSettingsError::Text { name: name.clone() });
        }
        text.push_str(&line(name, value));
    }
    replace(&pgdata.join(FILE), text.as_bytes())
}

/// One line as the server reads it.
pub fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The line that makes a server read our file, for a person to put at the end of `postgresql.conf`.
pub fn include_line(pgdata: &Path) -> String {
    line("include_if_exists", &pgdata.join(FILE).to_string_lossy()).trim_end().replace(" = ", " ")
}

/// Which settings of our file would not hold if the server read its settings now.
pub fn overridden(config_file: &Path, pgdata: &Path) -> Result<Vec<Overridden>, OwnSettingsError> {
    let settings = Settings::read(config_file, pgdata)?;
    let held = |name: &str, value: &str| settings.get(name).is_some_and(|setting| setting.value == value);
    let lost = read(pgdata)?.into_iter().filter(|(name, value)| !held(name, value));
    Ok(lost.map(|(name, _)| Overridden { by: settings.get(&name).cloned(), name }).collect())
}

/// Makes a data directory that pgwarm has just made read our file, which must stand there already: its
/// `postgresql.conf` includes it last, and what its `postgresql.auto.conf` says about the same settings is put out of
/// force (the file as it came stays beside as [`AUTO_BEFORE`]). May be repeated.
pub fn adopt_copy(pgdata: &Path) -> Result<(), OwnSettingsError> {
    let path = pgdata.join("postgresql.conf");
    if exists(&path)? {
        let text = read_text(&path)?;
        let include = format!("include_if_exists '{FILE}'");
        if text.trim_end().lines().last() != Some(&include) {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            replace(&path, format!("{text}{end}{include}\n").as_bytes())?;
        }
    }
    let path = pgdata.join(AUTO);
    if exists(&path)? {
        let text = read_text(&path)?;
        let ours = read(pgdata)?;
        let changed = without(&text, &ours);
        if changed != text {
            let before = pgdata.join(AUTO_BEFORE);
            if !exists(&before)? {
                replace(&before, text.as_bytes())?;
            }
            replace(&path, changed.as_bytes())?;
        }
    }
    Ok(())
}

/// Leaves out the lines that set one of these.
fn without(text: &str, names: &BTreeMap<String, String>) -> String {
    let set = |line: &str| {
        let name = line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        names.contains_key(&name.to_ascii_lowercase())
    };
    text.split_inclusive('\n').filter(|line| !set(line)).collect()
}

/// Makes the server recover this way when it starts next; the other signal file is removed.
pub fn put_signal(pgdata: &Path, signal: Signal) -> Result<(), OwnSettingsError> {
    replace(&pgdata.join(signal.file()), b"")?;
    let other = if signal == Signal::Standby { Signal::Recovery } else { Signal::Standby };
    remove(pgdata, other)
}

/// Makes the server start without archive recovery.
pub fn remove_signals(pgdata: &Path) -> Result<(), OwnSettingsError> {
    remove(pgdata, Signal::Standby)?;
    remove(pgdata, Signal::Recovery)
}

/// Which way the server recovers when it starts next; both files mean standby, as the server takes it.
pub fn signal(pgdata: &Path) -> Result<Option<Signal>, OwnSettingsError> {
    for signal in [Signal::Standby, Signal::Recovery] {
        if exists(&pgdata.join(signal.file()))? {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}

fn remove(pgdata: &Path, signal: Signal) -> Result<(), OwnSettingsError> {
    let path = pgdata.join(signal.file());
    match fs::remove_file(&path) {
        Ok(()) => durable::sync_directory(pgdata).map_err(wrong("make durable", pgdata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(wrong("remove", &path)(error)),
    }
}

fn exists(path: &Path) -> Result<bool, OwnSettingsError> {
    path.try_exists().map_err(wrong("look at", path))
}

fn read_text(path: &Path) -> Result<String, OwnSettingsError> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(wrong("read", path))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), OwnSettingsError> {
    durable::replace(path, bytes).map_err(wrong("write", path))
}

fn wrong(job: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OwnSettingsError {
    let path = path.to_owned();
    move |source| OwnSettingsError::File { job, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("because the directory is ours");
        }
        folder
    }

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_written_is_read_again() -> Result<(), OwnSettingsError> {
        let folder = directory(&[]);
        assert!(read(folder.path())?.is_empty());
        let ours = settings(&[("restore_command", r"it's \ 'quoted'"), ("primary_conninfo", "")]);
        write(folder.path(), &ours)?;
        assert_eq!(read(folder.path())?, ours);
        let broken = write(folder.path(), &settings(&[("a", "b\nfsync = off")]));
        assert!(matches!(broken, Err(OwnSettingsError::Text { .. })));
        assert_eq!(read(folder.path())?, ours);
        Ok(())
    }

    #[test]
    fn what_a_configuration_set_says_is_not_ours_and_does_not_win() -> Result<(), OwnSettingsError> {
        let folder = directory(&[(SET_FILE, "port = 7\nhot_standby = off\n")]);
        let ours = settings(&[("hot_standby", "on")]);
        write(folder.path(), &ours)?;
        assert_eq!(read(folder.path())?, ours);
        let all = Settings::read(&folder.path().join(FILE), folder.path())?;
        let value = |name: &str| all.get(name).map(|setting| setting.value.clone());
        assert_eq!((value("port").as_deref(), value("hot_standby").as_deref()), (Some("7"), Some("on")));
        Ok(())
    }

    #[test]
    fn a_copy_is_made_to_read_our_file_and_nothing_wins_over_it() -> Result<(), OwnSettingsError> {
        let auto = "# by ALTER SYSTEM\nprimary_conninfo = 'host=old'\nwork_mem = '2MB'\n";
        let folder = directory(&[("postgresql.conf", "port = 1"), ("postgresql.auto.conf", auto)]);
        let (pgdata, conf) = (folder.path(), folder.path().join("postgresql.conf"));
        write(pgdata, &settings(&[("primary_conninfo", "host=new"), ("port", "2")]))?;
        let lost: Vec<_> = overridden(&conf, pgdata)?.into_iter().map(|it| it.name).collect();
        assert_eq!(lost, ["port", "primary_conninfo"]);
        adopt_copy(pgdata)?;
        adopt_copy(pgdata)?;
        assert_eq!(overridden(&conf, pgdata)?, []);
        let text = |name: &str| fs::read_to_string(pgdata.join(name)).unwrap_or_default();
        assert_eq!(text("postgresql.conf"), "port = 1\ninclude_if_exists 'pgwarm.conf'\n");
        assert_eq!(text(AUTO), "# by ALTER SYSTEM\nwork_mem = '2MB'\n");
        assert_eq!(text(AUTO_BEFORE), auto);
        Ok(())
    }

    #[test]
    fn one_signal_at_a_time() -> Result<(), OwnSettingsError> {
        let folder = directory(&[]);
        assert_eq!(signal(folder.path())?, None);
        put_signal(folder.path(), Signal::Recovery)?;
        assert_eq!(signal(folder.path())?, Some(Signal::Recovery));
        put_signal(folder.path(), Signal::Standby)?;
        assert!(!folder.path().join("recovery.signal").exists());
        remove_signals(folder.path())?;
        assert_eq!(signal(folder.path())?, None);
        Ok(())
    }

    #[test]
    fn the_include_line_is_one_the_server_reads() {
        let line = include_line(Path::new("/srv/it's"));
        assert_eq!(line, "include_if_exists '/srv/it''s/pgwarm.conf'");
    }
}
