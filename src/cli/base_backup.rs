//! `base-backup`: take, list, show, verify, restore, annotate, keep, release, expire.
//!
//! `--json` prints, for take and show, the content of `backup.json`; for list `{"format":1,"backups":[…],
//! "unfinished":[…],"unreadable":[{"label","why"}],"unusable":[{"label","why"}]}`; for verify
//! `{"format":1,"backups":[{"label","good","problems"}]}`; for restore
//! `{"format":1,"label","bytes","written","removed"}`; for expire `{"format":1,"dry_run",…}` with every fate and
//! its reason.

mod copy;
mod elsewhere;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use clap::ArgMatches;
use indicatif::ProgressBar;
use serde_json::json;

use self::copy::Direction;
use super::output::{self, Align, Cell, Palette, Table, Tone};
use super::run::Context;
use crate::archive::places::{Archive, Sites};
use crate::archive::spool::Spool;
use crate::backup::catalog::{self, Description, Found, FoundBy, Label};
use crate::backup::expire::{Report, Rules, expire};
use crate::backup::restore::{self, Target};
use crate::backup::take::{Request, Wanted, lock, open, take};
use crate::backup::{Watcher, chain, verify};
use crate::config::{Config, Node};
use crate::error::{Class, Failure};

/// Which options belong to which word; the others are a mistake that must not pass unseen.
const OPTIONS: &[(&str, &[&str])] = &[
    ("rate-limit", &["take"]),
    ("incremental", &["take"]),
    ("parent", &["take"]),
    ("keep-it", &["take"]),
    ("note", &["take", "annotate"]),
    ("to", &["take", "restore"]),
    ("from", &["take"]),
    ("of", &["take"]),
    ("map", &["take", "restore"]),
    ("wal-dir", &["take", "restore"]),
    ("delta", &["restore"]),
    ("drop-wal", &["take", "restore"]),
    ("copy-wal", &["take"]),
    ("keep-config", &["take"]),
    ("keep", &["expire"]),
    ("days", &["expire"]),
    ("jobs", &["take", "verify", "restore"]),
    ("label", &["show", "verify", "restore", "annotate", "keep", "release"]),
];

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let job = arguments.get_one::<String>("job").map_or("", String::as_str);
    refuse_strangers(arguments, job)?;
    let mut config = context.config.clone();
    let number = |name: &str| arguments.get_one::<u32>(name).copied();
    config.backup.jobs = number("jobs").unwrap_or(config.backup.jobs);
    config.backup.keep = number("keep").unwrap_or(config.backup.keep);
    config.backup.keep_days = number("days").unwrap_or(config.backup.keep_days);
    if let Some(rate) = arguments.get_one::<u64>("rate-limit") {
        config.backup.rate_max = *rate;
    }
    let config = Arc::new(config);
    if matches!(job, copy::RECEIVE | copy::SEND) {
        return copy::serve(&config, job);
    }
    let place = arguments.get_one::<String>("place").unwrap_or(&config.local.node);
    let sites = Sites::new(&config);
    let scene = Scene { arguments, context, config: &config, place };
    match job {
        "take" if arguments.get_flag(elsewhere::ATTACHED) => {
            elsewhere::end_when_left(context);
            scene.take(&sites)
        }
        "take" => match (arguments.get_one::<PathBuf>("to"), arguments.get_one::<String>("from")) {
            (Some(node), _) => scene.copy(Direction::To(&node.to_string_lossy())),
            (None, Some(node)) => scene.copy(Direction::From(node)),
            (None, None) => match arguments.get_one::<String>("of") {
                Some(node) if *node != config.local.node => scene.take_of(&sites, node),
                _ => scene.take(&sites),
            },
        },
        "list" => scene.list(&open(&sites, place)?),
        "show" => scene.show(&open(&sites, place)?),
        "verify" => scene.verify(&open(&sites, place)?),
        "restore" => scene.restore(&open(&sites, place)?),
        "expire" => scene.expire(&open(&sites, place)?),
        other => scene.mark(&open(&sites, place)?, other),
    }
}

/// Options of `take` that only go with `--to` or `--from`, and those that go with neither.
const COPYING: &[&str] = &["map", "wal-dir", "copy-wal", "keep-config", "drop-wal"];
const STORING: &[&str] = &["keep-it", "note"];

