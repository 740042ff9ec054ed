//! Checks of files and folders: who may read them, where they lie, how much room there is.

use std::path::Path;

use super::super::facts::{Local, LocalPath, Room, Stat, Told};
use super::super::{Finding, Level, Measure};
use super::size;
use crate::config::Check;

/// `config-mode`: the configuration decides what runs, so only its owner may write it.
pub(super) fn configuration(local: &Local) -> Vec<Finding> {
    let judge = |file: &LocalPath| {
        let subject = file.path.display().to_string();
        let stat = match present("config-mode", file, "write it with 'distribute' from another node") {
            Ok(stat) => stat,
            Err(finding) => return *finding,
        };
        if stat.mode & 0o022 != 0 {
            let message = format!("mode {:04o} lets others write it", stat.mode);
            Finding::new(Level::Critical, "config-mode", &subject, message).fix(format!("Run: chmod go-w '{subject}'."))
        } else {
            Finding::ok("config-mode", subject, format!("mode {:04o}", stat.mode))
        }
    };
    local.configuration.iter().map(judge).collect()
}

/// `key-mode`: ssh refuses a private key that others can read.
pub(super) fn keys(local: &Local) -> Vec<Finding> {
    let judge = |file: &LocalPath| {
        let subject = file.path.display().to_string();
        let stat = match present("key-mode", file, "make one with 'ssh-keygen -t ed25519'") {
            Ok(stat) => stat,
            Err(finding) => return *finding,
        };
        if stat.mode & 0o077 != 0 {
            let message = format!("mode {:04o} lets others read the key, and ssh refuses it", stat.mode);
            Finding::new(Level::Critical, "key-mode", &subject, message).fix(format!("Run: chmod 0600 '{subject}'."))
        } else {
            Finding::ok("key-mode", subject, format!("mode {:04o}", stat.mode))
        }
    };
    local.keys.iter().map(judge).collect()
}

/// `spool`: a directory of our own.
pub(super) fn spool(local: &Local) -> Finding {
    own_directory("spool", &local.spool, owner_wanted(local))
}

/// `archive-dir`: WAL holds every row, so nobody else reads it.
pub(super) fn archive(local: &Local) -> Option<Finding> {
    let archive = local.archive.as_ref()?;
    let finding = own_directory("archive-dir", &archive.root, owner_wanted(local));
    let missing = archive.root.stat.as_ref().is_ok_and(Option::is_none);
    Some(if missing {
        finding.fix("If it is on a volume of its own, mount it; a new archive is made with 'archive-wal --init'.")
    } else {
        finding
    })
}

/// Who should own our directories: whoever owns the server's, since the server calls us.
fn owner_wanted(local: &Local) -> u32 {
    match local.pgdata.as_ref().map(|pgdata| &pgdata.stat) {
        Some(Ok(Some(stat))) => stat.owner,
        _ => local.user,
    }
}

fn own_directory(check: &'static str, directory: &LocalPath, owner: u32) -> Finding {
    let subject = directory.path.display().to_string();
    let make = format!("make it with 'install -d -m 0700 -o {owner} {subject}'");
    let stat = match present(check, directory, &make) {
        Ok(stat) => stat,
        Err(finding) => return *finding,
    };
    if !stat.is_directory {
        Finding::new(Level::Critical, check, &subject, "is no directory").fix("Move it away, and make a directory.")
    } else if stat.owner != owner {
        let message = format!("belongs to user {}, but the server to user {owner}", stat.owner);
        Finding::new(Level::Critical, check, &subject, message).fix(format!("Run: chown -R {owner} '{subject}'."))
    } else if stat.mode & 0o077 != 0 {
        let message = format!("mode {:04o} lets others look into it", stat.mode);
        Finding::new(Level::Warning, check, &subject, message).fix(format!("Run: chmod 0700 '{subject}'."))
    } else {
        Finding::ok(check, subject, format!("mode {:04o}, owner {}", stat.mode, stat.owner))
    }
}

/// What is there, or the finding that says why not. Boxed, since a finding is large and the good case is not.
fn present<'a>(check: &'static str, file: &'a LocalPath, make: &str) -> Result<&'a Stat, Box<Finding>> {
    let subject = file.path.display().to_string();
    match &file.stat {
        Ok(Some(stat)) => Ok(stat),
        Ok(None) => Err(Box::new(
            Finding::new(Level::Critical, check, &subject, "does not exist").fix(format!("If it should, {make}.")),
        )),
        Err(why) => Err(Box::new(
            Finding::unknown(check, &subject, why).fix("Run this command as the user who owns the server."),
        )),
    }
}

