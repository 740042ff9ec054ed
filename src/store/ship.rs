//! The one operation of this program: make the file called so exist in that place, once, durably, with these bytes.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::path::ParsePathError;
use super::{Encoding, Payload, Place, Published, Store, StoreError, StorePath};
use crate::system::reading::read_full;

/// How much is compared at once, in bytes.
const COMPARE_SIZE: usize = 128 << 10;

/// How often a file may vanish between "it is in the way" and "let me see it".
const TRIES_MAX: u32 = 3;

/// How a file came to be in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shipped {
    /// It was stored now.
    Stored,
    /// The same content was there already, and is durable.
    AlreadyThere,
}

/// What is in the way of a file: the same name with other content.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The place could not do it, or could not tell.
    #[error(transparent)]
    Store(StoreError),
    /// The spool file could not be read.
    #[error("cannot read '{path}'")]
    Source { path: String, source: io::Error },
    /// The name is taken by other content; `path` is the stored file in the way.
    #[error("'{path}' already exists in the {place} with different content")]
    Occupied { place: Place, path: StorePath },
}

impl From<StoreError> for ShipError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Payload { path, source } => ShipError::Source { path, source },
            other => ShipError::Store(other),
        }
    }
}

impl From<ParsePathError> for ShipError {
    fn from(error: ParsePathError) -> Self {
        ShipError::Store(error.into())
    }
}

/// Makes the file at `stem` (a path without the encoding's extension) exist in `target` with the payload's content.
///
/// The stored name is the stem with the extension of the payload's encoding. Its rivals are the same stem with the
/// extension of every other encoding: whatever its form, a file exists once.
///
/// Nothing there: the place copies the payload under a temporary name in the same folder, hashing; compares size and
/// hash with what the payload announces; makes the copy durable; gives it its name without clobbering; makes the name
/// durable. Only then is it [`Shipped::Stored`]. A crash at any point leaves nothing, or a temporary file that counts
/// as nothing, or the whole file.
///
/// The name, or a rival, there: the same content may have been stored by an earlier run that died before it could say
/// so, perhaps before the name was durable. So the existing file is made durable first, then both are decoded and
/// compared, byte by byte and in bounded memory. Same content: [`Shipped::AlreadyThere`]. Other content:
/// [`ShipError::Occupied`], and neither file is touched. A stored file that cannot be decoded is damaged
/// ([`StoreError::Damaged`]), which is another matter than a conflict: it says nothing about who else writes there.
///
/// Every call may be repeated, whatever the last one said.
pub fn ship(stem: &StorePath, payload: &Payload, target: &dyn Store) -> Result<Shipped, ShipError> {
    let path = stored_path(stem, payload.encoding)?;
    let others = Encoding::ALL.into_iter().filter(|encoding| *encoding != payload.encoding);
    let rivals = others.map(|encoding| stored_path(stem, encoding)).collect::<Result<Vec<_>, _>>()?;
    let mut tries = 0;
    loop {
        let existing = match target.publish(&path, payload, &rivals)? {
            Published::New => return Ok(Shipped::Stored),
            Published::Occupied(existing) => existing,
        };
        match same_content(&existing, payload, target)? {
            Some(true) => return Ok(Shipped::AlreadyThere),
            Some(false) => return Err(ShipError::Occupied { place: target.place().clone(), path: existing }),
            None if tries < TRIES_MAX => tries += 1,
            None => {
                let reason = io::Error::other("it comes and goes: another program removes it while it is looked at");
                return Err(StoreError::io(target.place(), "read", existing.as_str(), reason).into());
            }
        }
    }
}

/// The path under which a file is stored.
fn stored_path(stem: &StorePath, encoding: Encoding) -> Result<StorePath, ParsePathError> {
    format!("{stem}{}", encoding.extension()).parse()
}

/// Makes the existing file durable and compares it with the payload; `None` where it is not there any more.
fn same_content(existing: &StorePath, payload: &Payload, target: &dyn Store) -> Result<Option<bool>, ShipError> {
    if !target.settle(existing)? {
        return Ok(None);
    }
    let Some(stored) = target.open(existing)? else { return Ok(None) };
    let source = |source| ShipError::Source { path: payload.file.display().to_string(), source };
    let file = payload.open().map_err(source)?;
    let mut ours = payload.encoding.decoder(file).map_err(source)?;

    let (watched, trouble) = Watched::new(stored);
    let theirs = |error: io::Error| match trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The bytes did not come: that says nothing about the file.
        Some(read) => StoreError::from_read(target.place(), existing.as_str(), read),
        None => StoreError::Damaged {
            place: target.place().clone(),
            path: existing.to_string(),
            detail: format!("it cannot be decoded: {error}"),
        },
    };
    let (_, encoding) = Encoding::split(existing.file_name());
    let mut decoded = encoding.decoder(Box::new(watched)).map_err(theirs)?;
    let (mut left, mut right) = (vec![0u8; COMPARE_SIZE], vec![0u8; COMPARE_SIZE]);
    let mut same = true;
    loop {
        let count = read_full(&mut *decoded, &mut right).map_err(theirs)?;
        // A difference is no end: a file that turns out damaged further on is damaged, not in conflict.
        if same {
            same = read_full(&mut *ours, &mut left).map_err(source)? == count && left[..count] == right[..count];
        }
        if count < right.len() {
            return Ok(Some(same));
        }
    }
}

/// A reader that keeps its own error apart from what a decoder makes of it.
struct Watched {
    inner: Box<dyn Read + Send>,
    trouble: Trouble,
}

type Trouble = Arc<Mutex<Option<io::Error>>>;

impl Watched {
    fn new(inner: Box<dyn Read + Send>) -> (Self, Trouble) {
        let trouble = Trouble::default();
        (Watched { inner, trouble: Arc::clone(&trouble) }, trouble)
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            io::Error::from(kind)
        })
    }
}

#[cfg(test)]
mod tests;
