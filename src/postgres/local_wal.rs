//! The WAL that lies in `pg_wal` of a server that is stopped: walked record by record, to where it really ends.
//!
//! The control file says only where the last checkpoint was; what a crashed primary wrote behind it, and what a standby
//! received and did not replay, is known from the records alone. Segments are read as a recovery would read them: along
//! a history, the newest timeline first. Nothing is written. A server that runs may be writing what is read here, so
//! nobody should ask then.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::control::ControlFile;
use crate::error::{Class, Explain};
use crate::wal::checkpoint::{Checkpoint, LastCheckpoint};
use crate::wal::page::PageHeader;
use crate::wal::record::{Progress, Tear, Visit, Walker};
use crate::wal::{Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId, WalName};

/// How much is read at a time, in bytes; a multiple of every page size.
const CHUNK: usize = 256 << 10;

/// Why `pg_wal` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalWalError {
    /// The file system refused.
    #[error("cannot {action} '{}'", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A history is not what a server wrote.
    #[error("'{}' is damaged: {detail}", path.display())]
    History { path: PathBuf, detail: String },
}

impl Explain for LocalWalError {
    fn class(&self) -> Class {
        match self {
            LocalWalError::Io { .. } => Class::Storage,
            LocalWalError::History { .. } => Class::Corrupt,
        }
    }
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// Behind the last valid record.
    pub until: Lsn,
    /// The last segment of which anything was read.
    pub last: Option<SegmentName>,
}

/// Where the search for the last checkpoint before a position ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Here it is.
    Checkpoint(Checkpoint),
    /// It must stand before this segment, or in it: that one is not here.
    Before(SegmentNumber),
}

/// `pg_wal` of a stopped server, read along a history.
#[derive(Debug, Clone)]
pub struct LocalWal {
    folder: PathBuf,
    history: TimelineHistory,
    size: SegmentSize,
    block: usize,
}

impl LocalWal {
    /// The WAL of this data directory, read along this history.
    pub fn new(pgdata: &Path, control: &ControlFile, history: &TimelineHistory) -> LocalWal {
        LocalWal {
            folder: pgdata.join("pg_wal"),
            history: history.clone(),
            size: control.segment_size,
            block: control.wal_block_size as usize,
        }
    }

    /// The file that a recovery would read this segment from; none where no timeline of the history has one here.
    pub fn find(&self, segment: SegmentNumber) -> Result<Option<(SegmentName, PathBuf)>, LocalWalError> {
        let owner = self.history.owner_of_segment(segment, self.size);
        let older = self.history.ancestors.iter().rev().map(|it| it.timeline).filter(|timeline| *timeline < owner);
        for timeline in std::iter::once(owner).chain(older) {
            let name = SegmentName::new(timeline, segment, self.size);
            let path = self.folder.join(name.to_string());
            if path.try_exists().map_err(io_error("look up", &path))? {
                return Ok(Some((name, path)));
            }
        }
        Ok(None)
    }

    /// Walks from the start of a segment to the end of valid WAL.
    pub fn walk(&self, from: SegmentNumber, visitor: &mut impl Visit) -> Result<Walked, LocalWalError> {
        let (mut walker, mut last, mut segment) = (Walker::new(), None, from);
        while let Some((name, path)) = self.find(segment)? {
            self.segment(&mut walker, segment, &path, visitor)?;
            last = Some(name);
            // A switch ends the segment and not the log: the next one's first page takes it up again.
            if matches!(walker.progress(), Progress::Torn { .. }) {
                break;
            }
            segment = segment.next();
        }
        let until = if last.is_some() { walker.until() } else { from.start(self.size) };
        Ok(Walked { until, last })
    }

    /// Finds the last checkpoint that begins before a position, going back segment by segment.
    pub fn checkpoint_before(&self, position: Lsn) -> Result<Found, LocalWalError> {
        let mut segment = position.segment(self.size);
        loop {
            if self.find(segment)?.is_none() {
                return Ok(Found::Before(segment));
            }
            // It may begin in this segment and end in the next, so the walk is not cut off at the end of this one.
            let mut last = LastCheckpoint::before(position.min(segment.end(self.size)));
            self.two(segment, &mut last)?;
            match (last.found, segment.previous()) {
                (Some(checkpoint), _) => return Ok(Found::Checkpoint(checkpoint)),
                (None, Some(previous)) => segment = previous,
                (None, None) => return Ok(Found::Before(segment)),
            }
        }
    }

