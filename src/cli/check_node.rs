//! `check-node`: says what is wrong, and how to mend it; changes nothing.
//!
//! Exit codes: 0 all is well; 1 something is a warning or could not be found out; 20 something is critical; 10 the
//! configuration cannot be read. With `--nagios` those of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
//! `--json` prints a [`Report`]; its schema is `etc/check-node.schema.json`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;

use super::output::{self, Align, Cell, Palette, Table, Tone};
use super::run::{self, Context};
use crate::cluster::check::gather::gather;
use crate::cluster::check::peer::ping;
use crate::cluster::check::{Finding, Level, Measure, Report, rules};
use crate::config::{Config, Node};
use crate::error::{Class, Failure};

/// The whole `main`: what keeps a monitoring plugin from being asked at all is an answer in its own terms, too.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let nagios = words.iter().any(|word| word == "--nagios");
    let code = run::main_from("check-node", words.into_iter(), run);
    if !nagios || code <= Level::Unknown.nagios_code() {
        return ExitCode::from(code);
    }
    let (word, level) = match code == Class::Config.code() {
        true => ("CRITICAL", Level::Critical),
        false => ("UNKNOWN", Level::Unknown),
    };
    // A plugin is read by its standard output; that nothing can be written there changes nothing of the answer.
    let _ = output::print(&format!("PGWARM {word} - check-node ended with exit code {code}; run it by hand\n"));
    ExitCode::from(level.nagios_code())
}

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = &context.config;
    if let Some(name) = arguments.get_one::<String>("ping") {
        ping(config, known(config, name)?)?;
        output::print(&format!("{} is reached\n", name))?;
        return Ok(0);
    }
    let nodes = match arguments.get_many::<String>("node") {
        Some(names) => names.map(|name| known(config, name)).collect::<Result<Vec<_>, _>>()?,
        None => config.nodes.iter().collect(),
    };
    let mut findings = vec![loaded(config)];
    findings.extend(rules::judge(&gather(config, &nodes, &files(context)?)));
    let report = Report::new(&config.cluster.name, &config.local.node, findings);
    if arguments.get_flag("nagios") {
        output::print(&nagios(&report))?;
        return Ok(report.level.nagios_code());
    }
    if context.json {
        let json = serde_json::to_string_pretty(&report).expect("because plain data has no reason not to become JSON");
        output::print(&format!("{json}\n"))?;
    } else {
        output::print(&text(&report, Palette::of_stdout(), context.quiet))?;
    }
    Ok(exit_code(report.level))
}

fn exit_code(level: Level) -> u8 {
    match level {
        Level::Ok => 0,
        Level::Warning | Level::Unknown => Class::Absent.code(),
        Level::Critical => Class::Refused.code(),
    }
}

fn known<'a>(config: &'a Config, name: &str) -> Result<&'a Node, Failure> {
    config.node(name).ok_or_else(|| {
        let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        Failure::new(Class::Usage, format!("there is no node '{name}'"))
            .hinted(format!("The configuration knows {}.", names.join(", ")))
    })
}

/// That the configuration was read is a finding, too: whoever reads the report sees that it was checked.
fn loaded(config: &Config) -> Finding {
    let message = format!("{} nodes, fingerprint {:016x}", config.nodes.len(), config.fingerprint);
    Finding::ok("config", config.cluster.name.clone(), message)
}

/// The configuration files, the shared one first.
fn files(context: &Context) -> Result<Vec<PathBuf>, Failure> {
    let (_, origins) = Config::load_with_origins(&context.source)?;
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    Ok(std::iter::once(origins.shared).chain(origins.local).map(|found| absolute(found.path)).collect())
}

fn tone(level: Level) -> Tone {
    match level {
        Level::Ok => Tone::Good,
        Level::Warning | Level::Unknown => Tone::Warning,
        Level::Critical => Tone::Bad,
    }
}

