//! Checks of what restore drills have proven.

use super::super::facts::{Local, Standing};
use super::super::{Finding, Level, Measure};
use super::span;
use crate::archive::drills::age;
use crate::config::Check;

const FIX: &str = "Run 'pitr-restore drill'; only a restore that was made proves a backup.";

/// `drill`: the last drill went well and is not too long ago. Without a drill, nothing unless somebody expects one.
pub(super) fn judge(local: &Local, limits: &Check) -> Option<Finding> {
    let archive = local.archive.as_ref()?;
    let subject = archive.root.path.display().to_string();
    let expected = !limits.drill_age_warning.is_zero();
    Some(match &archive.drills {
        Err(why) => Finding::unknown("drill", subject, why),
        Ok(None) if expected && archive.backups => {
            Finding::new(Level::Warning, "drill", subject, "no restore was ever proven").fix(FIX)
        }
        Ok(None) => return None,
        Ok(Some(Standing { last, good })) if !last.good => {
            let why = last.failure.as_deref().unwrap_or("for an unknown reason");
            let before = match good {
                Some(good) => format!("the last good one ended {}", good.ended),
                None => "none ever went well".to_owned(),
            };
            let message = format!("the drill of {} failed: {why}; {before}", last.started);
            Finding::new(Level::Critical, "drill", subject, message)
                .fix("'base-backup verify' and 'check-archive' tell whether files are damaged; then drill again.")
        }
        Ok(Some(Standing { last, .. })) => {
            let age = age(&last.ended).unwrap_or_default();
            let level = if expected && age > limits.drill_age_warning { Level::Warning } else { Level::Ok };
            let until = last.reached.as_ref().map_or_else(String::new, |it| format!(", up to {}", it.lsn));
            let message = format!("a restore of '{}' was proven {} ago{until}", last.label, span(age));
            Finding::new(level, "drill", subject, message).fix(FIX).value(Measure::plain(age.as_secs() as f64, "s"))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{found, healthy};
    use super::*;
    use crate::archive::drills::Drill;

    fn drill(good: bool) -> Drill {
        Drill {
            format: 1,
            label: "20260101T000000F".into(),
            node: "alpha".into(),
            started: "2026-01-01T00:00:00+00:00".into(),
            ended: "2026-01-01T00:05:00+00:00".into(),
            good,
            failure: (!good).then(|| "no server started".to_owned()),
            target: "the end of the WAL".into(),
            reached: None,
            phases: Vec::new(),
            backup_bytes: 0,
            wal_bytes: 0,
            checks: Vec::new(),
        }
    }

    fn level(drills: Option<Standing>, backups: bool, limit: u64) -> Option<Level> {
        let mut facts = healthy();
        facts.limits.drill_age_warning = Duration::from_secs(limit);
        let archive = facts.local.as_mut().and_then(|local| local.archive.as_mut());
        let archive = archive.expect("because a healthy node has an archive");
        (archive.drills, archive.backups) = (Ok(drills), backups);
        found(&facts, "drill").first().map(|finding| finding.level)
    }

    #[test]
    fn a_failed_drill_is_critical_an_old_or_missing_one_only_where_one_is_expected() {
        let good = || Some(Standing { last: drill(true), good: Some(drill(true)) });
        let failed = || Some(Standing { last: drill(false), good: Some(drill(true)) });
        assert_eq!(level(failed(), true, 0), Some(Level::Critical));
        assert_eq!((level(good(), true, 0), level(good(), true, 60)), (Some(Level::Ok), Some(Level::Warning)));
        assert_eq!((level(None, true, 0), level(None, false, 60)), (None, None));
        assert_eq!(level(None, true, 60), Some(Level::Warning));
    }
}
