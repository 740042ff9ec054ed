//! Keeps the WAL that the new primary never had: copied into the spool, durably, with a summary, before anything is
//! taken back.
//!
//! `divergent/<timeline>-<position>/` holds the segments as they are, the histories, and `summary.json`, written last:
//! a folder without it is half made, and made again. Nothing here is ever removed by us; what is in there is for a
//! person, who reads it with `pg_waldump`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::archive::spool::Spool;
use crate::archive::window::shown;
use crate::cluster::standby::StandbyError;
use crate::cluster::standby::facts::Data;
use crate::postgres::local_wal::{LocalWal, Walked};
use crate::system::durable::{self, TemporaryFile};
use crate::wal::commit::{Commits, Ended};
use crate::wal::record::{Record, RecordHeader, Visit};
use crate::wal::{Lsn, SegmentName, SegmentNumber, SystemId, TimelineHistory, TimelineId, WalName};

/// The version of the summary.
const FORMAT: u32 = 1;

/// What makes a folder complete.
const SUMMARY: &str = "summary.json";

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The version of this file.
    pub format: u32,
    /// Where it is kept.
    pub folder: PathBuf,
    /// Whose WAL it is, as text.
    #[serde(serialize_with = "shown::text")]
    pub system_identifier: SystemId,
    /// The timeline that wrote it.
    pub timeline: TimelineId,
    /// The first position that the new primary does not have.
    #[serde(serialize_with = "shown::text")]
    pub from: Lsn,
    /// Where it ends.
    #[serde(serialize_with = "shown::text")]
    pub until: Lsn,
    /// How much that is, in bytes.
    pub bytes: u64,
    /// The segments that hold it, and those before it that were never archived.
    pub segments: Vec<SegmentName>,
    /// How many transactions were committed there.
    pub transactions: u64,
    /// The first of them.
    pub first: Option<Transaction>,
    /// The last of them.
    pub last: Option<Transaction>,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// Its number.
    pub xid: u32,
    /// When it was committed, by that server's clock.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// Where its commit begins.
    #[serde(serialize_with = "shown::text")]
    pub lsn: Lsn,
}

fn time<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    shown::text(&shown::words(*time), serializer)
}

impl From<Ended> for Transaction {
    fn from(ended: Ended) -> Self {
        Transaction { xid: ended.xid, at: ended.at().into(), lsn: ended.start }
    }
}

/// Counts what was committed from a position on.
struct Beyond {
    from: Lsn,
    commits: Commits,
}

impl Visit for Beyond {
    fn wants(&self, header: &RecordHeader) -> bool {
        self.commits.wants(header)
    }

    fn visit(&mut self, record: &Record<'_>) {
        if record.start >= self.from {
            self.commits.visit(record);
        }
    }
}

/// Says what lies beyond a position, without keeping it; none where nothing does.
pub fn look(pgdata: &Path, data: &Data, from: Lsn, spool: &Spool) -> Result<Option<Summary>, StandbyError> {
    let Some(history) = &data.history else { return Ok(None) };
    let control = &data.control;
    let wal = LocalWal::new(pgdata, control, history);
    let first = from.segment(control.segment_size);
    let mut beyond = Beyond { from, commits: Commits::default() };
    let Walked { until, last } = wal.walk(first, &mut beyond)?;
    let Some(last) = last.filter(|_| until > from) else { return Ok(None) };
    let through = last.number(control.segment_size).unwrap_or(first);
    let mut segments = unarchived(&pgdata.join("pg_wal"))?;
    for number in first.0..=through.0 {
        segments.extend(wal.find(SegmentNumber(number))?.map(|(name, _)| name));
    }
    Ok(Some(Summary {
        format: FORMAT,
        folder: folder(spool, history.timeline, from),
        system_identifier: control.system_id,
        timeline: history.timeline,
        from,
        until,
        bytes: until.0 - from.0,
        segments: segments.into_iter().collect(),
        transactions: beyond.commits.count,
        first: beyond.commits.first.map(Into::into),
        last: beyond.commits.last.map(Into::into),
    }))
}

