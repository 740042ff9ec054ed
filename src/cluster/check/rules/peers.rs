//! Checks of the other nodes: whether they are reached, and whether they agree with this one.

use super::super::facts::{Back, Clock, Facts, Peer, Probe, Role};
use super::super::{Finding, Level, Measure};
use super::{archive, files, server};

/// A clock that differs by more than this misleads who reads ages and logs.
const CLOCK_WARNING: f64 = 5.0;

/// A clock that differs by more than this breaks recovery to a time.
const CLOCK_CRITICAL: f64 = 60.0;

/// Everything about one other node.
pub(super) fn judge(facts: &Facts, peer: &Peer) -> Vec<Finding> {
    let mut found = Vec::new();
    match &peer.probe {
        None => {}
        Some(Err(why)) => {
            found.push(Finding::new(Level::Critical, "ssh", &peer.name, why.as_str()).fix(format!(
                "Log in once by hand as the user who runs this: 'ssh -o BatchMode=yes' to {}.",
                peer.name
            )))
        }
        Some(Ok(probe)) => found.extend(reached(facts, peer, probe)),
    }
    found.extend(peer.role.as_ref().map(|role| server::judge_role(&peer.name, role)));
    if peer.probe.is_none() && peer.role.is_none() {
        let why = "it has neither a host with a shell nor conninfo in the configuration";
        found.push(Finding::unknown("ssh", &peer.name, why));
    }
    found
}

fn reached(facts: &Facts, peer: &Peer, probe: &Probe) -> Vec<Finding> {
    let mut found = vec![Finding::ok("ssh", &peer.name, "reached"), back(facts, peer, probe), clock(peer, probe)];
    found.push(version(peer, probe));
    if peer.has_archive {
        found.push(match &probe.identity {
            Ok(Some(identity)) => archive::compare_identity(facts, &peer.name, identity),
            Ok(None) => Finding::new(Level::Critical, "identity", &peer.name, "the archive has no identity file")
                .fix("Mount its volume if it has one of its own; a new archive is made with 'archive-wal --init'."),
            Err(why) => Finding::unknown("identity", &peer.name, why),
        });
        found.push(files::room(&peer.name, &probe.room, &facts.limits));
    }
    found
}

/// `ssh-back`: roles change, so the way back must work before it is needed.
fn back(facts: &Facts, peer: &Peer, probe: &Probe) -> Finding {
    let by_hand = format!("Run 'check-node {}' on {}.", facts.node, peer.name);
    match &probe.back {
        Back::Reached => Finding::ok("ssh-back", &peer.name, format!("reaches {}", facts.node)),
        Back::Failed(why) => Finding::new(Level::Critical, "ssh-back", &peer.name, why.as_str())
            .fix(format!("Mend it there, so that roles can change. {by_hand}")),
        Back::Unknown(why) => Finding::unknown("ssh-back", &peer.name, why).fix(by_hand),
    }
}

/// `clock`: what is left of the difference after what the measurement itself may be wrong by.
fn clock(peer: &Peer, probe: &Probe) -> Finding {
    let Clock { ahead, doubt } = match &probe.clock {
        Ok(clock) => *clock,
        Err(why) => return Finding::unknown("clock", &peer.name, why),
    };
    let sure = (ahead.abs() - doubt).max(0.0);
    let message = match ahead {
        _ if sure == 0.0 => format!("the same within {doubt:.1} s"),
        ahead if ahead < 0.0 => format!("{:.1} s behind ours, give or take {doubt:.1} s", -ahead),
        ahead => format!("{ahead:.1} s ahead of ours, give or take {doubt:.1} s"),
    };
    let measure = Measure::limited(sure, "s", CLOCK_WARNING, CLOCK_CRITICAL);
    Finding::new(archive::judge_measure(measure), "clock", &peer.name, message)
        .fix("Run a time service (chrony, systemd-timesyncd) on both nodes.")
        .value(measure)
}

/// `version`: both ends speak one protocol only in one version.
fn version(peer: &Peer, probe: &Probe) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let fix = format!("Run 'distribute --programs --to {}', or set 'programs' of that node.", peer.name);
    match &probe.version {
        Ok(Some(version)) if version == ours => Finding::ok("version", &peer.name, format!("pgwarm {version}")),
        Ok(Some(version)) => {
            let message = format!("pgwarm {version} there, {ours} here");
            Finding::new(Level::Warning, "version", &peer.name, message).fix(fix)
        }
        Ok(None) => {
            Finding::new(Level::Critical, "version", &peer.name, "pgwarm's programs are not found there").fix(fix)
        }
        Err(why) => Finding::unknown("version", &peer.name, why).fix(fix),
    }
}

