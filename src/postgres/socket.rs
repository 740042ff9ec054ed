//! Sockets to a server, opened within a deadline.
//!
//! Done here and not by the driver, because only the one who opens the socket can tell "nobody listens" from "no
//! answer", and can close it when the time is over.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::error::PostgresError;
use super::resolve::{Endpoint, Host, Keepalives};
use crate::system::clock::Deadline;

/// A full queue of a unix socket is looked at again after so long.
const QUEUE_POLL: Duration = Duration::from_millis(20);

/// An open connection without a word spoken on it.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Where an endpoint leads after its name is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Every address of an endpoint, in the order to try them.
pub(super) fn addresses(endpoint: &Endpoint, until: Deadline) -> Result<Vec<Address>, PostgresError> {
    let tcp = |ip: IpAddr| Address::Tcp(SocketAddr::new(ip, endpoint.port));
    match (&endpoint.host, endpoint.address) {
        (_, Some(ip)) => Ok(vec![tcp(ip)]),
        (Host::Socket(directory), None) => {
            Ok(vec![Address::Unix(directory.join(format!(".s.PGSQL.{}", endpoint.port)))])
        }
        (Host::Name(name), None) => match name.parse::<IpAddr>() {
            Ok(ip) => Ok(vec![tcp(ip)]),
            Err(_) => look_up(name, endpoint.port, until),
        },
        (Host::Unnamed, None) => Err(PostgresError::Unresolved { host: String::new(), reason: "no name".to_owned() }),
    }
}

/// Looks a name up in a thread of its own: the resolver knows no deadline, so it may be left behind.
fn look_up(name: &str, port: u16, until: Deadline) -> Result<Vec<Address>, PostgresError> {
    let unresolved = |reason: String| PostgresError::Unresolved { host: name.to_owned(), reason };
    let (sender, receiver) = mpsc::channel();
    let asked = name.to_owned();
    thread::Builder::new()
        .name("look-up".to_owned())
        .spawn(move || {
            let found = (asked.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            // Nobody listens any more if the deadline has passed.
            let _ = sender.send(found);
        })
        .map_err(|source| PostgresError::System { source })?;
    let found = receiver.recv_timeout(until.remaining()).map_err(|_| unresolved("no answer in time".to_owned()))?;
    let mut addresses = Vec::new();
    for address in found.map_err(|error| unresolved(error.to_string()))? {
        let address = Address::Tcp(address);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(unresolved("it has no address".to_owned())) } else { Ok(addresses) }
}

/// Connects to one address.
pub(super) fn open(server: &str, address: &Address, until: Deadline) -> Result<Stream, PostgresError> {
    let after = until.remaining();
    if after.is_zero() {
        return Err(PostgresError::NoTime { server: server.to_owned() });
    }
    let result = match address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, after).map(Stream::Tcp),
        Address::Unix(path) => open_unix(path, until).map(Stream::Unix),
    };
    let server = server.to_owned();
    result.map_err(|source| match (source.kind(), address) {
        (io::ErrorKind::TimedOut, _) => PostgresError::Silent { server, after },
        // The kernel's queue of a socket is full: the server has stopped taking from it.
        (io::ErrorKind::WouldBlock, _) => PostgresError::Hung { server, awaited: "accept the connection", after },
        (io::ErrorKind::ConnectionRefused, _) | (io::ErrorKind::NotFound, Address::Unix(_)) => {
            PostgresError::Refused { server, source }
        }
        _ => PostgresError::Unreachable { server, source },
    })
}

/// Connects to a unix socket. A blocking connect would wait for ever where the server's queue is full.
fn open_unix(path: &Path, until: Deadline) -> io::Result<UnixStream> {
    let address = unix_address(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(rustix::io::Errno::AGAIN) if !until.expired() => thread::sleep(QUEUE_POLL.min(until.remaining())),
            Err(error) => return Err(error.into()),
        }
    }
}