/// Refuses an option that the word does not know.
fn refuse_strangers(arguments: &ArgMatches, job: &str) -> Result<(), Failure> {
    use clap::parser::ValueSource::CommandLine;
    let given = |option: &&&str| arguments.value_source(option) == Some(CommandLine);
    let copies = ["to", "from"].into_iter().find(|option| arguments.contains_id(option));
    match (copies, COPYING.iter().find(given), STORING.iter().find(given)) {
        (None, Some(option), _) if job == "take" => {
            let hint = "Name the node that gets the copy with --to, or the one whose server is copied with --from.";
            return Err(usage(&format!("'take' takes no --{option} without --to or --from"), hint));
        }
        (Some(copies), _, Some(option)) if job == "take" => {
            let hint = "It belongs to a backup in an archive.";
            return Err(usage(&format!("'take --{copies}' takes no --{option}"), hint));
        }
        _ => {}
    }
    for (option, jobs) in OPTIONS {
        if arguments.value_source(option) == Some(CommandLine) && !jobs.contains(&job) {
            let name = if *option == "label" { "a label".to_owned() } else { format!("--{option}") };
            return Err(Failure::new(Class::Usage, format!("'{job}' takes no {}", name.trim_start_matches("a ")))
                .hinted(format!("It belongs to {}; see 'base-backup --help'.", jobs.join(", "))));
        }
    }
    Ok(())
}

/// What every word works with.
struct Scene<'a> {
    arguments: &'a ArgMatches,
    context: &'a Context,
    config: &'a Arc<Config>,
    place: &'a str,
}

