//! Connections: from a connection string to a session, within a deadline.
//!
//! Servers are tried in order, each the way its `sslmode` wants, until one meets `target_session_attrs`. Connecting,
//! authenticating and every statement are bounded: by the server (`statement_timeout`) and by us, who close the socket
//! when the time is over. What the driver says is translated here into what an operator and a failover need to know.

use std::error::Error as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::Duration;

use log::{debug, warn};
pub use postgres::Row;
use postgres::error::SqlState;
use postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding as DriverBinding;

use super::conninfo::Conninfo;
use super::error::PostgresError;
use super::facts::{NodeFacts, column, lsn};
use super::passfile::{self, Wanted};
use super::resolve::{ChannelBinding, Endpoint, Environment, Host, Resolved, Target};
use super::session::{self, Session, Tls, Trouble};
use super::socket::{self, Address, Stream};
use super::tls::{self, SslMode, TlsError};
use crate::system::clock::Deadline;
use crate::wal::Lsn;

/// A statement and the name it has in messages: that of its file in `sql/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    pub name: &'static str,
    pub text: &'static str,
}

const SESSION: Statement = Statement { name: "session", text: include_str!("../../sql/session.sql") };
const IS_IN_RECOVERY: Statement =
    Statement { name: "is_in_recovery", text: include_str!("../../sql/is_in_recovery.sql") };
const NODE_FACTS: Statement = Statement { name: "node_facts", text: include_str!("../../sql/node_facts.sql") };
const SWITCH_WAL: Statement = Statement { name: "switch_wal", text: include_str!("../../sql/switch_wal.sql") };

/// What `pg_switch_wal` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchedWal {
    /// One past the last byte of the segment that was ended.
    pub end: Lsn,
    /// The name of that segment.
    pub segment: String,
}

/// A session with a server. Dropping it closes the socket at once.
pub struct Connection {
    session: Option<Session>,
    server: String,
    version: u32,
    recovering: bool,
    read_only: bool,
    patience: Duration,
    encrypted: bool,
}

/// Connects within `deadline` in all; every later statement is bounded by the same duration. `purpose` becomes part of
/// the session's `application_name`. The search path is empty, so statements qualify the names of their schemas.
pub fn connect(conninfo: &Conninfo, deadline: Duration, purpose: &str) -> Result<Connection, PostgresError> {
    connect_resolved(&conninfo.resolve(&Environment::of_process())?, deadline, purpose)
}

/// Like [`connect`], for a string that has been completed already.
pub fn connect_resolved(resolved: &Resolved, deadline: Duration, purpose: &str) -> Result<Connection, PostgresError> {
    let plan = Plan { resolved, patience: deadline, purpose, until: Deadline::after(deadline) };
    match resolved.target {
        // The first round takes a standby only, the second whatever is there.
        Target::PreferStandby => match plan.try_all(Target::Standby) {
            Err(error) if error.lets_next_server_try() => plan.try_all(Target::Any),
            result => result,
        },
        target => plan.try_all(target),
    }
}

/// What stays the same over all attempts.
struct Plan<'a> {
    resolved: &'a Resolved,
    patience: Duration,
    purpose: &'a str,
    until: Deadline,
}

/// Whether an attempt uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Tls,
}

