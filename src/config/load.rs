//! Finds the files, reads them, settles every value and reports every problem at once.
//!
//! Later wins: default, shared file, local file, `--set`. Each value remembers where it comes from. A value that is
//! overridden is still checked where it stands. Nothing here talks to a server or looks at a directory that the
//! configuration names: that is `check-node`'s work, and loading happens for every segment.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::build::{Settled, build};
use super::error::{ConfigError, Problem};
use super::options::{self, OPTIONS, Standard};
use super::value::{self, Value};
use super::{Config, check, ini};

/// Where the shared file is if nobody says otherwise.
pub const SHARED_FILE: &str = "/etc/pgwarm/pgwarm.ini";

/// The name of the local file, which is looked for beside the shared one.
pub const LOCAL_NAME: &str = "pgwarm.local.ini";

/// The environment variable that names the shared file.
pub const SHARED_VARIABLE: &str = "PGWARM_CONFIG";

/// The environment variable that names the local file.
pub const LOCAL_VARIABLE: &str = "PGWARM_LOCAL";

/// A configuration file larger than this is a mistake, in bytes.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `--config`; none: `PGWARM_CONFIG`, then [`SHARED_FILE`].
    pub file: Option<PathBuf>,
    /// `--local`; none: `PGWARM_LOCAL`, then [`LOCAL_NAME`] beside the shared file if it exists.
    pub local: Option<PathBuf>,
    /// Each `--set section.key=value`.
    pub set: Vec<String>,
}

/// Who says what a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody; the table's default holds.
    Default,
    /// The shared file, in this line.
    Shared(usize),
    /// The local file, in this line.
    Local(usize),
    /// `--set`.
    Set,
}

/// How a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// `--config` or `--local`.
    Argument,
    /// `PGWARM_CONFIG` or `PGWARM_LOCAL`.
    Environment,
    /// It lies where it is looked for by default.
    Default,
}

/// A file of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Who said so.
    pub by: FoundBy,
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The section as it stands in brackets: `archive`, `node.db1`.
    pub section: String,
    /// The key.
    pub key: &'static str,
    /// The value as a file would hold it; empty: not set.
    pub value: String,
    /// Who says so.
    pub origin: Origin,
}

/// Where every value comes from, for `--show-config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// The shared file.
    pub shared: Found,
    /// The local file, if there is one.
    pub local: Option<Found>,
    /// Every value, in the order of the table, nodes last.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Loads and checks the configuration; every problem is reported at once.
    pub fn load(source: &Source) -> Result<Config, ConfigError> {
        settle(source, &environment).map(|(config, _)| config)
    }

    /// Loads and checks the configuration, and says where each value comes from.
    pub fn load_with_origins(source: &Source) -> Result<(Config, Origins), ConfigError> {
        let (config, sheet) = settle(source, &environment)?;
        Ok((config, sheet.origins()))
    }
}

