//! How backups lie in an archive: `backup/<label>/`, and what stands in each folder.
//!
//! `files/<path>.zst`, `tblspc/<oid>/<path>.zst` and `bundle/<n>.tar.zst` hold whole files, `blocks/<path>.zst` the
//! changed blocks of one ([`super::runs`]), `sums/<path>` what the next backup compares with ([`super::blocks`]).
//! `index.json` says which file is where, `backup_manifest`, `backup_label` and `tablespace_map` are PostgreSQL's own,
//! and `backup.json`, written last, makes it a backup. A folder without it is unfinished: never used, resumed by the
//! node that began it, or removed.

mod index;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::index::{Index, Object, StoredFile};
use super::BackupError;
use super::plan::Tablespace;
use crate::archive::places::Archive;
use crate::store::path::ParsePathError;
use crate::store::{Encoding, EntryKind, StoreError, StorePath};
use crate::wal::{Lsn, SegmentName, TimelineId};

/// The folder of all backups, in an archive.
pub const FOLDER: &str = "backup";

/// What makes a folder a backup.
pub const DESCRIPTION: &str = "backup.json";

/// Who began a backup; written first, by which one run gets the label.
pub const CLAIM: &str = "claim.json";

/// What an unfinished backup holds so far; a cache.
pub const RESUME: &str = "resume.json";

/// Which file is where.
pub const INDEX: &str = "index.json";

/// The version of this layout.
pub const FORMAT: u32 = 1;

/// No description is larger, in bytes.
const DESCRIPTION_MAX: u64 = 1 << 20;

/// No claim is larger, in bytes.
const CLAIM_MAX: u64 = 1 << 16;

/// The name of a backup: when it began, in UTC, and what it is: `20261121T140312F`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// A text that names no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no label of a backup; one looks like '20261121T140312F'")]
pub struct ParseLabelError(pub String);

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Everything.
    Full,
    /// What differs from its parent.
    Incremental,
}

/// What a backup says of itself: `backup.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The version of the layout; a higher one than [`FORMAT`] is refused.
    pub format: u32,
    /// Its name.
    pub label: Label,
    /// What it holds.
    pub kind: Kind,
    /// The backup it builds on; none for a full one.
    pub parent: Option<Label>,
    /// Where recovery begins (START WAL LOCATION).
    #[serde(with = "as_text")]
    pub start_lsn: Lsn,
    /// Where the data are consistent.
    #[serde(with = "as_text")]
    pub stop_lsn: Lsn,
    /// The first segment that recovery needs.
    pub start_segment: SegmentName,
    /// The last segment that recovery needs to be consistent.
    pub stop_segment: SegmentName,
    /// The timeline of both.
    pub timeline: TimelineId,
    /// When it began, with offset.
    pub started: String,
    /// When it was whole, with offset.
    pub stopped: String,
    /// PostgreSQL's system identifier, as text.
    pub system_identifier: String,
    /// The server's major version.
    pub major: u32,
    /// How many files.
    pub files: u64,
    /// What they hold, in bytes.
    pub size: u64,
    /// What this backup takes in the archive, in bytes, without those it builds on.
    pub stored: u64,
    /// How they are stored.
    pub encoding: Encoding,
    /// Where tablespaces were.
    pub tablespaces: Vec<Tablespace>,
    /// True where pages carry checksums, and that of every page that was read was looked at.
    pub checksums: bool,
    /// How it was found what differs from its parent; none for a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_by: Option<FoundBy>,
    /// Pages whose checksum was wrong. Not empty: the backup is damaged, as the server's data are.
    pub damaged_pages: Vec<DamagedPages>,
    /// The node it was taken on.
    pub node: String,
    /// `primary` or `standby`.
    pub role: String,
    /// The SHA-256 of `backup_manifest` and of `index.json`, in hex.
    pub manifest_sha256: String,
    /// See above.
    pub index_sha256: String,
    /// What people wrote about it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// True: expire leaves it alone.
    #[serde(default)]
    pub keep: bool,
    /// When it was last verified and found good, with offset.
    #[serde(default)]
    pub verified: Option<String>,
    /// When it was last verified and found damaged, with offset; it is not used unasked then.
    #[serde(default)]
    pub failed: Option<String>,
}

