//! What is remembered of each block of a large file, so that the next backup knows which have changed.
//!
//! Two independent 32-bit sums of the content, its CRC-32C and half of its XXH3. Blocks are compared by content, never
//! by page LSN: a fork without LSNs, a hint bit, a page of zeros, a file that CREATE DATABASE copied with its old LSNs
//! and a relation under the name of another are all no special cases. From the CRCs of the blocks follows the CRC of
//! the file, by which remembered sums are proven to belong to it. They lie as `sums/<path>` in the backup, eight bytes
//! a block, in little-endian order: the CRC, then the hash.

use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

use super::checksum::PAGE;

/// What is remembered of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSum {
    /// The CRC-32C of its content.
    crc: u32,
    /// The lower half of its XXH3.
    hash: u32,
}

impl BlockSum {
    /// Sums a block up.
    pub fn of(block: &[u8; PAGE]) -> BlockSum {
        BlockSum { crc: crc32c::crc32c(block), hash: xxh3_64(block) as u32 }
    }
}

/// The CRC-32C of whole blocks in a row, from what is remembered of each; `before` is that of what precedes them.
pub fn crc_of(before: u32, sums: &[BlockSum]) -> u32 {
    sums.iter().fold(before, |crc, sum| SHIFT.apply(crc) ^ sum.crc)
}

/// The bytes of `sums/<path>`.
pub fn to_bytes(sums: &[BlockSum]) -> Vec<u8> {
    sums.iter().flat_map(|sum| [sum.crc.to_le_bytes(), sum.hash.to_le_bytes()]).flatten().collect()
}

/// Reads `sums/<path>`; `None` where they are not those of a file with this size (bytes) and CRC-32C.
pub fn from_bytes(bytes: &[u8], size: u64, crc: u32) -> Option<Vec<BlockSum>> {
    let (pairs, rest) = bytes.as_chunks::<8>();
    let sums: Vec<BlockSum> = pairs
        .iter()
        .map(|[a, b, c, d, e, f, g, h]| BlockSum {
            crc: u32::from_le_bytes([*a, *b, *c, *d]),
            hash: u32::from_le_bytes([*e, *f, *g, *h]),
        })
        .collect();
    let fits = rest.is_empty() && sums.len() as u64 * PAGE as u64 == size && crc_of(0, &sums) == crc;
    fits.then_some(sums)
}

/// What a block of zeros behind it makes of a CRC: a linear map of 32 bits, kept as one table for each byte.
struct Shift([[u32; 256]; 4]);

static SHIFT: LazyLock<Shift> = LazyLock::new(|| {
    let mut tables = [[0; 256]; 4];
    for (at, table) in tables.iter_mut().enumerate() {
        for (byte, entry) in table.iter_mut().enumerate() {
            *entry = crc32c::crc32c_combine((byte as u32) << (8 * at), 0, PAGE);
        }
    }
    Shift(tables)
});

impl Shift {
    fn apply(&self, crc: u32) -> u32 {
        crc.to_le_bytes().iter().zip(&self.0).fold(0, |all, (byte, table)| all ^ table[usize::from(*byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(count: usize) -> Vec<u8> {
        (0..count * PAGE).map(|at| (at * 7 / 3 + at / PAGE * 11) as u8).collect()
    }

    fn sums(bytes: &[u8]) -> Vec<BlockSum> {
        bytes.as_chunks::<PAGE>().0.iter().map(BlockSum::of).collect()
    }

    #[test]
    fn the_blocks_give_the_crc_of_the_file() {
        let bytes = blocks(37);
        let sums = sums(&bytes);
        assert_eq!(crc_of(0, &sums), crc32c::crc32c(&bytes));
        assert_eq!(crc_of(crc_of(0, &sums[..5]), &sums[5..]), crc32c::crc32c(&bytes));
        assert_eq!(crc_of(0, &[]), 0);
    }

    #[test]
    fn only_the_sums_of_this_very_file_are_taken() {
        let bytes = blocks(9);
        let (size, crc) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        let stored = to_bytes(&sums(&bytes));
        assert_eq!(from_bytes(&stored, size, crc), Some(sums(&bytes)));
        assert_eq!(from_bytes(&stored, size, crc ^ 1), None);
        assert_eq!(from_bytes(&stored, size + 1, crc), None);
        assert_eq!(from_bytes(&stored[..stored.len() - 1], size, crc), None);
        let mut exchanged = stored.clone();
        exchanged[..16].rotate_left(8);
        assert_eq!(from_bytes(&exchanged, size, crc), None);
    }

    #[test]
    fn every_changed_bit_is_seen_by_both_halves() {
        let block: [u8; PAGE] = std::array::from_fn(|at| at as u8);
        let sum = BlockSum::of(&block);
        for at in (0..PAGE).step_by(97) {
            let mut changed = block;
            changed[at] ^= 1 << (at % 8);
            let other = BlockSum::of(&changed);
            assert!(other.crc != sum.crc && other.hash != sum.hash, "byte {at}");
        }
    }
}
