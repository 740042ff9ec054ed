//! What the command line of `pitr-restore` asks for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, NaiveDateTime, TimeZone, Utc};
use clap::ArgMatches;

use crate::backup::catalog::Label;
use crate::backup::pitr::settings::Action;
use crate::backup::pitr::{Along, Target, Wish};
use crate::backup::restore;
use crate::error::{Class, Failure};
use crate::wal::target::NAME_ROOM;
use crate::wal::{Lsn, TimelineId};

/// Which options belong to which words; the others are a mistake that must not pass unseen.
const OPTIONS: &[(&str, &[&str])] = &[
    ("random", &["drill"]),
    ("last", &["drill"]),
    ("to", &["plan", "run"]),
    ("map", &["plan", "run"]),
    ("wal-dir", &["plan", "run"]),
    ("delta", &["plan", "run"]),
    ("drop-wal", &["plan", "run"]),
    ("action", &["run"]),
    ("standby", &["run"]),
    ("ship", &["run"]),
    ("setting", &["run"]),
    ("start", &["run"]),
    ("deadline", &["run", "drill"]),
];

/// How people write a time with its offset.
const WITH_OFFSET: &[&str] = &["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"];

/// And without.
const WITHOUT: &[&str] = &["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"];

/// Refuses an option that the word does not know.
pub fn refuse_strangers(arguments: &ArgMatches, job: &str) -> Result<(), Failure> {
    crate::cli::arguments::refuse_strangers("pitr-restore", arguments, job, OPTIONS)
}

/// What is to be reached, and from where; `otherwise` where no target is named.
pub fn wish(arguments: &ArgMatches, otherwise: Target) -> Result<Wish, Failure> {
    let target = target(arguments)?.unwrap_or(otherwise);
    let exclusive = arguments.get_flag("exclusive");
    if exclusive && matches!(target, Target::Latest | Target::Immediate | Target::Name(_)) {
        return Err(usage(
            "--exclusive has no meaning for this target",
            "It goes with --time, --xid and --lsn; a restore point is always reached.",
        ));
    }
    let backup = arguments.get_one::<String>("backup").filter(|label| *label != "latest");
    let backup = backup.map(|label| label.parse::<Label>()).transpose();
    Ok(Wish {
        target,
        inclusive: !exclusive,
        along: along(arguments.get_one::<String>("timeline").map_or("latest", String::as_str))?,
        backup: backup.map_err(|error| usage(error.to_string(), "'base-backup list' shows every backup."))?,
    })
}

/// The target that the command line names.
fn target(arguments: &ArgMatches) -> Result<Option<Target>, Failure> {
    let text = |name: &str| arguments.get_one::<String>(name);
    Ok(Some(match () {
        () if arguments.get_flag("latest") => Target::Latest,
        () if arguments.get_flag("immediate") => Target::Immediate,
        () => match (text("time"), text("name"), arguments.get_one::<u64>("xid"), arguments.get_one::<Lsn>("lsn")) {
            (Some(time), ..) => Target::Time(moment(time)?),
            (_, Some(name), ..) => Target::Name(restore_point(name)?),
            // What pg_current_xact_id() answers has the epoch in front; the server takes the lower half.
            (_, _, Some(xid), _) => Target::Xid((xid & u64::from(u32::MAX)) as u32),
            (_, _, _, Some(lsn)) => Target::Lsn(*lsn),
            _ => return Ok(None),
        },
    }))
}

fn restore_point(name: &str) -> Result<String, Failure> {
    if name.is_empty() || name.len() >= NAME_ROOM {
        let hint = format!("A restore point's name has 1 to {} bytes.", NAME_ROOM - 1);
        return Err(usage(format!("'{name}' cannot be the name of a restore point"), hint));
    }
    Ok(name.to_owned())
}

fn along(text: &str) -> Result<Along, Failure> {
    Ok(match text {
        "latest" => Along::Latest,
        "current" => Along::Current,
        number => {
            let number = number.parse().ok().filter(|number| *number > 0);
            let wrong = || usage(format!("'{text}' is no timeline"), "Write its number, or latest, or current.");
            Along::Timeline(TimelineId(number.ok_or_else(wrong)?))
        }
    })
}

/// Reads a time. One without an offset could mean any of a day's hours, so it is refused.
fn moment(text: &str) -> Result<DateTime<Utc>, Failure> {
    let mut plain = text.trim().to_owned();
    // Between date and time only: "UTC" has one as well.
    if plain.as_bytes().get(10) == Some(&b'T') {
        plain.replace_range(10..11, " ");
    }
    let plain = match plain.strip_suffix("UTC").or(plain.strip_suffix(['Z', 'z'])) {
        Some(rest) => format!("{}+00:00", rest.trim_end()),
        // "12:00:00 +01" as well as "12:00:00+01".
        None => plain.replace(" +", "+").replace(" -", "-"),
    };
    let read = WITH_OFFSET.iter().find_map(|form| DateTime::parse_from_str(&plain, form).ok());
    if let Some(time) = read {
        return Ok(time.to_utc());
    }
    let naive = WITHOUT.iter().find_map(|form| NaiveDateTime::parse_from_str(&plain, form).ok());
    let Some(naive) = naive else {
        return Err(usage(format!("'{text}' is no time"), "Write it like '2026-03-01 12:00:00+01:00'."));
    };
    let form = "%Y-%m-%d %H:%M:%S%.f%:z";
    let utc = Utc.from_utc_datetime(&naive).format(form);
    let hint = match Local.from_local_datetime(&naive).earliest() {
        Some(local) => format!("Write '{}' for the time of this machine, or '{utc}' for UTC.", local.format(form)),
        None => format!("Write '{utc}' for UTC."),
    };
    Err(usage(format!("'{text}' has no offset from UTC"), hint))
}

