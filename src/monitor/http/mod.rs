//! A small HTTP server: answers load balancers, Prometheus and people from the daemon's memory. Off unless configured.
//!
//! It reads one request a connection and closes it: every answer is made from memory, so there is nothing to keep open.
//! A connection has a deadline and there are few at a time, so a slow or hostile client costs a thread for a moment and
//! no more. It takes GET, HEAD and OPTIONS, writes nothing, and serves nothing that is secret; whoever may reach the
//! address may read it. It is our own because the small servers there are put no deadline on a client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::daemon::board::Board;
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;

pub mod answer;
pub mod metrics;
pub mod request;

pub use answer::Site;
use request::{Request, Unfit};

/// How long a client may take to send its request, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many connections are served at a time.
const SERVED_MAX: usize = 16;

/// A request line and headers are no longer, in bytes.
const REQUEST_MAX: usize = 8 << 10;

/// What serving a connection needs on its stack, in bytes.
const STACK: usize = 256 << 10;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub kind: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Listens, and serves until the process ends. Returns the address, which tells the port where 0 was asked for.
pub fn start(address: SocketAddr, board: Arc<Board>, site: Site) -> Result<SocketAddr, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Class::Storage, format!("cannot listen at {address}: {error}"))
            .hinted("Set monitor.http to an address of this machine and a port that nobody uses.")
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    if !bound.ip().is_loopback() {
        log::warn!("whoever reaches {bound} can read the state of the cluster there");
    }
    let served = Arc::new(AtomicUsize::new(0));
    let site = Arc::new(site);
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => take(stream, &served, &board, &site),
                // Out of descriptors, most likely: whoever asks again is served.
                Err(error) => {
                    log::debug!("a connection could not be taken: {error}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    };
    std::thread::Builder::new().name("http".to_owned()).stack_size(STACK).spawn(accept).map_err(failed)?;
    Ok(bound)
}

/// Serves a connection in a thread of its own, or turns it away where there are too many.
fn take(stream: TcpStream, served: &Arc<AtomicUsize>, board: &Arc<Board>, site: &Arc<Site>) {
    let (count, board, site) = (Arc::clone(served), Arc::clone(board), Arc::clone(site));
    if count.fetch_add(1, Ordering::SeqCst) >= SERVED_MAX {
        count.fetch_sub(1, Ordering::SeqCst);
        let answer = Answer::text(503, "too many connections\n");
        // Not waited for: the client sees the answer or a closed connection.
        let _ = send(&stream, &answer, true, Deadline::after(Duration::from_millis(10)));
        return;
    }
    let thread = std::thread::Builder::new().name("answer".to_owned()).stack_size(STACK);
    let served = Served(count);
    let spawned = thread.spawn(move || {
        let _served = served;
        if let Err(error) = serve(&stream, &board, &site) {
            log::debug!("a client of HTTP was lost: {error}");
        }
    });
    if let Err(error) = spawned {
        log::debug!("a client of HTTP cannot be served: {error}");
    }
}

/// One that is served; given back however that ends.
struct Served(Arc<AtomicUsize>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(stream: &TcpStream, board: &Board, site: &Site) -> io::Result<()> {
    let deadline = Deadline::after(PATIENCE);
    let (answer, body) = match read(stream, deadline)? {
        Ok(request) => (answer::answer(&request, &board.read(), site), request.method != "HEAD"),
        Err(unfit) => (Answer::text(unfit.status(), unfit.words()), true),
    };
    send(stream, &answer, body, Deadline::after(PATIENCE))?;
    // The client reads the answer before it sees a reset, even if it sent more than we read.
    stream.shutdown(std::net::Shutdown::Write)
}

/// Reads up to the end of the headers.
fn read(mut stream: &TcpStream, deadline: Deadline) -> io::Result<Result<Request, Unfit>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let left = deadline.remaining();
        if left.is_zero() {
            return Ok(Err(Unfit::Late));
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(Err(Unfit::Late));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Request::parse(&head[..end]));
        }
        if count == 0 {
            return Ok(Err(Unfit::Malformed));
        }
        if head.len() > REQUEST_MAX {
            return Ok(Err(Unfit::Large));
        }
    }
}

/// Sends an answer. The deadline is for all of it: a client that takes a little now and then is waited for no longer.
fn send(mut stream: &TcpStream, answer: &Answer, with_body: bool, deadline: Deadline) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:\r\n\r\n",
        answer.status,
        reason(answer.status),
        answer.kind,
        answer.body.len()
    );
    let mut bytes = head.into_bytes();
    if with_body {
        bytes.extend_from_slice(&answer.body);
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let left = deadline.remaining();
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}

impl Answer {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, kind: "text/plain; charset=utf-8", body: body.into().into_bytes() }
    }

    /// JSON.
    pub fn json(status: u16, body: &serde_json::Value) -> Answer {
        Answer { status, kind: "application/json", body: format!("{body}\n").into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_an_answer_bit_by_bit_is_left_in_time() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (stream, _) = listener.accept()?;
        // More than the buffers of both ends hold.
        let answer = Answer { status: 200, kind: "text/plain", body: vec![b'x'; 64 << 20] };
        let slow = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            // One write waits for each of these reads, and none of them for long.
            while client.read(&mut buffer).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let sent = send(&stream, &answer, true, Deadline::after(Duration::from_millis(500)));
        let kind = sent.expect_err("because nobody takes so much so slowly in half a second").kind();
        assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{kind}");
        drop(stream);
        slow.join().expect("because it only reads");
        Ok(())
    }
}