/// How it was found what differs from the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    /// Every file that may have been written was read and compared.
    Comparing,
    /// Of main forks only those blocks were read and compared that the server's WAL summaries name.
    Summaries,
}

/// The pages of one file whose checksum is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPages {
    /// The file, relative to the data directory.
    pub path: String,
    /// Block numbers, counted over all files of the relation's fork.
    pub blocks: Vec<u32>,
}

/// Who took a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node.
    pub node: String,
    /// The server's system identifier, as text.
    pub system_identifier: String,
    /// The data directory.
    pub pgdata: String,
    /// The server's major version.
    pub major: u32,
    /// How files are stored.
    pub encoding: Encoding,
    /// The backup that it builds on; none for a full one.
    #[serde(default)]
    pub parent: Option<Label>,
    /// When, with offset.
    pub at: String,
}

/// A folder below [`FOLDER`].
#[derive(Debug)]
pub enum Found {
    /// A backup.
    Whole(Box<Description>),
    /// A folder without a description.
    Unfinished(Label),
    /// A description that cannot be understood, and why.
    Unreadable(Label, String),
}

impl Label {
    /// The label of a backup that begins now.
    pub fn new(kind: Kind, at: DateTime<Utc>) -> Label {
        let letter = match kind {
            Kind::Full => 'F',
            Kind::Incremental => 'I',
        };
        Label(format!("{}{letter}", at.format("%Y%m%dT%H%M%S")))
    }

    /// When it began, to the second.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        NaiveDateTime::parse_from_str(&self.0[..self.0.len() - 1], "%Y%m%dT%H%M%S").ok().map(|time| time.and_utc())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for a full backup.
    pub fn is_full(&self) -> bool {
        self.0.ends_with('F')
    }

    /// Its folder in an archive.
    pub fn folder(&self) -> StorePath {
        format!("{FOLDER}/{}", self.0).parse().expect("because labels are plain")
    }

