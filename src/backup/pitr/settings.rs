//! What a recovering server is told, in the one file of our own: pure.
//!
//! A restored server must not behave as the one it came from: it ships nothing into the archive unless that is asked
//! for, cleans up nothing there, streams from nobody, and waits for no synchronous standby.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::{Along, Plan};
use crate::archive::copies::quote;
use crate::config::Config;

/// From this major version on a server reads ahead of what it replays, and so behind the target.
const READS_AHEAD_SINCE: u32 = 15;

/// What the server does when the target is reached (recovery_target_action).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stands still and answers queries.
    Pause,
    /// Opens for writes, on a new timeline.
    Promote,
    /// Ends.
    Shutdown,
}

/// How a restored server is to recover.
#[derive(Debug, Clone)]
pub struct Manner<'a> {
    /// Which timeline was asked for.
    pub along: Along,
    /// What happens at the target.
    pub action: Action,
    /// True: it stays a standby, and waits for more where there is no target.
    pub standby: bool,
    /// True: it archives as the server it came from.
    pub ship: bool,
    /// The major version.
    pub major: u32,
    /// The whole `restore_command`.
    pub restore_command: String,
    /// What else is set; it goes before what stands here.
    pub more: &'a BTreeMap<String, String>,
}

impl Action {
    /// PostgreSQL's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Promote => "promote",
            Action::Shutdown => "shutdown",
        }
    }
}

