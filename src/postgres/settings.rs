//! The settings of a server that is down: `postgresql.conf`, what it includes, and `postgresql.auto.conf`.
//!
//! Reads the files by the server's own grammar and says which value would be in effect and where it stands. Knows no
//! setting by name, checks no value and sees neither the command line nor `ALTER ROLE`; a running server knows better.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Class, Explain};

/// Files may include one another only so deep (PostgreSQL: CONF_FILE_MAX_DEPTH).
const DEPTH_MAX: usize = 10;

/// What keeps the server from reading its configuration, too.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that is missing or cannot be read.
    #[error("cannot read configuration file '{}'{}", path.display(), from(included.as_ref()))]
    Unreadable { path: PathBuf, included: Option<(PathBuf, usize)>, source: io::Error },
    /// A line the server's grammar does not allow.
    #[error("syntax error in line {line} of '{}', near '{near}'", path.display())]
    Syntax { path: PathBuf, line: usize, near: String },
    /// Files that include one another without end.
    #[error("line {line} of '{}' includes a file more than {DEPTH_MAX} levels deep", path.display())]
    TooDeep { path: PathBuf, line: usize },
}

fn from(included: Option<&(PathBuf, usize)>) -> String {
    included.map(|(path, line)| format!(", included by line {line} of '{}'", path.display())).unwrap_or_default()
}

impl Explain for SettingsError {
    fn class(&self) -> Class {
        Class::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            SettingsError::Unreadable { .. } => Some("Run this as the user who owns the data directory.".to_owned()),
            SettingsError::Syntax { .. } => {
                Some("Mend the line; the server does not start with it. Text values need single quotes.".to_owned())
            }
            SettingsError::TooDeep { .. } => Some("A file probably includes itself; take that line out.".to_owned()),
        }
    }
}

/// One setting and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

/// Every setting the files make, by its name in lower case; of one made twice, the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    values: BTreeMap<String, Setting>,
    /// Every file that another one includes, whether it is there or not.
    included: BTreeSet<PathBuf>,
}

impl Settings {
    /// Reads the configuration file of a server and then the `postgresql.auto.conf` of its data directory, if it is
    /// there.
    pub fn read(config_file: &Path, data_directory: &Path) -> Result<Settings, SettingsError> {
        let mut settings = Settings::default();
        settings.read_file(config_file, None, 0)?;
        let auto = data_directory.join("postgresql.auto.conf");
        match settings.read_file(&auto, None, 0) {
            Err(SettingsError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        Ok(settings)
    }

    /// The setting of that name; upper and lower case are the same.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(&name.to_ascii_lowercase())
    }

    /// True where this file is read, or would be if it were there.
    pub fn includes(&self, file: &Path) -> bool {
        let same = |path: &PathBuf| {
            let folder = |path: &Path| path.parent().and_then(|folder| fs::canonicalize(folder).ok());
            path.file_name() == file.file_name() && folder(path).is_some_and(|it| folder(file) == Some(it))
        };
        self.included.contains(file) || self.included.iter().any(same)
    }

    /// Every setting in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.values.iter().map(|(name, setting)| (name.as_str(), setting))
    }

    fn read_file(&mut self, path: &Path, by: Option<(&Path, usize)>, depth: usize) -> Result<(), SettingsError> {
        let unreadable = |source| SettingsError::Unreadable {
            path: path.to_owned(),
            included: by.map(|(file, line)| (file.to_owned(), line)),
            source,
        };
        let bytes = fs::read(path).map_err(unreadable)?;
        // A value in another encoding must not hide the rest of the file.
        let text = String::from_utf8_lossy(&bytes);
        for (index, line) in text.split('\n').enumerate() {
            let line_number = index + 1;
            let entry = parse_line(line.strip_suffix('\r').unwrap_or(line)).map_err(|near| SettingsError::Syntax {
                path: path.to_owned(),
                line: line_number,
                near: near.to_owned(),
            })?;
            if let Some((name, value)) = entry {
                self.take(name, value, path, line_number, depth)?;
            }
        }
        Ok(())
    }

    /// Takes one entry: a setting, or an order to read more.
    fn take(
        &mut self,
        name: String,
        value: String,
        file: &Path,
        line: usize,
        depth: usize,
    ) -> Result<(), SettingsError> {
        let name = name.to_ascii_lowercase();
        // A relative path counts from the folder of the file it stands in.
        let target = file.parent().unwrap_or(Path::new("")).join(&value);
        let optional = name == "include_if_exists";
        match name.as_str() {
            "include" | "include_if_exists" | "include_dir" if depth >= DEPTH_MAX => {
                Err(SettingsError::TooDeep { path: file.to_owned(), line })
            }
            "include" | "include_if_exists" => {
                self.included.insert(target.clone());
                match self.read_file(&target, Some((file, line)), depth + 1) {
                    Err(SettingsError::Unreadable { path, source, .. })
                        if optional && path == target && source.kind() == io::ErrorKind::NotFound =>
                    {
                        Ok(())
                    }
                    result => result,
                }
            }
            "include_dir" => self.read_folder(&target, file, line, depth),
            _ => {
                self.values.insert(name, Setting { value, file: file.to_owned(), line });
                Ok(())
            }
        }
    }

