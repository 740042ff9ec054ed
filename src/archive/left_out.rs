//! What `restore-wal` does otherwise while this node is being promoted: some archives are not asked, and nothing is
//! waited for or held back.
//!
//! PostgreSQL asks `restore_command` for more WAL and for later histories before it opens. A promotion has settled
//! before which archives it goes without; asking them again, until nobody has patience any more, would only keep the
//! server closed. It has also brought here what others hold: a call that waits for more, or holds a segment back as a
//! warm standby does, would keep the server from reading that. What is written down here holds for a short time: a run
//! that was killed must not leave a standby with fewer sources for good.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use super::ArchiveError;
use super::spool::{Spool, remove_if_there};
use crate::system::durable;

/// Leaves these nodes out, and says that a promotion is under way.
pub fn set(spool: &Spool, nodes: &BTreeSet<String>) -> Result<(), ArchiveError> {
    spool.prepare()?;
    let text: String = nodes.iter().map(|node| format!("{node}\n")).collect();
    let path = spool.left_out();
    durable::replace(&path, text.as_bytes()).map_err(ArchiveError::io("write", path))
}

/// Lets what was said hold from now on: for a server that takes long to open.
pub fn refresh(spool: &Spool) -> Result<(), ArchiveError> {
    let (there, nodes) = (is_under_way(spool, Duration::MAX)?, nodes(spool, Duration::MAX)?);
    if there { set(spool, &nodes) } else { Ok(()) }
}

/// Asks everybody again. May be repeated.
pub fn clear(spool: &Spool) -> Result<(), ArchiveError> {
    let path = spool.left_out();
    remove_if_there(&path).map(drop).map_err(ArchiveError::io("remove", path))
}

/// True while a promotion is under way that was not begun, or refreshed, longer ago than `age_max`.
pub fn is_under_way(spool: &Spool, age_max: Duration) -> Result<bool, ArchiveError> {
    Ok(read(spool, age_max)?.is_some())
}

/// The nodes that are left out, as long as that is not older than `age_max`.
pub fn nodes(spool: &Spool, age_max: Duration) -> Result<BTreeSet<String>, ArchiveError> {
    Ok(read(spool, age_max)?.unwrap_or_default())
}

fn read(spool: &Spool, age_max: Duration) -> Result<Option<BTreeSet<String>>, ArchiveError> {
    let path = spool.left_out();
    let read = fs::metadata(&path).and_then(|data| Ok((data.modified()?, fs::read_to_string(&path)?)));
    match read {
        Ok((written, text)) => {
            let fresh = SystemTime::now().duration_since(written).is_ok_and(|age| age <= age_max);
            Ok(fresh.then(|| text.lines().map(str::to_owned).collect()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_left_out_for_good() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        let wanted = BTreeSet::from(["alpha".to_owned(), "delta".to_owned()]);
        assert!(nodes(&spool, Duration::MAX)?.is_empty());
        set(&spool, &wanted)?;
        assert_eq!(nodes(&spool, Duration::from_secs(60))?, wanted);
        assert!(nodes(&spool, Duration::ZERO)?.is_empty());
        clear(&spool)?;
        assert!(nodes(&spool, Duration::MAX)?.is_empty());
        clear(&spool)
    }

    #[test]
    fn a_promotion_is_under_way_though_nobody_is_left_out() -> Result<(), ArchiveError> {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let spool = Spool::new(folder.path());
        refresh(&spool)?;
        assert!(!is_under_way(&spool, Duration::MAX)?);
        set(&spool, &BTreeSet::new())?;
        refresh(&spool)?;
        assert!(is_under_way(&spool, Duration::from_secs(60))? && !is_under_way(&spool, Duration::ZERO)?);
        clear(&spool)?;
        assert!(!is_under_way(&spool, Duration::MAX)?);
        Ok(())
    }
}
