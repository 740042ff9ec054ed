//! Checks of what this node archives: whose archive it is, how fresh, what waits, and whether anything was thrown away.

use super::super::facts::{Facts, Identity, Local, Waiting, Worker};
use super::super::{Finding, Level, Measure};
use super::{age_measure, size, span};
use crate::archive::identity::FORMAT;
use crate::config::{Check, Shipping};

/// `identity`: the archive belongs to this cluster and this server.
pub(super) fn identity(facts: &Facts, local: &Local) -> Option<Finding> {
    let archive = local.archive.as_ref()?;
    let subject = archive.root.path.display().to_string();
    let identity = match &archive.identity {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            return Some(
                Finding::new(Level::Critical, "identity", subject, "the archive has no identity file")
                    .fix("Make the archive with 'archive-wal --init' on a node whose server runs."),
            );
        }
        Err(why) => {
            let fix = "Look at the file 'identity.json' there; it is JSON and can be read by people.";
            return Some(Finding::unknown("identity", subject, why).fix(fix));
        }
    };
    Some(compare_identity(facts, &subject, identity))
}

/// Compares an archive's identity with the cluster's name and with this node's control file.
pub(super) fn compare_identity(facts: &Facts, subject: &str, identity: &Identity) -> Finding {
    let wrong = |message: String| {
        Finding::new(Level::Critical, "identity", subject, message)
            .fix("Point 'archive' of this node to its own directory; two clusters never share an archive.")
    };
    if identity.format > FORMAT {
        return Finding::unknown("identity", subject, format!("the archive has form {}", identity.format))
            .fix("Install the same pgwarm version on every node with 'distribute --programs'.");
    }
    if identity.cluster != facts.cluster {
        return wrong(format!("the archive belongs to cluster '{}', not to '{}'", identity.cluster, facts.cluster));
    }
    let control = match facts.server.as_ref().map(|server| &server.control) {
        Some(Ok(Some(control))) => control,
        Some(Err(why)) => return Finding::unknown("identity", subject, format!("no control file: {why}")),
        Some(Ok(None)) | None => {
            let message = format!("system identifier {}, nothing here to compare with", identity.system_identifier);
            return Finding::ok("identity", subject, message);
        }
    };
    if identity.system_identifier != control.system_identifier {
        return wrong(format!(
            "the archive has system identifier {}, the server {}",
            identity.system_identifier, control.system_identifier
        ));
    }
    if identity.segment_size != control.segment_size {
        return wrong(format!(
            "the archive has segments of {}, the server of {}",
            identity.segment_size, control.segment_size
        ));
    }
    Finding::ok("identity", subject, format!("system identifier {}", identity.system_identifier))
}

/// `archive-age`: how old the newest segment is. Never is a state of its own.
pub(super) fn age(local: &Local, limits: &Check) -> Option<Finding> {
    let archive = local.archive.as_ref()?;
    let subject = archive.root.path.display().to_string();
    Some(match &archive.newest {
        Ok(Some((name, age))) => {
            let measure = age_measure(*age, limits.archive_age_warning, limits.archive_age_critical);
            let level = judge_measure(measure);
            Finding::new(level, "archive-age", subject, format!("newest segment '{name}' is {} old", span(*age)))
                .fix("Look at what waits on the primary; a quiet server needs archive_timeout to send a segment.")
                .value(measure)
        }
        Ok(None) => Finding::new(Level::Warning, "archive-age", subject, "no segment was ever archived here")
            .fix("Run 'select pg_switch_wal()' on the primary, and look here again."),
        Err(why) => Finding::unknown("archive-age", subject, why),
    })
}

/// The level of a number with two thresholds.
pub(super) fn judge_measure(measure: Measure) -> Level {
    Level::of(measure.number, measure.warning.unwrap_or(f64::INFINITY), measure.critical.unwrap_or(f64::INFINITY))
}

/// `queue`: what waits here for another node.
pub(super) fn queues(facts: &Facts, local: &Local) -> Vec<Finding> {
    match &local.queues {
        Err(why) => vec![Finding::unknown("queue", local.spool.path.display().to_string(), why)],
        Ok(queues) if queues.is_empty() => {
            vec![Finding::ok("queue", &facts.node, "nothing waits for any node")]
        }
        Ok(queues) => queues
            .iter()
            .map(|(node, waiting)| match waiting {
                Err(why) => Finding::unknown("queue", node, why),
                Ok(waiting) => queue(node, waiting, &facts.limits),
            })
            .collect(),
    }
}