    /// Reads every `*.conf` of a folder in the order of the names' bytes; hidden files are left out.
    fn read_folder(&mut self, folder: &Path, file: &Path, line: usize, depth: usize) -> Result<(), SettingsError> {
        let unreadable = |source| SettingsError::Unreadable {
            path: folder.to_owned(),
            included: Some((file.to_owned(), line)),
            source,
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.ends_with(b".conf") && !name.starts_with(b".") && name.len() > 5 && !entry.path().is_dir() {
                files.push(entry.path());
            }
        }
        files.sort();
        files.iter().try_for_each(|path| self.read_file(path, Some((file, line)), depth + 1))
    }
}

/// Reads one line: a name and a value, or nothing. The error is the text at which the grammar ends.
fn parse_line(line: &str) -> Result<Option<(String, String)>, &str> {
    let line = skip_space(line);
    if is_end(line) {
        return Ok(None);
    }
    let (name, rest) = name(line).ok_or(line)?;
    let rest = skip_space(rest);
    let rest = rest.strip_prefix('=').map_or(rest, skip_space);
    let (value, rest) = if rest.starts_with('\'') { quoted(rest) } else { bare(rest) }.ok_or(rest)?;
    let rest = skip_space(rest);
    if is_end(rest) { Ok(Some((name.to_owned(), value))) } else { Err(rest) }
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r'])
}

fn is_end(text: &str) -> bool {
    text.is_empty() || text.starts_with('#')
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// A name, or two with a dot between them (ID, QUALIFIED_ID).
fn name(text: &str) -> Option<(&str, &str)> {
    let word = |text: &str| {
        let inside = |c: char| is_letter(c) || c.is_ascii_digit();
        let end = text.find(|c| !inside(c)).unwrap_or(text.len());
        text.starts_with(is_letter).then_some(end)
    };
    let first = word(text)?;
    let second = text[first..].strip_prefix('.').and_then(word);
    Some(text.split_at(first + second.map_or(0, |length| 1 + length)))
}

/// A value without quotes: a word or a number.
fn bare(text: &str) -> Option<(String, &str)> {
    let end = if text.starts_with(is_letter) { word_length(text) } else { number_length(text) };
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// The length of a word, which may hold some signs (UNQUOTED_STRING).
fn word_length(text: &str) -> usize {
    let inside = |c: char| is_letter(c) || c.is_ascii_digit() || matches!(c, '-' | '.' | ':' | '/');
    text.find(|c| !inside(c)).unwrap_or(text.len())
}

/// The length of a number: an INTEGER with its unit or a REAL, whichever reaches farther; 0 if there is none.
fn number_length(text: &str) -> usize {
    let sign = usize::from(text.starts_with(['-', '+']));
    let text = &text[sign..];
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let letters = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
    let whole = digits(text);
    let hexadecimal = text
        .strip_prefix("0x")
        .map_or(0, |rest| rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len());
    let base = if hexadecimal > 0 { 2 + hexadecimal } else { whole };
    let integer = if base > 0 { base + letters(&text[base..]) } else { 0 };
    let real = text[whole..].strip_prefix('.').map_or(0, |rest| {
        let end = whole + 1 + digits(rest);
        end + exponent_length(&text[end..])
    });
    match integer.max(real) {
        0 => 0,
        length => sign + length,
    }
}

/// The length of an exponent like `e-3`; 0 if there is none.
fn exponent_length(text: &str) -> usize {
    let Some(rest) = text.strip_prefix(['e', 'E']) else { return 0 };
    let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let after = unsigned.trim_start_matches(|c: char| c.is_ascii_digit());
    if after.len() == unsigned.len() { 0 } else { text.len() - after.len() }
}

/// A value in quotes: `''` is a quote, a backslash begins an escape as in C.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        match (*bytes.get(at)?, bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => {
                value.push(b'\'');
                at += 2;
            }
            (b'\'', _) => break,
            (b'\\', Some(_)) => {
                let (byte, length) = escape(&bytes[at + 1..]);
                value.push(byte);
                at += 1 + length;
            }
            (b'\\', None) => return None,
            (byte, _) => {
                value.push(byte);
                at += 1;
            }
        }
    }
    Some((String::from_utf8_lossy(&value).into_owned(), &text[at + 1..]))
}

