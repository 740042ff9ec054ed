//! The WAL that a backup stands on: proven to be shipped before it begins, and to be in the archive before it counts.

use std::io::Read;
use std::time::Duration;

use super::BackupError;
use super::catalog::{Description, damaged};
use super::session::Session;
use crate::archive::layout;
use crate::archive::places::Archive;
use crate::config::Config;
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::contact;
use crate::store::{Encoding, StoreError};
use crate::system::clock::Deadline;
use crate::wal::segment::{Checker, Ending, Expected};
use crate::wal::{SegmentName, SegmentNumber, SegmentSize, SystemId, TimelineId, WalName};

const MARK: Statement = Statement { name: "mark_wal", text: include_str!("../../sql/mark_wal.sql") };

/// How often the archive is asked for a segment that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends a segment on the primary and waits until it is in the archive. A standby asks the primary, where it is reached.
pub fn prove_shipping(
    config: &Config,
    session: &mut Session,
    archive: &Archive,
    deadline: Duration,
) -> Result<(), BackupError> {
    let switched = if session.is_standby() {
        let Some(mut primary) = primary(config) else {
            log::warn!("no primary is reached, so no segment can be ended before the backup; its own WAL will tell");
            return Ok(());
        };
        switch(&mut primary)?
    } else {
        switch(session.connection())?
    };
    let hint = "No backup was begun. Look at archive_mode and archive_command with 'check-node', and at archive.to: the \
                archive that gets the backup must get the WAL too.";
    await_segment(archive, switched, Deadline::after(deadline), deadline, hint)
}

/// Ends the segment in which WAL is written now.
fn switch(connection: &mut Connection) -> Result<SegmentName, BackupError> {
    connection.query(&MARK, &[])?;
    let switched = connection.switch_wal()?;
    let wrong = |detail: String| BackupError::Answer { statement: "switch_wal", detail };
    switched.segment.parse().map_err(|error| wrong(format!("{error}")))
}

/// Ends a segment on the primary for a backup of a standby, which cannot do it itself.
pub fn switch_on_primary(config: &Config) {
    let Some(mut primary) = primary(config) else {
        log::warn!("no primary is reached; the last segment comes when the primary ends it by itself");
        return;
    };
    if let Err(error) = switch(&mut primary) {
        log::warn!("the primary did not end its segment: {error}");
    }
}

/// The primary among the nodes, if it is reached.
fn primary(config: &Config) -> Option<Connection> {
    config.nodes.iter().filter_map(|node| contact::conninfo(config, node).ok()).find_map(|conninfo| {
        let mut connection = connect(&conninfo, PATIENCE, "base-backup").ok()?;
        (!connection.is_in_recovery().ok()?).then_some(connection)
    })
}

/// Waits until every segment from `first` to `last` is in the archive.
pub fn await_range(
    archive: &Archive,
    timeline: TimelineId,
    first: SegmentNumber,
    last: SegmentNumber,
    patience: Duration,
) -> Result<(), BackupError> {
    let size = archive.identity.segment_size;
    let deadline = Deadline::after(patience);
    let hint = "The backup does not count yet. Mend the shipping of WAL ('check-node'), then run 'base-backup take' \
                again: what is stored is used where it has not changed.";
    for name in segments(timeline, first, last, size) {
        await_segment(archive, name, deadline, patience, hint)?;
    }
    Ok(())
}

/// The names of some segments in a row.
pub fn segments(
    timeline: TimelineId,
    first: SegmentNumber,
    last: SegmentNumber,
    size: SegmentSize,
) -> impl Iterator<Item = SegmentName> {
    (first.0..=last.0).map(move |number| SegmentName::new(timeline, SegmentNumber(number), size))
}

fn await_segment(
    archive: &Archive,
    segment: SegmentName,
    deadline: Deadline,
    after: Duration,
    hint: &str,
) -> Result<(), BackupError> {
    loop {
        for encoding in Encoding::ALL {
            if archive.store.look(&layout::stored(WalName::Segment(segment), encoding))?.is_some() {
                return Ok(());
            }
        }
        if deadline.expired() {
            let place = archive.store.place().clone();
            return Err(BackupError::NotArchived { segment, place, after, hint: hint.to_owned() });
        }
        std::thread::sleep(LOOK_AGAIN.min(deadline.remaining()));
    }
}

/// Reads and checks every segment that a backup needs to be consistent.
pub fn verify(archive: &Archive, description: &Description) -> Result<(), BackupError> {
    let size = archive.identity.segment_size;
    let wrong = |detail: String| damaged(archive, &description.label, detail);
    let number = |name: SegmentName| name.number(size).ok_or_else(|| wrong(format!("'{name}' names no segment")));
    let (first, last) = (number(description.start_segment)?, number(description.stop_segment)?);
    for name in segments(description.timeline, first, last, size) {
        verify_segment(archive, name, size).map_err(|detail| match detail {
            Trouble::Store(error) => BackupError::Store(error),
            Trouble::Wrong(detail) => wrong(format!("WAL segment '{name}', which it needs, {detail}")),
        })?;
    }
    Ok(())
}

enum Trouble {
    Store(StoreError),
    Wrong(String),
}

fn verify_segment(archive: &Archive, name: SegmentName, size: SegmentSize) -> Result<(), Trouble> {
    let store = &archive.store;
    for encoding in Encoding::ALL {
        let path = layout::stored(WalName::Segment(name), encoding);
        let Some(stored) = store.open(&path).map_err(Trouble::Store)? else { continue };
        let mut reader = encoding.decoder(stored).map_err(|error| Trouble::Wrong(format!("is damaged: {error}")))?;
        return check(&mut reader, name, size, archive.identity.system_identifier).map_err(Trouble::Wrong);
    }
    Err(Trouble::Wrong("is missing".to_owned()))
}

fn check(reader: &mut dyn Read, name: SegmentName, size: SegmentSize, system: SystemId) -> Result<(), String> {
    let expected = Expected { name, system_id: Some(system), size: Some(size), partial: false };
    let mut checker = Checker::new(expected);
    let mut offset = 0;
    super::copy::each_piece::<std::io::Error>(reader, |bytes| {
        checker.feed(offset, bytes).map_err(std::io::Error::other)?;
        offset += bytes.len() as u64;
        Ok(())
    })
    .map_err(|error| format!("is damaged: {error}"))?;
    let report = checker.finish().map_err(|error| format!("is damaged: {error}"))?;
    match report.ends {
        Ending::Torn { at, why } => Err(format!("ends at {at}: {why}")),
        _ => Ok(()),
    }
}