    /// The path of a file of the backup.
    pub fn path(&self, name: &str) -> Result<StorePath, ParsePathError> {
        format!("{FOLDER}/{}/{name}", self.0).parse()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Label {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, ParseLabelError> {
        let fits = |(at, byte): (usize, u8)| match at {
            8 => byte == b'T',
            15 => matches!(byte, b'F' | b'I'),
            _ => byte.is_ascii_digit(),
        };
        if text.len() == 16 && text.bytes().enumerate().all(fits) {
            Ok(Label(text.to_owned()))
        } else {
            Err(ParseLabelError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Label {
    type Error = ParseLabelError;

    fn try_from(text: String) -> Result<Self, ParseLabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0
    }
}

impl Found {
    /// Its name.
    pub fn label(&self) -> &Label {
        match self {
            Found::Whole(description) => &description.label,
            Found::Unfinished(label) | Found::Unreadable(label, _) => label,
        }
    }
}

/// Every folder of a backup, oldest first. What has no label for a name is not ours and is left out.
pub fn list(archive: &Archive) -> Result<Vec<Found>, BackupError> {
    labels(archive)?.into_iter().map(|label| look(archive, label)).collect()
}

/// The names of these folders, oldest first.
pub fn labels(archive: &Archive) -> Result<Vec<Label>, BackupError> {
    let folder: StorePath = FOLDER.parse()?;
    let entries = archive.store.list(&folder)?.unwrap_or_default();
    let folders = entries.into_iter().filter(|entry| entry.kind == EntryKind::Folder);
    let mut labels: Vec<Label> = folders.filter_map(|entry| entry.name.parse().ok()).collect();
    labels.sort();
    Ok(labels)
}

/// Every whole backup, oldest first.
pub fn whole(archive: &Archive) -> Result<Vec<Description>, BackupError> {
    let found = list(archive)?.into_iter();
    Ok(found.filter_map(|found| if let Found::Whole(it) = found { Some(*it) } else { None }).collect())
}

/// The backup of that name; an error where there is none that can be used.
pub fn get(archive: &Archive, label: &Label) -> Result<Description, BackupError> {
    match look(archive, label.clone())? {
        Found::Whole(description) => Ok(*description),
        Found::Unreadable(label, detail) => Err(damaged(archive, &label, detail)),
        Found::Unfinished(label) => {
            let place = archive.store.place().clone();
            match archive.store.look(&label.folder())? {
                None => Err(BackupError::NoSuchBackup { label: label.to_string(), place }),
                Some(_) => Err(BackupError::refused(
                    format!("backup '{label}' in the {place} is unfinished"),
                    "Run 'base-backup take' on the node that began it, which goes on with it, or use another one.",
                )),
            }
        }
    }
}

fn look(archive: &Archive, label: Label) -> Result<Found, BackupError> {
    let Some(bytes) = read(archive, &label, DESCRIPTION, DESCRIPTION_MAX)? else { return Ok(Found::Unfinished(label)) };
    Ok(match serde_json::from_slice::<Description>(&bytes) {
        Ok(found) if found.format > FORMAT => {
            Found::Unreadable(label, format!("its format is {}, this program knows {FORMAT}", found.format))
        }
        Ok(found) if found.label != label => Found::Unreadable(label, format!("it says that it is '{}'", found.label)),
        Ok(found) => Found::Whole(Box::new(found)),
        Err(error) => Found::Unreadable(label, format!("its {DESCRIPTION} cannot be understood: {error}")),
    })
}

/// The claim of an unfinished backup; `None` where there is none that can be understood.
pub fn claim(archive: &Archive, label: &Label) -> Result<Option<Claim>, BackupError> {
    let bytes = read(archive, label, CLAIM, CLAIM_MAX)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Reads a small file of a backup; `None` where it is absent.
pub fn read(archive: &Archive, label: &Label, name: &str, limit: u64) -> Result<Option<Vec<u8>>, BackupError> {
    let path = label.path(name)?;
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(limit).read_to_end(&mut bytes);
    read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?;
    Ok(Some(bytes))
}

/// Writes the description of a backup that is there already, with other marks.
pub fn rewrite(archive: &Archive, description: &Description) -> Result<(), BackupError> {
    Ok(archive.store.replace(&description.label.path(DESCRIPTION)?, &to_json(description))?)
}

/// Plain data as JSON for a file that people may read.
pub fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).expect("because plain data has no reason not to become JSON");
    json.push(b'\n');
    json
}

/// The index of a backup, checked against its description.
pub fn index(archive: &Archive, description: &Description) -> Result<Index, BackupError> {
    let label = &description.label;
    let wrong = |detail: &str| damaged(archive, label, format!("{INDEX} {detail}"));
    let bytes = read(archive, label, INDEX, u64::MAX)?.ok_or_else(|| wrong("is missing"))?;
    if sha256_hex(&bytes) != description.index_sha256 {
        return Err(wrong("is not what was written"));
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(&format!("cannot be understood: {error}")))
}

/// A backup of which a stored file is not what it was.
pub fn damaged(archive: &Archive, label: &Label, detail: impl Into<String>) -> BackupError {
    let place = archive.store.place().clone();
    BackupError::Damaged { label: label.to_string(), place, detail: detail.into() }
}

/// The SHA-256 of some bytes, in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a position as PostgreSQL does.
pub mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::wal::Lsn;

    /// As text.
    pub fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    /// From text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_times_and_nothing_else() {
        let at = DateTime::parse_from_rfc3339("2026-11-21T15:03:12+01:00").expect("because it is a time");
        let label = Label::new(Kind::Full, at.to_utc());
        assert_eq!(label.as_str(), "20261121T140312F");
        assert_eq!(label.time(), Some(at.to_utc()));
        assert_eq!("20261121T140312F".parse(), Ok(label));
        assert_eq!(Label::new(Kind::Incremental, at.to_utc()).as_str(), "20261121T140312I");
        for text in ["", "20261121T140312", "20261121T140312X", "20261121-140312F", "../261121T140312F"] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }
}
