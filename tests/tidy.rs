//! The walls of the house, as a test: what may name what, and how a file looks.
//!
//! It reads the source as text, formatted by rustfmt, and knows no more of Rust than that takes. Each finding names the
//! file, the line and the rule. A list of exceptions has no entry that is not needed: one that is fails the test too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The layers from top to bottom; those of one line are on one floor. A layer names its own floor and what lies below.
const FLOORS: &[&[&str]] = &[
    &["bin"],
    &["cli"],
    &["agent", "monitor"],
    &["failover"],
    &["cluster"],
    &["backup", "archive"],
    &["store", "postgres"],
    &["system", "config", "wal"],
    &["error"],
];

/// What a layer may name above it or beside it, and why.
const LIFTS: &[(&str, &str)] = &[
    // How a file is stored is one word of the configuration; the word is the store's.
    ("src/config/", "crate::store::Encoding"),
];

/// A crate, and the only places that name it.
const DRIVERS: &[(&str, &[&str])] = &[
    ("clap", &["src/cli/"]),
    ("clap_complete", &["src/cli/docs.rs"]),
    ("clap_mangen", &["src/cli/docs.rs"]),
    ("crossbeam_channel", &["src/backup/take/crew.rs", "src/backup/transfer/", "src/store/serve/", "src/store/ssh/"]),
    ("flate2", &["src/store/encoding.rs", "src/archive/encode.rs"]),
    ("indicatif", &["src/cli/"]),
    ("lz4_flex", &["src/store/encoding.rs", "src/archive/encode.rs"]),
    ("postgres", &["src/postgres/"]),
    ("rustls", &["src/postgres/"]),
    ("rustls_pki_types", &["src/postgres/"]),
    ("simplelog", &["src/system/logging.rs"]),
    ("ssh2", &["src/store/sftp.rs", "src/store/sftp/"]),
    ("tokio", &["src/postgres/"]),
    ("tokio_postgres", &["src/postgres/"]),
    ("tokio_postgres_rustls", &["src/postgres/"]),
    ("whoami", &["src/postgres/"]),
    ("x509_cert", &["src/postgres/"]),
    ("xxhash_rust", &["src/backup/blocks.rs", "src/backup/transfer/blocks.rs", "src/config/"]),
    ("zstd", &["src/store/encoding.rs", "src/store/frames.rs", "src/archive/encode.rs"]),
];

/// Files that hold nothing but tests.
const TEST_FILES: &[&str] = &["conformance.rs", "faulty.rs", "forge.rs", "load_tests.rs", "memory.rs", "tests.rs"];

/// How long a line may be, in characters.
const LINE_MAX: usize = 120;

/// How long a function may be, in lines, from its signature to its closing brace.
const FUNCTION_MAX: usize = 70;

/// Functions that are longer for now. They are to be split, not joined by others.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// A file of the source.
struct Source {
    /// Its path below the root of the project.
    path: String,
    /// Its lines.
    lines: Vec<String>,
    /// How many of them stand before its tests.
    production: usize,
}

impl Source {
    fn read(path: &Path, root: &Path) -> Source {
        let text = fs::read_to_string(path).expect("because the tree can be read");
        let path = path.strip_prefix(root).expect("because it was found below").to_string_lossy().into_owned();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let name = path.rsplit('/').next().unwrap_or_default();
        let production = match TEST_FILES.contains(&name) || path.starts_with("tests/") {
            true => 0,
            false => lines.iter().position(|line| line.starts_with("mod tests {")).unwrap_or(lines.len()),
        };
        Source { path, lines, production }
    }

    /// The code without its tests and comments, with line numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines[..self.production].iter().enumerate();
        lines.map(|(at, line)| (at + 1, line.as_str())).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The layer it belongs to.
    fn layer(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or_default();
        below.split(['/', '.']).next().unwrap_or_default()
    }
}

/// Every file with this ending below these folders.
fn sources(folders: &[&str], ending: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in folders {
        let walk = walkdir::WalkDir::new(root.join(folder)).sort_by_file_name();
        let entries = walk.into_iter().map(|entry| entry.expect("because the tree can be read"));
        let files =
            entries.filter(|entry| entry.file_type().is_file() && entry.path().to_string_lossy().ends_with(ending));
        found.extend(files.map(|entry| Source::read(entry.path(), root)));
    }
    assert!(!found.is_empty(), "there is nothing below {folders:?}");
    found
}

