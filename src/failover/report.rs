//! What a change of role came to: what is lost, how long it took, phase by phase, and what to do next.

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::journal::{Entry, Journal};
use super::observation::Observation;
use super::plan::{Loss, Step};
use crate::wal::lsn::text_or_none;
use crate::wal::{Lsn, TimelineId};

/// The version of this form.
const FORMAT: u32 = 1;

/// What `trigger-failover --json` prints at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this form: 1.
    pub format: u32,
    /// `promoted`, or how else it ended.
    pub outcome: String,
    /// The node that is the primary now.
    pub node: String,
    /// The timeline that it writes.
    pub timeline: Option<TimelineId>,
    /// Where that timeline begins.
    #[serde(with = "text_or_none")]
    pub fork: Option<Lsn>,
    /// The last transaction that committed before, with offset; none where no commit was seen.
    pub last_commit: Option<String>,
    /// What is lost.
    pub loss: Loss,
    /// How long it took from the first line of the journal on, in milliseconds.
    pub took_ms: u64,
    /// How long this run took, in milliseconds: a run that was cut short is not in it.
    pub run_ms: u64,
    /// How long writes were not possible, in milliseconds; only where the old primary said when it stopped taking them.
    pub outage_ms: Option<u64>,
    /// Each step that was carried out.
    pub phases: Vec<Phase>,
    /// What to do next, full sentences.
    pub advice: Vec<String>,
}

/// One step of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its word.
    pub step: String,
    /// What it found or did.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Report {
    /// What the journal tells.
    pub fn of(journal: &Journal, node: &str) -> Report {
        let phases: Vec<Phase> = journal.lines().iter().filter_map(|line| phase(&line.entry)).collect();
        let decided = journal.decided();
        let loss = decided.and_then(|(_, verdict)| verdict.plan.as_ref()).map(|plan| plan.loss.clone());
        Report {
            format: FORMAT,
            outcome: "promoted".to_owned(),
            node: node.to_owned(),
            timeline: journal.claim().map(|claim| claim.timeline),
            fork: journal.claim().and_then(|claim| claim.fork),
            last_commit: decided.and_then(|(seen, _)| last_commit(seen)),
            loss: loss.unwrap_or_default(),
            took_ms: since_begin(journal),
            run_ms: 0,
            outage_ms: None,
            phases,
            advice: Vec::new(),
        }
    }
}

fn phase(entry: &Entry) -> Option<Phase> {
    match entry {
        Entry::Done { step, detail, took_ms } => {
            Some(Phase { step: step.word().to_owned(), detail: detail.clone(), took_ms: *took_ms })
        }
        _ => None,
    }
}

fn last_commit(seen: &Observation) -> Option<String> {
    seen.own.is().and_then(|own| own.last_commit.as_ref()).map(|commit| commit.at.clone())
}

/// From the first line to the last one, by this node's clock.
fn since_begin(journal: &Journal) -> u64 {
    let time = |line: Option<&super::journal::Line>| line.and_then(|line| DateTime::parse_from_rfc3339(&line.at).ok());
    let both = time(journal.lines().first()).zip(time(journal.lines().last()));
    both.and_then(|(first, last)| u64::try_from((last - first).num_milliseconds()).ok()).unwrap_or_default()
}

/// The steps that PostgreSQL itself takes, whoever tells it to.
pub fn is_the_servers_own(step: &str) -> bool {
    [Step::Promote.word(), Step::Open.word()].contains(&step)
}