/// `placement`: what lies inside PGDATA is copied into every base backup, lost with it, and wiped by a re-clone.
pub(super) fn placement(local: &Local) -> Vec<Finding> {
    let Some(Ok(Some(pgdata))) = local.pgdata.as_ref().map(|pgdata| &pgdata.stat) else { return Vec::new() };
    let archive = local.archive.as_ref().map(|archive| ("archive", &archive.root));
    let judge = |(what, place): (&str, &LocalPath)| {
        let resolved: &Path = match &place.stat {
            Ok(Some(stat)) => &stat.resolved,
            _ => &place.path,
        };
        let subject = place.path.display().to_string();
        if resolved.starts_with(&pgdata.resolved) {
            let message = format!("the {what} lies inside the data directory '{}'", pgdata.resolved.display());
            Finding::new(Level::Warning, "placement", subject, message)
                .fix("Move it outside, best to another volume: a backup would copy it, and a new clone would erase it.")
        } else {
            Finding::ok("placement", subject, format!("the {what} lies outside the data directory"))
        }
    };
    std::iter::once(("spool", &local.spool)).chain(archive).map(judge).collect()
}

/// `space`: room for what is archived and for what waits.
pub(super) fn space(local: &Local, limits: &Check) -> Vec<Finding> {
    let mut found = vec![room(&local.spool.path.display().to_string(), &local.spool_room, limits)];
    if let Some(archive) = &local.archive {
        found.push(room(&archive.root.path.display().to_string(), &archive.room, limits));
    }
    found
}

/// Judges the room of one place. Used for other nodes as well.
pub(super) fn room(subject: &str, room: &Told<Room>, limits: &Check) -> Finding {
    let room = match room {
        Ok(Some(room)) if room.total > 0 => room,
        Ok(_) => return Finding::unknown("space", subject, "the directory is not there"),
        Err(why) => return Finding::unknown("space", subject, why),
    };
    let percent = (room.free as f64 / room.total as f64 * 1000.0).round() / 10.0;
    let level = if percent < f64::from(limits.free_critical) {
        Level::Critical
    } else if percent < f64::from(limits.free_warning) {
        Level::Warning
    } else {
        Level::Ok
    };
    let message = format!("{percent} % free, {} of {}", size(room.free), size(room.total));
    let value = Measure::limited(percent, "%", f64::from(limits.free_warning), f64::from(limits.free_critical));
    Finding::new(level, "space", subject, message)
        .fix("Let backups and WAL expire with 'base-backup expire', or enlarge the volume; never delete WAL by hand.")
        .value(value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, healthy, level, path};
    use super::*;
    use crate::cluster::check::Facts;

    fn spoilt(spoil: impl FnOnce(&mut Local)) -> Facts {
        let mut facts = healthy();
        spoil(facts.local.as_mut().expect("because a healthy node has its own facts"));
        facts
    }

    #[test]
    fn modes_that_are_too_wide_are_found() {
        let facts = spoilt(|local| local.configuration[0] = path("/etc/pgwarm.ini", 0o664, false));
        assert_eq!(level(&facts, "config-mode"), Level::Critical);
        let facts = spoilt(|local| local.keys[0] = path("/key", 0o640, false));
        assert_eq!(level(&facts, "key-mode"), Level::Critical);
        let facts = spoilt(|local| local.spool = path("/spool", 0o750, true));
        assert_eq!(level(&facts, "spool"), Level::Warning);
    }

    #[test]
    fn a_foreign_owner_a_file_and_a_missing_directory_are_critical() {
        let foreign = spoilt(|local| {
            local.spool = path("/spool", 0o700, true);
            if let Ok(Some(stat)) = &mut local.spool.stat {
                stat.owner = 0;
            }
        });
        assert_eq!(level(&foreign, "spool"), Level::Critical);
        assert_eq!(level(&spoilt(|local| local.spool = path("/spool", 0o700, false)), "spool"), Level::Critical);
        assert_eq!(level(&spoilt(|local| local.spool.stat = Ok(None)), "spool"), Level::Critical);
    }

    #[test]
    fn a_path_that_cannot_be_looked_at_is_unknown() {
        let facts = spoilt(|local| local.spool.stat = Err("permission denied".into()));
        let finding = &found(&facts, "spool")[0];
        assert_eq!((finding.level, finding.message.as_str()), (Level::Unknown, "cannot tell: permission denied"));
    }

    #[test]
    fn a_link_into_the_data_directory_is_seen_through() {
        let facts = spoilt(|local| {
            if let Ok(Some(stat)) = &mut local.spool.stat {
                stat.resolved = "/var/lib/pgsql/data/spool".into();
            }
        });
        assert_eq!(level(&facts, "placement"), Level::Warning);
        // A sibling with the same beginning is no part of it.
        let facts = spoilt(|local| local.spool = path("/var/lib/pgsql/data-spool", 0o700, true));
        assert_eq!(level(&facts, "placement"), Level::Ok);
    }

    #[test]
    fn room_is_judged_by_its_share_and_never_guessed() {
        for (free, expected) in [(20, Level::Ok), (19, Level::Warning), (9, Level::Critical)] {
            let facts = spoilt(|local| local.spool_room = Ok(Some(Room { free, total: 100 })));
            assert_eq!(level(&facts, "space"), expected, "{free} %");
        }
        let facts = spoilt(|local| local.spool_room = Err("input/output error".into()));
        let finding = &found(&facts, "space")[0];
        assert_eq!((finding.level, finding.value), (Level::Unknown, None));
    }
}
