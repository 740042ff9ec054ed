//! `distribute`: puts the shared configuration file, and our programs, on every other node.
//!
//! Shows the difference first. Without a terminal to ask at it changes nothing unless `--yes` says so. Ends with the
//! class of the first failure, after every node was tried. `--json` prints
//! `{"format":1,"changes":N,"results":[{"node","path","outcome","detail","hint","class"}]}`.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use clap::ArgMatches;
use serde_json::json;

use super::output::{self, Align, Cell, Palette, Table, Tone};
use super::run::Context;
use crate::cluster::distribute::{Cargo, Fate, Load, Outcome, Step, act, pending, plan};
use crate::config::{Config, Node};
use crate::error::{Class, Failure};

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    // That the configuration was loaded is the proof that it may be sent.
    let config = &context.config;
    let nodes = targets(config, arguments)?;
    let load = load(context, arguments.get_flag("programs"))?;
    let steps = plan(config, &nodes, &load);
    let changes = steps.iter().filter(|step| step.is_change()).count();
    if !context.json {
        output::print(&differences(&steps, &load))?;
    }
    if changes == 0 || context.dry_run {
        return finish(context, changes, &pending(&steps));
    }
    if !arguments.get_flag("yes") {
        agree(context, changes, &steps)?;
    }
    finish(context, changes, &act(config, &nodes, &load, &steps))
}

/// The nodes to send to: those named, or every other node that has a host.
fn targets<'a>(config: &'a Config, arguments: &ArgMatches) -> Result<Vec<&'a Node>, Failure> {
    let Some(names) = arguments.get_many::<String>("to") else {
        let other = |node: &&Node| node.name != config.local.node && node.host.is_some();
        return Ok(config.nodes.iter().filter(other).collect());
    };
    let mut found: Vec<&Node> = Vec::new();
    for name in names {
        let node = config.node(name).ok_or_else(|| {
            Failure::new(Class::Usage, format!("there is no node '{name}'"))
                .hinted("Names of nodes stand in the shared configuration, as [node.NAME].")
        })?;
        if node.name == config.local.node {
            return Err(Failure::new(Class::Usage, format!("'{name}' is this node"))
                .hinted("Name another one; the file is here already."));
        }
        if !found.iter().any(|seen| seen.name == node.name) {
            found.push(node);
        }
    }
    Ok(found)
}

fn load(context: &Context, programs: bool) -> Result<Load, Failure> {
    let (_, origins) = Config::load_with_origins(&context.source)?;
    let unreadable = |path: &PathBuf, error: io::Error| {
        Failure::new(Class::Storage, format!("cannot read '{}': {error}", path.display()))
    };
    let shared = std::path::absolute(&origins.shared.path).map_err(|error| unreadable(&origins.shared.path, error))?;
    let mut load = Load { cargo: Vec::new(), folder: PathBuf::new(), programs: Vec::new(), shared };
    load.cargo.push(Cargo::configuration(&load.shared).map_err(|error| unreadable(&load.shared, error))?);
    if !programs {
        return Ok(load);
    }
    let own = std::env::current_exe()
        .map_err(|error| Failure::new(Class::Storage, format!("cannot find our own programs: {error}")))?;
    load.folder = own.parent().map(PathBuf::from).unwrap_or_default();
    for program in super::PROGRAMS {
        let path = load.folder.join(program.name);
        match Cargo::program(&path) {
            Ok(cargo) => {
                load.programs.push(program.name.to_owned());
                load.cargo.push(cargo);
            }
            // A machine may hold a part of the programs; what is not here is not sent.
            Err(error) if error.kind() == io::ErrorKind::NotFound => log::warn!("'{}' is not here", path.display()),
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    Ok(load)
}

fn differences(steps: &[Step], load: &Load) -> String {
    steps.iter().map(|step| step.difference(load)).collect()
}

/// Asks at the terminal; refuses where nobody can be asked.
fn agree(context: &Context, changes: usize, steps: &[Step]) -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::new(Class::Refused, format!("{changes} files differ, and nothing was sent: {why}"))
            .hinted("Look at the difference, then run it again with --yes.")
    };
    if context.json || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(refused("there is no terminal to ask at"));
    }
    let mut nodes: Vec<_> = steps.iter().filter(|step| step.is_change()).map(|step| step.node.as_str()).collect();
    nodes.dedup();
    output::print(&format!("Put this on {}? [y/N] ", nodes.join(", ")))?;
    let mut answer = String::new();
    // No answer is no.
    let _ = io::stdin().lock().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(refused("the answer was no")),
    }
}

fn finish(context: &Context, changes: usize, fates: &[Fate]) -> Result<u8, Failure> {
    let text = if context.json {
        format!("{:#}\n", json!({"format": 1, "changes": changes, "results": fates}))
    } else {
        table(fates, Palette::of_stdout())
    };
    output::print(&text)?;
    let failed = fates.iter().filter(|fate| fate.outcome == Outcome::Failed).count();
    match fates.iter().find_map(|fate| fate.class) {
        None => Ok(0),
        Some(class) => {
            Err(Failure::new(class, format!("{failed} of {} files are not where they should be", fates.len()))
                .hinted("Mend what the table says and run it again; what arrived stays."))
        }
    }
}

fn table(fates: &[Fate], palette: Palette) -> String {
    let columns = [("node", Align::Left), ("file", Align::Left), ("result", Align::Left), ("detail", Align::Left)];
    let mut table = Table::new(palette, &columns);
    for fate in fates {
        let (word, tone) = match fate.outcome {
            Outcome::Same => ("same", Tone::Faint),
            Outcome::Put => ("put", Tone::Good),
            Outcome::Replaced => ("replaced", Tone::Good),
            Outcome::Skipped => ("skipped", Tone::Faint),
            Outcome::Pending => ("pending", Tone::Warning),
            Outcome::Failed => ("failed", Tone::Bad),
        };
        let path = fate.path.display().to_string();
        let detail = fate.detail.clone().unwrap_or_default();
        table.row([fate.node.as_str().into(), path.into(), Cell::toned(tone, word), detail.into()]);
    }
    let hints = fates.iter().filter_map(|fate| Some(format!("fix: {}: {}\n", fate.node, fate.hint.as_ref()?)));
    std::iter::once(table.to_string()).chain(hints).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_failed_and_what_to_do() {
        let fate = |node: &str, outcome, hint: Option<&str>| Fate {
            node: node.into(),
            path: "/etc/x.ini".into(),
            outcome,
            detail: hint.map(|_| "no route".to_owned()),
            hint: hint.map(str::to_owned),
            class: hint.map(|_| Class::Remote),
        };
        let fates = [fate("beta", Outcome::Replaced, None), fate("dr", Outcome::Failed, Some("Plug it in."))];
        let expected = "node  file        result    detail\n\
                        beta  /etc/x.ini  replaced\n\
                        dr    /etc/x.ini  failed    no route\n\
                        fix: dr: Plug it in.\n";
        assert_eq!(table(&fates, Palette { coloured: false }), expected);
    }
}
