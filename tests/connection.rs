//! Connections against real servers, with psql as the oracle: whatever libpq lets in or keeps out, we do too.
//!
//! Every test starts its own PostgreSQL in a temporary directory, as user `postgres` when the tests run as root.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgwarm::postgres::connection::{Connection, Statement, connect, connect_resolved};
use pgwarm::postgres::conninfo::Conninfo;
use pgwarm::postgres::error::PostgresError;
use pgwarm::postgres::resolve::Environment;
use pgwarm::postgres::settings::Settings;
use rustix::process::{Pid, Signal, kill_process};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a program to its end; its failure is the test's.
fn run(program: &mut Command) -> String {
    let output = program.output().expect("because the program is installed");
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server's program, as a user whom PostgreSQL does not refuse.
fn as_postgres(program: &str) -> Command {
    let program = format!("{BIN}/{program}");
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

fn give_to_postgres(path: &Path) {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").args(["-R", "postgres:postgres"]).arg(path));
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("because the directory is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("because the file is ours");
}

/// A directory with two authorities, a server certificate for `localhost` and a client certificate for `certuser`.
fn make_certificates(folder: &Path) {
    fs::create_dir_all(folder).expect("because the directory is ours");
    let openssl = |arguments: &str| {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(folder));
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "other"] {
        openssl(&format!("req -x509 {new} -keyout {authority}.key -out {authority}.crt -subj /CN={authority} -days 2"));
    }
    for (name, subject, extension) in [
        ("server", "/CN=anything", "subjectAltName=DNS:localhost"),
        ("common", "/CN=localhost", "keyUsage=digitalSignature"),
        ("client", "/CN=certuser", "keyUsage=digitalSignature"),
    ] {
        openssl(&format!("req {new} -keyout {name}.key -out {name}.csr -subj {subject} -addext {extension}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -copy_extensions copy"
        ));
    }
    openssl(&format!(
        "req -x509 {new} -keyout self.key -out self.crt -subj /CN=localhost -days 2 -addext subjectAltName=DNS:localhost"
    ));
}

const HBA: &str = "
local     all postgres            trust
local     all all                 scram-sha-256
host      all trusty   127.0.0.1/32 trust
hostssl   all certuser 127.0.0.1/32 cert
hostssl   all tlsonly  127.0.0.1/32 trust
hostnossl all plainonly 127.0.0.1/32 trust
hostssl   all mixed    127.0.0.1/32 trust
host      all joe,mixed 127.0.0.1/32 scram-sha-256
";

struct Server {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Server {
    /// Makes a cluster and starts it; `settings` are lines of postgresql.conf.
    fn start(settings: &str) -> Server {
        let server = Server::launch(settings, &[]);
        server.wait().execute("users", USERS).expect("because the cluster is new");
        server
    }

    /// Waits until the server takes sessions.
    fn wait(&self) -> Connection {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.connect_as_superuser() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < until, "the server does not start: {error}; {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a new cluster without waiting for it.
    fn launch(settings: &str, signals: &[&str]) -> Server {
        let folder = tempfile::Builder::new().prefix("pgw").tempdir().expect("because /tmp is writable");
        let data = folder.path().join("data");
        make_certificates(&folder.path().join("tls"));
        give_to_postgres(folder.path());
        run(as_postgres("initdb").args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"]).arg(&data));
        let listener = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
        let port = listener.local_addr().expect("because it is bound").port();
        drop(listener);
        let tls = folder.path().join("tls");
        let conf = format!(
            "port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{}'\nfsync=off\nssl=on\n\
             ssl_cert_file='{tls}/server.crt'\nssl_key_file='{tls}/server.key'\nssl_ca_file='{tls}/ca.crt'\n{settings}\n",
            folder.path().display(),
            tls = tls.display(),
        );
        fs::write(data.join("postgresql.conf"), conf).expect("because the directory is ours");
        fs::write(data.join("pg_hba.conf"), HBA).expect("because the directory is ours");
        for signal in signals {
            fs::write(data.join(signal), "").expect("because the directory is ours");
        }
        give_to_postgres(folder.path());
        let log = fs::File::create(folder.path().join("log")).expect("because the directory is ours");
        let child = as_postgres("postgres").arg("-D").arg(&data).stdout(Stdio::null()).stderr(log).spawn();
        Server { port, child: child.expect("because PostgreSQL is installed"), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self, name: &str) -> String {
        self.path("tls").join(name).display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn socket(&self, user: &str) -> String {
        format!("host={} port={} user={user} dbname=postgres", self.folder.path().display(), self.port)
    }

    /// Over TCP; the name is never looked up.
    fn tcp(&self, host: &str, user: &str) -> String {
        format!("host={host} hostaddr=127.0.0.1 port={} user={user} dbname=postgres", self.port)
    }

    fn connect_as_superuser(&self) -> Result<Connection, PostgresError> {
        ours(&self.socket("postgres"), &[], PATIENCE)
    }

    fn superuser(&self) -> Connection {
        self.connect_as_superuser().expect("because the socket trusts the superuser")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("because the server is our child");
    }

    /// Changes a setting and waits until new sessions see it.
    fn alter(&self, name: &'static str, value: &str) {
        let mut session = self.superuser();
        session.execute("alter", &format!("ALTER SYSTEM SET {name} = '{value}'")).expect("because it is the superuser");
        session.execute("reload", "SELECT pg_reload_conf()").expect("because it is the superuser");
        let show = Statement { name: "show", text: "SELECT current_setting($1)" };
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let row = self.superuser().query_one(&show, &[&name]).expect("because the setting exists");
            if row.get::<_, String>(0) == value {
                return;
            }
            assert!(Instant::now() < until, "the setting {name} does not change");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A stopped server would not see the order to end.
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::CONT);
        let _ = kill_process(pid, Signal::INT);
        let _ = self.child.wait();
    }
}

const USERS: &str = "
CREATE ROLE trusty LOGIN;
CREATE ROLE certuser LOGIN;
CREATE ROLE tlsonly LOGIN;
CREATE ROLE plainonly LOGIN;
CREATE ROLE mixed LOGIN;
CREATE ROLE joe LOGIN PASSWORD 'secret';
";

fn environment(variables: &[(&str, &str)]) -> Environment {
    let home = variables.iter().find(|(name, _)| *name == "HOME").map(|(_, home)| PathBuf::from(home));
    Environment {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        user: Some("nobody".to_owned()),
        home: Some(home.unwrap_or(PathBuf::from("/nonexistent"))),
        socket_directory: PathBuf::from("/var/run/postgresql"),
    }
}

fn ours(text: &str, variables: &[(&str, &str)], deadline: Duration) -> Result<Connection, PostgresError> {
    connect_resolved(&Conninfo::parse(text)?.resolve(&environment(variables))?, deadline, "test")
}

/// What psql says: encrypted or not, or why not.
fn psql(text: &str, variables: &[(&str, &str)]) -> Result<bool, String> {
    let mut command = Command::new("psql");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").env("LC_ALL", "C");
    command.envs(variables.iter().copied());
    let query = "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";
    let output = command.args(["-w", "-XAtc", query, "-d", text]).output().expect("because psql is installed");
    if output.status.success() {
        Ok(output.stdout.starts_with(b"t"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Checks that psql and we come to the same end: connected, encrypted, or neither.
fn agree(text: &str, variables: &[(&str, &str)]) -> Result<bool, PostgresError> {
    let theirs = psql(text, variables);
    let own = ours(text, variables, PATIENCE).map(|connection| connection.is_encrypted());
    let same = match (&theirs, &own) {
        (Ok(theirs), Ok(own)) => theirs == own,
        (Err(_), Err(_)) => true,
        _ => false,
    };
    assert!(same, "{text} {variables:?}\npsql: {theirs:?}\nours: {own:?}");
    own
}

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

#[test]
fn every_sslmode_ends_as_in_psql() {
    let server = Server::start("");
    let mut connected = 0;
    for mode in MODES {
        for root in ["ca.crt", "other.crt", "absent.crt"] {
            for host in ["localhost", "wrong.example"] {
                for user in ["trusty", "plainonly", "tlsonly"] {
                    let text = format!("{} sslmode={mode} sslrootcert={}", server.tcp(host, user), server.tls(root));
                    connected += usize::from(agree(&text, &[]).is_ok());
                }
            }
        }
    }
    // Guards against a matrix in which everything fails alike.
    assert!((40..80).contains(&connected), "{connected} of 108 connected");
    let wrong_name =
        format!("{} sslmode=verify-full sslrootcert={}", server.tcp("wrong.example", "trusty"), server.tls("ca.crt"));
    assert!(matches!(ours(&wrong_name, &[], PATIENCE), Err(PostgresError::Tls { .. })));
    let unnamed = format!(
        "hostaddr=127.0.0.1 port={} user=trusty dbname=postgres sslrootcert={}",
        server.port,
        server.tls("ca.crt")
    );
    for mode in MODES {
        let _ = agree(&format!("{unnamed} sslmode={mode}"), &[]);
    }
    // A socket knows no TLS, whatever the mode.
    assert!(
        !ours(&format!("{} sslmode=require", server.socket("postgres")), &[], PATIENCE)
            .expect("because it is a socket")
            .is_encrypted()
    );

    for (certificate, root) in [("common", "ca.crt"), ("self", "self.crt")] {
        server.alter("ssl_key_file", &server.tls(&format!("{certificate}.key")));
        server.alter("ssl_cert_file", &server.tls(&format!("{certificate}.crt")));
        for host in ["localhost", "wrong.example"] {
            let text = format!("{} sslmode=verify-full sslrootcert={}", server.tcp(host, "trusty"), server.tls(root));
            assert_eq!(agree(&text, &[]).is_ok(), host == "localhost", "{certificate} {host}");
        }
    }

    server.alter("ssl", "off");
    for mode in MODES {
        for user in ["trusty", "plainonly", "tlsonly"] {
            let text = format!("{} sslmode={mode} sslrootcert={}", server.tcp("localhost", user), server.tls("ca.crt"));
            let _ = agree(&text, &[]);
        }
    }
    let required = format!("{} sslmode=require", server.tcp("localhost", "trusty"));
    assert!(matches!(ours(&required, &[], PATIENCE), Err(PostgresError::Tls { .. })));
}

#[test]
fn users_prove_who_they_are_as_with_psql() {
    let server = Server::start("");
    let home = server.path("home");
    fs::create_dir_all(home.join(".postgresql")).expect("because the directory is ours");
    let home_text = home.display().to_string();
    let at_home = [("HOME", home_text.as_str())];
    let joe = server.tcp("localhost", "joe");

    assert!(agree(&format!("{joe} password=secret"), &[]).expect("because the password is right"));
    assert!(!agree(&format!("{joe} password=secret sslmode=disable"), &[]).expect("because the password is right"));
    for wrong in ["password=wrong", "password=wrong sslmode=require"] {
        let error = agree(&format!("{joe} {wrong}"), &[]).expect_err("because the password is wrong");
        assert!(matches!(error, PostgresError::Authentication { .. }), "{error}");
        assert!(error.proves_alive());
    }
    let none = agree(&joe, &[]).expect_err("because there is no password");
    assert!(matches!(none, PostgresError::NoPassword { .. }), "{none}");
    // Without a password nobody was refused, so the other way is not tried: plain text asks, TLS would not.
    assert!(agree(&format!("{} sslmode=allow", server.tcp("localhost", "mixed")), &[]).is_err());
    assert!(agree(&server.tcp("localhost", "mixed"), &[]).is_ok());
    assert!(agree(&joe, &[("PGPASSWORD", "secret")]).is_ok());
    assert!(agree(&format!("{joe} password=secret channel_binding=require"), &[]).is_ok());
    assert!(agree(&format!("{joe} password=secret channel_binding=require sslmode=disable"), &[]).is_err());

    let lines =
        format!("# joe\nlocalhost:{}:*:joe:secret\n{}:*:*:joe:secret\n", server.port, server.folder.path().display());
    write(&home.join(".pgpass"), &lines, 0o600);
    assert!(agree(&joe, &at_home).is_ok());
    assert!(agree(&server.socket("joe"), &at_home).is_ok());
    assert!(agree(&server.tcp("wrong.example", "joe"), &at_home).is_err());
    write(&home.join(".pgpass"), &lines, 0o644);
    assert!(agree(&joe, &at_home).is_err());
    let passfile = home.join("elsewhere");
    write(&passfile, "*:*:*:*:sec\\ret\n", 0o600);
    assert!(agree(&format!("{joe} passfile={}", passfile.display()), &[]).is_ok());

    let service =
        format!("[db]\nhost=localhost\nhostaddr=127.0.0.1\nport={}\nuser=trusty\ndbname=postgres\n", server.port);
    write(&home.join(".pg_service.conf"), &service, 0o644);
    assert!(agree("service=db", &at_home).is_ok());
    assert!(agree("service=other", &at_home).is_err());
    assert!(agree("", &[at_home[0], ("PGSERVICE", "db")]).is_ok());

    let cert = format!("{} sslmode=require", server.tcp("localhost", "certuser"));
    assert!(agree(&cert, &[]).is_err());
    let (crt, key) = (home.join(".postgresql/postgresql.crt"), home.join(".postgresql/postgresql.key"));
    fs::copy(server.tls("client.crt"), &crt).expect("because both are ours");
    assert!(agree(&cert, &at_home).is_err(), "a certificate without its key");
    fs::copy(server.tls("client.key"), &key).expect("because both are ours");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("because it is ours");
    assert!(agree(&cert, &at_home).is_err(), "a key that others can read");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("because it is ours");
    assert!(agree(&cert, &at_home).is_ok());
    let named = format!("{cert} sslcert={} sslkey={}", crt.display(), key.display());
    assert!(agree(&named, &[]).is_ok());

    let missing = ours(&server.tcp("localhost", "trusty").replace("dbname=postgres", "dbname=none"), &[], PATIENCE);
    assert!(matches!(missing, Err(PostgresError::Rejected { code, .. }) if code == "3D000"));
}

#[test]
fn a_session_answers_and_every_statement_is_bounded() {
    let server = Server::start("archive_mode=on\narchive_command='/bin/true'");
    let mut session = server.superuser();
    assert!((150_000..160_000).contains(&session.server_version_num()));
    assert!(!session.is_in_recovery().expect("because the server is up"));
    let facts = session.node_facts().expect("because the server is up");
    assert_eq!((facts.timeline.0, facts.in_recovery, facts.segment_size.bytes()), (1, false, 16 << 20));
    assert_eq!(facts.archive_command.as_deref(), Some("/bin/true"));
    assert_eq!(facts.data_directory, Some(server.path("data")));
    assert!(facts.current.is_some() && facts.replayed.is_none() && facts.system_id.0 > 0);
    // A role without any right sees less, and no error.
    let stranger = ours(&server.tcp("localhost", "trusty"), &[], PATIENCE).expect("because it is trusted").node_facts();
    let stranger = stranger.expect("because what it may not see is empty");
    assert_eq!((stranger.data_directory, stranger.system_id), (None, facts.system_id));
    session.execute("write", "CREATE TABLE public.t AS SELECT 1").expect("because the server is up");
    let switched = session.switch_wal().expect("because it is a primary");
    assert_eq!((switched.segment.len(), switched.end > facts.current.unwrap_or_default()), (24, true));
    let name = Statement { name: "name", text: "SELECT current_setting('application_name')" };
    assert_eq!(session.query_one(&name, &[]).expect("because the server is up").get::<_, String>(0), "pgwarm test");
    let refused = session.execute("nonsense", "SELECT nonsense").expect_err("because there is no such column");
    assert!(matches!(refused, PostgresError::Query { ref code, .. } if code == "42703"), "{refused}");

    session.set_patience(Duration::from_millis(500)).expect("because the server is up");
    let slow = session.execute("slow", "SELECT pg_sleep(30)").expect_err("because it is too slow");
    assert!(matches!(slow, PostgresError::QueryTimeout { .. }), "{slow}");
    assert!(session.is_in_recovery().is_ok(), "the session lives on");

    let backend = Statement { name: "backend", text: "SELECT pg_backend_pid()" };
    let pid = session.query_one(&backend, &[]).expect("because the server is up").get::<_, i32>(0);
    let mut other = server.superuser();
    // Waits until the backend is gone: its last words are there before the next question is asked.
    let kill = Statement { name: "kill", text: "SELECT pg_terminate_backend($1, 10000)" };
    other.query_one(&kill, &[&pid]).expect("because it is the superuser");
    let lost = session.is_in_recovery().expect_err("because the session was ended");
    assert!(matches!(lost, PostgresError::Lost { ref detail, .. } if detail.contains("administrator")), "{lost}");
    assert!(matches!(session.is_in_recovery(), Err(PostgresError::Lost { .. })));
    // The public way in reads the environment of this process.
    let plain = Conninfo::parse(&server.socket("postgres")).expect("because it is right");
    assert!(connect(&plain, PATIENCE, "test").is_ok());
}

#[test]
fn several_hosts_are_tried_in_order_for_the_right_kind() {
    let server = Server::start("");
    let closed = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
    let port = closed.local_addr().expect("because it is bound").port();
    drop(closed);
    let both = format!(
        "host=127.0.0.1,localhost hostaddr=127.0.0.1,127.0.0.1 port={port},{} user=trusty dbname=postgres",
        server.port
    );
    for target in ["any", "primary", "read-write", "standby", "read-only", "prefer-standby"] {
        let found = agree(&format!("{both} target_session_attrs={target}"), &[]);
        assert_eq!(found.is_ok(), !matches!(target, "standby" | "read-only"), "{target}");
    }
    let error = ours(&format!("{both} target_session_attrs=standby"), &[], PATIENCE).err().map(|error| {
        error
            .leaves()
            .iter()
            .map(|leaf| format!("{leaf:?}").split(' ').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    });
    assert_eq!(error, Some(vec!["Refused".to_owned(), "WrongTarget".to_owned()]));
    server.alter("default_transaction_read_only", "on");
    for target in ["primary", "read-write", "read-only", "standby"] {
        let _ = agree(&format!("{both} target_session_attrs={target}"), &[]);
    }
}

#[test]
fn a_standby_is_told_from_a_primary() {
    let primary = Server::start("");
    // A cluster of its own that waits for WAL: to a client it is a standby like any other.
    let standby = Server::launch("restore_command='/bin/false'", &["standby.signal"]);
    let mut session = standby.wait();
    let facts = session.node_facts().expect("because the server is up");
    assert_eq!((facts.in_recovery, facts.timeline.0, facts.current), (true, 1, None));
    assert!(facts.replayed.is_some() && facts.received.is_none());
    assert_eq!(facts.restore_command.as_deref(), Some("/bin/false"));
    assert!(matches!(session.switch_wal(), Err(PostgresError::Query { code, .. }) if code == "55000"));
    let both = format!(
        "host={},{} port={},{} user=postgres dbname=postgres",
        primary.folder.path().display(),
        standby.folder.path().display(),
        primary.port,
        standby.port
    );
    for (target, wanted) in [
        ("any", &primary),
        ("primary", &primary),
        ("read-write", &primary),
        ("standby", &standby),
        ("read-only", &standby),
        ("prefer-standby", &standby),
    ] {
        let found = ours(&format!("{both} target_session_attrs={target}"), &[], PATIENCE);
        let found = found.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert!(found.server().contains(&wanted.port.to_string()), "{target}: {}", found.server());
    }
}

#[test]
fn a_revoked_server_is_refused_as_by_psql() {
    let server = Server::start("");
    let folder = server.path("tls");
    let config = "[ca]\ndefault_ca=own\n[own]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=2\n\
                  crlnumber=number\ncrl_extensions=list\n[list]\nauthorityKeyIdentifier=keyid\n";
    write(&folder.join("ca.conf"), config, 0o644);
    write(&folder.join("index"), "", 0o644);
    write(&folder.join("number"), "01\n", 0o644);
    let openssl = |arguments: &str| {
        let authority = "ca -config ca.conf -cert ca.crt -keyfile ca.key";
        run(Command::new("openssl").args(format!("{authority} {arguments}").split(' ')).current_dir(&folder));
    };
    let text = format!(
        "{} sslmode=verify-full sslrootcert={} sslcrl={}",
        server.tcp("localhost", "trusty"),
        server.tls("ca.crt"),
        server.tls("list.crl")
    );
    openssl("-gencrl -out list.crl");
    assert!(agree(&text, &[]).is_ok());
    openssl("-revoke server.crt");
    openssl("-gencrl -out list.crl");
    let error = agree(&text, &[]).expect_err("because the certificate is revoked");
    assert!(matches!(error, PostgresError::Tls { ref detail, .. } if detail.contains("evoked")), "{error}");
}

#[test]
fn connection_strings_are_read_as_psql_reads_them() {
    let server = Server::start("");
    let base = server.socket("postgres");
    let uri = format!("postgresql://postgres@/postgres?host={}&port={}", server.folder.path().display(), server.port);
    let mut read = 0;
    for tail in [
        "application_name=plain",
        "application_name = 'a b'",
        r"application_name='it\'s \\ here'",
        r"application_name=a\ b\'c",
        "application_name=o'brien",
        "application_name='a'connect_timeout=5",
        "application_name= connect_timeout=5",
        "application_name=a application_name=b",
        "application_name=a\\",
        "application_name=''",
        "application_name='open",
        "application_name",
        "aplication_name=a",
        "=a",
        "APPLICATION_NAME=a",
        "&application_name=a%20b",
        "&application_name=a%3Db",
        "&application_name=a=b",
        "&application_name=a+b",
        "&application_name=a b",
        "&application_name=%zz",
        "&application_name=%00",
        "&application_name",
        "&application_name=",
        "&ssl=true&application_name=x",
    ] {
        let text = if tail.starts_with('&') { format!("{uri}{tail}") } else { format!("{base} {tail}") };
        let mut command = Command::new("psql");
        command.env_clear().env("PATH", "/usr/bin:/bin").args(["-XAtc", "SHOW application_name", "-d", &text]);
        let output = command.output().expect("because psql is installed");
        let theirs = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        let own = Conninfo::parse(&text).ok();
        let own = own.map(|conninfo| conninfo.get("application_name").unwrap_or_default().to_owned());
        // psql puts its own name where none is written.
        let theirs = theirs.map(|name| if name == "psql" { String::new() } else { name });
        assert_eq!(own, theirs, "{text}: {}", String::from_utf8_lossy(&output.stderr));
        read += usize::from(own.is_some());
    }
    assert!((12..20).contains(&read), "{read} of 25 were right");
}

#[test]
fn configuration_files_are_read_as_the_server_reads_them() {
    let folder = tempfile::Builder::new().prefix("pgw").tempdir().expect("because /tmp is writable");
    let data = folder.path().join("data");
    give_to_postgres(folder.path());
    run(as_postgres("initdb").args(["--no-sync", "-A", "trust", "-D"]).arg(&data));
    let mut read = 0;
    for line in [
        "x.y = plain",
        "x.y 'a b' # why",
        "x.y='it''s'",
        r"x.y='it\'s\t\101\\'",
        "x.y=5#why",
        "X.Y = 128MB",
        "x.y = -1",
        "x.y = +1.5e3",
        "x.y = .5",
        "x.y = 0x1F",
        "x.y = a-b.c:d/e",
        "x.y = /a/b",
        "x.y = a*b",
        "x.y = a,b",
        "x.y = ''",
        "x.y",
        "x.y =",
        "x.y = = a",
        "x.y = a b",
        "x.y = 'open",
        "x.y = \"a\"",
        "5 = a",
        "x.y = 5a",
        "x.y = 1.5.2",
        "x.y = -a",
        "x.y = :a",
        "x.y = 10.0.0.1",
        "x.y = a@b",
    ] {
        fs::write(data.join("postgresql.conf"), format!("port = 1\n{line}\n")).expect("because we are its owner");
        let output = as_postgres("postgres").args(["-C", "x.y", "-D"]).arg(&data).output();
        let output = output.expect("because PostgreSQL is installed");
        let theirs = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        let own = Settings::read(&data.join("postgresql.conf"), &data).ok();
        let own = own.and_then(|settings| settings.get("x.y").map(|setting| setting.value.clone()));
        assert_eq!(own, theirs, "{line}: {}", String::from_utf8_lossy(&output.stderr));
        read += usize::from(own.is_some());
    }
    assert!((10..24).contains(&read), "{read} of 28 were right");
}

/// Connects within one second and returns the error; fails if that takes much longer.
fn error_within_deadline(text: &str) -> PostgresError {
    let begun = Instant::now();
    let error = ours(text, &[], Duration::from_secs(1)).err().expect("because nothing good listens there");
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}: {error}", begun.elapsed());
    error
}

#[test]
fn a_stopped_server_hangs_and_is_not_refused() {
    let server = Server::start("");
    let mut session = server.superuser();
    session.set_patience(Duration::from_secs(1)).expect("because the server is up");
    let backend = Statement { name: "backend", text: "SELECT pg_backend_pid()" };
    let pid = session.query_one(&backend, &[]).expect("because the server is up").get::<_, i32>(0);
    let backend = Pid::from_raw(pid).expect("because it is a process");
    kill_process(backend, Signal::STOP).expect("because it is our server's");
    let begun = Instant::now();
    let hung = session.is_in_recovery().expect_err("because the backend is stopped");
    kill_process(backend, Signal::CONT).expect("because it is our server's");
    assert!(matches!(hung, PostgresError::Hung { .. }), "{hung}");
    assert!(begun.elapsed() < Duration::from_millis(1500));

    server.signal(Signal::STOP);
    for text in [
        server.tcp("localhost", "trusty"),
        format!("{} sslmode=disable", server.tcp("localhost", "trusty")),
        server.socket("postgres"),
    ] {
        let error = error_within_deadline(&text);
        assert!(matches!(error, PostgresError::Hung { .. }), "{error}");
        assert!(!error.proves_alive());
    }
}

#[test]
fn refused_silent_and_hung_are_three_things() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
    let port = listener.local_addr().expect("because it is bound").port();
    let text = format!("host=127.0.0.1 port={port} user=x");
    for mode in ["disable", "prefer", "require"] {
        let error = error_within_deadline(&format!("{text} sslmode={mode}"));
        assert!(matches!(error, PostgresError::Hung { .. }), "{error}");
    }
    drop(listener);
    assert!(matches!(error_within_deadline(&text), PostgresError::Refused { .. }));
    assert!(matches!(error_within_deadline("host=/nonexistent user=x"), PostgresError::Refused { .. }));

    // A listener with a full queue drops further packets, as a dead machine would.
    let full = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
        .expect("because sockets are free");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("because it is an address");
    rustix::net::bind(&full, &any).expect("because loopback has free ports");
    rustix::net::listen(&full, 0).expect("because it is bound");
    let listener = TcpListener::from(full);
    let address = listener.local_addr().expect("because it is bound");
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 100, "the queue never fills");
    }
    let error = error_within_deadline(&format!("host=127.0.0.1 port={} user=x", address.port()));
    assert!(matches!(error, PostgresError::Silent { .. }), "{error}");
}

#[test]
fn a_full_server_is_not_dead() {
    let server = Server::start("max_connections=5\nsuperuser_reserved_connections=1\nmax_wal_senders=0");
    let text = format!("{} password=secret", server.tcp("localhost", "joe"));
    let mut held = Vec::new();
    let error = loop {
        match ours(&text, &[], PATIENCE) {
            Ok(connection) => held.push(connection),
            Err(error) => break error,
        }
        assert!(held.len() < 10, "the server never fills");
    };
    assert!(matches!(error, PostgresError::TooManyConnections { .. }), "{error}");
    assert!(error.proves_alive());
}

#[test]
fn a_server_that_takes_no_sessions_yet_is_not_dead() {
    // A standby that waits for WAL and is not hot stays in this state for as long as the test wants.
    let server = Server::launch("hot_standby=off\nrestore_command='/bin/false'", &["standby.signal"]);
    let until = Instant::now() + Duration::from_secs(60);
    let error = loop {
        let error =
            ours(&server.tcp("localhost", "trusty"), &[], PATIENCE).err().expect("because it takes no sessions");
        if !matches!(error, PostgresError::Refused { .. }) {
            break error;
        }
        assert!(Instant::now() < until, "the server does not start: {}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(matches!(error, PostgresError::StartingUp { .. }), "{error}");
    assert!(error.proves_alive());
}
