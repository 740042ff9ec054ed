//! Ssh sessions with their sftp channels: connected, the host checked, the user let in; each used by one at a time.
//!
//! The library gets out of step where two requests, or two open files, take turns on one channel: a short write leaves
//! answers outstanding that the other then runs into. So a session is lent out whole, for one operation or for as long
//! as a file is being read, and comes back only if it is surely in step.

use std::collections::HashSet;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::net::sockopt;
use ssh2::{ErrorCode, File, MethodType, Session, Sftp};

use super::known_hosts::{KnownKeys, Verdict, default_files};
use super::{SftpSettings, StorePath};
use crate::system::clock::Deadline;

/// Codes of libssh2 that say: no answer in time.
const TIMEOUTS: [i32; 2] = [-9, -30];

/// How many sessions are kept for later.
const IDLE_MAX: usize = 2;

/// Why no session could be had, and what to do about it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) hint: Option<String>,
    pub(super) timeout: bool,
}

impl Refusal {
    fn new(reason: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), hint: None, timeout: false }
    }

    fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn of(step: &str, error: &ssh2::Error) -> Self {
        Refusal { timeout: is_timeout(error), ..Refusal::new(format!("{step}: {}", error.message())) }
    }
}

/// True where the library gave up waiting.
pub(super) fn is_timeout(error: &ssh2::Error) -> bool {
    matches!(error.code(), ErrorCode::Session(code) if TIMEOUTS.contains(&code))
}

/// A session in use.
pub(super) struct Live {
    // Before the session: it ends its channel through it.
    pub(super) sftp: Sftp,
    pub(super) session: Session,
    socket: TcpStream,
    broken: AtomicBool,
    /// Folders seen to be folders, with no symbolic link on the way.
    pub(super) folders: Mutex<HashSet<StorePath>>,
}

impl Live {
    /// Connects, checks the host's key against known_hosts, and logs in.
    pub(super) fn connect(settings: &SftpSettings) -> Result<Live, Refusal> {
        let known = known_keys(settings)?;
        let socket = dial(settings)?;
        let keep = socket.try_clone().map_err(|e| Refusal::new(e.to_string()))?;
        let mut session = Session::new().map_err(|e| Refusal::of("ssh", &e))?;
        session.set_tcp_stream(socket);
        session.set_timeout(milliseconds(settings.connect_timeout));
        if let Some(algorithms) = known.algorithms() {
            let asked = session.method_pref(MethodType::HostKey, &algorithms);
            asked.map_err(|e| Refusal::of("none of the known kinds of host key can be asked for", &e))?;
        }
        session.handshake().map_err(|e| Refusal::of("the ssh handshake failed", &e))?;
        check_host(settings, &known, &session)?;
        log_in(settings, &session)?;
        let sftp = session.sftp().map_err(|e| Refusal::of("it offers no sftp", &e))?;
        session.set_timeout(milliseconds(settings.deadline));
        Ok(Live { sftp, session, socket: keep, broken: AtomicBool::new(false), folders: Mutex::default() })
    }