/// `primaries`: of all nodes at most one takes writes.
pub(super) fn primaries(facts: &Facts) -> Option<Finding> {
    let own = facts.server.as_ref().map(|server| (&facts.node, &server.role));
    let others = facts.peers.iter().filter_map(|peer| peer.role.as_ref().map(|role| (&peer.name, role)));
    let roles: Vec<_> = own.into_iter().chain(others).collect();
    if roles.len() < 2 {
        return None;
    }
    let primaries: Vec<&str> =
        roles.iter().filter(|(_, role)| **role == Ok(Role::Primary)).map(|(node, _)| node.as_str()).collect();
    let unknown: Vec<&str> = roles.iter().filter(|(_, role)| role.is_err()).map(|(node, _)| node.as_str()).collect();
    Some(match (primaries.as_slice(), unknown.as_slice()) {
        ([], []) => Finding::new(Level::Critical, "primaries", &facts.cluster, "no node is primary")
            .fix("Start the primary, or promote the most advanced standby with 'trigger-failover'."),
        ([], unknown) => {
            let why = format!("no primary was found, and {} did not answer", unknown.join(", "));
            Finding::unknown("primaries", &facts.cluster, why)
        }
        ([one], []) => Finding::ok("primaries", &facts.cluster, format!("{one} and no other")),
        ([one], unknown) => {
            let message = format!("{one}; {} did not answer", unknown.join(", "));
            Finding::new(Level::Unknown, "primaries", &facts.cluster, message)
        }
        (many, _) => {
            let message = format!("{} take writes at the same time", many.join(" and "));
            Finding::new(Level::Critical, "primaries", &facts.cluster, message).fix(
                "Stop the one that clients should not use at once, keep its data directory, and compare what both took.",
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, healthy, level};
    use super::*;

    fn spoilt(spoil: impl FnOnce(&mut Peer)) -> Facts {
        let mut facts = healthy();
        spoil(&mut facts.peers[0]);
        facts
    }

    fn with_probe(spoil: impl FnOnce(&mut Probe)) -> Facts {
        spoilt(|peer| {
            if let Some(Ok(probe)) = &mut peer.probe {
                spoil(probe);
            }
        })
    }

    #[test]
    fn a_node_that_is_not_reached_gets_one_finding_and_no_guesses() {
        let facts = spoilt(|peer| peer.probe = Some(Err("connection refused".into())));
        assert_eq!(level(&facts, "ssh"), Level::Critical);
        for check in ["ssh-back", "clock", "version"] {
            assert_eq!(found(&facts, check), [], "{check}");
        }
    }

    #[test]
    fn the_way_back_is_critical_when_broken_and_unknown_when_not_asked() {
        let facts = with_probe(|probe| probe.back = Back::Failed("permission denied".into()));
        assert_eq!(level(&facts, "ssh-back"), Level::Critical);
        let facts = with_probe(|probe| probe.back = Back::Unknown("no shell".into()));
        assert_eq!(level(&facts, "ssh-back"), Level::Unknown);
    }

    #[test]
    fn a_clock_is_judged_by_what_is_certain() {
        for (ahead, doubt, expected) in [
            (3.0, 2.5, Level::Ok),
            (-7.0, 1.0, Level::Warning),
            (7.0, 3.0, Level::Ok),
            (3600.0, 1.0, Level::Critical),
            (-3600.0, 1.0, Level::Critical),
        ] {
            let facts = with_probe(|probe| probe.clock = Ok(Clock { ahead, doubt }));
            assert_eq!(level(&facts, "clock"), expected, "{ahead} ± {doubt}");
        }
    }

    #[test]
    fn another_version_is_a_warning_and_none_is_critical() {
        assert_eq!(level(&with_probe(|probe| probe.clock = Err("no shell".into())), "clock"), Level::Unknown);
        assert_eq!(level(&with_probe(|probe| probe.version = Ok(Some("0.0.1".into()))), "version"), Level::Warning);
        assert_eq!(level(&with_probe(|probe| probe.version = Ok(None)), "version"), Level::Critical);
        assert_eq!(level(&with_probe(|probe| probe.version = Err("?".into())), "version"), Level::Unknown);
    }

    #[test]
    fn two_primaries_are_critical_and_silence_is_not_a_standby() {
        assert_eq!(level(&spoilt(|peer| peer.role = Some(Ok(Role::Primary))), "primaries"), Level::Critical);
        assert_eq!(level(&spoilt(|peer| peer.role = Some(Err("timeout".into()))), "primaries"), Level::Unknown);
        let mut facts = healthy();
        facts.server.as_mut().expect("because a healthy node has a server").role = Ok(Role::Standby);
        assert_eq!(level(&facts, "primaries"), Level::Critical);
        facts.peers[0].role = None;
        assert_eq!(found(&facts, "primaries"), []);
    }
}
