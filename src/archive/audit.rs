//! `check-archive`: names, continuity, contents, what can be restored, and where a missing segment still is; one
//! report.
//!
//! Changes nothing but the mark of what was read, and with [`acknowledge`] the list of accepted gaps.

use chrono::{Local, SecondsFormat};
use serde::Serialize;

use super::ArchiveError;
use super::acknowledged::{self, Acknowledgement};
use super::confirm::confirm;
use super::continuity::{Continuity, Gap, Inventory, Orphan, judge};
use super::copies::Elsewhere;
use super::drills::{self, Drill};
use super::mark::Mark;
use super::missing::{self, Missing, Stretch};
use super::places::{Archive, Site, Sites};
use super::shipping::{self, BrokenChain};
use super::spool::Spool;
use super::survey::{Damage, Survey, survey};
use super::verify::{Verification, Verified, Watcher};
use super::window::{self, Reach, Window, shown};
use crate::config::Config;
use crate::system::lock::{Lock, Taken};
use crate::wal::{Lsn, SegmentName, SegmentNumber, TimelineId, WalName};

/// The version of the JSON form.
const FORMAT: u32 = 1;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Look at names only.
    pub names_only: bool,
    /// Read everything, also what an earlier run found good.
    pub full: bool,
    /// Remember what was read.
    pub remember: bool,
    /// What tells our programs on this node which configuration to read, in commands; empty, or with a blank behind it.
    pub arguments: &'a str,
}

/// What the check came to; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// Something is missing, or a timeline hangs in the air.
    Incomplete,
    /// A stored file is not what its name says.
    Damaged,
}

/// All that a check found: what `check-archive --json` prints. The schema is `etc/check-archive.schema.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this form.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The node whose archive was checked.
    pub node: String,
    /// Where it is.
    pub location: String,
    /// When, by this machine's clock, with offset.
    pub time: String,
    /// What it came to.
    pub verdict: Verdict,
    /// The size of a segment, in bytes.
    pub segment_size: u64,
    /// What is there.
    pub timelines: Vec<Line>,
    /// What is missing and nobody accepted.
    pub gaps: Vec<Missing>,
    /// What is missing and somebody accepted.
    pub acknowledged: Vec<Accepted>,
    /// Timelines that nothing leads to.
    pub orphans: Vec<Hanging>,
    /// Files that are not what their names say.
    pub damaged: Vec<Broken>,
    /// What was discarded on this node.
    pub broken_chains: Vec<BrokenChain>,
    /// What a person may want to know; nothing is wrong.
    pub notices: Vec<String>,
    /// The base backups and how far each can be brought.
    pub windows: Vec<Window>,
    /// The earliest time that can be restored from this archive alone, with offset.
    pub earliest: Option<String>,
    /// The latest time that can be restored from this archive alone, with offset.
    pub latest: Option<String>,
    /// How far the newest timeline hangs together.
    pub newest: Option<Reach>,
    /// The drill that has proven a restore furthest.
    pub proven: Option<Drill>,
    /// The last drill, however it went.
    pub last_drill: Option<Drill>,
    /// What was read.
    pub verification: Read,
}

/// One timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it left.
    pub parent: Option<TimelineId>,
    /// Where it left it.
    #[serde(serialize_with = "shown::lsn")]
    pub forked_at: Option<Lsn>,
    /// The first whole segment.
    pub first: Option<SegmentName>,
    /// The last whole segment.
    pub last: Option<SegmentName>,
    /// Where the first begins.
    #[serde(serialize_with = "shown::lsn")]
    pub from: Option<Lsn>,
    /// Where the last ends.
    #[serde(serialize_with = "shown::lsn")]
    pub to: Option<Lsn>,
    /// Whole segments.
    pub segments: u64,
    /// Partial segments.
    pub partials: u64,
    /// Their stored size together, in bytes.
    pub stored: u64,
}

/// An acknowledged gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The first segment missing.
    pub first: SegmentName,
    /// The last segment missing.
    pub last: SegmentName,
    /// How many.
    pub count: u64,
    /// Why somebody accepted it.
    pub reason: String,
    /// On which node.
    pub node: String,
    /// When.
    pub at: String,
}

