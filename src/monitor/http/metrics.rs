//! The picture as Prometheus reads it: text format 0.0.4. Pure.
//!
//! A number that is not known is left out, never 0: an alert must be able to tell the two apart (`absent`).

use std::fmt::Write;

use crate::cluster::check::{Finding, Level};
use crate::monitor::view::{Mark, NodeView, View};

/// What a metric says of a node.
type Reading = fn(&NodeView) -> Option<f64>;

/// What a metric says of a distance.
type Distance = fn(Mark) -> Option<f64>;

/// One metric while it is written.
struct Metric<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl<'a> Metric<'a> {
    fn new(text: &'a mut String, name: &'a str, kind: &str, help: &str) -> Metric<'a> {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { text, name }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let _ = writeln!(self.text, "{}{{{}}} {value}", self.name, labels.join(","));
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Everything.
pub fn text(view: &View, findings: &[Finding]) -> String {
    let mut text = String::new();
    let cluster = view.cluster.as_str();
    cluster_metrics(&mut text, view);
    node_metrics(&mut text, view);
    lag_metrics(&mut text, view);
    slot_metrics(&mut text, view);
    archiver_metrics(&mut text, view);
    report_metrics(&mut text, view);
    let mut level = Metric::new(
        &mut text,
        "pgwarm_finding_level",
        "gauge",
        "What is wrong: 0 ok, 1 unknown, 2 warning, 3 critical.",
    );
    for finding in findings {
        let number = match finding.level {
            Level::Ok => 0.0,
            Level::Unknown => 1.0,
            Level::Warning => 2.0,
            Level::Critical => 3.0,
        };
        level.add(&[("cluster", cluster), ("check", finding.check), ("subject", &finding.subject)], Some(number));
    }
    text
}

fn cluster_metrics(text: &mut String, view: &View) {
    let cluster = [("cluster", view.cluster.as_str())];
    let flag = |yes: bool| Some(f64::from(u8::from(yes)));
    let primaries = usize::from(view.primary.is_some()) + view.rivals.len();
    Metric::new(text, "pgwarm_primaries", "gauge", "How many nodes take writes; anything but 1 is trouble.")
        .add(&cluster, Some(primaries as f64));
    Metric::new(text, "pgwarm_paused", "gauge", "1 while the monitor is paused.")
        .add(&cluster, flag(view.pause.is_some()));
    Metric::new(text, "pgwarm_picture_time_seconds", "gauge", "When the cluster was looked at, since 1970.")
        .add(&cluster, Some(view.epoch));
    let live = view.reference.as_ref().filter(|reference| reference.live);
    Metric::new(text, "pgwarm_wal_position_bytes", "counter", "How far the primary has written WAL.")
        .add(&cluster, live.map(|reference| reference.lsn.0 as f64));
}

fn node_metrics(text: &mut String, view: &View) {
    let cluster = view.cluster.as_str();
    let mut info = Metric::new(text, "pgwarm_node_info", "gauge", "1, with what a node is as labels.");
    for node in &view.nodes {
        let labels = [
            ("cluster", cluster),
            ("node", node.name.as_str()),
            ("kind", node.kind),
            ("role", node.role.word()),
            ("state", node.state),
            ("upstream", node.upstream.as_deref().unwrap_or("")),
            ("replication", node.replication.unwrap_or("")),
            ("sync_state", node.sync_state.as_deref().unwrap_or("")),
        ];
        info.add(&labels, Some(1.0));
    }
    let gauges: [(&str, &str, Reading); 6] = [
        ("pgwarm_node_up", "1 where the server answers; absent for a node without one.", |node| {
            (node.state != "no server").then(|| f64::from(u8::from(node.state == "running")))
        }),
        ("pgwarm_node_answer_seconds", "How long its answer took.", |node| Some(node.answer_seconds)),
        ("pgwarm_node_unseen_seconds", "For how long it has not answered.", |node| Some(node.unseen_seconds)),
        ("pgwarm_node_timeline", "Its timeline.", |node| node.timeline.map(|timeline| f64::from(timeline.0))),
        ("pgwarm_node_replay_paused", "1 while replay is paused.", |node| {
            node.replication.map(|_| f64::from(u8::from(node.replay_paused)))
        }),
        ("pgwarm_witness_copy_age_seconds", "How old the copy is that a witness keeps.", |node| {
            node.witness.as_ref().and_then(|witness| witness.copy_age_seconds)
        }),
    ];
    for (name, help, value) in gauges {
        let mut metric = Metric::new(text, name, "gauge", help);
        for node in &view.nodes {
            metric.add(&[("cluster", cluster), ("node", &node.name)], value(node));
        }
    }
}

fn lag_metrics(text: &mut String, view: &View) {
    let paths = |node: &NodeView| {
        let lag = &node.lag;
        [
            ("sent", lag.sent),
            ("written", lag.written),
            ("flushed", lag.flushed),
            ("replayed", lag.replayed),
            ("archived", lag.archived),
            ("relayed", lag.relayed),
            ("restorable", lag.restorable),
        ]
    };
    let metrics: [(&str, &str, Distance); 2] = [
        ("pgwarm_lag_bytes", "How far a node is behind the primary on a path.", |mark| {
            mark.bytes.map(|bytes| bytes as f64)
        }),
        ("pgwarm_lag_seconds", "How old what a node has on a path is.", |mark| mark.seconds),
    ];
    for (name, help, value) in metrics {
        let mut metric = Metric::new(text, name, "gauge", help);
        for node in &view.nodes {
            for (path, mark) in paths(node) {
                let labels = [("cluster", view.cluster.as_str()), ("node", &node.name), ("path", path)];
                metric.add(&labels, mark.and_then(value));
            }
        }
    }
    let mut hop =
        Metric::new(text, "pgwarm_hop_bytes", "gauge", "How far a node is behind the standby that it follows.");
    for node in &view.nodes {
        if let Some(own) = &node.lag.hop {
            let labels = [("cluster", view.cluster.as_str()), ("node", &node.name), ("upstream", &own.upstream)];
            hop.add(&labels, own.bytes.map(|bytes| bytes as f64));
        }
    }
}

fn slot_metrics(text: &mut String, view: &View) {
    let mut held =
        Metric::new(text, "pgwarm_slot_retained_bytes", "gauge", "How much WAL a replication slot holds back.");
    for node in &view.nodes {
        for slot in &node.slots {
            let active = if slot.active { "1" } else { "0" };
            let labels = [
                ("cluster", view.cluster.as_str()),
                ("node", &node.name),
                ("slot", &slot.name),
                ("active", active),
                ("wal_status", slot.wal_status.as_deref().unwrap_or("")),
            ];
            held.add(&labels, slot.retained_bytes.map(|bytes| bytes as f64));
        }
    }
}

fn archiver_metrics(text: &mut String, view: &View) {
    let metrics: [(&str, &str, &str, Reading); 5] = [
        ("pgwarm_archiver_archived_total", "counter", "Files that the server was told to be archived.", |node| {
            node.archiver.as_ref().map(|archiver| archiver.archived as f64)
        }),
        ("pgwarm_archiver_failed_total", "counter", "Calls that failed; deaths by a signal are not counted.", |node| {
            node.archiver.as_ref().map(|archiver| archiver.failed as f64)
        }),
        ("pgwarm_archiver_last_age_seconds", "gauge", "Since a file was last archived; absent: never.", |node| {
            node.archiver.as_ref()?.last_archived_age_seconds
        }),
        ("pgwarm_archiver_ready_files", "gauge", "Files that wait for the archiver.", |node| {
            node.archiver.as_ref()?.ready.map(|files| files as f64)
        }),
        (
            "pgwarm_archiver_ready_age_seconds",
            "gauge",
            "The age of the oldest that waits; absent: none does.",
            |node| node.archiver.as_ref()?.ready_age_seconds,
        ),
    ];
    for (name, kind, help, value) in metrics {
        let mut metric = Metric::new(text, name, kind, help);
        for node in &view.nodes {
            metric.add(&[("cluster", view.cluster.as_str()), ("node", &node.name)], value(node));
        }
    }
}

fn report_metrics(text: &mut String, view: &View) {
    let cluster = view.cluster.as_str();
    let archive = |node: &NodeView| node.report.as_ref().and_then(|report| report.archive.clone()?.ok());
    let reports: Vec<_> = view.nodes.iter().map(|node| (node.name.as_str(), archive(node), node)).collect();
    let mut age =
        Metric::new(text, "pgwarm_report_age_seconds", "gauge", "Since the node's daemon spoke; absent: never.");
    for (name, _, node) in &reports {
        age.add(&[("cluster", cluster), ("node", name)], node.report_age_seconds);
    }
    let mut missing = Metric::new(text, "pgwarm_archive_missing_segments", "gauge", "Segments missing in its archive.");
    for (name, archive, _) in &reports {
        missing.add(&[("cluster", cluster), ("node", name)], archive.as_ref().map(|archive| archive.missing as f64));
    }
    let mut backup = Metric::new(text, "pgwarm_backup_age_seconds", "gauge", "Since its newest backup was finished.");
    for (name, archive, _) in &reports {
        let newest = archive.as_ref().and_then(|archive| archive.backups.last()?.finished);
        backup.add(&[("cluster", cluster), ("node", name)], newest.map(|finished| view.epoch - finished));
    }
    let mut drill =
        Metric::new(text, "pgwarm_drill_age_seconds", "gauge", "Since a restore was proven; absent: never.");
    for (name, _, node) in &reports {
        let proven = node.report.as_ref().and_then(|report| report.drill.as_ref()).filter(|drill| drill.successful);
        drill.add(&[("cluster", cluster), ("node", name)], proven.map(|drill| view.epoch - drill.at));
    }
    let mut queued = Metric::new(text, "pgwarm_queue_files", "gauge", "Files that wait on a node for another place.");
    for (name, _, node) in &reports {
        for (place, queue) in node.report.iter().flat_map(|report| &report.queues) {
            queued.add(&[("cluster", cluster), ("node", name), ("place", place)], Some(queue.files as f64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::judge::tests::{judged, limits};
    use crate::monitor::observation::How;
    use crate::monitor::view::tests::Scene;

    fn of(scene: &Scene) -> String {
        let view = scene.view();
        text(&view, &judged(&view, &limits()))
    }

    #[test]
    fn numbers_are_there_with_their_labels_and_unknown_ones_are_not() {
        let text = of(&Scene::healthy());
        for line in [
            "pgwarm_primaries{cluster=\"main\"} 1",
            "pgwarm_node_up{cluster=\"main\",node=\"db2\"} 1",
            "pgwarm_lag_bytes{cluster=\"main\",node=\"db2\",path=\"flushed\"} 256",
            "pgwarm_hop_bytes{cluster=\"main\",node=\"db3\",upstream=\"db2\"} 8388608",
            "pgwarm_finding_level{cluster=\"main\",check=\"primary\",subject=\"main\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no '{line}' in\n{text}");
        }
        assert!(!text.contains("node=\"w\",path="), "{text}");
        assert!(!text.contains("pgwarm_node_up{cluster=\"main\",node=\"w\"}"));
        assert!(text.contains("pgwarm_wal_position_bytes{"));
        let lost = of(&Scene::healthy().gone("db1", How::Refused));
        assert!(lost.contains("pgwarm_primaries{cluster=\"main\"} 0") && !lost.contains("pgwarm_wal_position_bytes{"));
    }

    #[test]
    fn the_dashboard_asks_for_metrics_and_labels_that_there_are() {
        let dashboard = include_str!("../../../etc/grafana.json");
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("because it is JSON");
        // Declared are all metrics, whether they have a value now or not.
        let text = of(&Scene::healthy());
        let declared: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let panels = dashboard["panels"].as_array().expect("because it has panels");
        let asked = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
        let asked: Vec<String> = asked.filter_map(|target| Some(target["expr"].as_str()?.to_owned())).collect();
        assert!(asked.len() >= panels.len(), "a panel asks for nothing");
        for expression in &asked {
            let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names: Vec<&str> = words.filter(|word| word.starts_with("pgwarm_")).collect();
            assert!(!names.is_empty() && names.iter().all(|name| declared.contains(name)), "{expression}");
        }
    }

    #[test]
    fn every_line_is_of_the_format() {
        let text = of(&Scene::healthy());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect("because a line has a value");
            assert!(value.parse::<f64>().is_ok() && series.ends_with('}'), "{line}");
        }
        let helps = text.lines().filter(|line| line.starts_with("# HELP")).count();
        assert_eq!(helps, text.lines().filter(|line| line.starts_with("# TYPE")).count());
        assert_eq!(escape("a\"b\\c\n"), "a\\\"b\\\\c\\n");
    }
}
