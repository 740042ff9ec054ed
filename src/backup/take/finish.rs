//! The end of a backup: what PostgreSQL wrote about it, the index, and the description that makes it one.

use chrono::{DateTime, Local, SecondsFormat, Utc};

use super::super::catalog::{
    self, CLAIM, DESCRIPTION, DamagedPages, Description, FORMAT, INDEX, Index, Kind, RESUME, StoredFile,
};
use super::super::copy::plain;
use super::super::session::Stopped;
use super::super::{BackupError, manifest};
use super::{Copied, Run, publish};
use crate::wal::SegmentName;

impl Run<'_> {
    /// Writes what is PostgreSQL's, the index, and last the description.
    pub fn finish(
        &self,
        copied: Copied,
        stopped: &Stopped,
        range: manifest::WalRange,
        started: DateTime<Local>,
        role: &str,
    ) -> Result<Description, BackupError> {
        self.store("backup_label", stopped.label.clone().into_bytes())?;
        if !stopped.map.is_empty() {
            self.store("tablespace_map", stopped.map.clone().into_bytes())?;
        }
        let manifest = self.manifest(&copied.index, stopped, range);
        let manifest_sha256 = catalog::sha256_hex(manifest.as_bytes());
        self.store(manifest::NAME, manifest.into_bytes())?;
        let index = catalog::to_json(&copied.index);
        let index_sha256 = catalog::sha256_hex(&index);
        self.store(INDEX, index)?;
        let (first, last) = self.segments(range);
        let name = |number| SegmentName::new(range.timeline, number, self.control.segment_size);
        let files = || copied.index.files();
        let damaged = files().filter(|file| !file.damaged.is_empty());
        let description = Description {
            format: FORMAT,
            label: self.label.clone(),
            kind: if self.parent.is_some() { Kind::Incremental } else { Kind::Full },
            parent: self.parent.map(|parent| parent.label.clone()),
            start_lsn: range.start,
            stop_lsn: range.end,
            start_segment: name(first),
            stop_segment: name(last),
            timeline: range.timeline,
            started: started.to_rfc3339_opts(SecondsFormat::Micros, false),
            stopped: Local::now().to_rfc3339_opts(SecondsFormat::Micros, false),
            system_identifier: self.claim.system_identifier.clone(),
            major: self.claim.major,
            files: files().count() as u64,
            size: files().map(|file| file.size).sum(),
            stored: copied.index.objects.iter().map(|object| object.bytes).sum(),
            encoding: self.claim.encoding,
            tablespaces: copied.tree.tablespaces,
            checksums: copied.checksums,
            found_by: self.parent.map(|_| copied.found_by),
            damaged_pages: damaged
                .map(|file| DamagedPages { path: file.path.clone(), blocks: file.damaged.clone() })
                .collect(),
            node: self.claim.node.clone(),
            role: role.to_owned(),
            manifest_sha256,
            index_sha256,
            annotations: self.request.annotations.clone(),
            keep: self.request.keep,
            verified: None,
            failed: None,
        };
        if let Some(parent) = self.parent {
            parent.confirm()?;
        }
        self.store(DESCRIPTION, catalog::to_json(&description))?;
        for name in [RESUME, CLAIM] {
            self.archive.store.remove(&self.label.path(name)?)?;
        }
        Ok(description)
    }

    /// The manifest: every file by its path, and backup_label, which the restored directory holds too.
    fn manifest(&self, index: &Index, stopped: &Stopped, range: manifest::WalRange) -> String {
        let seconds = |nanoseconds: i64| u64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0);
        let entry =
            |file: &StoredFile| manifest::Entry::new(&file.path, file.size, seconds(file.stamp.modified), file.crc);
        let mut entries: Vec<_> = index.files().map(entry).collect();
        let label = stopped.label.as_bytes();
        let now = u64::try_from(Utc::now().timestamp()).unwrap_or(0);
        entries.push(manifest::Entry::new("backup_label", label.len() as u64, now, crc32c::crc32c(label)));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        manifest::render(&entries, range, self.control.system_id, self.claim.major)
    }

    /// Stores a small file of the backup, plainly.
    fn store(&self, name: &str, bytes: Vec<u8>) -> Result<(), BackupError> {
        publish(self.archive, &self.label.path(name)?, &plain(bytes))
    }
}