impl Scene<'_> {
    fn take(&self, sites: &Sites) -> Result<u8, Failure> {
        if self.context.dry_run {
            let wanted = self.wanted()?;
            let archive = open(sites, self.place)?;
            let kind = if wanted == Wanted::Full { "a full" } else { "an incremental" };
            output::print(&format!("would take {kind} backup into the {}\n", archive.store.place()))?;
            return Ok(0);
        }
        let progress = Progress::new(self.context);
        let request = self.request(&progress)?;
        let taken = take(&request);
        progress.end();
        self.taken(&taken?)
    }

    /// What is to be taken.
    fn request<'b>(&'b self, progress: &'b Progress) -> Result<Request<'b>, Failure> {
        Ok(Request {
            config: self.config,
            place: self.place,
            wanted: self.wanted()?,
            annotations: self.notes()?.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
            keep: self.arguments.get_flag("keep-it"),
            watcher: progress,
        })
    }

    /// Says what was taken.
    fn taken(&self, description: &Description) -> Result<u8, Failure> {
        if self.context.json {
            self.print_json(description)?;
        } else if !self.context.quiet {
            output::print(&format!(
                "{}  {} files, {} ({} stored) in {}\n",
                description.label,
                description.files,
                output::size(description.size),
                output::size(description.stored),
                output::duration(took(description)),
            ))?;
        }
        if description.damaged_pages.is_empty() {
            return Ok(0);
        }
        let pages: Vec<String> = description
            .damaged_pages
            .iter()
            .map(|file| format!("'{}' blocks {}", file.path, numbers(&file.blocks)))
            .collect();
        Err(Failure::new(
            Class::Corrupt,
            format!("backup '{}' holds damaged pages, as the server does: {}", description.label, pages.join("; ")),
        )
        .hinted(
            "The backup is whole and marked; look at the server's disk, and restore the relation from an older backup.",
        ))
    }

    /// What kind of backup the command line asks for.
    fn wanted(&self) -> Result<Wanted, Failure> {
        if !self.arguments.get_flag("incremental") {
            return Ok(Wanted::Full);
        }
        let parent = self.arguments.get_one::<String>("parent").map(|label| parse(label)).transpose()?;
        Ok(Wanted::Incremental(parent))
    }

    /// The node of this name.
    fn node(&self, name: &str) -> Result<&Node, Failure> {
        self.config.node(name).ok_or_else(|| {
            usage(&format!("there is no node '{name}'"), "The nodes are the [node.NAME] sections of the configuration.")
        })
    }

    fn list(&self, archive: &Archive) -> Result<u8, Failure> {
        let found = catalog::list(archive)?;
        if self.context.json {
            let whole: Vec<_> =
                found.iter().filter_map(|it| if let Found::Whole(it) = it { Some(it) } else { None }).collect();
            let unfinished: Vec<_> =
                found.iter().filter_map(|it| if let Found::Unfinished(it) = it { Some(it) } else { None }).collect();
            let unreadable: Vec<_> = found
                .iter()
                .filter_map(|it| {
                    if let Found::Unreadable(label, why) = it {
                        Some(json!({"label": label, "why": why}))
                    } else {
                        None
                    }
                })
                .collect();
            let known = chain::known(&found);
            let unusable: Vec<_> = known
                .values()
                .filter_map(|it| {
                    let why = chain::obstacle(&known, it)?.to_string();
                    Some(json!({"label": it.label, "why": why}))
                })
                .collect();
            let all = json!({"format": 1, "backups": whole, "unfinished": unfinished, "unreadable": unreadable,
                "unusable": unusable});
            return self.print_json(&all).map(|()| 0);
        }
        output::print(&table(&found, Palette::of_stdout()))?;
        Ok(0)
    }

    fn show(&self, archive: &Archive) -> Result<u8, Failure> {
        let description = self.named(archive)?;
        if self.context.json {
            self.print_json(&description)?;
        } else {
            let found = catalog::list(archive)?;
            output::print(&details(&description, &chain::known(&found)))?;
        }
        Ok(0)
    }

    fn verify(&self, archive: &Archive) -> Result<u8, Failure> {
        let all = match self.arguments.get_one::<String>("label") {
            Some(_) => vec![self.named(archive)?],
            None => chain::known(&catalog::list(archive)?).into_values().cloned().collect(),
        };
        let progress = Progress::new(self.context);
        let mut results = Vec::new();
        let mut bad = 0;
        for description in &all {
            let problems = verify::verify(archive, description, self.jobs(), &progress)?;
            if !self.context.dry_run {
                verify::mark(archive, description, problems.is_empty())?;
            }
            bad += usize::from(!problems.is_empty());
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            if !self.context.json && !self.context.quiet {
                progress.bar.suspend(|| {
                    let word = if problems.is_empty() { "good" } else { "damaged" };
                    output::print(&format!("{}  {word}\n{}", description.label, lines(&problems)))
                })?;
            }
            results.push(json!({"label": description.label, "good": problems.is_empty(), "problems": problems}));
        }
        progress.end();
        if self.context.json {
            self.print_json(&json!({"format": 1, "backups": results}))?;
        }
        if bad == 0 {
            return Ok(0);
        }
        Err(Failure::new(Class::Corrupt, format!("{bad} of {} backups are damaged", all.len()))
            .hinted("Take a new backup; keep the damaged ones until it is verified."))
    }

    fn restore(&self, archive: &Archive) -> Result<u8, Failure> {
        let description = self.named(archive)?;
        let pgdata = self.arguments.get_one::<PathBuf>("to").cloned();
        let pgdata = pgdata.ok_or_else(|| usage("restore needs a directory", "Name it with --to."))?;
        let target = Target {
            pgdata: absolute(&pgdata)?,
            tablespaces: self.tablespaces()?,
            wal: self.arguments.get_one::<PathBuf>("wal-dir").map(|dir| absolute(dir)).transpose()?,
            delta: self.arguments.get_flag("delta"),
            drop_wal: self.arguments.get_flag("drop-wal"),
        };
        let places = restore::places(&description, &target)?;
        let way = restore::look(&description, &target, &places)?;
        restore::room(archive, &description, &target, &places, way)?;
        if self.context.dry_run {
            output::print(&format!("would restore '{}' into '{}'\n", description.label, target.pgdata.display()))?;
            return Ok(0);
        }
        let progress = Progress::new(self.context);
        let restored = restore::restore(archive, &description, &target, self.jobs(), &progress);
        progress.end();
        let restored = restored?;
        if self.context.json {
            self.print_json(&json!({
                "format": 1, "label": description.label, "bytes": restored.bytes, "written": restored.written,
                "removed": restored.removed,
            }))?;
        } else if !self.context.quiet {
            output::print(&format!(
                "restored '{}' into '{}'{}; set restore_command and make recovery.signal or standby.signal before starting it\n",
                description.label,
                target.pgdata.display(),
                if target.delta { format!(", {} written", output::size(restored.written)) } else { String::new() },
            ))?;
        }
        Ok(0)
    }

    fn mark(&self, archive: &Archive, job: &str) -> Result<u8, Failure> {
        let mut description = self.named(archive)?;
        match job {
            "keep" => description.keep = true,
            "release" => description.keep = false,
            _ => {
                for (key, value) in self.notes()? {
                    match value {
                        Some(value) => description.annotations.insert(key, value),
                        None => description.annotations.remove(&key),
                    };
                }
            }
        }
        if !self.context.dry_run {
            catalog::rewrite(archive, &description)?;
        }
        Ok(0)
    }

    fn expire(&self, archive: &Archive) -> Result<u8, Failure> {
        let spool = Spool::new(&self.config.local.spool);
        spool.prepare()?;
        let _one_run = lock(&spool)?;
        let rules = Rules { keep: self.config.backup.keep, days: self.config.backup.keep_days };
        let own = self.place == self.config.local.node;
        let report = expire(self.config, archive, own, rules, self.context.dry_run)?;
        if self.context.json {
            self.print_json(&json!({"format": 1, "dry_run": self.context.dry_run, "rules": rules, "report": report}))?;
        } else if !self.context.quiet {
            output::print(&expired(&report, self.context.dry_run))?;
        }
        Ok(0)
    }

    /// The backup that the command line names; `latest` is the newest that can be used.
    fn named(&self, archive: &Archive) -> Result<Description, Failure> {
        let label = self.arguments.get_one::<String>("label");
        let label = label.ok_or_else(|| usage("no backup is named", "'base-backup list' shows every backup."))?;
        if label == "latest" {
            return chain::usable(archive)?.pop().ok_or_else(|| {
                Failure::new(Class::Absent, format!("there is no usable backup in the {}", archive.store.place()))
                    .hinted("'base-backup take' takes one; 'base-backup list' says what is wrong with those that are there.")
            });
        }
        Ok(catalog::get(archive, &parse(label)?)?)
    }

    fn notes(&self) -> Result<BTreeMap<String, Option<String>>, Failure> {
        let notes = self.arguments.get_many::<String>("note").into_iter().flatten();
        notes
            .map(|note| match note.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    Ok((key.to_owned(), (!value.is_empty()).then(|| value.to_owned())))
                }
                _ => {
                    Err(usage(&format!("'{note}' is no KEY=VALUE"), "Write it as --note reason='before the upgrade'."))
                }
            })
            .collect()
    }

    fn tablespaces(&self) -> Result<BTreeMap<u32, PathBuf>, Failure> {
        let maps = self.arguments.get_many::<String>("map").into_iter().flatten();
        maps.map(|map| {
            let wrong =
                || usage(&format!("'{map}' is no OID=DIR"), "'base-backup show' names every tablespace with its oid.");
            let (oid, folder) = map.split_once('=').filter(|(_, folder)| !folder.is_empty()).ok_or_else(wrong)?;
            Ok((oid.parse().map_err(|_| wrong())?, PathBuf::from(folder)))
        })
        .collect()
    }

    fn jobs(&self) -> usize {
        match self.config.backup.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs as usize,
        }
    }

    fn print_json<T: serde::Serialize>(&self, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value).expect("because plain data has no reason not to become JSON");
        output::print(&format!("{json}\n"))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| usage(&format!("'{}' is no path: {error}", path.display()), "Name a directory."))
}

