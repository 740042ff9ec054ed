//! Whose archive it is: a file written when the archive is made and checked whenever it is opened.
//!
//! It keeps two clusters with one name, or one cluster rebuilt by `initdb`, from mixing their WAL.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use crate::store::{Place, Store, StoreError, StorePath};
use crate::wal::{SegmentSize, SystemId};

/// The version of the layout of an archive.
pub const FORMAT: u32 = 1;

/// The name of the identity file at the root of an archive.
pub const FILE: &str = "identity.json";

/// No identity file is larger, in bytes.
const SIZE_MAX: u64 = 4096;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the layout; a higher one than [`FORMAT`] is refused.
    pub format: u32,
    /// The cluster's name, as in the configuration.
    pub cluster: String,
    /// PostgreSQL's system identifier; as text, since JSON numbers end at 2^53.
    #[serde(with = "crate::wal::lsn::text")]
    pub system_identifier: SystemId,
    /// The size of a WAL segment, in bytes.
    pub segment_size: SegmentSize,
}

impl Identity {
    /// The identity of an archive of this cluster.
    pub fn new(cluster: &str, system_identifier: SystemId, segment_size: SegmentSize) -> Self {
        Identity { format: FORMAT, cluster: cluster.to_owned(), system_identifier, segment_size }
    }

    /// The content of the identity file.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("because plain data has no reason not to become JSON");
        json + "\n"
    }

    /// Reads the identity of an open archive and checks what does not depend on a server: format and cluster name.
    pub fn read(store: &dyn Store, cluster: &str) -> Result<Identity, ArchiveError> {
        let place = store.place();
        let Some(file) = store.open(&path())? else {
            return Err(not_ours(place, "it has no identity file"));
        };
        let mut text = String::new();
        file.take(SIZE_MAX).read_to_string(&mut text).map_err(|source| StoreError::io(place, "read", FILE, source))?;
        let identity: Identity = serde_json::from_str(&text)
            .map_err(|error| not_ours(place, &format!("its identity file cannot be understood: {error}")))?;
        if identity.format > FORMAT {
            let detail = format!("its format is {}, this program knows formats up to {FORMAT}", identity.format);
            return Err(not_ours(place, &detail));
        }
        if identity.cluster != cluster {
            return Err(not_ours(place, &format!("it belongs to cluster '{}', not '{cluster}'", identity.cluster)));
        }
        Ok(identity)
    }

    /// Checks that a server with these facts may use an archive with this identity.
    pub fn admit(&self, place: &Place, system: SystemId, size: SegmentSize) -> Result<(), ArchiveError> {
        if self.system_identifier != system {
            let detail = format!("its system identifier is {}, the server's is {system}", self.system_identifier);
            return Err(not_ours(place, &detail));
        }
        if self.segment_size != size {
            let detail = format!("its segments have {}, the server's have {size}", self.segment_size);
            return Err(not_ours(place, &detail));
        }
        Ok(())
    }
}

/// The path of the identity file.
pub fn path() -> StorePath {
    FILE.parse().expect("because the name is plain")
}

fn not_ours(place: &Place, detail: &str) -> ArchiveError {
    ArchiveError::Identity {
        place: place.clone(),
        detail: detail.to_owned(),
        hint: format!(
            "Check cluster.name and node.{}.archive; an archive for a new cluster is made with 'archive-wal --init'.",
            place.node
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_file() {
        let identity = Identity::new("main", SystemId(u64::MAX), SegmentSize::DEFAULT);
        let read: Identity = serde_json::from_str(&identity.to_json()).expect("because it was just written");
        assert_eq!(read, identity);
        assert!(identity.to_json().contains("\"18446744073709551615\""));
    }

    #[test]
    fn another_server_is_not_admitted() {
        let place = Place { node: "db2".to_owned(), location: "/srv".to_owned() };
        let identity = Identity::new("main", SystemId(7), SegmentSize::DEFAULT);
        assert!(identity.admit(&place, SystemId(7), SegmentSize::DEFAULT).is_ok());
        assert!(identity.admit(&place, SystemId(8), SegmentSize::DEFAULT).is_err());
        let small = SegmentSize::new(1 << 20).expect("because 1 MiB is a size");
        assert!(identity.admit(&place, SystemId(7), small).is_err());
    }
}
