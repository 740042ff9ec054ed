//! Looks at another node over ssh: one small script there, and `check-node --ping` there for the way back.
//!
//! An account that runs no shell for us (a forced command, or sftp only) is asked through the archive's own transport,
//! which knows less; what it cannot know stays unknown.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::facts::{Back, Clock, Identity, Probe, Room, Told};
use crate::archive::identity;
use crate::archive::places::open_store;
use crate::cluster::remote::Remote;
use crate::config::{Config, Node, Transport};
use crate::error::{Class, Failure};
use crate::store::Store;
use crate::system::clock::Deadline;
use crate::system::process::Outcome;

/// The line that tells our script's output from what a login shell may print before it.
const MARK: &str = "pgwarm-probe 1";

/// $1: the programs' directory or nothing; $2: the archive of this cluster or nothing.
const PROBE: &str = r#"echo "pgwarm-probe 1"
echo "clock $(date +%s)"
PATH=${1:+$1:}$PATH
if ! command -v check-node >/dev/null 2>&1; then echo version-absent
elif v=$(check-node --version 2>/dev/null); then echo "version $v"
else echo version-broken; fi
[ -n "$2" ] || exit 0
if [ -r "$2/identity.json" ]; then echo "identity $(tr -d '\r\n' <"$2/identity.json")"
elif [ -e "$2/identity.json" ]; then echo identity-unreadable
elif [ -d "$2" ] && [ -x "$2" ]; then echo identity-absent
elif [ -d "$2" ]; then echo identity-unreadable
elif [ -x "${2%/*/*}/" ]; then echo root-absent
else echo identity-unreadable; fi
df -Pk "$2" 2>/dev/null | awk 'NR == 2 { print "room", $2, $4 }'
"#;

/// $1: the programs' directory or nothing; $2: our name; $3: the shared configuration file.
const PING_BACK: &str = r#"PATH=${1:+$1:}$PATH
echo "pgwarm-probe 1"
command -v check-node >/dev/null 2>&1 || { echo absent; exit 0; }
said=$(check-node --config "$3" --ping "$2" 2>&1 </dev/null)
echo "ended $? $(printf '%s' "$said" | head -n 1)"
"#;

/// Finds out what can be found out about a node; an error says why it cannot be reached at all.
pub fn probe(config: &Config, node: &Node, shared_file: &Path) -> Result<Probe, String> {
    if node.transport == Transport::Sftp {
        return by_store(config, node, "it offers sftp only");
    }
    let remote = Remote::new(config, node).map_err(words)?;
    let archive = node.archive.as_ref().map(|archive| archive.join(&config.cluster.name));
    let archive = archive.map(|path| path.display().to_string()).unwrap_or_default();
    let programs = node.programs.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let before = SystemTime::now();
    let outcome = remote.run(PROBE, &[&programs, &archive], None, Deadline::after(remote.patience())).map_err(words)?;
    let after = SystemTime::now();
    let Some(lines) = marked_lines(&outcome) else {
        let why = format!("the account there runs no shell for us ({}: {})", outcome.status, outcome.complaint());
        return by_store(config, node, &why);
    };
    Ok(Probe {
        clock: clock(&lines, before, after),
        version: version(&lines),
        identity: parse_identity(&lines),
        room: parse_room(&lines),
        back: ping_back(config, &remote, &programs, shared_file),
    })
}

fn words(error: impl Into<Failure>) -> String {
    error.into().message
}

/// The lines after the mark; none where our script did not run.
fn marked_lines(outcome: &Outcome) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let mut lines = text.lines().map(str::to_owned);
    lines.by_ref().find(|line| line == MARK)?;
    Some(lines.collect())
}

/// What follows a key at the beginning of a line.
fn value<'a>(lines: &'a [String], key: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|one| one == line)
}

/// Compares clocks: theirs was read somewhere between our two moments, and counts whole seconds.
fn clock(lines: &[String], before: SystemTime, after: SystemTime) -> Result<Clock, String> {
    let there: f64 = value(lines, "clock")
        .and_then(|text| text.parse::<u64>().ok())
        .map(|seconds| seconds as f64 + 0.5)
        .ok_or("its date command says nothing usable")?;
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64());
    let (before, after) = (seconds(before), seconds(after));
    if after < before {
        return Err("our own clock was set back meanwhile".to_owned());
    }
    Ok(Clock { ahead: there - f64::midpoint(before, after), doubt: (after - before) / 2.0 + 0.5 })
}

fn version(lines: &[String]) -> Told<String> {
    match value(lines, "version") {
        // `--version` prints the program's name and the version.
        Some(text) => Ok(text.split_whitespace().next_back().map(str::to_owned)),
        None if has(lines, "version-absent") => Ok(None),
        None => Err("check-node is there but does not run".to_owned()),
    }
}

fn parse_identity(lines: &[String]) -> Told<Identity> {
    match value(lines, "identity") {
        Some(json) => serde_json::from_str(json).map(Some).map_err(|error| format!("identity.json: {error}")),
        None if has(lines, "identity-absent") || has(lines, "root-absent") => Ok(None),
        None => Err("its archive cannot be looked into by this account".to_owned()),
    }
}

fn parse_room(lines: &[String]) -> Told<Room> {
    if has(lines, "root-absent") {
        return Ok(None);
    }
    let numbers = value(lines, "room").and_then(|text| {
        let (total, free) = text.split_once(' ')?;
        Some((total.parse::<u64>().ok()?, free.parse::<u64>().ok()?))
    });
    let (total, free) = numbers.ok_or("its df command says nothing usable")?;
    Ok(Some(Room { free: free.saturating_mul(1024), total: total.saturating_mul(1024) }))
}