/// The table for people, what to do about each finding that is not ok, and a last line that counts. Quiet: only those.
fn text(report: &Report, palette: Palette, quiet: bool) -> String {
    let bad = |finding: &&Finding| finding.level != Level::Ok;
    let columns = [("level", Align::Left), ("check", Align::Left), ("subject", Align::Left), ("message", Align::Left)];
    let mut table = Table::new(palette, &columns);
    for finding in report.findings.iter().filter(|finding| !quiet || bad(finding)) {
        table.row([
            Cell::toned(tone(finding.level), finding.level.to_string()),
            finding.check.into(),
            finding.subject.as_str().into(),
            finding.message.as_str().into(),
        ]);
    }
    let mut text = if quiet && report.level == Level::Ok { String::new() } else { table.to_string() };
    for finding in report.findings.iter().filter(bad) {
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("fix: {} {}: {fix}\n", finding.check, finding.subject));
        }
    }
    if !quiet {
        text.push_str(&format!("{}\n", summary(report)));
    }
    text
}

fn summary(report: &Report) -> String {
    let counts = [Level::Critical, Level::Warning, Level::Unknown, Level::Ok];
    let counts: Vec<_> = counts
        .iter()
        .map(|level| (level, report.count(*level)))
        .filter(|(_, count)| *count > 0)
        .map(|(level, count)| format!("{count} {level}"))
        .collect();
    format!("{} on {}: {}", report.cluster, report.node, counts.join(", "))
}

/// The line of a monitoring plugin: the verdict, what is behind it, and the numbers after a bar.
pub(super) fn nagios(report: &Report) -> String {
    let word = report.level.to_string().to_uppercase();
    let bad: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.level == report.level && finding.level != Level::Ok)
        .map(|finding| format!("{} {}: {}", finding.check, finding.subject, finding.message))
        .collect();
    let said = if bad.is_empty() { summary(report) } else { bad.join("; ") };
    // The bar divides words from numbers, so it cannot stand among the words.
    let said = said.replace('|', "/").replace('\n', " ");
    let numbers: Vec<_> = report.findings.iter().filter_map(performance).collect();
    format!("PGWARM {word} - {said} | {}\n", numbers.join(" "))
}

/// One number: `'label'=value[unit];warning;critical`.
fn performance(finding: &Finding) -> Option<String> {
    let Measure { number, unit, warning, critical } = finding.value?;
    let label = format!("{} {}", finding.check, finding.subject).replace(['\'', '='], "_");
    // Room is bad when it is small, which a monitor writes as a range that ends in nothing.
    let limit = |limit: Option<f64>| match limit {
        Some(limit) if finding.check == "space" => format!("{limit}:"),
        Some(limit) => limit.to_string(),
        None => String::new(),
    };
    Some(format!("'{label}'={number}{unit};{};{}", limit(warning), limit(critical)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let findings = vec![
            Finding::ok("role", "alpha", "primary"),
            Finding::new(Level::Critical, "queue", "dr", "2 files | wait")
                .fix("Mend it.")
                .value(Measure::limited(7200.0, "s", 300.0, 3600.0)),
            Finding::unknown("ssh-back", "dr", "no shell"),
            Finding::ok("space", "/spool", "80 % free").value(Measure::limited(80.0, "%", 20.0, 10.0)),
        ];
        Report::new("main", "alpha", findings)
    }

    #[test]
    fn the_plugin_line_names_the_worst_and_carries_the_numbers() {
        let expected =
            "PGWARM CRITICAL - queue dr: 2 files / wait | 'queue dr'=7200s;300;3600 'space /spool'=80%;20:;10:\n";
        assert_eq!(nagios(&report()), expected);
    }

    #[test]
    fn people_see_every_finding_and_how_to_mend_it() {
        let text = text(&report(), Palette { coloured: false }, false);
        let expected = [
            "level     check     subject  message",
            "ok        role      alpha    primary",
            "critical  queue     dr       2 files | wait",
            "unknown   ssh-back  dr       cannot tell: no shell",
            "ok        space     /spool   80 % free",
            "fix: queue dr: Mend it.",
            "main on alpha: 1 critical, 1 unknown, 2 ok",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn quiet_leaves_out_what_is_well() {
        let text = text(&report(), Palette { coloured: false }, true);
        assert!(!text.contains("primary") && text.contains("critical"), "{text}");
        let well = Report::new("main", "alpha", vec![Finding::ok("role", "alpha", "primary")]);
        assert_eq!(super::text(&well, Palette { coloured: false }, true), "");
    }

    #[test]
    fn unknown_is_no_success() {
        let codes = [Level::Ok, Level::Unknown, Level::Warning, Level::Critical].map(exit_code);
        assert_eq!(codes, [0, 1, 1, 20]);
    }
}
