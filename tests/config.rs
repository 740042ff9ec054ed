//! The house as its users meet it: real processes with broken files, exact output and exit code; and the checked-in
//! copies of what is made from the tables.
//!
//! Programs are run by starting this very test file again with `PGWARM_TEST_WORDS` set: the child then is the program,
//! with a body that does what the test asks. So the house is tested whatever the programs do.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::ArgMatches;
use pgwarm::cli::run::{Bare, Context, bare_from, main_from};
use pgwarm::cli::{help, output};
use pgwarm::config::render;
use pgwarm::error::{Class, Failure};

/// The words of the child's command line, one a line.
const WORDS: &str = "PGWARM_TEST_WORDS";

/// What the child's body does.
const BODY: &str = "PGWARM_TEST_BODY";

const SHARED: &str = "[cluster]\nname = main\n[node.db1]\narchive = /srv/a\n[archive]\nack = local\n";

/// The body of a program in a test.
fn body(_: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    match std::env::var(BODY).unwrap_or_default().as_str() {
        "conflict" => {
            log::warn!(target: "pgwarm::test", "look\nhere");
            log::debug!(target: "pgwarm::test", "detail");
            Err(Failure::new(Class::Conflict, "two\nlines").hinted("Compare\nthem."))
        }
        "absent" => Err(Failure::new(Class::Absent, "nowhere")),
        "panic" => panic!("broken\ninvariant"),
        "code" => Ok(200),
        "print" => {
            for _ in 0..10_000 {
                output::print("a line that nobody reads any more\n")?;
            }
            Ok(0)
        }
        _ => {
            output::print(&format!("{} {}\n", context.config.cluster.name, context.dry_run))?;
            Ok(0)
        }
    }
}

fn bare_body(matches: &ArgMatches, bare: &Bare) -> Result<u8, Failure> {
    let archive = matches.get_one::<PathBuf>("archive").cloned().unwrap_or_default();
    output::print(&format!("{} {}\n", bare.program, archive.display()))?;
    Ok(0)
}

/// Not a test: the child's side. Without the variable it does nothing.
#[test]
fn child() {
    let Ok(words) = std::env::var(WORDS) else { return };
    let words = || words.split('\n').map(OsString::from);
    let code = match words().next().as_ref().and_then(|name| name.to_str()) {
        Some("archive-wal") => main_from("archive-wal", words(), body),
        Some("restore-wal") => main_from("restore-wal", words(), body),
        Some("check-node") => main_from("check-node", words(), body),
        _ => bare_from("serve-archive", words(), bare_body),
    };
    std::process::exit(i32::from(code));
}

/// True if the test itself runs as root, so that a child must be started as somebody else.
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An unprivileged user.
const NOBODY: u32 = 65_534;

/// A program to be run.
struct Run {
    folder: tempfile::TempDir,
    words: Vec<String>,
    body: &'static str,
    as_root: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Run {
    /// A program with a folder that holds these files.
    fn new(shared: &str, local: &str, words: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("because tests need a temporary folder");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("because it is ours");
        for (name, text) in [("pgwarm.ini", shared), ("pgwarm.local.ini", local)] {
            fs::write(folder.path().join(name), text).expect("because the folder is ours");
            fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o644))
                .expect("because it is ours");
        }
        let words = words.iter().map(|word| word.to_string()).collect();
        Run { folder, words, body: "", as_root: false }
    }

    fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }

    /// The child, reached through a copy that an unprivileged user may run wherever the build is.
    fn command(&self) -> Command {
        let program = self.folder.path().join("child");
        let own = std::env::current_exe().expect("because a test is a program");
        if fs::hard_link(&own, &program).is_err() {
            fs::copy(&own, &program).expect("because the folder is ours");
        }
        let mut command = Command::new(program);
        command.args(["--exact", "child", "--nocapture", "--quiet"]);
        command.env_clear().env(WORDS, self.words.join("\n")).env(BODY, self.body).env("TZ", "UTC");
        command.env("PGWARM_CONFIG", self.folder.path().join("pgwarm.ini")).stdin(Stdio::null());
        command.current_dir("/");
        if root() && !self.as_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&self) -> Outcome {
        let done = self.command().output().expect("because the child is this very program");
        self.outcome(&done)
    }

    /// The folder is left out of the texts, and so is what the test harness says before the child begins.
    fn outcome(&self, done: &Output) -> Outcome {
        let folder = format!("{}/", self.folder.path().display());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder, "");
        let out = text(&done.stdout);
        let out = out.trim_start_matches('\n').strip_prefix("running 1 test\n").unwrap_or(&out).to_string();
        Outcome { code: done.status.code(), out, error: text(&done.stderr) }
    }
}

