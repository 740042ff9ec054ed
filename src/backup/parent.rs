//! What an incremental backup builds on, and what of it is still so.

use super::BackupError;
use super::blocks::{self, BlockSum};
use super::catalog::{self, Description, Label, StoredFile};
use super::chain::{self, Chain};
use super::plan::SourceFile;
use crate::archive::places::Archive;

/// No sums of a file are longer, in bytes: those of a file of 1 GiB, and room for more.
const SUMS_MAX: u64 = 1 << 24;

/// A backup to build on.
pub struct Parent<'a> {
    archive: &'a Archive,
    /// Which.
    pub label: Label,
    chain: Chain,
}

/// The backup that a new one of a server of this major version can build on: the one that is named, or else the newest;
/// none where there is none, an error where the named one cannot be used.
pub fn choose(archive: &Archive, named: Option<&Label>, major: u32) -> Result<Option<Label>, BackupError> {
    let usable = chain::usable(archive)?;
    let fits = |it: &&Description| it.major == major;
    let Some(label) = named else { return Ok(usable.iter().rfind(fits).map(|it| it.label.clone())) };
    // Says why where it is none at all.
    catalog::get(archive, label)?;
    if usable.iter().filter(fits).any(|it| it.label == *label) {
        return Ok(Some(label.clone()));
    }
    Err(BackupError::refused(
        format!("nothing can build on backup '{label}'"),
        "It must be one that 'base-backup list' shows as ok, of the same major version; without --parent the newest is taken.",
    ))
}

impl<'a> Parent<'a> {
    /// Reads what it holds.
    pub fn open(archive: &'a Archive, label: &Label) -> Result<Parent<'a>, BackupError> {
        let description = catalog::get(archive, label)?;
        Ok(Parent { archive, label: label.clone(), chain: Chain::open(archive, &description)? })
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.chain.links[0]
    }

    /// Takes out those files that certainly are what it holds.
    pub fn unchanged(&self, files: &mut Vec<SourceFile>) -> Vec<StoredFile> {
        let mut unchanged = Vec::new();
        files.retain(|file| match self.chain.files.get(&file.path) {
            Some(held) if held.stored.is_still(file) => {
                unchanged.push(StoredFile { blocks: None, ..held.stored.clone() });
                false
            }
            _ => true,
        });
        unchanged
    }

    /// The sums of the blocks of a file; `None` where it has none, so that the file must be stored whole.
    pub fn sums(&self, path: &str) -> Result<Option<Vec<BlockSum>>, BackupError> {
        let Some(file) = self.chain.files.get(path) else { return Ok(None) };
        let Some(held) = file.parts.first().map(|part| &self.chain.objects[part.object]) else { return Ok(None) };
        let Some(name) = &held.object.sums else { return Ok(None) };
        let label = &self.chain.owner(held).label;
        let bytes = catalog::read(self.archive, label, name, SUMS_MAX)?;
        let sums = bytes.and_then(|bytes| blocks::from_bytes(&bytes, file.stored.size, file.stored.crc));
        if sums.is_none() {
            log::warn!("'{name}' of backup '{label}' is damaged; '{path}' is stored whole");
        }
        Ok(sums)
    }

    /// Makes sure that it is still there, with all it builds on: somebody may have expired it meanwhile.
    pub fn confirm(&self) -> Result<(), BackupError> {
        if chain::usable(self.archive)?.iter().any(|it| it.label == self.label) {
            return Ok(());
        }
        Err(BackupError::refused(
            format!("backup '{}', which the new one builds on, is gone or was found damaged meanwhile", self.label),
            "Take the backup again.",
        ))
    }
}
