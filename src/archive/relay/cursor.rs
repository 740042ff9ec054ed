//! Where a relay has got to: a small record that lies in the target itself, under `relays/`.
//!
//! It lies there, and not on the node that relays, so that it can never say more than the target holds: a target that
//! was made anew or put back to an older state comes with no record or an older one. It is a cache all the same:
//! without it a turn compares the listings from the oldest segment on and comes to the same end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::archive::ArchiveError;
use crate::archive::places::Archive;
use crate::store::{StoreError, StorePath};
use crate::wal::SegmentNumber;

/// The folder of the records, in an archive.
const FOLDER: &str = "relays";

/// No record is larger, in bytes: a line for each of a thousand timelines.
const SIZE_MAX: u64 = 1 << 20;

/// What a target is known to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// How far each timeline has got.
    pub timelines: BTreeMap<u32, Progress>,
    /// The timelines whose histories are there.
    pub histories: BTreeSet<u32>,
}

/// How far a timeline has got: the target holds every segment from `first` up to, and without, `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where the relay began (XLogSegNo).
    pub first: u64,
    /// What it waits for (XLogSegNo).
    pub next: u64,
    /// A fingerprint of the own archive's folder of `next` as it was when compared last; none where it never was.
    pub seen: Option<u64>,
}

impl Progress {
    /// Nothing is there yet; the first segment is this one.
    pub fn at(first: SegmentNumber) -> Self {
        Progress { first: first.0, next: first.0, seen: None }
    }
}

impl Cursor {
    /// What `relayer` wrote into the target; none where it wrote nothing that can be understood.
    pub fn load(target: &Archive, relayer: &str) -> Result<Option<Cursor>, ArchiveError> {
        let path = path(relayer)?;
        let Some(file) = target.store.open(&path)? else { return Ok(None) };
        let mut text = Vec::new();
        let read = file.take(SIZE_MAX).read_to_end(&mut text);
        read.map_err(|error| StoreError::from_read(target.store.place(), path.as_str(), error))?;
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Writes it into the target.
    pub fn save(&self, target: &Archive, relayer: &str) -> Result<(), ArchiveError> {
        let json = serde_json::to_vec(self).expect("because plain data has no reason not to become JSON");
        Ok(target.store.replace(&path(relayer)?, &json)?)
    }
}

fn path(relayer: &str) -> Result<StorePath, ArchiveError> {
    Ok(format!("{FOLDER}/{relayer}.json").parse::<StorePath>().map_err(StoreError::from)?)
}