/// Findings, put together so that one run shows all of them.
#[derive(Default)]
struct Findings(String);

impl Findings {
    fn add(&mut self, source: &Source, line: usize, what: &str) {
        let _ = writeln!(self.0, "{}:{line}: {what}", source.path);
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

/// The words that follow `prefix` where it stands as a path of its own: `crate::store::Store` has `store` after
/// `crate::`.
fn words_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let before = line[..at].chars().next_back();
        let free = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        free.then(|| &rest[..end])
    })
}

fn floor(layer: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&layer))
}

#[test]
fn imports_run_one_way() {
    let mut findings = Findings::default();
    let mut used = BTreeSet::new();
    for source in sources(&["src"], ".rs").iter().filter(|source| source.path != "src/lib.rs") {
        let own = floor(source.layer()).unwrap_or_else(|| panic!("{} is on no floor", source.path));
        let root = if source.layer() == "bin" { "pgwarm::" } else { "crate::" };
        for (at, line) in source.code() {
            for named in words_after(line, root) {
                // A file without a floor of that name is an item at the root, which there is none of.
                let Some(other) = floor(named) else {
                    findings.add(source, at, &format!("'{root}{named}' is no layer; name one layer in each import"));
                    continue;
                };
                let lift = LIFTS.iter().find(|(from, what)| source.path.starts_with(from) && line.contains(what));
                if other < own || (source.layer() == "bin" && named != "cli") {
                    match lift {
                        Some(lift) => _ = used.insert(lift),
                        None => findings.add(source, at, &format!("{} names {named}", source.layer())),
                    }
                }
            }
        }
    }
    assert_eq!(used.len(), LIFTS.len(), "an exception that nobody needs");
    findings.none();
}

#[test]
fn each_driver_is_named_in_its_own_place() {
    let mut findings = Findings::default();
    let mut named = BTreeSet::new();
    for source in sources(&["src"], ".rs") {
        for (at, line) in source.code() {
            // Our own layer `postgres` is always named through `crate::` or `super::`.
            for (driver, places) in DRIVERS {
                if words_after(line, &format!("{driver}::")).next().is_none() {
                    continue;
                }
                named.insert(*driver);
                if !places.iter().any(|place| source.path.starts_with(place)) {
                    findings.add(&source, at, &format!("names {driver}, which belongs in {}", places.join(", ")));
                }
            }
            if words_after(line, "ini::").next().is_some() && !source.path.starts_with("src/config/") {
                findings.add(&source, at, "names ini, which belongs in src/config/");
            }
        }
    }
    assert_eq!(named.len(), DRIVERS.len(), "a driver in the list that nobody names");
    findings.none();
}

#[test]
fn nothing_gives_up_or_speaks_out_of_turn() {
    // println! panics when its reader goes away; output::print and output::line do not.
    let everywhere = [".unwrap()", "todo!", "unimplemented!", "dbg!", " println!", " print!("];
    let only_cli = ["eprint", "std::process::exit"];
    let mut findings = Findings::default();
    for source in sources(&["src"], ".rs") {
        let speaks = ["cli", "bin"].contains(&source.layer());
        for (at, line) in source.code() {
            let banned = everywhere.iter().chain(only_cli.iter().filter(|_| !speaks));
            for word in banned.filter(|word| line.contains(**word)) {
                findings.add(&source, at, &format!("has '{word}'"));
            }
        }
    }
    findings.none();
}

