//! Lag over time as the page draws it: a point a node every few seconds, for an hour. It goes with the daemon.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::monitor::view::View;

/// Seconds between two points.
pub const STEP: f64 = 5.0;

/// So many points a node: an hour.
const POINTS: usize = 720;

/// Lag of every node over time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Series {
    /// When each point was taken, seconds since 1970.
    at: VecDeque<f64>,
    /// By node: bytes behind on the path that says most; none where it is not known.
    nodes: BTreeMap<String, VecDeque<Option<u64>>>,
    /// How far the primary wrote at each point.
    written: VecDeque<Option<u64>>,
}

impl Series {
    /// Takes a point if it is time for one.
    pub fn note(&mut self, view: &View) {
        if self.at.back().is_some_and(|last| view.epoch - last < STEP - 0.25) {
            return;
        }
        self.at.push_back(view.epoch);
        let live = view.reference.as_ref().filter(|reference| reference.live);
        self.written.push_back(live.map(|reference| reference.lsn.0));
        for node in view.nodes.iter().filter(|node| view.primary.as_ref() != Some(&node.name)) {
            let mark = node.lag.replayed.or(node.lag.flushed).or(node.lag.relayed).or(node.lag.archived);
            let points = self.nodes.entry(node.name.clone()).or_default();
            // A node that was the primary until now has no points of that time.
            points.resize(self.at.len() - 1, None);
            points.push_back(mark.filter(|_| live.is_some()).and_then(|mark| mark.bytes));
        }
        for points in self.nodes.values_mut() {
            points.resize(self.at.len(), None);
        }
        if self.at.len() > POINTS {
            self.at.pop_front();
            self.written.pop_front();
            self.nodes.values_mut().for_each(|points| _ = points.pop_front());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::observation::How;
    use crate::monitor::view::tests::Scene;

    #[test]
    fn points_are_taken_in_step_bounded_and_none_where_nothing_is_known() {
        let mut series = Series::default();
        let mut view = Scene::healthy().view();
        for second in 0..5000 {
            view.epoch = 1e9 + f64::from(second);
            series.note(&view);
        }
        assert_eq!((series.at.len(), series.written.len()), (POINTS, POINTS));
        assert!(series.nodes.values().all(|points| points.len() == POINTS));
        assert_eq!(series.nodes["db2"].back(), Some(&Some(0x10_0100)));
        assert_eq!(series.nodes["w"].back(), Some(&None));
        assert!(!series.nodes.contains_key("db1"));
        let mut lost = Scene::healthy().gone("db1", How::Refused).view();
        lost.epoch = view.epoch + 100.0;
        series.note(&lost);
        assert_eq!(series.nodes["db2"].back(), Some(&None));
        assert_eq!(series.nodes["db1"].len(), POINTS);
    }
}
