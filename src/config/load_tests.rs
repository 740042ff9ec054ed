//! Loading as a whole: files in, values or problems out.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{Ack, Encoding, PlaceWord, Shipping, render};
use super::*;

/// The smallest configuration of two nodes.
const SMALL: &str =
    "[cluster]\nname = main\n[node.db1]\narchive = /srv/a\nhost = db1\n[node.db2]\nhost = db2\narchive = /srv/a\n";

/// A folder with a shared and a local file.
struct Files(tempfile::TempDir);

impl Files {
    fn new(shared: &str, local: &str) -> Self {
        let files = Files(tempfile::tempdir().expect("because tests need a temporary folder"));
        std::fs::write(files.shared(), shared).expect("because the folder is ours");
        std::fs::write(files.0.path().join(LOCAL_NAME), local).expect("because the folder is ours");
        files
    }

    fn shared(&self) -> PathBuf {
        self.0.path().join("pgwarm.ini")
    }

    fn source(&self, set: &[&str]) -> Source {
        Source { file: Some(self.shared()), local: None, set: set.iter().map(|text| text.to_string()).collect() }
    }

    /// Loads without the variables of the machine that runs the test.
    fn load(&self, set: &[&str]) -> Result<(Config, Sheet), ConfigError> {
        settle(&self.source(set), &|_| None)
    }

