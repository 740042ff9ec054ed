//! Proves the servers that the other tests stand on: a fixture that lies makes every test on top of it lie.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use pgwarm::config::load::Source;
use pgwarm::config::{Config, PlaceWord};
use support::workspace::{Account, is_alive, make_dir};
use support::{Layout, Outcome, PATIENCE, Program, Server, Stop, Workspace, wait_until};

/// A primary that archives by copying into `archive/` beside its data directory.
fn archiving_primary() -> Server {
    let builder = Server::builder("primary").wal_segsize(1).set("archive_mode", "on");
    let mut server = builder.set("archive_timeout", 0).create();
    let archive = server.dir().join("archive");
    make_dir(&archive);
    let path = archive.display().to_string();
    server.set("archive_command", format!("test ! -e {path}/%f && cp %p {path}/%f"));
    server.set("restore_command", format!("cp {path}/%f %p"));
    server.start();
    server
}

fn count(server: &Server) -> String {
    server.query("select count(*) from t")
}

#[test]
fn a_server_runs_as_the_unprivileged_account_in_a_private_directory() {
    let server = Server::builder("alpha").set("work_mem", "3MB").start();
    let account = Account::unprivileged();
    assert_ne!(account.uid, 0);
    assert_eq!(fs::metadata(format!("/proc/{}", server.pid())).map(|data| data.uid()).ok(), Some(account.uid));
    assert_eq!(fs::metadata(server.dir()).map(|data| data.mode() & 0o777).ok(), Some(0o700));
    assert_eq!(server.query("show work_mem"), "3MB");
    assert_eq!(server.query("show data_checksums"), "on");
    assert_eq!(server.query("show wal_segment_size"), "16MB");
    assert_eq!(server.query("show listen_addresses"), "");
    let major = server.query("select current_setting('server_version_num')::int / 10000");
    assert_eq!(major, server.binaries().major.to_string());
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let server = Server::builder("brief").start();
    let (pid, dir) = (server.pid(), server.dir().to_owned());
    assert!(is_alive(pid) && dir.exists());
    drop(server);
    assert!(!is_alive(pid), "the postmaster is still there");
    assert!(!dir.exists(), "its directory is still there");
}

#[test]
fn a_frozen_server_is_ended_by_its_drop() {
    let server = Server::builder("frozen").start();
    let pid = server.pid();
    server.freeze();
    drop(server);
    assert!(!is_alive(pid));
}

#[test]
fn only_a_fresh_identity_makes_a_stranger() {
    let first = Server::builder("first").start();
    let twin = Server::builder("twin").start();
    let stranger = Server::builder("stranger").fresh_identity().start();
    assert_eq!(first.system_identifier(), twin.system_identifier());
    assert_ne!(first.system_identifier(), stranger.system_identifier());
}

#[test]
fn settings_count_after_a_reload() {
    let mut server = Server::builder("alpha").start();
    server.set("work_mem", "5MB").reload();
    assert_eq!(server.query("show work_mem"), "5MB");
    server.unset("work_mem").reload();
    assert_eq!(server.query("show work_mem"), "4MB");
}

#[test]
fn a_killed_server_recovers_and_a_stopped_one_does_not_need_to() {
    let mut server = Server::builder("alpha").start();
    server.execute("create table t as select generate_series(1, 1000)");
    server.kill();
    assert!(!server.is_running());
    server.start();
    server.wait_for_log("automatic recovery in progress", PATIENCE);
    assert_eq!(count(&server), "1000");
    server.stop(Stop::Fast);
    assert!(server.log_has("database system is shut down"));
    let before = server.log().matches("automatic recovery in progress").count();
    server.start();
    server.stop(Stop::Immediate);
    assert_eq!(server.log().matches("automatic recovery in progress").count(), before);
}

