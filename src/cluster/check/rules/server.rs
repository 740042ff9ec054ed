//! Checks of this node's server: what it does, and whether its archiver gets anything away.

use super::super::facts::{Archiver, Facts, Role, Server};
use super::super::{Finding, Level, Measure};
use super::archive::judge_measure;
use super::{age_measure, span};
use crate::config::Check;

/// `role`: what the server does.
pub(super) fn role(facts: &Facts, server: &Server) -> Finding {
    judge_role(&facts.node, &server.role)
}

/// Judges the role of any node.
pub(super) fn judge_role(node: &str, role: &Result<Role, String>) -> Finding {
    match role {
        Ok(Role::Primary) => Finding::ok("role", node, "primary"),
        Ok(Role::Standby) => Finding::ok("role", node, "standby"),
        Ok(Role::Down) => Finding::new(Level::Critical, "role", node, "the server is down")
            .fix("Look into the server's log, then start it; if it was the primary, do not promote another meanwhile."),
        Err(why) => Finding::unknown("role", node, why)
            .fix("Check conninfo of that node, its pg_hba.conf, and that the password stands in .pgpass."),
    }
}

/// `pgdata`: conninfo and pgdata of a node name one server; else half of what is checked is about another one.
pub(super) fn pgdata(facts: &Facts, server: &Server) -> Option<Finding> {
    let said = server.data_directory.as_ref()?;
    let configured = facts.local.as_ref()?.pgdata.as_ref()?;
    let Ok(Some(stat)) = &configured.stat else { return None };
    let subject = configured.path.display().to_string();
    Some(if stat.resolved == *said {
        Finding::ok("pgdata", subject, "the server that conninfo reaches runs in it")
    } else {
        let message = format!("the server that conninfo reaches runs in '{}'", said.display());
        Finding::new(Level::Critical, "pgdata", subject, message)
            .fix("Let pgdata and conninfo of this node name the same server.")
    })
}

/// `archiver`: what `pg_stat_archiver` says. A command that dies by a signal is not counted there; `ready` sees that.
pub(super) fn archiver(server: &Server) -> Finding {
    let subject = "pg_stat_archiver";
    let archiver = match &server.archiver {
        Ok(Some(archiver)) => archiver,
        Ok(None) => return Finding::unknown("archiver", subject, "the server is down"),
        Err(why) => return Finding::unknown("archiver", subject, why),
    };
    let Archiver { archived, failed, failed_name, failing } = archiver;
    let value = Measure::plain(*failed as f64, "");
    if *failing {
        let name = failed_name.as_deref().unwrap_or("a file");
        let message = format!("archive_command fails for '{name}' and has not succeeded since ({failed} failures)");
        return Finding::new(Level::Critical, "archiver", subject, message)
            .fix("Look into the server's log for the lines of archive-wal; each says what to do.")
            .value(value);
    }
    let message = match (archived, failed) {
        (0, 0) => "nothing was offered yet".to_owned(),
        (archived, 0) => format!("{archived} archived, none failed"),
        (archived, failed) => format!("{archived} archived, {failed} failures before the last success"),
    };
    Finding::ok("archiver", subject, message).value(value)
}

/// `ready`: the age of the oldest `.ready` file, which grows whatever makes archiving fail.
pub(super) fn ready(server: &Server, limits: &Check) -> Finding {
    let subject = "pg_wal/archive_status";
    let waiting = match &server.ready {
        Ok(Some(waiting)) => waiting,
        Ok(None) => return Finding::unknown("ready", subject, "the directory is not there"),
        Err(why) => {
            return Finding::unknown("ready", subject, why).fix("Run this command as the user who owns the server.");
        }
    };
    let Some((name, age)) = &waiting.oldest else {
        return Finding::ok("ready", subject, "nothing waits to be archived").value(Measure::plain(0.0, "s"));
    };
    let measure = age_measure(*age, limits.queue_age_warning, limits.queue_age_critical);
    let message = format!("{} files wait to be archived, '{name}' since {}", waiting.count, span(*age));
    Finding::new(judge_measure(measure), "ready", subject, message)
        .fix("Look into the server's log: also for an archiver that dies by a signal, which it counts nowhere.")
        .value(measure)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, healthy, level, waiting};
    use super::*;

    fn spoilt(spoil: impl FnOnce(&mut Server)) -> Facts {
        let mut facts = healthy();
        spoil(facts.server.as_mut().expect("because a healthy node has a server"));
        facts
    }

    #[test]
    fn unknown_is_not_down() {
        assert_eq!(level(&spoilt(|server| server.role = Ok(Role::Down)), "role"), Level::Critical);
        assert_eq!(level(&spoilt(|server| server.role = Err("timeout".into())), "role"), Level::Unknown);
    }

    #[test]
    fn a_server_in_another_directory_is_critical_and_one_that_does_not_say_is_not_guessed() {
        assert_eq!(level(&healthy(), "pgdata"), Level::Ok);
        let facts = spoilt(|server| server.data_directory = Some("/other".into()));
        assert_eq!(level(&facts, "pgdata"), Level::Critical);
        assert_eq!(found(&spoilt(|server| server.data_directory = None), "pgdata"), []);
    }

    #[test]
    fn only_a_failure_newer_than_the_last_success_is_critical() {
        let archiver = Archiver { archived: 3, failed: 5, failed_name: Some("A".into()), failing: false };
        let facts = spoilt(|server| server.archiver = Ok(Some(archiver.clone())));
        assert_eq!(level(&facts, "archiver"), Level::Ok);
        let facts = spoilt(|server| server.archiver = Ok(Some(Archiver { failing: true, ..archiver })));
        assert_eq!(level(&facts, "archiver"), Level::Critical);
        assert_eq!(level(&spoilt(|server| server.archiver = Ok(None)), "archiver"), Level::Unknown);
    }

    #[test]
    fn an_old_ready_file_is_found_though_nothing_was_counted() {
        let facts = spoilt(|server| server.ready = Ok(Some(waiting(7200))));
        assert_eq!(level(&facts, "archiver"), Level::Ok);
        assert_eq!(level(&facts, "ready"), Level::Critical);
        let facts = spoilt(|server| server.ready = Ok(None));
        let finding = &found(&facts, "ready")[0];
        assert_eq!((finding.level, finding.value), (Level::Unknown, None));
    }
}
