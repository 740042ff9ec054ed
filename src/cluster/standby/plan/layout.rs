//! Where a new copy goes: into the data directory itself where nothing is there, else beside it, to take its place when
//! it is whole; tablespaces likewise. A backup goes over an old copy of the same cluster, where only the differences
//! are written, unless the old one is to be kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{self as plan, data};
use crate::cluster::standby::StandbyError;
use crate::cluster::standby::facts::{Directory, Facts};
use crate::cluster::standby::request::{Request, Source};
use crate::cluster::standby::step::{Move, Space, Step};
use crate::wal::SystemId;

/// Ends the name of a copy that is being made.
pub const FRESH: &str = ".standby-init";

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Whose data are copied.
    pub system: SystemId,
    /// Where the copy is made.
    pub folder: PathBuf,
    /// The step that makes it.
    pub copy: Step,
    /// Its tablespaces.
    pub spaces: Vec<Space>,
    /// What takes its place afterwards.
    pub moves: Vec<Move>,
    /// How much is copied, in bytes.
    pub size: u64,
}

impl Layout {
    /// The layout of a copy from this source.
    pub fn of(request: &Request, source: &Source, facts: &Facts) -> Result<Layout, StandbyError> {
        let own = &facts.own;
        let mut moves = Vec::new();
        let occupied = !matches!(own.directory, Directory::Absent | Directory::Empty);
        let restores = matches!(source, Source::Archive { .. });
        let delta = occupied && restores && !request.keep_old;
        let folder = place(&own.pgdata, occupied && !delta, &facts.stamp, &mut moves);
        let (system, size, origin) = origin(source, facts)?;
        let spaces = spaces(request, facts, origin, delta, &mut moves)?;
        let copy = match source {
            Source::Node(node) => Step::Clone { node: node.clone(), folder: folder.clone(), spaces: spaces.clone() },
            Source::Archive { .. } => {
                let backup = facts.backup.as_ref().ok_or_else(no_backup)?;
                let (place, label) = (backup.place.clone(), backup.label.clone());
                let settings = plan::settings(request, facts);
                Step::Restore { place, label, folder: folder.clone(), spaces: spaces.clone(), delta, settings }
            }
        };
        // What differs is not known before it is looked at.
        let size = if delta { 0 } else { size };
        Ok(Layout { system, folder, copy, spaces, moves, size })
    }
}

/// A place, or beside it where it is taken.
fn place(place: &Path, occupied: bool, stamp: &str, moves: &mut Vec<Move>) -> PathBuf {
    if !occupied {
        return place.to_owned();
    }
    let fresh = with(place, FRESH);
    moves.push(Move { fresh: fresh.clone(), place: place.to_owned(), old: with(place, &format!(".before-{stamp}")) });
    fresh
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Whose data, how much, and with which tablespaces.
fn origin<'a>(source: &Source, facts: &'a Facts) -> Result<(SystemId, u64, &'a BTreeMap<u32, PathBuf>), StandbyError> {
    match source {
        Source::Archive { .. } => {
            let backup = facts.backup.as_ref().ok_or_else(no_backup)?;
            if let Some(segment) = backup.lacks {
                return Err(StandbyError::refused(
                    format!("no archive has '{segment}' yet, in which the primary's timeline begins"),
                    "Without it a recovery would go on along the old timeline: end that segment with 'SELECT \
                     pg_switch_wal()' on the primary, and run this again when it is archived.",
                ));
            }
            Ok((backup.system_id, backup.size, &backup.spaces))
        }
        Source::Node(node) => {
            let known = facts.source.iter().chain(&facts.upstream).find(|server| server.node == *node);
            let server = known.ok_or_else(|| {
                let why = facts.others.iter().find(|(name, _)| name == node);
                let why = why.and_then(|(_, answer)| answer.as_ref().err().cloned());
                StandbyError::refused(
                    format!("the server of {node} cannot be copied: {}", why.unwrap_or("it has none".to_owned())),
                    "Name another node, or take a backup: --from archive.",
                )
            })?;
            Ok((server.there.system_id, server.size, &server.spaces))
        }
    }
}

fn no_backup() -> StandbyError {
    StandbyError::refused(
        "no archive of restore.from holds a whole backup",
        "'base-backup take' takes one; --from NODE copies a running server.",
    )
}

/// Where each tablespace goes. One that the old data directory uses is moved aside like it.
fn spaces(
    request: &Request,
    facts: &Facts,
    origin: &BTreeMap<u32, PathBuf>,
    delta: bool,
    moves: &mut Vec<Move>,
) -> Result<Vec<Space>, StandbyError> {
    if let Some(oid) = request.tablespaces.keys().find(|oid| !origin.contains_key(oid)) {
        return Err(StandbyError::refused(
            format!("there is no tablespace '{oid}' to be mapped"),
            "'SELECT oid, spcname FROM pg_tablespace' names them.",
        ));
    }
    let mut spaces = Vec::new();
    for (oid, from) in origin {
        let target = request.tablespaces.get(oid).unwrap_or(from);
        let old = data(&facts.own.directory).and_then(|old| old.spaces.get(oid));
        let occupied = match facts.own.spaces.get(target) {
            None | Some(Directory::Absent | Directory::Empty) => false,
            Some(_) if old == Some(target) => !delta,
            // The restore that is gone on with knows which directories it has begun.
            Some(_) if matches!(facts.own.directory, Directory::HalfRestored) => false,
            Some(_) => {
                return Err(StandbyError::refused(
                    format!("'{}', where the tablespace {oid} goes, is not empty", target.display()),
                    format!("Map it to another directory: --map {oid}=DIR."),
                ));
            }
        };
        let folder = place(target, occupied, &facts.stamp, moves);
        spaces.push(Space { oid: *oid, from: from.clone(), folder, place: target.clone() });
    }
    Ok(spaces)
}
