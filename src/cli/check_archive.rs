//! `check-archive`: is the WAL of an archive whole, what is missing, where is it still, and what can be restored.
//!
//! Exit codes: 0 all is well; 20 WAL is missing or a timeline hangs in the air; 22 a stored file is damaged, whatever
//! else. `--json` prints a [`Report`]; its schema is `etc/check-archive.schema.json`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;

use clap::ArgMatches;
use indicatif::ProgressBar;

use super::gaps::{missing, range};
use super::output::{self, Align, Cell, Palette, Table, Tone};
use super::pitr_restore::proven_words;
use super::run::Context;
use crate::archive::audit::{self, Options, Report, Verdict};
use crate::archive::copies;
use crate::archive::places::{Site, Sites};
use crate::archive::verify::Watcher;
use crate::archive::window::{Reach, shown};
use crate::cluster::wal_listing;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::wal::SegmentName;

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let sites = Sites::new(&config);
    let site = chosen(&config, &sites, arguments.get_one::<String>("node"))?;
    if let Some(range) = arguments.get_one::<String>("acknowledge") {
        let reason = arguments.get_one::<String>("reason").map(String::as_str).unwrap_or_default();
        return acknowledge(context, &site, range, reason);
    }
    let words = context.source_arguments();
    let own: String = words.iter().map(|word| format!("{} ", copies::quote(&word.to_string_lossy()))).collect();
    let options = Options {
        names_only: arguments.get_flag("names-only"),
        full: arguments.get_flag("full"),
        remember: !context.dry_run,
        arguments: &own,
    };
    let progress = Progress::new(context);
    let elsewhere = |node: &crate::config::Node| wal_listing::pg_wal(&config, node);
    let audited = audit::audit(&config, &sites, &site, options, &elsewhere, &progress);
    progress.bar.finish_and_clear();
    let report = audited?;
    if context.json {
        let json = serde_json::to_string_pretty(&report).expect("because plain data has no reason not to become JSON");
        output::print(&format!("{json}\n"))?;
    } else {
        output::print(&text(&report, Palette::of_stdout(), context.quiet))?;
    }
    Ok(exit_code(report.verdict))
}

fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ok => 0,
        Verdict::Incomplete => Class::Refused.code(),
        Verdict::Damaged => Class::Corrupt.code(),
    }
}

/// The archive to check: the own one, or that of the node named.
fn chosen(config: &Config, sites: &Sites, name: Option<&String>) -> Result<Arc<Site>, Failure> {
    let node = name.unwrap_or(&config.local.node);
    sites.get(node).cloned().ok_or_else(|| {
        let names: Vec<&str> = sites.all().map(|site| site.name()).collect();
        Failure::new(Class::Usage, format!("there is no node '{node}' that holds an archive"))
            .hinted(format!("Archives are on {}.", names.join(", ")))
    })
}

fn acknowledge(context: &Context, site: &Site, range: &str, reason: &str) -> Result<u8, Failure> {
    let wrong = || {
        Failure::new(Class::Usage, format!("'{range}' is no stretch of segments"))
            .hinted("Write FIRST..LAST with the names of two segments, or one name.")
    };
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    let segment = |name: &str| name.parse::<SegmentName>().map_err(|_| wrong());
    let count = audit::acknowledge(&context.config, site, (segment(first)?, segment(last)?), reason, context.dry_run)?;
    let verb = if context.dry_run { "would acknowledge" } else { "acknowledged" };
    match context.json {
        true => output::print(&format!("{:#}\n", serde_json::json!({"format": 1, "acknowledged": count})))?,
        false => output::print(&format!("{verb} {count} missing segments; what is missing stays missing\n"))?,
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
    fn planned(&self, _files: u64, bytes: u64) {
        self.bar.set_length(bytes);
    }

    fn checked(&self, path: &str, bytes: u64) {
        self.bar.set_message(path.to_owned());
        self.bar.inc(bytes);
    }
}

/// What people read.
fn text(report: &Report, palette: Palette, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        let size = output::size(report.segment_size);
        let _ = writeln!(text, "archive of {} ({}), segments of {size}", report.node, report.location);
        text.push_str(&timelines(report, palette));
    }
    let bad = |text: &str| palette.paint(Tone::Bad, text);
    for gap in &report.gaps {
        text.push_str(&missing(gap, palette));
    }
    for orphan in &report.orphans {
        let _ = writeln!(text, "{}: timeline {}: {}", bad("orphan"), orphan.timeline, orphan.why);
        let _ = writeln!(text, "  fix: {}", orphan.fix);
    }
    for damaged in &report.damaged {
        let _ = writeln!(text, "{}: {}: {}", bad("damaged"), damaged.path, damaged.why);
        let _ = writeln!(text, "  fix: {}", damaged.fix);
    }
    for chain in &report.broken_chains {
        let (first, last, since) = (chain.first, chain.last, &chain.since);
        let _ = writeln!(text, "discarded: {} files, {first} to {last}, since {since}", chain.count);
    }
    if quiet {
        return text;
    }
    for accepted in &report.acknowledged {
        let stretch = range(accepted.first, accepted.last, accepted.count);
        let _ = writeln!(text, "acknowledged: {stretch}: {} ({}, {})", accepted.reason, accepted.node, accepted.at);
    }
    for notice in &report.notices {
        let _ = writeln!(text, "note: {notice}");
    }
    text.push_str(&restorable(report));
    text.push_str(&summary(report, palette));
    text
}

