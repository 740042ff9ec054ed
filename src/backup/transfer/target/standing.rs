//! What stands at the target before the copy, and whether it may be overwritten: observed first, then judged by a pure
//! function. Nothing is changed here.

use std::fs;
use std::io;
use std::path::Path;

use super::super::super::BackupError;
use super::super::super::plan::CONTROL;
use super::super::super::restore::Way;
use super::super::super::restore::claim::{Mark, is_empty, read_mark, stopped, unarchived};
use super::super::message::{Identity, Offer};
use crate::postgres::control::{ClusterState, ControlFile};
use crate::wal::timeline::TimelineHistory;

/// What stands there.
#[derive(Debug)]
pub enum Standing {
    /// No directory, or an empty one.
    Nothing,
    /// A data directory.
    Data(Box<Old>),
    /// What an interrupted copy or restore left; no server can start on it.
    Unfinished(Mark),
    /// Something else.
    Other,
}

/// A data directory that is there already.
#[derive(Debug)]
pub struct Old {
    /// What it knows about itself.
    pub control: ControlFile,
    /// True for a copy that no server was started on yet: it carries the control file of its source.
    pub fresh: bool,
    /// How many files of WAL were not archived.
    pub unarchived: usize,
}

/// Looks what stands there, once it is sure that no server works on it.
pub fn look(pgdata: &Path) -> Result<Standing, BackupError> {
    if is_empty(pgdata)? {
        return Ok(Standing::Nothing);
    }
    stopped(pgdata)?;
    let control = pgdata.join(CONTROL);
    if control.try_exists().map_err(BackupError::io("look at", &control))? {
        let fresh = is_fresh(&pgdata.join("backup_label"))?;
        let (control, unarchived) = (ControlFile::read(pgdata)?, unarchived(pgdata)?);
        return Ok(Standing::Data(Box::new(Old { control, fresh, unarchived })));
    }
    Ok(read_mark(pgdata)?.map_or(Standing::Other, Standing::Unfinished))
}

/// True for the label of a non-exclusive backup: the server that recovers from it puts it aside.
fn is_fresh(path: &Path) -> Result<bool, BackupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().any(|line| line == "BACKUP METHOD: streamed")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BackupError::io("read", path)(error)),
    }
}

/// Says on top of what the copy goes, or why it must not.
pub fn judge(standing: &Standing, pgdata: &Path, offer: &Offer, drop_wal: bool) -> Result<Way, BackupError> {
    let at = pgdata.display();
    if offer.directory.is_some() && Identity::of(pgdata) == offer.directory {
        return Err(BackupError::refused(
            format!("'{at}' is the source's own data directory"),
            "Name another node, or correct its pgdata.",
        ));
    }
    match standing {
        Standing::Nothing => Ok(Way::Fresh),
        Standing::Other => Err(BackupError::refused(
            format!("'{at}' is not empty, and no data directory"),
            "Correct pgdata of that node, or empty the directory yourself.",
        )),
        Standing::Unfinished(mark) if mark.system_identifier == offer.system.to_string() => Ok(Way::Resume),
        Standing::Unfinished(mark) => Err(foreign(pgdata, &mark.system_identifier, offer)),
        Standing::Data(old) if old.control.system_id != offer.system => {
            Err(foreign(pgdata, &old.control.system_id.to_string(), offer))
        }
        Standing::Data(old) => match may_hold_more(old, offer) {
            Some(why) if !drop_wal => Err(BackupError::refused(
                format!("'{at}' may hold what nobody else has: {why}"),
                "Look what of it is needed; 'archive-wal --flush' or pg_rewind may save it. To give it up, add --drop-wal.",
            )),
            _ => Ok(Way::Delta),
        },
    }
}

fn foreign(pgdata: &Path, theirs: &str, offer: &Offer) -> BackupError {
    BackupError::refused(
        format!(
            "'{}' holds data of another cluster: its system identifier is {theirs}, the source's is {}",
            pgdata.display(),
            offer.system
        ),
        "Correct pgdata of that node, or empty the directory yourself.",
    )
}