fn outcome(code: i32, out: &str, error: &str) -> Outcome {
    Outcome { code: Some(code), out: out.to_string(), error: error.to_string() }
}

const LOCAL: &str = "[local]\nnode = db1\n";

#[test]
fn a_sound_program_runs_with_its_configuration() {
    let run = Run::new(SHARED, LOCAL, &["archive-wal", "--dry-run", "pg_wal/x"]);
    assert_eq!(run.run(), outcome(0, "main true\n", ""));
}

#[test]
fn every_problem_of_a_broken_file_is_told_with_its_line() {
    let shared = "[cluster]\nname = main\n[archive]\nakc = all\ndeadline = 60\n port\n[node.db1]\narchive = /srv/a\n";
    let expected = |program: &str| {
        format!(
            "{program}: ERROR: [config] pgwarm.ini:4: unknown key 'akc' in section [archive]\n\
             {program}: HINT: Did you mean 'ack'?\n\
             {program}: ERROR: [config] pgwarm.ini:5: archive.deadline = '60' has no unit\n\
             {program}: HINT: Write a whole number with its unit: ms, s, min, h or d, such as '10s'.\n\
             {program}: ERROR: [config] pgwarm.ini:6: the line 'port' is indented\n\
             {program}: HINT: Begin it in the first column; a value cannot go on in the next line, so write it in one line.\n\
             {program}: ERROR: [config] pgwarm.local.ini:2: unknown key 'nod' in section [local]\n\
             {program}: HINT: Did you mean 'node'?\n\
             {program}: ERROR: [config] local.node is not set\n\
             {program}: HINT: Set 'node' in section [local] of 'pgwarm.local.ini'.\n"
        )
    };
    let run = Run::new(shared, "[local]\nnod = db1\n", &["archive-wal", "x"]);
    assert_eq!(run.run(), outcome(10, "", &expected("archive-wal")));
    // PostgreSQL must not read a broken configuration as "there is no such file".
    let run = Run::new(shared, "[local]\nnod = db1\n", &["restore-wal", "x", "y", "z"]);
    assert_eq!(run.run(), outcome(255, "", &expected("restore-wal")));
}

#[test]
fn a_missing_file_is_told() {
    let run = Run::new(SHARED, LOCAL, &["archive-wal", "--config", "/nonexistent/pgwarm.ini", "x"]);
    let error = "archive-wal: ERROR: [config] /nonexistent/pgwarm.ini: there is no such configuration file\n\
                 archive-wal: HINT: Correct the path on the command line.\n";
    assert_eq!(run.run(), outcome(10, "", error));
}

#[test]
fn a_wrong_command_line_is_2_but_255_for_a_restore() {
    let error = |program: &str| {
        format!(
            "{program}: ERROR: [usage] unexpected argument '--wat' found\n\
             {program}: HINT: Run '{program} --help' to see how it is called.\n"
        )
    };
    assert_eq!(Run::new(SHARED, LOCAL, &["check-node", "--wat"]).run(), outcome(2, "", &error("check-node")));
    let outcome_of_restore = Run::new(SHARED, LOCAL, &["restore-wal", "--wat"]).run();
    assert_eq!(outcome_of_restore.code, Some(255));
    assert!(outcome_of_restore.error.starts_with("restore-wal: ERROR: [usage] unexpected argument '--wat' found\n"));
}

