//! Deadlines on the monotonic clock: a changed wall clock neither cuts a wait short nor makes it endless.

use std::time::{Duration, Instant};

/// The moment by which something must be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment so far from now.
    pub fn after(duration: Duration) -> Self {
        // A century stands for "never" where the sum would not fit.
        let never = Duration::from_secs(100 * 365 * 86_400);
        let now = Instant::now();
        Deadline(now.checked_add(duration).unwrap_or_else(|| now + never))
    }

    /// How long is left; zero once it is over.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// True once it is over.
    pub fn expired(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of two.
    pub fn or_before(self, other: Deadline) -> Deadline {
        self.min(other)
    }
}
