//! Makes sure that a server is stopped, and proves it.
//!
//! With `failover.fence` that program is believed, and only its exit code 0 is: a failure or a timeout proves nothing.
//! Without it the server is stopped over ssh: fast, then at once, then its processes are killed; what proves it then is
//! that its machine finds none of them any more.

use std::time::Duration;

use super::{Next, Scene};
use crate::error::{Class, Failure};
use crate::failover::journal::{Entry, Journal};
use crate::failover::observation::Fenced;
use crate::failover::observe::peer;
use crate::system::clock::Deadline;
use crate::system::process::Call;

/// $1: the data directory; $2: how many tenths of a second each way of stopping gets.
///
/// A frozen process takes no signal but the last one, so that comes in the end whatever happens. Everything that has
/// the data directory as its working directory counts; only its owner and root see where a process works.
const STOP: &str = r#"echo "pgwarm-answer 1"
dir=$(cd -- "$1" && pwd -P) || { echo "no such directory"; exit 1; }
[ -O "$dir" ] || [ "$(id -u)" = 0 ] || { echo "$(id -un) does not own $dir"; exit 1; }
left() {
  for p in /proc/[0-9]*; do
    [ "$(readlink "$p/cwd" 2>/dev/null)" = "$dir" ] || continue
    case $(cat "$p/comm" 2>/dev/null) in postgres|postmaster) echo "${p#/proc/}";; esac
  done
}
gone() { n=0; while [ -n "$(left)" ]; do [ "$n" -lt "$1" ] || return 1; n=$((n + 1)); sleep 0.1; done; }
main=$(head -n 1 "$dir/postmaster.pid" 2>/dev/null | tr -cd 0-9)
[ -n "$(left)" ] || { echo "it was stopped"; exit 0; }
case $(cat "/proc/$main/stat" 2>/dev/null) in *") T "*) main= ;; esac
if [ -n "$main" ]; then
  kill -INT "$main" 2>/dev/null && gone "$2" && { echo "stopped fast"; exit 0; }
  kill -QUIT "$main" 2>/dev/null && gone "$2" && { echo "stopped at once"; exit 0; }
fi
for p in $(left); do kill -KILL "$p" 2>/dev/null; done
gone "$2" && { echo "its processes were killed"; exit 0; }
echo "processes are left: $(left | tr '\n' ' ')"; exit 1
"#;

/// Stops the server of a node, and has the next plan know it.
pub fn fence(scene: &Scene<'_>, journal: &mut Journal, name: &str) -> Result<Next, Failure> {
    let limit = scene.config.failover.fence_deadline;
    let how = match scene.config.failover.fence.split_first() {
        Some((program, words)) => by_program(program, words, name, limit)?,
        None => over_ssh(scene, name, limit)?,
    };
    journal.note(Entry::Proved { fenced: Fenced { node: name.to_owned(), how: how.clone() } })?;
    log::warn!("{name} is fenced: {how}");
    Ok(Next::Again(how))
}

fn by_program(program: &str, words: &[String], node: &str, limit: Duration) -> Result<String, Failure> {
    let outcome = Call::new(program).args(words).arg(node).run(Deadline::after(limit))?;
    if outcome.status.is_success() {
        return Ok(format!("'{program}' says that it is stopped"));
    }
    let text = format!("'{program}' did not prove that {node} is stopped: {}, {}", outcome.status, outcome.complaint());
    Err(Failure::new(Class::Refused, text)
        .hinted(format!("Stop {node} by other means; if it is certainly off, say so with --down {node}.")))
}

fn over_ssh(scene: &Scene<'_>, name: &str, limit: Duration) -> Result<String, Failure> {
    let node = scene.node(name)?;
    let hint =
        format!("Stop {name} by hand, or set failover.fence; if it is certainly off, say so with --down {name}.");
    let pgdata =
        node.pgdata.as_ref().map(|path| path.display().to_string()).ok_or_else(|| {
            Failure::new(Class::Config, format!("node.{name}.pgdata is not set")).hinted(hint.clone())
        })?;
    let tenths = (limit.as_millis() / 300).max(1).to_string();
    let remote = peer::remote(scene.config, node)?;
    let deadline = Deadline::after(limit + scene.config.ssh.connect_timeout);
    let outcome = remote.run(STOP, &[&pgdata, &tenths], None, deadline);
    let outcome = outcome.map_err(|error| Failure::from(error).hinted(hint.clone()))?;
    let said = peer::answer(&outcome).map(|text| String::from_utf8_lossy(text).trim().to_owned());
    match said {
        Some(said) if outcome.status.is_success() => Ok(said),
        said => {
            // The script says itself what is in its way; what fails before it is on the other stream.
            let why = said.filter(|said| !said.is_empty()).unwrap_or_else(|| outcome.complaint());
            Err(Failure::new(Class::Remote, format!("{name} could not be stopped over ssh: {why}")).hinted(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(directory: &str) -> (bool, String) {
        let call = Call::new("sh").args(["-c", STOP, "sh", directory, "10"]);
        let outcome = call.run(Deadline::after(Duration::from_secs(20))).expect("because there is a shell");
        (outcome.status.is_success(), String::from_utf8_lossy(&outcome.stdout).into_owned())
    }

    #[test]
    fn who_cannot_see_the_processes_of_a_server_proves_nothing() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (stopped, said) = stop(&folder.path().display().to_string());
        assert!(stopped && said.ends_with("it was stopped\n"), "{said}");
        let (stopped, said) = stop("/nonexistent");
        assert!(!stopped && said.contains("no such directory"), "{said}");
        if !rustix::process::geteuid().is_root() {
            let (stopped, said) = stop("/");
            assert!(!stopped && said.contains("does not own /"), "{said}");
        }
        Ok(())
    }
}
