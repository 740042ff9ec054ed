//! Nodes whose archives are not asked while this node is being promoted.
//!
//! PostgreSQL asks `restore_command` for more WAL and for later histories before it opens. A promotion has settled
//! before which archives it goes without; asking them again, until nobody has patience any more, would only keep the
//! server closed. What is written down here holds for a short time: a run that was killed must not leave a standby
//! with fewer sources for good.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use super::ArchiveError;
use super::spool::{Spool, remove_if_there};
use crate::system::durable;

/// Leaves these nodes out.
pub fn set(spool: &Spool, nodes: &BTreeSet<String>) -> Result<(), ArchiveError> {
    if nodes.is_empty() {
        return clear(spool);
    }
    spool.prepare()?;
    let text: String = nodes.iter().map(|node| format!("{node}\n")).collect();
    let path = spool.left_out();
    durable::replace(&path, text.as_bytes()).map_err(ArchiveError::io("write", path))
}

/// Asks everybody again. May be repeated.
pub fn clear(spool: &Spool) -> Result<(), ArchiveError> {
    let path = spool.left_out();
    remove_if_there(&path).map(drop).map_err(ArchiveError::io("remove", path))
}

/// The nodes that are left out, as long as that is not older than `age_max`.
pub fn nodes(spool: &Spool, age_max: Duration) -> Result<BTreeSet<String>, ArchiveError> {
    let path = spool.left_out();
    let read = fs::metadata(&path).and_then(|data| Ok((data.modified()?, fs::read_to_string(&path)?)));
    match read {
        Ok((written, text)) => {
            let fresh = SystemTime::now().duration_since(written).is_ok_and(|age| age <= age_max);
            Ok(text.lines().filter(|_| fresh).map(str::to_owned).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
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
}
