//! Kills a program that keeps a journal behind every line of it, and runs it again each time.

use rustix::process::Signal;

use super::program::Program;
use super::{PATIENCE, wait_until};

/// So many runs at most; each gets one line farther than the one before.
const RUNS_MAX: usize = 80;

/// Kills the first run behind its first line, the next one behind its second, and so on; how many it were. A run that
/// goes on behind `turn`, a step from which there is no way back, has fewer lines to write, so the count begins anew
/// there. Ends with the run that ended by itself and left no journal.
#[track_caller]
pub fn behind_every_line(call: impl Fn() -> Program, journal: impl Fn() -> String, turn: &str) -> usize {
    let (mut lines, mut turned) = (1, false);
    for kills in 0..RUNS_MAX {
        let before = journal().lines().count();
        let mut running = call().spawn();
        wait_until(PATIENCE, "the journal has grown", || {
            running.has_ended() || journal().lines().count() >= before + lines
        });
        running.signal(Signal::KILL);
        let over = running.has_ended() && journal().is_empty();
        // Shown where the test fails: what the last run made of it.
        eprintln!("{}", running.stderr());
        drop(running);
        if over {
            return kills;
        }
        lines += 1;
        if !turned && journal().contains(turn) {
            (lines, turned) = (1, true);
        }
    }
    panic!("it was killed {RUNS_MAX} times and has not come to an end: {}", journal());
}