fn unix_address(path: &Path) -> io::Result<rustix::net::SocketAddrUnix> {
    let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => UnixAddr::from_abstract_name(name)?,
        None => UnixAddr::from_pathname(path)?,
    };
    match address.as_abstract_name() {
        Some(name) => Ok(rustix::net::SocketAddrUnix::new_abstract_name(name)?),
        None => Ok(rustix::net::SocketAddrUnix::new(path)?),
    }
}

impl Stream {
    /// Sets the probes that notice a dead peer. What the settings leave open is chosen so that it is noticed soon.
    pub fn guard(&self, keepalives: &Keepalives, patience: Duration) -> io::Result<()> {
        let Stream::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let user_timeout = keepalives.user_timeout.unwrap_or(patience);
        sockopt::set_tcp_user_timeout(stream, u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX))?;
        sockopt::set_socket_keepalive(stream, keepalives.enabled)?;
        if keepalives.enabled {
            sockopt::set_tcp_keepidle(stream, keepalives.idle.unwrap_or(Duration::from_secs(10)))?;
            sockopt::set_tcp_keepintvl(stream, keepalives.interval.unwrap_or(Duration::from_secs(5)))?;
            sockopt::set_tcp_keepcnt(stream, keepalives.count.unwrap_or(3))?;
        }
        Ok(())
    }

    /// Asks for TLS (SSLRequest) and returns the one byte that comes back.
    pub fn ask_for_tls(&mut self, until: Deadline) -> io::Result<u8> {
        // The length of the message and the code that stands for the request, as the protocol defines them.
        const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
        let mut answer = [0];
        let Stream::Tcp(stream) = self else { return Ok(b'N') };
        // A timeout of zero would mean none.
        let patience = until.remaining().max(Duration::from_millis(1));
        stream.set_write_timeout(Some(patience))?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&SSL_REQUEST)?;
        // Exactly one byte: what follows it belongs to TLS.
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    #[test]
    fn a_closed_port_and_a_missing_socket_are_refusals() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
        let address = listener.local_addr().expect("because it is bound");
        assert!(open("x", &Address::Tcp(address), soon()).is_ok());
        drop(listener);
        assert!(matches!(open("x", &Address::Tcp(address), soon()), Err(PostgresError::Refused { .. })));
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        let path = folder.path().join("s");
        assert!(matches!(open("x", &Address::Unix(path.clone()), soon()), Err(PostgresError::Refused { .. })));
        // A socket file whose server is gone.
        drop(UnixListener::bind(&path).expect("because the directory is ours"));
        assert!(matches!(open("x", &Address::Unix(path), soon()), Err(PostgresError::Refused { .. })));
    }

    #[test]
    fn a_full_queue_of_a_unix_socket_is_a_server_that_hangs() {
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).expect("because the directory is ours");
        let mut open_ones = Vec::new();
        let error = loop {
            match open("x", &Address::Unix(path.clone()), Deadline::after(Duration::from_millis(100))) {
                Ok(stream) => open_ones.push(stream),
                Err(error) => break error,
            }
            assert!(open_ones.len() < 100_000, "the queue never fills");
            // The listener of the standard library has a long queue; one connection at a time fills it quickly.
        };
        assert!(matches!(error, PostgresError::Hung { .. }), "{error}");
    }

    #[test]
    fn an_abstract_name_is_no_file() {
        let address = unix_address(Path::new("@pgwarm-test/.s.PGSQL.1")).expect("because the name is short");
        assert!(address.path().is_none());
    }

    #[test]
    fn a_numeric_host_needs_no_look_up() {
        let endpoint = Endpoint { host: Host::Name("::1".to_owned()), address: None, port: 7 };
        let found = addresses(&endpoint, soon()).expect("because it is numeric");
        assert_eq!(found, [Address::Tcp("[::1]:7".parse().expect("because it is an address"))]);
    }
}