fn queue(node: &str, waiting: &Waiting, limits: &Check) -> Finding {
    let Some((name, age)) = &waiting.oldest else {
        return Finding::ok("queue", node, "nothing waits").value(Measure::plain(0.0, "s"));
    };
    let measure = age_measure(*age, limits.queue_age_warning, limits.queue_age_critical);
    let level = judge_measure(measure);
    let bytes = size(waiting.bytes);
    let message =
        format!("{} files ({bytes}) wait for {node}, the oldest, '{name}', since {}", waiting.count, span(*age));
    let fix = format!("Mend the way to {node}, then 'relay-wal' empties the queue; 'check-node {node}' says more.");
    Finding::new(level, "queue", node, message).fix(fix).value(measure)
}

/// `quarantine`: WAL that no archive takes, for another node has left its timeline before it.
pub(super) fn quarantine(local: &Local) -> Finding {
    let kept = match &local.quarantine {
        Err(why) => return Finding::unknown("quarantine", "quarantine", why),
        Ok(kept) => kept.as_ref(),
    };
    let Some((kept, (name, age))) = kept.and_then(|kept| Some((kept, kept.oldest.as_ref()?))) else {
        return Finding::ok("quarantine", "quarantine", "no WAL was set aside").value(Measure::plain(0.0, ""));
    };
    let (count, bytes, since) = (kept.count, size(kept.bytes), span(*age));
    let message = format!("{count} files ({bytes}) of WAL that no archive takes, the oldest, '{name}', since {since}");
    Finding::new(Level::Warning, "quarantine", "quarantine", message)
        .fix("They belong to a timeline that was left before them: see with pg_waldump what they hold, then remove them.")
        .value(Measure::plain(count as f64, ""))
}

/// `shipping`: whether archive-wal ships at all.
pub(super) fn shipping(local: &Local) -> Finding {
    let (mode, origin) = match &local.switch {
        Err(why) => {
            return Finding::unknown("shipping", "switch", why)
                .fix("Write armed, refuse or discard into the file 'shipping' in the spool.");
        }
        Ok(Some(mode)) => (*mode, "the switch in the spool"),
        Ok(None) => (local.shipping, "the configuration"),
    };
    let arm = "Turn shipping on again with 'archive-wal --arm'; until then nothing new is archived.";
    match mode {
        Shipping::Armed => Finding::ok("shipping", "switch", format!("armed, says {origin}")),
        Shipping::Refuse => {
            let message = format!("refuse, says {origin}: PostgreSQL keeps all WAL until pg_wal is full");
            Finding::new(Level::Warning, "shipping", "switch", message).fix(arm)
        }
        Shipping::Discard if local.discard_confirmed => {
            let message = format!("discard, says {origin}: WAL is thrown away and the chain is broken");
            Finding::new(Level::Critical, "shipping", "switch", message).fix(arm)
        }
        Shipping::Discard => {
            let message = format!("discard, says {origin}, but without its confirmation: archiving fails");
            Finding::new(Level::Critical, "shipping", "switch", message).fix(arm)
        }
    }
}

/// `chain`: WAL that was discarded. No restore gets past it.
pub(super) fn chain(local: &Local) -> Finding {
    match &local.broken {
        Err(why) => Finding::unknown("chain", "broken-chain.json", why),
        Ok(None) => Finding::ok("chain", "broken-chain.json", "no WAL was discarded"),
        Ok(Some(records)) if records.is_empty() => Finding::ok("chain", "broken-chain.json", "no WAL was discarded"),
        Ok(Some(records)) => {
            let total: u64 = records.iter().map(|record| record.count).sum();
            let ranges: Vec<_> = records.iter().map(|record| format!("{} to {}", record.first, record.last)).collect();
            let message = format!("{total} files were discarded: {}", ranges.join(", "));
            Finding::new(Level::Critical, "chain", "broken-chain.json", message)
                .fix("Take a full base backup now, and clone every standby anew; then remove this record.")
        }
    }
}

