//! The claims in the directory of a local store, read again only when their folder has changed.
//!
//! Asked before every file that is published: one look at the folder where nothing has changed since.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, OFlags, Stat};

use super::beneath::Beneath;
use super::modified;
use crate::store::StorePath;
use crate::store::claim::{self, Claim};

/// A folder changed so shortly before it was read may have been changed again within the same tick of the clock.
const SETTLED: Duration = Duration::from_secs(2);

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Option<Seen>>);

#[derive(Debug, Clone)]
struct Seen {
    inode: u64,
    modified: SystemTime,
    settled: bool,
    claims: Arc<Vec<Claim>>,
}

impl Claims {
    /// The claim that closes the store to a file, if one does.
    pub(super) fn refusal(&self, beneath: &Beneath, path: &StorePath) -> io::Result<Option<Claim>> {
        let Some(name) = claim::closable(path) else { return Ok(None) };
        let folder: StorePath = claim::FOLDER.parse().map_err(io::Error::other)?;
        let Some(stat) = beneath.stat(&folder)? else { return Ok(None) };
        let claims = match self.known(&stat) {
            Some(claims) => claims,
            None => self.read(beneath, &folder, &stat)?,
        };
        Ok(claims.iter().find(|claim| claim.refuses(name)).cloned())
    }

    fn known(&self, stat: &Stat) -> Option<Arc<Vec<Claim>>> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |seen: &&Seen| seen.settled && (seen.inode, seen.modified) == (stat.st_ino, modified(stat));
        seen.as_ref().filter(same).map(|seen| Arc::clone(&seen.claims))
    }

    fn read(&self, beneath: &Beneath, folder: &StorePath, stat: &Stat) -> io::Result<Arc<Vec<Claim>>> {
        let mut claims = Vec::new();
        let open = beneath.open(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for item in Dir::read_from(&open)? {
            let item = item?;
            let Some(name) = item.file_name().to_str().ok().filter(|name| claim::is_claim(name)) else { continue };
            let path = folder.join(name).map_err(io::Error::other)?;
            match beneath.open(&path, OFlags::RDONLY) {
                Ok(file) => claims.push(Claim::parse(File::from(file)).map_err(|error| named(&path, &error))?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let claims = Arc::new(claims);
        let age = SystemTime::now().duration_since(modified(stat)).unwrap_or_default();
        let seen =
            Seen { inode: stat.st_ino, modified: modified(stat), settled: age > SETTLED, claims: Arc::clone(&claims) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(claims)
    }
}

/// A claim that cannot be read is named: until it is mended nothing is taken.
fn named(path: &StorePath, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the claim '{path}': {error}"))
}
