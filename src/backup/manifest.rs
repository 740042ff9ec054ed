//! PostgreSQL's `backup_manifest`: what `pg_verifybackup` compares a data directory with.
//!
//! Version 1, and version 2 with the system identifier from PostgreSQL 17 on. The last line holds the SHA-256 of
//! everything before it. Times are GMT. Only what we write is read back.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::wal::{Lsn, SystemId, TimelineId};

/// The name of the file.
pub const NAME: &str = "backup_manifest";

/// The first major version that writes version 2.
const SYSTEM_IDENTIFIER_SINCE: u32 = 17;

/// One file of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Relative to the data directory; below `pg_tblspc/<oid>` for tablespaces.
    #[serde(rename = "Path")]
    pub path: String,
    /// In bytes.
    #[serde(rename = "Size")]
    pub size: u64,
    /// When it was last written, GMT.
    #[serde(rename = "Last-Modified")]
    pub modified: String,
    /// Always `CRC32C` here.
    #[serde(rename = "Checksum-Algorithm")]
    pub algorithm: String,
    /// In hex, in the order of the bytes in memory.
    #[serde(rename = "Checksum")]
    pub checksum: String,
}

/// The WAL that a server needs before the data are consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where recovery begins.
    pub start: Lsn,
    /// Where the data are consistent.
    pub end: Lsn,
}

impl Entry {
    /// An entry; `modified` is in seconds since 1970.
    pub fn new(path: &str, size: u64, modified: u64, crc: u32) -> Entry {
        let time = DateTime::<Utc>::from_timestamp(modified.cast_signed(), 0).unwrap_or_default();
        Entry {
            path: path.to_owned(),
            size,
            modified: time.format("%Y-%m-%d %H:%M:%S GMT").to_string(),
            algorithm: "CRC32C".to_owned(),
            checksum: hex(crc),
        }
    }
}

/// A CRC-32C as PostgreSQL writes it: the bytes as they lie in memory.
pub fn hex(crc: u32) -> String {
    crc.to_ne_bytes().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The text of the manifest.
pub fn render(entries: &[Entry], range: WalRange, system: SystemId, major: u32) -> String {
    let mut text = String::from("{ \"PostgreSQL-Backup-Manifest-Version\": ");
    if major >= SYSTEM_IDENTIFIER_SINCE {
        let _ = write!(text, "2,\n\"System-Identifier\": {system},\n");
    } else {
        text.push_str("1,\n");
    }
    text.push_str("\"Files\": [");
    for (at, entry) in entries.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let path = serde_json::to_string(&entry.path).expect("because text has no reason not to become JSON");
        let _ = write!(
            text,
            "{comma}\n{{ \"Path\": {path}, \"Size\": {}, \"Last-Modified\": \"{}\", \"Checksum-Algorithm\": \"{}\", \
             \"Checksum\": \"{}\" }}",
            entry.size, entry.modified, entry.algorithm, entry.checksum
        );
    }
    let _ = write!(
        text,
        "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        range.timeline.0, range.start, range.end
    );
    let sum = checksum(&text);
    let _ = writeln!(text, "\"Manifest-Checksum\": \"{sum}\"}}");
    text
}

/// Reads the files of a manifest; an error where it is not whole.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(rename = "Files")]
        files: Vec<Entry>,
        #[serde(rename = "Manifest-Checksum")]
        checksum: String,
    }
    let whole: Whole = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let body = text.rfind("\"Manifest-Checksum\"").map(|at| &text[..at]).unwrap_or_default();
    if checksum(body) == whole.checksum { Ok(whole.files) } else { Err("its own checksum is wrong".to_owned()) }
}

/// Reads which WAL a manifest says that its files need; an error where that lies on more than one timeline.
pub fn range(text: &str) -> Result<WalRange, String> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(rename = "WAL-Ranges")]
        ranges: Vec<Range>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Range {
        timeline: u32,
        #[serde(rename = "Start-LSN")]
        start: String,
        #[serde(rename = "End-LSN")]
        end: String,
    }
    let whole: Whole = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let [range] = &whole.ranges[..] else {
        return Err(format!("it needs WAL of {} timelines", whole.ranges.len()));
    };
    let lsn = |text: &str| text.parse::<Lsn>().map_err(|error| error.to_string());
    Ok(WalRange { timeline: TimelineId(range.timeline), start: lsn(&range.start)?, end: lsn(&range.end)? })
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(major: u32) -> (String, Vec<Entry>) {
        let entries =
            vec![Entry::new("PG_VERSION", 3, 1_700_000_000, 0x0403_0201), Entry::new("a \"b\"", 0, 1_700_000_001, 0)];
        let range = WalRange { timeline: TimelineId(1), start: Lsn(0x28), end: Lsn(0x100) };
        (render(&entries, range, SystemId(7), major), entries)
    }

    #[test]
    fn a_manifest_is_read_back_and_damage_is_seen() {
        for major in [15, 17] {
            let (text, entries) = sample(major);
            assert_eq!(parse(&text), Ok(entries));
            assert!(parse(&text.replace("\"Size\": 3", "\"Size\": 4")).is_err());
            assert_eq!(text.contains("System-Identifier"), major >= 17);
        }
    }

    #[test]
    fn times_are_gmt_and_checksums_are_bytes_in_memory() {
        let (_, entries) = sample(15);
        assert_eq!(entries[0].modified, "2023-11-14 22:13:20 GMT");
        if cfg!(target_endian = "little") {
            assert_eq!(entries[0].checksum, "01020304");
        }
    }
}
