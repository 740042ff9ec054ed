//! Looks at the names in an archive: one listing a folder, the histories and the descriptions of the backups read.
//!
//! Memory grows with the number of folders and of holes, not with the number of segments. Contents are for
//! [`super::verify`].

use std::io::Read;

use super::ArchiveError;
use super::backups::{self, Described};
use super::continuity::{Added, BackupNeed, Inventory};
use super::layout;
use super::places::Archive;
use crate::store::{Encoding, Entry, EntryKind, StoreError, StorePath};
use crate::wal::timeline::TimelineHistory;
use crate::wal::{TimelineId, WalName};

/// No history file is larger, in bytes: a line for each of a thousand timelines.
const HISTORY_MAX: u64 = 1 << 20;

/// What the names in an archive tell.
#[derive(Debug)]
pub struct Survey {
    /// What is there.
    pub inventory: Inventory,
    /// The folders of segments, in order.
    pub folders: Vec<Folder>,
    /// Names that are there in two encodings.
    pub twins: Vec<WalName>,
    /// What does not belong where it is, as a path in the archive.
    pub strangers: Vec<String>,
    /// Histories that cannot be read.
    pub damaged: Vec<Damage>,
    /// The base backups.
    pub backups: Vec<Described>,
}

/// A folder of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Its name, the first sixteen digits of its segments.
    pub name: String,
    /// How many files of ours it holds.
    pub files: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
}

/// A stored file whose content is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub name: WalName,
    /// Its path in the archive.
    pub path: String,
    /// What is wrong.
    pub detail: String,
}

/// Lists the whole archive.
pub fn survey(archive: &Archive) -> Result<Survey, ArchiveError> {
    let mut survey = Survey {
        inventory: Inventory::new(archive.identity.segment_size),
        folders: Vec::new(),
        twins: Vec::new(),
        strangers: Vec::new(),
        damaged: Vec::new(),
        backups: backups::all(archive)?,
    };
    let known = survey.backups.iter().filter_map(|backup| Some((backup.label.clone(), backup.start?)));
    survey.inventory.backups = known.map(|(label, start)| BackupNeed { label, start }).collect();
    let wal: StorePath = layout::WAL.parse().map_err(StoreError::from)?;
    let mut entries = archive.store.list(&wal)?.unwrap_or_default();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        match entry.kind {
            EntryKind::Folder => survey.folder(archive, &wal, entry.name)?,
            _ => survey.file_beside(archive, &entry)?,
        }
    }
    Ok(survey)
}

/// The files of ours in a folder of segments, by name. What the folder holds besides comes second.
pub fn wal_files(entries: Vec<Entry>, folder: &str) -> (Vec<(WalName, Entry)>, Vec<String>) {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let name = Encoding::split(&entry.name).0.parse::<WalName>().ok();
        let here = name.filter(|name| name.segment().is_some_and(|segment| segment.folder() == folder));
        match here.filter(|_| entry.kind == EntryKind::File) {
            Some(name) => ours.push((name, entry)),
            None => others.push(entry.name),
        }
    }
    ours.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    (ours, others)
}

impl Survey {
    fn folder(&mut self, archive: &Archive, wal: &StorePath, name: String) -> Result<(), ArchiveError> {
        let path = wal.join(&name).map_err(StoreError::from)?;
        // A clean-up may remove a folder between two listings.
        let entries = archive.store.list(&path)?.unwrap_or_default();
        let (ours, others) = wal_files(entries, &name);
        self.strangers.extend(others.into_iter().map(|other| format!("{path}/{other}")));
        let mut folder = Folder { name, files: 0, bytes: 0 };
        for (name, entry) in ours {
            match self.inventory.add(name, entry.size) {
                Added::New => {}
                Added::Again => self.twins.push(name),
                Added::NoSegment => {
                    self.strangers.push(format!("{path}/{}", entry.name));
                    continue;
                }
            }
            folder.files += 1;
            folder.bytes += entry.size;
        }
        self.folders.push(folder);
        Ok(())
    }

    fn file_beside(&mut self, archive: &Archive, entry: &Entry) -> Result<(), ArchiveError> {
        match entry.name.parse() {
            Ok(WalName::History(timeline)) if entry.kind == EntryKind::File => self.history(archive, timeline),
            _ => {
                self.strangers.push(format!("{}/{}", layout::WAL, entry.name));
                Ok(())
            }
        }
    }

    fn history(&mut self, archive: &Archive, timeline: TimelineId) -> Result<(), ArchiveError> {
        let path = layout::history(timeline);
        let Some(file) = archive.store.open(&path)? else { return Ok(()) };
        let mut text = Vec::new();
        let read = file.take(HISTORY_MAX).read_to_end(&mut text);
        read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?;
        match TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)) {
            Ok(history) => {
                self.inventory.histories.insert(timeline, history);
            }
            Err(error) => self.damaged.push(Damage {
                name: WalName::History(timeline),
                path: path.to_string(),
                detail: error.to_string(),
            }),
        }
        Ok(())
    }
}
