//! What the two ends say to each other, as plain data.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::catalog::DamagedPages;
use super::super::manifest::WalRange;
use super::super::restore::Way;
use super::line::LineError;
use crate::error::Failure;
use crate::store::Encoding;
use crate::store::wire::WireError;
use crate::wal::{Lsn, SegmentSize, SystemId, TimelineId};

/// The version of this conversation. Both ends must have the same.
pub const FORMAT: u32 = 1;

/// How many files are named in one message.
pub const FILES_IN_ONE: usize = 1000;

/// What is wanted; the end that a person called says it to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Look and compare only.
    pub dry_run: bool,
    /// How many files are read at once; 0: one for each core of the source.
    pub jobs: u32,
    /// At most so many bytes a second are read from the source's files; 0: no limit.
    pub rate_max: u64,
    /// Make the checkpoint at once.
    pub fast_checkpoint: bool,
    /// How data travel.
    pub encoding: Encoding,
    /// The level of that.
    pub level: i32,
    /// Where WAL must be found: the archive of this node. None: the first archive there is.
    pub place: Option<String>,
    /// Send the WAL that the copy needs too, whatever is archived.
    pub copy_wal: bool,
    /// Where tablespaces go instead of where they were.
    pub maps: Vec<Map>,
    /// Where `pg_wal` goes: it becomes a link to this directory.
    pub wal_dir: Option<PathBuf>,
    /// The target keeps its own files of settings where it has them.
    pub keep_config: bool,
    /// Give up WAL that may lie nowhere but in the old copy.
    pub drop_wal: bool,
}

/// Where one tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Which one.
    pub which: Which,
    /// The directory it gets.
    pub to: PathBuf,
}

/// How a tablespace is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// By its oid.
    Oid(u32),
    /// By the directory it has at the source.
    Location(PathBuf),
}

impl Map {
    /// Reads `OID=DIR` or `OLD=NEW`; both directories absolute.
    pub fn parse(text: &str) -> Option<Map> {
        let (which, to) = text.split_once('=')?;
        let absolute = |path: &str| Path::new(path).is_absolute().then(|| PathBuf::from(path));
        let which = match which.parse() {
            Ok(oid) => Which::Oid(oid),
            Err(_) => Which::Location(absolute(which)?),
        };
        Some(Map { which, to: absolute(to)? })
    }
}

/// A directory of one running kernel: two of the same are one directory under two names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    boot: String,
    device: u64,
    inode: u64,
}

impl Identity {
    /// That of a directory; none where it cannot be looked at.
    pub fn of(path: &Path) -> Option<Identity> {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(path).ok()?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Identity { boot: boot.trim().to_owned(), device: data.dev(), inode: data.ino() })
    }
}

/// The first words of each end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`FORMAT`]
    pub format: u32,
    /// The version of the program, for messages.
    pub program: String,
    /// The name of the cluster.
    pub cluster: String,
    /// Which node speaks.
    pub node: String,
    /// Which node it means to speak to; none: whoever asks.
    pub to: Option<String>,
    /// What is wanted, from the end that a person called.
    pub wish: Option<Wish>,
}

/// What the source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its system identifier.
    pub system: SystemId,
    /// The major version of its server.
    pub major: u32,
    /// What a tablespace's folder of this server is called.
    pub version_directory: String,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The history file of that timeline; none on the first one, or where the source has it no more.
    pub history: Option<String>,
    /// Up to where it has written or replayed.
    pub position: Lsn,
    /// Its data directory.
    pub directory: Option<Identity>,
    /// Its `pg_wal`, which may be elsewhere.
    pub wal_directory: Option<Identity>,
}

/// The directories of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Every directory, parents first.
    pub directories: Vec<String>,
    /// Its tablespaces.
    pub spaces: Vec<Space>,
}

/// A tablespace of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Its oid.
    pub oid: u32,
    /// Where it is there.
    pub location: String,
    /// Which directory that is.
    pub directory: Option<Identity>,
}

/// A file of the source. Its number is its place in the row of all that were announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Relative to the data directory.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// Everything of one file has been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its number.
    pub file: u32,
    /// What it is now; none: it is gone.
    pub content: Option<Content>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// In bytes.
    pub size: u64,
    /// The CRC-32C of all of it.
    pub crc: u32,
    /// When it was last written, in seconds since 1970.
    pub modified: u64,
}

/// The end of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// What makes the copy a data directory; none in a dry run.
    pub settled: Option<Settled>,
    /// What the source has counted.
    pub counted: SourceCount,
}

/// What makes a copy a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// `backup_label`, byte for byte.
    pub label: String,
    /// The control file, byte for byte.
    pub control: Vec<u8>,
    /// The WAL that is needed before the data are consistent.
    pub range: WalRange,
}

/// What the source counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCount {
    /// Files of the data directory, WAL included where it is copied.
    pub files: u64,
    /// Their size in bytes.
    pub size: u64,
    /// Files of which something was sent.
    pub files_changed: u64,
    /// How many bytes of the files were sent.
    pub changed: u64,
    /// How many bytes that took on the way, compressed.
    pub travelled: u64,
    /// `primary` or `standby`.
    pub role: String,
    /// Where the WAL is that the copy needs: words for people.
    pub wal: String,
    /// Pages whose checksum is wrong at the source.
    pub damaged_pages: Vec<DamagedPages>,
}

/// What the target counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCount {
    /// Files and directories that the source does not have and the target has no more.
    pub removed: u64,
    /// Files of its own that the target kept.
    pub kept: Vec<String>,
}

/// What one end says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Both, first.
    Hello(Hello),
    /// The source: this is what there is.
    Offer(Offer),
    /// The target: it may come, on top of this.
    Ready(Way),
    /// The source: the directories, once.
    Tree(Shape),
    /// The source: more files.
    Files(Vec<Announced>),
    /// The source: these were all for now.
    Listed,
    /// The target: it has nothing of these files.
    Lacks(Vec<u32>),
    /// The target: it keeps its own of these files.
    Keeps(Vec<u32>),
    /// The source, after all data of a file.
    Ended(Ended),
    /// The source, last.
    Close(Close),
    /// The target, last: all of it is durable.
    Done(TargetCount),
    /// Either: for the log of the end that a person called.
    Note(String),
    /// Either, while there is nothing else to say.
    Alive,
    /// Either: it ends here.
    Failed(Failure),
}

impl Message {
    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("because these types hold nothing that JSON cannot")
    }

    /// Reads the body of a frame.
    pub fn decode(body: &[u8]) -> Result<Message, LineError> {
        let wrong = |error| LineError::Wire(WireError::Body(format!("no message: {error}")));
        serde_json::from_slice(body).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_is_named_by_its_oid_or_its_directory() {
        let to = PathBuf::from("/new");
        let map = |which| Some(Map { which, to: to.clone() });
        assert_eq!(Map::parse("16400=/new"), map(Which::Oid(16400)));
        assert_eq!(Map::parse("/old=/new"), map(Which::Location("/old".into())));
        for wrong in ["", "16400", "16400=", "16400=new", "old=/new", "=/new"] {
            assert_eq!(Map::parse(wrong), None, "{wrong}");
        }
    }
}
