//! How a file is stored: compressed or plain, and how one reads it again.
//!
//! Every form can be read by hand: `zstd -d`, `lz4 -d`, `gzip -d` or `cp`.

use std::io::{self, BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};

/// How much of a stored file is read ahead of the decoder, in bytes. Where a whole frame of Zstandard lies there and
/// the reader asks for as much as it holds, it is decoded straight to where it is wanted.
const AHEAD: usize = 2 << 20;

/// The form of a stored file, told by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As PostgreSQL wrote it.
    None,
    /// Zstandard frames with checksums, `.zst`.
    Zstd,
    /// LZ4 frames with checksums, `.lz4`.
    Lz4,
    /// gzip members, `.gz`.
    Gzip,
}

impl Encoding {
    /// Every encoding, the likeliest first: the order in which a reader looks for a file.
    pub const ALL: [Encoding; 4] = [Encoding::Zstd, Encoding::None, Encoding::Lz4, Encoding::Gzip];

    /// What stands behind the name of a file stored so.
    pub fn extension(self) -> &'static str {
        match self {
            Encoding::None => "",
            Encoding::Zstd => ".zst",
            Encoding::Lz4 => ".lz4",
            Encoding::Gzip => ".gz",
        }
    }

    /// Takes a stored name apart: the plain name and the encoding.
    pub fn split(stored: &str) -> (&str, Encoding) {
        for encoding in [Encoding::Zstd, Encoding::Lz4, Encoding::Gzip] {
            if let Some(name) = stored.strip_suffix(encoding.extension()) {
                return (name, encoding);
            }
        }
        (stored, Encoding::None)
    }

    /// Wraps a reader of stored bytes into one of plain bytes. Damage shows as an error while reading.
    pub fn decoder<'a>(self, stored: Box<dyn Read + Send + 'a>) -> io::Result<Box<dyn Read + Send + 'a>> {
        if self == Encoding::None {
            return Ok(stored);
        }
        let mut stored = BufReader::with_capacity(AHEAD, stored);
        // Every encoder writes something even for an empty file; the decoders would take nothing for an empty one.
        if stored.fill_buf()?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stored file is empty"));
        }
        Ok(match self {
            Encoding::None => Box::new(stored),
            Encoding::Zstd => Box::new(zstd::Decoder::with_buffer(stored)?),
            Encoding::Lz4 => Box::new(Lz4Frames { rest: Some(stored), frame: None }),
            Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
        })
    }
}

/// Reads LZ4 frames one after the other; the frame decoder of the library stops after the first.
struct Lz4Frames<R: Read> {
    rest: Option<BufReader<R>>,
    frame: Option<lz4_flex::frame::FrameDecoder<Endless<BufReader<R>>>>,
}

impl<R: Read> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.rest = self.frame.take().map(|frame| frame.into_inner().0);
            }
            let Some(mut rest) = self.rest.take() else { return Ok(0) };
            if rest.fill_buf()?.is_empty() {
                self.rest = Some(rest);
                return Ok(0);
            }
            self.frame = Some(lz4_flex::frame::FrameDecoder::new(Endless(rest)));
        }
    }
}

/// A reader whose end is an error: a whole frame says itself where it ends. Left to itself, the frame decoder takes the
/// end of the file between two blocks for the end of the frame, and a file cut there for a whole one.
struct Endless<R>(R);

impl<R: Read> Read for Endless<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, "the LZ4 frame is cut off")),
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_name_splits_into_name_and_encoding() {
        for encoding in Encoding::ALL {
            let stored = format!("000000010000000000000001{}", encoding.extension());
            assert_eq!(Encoding::split(&stored), ("000000010000000000000001", encoding));
        }
    }
}
