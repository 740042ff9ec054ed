//! Lag over time as the page draws it: a point a node every few seconds, for an hour. What was before the daemon began
//! comes from the history in the database, in wider steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::monitor::records::Past;
use crate::monitor::view::View;

/// Seconds between two points.
pub const STEP: f64 = 5.0;

/// So many points a node: an hour.
const POINTS: usize = 720;

/// Lag of every node over time.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// When each point was taken, seconds since 1970.
    at: VecDeque<f64>,
    /// By node: bytes behind on the path that says most; none where it is not known.
    nodes: BTreeMap<String, VecDeque<Option<u64>>>,
    /// How far the primary wrote at each point.
    written: VecDeque<Option<u64>>,
    /// The widest step between two points, in seconds: what is wider is a time without any.
    step: f64,
}

impl Default for Series {
    fn default() -> Series {
        Series { at: VecDeque::new(), nodes: BTreeMap::new(), written: VecDeque::new(), step: STEP }
    }
}

/// The step of the past, where every node writes down how far it is so often: each finds a point of every node.
pub fn past_step(history: Duration) -> Duration {
    (history * 2).max(Duration::from_secs_f64(STEP))
}

impl Series {
    /// Puts what the database remembers before what is there, as far as there is room.
    pub fn precede(&mut self, past: &[Past], step: Duration) {
        let step = step.as_secs_f64();
        let first = self.at.front().copied().unwrap_or(f64::INFINITY);
        // A point stands at the end of its step, like those that are taken now.
        let points = || past.iter().map(|one| (one.at + step, one)).filter(|(at, _)| at + STEP < first);
        // No number of these is NaN, and none is so large that bits and values are in another order.
        let mut times: Vec<u64> = points().map(|(at, _)| at.to_bits()).collect::<BTreeSet<_>>().into_iter().collect();
        let room = POINTS.saturating_sub(self.at.len());
        times.drain(..times.len().saturating_sub(room));
        let (before, after) = (times.len(), self.at.len());
        self.at = times.iter().map(|at| f64::from_bits(*at)).chain(self.at.drain(..)).collect();
        self.written = std::iter::repeat_n(None, before).chain(self.written.drain(..)).collect();
        for values in self.nodes.values_mut() {
            *values = std::iter::repeat_n(None, before).chain(values.drain(..)).collect();
        }
        for (at, one) in points() {
            let Ok(place) = times.binary_search(&at.to_bits()) else { continue };
            let written = self.written[place].unwrap_or(0).max(one.written.0);
            self.written[place] = Some(written);
            let nothing = || std::iter::repeat_n(None, before + after).collect();
            self.nodes.entry(one.node.clone()).or_insert_with(nothing)[place] = one.bytes;
        }
        if before > 0 {
            self.step = step;
        }
    }

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
    use crate::wal::Lsn;

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

    #[test]
    fn the_past_goes_before_as_far_as_there_is_room() {
        let mut series = Series::default();
        let mut view = Scene::healthy().view();
        view.epoch = 1e9;
        series.note(&view);
        let past = |node: &str, at: f64, bytes: Option<u64>| Past {
            node: node.to_owned(),
            at,
            written: Lsn(7),
            seen: at,
            bytes,
        };
        let step = past_step(Duration::from_secs(10));
        assert_eq!((step, past_step(Duration::from_millis(100))), (Duration::from_secs(20), Duration::from_secs(5)));
        let there = [
            past("db2", 1e9 - 60.0, Some(1)),
            past("db9", 1e9 - 60.0, Some(2)),
            past("db2", 1e9 - 40.0, None),
            past("db2", 1e9 - 20.0, Some(3)),
        ];
        series.precede(&there, step);
        // The last one stands where a point was taken already.
        assert_eq!(series.at, [1e9 - 40.0, 1e9 - 20.0, 1e9]);
        assert_eq!(series.nodes["db2"], [Some(1), None, Some(0x10_0100)]);
        assert_eq!(series.nodes["db9"], [Some(2), None, None]);
        assert_eq!((series.written[0], series.written.len(), series.step), (Some(7), 3, 20.0));
        assert!(series.nodes.values().all(|values| values.len() == 3));
        let long: Vec<Past> = (1..2000).map(|at| past("db2", 1e9 - 60.0 * f64::from(2000 - at), Some(1))).collect();
        series.precede(&long, step);
        assert_eq!((series.at.len(), series.nodes["w"].len()), (POINTS, POINTS));
        assert!(series.at.iter().zip(series.at.iter().skip(1)).all(|(a, b)| a < b));
        for second in 0..5000 {
            view.epoch = 1e9 + f64::from(second);
            series.note(&view);
        }
        assert_eq!(series.at.len(), POINTS);
        assert!(series.nodes.values().all(|values| values.len() == POINTS));
    }
}
