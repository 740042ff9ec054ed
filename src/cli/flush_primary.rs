//! `flush-primary`: stops this primary with everything sent on, or brings it back.
//!
//! `--json` prints a [`Flushed`]; `--undo` prints one line of text.

use std::sync::Arc;

use clap::ArgMatches;

use super::output;
use super::run::Context;
use super::trigger_failover::{nodes, shared_file};
use crate::error::Failure;
use crate::failover::act::{Scene, Watcher};
use crate::failover::flush::{self, Flushed};

/// Nobody is told of steps: a flush has a story of its own.
struct Silent;

impl Watcher for Silent {}

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let shared = shared_file(context)?;
    let scene = Scene::new(&config, &shared, &Silent)?;
    if arguments.get_flag("undo") {
        let said = flush::undo(&scene, &nodes(arguments, "ignore", &config)?)?;
        output::print(&format!("{said}\n"))?;
        return Ok(0);
    }
    if context.dry_run {
        let steps = flush::consider(&scene)?;
        let lines = steps.iter().enumerate().map(|(at, step)| format!("{:>3}. {step}\n", at + 1));
        output::print(&lines.collect::<String>())?;
        return Ok(0);
    }
    let flushed = flush::flush(&scene, arguments.get_one::<String>("for").map(String::as_str))?;
    if context.json {
        let json = serde_json::to_string(&flushed).expect("because plain data has no reason not to become JSON");
        output::print(&format!("{json}\n"))?;
    } else {
        output::print(&statement(&flushed))?;
    }
    Ok(0)
}

fn statement(flushed: &Flushed) -> String {
    let it = &flushed.handover;
    let mut text = String::new();
    for phase in &flushed.phases {
        text.push_str(&format!("{:<14} {} ({:.2} s)\n", phase.step, phase.detail, phase.took_ms as f64 / 1000.0));
    }
    text.push_str(&format!(
        "\n{} has stopped on timeline {}; its last checkpoint is at {}, its WAL ends at {}\nheld by        {}\n",
        it.node,
        it.timeline,
        it.checkpoint,
        it.end,
        if it.held_by.is_empty() { "nobody that was asked".to_owned() } else { it.held_by.join(", ") },
    ));
    text.push_str("next: Run 'trigger-failover' on the standby that takes over, or 'flush-primary --undo' here.\n");
    text
}
