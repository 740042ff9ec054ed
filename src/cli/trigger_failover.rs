//! `trigger-failover`: makes this standby the primary, or says by which rule it does not.
//!
//! `--json` prints, at the end, a [`Report`]; with `--dry-run`
//! `{"format":1,"verdict":{…},"observation":{…},"lost":{…}|null}`. Times carry their offset, positions are as
//! PostgreSQL writes them. A refusal is no JSON: it is the error of the program, and its exit code is 20.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::json;

use super::output::{self, Align, Cell, Palette, Table, Tone};
use super::run::{self, Context};
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::failover::act::{self, Scene, Watcher};
use crate::failover::decide::{Verdict, case};
use crate::failover::lost::{self, Lost};
use crate::failover::observation::Observation;
use crate::failover::observe::{Observer, view};
use crate::failover::plan::{Loss, Step};
use crate::failover::report::{Report, is_the_servers_own};
use crate::failover::rules::{Intent, Lift, Policy, RULES, Scope};
use crate::failover::standing::Standing;

/// The whole `main`: the rules are printed wherever one asks for them, also without a configuration.
pub fn main() -> ExitCode {
    if std::env::args_os().any(|word| word == "--rules") {
        // A reader that went away has seen what it wanted.
        let _ = output::print(&rules(Palette::of_stdout()));
        return ExitCode::SUCCESS;
    }
    run::main("trigger-failover", run)
}

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    if let Some(node) = arguments.get_one::<String>("observe") {
        return observe(node, &config);
    }
    if let Some(node) = arguments.get_one::<String>("look") {
        return look(node, &config, context);
    }
    if arguments.get_flag("abort") {
        let said = act::abort(&Scene::new(&config, &shared_file(context)?, &Teller { shown: false })?)?;
        output::print(&format!("{said}\n"))?;
        return Ok(0);
    }
    let intent = match arguments.get_one::<String>("target") {
        Some(target) => Intent::Until(time(target)?),
        None if arguments.get_flag("fast") => Intent::Fast,
        None if arguments.get_flag("switchover") => Intent::Switchover,
        None => Intent::Failover,
    };
    change(intent, arguments, context)
}

/// Changes the role of this node, or shows what would be done. `arguments` say what is lifted.
pub fn change(intent: Intent, arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let policy = policy(intent, arguments, &config)?;
    let shared = shared_file(context)?;
    let teller = Teller { shown: !context.json && !context.quiet };
    let scene = Scene::new(&config, &shared, &teller)?;
    if context.dry_run {
        return dry_run(&scene, &policy, context);
    }
    let report = act::run(&scene, &policy)?;
    match context.json {
        true => print_json(&report)?,
        false => output::print(&statement(&report))?,
    }
    Ok(0)
}

/// What another node asks this one to look at: itself.
fn observe(node: &str, config: &Config) -> Result<u8, Failure> {
    meant(node, config)?;
    let view = view::look(config, config.own()).map_err(|why| Failure::new(Class::Storage, why))?;
    print_line(&view)
}

/// What another node asks this one to look at: everything, as it would before a promotion.
fn look(node: &str, config: &Arc<Config>, context: &Context) -> Result<u8, Failure> {
    meant(node, config)?;
    print_line(&Observer::new(config, &shared_file(context)?).look(&[]))
}

/// This node must be the one that is meant: the same file lies on every node.
fn meant(node: &str, config: &Config) -> Result<(), Failure> {
    if node == config.local.node {
        return Ok(());
    }
    let text = format!("this is node '{}', not '{node}'", config.local.node);
    Err(Failure::new(Class::Config, text).hinted("Check the host of both nodes, and local.node here."))
}

/// Prints plain data on one line, for a program of ours.
fn print_line(value: &impl serde::Serialize) -> Result<u8, Failure> {
    let json = serde_json::to_string(value).expect("because plain data has no reason not to become JSON");
    output::print(&format!("{json}\n"))?;
    Ok(0)
}

