//! Where a WAL file stands in an archive: `wal/<first 16 hex digits>/<segment>.zst`, history files beside the folders.
//!
//! A folder holds the segments of one log id (4 GiB), so no lookup ever lists more than that, however old the archive.

use crate::store::path::ParsePathError;
use crate::store::{Encoding, StorePath};
use crate::wal::{SegmentName, TimelineId, WalName};

/// The folder below an archive's root that holds all WAL.
pub const WAL: &str = "wal";

/// The path of a file without the extension of its encoding.
pub fn stem(name: WalName) -> StorePath {
    let text = match name.segment() {
        Some(segment) => format!("{WAL}/{}/{name}", segment.folder()),
        None => format!("{WAL}/{name}"),
    };
    parsed(text.parse())
}

/// The path of a file in one encoding.
pub fn stored(name: WalName, encoding: Encoding) -> StorePath {
    parsed(format!("{}{}", stem(name), encoding.extension()).parse())
}

/// The folder that holds a segment.
pub fn folder(segment: SegmentName) -> StorePath {
    parsed(format!("{WAL}/{}", segment.folder()).parse())
}

/// The path of the history of a timeline.
pub fn history(timeline: TimelineId) -> StorePath {
    stem(WalName::History(timeline))
}

/// Histories and backup labels are small text that a person reads in the archive; only WAL is compressed.
pub fn encoding(name: WalName, configured: Encoding) -> Encoding {
    if name.holds_wal() { configured } else { Encoding::None }
}

fn parsed(path: Result<StorePath, ParsePathError>) -> StorePath {
    path.expect("because names of WAL files are plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_name_has_its_place() {
        let cases = [
            ("0000000100000A2B000000FF", "wal/0000000100000A2B/0000000100000A2B000000FF.zst"),
            ("0000000100000A2B000000FF.partial", "wal/0000000100000A2B/0000000100000A2B000000FF.partial.zst"),
            (
                "0000000100000A2B000000FF.00000028.backup",
                "wal/0000000100000A2B/0000000100000A2B000000FF.00000028.backup",
            ),
            ("00000002.history", "wal/00000002.history"),
        ];
        for (name, path) in cases {
            let name: WalName = name.parse().expect("because it is well formed");
            assert_eq!(stored(name, encoding(name, Encoding::Zstd)).as_str(), path);
        }
    }
}
