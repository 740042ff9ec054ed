//! What is shipped: encoded once, with its size and hash, used for every place.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

use super::Encoding;

/// A file ready to be stored, byte for byte, in any number of places.
///
/// A small one lives in memory, since writing what is read again at once is the larger part of the work; a large one
/// lives in its file, so that memory does not grow with the segment size.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The file that holds the stored bytes, or will hold them once [`Payload::write_file`] was called.
    pub file: PathBuf,
    /// The stored bytes, where they are in memory.
    pub memory: Option<Arc<Vec<u8>>>,
    /// How many bytes it holds.
    pub size: u64,
    /// How they are encoded.
    pub encoding: Encoding,
    /// Known from the beginning for a file; made of what is in memory once somebody asks.
    sha256: Arc<OnceLock<[u8; 32]>>,
    /// True once what is in memory stands in the file too.
    written: Arc<Mutex<bool>>,
}

impl Payload {
    /// Bytes in memory; `file` is where they go if somebody needs them there.
    pub fn in_memory(file: PathBuf, bytes: Vec<u8>, encoding: Encoding) -> Payload {
        let size = bytes.len() as u64;
        let memory = Some(Arc::new(bytes));
        Payload { file, memory, size, encoding, sha256: Arc::default(), written: Arc::default() }
    }

    /// A file that was hashed while it was written.
    pub fn hashed(file: PathBuf, size: u64, sha256: [u8; 32], encoding: Encoding) -> Payload {
        let sha256 = Arc::new(OnceLock::from(sha256));
        Payload { file, memory: None, size, encoding, sha256, written: Arc::default() }
    }

    /// The SHA-256 of these bytes, checked where they arrive.
    pub fn sha256(&self) -> [u8; 32] {
        let hash = || Sha256::digest(self.memory.as_deref().map_or(&[][..], Vec::as_slice)).into();
        *self.sha256.get_or_init(hash)
    }

    /// Describes a file that is already there, reading it once for its hash.
    pub fn of_file(file: &Path, encoding: Encoding) -> io::Result<Payload> {
        let mut source = File::open(file)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0u8; 256 << 10];
        let mut size = 0;
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                count => {
                    hash.update(&buffer[..count]);
                    size += count as u64;
                }
            }
        }
        Ok(Payload::hashed(file.to_owned(), size, hash.finalize().into(), encoding))
    }

    /// Opens the stored bytes.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match &self.memory {
            Some(bytes) => Ok(Box::new(Cursor::new(Shared(Arc::clone(bytes))))),
            None => Ok(Box::new(File::open(&self.file)?)),
        }
    }

    /// Makes the file exist, for a queue or a later try; nothing is made durable.
    pub fn write_file(&self) -> io::Result<()> {
        let Some(bytes) = &self.memory else { return Ok(()) };
        // Once it is whole, queues link to it: writing it again would take away what they hold already.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if !*written {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.file)?;
            file.write_all(bytes)?;
            *written = true;
        }
        Ok(())
    }
}

/// Bytes that several readers share.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_queues_link_to_is_not_written_again() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (file, queued) = (folder.path().join("payload"), folder.path().join("queued"));
        let payload = Payload::in_memory(file.clone(), b"whole".to_vec(), Encoding::None);
        payload.write_file()?;
        fs::hard_link(&file, &queued)?;
        // Whatever is done to the file is seen through the link.
        fs::write(&queued, b"as it was left")?;
        payload.clone().write_file()?;
        assert_eq!(fs::read(&queued)?, b"as it was left");
        Ok(())
    }
}
