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
    for found in catalog::list(archive)?.into_iter().rev() {
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
    // A child is younger than its parent, also by its label, and also where the clock was set back.
    let after = claim.parent.as_ref().and_then(Label::time).map(|time| time + Duration::from_secs(1));
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
