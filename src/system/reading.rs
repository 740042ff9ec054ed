//! Reading until a buffer is full: one read of the system may give less, and that is no end.
//!
//! Promises that only the end of a file makes an answer shorter than the buffer. Leaves out waiting and deadlines.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Fills the buffer as far as the reader goes; answers how many bytes that were.
pub fn read_full(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    full(buffer, |rest, _| reader.read(rest))
}

/// Fills the buffer from an offset as far as the file goes; answers how many bytes that were.
pub fn read_full_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    full(buffer, |rest, filled| file.read_at(rest, offset + filled))
}

fn full(buffer: &mut [u8], mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
