//! Prints the configuration: the sample files and the README's table from the table alone, `--show-config` from what
//! holds.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::load::{Found, FoundBy, Origin, Origins, Setting};
use super::options::{OPTIONS, Row, SECTIONS, Standard, Stands, bracket};
use super::value::Kind;

/// What the shared sample says for what must be said: a small cluster with a place for disaster recovery.
const SAMPLE_NODES: &[(&str, &[(&str, &str)])] = &[
    ("db1", &[("host", "db1.example.net"), ("archive", "/var/lib/pgwarm/archive")]),
    ("db2", &[("host", "db2.example.net"), ("archive", "/var/lib/pgwarm/archive")]),
    ("dr1", &[("kind", "dr"), ("host", "dr1.example.net"), ("archive", "/var/lib/pgwarm/archive")]),
];

/// The shared sample file, `pgwarm.ini`.
pub fn sample() -> String {
    let mut text = String::from(
        "# pgwarm.ini: the same on every node; 'distribute' brings it there.\n\
         # What differs from node to node stands in pgwarm.local.ini beside it, which may override any value.\n\
         # A line that begins with '#' or ';' is a comment. A value ends with its line; none goes on in the next.\n\
         # A duration needs a unit: ms, s, min, h, d. So does a size: B, kB, MB, GB, TB, all binary.\n\
         # A commented key shows its default. No passwords in here: they belong in ~/.pgpass.\n",
    );
    for section in SECTIONS.iter().filter(|section| section.name != "local") {
        let _ = write!(text, "\n# {}\n", section.doc);
        if section.name == "node" {
            sample_nodes(&mut text);
            continue;
        }
        let _ = writeln!(text, "[{}]", section.name);
        for row in OPTIONS.iter().filter(|row| row.section == section.name) {
            sample_row(&mut text, row, (row.default == Standard::Required).then_some("main"));
        }
    }
    text
}

/// The sample of the local file, `pgwarm.local.ini`.
pub fn local_sample() -> String {
    let mut text = String::from(
        "# pgwarm.local.ini: which node this machine is, and what only this machine needs.\n\
         # Any key of any section may stand here; it goes before the same key in pgwarm.ini.\n\n[local]\n",
    );
    for row in OPTIONS.iter().filter(|row| row.stands == Stands::Local) {
        sample_row(&mut text, row, (row.default == Standard::Required).then_some("db1"));
    }
    text
}

/// The nodes of the sample; the first explains every key.
fn sample_nodes(text: &mut String) {
    for (at, (name, given)) in SAMPLE_NODES.iter().enumerate() {
        let _ = writeln!(text, "{}[node.{name}]", if at > 0 { "\n" } else { "" });
        let said = |row: &Row| given.iter().find(|(key, _)| *key == row.key).map(|(_, value)| *value);
        for row in OPTIONS.iter().filter(|row| row.section == "node") {
            match (at, said(row)) {
                (0, value) => sample_row(text, row, value),
                (_, Some(value)) => {
                    let _ = writeln!(text, "{} = {value}", row.key);
                }
                (_, None) => {}
            }
        }
    }
}

/// One option: its sentence, what it may hold, and its line.
fn sample_row(text: &mut String, row: &Row, given: Option<&str>) {
    let _ = writeln!(text, "# {}{}", row.doc, allowed(row));
    let _ = match (given, row.default) {
        (Some(value), _) => writeln!(text, "{} = {value}", row.key),
        (None, Standard::Is(value)) => writeln!(text, "#{} = {value}", row.key),
        (None, _) => writeln!(text, "#{} =", row.key),
    };
}

/// What a value may be, where its sentence and default do not show it.
fn allowed(row: &Row) -> String {
    let kind = row.kind;
    match kind {
        Kind::Choice(_) | Kind::Switch | Kind::Number(..) | Kind::Time(..) | Kind::Ack => {
            format!(" ({})", kind.words())
        }
        Kind::Places if row.section == "restore" => " (own, queue, nodes, dr or names of nodes)".to_string(),
        Kind::Places if row.section == "archive" && row.key == "to" => {
            " (own, nodes, dr or names of nodes)".to_string()
        }
        Kind::Places => " (nodes, dr or names of nodes)".to_string(),
        _ => String::new(),
    }
}

/// The README's table of options, in markdown.
pub fn options_table() -> String {
    let mut text = String::from("| option | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for row in OPTIONS {
        let default = match row.default {
            Standard::Required => "required".to_string(),
            Standard::Nothing => "none".to_string(),
            Standard::Is(value) => format!("`{value}`"),
        };
        let name = bracket(row.section);
        let _ = writeln!(text, "| `{name}.{}` | {} | {default} | {} |", row.key, row.kind.words(), row.doc);
    }
    text
}