/// Reads a variable; one that is set but empty counts as not set.
fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Does all of it. `Err` holds every problem.
fn settle(source: &Source, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<(Config, Sheet), ConfigError> {
    let mut problems = Vec::new();
    let shared = find_shared(source, environment);
    let local = find_local(source, environment, &shared.path).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let mut sheet = Sheet::new(shared, local);
    let texts = sheet.read_files(&mut problems);
    // Without the shared file every node would be unknown and everything required missing, which would only hide the
    // one real problem.
    if let Some(reading) = &texts.0 {
        sheet.take(reading, Layer::Shared, &mut problems);
        if let Some(reading) = &texts.1 {
            sheet.take(reading, Layer::Local, &mut problems);
        }
        for assignment in &source.set {
            sheet.take_set(assignment).unwrap_or_else(|problem| problems.push(problem));
        }
        sheet.missing(&mut problems);
    }
    if problems.is_empty() {
        let config = build(&sheet.settled());
        problems.extend(check::check(&config).into_iter().map(|finding| sheet.placed(finding)));
        if problems.is_empty() {
            return Ok((config, sheet));
        }
    }
    Err(ConfigError { problems })
}

fn find_shared(source: &Source, environment: &dyn Fn(&str) -> Option<OsString>) -> Found {
    if let Some(path) = &source.file {
        return Found { path: path.clone(), by: FoundBy::Argument };
    }
    match environment(SHARED_VARIABLE) {
        Some(path) => Found { path: PathBuf::from(path), by: FoundBy::Environment },
        None => Found { path: PathBuf::from(SHARED_FILE), by: FoundBy::Default },
    }
}

/// Only the file beside the shared one may be missing; whether it is must be known.
fn find_local(
    source: &Source,
    environment: &dyn Fn(&str) -> Option<OsString>,
    shared: &Path,
) -> Result<Option<Found>, Problem> {
    if let Some(path) = &source.local {
        return Ok(Some(Found { path: path.clone(), by: FoundBy::Argument }));
    }
    if let Some(path) = environment(LOCAL_VARIABLE) {
        return Ok(Some(Found { path: PathBuf::from(path), by: FoundBy::Environment }));
    }
    let path = shared.with_file_name(LOCAL_NAME);
    match path.try_exists() {
        Ok(true) => Ok(Some(Found { path, by: FoundBy::Default })),
        Ok(false) => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::new(format!("cannot read the configuration: {error}"))
        .in_file(path)
        .hinted("Make it readable for the user that PostgreSQL runs as.")
}

/// Reads a file of the configuration into its lines.
fn read_file(found: &Found) -> Result<ini::Reading, Problem> {
    let path = &found.path;
    let bytes = read_bytes(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing_file(found),
        _ => unreadable(path, &error),
    })??;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(ini::read(&text)),
        Err(error) => {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let problem = Problem::new("the line is not UTF-8").in_file(path).at_line(line);
            Err(problem.hinted("Save the file as UTF-8."))
        }
    }
}

fn missing_file(found: &Found) -> Problem {
    let hint = match found.by {
        FoundBy::Argument => "Correct the path on the command line.".to_string(),
        FoundBy::Environment => format!("Correct {SHARED_VARIABLE} or {LOCAL_VARIABLE} in the environment."),
        FoundBy::Default => {
            format!("Make it from the sample file, or name another one with --config or {SHARED_VARIABLE}.")
        }
    };
    Problem::new("there is no such configuration file").in_file(&found.path).hinted(hint)
}

/// The outer error is the system's, the inner one ours.
fn read_bytes(path: &Path) -> io::Result<Result<Vec<u8>, Problem>> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if facts.mode() & 0o002 != 0 && facts.is_file() {
        // Hooks and the ssh program are named in here, so whoever may write it may run programs as the server's user.
        return Ok(Err(Problem::new("the file may be written by everyone")
            .in_file(path)
            .hinted(format!("Run 'chmod o-w {}', and see whether somebody has changed it.", path.display()))));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(facts.len().min(FILE_SIZE_MAX)).unwrap_or_default() + 1);
    file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Ok(Err(Problem::new("the file is larger than 1 MiB")
            .in_file(path)
            .hinted("Make sure that it is a configuration file.")));
    }
    Ok(Ok(bytes))
}

/// Which of the two files is being taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Shared,
    Local,
}

/// A value for each row of the table, with its origin.
type Column = Vec<(Value, Origin)>;

/// The values as far as they are known.
struct Sheet {
    shared: Found,
    local: Option<Found>,
    plain: Column,
    nodes: Vec<(String, Column)>,
}

impl Sheet {
    fn new(shared: Found, local: Option<Found>) -> Self {
        Sheet { shared, local, plain: defaults(), nodes: Vec::new() }
    }

    fn read_files(&self, problems: &mut Vec<Problem>) -> (Option<ini::Reading>, Option<ini::Reading>) {
        let mut read = |found: &Found| read_file(found).map_err(|problem| problems.push(problem)).ok();
        (read(&self.shared), self.local.as_ref().and_then(&mut read))
    }

    /// The file of a layer.
    fn file(&self, layer: Layer) -> &Path {
        match (layer, &self.local) {
            (Layer::Local, Some(local)) => &local.path,
            _ => &self.shared.path,
        }
    }

