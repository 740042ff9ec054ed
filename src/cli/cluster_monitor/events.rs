//! `cluster-monitor events`: what happened, the newest last.

use std::sync::Arc;

use clap::ArgMatches;

use super::{print_json, records};
use crate::cli::output::{self, Align, Cell, Palette, Table, Tone};
use crate::cli::run::Context;
use crate::cluster::contact;
use crate::error::{Class, Failure};
use crate::monitor::gather::gather;
use crate::monitor::records::{Kept, Records};
use crate::monitor::schema;
use crate::monitor::tide::Tide;
use crate::monitor::view::{NodeView, Role, View};
use crate::postgres::error::PostgresError;

/// How many events are shown when nothing else is said.
const LIMIT: u32 = 20;

/// Runs it.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let view = gather(&config).view(&config, &Tide::new(2));
    let mut records = anywhere(context, &view)?;
    let word = |name: &str| arguments.get_one::<String>(name).map(String::as_str);
    let limit = arguments.get_one::<u32>("limit").copied().unwrap_or(LIMIT);
    let events = records.events(word("node"), word("event"), i64::from(limit))?;
    if context.json {
        print_json(&events)?;
        return Ok(0);
    }
    let columns = [
        ("time", Align::Left),
        ("node", Align::Left),
        ("event", Align::Left),
        ("", Align::Left),
        ("seen by", Align::Left),
        ("details", Align::Left),
    ];
    let mut table = Table::new(Palette::of_stdout(), &columns);
    for event in events.iter().rev() {
        table.row(row(event));
    }
    output::print(&if events.is_empty() { "no events\n".to_owned() } else { table.to_string() })?;
    Ok(0)
}

fn row(event: &Kept) -> [Cell; 6] {
    let (tone, word) = if event.successful { (Tone::Good, "ok") } else { (Tone::Bad, "bad") };
    [
        event.time.as_str().into(),
        event.node.as_str().into(),
        event.event.as_str().into(),
        Cell::toned(tone, word),
        event.observer.as_str().into(),
        event.details.as_str().into(),
    ]
}

/// Events are read on the primary, and where none answers on any standby or witness that has a copy.
fn anywhere(context: &Context, view: &View) -> Result<Records, Failure> {
    if view.primary.is_some() {
        return records(&context.config, view);
    }
    let mut running: Vec<&NodeView> = view.nodes.iter().filter(|node| node.state == "running").collect();
    // What a standby has is newer.
    running.sort_by_key(|node| node.role == Role::Witness);
    let mut last = None;
    for conninfo in running.iter().filter_map(|node| contact::text(&context.config, &node.name)) {
        match with_schema(&conninfo) {
            Ok(Some(records)) => return Ok(records),
            Ok(None) => {}
            Err(error) => last = Some(Failure::from(error)),
        }
    }
    Err(last.unwrap_or_else(|| {
        Failure::new(Class::Postgres, "no node answers that has a copy of what happened")
            .hinted("Run 'cluster-monitor status' to see what each of them says.")
    }))
}

fn with_schema(conninfo: &str) -> Result<Option<Records>, PostgresError> {
    let mut records = Records::open(conninfo, super::PATIENCE, "cluster-monitor")?;
    Ok(schema::version(records.connection())?.map(|_| records))
}
