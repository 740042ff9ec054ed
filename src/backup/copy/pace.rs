//! How fast the server's files are read.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Holds reading back to so many bytes a second, over all threads.
pub struct Pace {
    rate: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// A pace; 0 bytes a second: no limit.
    pub fn new(rate: u64) -> Self {
        Pace { rate, free_at: Mutex::new(None) }
    }

    /// Waits until so many bytes more may be read.
    pub fn spend(&self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let now = Instant::now();
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = free_at.unwrap_or(now).max(now);
            *free_at = Some(begin + cost);
            begin
        };
        std::thread::sleep(begin.saturating_duration_since(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_over_all_threads() {
        let pace = Pace::new(1 << 20);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| pace.spend(100 << 10));
            }
        });
        // The last of four begins when three are paid for: 300 KiB at 1 MiB a second.
        assert!(begin.elapsed() >= Duration::from_millis(280), "{:?}", begin.elapsed());
    }
}
