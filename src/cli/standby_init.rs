//! `standby-init`: makes this node a standby (`--from`, `--adopt`), points it elsewhere (`--follow`), brings a former
//! primary back (`--rejoin`).
//!
//! `--json` prints one object when it is done: `{"format":1,"dry_run","resumed","steps":[{"step",…,"words","done"}],
//! "notes":[…],"rungs":[{"rung","cost":{"bytes","what"}|null,"why"}],"kept":{…}|null,"proof":{…}|null}`. `kept` is what
//! only a former primary had, with range and transactions; `proof` is what was seen of the standby at work.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use indicatif::ProgressBar;
use serde_json::json;

use super::output::{self, Align, Cell, Palette, Table, Tone};
use super::run::Context;
use crate::archive::places::Sites;
use crate::archive::spool::Spool;
use crate::backup::Watcher;
use crate::cluster::standby::act::{Acted, Actor};
use crate::cluster::standby::journal::Journal;
use crate::cluster::standby::observe::Look;
use crate::cluster::standby::proof::Proof;
use crate::cluster::standby::rejoin::aside::Summary;
use crate::cluster::standby::rejoin::ladder::{Rung, Weighed};
use crate::cluster::standby::request::{Job, Request, Source, slot_name};
use crate::cluster::standby::run::{self as story, Prepared};
use crate::cluster::standby::settings::Commands;
use crate::config::{Config, StandbyMode};
use crate::error::{Class, Failure};

/// Which options belong to which job; the others are a mistake that must not pass unseen.
const OPTIONS: &[(&str, &[&str])] = &[
    ("mode", &["from", "adopt", "rejoin"]),
    ("upstream", &["from", "adopt", "rejoin"]),
    ("delay", &["from", "adopt", "rejoin"]),
    ("slot", &["from", "adopt", "follow", "rejoin"]),
    ("place", &["from"]),
    ("label", &["from"]),
    ("map", &["from", "rejoin"]),
    ("keep-old", &["from", "rejoin"]),
    ("jobs", &["from", "rejoin"]),
    ("rate-limit", &["from", "rejoin"]),
    ("rung", &["rejoin"]),
];

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    refuse_strangers(arguments)?;
    if arguments.get_flag("abandon") {
        return abandon(context);
    }
    bring(job(arguments), arguments, context)
}

/// Does one job, or shows what would be done. `arguments` say how.
pub fn bring(job: Job, arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let sites = Sites::new(&config);
    let request = request(job, arguments, &config)?;
    let commands = commands(context, &config)?;
    let look = Look { config: &config, sites: &sites, request: &request, commands: &commands };
    if context.dry_run {
        let prepared = story::prepare(&look, None)?;
        let shown = Shown { context, prepared: &prepared, acted: &Acted::default() };
        return shown.end().map(|()| 0);
    }
    let journal = Journal::take(&Spool::new(&config.local.spool))?;
    let progress = Progress::new(context);
    let number = arguments.get_one::<u32>("jobs").copied().unwrap_or(config.backup.jobs);
    let actor = Actor {
        config: &config,
        sites: &sites,
        journal: &journal,
        watcher: &progress,
        jobs: match number {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs as usize,
        },
        rate: arguments.get_one::<u64>("rate-limit").copied().unwrap_or(config.backup.rate_max),
    };
    let tell = |prepared: &Prepared| match context.json || context.quiet {
        true => Ok(()),
        false => progress.bar.suspend(|| output::print(&beforehand(prepared, Palette::of_stdout()))),
    };
    let done = story::run(&actor, &look, &tell);
    progress.bar.finish_and_clear();
    let (prepared, acted) = done?;
    Shown { context, prepared: &prepared, acted: &acted }.end()?;
    Ok(0)
}

/// Refuses an option that the job does not know.
fn refuse_strangers(arguments: &ArgMatches) -> Result<(), Failure> {
    use clap::parser::ValueSource::CommandLine;
    let given = |name: &str| arguments.value_source(name) == Some(CommandLine);
    let job = ["from", "adopt", "follow", "rejoin", "abandon"].into_iter().find(|job| given(job)).unwrap_or_default();
    for (option, jobs) in OPTIONS {
        if given(option) && !jobs.contains(&job) {
            let known: Vec<String> = jobs.iter().map(|job| format!("--{job}")).collect();
            return Err(Failure::new(Class::Usage, format!("--{job} takes no --{option}"))
                .hinted(format!("It belongs to {}.", known.join(", "))));
        }
    }
    let archive = arguments.get_one::<String>("from").is_some_and(|from| from == "archive");
    match ["place", "label"].into_iter().find(|option| given(option) && !archive) {
        None => Ok(()),
        Some(option) => Err(Failure::new(Class::Usage, format!("--{option} takes '--from archive'"))
            .hinted("A running server has no backups to choose from.")),
    }
}

