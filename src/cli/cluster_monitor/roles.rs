//! `cluster-monitor promote`, `switchover`, `follow` and `rejoin`: repmgr's words for what `trigger-failover` and
//! `standby-init` do. The same functions run, so there is no second way; the monitor is told what came of it.

use std::sync::Arc;

use clap::ArgMatches;

use super::records;
use super::registration::keep_one;
use crate::cli::run::Context;
use crate::cli::{standby_init, trigger_failover};
use crate::cluster::standby::request::Job;
use crate::error::{Class, Failure};
use crate::failover::rules::Intent;
use crate::monitor::gather::gather;
use crate::monitor::schema;
use crate::monitor::tide::Tide;
use crate::monitor::view::View;

/// Makes this node the primary: `trigger-failover`.
pub fn promote(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let code = trigger_failover::change(Intent::Failover, arguments, context)?;
    told(context, "standby_promote", "this node was promoted");
    Ok(code)
}

/// Changes places with the primary: `trigger-failover --switchover`.
pub fn switch_over(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let code = trigger_failover::change(Intent::Switchover, arguments, context)?;
    told(context, "standby_switchover", "this node changed places with the primary");
    Ok(code)
}

/// Lets this standby go on behind a node, the primary if none is named: `standby-init --follow`.
pub fn follow(arguments: &ArgMatches, context: &Context, node: Option<&str>) -> Result<u8, Failure> {
    let named = node.or(arguments.get_one::<String>("upstream").map(String::as_str)).map(str::to_owned);
    let node = match named {
        Some(node) => node,
        None => look(context).primary.ok_or_else(|| {
            Failure::new(Class::Postgres, "no node answers as the primary, so there is nobody to follow")
                .hinted("Name the node to follow: 'cluster-monitor follow NODE'.")
        })?,
    };
    let words = format!("this node follows {node}");
    let code = standby_init::bring(Job::Follow(node), arguments, context)?;
    told(context, "standby_follow", &words);
    Ok(code)
}

/// Brings a former primary back: `standby-init --rejoin`.
pub fn rejoin(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let code = standby_init::bring(standby_init::rejoin(arguments), arguments, context)?;
    told(context, "node_rejoin", "this node is a standby again");
    Ok(code)
}

fn look(context: &Context) -> View {
    let config = Arc::new(context.config.clone());
    gather(&config).view(&config, &Tide::new(2))
}

/// Writes the event down. What was done is done, whether the monitor's schema can be written to or not.
fn told(context: &Context, event: &str, details: &str) {
    if context.dry_run {
        return;
    }
    let view = look(context);
    let written = records(&context.config, &view).and_then(|mut records| {
        if schema::version(records.connection())?.is_none() {
            return Ok(());
        }
        keep_one(&context.config, &mut records, &view, event, details.to_owned())
    });
    if let Err(failure) = written {
        log::warn!("the event {event} is not written down: {}", failure.message);
    }
}