/// The shared configuration file, which lies at the same place on every node.
pub fn shared_file(context: &Context) -> Result<PathBuf, Failure> {
    let (_, origins) = Config::load_with_origins(&context.source)
        .map_err(|error| Failure::new(Class::Config, format!("the configuration cannot be read again: {error:?}")))?;
    let path = origins.shared.path;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

/// What the operator wants and lifts.
pub fn policy(intent: Intent, arguments: &ArgMatches, config: &Config) -> Result<Policy, Failure> {
    let lifts = [
        ("fence", Lift::Fence),
        ("take-claim", Lift::TakeClaim),
        ("even-if-behind", Lift::EvenIfBehind),
        ("accept-loss", Lift::AcceptLoss),
        ("without-configuration", Lift::WithoutConfiguration),
    ];
    Ok(Policy {
        lifted: lifts.into_iter().filter(|(flag, _)| arguments.get_flag(flag)).map(|(_, lift)| lift).collect(),
        down: nodes(arguments, "down", config)?,
        ignored: nodes(arguments, "ignore", config)?,
        ..Policy::strict(intent, config)
    })
}

/// Names of nodes; one that is misspelt must not lift anything.
pub fn nodes(arguments: &ArgMatches, option: &str, config: &Config) -> Result<BTreeSet<String>, Failure> {
    let names: BTreeSet<String> = arguments.get_many::<String>(option).into_iter().flatten().cloned().collect();
    match names.iter().find(|name| config.node(name).is_none()) {
        None => Ok(names),
        Some(unknown) => {
            let known: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
            Err(Failure::new(Class::Usage, format!("there is no node '{unknown}'"))
                .hinted(format!("The configuration knows {}.", known.join(", "))))
        }
    }
}

/// A time with its offset: without one it would mean another moment on every machine.
fn time(text: &str) -> Result<String, Failure> {
    let spelt = text.trim().replacen(' ', "T", 1);
    let parsed = chrono::DateTime::parse_from_rfc3339(&spelt);
    parsed.map(|time| time.to_rfc3339()).map_err(|_| {
        Failure::new(Class::Usage, format!("'{text}' is no time with an offset"))
            .hinted("Write it as '2026-03-01 12:00:00+01:00'.")
    })
}

fn dry_run(scene: &Scene<'_>, policy: &Policy, context: &Context) -> Result<u8, Failure> {
    let (seen, verdict) = act::consider(scene, policy)?;
    let fork = verdict.plan.as_ref().map(|plan| plan.fork);
    let lost = fork.and_then(|fork| lost::look(scene, &seen, fork));
    if context.json {
        print_json(&json!({ "format": 1, "verdict": verdict, "observation": seen, "lost": lost }))?;
    } else {
        output::print(&explanation(&seen, policy, &verdict, lost.as_ref(), Palette::of_stdout()))?;
    }
    if verdict.plan.is_some() { Ok(0) } else { Err(act::refused(&verdict)) }
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).expect("because plain data has no reason not to become JSON");
    output::print(&format!("{json}\n"))
}

/// Tells a person at a terminal what goes on.
struct Teller {
    shown: bool,
}

impl Watcher for Teller {
    fn decided(&self, verdict: &Verdict) {
        log::info!("rule {} ({}): {}", verdict.rule, verdict.name, verdict.why);
        for (number, name, why) in &verdict.lifted {
            log::warn!("rule {number} ({name}) is lifted: {why}");
        }
    }

    fn begins(&self, step: &Step) {
        if self.shown && std::io::stdout().is_terminal() {
            output::line(format_args!("{:<14} {step} …", step.word()));
        }
    }

    fn done(&self, step: &Step, detail: &str, took: Duration) {
        if self.shown {
            output::line(format_args!("{:<14} {detail} ({:.2} s)", step.word(), took.as_secs_f64()));
        }
    }
}

/// The rules as a table.
fn rules(palette: Palette) -> String {
    let columns = [
        ("rule", Align::Right),
        ("name", Align::Left),
        ("for", Align::Left),
        ("refuses where", Align::Left),
        ("lifted by", Align::Left),
    ];
    let mut table = Table::new(palette, &columns);
    for rule in RULES {
        let scope = match rule.scope {
            Scope::All => "both",
            Scope::Failover => "failover",
            Scope::Switchover => "switchover",
        };
        table.row([
            rule.number.to_string().into(),
            rule.name.into(),
            scope.into(),
            rule.says.into(),
            rule.lift.flag().unwrap_or("nothing").into(),
        ]);
    }
    table.to_string()
}

/// What was seen, what it means, and what would be done.
fn explanation(
    seen: &Observation,
    policy: &Policy,
    verdict: &Verdict,
    lost: Option<&Lost>,
    palette: Palette,
) -> String {
    let mut text = observed(seen, policy, palette);
    for (number, name, why) in &verdict.lifted {
        text.push_str(&format!("rule {number} ({name}) is lifted: {why}\n"));
    }
    let Some(plan) = &verdict.plan else { return text };
    text.push_str(&format!("\n{}; this would be done:\n", verdict.why));
    for (at, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("{:>3}. {step}\n", at + 1));
    }
    text.push_str(&format!("\n{}", loss(&plan.loss)));
    if let Some(lost) = lost {
        text.push_str(&format!("{lost}\n"));
    }
    text
}