    /// Walks over a segment and what it leaves open in the next.
    fn two(&self, first: SegmentNumber, visitor: &mut impl Visit) -> Result<(), LocalWalError> {
        let mut walker = Walker::new();
        for segment in [first, first.next()] {
            let Some((_, path)) = self.find(segment)? else { break };
            self.segment(&mut walker, segment, &path, visitor)?;
        }
        Ok(())
    }

    fn segment(
        &self,
        walker: &mut Walker,
        segment: SegmentNumber,
        path: &Path,
        visitor: &mut impl Visit,
    ) -> Result<(), LocalWalError> {
        let mut file = File::open(path).map_err(io_error("open", path))?.take(self.size.bytes());
        let (mut address, mut chunk) = (segment.start(self.size), Vec::with_capacity(CHUNK));
        loop {
            chunk.clear();
            file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(io_error("read", path))?;
            if chunk.is_empty() {
                break;
            }
            for page in chunk.chunks(self.block) {
                match PageHeader::parse(page) {
                    Ok(header) if header.address == address => walker.page(&header, page, visitor),
                    Ok(header) => walker.tear(Tear::Recycled(header.address)),
                    Err(error) => walker.tear(Tear::Page(error)),
                }
                if walker.is_over() {
                    return Ok(());
                }
                address = Lsn(address.0 + self.block as u64);
            }
        }
        if address < segment.end(self.size) {
            walker.tear(Tear::FileEnds);
        }
        Ok(())
    }

    /// The segments here from this one on, of the timelines of the history: what a recovery could read.
    pub fn segments_from(&self, from: SegmentNumber) -> Result<Vec<(SegmentName, PathBuf)>, LocalWalError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(io_error("list", &self.folder))? {
            let entry = entry.map_err(io_error("list", &self.folder))?;
            let Ok(WalName::Segment(name)) = entry.file_name().to_string_lossy().parse() else { continue };
            let ours = self.history.contains(name.timeline());
            if ours && name.number(self.size).is_some_and(|number| number >= from) {
                found.push((name, entry.path()));
            }
        }
        found.sort_by_key(|(name, _)| (name.position(), name.timeline()));
        Ok(found)
    }
}

/// The history of a timeline as `pg_wal` holds it; none where there is no such file. The first timeline needs none.
pub fn history(pgdata: &Path, timeline: TimelineId) -> Result<Option<TimelineHistory>, LocalWalError> {
    if timeline.0 <= 1 {
        return Ok(Some(TimelineHistory { timeline, ancestors: Vec::new() }));
    }
    let path = pgdata.join("pg_wal").join(WalName::History(timeline).to_string());
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    match TimelineHistory::parse(timeline, &String::from_utf8_lossy(&bytes)) {
        Ok(history) => Ok(Some(history)),
        Err(error) => Err(LocalWalError::History { path, detail: error.to_string() }),
    }
}