    /// Ends the connection at once, so that closing what is still open does not wait for a peer that does not answer.
    pub(super) fn break_off(&self) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            // A socket that is gone already is as good as shut.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// True where the other end has not closed the connection while nobody was using it.
    fn is_open(&self) -> bool {
        // The library has made the socket non-blocking: an open one with nothing to read would block.
        match self.socket.peek(&mut [0]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// A file or folder that was opened in this session.
    pub(super) fn hold(self: &Arc<Self>, file: File) -> Handle {
        Handle { file, live: Arc::clone(self) }
    }

    /// True once it must not be used any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

/// The sessions that nobody is using.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Arc<Live>>>);

impl Idle {
    /// Lends a session out, a new one where none is idle.
    pub(super) fn lend(self: &Arc<Self>, settings: &SftpSettings) -> Result<Lease, Refusal> {
        loop {
            let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let live = match idle {
                Some(live) if live.is_open() => live,
                Some(closed) => {
                    closed.break_off();
                    continue;
                }
                None => Arc::new(Live::connect(settings)?),
            };
            return Ok(Lease { live, idle: Arc::clone(self) });
        }
    }
}

/// A session lent out, given back on drop unless it is broken.
pub(super) struct Lease {
    live: Arc<Live>,
    idle: Arc<Idle>,
}

impl Deref for Lease {
    type Target = Arc<Live>;

    fn deref(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.live.is_broken() {
            let mut idle = self.idle.0.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push(Arc::clone(&self.live));
            }
        }
    }
}

/// An open file. Where the peer has not answered in time, dropping it does not wait once more for an answer to "close".
pub(super) struct Handle {
    file: File,
    live: Arc<Live>,
}

impl Deref for Handle {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl DerefMut for Handle {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if ssh2::Error::last_session_error(&self.live.session).is_some_and(|error| is_timeout(&error)) {
            self.live.break_off();
        }
    }
}

fn milliseconds(duration: Duration) -> u32 {
    // Zero would mean "for ever" to the library.
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn known_keys(settings: &SftpSettings) -> Result<KnownKeys, Refusal> {
    let files = settings.known_hosts.clone().map_or_else(default_files, |file| vec![file]);
    KnownKeys::read(&files, &settings.host, settings.port)
        .map_err(|e| Refusal::new(format!("the known_hosts files cannot be read: {e}")))
}

/// Opens the connection; the name is looked up and every address tried within the time allowed.
fn dial(settings: &SftpSettings) -> Result<TcpStream, Refusal> {
    let late = || Refusal { timeout: true, ..Refusal::new("the connection could not be opened in time") };
    let deadline = Deadline::after(settings.connect_timeout);
    let (sender, receiver) = mpsc::channel();
    let target = (settings.host.clone(), settings.port);
    // The resolver knows no deadline, so it is left behind where it takes too long.
    std::thread::spawn(move || sender.send(target.to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>)));
    let addresses = receiver.recv_timeout(deadline.remaining()).map_err(|_| late())?;
    let addresses = addresses.map_err(|e| Refusal::new(format!("'{}' cannot be looked up: {e}", settings.host)))?;
    let mut refusal = Refusal::new(format!("'{}' has no address", settings.host));
    for address in addresses {
        if deadline.expired() {
            return Err(late());
        }
        match TcpStream::connect_timeout(&address, deadline.remaining().max(Duration::from_millis(1))) {
            Ok(socket) => return tune(&socket, settings).map(|()| socket).map_err(|e| Refusal::new(e.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => refusal = late(),
            Err(error) => refusal = Refusal::new(format!("{address}: {error}")),
        }
    }
    Err(refusal)
}

/// Lets the kernel notice a peer that is gone: unacknowledged data and silence both end the connection.
fn tune(socket: &TcpStream, settings: &SftpSettings) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(socket, milliseconds(settings.dead_after))?;
    sockopt::set_socket_keepalive(socket, true)?;
    let third = (settings.dead_after / 3).max(Duration::from_secs(1));
    sockopt::set_tcp_keepidle(socket, third)?;
    sockopt::set_tcp_keepintvl(socket, third)?;
    sockopt::set_tcp_keepcnt(socket, 2)?;
    Ok(())
}

/// Refuses a host whose key is not known to be its own.
fn check_host(settings: &SftpSettings, known: &KnownKeys, session: &Session) -> Result<(), Refusal> {
    let (host, port) = (&settings.host, settings.port);
    let Some((key, _)) = session.host_key() else { return Err(Refusal::new("the host has shown no key")) };
    match known.judge(key) {
        Verdict::Known => Ok(()),
        Verdict::Unknown => Err(Refusal::new(format!("the host key of '{host}' is not known")).hinted(format!(
            "Log in once by hand as this user with 'ssh -p {port} {}@{host}' and compare the fingerprint.",
            settings.user
        ))),
        Verdict::Different => Err(Refusal::new(format!("the host key of '{host}' is not the known one")).hinted(
            "Another machine may answer in its place; if the host was installed anew, replace its line in known_hosts.",
        )),
        Verdict::Revoked => Err(Refusal::new(format!("the host key of '{host}' was revoked"))
            .hinted("Do not connect; ask who revoked the key in known_hosts, and why.")),
    }
}

/// Logs in with the key of the settings, the keys of the agent, or the user's usual keys, in this order.
fn log_in(settings: &SftpSettings, session: &Session) -> Result<(), Refusal> {
    let mut tried = Vec::new();
    let mut with_file = |file: PathBuf| {
        let result = session.userauth_pubkey_file(&settings.user, None, &file, None);
        result.map_err(|e| tried.push(format!("'{}': {}", file.display(), e.message()))).is_ok()
    };
    let done = match &settings.key {
        Some(key) => with_file(key.clone()) || with_agent(settings, session),
        None => {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            let usual = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| home.join(".ssh").join(name));
            with_agent(settings, session) || usual.into_iter().filter(|file| file.exists()).any(with_file)
        }
    };
    if done && session.authenticated() {
        return Ok(());
    }
    let reason = format!("'{}' was not let in as '{}' ({})", settings.host, settings.user, tried.join("; "));
    Err(Refusal::new(reason).hinted(
        "Put the public key into authorized_keys there; a key with a passphrase must be in the agent of this user.",
    ))
}

/// Tries what the user's agent holds, if there is one.
fn with_agent(settings: &SftpSettings, session: &Session) -> bool {
    let Ok(mut agent) = session.agent() else { return false };
    if agent.connect().is_err() || agent.list_identities().is_err() {
        return false;
    }
    let identities = agent.identities().unwrap_or_default();
    identities.iter().any(|identity| agent.userauth(&settings.user, identity).is_ok())
}
