//! `restore_command`: looks for one file in the places, in order, and hands it over only when its content is proven.
//!
//! PostgreSQL believes whatever it is handed: a full-size file of garbage ends recovery without an error. So this is
//! the only place that can know. A copy that fails the check is as if that place could not tell, and the next place is
//! asked; the answer "absent" needs every place to have said so.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::layout;
use super::places::{Site, Sites};
use super::queue::{self, Queue};
use super::spool::{Spool, remove_if_there};
use crate::config::{Config, PlaceWord};
use crate::error::{Class, Explain};
use crate::postgres::control::ControlFile;
use crate::store::Encoding;
use crate::wal::segment::{Checker, Ending, Expected, SegmentReport};
use crate::wal::timeline::TimelineHistory;
use crate::wal::{Lsn, SegmentSize, SystemId, WalName};

/// How much is decoded, checked and written at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Fetches files by one configuration. Shared by all threads of a process.
pub struct Fetcher {
    config: Arc<Config>,
    sites: Arc<Sites>,
    spool: Spool,
}

/// What is known of the server that asks; a file of another cluster is never handed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Its system identifier.
    pub system: SystemId,
    /// Its segment size.
    pub segment_size: SegmentSize,
}

/// The answer to "give me that file".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is where it was asked for.
    Handed(Handed),
    /// Every place was asked and none holds it.
    Absent,
}

/// A file that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Which place held it.
    pub from: String,
    /// For WAL: where valid WAL ends in it.
    pub valid_until: Option<Lsn>,
    /// What an operator should read in the log.
    pub notices: Vec<String>,
}

/// A stored file, open.
struct Found {
    reader: Box<dyn Read + Send>,
    encoding: Encoding,
    place: String,
    identity: Option<(SystemId, SegmentSize)>,
}

/// One place to look in.
enum Source {
    Site(Arc<Site>),
    Queues,
}

impl Fetcher {
    /// A fetcher with this configuration.
    pub fn new(config: &Arc<Config>, sites: &Arc<Sites>) -> Self {
        Fetcher { config: Arc::clone(config), sites: Arc::clone(sites), spool: Spool::new(&config.local.spool) }
    }

    /// What the control file of the data directory says of the server that asks; none where there is no such file.
    pub fn asker(pgdata: &Path) -> Result<Option<Asker>, ArchiveError> {
        if !pgdata.join("global/pg_control").exists() {
            return Ok(None);
        }
        let control = ControlFile::read(pgdata).map_err(|error| ArchiveError::Elsewhere(error.into()))?;
        Ok(Some(Asker { system: control.system_id, segment_size: control.segment_size }))
    }

    /// Puts the file called `name` at `target`, whole and checked, or says that no place holds it.
    pub fn fetch(&self, name: WalName, target: &Path, asker: Option<Asker>) -> Result<Answer, ArchiveError> {
        let mut reasons = Vec::new();
        let mut worst: Option<(Class, Option<String>)> = None;
        for source in self.sources() {
            match self.fetch_from(&source, name, target, asker) {
                Ok(Some(mut handed)) => {
                    handed.notices = reasons;
                    return Ok(Answer::Handed(handed));
                }
                Ok(None) => {}
                Err(error) => {
                    if let Source::Site(site) = &source {
                        site.close();
                    }
                    worst.get_or_insert((error.class(), error.hint()));
                    reasons.push(error.to_string());
                }
            }
        }
        match worst {
            None => Ok(Answer::Absent),
            Some((class, hint)) => Err(ArchiveError::CannotTell { name, class, reasons, hint }),
        }
    }

    fn fetch_from(
        &self,
        source: &Source,
        name: WalName,
        target: &Path,
        asker: Option<Asker>,
    ) -> Result<Option<Handed>, ArchiveError> {
        match self.find(source, name, asker)? {
            Some(found) => hand_over(found, name, target, asker).map(Some),
            None => Ok(None),
        }
    }

    /// The sites that are asked, in the order they are asked in.
    pub fn sites(&self) -> Vec<Arc<Site>> {
        self.sources()
            .into_iter()
            .filter_map(|source| match source {
                Source::Site(site) => Some(site),
                Source::Queues => None,
            })
            .collect()
    }

