//! Finds out everything a plan needs. Reads only; each other node has a deadline of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::StandbyError;
use super::ask;
use super::configuration::{Set, configuration_set};
use super::facts::{Activity, Backup, Data, Directory, Facts, Own, Reads, There, Upstream};
use super::request::{Job, Request, Source};
use super::settings::Commands;
use crate::archive::places::{Archive, Site, Sites};
use crate::archive::{holdings, hole};
use crate::backup::catalog::{self, Description, Label};
use crate::backup::restore::MARK;
use crate::config::{Config, Node, NodeKind};
use crate::error::{Class, Failure};
use crate::postgres::control::{ControlError, ControlFile};
use crate::postgres::local_wal::{self, LocalWal};
use crate::postgres::own_settings;
use crate::postgres::server::{Server, Status};
use crate::postgres::settings::Settings;
use crate::wal::{Lsn, SegmentName, TimelineHistory, TimelineId};

/// Whom to look at, and for what.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The configuration.
    pub config: &'a Arc<Config>,
    /// Its archives.
    pub sites: &'a Sites,
    /// What is wanted.
    pub request: &'a Request,
    /// How PostgreSQL calls us.
    pub commands: &'a Commands,
}

impl Look<'_> {
    /// Looks.
    pub fn gather(&self) -> Result<Facts, StandbyError> {
        let set = configuration_set(self.config, Set::Standby)?;
        // Before the others: a standby that replays what its primary goes on writing would seem to be ahead of it.
        let seen = self.seen()?;
        let others = self.others();
        let archives = self.archives();
        let upstream = self.upstream(&others)?;
        let source = match &self.request.job {
            Job::Make(Source::Node(name)) => Some(self.server(self.named(name)?)?),
            _ => None,
        };
        let mut backup = self.backup(&archives)?;
        if let (Some(backup), Some(upstream)) = (&mut backup, &upstream) {
            backup.lacks = lacks(&archives, backup.timeline, upstream)?;
        }
        let spaces = source.iter().map(|it| &it.spaces).chain(backup.iter().map(|it| &it.spaces));
        let spaces = spaces.chain(upstream.iter().map(|it| &it.spaces)).flat_map(|it| it.values().cloned());
        let spaces: BTreeSet<PathBuf> = spaces.chain(self.request.tablespaces.values().cloned()).collect();
        let own = self.own(seen, &archives, spaces)?;
        let pgdata = own.pgdata.clone();
        let id = |(site, archive): (Arc<Site>, Result<Archive, Failure>)| {
            (site.name().to_owned(), archive.map(|it| it.identity.system_identifier).map_err(|error| error.message))
        };
        Ok(Facts {
            own,
            others: others.into_iter().map(|(node, answer)| (node.name.clone(), answer)).collect(),
            upstream,
            source,
            backup,
            archives: archives.into_iter().map(id).collect(),
            commands: self.commands.clone(),
            set: set.map(|set| set.settings(&pgdata)).unwrap_or_default(),
            stamp: chrono::Utc::now().format("%Y%m%dT%H%M%SZ").to_string(),
        })
    }

    /// Every other node that has a server, asked at the same time.
    fn others(&self) -> Vec<(&Node, Result<There, String>)> {
        let own = &self.config.local.node;
        let nodes = self.config.nodes.iter().filter(|it| it.name != *own && it.kind != NodeKind::Witness);
        let nodes: Vec<&Node> = nodes.filter(|it| it.conninfo.is_some()).collect();
        let ask = |node: &Node| {
            let mut connection = ask::open(self.config, node).map_err(|error| Failure::from(error).message)?;
            ask::there(&mut connection).map_err(|error| Failure::of(&error).message)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = nodes.iter().map(|node| (*node, scope.spawn(move || ask(node)))).collect();
            let join = |handle: thread::ScopedJoinHandle<'_, _>| {
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(|(node, handle)| (node, join(handle))).collect()
        })
    }

    /// The archives of `restore.from`, in order.
    fn archives(&self) -> Vec<(Arc<Site>, Result<Archive, Failure>)> {
        let sites = self.sites.of(&self.config.places(&self.config.restore.from));
        let open = |site: Arc<Site>| {
            let archive = site.archive().map_err(Failure::from);
            (site, archive)
        };
        sites.into_iter().map(open).collect()
    }

    fn named(&self, name: &str) -> Result<&Node, StandbyError> {
        self.config.node(name).filter(|node| node.name != self.config.local.node).ok_or_else(|| {
            let names: Vec<&str> = self.config.nodes.iter().map(|node| node.name.as_str()).collect();
            StandbyError::refused(
                format!("'{name}' is no other node of this cluster"),
                format!("The nodes are {}; this one is {}.", names.join(", "), self.config.local.node),
            )
        })
    }

    fn server(&self, node: &Node) -> Result<Upstream, StandbyError> {
        let mut server = ask::upstream(self.config, node, self.request.slot.as_deref())?;
        if server.history.is_err() {
            // The server may not show its files to this role; the archives show theirs.
            let archives = self.archives();
            if let Ok(Some(history)) = history_of(&archives, server.there.timeline) {
                server.history = Ok(history);
            }
        }
        Ok(server)
    }

    /// The server to stream from: the one that was named, or the primary with the highest timeline.
    fn upstream(&self, others: &[(&Node, Result<There, String>)]) -> Result<Option<Upstream>, StandbyError> {
        let named = match &self.request.job {
            Job::Follow(node) => Some(node),
            _ => self.request.upstream.as_ref(),
        };
        if let Some(name) = named {
            return self.server(self.named(name)?).map(Some);
        }
        let primaries =
            || others.iter().filter_map(|(node, it)| Some((*node, it.as_ref().ok().filter(|it| it.primary)?)));
        let Some((node, newest)) = primaries().max_by_key(|(_, it)| it.timeline) else { return Ok(None) };
        if let Some((other, _)) =
            primaries().find(|(it, there)| it.name != node.name && there.timeline == newest.timeline)
        {
            return Err(StandbyError::refused(
                format!("{} and {} both take writes on timeline {}", other.name, node.name, newest.timeline),
                "Stop the wrong one first; nothing was changed.",
            ));
        }
        self.server(node).map(Some)
    }

    /// The backup to restore: the one that was named, or the newest good one of the first archive that has any.
    fn backup(&self, archives: &[(Arc<Site>, Result<Archive, Failure>)]) -> Result<Option<Backup>, StandbyError> {
        let (place, label) = match &self.request.job {
            Job::Make(Source::Archive { place, label }) => (place.clone(), label.clone()),
            Job::Rejoin(_) => (None, None),
            _ => return Ok(None),
        };
        let wanted = |site: &Site| place.as_ref().is_none_or(|place| place == site.name());
        let mut trouble = None;
        for (site, archive) in archives.iter().filter(|(site, _)| wanted(site)) {
            let found = archive.clone().map_err(StandbyError::Below).and_then(|it| find(&it, label.as_deref()));
            match found {
                Ok(Some(found)) => return describe(site.name(), &found).map(Some),
                Ok(None) => {}
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        match (trouble, &self.request.job) {
            // To a rejoin it is one rung of several.
            (Some(error), Job::Make(_)) => Err(error),
            _ => Ok(None),
        }
    }

    /// The own server, as its processes and itself say.
    fn seen(&self) -> Result<(Status, Activity), StandbyError> {
        let node = self.config.own();
        let status = Server::new(self.config, node)?.status()?;
        let activity = self.activity(node, &status);
        Ok((status, activity))
    }

    fn own(
        &self,
        (status, activity): (Status, Activity),
        archives: &[(Arc<Site>, Result<Archive, Failure>)],
        spaces: BTreeSet<PathBuf>,
    ) -> Result<Own, StandbyError> {
        let node = self.config.own();
        let server = Server::new(self.config, node)?;
        let pgdata = server.pgdata().to_owned();
        let mut directory = look(&pgdata)?;
        if let Directory::Data(data) = &mut directory {
            // A standby may be ahead of its control file.
            let known = data.history.as_ref().map_or(data.timeline(), |history| history.timeline);
            let timeline = match &activity {
                Activity::Standby(there) => there.timeline.max(known),
                _ => known,
            };
            if data.history.as_ref().is_none_or(|history| history.timeline != timeline) {
                data.history = local_wal::history(&pgdata, timeline)?;
            }
            if data.history.is_none() {
                data.history = history_of(archives, timeline)?;
            }
            if status == Status::Down {
                data.ends = Some(ends(&pgdata, data)?);
            }
        }
        let spaces = spaces.into_iter().map(|space| look(&space).map(|found| (space, found)));
        Ok(Own {
            node: node.name.clone(),
            reads: reads(&server)?,
            free: free(&pgdata)?,
            directory,
            server: activity,
            reachable: node.conninfo.is_some(),
            spaces: spaces.collect::<Result<_, _>>()?,
            pgdata,
        })
    }

    fn activity(&self, node: &Node, status: &Status) -> Activity {
        if *status == Status::Down {
            return Activity::Down;
        }
        let asked = ask::open(self.config, node).and_then(|mut connection| Ok(ask::there(&mut connection)?));
        match asked {
            Ok(there) if there.primary => Activity::Primary(there),
            Ok(there) => Activity::Standby(there),
            Err(error) => Activity::Silent(Failure::from(error).message),
        }
    }
}

/// The history of a timeline in the first archive that has it.
fn history_of(
    archives: &[(Arc<Site>, Result<Archive, Failure>)],
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>, StandbyError> {
    for archive in archives.iter().filter_map(|(_, archive)| archive.as_ref().ok()) {
        if let Some(history) = hole::history(timeline, archive)? {
            return Ok(Some(history));
        }
    }
    Ok(None)
}

/// The first fork between a backup and a server whose segment no archive holds on the newer timeline.
fn lacks(
    archives: &[(Arc<Site>, Result<Archive, Failure>)],
    from: TimelineId,
    upstream: &Upstream,
) -> Result<Option<SegmentName>, StandbyError> {
    let Ok(history) = &upstream.history else { return Ok(None) };
    let size = upstream.there.segment_size;
    let forks = history.ancestors.iter().filter(|ancestor| ancestor.timeline >= from);
    let numbers = forks.map(|ancestor| ancestor.switch_point.segment(size));
    let names: Vec<SegmentName> =
        numbers.map(|number| SegmentName::new(history.owner_of_segment(number, size), number, size)).collect();
    let archives: Vec<Archive> = archives.iter().filter_map(|(_, archive)| archive.clone().ok()).collect();
    Ok(holdings::missing(&archives, &names)?.into_iter().next())
}

fn find(archive: &Archive, label: Option<&str>) -> Result<Option<Description>, StandbyError> {
    let Some(label) = label else {
        return Ok(catalog::whole(archive)?.into_iter().rfind(|it| it.damaged_pages.is_empty()));
    };
    let label: Label = label
        .parse()
        .map_err(|error| StandbyError::refused(format!("{error}"), "'base-backup list' shows every backup."))?;
    Ok(Some(catalog::get(archive, &label)?))
}

fn describe(place: &str, found: &Description) -> Result<Backup, StandbyError> {
    let system = found.system_identifier.parse().map_err(|_| StandbyError::CannotTell {
        what: format!("whose backup '{}' is", found.label),
        why: format!("'{}' is no system identifier", found.system_identifier),
        class: Class::Corrupt,
    })?;
    Ok(Backup {
        place: place.to_owned(),
        label: found.label.to_string(),
        system_id: crate::wal::SystemId(system),
        timeline: found.timeline,
        stop: found.stop_lsn,
        size: found.size,
        spaces: found.tablespaces.iter().map(|it| (it.oid, PathBuf::from(&it.location))).collect(),
        lacks: None,
    })
}

/// What a directory holds.
pub fn look(path: &Path) -> Result<Directory, StandbyError> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Directory::Absent),
        Err(error) => return Err(StandbyError::io("list", path)(error)),
    };
    let Some(first) = entries.next() else { return Ok(Directory::Empty) };
    let first = first.map_err(StandbyError::io("list", path))?.file_name().to_string_lossy().into_owned();
    match ControlFile::read(path) {
        Ok(control) => data(path, control).map(|data| Directory::Data(Box::new(data))),
        Err(ControlError::Missing { .. }) if path.join(MARK).exists() => Ok(Directory::HalfRestored),
        Err(ControlError::Missing { .. }) => Ok(Directory::Strange(first)),
        Err(error) => Err(error.into()),
    }
}

