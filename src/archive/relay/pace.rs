//! Keeps the bytes sent in a second below a bound, over all places and turns of a process.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bound on the rate; it counts whole files, so a burst is one file long.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    /// When everything sent so far is paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    /// At most so many bytes a second; 0: no bound.
    pub fn new(rate: u64) -> Self {
        Pace { rate, paid: Mutex::new(Instant::now()) }
    }

    /// True where there is a bound.
    pub fn is_bound(&self) -> bool {
        self.rate > 0
    }

    /// Waits until so many bytes, begun at `begun`, are within the bound.
    pub fn pay(&self, bytes: u64, begun: Instant) {
        if !self.is_bound() {
            return;
        }
        let due = Duration::try_from_secs_f64(bytes as f64 / self.rate as f64).unwrap_or(Duration::MAX);
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            // Silence before is not saved up: it would allow a burst.
            *paid = (*paid).max(begun).checked_add(due).unwrap_or(*paid);
            *paid
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_as_long_as_the_bytes_are_worth() {
        let begun = Instant::now();
        Pace::new(0).pay(u64::MAX, begun);
        let pace = Pace::new(10_000);
        pace.pay(500, begun);
        pace.pay(500, begun);
        assert!(begun.elapsed() >= Duration::from_millis(100));
    }
}
