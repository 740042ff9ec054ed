//! Where a segment that an archive lacks still exists, and the command that brings it there.
//!
//! Looks into this node's `pg_wal` and queues and into the archives of the other nodes; what lies in `pg_wal` of
//! another node, the caller finds out. A place that cannot be asked is named, never taken for empty.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::ArchiveError;
use super::continuity::Gap;
use super::continuity::ranges::Ranges;
use super::fetch::check_file;
use super::layout;
use super::places::{Archive, Site, Sites};
use super::queue::{self, Queue};
use super::spool::Spool;
use super::survey::wal_files;
use crate::config::{Config, Node, NodeKind, PlaceWord};
use crate::error::Failure;
use crate::wal::{Expected, SegmentName, SegmentNumber, SegmentSize, WalName};

/// In so many folders of another archive, from the beginning of a gap, its segments are looked for; one stray name far
/// away must not list an archive for hours.
const FOLDERS_MAX: usize = 256;

/// What kind of place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A queue of this node.
    Queue,
    /// `pg_wal` of a server.
    PgWal,
    /// The archive of another node.
    Archive,
}

/// One command, and the node on which to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    /// The node.
    pub node: String,
    /// The line, as one types it there.
    pub line: String,
}

/// A stretch of missing segments that one place holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// What kind of place it is.
    pub kind: Kind,
    /// The node.
    pub node: String,
    /// Where on that node, for people.
    pub place: String,
    /// The first segment.
    pub first: SegmentName,
    /// The last segment.
    pub last: SegmentName,
    /// True where the contents were read and are right; else only the names are there.
    pub proven: bool,
    /// What brings them into the archive.
    pub commands: Vec<Command>,
}

/// What was found out about one gap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The copies, the easiest to use first.
    pub copies: Vec<Copy>,
    /// What is in none of the places asked.
    pub nowhere: Vec<(SegmentNumber, SegmentNumber)>,
    /// Places that could not be asked, why, and how to look by hand.
    pub unknown: Vec<String>,
}

/// Lists `pg_wal` of another node: the names in it, or why that cannot be done.
pub type Elsewhere<'a> = dyn Fn(&Node) -> Result<Vec<String>, String> + 'a;

/// The search for one archive's missing segments.
pub struct Search<'a> {
    config: &'a Config,
    /// The node whose archive lacks them.
    target: &'a Node,
    size: SegmentSize,
    /// What tells our programs on this node which configuration to read; empty, or with a blank behind it.
    arguments: &'a str,
    own: Option<(PathBuf, Expectation)>,
    walls: Vec<Listed>,
    queues: BTreeMap<String, BTreeSet<String>>,
    archives: Vec<(Arc<Site>, Result<Archive, String>)>,
    unknown: Vec<String>,
}

/// What a segment in this node's `pg_wal` must be, if it is to be read.
#[derive(Debug, Clone, Copy)]
struct Expectation {
    system: crate::wal::SystemId,
    read: bool,
}

/// A `pg_wal` and its names.
struct Listed {
    node: String,
    folder: PathBuf,
    names: BTreeSet<String>,
}

impl<'a> Search<'a> {
    /// Asks every place what it holds; `read` says whether the contents in this node's `pg_wal` are to be proven.
    pub fn new(
        config: &'a Config,
        sites: &Sites,
        target: (&'a Node, &Archive),
        arguments: &'a str,
        read: bool,
        elsewhere: &Elsewhere<'_>,
    ) -> Result<Search<'a>, ArchiveError> {
        let (target, archive) = target;
        let mut search = Search {
            config,
            target,
            size: archive.identity.segment_size,
            arguments,
            own: None,
            walls: Vec::new(),
            queues: BTreeMap::new(),
            archives: Vec::new(),
            unknown: Vec::new(),
        };
        let expectation = Expectation { system: archive.identity.system_identifier, read };
        search.list_walls(expectation, elsewhere);
        search.list_queues()?;
        for site in sites.all().filter(|site| site.name() != target.name) {
            let opened = site.archive().map_err(|error| Failure::from(error).message);
            if let Err(why) = &opened {
                search.unknown.push(format!("the archive of {} cannot be asked: {why}", site.name()));
            }
            search.archives.push((Arc::clone(site), opened));
        }
        Ok(search)
    }

