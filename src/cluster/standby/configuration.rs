//! The two configuration sets of a node: one for the standby, one for the day it takes over (PITRTools: `pg_conf`,
//! `pg_conf_failover`).
//!
//! A set is a directory of the operator's with `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf`, or some of them.
//! Installing one replaces files of our own in the data directory (`pgwarm.set.conf`, `pgwarm.hba.conf`,
//! `pgwarm.ident.conf`), never anybody else's; our settings file includes the first and names the others, always by the
//! same names, so that a reload is enough to change from one set to the other. With `conf_mode = reference` our
//! `pgwarm.set.conf` includes the operator's file instead of holding a copy; the other two are copied all the same,
//! since the server takes another path for them only at a start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::StandbyError;
use crate::config::{ConfMode, Config};
use crate::postgres::own_settings::{self, SET_FILE};
use crate::postgres::settings::Settings;
use crate::system::durable;

/// The files of a set: its name there, our name for it, and the setting that names it.
const FILES: [(&str, &str, Option<&str>); 3] = [
    ("postgresql.conf", SET_FILE, None),
    ("pg_hba.conf", "pgwarm.hba.conf", Some("hba_file")),
    ("pg_ident.conf", "pgwarm.ident.conf", Some("ident_file")),
];

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Holds while the node is a standby.
    Standby,
    /// Holds once it has taken over.
    Failover,
}

impl Set {
    fn option(self) -> &'static str {
        match self {
            Set::Standby => "standby.conf_standby",
            Set::Failover => "standby.conf_failover",
        }
    }
}

/// A set that was read and can be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationSet {
    folder: PathBuf,
    mode: ConfMode,
    /// What is there, by our names.
    files: BTreeMap<&'static str, Vec<u8>>,
}

/// The set of this node; none where the configuration names none. Reads all of it, so that a mistake in it is found
/// before anything depends on it.
pub fn configuration_set(config: &Config, set: Set) -> Result<Option<ConfigurationSet>, StandbyError> {
    let (own, other) = match set {
        Set::Standby => (&config.standby.conf_standby, &config.standby.conf_failover),
        Set::Failover => (&config.standby.conf_failover, &config.standby.conf_standby),
    };
    let (Some(folder), Some(other)) = (own, other) else { return Ok(None) };
    let mut files = BTreeMap::new();
    for (theirs, ours, _) in FILES {
        let path = folder.join(theirs);
        match fs::read(&path) {
            Ok(bytes) => _ = files.insert(ours, bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if other.join(theirs).exists() {
                    return Err(StandbyError::refused(
                        format!("the configuration set '{}' has no {theirs}, and the other one has", folder.display()),
                        format!(
                            "Put one into each: what one set says must be said anew by the other ({}).",
                            set.option()
                        ),
                    ));
                }
            }
            Err(error) => return Err(StandbyError::io("read", &path)(error)),
        }
    }
    if files.is_empty() {
        return Err(StandbyError::refused(
            format!("there is no configuration set in '{}'", folder.display()),
            format!("Put postgresql.conf, pg_hba.conf or pg_ident.conf there, or take {} out.", set.option()),
        ));
    }
    if files.contains_key(SET_FILE) {
        Settings::read(&folder.join("postgresql.conf"), Path::new("/nonexistent"))?;
    }
    Ok(Some(ConfigurationSet { folder: folder.clone(), mode: config.standby.conf_mode, files }))
}

impl ConfigurationSet {
    /// The directory it came from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What our settings file must say for it to hold; `pgdata` is where the server finds the files.
    pub fn settings(&self, pgdata: &Path) -> BTreeMap<String, String> {
        let named = FILES.iter().filter(|(_, ours, _)| self.files.contains_key(ours));
        let named = named.filter_map(|(_, ours, setting)| Some(((*setting)?, pgdata.join(ours))));
        named.map(|(setting, path)| (setting.to_owned(), path.to_string_lossy().into_owned())).collect()
    }

    /// Puts it in force in a data directory: each file is replaced as a whole, durably. Our settings file must hold
    /// [`ConfigurationSet::settings`]; a running server must be told to reload. May be repeated.
    pub fn install(&self, pgdata: &Path) -> Result<(), StandbyError> {
        for (_, ours, _) in FILES {
            let path = pgdata.join(ours);
            match self.files.get(ours) {
                Some(bytes) => durable::replace(&path, &self.content(ours, bytes)),
                None => remove(&path),
            }
            .map_err(StandbyError::io("write", &path))?;
        }
        durable::sync_directory(pgdata).map_err(StandbyError::io("make durable", pgdata))
    }

    fn content(&self, ours: &str, bytes: &[u8]) -> Vec<u8> {
        match self.mode {
            ConfMode::Reference if ours == SET_FILE => {
                own_settings::line("include", &self.folder.join("postgresql.conf").to_string_lossy()).into_bytes()
            }
            _ => bytes.to_vec(),
        }
    }
}

/// Removes the files of a set that a copy brought along from another node.
pub fn uninstall(pgdata: &Path) -> Result<(), StandbyError> {
    for (_, ours, _) in FILES {
        let path = pgdata.join(ours);
        remove(&path).map_err(StandbyError::io("remove", &path))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(folder: &Path, mode: ConfMode, files: &[(&'static str, &str)]) -> ConfigurationSet {
        let files = files.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect();
        ConfigurationSet { folder: folder.to_owned(), mode, files }
    }

    #[test]
    fn the_sets_take_each_others_place_under_the_same_names() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let pgdata = folder.path();
        let standby = set(
            Path::new("/etc/a"),
            ConfMode::Copy,
            &[(SET_FILE, "port = 1\n"), ("pgwarm.hba.conf", "local all all trust\n")],
        );
        standby.install(pgdata)?;
        let text = |name: &str| fs::read_to_string(pgdata.join(name)).ok();
        assert_eq!(text(SET_FILE).as_deref(), Some("port = 1\n"));
        assert_eq!(text("pgwarm.hba.conf").as_deref(), Some("local all all trust\n"));
        let failover = set(Path::new("/etc/it's"), ConfMode::Reference, &[(SET_FILE, "port = 2\n")]);
        failover.install(pgdata)?;
        assert_eq!(text(SET_FILE).as_deref(), Some("include = '/etc/it''s/postgresql.conf'\n"));
        assert_eq!(text("pgwarm.hba.conf"), None);
        let named = standby.settings(Path::new("/data"));
        assert_eq!(named, BTreeMap::from([("hba_file".to_owned(), "/data/pgwarm.hba.conf".to_owned())]));
        assert!(failover.settings(Path::new("/data")).is_empty());
        uninstall(pgdata)?;
        assert_eq!(text(SET_FILE), None);
        Ok(())
    }
}
