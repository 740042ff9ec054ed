//! The last checkpoint before a position, found while a walker walks (PostgreSQL: CheckPoint, XLOG_CHECKPOINT_ONLINE,
//! XLOG_CHECKPOINT_SHUTDOWN).
//!
//! It is where `pg_rewind` begins to read (findLastCheckpoint), and from where a server recovers afterwards.

use super::commit::main_data;
use super::lsn::Lsn;
use super::page::u64_at;
use super::record::{RMGR_XLOG, Record, RecordHeader, Visit, XLOG_CHECKPOINT_SHUTDOWN};

/// A checkpoint of a running server (XLOG_CHECKPOINT_ONLINE).
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;

/// The record of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the record begins.
    pub start: Lsn,
    /// Where a recovery from it begins (redo).
    pub redo: Lsn,
}

/// Keeps the last checkpoint whose record begins before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCheckpoint {
    before: Lsn,
    /// The one found so far.
    pub found: Option<Checkpoint>,
}

impl LastCheckpoint {
    /// Looks for checkpoints that begin before this position.
    pub fn before(position: Lsn) -> LastCheckpoint {
        LastCheckpoint { before: position, found: None }
    }
}

impl Visit for LastCheckpoint {
    fn wants(&self, header: &RecordHeader) -> bool {
        header.is(RMGR_XLOG, XLOG_CHECKPOINT_SHUTDOWN) || header.is(RMGR_XLOG, XLOG_CHECKPOINT_ONLINE)
    }

    fn visit(&mut self, record: &Record<'_>) {
        if record.start >= self.before || !self.wants(&record.header) {
            return;
        }
        // The structure begins with the redo position.
        if let Some(redo) = main_data(record.data).and_then(|data| data.get(..8)) {
            self.found = Some(Checkpoint { start: record.start, redo: Lsn(u64_at(redo, 0)) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::super::page::PageHeader;
    use super::super::record::Walker;
    use super::*;

    /// The main data of a checkpoint: its redo position, and as much again as the server writes.
    fn data(redo: u64) -> Vec<u8> {
        let mut data = vec![255, 88];
        data.extend(redo.to_ne_bytes());
        data.resize(90, 0);
        data
    }

    fn found(forge: &Forge, before: Lsn) -> Option<Checkpoint> {
        let (mut walker, mut last) = (Walker::new(), LastCheckpoint::before(before));
        for page in forge.segment(0).1.chunks(8192) {
            if let Ok(header) = PageHeader::parse(page) {
                walker.page(&header, page, &mut last);
            }
        }
        last.found
    }

    #[test]
    fn the_last_one_before_the_position_is_found() {
        let mut forge = Forge::new(3, 8192);
        let first = forge.record(RMGR_XLOG, 0x10, &data(41));
        forge.fill(20_000, 700);
        let second = forge.record(RMGR_XLOG, 0x00, &data(42));
        forge.message(100);
        let third = forge.record(RMGR_XLOG, 0x10, &data(43));
        // Another record of the same manager is no checkpoint.
        forge.record(RMGR_XLOG, 0x70, &data(44));
        forge.switch();
        let redo = |before| found(&forge, before).map(|it| (it.start, it.redo));
        assert_eq!(redo(Lsn(u64::MAX)), Some((third, Lsn(43))));
        assert_eq!(redo(third), Some((second, Lsn(42))));
        assert_eq!(redo(second), Some((first, Lsn(41))));
        assert_eq!(redo(first), None);
    }
}
