//! A file put together while it is read: the newest content of each block wins.

use std::io::{self, Read};

use super::checksum::PAGE;
use super::runs::Runs;
use crate::system::reading::read_full;

/// How much is put together at once, in bytes; whole pages.
const CHUNK: usize = 256 << 10;

/// Reads a file of which blocks were stored again after it was stored whole.
pub struct Overlay<R> {
    /// The file as it was stored whole; none where the blocks are all of it.
    base: Option<R>,
    /// Blocks that were stored later, the oldest first.
    layers: Vec<Runs<R>>,
    /// How large the file is, and how much of it is put together, in bytes.
    size: u64,
    done: u64,
    /// What is put together, and how much of that was handed over.
    chunk: Vec<u8>,
    given: usize,
}

impl<R: Read> Overlay<R> {
    /// Begins a file of this size.
    pub fn new(base: Option<R>, layers: Vec<R>, size: u64) -> Self {
        let layers = layers.into_iter().map(Runs::new).collect();
        Overlay { base, layers, size, done: 0, chunk: Vec::with_capacity(CHUNK), given: 0 }
    }

    /// Puts the next chunk together.
    fn fill(&mut self) -> io::Result<()> {
        let wanted = usize::try_from(self.size - self.done).unwrap_or(CHUNK).min(CHUNK);
        self.chunk.resize(wanted, 0);
        self.given = 0;
        let mut have = 0;
        if let Some(base) = &mut self.base {
            have = read_full(base, &mut self.chunk)?;
        }
        let mut held = [false; CHUNK / PAGE];
        held[..have / PAGE].fill(true);
        let (pages, rest) = self.chunk.as_chunks_mut::<PAGE>();
        if !rest.is_empty() {
            return Err(wrong("a file of which blocks are stored must consist of whole blocks".to_owned()));
        }
        let first = self.done / PAGE as u64;
        for layer in &mut self.layers {
            while let Some(block) = layer.peek()? {
                let Some(page) = usize::try_from(u64::from(block) - first).ok().and_then(|at| pages.get_mut(at)) else {
                    break;
                };
                layer.read(page)?;
                held[usize::try_from(u64::from(block) - first).unwrap_or(0)] = true;
            }
        }
        if let Some(lost) = held[..pages.len()].iter().position(|held| !held) {
            return Err(wrong(format!("block {} is stored nowhere", first + lost as u64)));
        }
        self.done += wanted as u64;
        Ok(())
    }
}

impl<R: Read> Read for Overlay<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() && self.done < self.size {
            self.fill()?;
        }
        let count = buffer.len().min(self.chunk.len() - self.given);
        buffer[..count].copy_from_slice(&self.chunk[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

fn wrong(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::runs;

    /// Pages that hold one number each.
    fn pages(numbers: &[u8]) -> Vec<u8> {
        numbers.iter().flat_map(|number| [*number; PAGE]).collect()
    }

    /// Blocks stored one by one: the number of each and what it holds.
    fn layer(blocks: &[(u32, u8)]) -> Vec<u8> {
        let mut stored = Vec::new();
        for (block, number) in blocks {
            runs::append(&pages(&[*number]), *block, |_| true, &mut stored);
        }
        stored
    }

    fn read(base: Option<&[u8]>, layers: &[Vec<u8>], blocks: u64) -> io::Result<Vec<u8>> {
        let layers = layers.iter().map(Vec::as_slice).collect();
        let mut bytes = Vec::new();
        Overlay::new(base, layers, blocks * PAGE as u64).read_to_end(&mut bytes)?;
        Ok(bytes.as_chunks::<PAGE>().0.iter().map(|page| page[PAGE - 1]).collect())
    }

    #[test]
    fn the_newest_block_wins() {
        let base = pages(&[1; 100]);
        let layers = [layer(&[(0, 2), (40, 2), (99, 2), (100, 2)]), layer(&[(40, 3), (41, 3)])];
        let mut expected = vec![1; 101];
        for (block, number) in [(0, 2), (40, 3), (41, 3), (99, 2), (100, 2)] {
            expected[block] = number;
        }
        assert_eq!(read(Some(&base), &layers, 101).expect("because it is whole"), expected);
    }

    #[test]
    fn a_file_that_shrank_and_grew_again_holds_nothing_of_before() {
        let base = pages(&[1; 80]);
        // Grown to 120, cut to 10, grown to 60.
        let grown: Vec<_> = (80..120).map(|block| (block, 2)).collect();
        let again: Vec<_> = (10..60).map(|block| (block, 4)).collect();
        let layers = [layer(&grown), layer(&[]), layer(&again)];
        assert_eq!(read(Some(&base), &layers[..2], 10).expect("because it is whole"), [1; 10]);
        let expected: Vec<u8> = [[1; 10].as_slice(), &[4; 50]].concat();
        assert_eq!(read(Some(&base), &layers, 60).expect("because it is whole"), expected);
        assert!(read(Some(&base), &layers, 0).expect("because it is empty").is_empty());
    }

    #[test]
    fn a_block_that_is_nowhere_is_an_error() {
        assert!(read(Some(&pages(&[1; 3])), &[layer(&[(4, 2)])], 5).is_err());
        assert!(read(None, &[layer(&[(0, 2)])], 2).is_err());
        assert_eq!(read(None, &[layer(&[(0, 2), (1, 3)])], 2).expect("because it is whole"), [2, 3]);
        let cut = layer(&[(0, 2), (1, 3)]);
        assert!(read(None, &[cut[..cut.len() - 1].to_vec()], 2).is_err());
    }
}
