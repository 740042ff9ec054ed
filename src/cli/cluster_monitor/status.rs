//! `cluster-monitor status`: every node as it answers now.

use std::sync::Arc;
use std::time::Duration;

use super::{Judged, print_json};
use crate::cli::output::{self, Align, Cell, Palette, Table, Tone};
use crate::cli::run::Context;
use crate::cluster::check::{Finding, Level};
use crate::error::Failure;
use crate::monitor::view::{Mark, NodeView, View};

/// Runs it.
pub fn run(context: &Context) -> Result<u8, Failure> {
    let judged = Judged::now(&Arc::new(context.config.clone()));
    match context.json {
        true => print_json(&judged.picture())?,
        false => output::print(&text(&judged, Palette::of_stdout(), context.quiet))?,
    }
    Ok(judged.code())
}

fn text(judged: &Judged, palette: Palette, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        text.push_str(&format!("{}\n\n{}", headline(&judged.view), nodes(&judged.view, palette)));
    }
    text.push_str(&problems(&judged.findings, palette, !quiet));
    text
}

/// One line: who is the primary, and where.
pub fn headline(view: &View) -> String {
    let reference = view.reference.as_ref();
    let at = reference.map(|reference| format!("{} on timeline {}", reference.lsn, reference.timeline.0));
    let at = at.unwrap_or_else(|| "an unknown position".to_owned());
    let mut line = match (&view.primary, view.rivals.as_slice()) {
        (Some(primary), []) => format!("{}: {primary} is the primary, at {at}", view.cluster),
        (Some(primary), rivals) => {
            format!("{}: {primary} is the primary, at {at}, and {} TAKE WRITES TOO", view.cluster, rivals.join(", "))
        }
        (None, _) => format!("{}: NO PRIMARY ANSWERS; what is known reaches to {at}", view.cluster),
    };
    if let Some(names) = view.synchronous_standby_names.as_deref().filter(|names| !names.is_empty()) {
        line.push_str(&format!("; synchronous: {names}"));
    }
    if let Some(pause) = &view.pause {
        let until =
            pause.until.as_ref().map_or_else(|| "until it is resumed".to_owned(), |until| format!("until {until}"));
        line.push_str(&format!("\nPAUSED by {} since {}, {until}", pause.node, pause.since));
        if !pause.reason.is_empty() {
            line.push_str(&format!(": {}", pause.reason));
        }
    }
    line
}

fn nodes(view: &View, palette: Palette) -> Table {
    let columns = [
        ("node", Align::Left),
        ("id", Align::Right),
        ("role", Align::Left),
        ("state", Align::Left),
        ("tli", Align::Right),
        ("follows", Align::Left),
        ("by", Align::Left),
        ("behind", Align::Right),
        ("since", Align::Right),
        ("archive", Align::Left),
        ("daemon", Align::Left),
    ];
    let mut table = Table::new(palette, &columns);
    for node in &view.nodes {
        let mark = distance(node);
        let dash = || Cell::toned(Tone::Faint, "-");
        table.row([
            node.name.as_str().into(),
            node.id.map_or_else(dash, |id| id.to_string().into()),
            role(view, node),
            state(node),
            node.timeline.map_or_else(dash, |timeline| timeline.0.to_string().into()),
            node.upstream.as_deref().map_or_else(dash, Into::into),
            by(node).map_or_else(dash, Into::into),
            mark.map_or_else(dash, |mark| bytes(mark).into()),
            mark.map_or_else(dash, |mark| since(mark).into()),
            archive(node).map_or_else(dash, Into::into),
            daemon(node),
        ]);
    }
    table
}

fn role(view: &View, node: &NodeView) -> Cell {
    let tone = match () {
        () if view.rivals.contains(&node.name) => Tone::Bad,
        () if view.primary.as_ref() == Some(&node.name) => Tone::Good,
        () => Tone::Plain,
    };
    Cell::toned(tone, node.role.word())
}

fn state(node: &NodeView) -> Cell {
    match node.state {
        "running" if node.replay_paused => Cell::toned(Tone::Warning, "paused"),
        "running" => Cell::toned(Tone::Good, "running"),
        "no server" => Cell::toned(Tone::Faint, "no server"),
        other => Cell::toned(Tone::Bad, other),
    }
}

/// The way WAL comes, and what its upstream makes of it.
fn by(node: &NodeView) -> Option<String> {
    let way = node.replication?;
    let sync = node.sync_state.as_deref().filter(|state| *state != "async");
    let sync = sync.map(|state| format!(", {state}")).unwrap_or_default();
    let delay =
        node.apply_delay_seconds.map(|delay| format!(", delayed {}", output::duration(Duration::from_secs_f64(delay))));
    Some(format!("{way}{sync}{}", delay.unwrap_or_default()))
}

/// The one distance that says most about a node: what its queries see, else what it holds.
fn distance(node: &NodeView) -> Option<Mark> {
    let lag = &node.lag;
    lag.replayed.or(lag.flushed).or(lag.relayed)
}

/// A distance in bytes.
pub fn bytes(mark: Mark) -> String {
    mark.bytes.map_or_else(|| "?".to_owned(), output::size)
}

/// A distance in time.
pub fn since(mark: Mark) -> String {
    mark.seconds.map_or_else(|| "?".to_owned(), |seconds| output::duration(Duration::from_secs_f64(seconds.max(0.0))))
}

fn archive(node: &NodeView) -> Option<String> {
    let report = node.report.as_ref()?;
    match report.archive.as_ref()? {
        Err(_) => Some("unknown".to_owned()),
        Ok(state) => {
            let behind = node.lag.archived.or(node.lag.relayed).map(bytes);
            let missing = match state.missing {
                0 => String::new(),
                missing => format!(", {missing} MISSING"),
            };
            Some(behind.map_or_else(|| "empty".to_owned(), |behind| format!("{behind} behind")) + &missing)
        }
    }
}

/// Whether the node's daemon speaks.
fn daemon(node: &NodeView) -> Cell {
    match node.report_age_seconds {
        Some(age) if age > 0.0 => {
            let age = output::duration(Duration::from_secs_f64(age));
            format!("{age} ago").into()
        }
        Some(_) => Cell::toned(Tone::Faint, "this node"),
        None => Cell::toned(Tone::Faint, "-"),
    }
}

/// What is not well, how to mend it, and how many findings there are of each level.
pub fn problems(findings: &[Finding], palette: Palette, count: bool) -> String {
    let bad: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    let mut text = String::new();
    if !bad.is_empty() {
        let columns =
            [("level", Align::Left), ("check", Align::Left), ("subject", Align::Left), ("message", Align::Left)];
        let mut table = Table::new(palette, &columns);
        for finding in &bad {
            let tone = if finding.level == Level::Critical { Tone::Bad } else { Tone::Warning };
            table.row([
                Cell::toned(tone, finding.level.to_string()),
                finding.check.into(),
                finding.subject.as_str().into(),
                finding.message.as_str().into(),
            ]);
        }
        text = format!("\n{table}");
        for finding in &bad {
            if let Some(fix) = &finding.fix {
                text.push_str(&format!("fix: {} {}: {fix}\n", finding.check, finding.subject));
            }
        }
    }
    if count {
        let well = findings.len() - bad.len();
        text.push_str(&format!("\n{} findings, {well} of them ok\n", findings.len()));
    }
    text
}