/// The history of the newest timeline that a standby has followed to, `known` or a later one; none where the history of
/// `known` is missing.
///
/// A standby that has followed to a new timeline says so only while it streams, and in its control file only after its
/// next restart point. What tells it in between is that WAL of that timeline lies in its `pg_wal`.
pub fn followed(pgdata: &Path, known: TimelineId) -> Result<Option<TimelineHistory>, LocalWalError> {
    let Some(mut newest) = history(pgdata, known)? else { return Ok(None) };
    let folder = pgdata.join("pg_wal");
    let mut present = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).map_err(io_error("list", &folder))? {
        let name = entry.map_err(io_error("list", &folder))?.file_name().to_string_lossy().into_owned();
        if let Ok(WalName::Segment(segment)) = name.parse() {
            present.insert(segment.timeline());
        }
    }
    for timeline in present.into_iter().filter(|timeline| *timeline > known) {
        newest = history(pgdata, timeline)?.filter(|later| later.is_ancestor(newest.timeline)).unwrap_or(newest);
    }
    Ok(Some(newest))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalWalError {
    let path = path.to_owned();
    move |source| LocalWalError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::commit::Commits;
    use crate::wal::forge::Forge;
    use crate::wal::record::RMGR_XLOG;

    const PAGE: usize = 8192;

    /// The `pg_wal` of a log of so many segments, and what reads it along this history.
    fn local(forge: &Forge, segments: u64, history: &TimelineHistory) -> (tempfile::TempDir, LocalWal) {
        let folder = tempfile::tempdir().expect("because tests may write there");
        for index in 0..segments {
            let (name, bytes) = forge.segment(index);
            std::fs::write(folder.path().join(name.to_string()), bytes).expect("because the folder is ours");
        }
        let wal =
            LocalWal { folder: folder.path().to_owned(), history: history.clone(), size: forge.size, block: PAGE };
        (folder, wal)
    }

    fn checkpoint(redo: u64) -> Vec<u8> {
        let mut data = vec![255, 88];
        data.extend(redo.to_ne_bytes());
        data.resize(90, 0);
        data
    }

    #[test]
    fn wal_ends_behind_its_last_record_whatever_lies_there() {
        let mut forge = Forge::new(3, PAGE);
        forge.fill(900_000, 700);
        forge.switch();
        forge.fill((1 << 20) + 300_000, 700);
        let last = forge.message(100);
        let end = forge.position();
        let (folder, wal) = local(&forge, 2, &TimelineHistory::first());
        let walked = wal.walk(SegmentNumber(3), &mut Commits::default()).expect("because it can be read");
        assert_eq!((walked.until, walked.last), (end, Some(forge.segment(1).0)));
        // A record that was not written to its end does not count.
        let (name, mut bytes) = forge.segment(1);
        bytes[last.offset(forge.size) as usize + 30] ^= 1;
        std::fs::write(folder.path().join(name.to_string()), bytes).expect("because the folder is ours");
        assert_eq!(wal.walk(SegmentNumber(3), &mut ()).ok().map(|walked| walked.until), Some(last));
        // A recycled segment under the next name holds older pages.
        let next = SegmentName::new(forge.timeline, SegmentNumber(5), forge.size);
        std::fs::write(folder.path().join(next.to_string()), forge.segment(0).1).expect("because the folder is ours");
        assert_eq!(wal.walk(SegmentNumber(3), &mut ()).ok().map(|walked| walked.until), Some(last));
        assert_eq!(wal.walk(SegmentNumber(9), &mut ()).ok().map(|walked| walked.last), Some(None));
    }

    #[test]
    fn the_checkpoint_before_a_fork_may_lie_segments_back() {
        let mut forge = Forge::new(3, PAGE);
        forge.fill(50_000, 700);
        let at = forge.record(RMGR_XLOG, 0x10, &checkpoint(77));
        forge.fill((3 << 20) + 1000, 900);
        let fork = forge.position();
        forge.record(RMGR_XLOG, 0x00, &checkpoint(78));
        forge.switch();
        let (folder, wal) = local(&forge, 4, &TimelineHistory::first());
        let found = wal.checkpoint_before(fork).expect("because it can be read");
        assert_eq!(found, Found::Checkpoint(Checkpoint { start: at, redo: Lsn(77) }));
        std::fs::remove_file(folder.path().join(forge.segment(1).0.to_string())).expect("because it is there");
        assert_eq!(wal.checkpoint_before(fork).ok(), Some(Found::Before(SegmentNumber(4))));
    }

    #[test]
    fn a_segment_is_read_from_the_newest_timeline_that_has_it() {
        let mut forge = Forge::new(3, PAGE);
        forge.fill((1 << 20) + 1000, 700);
        let history = TimelineHistory::parse(TimelineId(2), "1\t0/380000\n").expect("because it is well formed");
        let (folder, wal) = local(&forge, 2, &history);
        let found = |number| wal.find(SegmentNumber(number)).ok().flatten().map(|(name, _)| name.timeline());
        assert_eq!((found(3), found(4), found(5)), (Some(TimelineId(1)), Some(TimelineId(1)), None));
        let child = SegmentName::new(TimelineId(2), SegmentNumber(3), forge.size);
        std::fs::write(folder.path().join(child.to_string()), forge.segment(0).1).expect("because the folder is ours");
        assert_eq!(found(3), Some(TimelineId(2)));
        let from: Vec<_> = wal.segments_from(SegmentNumber(3)).expect("because it can be listed");
        let timelines: Vec<_> = from.iter().map(|(name, _)| name.timeline().0).collect();
        assert_eq!(timelines, [1, 2, 1]);
    }
}