#[test]
fn a_failure_is_one_error_and_one_hint() {
    let error = "archive-wal: WARNING: look here\n\
                 archive-wal: ERROR: [conflict] two lines\n\
                 archive-wal: HINT: Compare them.\n";
    let run = Run::new(SHARED, LOCAL, &["archive-wal", "x"]).body("conflict");
    assert_eq!(run.run(), outcome(21, "", error));
    let quiet = Run::new(SHARED, LOCAL, &["archive-wal", "-q", "x"]).body("conflict");
    assert_eq!(quiet.run().error.lines().count(), 2);
    let verbose = Run::new(SHARED, LOCAL, &["archive-wal", "-v", "x"]).body("conflict");
    assert!(verbose.run().error.contains("archive-wal: DEBUG: detail\n"));
}

#[test]
fn absence_is_1_and_any_other_failure_of_a_restore_is_255() {
    assert_eq!(Run::new(SHARED, LOCAL, &["restore-wal", "x", "y"]).body("absent").run().code, Some(1));
    assert_eq!(Run::new(SHARED, LOCAL, &["restore-wal", "x", "y"]).body("conflict").run().code, Some(255));
    assert_eq!(Run::new(SHARED, LOCAL, &["restore-wal", "x", "y"]).body("code").run().code, Some(200));
    assert_eq!(Run::new(SHARED, LOCAL, &["archive-wal", "x"]).body("code").run().code, Some(125));
}

#[test]
fn a_panic_is_a_bug_and_never_an_answer() {
    let done = Run::new(SHARED, LOCAL, &["archive-wal", "x"]).body("panic").run();
    assert_eq!(done.code, Some(70));
    let lines: Vec<&str> = done.error.lines().collect();
    assert_eq!(lines.len(), 2, "{}", done.error);
    assert!(lines[0].starts_with("archive-wal: ERROR: [bug] broken invariant at "), "{}", done.error);
    assert!(lines[1].starts_with("archive-wal: HINT: This is a bug in pgwarm "), "{}", done.error);
    assert_eq!(Run::new(SHARED, LOCAL, &["restore-wal", "x", "y"]).body("panic").run().code, Some(255));
}

#[test]
fn root_is_refused_but_may_read_help_and_configuration() {
    if !root() {
        return;
    }
    let as_root = |words: &[&str]| Run { as_root: true, ..Run::new(SHARED, LOCAL, words) }.run();
    let error = "archive-wal: ERROR: [refused] this program does not run as root\n\
                 archive-wal: HINT: Run it as the user that PostgreSQL runs as, such as 'postgres'.\n";
    assert_eq!(as_root(&["archive-wal", "x"]), outcome(20, "", error));
    assert_eq!(as_root(&["serve-archive", "--archive", "/a"]).code, Some(20));
    for words in [["archive-wal", "--help"], ["archive-wal", "--version"], ["archive-wal", "--show-config"]] {
        let done = as_root(&words);
        assert_eq!((done.code, done.error.as_str()), (Some(0), ""), "{words:?}");
        assert!(!done.out.is_empty(), "{words:?}");
    }
}

#[test]
fn a_program_without_configuration_reads_none() {
    let run = Run::new("broken", "broken", &["serve-archive", "--archive", "/a"]);
    assert_eq!(run.run(), outcome(0, "serve-archive /a\n", ""));
}

#[test]
fn help_ends_with_codes_and_the_line_for_postgresql() {
    let done = Run::new("broken", "", &["restore-wal", "--help"]).run();
    assert_eq!((done.code, done.error.as_str()), (Some(0), ""));
    assert!(done.out.ends_with("archive_cleanup_command = 'restore-wal --cleanup %r'\n"), "{}", done.out);
    assert!(done.out.contains("  255  restore-wal only: stop recovery rather than guess\n"), "{}", done.out);
}

