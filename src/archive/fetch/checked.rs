//! Decodes and checks a stored file into a file that nobody uses yet.
//!
//! Decoding costs most, so several threads decode frames; another one checks and writes them in their order. Nothing is
//! written that was not checked before, and the file counts only once the check of all of it has ended well.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use super::{ArchiveError, Asker, Found, Handed, WalName};
use crate::archive::spool::remove_if_there;
use crate::store::Encoding;
use crate::store::frames::{FrameDecoder, Frames, Next};
use crate::system::reading::read_full;
use crate::wal::segment::{Checker, Ending, Expected, SegmentReport};
use crate::wal::timeline::TimelineHistory;

/// How much is decoded, checked and written at a time, in bytes: a whole frame as archive-wal writes them.
const CHUNK: usize = 1 << 20;

/// How many threads decode frames. More help nobody while other servers wait for their own WAL.
const DECODERS: usize = 2;

/// The kernel finds room for this many bytes at a time faster than for more.
const WRITE: usize = 64 << 10;

/// How many pieces are on their way.
const PIECES: usize = DECODERS + 1;

/// Decodes and checks; what did not pass is not left behind.
pub(super) fn hand_over(
    found: Found,
    name: WalName,
    target: &Path,
    asker: Option<Asker>,
) -> Result<Handed, ArchiveError> {
    let place = found.place.clone();
    match copy(found, name, target, asker) {
        Ok(report) => {
            Ok(Handed { from: place, valid_until: report.map(|report| report.valid_until), notices: Vec::new() })
        }
        Err(error) => {
            // The error matters; what stays under a private name is swept later.
            let _ = remove_if_there(target);
            Err(error)
        }
    }
}

fn copy(
    found: Found,
    name: WalName,
    target: &Path,
    asker: Option<Asker>,
) -> Result<Option<SegmentReport>, ArchiveError> {
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(target);
    let out = out.map_err(ArchiveError::io("create", target))?;
    let Found { reader, encoding, place, identity, .. } = found;
    let copy = Copy { name, place: &place, target, out: &out };
    let Some(segment) = name.segment().filter(|_| name.holds_wal()) else {
        return copy.text(encoding, reader).map(|()| None);
    };
    let whose = asker.map(|asker| (asker.system, asker.segment_size)).or(identity);
    let partial = matches!(name, WalName::Partial(_));
    let checker = Checker::new(Expected {
        name: segment,
        system_id: whose.map(|(system, _)| system),
        size: whose.map(|(_, size)| size),
        partial,
    });
    let report = copy.wal(encoding, reader, checker)?;
    if let Ending::Torn { at, why } = &report.ends
        && !partial
    {
        return Err(copy.damaged(format!("valid WAL ends at {at}, before the end of the segment: {why}")));
    }
    if partial {
        // A partial file may be shorter than a segment; PostgreSQL accepts only whole ones.
        out.set_len(report.first_page.segment_size.bytes()).map_err(ArchiveError::io("extend", target))?;
    }
    Ok(Some(report))
}

/// One file on its way.
struct Copy<'a> {
    name: WalName,
    place: &'a str,
    target: &'a Path,
    out: &'a File,
}

/// What a thread has decoded, and its place among the others.
struct Piece {
    number: usize,
    bytes: Vec<u8>,
}

/// Where the cutting stands.
struct Cutting<'a> {
    frames: Frames<'a>,
    number: usize,
    /// What ended it.
    last: Option<Next>,
}