fn job(arguments: &ArgMatches) -> Job {
    let text = |name: &str| arguments.get_one::<String>(name).cloned();
    match (text("from"), text("follow")) {
        (Some(from), _) if from == "archive" => {
            Job::Make(Source::Archive { place: text("place"), label: text("label") })
        }
        (Some(node), _) => Job::Make(Source::Node(node)),
        (_, Some(node)) => Job::Follow(node),
        _ if arguments.get_flag("rejoin") => rejoin(arguments),
        _ => Job::Adopt,
    }
}

/// A former primary comes back, by the rung that is named or by the first that is open.
pub fn rejoin(arguments: &ArgMatches) -> Job {
    Job::Rejoin(arguments.get_one::<String>("rung").map(|rung| rung_of(rung)))
}

fn request(job: Job, arguments: &ArgMatches, config: &Config) -> Result<Request, Failure> {
    let text = |name: &str| arguments.get_one::<String>(name).cloned();
    let mode = match text("mode").as_deref() {
        Some("streaming") => StandbyMode::Streaming,
        Some("hot") => StandbyMode::Hot,
        Some("warm") => StandbyMode::Warm,
        Some("cold") => StandbyMode::Cold,
        // Whoever follows a server streams from it.
        _ if matches!(job, Job::Follow(_)) => StandbyMode::Streaming,
        _ => config.standby.mode,
    };
    let own = || slot_name(&config.local.node);
    let slot = match text("slot") {
        Some(name) if name.is_empty() => Some(own()),
        Some(name) => Some(name),
        None => config.standby.slots.then(own),
    };
    Ok(Request {
        job,
        mode,
        upstream: text("upstream"),
        slot: slot.filter(|_| mode.streams()),
        delay: arguments.get_one::<Duration>("delay").copied().unwrap_or_default(),
        tablespaces: tablespaces(arguments)?,
        keep_old: arguments.get_flag("keep-old"),
    })
}

fn rung_of(word: &str) -> Rung {
    match word {
        "follow" => Rung::Follow,
        "follow-archive" => Rung::FollowArchive,
        "rewind" => Rung::Rewind,
        "rewind-archive" => Rung::RewindArchive,
        "restore" => Rung::Restore,
        _ => Rung::Clone,
    }
}

fn tablespaces(arguments: &ArgMatches) -> Result<BTreeMap<u32, PathBuf>, Failure> {
    let maps = arguments.get_many::<String>("map").into_iter().flatten();
    maps.map(|map| {
        let wrong = || {
            Failure::new(Class::Usage, format!("'{map}' is no OID=DIR"))
                .hinted("'SELECT oid, spcname FROM pg_tablespace' names every tablespace.")
        };
        let (oid, folder) =
            map.split_once('=').filter(|(_, folder)| Path::new(folder).is_absolute()).ok_or_else(wrong)?;
        Ok((oid.parse().map_err(|_| wrong())?, PathBuf::from(folder)))
    })
    .collect()
}

/// How PostgreSQL calls the programs beside this one.
fn commands(context: &Context, config: &Config) -> Result<Commands, Failure> {
    let program = std::env::current_exe();
    let program =
        program.map_err(|error| Failure::new(Class::Storage, format!("cannot find this program: {error}")))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    Ok(Commands::of(folder, &context.source_arguments(), config))
}

/// Removes what a run that was killed left, as long as the data directory is as it was.
fn abandon(context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let journal = Journal::take(&Spool::new(&config.local.spool))?;
    let Some(entry) = journal.read()? else {
        output::print("there is nothing that was left half made\n")?;
        return Ok(0);
    };
    if entry.in_place() {
        return Err(Failure::new(Class::Refused, format!("the run of {} has changed the data directory", entry.begun))
            .hinted("Run it again as it was called; it goes on where it was."));
    }
    let verb = if context.dry_run { "would remove" } else { "removed" };
    if !context.dry_run {
        let (sites, progress) = (Sites::new(&config), Progress::new(context));
        let actor = Actor { config: &config, sites: &sites, journal: &journal, watcher: &progress, jobs: 1, rate: 0 };
        actor.undo(&entry)?;
    }
    if !context.quiet {
        output::print(&format!("{verb} what the run of {} left\n", entry.begun))?;
    }
    Ok(0)
}

/// Progress for a person at a terminal; nothing where there is none.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(context: &Context) -> Progress {
        Progress { bar: output::progress(0, "bytes", std::io::stderr().is_terminal() && !context.quiet) }
    }
}