    fn list_walls(&mut self, expectation: Expectation, elsewhere: &Elsewhere<'_>) {
        for node in &self.config.nodes {
            let Some(pgdata) = &node.pgdata else { continue };
            let folder = pgdata.join("pg_wal");
            let own = node.name == self.config.local.node;
            let names = if own { names_in(&folder) } else { elsewhere(node) };
            match names {
                Ok(names) => {
                    let names = names.into_iter().collect();
                    self.walls.push(Listed { node: node.name.clone(), folder: folder.clone(), names });
                }
                // A node without a server has no pg_wal.
                Err(_) if own && !pgdata.exists() => {}
                Err(why) => self.unknown.push(format!(
                    "pg_wal of {} cannot be listed: {why}; look there with 'ls {}'",
                    node.name,
                    quote(&folder.display().to_string())
                )),
            }
            if own {
                self.own = Some((folder, expectation));
            }
        }
    }

    fn list_queues(&mut self) -> Result<(), ArchiveError> {
        let spool = Spool::new(&self.config.local.spool);
        for node in queue::nodes(&spool)? {
            let names = Queue::new(&spool, &node).list()?.into_iter().map(|queued| queued.name.to_string()).collect();
            self.queues.insert(node, names);
        }
        Ok(())
    }

    /// Looks for the segments of one gap.
    pub fn find(&self, gap: &Gap) -> Found {
        let mut found = Found { unknown: self.unknown.clone(), ..Found::default() };
        let mut all = Ranges::default();
        let mut add = |ranges: Ranges, copies: &mut Vec<Copy>, copy: &dyn Fn(&[SegmentName]) -> Copy| {
            for (first, last) in ranges.stretches() {
                let numbers = (first.0..=last.0).map(SegmentNumber);
                for number in numbers.clone() {
                    all.insert(number);
                }
                let names: Vec<SegmentName> = numbers.map(|n| SegmentName::new(gap.timeline, n, self.size)).collect();
                copies.push(copy(&names));
            }
        };
        for (node, names) in &self.queues {
            add(self.within(gap, names), &mut found.copies, &|names| self.in_queue(node, names));
        }
        for wall in &self.walls {
            let mut ranges = self.within(gap, &wall.names);
            let proven = self.prove(gap, wall, &mut ranges, &mut found.unknown);
            add(ranges, &mut found.copies, &|names| in_wall(wall, names, self.arguments_on(&wall.node), proven));
        }
        for (site, archive) in &self.archives {
            let Ok(archive) = archive else { continue };
            let names = match self.names_in_archive(gap, archive) {
                Ok(names) => names,
                Err(error) => {
                    let why = Failure::from(error).message;
                    found.unknown.push(format!("the archive of {} cannot be asked: {why}", site.name()));
                    continue;
                }
            };
            add(self.within(gap, &names), &mut found.copies, &|names| self.in_archive(site, archive, names));
        }
        // What is proven goes first, and this node before others: its commands can be pasted here.
        found.copies.sort_by_key(|copy| (copy.kind, !copy.proven, copy.node != self.config.local.node, copy.first));
        found.nowhere = all.missing(gap.first, gap.last.next()).stretches().collect();
        found
    }

    /// Which segments of the gap are among these names.
    fn within(&self, gap: &Gap, names: &BTreeSet<String>) -> Ranges {
        let from = SegmentName::new(gap.timeline, gap.first, self.size).to_string();
        let to = SegmentName::new(gap.timeline, gap.last, self.size).to_string();
        let segments = names.range(from..=to).filter_map(|name| name.parse::<SegmentName>().ok());
        segments.filter_map(|name| name.number(self.size)).collect()
    }