    fn config(&self, set: &[&str]) -> Config {
        self.load(set).map(|(config, _)| config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The problems, with the folder left out.
    fn problems(&self, set: &[&str]) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        let Err(error) = self.load(set) else { return Vec::new() };
        error.problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }
}

fn small(extra: &str) -> Files {
    Files::new(&format!("{SMALL}{extra}"), "[local]\nnode = db1\n")
}

#[test]
fn defaults_hold_where_nothing_is_said() {
    let config = small("").config(&[]);
    assert_eq!(config.own().name, "db1");
    assert_eq!(config.local.spool, PathBuf::from("/var/lib/pgwarm/spool"));
    assert_eq!(config.archive.to, [PlaceWord::Own, PlaceWord::Nodes]);
    assert_eq!((config.archive.ack, config.archive.compress), (Ack::Standby, Encoding::Zstd));
    assert_eq!(config.archive.deadline, Duration::from_secs(60));
    assert_eq!(config.queue.free_min, 1 << 30);
    assert_eq!(config.restore.poll, Duration::from_secs(1));
    assert_eq!(config.check.archive_age_critical, Duration::from_secs(86_400));
    assert_eq!(config.ssh.program, PathBuf::from("ssh"));
    assert_eq!(config.notify.ok, Vec::<String>::new());
    assert_eq!(config.nodes[1].ssh_port, None);
}

#[test]
fn set_goes_before_the_local_file_and_that_before_the_shared_one() {
    let files = Files::new(
        &format!("{SMALL}[archive]\nack = 1\nlevel = 3\nretry = 7s\n[relay]\nrate_max = 10MB\n"),
        "[local]\nnode = db2\n[archive]\nlevel = 5\nretry = 8s\n[node.db1]\nssh_port = 2222\n",
    );
    let (config, sheet) = files.load(&["archive.retry=9s", "node.db1.archive=/other"]).expect("because it is sound");
    assert_eq!((config.archive.ack, config.archive.level), (Ack::Count(1), 5));
    assert_eq!(config.archive.retry, Duration::from_secs(9));
    assert_eq!(config.relay.rate_max, 10 << 20);
    assert_eq!(config.nodes[0].archive, Some(PathBuf::from("/other")));
    assert_eq!(config.nodes[0].ssh_port, Some(2222));
    let origins = sheet.origins();
    let origin = |section: &str, key: &str| {
        let found = origins.settings.iter().find(|setting| setting.section == section && setting.key == key);
        found.map(|setting| setting.origin.clone())
    };
    assert_eq!(origin("archive", "ack"), Some(Origin::Shared(10)));
    assert_eq!(origin("archive", "level"), Some(Origin::Local(4)));
    assert_eq!(origin("archive", "retry"), Some(Origin::Set));
    assert_eq!(origin("archive", "worker"), Some(Origin::Default));
    assert_eq!(origin("node.db1", "ssh_port"), Some(Origin::Local(7)));
}

#[test]
fn every_problem_is_reported_at_once() {
    let files = Files::new(
        "[cluster]\nname = ma in\n[archvie]\nto = own\n[archive]\ndedline = 60\ndeadline = 60\nack = most\nlevel = 99\n\
         [restore]\nwait = yes\n junk\nfrom = own # all\n[node.dr]\nhost = x\n[node.db1]\narchive = srv/a\n",
        "[local]\nnode = db1\nspool = ~/spool\n",
    );
    assert_eq!(
        files.problems(&["archive.ack", "archiv.ack=1", "archive.ack=none", "node.db9.host=x"]),
        [
            "pgwarm.ini:2: cluster.name = 'ma in' is no plain name",
            "pgwarm.ini:3: unknown section [archvie]",
            "pgwarm.ini:6: unknown key 'dedline' in section [archive]",
            "pgwarm.ini:7: archive.deadline = '60' has no unit",
            "pgwarm.ini:8: archive.ack = 'most' is no ack policy",
            "pgwarm.ini:9: archive.level = '99' is not between -7 and 19",
            "pgwarm.ini:11: restore.wait = 'yes' is neither on nor off",
            "pgwarm.ini:12: the line 'junk' is indented",
            "pgwarm.ini:13: the value of 'from' is followed by '# all'",
            "pgwarm.ini:14: no node can have the name 'dr'",
            "pgwarm.ini:17: node.db1.archive = 'srv/a' is not absolute",
            "pgwarm.local.ini:3: local.spool = '~/spool' is not absolute",
            "--set 'archive.ack' is no assignment",
            "--set: unknown section [archiv]",
            "--set: archive.ack = 'none' is no ack policy",
            "--set: the shared file has no section [node.db9]",
        ]
    );
}

#[test]
fn what_does_not_hold_together_is_refused_at_its_line() {
    let cases = [
        ("[archive]\nshipping = discard\n", "pgwarm.ini:10: archive.shipping is 'discard', but it is not confirmed"),
        ("[archive]\nack = 3\n", "pgwarm.ini:10: archive.ack asks for 3 places, but archive.to has 2"),
        ("[archive]\nto = own, db9\n", "pgwarm.ini:10: archive.to names 'db9', which is no node"),
        ("[archive]\nto = own, queue, db2\n", "pgwarm.ini:10: archive.to cannot hold 'queue'"),
        ("[archive]\nto =\nack = local\n", "pgwarm.ini:10: archive.to names no place"),
        ("[archive]\ndeadline = 20s\n", "ssh.deadline (30s) is longer than archive.deadline (20s)"),
        ("[ssh]\ndead_after = 40s\n", "pgwarm.ini:10: ssh.dead_after (40s) is longer than ssh.deadline (30s)"),
        ("[check]\nfree_warning = 5\n", "pgwarm.ini:10: check.free_warning (5) comes after check.free_critical (10)"),
        (
            "[check]\nlag_warning = 5GB\n",
            "pgwarm.ini:10: check.lag_warning (5GiB) comes after check.lag_critical (4GiB)",
        ),
        ("[monitor]\nhttp = here\n", "pgwarm.ini:10: monitor.http = 'here' is no port and no address:port"),
        ("[monitor]\ndeadline = 4s\n", "pgwarm.ini:10: monitor.deadline (4s) is longer than monitor.lost_after (3s)"),
        ("[node.db3]\nid = 7\n[node.db4]\nid = 7\n", "pgwarm.ini:12: nodes 'db3' and 'db4' both have the id 7"),
        ("[node.db3]\narchive = /srv/c\n", "node.db3.host is not set, but files go to its archive or come from it"),
        ("[node.db3]\nhost = -oProxyCommand=x\n", "pgwarm.ini:10: node.db3.host = '-oProxyCommand=x' is no plain name"),
        ("[node.db3]\nconninfo = host=x password = y\n", "pgwarm.ini:10: node.db3.conninfo holds a password"),
        ("[node.db3]\nconninfo = postgresql://u:secret@h/d\n", "pgwarm.ini:10: node.db3.conninfo holds a password"),
        (
            "[node.db3]\ntransport = sftp\nssh_jump = h\n",
            "pgwarm.ini:11: node.db3.ssh_jump is set, but sftp cannot jump",
        ),
        (
            "[node.db3]\nhost = db2\narchive = /srv/a/\n",
            "pgwarm.ini:11: nodes 'db2' and 'db3' have the same archive on the same host",
        ),
        (
            "[node.db3]\npgdata = /d\narchive = /d/a\nhost = h\n",
            "pgwarm.ini:11: node.db3.archive '/d/a' lies inside its pgdata",
        ),
        (
            "[local]\nspool = /srv/a/spool\n",
            "pgwarm.ini:10: local.spool '/srv/a/spool' and the archive of this node lie in each other",
        ),
        (
            "[ssh]\noptions = -o StrictHostKeyChecking=no\n",
            "pgwarm.ini:10: ssh.options holds 'StrictHostKeyChecking=no', which turns off the check of host keys",
        ),
    ];
    for (extra, expected) in cases {
        assert_eq!(small(extra).problems(&[]), [expected], "{extra}");
    }
}

#[test]
fn an_ack_is_judged_where_the_server_may_archive() {
    let shared = "[cluster]\nname=a\n[archive]\nto=own, dr\nack=2\n[node.db1]\nhost=a\narchive=/a\n\
                  [node.dr1]\nkind=dr\nhost=b\narchive=/a\n[node.w]\nkind=witness\nhost=c\n";
    for node in ["db1", "dr1", "w"] {
        let files = Files::new(shared, &format!("[local]\nnode={node}\n"));
        assert_eq!(files.problems(&[]), Vec::<String>::new(), "{node}");
    }
    let files = Files::new(shared, "[local]\nnode=db1\n");
    assert_eq!(files.problems(&["archive.ack=3"]), ["archive.ack asks for 3 places, but archive.to has 2"]);
    let alone = "[cluster]\nname=a\n[local]\nnode=x\n[node.x]\narchive=/a\n";
    assert_eq!(
        Files::new(alone, "").problems(&[]),
        ["archive.ack asks for a place on another node, but there is none"]
    );
}

#[test]
fn a_confirmed_discard_is_accepted() {
    let text =
        format!("[archive]\nshipping = discard\ndiscard_confirmation = {}\n", super::super::DISCARD_CONFIRMATION);
    assert_eq!(small(&text).config(&[]).archive.shipping, Shipping::Discard);
}

#[test]
fn passwords_are_never_repeated() {
    let error = small("[node.db3]\nconninfo = postgresql://u:hush@h/d\n").load(&[]).map(|_| ()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"));
}

#[test]
fn a_conninfo_without_a_password_passes() {
    let node = "[node.db3]\nconninfo = host=/run/postgresql user=pgwarm passfile=/x\n";
    let uri = "[node.db4]\nconninfo = postgresql://pgwarm@[::1]:5433/postgres?application_name=x\n";
    assert_eq!(small(&format!("{node}{uri}")).problems(&[]), Vec::<String>::new());
}

#[test]
fn what_is_required_must_be_said() {
    let files = Files::new("[archive]\nack = local\n", "");
    assert_eq!(files.problems(&[]), ["cluster.name is not set", "local.node is not set"]);
    let alone = Files::new("[cluster]\nname=a\n[local]\nnode=x1\n[node.x1]\narchive=/a\n[archive]\nack=local\n", "");
    assert_eq!(alone.config(&[]).own().name, "x1");
}

#[test]
fn a_node_only_the_local_file_names_is_refused() {
    let files = Files::new(SMALL, "[local]\nnode = db1\n[node.db11]\nssh_port = 1\n");
    assert_eq!(files.problems(&[]), ["pgwarm.local.ini:3: the shared file has no section [node.db11]"]);
}

#[test]
fn files_are_found_by_argument_then_environment_then_place() {
    let files = small("");
    let elsewhere = Files::new("", "[local]\nnode = db2\n");
    let variables = |name: &str| match name {
        SHARED_VARIABLE => Some(files.shared().into_os_string()),
        LOCAL_VARIABLE => Some(elsewhere.0.path().join(LOCAL_NAME).into_os_string()),
        _ => None,
    };
    let (config, sheet) = settle(&Source::default(), &variables).expect("because both files are sound");
    assert_eq!(config.local.node, "db2");
    assert_eq!(sheet.shared.by, FoundBy::Environment);
    let source = Source { local: Some(files.0.path().join(LOCAL_NAME)), ..Source::default() };
    let (config, _) = settle(&source, &variables).expect("because both files are sound");
    assert_eq!(config.local.node, "db1");
}

#[test]
fn a_file_that_is_missing_unsafe_or_no_text_is_one_clear_problem() {
    let files = small("");
    let mut source = files.source(&[]);
    source.local = Some(files.0.path().join("none.ini"));
    let error = settle(&source, &|_| None).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("none.ini: there is no such configuration file"), "{error}");
    std::fs::remove_file(files.shared()).expect("because it is ours");
    assert_eq!(files.problems(&[]), ["pgwarm.ini: there is no such configuration file"]);

    let files = small("");
    std::fs::set_permissions(files.shared(), PermissionsExt::from_mode(0o666)).expect("because it is ours");
    assert_eq!(files.problems(&[]), ["pgwarm.ini: the file may be written by everyone"]);

    let files = small("");
    std::fs::write(files.shared(), b"[cluster]\nname = \xff\n").expect("because it is ours");
    assert_eq!(files.problems(&[]), ["pgwarm.ini:2: the line is not UTF-8"]);
    std::fs::write(files.shared(), vec![b'#'; (1 << 20) + 1]).expect("because it is ours");
    assert_eq!(files.problems(&[]), ["pgwarm.ini: the file is larger than 1 MiB"]);
}

#[test]
fn equal_settings_written_differently_have_one_fingerprint() {
    let one = small("[archive]\ndeadline = 60s\n").config(&[]).fingerprint;
    assert_eq!(small("[archive]\ndeadline = 1min\n").config(&[]).fingerprint, one);
    assert_eq!(small("").config(&[]).fingerprint, one);
    assert_ne!(small("").config(&["archive.deadline=61s"]).fingerprint, one);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_file_makes_loading_panic(lines in proptest::collection::vec(line(), 0..30), set in "[a-z.=]{0,12}") {
        let files = Files::new(&lines.join("\n"), "[local]\nnode = a\n");
        if let Ok((config, _)) = files.load(&[&set]) {
            prop_assert_eq!(config.own().name.as_str(), "a");
        }
    }
}

/// A line which is often nearly right.
fn line() -> impl Strategy<Value = String> {
    let row = (0..OPTIONS.len(), "(on|10s|1GB|own, a|a|/x|99|zstd|none|\\PC{0,6})");
    prop_oneof![
        row.prop_map(|(at, value)| format!("{} = {value}", OPTIONS[at].key)),
        (0..OPTIONS.len()).prop_map(|at| format!("[{}]", OPTIONS[at].section)),
        Just("[node.a]".to_string()),
        Just("[cluster]\nname = a".to_string()),
        "\\PC{0,12}",
    ]
}

#[test]
fn loading_takes_well_under_a_millisecond() {
    // Every option said, as in a file that somebody has filled in from the sample.
    let key = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let said = |text: String| {
        text.lines().map(|line| if key(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
    };
    let files = Files::new(&said(render::sample()), &said(render::local_sample()));
    let fastest = (0..50)
        .map(|_| {
            let begin = Instant::now();
            files.config(&[]);
            begin.elapsed()
        })
        .min();
    println!("fastest load: {fastest:?}");
    // Unoptimised and on a busy machine it may take several times what a release build takes.
    assert!(fastest < Some(Duration::from_millis(10)), "{fastest:?}");
}