/// What follows a backslash: the byte it stands for, and how long the escape is.
fn escape(after: &[u8]) -> (u8, usize) {
    match after[0] {
        b'b' => (8, 1),
        b'f' => (12, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'0'..=b'7' => {
            let digits = after.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(*byte));
            let (value, length) =
                digits.fold((0u32, 0), |(value, length), digit| (value * 8 + u32::from(digit - b'0'), length + 1));
            ((value & 0xFF) as u8, length)
        }
        other => (other, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Option<(String, String)> {
        parse_line(line).expect("because the line is right")
    }

    fn value(line: &str) -> String {
        entry(line).map(|(_, value)| value).unwrap_or_default()
    }

    #[test]
    fn lines_are_read_by_the_servers_grammar() {
        assert_eq!(entry("  \t# a comment"), None);
        assert_eq!(entry(""), None);
        assert_eq!(value("port = 5432"), "5432");
        assert_eq!(value("port 5432 # why"), "5432");
        assert_eq!(value("port=5432#why"), "5432");
        assert_eq!(value("shared_buffers = 128MB"), "128MB");
        assert_eq!(value("archive_timeout=-1"), "-1");
        assert_eq!(value("random_page_cost = .5"), ".5");
        assert_eq!(value("wal_level = replica\r"), "replica");
        assert_eq!(value("archive_command = 'archive-wal %p'  # it"), "archive-wal %p");
        assert_eq!(value("a = ''"), "");
        assert_eq!(entry("my_ext.Setting = on"), Some(("my_ext.Setting".to_owned(), "on".to_owned())));
    }

    #[test]
    fn quotes_and_escapes_are_undone() {
        assert_eq!(value(r"a = 'it''s'"), "it's");
        assert_eq!(value(r"a = 'it\'s'"), "it's");
        assert_eq!(value(r"a = 'C:\\dir\tx\101\7'"), "C:\\dir\tx\u{41}\u{7}");
        assert_eq!(value("a = '# no comment'"), "# no comment");
        assert_eq!(value("a = 'grün'"), "grün");
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in ["port", "port =", "= 5", "5 = 5", "a = 'x", "a = 'x' y", "a = b c", "a = @", r"a = 'x\"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().expect("because the temporary directory is writable");
            fs::create_dir_all(folder.path().join("conf.d")).expect("because the directory is ours");
            for (name, text) in files {
                fs::write(folder.path().join(name), text).expect("because the directory is ours");
            }
            Files(folder)
        }

        fn read(&self) -> Result<Settings, SettingsError> {
            Settings::read(&self.0.path().join("postgresql.conf"), self.0.path())
        }
    }

    #[test]
    fn the_last_one_counts_and_is_named_with_file_and_line() {
        let files = Files::new(&[
            ("postgresql.conf", "port = 1\ninclude 'more.conf'\nPort = 3\ninclude_dir = 'conf.d'\nwork_mem = 1MB\n"),
            ("more.conf", "port = 2\nfsync = off\ninclude_if_exists 'absent.conf'\n"),
            ("conf.d/b.conf", "fsync = on\nx.y = 'b'\n"),
            ("conf.d/a.conf", "\nx.y = 'a'\n"),
            ("conf.d/.hidden.conf", "x.y = 'hidden'\n"),
            ("conf.d/c.txt", "x.y = 'text'\n"),
            ("postgresql.auto.conf", "# by ALTER SYSTEM\nwork_mem = '2MB'\n"),
        ]);
        let settings = files.read().expect("because the files are right");
        let place = |name: &str| {
            let setting = settings.get(name).expect("because it is set");
            let file = setting.file.file_name().map(|name| name.to_string_lossy().into_owned());
            format!("{} {}:{}", setting.value, file.unwrap_or_default(), setting.line)
        };
        assert_eq!(place("PORT"), "3 postgresql.conf:3");
        assert_eq!(place("fsync"), "on b.conf:1");
        assert_eq!(place("x.y"), "b b.conf:2");
        assert_eq!(place("work_mem"), "2MB postgresql.auto.conf:2");
        assert_eq!(settings.get("absent"), None);
        let included = |name: &str| settings.includes(&files.0.path().join(name));
        // Also a file that is not there yet, and one that is named by another way to its folder.
        assert!(included("more.conf") && included("absent.conf") && included("conf.d/../more.conf"));
        assert!(!included("postgresql.auto.conf"));
    }

    #[test]
    fn what_stops_the_server_is_named_with_file_and_line() {
        let error = |files: &[(&str, &str)]| Files::new(files).read().expect_err("because it is wrong");
        let syntax = error(&[("postgresql.conf", "port = 1\nport 1 2\n")]);
        assert!(matches!(&syntax, SettingsError::Syntax { line: 2, near, .. } if near == "2"), "{syntax}");
        let absent = error(&[("postgresql.conf", "\ninclude 'absent.conf'\n")]);
        assert!(matches!(&absent, SettingsError::Unreadable { included: Some((_, 2)), .. }), "{absent}");
        let endless = error(&[("postgresql.conf", "include 'postgresql.conf'\n")]);
        assert!(matches!(endless, SettingsError::TooDeep { line: 1, .. }), "{endless}");
        assert!(matches!(error(&[]), SettingsError::Unreadable { included: None, .. }));
    }
}
