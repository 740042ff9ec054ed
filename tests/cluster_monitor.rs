//! `cluster-monitor` on a real cluster: a primary, a standby, one that follows that, a dr node and a witness.
//!
//! The dr node runs no server, and the witness only where a test says so; every daemon here is the program itself.

mod support;

#[path = "cluster_monitor/browser.rs"]
mod browser;
#[path = "cluster_monitor/kept.rs"]
mod kept;
#[path = "cluster_monitor/scene.rs"]
mod scene;
#[path = "cluster_monitor/service.rs"]
mod service;
#[path = "cluster_monitor/wall.rs"]
mod wall;

use std::time::{Duration, Instant};

use kept::{Kept, json};
use scene::{Scene, get};
use serde_json::Value;
use support::{PATIENCE, Server, Stop, wait_for, wait_until};

/// What a change of role may take to be seen and written down.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn nodes_are_registered_as_what_they_are_and_strangers_are_not() {
    let mut scene = Scene::start("registering");
    let planned = scene.run("db1", &["register", "--dry-run"]).expect_ok();
    assert!(planned.stdout.contains("db1 would be registered as primary with the id 1"), "{planned}");
    assert_eq!(scene.db1.query("select to_regclass('pgwarm.nodes')"), "");
    let wrong = scene.run("db1", &["register", "standby"]).expect_code(20);
    assert!(wrong.stderr.contains("db1 is a primary, not a standby"), "{wrong}");
    scene.run("db1", &["primary", "register"]).expect_ok();
    for node in ["db2", "db3", "dr1", "w"] {
        scene.run(node, &["register"]).expect_ok();
    }
    // The second time nothing changes, and nothing is an event.
    let events = || scene.db1.query("select count(*) from pgwarm.events");
    let before = events();
    scene.run("w", &["witness", "register"]).expect_ok();
    assert_eq!(events(), before);
    let roster = "select string_agg(name || ' ' || type || ' ' || coalesce(upstream_node_id::text, '-'), ',' order by id) \
                  from pgwarm.repl_nodes";
    assert_eq!(scene.db1.query(roster), "db1 primary -,db2 standby 1,db3 standby 2,dr1 dr -,w witness -");
    // The number of another, and the server of another cluster.
    let stranger = Server::builder("stranger").fresh_identity().wal_segsize(1).start();
    scene.layout.node_mut("dr1").set("id", 2);
    scene.layout.write();
    let taken = scene.run("dr1", &["register", "--force"]).expect_code(21);
    assert!(taken.stderr.contains("the id 2 is that of db2"), "{taken}");
    scene.layout.node_mut("db3").serve(&stranger);
    scene.layout.node_mut("dr1").set("id", 4);
    scene.layout.write();
    let foreign = scene.run("db3", &["register", "--force"]).expect_code(20);
    assert!(foreign.stderr.contains("belongs to another cluster"), "{foreign}");
    scene.run("db1", &["unregister"]).expect_code(20);
    scene.run("w", &["unregister"]).expect_ok();
    scene.run("w", &["unregister"]).expect_code(1);
    let names = "select string_agg(event, ',' order by event_timestamp) from pgwarm.repl_events";
    let expected = "cluster_created,primary_register,standby_register,standby_register,dr_register,witness_register,\
                    witness_unregister";
    assert_eq!(scene.db1.query(names), expected);
}

