//! From what was written to what is meant: explicit settings, then the service file, then the environment, then the
//! defaults, in libpq's order.
//!
//! The environment comes in as a value, so that tests choose it; the only things read here are the service file it
//! names. Certificates and the password file are read when a connection needs them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conninfo::{Conninfo, ConninfoError};
use super::keyword::KEYWORDS;
use super::passfile::Secret;
use super::service::{self, ServiceFile};
use super::tls::{RootCert, SslMode, TlsSettings, TlsVersion};

/// Where servers put their sockets: the directories of Debian's and Red Hat's packages, and of PostgreSQL itself.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The port a server listens on unless told otherwise.
const DEFAULT_PORT: u16 = 5432;

/// What surrounds the process, as far as connections care.
#[derive(Clone, Default)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The operating system's name of the user.
    pub user: Option<String>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The default socket directory.
    pub socket_directory: PathBuf,
}

impl Environment {
    /// That of this process: its `PG…` variables, the owner of its effective user id, `HOME`.
    pub fn of_process() -> Self {
        let variables: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("PG"))
            .collect();
        let present = SOCKET_DIRECTORIES.iter().map(Path::new).find(|directory| directory.is_dir());
        Environment {
            variables,
            user: whoami::username().ok(),
            home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
            socket_directory: present.unwrap_or(Path::new(SOCKET_DIRECTORIES[1])).to_owned(),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn in_home(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(name))
    }
}

/// The values are left out: PGPASSWORD is one of them.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.keys().collect();
        f.debug_struct("Environment").field("variables", &names).field("user", &self.user).finish_non_exhaustive()
    }
}

/// How a server is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The directory of its socket, or with a leading `@` a name in the abstract namespace.
    Socket(PathBuf),
    /// A host name or a numeric address.
    Name(String),
    /// Only by `hostaddr`.
    Unnamed,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    /// `hostaddr`: connect there without looking the name up.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.address) {
            (Host::Socket(directory), _) => write!(f, "'{}/.s.PGSQL.{}'", directory.display(), self.port),
            (Host::Name(name), Some(address)) => write!(f, "'{name}' ({address}) port {}", self.port),
            (Host::Name(name), None) => write!(f, "'{name}' port {}", self.port),
            (Host::Unnamed, Some(address)) => write!(f, "'{address}' port {}", self.port),
            (Host::Unnamed, None) => write!(f, "a server without a name"),
        }
    }
}

/// `target_session_attrs`: which server will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Any => "any",
            Target::ReadWrite => "read-write",
            Target::ReadOnly => "read-only",
            Target::Primary => "primary",
            Target::Standby => "standby",
            Target::PreferStandby => "prefer-standby",
        })
    }
}

/// `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// Probes of an idle TCP connection; a part that is none is left to the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalives {
    pub enabled: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    /// How long sent data may stay unacknowledged (`tcp_user_timeout`).
    pub user_timeout: Option<Duration>,
}

/// A connection string with everything decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The servers in the order to try them; never empty.
    pub endpoints: Vec<Endpoint>,
    pub user: String,
    pub dbname: String,
    pub password: Option<Secret>,
    pub passfile: Option<PathBuf>,
    /// The socket directory that counts as `localhost` in the password file.
    pub default_socket_directory: PathBuf,
    pub options: String,
    /// What the string says; connections of pgwarm carry their own.
    pub application_name: Option<String>,
    /// What the string says, for a replication connection.
    pub replication: Option<String>,
    /// How long one server may take; none: no limit of its own.
    pub connect_timeout: Option<Duration>,
    pub channel_binding: ChannelBinding,
    pub target: Target,
    /// Try the servers in random order (`load_balance_hosts=random`).
    pub shuffle: bool,
    pub keepalives: Keepalives,
    pub tls: TlsSettings,
}

