//! What is shipped: a file in the spool, encoded once, with its size and hash, used for every place.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Encoding;

/// A file ready to be stored, byte for byte, in any number of places.
///
/// It lives in a file rather than in memory so that memory does not grow with the segment size and a queue can keep it
/// by a hard link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The file that holds the stored bytes.
    pub file: PathBuf,
    /// How many bytes it holds.
    pub size: u64,
    /// The SHA-256 of these bytes, checked where they arrive.
    pub sha256: [u8; 32],
    /// How they are encoded.
    pub encoding: Encoding,
}

impl Payload {
    /// Describes a file that is already there, reading it once for its hash.
    pub fn of_file(file: &Path, encoding: Encoding) -> io::Result<Payload> {
        use sha2::{Digest, Sha256};
        let mut source = File::open(file)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0u8; 256 << 10];
        let mut size = 0;
        loop {
            match io::Read::read(&mut source, &mut buffer)? {
                0 => break,
                count => {
                    hash.update(&buffer[..count]);
                    size += count as u64;
                }
            }
        }
        Ok(Payload { file: file.to_owned(), size, sha256: hash.finalize().into(), encoding })
    }

    /// Opens the stored bytes.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.file)
    }
}