impl Plan<'_> {
    fn try_all(&self, target: Target) -> Result<Connection, PostgresError> {
        let mut endpoints: Vec<&Endpoint> = self.resolved.endpoints.iter().collect();
        if self.resolved.shuffle {
            // Every new state of the standard library's hasher is random; no more is needed to spread load.
            endpoints.sort_by_cached_key(|_| RandomState::new().build_hasher().finish());
        }
        let mut errors = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            match self.try_endpoint(endpoint, target, self.share(endpoints.len() - index)) {
                Ok(connection) => return Ok(connection),
                Err(error) if error.lets_next_server_try() => errors.push(error),
                Err(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
        Err(one_or_all(errors, "no server"))
    }

    /// The time one server gets: `connect_timeout`, or an equal share, so that a silent one leaves time for the rest.
    fn share(&self, left: usize) -> Deadline {
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let equal = self.until.remaining() / left.max(1);
        let share = self.resolved.connect_timeout.unwrap_or(equal);
        Deadline::after(share).or_before(self.until)
    }

    fn try_endpoint(&self, endpoint: &Endpoint, target: Target, until: Deadline) -> Result<Connection, PostgresError> {
        let addresses = socket::addresses(endpoint, until)?;
        let mut errors = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = Deadline::after(until.remaining() / left);
            let result = self.try_address(endpoint, address, share).and_then(|connection| connection.meets(target));
            match result {
                Ok(connection) => return Ok(connection),
                Err(error) if error.lets_next_server_try() => errors.push(error),
                Err(error) => return Err(error),
            }
        }
        Err(one_or_all(errors, &endpoint.to_string()))
    }

    /// Tries one address in the ways of its `sslmode`.
    fn try_address(
        &self,
        endpoint: &Endpoint,
        address: &Address,
        until: Deadline,
    ) -> Result<Connection, PostgresError> {
        let ways: &[Way] = match (address, self.resolved.tls.mode) {
            (Address::Unix(_), _) | (_, SslMode::Disable) => &[Way::Plain],
            (_, SslMode::Allow) => &[Way::Plain, Way::Tls],
            (_, SslMode::Prefer) => &[Way::Tls, Way::Plain],
            _ => &[Way::Tls],
        };
        let attempt = Attempt { plan: self, endpoint, address, server: endpoint.to_string(), until };
        match (attempt.go(ways[0]), ways.get(1)) {
            (Err(first), Some(second)) if first.lets_other_way_try() => {
                debug!("{first}; trying {second:?}");
                attempt.go(*second).map_err(|then| first.joined(then))
            }
            (result, _) => result,
        }
    }
}

impl PostgresError {
    /// True if the same server may say yes with TLS instead of plain text, or the other way round.
    fn lets_other_way_try(&self) -> bool {
        matches!(self, PostgresError::Authentication { .. } | PostgresError::Tls { .. } | PostgresError::TlsSetup(_))
    }

    /// Both reasons where both ways led nowhere.
    fn joined(self, then: PostgresError) -> PostgresError {
        match (self, then) {
            (
                PostgresError::Authentication { detail: first, .. },
                PostgresError::Authentication { server, user, detail },
            ) if first != detail => {
                PostgresError::Authentication { server, user, detail: format!("{first}; and then: {detail}") }
            }
            // A server without TLS adds nothing to the refusal that came first.
            (first @ PostgresError::Authentication { .. }, PostgresError::Tls { .. }) => first,
            (_, then) => then,
        }
    }
}

fn one_or_all(mut errors: Vec<PostgresError>, server: &str) -> PostgresError {
    match errors.len() {
        0 => PostgresError::NoTime { server: server.to_owned() },
        1 => errors.remove(0),
        _ => PostgresError::AllFailed(errors),
    }
}

/// One address on its way to a session.
struct Attempt<'a> {
    plan: &'a Plan<'a>,
    endpoint: &'a Endpoint,
    address: &'a Address,
    server: String,
    until: Deadline,
}