/// An orphan timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hanging {
    /// The timeline.
    pub timeline: TimelineId,
    /// Why nothing leads to it.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// A damaged file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Its path in the archive.
    pub path: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Read {
    /// False where only names were looked at.
    pub contents: bool,
    /// Files read.
    pub files: u64,
    /// Their stored size, in bytes.
    pub bytes: u64,
    /// Files that an earlier run found good and that are as they were.
    pub remembered: u64,
}

/// Checks the archive of a site.
pub fn audit(
    config: &Config,
    sites: &Sites,
    site: &Site,
    options: Options<'_>,
    elsewhere: &Elsewhere<'_>,
    watcher: &dyn Watcher,
) -> Result<Report, ArchiveError> {
    let archive = site.archive()?;
    let spool = Spool::new(&config.local.spool);
    let chains = if site.own { shipping::broken_chains(&spool)? } else { Vec::new() };
    let mut survey = survey(&archive)?;
    know_discarded(&mut survey.inventory, &chains);
    let accepted = acknowledged::read(&archive)?;
    let mut verified = Verified::default();
    if !options.names_only {
        verified = verify(&archive, &survey, &spool, site.name(), options, watcher)?;
    }
    verified.damaged.append(&mut survey.damaged);
    let judged = confirm(&archive, &survey.inventory, judge(&survey.inventory))?;
    let found = Findings::new(&survey.inventory, judged, &accepted);
    // What is damaged is there, and is of no use to a restore.
    let mut usable = survey.inventory.clone();
    drop_damaged(&mut usable, &verified.damaged);
    let windows = window::windows(&archive, &usable, &survey.backups)?;
    let newest = window::newest(&archive, &usable)?;
    let drills = drills::all(&archive)?;
    let mut report = Report {
        format: FORMAT,
        cluster: config.cluster.name.clone(),
        node: site.name().to_owned(),
        location: archive.store.place().location.clone(),
        time: Local::now().to_rfc3339_opts(SecondsFormat::Secs, false),
        verdict: Verdict::Ok,
        segment_size: survey.inventory.size.bytes(),
        timelines: lines(&survey.inventory),
        gaps: missing::find(
            config,
            sites,
            (&site.node, &archive),
            &found.open,
            options.arguments,
            !options.names_only,
            elsewhere,
        )?,
        acknowledged: found.accepted,
        orphans: found.orphans.iter().map(|orphan| hanging(orphan, config)).collect(),
        damaged: verified.damaged.iter().map(|damage| broken(damage, &archive)).collect(),
        broken_chains: chains,
        notices: notices(&survey, &windows),
        earliest: windows.iter().filter_map(|window| window.from_time).min().map(shown::words),
        latest: windows.iter().filter_map(|window| window.until.as_ref()?.last_commit).max().map(shown::words),
        windows,
        newest,
        proven: drills::furthest(&drills).cloned(),
        last_drill: drills.into_iter().next_back(),
        verification: Read {
            contents: !options.names_only,
            files: verified.read,
            bytes: verified.bytes,
            remembered: verified.remembered,
        },
    };
    report.verdict = verdict(&report);
    Ok(report)
}

fn verdict(report: &Report) -> Verdict {
    match (report.damaged.is_empty(), report.gaps.is_empty() && report.orphans.is_empty()) {
        (false, _) => Verdict::Damaged,
        (true, false) => Verdict::Incomplete,
        (true, true) => Verdict::Ok,
    }
}

/// WAL that was discarded existed, though nothing in the archive shows it.
fn know_discarded(inventory: &mut Inventory, chains: &[BrokenChain]) {
    for chain in chains {
        let last = chain.last.segment().filter(|_| chain.last.holds_wal()).and_then(|last| last.number(inventory.size));
        if let Some(last) = last {
            let known = inventory.known_until.entry(chain.last.timeline()).or_insert(last);
            *known = last.max(*known);
        }
    }
}

fn drop_damaged(inventory: &mut Inventory, damaged: &[Damage]) {
    for damage in damaged {
        let number = damage.name.segment().and_then(|segment| segment.number(inventory.size));
        let held = inventory.timelines.get_mut(&damage.name.timeline());
        if let (WalName::Segment(_), Some(number), Some(held)) = (damage.name, number, held) {
            held.whole.remove(number);
        }
    }
}