impl Resolved {
    /// The host name under which the password file knows a server.
    pub fn passfile_host(&self, endpoint: &Endpoint) -> String {
        match (&endpoint.host, endpoint.address) {
            (Host::Socket(directory), _) if *directory == self.default_socket_directory => "localhost".to_owned(),
            (Host::Socket(directory), _) => directory.display().to_string(),
            (Host::Name(name), _) => name.clone(),
            (Host::Unnamed, Some(address)) => address.to_string(),
            (Host::Unnamed, None) => "localhost".to_owned(),
        }
    }
}

impl Conninfo {
    /// Completes the string from the service file, the environment and the defaults.
    pub fn resolve(&self, environment: &Environment) -> Result<Resolved, ConninfoError> {
        let merged = Merged { conninfo: merge(self, environment)?, environment };
        merged.refuse_unsupported()?;
        let user = merged.filled("user").map(str::to_owned).or_else(|| environment.user.clone());
        let user = user.ok_or(ConninfoError::NoUser)?;
        let target = merged.choice("target_session_attrs", Target::Any, TARGETS)?;
        Ok(Resolved {
            endpoints: merged.endpoints()?,
            dbname: merged.filled("dbname").unwrap_or(&user).to_owned(),
            user,
            password: merged.filled("password").map(Secret::new),
            passfile: merged.path("passfile").or_else(|| environment.in_home(".pgpass")),
            default_socket_directory: environment.socket_directory.clone(),
            options: merged.filled("options").unwrap_or_default().to_owned(),
            application_name: merged.filled("application_name").map(str::to_owned),
            replication: merged.filled("replication").map(str::to_owned),
            connect_timeout: merged.seconds("connect_timeout")?,
            channel_binding: merged.choice("channel_binding", ChannelBinding::Prefer, BINDINGS)?,
            target,
            shuffle: merged.choice("load_balance_hosts", false, &[("disable", false), ("random", true)])?,
            keepalives: merged.keepalives()?,
            tls: merged.tls()?,
        })
    }
}

type Choices<T> = &'static [(&'static str, T)];

const TARGETS: Choices<Target> = &[
    ("any", Target::Any),
    ("read-write", Target::ReadWrite),
    ("read-only", Target::ReadOnly),
    ("primary", Target::Primary),
    ("standby", Target::Standby),
    ("prefer-standby", Target::PreferStandby),
];

const BINDINGS: Choices<ChannelBinding> =
    &[("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

const SSL_MODES: Choices<SslMode> = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const TLS_VERSIONS: Choices<TlsVersion> = &[
    ("TLSv1", TlsVersion::Tls10),
    ("TLSv1.1", TlsVersion::Tls11),
    ("TLSv1.2", TlsVersion::Tls12),
    ("TLSv1.3", TlsVersion::Tls13),
];

/// Adds what the service file and the environment say about keywords that were not written.
fn merge(written: &Conninfo, environment: &Environment) -> Result<Conninfo, ConninfoError> {
    let mut merged = written.clone();
    let service = written.get("service").or_else(|| environment.variable("PGSERVICE")).filter(|name| !name.is_empty());
    if let Some(service) = service {
        for (keyword, value) in service::lookup(service, &service_files(written, environment))? {
            merged.set_missing(&keyword, value)?;
        }
    }
    for keyword in KEYWORDS {
        if let Some(value) = keyword.variable.and_then(|name| environment.variable(name)) {
            merged.set_missing(keyword.name, value)?;
        }
    }
    // The variable of libpq's early years; it still counts where nothing says sslmode.
    if environment.variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
        merged.set_missing("sslmode", "require")?;
    }
    Ok(merged)
}

/// The user's file, then the system's.
fn service_files(written: &Conninfo, environment: &Environment) -> Vec<ServiceFile> {
    let named = written.get("servicefile").or_else(|| environment.variable("PGSERVICEFILE"));
    let user = match named {
        Some(path) => Some(ServiceFile { path: PathBuf::from(path), named: true }),
        None => environment.in_home(".pg_service.conf").map(|path| ServiceFile { path, named: false }),
    };
    // Debian's packages and a build from source differ in the directory; the variable decides where it is set.
    let directories = match environment.variable("PGSYSCONFDIR") {
        Some(directory) => vec![directory],
        None => vec!["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"],
    };
    let system = directories
        .into_iter()
        .map(|directory| ServiceFile { path: Path::new(directory).join("pg_service.conf"), named: false });
    user.into_iter().chain(system).collect()
}

/// A completed string, still text.
struct Merged<'a> {
    conninfo: Conninfo,
    environment: &'a Environment,
}

