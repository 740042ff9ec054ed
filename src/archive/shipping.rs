//! The switch: `armed`, `refuse` or `discard`, changed without a reload and without SQL.
//!
//! A file in the spool goes before the configuration, so that a promotion can disarm a node with one rename. Discarding
//! breaks the chain of WAL; it needs a confirmation in the configuration and leaves a record that later checks show.
//! A single node's archive can be taken out, too.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use chrono::Local;
use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::spool::{Spool, remove_if_there};
use crate::config::{Archive, Shipping};
use crate::system::durable;
use crate::system::lock::{Lock, Taken};
use crate::wal::WalName;

/// What `archive.discard_confirmation` must say, to the letter.
pub const CONFIRMATION: &str = "I accept a broken WAL chain";

/// A stretch of WAL that was discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenChain {
    /// The first file discarded.
    pub first: WalName,
    /// The last file discarded.
    pub last: WalName,
    /// How many files.
    pub count: u64,
    /// When the first was discarded, with offset.
    pub since: String,
    /// When the last was discarded, with offset.
    pub until: String,
}

/// The word of a mode, as in the configuration and in the switch file.
pub fn word(mode: Shipping) -> &'static str {
    match mode {
        Shipping::Armed => "armed",
        Shipping::Refuse => "refuse",
        Shipping::Discard => "discard",
    }
}

/// What the switch says now: the file in the spool, else the configuration.
pub fn mode(spool: &Spool, configured: Shipping) -> Result<Shipping, ArchiveError> {
    let path = spool.shipping();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(configured),
        Err(error) => return Err(ArchiveError::io("read", path)(error)),
    };
    [Shipping::Armed, Shipping::Refuse, Shipping::Discard]
        .into_iter()
        .find(|mode| word(*mode) == text.trim())
        .ok_or_else(|| ArchiveError::Refused {
            reason: format!("the switch file '{}' says '{}'", path.display(), text.trim()),
            hint: "Set it with 'archive-wal --arm', '--refuse' or '--discard'.".to_owned(),
        })
}

/// Sets the switch, durably.
pub fn set(spool: &Spool, mode: Shipping, settings: &Archive) -> Result<(), ArchiveError> {
    if mode == Shipping::Discard {
        confirm(settings)?;
    }
    spool.prepare()?;
    let path = spool.shipping();
    durable::replace(&path, format!("{}\n", word(mode)).as_bytes()).map_err(ArchiveError::io("write", path))
}

/// The nodes whose archives are taken out: nothing is shipped there, nothing waits for them, and `ack` does not count
/// them. A promotion takes the old primary out, for whatever stands there is not part of the cluster until it is back.
pub fn disarmed(spool: &Spool) -> Result<BTreeSet<String>, ArchiveError> {
    let folder = spool.disarmed();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(ArchiveError::io("list", folder)(error)),
    };
    let mut nodes = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(ArchiveError::io("list", &folder))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(durable::TEMPORARY_PREFIX) {
            nodes.insert(name);
        }
    }
    Ok(nodes)
}

/// Takes the archive of a node out, durably. May be repeated.
pub fn disarm(spool: &Spool, node: &str) -> Result<(), ArchiveError> {
    let folder = spool.disarmed();
    spool.make(&folder)?;
    let path = folder.join(node);
    let now = Local::now().to_rfc3339();
    durable::replace(&path, format!("{now}\n").as_bytes()).map_err(ArchiveError::io("write", path))
}

/// Counts the archive of a node again. False where it was never taken out.
pub fn rearm(spool: &Spool, node: &str) -> Result<bool, ArchiveError> {
    let path = spool.disarmed().join(node);
    let was = remove_if_there(&path).map_err(ArchiveError::io("remove", &path))?;
    if was {
        let folder = spool.disarmed();
        durable::sync_directory(&folder).map_err(ArchiveError::io("fsync", folder))?;
    }
    Ok(was)
}