fn verify(
    archive: &Archive,
    survey: &Survey,
    spool: &Spool,
    node: &str,
    options: Options<'_>,
    watcher: &dyn Watcher,
) -> Result<Verified, ArchiveError> {
    let location = &archive.store.place().location;
    let mark = Mark::load(spool, node, location);
    let save = |mark: &Mark| if options.remember { mark.save(spool, node) } else { Ok(()) };
    Verification { archive, mark, full: options.full, save: &save, watcher }.run(&survey.folders)
}

/// What counts, and what was accepted.
struct Findings {
    open: Vec<Gap>,
    accepted: Vec<Accepted>,
    orphans: Vec<Orphan>,
}

impl Findings {
    fn new(inventory: &Inventory, judged: Continuity, said: &[Acknowledgement]) -> Findings {
        let mut found = Findings { open: Vec::new(), accepted: Vec::new(), orphans: Vec::new() };
        for (part, said) in judged.gaps.iter().flat_map(|gap| acknowledged::split(gap, said, inventory.size)) {
            let Some(said) = said else {
                found.open.push(part);
                continue;
            };
            let Stretch { first, last } = stretch(inventory, part.timeline, part.first, part.last);
            let count = part.last.0 - part.first.0 + 1;
            let (reason, node, at) = (said.reason.clone(), said.node.clone(), said.at.clone());
            found.accepted.push(Accepted { first, last, count, reason, node, at });
        }
        let counts = |orphan: &Orphan| match orphan {
            Orphan::BehindGap { parent, at, .. } => {
                let before = at.segment(inventory.size).previous();
                found.open.iter().any(|gap| gap.timeline == *parent && Some(gap.last) == before)
            }
            _ => true,
        };
        found.orphans = judged.orphans.into_iter().filter(counts).collect();
        found
    }
}

fn stretch(inventory: &Inventory, timeline: TimelineId, first: SegmentNumber, last: SegmentNumber) -> Stretch {
    let name = |number| SegmentName::new(timeline, number, inventory.size);
    Stretch { first: name(first), last: name(last) }
}

fn lines(inventory: &Inventory) -> Vec<Line> {
    let mut timelines: Vec<TimelineId> =
        inventory.timelines.keys().chain(inventory.histories.keys()).copied().collect();
    timelines.sort();
    timelines.dedup();
    let line = |timeline: TimelineId| {
        let held = inventory.timelines.get(&timeline).cloned().unwrap_or_default();
        let parent = inventory.histories.get(&timeline).and_then(|history| history.ancestors.last());
        let name = |number| SegmentName::new(timeline, number, inventory.size);
        Line {
            timeline,
            parent: parent.map(|parent| parent.timeline),
            forked_at: parent.map(|parent| parent.switch_point),
            first: held.whole.first().map(name),
            last: held.whole.last().map(name),
            from: held.whole.first().map(|first| first.start(inventory.size)),
            to: held.whole.last().map(|last| last.end(inventory.size)),
            segments: held.whole.count(),
            partials: held.partial.len() as u64,
            stored: held.bytes,
        }
    };
    timelines.into_iter().map(line).collect()
}

fn hanging(orphan: &Orphan, config: &Config) -> Hanging {
    let timeline = orphan.timeline();
    let wal = config
        .own()
        .pgdata
        .as_ref()
        .map_or_else(|| "PGDATA/pg_wal".to_owned(), |pgdata| pgdata.join("pg_wal").display().to_string());
    let (why, fix) = match orphan {
        Orphan::NoHistory { timeline } => (
            "its history is not here, so no server can be told to follow it".to_owned(),
            format!(
                "Find '{timeline:08X}.history' in pg_wal of a server that is or was on it and run there 'archive-wal {wal}/{timeline:08X}.history'.",
                timeline = timeline.0
            ),
        ),
        Orphan::NoParent { parent, at, .. } => (
            format!("it left timeline {parent} at {at}, and nothing of that timeline is here"),
            format!("Bring the WAL of timeline {parent} here, or find out where this history comes from; it may be another cluster's."),
        ),
        Orphan::BehindGap { parent, at, .. } => (
            format!("it left timeline {parent} at {at}, and the WAL before that is missing: no earlier backup reaches it"),
            "Mend the gap; until then only a backup taken on this timeline can be restored to it.".to_owned(),
        ),
        Orphan::Contradiction { other, .. } => (
            format!("its own history and that of timeline {other} disagree about where it began"),
            "Two servers were promoted with the same timeline number; find out which of them went on, and keep the WAL of both apart.".to_owned(),
        ),
    };
    Hanging { timeline, why, fix }
}

