//! A backup and all it builds on, down to a full one: whether it can be used, and where each of its files lies.
//!
//! An incremental backup names its parent, and its index names every file it has: stored whole, stored in part, or as
//! in the parent. What is resolved here is read by `read` and compared with by `parent`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::BackupError;
use super::catalog::{self, Description, Found, Label, Object, StoredFile, damaged};
use crate::archive::places::Archive;

/// What keeps a backup from being used unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Pages were damaged on the server when it was taken. All of it can be restored.
    DamagedPages,
    /// It was verified and found damaged.
    Failed,
    /// A backup it builds on is missing, or cannot be read.
    Missing(Label),
    /// A backup it builds on was verified and found damaged.
    FailedParent(Label),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::DamagedPages => f.write_str("damaged pages"),
            Obstacle::Failed => f.write_str("damaged"),
            Obstacle::Missing(label) => write!(f, "needs {label}, which is missing"),
            Obstacle::FailedParent(label) => write!(f, "needs {label}, which is damaged"),
        }
    }
}

/// Whole backups by their labels.
pub type Known<'a> = BTreeMap<&'a Label, &'a Description>;

/// The whole backups of a listing by their labels.
pub fn known(found: &[Found]) -> Known<'_> {
    let whole = found.iter().filter_map(|found| if let Found::Whole(it) = found { Some(&**it) } else { None });
    whole.map(|it| (&it.label, it)).collect()
}

/// The backups that this one builds on, the nearest first, as far as they are there; and the one that is missing.
pub fn ancestors<'a>(known: &Known<'a>, backup: &'a Description) -> (Vec<&'a Description>, Option<&'a Label>) {
    let (mut found, mut child) = (Vec::new(), backup);
    while let Some(parent) = &child.parent {
        // A parent is older than its child, so this ends.
        match known.get(parent).filter(|it| it.label < child.label) {
            Some(it) => {
                found.push(*it);
                child = it;
            }
            None => return (found, Some(parent)),
        }
    }
    (found, None)
}

/// What keeps a backup from being used unasked, if anything does.
pub fn obstacle(known: &Known<'_>, backup: &Description) -> Option<Obstacle> {
    let (ancestors, missing) = ancestors(known, backup);
    let failed = ancestors.iter().find(|it| it.failed.is_some());
    if let Some(label) = missing {
        Some(Obstacle::Missing(label.clone()))
    } else if backup.failed.is_some() {
        Some(Obstacle::Failed)
    } else if let Some(parent) = failed {
        Some(Obstacle::FailedParent(parent.label.clone()))
    } else if !backup.damaged_pages.is_empty() {
        Some(Obstacle::DamagedPages)
    } else {
        None
    }
}

/// Every backup that may be used unasked, oldest first.
pub fn usable(archive: &Archive) -> Result<Vec<Description>, BackupError> {
    let found = catalog::list(archive)?;
    let known = known(&found);
    Ok(known.values().filter(|it| obstacle(&known, it).is_none()).map(|it| (*it).clone()).collect())
}

/// A backup with all it builds on.
pub struct Chain {
    /// The backup itself, then its parent, and so on to a full one.
    pub links: Vec<Description>,
    /// What is stored in any of them.
    pub objects: Vec<Held>,
    /// Every file of the backup by its path.
    pub files: HashMap<String, File>,
    /// Directories to make, parents first.
    pub directories: Vec<String>,
}

/// A stored object of one link. Its list of files is empty here.
pub struct Held {
    /// Which link, counted from the backup itself.
    pub link: usize,
    /// What it is.
    pub object: Object,
}

/// A file of the backup.
pub struct File {
    /// What the backup says of it.
    pub stored: StoredFile,
    /// Where its content is, the newest first; all but the last hold a part of it.
    pub parts: Vec<Part>,
}

/// Where content of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which object, counted in [`Chain::objects`].
    pub object: usize,
    /// True where it holds blocks one by one, false where it holds the file whole.
    pub blocks: bool,
}

impl Chain {
    /// Reads the descriptions and indexes of a backup and all it builds on.
    pub fn open(archive: &Archive, backup: &Description) -> Result<Chain, BackupError> {
        let index = catalog::index(archive, backup)?;
        let mut chain = Chain {
            links: vec![backup.clone()],
            objects: Vec::new(),
            files: index.files().map(|it| (it.path.clone(), File { stored: it.clone(), parts: Vec::new() })).collect(),
            directories: index.directories,
        };
        let mut open: HashSet<String> = chain.files.keys().cloned().collect();
        chain.add(index.objects, &mut open);
        while !open.is_empty() {
            let child = chain.links.last().unwrap_or(backup);
            let Some(label) = child.parent.clone().filter(|label| *label < child.label) else {
                let some = open.iter().next().map(String::as_str).unwrap_or_default();
                return Err(damaged(archive, &child.label, format!("it does not hold '{some}'")));
            };
            let parent = parent(archive, child, &label)?;
            let objects = catalog::index(archive, &parent)?;
            let held: HashSet<&str> = objects.files().map(|file| file.path.as_str()).collect();
            if let Some(lost) = open.iter().find(|path| !held.contains(path.as_str())) {
                return Err(damaged(archive, &label, format!("it does not hold '{lost}'")));
            }
            chain.links.push(parent);
            chain.add(objects.objects, &mut open);
        }
        Ok(chain)
    }

    /// Adds the objects of the last link. `open` are the files of which more is wanted.
    fn add(&mut self, objects: Vec<Object>, open: &mut HashSet<String>) {
        let link = self.links.len() - 1;
        for mut object in objects {
            let number = self.objects.len();
            let mut used = false;
            for held in std::mem::take(&mut object.files) {
                let Some(file) = self.files.get_mut(&held.path).filter(|_| open.contains(&held.path)) else { continue };
                file.parts.push(Part { object: number, blocks: held.blocks.is_some() });
                used = true;
                if !held.is_part() {
                    open.remove(&held.path);
                }
            }
            if used {
                self.objects.push(Held { link, object });
            }
        }
    }

    /// The backup of which an object is a part.
    pub fn owner(&self, held: &Held) -> &Description {
        &self.links[held.link]
    }
}

/// The parent of a backup, which must be there.
fn parent(archive: &Archive, child: &Description, label: &Label) -> Result<Description, BackupError> {
    let known = catalog::get(archive, label);
    known.map_err(|error| match error {
        // Whatever is wrong with the parent is wrong with the child.
        BackupError::NoSuchBackup { .. } | BackupError::Refused { .. } => {
            damaged(archive, &child.label, format!("'{label}', which it builds on, is missing"))
        }
        BackupError::Damaged { detail, .. } => {
            damaged(archive, &child.label, format!("'{label}', which it builds on, cannot be read: {detail}"))
        }
        other => other,
    })
}
