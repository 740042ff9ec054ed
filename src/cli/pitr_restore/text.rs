//! How people are told of a plan and of where a recovery came to.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::super::gaps;
use super::super::output::{self, Align, Palette, Table};
use crate::archive::missing::Missing;
use crate::archive::window::shown;
use crate::backup::pitr::follow::Arrived;
use crate::backup::pitr::settings::Action;
use crate::backup::pitr::{Plan, Reached, Window};

/// A plan.
pub fn plan(plan: &Plan, palette: Palette) -> String {
    let backup = &plan.backup;
    let segments = if plan.segments == 1 { "segment" } else { "segments" };
    let mut rows = vec![
        ("target", plan.target.to_string()),
        ("backup", format!("{}, whole at {} ({})", backup.label, backup.consistent, backup.stopped)),
        ("files", format!("{} ({} stored)", output::size(backup.size), output::size(backup.stored))),
        ("WAL", format!("{} {segments}, {}", plan.segments, output::size(plan.bytes))),
        ("timeline", plan.timeline.to_string()),
        ("ends at", ends_at(plan)),
    ];
    let end = &plan.end;
    rows.push((
        "last commit",
        match (end.last_commit, end.last_commit_xid) {
            (Some(time), Some(xid)) => format!("transaction {xid}, {}", both(time)),
            _ => "none that is known".to_owned(),
        },
    ));
    rows.push(("can reach", window(&plan.window)));
    rows.push((
        "takes",
        match &plan.expected {
            Some(expected) => format!(
                "{} to restore, {} to replay, by the drill of {}",
                output::duration(Duration::from_secs_f64(expected.restore_seconds)),
                output::duration(Duration::from_secs_f64(expected.replay_seconds)),
                expected.measured
            ),
            None => "not known: no drill has measured it".to_owned(),
        },
    ));
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    text.push_str(&legs(plan, palette));
    text.extend(plan.notices.iter().map(|notice| format!("note: {notice}\n")));
    text
}

fn ends_at(plan: &Plan) -> String {
    let end = &plan.end;
    match (end.record, end.record_time) {
        (Some(record), Some(time)) => format!("{}, by the record at {record} of {}", end.lsn, both(time)),
        (Some(record), None) => format!("{}, by the record at {record}", end.lsn),
        (None, _) => end.lsn.to_string(),
    }
}

fn legs(plan: &Plan, palette: Palette) -> String {
    let columns = [
        ("timeline", Align::Right),
        ("first segment", Align::Left),
        ("last segment", Align::Left),
        ("segments", Align::Right),
        ("left at", Align::Right),
    ];
    let mut table = Table::new(palette, &columns);
    for leg in &plan.legs {
        table.row([
            leg.timeline.to_string().into(),
            leg.first.to_string().into(),
            leg.last.to_string().into(),
            leg.segments.to_string().into(),
            leg.left_at.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string()).into(),
        ]);
    }
    table.to_string()
}

/// What can be reached.
pub fn window(window: &Window) -> String {
    let time = |time: Option<DateTime<Utc>>| time.map_or_else(|| "at an unknown time".to_owned(), both);
    let Window { from, from_time, until, until_time } = window;
    format!("from {from} ({}) until {until} (last commit {})", time(*from_time), time(*until_time))
}

/// A time in this machine's zone; with UTC beside it where that is another.
pub fn both(time: DateTime<Utc>) -> String {
    let here = shown::words(time);
    match here.ends_with("+00:00") {
        true => here,
        false => format!("{here} = {}", time.format("%Y-%m-%d %H:%M:%S%.f UTC")),
    }
}

/// Where a recovery came to.
pub fn reached(reached: &Reached, arrived: &Arrived) -> String {
    let Reached { lsn, timeline, .. } = reached;
    let took = output::duration(arrived.took);
    let mut text = format!("reached {lsn} on timeline {timeline}, {took} after the start\n");
    match (reached.last_commit, reached.last_commit_xid) {
        (Some(time), Some(xid)) => _ = writeln!(text, "last transaction: {xid}, committed {}", both(time)),
        _ => text.push_str("last transaction: none is known near that position\n"),
    }
    text.push_str(match arrived.now {
        None => "it is a standby, and replays what comes\n",
        Some(Action::Pause) => "it stands still and can be read; 'select pg_wal_replay_resume()' opens it for writes\n",
        Some(Action::Promote) => "it is open for writes, on a timeline of its own\n",
        Some(Action::Shutdown) => "it has shut down there\n",
    });
    text
}

/// What is missing on the way, and what can be reached without it.
pub fn refused(missing: &[Missing], reach: Option<&Window>, palette: Palette) -> String {
    let mut text: String = missing.iter().map(|gap| gaps::missing(gap, palette)).collect();
    if let Some(reach) = reach {
        let _ = writeln!(text, "can reach: {}", window(reach));
    }
    text
}