fn usage(message: &str, hint: &str) -> Failure {
    Failure::new(Class::Usage, message).hinted(hint)
}

fn parse(label: &str) -> Result<Label, Failure> {
    label.parse().map_err(|error| usage(&format!("{error}"), "'base-backup list' shows every backup."))
}

fn lines(words: &[String]) -> String {
    words.iter().map(|word| format!("  {word}\n")).collect()
}

fn numbers(blocks: &[u32]) -> String {
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn took(description: &Description) -> Duration {
    let time = |text: &str| DateTime::parse_from_rfc3339(text).ok();
    let both = time(&description.started).zip(time(&description.stopped));
    both.and_then(|(started, stopped)| (stopped - started).to_std().ok()).unwrap_or_default()
}

fn second(time: &str) -> String {
    DateTime::parse_from_rfc3339(time)
        .map_or_else(|_| time.to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S%:z").to_string())
}

fn table(found: &[Found], palette: Palette) -> String {
    use Align::{Left, Right};
    let columns = [
        ("label", Left),
        ("state", Left),
        ("ended", Left),
        ("took", Right),
        ("size", Right),
        ("stored", Right),
        ("from segment", Left),
        ("builds on", Left),
        ("verified", Left),
        ("keep", Left),
    ];
    let mut table = Table::new(palette, &columns);
    let known = chain::known(found);
    for found in found {
        match found {
            Found::Whole(it) => table.row([
                it.label.as_str().into(),
                match chain::obstacle(&known, it) {
                    None => Cell::toned(Tone::Good, "ok"),
                    Some(obstacle) => Cell::toned(Tone::Bad, obstacle.to_string()),
                },
                second(&it.stopped).into(),
                output::duration(took(it)).into(),
                output::size(it.size).into(),
                output::size(it.stored).into(),
                it.start_segment.to_string().into(),
                it.parent.as_ref().map_or("", Label::as_str).into(),
                it.verified.as_deref().map_or_else(|| "never".to_owned(), second).into(),
                if it.keep { "yes" } else { "" }.into(),
            ]),
            Found::Unfinished(label) => table.row([label.as_str().into(), Cell::toned(Tone::Warning, "unfinished")]),
            Found::Unreadable(label, _) => table.row([label.as_str().into(), Cell::toned(Tone::Bad, "unreadable")]),
        }
    }
    table.to_string()
}

fn details(it: &Description, known: &chain::Known<'_>) -> String {
    let (ancestors, _) = chain::ancestors(known, it);
    let chain: Vec<&str> = ancestors.iter().map(|it| it.label.as_str()).collect();
    let mut rows = vec![
        ("label", it.label.to_string()),
        ("state", chain::obstacle(known, it).map_or_else(|| "ok".to_owned(), |obstacle| obstacle.to_string())),
        ("builds on", if chain.is_empty() { "nothing: it is a full backup".to_owned() } else { chain.join(", ") }),
        ("taken on", format!("{} ({}), PostgreSQL {}", it.node, it.role, it.major)),
        ("began", second(&it.started)),
        ("ended", format!("{} after {}", second(&it.stopped), output::duration(took(it)))),
        ("WAL", format!("{} to {}, {} to {}", it.start_lsn, it.stop_lsn, it.start_segment, it.stop_segment)),
        ("timeline", it.timeline.0.to_string()),
        ("system id", it.system_identifier.clone()),
        ("files", it.files.to_string()),
        ("size", format!("{} ({} stored)", output::size(it.size), output::size(it.stored))),
        ("checksums", checksums(it).to_owned()),
        ("verified", it.verified.as_deref().map_or_else(|| "never".to_owned(), second)),
        ("kept", if it.keep { "until released" } else { "as the rules say" }.to_owned()),
    ];
    let found = it.found_by.map(|by| match by {
        FoundBy::Comparing => "found by reading and comparing",
        FoundBy::Summaries => "found by the server's WAL summaries",
    });
    rows.extend(found.map(|how| ("changes", how.to_owned())));
    rows.extend(it.tablespaces.iter().map(|space| ("tablespace", format!("{} at {}", space.oid, space.location))));
    rows.extend(
        it.damaged_pages.iter().map(|file| ("damaged", format!("{} blocks {}", file.path, numbers(&file.blocks)))),
    );
    rows.extend(it.annotations.iter().map(|(key, value)| ("note", format!("{key} = {value}"))));
    rows.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect()
}

/// What was looked at of the checksums of pages.
fn checksums(it: &Description) -> &'static str {
    match (it.checksums, it.found_by) {
        (false, _) => "not looked at",
        (true, Some(FoundBy::Summaries)) => "every page that was read looked at",
        (true, _) => "every page looked at",
    }
}

fn expired(report: &Report, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for fate in &report.backups {
        let word = if fate.removed { verb } else { "kept" };
        text.push_str(&format!("{word} {}: {}\n", fate.label, fate.why));
    }
    if let Some(wal) = &report.wal {
        text.push_str(&format!("{verb} {} WAL files, {}\n", wal.files.len(), output::size(wal.bytes)));
    }
    text.extend(report.wal_kept.iter().map(|why| format!("kept WAL: {why}\n")));
    text
}

/// Progress for a person at a terminal; nothing where there is none.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar on standard error, if that is a terminal.
    pub fn new(context: &Context) -> Self {
        let seen = std::io::stderr().is_terminal() && !context.quiet;
        Progress { bar: output::progress(0, "bytes", seen) }
    }

    /// Shows that something is looked at, for nobody knows how long.
    pub fn looking(&self) {
        self.bar.set_message("looking at the archive");
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> Option<String> {
        let command = super::super::arguments::base_backup();
        let words = std::iter::once("base-backup").chain(words.iter().copied());
        let matches = command.try_get_matches_from(words).expect("because the words are known");
        let job = matches.get_one::<String>("job").cloned().unwrap_or_default();
        refuse_strangers(&matches, &job).err().map(|failure| failure.message)
    }

    #[test]
    fn an_option_of_another_word_is_refused() {
        assert_eq!(refused(&["list", "--days", "3"]).as_deref(), Some("'list' takes no --days"));
        assert_eq!(refused(&["take", "20261121T140312F"]).as_deref(), Some("'take' takes no label"));
        assert_eq!(refused(&["expire", "--keep", "3", "--dry-run"]), None);
        assert_eq!(
            refused(&["take", "--drop-wal"]).as_deref(),
            Some("'take' takes no --drop-wal without --to or --from")
        );
        assert_eq!(refused(&["take", "--to", "b", "--keep-it"]).as_deref(), Some("'take --to' takes no --keep-it"));
        assert_eq!(refused(&["take", "--from", "a", "--map", "1=/y", "--wal-dir", "/z"]), None);
        assert_eq!(refused(&["restore", "latest", "--to", "/x", "--map", "1=/y", "--jobs", "2"]), None);
    }
}