fn data(pgdata: &Path, control: ControlFile) -> Result<Data, StandbyError> {
    let label = pgdata.join("backup_label");
    let mut data = Data {
        signal: own_settings::signal(pgdata)?,
        label: label.try_exists().map_err(StandbyError::io("look up", &label))?,
        half_rewound: control.marked,
        ends: None,
        spaces: links(&pgdata.join("pg_tblspc"))?,
        history: None,
        control,
    };
    data.history = match data.is_standby() {
        true => local_wal::followed(pgdata, data.timeline())?,
        false => local_wal::history(pgdata, data.timeline())?,
    };
    Ok(data)
}

/// The tablespaces of a data directory.
fn links(folder: &Path) -> Result<BTreeMap<u32, PathBuf>, StandbyError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(StandbyError::io("list", folder))? {
        let entry = entry.map_err(StandbyError::io("list", folder))?;
        let Ok(oid) = entry.file_name().to_string_lossy().parse() else { continue };
        if let Ok(place) = fs::read_link(entry.path()) {
            found.insert(oid, place);
        }
    }
    Ok(found)
}

/// Up to where the pages of a stopped server may hold changes, and where its WAL ends.
fn ends(pgdata: &Path, data: &Data) -> Result<(Lsn, Lsn), StandbyError> {
    let control = &data.control;
    let Some(history) = &data.history else { return Ok((control.checkpoint, control.checkpoint)) };
    let wal = LocalWal::new(pgdata, control, history);
    let until = wal.walk(control.redo.segment(control.segment_size), &mut ())?.until;
    let known = control.checkpoint.max(control.min_recovery_point);
    Ok(match data.is_standby() {
        // A standby's pages are never ahead of the point that it wrote down before it wrote them.
        true => (known, until.max(known)),
        // A primary's WAL is on disk before the page.
        false => (until.max(known), until.max(known)),
    })
}

fn reads(server: &Server) -> Result<Reads, StandbyError> {
    let (file, pgdata) = (server.config_file(), server.pgdata());
    let outside = !file.starts_with(pgdata);
    if !file.exists() {
        return Ok(Reads { file, outside, included: false, auto: Vec::new() });
    }
    let settings = Settings::read(&file, pgdata)?;
    let auto = pgdata.join("postgresql.auto.conf");
    let in_auto = settings.iter().filter(|(_, setting)| setting.file == auto);
    Ok(Reads {
        included: settings.includes(&pgdata.join(own_settings::FILE)),
        auto: in_auto.map(|(name, _)| name.to_owned()).collect(),
        outside,
        file,
    })
}

/// What is free where the data directory is, or is going to be.
fn free(pgdata: &Path) -> Result<u64, StandbyError> {
    let there = pgdata.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(there).map_err(|error| StandbyError::io("ask for room at", there)(error.into()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}
