//! `cluster-monitor lag`: one view over every path, in bytes and seconds.

use std::sync::Arc;

use serde_json::json;

use super::{Judged, print_json, status};
use crate::cli::output::{self, Align, Cell, Palette, Table, Tone};
use crate::cli::run::Context;
use crate::cluster::check::Level;
use crate::error::{Class, Failure};
use crate::monitor::view::{Hop, Lag, Mark, NodeView, View};

/// Runs it. The exit code is that of the lag alone: 0, 1 for a warning, 20 for critical.
pub fn run(context: &Context) -> Result<u8, Failure> {
    let judged = Judged::now(&Arc::new(context.config.clone()));
    let view = &judged.view;
    if context.json {
        let rows: Vec<_> = view
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "name": node.name, "role": node.role, "timeline": node.timeline, "upstream": node.upstream,
                    "replication": node.replication, "sync_state": node.sync_state,
                    "apply_delay_seconds": node.apply_delay_seconds, "lag": node.lag,
                    "report_age_seconds": node.report_age_seconds,
                })
            })
            .collect();
        print_json(
            &json!({ "format": 1, "time": view.time, "primary": view.primary, "reference": view.reference, "nodes": rows }),
        )?;
    } else {
        output::print(&format!("{}\n\n{}", status::headline(view), table(view, Palette::of_stdout())))?;
    }
    let lag = judged.findings.iter().filter(|finding| ["lag", "primary"].contains(&finding.check));
    Ok(match Level::worst(lag.map(|finding| finding.level)) {
        Level::Ok => 0,
        Level::Warning | Level::Unknown => Class::Absent.code(),
        Level::Critical => Class::Refused.code(),
    })
}

/// Two lines a node: bytes, and below them seconds.
fn table(view: &View, palette: Palette) -> Table {
    let columns = [
        ("node", Align::Left),
        ("role", Align::Left),
        ("sent", Align::Right),
        ("written", Align::Right),
        ("flushed", Align::Right),
        ("replayed", Align::Right),
        ("archived", Align::Right),
        ("relayed", Align::Right),
        ("restorable", Align::Right),
        ("to its upstream", Align::Left),
    ];
    let mut table = Table::new(palette, &columns);
    for node in &view.nodes {
        let Lag { sent, written, flushed, replayed, archived, relayed, restorable, .. } = node.lag;
        let marks = [sent, written, flushed, replayed, archived, relayed, restorable];
        let cell = |mark: Option<Mark>, shown: fn(Mark) -> String| match mark {
            Some(mark) => shown(mark).into(),
            None => Cell::toned(Tone::Faint, "-"),
        };
        let [a, b, c, d, e, f, g] = marks.map(|mark| cell(mark, status::bytes));
        table.row([
            node.name.as_str().into(),
            node.role.word().into(),
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            hop(node.lag.hop.as_ref()),
        ]);
        if marks.iter().any(Option::is_some) {
            let below = |mark: Option<Mark>| match mark {
                Some(mark) => status::since(mark).into(),
                None => Cell::from(""),
            };
            let [a, b, c, d, e, f, g] = marks.map(below);
            table.row(["".into(), way(node), a, b, c, d, e, f, g, "".into()]);
        }
    }
    table
}

fn way(node: &NodeView) -> Cell {
    Cell::toned(Tone::Faint, node.replication.unwrap_or_default())
}

fn hop(hop: Option<&Hop>) -> Cell {
    let Some(hop) = hop else { return "".into() };
    let bytes = hop.bytes.map_or_else(|| "?".to_owned(), output::size);
    format!("{bytes} behind {}", hop.upstream).into()
}
