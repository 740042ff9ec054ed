//! `cluster-monitor explain`: why a node is no candidate, who would win now, and how much would be lost.
//!
//! Exit codes: 0 a node could take over; 1 none could, or the one that is asked about could not.

use std::sync::Arc;

use clap::ArgMatches;

use super::{print_json, wanted};
use crate::cli::output::{self, Align, Cell, Palette, Table, Tone};
use crate::cli::run::Context;
use crate::cli::trigger_failover::{nodes, policy, shared_file};
use crate::error::{Class, Failure};
use crate::failover::explain::{Answer, Candidate, Explanation, explain};
use crate::failover::observe::{Observer, look_everywhere};
use crate::failover::rules::Intent;

/// Runs it.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let about = arguments.get_one::<String>("node").map(|_| wanted(arguments, &config)).transpose()?;
    let (gone, policy) = (nodes(arguments, "gone", &config)?, policy(Intent::Failover, arguments, &config)?);
    let observer = Observer::new(&config, &shared_file(context)?);
    let points = look_everywhere(&config, &observer);
    let explanation = explain(&config.cluster.name, &points, &gone, &policy);
    let about = about.map(|node| node.name.as_str());
    match context.json {
        true => print_json(&explanation)?,
        false => output::print(&text(&explanation, about, Palette::of_stdout()))?,
    }
    let fit = match about {
        None => explanation.winner.is_some(),
        Some(name) => {
            let candidate = explanation.candidates.iter().find(|one| one.node == name);
            candidate.and_then(|one| one.then.as_ref()).is_some_and(Answer::goes)
        }
    };
    Ok(if fit { 0 } else { Class::Absent.code() })
}

fn text(explanation: &Explanation, about: Option<&str>, palette: Palette) -> String {
    let gone = explanation.gone.join(" and ");
    let supposed = match explanation.gone.as_slice() {
        [] => "now".to_owned(),
        [_] => format!("if {gone} were gone"),
        _ => format!("if {gone} were gone together"),
    };
    let mut text = verdict(explanation, &supposed);
    let columns = [
        ("node", Align::Left),
        ("tli", Align::Right),
        ("WAL up to", Align::Right),
        ("now", Align::Left),
        ("then", Align::Left),
    ];
    let mut table = Table::new(palette, &columns);
    let shown = || explanation.candidates.iter().filter(|one| about.is_none_or(|name| one.node == name));
    for one in shown() {
        table.row([
            one.node.as_str().into(),
            one.timeline.map_or_else(String::new, |timeline| timeline.to_string()).into(),
            one.wal_end.map_or_else(String::new, |end| end.to_string()).into(),
            cell(one.now.as_ref(), "cannot be told"),
            cell(one.then.as_ref(), if explanation.gone.contains(&one.node) { "gone" } else { "cannot be told" }),
        ]);
    }
    text.push_str(&format!("\n{table}"));
    shown().for_each(|one| text.push_str(&why(one)));
    text
}

/// Who would win, from where, and what would be lost.
fn verdict(explanation: &Explanation, supposed: &str) -> String {
    let winner = explanation.candidates.iter().find(|one| Some(&one.node) == explanation.winner.as_ref());
    let Some((winner, then)) = winner.and_then(|one| Some((one, one.then.as_ref()?))) else {
        return format!("{}: {supposed}, no node could take over\n", explanation.cluster);
    };
    let mut text = format!("{}: {supposed}, {} would take over: {}\n", explanation.cluster, winner.node, then.why);
    if let Some(loss) = &then.loss {
        text.push_str(&crate::cli::trigger_failover::loss(loss));
    }
    text
}

fn cell(answer: Option<&Answer>, otherwise: &'static str) -> Cell {
    match answer {
        None => Cell::toned(Tone::Faint, otherwise),
        Some(answer) if answer.goes() => Cell::toned(Tone::Good, "could be promoted"),
        Some(answer) => Cell::toned(Tone::Warning, format!("rule {} ({})", answer.rule, answer.name)),
    }
}

/// Why a node is no candidate, in full, and what to do about it.
fn why(one: &Candidate) -> String {
    if let Some(why) = &one.unasked {
        return format!("\n{}: {why}\n", one.node);
    }
    let mut text = String::new();
    // What holds in both cases is said once.
    let answers = [one.now.as_ref(), one.then.as_ref().filter(|then| one.now.as_ref() != Some(*then))];
    for answer in answers.into_iter().flatten().filter(|answer| !answer.goes()) {
        text.push_str(&format!("\n{}: rule {} ({}): {}\n", one.node, answer.rule, answer.name, answer.why));
        if !answer.hint.is_empty() {
            text.push_str(&format!("    {}\n", answer.hint));
        }
    }
    text
}