#[test]
fn the_picture_is_right_whoever_is_gone() {
    let scene = Scene::start("picture").registered();
    let seen = scene.status("db2");
    assert_eq!((seen["primary"].as_str(), seen["schema"].as_i64()), (Some("db1"), Some(3)));
    let node = |seen: &Value, name: &str| {
        let all = seen["nodes"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no node '{name}' in {seen:#}"))
    };
    assert_eq!(node(&seen, "db3")["upstream"], "db2");
    assert_eq!(node(&seen, "db2")["sync_state"], "quorum");
    assert_eq!(node(&seen, "w")["state"], "no server");
    // A server that hangs is said to hang, within the deadline, and hides no other.
    scene.db2.freeze();
    let begun = Instant::now();
    let seen = scene.status("db1");
    let took = begun.elapsed();
    scene.db2.thaw();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(
        (node(&seen, "db2")["state"].as_str(), node(&seen, "db3")["state"].as_str()),
        (Some("hung"), Some("running"))
    );
    // Its upstream still knows how far it was.
    assert!(node(&seen, "db2")["lag"]["flushed"]["bytes"].is_u64(), "{seen:#}");
    scene.lag_is_that_of_the_servers();
    let text = scene.run("db1", &["status"]).stdout;
    assert!(text.contains("db1 is the primary") && text.contains("quorum"), "{text}");
    let Scene { mut db1, mut db2, layout, .. } = scene;
    // Without the standby that the quorum asks for, commits wait: that is said.
    db2.stop(Stop::Immediate);
    wait_until(PATIENCE, "nobody streams", || db1.query("select count(*) from pg_stat_replication") == "0");
    let cut = json(layout.program("db3", "cluster-monitor").args(["status", "--json"]).run().expect_code(20));
    let synchronous = cut["findings"].as_array().and_then(|all| all.iter().find(|it| it["check"] == "synchronous"));
    assert_eq!(synchronous.map(|it| &it["level"]), Some(&"critical".into()), "{cut:#}");
    db1.stop(Stop::Immediate);
    let half = layout.program("db3", "cluster-monitor").args(["status", "--json"]).run().expect_code(20);
    let half: Value = serde_json::from_str(&half.stdout).expect("because it is JSON");
    assert_eq!((half["primary"].as_str(), half["reference"]["node"].as_str()), (None, Some("db3")));
    assert_eq!((node(&half, "db1")["state"].as_str(), node(&half, "db1")["id"].as_i64()), (Some("refused"), Some(1)));
    let nagios = layout.program("db3", "cluster-monitor").args(["node", "check", "--nagios"]).run().expect_code(2);
    assert!(nagios.stdout.starts_with("PGWARM CRITICAL - "), "{nagios}");
    let events = layout.program("db3", "cluster-monitor").args(["events", "--json"]).run().expect_ok();
    assert!(events.stdout.contains("witness_register"), "a standby has a copy: {events}");
}

#[test]
fn the_daemons_see_what_happens_and_tell_it_once() {
    let mut scene = Scene::start("watching");
    // What is seen within so long is so with the interval that nobody has set.
    scene.layout.set("monitor", "interval", "1s");
    scene.notify();
    // They register what is missing, the primary first.
    let _daemons: Vec<_> = ["db1", "db2", "db3", "dr1", "w"].into_iter().map(|node| scene.daemon(node)).collect();
    wait_until(PATIENCE, "all nodes are registered", || {
        !scene.db1.query("select to_regclass('pgwarm.nodes')").is_empty()
            && scene.db1.query("select count(*) from pgwarm.nodes where active") == "5"
    });
    wait_until(PATIENCE, "every node's lag is written down", || {
        scene.db1.query("select count(distinct node_id) from pgwarm.lag_history") == "5"
            && scene.db1.query("select count(*) from pgwarm.reports") == "5"
    });
    scene.archive_is_followed();
    // A standby is lost, and comes back.
    scene.db3.stop(Stop::Immediate);
    scene.wait_told("standby_failure db3", 1);
    scene.db3.start();
    scene.wait_told("standby_recovery db3", 1);
    // The primary is lost: one of five daemons tells it, though nothing can be written down; and comes back.
    scene.db1.stop(Stop::Immediate);
    scene.wait_told("primary_lost db1", 1);
    scene.db1.start();
    scene.wait_told("primary_back db1", 1);
    wait_until(PATIENCE, "the loss is written down", || {
        scene.db1.query("select count(*) from pgwarm.events where event = 'primary_lost'") == "1"
    });
    // A promotion behind our back, while the primary lives.
    scene.db3.promote();
    let begun = Instant::now();
    let rogue = "select count(*) from pgwarm.events \
                 where event in ('rogue_promotion', 'role_change') and node_name = 'db3'";
    wait_until(PATIENCE, "the rogue and its new role are seen", || scene.db1.query(rogue) == "2");
    let took = begun.elapsed();
    assert!(took < SEEN_WITHIN, "it took {took:?}");
    scene.wait_told("rogue_promotion db3", 1);
    scene.wait_told("role_change db3", 1);
    wait_until(PATIENCE, "a rival gets no writes", || get(scene.http["db3"], "/primary").0 == 503);
    assert_eq!(get(scene.http["db1"], "/primary").0, 200);
    let often =
        ["standby_failure db3", "primary_lost db1", "primary_back db1", "rogue_promotion db3", "role_change db3"];
    for event in often {
        assert_eq!(scene.counts().get(event), Some(&1), "'{event}' was told otherwise: {:?}", scene.told());
    }
}

#[test]
fn answers_come_at_once_whatever_hangs_and_nothing_is_left_behind() {
    // Registered, so that what happens is written down and nobody keeps a lock on the way for having told it.
    let scene = Scene::start("hanging").registered();
    let daemon = scene.daemon("db2");
    let port = scene.http["db2"];
    wait_until(PATIENCE, "it answers", || get(port, "/liveness").0 == 200);
    let sessions = || {
        let count = "select count(*) from pg_stat_activity where application_name like 'pgwarm cluster-monitor%'";
        scene.db1.query(count).parse::<u32>().unwrap_or(0)
    };
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map(Iterator::count).unwrap_or(0);
    wait_until(PATIENCE, "it looks and writes", || sessions() == 2 && get(port, "/replica").0 == 200);
    let before = (sessions(), descriptors());
    for hung in [vec![&scene.db1], vec![&scene.db1, &scene.db2, &scene.db3]] {
        hung.iter().for_each(|server| server.freeze());
        let seen = |body: &str| body.matches("\"state\":\"hung\"").count() == hung.len();
        let slowest = wait_for(PATIENCE, "the hang is seen", || {
            let begun = Instant::now();
            let (code, body) = get(port, "/status.json");
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(1) && code == 200, "{code} after {took:?}");
            seen(&body).then_some(took)
        });
        hung.iter().for_each(|server| server.thaw());
        assert!(slowest < Duration::from_secs(1));
        wait_until(PATIENCE, "it is well again", || get(port, "/status.json").1.contains("\"primary\":\"db1\""));
    }
    wait_until(PATIENCE, "sessions and descriptors are what they were", || {
        sessions() <= before.0 && descriptors() <= before.1
    });
    for (path, code) in [("/replica", 200), ("/replica?lag=1GB", 200), ("/primary", 503), ("/health", 200), ("/x", 404)]
    {
        assert_eq!(get(port, path).0, code, "{path}");
    }
    let (_, metrics) = get(port, "/metrics");
    assert!(metrics.contains("pgwarm_lag_bytes{cluster=\"hanging\",node=\"db2\",path=\"replayed\"}"), "{metrics}");
    let (_, page) = get(port, "/");
    assert!(page.contains("<title>pgwarm</title>") && page.contains("function topology"));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait().expect_ok();
}

#[test]
fn the_schema_is_upgraded_in_place_bounded_and_enough_for_a_small_role() {
    let scene = Scene::start("schema");
    // An older version, with a row in it.
    let first = std::fs::read_to_string("sql/monitor/001_nodes.sql").expect("because it is in the tree");
    scene.db1.execute(&first);
    scene.db1.execute(
        "insert into pgwarm.meta (version, cluster) values (1, 'schema'); \
         insert into pgwarm.nodes (id, name, kind, role) values (7, 'old', 'node', 'standby')",
    );
    scene.run("db1", &["register"]).expect_ok();
    assert_eq!(scene.db1.query("select version from pgwarm.meta"), "3");
    assert_eq!(scene.db1.query("select string_agg(name || id, ',' order by id) from pgwarm.nodes"), "db11,old7");
    scene.db1.execute(
        "insert into pgwarm.lag_history (node_id, sampled_at, primary_lsn) \
         select 7, now() - make_interval(days => day), '0/1' from generate_series(1, 90) as day",
    );
    let planned = scene.run("db1", &["cleanup", "--dry-run"]).expect_ok();
    assert!(planned.stdout.starts_with("61 rows of history and 0 events would be removed"), "{planned}");
    scene.run("db1", &["cleanup", "--keep", "10d"]).expect_ok();
    assert_eq!(scene.db1.query("select count(*) from pgwarm.lag_history"), "9");
    // A role that may do no more than watch.
    scene.db1.execute("create role watcher login in role pgwarm_monitor");
    let layout = &scene.layout;
    let small = scene.db1.conninfo().replace("user=postgres", "user=watcher");
    let set = format!("node.db1.conninfo={small}");
    let watch = |words: &[&str]| layout.program("db1", "cluster-monitor").args(words).args(["--set", &set]).run();
    let seen: Value = serde_json::from_str(&watch(&["status", "--json"]).stdout).expect("because it is JSON");
    let archiver = &seen["nodes"][0]["archiver"];
    assert!(archiver["ready"].is_u64() && seen["nodes"][0]["slots"].is_array(), "{seen:#}");
    watch(&["pause", "--for", "1h", "--reason", "it's $(x)"]).expect_ok();
    assert_eq!(scene.status("db1")["pause"]["reason"], "it's $(x)");
    watch(&["resume"]).expect_ok();
    assert!(watch(&["events", "--event", "monitor_resume"]).expect_ok().stdout.contains("monitor_resume"));
    scene.run("db1", &["status", "extra"]).expect_code(2);
}

#[test]
fn a_witness_with_a_server_tells_of_the_cluster_when_no_other_server_answers() {
    let mut kept = Kept::start("kept");
    // The primary cannot be its own witness, nor can a database that keeps something else.
    kept.layout.node_mut("w").serve(&kept.db1);
    kept.layout.write();
    let same = kept.run("w", &["witness", "register", "--force"]).expect_code(20);
    assert!(same.stderr.contains("which it is to judge"), "{same}");
    kept.layout.node_mut("w").serve(&kept.own);
    kept.layout.write();
    let planned = kept.run("w", &["witness", "register", "--dry-run"]).expect_ok();
    assert!(planned.stdout.contains("its own server keeps a copy of the registry"), "{planned}");
    assert_eq!(kept.own.query("select to_regclass('pgwarm.nodes')"), "");
    let schema = kept.run("w", &["schema"]).expect_ok().stdout;
    let row = "insert into pgwarm.nodes (id, name, kind, role) values (7, 'x', 'node', 'primary')";
    kept.own.execute(&format!("{schema}; {row}"));
    let taken = kept.run("w", &["witness", "register", "--force"]).expect_code(21);
    assert!(taken.stderr.contains("holds a registry of its own"), "{taken}");
    kept.own.execute("drop schema pgwarm cascade");
    let plan = json(kept.run("w", &["witness", "register", "--json"]).expect_ok());
    assert_eq!((&plan["plan"]["keeps_copy"], &plan["plan"]["row"]["role"]), (&true.into(), &"witness".into()));
    assert_eq!(kept.names(), "db1 primary,w witness");
    kept.is_followed_and_told_of();
    // Its server takes writes, which makes it neither the primary nor a rival.
    let seen = json(kept.run("db1", &["status", "--json"]));
    assert_eq!((&seen["primary"], &seen["rivals"]), (&"db1".into(), &Value::Array(Vec::new())));
    let copy = seen["findings"].as_array().and_then(|all| all.iter().find(|it| it["check"] == "copy"));
    assert_eq!(copy.map(|it| &it["level"]), Some(&"ok".into()), "{seen:#}");
    // An old primary that comes back does not take away what is known of a newer one, unless a person says so.
    kept.own.execute("update pgwarm.copies set timeline = 9, primary_name = 'db2'");
    let older = kept.run("w", &["register"]).expect_code(20);
    assert!(older.stderr.contains("keeps a copy of db2 on timeline 9"), "{older}");
    kept.run("w", &["register", "--force"]).expect_ok();
    assert_eq!(kept.own.query("select timeline || ' ' || primary_name from pgwarm.copies"), "1 db1");
    service::is_served(&mut kept);
    kept.run("w", &["witness", "unregister"]).expect_ok();
    assert_eq!(kept.own.query("select count(*) from pgwarm.nodes"), "0");
    assert_eq!(kept.db1.query("select string_agg(name, ',') from pgwarm.nodes"), "db1");
}

#[test]
fn the_page_is_drawn_in_a_browser_from_before_the_daemon_began() {
    let mut scene = Scene::start("wall").registered();
    scene.backed_up_with_a_gap();
    scene.remembered();
    let _daemons: Vec<_> = ["db1", "db2", "db3", "dr1", "w"].into_iter().map(|node| scene.daemon(node)).collect();
    let port = scene.http["db1"];
    scene.past_is_shown(port);
    scene.page_is_drawn(port);
}
