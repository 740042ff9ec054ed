//! What is wrong here, and how to mend it. Changes nothing.
//!
//! Two halves: `gather` collects [`facts`], with a deadline for everything that can hang; the rules turn facts into
//! [`Finding`]s and are pure, so each of them is tested without a server. What could not be found out is a level of its
//! own, [`Level::Unknown`]: it is never shown as well, nor as a zero.

use std::fmt;

use serde::Serialize;

pub mod facts;
pub mod gather;
pub mod local;
pub mod peer;
pub mod rules;
pub mod server;

pub use facts::Facts;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but will not always.
    Warning,
    /// Something does not work, or loses WAL.
    Critical,
    /// It could not be found out.
    Unknown,
}

impl Level {
    /// How much attention it wants: of two findings the one that wants more is the verdict.
    fn weight(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Unknown => 1,
            Level::Warning => 2,
            Level::Critical => 3,
        }
    }

    /// The exit code of a monitoring plugin (Nagios: OK, WARNING, CRITICAL, UNKNOWN).
    pub fn nagios_code(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }

    /// The worst of many; [`Level::Ok`] of none.
    pub fn worst(levels: impl IntoIterator<Item = Level>) -> Level {
        levels.into_iter().max_by_key(|level| level.weight()).unwrap_or(Level::Ok)
    }

    /// Where a number that should be small stands, given two thresholds.
    pub fn of(number: f64, warning: f64, critical: f64) -> Level {
        if number >= critical {
            Level::Critical
        } else if number >= warning {
            Level::Warning
        } else {
            Level::Ok
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Critical => "critical",
            Level::Unknown => "unknown",
        })
    }
}

/// A number that a monitoring system can draw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measure {
    /// The number itself.
    pub number: f64,
    /// Its unit as Nagios writes it: `s`, `B`, `%`, or nothing for a count.
    pub unit: &'static str,
    /// Where it becomes a warning.
    pub warning: Option<f64>,
    /// Where it becomes critical.
    pub critical: Option<f64>,
}

impl Measure {
    /// A number without thresholds.
    pub fn plain(number: f64, unit: &'static str) -> Self {
        Measure { number, unit, warning: None, critical: None }
    }

    /// A number with both thresholds.
    pub fn limited(number: f64, unit: &'static str, warning: f64, critical: f64) -> Self {
        Measure { number, unit, warning: Some(warning), critical: Some(critical) }
    }
}

/// What one check found about one subject.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The name of the check; stable, so that scripts can rely on it.
    pub check: &'static str,
    /// What it is about: a node, a path, a setting.
    pub subject: String,
    /// How bad it is.
    pub level: Level,
    /// What was found, one line.
    pub message: String,
    /// How to mend it, as a full sentence; for everything that is not ok and where we know.
    pub fix: Option<String>,
    /// The number behind it, where there is one. Absent where it is unknown or never happened: neither is 0.
    pub value: Option<Measure>,
}

impl Finding {
    /// A finding that all is well.
    pub fn ok(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding::new(Level::Ok, check, subject, message)
    }

    /// A finding of this level.
    pub fn new(level: Level, check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { check, subject: subject.into(), level, message: message.into(), fix: None, value: None }
    }

    /// A finding that it could not be found out, and why.
    pub fn unknown(check: &'static str, subject: impl Into<String>, why: impl fmt::Display) -> Self {
        Finding::new(Level::Unknown, check, subject, format!("cannot tell: {why}"))
    }

    /// Adds how to mend it. A finding that all is well needs none and keeps none.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        if self.level != Level::Ok {
            self.fix = Some(fix.into());
        }
        self
    }

    /// Adds the number behind it.
    pub fn value(mut self, value: Measure) -> Self {
        self.value = Some(value);
        self
    }
}

/// All that a run found: what `check-node --json` prints. The schema is `etc/check-node.schema.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this form: 1.
    pub format: u32,
    /// The cluster's name; empty where the configuration could not be read.
    pub cluster: String,
    /// The node that looked; empty where the configuration could not be read.
    pub node: String,
    /// When, by this node's clock, with offset (RFC 3339).
    pub time: String,
    /// The worst level of all findings.
    pub level: Level,
    /// Every finding, also the good ones, in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Puts findings together.
    pub fn new(cluster: &str, node: &str, findings: Vec<Finding>) -> Self {
        Report {
            format: 1,
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            time: chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, false),
            level: Level::worst(findings.iter().map(|finding| finding.level)),
            findings,
        }
    }

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_level_is_the_verdict_and_unknown_is_worse_than_ok() {
        assert_eq!(Level::worst([]), Level::Ok);
        assert_eq!(Level::worst([Level::Ok, Level::Unknown]), Level::Unknown);
        assert_eq!(Level::worst([Level::Warning, Level::Unknown]), Level::Warning);
        assert_eq!(Level::worst([Level::Critical, Level::Unknown, Level::Warning]), Level::Critical);
    }

    #[test]
    fn a_good_finding_carries_no_advice() {
        assert_eq!(Finding::ok("x", "y", "z").fix("Do it.").fix, None);
        assert!(Finding::unknown("x", "y", "z").fix("Do it.").fix.is_some());
    }
}
