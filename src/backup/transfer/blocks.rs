//! Blocks: how files are compared without sending them, and how the differing ones travel.
//!
//! The target hashes the blocks of its old file, the source those of its own; only what differs is sent. Files are
//! worked on in parts, so that a large one keeps several cores busy and what waits between the ends stays small. On top
//! of the hashes the CRC of a whole file, put together from those of its blocks, is compared when it is complete. No
//! input or output here.

use xxhash_rust::xxh3::xxh3_128;

use super::line::LineError;
use crate::archive::encode::{Method, compress};
use crate::store::Encoding;
use crate::store::wire::{self, Kind, WireError};

/// What is compared at once, in bytes: four pages. A hash is half a thousandth of it.
pub const BLOCK: usize = 32 << 10;

/// What is read, and sent, at once, in bytes; whole blocks, and far below the longest frame.
pub const PIECE: usize = 512 << 10;

/// What one thread works on at a time, in bytes; whole pieces.
pub const PART: u64 = 32 << 20;

/// How many bytes stand before the hashes, and before data.
const HASHES_HEAD: usize = 12;
const DATA_HEAD: usize = 17;

/// What is shorter travels as it is.
const WORTH_COMPRESSING: usize = 512;

/// The hash of a block (XXH3, 128 bits).
pub type Hash = u128;

/// What is known of a block of the target's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Its CRC-32C.
    pub crc: u32,
    /// In bytes; only the last one of a file is shorter than [`BLOCK`].
    pub length: u32,
}

impl Sum {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Sum {
        Sum { crc: crc32c::crc32c(bytes), length: bytes.len() as u32 }
    }
}

/// The hash of a block.
pub fn hash(block: &[u8]) -> Hash {
    xxh3_128(block)
}

/// How many parts a file of this size has; an empty one has one too, so that its end is told.
pub fn parts(size: u64) -> u64 {
    size.div_ceil(PART).max(1)
}

/// The CRC of a file from those of its blocks; none where they do not make up a file of this size.
pub fn whole(sums: &[Option<Sum>], size: u64) -> Option<u32> {
    let blocks = usize::try_from(size.div_ceil(BLOCK as u64)).ok()?;
    let (mut crc, mut at) = (0, 0);
    for sum in sums.get(..blocks)? {
        let sum = (*sum)?;
        let due = (size - at).min(BLOCK as u64);
        if u64::from(sum.length) != due {
            return None;
        }
        crc = crc32c::crc32c_combine(crc, sum.crc, sum.length as usize);
        at += due;
    }
    Some(crc)
}

/// Where runs of differing blocks lie in a piece: offset and length, in bytes.
pub fn differing(piece: &[u8], theirs: &[Hash]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, block) in piece.chunks(BLOCK).enumerate() {
        if theirs.get(at).is_some_and(|theirs| *theirs == hash(block)) {
            continue;
        }
        let offset = at * BLOCK;
        match runs.last_mut() {
            Some((begin, length)) if *begin + *length == offset => *length += block.len(),
            _ => runs.push((offset, block.len())),
        }
    }
    runs
}

/// What the target says about one part of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The number of the file.
    pub file: u32,
    /// Where the part begins.
    pub offset: u64,
    /// One hash for each block that the target has of it.
    pub hashes: Vec<Hash>,
}

impl Hashes {
    /// As a frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HASHES_HEAD + 16 * self.hashes.len());
        body.extend(self.file.to_be_bytes());
        body.extend(self.offset.to_be_bytes());
        self.hashes.iter().for_each(|hash| body.extend(hash.to_be_bytes()));
        let mut frame = Vec::with_capacity(body.len() + 5);
        wire::put_frame(&mut frame, Kind::Data, &body);
        frame
    }

    /// Reads the body of a frame.
    pub fn parse(body: &[u8]) -> Result<Hashes, LineError> {
        let (file, rest) = body.split_first_chunk().ok_or_else(|| nonsense("hashes"))?;
        let (offset, rest) = rest.split_first_chunk().ok_or_else(|| nonsense("hashes"))?;
        let (hashes, left) = rest.as_chunks();
        if !left.is_empty() {
            return Err(nonsense("hashes"));
        }
        let hashes = hashes.iter().map(|bytes| Hash::from_be_bytes(*bytes)).collect();
        Ok(Hashes { file: u32::from_be_bytes(*file), offset: u64::from_be_bytes(*offset), hashes })
    }
}

/// Bytes of a file, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Data {
    /// The number of the file.
    pub file: u32,
    /// Where they begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Appends bytes of a file as a frame, compressed where that is worth it.
