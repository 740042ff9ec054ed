//! Tells a place that fails while a file is read from a file that cannot be decoded.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

/// What a place said while it was read; a decoder may have made another error of it.
#[derive(Default)]
pub struct Trouble(Mutex<Option<io::Error>>);

impl Trouble {
    /// What it was, once.
    pub fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stored file that tells its own trouble from that of the decoder above it.
pub struct Stored<'a> {
    inner: Box<dyn Read + Send>,
    trouble: &'a Trouble,
}

impl<'a> Stored<'a> {
    /// Notes what goes wrong while reading `inner`.
    pub fn new(inner: Box<dyn Read + Send>, trouble: &'a Trouble) -> Self {
        Stored { inner, trouble }
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                *self.trouble.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            kind.into()
        })
    }
}
