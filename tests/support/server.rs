//! A real PostgreSQL server that a test owns: made, configured, started, asked, stopped, killed, frozen.
//!
//! Promises: it listens on a socket in a private directory (and on 127.0.0.1 only when asked to), runs as the
//! unprivileged account, and is gone with everything it wrote when dropped; its log is shown if the test panics.
//! `fsync` is off: what these tests kill is processes, never the machine.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use postgres::{Client, NoTls, SimpleQueryMessage};
use rustix::process::Signal;

use super::port::Port;
use super::program::{Outcome, Program};
use super::workspace::{self, Account, Workspace};
use super::{PATIENCE, comes_true, template, wait_until};

/// How much of a log is shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

/// PostgreSQL's own programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Their directory.
    pub bin: PathBuf,
    /// What LD_LIBRARY_PATH must name, if anything.
    pub lib: Option<PathBuf>,
    /// Major version.
    pub major: u32,
    /// The whole version, such as `15.20`.
    pub version: String,
    /// When the server program last changed, in seconds since 1970.
    pub changed_at: i64,
}

impl Binaries {
    /// Those this run is about: `PGWARM_PG_BIN` and `PGWARM_PG_LIB`, or the newest below `/usr/lib/postgresql`.
    pub fn under_test() -> &'static Binaries {
        static FOUND: OnceLock<Binaries> = OnceLock::new();
        FOUND.get_or_init(|| {
            let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
            let bin = named("PGWARM_PG_BIN").or_else(newest_installed);
            Binaries::at(bin.expect("because scripts/install puts a server there"), named("PGWARM_PG_LIB"))
        })
    }

    /// Those in `bin`.
    pub fn at(bin: PathBuf, lib: Option<PathBuf>) -> Binaries {
        use std::os::unix::fs::MetadataExt;
        let server = bin.join("postgres");
        let library_path = lib.clone().unwrap_or_default();
        let asked = Account::unprivileged()
            .command(&server, "KILL")
            .arg("--version")
            .env("LD_LIBRARY_PATH", library_path)
            .output()
            .unwrap_or_else(|error| panic!("could not start 'setpriv' for '{}': {error}", server.display()));
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        let version = said.split_whitespace().nth(2).unwrap_or_default().to_owned();
        let major = version.split(|other: char| !other.is_ascii_digit()).next().and_then(|major| major.parse().ok());
        let major = major.unwrap_or_else(|| panic!("'{}' does not run as the account: {asked:?}", server.display()));
        let changed_at = fs::metadata(&server).map_or(0, |data| data.ctime());
        Binaries { bin, lib, major, version, changed_at }
    }

    /// The value for LD_LIBRARY_PATH.
    pub fn library_path(&self) -> PathBuf {
        self.lib.clone().unwrap_or_default()
    }
}

fn newest_installed() -> Option<PathBuf> {
    let listing = fs::read_dir("/usr/lib/postgresql").ok()?;
    let majors = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let dirs = majors.map(|major| (major, PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))));
    Some(dirs.filter(|(_, bin)| bin.join("postgres").is_file()).max()?.1)
}

/// How to end a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions, writes a shutdown checkpoint and ships all WAL (SIGINT).
    Fast,
    /// Leaves as after a crash (SIGQUIT).
    Immediate,
}

/// What a server shall be.
#[derive(Debug)]
pub struct ServerBuilder {
    name: String,
    segment_mib: u32,
    fresh: bool,
    tcp: bool,
    settings: BTreeMap<String, String>,
}

impl ServerBuilder {
    /// Adds a setting (value without quotes).
    pub fn set(mut self, name: &str, value: impl ToString) -> ServerBuilder {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// Size of a WAL segment in MiB, a power of two; 16 otherwise.
    pub fn wal_segsize(mut self, mib: u32) -> ServerBuilder {
        self.segment_mib = mib;
        self
    }

    /// Gives it a system identifier of its own; servers share one otherwise.
    pub fn fresh_identity(mut self) -> ServerBuilder {
        self.fresh = true;
        self
    }

    /// Listens on 127.0.0.1 too. Every user of the machine can then connect.
    pub fn tcp(mut self) -> ServerBuilder {
        self.tcp = true;
        self
    }

    /// Makes the data directory; nothing runs yet.
    #[track_caller]
    pub fn create(self) -> Server {
        let server = Server::prepare(&self.name, self.tcp, self.settings);
        template::data_directory(&server.binaries, self.segment_mib, self.fresh, &server.pgdata());
        server
    }

    /// Makes it of another server's data directory; nothing runs yet.
    #[track_caller]
    pub fn copy_of(self, data: &Path) -> Server {
        let server = Server::prepare(&self.name, self.tcp, self.settings);
        template::copy(data, &server.pgdata());
        server
    }

    /// Makes it, starts it and waits until it accepts connections.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut server = self.create();
        server.start();
        server
    }
}