pub fn put_data(frames: &mut Vec<u8>, file: u32, offset: u64, bytes: &[u8], method: &Method) -> std::io::Result<()> {
    let worth = method.encoding != Encoding::None && bytes.len() >= WORTH_COMPRESSING;
    let encoded = if worth { Some(compress(bytes, method)?) } else { None };
    let encoded = encoded.filter(|encoded| encoded.len() < bytes.len());
    let shape = if encoded.is_some() { method.encoding } else { Encoding::None };
    let payload = encoded.as_deref().unwrap_or(bytes);
    let mut body = Vec::with_capacity(DATA_HEAD + payload.len());
    body.extend(file.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend((bytes.len() as u32).to_be_bytes());
    body.push(match shape {
        Encoding::None => 0,
        Encoding::Zstd => 1,
        Encoding::Lz4 => 2,
        Encoding::Gzip => 3,
    });
    body.extend_from_slice(payload);
    wire::put_frame(frames, Kind::Data, &body);
    Ok(())
}

/// The file whose data a frame holds.
pub fn file_of_data(body: &[u8]) -> Result<u32, LineError> {
    body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(|| nonsense("data"))
}

/// Reads the body of a frame of data.
pub fn read_data(body: &[u8]) -> Result<Data, LineError> {
    let short = || nonsense("data");
    let (file, rest) = body.split_first_chunk().ok_or_else(short)?;
    let (offset, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (shape, payload) = rest.split_first().ok_or_else(short)?;
    let length = u32::from_be_bytes(*length) as usize;
    let encoding =
        *[Encoding::None, Encoding::Zstd, Encoding::Lz4, Encoding::Gzip].get(usize::from(*shape)).ok_or_else(short)?;
    if length > PIECE {
        return Err(short());
    }
    let bytes = match encoding {
        Encoding::None => payload.to_vec(),
        encoding => decode(payload, encoding, length).map_err(|error| nonsense(&format!("data ({error})")))?,
    };
    if bytes.len() != length {
        return Err(short());
    }
    Ok(Data { file: u32::from_be_bytes(*file), offset: u64::from_be_bytes(*offset), bytes })
}

fn decode(payload: &[u8], encoding: Encoding, length: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::with_capacity(length);
    // One more than is due, so that too much is seen.
    encoding.decoder(Box::new(payload))?.take(length as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn nonsense(what: &str) -> LineError {
    LineError::Wire(WireError::Body(format!("{what} that make no sense")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(frame: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let kind = wire::read_frame(&mut &frame[..], &mut body).expect("because it was just made");
        assert_eq!(kind, Some(Kind::Data));
        body
    }

    #[test]
    fn only_what_differs_is_found() {
        let old: Vec<u8> = (0..5 * BLOCK + 100).map(|at| (at / 7 % 251) as u8).collect();
        let theirs: Vec<Hash> = old.chunks(BLOCK).map(hash).collect();
        assert_eq!(differing(&old, &theirs), []);
        let mut new = old.clone();
        new[BLOCK] ^= 1;
        new[3 * BLOCK - 1] ^= 1;
        new[5 * BLOCK + 99] ^= 1;
        assert_eq!(differing(&new, &theirs), [(BLOCK, 2 * BLOCK), (5 * BLOCK, 100)]);
        // What the target has only a part of, or not at all, is sent.
        assert_eq!(differing(&old, &theirs[..4]), [(4 * BLOCK, BLOCK + 100)]);
        assert_eq!(differing(&old[..5 * BLOCK + 50], &theirs), [(5 * BLOCK, 50)]);
    }

    #[test]
    fn the_sum_of_a_file_is_that_of_its_blocks() {
        let file: Vec<u8> = (0..2 * BLOCK + 5).map(|at| (at % 253) as u8).collect();
        let sums: Vec<Option<Sum>> = file.chunks(BLOCK).map(|block| Some(Sum::of(block))).collect();
        assert_eq!(whole(&sums, file.len() as u64), Some(crc32c::crc32c(&file)));
        assert_eq!(whole(&sums, 2 * BLOCK as u64), Some(crc32c::crc32c(&file[..2 * BLOCK])));
        assert_eq!(whole(&[], 0), Some(0));
        for size in [1, file.len() as u64 + 1, 3 * BLOCK as u64] {
            assert_eq!(whole(&sums[1..], size), None, "{size}");
        }
        assert_eq!(whole(&[sums[0], None, sums[2]], file.len() as u64), None);
    }

    proptest! {
        #[test]
        fn data_and_hashes_survive_the_journey(
            file: u32, offset: u64, bytes in proptest::collection::vec(0u8..4, 0..3000), hashes: Vec<u128>,
            encoding in proptest::sample::select(&Encoding::ALL[..]),
        ) {
            let method = Method { encoding, level: 0, threads: 1, writer: String::new() };
            let mut frame = Vec::new();
            put_data(&mut frame, file, offset, &bytes, &method)?;
            prop_assert_eq!(file_of_data(&body(&frame)).ok(), Some(file));
            prop_assert_eq!(read_data(&body(&frame)).ok(), Some(Data { file, offset, bytes }));
            let hashes = Hashes { file, offset, hashes };
            prop_assert_eq!(Hashes::parse(&body(&hashes.frame())).ok(), Some(hashes));
        }

        #[test]
        fn nonsense_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Hashes::parse(&body);
            if let Ok(data) = read_data(&body) {
                prop_assert!(data.bytes.len() <= PIECE);
            }
        }
    }
}