impl Attempt<'_> {
    fn go(&self, way: Way) -> Result<Connection, PostgresError> {
        let tls = match way {
            Way::Plain => None,
            Way::Tls => Some(self.tls()?),
        };
        let mut stream = socket::open(&self.server, self.address, self.until)?;
        stream
            .guard(&self.plan.resolved.keepalives, self.plan.patience)
            .map_err(|source| PostgresError::System { source })?;
        let mut encrypted = tls.is_some();
        let mut tls = tls;
        if encrypted && !self.plan.resolved.tls.direct && !self.agree_on_tls(&mut stream)? {
            // The server has no TLS, and the mode takes that: the same connection goes on in plain text.
            encrypted = false;
            tls = None;
        }
        let after = self.until.remaining();
        let session = session::start(stream, &self.config(), tls, self.until)
            .map_err(|trouble| self.explain(trouble, "authenticate", after))?;
        self.introduce(session, encrypted)
    }

    /// Asks the first question, which also proves that the server does more than take connections.
    fn introduce(&self, session: Session, encrypted: bool) -> Result<Connection, PostgresError> {
        let after = self.until.remaining();
        let rows = session.query(SESSION.text, &[], self.until);
        let rows = rows.map_err(|trouble| self.explain(trouble, "answer a query", after))?;
        let wrong = |detail: String| PostgresError::Answer {
            server: self.server.clone(),
            statement: SESSION.name.to_owned(),
            detail,
        };
        let row = rows.first().ok_or_else(|| wrong("no row".to_owned()))?;
        let version = column::<i32>(row, "version").map_err(wrong)?;
        Ok(Connection {
            version: u32::try_from(version).map_err(|error| wrong(error.to_string()))?,
            recovering: column(row, "in_recovery").map_err(wrong)?,
            read_only: column(row, "read_only").map_err(wrong)?,
            session: Some(session),
            server: self.server.clone(),
            patience: self.plan.patience,
            encrypted,
        })
    }

    fn tls(&self) -> Result<Tls, PostgresError> {
        let settings = &self.plan.resolved.tls;
        let name = match (&self.endpoint.host, self.endpoint.address) {
            (Host::Name(name), _) => name.clone(),
            _ if settings.mode == SslMode::VerifyFull => return Err(TlsError::NoName.into()),
            (_, Some(address)) => address.to_string(),
            _ => String::new(),
        };
        Ok(Tls { config: tls::client_config(settings)?, name })
    }

    /// Asks the server for TLS. False: it has none, and the mode does without.
    fn agree_on_tls(&self, stream: &mut Stream) -> Result<bool, PostgresError> {
        let server = || self.server.clone();
        let after = self.until.remaining();
        let answer = stream.ask_for_tls(self.until).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                PostgresError::Hung { server: server(), awaited: "answer the request for TLS", after }
            }
            _ => PostgresError::Lost { server: server(), detail: error.to_string() },
        })?;
        let detail = match answer {
            b'S' => return Ok(true),
            b'N' if self.plan.resolved.tls.mode == SslMode::Prefer => return Ok(false),
            b'N' => "the server does not support it (its ssl is off)".to_owned(),
            b'E' => "the server answered the request with an error".to_owned(),
            other => {
                let detail = format!("it answered a request for TLS with byte {other}");
                return Err(PostgresError::Protocol { server: server(), detail });
            }
        };
        Err(PostgresError::Tls { server: server(), detail })
    }

    fn config(&self) -> Config {
        let resolved = self.plan.resolved;
        let mut config = Config::new();
        config.user(&resolved.user).dbname(&resolved.dbname);
        config.application_name(format!("pgwarm {}", self.plan.purpose));
        config.options(startup_options(self.plan.patience, &resolved.options));
        config.channel_binding(match resolved.channel_binding {
            ChannelBinding::Disable => DriverBinding::Disable,
            ChannelBinding::Prefer => DriverBinding::Prefer,
            ChannelBinding::Require => DriverBinding::Require,
        });
        if let Some(password) = self.password() {
            config.password(password.reveal());
        }
        config
    }

    fn password(&self) -> Option<passfile::Secret> {
        let resolved = self.plan.resolved;
        if resolved.password.is_some() {
            return resolved.password.clone();
        }
        let host = resolved.passfile_host(self.endpoint);
        let wanted = Wanted { host: &host, port: self.endpoint.port, dbname: &resolved.dbname, user: &resolved.user };
        let answer = passfile::lookup(resolved.passfile.as_deref()?, &wanted);
        if let Some(warning) = answer.warning {
            warn!("{warning}");
        }
        answer.password
    }

    fn explain(&self, trouble: Trouble, awaited: &'static str, after: Duration) -> PostgresError {
        let server = self.server.clone();
        match trouble {
            Trouble::Late => PostgresError::Hung { server, awaited, after },
            Trouble::System(source) => PostgresError::System { source },
            Trouble::Driver(error) => explain_startup(server, &self.plan.resolved.user, &error),
        }
    }
}

/// Our own settings come first, so that the connection string may override them.
fn startup_options(patience: Duration, written: &str) -> String {
    let timeout = server_patience(patience);
    format!("-c search_path= -c statement_timeout={timeout} {written}").trim_end().to_owned()
}

