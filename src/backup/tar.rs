//! The little of tar that bundles need: regular files in the ustar form, long names as GNU tar writes them.
//!
//! `tar --zstd -xf` reads what is written here. What is read here is what was written here.

use std::io::{self, Read};

/// Headers and contents come in units of so many bytes.
const UNIT: usize = 512;

/// The longest name that fits a header, in bytes.
const NAME: usize = 100;

/// What follows the last member.
pub const END: [u8; 2 * UNIT] = [0; 2 * UNIT];

/// The bytes before a file's content. `modified` is in seconds since 1970.
pub fn header(name: &str, size: u64, modified: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(UNIT);
    if name.len() > NAME {
        let mut long = name.as_bytes().to_vec();
        long.push(0);
        bytes.extend(block("././@LongLink", long.len() as u64, 0, b'L'));
        bytes.extend(&long);
        bytes.resize(bytes.len().next_multiple_of(UNIT), 0);
    }
    bytes.extend(block(name, size, modified, b'0'));
    bytes
}

/// How many zeros follow a content of this size.
pub fn padding(size: u64) -> usize {
    (size.next_multiple_of(UNIT as u64) - size) as usize
}

fn block(name: &str, size: u64, modified: u64, kind: u8) -> [u8; UNIT] {
    let mut block = [0u8; UNIT];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let name = name.as_bytes();
    put(0, &name[..name.len().min(NAME)]);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{modified:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Reads the members of a tar one after the other.
pub struct Members<R> {
    reader: R,
    /// What is left of the member under way: content and padding.
    content: u64,
    padding: usize,
}

/// One member, before its content is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

impl<R: Read> Members<R> {
    /// Begins to read.
    pub fn new(reader: R) -> Self {
        Members { reader, content: 0, padding: 0 }
    }

    /// Goes to the next member, past what was not read of the one before; `None` behind the last.
    pub fn advance(&mut self) -> io::Result<Option<Member>> {
        self.skip()?;
        let mut long = None;
        loop {
            let mut block = [0u8; UNIT];
            self.reader.read_exact(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                // The decoder must see the end of its last frame, or a tail cut off would go unseen.
                io::copy(&mut self.reader, &mut io::sink())?;
                return Ok(None);
            }
            check(&block)?;
            let size = octal(&block[124..136])?;
            if block[156] == b'L' {
                let mut name = vec![0; usize::try_from(size.min(1 << 16)).unwrap_or(0) + padding(size)];
                self.reader.read_exact(&mut name)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                long = Some(text(name)?);
                continue;
            }
            let end = block[..NAME].iter().position(|byte| *byte == 0).unwrap_or(NAME);
            let name = long.map_or_else(|| text(block[..end].to_vec()), Ok)?;
            (self.content, self.padding) = (size, padding(size));
            return Ok(Some(Member { name, size }));
        }
    }

    fn skip(&mut self) -> io::Result<()> {
        let left = self.content + self.padding as u64;
        let passed = io::copy(&mut self.reader.by_ref().take(left), &mut io::sink())?;
        (self.content, self.padding) = (0, 0);
        if passed == left { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        // A decoder that is asked for nothing takes it for a reader that is stuck.
        let count = if most == 0 { return Ok(0) } else { self.reader.read(&mut buffer[..most])? };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

fn check(block: &[u8; UNIT]) -> io::Result<()> {
    let sum: u64 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if octal(&block[148..156])? == sum { Ok(()) } else { Err(wrong("the checksum of a header is wrong")) }
}

fn octal(field: &[u8]) -> io::Result<u64> {
    let digits: Vec<u8> = field.iter().copied().filter(|byte| byte.is_ascii_digit()).collect();
    let digits = String::from_utf8(digits).unwrap_or_default();
    u64::from_str_radix(&digits, 8).map_err(|_| wrong("a number of a header is none"))
}

fn text(name: Vec<u8>) -> io::Result<String> {
    String::from_utf8(name).map_err(|_| wrong("a name is not UTF-8"))
}

fn wrong(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no tar of ours: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
        let long = format!("base/{}/1", "x".repeat(150));
        let files = [("PG_VERSION", 3), ("base/1/empty", 0), ("base/1/full", UNIT), (long.as_str(), 700)];
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (name, size) in files {
            let content = vec![7u8; size];
            bytes.extend(header(name, size as u64, 1_700_000_000));
            bytes.extend(&content);
            bytes.resize(bytes.len() + padding(size as u64), 0);
            expected.push((name.to_owned(), content));
        }
        bytes.extend(END);
        (bytes, expected)
    }

    #[test]
    fn what_is_written_is_read() {
        let (bytes, expected) = sample();
        let mut members = Members::new(&bytes[..]);
        for (name, content) in expected {
            let member = members.advance().expect("it is whole").expect("there is one more");
            assert_eq!(member, Member { name, size: content.len() as u64 });
            if member.size != 512 {
                let mut read = Vec::new();
                members.read_to_end(&mut read).expect("it is whole");
                assert_eq!(read, content);
            }
        }
        assert_eq!(members.advance().expect("it is whole"), None);
    }

    #[test]
    fn the_tar_of_the_system_reads_it() {
        let (bytes, expected) = sample();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tar");
        std::fs::write(&path, bytes).expect("it is written");
        let listed = std::process::Command::new("tar").arg("-tf").arg(&path).output().expect("tar is installed");
        let names: Vec<_> = expected.iter().map(|(name, _)| name.as_str()).collect();
        assert!(listed.status.success());
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().collect::<Vec<_>>(), names);
    }

    #[test]
    fn damage_and_a_missing_end_are_errors() {
        let (bytes, _) = sample();
        let all = |bytes: &[u8]| {
            let mut members = Members::new(bytes);
            while members.advance()?.is_some() {}
            Ok::<_, io::Error>(())
        };
        assert!(all(&bytes).is_ok());
        assert!(all(&bytes[..bytes.len() - END.len()]).is_err());
        let mut changed = bytes;
        changed[130] ^= 1;
        assert!(all(&changed).is_err());
    }
}