/// Where the backup goes; none where no directory is named.
pub fn place(arguments: &ArgMatches) -> Result<Option<restore::Target>, Failure> {
    let Some(pgdata) = arguments.get_one::<PathBuf>("to") else { return Ok(None) };
    let maps = arguments.get_many::<String>("map").into_iter().flatten();
    let map = |map: &String| {
        let wrong =
            || usage(format!("'{map}' is no OID=DIR"), "'base-backup show' names every tablespace with its oid.");
        let (oid, folder) = map.split_once('=').filter(|(_, folder)| !folder.is_empty()).ok_or_else(wrong)?;
        Ok((oid.parse().map_err(|_| wrong())?, absolute(Path::new(folder))?))
    };
    Ok(Some(restore::Target {
        pgdata: absolute(pgdata)?,
        tablespaces: maps.map(map).collect::<Result<_, Failure>>()?,
        wal: arguments.get_one::<PathBuf>("wal-dir").map(|folder| absolute(folder)).transpose()?,
        delta: arguments.get_flag("delta"),
        drop_wal: arguments.get_flag("drop-wal"),
    }))
}

/// What happens at the target. Without one the server opens, whatever it is told.
pub fn action(arguments: &ArgMatches, target: &Target) -> Result<Action, Failure> {
    let said = arguments.get_one::<String>("action").map(String::as_str);
    let standby = arguments.get_flag("standby");
    match (said, target) {
        (None | Some("promote"), Target::Latest) => Ok(Action::Promote),
        (Some(word), Target::Latest) if !standby => Err(usage(
            format!("--action {word} needs a target: at the end of the WAL a server always opens"),
            "Name a target, or add --standby to keep it from opening.",
        )),
        (Some("promote"), _) => Ok(Action::Promote),
        (Some("shutdown"), _) => Ok(Action::Shutdown),
        _ => Ok(Action::Pause),
    }
}

/// What else is to be set.
pub fn settings(arguments: &ArgMatches) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = arguments.get_many::<String>("setting").into_iter().flatten();
    let pair = |pair: &String| match pair.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_ascii_lowercase(), value.to_owned())),
        _ => Err(usage(format!("'{pair}' is no NAME=VALUE"), "Write it as --setting port=5433.")),
    };
    pairs.map(pair).collect()
}

/// A path from the root on.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| usage(format!("'{}' is no path: {error}", path.display()), "Name a directory."))
}

/// A mistake on the command line.
pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure::new(Class::Usage, message).hinted(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments;

    fn parse(words: &[&str]) -> ArgMatches {
        let words = std::iter::once("pitr-restore").chain(words.iter().copied());
        arguments::pitr_restore().try_get_matches_from(words).expect("because the words are known")
    }

    #[test]
    fn a_time_needs_its_offset() {
        let at = |text: &str| moment(text).map(|time| time.timestamp_micros());
        let noon = 1_772_362_800_000_000;
        for text in [
            "2026-03-01 12:00:00+01:00",
            "2026-03-01T12:00:00+01",
            "2026-03-01 12:00 +0100",
            "2026-03-01 11:00:00Z",
            "2026-03-01 11:00:00.000 UTC",
        ] {
            assert_eq!(at(text), Ok(noon), "{text}");
        }
        assert_eq!(at("2026-03-01 11:00:00.000001-00:00"), Ok(noon + 1));
        let refused = moment("2026-03-01 12:00:00").expect_err("because it has none");
        assert_eq!((refused.class, refused.message.contains("no offset")), (Class::Usage, true));
        let hint = refused.hint.unwrap_or_default();
        assert!(hint.contains("'2026-03-01 12:00:00+00:00' for UTC"), "{hint}");
        assert!(moment("noon").is_err());
    }

    #[test]
    fn one_target_and_its_meaning() {
        let wanted = |words: &[&str]| wish(&parse(words), Target::Latest);
        assert_eq!(wanted(&["plan"]).map(|wish| wish.target), Ok(Target::Latest));
        let xid = wanted(&["plan", "--xid", "4294967300", "--exclusive", "--timeline", "3"]);
        let expected =
            Wish { target: Target::Xid(4), inclusive: false, along: Along::Timeline(TimelineId(3)), backup: None };
        assert_eq!(xid, Ok(expected));
        assert!(wanted(&["plan", "--name", "x", "--exclusive"]).is_err());
        assert!(wanted(&["plan", "--timeline", "newest"]).is_err());
        let words = ["pitr-restore", "plan", "--xid", "1", "--latest"];
        assert!(arguments::pitr_restore().try_get_matches_from(words).is_err());
    }

    #[test]
    fn what_happens_at_the_target_needs_one() {
        let at = |words: &[&str], target| action(&parse(words), &target).ok();
        assert_eq!(at(&["run"], Target::Latest), Some(Action::Promote));
        assert_eq!(at(&["run"], Target::Xid(1)), Some(Action::Pause));
        assert_eq!(at(&["run", "--action", "shutdown"], Target::Latest), None);
        assert_eq!(at(&["run", "--action", "shutdown"], Target::Immediate), Some(Action::Shutdown));
        let strange = refuse_strangers(&parse(&["drill", "--to", "/x"]), "drill");
        assert_eq!(strange.map_err(|failure| failure.message), Err("'drill' takes no --to".to_owned()));
    }
}