#[test]
fn a_frozen_server_answers_nobody_until_it_is_thawed() {
    let server = Server::builder("alpha").start();
    let ready = |limit: &str| -> Outcome { server.tool("pg_isready").args(["--timeout", limit]).run() };
    assert_eq!(ready("60").code, Some(0));
    server.freeze();
    assert_eq!(ready("1").code, Some(2));
    server.thaw();
    assert_eq!(ready("60").code, Some(0));
}

#[test]
fn a_standby_is_cloned_follows_and_is_promoted() {
    let primary = archiving_primary();
    primary.execute("create table t as select generate_series(1, 1000)");
    let mut standby = primary.base_backup("standby");
    standby.follow(&primary).start();
    assert!(standby.in_recovery());
    primary.execute("insert into t select generate_series(1, 500)");
    standby.wait_replayed(&primary.wal_position(), PATIENCE);
    assert_eq!(count(&standby), "1500");
    let streaming = "select state from pg_stat_replication where application_name = 'standby'";
    wait_until(PATIENCE, "the primary sees its standby", || primary.query(streaming) == "streaming");
    standby.promote();
    assert!(!standby.in_recovery());
    standby.execute("insert into t values (1)");
    assert_eq!(count(&standby), "1501");
    assert_eq!(count(&primary), "1500");
    standby.execute("checkpoint");
    assert_eq!((primary.timeline(), standby.timeline()), (1, 2));
}

#[test]
fn a_switched_segment_reaches_the_archive_and_a_restore() {
    let primary = archiving_primary();
    let mut restored = primary.base_backup("restored");
    primary.execute("create table t as select generate_series(1, 1000)");
    let segment = primary.switch_wal();
    let archived = primary.dir().join("archive").join(&segment);
    // The copy is complete when the server says so, not when the name is there.
    let asked = format!("select last_archived_wal >= '{segment}' from pg_stat_archiver");
    wait_until(PATIENCE, "the segment is archived", || primary.query(&asked) == "t");
    assert_eq!(fs::metadata(archived).map(|data| data.len()).ok(), Some(1 << 20));
    restored.set("archive_mode", "off").recovery_signal();
    restored.start();
    wait_until(PATIENCE, "recovery has ended", || !restored.in_recovery());
    assert_eq!(count(&restored), "1000");
}

#[test]
fn pgbench_fills_and_runs() {
    let server = Server::builder("busy").start();
    server.pgbench_init(1);
    let said = server.pgbench(&["--transactions=20", "--client=2"]);
    assert!(said.stdout.contains("number of transactions actually processed: 40/40"), "{said}");
}

#[test]
fn a_server_listens_on_tcp_only_when_asked_to() {
    let server = Server::builder("open").tcp().start();
    assert!(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_ok());
    let closed = Server::builder("closed").start();
    assert!(std::net::TcpStream::connect(("127.0.0.1", closed.port())).is_err());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let mut server = Server::builder("bad").set("shared_buffers", "nonsense").create();
    server.launch();
    assert!(!server.wait_exit(PATIENCE).success());
    assert!(server.log_has("shared_buffers"));
}

#[test]
fn a_program_is_heard_to_its_end() {
    let script = "cat; echo \"$WORD\"; echo two >&2; id -u; pwd; exit 3";
    let call = Program::at("/bin/sh").args(["-c", script]).stdin("in\n").env("WORD", "one").dir("/");
    let said = call.run().expect_code(3);
    assert_eq!(said.stdout, format!("in\none\n{}\n/\n", Account::unprivileged().uid));
    assert_eq!((said.stderr.as_str(), said.signal), ("two\n", None));
    let killed = Program::at("/bin/sh").args(["-c", "kill -9 $$"]).run();
    assert_eq!((killed.code, killed.signal), (None, Some(9)));
}

#[test]
fn the_account_reaches_our_own_programs() {
    let workspace = Workspace::shared();
    Program::at("/usr/bin/test").arg("-x").arg(workspace.programs()).run().expect_ok();
}