/// A line for this node, for each other one, and for each archive.
fn observed(seen: &Observation, policy: &Policy, palette: Palette) -> String {
    let columns = [
        ("node", Align::Left),
        ("is", Align::Left),
        ("timeline", Align::Right),
        ("WAL up to", Align::Right),
        ("said by", Align::Left),
        ("age", Align::Right),
    ];
    let mut table = Table::new(palette, &columns);
    let age = |ms: u64| output::duration(Duration::from_millis(ms));
    let own = seen.own.is();
    table.row([
        seen.node.as_str().into(),
        own.map_or("unknown".to_owned(), |own| format!("{:?}", own.server).to_lowercase()).into(),
        own.map_or(String::new(), |own| own.history.timeline.to_string()).into(),
        own.map_or(String::new(), |own| own.wal_end.to_string()).into(),
        seen.own.source.as_str().into(),
        age(seen.own.age_ms).into(),
    ]);
    let case = case(seen, policy);
    for (other, standing) in case.others() {
        let view = other.view.is();
        table.row([
            other.name.as_str().into(),
            standing_cell(standing),
            view.map_or(String::new(), |view| view.history.timeline.to_string()).into(),
            view.map_or(String::new(), |view| view.wal_end.to_string()).into(),
            if view.is_some() { other.view.source.as_str() } else { other.contact.source.as_str() }.into(),
            age(other.contact.age_ms.max(other.view.age_ms)).into(),
        ]);
    }
    let mut text = table.to_string();
    for holder in &seen.archives {
        let words = match holder.holds.is() {
            Some(held) => match held.whole.last() {
                Some((_, last)) => format!("goes on to segment {} of timeline {}", last.0, held.newest.timeline),
                None => format!("holds no whole segment behind the end here; newest timeline {}", held.newest.timeline),
            },
            None => format!("cannot be asked: {}", holder.holds.why()),
        };
        text.push_str(&format!("archive of {}: {words}\n", holder.name));
    }
    text
}

fn standing_cell(standing: &Standing) -> Cell {
    match standing {
        Standing::Primary => Cell::toned(Tone::Warning, "primary"),
        Standing::Answers(_) => Cell::toned(Tone::Warning, "answers"),
        Standing::Hung(_) => Cell::toned(Tone::Warning, "hangs"),
        Standing::Silent(_) => Cell::toned(Tone::Bad, "silent"),
        Standing::Standby => Cell::toned(Tone::Good, "standby"),
        Standing::Down(_) => "down".into(),
    }
}

/// What is lost, in words.
pub fn loss(loss: &Loss) -> String {
    let mut text = match loss.bytes {
        0 => "known to be lost: nothing\n".to_owned(),
        bytes => format!("known to be lost: {} ({})\n", output::size(bytes), loss.held_by.join("; ")),
    };
    for unknown in &loss.unknown {
        text.push_str(&format!("cannot be told: {unknown}\n"));
    }
    text
}

/// The last words: what is lost, how long it took, what to do next.
fn statement(report: &Report) -> String {
    let shown = |name: &str, value: &dyn std::fmt::Display| format!("{name:<14} {value}\n");
    let mut text = format!("\n{} is the primary\n", report.node);
    if let Some(timeline) = report.timeline {
        text.push_str(&shown("timeline", &timeline));
    }
    if let Some(fork) = report.fork {
        text.push_str(&shown("begins at", &fork));
    }
    let commit = report.last_commit.as_deref().unwrap_or("none was seen in the last WAL");
    text.push_str(&shown("last commit", &commit));
    text.push_str(&loss(&report.loss));
    let own: u64 = report.phases.iter().filter(|it| is_the_servers_own(&it.step)).map(|it| it.took_ms).sum();
    let took = |ms: u64| format!("{:.2} s", Duration::from_millis(ms).as_secs_f64());
    text.push_str(&shown("took", &format!("{}, {} of it PostgreSQL's own promotion", took(report.took_ms), took(own))));
    if let Some(outage) = report.outage_ms {
        text.push_str(&shown("no writes for", &took(outage)));
    }
    text.extend(report.advice.iter().map(|advice| format!("next: {advice}\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_offset() {
        assert_eq!(time("2026-03-01 12:00:00+01:00").ok().as_deref(), Some("2026-03-01T12:00:00+01:00"));
        assert!(time("2026-03-01T12:00:00Z").is_ok());
        for wrong in ["2026-03-01 12:00:00", "yesterday", ""] {
            assert_eq!(time(wrong).map_err(|failure| failure.class), Err(Class::Usage), "{wrong}");
        }
    }
}