/// The server; see the head of this file.
#[derive(Debug)]
pub struct Server {
    name: String,
    binaries: Binaries,
    dir: PathBuf,
    port: Port,
    tcp: bool,
    settings: BTreeMap<String, String>,
    postmaster: Option<Child>,
    // Dropped last: the directory must outlive the server.
    workspace: Arc<Workspace>,
}

impl Server {
    /// Begins to describe a server; `name` appears in paths and as its `cluster_name`.
    pub fn builder(name: &str) -> ServerBuilder {
        let settings = BTreeMap::new();
        ServerBuilder { name: name.to_owned(), segment_mib: 16, fresh: false, tcp: false, settings }
    }

    fn prepare(name: &str, tcp: bool, settings: BTreeMap<String, String>) -> Server {
        let workspace = Workspace::shared();
        let dir = workspace.fresh_dir(name);
        let binaries = Binaries::under_test().clone();
        Server {
            name: name.to_owned(),
            binaries,
            dir,
            port: Port::reserve(),
            tcp,
            settings,
            postmaster: None,
            workspace,
        }
    }

    /// Its data directory.
    pub fn pgdata(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its own directory around PGDATA, private to it; a place for spools and archives of a test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of its socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Its port, also the number in the socket's name.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// The programs it belongs to.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A libpq connection string over the socket.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.dir.display(), self.port())
    }

