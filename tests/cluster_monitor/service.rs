//! The daemon as a service: what it says to systemd, its pid file, what it is told by signals, and whom it tells.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::kept::Kept;
use crate::support::workspace::write_file;
use crate::support::{PATIENCE, Running, wait_until};

/// What systemd would hear.
struct Ear {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Ear {
    fn at(path: &PathBuf) -> Ear {
        let socket = UnixDatagram::bind(path).expect("because the directory is ours");
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("because the socket is ours");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("because the time is not zero");
        Ear { socket, heard: Vec::new() }
    }

    /// Waits until this was said after everything that was waited for before.
    fn wait(&mut self, what: &str) {
        let mut buffer = [0; 4096];
        wait_until(PATIENCE, &format!("'{what}' is said"), || {
            if let Ok(length) = self.socket.recv(&mut buffer) {
                self.heard.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
            }
            match self.heard.iter().position(|line| line.starts_with(what)) {
                Some(at) => self.heard.drain(..=at).next().is_some(),
                None => false,
            }
        });
    }
}

/// A hook that keeps its words and its standard input.
fn hook(kept: &mut Kept) -> PathBuf {
    let (script, told) = (kept.layout.dir.join("hook"), kept.layout.dir.join("told"));
    write_file(&script, &format!("printf '%s|' \"$@\" >> {0}\necho >> {0}\ncat >> {0}.json\n", told.display()));
    let command = format!("sh {} %n %a %e %s %t %d", script.display());
    kept.layout.set("monitor", "event_notification_command", command);
    kept.layout.set("monitor", "event_notifications", "repmgrd_reload").write();
    told
}

/// Starts it as systemd does, with a word expected from it every second; and ends it in order.
pub fn is_served(kept: &mut Kept) {
    let (pid_file, place) = (kept.layout.dir.join("monitor.pid"), kept.layout.dir.join("notify"));
    let told = hook(kept);
    let mut ear = Ear::at(&place);
    let set = format!("monitor.pid_file={}", pid_file.display());
    let call = kept.layout.program("db1", "cluster-monitor").args(["run", "--set", &set]);
    let daemon = call.env("NOTIFY_SOCKET", &place).env("WATCHDOG_USEC", "1000000").deadline(PATIENCE * 5).spawn();
    for word in ["READY=1", "STATUS=", "WATCHDOG=1", "WATCHDOG=1"] {
        ear.wait(word);
    }
    assert_eq!(fs::read_to_string(&pid_file).unwrap_or_default().trim(), daemon.pid().to_string());
    is_reloaded(kept, &daemon, &mut ear);
    wait_until(PATIENCE, "the hook is told", || fs::read_to_string(&told).is_ok_and(|text| text.ends_with('\n')));
    daemon.signal(Signal::TERM);
    ear.wait("STOPPING=1");
    daemon.wait().expect_ok();
    assert!(!pid_file.exists());
    // Of all that happened it was told what was asked for, once, in words and as JSON.
    let words = fs::read_to_string(&told).expect("because it was told");
    let words: Vec<&str> = words.trim_end().trim_end_matches('|').split('|').collect();
    let story = fs::read_to_string(told.with_extension("json")).expect("because it was told");
    let story: Value = serde_json::from_str(&story).unwrap_or_else(|error| panic!("{error}: {story}"));
    assert_eq!(words[1..4], ["db1", "repmgrd_reload", "1"], "{words:?}");
    assert_eq!((Some(words[4]), Some(words[5])), (story["time"].as_str(), story["details"].as_str()), "{story:#}");
}

/// SIGHUP brings a changed connection string into the registry; a configuration that is wrong changes nothing.
fn is_reloaded(kept: &mut Kept, daemon: &Running, ear: &mut Ear) {
    let conninfo = format!("{} application_name=changed", kept.db1.conninfo());
    kept.layout.node_mut("db1").set("conninfo", &conninfo);
    kept.layout.write();
    daemon.signal(Signal::HUP);
    ear.wait("RELOADING=1");
    ear.wait("READY=1");
    let known = "select conninfo from pgwarm.nodes where name = 'db1'";
    wait_until(PATIENCE, "it is registered anew", || kept.db1.query(known) == conninfo);
    let shared = kept.layout.shared_file("db1");
    let good = fs::read_to_string(&shared).expect("because the layout wrote it");
    write_file(&shared, &good.replace("[monitor]", "[monitor]\nno_such_option = 1"));
    daemon.signal(Signal::HUP);
    ear.wait("RELOADING=1");
    ear.wait("READY=1");
    wait_until(PATIENCE, "it says that it goes on as before", || {
        daemon.stderr().contains("the configuration stays as it was")
    });
    write_file(&shared, &good);
}