fn broken(damage: &Damage, archive: &Archive) -> Broken {
    let location = &archive.store.place().location;
    let then = match damage.name {
        WalName::Segment(_) => "run check-archive again, which names where the segment still is",
        _ => "bring it here again from pg_wal of the server that wrote it, with archive-wal",
    };
    let fix = format!("Move '{location}/{}' out of the archive, but keep it; then {then}.", damage.path);
    Broken { path: damage.path.clone(), why: damage.detail.clone(), fix }
}

fn notices(survey: &Survey, windows: &[Window]) -> Vec<String> {
    let mut notices = Vec::new();
    let twin = |name: &WalName| format!("'{name}' is stored in two encodings; one of them is enough");
    notices.extend(survey.twins.iter().map(twin));
    notices.extend(survey.strangers.iter().map(|path| format!("'{path}' does not belong there and is left alone")));
    let unfinished = survey.backups.iter().filter(|backup| backup.start.is_none());
    notices.extend(unfinished.map(|backup| format!("backup '{}' is not finished, or cannot be read", backup.label)));
    let short = windows.iter().filter(|window| !window.usable);
    notices.extend(
        short.map(|window| format!("backup '{}' cannot be restored: the WAL it needs is not whole", window.backup)),
    );
    if windows.is_empty() {
        notices.push("no base backup in this archive: nothing can be restored from it alone".to_owned());
    }
    notices
}

/// Accepts what is missing between two segments of one timeline. Refuses where nothing is missing there.
pub fn acknowledge(
    config: &Config,
    site: &Site,
    (first, last): (SegmentName, SegmentName),
    reason: &str,
    dry_run: bool,
) -> Result<u64, ArchiveError> {
    let archive = site.archive()?;
    let refused = |reason: String, hint: &str| ArchiveError::Refused { reason, hint: hint.to_owned() };
    if first.timeline() != last.timeline() || first > last {
        let hint = "Name the first and the last missing segment of one timeline, as check-archive shows them.";
        return Err(refused(format!("'{first}..{last}' is no stretch of one timeline"), hint));
    }
    let spool = Spool::new(&config.local.spool);
    let mut inventory = survey(&archive)?.inventory;
    know_discarded(&mut inventory, &if site.own { shipping::broken_chains(&spool)? } else { Vec::new() });
    spool.prepare()?;
    let lock = spool.lock("acknowledge");
    let Taken::Held(_one_writer) = Lock::try_take(&lock).map_err(ArchiveError::io("lock", &lock))? else {
        return Err(refused("another run is acknowledging a gap".to_owned(), "Run the command again when it is done."));
    };
    let mut all = acknowledged::read(&archive)?;
    let node = config.local.node.clone();
    let at = Local::now().to_rfc3339_opts(SecondsFormat::Secs, false);
    let said = Acknowledgement { first, last, reason: reason.to_owned(), node, at };
    let judged = confirm(&archive, &inventory, judge(&inventory))?;
    let open = Findings::new(&inventory, judged, &all).open;
    let parts = open.iter().flat_map(|gap| acknowledged::split(gap, std::slice::from_ref(&said), inventory.size));
    let covered: u64 = parts.filter(|(_, said)| said.is_some()).map(|(gap, _)| gap.last.0 - gap.first.0 + 1).sum();
    if covered == 0 {
        let hint = "Only what check-archive names as missing can be acknowledged.";
        return Err(refused(format!("nothing is missing in '{first}..{last}'"), hint));
    }
    if !dry_run {
        all.push(said);
        acknowledged::write(&archive, &all)?;
    }
    Ok(covered)
}
