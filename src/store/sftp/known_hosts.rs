//! Which host keys are known: the known_hosts files, read the way OpenSSH reads them.
//!
//! The ssh library's own reading ignores `@revoked` and wildcards, so lines are taken apart here; only a hashed name is
//! given to the library, which can hash. `@cert-authority` lines are left out: the library knows no host certificates.

use std::path::{Path, PathBuf};

use ssh2::{CheckResult, KnownHostFileKind, Session};

/// What the files say about one host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KnownKeys {
    /// Type and key in base64.
    good: Vec<(String, String)>,
    /// Keys that must never be accepted.
    revoked: Vec<String>,
}

/// What is to be thought of a host key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the host's.
    Known,
    /// Nothing is known about this host.
    Unknown,
    /// The host is known by other keys.
    Different,
    /// It was revoked.
    Revoked,
}

impl KnownKeys {
    /// Reads what the files say; a file that is not there says nothing.
    pub(super) fn read(files: &[PathBuf], host: &str, port: u16) -> std::io::Result<Self> {
        let mut text = String::new();
        for file in files {
            match std::fs::read(file) {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            text.push('\n');
        }
        Ok(Self::parse(&text, host, port))
    }

    fn parse(text: &str, host: &str, port: u16) -> Self {
        let with_port = format!("[{host}]:{port}");
        let exact = if port == 22 { host } else { &with_port };
        let (mut exact_keys, mut host_keys, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines() {
            let line = line.trim();
            let (marker, rest) = match line.split_once(char::is_whitespace) {
                Some((marker, rest)) if marker.starts_with('@') => (marker, rest.trim_start()),
                _ => ("", line),
            };
            let mut words = rest.split_whitespace();
            let (Some(names), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else { continue };
            if names.starts_with('#') {
                continue;
            }
            let (is_exact, is_host) = (names_host(names, exact), names_host(names, host));
            match marker {
                "" if is_exact => exact_keys.push((kind.to_owned(), key.to_owned())),
                "" if is_host => host_keys.push((kind.to_owned(), key.to_owned())),
                "@revoked" if is_exact || is_host => revoked.push(key.to_owned()),
                _ => {}
            }
        }
        // What is said about this port goes before what is said about the host.
        KnownKeys { good: if exact_keys.is_empty() { host_keys } else { exact_keys }, revoked }
    }

    /// The host-key algorithms to ask for, so that the host shows a key that is known; none where nothing is known.
    pub(super) fn algorithms(&self) -> Option<String> {
        let mut algorithms: Vec<&str> = Vec::new();
        for (kind, key) in &self.good {
            // RSA keys sign with SHA-2; the old signatures with SHA-1 are not asked for.
            let names = if kind == "ssh-rsa" { "rsa-sha2-512,rsa-sha2-256" } else { kind };
            if !self.revoked.contains(key) && !algorithms.contains(&names) {
                algorithms.push(names);
            }
        }
        (!algorithms.is_empty()).then(|| algorithms.join(","))
    }

    /// Judges the key that the host has shown.
    pub(super) fn judge(&self, key: &[u8]) -> Verdict {
        let key = base64(key);
        if self.revoked.contains(&key) {
            Verdict::Revoked
        } else if self.good.iter().any(|(_, good)| *good == key) {
            Verdict::Known
        } else if self.good.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Different
        }
    }
}

/// The files that are read where none is configured.
pub(super) fn default_files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let system = Path::new("/etc/ssh/ssh_known_hosts").to_owned();
    vec![home.join(".ssh/known_hosts"), home.join(".ssh/known_hosts2"), system]
}

/// True where the first field of a line names this host: a list of patterns, `!` excepting; or one hashed name.
fn names_host(names: &str, host: &str) -> bool {
    if names.starts_with('|') {
        return hashed_names_host(names, host);
    }
    let mut named = false;
    for pattern in names.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern.as_bytes(), host.as_bytes()) => return false,
            Some(_) => {}
            None => named = named || matches(pattern.as_bytes(), host.as_bytes()),
        }
    }
    named
}