impl Copy<'_> {
    fn damaged(&self, detail: impl ToString) -> ArchiveError {
        ArchiveError::NotTheWal { name: self.name, place: self.place.to_owned(), detail: detail.to_string() }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), ArchiveError> {
        for (number, part) in bytes.chunks(WRITE).enumerate() {
            let at = offset + (number * WRITE) as u64;
            self.out.write_all_at(part, at).map_err(ArchiveError::io("write", self.target))?;
        }
        Ok(())
    }

    fn wal(
        &self,
        encoding: Encoding,
        mut reader: Box<dyn Read + Send>,
        mut checker: Checker,
    ) -> Result<SegmentReport, ArchiveError> {
        let mut offset = 0;
        if encoding == Encoding::Zstd {
            let (rest, taken) = self.frames(reader, &mut checker)?;
            let Some(rest) = rest else { return checker.finish().map_err(|error| self.damaged(error)) };
            (reader, offset) = (rest, taken);
        }
        let mut reader = encoding.decoder(reader).map_err(|error| self.damaged(error))?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = read_full(&mut *reader, &mut buffer).map_err(|error| self.damaged(error))?;
            if count == 0 {
                return checker.finish().map_err(|error| self.damaged(error));
            }
            checker.feed(offset, &buffer[..count]).map_err(|error| self.damaged(error))?;
            self.write(&buffer[..count], offset)?;
            offset += count as u64;
        }
    }

    /// Takes the frames that can be cut. What is left, none where that was all, and where it belongs.
    fn frames<'r>(
        &self,
        reader: Box<dyn Read + Send + 'r>,
        checker: &mut Checker,
    ) -> Result<(Option<Box<dyn Read + Send + 'r>>, u64), ArchiveError> {
        let cutting = Mutex::new(Cutting { frames: Frames::new(reader), number: 0, last: None });
        let (give_back, empty) = channel();
        for _ in 0..PIECES {
            // The receiver is right here.
            let _ = give_back.send(Vec::new());
        }
        let empty = Mutex::new(empty);
        let offset = std::thread::scope(|scope| {
            let (give, full) = channel();
            for _ in 0..DECODERS {
                let (cutting, empty, give) = (&cutting, &empty, give.clone());
                scope.spawn(move || {
                    let decoding = AssertUnwindSafe(|| self.decode(cutting, empty, &give));
                    if catch_unwind(decoding).is_err() {
                        // Otherwise the piece it had would be waited for as long as another thread lives.
                        let _ = give.send(Err(self.damaged("a decoder broke on it")));
                    }
                });
            }
            drop(give);
            self.check_and_write(full, give_back, checker)
        })?;
        let cutting = cutting.into_inner().unwrap_or_else(PoisonError::into_inner);
        let all = cutting.last == Some(Next::End) && cutting.number > 0;
        Ok(((!all).then(|| cutting.frames.rest()), offset))
    }

    /// A thread's life: cuts a frame, decodes it, passes it on.
    fn decode(
        &self,
        cutting: &Mutex<Cutting>,
        empty: &Mutex<Receiver<Vec<u8>>>,
        give: &Sender<Result<Piece, ArchiveError>>,
    ) {
        let mut frame = Vec::new();
        let mut decoder = FrameDecoder::new().map_err(|error| self.damaged(error));
        // Whoever has cut a frame has a buffer for it already, so nobody waits for one in vain.
        loop {
            // In a statement of its own, so that the lock is not held while the frame is decoded.
            let taken = lock(empty).recv();
            let Ok(mut bytes) = taken else { return };
            let piece = match (self.cut(cutting, &mut frame), &mut decoder) {
                (Ok(None), _) => return,
                (Ok(Some((number, plain))), Ok(decoder)) => {
                    bytes.resize(plain, 0);
                    let decoded = decoder.decode(&frame, &mut bytes);
                    decoded.map_err(|error| self.damaged(error)).map(|()| Piece { number, bytes })
                }
                (Err(error), _) => Err(error),
                (_, Err(_)) => Err(self.damaged("the decoder cannot be set up")),
            };
            let failed = piece.is_err();
            if give.send(piece).is_err() || failed {
                return;
            }
        }
    }

    /// The number of the next frame and what it holds, in bytes; none where no more can be cut.
    fn cut(&self, cutting: &Mutex<Cutting>, frame: &mut Vec<u8>) -> Result<Option<(usize, usize)>, ArchiveError> {
        let mut cutting = lock(cutting);
        if cutting.last.is_some() {
            return Ok(None);
        }
        let next = cutting.frames.next(frame, CHUNK).map_err(|error| self.damaged(error));
        let Ok(Next::Frame(plain)) = next else {
            cutting.last = Some(*next.as_ref().unwrap_or(&Next::Other));
            return next.map(|_| None);
        };
        cutting.number += 1;
        Ok(Some((cutting.number - 1, plain)))
    }

    /// Checks and writes what comes, in its order, and gives the buffers back; how many bytes that was. Once it ends,
    /// nobody waits for a buffer any more.
    fn check_and_write(
        &self,
        full: Receiver<Result<Piece, ArchiveError>>,
        give_back: Sender<Vec<u8>>,
        checker: &mut Checker,
    ) -> Result<u64, ArchiveError> {
        let (mut number, mut offset) = (0, 0);
        let mut early: Vec<Piece> = Vec::new();
        for piece in full {
            early.push(piece?);
            while let Some(at) = early.iter().position(|piece| piece.number == number) {
                let Piece { bytes, .. } = early.swap_remove(at);
                checker.feed(offset, &bytes).map_err(|error| self.damaged(error))?;
                self.write(&bytes, offset)?;
                number += 1;
                offset += bytes.len() as u64;
                // Nobody wants it back once the end is read.
                let _ = give_back.send(bytes);
            }
        }
        Ok(offset)
    }

    fn text(&self, encoding: Encoding, reader: Box<dyn Read + Send>) -> Result<(), ArchiveError> {
        let mut reader = encoding.decoder(reader).map_err(|error| self.damaged(error))?;
        let mut text = String::new();
        reader.read_to_string(&mut text).map_err(|error| self.damaged(error))?;
        if let WalName::History(timeline) = self.name {
            TimelineHistory::parse(timeline, &text).map_err(|error| self.damaged(error))?;
        }
        self.write(text.as_bytes(), 0)
    }
}

/// What a thread that panicked held is whole: the panic itself ends the copy.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks a segment that lies on this machine; none where it does not exist.
pub fn check_file(path: &Path, expected: Expected) -> Result<Option<SegmentReport>, ArchiveError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ArchiveError::io("open", path)(error)),
    };
    let name = WalName::Segment(expected.name);
    let wrong = |detail: String| ArchiveError::NotTheWal { name, place: path.display().to_string(), detail };
    let mut checker = Checker::new(expected);
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let count = read_full(&mut file, &mut buffer).map_err(ArchiveError::io("read", path))?;
        if count == 0 {
            return checker.finish().map(Some).map_err(|error| wrong(error.to_string()));
        }
        checker.feed(offset, &buffer[..count]).map_err(|error| wrong(error.to_string()))?;
        offset += count as u64;
    }
}
