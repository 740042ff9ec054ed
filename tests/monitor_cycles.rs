//! The daemon's cycles leave nothing behind: no session, no descriptor, no thread. The daemon itself runs here, turning
//! as fast as it can, with a server that is thrown out again and again and one that always refuses. The turns are those
//! that the daemon itself counts.
//!
//! `PGWARM_MONITOR_CYCLES=10000` makes it the long run of a release; without it two thousand do.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use pgwarm::config::{Config, Source};
use pgwarm::error::Failure;
use pgwarm::monitor::daemon::board::Board;
use pgwarm::monitor::daemon::{Daemon, Order};
use pgwarm::monitor::http::{self, Site};
use support::port::Port;
use support::{Layout, Server, wait_for, wait_until};

/// How long all cycles may take, each.
const CYCLE_MAX: Duration = Duration::from_millis(100);

/// How often the daemon is disturbed.
const DISTURBANCES: u64 = 10;

/// What this process and its sessions hold.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    descriptors: usize,
    threads: usize,
    sessions: u64,
}

fn number(server: &Server, sql: &str) -> u64 {
    server.query(sql).parse().unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn held(server: &Server) -> Held {
    let count = |folder| std::fs::read_dir(folder).map(Iterator::count).expect("because this process has it");
    let sessions = "select count(*) from pg_stat_activity where application_name like 'pgwarm cluster-monitor%'";
    Held { descriptors: count("/proc/self/fd"), threads: count("/proc/self/task"), sessions: number(server, sessions) }
}

#[test]
fn no_cycle_leaves_anything_behind() {
    let cycles: u64 = std::env::var("PGWARM_MONITOR_CYCLES").map_or(2000, |text| text.parse().expect("it is a number"));
    let server = Server::builder("db1").wal_segsize(1).start();
    let nobody = Port::reserve();
    let mut layout = Layout::new("cycles", &["db1", "db2", "w"]);
    layout.node_mut("db1").serve(&server);
    layout.node_mut("db2").set("conninfo", format!("host=127.0.0.1 port={} user=postgres", nobody.number));
    layout.node_mut("w").set("kind", "witness");
    layout.set("archive", "to", "own").set("archive", "ack", "local").set("restore", "from", "own");
    layout.set("monitor", "history", "1s").write();
    layout.program("db1", "archive-wal").args(["--init", "db1"]).run().expect_ok();
    let source = Source { file: Some(layout.shared_file("db1")), ..Source::default() };
    let mut config = Config::load(&source).expect("because the test writes it well");
    // Faster than anybody may configure it.
    config.monitor.interval = Duration::from_millis(1);
    config.monitor.survey = Duration::from_millis(50);
    let config = Arc::new(config);
    let board = Arc::new(Board::default());
    let site = Site { node: "db1".to_owned(), interval: Duration::from_secs(1) };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let http = http::start(address, Arc::clone(&board), site).expect("because the port is any");
    let (tell, orders) = channel();
    let shown = Arc::clone(&board);
    let watching = std::thread::spawn(move || {
        let load = || -> Result<Config, Failure> { unreachable!("nobody asks for a reload") };
        let daemon = Daemon::new(&config, shown, &load);
        daemon.and_then(|mut daemon| daemon.run(&orders)).expect("because nothing ends it");
    });
    let turns = || board.read().turns;
    let goes_on = |by: u64| {
        let goal = turns() + by;
        let limit = CYCLE_MAX * u32::try_from(by.max(100)).expect("because it is no large number");
        wait_until(limit, "the daemon turns", || turns() >= goal);
    };
    goes_on(100);
    wait_until(Duration::from_secs(30), "this node is registered", || {
        !server.query("select to_regclass('pgwarm.reports')").is_empty()
            && number(&server, "select count(*) from pgwarm.reports") == 1
    });
    let before = held(&server);
    assert!(before.sessions > 0, "{before:?}");
    for _ in 0..DISTURBANCES {
        goes_on(cycles / DISTURBANCES);
        server.query(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity \
             where application_name like 'pgwarm cluster-monitor%'",
        );
        for path in ["/metrics", "/status.json", "/"] {
            let answer = wait_for(Duration::from_secs(10), "it answers", || ask(http, path));
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    goes_on(100);
    let mut after = held(&server);
    support::comes_true(Duration::from_secs(20), &mut || {
        after = held(&server);
        after.descriptors <= before.descriptors && after.threads <= before.threads && after.sessions <= before.sessions
    });
    println!("{} cycles, {cycles} with disturbances: {before:?} before, {after:?} after", turns());
    assert!(
        after.descriptors <= before.descriptors && after.threads <= before.threads && after.sessions <= before.sessions,
        "after {cycles} cycles: {before:?} became {after:?}"
    );
    tell.send(Order::Stop).expect("because it listens");
    watching.join().expect("because it ends in order");
}

fn ask(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    // A picture is stale while all sessions are being made anew.
    (!text.contains("no fresh picture")).then_some(text)
}

/// On another machine a connection string without a host would lead to the server beside the monitor.
#[test]
fn a_server_without_a_host_in_its_string_is_looked_for_at_its_node() {
    let server = Server::builder("db1").wal_segsize(1).tcp().start();
    let mut layout = Layout::new("hosts", &["here", "there"]);
    for node in ["here", "there"] {
        layout.node_mut(node).set("conninfo", format!("port={} user=postgres dbname=postgres", server.port()));
    }
    layout.write();
    let source = Source { file: Some(layout.shared_file("here")), ..Source::default() };
    let config = Arc::new(Config::load(&source).expect("because the test writes it well"));
    let gathered = pgwarm::monitor::gather::gather(&config);
    let seen = |node: &str| gathered.watched(node).and_then(|one| one.look.sight.seen()).is_some();
    // Here it is the socket that libpq would take, where nobody listens; there it is the node's own address.
    assert!(seen("there") && !seen("here"));
}