/// What the archiver was still to take: it may lie nowhere else.
fn unarchived(wal: &Path) -> Result<BTreeSet<SegmentName>, StandbyError> {
    let status = wal.join("archive_status");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&status).map_err(StandbyError::io("list", &status))? {
        let name = entry.map_err(StandbyError::io("list", &status))?.file_name().to_string_lossy().into_owned();
        let ready = name.strip_suffix(".ready").and_then(|name| name.parse().ok());
        found.extend(ready.filter(|name: &SegmentName| wal.join(name.to_string()).exists()));
    }
    Ok(found)
}

fn folder(spool: &Spool, timeline: TimelineId, from: Lsn) -> PathBuf {
    spool.root().join("divergent").join(format!("{:08X}-{:016X}", timeline.0, from.0))
}

/// Keeps it. What an earlier run has kept whole is left as it is.
pub fn keep(pgdata: &Path, data: &Data, from: Lsn, spool: &Spool) -> Result<Option<Summary>, StandbyError> {
    let Some(summary) = look(pgdata, data, from, spool)? else { return Ok(None) };
    let target = &summary.folder;
    if target.join(SUMMARY).exists() {
        return Ok(Some(summary));
    }
    room(spool, &summary, data)?;
    spool.make(target)?;
    let wal = pgdata.join("pg_wal");
    for segment in &summary.segments {
        copy(&wal, target, &segment.to_string())?;
    }
    for timeline in timelines(data.history.as_ref()) {
        let name = WalName::History(timeline).to_string();
        if wal.join(&name).exists() {
            copy(&wal, target, &name)?;
        }
    }
    let json = serde_json::to_vec_pretty(&summary).expect("because plain data has no reason not to become JSON");
    let path = target.join(SUMMARY);
    durable::replace(&path, &json).map_err(StandbyError::io("write", &path))?;
    Ok(Some(summary))
}

fn timelines(history: Option<&TimelineHistory>) -> Vec<TimelineId> {
    let Some(history) = history else { return Vec::new() };
    let ancestors = history.ancestors.iter().map(|it| it.timeline);
    ancestors.chain([history.timeline]).filter(|timeline| timeline.0 > 1).collect()
}

fn room(spool: &Spool, summary: &Summary, data: &Data) -> Result<(), StandbyError> {
    let needed = summary.segments.len() as u64 * data.control.segment_size.bytes();
    let root = spool.root();
    let space = rustix::fs::statvfs(root).map_err(|error| StandbyError::io("ask for room at", root)(error.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free > needed {
        return Ok(());
    }
    Err(StandbyError::refused(
        format!("the spool has {} MiB free, and the WAL to be kept takes {} MiB", free >> 20, needed >> 20),
        "Free space there; nothing was taken back yet.",
    ))
}

/// Copies one file, durably.
fn copy(from: &Path, to: &Path, name: &str) -> Result<(), StandbyError> {
    let (source, target) = (from.join(name), to.join(name));
    let mut reader = File::open(&source).map_err(StandbyError::io("open", &source))?;
    let mut temporary = TemporaryFile::create_in(to).map_err(StandbyError::io("create a file in", to))?;
    io::copy(&mut reader, temporary.file_mut()).map_err(StandbyError::io("copy", &source))?;
    temporary.replace(name).map_err(StandbyError::io("write", &target))
}

/// Takes the WAL from a position on out of `pg_wal`: what is kept aside, and what lies behind it.
pub fn remove(pgdata: &Path, data: &Data, from: Lsn, spool: &Spool) -> Result<(), StandbyError> {
    let Some(history) = &data.history else { return Ok(()) };
    let control = &data.control;
    if !folder(spool, history.timeline, from).join(SUMMARY).exists() {
        return Err(StandbyError::refused(
            format!("the WAL from {from} on is not kept aside"),
            "Run this again; nothing was removed.",
        ));
    }
    let wal = LocalWal::new(pgdata, control, history);
    // The segment of the fork itself comes anew from the server that is followed.
    for (_, path) in wal.segments_from(from.segment(control.segment_size))? {
        fs::remove_file(&path).map_err(StandbyError::io("remove", &path))?;
    }
    let folder = pgdata.join("pg_wal");
    durable::sync_directory(&folder).map_err(StandbyError::io("make durable", &folder))
}