#[test]
fn show_config_names_every_origin() {
    let words = ["archive-wal", "--show-config", "--set", "archive.level=3"];
    let done = Run::new(SHARED, LOCAL, &words).run();
    assert_eq!((done.code, done.error.as_str()), (Some(0), ""));
    assert!(
        done.out.starts_with("# shared file: pgwarm.ini (environment)\n# local file: pgwarm.local.ini\n"),
        "{}",
        done.out
    );
    let line = |start: &str| done.out.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_string();
    assert!(line("cluster.name = main ").ends_with("  # pgwarm.ini:2"));
    assert!(line("local.node = db1 ").ends_with("  # local file pgwarm.local.ini:2"));
    assert!(line("archive.level = 3 ").ends_with("  # --set"));
    assert!(line("archive.to = own, nodes ").ends_with("  # default"));
    let json = Run::new(SHARED, LOCAL, &["archive-wal", "--show-config", "--json"]).run();
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap_or_default();
    assert_eq!(json["options"][0]["value"], "main");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let run = Run::new(SHARED, LOCAL, &["check-node"]).body("print");
    let mut child = run.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("because it is ours");
    // The test harness of the child must have had its say before its reader goes.
    let mut lines = BufReader::new(child.stdout.take().expect("because it is piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("nobody reads"))));
    drop(lines);
    let done = child.wait_with_output().expect("because the child is ours");
    assert_eq!(run.outcome(&done), outcome(0, "", ""));
}

#[test]
fn the_log_file_gets_what_standard_error_gets() {
    let run = Run::new(SHARED, LOCAL, &["archive-wal", "x"]).body("conflict");
    let folder = run.folder.path().join("log");
    fs::create_dir(&folder).expect("because the folder is ours");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("because it is ours");
    let mut local = fs::OpenOptions::new().append(true).open(run.folder.path().join("pgwarm.local.ini"));
    let added = local.as_mut().map(|file| writeln!(file, "[log]\nfile = {}/pgwarm.log", folder.display()));
    assert!(added.is_ok());
    assert_eq!(run.run().code, Some(21));
    let text = fs::read_to_string(folder.join("pgwarm.log")).unwrap_or_default();
    let ends: Vec<&str> = text.lines().filter_map(|line| line.split_once("]: ")).map(|(_, end)| end).collect();
    assert_eq!(ends, ["WARNING: look here", "ERROR: [conflict] two lines", "HINT: Compare them."]);
}

/// A file of the project.
fn project(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn docs(words: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_pgwarm-docs")).args(words).output().expect("because cargo built it");
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn the_checked_in_samples_are_the_generated_ones() {
    assert_eq!(project("etc/pgwarm.ini.sample"), docs(&["--sample"]));
    assert_eq!(project("etc/pgwarm.local.ini.sample"), docs(&["--local-sample"]));
    assert_eq!(docs(&["--options-table"]), render::options_table());
    assert_eq!(docs(&["--exit-codes"]), help::exit_code_table());
}

#[test]
fn manual_pages_and_completions_are_written_for_every_program() {
    let folder = tempfile::tempdir().expect("because tests need a temporary folder");
    docs(&[&folder.path().display().to_string()]);
    for program in pgwarm::cli::PROGRAMS {
        let name = program.name;
        for file in [format!("man/{name}.1"), format!("completions/{name}.bash"), format!("completions/_{name}")] {
            let text = fs::read_to_string(folder.path().join(&file)).unwrap_or_default();
            assert!(text.contains(name), "{file}");
        }
        assert!(folder.path().join(format!("completions/{name}.fish")).exists(), "{name}");
    }
}

#[test]
fn docs_says_what_it_cannot_do() {
    let run = |words: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_pgwarm-docs")).args(words).output().map(|done| done.status.code())
    };
    assert_eq!(run(&["/dev/null/x"]).ok(), Some(Some(30)));
    assert_eq!(run(&[]).ok(), Some(Some(2)));
}
