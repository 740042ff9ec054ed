//! What the project says of itself: the README's tables, the programs' help and manual pages, and every path that a
//! text names, held against the programs and the tree.
//!
//! Leaves out the checked-in samples and the completions' content: `tests/config.rs` has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgwarm::cli::{PROGRAMS, help};
use pgwarm::config::options::{OPTIONS, SECTIONS};
use pgwarm::error::EXIT_CODES;

/// Texts that name paths of the project.
const TEXTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

/// Where a path of the project begins; anything else that looks like a path belongs to a machine.
const PROJECT: &[&str] = &["src/", "etc/", "scripts/", "sql/", "tests/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn project(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read '{path}': {error}"))
}

/// What stands between the markers of that name, which surround a generated table.
fn between(text: &str, marker: &str) -> String {
    let begin = format!("<!-- {marker} -->\n");
    let rest = text.split_once(&begin).unwrap_or_else(|| panic!("there is no '{begin}'")).1;
    rest.split_once(&format!("<!-- /{marker} -->")).unwrap_or_else(|| panic!("'{marker}' has no end")).0.to_owned()
}

/// One of our programs, run where it can do no harm.
fn call(program: &str, words: &[&str]) -> Output {
    let docs = PathBuf::from(env!("CARGO_BIN_EXE_pgwarm-docs"));
    let path = docs.with_file_name(program);
    Command::new(&path).args(words).output().unwrap_or_else(|error| panic!("cannot run '{}': {error}", path.display()))
}

fn stdout(program: &str, words: &[&str]) -> String {
    let done = call(program, words);
    assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn the_readme_holds_the_tables_that_the_programs_print() {
    let readme = project("README.md");
    for (marker, switch) in [("exit-codes", "--exit-codes"), ("options", "--options-table")] {
        let printed = stdout("pgwarm-docs", &[switch]);
        assert_eq!(between(&readme, marker), printed, "put the output of 'pgwarm-docs {switch}' between the markers");
    }
}

#[test]
fn help_ends_with_the_exit_codes_and_the_lines_of_the_program() {
    for program in PROGRAMS {
        let text = stdout(program.name, &["--help"]);
        let (_, end) = text.split_once("\nExit codes:\n").unwrap_or_else(|| panic!("{}: {text}", program.name));
        for row in EXIT_CODES {
            let line = format!("{:>5}  {}", row.code, row.meaning);
            let given = help::exit_codes(program).iter().any(|given| given.code == row.code);
            assert_eq!(end.lines().any(|found| found == line), given, "{} and code {}", program.name, row.code);
        }
        for line in program.lines {
            assert!(end.contains(line.text), "{} does not show '{}'", program.name, line.text);
        }
    }
}

#[test]
fn every_program_has_a_section_with_the_line_it_is_called_by() {
    let readme = project("README.md");
    for program in PROGRAMS {
        let heading = format!("\n### {}\n", program.name);
        let section = readme.split_once(&heading).unwrap_or_else(|| panic!("no section for {}", program.name)).1;
        let section = section.split("\n#").next().unwrap_or_default();
        assert!(section.contains("\n```\n"), "the section of {} shows no line", program.name);
        for line in program.lines.iter().filter(|line| line.file == "postgresql.conf") {
            // The README names the program by its path, as postgresql.conf should.
            let line = line.text.replace(program.name, &format!("/usr/bin/{}", program.name));
            assert!(section.contains(&line), "the section of {} lacks: {line}", program.name);
        }
    }
}

#[test]
fn the_codes_for_those_who_come_from_repmgr_are_ours() {
    let readme = project("README.md");
    let (_, table) = readme.split_once("| repmgr says | cluster-monitor says |\n| --- | --- |\n").expect("it is there");
    let monitor = pgwarm::cli::program("cluster-monitor").expect("because it is ours");
    let known: BTreeSet<u8> = help::exit_codes(monitor).iter().map(|row| row.code).collect();
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    // As errcode.h of repmgr 4 and 5 has them; those about files, memory, barman and services have no match here.
    let theirs = [
        "1 ERR_BAD_CONFIG",
        "4 ERR_NO_RESTART",
        "5 ERR_LOCAL_COMMAND",
        "6 ERR_DB_CONN",
        "7 ERR_DB_QUERY",
        "8 ERR_PROMOTION_FAIL",
        "9 ERR_MONITORING_TIMEOUT",
        "11 ERR_FAILOVER_FAIL",
        "12 ERR_BAD_SSH",
        "18 ERR_SWITCHOVER_FAIL",
        "22 ERR_SWITCHOVER_INCOMPLETE",
        "23 ERR_FOLLOW_FAIL",
        "24 ERR_REJOIN_FAIL",
        "25 ERR_NODE_STATUS",
        "26 ERR_REPMGRD_PAUSE",
    ];
    for code in theirs {
        assert!(
            rows.iter().any(|row| row.split(['|', ',', '(']).any(|part| part.trim() == code)),
            "{code} is not mapped"
        );
    }
    for row in rows {
        let ours = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let codes: Vec<u8> = ours.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        assert!(!codes.is_empty() && codes.iter().all(|code| known.contains(code)), "{row}");
    }
}

/// Every option that a text shows behind a program's name, as `program --option`.
fn shown_options(text: &str) -> BTreeSet<(&'static str, String)> {
    let mut shown = BTreeSet::new();
    for program in PROGRAMS {
        for (at, _) in text.match_indices(&format!("{} ", program.name)) {
            let call = &text[at + program.name.len()..];
            let call = call.split(['\n', '`', '\'', '|', '#', ';', '"']).next().unwrap_or_default();
            let words = call.split_whitespace().take_while(|word| word.is_ascii());
            for word in words.filter(|word| word.starts_with("--")) {
                shown.insert((program.name, word.trim_end_matches([',', '.', ':', ')']).to_owned()));
            }
        }
    }
    shown
}

#[test]
fn every_option_that_a_text_shows_is_one_the_program_takes() {
    let mut texts: Vec<PathBuf> = TEXTS.iter().map(|path| root().join(path)).collect();
    texts.extend(files_below("etc"));
    let mut seen = 0;
    for path in texts {
        let text = fs::read_to_string(&path).expect("because it is a text of the project");
        for (name, option) in shown_options(&text) {
            let program = pgwarm::cli::program(name).expect("because the name comes from the table");
            let mut command = (program.command)();
            command.build();
            let known = command.get_arguments().filter_map(|argument| argument.get_long());
            let known = known.chain(["help", "version"]).any(|long| option == format!("--{long}"));
            assert!(known, "{}: {name} takes no '{option}'", path.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} options were found in all texts");
}

#[test]
fn every_key_that_the_readme_names_is_an_option() {
    let readme = project("README.md");
    let known: BTreeSet<String> = OPTIONS.iter().map(|row| format!("{}.{}", row.section, row.key)).collect();
    let mut seen = 0;
    for quoted in readme.split('`').skip(1).step_by(2) {
        let Some((section, key)) = quoted.split_once('.') else { continue };
        let plain = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !word.is_empty();
        // A file of PostgreSQL, not a key of ours.
        if quoted == "standby.signal" {
            continue;
        }
        if SECTIONS.iter().any(|known| known.name == section) && plain(key) {
            assert!(known.contains(quoted), "there is no option '{quoted}'");
            seen += 1;
        }
    }
    assert!(seen > known.len() / 2, "only {seen} keys were found");
}

#[test]
fn every_manual_page_is_a_manual_page() {
    let folder = tempfile::tempdir().expect("because tests need a temporary folder");
    stdout("pgwarm-docs", &[&folder.path().display().to_string()]);
    // man-db renders where it is installed; the source is looked at in any case.
    let renders = Command::new("man").arg("--version").output().is_ok_and(|done| done.status.success());
    for program in PROGRAMS {
        let path = folder.path().join(format!("man/{}.1", program.name));
        let page = fs::read_to_string(&path).unwrap_or_default();
        let title = page.lines().find(|line| line.starts_with(".TH")).unwrap_or_default();
        assert!(title.contains(program.name), "{}: '{title}'", path.display());
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"EXIT STATUS\""] {
            let heading = format!(".SH {section}");
            assert!(page.lines().any(|line| line == heading), "{} has no {section}", path.display());
        }
        if renders {
            let done = Command::new("man").args(["--warnings", "-l"]).arg(&path).env("MANWIDTH", "80").output();
            let done = done.expect("because it answered above");
            let complaints = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() && complaints.is_empty(), "{}: {complaints}", path.display());
        }
    }
}

/// Every file below a folder of the project.
fn files_below(folder: &str) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root().join(folder)).sort_by_file_name();
    let entries = walk.into_iter().map(|entry| entry.expect("because the tree can be read"));
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// The paths of the project that a text names.
fn named_paths(text: &str) -> Vec<String> {
    let ends = |c: char| c.is_whitespace() || "`'\"()[]{}<>,;|*…=".contains(c);
    let words = text.split(ends).map(|word| word.trim_end_matches(['.', ':']));
    words.filter(|word| PROJECT.iter().any(|start| word.starts_with(start))).map(str::to_owned).collect()
}