/// The server gives up a little before we do, so that a slow statement and a server that hangs look different. In ms.
fn server_patience(patience: Duration) -> u64 {
    let whole = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    (whole - whole / 10).clamp(1, i32::MAX as u64)
}

/// Says what an error of the driver before the session means.
fn explain_startup(server: String, user: &str, error: &postgres::Error) -> PostgresError {
    let user = user.to_owned();
    let detail = describe(error);
    let Some(code) = error.code() else {
        // The driver keeps its kinds to itself; the words are all there is to tell them apart by.
        let kind = error.to_string();
        return if kind.contains("TLS handshake") {
            PostgresError::Tls { server, detail }
        } else if kind.contains("configuration") && detail.contains("password missing") {
            PostgresError::NoPassword { server, user }
        } else if kind.contains("authentication") || kind.contains("configuration") {
            PostgresError::AuthenticationMethod { server, user, detail }
        } else if kind.contains("parsing") || kind.contains("unexpected message") {
            PostgresError::Protocol { server, detail }
        } else {
            PostgresError::Lost { server, detail }
        };
    };
    match code {
        code if *code == SqlState::CANNOT_CONNECT_NOW => PostgresError::StartingUp { server, detail },
        code if *code == SqlState::TOO_MANY_CONNECTIONS => PostgresError::TooManyConnections { server, detail },
        code if code.code().starts_with("28") => PostgresError::Authentication { server, user, detail },
        code if code.code().starts_with("57P") => PostgresError::Lost { server, detail },
        code => PostgresError::Rejected { server, code: code.code().to_owned(), detail },
    }
}