/// Matches `*` and `?`, without regard to case.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            // Runs of stars are one; so the recursion stays as deep as the pattern.
            rest.first() != Some(&b'*') && (0..=text.len()).any(|skipped| matches(rest, &text[skipped..]))
                || rest.first() == Some(&b'*') && matches(rest, text)
        }
        (Some((b'?', pattern)), Some((_, text))) => matches(pattern, text),
        (Some((one, pattern)), Some((other, text))) => one.eq_ignore_ascii_case(other) && matches(pattern, text),
        _ => false,
    }
}

/// Asks the library whether a hashed name is this host's, with keys that cannot be equal: "mismatch" says yes.
fn hashed_names_host(names: &str, host: &str) -> bool {
    let Ok(mut known) = Session::new().and_then(|session| session.known_hosts()) else { return false };
    let line = format!("{names} ssh-ed25519 {}\n", base64(b"a key that no host has"));
    known.read_str(&line, KnownHostFileKind::OpenSSH).is_ok()
        && matches!(known.check(host, b"another key"), CheckResult::Mismatch)
}

/// Base64 with padding, as known_hosts spells keys.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_the_known_values() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn names_match_as_patterns() {
        for (names, host, expected) in [
            ("db1", "db1", true),
            ("DB1", "db1", true),
            ("db1", "db12", false),
            ("a,db1,b", "db1", true),
            ("db?", "db1", true),
            ("*.example", "db1.example", true),
            ("**", "x", true),
            ("*,!db1", "db1", false),
            ("!db1,*", "db2", true),
            ("[db1]:2222", "[db1]:2222", true),
            ("[db1]:2222", "db1", false),
        ] {
            assert_eq!(names_host(names, host), expected, "{names} {host}");
        }
    }

    #[test]
    fn hashed_names_are_known() {
        // Made with `ssh-keygen -H` from the name "db1.example".
        let hashed = HASHED;
        assert!(names_host(hashed, "db1.example"));
        assert!(!names_host(hashed, "db2.example"));
    }

    const HASHED: &str = "|1|eSRMtfA4xN9wiyy0ND2u7K+WcMQ=|vBYI/PGh7jympCbqidj8ec/pXCI=";

    #[test]
    fn the_port_goes_before_the_host_and_revocation_before_all() {
        let key = |bytes: &[u8]| base64(bytes);
        let text = format!(
            "# comment\n\ndb1 ssh-rsa {}\n[db1]:2222 ssh-ed25519 {} words\n@revoked db1 ssh-ed25519 {}\n\
             @cert-authority * ssh-ed25519 {}\n",
            key(b"rsa"),
            key(b"ed"),
            key(b"bad"),
            key(b"ca")
        );
        let known = KnownKeys::parse(&text, "db1", 2222);
        assert_eq!(known.algorithms().as_deref(), Some("ssh-ed25519"));
        assert_eq!(known.judge(b"ed"), Verdict::Known);
        assert_eq!(known.judge(b"rsa"), Verdict::Different);
        assert_eq!(known.judge(b"bad"), Verdict::Revoked);
        assert_eq!(known.judge(b"ca"), Verdict::Different);
        let known = KnownKeys::parse(&text, "db1", 2200);
        assert_eq!(known.algorithms().as_deref(), Some("rsa-sha2-512,rsa-sha2-256"));
        assert_eq!(known.judge(b"rsa"), Verdict::Known);
        let known = KnownKeys::parse(&text, "db2", 22);
        assert_eq!(known.algorithms(), None);
        assert_eq!(known.judge(b"ca"), Verdict::Unknown);
    }

    #[test]
    fn a_key_listed_as_good_and_as_revoked_is_revoked() {
        let key = base64(b"key");
        let known = KnownKeys::parse(&format!("db1 ssh-rsa {key}\n@revoked * ssh-rsa {key}\n"), "db1", 22);
        assert_eq!(known.judge(b"key"), Verdict::Revoked);
        assert_eq!(known.algorithms(), None);
    }
}