impl Merged<'_> {
    /// The value of a keyword unless it is empty, which mostly means "the default".
    fn filled(&self, name: &str) -> Option<&str> {
        self.conninfo.get(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.filled(name).map(PathBuf::from)
    }

    fn choice<T: Copy>(&self, keyword: &'static str, default: T, choices: Choices<T>) -> Result<T, ConninfoError> {
        let Some(value) = self.conninfo.get(keyword) else { return Ok(default) };
        let found = choices.iter().find(|(word, _)| *word == value);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| ConninfoError::Value {
            keyword,
            value: value.to_owned(),
            allowed: allowed_words(keyword),
        })
    }

    fn integer(&self, keyword: &'static str) -> Result<Option<i64>, ConninfoError> {
        let Some(value) = self.filled(keyword) else { return Ok(None) };
        let wrong = |_| ConninfoError::Value { keyword, value: value.to_owned(), allowed: "a whole number" };
        value.trim().parse::<i32>().map(|number| Some(i64::from(number))).map_err(wrong)
    }

    /// Zero and less mean "not set".
    fn positive(&self, keyword: &'static str) -> Result<Option<u64>, ConninfoError> {
        Ok(self.integer(keyword)?.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0))
    }

    fn seconds(&self, keyword: &'static str) -> Result<Option<Duration>, ConninfoError> {
        Ok(self.positive(keyword)?.map(Duration::from_secs))
    }

    /// Divides a value at its commas; nothing written is one empty value.
    fn list(&self, keyword: &str) -> Vec<&str> {
        self.conninfo.get(keyword).unwrap_or_default().split(',').collect()
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, ConninfoError> {
        let (hosts, addresses, ports) = (self.list("host"), self.list("hostaddr"), self.list("port"));
        let by_address = self.filled("hostaddr").is_some();
        let by_host = self.filled("host").is_some();
        if by_address && by_host && addresses.len() != hosts.len() {
            return Err(ConninfoError::Count { keyword: "hostaddr", hosts: hosts.len(), count: addresses.len() });
        }
        let count = if by_address { addresses.len() } else { hosts.len() };
        if ports.len() != 1 && ports.len() != count {
            return Err(ConninfoError::Count { keyword: "port", hosts: count, count: ports.len() });
        }
        (0..count)
            .map(|index| {
                let host = hosts.get(index).copied().unwrap_or_default();
                let address = addresses.get(index).copied().unwrap_or_default();
                let port = if ports.len() == 1 { ports[0] } else { ports[index] };
                self.endpoint(host, if by_address { address } else { "" }, port)
            })
            .collect()
    }

    fn endpoint(&self, host: &str, address: &str, port: &str) -> Result<Endpoint, ConninfoError> {
        let value = |keyword, value: &str, allowed| ConninfoError::Value { keyword, value: value.to_owned(), allowed };
        let port = match port.trim() {
            "" => DEFAULT_PORT,
            text => match text.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return Err(value("port", text, "a number from 1 to 65535")),
            },
        };
        if !address.is_empty() {
            let parsed = address.parse().map_err(|_| value("hostaddr", address, "a numeric IPv4 or IPv6 address"))?;
            let host = if host.is_empty() { Host::Unnamed } else { Host::Name(host.to_owned()) };
            return Ok(Endpoint { host, address: Some(parsed), port });
        }
        let host = match host {
            "" => Host::Socket(self.environment.socket_directory.clone()),
            path if path.starts_with(['/', '@']) => Host::Socket(PathBuf::from(path)),
            name => Host::Name(name.to_owned()),
        };
        Ok(Endpoint { host, address: None, port })
    }

    fn keepalives(&self) -> Result<Keepalives, ConninfoError> {
        let count = self.positive("keepalives_count")?.and_then(|count| u32::try_from(count).ok());
        Ok(Keepalives {
            enabled: self.integer("keepalives")? != Some(0),
            idle: self.seconds("keepalives_idle")?,
            interval: self.seconds("keepalives_interval")?,
            count,
            user_timeout: self.positive("tcp_user_timeout")?.map(Duration::from_millis),
        })
    }

    fn tls(&self) -> Result<TlsSettings, ConninfoError> {
        let root = match self.filled("sslrootcert") {
            Some("system") => RootCert::System,
            Some(path) => RootCert::File(PathBuf::from(path)),
            None => self.home_file("root.crt").map_or(RootCert::Unset, RootCert::File),
        };
        let default = if root == RootCert::System { SslMode::VerifyFull } else { SslMode::Prefer };
        let mode = self.choice("sslmode", default, SSL_MODES)?;
        if root == RootCert::System && mode != SslMode::VerifyFull {
            let word = self.filled("sslmode").unwrap_or_default();
            let text = format!("sslmode={word} is too weak for sslrootcert=system, which needs sslmode=verify-full");
            return Err(ConninfoError::Contradiction(text));
        }
        let negotiation: Choices<bool> = &[("postgres", false), ("direct", true)];
        let direct = self.choice("sslnegotiation", false, negotiation)?;
        if direct && mode < SslMode::Require {
            let text = "sslnegotiation=direct needs sslmode=require or stronger".to_owned();
            return Err(ConninfoError::Contradiction(text));
        }
        let send_certificate = self.choice("sslcertmode", true, &[("disable", false), ("allow", true)])?;
        let newest = self.choice("ssl_max_protocol_version", TlsVersion::Tls13, TLS_VERSIONS)?;
        if newest < TlsVersion::Tls12 {
            return Err(
                self.unsupported("ssl_max_protocol_version", "Allow at least TLSv1.2; older versions are unsafe.")
            );
        }
        Ok(TlsSettings {
            mode,
            root,
            certificate: self.path("sslcert").or_else(|| self.home_file("postgresql.crt")).filter(|_| send_certificate),
            key: self.path("sslkey").or_else(|| self.home_file("postgresql.key")),
            revocation: self.path("sslcrl").or_else(|| self.home_file("root.crl")),
            revocation_directory: self.path("sslcrldir"),
            name_indication: self.integer("sslsni")? != Some(0),
            direct,
            home: self.environment.in_home(".postgresql"),
            oldest: self.choice("ssl_min_protocol_version", TlsVersion::Tls12, TLS_VERSIONS)?,
            newest,
        })
    }

    fn home_file(&self, name: &str) -> Option<PathBuf> {
        self.environment.in_home(".postgresql").map(|folder| folder.join(name))
    }

    fn unsupported(&self, keyword: &'static str, advice: &'static str) -> ConninfoError {
        let value = self.filled(keyword).unwrap_or_default().to_owned();
        ConninfoError::Unsupported { keyword, value, advice }
    }

    /// Refuses what libpq would enforce and this program cannot: ignoring it would make a connection less safe than
    /// asked.
    fn refuse_unsupported(&self) -> Result<(), ConninfoError> {
        if self.filled("require_auth").is_some() {
            return Err(self.unsupported(
                "require_auth",
                "Use channel_binding=require or sslmode=verify-full to be sure of the server.",
            ));
        }
        if self.filled("requirepeer").is_some() {
            return Err(self.unsupported(
                "requirepeer",
                "Put the socket into a directory that only the server's user can write to.",
            ));
        }
        if self.filled("gssencmode") == Some("require") {
            return Err(self.unsupported("gssencmode", "Use TLS instead: gssencmode=disable sslmode=verify-full."));
        }
        if self.filled("sslcertmode") == Some("require") {
            return Err(
                self.unsupported("sslcertmode", "Demand the certificate on the server: clientcert=verify-full.")
            );
        }
        if self.filled("sslpassword").is_some() {
            let advice = "Store the key without a pass phrase, in a file of mode 0600.";
            return Err(ConninfoError::Unsupported { keyword: "sslpassword", value: "(not shown)".to_owned(), advice });
        }
        Ok(())
    }
}