/// Asks the node to reach us.
fn ping_back(config: &Config, remote: &Remote, programs: &str, shared_file: &Path) -> Back {
    let file = shared_file.display().to_string();
    // The far end waits for its own connection inside of ours.
    let deadline = Deadline::after(remote.patience() + config.ssh.connect_timeout);
    let outcome = match remote.run(PING_BACK, &[programs, &config.local.node, &file], None, deadline) {
        Ok(outcome) => outcome,
        Err(error) => return Back::Unknown(words(error)),
    };
    let lines = marked_lines(&outcome).unwrap_or_default();
    if has(&lines, "absent") {
        return Back::Unknown("pgwarm's programs are not found there".to_owned());
    }
    let Some((code, said)) = value(&lines, "ended").and_then(|text| text.split_once(' ')) else {
        return Back::Unknown("its answer makes no sense".to_owned());
    };
    match code.parse::<u8>() {
        Ok(0) => Back::Reached,
        Ok(code) if [Class::Remote.code(), Class::Timeout.code()].contains(&code) => Back::Failed(said.to_owned()),
        _ => Back::Unknown(format!("check-node there ended with exit code {code}: {said}")),
    }
}

/// Looks at the node's archive only, through the way its WAL goes.
fn by_store(config: &Config, node: &Node, why: &str) -> Result<Probe, String> {
    let unknown = || Err(why.to_owned());
    let (identity, room) = match &node.archive {
        None => (Ok(None), Ok(None)),
        Some(_) => {
            let store = open_store(config, node).map_err(words)?;
            (identity_in(&*store), store.space().map_err(words).map(|space| Some(Room::from(space))))
        }
    };
    let version = why.to_owned();
    Ok(Probe {
        clock: unknown().map(|(): ()| Clock::default()),
        version: Err(version),
        identity,
        room,
        back: Back::Unknown(why.to_owned()),
    })
}

/// Reads the identity as it stands there, without judging it.
fn identity_in(store: &dyn Store) -> Told<Identity> {
    let Some(file) = store.open(&identity::path()).map_err(words)? else { return Ok(None) };
    serde_json::from_reader(file).map(Some).map_err(|error| format!("identity.json: {error}"))
}

/// Reaches a node and does nothing there: what `check-node --ping` runs.
pub fn ping(config: &Config, node: &Node) -> Result<(), crate::cluster::remote::RemoteError> {
    let remote = Remote::new(config, node)?;
    remote.run("exit 0", &[], None, Deadline::after(config.ssh.connect_timeout)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::system::process::{Call, Ended};

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_banner_before_the_mark_is_left_out_and_no_mark_is_no_answer() {
        let outcome = |text: &str| Outcome { status: Ended::Exit(0), stdout: text.into(), stderr: Vec::new() };
        assert_eq!(marked_lines(&outcome("welcome\npgwarm-probe 1\nclock 5\n")), Some(lines("clock 5")));
        assert_eq!(marked_lines(&outcome("welcome\n")), None);
    }

    #[test]
    fn clocks_are_compared_with_their_doubt() {
        let before = UNIX_EPOCH + Duration::from_secs(1000);
        let after = before + Duration::from_secs(2);
        let clock = clock(&lines("clock 1011"), before, after);
        assert_eq!(clock, Ok(Clock { ahead: 10.5, doubt: 1.5 }));
        assert!(super::clock(&lines("clock %s"), before, after).is_err());
    }

    #[test]
    fn what_is_missing_in_the_answer_is_unknown_and_not_absent() {
        assert_eq!(version(&lines("version check-node 0.1.0")), Ok(Some("0.1.0".to_owned())));
        assert_eq!(version(&lines("version-absent")), Ok(None));
        assert!(version(&lines("")).is_err());
        assert!(parse_identity(&lines("identity-unreadable")).is_err());
        assert_eq!(parse_identity(&lines("identity-absent")), Ok(None));
        assert!(parse_room(&lines("room x")).is_err());
        assert_eq!(parse_room(&lines("room 4 2")), Ok(Some(Room { free: 2048, total: 4096 })));
    }

    #[test]
    fn the_script_tells_an_archive_from_an_empty_directory_and_from_none() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("archive/main");
        let look = || -> Result<Vec<String>, Box<dyn std::error::Error>> {
            let call = Call::new("sh").args(["-c", PROBE, "pgwarm", ""]).arg(&root);
            let outcome = call.run(Deadline::after(Duration::from_secs(20)))?;
            Ok(marked_lines(&outcome).ok_or("no mark")?)
        };
        assert_eq!(parse_identity(&look()?), Ok(None));
        assert_eq!(parse_room(&look()?), Ok(None));
        std::fs::create_dir_all(&root)?;
        assert_eq!(parse_identity(&look()?), Ok(None));
        assert!(matches!(parse_room(&look()?), Ok(Some(room)) if room.total > 0));
        let content = "{\"format\":1,\n\"cluster\":\"main\",\"system_identifier\":\"7\",\"segment_size\":16777216}\n";
        std::fs::write(root.join("identity.json"), content)?;
        assert!(matches!(parse_identity(&look()?), Ok(Some(identity)) if identity.cluster == "main"));
        assert!(clock(&look()?, SystemTime::now(), SystemTime::now()).is_ok_and(|clock| clock.ahead.abs() < 30.0));
        Ok(())
    }
}
