//! Root's part: an agent is started as root, and nothing of ours works as root.
//!
//! The keeper is all that stays root. It starts the agent again as the owner of the data directory, with that user's
//! groups and home and through no login session, at whose end the server's shared memory would be taken away. What the
//! agent wants of the cluster manager, which listens to root, it asks the keeper for over its standard input and
//! output, a line each. The keeper carries out nothing else, and touches only attributes of this resource.

use std::io::{self, BufRead, BufReader, Stdin, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::{Ask, Cluster};
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::system::process::Call;

/// The word by which an agent knows that a keeper listens.
pub const KEPT: &str = "--kept";

/// How long looking up a user may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// What travels to the keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// To be asked of the cluster manager.
    Ask(Ask),
    /// The agent ends with this code.
    End(u8),
}

/// The user that an agent works as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl User {
    /// The user of that name or number, wherever users are kept here.
    pub fn find(who: &str) -> Result<User, Failure> {
        let outcome = Call::new("getent").args(["passwd", who]).run(Deadline::after(LOOKUP))?;
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let missing = || {
            Failure::new(Class::Config, format!("there is no user '{who}' on this node"))
                .hinted("Set the parameter pgdba to the user that PostgreSQL runs as.")
        };
        let user = parse(&text).filter(|_| outcome.status.is_success()).ok_or_else(missing)?;
        match user.uid {
            0 => Err(Failure::new(Class::Config, "PostgreSQL does not run as root")
                .hinted("Give the data directory to the user that it runs as.")),
            _ => Ok(user),
        }
    }

    /// Whoever owns a data directory.
    pub fn owning(pgdata: &Path) -> Result<User, Failure> {
        use std::os::unix::fs::MetadataExt;
        let wrong = |error| Failure::new(Class::Storage, format!("cannot look at '{}': {error}", pgdata.display()));
        User::find(&std::fs::metadata(pgdata).map_err(wrong)?.uid().to_string())
    }
}

fn parse(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.lines().next()?.split(':').collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    Some(User {
        name: (*fields.first()?).to_owned(),
        uid: number(2)?,
        gid: number(3)?,
        home: (*fields.get(5)?).to_owned(),
    })
}

/// Runs the agent as that user and answers it until it ends. Returns its code.
pub fn keep(user: &User, resource: &str, action: &str, cluster: &dyn Cluster) -> Result<u8, Failure> {
    let wrong = |what: &'static str| {
        move |error: io::Error| Failure::new(Class::Storage, format!("cannot {what} the agent: {error}"))
    };
    let program = std::env::current_exe().map_err(wrong("find"))?;
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
    command.args(["--init-groups", "--inh-caps=-all", "--"]).arg(program).args([KEPT, action]);
    command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name).current_dir("/");
    // In our own process group: whoever ends us ends it as well.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(wrong("start"))?;
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::new(Class::Bug, "there is no pipe to the agent"));
    };
    for line in BufReader::new(from).lines() {
        let line = line.map_err(wrong("listen to"))?;
        match serde_json::from_str(&line) {
            Ok(Line::End(code)) => {
                drop(to);
                let _ = child.wait();
                return Ok(code);
            }
            Ok(Line::Ask(ask)) => {
                let answer = if allowed(&ask, resource) { cluster.ask(&ask) } else { Err(refused(&ask)) };
                let mut json =
                    serde_json::to_string(&answer).expect("because plain data has no reason not to become JSON");
                json.push('\n');
                to.write_all(json.as_bytes()).map_err(wrong("answer"))?;
            }
            Err(error) => return Err(Failure::new(Class::Bug, format!("the agent said '{line}': {error}"))),
        }
    }
    let ended = child.wait().map_err(wrong("wait for"))?;
    Err(Failure::new(Class::Bug, format!("the agent ended without a word: {ended}")))
}

/// Only attributes of this resource, and only values that are its own words.
fn allowed(ask: &Ask, resource: &str) -> bool {
    let plain = |word: &str| !word.starts_with('-') && word.chars().all(|c| c.is_ascii_graphic());
    let own = |name: &str| name == format!("master-{resource}") || name.starts_with(&format!("{resource}-"));
    match ask {
        Ask::Name | Ask::Members | Ask::Quorum => true,
        Ask::Option { name } => name == "stonith-enabled",
        Ask::Get { member, name, .. } => plain(member) && plain(name) && own(name),
        Ask::Put { member, name, value, .. } => {
            let value = value.as_deref();
            let fits = value.is_none_or(|value| value == "-INFINITY" || plain(value));
            plain(member) && plain(name) && own(name) && fits
        }
    }
}

fn refused(ask: &Ask) -> Failure {
    Failure::new(Class::Refused, format!("the keeper does not carry out {ask:?}"))
}

/// The way to the keeper, from inside the agent.
pub struct Kept {
    from: Mutex<BufReader<Stdin>>,
}

impl Kept {
    /// The keeper at our standard input and output.
    pub fn new() -> Kept {
        Kept { from: Mutex::new(BufReader::new(io::stdin())) }
    }
}

impl Default for Kept {
    fn default() -> Kept {
        Kept::new()
    }
}

impl Cluster for Kept {
    fn ask(&self, ask: &Ask) -> Result<Option<String>, Failure> {
        let gone = |error: io::Error| Failure::new(Class::Bug, format!("the keeper is gone: {error}"));
        // One question at a time: the lock is taken before it is asked.
        let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&Line::Ask(ask.clone())).map_err(gone)?;
        let mut line = String::new();
        from.read_line(&mut line).map_err(gone)?;
        let answer: Result<Result<Option<String>, Failure>, _> = serde_json::from_str(&line);
        answer.map_err(|error| Failure::new(Class::Bug, format!("the keeper said '{}': {error}", line.trim())))?
    }
}

/// The last words of an agent.
pub fn end(code: u8) {
    // A keeper that is gone waits for nobody.
    let _ = tell(&Line::End(code));
}

fn tell(line: &Line) -> io::Result<()> {
    let json = serde_json::to_string(line).map_err(io::Error::other)?;
    let mut out = io::stdout().lock();
    out.write_all(json.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::cluster::Life;

    fn put(name: &str, value: &str) -> Ask {
        let (member, name, value) = ("alpha".to_owned(), name.to_owned(), Some(value.to_owned()));
        Ask::Put { member, name, life: Life::Reboot, value }
    }

    #[test]
    fn the_keeper_carries_out_little() {
        assert!(allowed(&put("pgsql-status", "HS:async"), "pgsql"));
        assert!(allowed(&put("master-pgsql", "-INFINITY"), "pgsql"));
        assert!(!allowed(&put("standby", "on"), "pgsql"));
        assert!(!allowed(&put("master-other", "100"), "pgsql"));
        assert!(!allowed(&put("pgsql-status", "a b"), "pgsql"));
        assert!(!allowed(&put("pgsql-status", "-D"), "pgsql"));
        assert!(!allowed(&Ask::Option { name: "cluster-name".to_owned() }, "pgsql"));
    }

    #[test]
    fn users_are_read_as_the_system_tells_them() {
        let user =
            parse("postgres:x:105:113:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n").expect("because it is whole");
        assert_eq!((user.uid, user.gid, user.home.as_str()), (105, 113, "/var/lib/postgresql"));
        assert_eq!(parse(""), None);
    }
}
