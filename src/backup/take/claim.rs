//! The label of a new backup: an unfinished one to go on with, or a new one that nobody else gets.

use std::time::Duration;

use chrono::Utc;

use super::super::BackupError;
use super::super::catalog::{self, CLAIM, Claim, DESCRIPTION, Found, Index, Kind, Label, RESUME};
use super::super::copy::plain;
use crate::archive::places::Archive;
use crate::store::Published;

/// Finds an unfinished backup of the same kind to go on with, and what it holds; or takes a new label.
pub fn take(archive: &Archive, claim: &Claim) -> Result<(Label, Index), BackupError> {
    let known = catalog::list(archive)?;
    let newest = known.iter().filter_map(|found| found.label().time()).max();
    for found in known.into_iter().rev() {
        let Found::Unfinished(label) = found else { continue };
        let Some(theirs) = catalog::claim(archive, &label)? else { continue };
        if (Claim { at: claim.at.clone(), ..theirs }) == *claim {
            let index = catalog::read(archive, &label, RESUME, u64::MAX)?;
            let index = index.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            log::info!("goes on with the unfinished backup '{label}'");
            return Ok((label, index));
        }
    }
    let payload = plain(catalog::to_json(claim));
    let kind = if claim.parent.is_some() { Kind::Incremental } else { Kind::Full };
    // The order of labels is that in which backups began, also within a second and where the clock was set back.
    let after = newest.map(|time| time + Duration::from_secs(1));
    let mut at = Utc::now().max(after.unwrap_or_default());
    loop {
        let label = Label::new(kind, at);
        let free = archive.store.look(&label.path(DESCRIPTION)?)?.is_none();
        if free && archive.store.publish(&label.path(CLAIM)?, &payload, &[])? == Published::New {
            return Ok((label, Index::default()));
        }
        // Another node began in the same second.
        at += Duration::from_secs(1);
    }
}
