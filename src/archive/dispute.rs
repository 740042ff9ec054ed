//! Same name, other content: answers who wrote the other one, when, up to where both agree, and what to do.

use std::io::Read;
use std::time::SystemTime;

use super::ArchiveError;
use super::encode::read_note;
use super::places::Archive;
use crate::store::{Encoding, Payload, Store, StoreError, StorePath};
use crate::wal::{Agreement, WalName, agree_until};

/// How many of the last bytes of a stored file may hold a note.
const TAIL: usize = 512;

/// Answers for a name that is taken by other content: the error, but for a `.partial` with the same records.
///
/// The old primary of a switchover and the new one both leave a `.partial` of the segment where the timelines part.
/// They hold the same WAL; behind its end lies what the segment held before, which nobody ever reads. The stored one
/// has been made durable by whoever found it in the way.
pub fn resolve(name: WalName, ours: &Payload, archive: &Archive, taken: &StorePath) -> Result<(), ArchiveError> {
    let partial = matches!(name, WalName::Partial(_));
    if partial && let Ok(Some(Agreement { same_records: true, .. })) = agreement(name, ours, archive, taken) {
        log::info!("'{taken}' in the {} holds the same records and stays", archive.store.place());
        return Ok(());
    }
    Err(settle(name, ours, archive, taken))
}

/// Makes the error for a name that is taken by other content.
fn settle(name: WalName, ours: &Payload, archive: &Archive, taken: &StorePath) -> ArchiveError {
    let store = &*archive.store;
    let place = store.place().clone();
    let written = match who_and_when(store, taken) {
        Ok(written) => written,
        Err(error) => return error.into(),
    };
    let compared = agreement(name, ours, archive, taken);
    let agreement =
        compared.map_or_else(|error| format!("comparing failed: {error}"), |found| describe(found.as_ref()));
    ArchiveError::Conflict {
        name,
        place,
        answer: format!("{written}; {agreement}"),
        hint: format!(
            "Two servers may ship into one archive: compare 'SELECT system_identifier, timeline_id FROM \
             pg_control_system(), pg_control_checkpoint()' on both. Stop the one that is wrong ('archive-wal --refuse'); \
             nothing was overwritten. If the archived file is the wrong one, move '{taken}' aside in that archive and \
             PostgreSQL's next try stores this one."
        ),
    }
}

fn describe(found: Option<&Agreement>) -> String {
    match found {
        None => "it is no WAL, so there is no position up to which both agree".to_owned(),
        Some(found) if found.same_records => format!(
            "both hold the same records up to {}, only bytes behind the last record differ",
            found.records_agree_until
        ),
        Some(found) => format!("both agree up to {}", found.records_agree_until),
    }
}

fn who_and_when(store: &dyn Store, taken: &StorePath) -> Result<String, StoreError> {
    let modified = store.look(taken)?.map(|entry| entry.modified);
    let tail = match store.open(taken)? {
        Some(reader) => tail(reader).map_err(|error| StoreError::io(store.place(), "read", taken.as_str(), error))?,
        None => Vec::new(),
    };
    let when = modified.map_or_else(|| "at an unknown time".to_owned(), time);
    Ok(match read_note(&tail) {
        Some((writer, shipped)) => format!("'{taken}' was written by node {writer} at {shipped}"),
        None => format!("'{taken}' was written {when}, it does not say by which node"),
    })
}

fn time(moment: SystemTime) -> String {
    chrono::DateTime::<chrono::Local>::from(moment).format("%Y-%m-%d %H:%M:%S %z").to_string()
}

fn tail(mut reader: Box<dyn Read + Send>) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(TAIL);
        kept.drain(..surplus);
    }
}

/// How far both agree; none where the file is no WAL.
fn agreement(
    name: WalName,
    ours: &Payload,
    archive: &Archive,
    taken: &StorePath,
) -> std::io::Result<Option<Agreement>> {
    let Some(segment) = name.segment().filter(|_| name.holds_wal()) else { return Ok(None) };
    let theirs = archive.store.open(taken).map_err(std::io::Error::other)?;
    let theirs = theirs.ok_or_else(|| std::io::Error::other("it is gone now"))?;
    let mut theirs = Encoding::split(taken.file_name()).1.decoder(theirs)?;
    let mut mine = ours.encoding.decoder(Box::new(ours.open()?))?;
    agree_until(&mut mine, &mut theirs, segment, archive.identity.segment_size).map(Some)
}
