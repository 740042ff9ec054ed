//! The rules of a change of role: a numbered table, first match wins, one refusal each.
//!
//! Every log line, refusal and `--dry-run` names the rule. A flag lifts one named rule; most have none. The numbers are
//! stable: a rule that goes leaves its number behind.

pub(super) mod archives;
mod nodes;
mod own;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::observation::Observation;
use super::standing::Standing;
use crate::config::Config;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Promote this node with everything that can be reached.
    Failover,
    /// Promote this node with what it has.
    Fast,
    /// Open this node as of a time.
    Until(String),
    /// Change places with the primary, which is alive.
    Switchover,
}

/// What lifts a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lift {
    /// Nothing does.
    Nothing,
    /// `--fence`: the node is stopped first, and that must be proven.
    Fence,
    /// `--down NODE`: a person vouches for it.
    Down,
    /// `--ignore NODE`: what that node holds is not waited for.
    Ignore,
    /// `--take-claim`
    TakeClaim,
    /// `--even-if-behind`
    EvenIfBehind,
    /// `--accept-loss`
    AcceptLoss,
    /// `--without-configuration`
    WithoutConfiguration,
}

impl Lift {
    /// The flag as it is typed; none where nothing lifts the rule.
    pub fn flag(self) -> Option<&'static str> {
        Some(match self {
            Lift::Nothing => return None,
            Lift::Fence => "--fence",
            Lift::Down => "--down NODE",
            Lift::Ignore => "--ignore NODE",
            Lift::TakeClaim => "--take-claim",
            Lift::EvenIfBehind => "--even-if-behind",
            Lift::AcceptLoss => "--accept-loss",
            Lift::WithoutConfiguration => "--without-configuration",
        })
    }
}

/// What the operator allows, and how old an answer may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What was asked for.
    pub intent: Intent,
    /// The rules that are lifted.
    pub lifted: BTreeSet<Lift>,
    /// Nodes that a person vouches for to be stopped.
    pub down: BTreeSet<String>,
    /// Nodes that are not waited for.
    pub ignored: BTreeSet<String>,
    /// True where a fence is configured: a silent primary can then be proven to be stopped.
    pub fence: bool,
    /// An older answer counts as none.
    pub age_max: Duration,
    /// Who got WAL so shortly ago has a sender that lives.
    pub fresh: Duration,
    /// The id of our own claim, where one was made by an earlier run.
    pub claim: Option<String>,
}

/// An older answer counts as none.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Who got WAL so shortly ago has a sender that lives.
const FRESH: Duration = Duration::from_secs(10);

impl Policy {
    /// What holds where nobody lifts anything.
    pub fn strict(intent: Intent, config: &Config) -> Policy {
        Policy {
            intent,
            lifted: BTreeSet::new(),
            down: BTreeSet::new(),
            ignored: BTreeSet::new(),
            fence: !config.failover.fence.is_empty(),
            age_max: AGE_MAX,
            fresh: FRESH,
            claim: None,
        }
    }
}

/// One rule.
pub struct Rule {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: &'static str,
    /// When it refuses, in words.
    pub says: &'static str,
    /// What lifts it.
    pub lift: Lift,
    /// For which intents it holds.
    pub scope: Scope,
    test: fn(&Case<'_>) -> Option<Refusal>,
}

/// For which intents a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// For all.
    All,
    /// Where no primary takes part.
    Failover,
    /// Where one does.
    Switchover,
}

/// Why a rule refuses, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One line.
    pub why: String,
    /// Full sentences.
    pub hint: String,
}

impl Refusal {
    fn new(why: impl Into<String>, hint: impl Into<String>) -> Option<Refusal> {
        Some(Refusal { why: why.into(), hint: hint.into() })
    }
}

/// What a rule looks at.
pub struct Case<'a> {
    /// What was found out.
    pub seen: &'a Observation,
    /// What is allowed.
    pub policy: &'a Policy,
    /// What each other node is taken for, in their order.
    pub standings: Vec<Standing>,
}

impl Rule {
    /// Why this case is refused by this rule, if it is.
    pub fn refuses(&self, case: &Case<'_>) -> Option<Refusal> {
        let switchover = case.policy.intent == Intent::Switchover;
        let applies = match self.scope {
            Scope::All => true,
            Scope::Failover => !switchover,
            Scope::Switchover => switchover,
        };
        if applies { (self.test)(case) } else { None }
    }
}

/// Every rule, in the order in which they are asked.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    rule(10, "own-unknown", "the own data directory or server cannot be told", Lift::Nothing, Scope::All, own::unknown),
    rule(11, "already-primary", "this server takes writes already", Lift::Nothing, Scope::All, own::already_primary),
    rule(12, "wrong-system", "a node or an archive belongs to another cluster", Lift::Nothing, Scope::All, own::wrong_system),
    rule(13, "not-a-standby", "this data directory is that of a primary", Lift::Nothing, Scope::All, own::not_a_standby),
    rule(14, "target-passed", "more has been replayed than the target asks for", Lift::Nothing, Scope::Failover, own::target_passed),
    rule(15, "configuration", "something that a primary needs is missing here", Lift::WithoutConfiguration, Scope::All, own::configuration),
    rule(20, "primary-alive", "another node takes writes", Lift::Fence, Scope::Failover, nodes::primary_alive),
    rule(21, "node-answers", "a node answers and does not say that it is a standby", Lift::Fence, Scope::All, nodes::node_answers),
    rule(22, "node-hangs", "a node takes connections and says nothing", Lift::Fence, Scope::All, nodes::node_hangs),
    rule(23, "wal-flows", "a node that is silent still sends WAL to somebody", Lift::Fence, Scope::Failover, nodes::wal_flows),
    rule(24, "node-silent", "nothing is known of a node that may be the primary", Lift::Down, Scope::Failover, nodes::node_silent),
    rule(25, "one-primary", "a switchover needs one primary that answers and that its own machine tells of", Lift::Nothing, Scope::Switchover, nodes::one_primary),
    rule(26, "not-streaming", "this node does not stream from the primary", Lift::Nothing, Scope::Switchover, nodes::not_streaming),
    rule(30, "claimed", "another node has claimed the next timeline", Lift::TakeClaim, Scope::All, archives::claimed),
    rule(31, "other-timeline", "the cluster has gone on without this node", Lift::Nothing, Scope::All, archives::other_timeline),
    rule(32, "archive-unknown", "a place that may hold more WAL cannot be asked", Lift::Ignore, Scope::All, archives::unknown),
    rule(33, "better-node", "another node can be promoted with more WAL, or is meant to be", Lift::EvenIfBehind, Scope::Failover, nodes::better_node),
    rule(34, "hole", "a place holds WAL behind a gap that nobody can fill", Lift::AcceptLoss, Scope::Failover, archives::hole),
    rule(35, "left-behind", "with --fast, WAL that can be reached is left behind", Lift::AcceptLoss, Scope::Failover, archives::left_behind),
];

/// What is said where no rule refuses.
pub const GO: u16 = 0;

/// Makes a rule, so that the table stays a table.
const fn rule(
    number: u16,
    name: &'static str,
    says: &'static str,
    lift: Lift,
    scope: Scope,
    test: fn(&Case<'_>) -> Option<Refusal>,
) -> Rule {
    Rule { number, name, says, lift, scope, test }
}