#[test]
fn every_file_says_what_it_is() {
    let mut findings = Findings::default();
    for source in sources(&["src", "tests"], ".rs") {
        if !source.lines.first().is_some_and(|line| line.starts_with("//! ")) {
            findings.add(&source, 1, "does not begin with '//!'");
        }
        let stem = Path::new(&source.path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["util", "utils", "helper", "helpers", "common", "manager", "misc"].contains(&stem.as_str()) {
            findings.add(&source, 1, "has a name that says nothing");
        }
    }
    findings.none();
}

#[test]
fn every_statement_says_what_it_is() {
    let mut findings = Findings::default();
    for source in sources(&["sql"], ".sql") {
        if !source.lines.first().is_some_and(|line| line.starts_with("-- ")) {
            findings.add(&source, 1, "does not begin with a comment");
        }
    }
    findings.none();
}

/// True for a row of a table that rustfmt was told to leave alone, and for a text that no line break may cut.
fn may_be_long(source: &Source, line: &str) -> bool {
    source.path == "src/config/options.rs" || line.contains('"') || line.ends_with('\\')
}

#[test]
fn lines_end_in_time() {
    let mut findings = Findings::default();
    for source in sources(&["src", "tests"], ".rs") {
        for (at, line) in source.lines.iter().enumerate() {
            let length = line.chars().count();
            if length > LINE_MAX && !may_be_long(&source, line) {
                findings.add(&source, at + 1, &format!("has {length} characters"));
            }
        }
    }
    findings.none();
}

/// The functions of a file: the line, the name and how many lines. rustfmt puts the closing brace below the signature.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.contains('"')).collect();
        let Some(keyword) = words.iter().position(|word| *word == "fn") else { continue };
        let leading = ["pub", "const", "unsafe", "extern", "async"];
        if !words[..keyword].iter().all(|word| leading.contains(word) || word.starts_with("pub(")) {
            continue;
        }
        let closed = format!("{}}}", " ".repeat(indent));
        let declared = line.ends_with(';') || line.ends_with('}');
        let length = source.lines[at..].iter().position(|line| *line == closed).unwrap_or(0) + 1;
        let name = words.get(keyword + 1).and_then(|word| word.split(['(', '<']).next()).unwrap_or_default();
        found.push((at + 1, name.to_owned(), if declared { 1 } else { length }));
    }
    found
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Findings::default();
    let mut long = BTreeSet::new();
    let mut seen = 0;
    for source in sources(&["src", "tests"], ".rs") {
        for (at, name, length) in functions(&source) {
            seen += 1;
            if length <= FUNCTION_MAX {
                continue;
            }
            match LONG_FUNCTIONS.iter().find(|(path, known)| *path == source.path && *known == name) {
                Some(known) => _ = long.insert(known),
                None => findings.add(&source, at, &format!("fn {name} has {length} lines")),
            }
        }
    }
    assert!(seen > 500, "only {seen} functions were found");
    findings.none();
    assert_eq!(long.len(), LONG_FUNCTIONS.len(), "an exception that nobody needs");
}

#[test]
fn nothing_is_put_off() {
    // Written so that this file does not find itself.
    let words = ["TO\u{44}O", "FIX\u{4d}E", "X\u{58}X:"];
    let mut findings = Findings::default();
    for source in sources(&["src", "tests", "etc", "scripts", "sql"], "") {
        for (at, line) in source.lines.iter().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                findings.add(&source, at + 1, &format!("has '{word}'"));
            }
        }
    }
    findings.none();
}

#[test]
fn roles_have_one_name() {
    // Names of others that hold the word: PostgreSQL's process, ssh's option, a value that is refused; attributes,
    // parameters and variables of Pacemaker and its agents; ip's option.
    let foreign = ["postmaster", "Postmaster", "ControlMaster", "target_session_attrs=master"];
    let pacemaker =
        ["master-", "master_ip", "in_slave", "notify_slave_uname", "\"slave\"", "`slave`", "slave:", "master pgw"];
    let mut findings = Findings::default();
    for source in sources(&["src", "etc", "scripts", "sql", "README.md", "ARCHITECTURE.md", "CHANGELOG.md"], "") {
        for (at, line) in source.lines.iter().enumerate() {
            let own = foreign.iter().chain(&pacemaker).fold(line.clone(), |line, word| line.replace(word, ""));
            let own = own.to_lowercase();
            if own.contains("master") || own.contains("slave") {
                findings.add(&source, at + 1, "calls a role by a word of others");
            }
        }
    }
    findings.none();
}

#[test]
fn every_statement_that_is_sent_stands_in_a_file_of_its_own() {
    let mut included: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources(&["src"], ".rs") {
        for (_, line) in source.code() {
            for (at, _) in line.match_indices("sql/") {
                let name = line[at + 4..].split('"').next().unwrap_or_default();
                *included.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    for source in sources(&["sql"], ".sql") {
        let name = source.path.trim_start_matches("sql/");
        assert!(included.contains_key(name), "nobody sends {}", source.path);
    }
}