    /// The process id of the postmaster.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.postmaster.as_ref().unwrap_or_else(|| panic!("server '{}' is not running", self.name)).id()
    }

    /// Sets something for the next `start` or `reload`.
    pub fn set(&mut self, name: &str, value: impl ToString) -> &mut Server {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// Takes a setting back.
    pub fn unset(&mut self, name: &str) -> &mut Server {
        self.settings.remove(name);
        self
    }

    fn write_settings(&self) {
        let socket = self.dir.display().to_string();
        let port = self.port().to_string();
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        let mut all = BTreeMap::from([
            ("cluster_name", self.name.as_str()),
            ("fsync", "off"),
            ("hot_standby", "on"),
            ("listen_addresses", listen),
            ("log_line_prefix", "%m [%p] %b "),
            ("log_replication_commands", "on"),
            ("max_connections", "40"),
            ("port", &port),
            ("restart_after_crash", "off"),
            ("shared_buffers", "16MB"),
            ("unix_socket_directories", &socket),
            ("wal_level", "replica"),
            ("wal_log_hints", "on"),
        ]);
        all.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let quoted = all.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")));
        workspace::write_file(&self.pgdata().join(template::SETTINGS), &quoted.collect::<String>());
    }

    /// Starts it and waits until it accepts connections.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        let mut ended = None;
        let ready = comes_true(PATIENCE, &mut || {
            ended = self.exit_status();
            ended.is_some() || self.accepts()
        });
        assert!(ready && ended.is_none(), "server '{}' did not start: {ended:?}\n{}", self.name, self.log_tail());
    }

    /// Starts it and waits for nothing: for servers that shall fail, or wait for WAL.
    #[track_caller]
    pub fn launch(&mut self) {
        assert!(self.postmaster.is_none(), "server '{}' is running already", self.name);
        self.write_settings();
        let log = OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = log.unwrap_or_else(|error| panic!("could not open '{}': {error}", self.log_path().display()));
        let mut command: Command = self.workspace.command(self.binaries.bin.join("postgres"), "QUIT");
        command
            .arg("-D")
            .arg(self.pgdata())
            .current_dir(&self.dir)
            .env("LD_LIBRARY_PATH", self.binaries.library_path());
        command.stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().expect("because the file is open")).stderr(log);
        let started = workspace::spawn(command);
        self.postmaster = Some(started.unwrap_or_else(|error| panic!("could not start '{}': {error}", self.name)));
    }

    /// True once it accepts connections: the status line of `postmaster.pid` says so without a trace in the log.
    pub fn accepts(&self) -> bool {
        let pid_file = fs::read_to_string(self.pgdata().join("postmaster.pid")).unwrap_or_default();
        let mut lines = pid_file.lines();
        let ours = self.postmaster.as_ref().map(|child| child.id().to_string());
        ours.as_deref() == lines.next() && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    /// How the postmaster ended, once it has; the server counts as stopped from then on.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.postmaster.as_mut()?.try_wait().expect("because the child is ours");
        if status.is_some() {
            self.postmaster = None;
        }
        status
    }

    /// True while the postmaster is there.
    pub fn is_running(&mut self) -> bool {
        self.exit_status();
        self.postmaster.is_some()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        super::wait_for(limit, &format!("the end of server '{name}'"), || self.exit_status())
    }

    /// Stops it and waits until it has.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        let signal = if how == Stop::Fast { Signal::INT } else { Signal::QUIT };
        workspace::send(self.pid(), signal);
        self.wait_exit(PATIENCE);
    }

    /// Stops it fast and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Writes the settings and has them read.
    #[track_caller]
    pub fn reload(&mut self) {
        self.write_settings();
        let loaded = "select pg_conf_load_time()::text";
        let before = self.query(loaded);
        workspace::send(self.pid(), Signal::HUP);
        wait_until(PATIENCE, "the settings are read", || self.query(loaded) != before);
    }

    /// Kills the postmaster (SIGKILL) and waits until its children are gone too, so that it can be started again.
    #[track_caller]
    pub fn kill(&mut self) {
        let family = workspace::children_of(self.pid());
        workspace::send(self.pid(), Signal::KILL);
        self.wait_exit(PATIENCE);
        let mut gone = || !family.iter().any(|child| workspace::is_alive(*child));
        // They notice by themselves, but one that waits for another (14's autovacuum for its statistics) takes long.
        if !comes_true(Duration::from_secs(1), &mut gone) {
            family.iter().for_each(|child| workspace::send(*child, Signal::KILL));
        }
        wait_until(PATIENCE, "the killed server's children are gone", gone);
    }

    /// Stops all its processes where they stand (SIGSTOP): it holds its connections and answers nothing.
    #[track_caller]
    pub fn freeze(&self) {
        let postmaster = self.pid();
        // First, so that it starts no more children.
        workspace::send(postmaster, Signal::STOP);
        wait_until(PATIENCE, "the postmaster stands still", || workspace::is_stopped(postmaster));
        for child in workspace::children_of(postmaster) {
            workspace::send(child, Signal::STOP);
        }
    }

    /// Lets a frozen server go on (SIGCONT).
    #[track_caller]
    pub fn thaw(&self) {
        for pid in workspace::children_of(self.pid()).into_iter().chain([self.pid()]) {
            workspace::send(pid, Signal::CONT);
        }
    }

    /// A new session over the socket.
    #[track_caller]
    pub fn connect(&self) -> Client {
        let mut config = postgres::Config::new();
        config.host_path(self.socket_dir()).port(self.port()).user("postgres").dbname("postgres");
        config.connect_timeout(PATIENCE).application_name("test");
        let connected = config.connect(NoTls);
        connected.unwrap_or_else(|error| panic!("could not connect to '{}': {error:?}\n{}", self.name, self.log_tail()))
    }

    /// Runs statements in a session of their own.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        let done = self.connect().batch_execute(sql);
        done.unwrap_or_else(|error| panic!("'{}' refused '{sql}': {error:?}", self.name));
    }

    /// The first column of the last row as text, empty for NULL or no row, in a session of its own.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        let answered = self.connect().simple_query(sql);
        let messages = answered.unwrap_or_else(|error| panic!("'{}' refused '{sql}': {error:?}", self.name));
        let first = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        messages.iter().filter_map(first).next_back().unwrap_or_default()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The file it logs to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// True if the log holds `needle`.
    pub fn log_has(&self, needle: &str) -> bool {
        self.log().contains(needle)
    }

    /// Waits until the log holds `needle`.
    #[track_caller]
    pub fn wait_for_log(&self, needle: &str, limit: Duration) {
        let found = comes_true(limit, &mut || self.log_has(needle));
        assert!(found, "'{}' did not log '{needle}' within {limit:?}\n{}", self.name, self.log_tail());
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- log of '{}'\n{}", self.name, lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n"))
    }

    /// A call of one of PostgreSQL's own programs, of this server's version, knowing how to reach it.
    pub fn tool(&self, name: &str) -> Program {
        Program::at(self.binaries.bin.join(name))
            .env("LD_LIBRARY_PATH", self.binaries.library_path())
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
    }

    /// Ends recovery and waits until it takes writes.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.query("select pg_promote(true, 60)"), "t", "'{}' was not promoted", self.name);
    }

    /// True while it is in recovery.
    #[track_caller]
    pub fn in_recovery(&self) -> bool {
        self.query("select pg_is_in_recovery()") == "t"
    }

    /// Its timeline as of the last checkpoint (TimeLineID).
    #[track_caller]
    pub fn timeline(&self) -> u32 {
        let timeline = self.query("select timeline_id from pg_control_checkpoint()");
        timeline.parse().expect("because the server answers with a number")
    }

    /// Its system identifier.
    #[track_caller]
    pub fn system_identifier(&self) -> u64 {
        let identifier = self.query("select system_identifier from pg_control_system()");
        identifier.parse().expect("because the server answers with a number")
    }

    /// Ends the current segment and answers its name, once it holds something.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.query("select pg_logical_emit_message(false, 'test', 'so that there is something to switch away from')");
        self.query("select pg_walfile_name(pg_switch_wal())")
    }

    /// Up to where its WAL is written and safe (primary): every commit, and where a standby can get to. The place where
    /// the next record begins lies behind a page header after a switch, and a quiet server writes none for 15 seconds.
    #[track_caller]
    pub fn wal_position(&self) -> String {
        self.query("select pg_current_wal_flush_lsn()")
    }

    /// Waits until this standby has replayed up to `lsn`.
    #[track_caller]
    pub fn wait_replayed(&self, lsn: &str, limit: Duration) {
        let question = format!("select coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
        wait_until(limit, &format!("'{}' has replayed {lsn}", self.name), || self.query(&question) == "t");
    }

    /// Makes the next start one of a standby.
    pub fn standby_signal(&self) {
        workspace::write_file(&self.pgdata().join("standby.signal"), "");
    }

    /// Makes the next start an archive recovery.
    pub fn recovery_signal(&self) {
        workspace::write_file(&self.pgdata().join("recovery.signal"), "");
    }

    /// What `primary_conninfo` is for a standby of this server.
    pub fn follow_settings(&self, standby: &str) -> String {
        format!("{} application_name={standby}", self.conninfo())
    }

    /// Makes the next start one of a standby that streams from `primary`.
    pub fn follow(&mut self, primary: &Server) -> &mut Server {
        let connection = primary.follow_settings(&self.name);
        self.set("primary_conninfo", connection);
        self.standby_signal();
        self
    }

    /// What an operator does once: the line at the end that makes a server read our own settings.
    pub fn include_ours(&self) {
        let path = self.pgdata().join("postgresql.conf");
        let mut text = fs::read_to_string(&path).expect("because initdb made it");
        text.push_str("include_if_exists 'pgwarm.conf'\n");
        workspace::write_file(&path, &text);
    }

    /// Takes a base backup into a new server with the same settings, which is not started.
    #[track_caller]
    pub fn base_backup(&self, name: &str) -> Server {
        let copy = Server::prepare(name, self.tcp, self.settings.clone());
        let options = ["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--pgdata"];
        self.tool("pg_basebackup").args(options).arg(copy.pgdata()).run().expect_ok();
        copy
    }

    /// Fills pgbench's tables.
    #[track_caller]
    pub fn pgbench_init(&self, scale: u32) {
        self.tool("pgbench").args(["--initialize", "--quiet", &format!("--scale={scale}")]).run().expect_ok();
    }

    /// Runs pgbench with these options.
    #[track_caller]
    pub fn pgbench(&self, options: &[&str]) -> Outcome {
        self.tool("pgbench").arg("--no-vacuum").args(options).run().expect_ok()
    }

    fn end(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        let family = workspace::children_of(postmaster.id());
        let everybody = || family.iter().copied().chain([postmaster.id()]);
        everybody().for_each(|pid| workspace::send(pid, Signal::CONT));
        workspace::send(postmaster.id(), Signal::QUIT);
        let quit = comes_true(Duration::from_secs(5), &mut || !everybody().any(workspace::is_alive));
        if !quit {
            everybody().for_each(|pid| workspace::send(pid, Signal::KILL));
        }
        let _ = postmaster.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if std::env::var_os("PGWARM_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
