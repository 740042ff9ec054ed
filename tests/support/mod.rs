//! What the integration tests stand on: real PostgreSQL servers, our own programs as an operator starts them, and a
//! configuration for several nodes on one machine.
//!
//! Promises: nothing outlives the test that made it, servers never run as root, every wait has a deadline and a name.
//! Leaves out: anything a unit test can see by itself.

// Every test crate compiles its own copy of this module and uses a part of it.
#![allow(dead_code, unused_imports)]

use std::time::{Duration, Instant};

pub mod cluster;
pub mod kills;
pub mod port;
pub mod program;
pub mod server;
pub mod template;
pub mod workspace;

pub use cluster::{Layout, LayoutNode};
pub use program::{Outcome, Program, Running, program};
pub use server::{Binaries, Server, ServerBuilder, Stop};
pub use workspace::Workspace;

/// Long enough for anything that works on a busy machine; a test that fails waits so long once.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `holds` answers true; panics naming `what` when it does not within `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    assert!(comes_true(limit, &mut holds), "waited {limit:?} in vain until {what}");
}

/// Waits until `look` finds something and hands it over; panics naming `what` when it does not within `limit`.
#[track_caller]
pub fn wait_for<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    let looked = comes_true(limit, &mut || {
        found = look();
        found.is_some()
    });
    match found {
        Some(found) if looked => found,
        _ => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// True as soon as `holds` does, false when it does not within `limit`. It is always asked at least once.
pub fn comes_true(limit: Duration, holds: &mut dyn FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if begin.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