    /// Reads what lies in this node's `pg_wal`: a recycled file there has the name of a segment and holds another.
    fn prove(&self, gap: &Gap, wall: &Listed, ranges: &mut Ranges, unknown: &mut Vec<String>) -> bool {
        let Some((_, expectation)) = self.own.as_ref().filter(|(folder, own)| own.read && *folder == wall.folder)
        else {
            return false;
        };
        let numbers: Vec<SegmentNumber> =
            ranges.stretches().flat_map(|(first, last)| (first.0..=last.0).map(SegmentNumber)).collect();
        for number in numbers {
            let name = SegmentName::new(gap.timeline, number, self.size);
            let expected =
                Expected { name, system_id: Some(expectation.system), size: Some(self.size), partial: false };
            match check_file(&wall.folder.join(name.to_string()), expected) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    ranges.remove(number);
                }
                Err(error) => {
                    ranges.remove(number);
                    unknown.push(format!("'{name}' in pg_wal of {} cannot be used: {error}", wall.node));
                }
            }
        }
        true
    }

    fn names_in_archive(&self, gap: &Gap, archive: &Archive) -> Result<BTreeSet<String>, ArchiveError> {
        let mut names = BTreeSet::new();
        let per_log = self.size.segments_per_log();
        for log in (gap.first.0 / per_log..=gap.last.0 / per_log).take(FOLDERS_MAX) {
            let any = SegmentName::new(gap.timeline, SegmentNumber(log * per_log), self.size);
            let entries = archive.store.list(&layout::folder(any))?.unwrap_or_default();
            let (files, _) = wal_files(entries, &any.folder());
            names.extend(files.into_iter().map(|(name, _)| name).filter(is_whole).map(|name| name.to_string()));
        }
        Ok(names)
    }

    fn in_queue(&self, queue: &str, names: &[SegmentName]) -> Copy {
        let node = self.config.local.node.clone();
        let commands = match queue == self.target.name {
            true => vec![Command { node: node.clone(), line: format!("relay-wal {}--to {queue}", self.arguments) }],
            false => self.by_hand(names),
        };
        copy(Kind::Queue, &node, format!("queue for {queue}"), names, false, commands)
    }

    fn in_archive(&self, site: &Site, archive: &Archive, names: &[SegmentName]) -> Copy {
        let node = site.name().to_owned();
        let restores = self.config.places(&self.config.restore.from);
        let here = self.target.name == self.config.local.node && restores.iter().any(|place| place.name == node);
        let commands = match !here && self.relays_to_target(&site.node) {
            true => {
                let line = format!("relay-wal {}--full --to {}", self.arguments_on(&node), self.target.name);
                vec![Command { node: node.clone(), line }]
            }
            false => self.by_hand(names),
        };
        copy(Kind::Archive, &node, archive.store.place().location.clone(), names, false, commands)
    }

    /// Fetches each segment from wherever it is and archives it; on the target's node, or here where that is another.
    fn by_hand(&self, names: &[SegmentName]) -> Vec<Command> {
        let node = self.target.name.clone();
        let (arguments, folder) = match node == self.config.local.node {
            true => (self.arguments, quote(&self.config.local.spool.display().to_string())),
            false => ("", "~".to_owned()),
        };
        let line = |name: &SegmentName| {
            format!(
                "restore-wal {arguments}{name} {folder}/{name} && archive-wal {arguments}{folder}/{name} && rm {folder}/{name}"
            )
        };
        names.iter().map(|name| Command { node: node.clone(), line: line(name) }).collect()
    }

    /// True where that node relays to the target, by the configuration that all share.
    fn relays_to_target(&self, from: &Node) -> bool {
        self.config.relay.to.iter().any(|word| match word {
            PlaceWord::Own | PlaceWord::Queue => false,
            PlaceWord::Nodes => self.target.kind == NodeKind::Node && self.target.name != from.name,
            PlaceWord::Dr => self.target.kind == NodeKind::Dr && self.target.name != from.name,
            PlaceWord::Node(name) => *name == self.target.name,
        })
    }

    /// Only on this node do we know which files the configuration was read from.
    fn arguments_on(&self, node: &str) -> &str {
        if node == self.config.local.node { self.arguments } else { "" }
    }
}

fn is_whole(name: &WalName) -> bool {
    matches!(name, WalName::Segment(_))
}

fn in_wall(wall: &Listed, names: &[SegmentName], arguments: &str, proven: bool) -> Copy {
    let line = |name: &SegmentName| {
        format!("archive-wal {arguments}{}", quote(&wall.folder.join(name.to_string()).display().to_string()))
    };
    let commands = names.iter().map(|name| Command { node: wall.node.clone(), line: line(name) }).collect();
    copy(Kind::PgWal, &wall.node, wall.folder.display().to_string(), names, proven, commands)
}

fn copy(kind: Kind, node: &str, place: String, names: &[SegmentName], proven: bool, commands: Vec<Command>) -> Copy {
    let (first, last) = (names[0], names[names.len() - 1]);
    Copy { kind, node: node.to_owned(), place, first, last, proven, commands }
}

fn names_in(folder: &Path) -> Result<Vec<String>, String> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
    });
    listed.map_err(|error| error.to_string())
}

/// Quotes a word for a shell where it needs that.
pub fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'/' | b'=' | b':' | b',');
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(quote("/var/lib/pg-15/x"), "/var/lib/pg-15/x");
        assert_eq!(quote("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