/// `--show-config` for people: the files, then every value with its origin, aligned.
pub fn show(origins: &Origins) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "# shared file: {}", found_text(Some(&origins.shared)));
    let _ = writeln!(text, "# local file: {}", found_text(origins.local.as_ref()));
    let assignment = |setting: &Setting| format!("{}.{} = {}", setting.section, setting.key, setting.value);
    // A few long values do not push all origins off the screen.
    const WIDTH_MAX: usize = 60;
    let widths = origins.settings.iter().map(|setting| assignment(setting).chars().count());
    let width = widths.filter(|width| *width <= WIDTH_MAX).max().unwrap_or_default();
    for setting in &origins.settings {
        let _ = writeln!(text, "{:<width$}  # {}", assignment(setting), origin_text(origins, &setting.origin));
    }
    text
}

/// `--show-config --json`: `{"shared_file", "local_file", "fingerprint", "options": [{"section", "key", "value",
/// "origin", "file", "line"}]}`; `origin` is `default`, `shared`, `local` or `set`; a value is written as in a file.
pub fn show_json(origins: &Origins, fingerprint: u64) -> Json {
    let options: Vec<Json> = origins
        .settings
        .iter()
        .map(|setting| {
            let (origin, file, line) = match setting.origin {
                Origin::Default => ("default", None, None),
                Origin::Shared(line) => ("shared", Some(shared_file(origins)), Some(line)),
                Origin::Local(line) => ("local", Some(local_file(origins)), Some(line)),
                Origin::Set => ("set", None, None),
            };
            json!({ "section": setting.section, "key": setting.key, "value": setting.value,
                    "origin": origin, "file": file, "line": line })
        })
        .collect();
    json!({
        "shared_file": shared_file(origins),
        "local_file": origins.local.as_ref().map(|found| &found.path),
        "fingerprint": format!("{fingerprint:016x}"),
        "options": options,
    })
}

fn shared_file(origins: &Origins) -> &Path {
    &origins.shared.path
}

fn local_file(origins: &Origins) -> &Path {
    origins.local.as_ref().map_or(shared_file(origins), |found| &found.path)
}

fn found_text(found: Option<&Found>) -> String {
    let Some(found) = found else { return "none".to_string() };
    let by = match found.by {
        FoundBy::Argument => " (command line)",
        FoundBy::Environment => " (environment)",
        FoundBy::Default => "",
    };
    format!("{}{by}", found.path.display())
}

fn origin_text(origins: &Origins, origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_string(),
        Origin::Shared(line) => format!("{}:{line}", shared_file(origins).display()),
        Origin::Local(line) => format!("local file {}:{line}", local_file(origins).display()),
        Origin::Set => "--set".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Source, ini};
    use super::*;

    /// Loads a pair of texts as files.
    fn load(shared: &str, local: &str) -> (Config, Origins) {
        let folder = tempfile::tempdir().expect("because tests need a temporary folder");
        let source = Source {
            file: Some(folder.path().join("pgwarm.ini")),
            local: Some(folder.path().join("local.ini")),
            set: vec!["archive.level=3".to_string()],
        };
        for (file, text) in [(&source.file, shared), (&source.local, local)] {
            std::fs::write(file.as_ref().expect("because it is set above"), text).expect("because the folder is ours");
        }
        Config::load_with_origins(&source).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Takes the `#` off every commented key.
    fn uncommented(text: &str) -> String {
        let key = |line: &str| line.starts_with('#') && !line.starts_with("# ");
        text.lines().map(|line| if key(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_sample_parses_to_the_defaults_commented_or_not() {
        let (plain, origins) = load(&sample(), &local_sample());
        let (said, _) = load(&uncommented(&sample()), &uncommented(&local_sample()));
        assert_eq!(plain, said);
        for setting in origins.settings.iter().filter(|setting| !setting.section.starts_with("node.")) {
            let said = ["cluster.name", "local.node", "archive.level"];
            let name = format!("{}.{}", setting.section, setting.key);
            assert_eq!(setting.origin == Origin::Default, !said.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn the_sample_shows_every_option() {
        let shared = ini::read(&uncommented(&sample()));
        let local = ini::read(&uncommented(&local_sample()));
        for row in OPTIONS {
            let name = if row.section == "node" { "node.db1" } else { row.section };
            let mut entries = shared.entries.iter().chain(&local.entries);
            assert!(entries.any(|entry| entry.section == name && entry.key == row.key), "{name}.{}", row.key);
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_option_and_no_stray_bar() {
        let table = options_table();
        assert_eq!(table.lines().count(), OPTIONS.len() + 2);
        assert!(table.lines().all(|line| line.matches('|').count() == 5), "{table}");
    }

    #[test]
    fn show_says_where_each_value_comes_from() {
        let (config, origins) = load(&sample(), "[local]\nnode = db2\n");
        let text = show(&origins);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        assert!(line("archive.level = 3 ").ends_with(" # --set"));
        assert!(line("archive.ack = standby ").ends_with(" # default"));
        assert!(line("local.node = db2 ").ends_with("local.ini:2"));
        assert!(line("# shared file: ").ends_with("pgwarm.ini (command line)"));
        let json = show_json(&origins, config.fingerprint);
        assert_eq!(json["options"].as_array().map(Vec::len), Some(origins.settings.len()));
        assert_eq!(json["options"][1]["origin"], "local");
        assert_eq!(json["options"][1]["line"], 2);
    }
}
