//! What the daemon shows: the last picture, lag over time, events. Written every turn, read whenever somebody asks.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::series::Series;
use crate::cluster::check::{Finding, Level};
use crate::monitor::records::{Kept, Past};
use crate::monitor::view::View;

/// A picture that is older than so many turns is stale: the daemon itself is in trouble.
const STALE_TURNS: u32 = 5;

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    shown: RwLock<Shown>,
}

/// What stands on it.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The last picture; none before the first turn.
    pub view: Option<Arc<View>>,
    /// Its findings.
    pub findings: Arc<Vec<Finding>>,
    /// When it was put up.
    pub at: Option<Instant>,
    /// How many were put up before it and with it.
    pub turns: u64,
    /// Lag over time.
    pub series: Arc<Series>,
    /// The newest events first.
    pub events: Arc<Vec<Kept>>,
}

impl Board {
    /// Puts up a new picture.
    pub fn show(&self, view: &Arc<View>, findings: Vec<Finding>) {
        let mut shown = self.write();
        Arc::make_mut(&mut shown.series).note(view);
        shown.view = Some(Arc::clone(view));
        shown.findings = Arc::new(findings);
        shown.at = Some(Instant::now());
        shown.turns += 1;
    }

    /// Puts lag of the past before what was seen since.
    pub fn show_past(&self, past: &[Past], step: Duration) {
        Arc::make_mut(&mut self.write().series).precede(past, step);
    }

    /// Puts up the newest events.
    pub fn show_events(&self, events: Vec<Kept>) {
        self.write().events = Arc::new(events);
    }

    /// What stands there now.
    pub fn read(&self) -> Shown {
        // Whoever panicked while writing left fields that are whole, each by itself.
        self.shown.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Shown {
    /// The worst level of all findings.
    pub fn level(&self) -> Level {
        Level::worst(self.findings.iter().map(|finding| finding.level))
    }

    /// True while pictures come at this interval.
    pub fn is_fresh(&self, interval: Duration) -> bool {
        let most = interval * STALE_TURNS + Duration::from_secs(5);
        self.at.is_some_and(|at| at.elapsed() < most)
    }
}
