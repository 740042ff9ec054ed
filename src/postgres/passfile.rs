//! The password file (`~/.pgpass`): lines of `host:port:database:user:password`, the first that matches counts.
//!
//! A file that others can read is not used, and a warning says so. Passwords come out as [`Secret`], which prints
//! nothing.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A password. It is never printed, and there is no way to print it by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The password itself, for the wire only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// What a password is wanted for, in the words of the file's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Host name as written in the connection string; `localhost` for the default socket directory.
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// What the file said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The password; none if no line matches or the file is absent or not used.
    pub password: Option<Secret>,
    /// Why the file was not used, as one line for the log.
    pub warning: Option<String>,
}

/// Looks a password up. A missing file is no trouble; a file that others may read is ignored with a warning.
pub fn lookup(path: &Path, wanted: &Wanted<'_>) -> Answer {
    let ignored = |reason: String| Answer {
        password: None,
        warning: Some(format!("password file '{}' is ignored: {reason}", path.display())),
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Answer::default();
        }
        Err(error) => return ignored(error.to_string()),
    };
    if !metadata.is_file() {
        return ignored("it is no plain file".to_owned());
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return ignored(format!("its mode {mode:04o} lets others in; it must be 0600 or less"));
    }
    match fs::read(path) {
        Ok(text) => Answer { password: search(&String::from_utf8_lossy(&text), wanted), warning: None },
        Err(error) => ignored(error.to_string()),
    }
}

/// The password of the first line that matches; an empty one counts as none.
pub fn search(text: &str, wanted: &Wanted<'_>) -> Option<Secret> {
    let port = wanted.port.to_string();
    let fields = [wanted.host, &port, wanted.dbname, wanted.user];
    let password = text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let line = line.trim_end_matches('\r');
        fields.iter().try_fold(line, |rest, field| match_field(rest, field)).map(unescape)
    })?;
    Some(password).filter(|password| !password.is_empty()).map(Secret)
}

/// Compares one field; returns what follows its colon if it matches.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut expected = wanted.chars();
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            ':' => return expected.next().is_none().then(|| &line[at + 1..]),
            '\\' => chars.next().map_or('\\', |(_, escaped)| escaped),
            c => c,
        };
        if expected.next() != Some(c) {
            return None;
        }
    }
    None
}

/// Takes the backslashes out of a password; a colon needs none there.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted { host: "db1", port: 5432, dbname: "app", user: "joe" };

    fn password(text: &str) -> Option<String> {
        search(text, &WANTED).map(|secret| secret.0)
    }

    #[test]
    fn the_first_matching_line_counts() {
        let text = "# db1:5432:app:joe:comment\ndb2:5432:app:joe:other\ndb1:*:*:joe:first\n*:*:*:*:last\n";
        assert_eq!(password(text).as_deref(), Some("first"));
        assert_eq!(password("*:*:*:*:last").as_deref(), Some("last"));
        assert_eq!(password("db1:5433:app:joe:x\ndb1:5432:app:jo:x\ndb1:5432:app:joes:x\n"), None);
        assert_eq!(password(" # no comment\n\ndb1:5432:app\n"), None);
        // A comment begins in the first column only; this line is one with a strange host.
        assert_eq!(password(" #x\r\ndb1:5432:app:joe:pw\r\n").as_deref(), Some("pw"));
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let wanted = Wanted { host: "::1", user: r"a\b", ..WANTED };
        let line = r"\:\:1:5432:app:a\\b:p\:w\\x:y";
        assert_eq!(search(line, &wanted).map(|secret| secret.0).as_deref(), Some(r"p:w\x:y"));
        // A star matches everything only when it stands alone.
        assert_eq!(password("*b1:5432:app:joe:x"), None);
        assert_eq!(password("db1:5432:app:joe:"), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_ignored_with_a_warning() {
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        let path = folder.path().join("pgpass");
        assert_eq!(lookup(&path, &WANTED), Answer::default());
        fs::write(&path, "*:*:*:*:pw\n").expect("because the directory is ours");
        let chmod = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("because the file is ours");
        };
        chmod(0o600);
        assert_eq!(lookup(&path, &WANTED).password, Some(Secret::new("pw")));
        chmod(0o640);
        let answer = lookup(&path, &WANTED);
        assert_eq!(answer.password, None);
        assert!(answer.warning.is_some_and(|warning| warning.contains("0640")));
        assert!(lookup(folder.path(), &WANTED).warning.is_some());
    }

    #[test]
    fn a_secret_prints_nothing() {
        assert_eq!(format!("{:?}", Secret::new("pw")), "(not shown)");
    }
}