#[test]
fn every_path_that_a_text_names_is_there() {
    let mut seen = 0;
    for text in TEXTS {
        let content = project(text);
        for path in named_paths(&content) {
            assert!(root().join(&path).exists(), "{text} names '{path}', which is not there");
            seen += 1;
        }
        for (_, rest) in content.match_indices("](").map(|(at, _)| content[at..].split_at(2)) {
            let link = rest.split(')').next().unwrap_or_default();
            assert!(link.contains("://") || root().join(link).exists(), "{text} links to '{link}'");
        }
    }
    assert!(seen > 10, "only {seen} paths were found");
}

#[test]
fn comments_name_files_that_are_there() {
    for path in files_below("src").into_iter().chain(files_below("etc")) {
        let text = fs::read_to_string(&path).expect("because it is a text of the project");
        for named in named_paths(&text).into_iter().filter(|named| named.starts_with("etc/")) {
            assert!(root().join(&named).exists(), "{} names '{named}', which is not there", path.display());
        }
    }
}

#[test]
fn systemd_units_and_cron_start_programs_that_exist() {
    let mut seen = 0;
    for path in files_below("etc") {
        let text = fs::read_to_string(&path).expect("because it is a text of the project");
        let started = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
        let jobs = text.lines().filter(|line| line.starts_with('*')).filter_map(|line| line.split("postgres ").nth(1));
        for call in started.chain(jobs) {
            let mut words = call.split_whitespace();
            let name = words.next().unwrap_or_default().trim_start_matches("/usr/bin/");
            let program = pgwarm::cli::program(name).unwrap_or_else(|| panic!("{}: '{name}'", path.display()));
            let words = std::iter::once(name).chain(words);
            let taken = (program.command)().try_get_matches_from(words);
            assert!(taken.is_ok(), "{}: '{call}' is not accepted", path.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 6, "four units and two jobs");
}
