//! Paths inside a store.
//!
//! A [`StorePath`] is relative, made of plain components, and cannot leave the store: it can only be made by parsing,
//! on both ends of an ssh connection.

use std::fmt;
use std::str::FromStr;

/// The longest path a store accepts, in bytes.
pub const PATH_MAX: usize = 1024;

/// The longest single name in it, in bytes: what every file system in use can hold.
pub const NAME_MAX: usize = 255;

/// Files whose names begin so are no part of the archive and are never listed.
pub use crate::system::durable::TEMPORARY_PREFIX;

/// A relative path with `/` between plain components: ASCII letters, digits, and `. _ - +`, none beginning with a dot.
/// The empty path is the root of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath(String);

/// A text that is no path inside a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no path inside an archive")]
pub struct ParsePathError(pub String);

/// True for a name that can stand in a path; what a place holds under any other name is not ours.
pub fn is_component(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
    !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('.') && name.bytes().all(plain)
}

impl StorePath {
    /// The root of the store.
    pub fn root() -> Self {
        StorePath(String::new())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path one component deeper.
    pub fn join(&self, component: &str) -> Result<StorePath, ParsePathError> {
        if self.0.is_empty() { component.parse() } else { format!("{}/{component}", self.0).parse() }
    }

    /// The folder that holds it; none for the root.
    pub fn folder(&self) -> Option<StorePath> {
        if self.0.is_empty() {
            return None;
        }
        Some(StorePath(self.0.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned()))
    }

    /// Its components, from the root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// The last component; empty for the root.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StorePath {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, ParsePathError> {
        if text.is_empty() || (text.len() <= PATH_MAX && text.split('/').all(is_component)) {
            Ok(StorePath(text.to_owned()))
        } else {
            Err(ParsePathError(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_store_are_refused() {
        for text in ["/", "/etc", "..", "a/../b", "a//b", "a/", ".hidden", "a/.tmp-1", "a b", "a\0b", "a\nb", "ä"] {
            assert!(text.parse::<StorePath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn folders_lead_to_the_root() {
        let path: StorePath = "wal/0000000100000000/x.zst".parse().expect("because it is plain");
        assert_eq!(path.file_name(), "x.zst");
        let folder = path.folder().and_then(|f| f.folder()).and_then(|f| f.folder());
        assert_eq!(folder, Some(StorePath::root()));
        assert_eq!(StorePath::root().folder(), None);
    }
}