impl Watcher for Progress {
    fn begin(&self, bytes: u64) {
        self.bar.reset();
        self.bar.set_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn phase(&self, words: &str) {
        self.bar.set_message(words.to_owned());
    }
}

/// What people read before anything is done.
fn beforehand(prepared: &Prepared, palette: Palette) -> String {
    let mut text = String::new();
    if prepared.resumed {
        let entry = &prepared.entry;
        let _ = writeln!(text, "goes on with the run of {} at step {}", entry.begun, entry.done + 1);
    }
    if !prepared.rungs.is_empty() {
        text.push_str(&ladder(&prepared.rungs, palette));
    }
    for note in &prepared.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for (at, step) in prepared.entry.steps.iter().enumerate().skip(prepared.entry.done) {
        let _ = writeln!(text, "{}. {step}", at + 1);
    }
    text
}

fn ladder(rungs: &[Weighed], palette: Palette) -> String {
    let columns = [("way back", Align::Left), ("at most", Align::Right), ("", Align::Left)];
    let mut table = Table::new(palette, &columns);
    let mut taken = false;
    for it in rungs {
        let (cost, words) = match (&it.cost, &it.why) {
            (Some(cost), _) => (output::size(cost.bytes), cost.what.clone()),
            (None, why) => ("closed".to_owned(), why.clone().unwrap_or_default()),
        };
        let tone = match &it.cost {
            Some(_) if !taken => Tone::Good,
            Some(_) => Tone::Plain,
            None => Tone::Faint,
        };
        taken |= it.cost.is_some();
        table.row([Cell::toned(tone, it.rung.to_string()), cost.into(), words.into()]);
    }
    table.to_string()
}

/// A run and what came of it.
struct Shown<'a> {
    context: &'a Context,
    prepared: &'a Prepared,
    acted: &'a Acted,
}

impl Shown<'_> {
    fn end(&self) -> Result<(), Failure> {
        if self.context.json {
            let json = serde_json::to_string_pretty(&self.json());
            let json = json.expect("because plain data has no reason not to become JSON");
            return output::print(&format!("{json}\n"));
        }
        if self.context.quiet {
            return Ok(());
        }
        if self.context.dry_run {
            return output::print(&beforehand(self.prepared, Palette::of_stdout()));
        }
        let mut text = String::new();
        if let Some(kept) = &self.acted.kept {
            text.push_str(&aside(kept));
        }
        match &self.acted.proof {
            Some(proof) => text.push_str(&proven(proof)),
            None => text.push_str("the files are in place; nothing was started\n"),
        }
        output::print(&text)
    }

    fn json(&self) -> serde_json::Value {
        let entry = &self.prepared.entry;
        let step = |(at, step): (usize, &_)| {
            let mut value = serde_json::to_value(step).expect("because plain data has no reason not to become JSON");
            value["words"] = json!(format!("{step}"));
            value["done"] = json!(at < entry.done);
            value
        };
        json!({
            "format": 1,
            "dry_run": self.context.dry_run,
            "resumed": self.prepared.resumed,
            "steps": entry.steps.iter().enumerate().map(step).collect::<Vec<_>>(),
            "notes": self.prepared.notes,
            "rungs": self.prepared.rungs,
            "kept": self.acted.kept,
            "proof": self.acted.proof,
        })
    }
}

fn aside(kept: &Summary) -> String {
    let mut text = format!(
        "kept: {} of WAL on timeline {} from {} to {}, {} transactions, in '{}'\n",
        output::size(kept.bytes),
        kept.timeline,
        kept.from,
        kept.until,
        kept.transactions,
        kept.folder.display()
    );
    if let (Some(first), Some(last)) = (&kept.first, &kept.last) {
        let time = |at: &chrono::DateTime<chrono::Utc>| output::time((*at).into());
        let _ = writeln!(
            text,
            "      committed there from {} (xid {}) to {} (xid {})",
            time(&first.at),
            first.xid,
            time(&last.at),
            last.xid
        );
    }
    text
}

fn proven(proof: &Proof) -> String {
    let mut text = String::new();
    let took = output::duration(Duration::try_from_secs_f64(proof.seconds).unwrap_or_default());
    match &proof.streaming {
        Some(it) => {
            let slot = it.slot.as_ref().map(|slot| format!(", slot '{slot}'")).unwrap_or_default();
            let _ =
                writeln!(text, "streams from {} ({}:{}, timeline {}{slot})", it.node, it.host, it.port, it.timeline);
        }
        None => text.push_str("replays what is shipped\n"),
    }
    if let Some(replayed) = proof.replayed {
        let at = proof.replayed_at.map(|at| format!(", last commit {}", output::time(at))).unwrap_or_default();
        let _ = writeln!(text, "has replayed up to {replayed}{at}; it took {took} to catch up");
    }
    if let Some(segment) = proof.segment {
        let _ = writeln!(text, "replays segment {segment}; nobody is let in");
    }
    text
}
