//! Checks of `[monitor]`, of the numbers of the nodes and of the monitor's thresholds.

use super::Config;
use super::check::Findings;
use super::value::{size_text, time_text};

/// Runs them.
pub fn check(config: &Config, findings: &mut Findings) {
    check_ids(config, findings);
    let monitor = &config.monitor;
    if monitor.http.is_some() && monitor.http_address().is_none() {
        let message =
            format!("monitor.http = '{}' is no port and no address:port", monitor.http.as_deref().unwrap_or(""));
        findings.add("monitor", "http", message, "Write '8008' for loopback, or an address such as '192.0.2.7:8008'.");
    }
    if monitor.deadline > monitor.lost_after {
        let (deadline, lost) = (time_text(monitor.deadline), time_text(monitor.lost_after));
        let message = format!("monitor.deadline ({deadline}) is longer than monitor.lost_after ({lost})");
        findings.add("monitor", "deadline", message, "Lower monitor.deadline, or raise monitor.lost_after.");
    }
    let check = &config.check;
    let sizes = [
        ("lag_warning", check.lag_warning, "lag_critical", check.lag_critical),
        ("slot_warning", check.slot_warning, "slot_critical", check.slot_critical),
    ];
    for (key, warning, other, critical) in sizes {
        if warning > critical {
            let message =
                format!("check.{key} ({}) comes after check.{other} ({})", size_text(warning), size_text(critical));
            findings.add("check", key, message, "A warning must come first.");
        }
    }
}

/// Two nodes of one number could not be told apart in the views.
fn check_ids(config: &Config, findings: &mut Findings) {
    for (at, node) in config.nodes.iter().enumerate() {
        let same = |other: &&super::Node| other.id.is_some() && other.id == node.id;
        if let (Some(other), Some(id)) = (config.nodes[..at].iter().find(same), node.id) {
            let message = format!("nodes '{}' and '{}' both have the id {id}", other.name, node.name);
            findings.add(&format!("node.{}", node.name), "id", message, "Give each node a number of its own.");
        }
    }
}