#[test]
fn a_process_that_detached_itself_goes_with_the_workspace() {
    let workspace = Workspace::separate();
    let mut shell = workspace.command("/bin/sh", "KILL");
    let said = shell.args(["-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"]).output();
    let said = said.expect("because every system has a shell");
    let pid: u32 = String::from_utf8_lossy(&said.stdout).trim().parse().expect("because the shell prints a number");
    let root = workspace.root().to_owned();
    assert!(is_alive(pid) && root.exists());
    drop(workspace);
    wait_until(PATIENCE, "the process is gone", || !is_alive(pid));
    assert!(!root.exists(), "the directory is still there");
}

#[test]
fn a_program_past_its_deadline_is_ended_with_its_children() {
    let script = "echo $$; sleep 600 & echo $!; wait";
    let running = Program::at("/bin/sh").args(["-c", script]).deadline(Duration::from_millis(300)).spawn();
    wait_until(PATIENCE, "both have said who they are", || running.stdout().lines().count() == 2);
    let pids: Vec<u32> = running.stdout().lines().filter_map(|line| line.parse().ok()).collect();
    let begin = Instant::now();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.wait()));
    assert!(outcome.is_err() && begin.elapsed() < Duration::from_secs(30));
    assert_eq!(pids.len(), 2);
    wait_until(PATIENCE, "both are gone", || !pids.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn a_layout_gives_every_node_its_own_directories() {
    let server = Server::builder("alpha").create();
    let mut layout = Layout::new("shop", &["alpha", "beta", "gamma"]);
    layout.set("archive", "ack", "all");
    layout.node_mut("alpha").serve(&server);
    layout.node_mut("gamma").set("kind", "witness").without_archive().set_local("log", "level", "debug");
    layout.write();
    let shared = fs::read_to_string(layout.shared_file("beta")).expect("because it was written");
    assert_eq!(shared, fs::read_to_string(layout.shared_file("gamma")).expect("because it was written"));
    assert!(shared.starts_with("[cluster]\nname = shop\n\n[archive]\nack = all\n"), "{shared}");
    assert!(shared.contains(&format!("conninfo = {}\n", server.conninfo())), "{shared}");
    assert_eq!(shared.matches("\narchive = ").count(), 2, "{shared}");
    let local = layout.node("gamma").config.join(support::cluster::LOCAL_FILE);
    let local = fs::read_to_string(local).expect("because it was written");
    assert!(local.contains("node = gamma\n") && local.contains("[log]\nlevel = debug\n"), "{local}");
}

#[test]
fn a_layout_is_a_configuration_that_every_node_can_load() {
    let mut layout = Layout::new("shop", &["alpha", "beta", "gamma"]);
    layout.node_mut("gamma").set("kind", "dr");
    layout.reach_by_ssh(2222, "postgres", "/keys/id".as_ref(), "/keys/known_hosts".as_ref());
    layout.write();
    for name in ["alpha", "beta", "gamma"] {
        let source = Source { file: Some(layout.shared_file(name)), ..Source::default() };
        let config = Config::load(&source).unwrap_or_else(|error| panic!("{error:?}\n{}", layout.shared_text()));
        assert_eq!(config.local.node, name);
        assert_eq!(config.local.spool, layout.node(name).spool);
        assert_eq!(config.own().archive, layout.node(name).archive);
        assert_eq!(config.own().ssh_port, Some(2222));
        assert_eq!(config.places(&[PlaceWord::Dr]).len(), usize::from(name != "gamma"));
    }
}

#[test]
fn our_own_program_runs_as_the_account() {
    let layout = Layout::new("shop", &["alpha"]);
    let target = layout.dir.join("share");
    Program::own("pgwarm-docs").arg(&target).run().expect_ok();
    assert_eq!(fs::metadata(&target).map(|data| data.uid()).ok(), Some(Account::unprivileged().uid));
}
