//! The checksum that PostgreSQL keeps in each data page (`pg_checksum_page`, `storage/checksum_impl.h`).
//!
//! An FNV-1a hash changed to run in 32 lanes at once. The page is taken with its checksum field as zero; the block's
//! number goes in, so that a page in the wrong place is found too. Pages never used (`PageIsNew`) carry none.

/// The size of a page (BLCKSZ) this module knows; a server with another one is backed up without this check.
pub const PAGE: usize = 8192;

const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// Where the lanes begin (checksumBaseOffsets).
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum of a page (`pd_checksum`) that is block `block` of its relation's fork.
pub fn page_checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let mut mix = |words: &[u32; LANES]| {
        for (sum, word) in sums.iter_mut().zip(words) {
            let mixed = *sum ^ word;
            *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
        }
    };
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    for (at, row) in rows.iter().enumerate() {
        let mut words = [0; LANES];
        for (word, bytes) in words.iter_mut().zip(row.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        if at == 0 {
            // The checksum itself: bytes 8 and 9, the first half of the third word in memory.
            let bytes = words[2].to_ne_bytes();
            words[2] = u32::from_ne_bytes([0, 0, bytes[2], bytes[3]]);
        }
        mix(&words);
    }
    mix(&[0; LANES]);
    mix(&[0; LANES]);
    let folded = sums.iter().fold(block, |all, sum| all ^ sum);
    // Never 0, which stands for "no checksum".
    u16::try_from(folded % 65_535).unwrap_or(0) + 1
}

/// True where the page was never used, or its checksum is right.
pub fn is_sound(page: &[u8; PAGE], block: u32) -> bool {
    let upper = u16::from_ne_bytes([page[14], page[15]]);
    upper == 0 || u16::from_ne_bytes([page[8], page[9]]) == page_checksum(page, block)
}

/// Where in `bytes` pages lie that are not sound; `first` is the block number of the first page. What follows the last
/// whole page is not looked at.
pub fn unsound(bytes: &[u8], first: u32) -> Vec<usize> {
    let (pages, _) = bytes.as_chunks::<PAGE>();
    let numbered = pages.iter().enumerate();
    numbered.filter(|(at, page)| !is_sound(page, first.wrapping_add(*at as u32))).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page like PostgreSQL's, sealed for this block.
    fn page(block: u32) -> [u8; PAGE] {
        let mut page = [0u8; PAGE];
        for (at, byte) in page.iter_mut().enumerate() {
            *byte = (at * 31 % 251) as u8;
        }
        let sum = page_checksum(&page, block).to_ne_bytes();
        page[8..10].copy_from_slice(&sum);
        page
    }

    #[test]
    fn the_stored_checksum_is_no_part_of_itself() {
        let sealed = page(7);
        assert!(is_sound(&sealed, 7));
        assert_eq!(page_checksum(&sealed, 7), u16::from_ne_bytes([sealed[8], sealed[9]]));
    }

    #[test]
    fn a_changed_byte_and_a_wrong_place_are_found() {
        let sealed = page(7);
        assert!(!is_sound(&sealed, 8));
        for at in [0, 10, 100, PAGE - 1] {
            let mut changed = sealed;
            changed[at] ^= 0x40;
            assert!(!is_sound(&changed, 7), "byte {at}");
        }
    }

    #[test]
    fn new_pages_and_the_rest_behind_the_last_page_are_left_out() {
        let mut bytes = Vec::from([0u8; PAGE]);
        bytes.extend(page(1));
        bytes.extend(page(1));
        bytes.extend([1, 2, 3]);
        assert_eq!(unsound(&bytes, 0), [2]);
    }
}