fn timelines(report: &Report, palette: Palette) -> String {
    let columns = [
        ("timeline", Align::Right),
        ("from", Align::Left),
        ("first segment", Align::Left),
        ("last segment", Align::Left),
        ("first LSN", Align::Right),
        ("last LSN", Align::Right),
        ("segments", Align::Right),
        ("partial", Align::Right),
        ("stored", Align::Right),
    ];
    let mut table = Table::new(palette, &columns);
    for line in &report.timelines {
        let parent = line.parent.zip(line.forked_at).map(|(parent, at)| format!("{parent} at {at}"));
        let name = |name: Option<SegmentName>| Cell::from(name.map_or_else(|| "-".to_owned(), |name| name.to_string()));
        let lsn = |lsn: Option<crate::wal::Lsn>| Cell::from(lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string()));
        table.row([
            line.timeline.to_string().into(),
            parent.unwrap_or_else(|| "-".to_owned()).into(),
            name(line.first),
            name(line.last),
            lsn(line.from),
            lsn(line.to),
            line.segments.to_string().into(),
            line.partials.to_string().into(),
            output::size(line.stored).into(),
        ]);
    }
    table.to_string()
}

fn restorable(report: &Report) -> String {
    let mut text = String::new();
    for window in report.windows.iter().filter(|window| window.usable) {
        let from = window.from_time.map_or_else(|| "an unknown time".to_owned(), shown::words);
        let until = window.until.as_ref().map(reached).unwrap_or_default();
        let _ = writeln!(text, "restorable: backup {}: from {from} until {until}", window.backup);
    }
    if let Some(newest) = &report.newest {
        let _ = writeln!(text, "newest WAL: whole from {} until {}", newest.first, reached(newest));
    }
    if let Some(drill) = &report.proven {
        let _ = writeln!(text, "proven: {}", proven_words(drill));
    }
    if let Some(drill) = report.last_drill.as_ref().filter(|drill| !drill.good) {
        let why = drill.failure.as_deref().unwrap_or("for an unknown reason");
        let _ = writeln!(text, "last drill: failed, {}: {why}", drill.started);
    }
    text
}

fn reached(reach: &Reach) -> String {
    let time = reach
        .last_commit
        .map_or_else(|| "no commit near its end".to_owned(), |time| format!("last commit {}", shown::words(time)));
    format!("{} on timeline {} ({time})", reach.until, reach.timeline)
}

fn summary(report: &Report, palette: Palette) -> String {
    let read = &report.verification;
    let contents = match read.contents {
        false => "names only, no content was read".to_owned(),
        true => {
            let size = output::size(read.bytes);
            format!("{} files read ({size}), {} known from an earlier run", read.files, read.remembered)
        }
    };
    let lost: u64 = report.gaps.iter().map(|gap| gap.count).sum();
    let (tone, word) = match report.verdict {
        Verdict::Ok => (Tone::Good, "whole".to_owned()),
        _ => {
            let counts =
                [(lost, "missing"), (report.orphans.len() as u64, "orphan"), (report.damaged.len() as u64, "damaged")];
            let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
            (Tone::Bad, counts.collect::<Vec<_>>().join(", "))
        }
    };
    format!("{}: {}; {contents}\n", report.cluster, palette.paint(tone, &word))
}
