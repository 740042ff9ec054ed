//! Speaks to the supervisor that started us, as systemd understands it (sd_notify): ready, alive, what we are doing.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is there to speak to, and nothing happens. What cannot be
//! sent is not sent again: the supervisor draws its own conclusions.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the supervisor.
#[derive(Debug)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names, if it names one.
    pub fn of_environment() -> Supervisor {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = variable("NOTIFY_SOCKET").and_then(|path| address(&path).ok());
        // Meant for another process where the number is not ours.
        let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| ours).and_then(|text| text.parse().ok());
        Supervisor {
            socket: address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address))),
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// How often it wants to hear that we live: half of what it allows.
    pub fn wants_life_every(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some()).map(|most| most / 2)
    }

    /// The work has begun.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The configuration is read anew; [`Supervisor::ready`] ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// We live.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// What we do, in one line.
    pub fn status(&self, line: &str) {
        self.say(&format!("STATUS={}", line.replace('\n', " ")));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            log::debug!("the supervisor cannot be told '{message}': {error}");
        }
    }
}

fn address(path: &str) -> io::Result<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}