/// The settings for a plan.
pub fn settings(plan: &Plan, manner: &Manner<'_>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| _ = all.insert(name.to_owned(), value.to_owned());
    set("restore_command", &manner.restore_command);
    for name in ["archive_cleanup_command", "recovery_end_command", "primary_conninfo", "primary_slot_name"] {
        set(name, "");
    }
    set("recovery_min_apply_delay", "0");
    set("hot_standby", "on");
    let timeline = match manner.along {
        Along::Current => "current".to_owned(),
        Along::Latest if manner.standby => "latest".to_owned(),
        // A timeline that comes to the archive meanwhile is not in the plan.
        Along::Latest | Along::Timeline(_) => plan.timeline.to_string(),
    };
    set("recovery_target_timeline", &timeline);
    let (kind, value) = (plan.target.kind, plan.target.value.as_deref());
    match (kind, value) {
        ("immediate", _) => set("recovery_target", "immediate"),
        (kind, Some(value)) => set(&format!("recovery_target_{kind}"), value),
        _ => {}
    }
    if matches!(kind, "time" | "xid" | "lsn") {
        set("recovery_target_inclusive", if plan.target.inclusive { "on" } else { "off" });
    }
    if kind != "latest" {
        set("recovery_target_action", manner.action.word());
        if manner.major >= READS_AHEAD_SINCE {
            // It would ask for WAL that the target does not need, and that may be missing.
            set("recovery_prefetch", "off");
        }
    }
    if !manner.ship {
        set("archive_mode", "off");
        set("synchronous_standby_names", "");
    }
    all.extend(manner.more.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

/// Of these settings, those that are to stay once recovery is over.
pub fn without_target(settings: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let stays = |name: &str| !name.starts_with("recovery_target") && name != "recovery_prefetch";
    settings.iter().filter(|(name, _)| stays(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The `restore_command` that calls our program with these arguments; every word is quoted for the shell that the
/// server starts, and no `%` in them is taken for one of the server's.
pub fn restore_command(program: &Path, arguments: &[OsString]) -> String {
    let words = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
    let words: Vec<String> = words.map(|word| quote(&word.to_string_lossy()).replace('%', "%%")).collect();
    format!("{} %f %p", words.join(" "))
}

/// What `restore-wal` must be told beside the configuration, so that a restore gets what its plan was made of: WAL from
/// the archive of the backup too, and neither waiting nor holding back.
pub fn overrides(config: &Config, place: &str, standby: bool) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut set = |value: String| words.extend(["--set".into(), value.into()]);
    if !config.places(&config.restore.from).iter().any(|node| node.name == place) {
        let rest: Vec<String> = config.restore.from.iter().map(ToString::to_string).collect();
        set(format!("restore.from={place}, {}", rest.join(", ")));
    }
    if config.restore.wait && !standby {
        set("restore.wait=off".to_owned());
    }
    if !config.restore.delay.is_zero() && !standby {
        set("restore.delay=0".to_owned());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::catalog::Kind;
    use crate::backup::pitr::locate::Way;
    use crate::backup::pitr::{Chosen, End, Target, Window};
    use crate::wal::{Lsn, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};

    fn plan(target: &Target) -> Plan {
        Plan {
            target: target.aim(true),
            backup: Chosen {
                label: "20261121T140312F".parse().expect("because it is a label"),
                kind: Kind::Full,
                stopped: String::new(),
                start: Lsn(1),
                consistent: Lsn(2),
                timeline: TimelineId(1),
                size: 0,
                stored: 0,
            },
            timeline: TimelineId(3),
            legs: Vec::new(),
            segments: 0,
            bytes: 0,
            end: End { lsn: Lsn(3), record: None, record_time: None, last_commit: None, last_commit_xid: None },
            window: Window { from: Lsn(2), from_time: None, until: Lsn(3), until_time: None },
            expected: None,
            notices: Vec::new(),
            way: Way {
                history: TimelineHistory::first(),
                size: SegmentSize::DEFAULT,
                first: SegmentNumber(0),
                reached: None,
            },
        }
    }

    fn of(target: &Target, change: impl FnOnce(&mut Manner<'_>)) -> BTreeMap<String, String> {
        let more = BTreeMap::new();
        let mut manner = Manner {
            along: Along::Latest,
            action: Action::Pause,
            standby: false,
            ship: false,
            major: 15,
            restore_command: "x %f %p".to_owned(),
            more: &more,
        };
        change(&mut manner);
        settings(&plan(target), &manner)
    }

    #[test]
    fn exactly_one_target_is_set() {
        let targets = [
            (Target::Latest, None),
            (Target::Immediate, Some(("recovery_target", "immediate"))),
            (Target::Xid(7), Some(("recovery_target_xid", "7"))),
            (Target::Lsn(Lsn(0x1_0000_0000)), Some(("recovery_target_lsn", "1/0"))),
            (Target::Name("before".into()), Some(("recovery_target_name", "before"))),
        ];
        let kinds = [
            "recovery_target",
            "recovery_target_xid",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_time",
        ];
        for (target, expected) in targets {
            let all = of(&target, |_| {});
            let set: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, all.get(*kind)?.as_str()))).collect();
            assert_eq!(set, expected.into_iter().collect::<Vec<_>>(), "{target:?}");
            assert_eq!(all.contains_key("recovery_prefetch"), expected.is_some());
            assert_eq!(all["recovery_target_timeline"], "3");
        }
        assert!(!of(&Target::Xid(7), |manner| manner.major = 14).contains_key("recovery_prefetch"));
    }

    #[test]
    fn nothing_is_shipped_unasked_and_what_is_asked_for_goes_first() {
        assert_eq!(of(&Target::Latest, |_| {})["archive_mode"], "off");
        assert!(!of(&Target::Latest, |manner| manner.ship = true).contains_key("archive_mode"));
        let more =
            BTreeMap::from([("port".to_owned(), "5433".to_owned()), ("hot_standby".to_owned(), "off".to_owned())]);
        let manner = Manner {
            along: Along::Current,
            action: Action::Promote,
            standby: true,
            ship: true,
            major: 18,
            restore_command: String::new(),
            more: &more,
        };
        let all = settings(&plan(&Target::Xid(7)), &manner);
        assert_eq!((all["port"].as_str(), all["hot_standby"].as_str()), ("5433", "off"));
        assert_eq!(all["recovery_target_timeline"], "current");
        let after = without_target(&all);
        assert!(after.keys().all(|name| !name.contains("target")) && after.contains_key("restore_command"));
    }

    #[test]
    fn the_command_is_one_for_the_shell_of_the_server() {
        let words = ["--config".into(), "/etc/my cluster/100%.ini".into()];
        let command = restore_command(Path::new("/usr/bin/restore-wal"), &words);
        assert_eq!(command, "/usr/bin/restore-wal --config '/etc/my cluster/100%%.ini' %f %p");
    }
}
