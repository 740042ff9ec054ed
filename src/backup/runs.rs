//! Changed blocks of a file, as an incremental backup stores them: runs of neighbours, in ascending order.
//!
//! Each run is the number of its first block and how many follow, 32 bits each in little-endian order, and then the
//! blocks themselves, 8192 bytes each. Nothing stands before the first run or behind the last. Numbers count within the
//! file, not within the relation.

use std::io::{self, Read};

use super::checksum::PAGE;

/// Appends those pages of `bytes` for which `changed` holds; `first` is the number of the first page. Answers how many.
pub fn append(bytes: &[u8], first: u32, changed: impl Fn(usize) -> bool, runs: &mut Vec<u8>) -> u32 {
    let (pages, _) = bytes.as_chunks::<PAGE>();
    let (mut at, mut all) = (0, 0);
    while at < pages.len() {
        let length = (at..pages.len()).take_while(|page| changed(*page)).count();
        if length > 0 {
            runs.extend(first.wrapping_add(at as u32).to_le_bytes());
            runs.extend((length as u32).to_le_bytes());
            runs.extend_from_slice(pages[at..at + length].as_flattened());
            all += length as u32;
        }
        at += length + 1;
    }
    all
}

/// Reads runs one block after the other.
pub struct Runs<R> {
    reader: R,
    /// The next block and how many of its run are left, itself included; none before the first run is read.
    next: Option<(u32, u32)>,
    /// The least number that may follow.
    least: u32,
    ended: bool,
}

impl<R: Read> Runs<R> {
    /// Begins to read.
    pub fn new(reader: R) -> Self {
        Runs { reader, next: None, least: 0, ended: false }
    }

    /// The number of the next block; `None` behind the last.
    pub fn peek(&mut self) -> io::Result<Option<u32>> {
        if self.next.is_none() && !self.ended {
            self.next = self.head()?;
            self.ended = self.next.is_none();
        }
        Ok(self.next.map(|(block, _)| block))
    }

    /// Reads the content of the block that [`Runs::peek`] named.
    pub fn read(&mut self, page: &mut [u8; PAGE]) -> io::Result<()> {
        let (block, left) = self.next.ok_or_else(|| wrong("no block was named"))?;
        self.reader.read_exact(page)?;
        self.least = block.checked_add(1).ok_or_else(|| wrong("a block has too large a number"))?;
        self.next = (left > 1).then_some((self.least, left - 1));
        Ok(())
    }

    /// Reads the head of a run.
    fn head(&mut self) -> io::Result<Option<(u32, u32)>> {
        let mut head = [0u8; 8];
        let mut filled = 0;
        while filled < head.len() {
            match self.reader.read(&mut head[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [a, b, c, d, e, f, g, h] = head;
        let (first, count) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if first < self.least || count == 0 {
            return Err(wrong("its runs are not in order"));
        }
        Ok(Some((first, count)))
    }
}

fn wrong(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(count: usize) -> Vec<u8> {
        (0..count).flat_map(|page| [page as u8; PAGE]).collect()
    }

    fn read_all(bytes: &[u8]) -> io::Result<Vec<(u32, u8)>> {
        let mut runs = Runs::new(bytes);
        let mut found = Vec::new();
        while let Some(block) = runs.peek()? {
            let mut page = [0; PAGE];
            runs.read(&mut page)?;
            found.push((block, page[PAGE - 1]));
        }
        Ok(found)
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let changed = [1, 2, 5, 7, 8, 9];
        let mut runs = Vec::new();
        assert_eq!(append(&pages(10), 100, |page| changed.contains(&page), &mut runs), 6);
        assert_eq!(append(&pages(3), 110, |_| false, &mut runs), 0);
        assert_eq!(append(&pages(2), 113, |_| true, &mut runs), 2);
        assert_eq!(runs.len(), 8 * PAGE + 4 * 8);
        let expected = changed.map(|page| (100 + page as u32, page as u8));
        let read = read_all(&runs).expect("because it is whole");
        assert_eq!((&read[..6], &read[6..]), (&expected[..], &[(113, 0), (114, 1)][..]));
        assert_eq!(read_all(&[]).expect("because nothing changed"), []);
    }

    #[test]
    fn what_is_cut_off_or_out_of_order_is_an_error() {
        let mut runs = Vec::new();
        append(&pages(4), 0, |page| page != 2, &mut runs);
        for cut in [3, 8, 9, runs.len() - 1] {
            assert!(read_all(&runs[..cut]).is_err(), "cut at {cut}");
        }
        let twice = [&runs[..], &runs[..]].concat();
        assert!(read_all(&twice).is_err());
        assert!(read_all(&[0; 8]).is_err(), "a run of nothing");
    }
}
