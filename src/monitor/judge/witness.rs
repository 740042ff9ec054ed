//! What is wrong with the server of a witness and with the copy that it keeps. Pure.

use std::time::Duration;

use super::Limits;
use crate::cluster::check::{Finding, Level, Measure};
use crate::monitor::view::{NodeView, View};

/// The registry is read so often, so a copy may seem to be so much older than it is.
const READ_EVERY: Duration = Duration::from_secs(10);

/// Judges a node that is a witness with a server of its own that answers; nothing about any other.
pub fn judge(view: &View, node: &NodeView, limits: &Limits<'_>) -> Option<Finding> {
    let own = node.witness.as_ref()?;
    let name = node.name.clone();
    let primary = view.primary.as_ref().and_then(|name| view.node(name));
    let same = primary.is_some_and(|primary| primary.system_identifier == node.system_identifier);
    if own.in_recovery || same {
        let fix = format!("Let node.{name}.conninfo name a server made with 'initdb', or take it out.");
        let message = "its server belongs to the cluster that it is to judge, and goes with it";
        return Some(Finding::new(Level::Critical, "copy", name, message).fix(fix));
    }
    // Without a primary nothing can be copied, and who is not registered keeps nothing.
    let (Some(_), Some(_)) = (primary, &node.registered) else { return None };
    let fix = format!("Start 'cluster-monitor run' on {name}, and see what it says of its copy.");
    let Some(age) = own.copy_age_seconds else {
        return Some(Finding::new(Level::Warning, "copy", name, "keeps no copy of the registry").fix(fix));
    };
    let late = limits.reports_every.max(READ_EVERY).mul_f64(3.0) + READ_EVERY;
    let level = if age > late.as_secs_f64() { Level::Warning } else { Level::Ok };
    let message = format!("its copy of the registry is {age:.0} s old");
    Some(Finding::new(level, "copy", name, message).fix(fix).value(Measure::plain(age, "s")))
}
