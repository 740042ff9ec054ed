//! The service file (`pg_service.conf`): named sets of connection keywords.
//!
//! The user's file goes before the system's, and the first section of the wanted name counts. Nothing is written. LDAP
//! lookups (`ldap://` lines) are refused, not skipped: a service that means one server must never resolve to another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::keyword;
use crate::error::{Class, Explain};

/// What is wrong with a service or its file.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No file defines the service.
    #[error("service '{name}' is defined in no service file (looked into: {looked})")]
    NotFound { name: String, looked: String },
    /// The file that was named is not there or cannot be read.
    #[error("cannot read service file '{}'", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A line that does not follow the rules.
    #[error("line {line} of service file '{}': {detail}", path.display())]
    Line { path: PathBuf, line: usize, detail: String },
}

impl Explain for ServiceError {
    fn class(&self) -> Class {
        Class::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            ServiceError::NotFound { name, .. } => {
                Some(format!("Add a section [{name}] to ~/.pg_service.conf, or name the file in PGSERVICEFILE."))
            }
            ServiceError::Unreadable { .. } => Some("Check PGSERVICEFILE and the permissions of the file.".to_owned()),
            ServiceError::Line { .. } => None,
        }
    }
}

/// A file to look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFile {
    pub path: PathBuf,
    /// The file was named by somebody, so that its absence is an error.
    pub named: bool,
}

/// The keywords of a service, from the first file that defines it.
pub fn lookup(name: &str, files: &[ServiceFile]) -> Result<Vec<(String, String)>, ServiceError> {
    for file in files {
        let text = match fs::read_to_string(&file.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !file.named => continue,
            Err(source) => return Err(ServiceError::Unreadable { path: file.path.clone(), source }),
        };
        if let Some(found) = search(&text, name, &file.path)? {
            return Ok(found);
        }
    }
    let looked: Vec<_> = files.iter().map(|file| format!("'{}'", file.path.display())).collect();
    Err(ServiceError::NotFound { name: name.to_owned(), looked: looked.join(", ") })
}

/// The keywords of a service in one file; none if the file does not define it. A line outside the section is not
/// judged.
pub fn search(text: &str, name: &str, path: &Path) -> Result<Option<Vec<(String, String)>>, ServiceError> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.strip_suffix(']') == Some(name) {
                found = Some(Vec::new());
            }
            continue;
        }
        if let Some(pairs) = found.as_mut() {
            let wrong = |detail: String| ServiceError::Line { path: path.to_owned(), line: index + 1, detail };
            let (key, value) = pair(line).map_err(wrong)?;
            // Of a keyword given twice the first one counts, as in libpq.
            if !pairs.iter().any(|(seen, _)| *seen == key) {
                pairs.push((key, value));
            }
        }
    }
    Ok(found)
}

/// Reads `keyword=value`; a service names no further service.
fn pair(line: &str) -> Result<(String, String), String> {
    if line.starts_with("ldap") {
        return Err("LDAP lookups are not supported".to_owned());
    }
    let (key, value) = line.split_once('=').ok_or_else(|| format!("'{line}' has no '='"))?;
    let (key, value) = (key.trim(), value.trim());
    if key == "service" || key == "servicefile" {
        return Err(format!("a service must not name another: '{key}' is not allowed here"));
    }
    if keyword::find(key).is_none() {
        let hint = keyword::suggest(key).map(|word| format!("; did you mean '{word}'?")).unwrap_or_default();
        return Err(format!("'{key}' is no connection keyword{hint}"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\n[one]\nhost=db1\nport=5433\n\n[two]\n  host=db2  \nhots=x\n[one]\nhost=never\n";

    fn find(name: &str) -> Result<Option<Vec<(String, String)>>, String> {
        search(TEXT, name, Path::new("svc")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_section_of_the_name_counts() {
        let pairs = vec![("host".to_owned(), "db1".to_owned()), ("port".to_owned(), "5433".to_owned())];
        assert_eq!(find("one"), Ok(Some(pairs)));
        assert_eq!(find("three"), Ok(None));
    }

    #[test]
    fn a_wrong_line_is_named_with_its_number() {
        let message = "line 8 of service file 'svc': 'hots' is no connection keyword; did you mean 'host'?";
        assert_eq!(find("two"), Err(message.to_owned()));
        let nested = search("[a]\nservice=b\n", "a", Path::new("svc")).expect_err("because services do not nest");
        assert!(nested.to_string().starts_with("line 2 "), "{nested}");
        assert!(search("[a]\nldap://x\n", "a", Path::new("svc")).is_err());
        assert!(search("[a]\nhost\n", "a", Path::new("svc")).is_err());
    }

    #[test]
    fn the_users_file_goes_before_the_systems() {
        let folder = tempfile::tempdir().expect("because the temporary directory is writable");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("because the directory is ours");
            ServiceFile { path, named: false }
        };
        let files = [file("user", "[a]\nhost=user\n"), file("system", "[a]\nhost=system\n[b]\nhost=b\n")];
        assert_eq!(lookup("a", &files).expect("because it is defined")[0].1, "user");
        assert_eq!(lookup("b", &files).expect("because it is defined")[0].1, "b");
        assert!(matches!(lookup("c", &files), Err(ServiceError::NotFound { .. })));
        let absent = ServiceFile { path: folder.path().join("absent"), named: true };
        assert!(matches!(lookup("a", &[absent]), Err(ServiceError::Unreadable { .. })));
    }
}