/// An error of the driver with its causes, on one line.
pub(super) fn describe(error: &postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return error.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Connection {
    /// `server_version_num`, like 150018.
    pub fn server_version_num(&self) -> u32 {
        self.version
    }

    /// The server, as it is named in messages.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// True if the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Bounds every later statement by another duration.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), PostgresError> {
        self.patience = patience;
        self.execute("set_patience", &format!("SET statement_timeout = {}", server_patience(patience)))
    }

    /// Asks whether the server is in recovery now (`pg_is_in_recovery()`).
    pub fn is_in_recovery(&mut self) -> Result<bool, PostgresError> {
        let row = self.query_one(&IS_IN_RECOVERY, &[])?;
        self.read(&IS_IN_RECOVERY, column(&row, "in_recovery"))
    }

    /// Asks the server what it is and how far it has come.
    pub fn node_facts(&mut self) -> Result<NodeFacts, PostgresError> {
        let row = self.query_one(&NODE_FACTS, &[])?;
        self.read(&NODE_FACTS, NodeFacts::from_row(&row))
    }

    /// Ends the current segment (`pg_switch_wal()`); primaries only.
    pub fn switch_wal(&mut self) -> Result<SwitchedWal, PostgresError> {
        let row = self.query_one(&SWITCH_WAL, &[])?;
        let end = self.read(&SWITCH_WAL, lsn(&row, "end_lsn"))?.unwrap_or(Lsn::INVALID);
        Ok(SwitchedWal { end, segment: self.read(&SWITCH_WAL, column(&row, "segment"))? })
    }

    /// Sends one statement and returns its rows.
    pub fn query(
        &mut self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        let until = Deadline::after(self.patience);
        let result = self.live()?.query(statement.text, parameters, until);
        result.map_err(|trouble| self.explain(statement.name, trouble))
    }

    /// Sends one statement that returns exactly one row.
    pub fn query_one(
        &mut self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresError> {
        let mut rows = self.query(statement, parameters)?;
        match rows.len() {
            1 => Ok(rows.remove(0)),
            count => self.read(statement, Err(format!("{count} rows instead of one"))),
        }
    }

    /// Sends statements without parameters whose rows nobody wants. `name` stands for them in messages.
    pub fn execute(&mut self, name: &str, text: &str) -> Result<(), PostgresError> {
        let until = Deadline::after(self.patience);
        let result = self.live()?.execute(text, until);
        result.map_err(|trouble| self.explain(name, trouble))
    }

    /// The first column, as text, of every row of a query that is not ours. `name` stands for it in messages.
    pub fn texts(&mut self, name: &str, text: &str) -> Result<Vec<Option<String>>, PostgresError> {
        let until = Deadline::after(self.patience);
        let result = self.live()?.texts(text, until);
        result.map_err(|trouble| self.explain(name, trouble))
    }

    /// One column of a row that a statement returned.
    pub fn column<T: FromSqlOwned>(&self, statement: &Statement, row: &Row, name: &str) -> Result<T, PostgresError> {
        self.read(statement, column(row, name))
    }

    /// Turns a column that is not what it must be into an error that names the statement.
    fn read<T>(&self, statement: &Statement, value: Result<T, String>) -> Result<T, PostgresError> {
        value.map_err(|detail| PostgresError::Answer {
            server: self.server.clone(),
            statement: statement.name.to_owned(),
            detail,
        })
    }

    fn live(&self) -> Result<&Session, PostgresError> {
        let given_up = || PostgresError::Lost {
            server: self.server.clone(),
            detail: "it was given up after an earlier error".to_owned(),
        };
        self.session.as_ref().ok_or_else(given_up)
    }

    /// Passes the connection on if its server is of the wanted kind.
    fn meets(self, target: Target) -> Result<Connection, PostgresError> {
        let read_only = self.read_only || self.recovering;
        let met = match target {
            Target::Any | Target::PreferStandby => true,
            Target::Primary => !self.recovering,
            Target::Standby => self.recovering,
            Target::ReadWrite => !read_only,
            Target::ReadOnly => read_only,
        };
        if met {
            return Ok(self);
        }
        Err(PostgresError::WrongTarget { server: self.server, wanted: target.to_string() })
    }

    /// Says what an error in a session means. A connection that broke or hung is closed here and stays closed.
    fn explain(&mut self, statement: &str, trouble: Trouble) -> PostgresError {
        let server = self.server.clone();
        let statement = statement.to_owned();
        let error = match trouble {
            Trouble::Late => {
                self.session = None;
                return PostgresError::Hung { server, awaited: "answer a query", after: self.patience };
            }
            Trouble::System(source) => return PostgresError::System { source },
            Trouble::Driver(error) => error,
        };
        let detail = describe(&error);
        match error.code() {
            Some(code) if *code == SqlState::QUERY_CANCELED => {
                PostgresError::QueryTimeout { server, statement, after: self.patience }
            }
            Some(code) if !code.code().starts_with("57P") => {
                PostgresError::Query { server, statement, code: code.code().to_owned(), detail }
            }
            None if !error.is_closed() && !is_io(&error) => PostgresError::Answer { server, statement, detail },
            _ => {
                let words = self.session.take().and_then(|mut session| session.last_words());
                PostgresError::Lost { server, detail: words.as_ref().map_or(detail, describe) }
            }
        }
    }
}

/// True if the transport failed, not the statement.
fn is_io(error: &postgres::Error) -> bool {
    error.source().is_some_and(|source| source.is::<io::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_startup_options_come_before_those_of_the_connection_string() {
        let options = startup_options(Duration::from_secs(10), "-c statement_timeout=5");
        assert_eq!(options, "-c search_path= -c statement_timeout=9000 -c statement_timeout=5");
        assert_eq!(startup_options(Duration::from_millis(1), ""), "-c search_path= -c statement_timeout=1");
        // The server's setting is an integer of 32 bits, and 0 would mean "never".
        assert_eq!(server_patience(Duration::ZERO), 1);
        assert_eq!(server_patience(Duration::MAX), i32::MAX as u64);
    }

    fn refusal(detail: &str) -> PostgresError {
        let (server, user) = ("db1".to_owned(), "joe".to_owned());
        PostgresError::Authentication { server, user, detail: detail.to_owned() }
    }

    #[test]
    fn a_refusal_in_both_ways_names_both_reasons() {
        let text = refusal("no entry").joined(refusal("wrong password")).to_string();
        assert_eq!(text, "db1 refused user 'joe': no entry; and then: wrong password");
        let same = refusal("wrong password").joined(refusal("wrong password")).to_string();
        assert_eq!(same, "db1 refused user 'joe': wrong password");
    }
}
