//! Making a new archive at the far end: the cluster's folder, and the identity file in it.

use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::work::published;
use super::{Frames, Opener, ServeError, ServeSettings, read_only, say};
use crate::store::wire::{PROGRAM, Refusal, Reply, Request, WireError};
use crate::store::{Place, StoreError};
use crate::system::durable;

/// Answers a connection that wants to make an archive.
pub(super) fn serve(
    settings: &ServeSettings,
    root: &Path,
    place: Place,
    frames: &mut Frames<impl Read>,
    output: &mut impl Write,
    opener: Opener<'_>,
) -> Result<(), ServeError> {
    say(output, &Reply::Hello { program: PROGRAM.to_owned() })?;
    while let Some(request) = frames.request()? {
        let reply = match request {
            Request::Ping => Reply::Done,
            Request::Init { path } => {
                let content = frames.record()?;
                let made = if settings.read_only {
                    Err(read_only())
                } else {
                    make(settings, root, &place, &path, &content, opener).map_err(Refusal::from)
                };
                made.unwrap_or_else(Reply::Failed)
            }
            other => return Err(WireError::Body(format!("out of place: {other:?}")).into()),
        };
        say(output, &reply)?;
    }
    Ok(())
}

/// Makes the folder where it is missing, then publishes the identity as any file. Broken off between the two, it is
/// finished by the next run.
fn make(
    settings: &ServeSettings,
    root: &Path,
    place: &Place,
    path: &str,
    content: &[u8],
    opener: Opener<'_>,
) -> Result<Reply, StoreError> {
    let identity = path.parse().map_err(StoreError::Path)?;
    // The directory above is never made: where it is missing, a volume is usually not mounted.
    if !settings.archive.is_dir() {
        let directory = settings.archive.display().to_string();
        return Err(StoreError::RootMissing { place: place.clone(), directory });
    }
    durable::create_directory_durable(root)
        .map_err(|error| StoreError::io(place, "create", &root.display().to_string(), error))?;
    let depot = opener(root, place.clone())?;
    let mut incoming = depot.begin(&identity)?;
    incoming.write(content)?;
    let hash: [u8; 32] = Sha256::digest(content).into();
    Ok(published(incoming.commit(content.len() as u64, hash, &[])?))
}
