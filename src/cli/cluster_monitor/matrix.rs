//! `cluster-monitor matrix`: who reaches whom, with a database connection and over ssh.

use std::sync::Arc;

use clap::ArgMatches;

use super::print_json;
use crate::cli::output::{self, Align, Cell, Palette, Table, Tone};
use crate::cli::run::Context;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::monitor::matrix::{Reach, Row, Way, all, here};

/// Runs it. The exit code is 0 where every node reaches every other, else 1.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    if arguments.get_flag("here") {
        // On one line, for the node that asked.
        output::print(&format!("{}\n", serde_json::json!(here(&config))))?;
        return Ok(0);
    }
    let (_, origins) = Config::load_with_origins(&context.source)?;
    let file = std::path::absolute(&origins.shared.path).unwrap_or(origins.shared.path);
    let rows = all(&config, &file);
    match context.json {
        true => print_json(&rows)?,
        false => output::print(&text(&rows, Palette::of_stdout()))?,
    }
    let fine = |way: &Way| [&way.database, &way.ssh].iter().all(|reach| matches!(reach, Reach::Yes | Reach::Nothing));
    let whole = rows.iter().all(|row| row.ways.iter().all(fine));
    Ok(if whole { 0 } else { Class::Absent.code() })
}

/// A line for each pair, so that a cluster of any size fits a terminal; and why, where one does not reach the other.
fn text(rows: &[Row], palette: Palette) -> String {
    let columns = [
        ("from", Align::Left),
        ("to", Align::Left),
        ("database", Align::Left),
        ("ssh", Align::Left),
        ("", Align::Left),
    ];
    let mut table = Table::new(palette, &columns);
    for row in rows {
        for way in row.ways.iter().filter(|way| way.to != row.from || way.database != Reach::Nothing) {
            let why = [&way.database, &way.ssh].into_iter().find_map(why);
            let (from, to) = (row.from.as_str().into(), way.to.as_str().into());
            table.row([from, to, cell(&way.database), cell(&way.ssh), why.unwrap_or_default().into()]);
        }
    }
    table.to_string()
}

fn cell(reach: &Reach) -> Cell {
    match reach {
        Reach::Yes => Cell::toned(Tone::Good, "yes"),
        Reach::No(_) => Cell::toned(Tone::Bad, "no"),
        Reach::Unknown(_) => Cell::toned(Tone::Warning, "unknown"),
        Reach::Nothing => Cell::toned(Tone::Faint, "-"),
    }
}

fn why(reach: &Reach) -> Option<String> {
    match reach {
        Reach::No(why) | Reach::Unknown(why) => Some(why.clone()),
        Reach::Yes | Reach::Nothing => None,
    }
}
