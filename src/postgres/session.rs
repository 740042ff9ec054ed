//! The driver behind a deadline: the one place that names tokio.
//!
//! The driver is asynchronous inside. Its blocking front end cannot give up on a server that falls silent, so the
//! runtime is held here: one thread, no background work while nobody waits, and dropping it closes the socket. Nothing
//! asynchronous leaves this module.

use std::future::Future;
use std::io;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::socket::Stream;
use crate::system::clock::Deadline;

/// How long a driver that has ended may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why the driver did not deliver.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The time was over first.
    Late,
    /// The driver's own error.
    Driver(tokio_postgres::Error),
    /// The runtime or the socket could not be prepared.
    System(io::Error),
}

/// TLS for one connection.
pub(super) struct Tls {
    pub config: ClientConfig,
    /// The name that is sent and compared.
    pub name: String,
}

/// One connection that is ready for statements.
pub(super) struct Session {
    // Declared before the runtime: both belong to it.
    client: Client,
    driver: JoinHandle<Result<(), tokio_postgres::Error>>,
    runtime: Runtime,
}

/// Starts a session on an open socket; with TLS, the server has already agreed to it.
pub(super) fn start(stream: Stream, config: &Config, tls: Option<Tls>, until: Deadline) -> Result<Session, Trouble> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(Trouble::System)?;
    let mut config = config.clone();
    config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
    // Whether there is TLS has been settled with the server already; the driver begins with it at once.
    config.ssl_negotiation(SslNegotiation::Direct);
    let attempt = async {
        match (stream, tls) {
            (Stream::Tcp(stream), Some(tls)) => {
                stream.set_nonblocking(true).map_err(Trouble::System)?;
                let stream = TcpStream::from_std(stream).map_err(Trouble::System)?;
                let mut maker = MakeRustlsConnect::new(tls.config);
                let connector = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, &tls.name);
                let connector = connector.unwrap_or_else(|never| match never {});
                let (client, connection) = config.connect_raw(stream, connector).await.map_err(Trouble::Driver)?;
                Ok((client, tokio::spawn(connection)))
            }
            (Stream::Tcp(stream), None) => {
                stream.set_nonblocking(true).map_err(Trouble::System)?;
                let stream = TcpStream::from_std(stream).map_err(Trouble::System)?;
                let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(Trouble::Driver)?;
                Ok((client, tokio::spawn(connection)))
            }
            (Stream::Unix(stream), _) => {
                stream.set_nonblocking(true).map_err(Trouble::System)?;
                let stream = UnixStream::from_std(stream).map_err(Trouble::System)?;
                let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(Trouble::Driver)?;
                Ok((client, tokio::spawn(connection)))
            }
        }
    };
    let (client, driver) = runtime
        .block_on(async { tokio::time::timeout(until.remaining(), attempt).await.unwrap_or(Err(Trouble::Late)) })?;
    Ok(Session { client, driver, runtime })
}

impl Session {
    /// Sends one statement with parameters and returns its rows.
    pub fn query(&self, text: &str, parameters: &[&(dyn ToSql + Sync)], until: Deadline) -> Result<Vec<Row>, Trouble> {
        if parameters.is_empty() {
            // One round trip, and no prepared statement to close later, whose write could hide a server's farewell.
            return self.wait(self.client.query_typed(text, &[]), until);
        }
        self.wait(self.client.query(text, parameters), until)
    }

    /// Sends statements without parameters and without rows.
    pub fn execute(&self, text: &str, until: Deadline) -> Result<(), Trouble> {
        self.wait(self.client.batch_execute(text), until)
    }

    /// Sends statements without parameters; the first column of every row, as text.
    pub fn texts(&self, text: &str, until: Deadline) -> Result<Vec<Option<String>>, Trouble> {
        let messages = self.wait(self.client.simple_query(text), until)?;
        let first = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(row.try_get(0).ok().flatten().map(str::to_owned)),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(first).collect())
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
        until: Deadline,
    ) -> Result<T, Trouble> {
        let bounded = async {
            self.listen().await;
            tokio::time::timeout(until.remaining(), answer).await
        };
        match self.runtime.block_on(bounded) {
            Ok(result) => result.map_err(Trouble::Driver),
            Err(_) => Err(Trouble::Late),
        }
    }

    /// Lets the driver read what came in while nobody waited: the farewell of a server that ended the session would be
    /// lost if the next write failed first.
    async fn listen(&self) {
        // Once for the runtime to see that there is something to read, once for the driver to read it.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    /// What ended the connection, if it has ended and the server said why.
    pub fn last_words(&mut self) -> Option<tokio_postgres::Error> {
        let driver = &mut self.driver;
        let ended = self.runtime.block_on(async { tokio::time::timeout(LAST_WORDS, driver).await });
        ended.ok()?.ok()?.err()
    }
}