    fn sources(&self) -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::new();
        for word in &self.config.restore.from {
            if *word == PlaceWord::Queue {
                sources.push(Source::Queues);
                continue;
            }
            for site in self.sites.of(&self.config.places(std::slice::from_ref(word))) {
                let seen = |source: &Source| matches!(source, Source::Site(seen) if seen.name() == site.name());
                if !sources.iter().any(seen) {
                    sources.push(Source::Site(site));
                }
            }
        }
        sources
    }

    fn find(&self, source: &Source, name: WalName, asker: Option<Asker>) -> Result<Option<Found>, ArchiveError> {
        match source {
            Source::Site(site) => self.find_in_site(site, name, asker),
            Source::Queues => self.find_in_queues(name),
        }
    }

    fn find_in_site(&self, site: &Site, name: WalName, asker: Option<Asker>) -> Result<Option<Found>, ArchiveError> {
        let archive = site.archive()?;
        if let Some(asker) = asker {
            archive.identity.admit(archive.store.place(), asker.system, asker.segment_size)?;
        }
        for encoding in self.encodings(name) {
            if let Some(reader) = archive.store.open(&layout::stored(name, encoding))? {
                let identity = Some((archive.identity.system_identifier, archive.identity.segment_size));
                return Ok(Some(Found { reader, encoding, place: archive.store.place().to_string(), identity }));
            }
        }
        Ok(None)
    }

    fn find_in_queues(&self, name: WalName) -> Result<Option<Found>, ArchiveError> {
        for node in queue::nodes(&self.spool)? {
            if let Some(queued) = Queue::new(&self.spool, &node).find(name)? {
                let file = File::open(&queued.path).map_err(ArchiveError::io("open", &queued.path))?;
                let place = format!("queue for {node}");
                return Ok(Some(Found { reader: Box::new(file), encoding: queued.encoding, place, identity: None }));
            }
        }
        Ok(None)
    }

    /// The likeliest encoding first: each miss may cost a round trip.
    fn encodings(&self, name: WalName) -> Vec<Encoding> {
        let first = layout::encoding(name, self.config.archive.compress);
        let others = Encoding::ALL.into_iter().filter(|encoding| *encoding != first && name.holds_wal());
        std::iter::once(first).chain(others).collect()
    }

    /// When the first place that holds the file got it, by that machine's clock; for `restore.delay`.
    pub fn stored_at(&self, name: WalName) -> Result<Option<SystemTime>, ArchiveError> {
        for site in self.sites() {
            let archive = site.archive()?;
            for encoding in self.encodings(name) {
                if let Some(entry) = archive.store.look(&layout::stored(name, encoding))? {
                    return Ok(Some(entry.modified));
                }
            }
        }
        Ok(None)
    }
}

/// Decodes into a temporary file beside the target, checks, and only then gives it the target's name.
fn hand_over(found: Found, name: WalName, target: &Path, asker: Option<Asker>) -> Result<Handed, ArchiveError> {
    let temporary = temporary(target);
    let place = found.place.clone();
    let copied = copy_checked(found, name, &temporary, asker);
    let report = match copied {
        Ok(report) => report,
        Err(error) => {
            // The error matters; whoever writes here next overwrites the leftover.
            let _ = remove_if_there(&temporary);
            return Err(error);
        }
    };
    fs::rename(&temporary, target).map_err(ArchiveError::io("rename to", target))?;
    Ok(Handed { from: place, valid_until: report.map(|report| report.valid_until), notices: Vec::new() })
}

/// Where a file is checked before it takes the target's name.
pub fn temporary(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".pgwarm-{}", std::process::id()));
    target.with_file_name(name)
}

fn copy_checked(
    found: Found,
    name: WalName,
    target: &Path,
    asker: Option<Asker>,
) -> Result<Option<SegmentReport>, ArchiveError> {
    let damaged = |place: &str, detail: String| ArchiveError::NotTheWal { name, place: place.to_owned(), detail };
    let Found { reader, encoding, place, identity } = found;
    let mut reader = encoding.decoder(reader).map_err(|error| damaged(&place, error.to_string()))?;
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(target);
    let mut out = out.map_err(ArchiveError::io("create", target))?;
    let Some(segment) = name.segment().filter(|_| name.holds_wal()) else {
        return copy_text(reader, name, &mut out, target, &place).map(|()| None);
    };
    let whose = asker.map(|asker| (asker.system, asker.segment_size)).or(identity);
    let partial = matches!(name, WalName::Partial(_));
    let mut checker = Checker::new(Expected {
        name: segment,
        system_id: whose.map(|(system, _)| system),
        size: whose.map(|(_, size)| size),
        partial,
    });
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let count = read_full(&mut reader, &mut buffer).map_err(|error| damaged(&place, error.to_string()))?;
        if count == 0 {
            break;
        }
        checker.feed(offset, &buffer[..count]).map_err(|error| damaged(&place, error.to_string()))?;
        out.write_all(&buffer[..count]).map_err(ArchiveError::io("write", target))?;
        offset += count as u64;
    }
    let report = checker.finish().map_err(|error| damaged(&place, error.to_string()))?;
    if let Ending::Torn { at, why } = &report.ends
        && !partial
    {
        return Err(damaged(&place, format!("valid WAL ends at {at}, before the end of the segment: {why}")));
    }
    if partial {
        // A partial file may be shorter than a segment; PostgreSQL accepts only whole ones.
        out.set_len(report.first_page.segment_size.bytes()).map_err(ArchiveError::io("extend", target))?;
    }
    Ok(Some(report))
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

/// Fills the buffer as far as the source goes.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn copy_text(
    mut reader: Box<dyn Read + Send>,
    name: WalName,
    out: &mut File,
    target: &Path,
    place: &str,
) -> Result<(), ArchiveError> {
    let mut text = String::new();
    let wrong = |detail: String| ArchiveError::NotTheWal { name, place: place.to_owned(), detail };
    reader.read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if let WalName::History(timeline) = name {
        TimelineHistory::parse(timeline, &text).map_err(|error| wrong(error.to_string()))?;
    }
    out.write_all(text.as_bytes()).map_err(ArchiveError::io("write", target))
}
