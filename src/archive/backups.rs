//! What the base backups in an archive say of themselves, as far as the continuity of WAL goes.
//!
//! Reads `backup/<label>/backup.json` leniently: a field that is missing or of another form is unknown, and a backup
//! without a description is not finished. Whether a backup is whole is not judged here.

use std::io::Read;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::ArchiveError;
use super::places::Archive;
use crate::store::{EntryKind, StoreError, StorePath};
use crate::wal::{Lsn, SegmentName, TimelineId};

/// The folder of the backups, in an archive.
const FOLDER: &str = "backup";

/// No description is larger, in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// A base backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Its label.
    pub label: String,
    /// The segment in which it begins; none where its description is missing or not understood.
    pub start: Option<SegmentName>,
    /// The timeline it was taken on.
    pub timeline: Option<TimelineId>,
    /// Recovery must at least get here.
    pub stop: Option<Lsn>,
    /// When it was finished: the earliest time it can be restored to.
    pub finished: Option<DateTime<Utc>>,
}

/// Every backup in the archive, by label.
pub fn all(archive: &Archive) -> Result<Vec<Described>, ArchiveError> {
    let folder: StorePath = FOLDER.parse().map_err(StoreError::from)?;
    let mut found = Vec::new();
    for entry in archive.store.list(&folder)?.unwrap_or_default() {
        if entry.kind != EntryKind::Folder {
            continue;
        }
        let Ok(path) = folder.join(&entry.name).and_then(|label| label.join("backup.json")) else { continue };
        let value = match archive.store.open(&path)? {
            Some(file) => read(archive, &path, file)?,
            None => Value::Null,
        };
        found.push(describe(entry.name, &value));
    }
    found.sort_by(|a, b| a.label.cmp(&b.label));
    Ok(found)
}

fn read(archive: &Archive, path: &StorePath, file: Box<dyn Read + Send>) -> Result<Value, ArchiveError> {
    let mut text = Vec::new();
    let read = file.take(SIZE_MAX).read_to_end(&mut text);
    read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?;
    Ok(serde_json::from_slice(&text).unwrap_or(Value::Null))
}

fn describe(label: String, value: &Value) -> Described {
    let start: Option<SegmentName> = value["start_segment"].as_str().and_then(|name| name.parse().ok());
    let timeline = value["timeline"].as_u64().and_then(|id| u32::try_from(id).ok()).map(TimelineId);
    let first = |names: &[&str]| names.iter().map(|name| &value[*name]).find(|found| !found.is_null()).cloned();
    Described {
        label,
        timeline: timeline.or(start.map(SegmentName::timeline)),
        start,
        stop: first(&["stop_lsn", "stop"]).and_then(|stop| position(&stop)),
        finished: first(&["stopped", "stop_time"]).and_then(|time| moment(&time)),
    }
}

fn position(value: &Value) -> Option<Lsn> {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_u64().map(Lsn))
}

fn moment(value: &Value) -> Option<DateTime<Utc>> {
    let text = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let seconds = || DateTime::from_timestamp(value.as_i64()?, 0);
    text.map(|time| time.to_utc()).or_else(seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_understood_is_taken_and_the_rest_is_unknown() {
        let full = json!({
            "start_segment": "000000020000000000000005", "timeline": 2, "stop_lsn": "0/6000100",
            "stopped": "2026-03-01T12:00:00+01:00", "kind": "full",
        });
        let found = describe("a".to_owned(), &full);
        assert_eq!(found.start.map(|name| name.to_string()).as_deref(), Some("000000020000000000000005"));
        assert_eq!((found.timeline, found.stop), (Some(TimelineId(2)), Some(Lsn(0x600_0100))));
        assert_eq!(found.finished.map(|time| time.timestamp()), Some(1_772_362_800));
        let odd = describe("b".to_owned(), &json!({ "start_segment": 7, "stop_lsn": {}, "stop_time": "noon" }));
        assert_eq!((odd.start, odd.timeline, odd.stop, odd.finished), (None, None, None, None));
        assert_eq!(describe("c".to_owned(), &Value::Null).start, None);
    }
}