/// The words a keyword allows, for its error.
fn allowed_words(keyword: &str) -> &'static str {
    match keyword {
        "target_session_attrs" => "any, read-write, read-only, primary, standby, prefer-standby",
        "channel_binding" => "disable, prefer, require",
        "load_balance_hosts" => "disable, random",
        "sslmode" => "disable, allow, prefer, require, verify-ca, verify-full",
        "sslnegotiation" => "postgres, direct",
        "sslcertmode" => "disable, allow, require",
        "ssl_min_protocol_version" | "ssl_max_protocol_version" => "TLSv1, TLSv1.1, TLSv1.2, TLSv1.3",
        _ => "see PostgreSQL's manual",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Explain;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment {
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            user: Some("osuser".to_owned()),
            home: Some(PathBuf::from("/home/osuser")),
            socket_directory: PathBuf::from("/var/run/postgresql"),
        }
    }

    fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Resolved, ConninfoError> {
        Conninfo::parse(text)?.resolve(&environment(variables))
    }

    fn resolved(text: &str) -> Resolved {
        resolve(text, &[]).expect("because the text is right")
    }

    fn places(text: &str) -> Vec<String> {
        resolved(text).endpoints.iter().map(Endpoint::to_string).collect()
    }

    #[test]
    fn nothing_written_means_the_defaults() {
        let all = resolved("");
        assert_eq!(places(""), ["'/var/run/postgresql/.s.PGSQL.5432'"]);
        assert_eq!((all.user.as_str(), all.dbname.as_str()), ("osuser", "osuser"));
        assert_eq!(all.passfile.as_deref(), Some(Path::new("/home/osuser/.pgpass")));
        assert_eq!((all.tls.mode, all.target), (SslMode::Prefer, Target::Any));
        assert_eq!(all.tls.root, RootCert::File(PathBuf::from("/home/osuser/.postgresql/root.crt")));
        assert_eq!(resolved("user=joe").dbname, "joe");
        assert_eq!((all.connect_timeout, all.password), (None, None));
    }

    #[test]
    fn explicit_goes_before_service_before_environment() {
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        let file = folder.path().join("services");
        std::fs::write(&file, "[s]\nuser=service\nport=1111\n").expect("because the directory is ours");
        let path = file.display().to_string();
        let variables =
            [("PGSERVICEFILE", path.as_str()), ("PGUSER", "env"), ("PGPORT", "2222"), ("PGDATABASE", "envdb")];
        let all = resolve("service=s user=written", &variables).expect("because all is right");
        assert_eq!((all.user.as_str(), all.endpoints[0].port, all.dbname.as_str()), ("written", 1111, "envdb"));
        let without = resolve("", &variables).expect("because all is right");
        assert_eq!((without.user.as_str(), without.endpoints[0].port), ("env", 2222));
        let named = resolve("", &[&variables[..], &[("PGSERVICE", "s")]].concat()).expect("because all is right");
        assert_eq!(named.user, "service");
        assert!(matches!(resolve("service=x", &variables), Err(ConninfoError::Service(_))));
    }

    #[test]
    fn the_environment_supplies_every_part() {
        let all = resolve(
            "",
            &[
                ("PGHOST", "db1"),
                ("PGPASSWORD", "pw"),
                ("PGPASSFILE", "/p"),
                ("PGSSLMODE", "verify-ca"),
                ("PGSSLROOTCERT", "/ca"),
                ("PGSSLCERT", "/c"),
                ("PGSSLKEY", "/k"),
                ("PGCONNECT_TIMEOUT", "7"),
                ("PGAPPNAME", "app"),
                ("PGTARGETSESSIONATTRS", "standby"),
                ("PGCHANNELBINDING", "require"),
            ],
        )
        .expect("because all is right");
        assert_eq!(all.password, Some(Secret::new("pw")));
        assert_eq!(all.passfile, Some(PathBuf::from("/p")));
        assert_eq!((all.tls.mode, &all.tls.root), (SslMode::VerifyCa, &RootCert::File(PathBuf::from("/ca"))));
        assert_eq!((all.tls.certificate, all.tls.key), (Some(PathBuf::from("/c")), Some(PathBuf::from("/k"))));
        assert_eq!(all.connect_timeout, Some(Duration::from_secs(7)));
        assert_eq!((all.target, all.channel_binding), (Target::Standby, ChannelBinding::Require));
        assert_eq!(all.application_name.as_deref(), Some("app"));
        let old = resolve("", &[("PGREQUIRESSL", "1")]).expect("because all is right");
        assert_eq!(old.tls.mode, SslMode::Require);
    }

    #[test]
    fn hosts_addresses_and_ports_are_paired() {
        assert_eq!(places("host=a,b port=1,2"), ["'a' port 1", "'b' port 2"]);
        assert_eq!(places("host=a,b port=7"), ["'a' port 7", "'b' port 7"]);
        assert_eq!(
            places("host=a,,/s port=1,,"),
            ["'a' port 1", "'/var/run/postgresql/.s.PGSQL.5432'", "'/s/.s.PGSQL.5432'"]
        );
        assert_eq!(places("host=a hostaddr=127.0.0.1"), ["'a' (127.0.0.1) port 5432"]);
        assert_eq!(places("hostaddr=::1,127.0.0.1"), ["'::1' port 5432", "'127.0.0.1' port 5432"]);
        for wrong in ["host=a,b port=1,2,3", "host=a,b hostaddr=::1", "port=1,2"] {
            assert!(matches!(resolve(wrong, &[]), Err(ConninfoError::Count { .. })), "{wrong}");
        }
        for wrong in ["port=0", "port=65536", "port=x", "hostaddr=db1"] {
            assert!(matches!(resolve(wrong, &[]), Err(ConninfoError::Value { .. })), "{wrong}");
        }
    }

    #[test]
    fn wrong_values_are_refused_with_the_right_ones() {
        let error = resolve("sslmode=yes", &[]).expect_err("because there is no such mode");
        let message =
            "'yes' is no value for 'sslmode'; allowed: disable, allow, prefer, require, verify-ca, verify-full";
        assert_eq!(error.to_string(), message);
        for wrong in ["connect_timeout=1s", "target_session_attrs=master", "channel_binding=on", "keepalives=x"] {
            assert!(matches!(resolve(wrong, &[]), Err(ConninfoError::Value { .. })), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_and_not_ignored() {
        for text in [
            "require_auth=scram-sha-256",
            "requirepeer=postgres",
            "gssencmode=require",
            "sslcertmode=require",
            "sslpassword=x",
            "ssl_max_protocol_version=TLSv1.1",
        ] {
            let error = resolve(text, &[]).expect_err("because it is not supported");
            assert!(matches!(error, ConninfoError::Unsupported { .. }), "{text}: {error}");
            assert!(error.hint().is_some());
        }
        for text in ["sslrootcert=system sslmode=require", "sslnegotiation=direct"] {
            assert!(matches!(resolve(text, &[]), Err(ConninfoError::Contradiction(_))), "{text}");
        }
        assert_eq!(resolved("sslrootcert=system").tls.mode, SslMode::VerifyFull);
    }

    #[test]
    fn the_password_file_knows_sockets_in_the_default_directory_as_localhost() {
        let host = |text: &str| {
            let all = resolved(text);
            all.passfile_host(&all.endpoints[0])
        };
        assert_eq!(host(""), "localhost");
        assert_eq!(host("host=/srv/sockets"), "/srv/sockets");
        assert_eq!(host("host=db1 hostaddr=127.0.0.1"), "db1");
        assert_eq!(host("hostaddr=127.0.0.1"), "127.0.0.1");
    }

    #[test]
    fn no_password_is_printed() {
        let all = resolve("password=s3cret", &[("PGPASSWORD", "s3cret")]).expect("because all is right");
        assert!(!format!("{all:?} {:?}", environment(&[("PGPASSWORD", "s3cret")])).contains("s3cret"));
    }
}