/// Why a data directory may hold commits that the source does not have; none where it certainly holds none.
fn may_hold_more(old: &Old, offer: &Offer) -> Option<String> {
    let control = &old.control;
    let state = control.state;
    if old.unarchived > 0 {
        return Some(format!("{} files of WAL in its pg_wal were not archived", old.unarchived));
    }
    if old.fresh || matches!(state, ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery) {
        // It wrote nothing of its own.
        return None;
    }
    if state != ClusterState::ShutDown {
        return Some(format!("it was a primary and is {state}, so where its WAL ends is not known"));
    }
    let timeline = control.checkpoint_timeline;
    if timeline == offer.timeline {
        return Some(format!("it was shut down on timeline {}, on which the source still is", timeline.0));
    }
    let history = match &offer.history {
        Some(text) => TimelineHistory::parse(offer.timeline, text).ok(),
        None => None,
    };
    let Some(history) = history else {
        return Some(format!("the source has no history of its timeline {}", offer.timeline.0));
    };
    match history.switch_point(timeline) {
        // The checkpoint of a shutdown is the last record a server writes.
        Some(switched) if control.checkpoint < switched => None,
        Some(switched) => Some(format!(
            "it wrote up to {} on timeline {}, which the source left at {switched}",
            control.checkpoint, timeline.0
        )),
        None => Some(format!("the source does not descend from its timeline {}", timeline.0)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wal::{Lsn, SegmentSize, SystemId, TimelineId};

    fn control(state: ClusterState, timeline: u32, checkpoint: u64) -> ControlFile {
        ControlFile {
            system_id: SystemId(7),
            control_version: 1300,
            catalog_version: 202_209_061,
            major: Some(15),
            state,
            checkpoint: Lsn(checkpoint),
            redo: Lsn(checkpoint),
            checkpoint_time: 0,
            checkpoint_timeline: TimelineId(timeline),
            min_recovery_point: Lsn(0),
            min_recovery_timeline: TimelineId(0),
            segment_size: SegmentSize::new(16 << 20).expect("because it is a usual size"),
            limits: Default::default(),
            wal_block_size: 8192,
            checksums: true,
            backup_start: Lsn(0),
            wal_log_hints: false,
            marked: false,
        }
    }

    fn data(control: ControlFile, fresh: bool, unarchived: usize) -> Standing {
        Standing::Data(Box::new(Old { control, fresh, unarchived }))
    }

    fn offer(system: u64, timeline: u32, history: Option<&str>) -> Offer {
        Offer {
            system: SystemId(system),
            major: 15,
            version_directory: "PG_15_202209061".to_owned(),
            segment_size: SegmentSize::new(16 << 20).expect("because it is a usual size"),
            timeline: TimelineId(timeline),
            history: history.map(str::to_owned),
            position: Lsn(0x500_0000),
            directory: None,
            wal_directory: None,
        }
    }

    #[test]
    fn a_directory_is_overwritten_only_where_nothing_is_lost() {
        use ClusterState::{InArchiveRecovery, InProduction, ShutDown, ShutDownInRecovery};
        let descended = offer(7, 2, Some("1\t0/4000000\tno recovery target specified\n"));
        let cases = [
            (ShutDownInRecovery, 1, 0x900_0000, false, &descended, None),
            (InArchiveRecovery, 1, 0x900_0000, false, &descended, None),
            (ShutDown, 1, 0x3ff_ff00, false, &descended, None),
            (ShutDown, 1, 0x400_0000, false, &descended, Some("left at 0/4000000")),
            (ShutDown, 2, 0x100, false, &descended, Some("still is")),
            (ShutDown, 3, 0x100, false, &descended, Some("does not descend")),
            (InProduction, 1, 0x100, false, &descended, Some("not known")),
            (InProduction, 2, 0x100, true, &descended, None),
            (ShutDown, 1, 0x100, false, &offer(7, 2, None), Some("no history")),
            (ShutDown, 1, 0x100, false, &offer(7, 2, Some("nonsense")), Some("no history")),
        ];
        for (state, timeline, checkpoint, fresh, offer, expected) in cases {
            let standing = data(control(state, timeline, checkpoint), fresh, 0);
            let judged = judge(&standing, Path::new("/nonexistent"), offer, false);
            match (expected, judged) {
                (None, Ok(Way::Delta)) => {}
                (Some(words), Err(error)) => assert!(error.to_string().contains(words), "{error}"),
                (expected, judged) => panic!("{state} {timeline} {checkpoint:x}: {expected:?}, {judged:?}"),
            }
            let unarchived = data(control(state, timeline, checkpoint), fresh, 3);
            assert!(judge(&unarchived, Path::new("/nonexistent"), offer, false).is_err());
            let forced = judge(&standing, Path::new("/nonexistent"), offer, true);
            assert!(matches!(forced, Ok(Way::Delta)));
        }
    }

    #[test]
    fn other_data_are_never_overwritten() {
        let (began, places) = (String::new(), BTreeSet::new());
        let mark = Mark { system_identifier: "7".to_owned(), label: String::new(), began, places };
        let old = data(control(ClusterState::ShutDown, 1, 1), false, 0);
        for standing in [old, Standing::Unfinished(mark.clone()), Standing::Other] {
            let judged = judge(&standing, Path::new("/nonexistent"), &offer(8, 1, None), true);
            assert!(judged.is_err(), "{standing:?}");
        }
        let own = judge(&Standing::Unfinished(mark), Path::new("/nonexistent"), &offer(7, 9, None), false);
        assert!(matches!(own, Ok(Way::Resume)));
    }
}