    /// Takes one file in.
    fn take(&mut self, reading: &ini::Reading, layer: Layer, problems: &mut Vec<Problem>) {
        let file = self.file(layer).to_path_buf();
        let mut found: Vec<Problem> = reading.problems.clone();
        let mut skipped: Vec<&str> = Vec::new();
        for heading in &reading.headings {
            if let Err(problem) = self.take_heading(&heading.name, layer) {
                skipped.push(&heading.name);
                found.push(problem.at_line(heading.line));
            }
        }
        for entry in reading.entries.iter().filter(|entry| !skipped.contains(&entry.section.as_str())) {
            let origin = match layer {
                Layer::Shared => Origin::Shared(entry.line),
                Layer::Local => Origin::Local(entry.line),
            };
            if let Err(problem) = self.assign(&entry.section, &entry.key, &entry.value, origin) {
                found.push(problem.at_line(entry.line));
            }
        }
        found.sort_by_key(|problem| problem.line);
        problems.extend(found.into_iter().map(|problem| problem.in_file(&file)));
    }

    /// Makes sure that a section is known, and makes the column of a node.
    fn take_heading(&mut self, section: &str, layer: Layer) -> Result<(), Problem> {
        let Some((_, node)) = options::section_of(section) else {
            return Err(Problem::new(format!("unknown section [{section}]")).hinted(options::meant_section(section)));
        };
        let Some(node) = node else { return Ok(()) };
        if let Err(mistake) = value::name(node) {
            return Err(Problem::new(format!("the node's name '{node}' {}", mistake.message)).hinted(mistake.hint));
        }
        if value::PLACE_WORDS.contains(&node) {
            return Err(Problem::new(format!("no node can have the name '{node}'"))
                .hinted("Give it another name; this word stands for places in lists such as archive.to."));
        }
        if self.nodes.iter().any(|(name, _)| name == node) {
            return Ok(());
        }
        if layer == Layer::Local {
            return Err(self.unknown_node(node));
        }
        self.nodes.push((node.to_string(), defaults()));
        Ok(())
    }

    /// A node that only the local file or `--set` names is more likely misspelt than meant.
    fn unknown_node(&self, node: &str) -> Problem {
        let names = || self.nodes.iter().map(|(name, _)| name.as_str());
        let problem = Problem::new(format!("the shared file has no section [node.{node}]"));
        match options::nearest(node, names()) {
            Some(near) => problem.hinted(format!("Did you mean [node.{near}]?")),
            None => problem.hinted("Add it to the shared file, which is the same on every node."),
        }
    }

    /// Takes `section.key=value` in.
    fn take_set(&mut self, assignment: &str) -> Result<(), Problem> {
        let malformed = || {
            Problem::new(format!("--set '{assignment}' is no assignment"))
                .hinted("Write it as '--set section.key=value', such as '--set archive.ack=all'.")
        };
        let (name, text) = assignment.split_once('=').ok_or_else(malformed)?;
        let (section, key) = name.trim().rsplit_once('.').ok_or_else(malformed)?;
        let prefixed = |problem: Problem| Problem { message: format!("--set: {}", problem.message), ..problem };
        self.take_heading(section, Layer::Local).map_err(prefixed)?;
        self.assign(section, key, text.trim(), Origin::Set).map_err(prefixed)
    }

    /// Gives one option its value.
    fn assign(&mut self, section: &str, key: &str, text: &str, origin: Origin) -> Result<(), Problem> {
        let Some((table, node)) = options::section_of(section) else {
            return Err(Problem::new(format!("unknown section [{section}]")).hinted(options::meant_section(section)));
        };
        let Some(at) = options::position(table, key) else {
            let problem = Problem::new(format!("unknown key '{key}' in section [{section}]"));
            return Err(match options::meant_key(table, key) {
                Some(hint) => problem.hinted(hint),
                None => problem.hinted("Remove it; the sample file shows every key."),
            });
        };
        let value = parse(at, section, text)?;
        let column = match node {
            None => Some(&mut self.plain),
            Some(node) => self.nodes.iter_mut().find(|(name, _)| name == node).map(|(_, column)| column),
        };
        if let Some(slot) = column.and_then(|column| column.get_mut(at)) {
            *slot = (value, origin);
        }
        Ok(())
    }