/// Refuses to discard without the confirmation.
pub fn confirm(settings: &Archive) -> Result<(), ArchiveError> {
    if settings.discard_confirmation == CONFIRMATION {
        return Ok(());
    }
    Err(ArchiveError::SwitchedOff {
        mode: "discard",
        detail: "the configuration does not confirm it, so nothing is discarded".to_owned(),
        hint: "To lose WAL on purpose, set archive.discard_confirmation = I accept a broken WAL chain; a new base backup \
               is needed afterwards.",
    })
}

/// Writes down that a file was discarded; only then may PostgreSQL be told that it is done with.
pub fn record(spool: &Spool, name: WalName) -> Result<(), ArchiveError> {
    spool.prepare()?;
    let _one_writer = take_turn(spool)?;
    let mut chains = broken_chains(spool)?;
    let now = Local::now().to_rfc3339();
    match chains.last_mut() {
        Some(open) if open.last == name => open.until = now,
        Some(open) if follows(open.last, name) => {
            // A history or a label between two segments says nothing of where the stretch ends.
            if name.holds_wal() || !open.last.holds_wal() {
                open.last = name;
            }
            open.count += 1;
            open.until = now;
        }
        _ => chains.push(BrokenChain { first: name, last: name, count: 1, since: now.clone(), until: now }),
    }
    let path = spool.broken_chain();
    let json = serde_json::to_string_pretty(&chains).expect("because plain data has no reason not to become JSON");
    durable::replace(&path, json.as_bytes()).map_err(ArchiveError::io("write", path))
}

/// One stretch holds what was discarded in one go on one timeline; a segment shipped in between begins a new one.
fn follows(last: WalName, name: WalName) -> bool {
    if last.timeline() != name.timeline() {
        return false;
    }
    match (last, name) {
        (WalName::Segment(last), WalName::Segment(name)) => {
            let ((log, number), next) = (last.position(), name.position());
            // How many segments a log id has depends on their size, so the first of the next one is taken for the next.
            next == (log, number.wrapping_add(1)) || next == (log.wrapping_add(1), 0)
        }
        _ => true,
    }
}

fn take_turn(spool: &Spool) -> Result<Lock, ArchiveError> {
    let path = spool.broken_chain().with_extension("lock");
    let deadline = crate::system::clock::Deadline::after(std::time::Duration::from_secs(5));
    loop {
        match Lock::try_take(&path).map_err(ArchiveError::io("lock", &path))? {
            Taken::Held(lock) => return Ok(lock),
            Taken::Busy { .. } if !deadline.expired() => std::thread::sleep(std::time::Duration::from_millis(20)),
            Taken::Busy { owner } => {
                return Err(ArchiveError::Refused {
                    reason: format!("the record of discarded WAL is locked by {owner}"),
                    hint: "Run the command again when that process is done.".to_owned(),
                });
            }
        }
    }
}

/// Every stretch of WAL that this node ever discarded, oldest first.
pub fn broken_chains(spool: &Spool) -> Result<Vec<BrokenChain>, ArchiveError> {
    let path: PathBuf = spool.broken_chain();
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| ArchiveError::Refused {
            reason: format!("the record of discarded WAL '{}' cannot be understood: {error}", path.display()),
            hint: "Move the file aside and keep it; it says which WAL is missing.".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ArchiveError::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_shipped_in_between_begins_a_new_stretch() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::new(folder.path());
        let names = [
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000002",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000003",
            "000000010000000000000005",
            "00000002.history",
            "000000020000000000000006",
        ];
        for name in names {
            record(&spool, name.parse().expect("because it is well formed"))?;
        }
        let found: Vec<_> = broken_chains(&spool)?
            .iter()
            .map(|chain| (chain.first.to_string(), chain.last.to_string(), chain.count))
            .collect();
        let expected = [
            ("000000010000000000000001", "000000010000000000000003", 4),
            ("000000010000000000000005", "000000010000000000000005", 1),
            ("00000002.history", "000000020000000000000006", 2),
        ];
        let expected = expected.map(|(first, last, count)| (first.to_owned(), last.to_owned(), count));
        assert_eq!(found, expected);
        Ok(())
    }
}
