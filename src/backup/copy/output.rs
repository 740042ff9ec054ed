//! A payload that is being written to the spool, piece by piece, each a frame of its own.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::PIECE;
use crate::archive::encode::Encoder;
use crate::backup::BackupError;
use crate::store::{Encoding, Payload};

/// A payload that is being written.
pub struct Output {
    file: File,
    path: PathBuf,
    hash: Sha256,
    size: u64,
}

impl Output {
    /// Begins a payload.
    pub fn create(path: &Path) -> Result<Self, BackupError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.map_err(BackupError::io("create", path))?;
        Ok(Output { file, path: path.to_owned(), hash: Sha256::new(), size: 0 })
    }

    /// Writes what is encoded already.
    pub fn write(&mut self, encoded: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(encoded).map_err(BackupError::io("write", &self.path))?;
        self.hash.update(encoded);
        self.size += encoded.len() as u64;
        Ok(())
    }

    /// The payload, whole.
    pub fn finish(mut self, encoding: Encoding, encoder: &mut Encoder) -> Result<Payload, BackupError> {
        if self.size == 0 {
            // A stored file is never empty, or the decoder could not tell an empty one from a lost one.
            let mut encoded = Vec::new();
            encoder.encode(&[], &mut encoded).map_err(BackupError::io("compress into", &self.path))?;
            self.write(&encoded)?;
        }
        Ok(Payload::hashed(self.path, self.size, self.hash.finalize().into(), encoding))
    }
}

/// Gathers bytes to pieces before they are encoded.
pub struct Gatherer<'a> {
    out: &'a mut Output,
    encoder: &'a mut Encoder,
    pending: Vec<u8>,
    encoded: Vec<u8>,
}

impl<'a> Gatherer<'a> {
    /// Begins; what is gathered goes into `out`.
    pub fn new(out: &'a mut Output, encoder: &'a mut Encoder) -> Self {
        Gatherer { out, encoder, pending: Vec::with_capacity(PIECE), encoded: Vec::new() }
    }

    /// Takes some bytes.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is gathered.
    pub fn flush(&mut self) -> Result<(), BackupError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let failed = BackupError::io("compress into", &self.out.path);
        self.encoder.encode(&self.pending, &mut self.encoded).map_err(failed)?;
        self.pending.clear();
        self.out.write(&self.encoded)
    }
}

/// Bytes as a payload that needs no file.
pub fn plain(bytes: Vec<u8>) -> Payload {
    Payload::in_memory(PathBuf::new(), bytes, Encoding::None)
}

/// Bytes, encoded as one piece, as a payload that needs no file.
pub fn encoded(bytes: &[u8], encoding: Encoding) -> Result<Payload, BackupError> {
    let mut encoded = Vec::new();
    let done = Encoder::new(encoding, 0).and_then(|mut encoder| encoder.encode(bytes, &mut encoded));
    done.map_err(BackupError::io("compress", "a small file"))?;
    Ok(Payload::in_memory(PathBuf::new(), encoded, encoding))
}
