//! Taking in what follows a request: the frames of a file or of a record.

use std::io::{self, BufReader, Read};

use super::work::Job;
use super::{Depot, Incoming};
use crate::store::wire::{self, Kind, Refusal, Request, WireError};
use crate::store::{StoreError, StorePath};

/// The frames of the near end, one buffer for all.
pub(super) struct Frames<R> {
    input: BufReader<R>,
    body: Vec<u8>,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(input: R) -> Self {
        Frames { input: BufReader::with_capacity(64 << 10, input), body: Vec::new() }
    }

    /// The stream itself, for what stands before the first frame.
    pub(super) fn input(&mut self) -> &mut BufReader<R> {
        &mut self.input
    }

    /// The next request. `None`: the input ended between two requests.
    pub(super) fn request(&mut self) -> Result<Option<Request>, WireError> {
        match wire::read_frame(&mut self.input, &mut self.body)? {
            None => Ok(None),
            Some(Kind::Request) => Request::decode(&self.body).map(Some),
            Some(kind) => Err(WireError::Body(format!("{kind:?} where a request should be"))),
        }
    }

    /// A record: data up to the frame marked as the last.
    pub(super) fn record(&mut self) -> Result<Vec<u8>, WireError> {
        let mut content = Vec::new();
        loop {
            let kind = self.within()?;
            if content.len() + self.body.len() > wire::RECORD_MAX {
                return Err(WireError::TooLong((content.len() + self.body.len()) as u64));
            }
            content.extend_from_slice(&self.body);
            match kind {
                Kind::Data => {}
                Kind::Last => return Ok(content),
                _ => return Err(WireError::Body(format!("{kind:?} inside a record"))),
            }
        }
    }

    /// The next frame where the input must not end.
    fn within(&mut self) -> Result<Kind, WireError> {
        wire::read_frame(&mut self.input, &mut self.body)?
            .ok_or_else(|| WireError::Io(io::ErrorKind::UnexpectedEof.into()))
    }
}

/// Begins a file under a path as it came over the wire.
pub(super) fn begin(depot: &dyn Depot, path: &str) -> Result<Box<dyn Incoming>, Refusal> {
    let path: StorePath = path.parse().map_err(StoreError::Path)?;
    if path == StorePath::root() {
        return Err(StoreError::Path(crate::store::path::ParsePathError(String::new())).into());
    }
    Ok(depot.begin(&path)?)
}

/// Receives the data of one file up to its commit. What cannot be stored is read all the same and then refused: the
/// near end sends without waiting for an answer.
pub(super) fn receive(
    frames: &mut Frames<impl Read>,
    begun: Result<Box<dyn Incoming>, Refusal>,
    rivals: &[String],
    size: u64,
) -> Result<Job, WireError> {
    let mut state = begun;
    let mut received = 0u64;
    loop {
        match frames.within()? {
            Kind::Data => {
                received += frames.body.len() as u64;
                if received > size {
                    return Err(WireError::Body(format!("more than the {size} bytes announced")));
                }
                let written = match &mut state {
                    Ok(incoming) => incoming.write(&frames.body),
                    Err(_) => Ok(()),
                };
                if let Err(error) = written {
                    // The temporary file goes at once: on a full disk its room is wanted.
                    state = Err(error.into());
                }
            }
            Kind::Request => return conclude(Request::decode(&frames.body)?, state, rivals),
            kind => return Err(WireError::Body(format!("{kind:?} inside a file"))),
        }
    }
}

/// What to do with a file once its data is here.
fn conclude(request: Request, state: Result<Box<dyn Incoming>, Refusal>, rivals: &[String]) -> Result<Job, WireError> {
    match request {
        Request::Commit { size, sha256 } => {
            let sha256 = wire::unhex(&sha256)?;
            let rivals: Result<Vec<StorePath>, _> = rivals.iter().map(|rival| rival.parse()).collect();
            Ok(match (state, rivals) {
                (Ok(incoming), Ok(rivals)) => Job::commit(incoming, size, sha256, rivals),
                (Ok(_), Err(error)) => Job::refuse(StoreError::Path(error).into()),
                (Err(refusal), _) => Job::refuse(refusal),
            })
        }
        Request::Abort => Ok(Job::abort(state.ok())),
        other => Err(WireError::Body(format!("out of place inside a file: {other:?}"))),
    }
}
