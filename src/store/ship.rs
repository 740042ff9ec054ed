//! (being written)
use super::*;
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
    Store(#[from] StoreError),
    /// The spool file could not be read.
    #[error("cannot read '{path}'")]
    Source { path: String, source: std::io::Error },
    /// The name is taken by other content; `path` is the stored file in the way.
    #[error("'{path}' already exists in the {place} with different content")]
    Occupied { place: Place, path: StorePath },
}
/// Makes the file at `stem` (a path without the encoding's extension) exist in `target` with the payload's content.
pub fn ship(stem: &StorePath, payload: &Payload, target: &dyn Store) -> Result<Shipped, ShipError> {
    let _ = (stem, payload, target);
    todo!()
}
