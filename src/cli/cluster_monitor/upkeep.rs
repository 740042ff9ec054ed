//! `cluster-monitor pause`, `resume`, `cleanup` and `schema`: what is kept in the database.

use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::json;

use super::registration::keep_one;
use super::{print_json, records};
use crate::cli::output;
use crate::cli::run::Context;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::monitor::gather::gather;
use crate::monitor::records::Records;
use crate::monitor::schema;
use crate::monitor::tide::Tide;
use crate::monitor::view::View;

/// Opens what is kept, which must be there.
fn open(context: &Context) -> Result<(Arc<Config>, View, Records), Failure> {
    let config = Arc::new(context.config.clone());
    let view = gather(&config).view(&config, &Tide::new(2));
    let mut records = records(&config, &view)?;
    if schema::version(records.connection())?.is_none() {
        return Err(Failure::new(Class::Refused, "the cluster is not registered: the monitor's schema is not there")
            .hinted("Run 'cluster-monitor register' on the primary first."));
    }
    Ok((config, view, records))
}

/// Pauses the monitors of all nodes: they watch on, and tell and decide nothing.
pub fn pause(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let (config, view, mut records) = open(context)?;
    let lasting = arguments.get_one::<Duration>("for").copied();
    let reason = arguments.get_one::<String>("reason").cloned().unwrap_or_default();
    let until = lasting
        .map_or_else(|| "until it is resumed".to_owned(), |lasting| format!("for {}", output::duration(lasting)));
    if !context.dry_run {
        records.pause(lasting, &config.local.node, &reason)?;
        let details = if reason.is_empty() { until.clone() } else { format!("{until}: {reason}") };
        keep_one(&config, &mut records, &view, "monitor_pause", details)?;
    }
    said(context, &format!("the monitor {} paused {until}", verb(context)), &json!({ "paused": true, "until": until }))
}

/// Ends the pause.
pub fn resume(context: &Context) -> Result<u8, Failure> {
    let (config, view, mut records) = open(context)?;
    let was = view.pause.is_some();
    if !context.dry_run && records.resume()? {
        keep_one(&config, &mut records, &view, "monitor_resume", String::new())?;
    }
    let line = match (was, context.dry_run) {
        (true, false) => "the monitor goes on",
        (true, true) => "the monitor would go on",
        (false, _) => "the monitor was not paused",
    };
    said(context, line, &json!({ "paused": false, "was_paused": was }))
}

/// Removes what is old.
pub fn clean_up(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let (config, view, mut records) = open(context)?;
    let keep = arguments.get_one::<Duration>("keep").copied();
    let (lag, events) = (keep.unwrap_or(config.monitor.keep), keep.unwrap_or(config.monitor.keep_events));
    let removed = match context.dry_run {
        true => records.count_old(lag, events)?,
        false => records.clean_up(lag, events)?,
    };
    let line = format!("{} rows of history and {} events {} removed", removed.lag, removed.events, verb(context));
    if !context.dry_run {
        keep_one(&config, &mut records, &view, "cluster_cleanup", line.clone())?;
    }
    said(context, &line, &json!({ "dry_run": context.dry_run, "removed": removed }))
}

/// Prints the schema as a script, for a database in which our own user may not make one.
pub fn schema(context: &Context) -> Result<u8, Failure> {
    output::print(&schema::script(&context.config.cluster.name, 0))?;
    Ok(0)
}

fn verb(context: &Context) -> &'static str {
    if context.dry_run { "would be" } else { "are" }
}

fn said(context: &Context, line: &str, json: &serde_json::Value) -> Result<u8, Failure> {
    match (context.json, context.quiet) {
        (true, _) => print_json(json)?,
        (false, true) => {}
        (false, false) => output::print(&format!("{line}\n"))?,
    }
    Ok(0)
}
