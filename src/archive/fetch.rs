//! `restore_command`: looks for one file in the places, in order, and hands it over only when its content is proven.
//!
//! PostgreSQL believes whatever it is handed: a full-size file of garbage ends recovery without an error. So this is
//! the only place that can know. A copy that fails the check is as if that place could not tell, and the next place is
//! asked; the answer "absent" needs every place to have said so.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

mod checked;
mod landing;

pub use checked::check_file;
pub use landing::{land, landing, sweep_landings};

use super::ArchiveError;
use super::claims::{self, Served};
use super::layout;
use super::left_out;
use super::places::{Archive, Site, Sites};
use super::queue::{self, Queue};
use super::situation;
use super::spool::Spool;
use crate::config::{Config, PlaceWord};
use crate::error::{Class, Explain, Failure};
use crate::postgres::control::ControlFile;
use crate::store::Encoding;
use crate::wal::{Lsn, SegmentSize, SystemId, WalName};

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
    modified: Option<SystemTime>,
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
    ///
    /// `target` must be a name that nobody else uses: it is written while it is checked. A place that was down a moment
    /// ago is asked last, and only if `thorough`; otherwise that it was down is its answer.
    pub fn fetch(
        &self,
        name: WalName,
        target: &Path,
        asker: Option<Asker>,
        thorough: bool,
    ) -> Result<Answer, ArchiveError> {
        if !thorough && self.is_closed(name)? {
            log::debug!("'{name}' is not looked for: a later timeline left its own before it");
            return Ok(Answer::Absent);
        }
        let mut trouble = Trouble::default();
        let mut down = Vec::new();
        for source in self.sources_now(thorough)? {
            if let Some(failure) = self.recently_down(&source) {
                down.push((source, failure));
            } else if let Some(handed) = self.ask(&source, name, target, asker, thorough, &mut trouble) {
                return Ok(Answer::Handed(handed));
            }
        }
        for (source, failure) in down {
            if !thorough {
                trouble.add(&ArchiveError::Elsewhere(failure));
            } else if let Some(handed) = self.ask(&source, name, target, asker, thorough, &mut trouble) {
                return Ok(Answer::Handed(handed));
            }
        }
        trouble.answer(name)
    }

    /// Asks one place and keeps what went wrong.
    fn ask(
        &self,
        source: &Source,
        name: WalName,
        target: &Path,
        asker: Option<Asker>,
        thorough: bool,
        trouble: &mut Trouble,
    ) -> Option<Handed> {
        let warm = matches!(source, Source::Site(site) if !site.own && site.opened().is_some());
        let mut found = self.fetch_from(source, name, target, asker, thorough);
        if let (Source::Site(site), true, Err(error)) = (source, warm, &found)
            && error.class() == Class::Remote
        {
            // A connection that was kept warm may have died long ago; that says nothing of the place.
            site.close();
            found = self.fetch_from(source, name, target, asker, thorough);
        }
        if let Source::Site(site) = source {
            match &found {
                Ok(_) => site.mark_up(),
                Err(error) => note_trouble(site, error),
            }
        }
        match found {
            Ok(handed) => handed.map(|handed| Handed { notices: std::mem::take(&mut trouble.reasons), ..handed }),
            Err(error) => {
                trouble.add(&error);
                None
            }
        }
    }

    fn recently_down(&self, source: &Source) -> Option<Failure> {
        match source {
            Source::Site(site) if !site.own => site.recently_down(self.config.archive.retry),
            _ => None,
        }
    }

    fn fetch_from(
        &self,
        source: &Source,
        name: WalName,
        target: &Path,
        asker: Option<Asker>,
        thorough: bool,
    ) -> Result<Option<Handed>, ArchiveError> {
        match self.find(source, name, asker, thorough)? {
            Some(found) => checked::hand_over(found, name, target, asker).map(Some),
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

    /// The sources as they are asked now: a promotion that is under way goes without some.
    fn sources_now(&self, thorough: bool) -> Result<Vec<Source>, ArchiveError> {
        let mut sources = self.sources();
        if !thorough {
            let out = left_out::nodes(&self.spool, self.config.failover.deadline)?;
            sources.retain(|source| !matches!(source, Source::Site(site) if out.contains(site.name())));
        }
        Ok(sources)
    }

    /// True where the own archive knows that a later timeline left this file's own before it. What another archive
    /// still holds of it was written by a primary that did not know: a standby that replayed it would be lost.
    pub fn is_closed(&self, name: WalName) -> Result<bool, ArchiveError> {
        let own = self.sites.get(&self.config.local.node).filter(|_| name.holds_wal());
        match own.map(|site| site.archive()) {
            Some(Ok(archive)) => claims::closes(&archive, name),
            // One that cannot be looked at is asked with the others, and what is wrong with it said there.
            Some(Err(_)) | None => Ok(false),
        }
    }

    fn find(
        &self,
        source: &Source,
        name: WalName,
        asker: Option<Asker>,
        thorough: bool,
    ) -> Result<Option<Found>, ArchiveError> {
        match source {
            Source::Site(site) => self.find_in_site(site, name, asker, thorough),
            Source::Queues => self.find_in_queues(name),
        }
    }

    fn find_in_site(
        &self,
        site: &Site,
        name: WalName,
        asker: Option<Asker>,
        thorough: bool,
    ) -> Result<Option<Found>, ArchiveError> {
        let archive = site.archive()?;
        if let Some(asker) = asker {
            archive.identity.admit(archive.store.place(), asker.system, asker.segment_size)?;
        }
        for encoding in self.encodings(name) {
            if let Some(reader) = archive.store.open(&layout::stored(name, encoding))? {
                // Into its own archive a superseded primary may have put what lies behind the fork. A standby would
                // replay it before it learns of the new timeline; a restore may have been told to follow the old one.
                // What this node's own archive knows was asked before.
                if !thorough && !site.own && name.holds_wal() && claims::closes(&archive, name)? {
                    let place = archive.store.place();
                    log::warn!("'{name}' in the {place} is not served: a later timeline left its own before it");
                    return Ok(None);
                }
                let Some(reader) = self.servable(reader, name, &archive, thorough)? else { return Ok(None) };
                let identity = Some((archive.identity.system_identifier, archive.identity.segment_size));
                return Ok(Some(Found {
                    reader,
                    encoding,
                    place: archive.store.place().to_string(),
                    identity,
                    modified: None,
                }));
            }
        }
        Ok(None)
    }

    /// A history is served once its timeline is sure to stay. Until then a standby is told that there is none, for it
    /// asks again; a restore would take that for the end, so it cannot be told.
    fn servable(
        &self,
        reader: Box<dyn Read + Send>,
        name: WalName,
        archive: &Archive,
        thorough: bool,
    ) -> Result<Option<Box<dyn Read + Send>>, ArchiveError> {
        let WalName::History(timeline) = name else { return Ok(Some(reader)) };
        match claims::serve(archive, timeline, &self.config.local.node)? {
            Served::Itself => Ok(Some(reader)),
            Served::Instead(other) => Ok(Some(other)),
            Served::NotYet(_) if !thorough => Ok(None),
            Served::NotYet(claim) => Err(ArchiveError::Refused {
                reason: format!("'{name}' is there, but not confirmed: {}", claim.words()),
                hint: format!("Let the promotion of node {} end, or have it given up there.", claim.node),
            }),
        }
    }

    fn find_in_queues(&self, name: WalName) -> Result<Option<Found>, ArchiveError> {
        for node in queue::nodes(&self.spool)? {
            if let Some(queued) = Queue::new(&self.spool, &node).find(name)? {
                let file = File::open(&queued.path).map_err(ArchiveError::io("open", &queued.path))?;
                let place = format!("queue for {node}");
                let modified = file.metadata().and_then(|data| data.modified()).ok();
                let (reader, encoding) = (Box::new(file), queued.encoding);
                return Ok(Some(Found { reader, encoding, place, identity: None, modified }));
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

    /// When the first place that holds the file and can say so got it, by that machine's clock; for `restore.delay`.
    pub fn stored_at(&self, name: WalName) -> Option<SystemTime> {
        self.sources().iter().filter(|source| self.recently_down(source).is_none()).find_map(|source| match source {
            Source::Site(site) => {
                let archive = site.archive().inspect_err(|error| note_trouble(site, error)).ok()?;
                let mut stored = self.encodings(name).into_iter().map(|encoding| layout::stored(name, encoding));
                stored.find_map(|path| archive.store.look(&path).ok().flatten()).map(|entry| entry.modified)
            }
            Source::Queues => {
                let found = self.find_in_queues(name).ok().flatten()?;
                found.modified
            }
        })
    }
}

/// Remembers that a place is down, so that the next calls need not find out again.
fn note_trouble(site: &Site, error: &ArchiveError) {
    site.close();
    if !site.own && situation::is_outage(error.class()) {
        site.mark_down(&portable(error));
    }
}

fn portable(error: &ArchiveError) -> Failure {
    Failure { class: error.class(), message: crate::error::chain(error), hint: error.hint() }
}

/// What kept places from telling, in the order they were asked.
#[derive(Default)]
struct Trouble {
    reasons: Vec<String>,
    worst: Option<(Class, Option<String>)>,
}

impl Trouble {
    /// What somebody has to mend outweighs what will pass.
    fn add(&mut self, error: &ArchiveError) {
        let passing = self.worst.as_ref().is_none_or(|(class, _)| situation::is_outage(*class));
        if self.worst.is_none() || (passing && !situation::is_outage(error.class())) {
            self.worst = Some((error.class(), error.hint()));
        }
        self.reasons.push(portable(error).message);
    }

    fn answer(self, name: WalName) -> Result<Answer, ArchiveError> {
        match self.worst {
            None => Ok(Answer::Absent),
            Some((class, hint)) => Err(ArchiveError::CannotTell { name, class, reasons: self.reasons, hint }),
        }
    }
}
