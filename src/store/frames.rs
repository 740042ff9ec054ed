//! Cuts Zstandard into its frames without decoding them, so that several threads can decode at once.
//!
//! Only frames that say how much they hold, and hold no more than is asked for, are cut. What comes behind the last of
//! them is left to a decoder that takes anything.

use std::io::{self, Cursor, Read};

use zstd::bulk::Decompressor;
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

/// How much is read at a time, in bytes.
const READ: usize = 256 << 10;

/// The longest frame that is cut, stored, in bytes.
const LONGEST: usize = 2 << 20;

/// A stored file, cut frame by frame.
pub struct Frames<'a> {
    stored: Box<dyn Read + Send + 'a>,
    held: Vec<u8>,
    /// Up to where what is held was cut already.
    cut: usize,
    ended: bool,
}

/// Decodes frames that were cut; one for each thread.
pub struct FrameDecoder(Decompressor<'static>);

impl FrameDecoder {
    /// A new one. Fails where there is no memory for it.
    pub fn new() -> io::Result<Self> {
        Decompressor::new().map(FrameDecoder)
    }

    /// Decodes a whole frame into a buffer as long as what it holds. Fails where the frame is damaged.
    pub fn decode(&mut self, frame: &[u8], into: &mut [u8]) -> io::Result<()> {
        let decoded = self.0.decompress_to_buffer(frame, &mut *into)?;
        if decoded == into.len() {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a frame holds less than it says"))
        }
    }
}

/// What comes next in a stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A frame that holds so many bytes.
    Frame(usize),
    /// Nothing.
    End,
    /// Something that is not cut: a longer frame, one that does not say how much it holds, or damage.
    Other,
}

impl<'a> Frames<'a> {
    /// Cuts what this reader gives.
    pub fn new(stored: Box<dyn Read + Send + 'a>) -> Self {
        Frames { stored, held: Vec::new(), cut: 0, ended: false }
    }

    /// Puts the next frame into `frame`, if it holds no more than `most` bytes. Fails where the file cannot be read.
    pub fn next(&mut self, frame: &mut Vec<u8>, most: usize) -> io::Result<Next> {
        loop {
            let held = &self.held[self.cut..];
            if held.is_empty() && self.ended {
                return Ok(Next::End);
            }
            if let Ok(stored) = find_frame_compressed_size(held) {
                let plain = get_frame_content_size(held).ok().flatten().and_then(|plain| usize::try_from(plain).ok());
                let Some(plain) = plain.filter(|plain| *plain <= most) else { return Ok(Next::Other) };
                frame.clear();
                frame.extend_from_slice(&held[..stored]);
                self.cut += stored;
                return Ok(Next::Frame(plain));
            }
            if self.ended || held.len() >= LONGEST {
                return Ok(Next::Other);
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> io::Result<()> {
        self.held.drain(..self.cut);
        self.cut = 0;
        let read = (&mut self.stored).take(READ as u64).read_to_end(&mut self.held)?;
        self.ended = read < READ;
        Ok(())
    }

    /// What was not cut.
    pub fn rest(mut self) -> Box<dyn Read + Send + 'a> {
        self.held.drain(..self.cut);
        Box::new(Cursor::new(self.held).chain(self.stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(content, 1).expect("because memory takes every byte")
    }

    fn cut(stored: Vec<u8>, most: usize) -> (Vec<Next>, Vec<u8>) {
        let mut frames = Frames::new(Box::new(Cursor::new(stored)));
        let (mut seen, mut bytes) = (Vec::new(), Vec::new());
        loop {
            let next = frames.next(&mut bytes, most).expect("because memory can be read");
            seen.push(next);
            if let Next::Frame(plain) = next {
                assert_eq!(zstd::bulk::decompress(&bytes, plain).map(|content| content.len()).ok(), Some(plain));
            } else {
                break;
            }
        }
        let mut rest = Vec::new();
        frames.rest().read_to_end(&mut rest).expect("because memory can be read");
        (seen, rest)
    }

    #[test]
    fn frames_are_cut_whatever_the_reader_gives_at_a_time() {
        let noise: Vec<u8> = (0..700_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let stored: Vec<u8> = noise.chunks(900_000).flat_map(frame).collect();
        let (seen, rest) = cut(stored, 1 << 20);
        assert_eq!(
            seen,
            [900_000, 900_000, 900_000, 100_000].map(Next::Frame).into_iter().chain([Next::End]).collect::<Vec<_>>()
        );
        assert!(rest.is_empty());
    }

    #[test]
    fn what_is_no_such_frame_is_left_to_others_byte_for_byte() {
        let long = frame(&[7; 5000]);
        let unsized_frame = zstd::stream::encode_all(&[7_u8; 100][..], 1).expect("because memory takes every byte");
        let torn = frame(b"something")[..8].to_vec();
        for other in [long, unsized_frame, torn, b"no frame at all".to_vec()] {
            let stored = [frame(b"first"), other.clone()].concat();
            let (seen, rest) = cut(stored, 1000);
            assert_eq!((seen, rest), (vec![Next::Frame(5), Next::Other], other));
        }
        assert_eq!(cut(Vec::new(), 1000), (vec![Next::End], Vec::new()));
    }
}