/// `worker`: whether the process that archive-wal hands files to runs.
pub(super) fn worker(local: &Local) -> Option<Finding> {
    Some(match local.worker.as_ref()? {
        Worker::Running => Finding::ok("worker", "worker.sock", "running"),
        Worker::Resting => Finding::ok("worker", "worker.sock", "not running; the next call starts it"),
        Worker::Unknown(why) => Finding::unknown("worker", "worker.sock", why),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::tests::{broken_chain, found, healthy, identity as good_identity, level, none_waiting, waiting};
    use super::*;
    use crate::wal::{SegmentSize, SystemId};

    fn spoilt(spoil: impl FnOnce(&mut Local)) -> Facts {
        let mut facts = healthy();
        spoil(facts.local.as_mut().expect("because a healthy node has its own facts"));
        facts
    }

    fn with_identity(identity: Result<Option<Identity>, String>) -> Facts {
        spoilt(|local| {
            local.archive.as_mut().expect("because a healthy node has an archive").identity = identity;
        })
    }

    #[test]
    fn an_archive_of_another_cluster_server_or_segment_size_is_critical() {
        let foreign = [
            Identity { cluster: "other".into(), ..good_identity() },
            Identity { system_identifier: SystemId(7124), ..good_identity() },
            Identity { segment_size: SegmentSize::new(1 << 20).expect("because 1 MiB is a size"), ..good_identity() },
        ];
        for identity in foreign {
            assert_eq!(level(&with_identity(Ok(Some(identity.clone()))), "identity"), Level::Critical, "{identity:?}");
        }
        assert_eq!(level(&with_identity(Ok(None)), "identity"), Level::Critical);
        assert_eq!(level(&with_identity(Err("no permission".into())), "identity"), Level::Unknown);
    }

    #[test]
    fn never_archived_is_neither_fresh_nor_zero() {
        let facts = spoilt(|local| {
            local.archive.as_mut().expect("because a healthy node has an archive").newest = Ok(None);
        });
        let finding = &found(&facts, "archive-age")[0];
        assert_eq!((finding.level, finding.value), (Level::Warning, None));
        assert!(finding.message.contains("ever"), "{}", finding.message);
    }

    #[test]
    fn the_age_of_a_queue_decides_and_one_unreadable_queue_hides_no_other() {
        for (age, expected) in [(299, Level::Ok), (300, Level::Warning), (3600, Level::Critical)] {
            let facts = spoilt(|local| local.queues = Ok(BTreeMap::from([("beta".into(), Ok(waiting(age)))])));
            assert_eq!(level(&facts, "queue"), expected, "{age} s");
        }
        let queues = BTreeMap::from([("beta".into(), Err("denied".into())), ("dr".into(), Ok(waiting(7200)))]);
        let facts = spoilt(|local| local.queues = Ok(queues));
        let levels: Vec<_> = found(&facts, "queue").iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Unknown, Level::Critical]);
    }

    #[test]
    fn wal_that_was_set_aside_is_a_warning_until_somebody_has_looked() {
        let set_aside = |kept| level(&spoilt(|local| local.quarantine = kept), "quarantine");
        assert_eq!(set_aside(Ok(Some(waiting(5)))), Level::Warning);
        assert_eq!(set_aside(Ok(Some(none_waiting()))), Level::Ok);
        assert_eq!(set_aside(Err("it hangs".into())), Level::Unknown);
    }

    #[test]
    fn the_switch_goes_before_the_configuration() {
        let facts = spoilt(|local| (local.switch, local.shipping) = (Ok(Some(Shipping::Armed)), Shipping::Refuse));
        assert_eq!(level(&facts, "shipping"), Level::Ok);
        let facts = spoilt(|local| (local.switch, local.shipping) = (Ok(None), Shipping::Refuse));
        assert_eq!(level(&facts, "shipping"), Level::Warning);
        let facts = spoilt(|local| local.switch = Ok(Some(Shipping::Discard)));
        assert_eq!(level(&facts, "shipping"), Level::Critical);
        let facts = spoilt(|local| local.switch = Err("it says 'maybe'".into()));
        assert_eq!(level(&facts, "shipping"), Level::Unknown);
    }

    #[test]
    fn discarded_wal_stays_critical_and_is_named() {
        let record = broken_chain();
        let facts = spoilt(|local| local.broken = Ok(Some(vec![record])));
        let finding = &found(&facts, "chain")[0];
        assert_eq!(
            (finding.level, finding.message.as_str()),
            (Level::Critical, "4 files were discarded: 000000010000000000000001 to 000000010000000000000004")
        );
    }

    #[test]
    fn a_fresh_archive_is_ok_with_its_age_as_number() {
        let facts = spoilt(|local| {
            let archive = local.archive.as_mut().expect("because a healthy node has an archive");
            archive.newest = Ok(Some(("000000010000000000000009".into(), Duration::from_secs(7200))));
        });
        let finding = &found(&facts, "archive-age")[0];
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.value.map(|value| value.number), Some(7200.0));
    }
}
