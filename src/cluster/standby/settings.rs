//! Which of PostgreSQL's settings make a server the standby that was asked for. Pure; they go into our own file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::archive::copies::quote;
use crate::config::{Config, StandbyMode};

/// What ends a recovery at a point in time.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn", "recovery_target_name"];

/// How PostgreSQL calls our programs on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Commands {
    /// `restore_command`; none: the configuration names no archive to restore from.
    pub restore: Option<String>,
    /// `archive_cleanup_command`; none: this node holds no archive.
    pub cleanup: Option<String>,
    /// `archive_command`, for the day of a promotion; none: somebody else archives.
    pub archive: Option<String>,
}

impl Commands {
    /// The command lines of the programs in a folder for what this configuration restores, keeps and ships.
    pub fn of(programs: &Path, arguments: &[OsString], config: &Config) -> Commands {
        let restores = !config.places(&config.restore.from).is_empty();
        let ships = !config.places(&config.archive.to).is_empty();
        Commands::new(programs, arguments, restores, config.own().archive.is_some(), ships)
    }

    /// The command lines of the programs in a folder, with these arguments for the configuration. `%r` is left out of
    /// the restore command: nothing here needs it, and `pg_rewind` refuses a command that has it.
    pub fn new(programs: &Path, arguments: &[OsString], restores: bool, cleans: bool, ships: bool) -> Commands {
        let call = |program: &str, rest: &str| {
            let words = arguments.iter().map(|word| word.to_string_lossy().into_owned());
            let words: Vec<String> =
                std::iter::once(programs.join(program).to_string_lossy().into_owned()).chain(words).collect();
            let line: Vec<String> = words.iter().map(|word| quote(word).replace('%', "%%")).collect();
            format!("{} {rest}", line.join(" "))
        };
        Commands {
            restore: restores.then(|| call("restore-wal", "%f %p")),
            cleanup: (restores && cleans).then(|| call("restore-wal", "--cleanup %r")),
            archive: ships.then(|| call("archive-wal", "%p")),
        }
    }
}

/// What a standby is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Its kind.
    pub mode: StandbyMode,
    /// `primary_conninfo`, where it streams.
    pub upstream: Option<&'a str>,
    /// `primary_slot_name`, where it streams.
    pub slot: Option<&'a str>,
    /// `recovery_min_apply_delay`
    pub delay: Duration,
    /// How our programs are called.
    pub commands: &'a Commands,
}

/// Every setting that we make. What is not wanted is set to nothing, for a copy brings along the settings of the server
/// that it was taken from.
pub fn recovery(wanted: &Wanted<'_>) -> BTreeMap<String, String> {
    let streams = wanted.mode.streams();
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let mut settings = BTreeMap::from([
        ("primary_conninfo", text(wanted.upstream.filter(|_| streams))),
        ("primary_slot_name", text(wanted.slot.filter(|_| streams))),
        ("restore_command", text(wanted.commands.restore.as_deref())),
        ("archive_cleanup_command", text(wanted.commands.cleanup.as_deref())),
        ("recovery_min_apply_delay", format!("{}ms", wanted.delay.as_millis())),
        ("recovery_target_timeline", "latest".to_owned()),
        ("hot_standby", if wanted.mode == StandbyMode::Warm { "off" } else { "on" }.to_owned()),
    ]);
    // A target that an earlier recovery left behind would end this one.
    settings.extend(TARGETS.map(|target| (target, String::new())));
    if let Some(archive) = &wanted.commands.archive {
        settings.insert("archive_mode", "on".to_owned());
        settings.insert("archive_command", archive.clone());
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The same settings with another server to stream from; everything else stays.
pub fn follow(mut settings: BTreeMap<String, String>, upstream: &str, slot: Option<&str>) -> BTreeMap<String, String> {
    settings.insert("primary_conninfo".to_owned(), upstream.to_owned());
    settings.insert("primary_slot_name".to_owned(), slot.unwrap_or_default().to_owned());
    settings.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Commands {
        let arguments = ["--config".into(), "/etc/50%/it's.ini".into()];
        Commands::new(Path::new("/usr/bin"), &arguments, true, true, true)
    }

    #[test]
    fn command_lines_survive_the_server_and_the_shell() {
        let commands = commands();
        let restore = commands.restore.as_deref();
        assert_eq!(restore, Some(r"/usr/bin/restore-wal --config '/etc/50%%/it'\''s.ini' %f %p"));
        assert!(commands.cleanup.is_some_and(|line| line.ends_with("--cleanup %r")));
        let none = Commands::new(Path::new("/usr/bin"), &[], false, true, false);
        assert_eq!(none, Commands::default());
    }

    #[test]
    fn each_kind_has_its_settings_and_no_others_remain() {
        let commands = commands();
        let made = |mode| {
            let (upstream, slot) = (Some("host=db1"), Some("pgwarm_db2"));
            recovery(&Wanted { mode, upstream, slot, delay: Duration::from_secs(60), commands: &commands })
        };
        let streaming = made(StandbyMode::Streaming);
        assert_eq!((&*streaming["primary_conninfo"], &*streaming["primary_slot_name"]), ("host=db1", "pgwarm_db2"));
        // Shipping stays behind the stream.
        assert!(streaming["restore_command"].contains("restore-wal"));
        assert_eq!(streaming["recovery_min_apply_delay"], "60000ms");
        for mode in [StandbyMode::Hot, StandbyMode::Warm, StandbyMode::Cold] {
            let settings = made(mode);
            assert_eq!((&*settings["primary_conninfo"], &*settings["primary_slot_name"]), ("", ""), "{mode}");
            assert_eq!(settings["hot_standby"] == "off", mode == StandbyMode::Warm);
        }
        let moved = follow(streaming.clone(), "host=db3", None);
        assert_eq!((&*moved["primary_conninfo"], &*moved["primary_slot_name"]), ("host=db3", ""));
        assert_eq!(moved["recovery_min_apply_delay"], "60000ms");
    }
}
