//! What can go wrong between us and a server.
//!
//! The variants keep apart what a failover must keep apart: a machine that says "nobody listens" (refused), one that
//! says nothing (silent), and a server that takes the connection and then says nothing (hung). None of them alone means
//! that the server is dead; that is for the rules of the failover to decide.

use std::io;
use std::time::Duration;

use super::conninfo::ConninfoError;
use super::tls::TlsError;
use crate::error::{Class, Explain};

/// An error of a connection, or of a statement sent through one.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The connection string, the service file or the environment.
    #[error(transparent)]
    Conninfo(#[from] ConninfoError),
    /// The files or settings of TLS.
    #[error(transparent)]
    TlsSetup(#[from] TlsError),
    /// The host name could not be looked up.
    #[error("cannot look up host name '{host}': {reason}")]
    Unresolved { host: String, reason: String },
    /// The machine answered that nobody listens there, or the socket is not there.
    #[error("nobody listens at {server}")]
    Refused { server: String, source: io::Error },
    /// The way to the machine, or the socket, is barred.
    #[error("cannot reach {server}")]
    Unreachable { server: String, source: io::Error },
    /// Nothing came back at all: no answer to the attempt to connect.
    #[error("{server} is silent: no answer to a connection within {:.1} s", after.as_secs_f64())]
    Silent { server: String, after: Duration },
    /// The connection stands, and then the server said nothing.
    #[error("{server} hangs: it takes connections but did not {awaited} within {:.1} s", after.as_secs_f64())]
    Hung { server: String, awaited: &'static str, after: Duration },
    /// The server does not let this user in.
    #[error("{server} refused user '{user}': {detail}")]
    Authentication { server: String, user: String, detail: String },
    /// The server asks for a password, and none is known.
    #[error("{server} asks for a password of user '{user}', and none is known")]
    NoPassword { server: String, user: String },
    /// The two sides cannot agree on how to prove who they are: channel binding, an unknown method, a false server.
    #[error("no agreement with {server} on how user '{user}' proves who it is: {detail}")]
    AuthenticationMethod { server: String, user: String, detail: String },
    /// The server runs and takes no sessions now: starting, recovering or shutting down (SQLSTATE 57P03).
    #[error("{server} is up but takes no sessions now: {detail}")]
    StartingUp { server: String, detail: String },
    /// The server runs and is full (SQLSTATE 53300).
    #[error("{server} is up but has no free connection: {detail}")]
    TooManyConnections { server: String, detail: String },
    /// The server refused the session for another reason.
    #[error("{server} refused the session: {detail} (SQLSTATE {code})")]
    Rejected { server: String, code: String, detail: String },
    /// TLS was wanted and did not come about.
    #[error("no TLS connection to {server}: {detail}")]
    Tls { server: String, detail: String },
    /// What listens there does not speak PostgreSQL's protocol.
    #[error("{server} does not speak the PostgreSQL protocol: {detail}")]
    Protocol { server: String, detail: String },
    /// Every server answered, and none is of the kind `target_session_attrs` asks for.
    #[error("{server} is not {wanted}: target_session_attrs={wanted} is not met")]
    WrongTarget { server: String, wanted: String },
    /// The server refused a statement.
    #[error("{server} refused statement '{statement}': {detail} (SQLSTATE {code})")]
    Query { server: String, statement: String, code: String, detail: String },
    /// The server gave a statement up because it took too long; the server itself answers.
    #[error("statement '{statement}' on {server} took longer than {:.1} s", after.as_secs_f64())]
    QueryTimeout { server: String, statement: String, after: Duration },
    /// The result of a statement is not what it must be.
    #[error("statement '{statement}' on {server} returned something unexpected: {detail}")]
    Answer { server: String, statement: String, detail: String },
    /// The connection broke.
    #[error("the connection to {server} broke: {detail}")]
    Lost { server: String, detail: String },
    /// Nothing could be tried before the time was over.
    #[error("no time left to connect to {server}")]
    NoTime { server: String },
    /// The operating system refused what every connection needs.
    #[error("cannot prepare a connection")]
    System { source: io::Error },
    /// Several servers were tried in vain.
    #[error("none of {} servers will do: {}", .0.len(), join(.0))]
    AllFailed(Vec<PostgresError>),
}

fn join(errors: &[PostgresError]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl PostgresError {
    /// The single errors: itself, or those of every server that was tried.
    pub fn leaves(&self) -> Vec<&PostgresError> {
        match self {
            PostgresError::AllFailed(errors) => errors.iter().flat_map(PostgresError::leaves).collect(),
            single => vec![single],
        }
    }

    /// True if a server answered at all: it may be useless now, but it is not dead.
    pub fn proves_alive(&self) -> bool {
        self.leaves().iter().any(|error| {
            matches!(
                error,
                PostgresError::Authentication { .. }
                    | PostgresError::NoPassword { .. }
                    | PostgresError::AuthenticationMethod { .. }
                    | PostgresError::StartingUp { .. }
                    | PostgresError::TooManyConnections { .. }
                    | PostgresError::Rejected { .. }
                    | PostgresError::WrongTarget { .. }
                    | PostgresError::Query { .. }
                    | PostgresError::QueryTimeout { .. }
                    | PostgresError::Answer { .. }
            )
        })
    }

    /// True if the next server of a list is worth a try, as libpq sees it.
    pub(super) fn lets_next_server_try(&self) -> bool {
        matches!(
            self,
            PostgresError::Unresolved { .. }
                | PostgresError::Refused { .. }
                | PostgresError::Unreachable { .. }
                | PostgresError::Silent { .. }
                | PostgresError::Hung { .. }
                | PostgresError::StartingUp { .. }
                | PostgresError::WrongTarget { .. }
                | PostgresError::Lost { .. }
                | PostgresError::NoTime { .. }
                | PostgresError::AllFailed(_)
        )
    }
}

impl Explain for PostgresError {
    fn class(&self) -> Class {
        match self {
            PostgresError::Conninfo(error) => error.class(),
            PostgresError::TlsSetup(error) => error.class(),
            PostgresError::Silent { .. }
            | PostgresError::Hung { .. }
            | PostgresError::QueryTimeout { .. }
            | PostgresError::NoTime { .. } => Class::Timeout,
            PostgresError::Answer { .. } => Class::Bug,
            PostgresError::AllFailed(errors) => errors.last().map_or(Class::Postgres, Explain::class),
            _ => Class::Postgres,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            PostgresError::Conninfo(error) => return error.hint(),
            PostgresError::TlsSetup(error) => return error.hint(),
            PostgresError::AllFailed(errors) => return errors.iter().rev().find_map(Explain::hint),
            PostgresError::Unresolved { .. } => "Check the name, or add 'hostaddr=' so that no name must be looked up.",
            PostgresError::Refused { .. } => {
                "Start the server, or check the host and the port against its listen_addresses, \
                 unix_socket_directories and port."
            }
            PostgresError::Unreachable { .. } => {
                "Check the route, the firewall, and for a socket the permissions of its directory."
            }
            PostgresError::Silent { .. } => {
                "The machine may be down, or a firewall drops the packets; ask the machine another way before you \
                 believe that it is dead."
            }
            PostgresError::Hung { .. } => {
                "The server process exists but does not work: look for a stopped process, a stuck disk or a full \
                 process table there."
            }
            PostgresError::Authentication { .. } => {
                "Check pg_hba.conf on the server, and the password in ~/.pgpass (its mode must be 0600)."
            }
            PostgresError::NoPassword { .. } => {
                "Add a line host:port:database:user:password to ~/.pgpass; the file's mode must be 0600."
            }
            PostgresError::AuthenticationMethod { .. } => {
                "Check channel_binding in the connection string and the method in pg_hba.conf; GSS and SSPI are not supported."
            }
            PostgresError::StartingUp { .. } => "Wait until it has started; its log says how far it is.",
            PostgresError::TooManyConnections { .. } => {
                "Raise max_connections, or give this user a superuser's reserved place; the server itself is alive."
            }
            PostgresError::Tls { .. } => {
                "Check ssl on the server, and sslmode, sslrootcert and the names in its certificate."
            }
            PostgresError::Protocol { .. } => "Check the port: another program may listen there.",
            PostgresError::WrongTarget { .. } => "Name the other nodes in host= as well.",
            PostgresError::QueryTimeout { .. } => {
                "Look into pg_stat_activity for what it waits for, or allow more time."
            }
            PostgresError::Answer { .. } => "Please report this with the version of the server.",
            PostgresError::Lost { .. } => "The server's log says why it ended the session.",
            PostgresError::NoTime { .. } => "Allow more time.",
            PostgresError::Rejected { code, .. } if code == "3D000" => "Name an existing database with 'dbname='.",
            PostgresError::Query { code, .. } if code == "42501" => {
                "Grant the role what it needs; membership in pg_monitor is enough to look."
            }
            PostgresError::Rejected { .. } | PostgresError::Query { .. } | PostgresError::System { .. } => return None,
        };
        Some(text.to_owned())
    }
}