    /// Reports what must be said and is not.
    fn missing(&self, problems: &mut Vec<Problem>) {
        for (row, (value, _)) in OPTIONS.iter().zip(&self.plain) {
            let said = *value != Value::Nothing || row.default != Standard::Required;
            let reported =
                problems.iter().any(|problem| problem.message.contains(&format!("{}.{}", row.section, row.key)));
            if said || reported {
                continue;
            }
            let file = match (row.stands, &self.local) {
                (options::Stands::Local, Some(local)) => local.path.clone(),
                (options::Stands::Local, None) => self.shared.path.with_file_name(LOCAL_NAME),
                _ => self.shared.path.clone(),
            };
            problems.push(Problem::new(format!("{}.{} is not set", row.section, row.key)).hinted(format!(
                "Set '{}' in section [{}] of '{}'.",
                row.key,
                row.section,
                file.display()
            )));
        }
    }

    /// The values without their origins.
    fn settled(&self) -> Settled {
        let values = |column: &Column| column.iter().map(|(value, _)| value.clone()).collect();
        Settled {
            plain: values(&self.plain),
            nodes: self.nodes.iter().map(|(name, column)| (name.clone(), values(column))).collect(),
        }
    }

    /// Gives a finding the place of the value that it is about.
    fn placed(&self, finding: check::Finding) -> Problem {
        let (table, node) = options::section_of(&finding.section).unwrap_or(("", None));
        let column = match node {
            None => Some(&self.plain),
            Some(node) => self.nodes.iter().find(|(name, _)| name == node).map(|(_, column)| column),
        };
        let origin = options::position(table, finding.key).and_then(|at| Some(&column?.get(at)?.1));
        let problem = Problem::new(finding.message).hinted(finding.hint);
        match origin {
            Some(Origin::Shared(line)) => problem.in_file(self.file(Layer::Shared)).at_line(*line),
            Some(Origin::Local(line)) => problem.in_file(self.file(Layer::Local)).at_line(*line),
            _ => problem,
        }
    }

    fn origins(self) -> Origins {
        let settings = |section: Option<&str>, column: &Column| -> Vec<Setting> {
            let rows = OPTIONS.iter().zip(column).filter(|(row, _)| (row.section == "node") == section.is_some());
            rows.map(|(row, (value, origin))| Setting {
                section: section.map_or_else(|| row.section.to_string(), |node| format!("node.{node}")),
                key: row.key,
                value: value.to_string(),
                origin: origin.clone(),
            })
            .collect()
        };
        let mut all = settings(None, &self.plain);
        for (name, column) in &self.nodes {
            all.extend(settings(Some(name), column));
        }
        Origins { shared: self.shared, local: self.local, settings: all }
    }
}

/// The table's defaults; what is required is still [`Value::Nothing`].
fn defaults() -> Column {
    let value = |row: &options::Row| match row.default {
        Standard::Is(text) => row.kind.parse(text).expect("because a test reads every default of the table"),
        Standard::Required | Standard::Nothing => Value::Nothing,
    };
    OPTIONS.iter().map(|row| (value(row), Origin::Default)).collect()
}

/// Reads one value. An empty one takes a value away where there need not be any, and empties a list.
fn parse(at: usize, section: &str, text: &str) -> Result<Value, Problem> {
    let row = &OPTIONS[at];
    if text.is_empty() {
        return match (row.default, row.kind) {
            (_, value::Kind::Places) => Ok(Value::Places(Vec::new())),
            (Standard::Nothing, _) => Ok(Value::Nothing),
            _ => Err(Problem::new(format!("{section}.{} has no value", row.key))
                .hinted("Give it a value, or remove the line.")),
        };
    }
    row.kind.parse(text).map_err(|mistake| {
        Problem::new(format!("{section}.{} = '{text}' {}", row.key, mistake.message)).hinted(mistake.hint)
    })
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
