//! `cluster-monitor node check`: the findings about one node, for people and for monitoring plugins.

use std::sync::Arc;

use clap::ArgMatches;

use super::{Judged, print_json, status, wanted};
use crate::cli::output::{self, Palette};
use crate::cli::run::Context;
use crate::cluster::check::{Finding, Level, Report};
use crate::error::{Class, Failure};

/// Runs it.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let node = wanted(arguments, &config)?;
    let judged = Judged::now(&config);
    let findings: Vec<Finding> = judged
        .findings
        .into_iter()
        .filter(|finding| is_about(finding, &node.name) || finding.subject == config.cluster.name)
        .collect();
    let report = Report::new(&config.cluster.name, &node.name, findings);
    if arguments.get_flag("nagios") {
        output::print(&crate::cli::check_node::nagios(&report))?;
        return Ok(report.level.nagios_code());
    }
    match context.json {
        true => print_json(&report)?,
        false => output::print(&text(&report, context.quiet))?,
    }
    Ok(match report.level {
        Level::Ok => 0,
        Level::Warning | Level::Unknown => Class::Absent.code(),
        Level::Critical => Class::Refused.code(),
    })
}

/// True where a finding is about a node itself, or about something of it: 'db1/slot', 'db1 for dr1'.
fn is_about(finding: &Finding, node: &str) -> bool {
    finding.subject.split(['/', ' ']).next() == Some(node)
}

fn text(report: &Report, quiet: bool) -> String {
    let palette = Palette::of_stdout();
    let mut text = String::new();
    if !quiet {
        for finding in report.findings.iter().filter(|finding| finding.level == Level::Ok) {
            text.push_str(&format!("ok: {} {}: {}\n", finding.check, finding.subject, finding.message));
        }
    }
    text.push_str(status::problems(&report.findings, palette, !quiet).trim_start_matches('\n'));
    text
}
