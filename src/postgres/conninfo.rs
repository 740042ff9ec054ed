//! Connection strings as libpq reads them: keyword/value strings and URIs.
//!
//! A [`Conninfo`] holds what was written, keyword by keyword, and nothing else: no default, no environment. `resolve`
//! adds those. Printing one gives a keyword/value string fit for `primary_conninfo`; secrets are left out of it, so
//! that no password ever reaches a log, a configuration file or a message.

use std::fmt;
use std::str::FromStr;

use super::keyword::{self, KEYWORDS, Keyword};
use super::service::ServiceError;
use super::uri;
use crate::error::{Class, Explain};

/// What is wrong with a connection string, or with what completes it.
#[derive(Debug, thiserror::Error)]
pub enum ConninfoError {
    /// A keyword libpq does not know either.
    #[error("'{keyword}' is no keyword of a connection string")]
    UnknownKeyword { keyword: String, suggestion: Option<&'static str> },
    /// A word without `=`.
    #[error("'{word}' in the connection string has no '=' after it")]
    NoEquals { word: String },
    /// A quoted value without its closing quote.
    #[error("the value of '{keyword}' in the connection string has no closing quote")]
    Unterminated { keyword: String },
    /// A URI that does not follow the rules.
    #[error("the connection URI is malformed: {detail}")]
    Uri { detail: String },
    /// A value that its keyword does not allow.
    #[error("'{value}' is no value for '{keyword}'; allowed: {allowed}")]
    Value { keyword: &'static str, value: String, allowed: &'static str },
    /// Lists of hosts, addresses and ports that do not match one another.
    #[error("the connection string names {hosts} hosts but {count} values of '{keyword}'")]
    Count { keyword: &'static str, hosts: usize, count: usize },
    /// Two settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// A setting that libpq has and this program has not, and that must not be ignored.
    #[error("'{keyword}={value}' is not supported")]
    Unsupported { keyword: &'static str, value: String, advice: &'static str },
    /// Nobody said who connects, and the operating system does not know either.
    #[error("no user name for the connection: the user of this process has no name")]
    NoUser,
    /// The service file.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Explain for ConninfoError {
    fn class(&self) -> Class {
        Class::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConninfoError::UnknownKeyword { suggestion, .. } => suggestion.map(|word| format!("Did you mean '{word}'?")),
            ConninfoError::NoEquals { .. } => {
                Some("Write 'keyword=value' pairs or a URI that begins with postgresql://; a database alone is written 'dbname=NAME'.".to_owned())
            }
            ConninfoError::Unterminated { .. } => {
                Some("Close the value with a single quote; a quote inside it is written \\'.".to_owned())
            }
            ConninfoError::Uri { .. } => {
                Some("Write postgresql://user@host:port/dbname?keyword=value, with special characters as %XX.".to_owned())
            }
            ConninfoError::Count { .. } => {
                Some("Give one value for all hosts or one for each, separated by commas.".to_owned())
            }
            ConninfoError::Unsupported { advice, .. } => Some((*advice).to_owned()),
            ConninfoError::NoUser => Some("Name one with 'user=' in the connection string.".to_owned()),
            ConninfoError::Service(error) => error.hint(),
            ConninfoError::Value { .. } | ConninfoError::Contradiction(_) => None,
        }
    }
}

/// A connection string, read: the keywords that were written, each with its value.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo {
    // In the order of the table, so that equal settings are equal values and print alike.
    values: Vec<(&'static Keyword, String)>,
}

impl Conninfo {
    /// One that says nothing: everything comes from the environment and the defaults.
    pub fn new() -> Self {
        Conninfo::default()
    }

    /// Reads a keyword/value string or a URI. Of a keyword given twice the last one counts.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        if uri::is_uri(text) { uri::parse(text) } else { parse_pairs(text) }
    }

    /// The value written for a keyword.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(keyword, _)| keyword.name == name).map(|(_, value)| value.as_str())
    }

    /// Sets a keyword, replacing what was written; an error if there is no such keyword.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<(), ConninfoError> {
        let keyword = keyword::find(name).ok_or_else(|| ConninfoError::UnknownKeyword {
            keyword: name.to_owned(),
            suggestion: keyword::suggest(name),
        })?;
        self.remove(name);
        self.values.push((keyword, value.into()));
        self.values.sort_by_key(|(keyword, _)| KEYWORDS.iter().position(|row| row.name == keyword.name));
        Ok(())
    }

    /// Takes a keyword out; does nothing if it was not written.
    pub fn remove(&mut self, name: &str) {
        self.values.retain(|(keyword, _)| keyword.name != name);
    }

    /// Sets a keyword only if it was not written.
    pub(super) fn set_missing(&mut self, name: &str, value: impl Into<String>) -> Result<(), ConninfoError> {
        if self.get(name).is_some() { Ok(()) } else { self.set(name, value) }
    }

    /// True if a password or another secret stands in it.
    pub fn holds_secret(&self) -> bool {
        self.values.iter().any(|(keyword, value)| keyword.secret && !value.is_empty())
    }
}

impl FromStr for Conninfo {
    type Err = ConninfoError;

    fn from_str(text: &str) -> Result<Self, ConninfoError> {
        Conninfo::parse(text)
    }
}

/// A keyword/value string with quotes where needed; secrets are left out.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (keyword, value) in self.values.iter().filter(|(keyword, _)| !keyword.secret) {
            write!(f, "{separator}{}={}", keyword.name, quote(value))?;
            separator = " ";
        }
        Ok(())
    }
}

/// Like Display, and says which secrets are set.
impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(keyword, value): &(&'static Keyword, String)| {
            (keyword.name, if keyword.secret { "(not shown)".to_owned() } else { value.clone() })
        };
        f.debug_map().entries(self.values.iter().map(shown)).finish()
    }
}

/// Quotes a value where a connection string needs it.
fn quote(value: &str) -> String {
    let safe = |c: char| !is_space(c) && c != '\'' && c != '\\';
    if !value.is_empty() && value.chars().all(safe) {
        return value.to_owned();
    }
    let mut quoted = String::from("'");
    for c in value.chars() {
        if c == '\'' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// What C's isspace() calls a space, which is what libpq asks.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn parse_pairs(text: &str) -> Result<Conninfo, ConninfoError> {
    let mut conninfo = Conninfo::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after = after.trim_start_matches(is_space);
        let no_equals = || ConninfoError::NoEquals { word: name.to_owned() };
        let after = after.strip_prefix('=').ok_or_else(no_equals)?.trim_start_matches(is_space);
        let (value, after) = parse_value(name, after)?;
        conninfo.set(name, value)?;
        rest = after.trim_start_matches(is_space);
    }
    Ok(conninfo)
}

/// Reads one value and returns what follows it.
fn parse_value<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), ConninfoError> {
    let quoted = text.starts_with('\'');
    let body = if quoted { &text[1..] } else { text };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            // A backslash at the very end stands for nothing, as in libpq.
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c if !quoted && is_space(c) => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(ConninfoError::Unterminated { keyword: name.to_owned() }) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str, keyword: &str) -> String {
        let parsed = Conninfo::parse(text).expect("because the text is right");
        parsed.get(keyword).expect("because the keyword is written").to_owned()
    }

    #[test]
    fn values_are_read_with_quotes_escapes_and_spaces() {
        assert_eq!(value("host = db1   port=1", "host"), "db1");
        assert_eq!(value("\n\thost=db1\n", "host"), "db1");
        assert_eq!(value(r"dbname='a b'", "dbname"), "a b");
        assert_eq!(value(r"dbname='it\'s \\ here'", "dbname"), r"it's \ here");
        assert_eq!(value(r"dbname=a\ b\'c", "dbname"), "a b'c");
        assert_eq!(value("host='' port=1", "host"), "");
        // Quotes open a value only where it begins.
        assert_eq!(value("dbname=o'brien", "dbname"), "o'brien");
        // No space is needed after a closing quote, and an empty value takes the next word: so does libpq.
        assert_eq!(value("dbname='a'port=5", "port"), "5");
        assert_eq!(value("host= port=5", "host"), "port=5");
        assert_eq!(value("host=a host=b", "host"), "b");
        assert_eq!(value("port=", "port"), "");
    }

    #[test]
    fn what_libpq_refuses_is_refused_and_explained() {
        let wrong = |text| Conninfo::parse(text).expect_err("because the text is wrong");
        let error = wrong("hots=db1");
        assert_eq!(error.to_string(), "'hots' is no keyword of a connection string");
        assert_eq!(error.hint().as_deref(), Some("Did you mean 'host'?"));
        assert_eq!(wrong("mydb").to_string(), "'mydb' in the connection string has no '=' after it");
        assert!(matches!(wrong("host db1"), ConninfoError::NoEquals { .. }));
        assert!(matches!(wrong("dbname='a"), ConninfoError::Unterminated { .. }));
        assert!(matches!(wrong("HOST=a"), ConninfoError::UnknownKeyword { suggestion: Some("host"), .. }));
        assert!(matches!(wrong("=a"), ConninfoError::UnknownKeyword { .. }));
    }

    #[test]
    fn what_pg_basebackup_writes_is_read() {
        let text = "user=replicator passfile='/var/lib/postgresql/.pgpass' channel_binding=prefer host=db1 port=5432 \
                    sslmode=prefer sslcompression=0 sslcertmode=allow sslsni=1 ssl_min_protocol_version=TLSv1.2 \
                    gssencmode=prefer krbsrvname=postgres gssdelegation=0 target_session_attrs=any \
                    load_balance_hosts=disable";
        assert_eq!(value(text, "passfile"), "/var/lib/postgresql/.pgpass");
    }

    #[test]
    fn a_password_is_never_printed() {
        let text = "host=db1 password=s3cret sslpassword=s3cret scram_client_key=s3cret";
        let parsed = Conninfo::parse(text).expect("because the text is right");
        assert_eq!(parsed.to_string(), "host=db1");
        assert!(!format!("{parsed:?} {parsed:#?}").contains("s3cret"));
        assert!(parsed.holds_secret());
    }

    proptest! {
        #[test]
        fn a_connection_string_reads_back_what_it_prints(
            pairs in proptest::collection::vec((0..KEYWORDS.len(), any::<String>()), 0..8)
        ) {
            let mut written = Conninfo::new();
            for (index, value) in pairs {
                if !KEYWORDS[index].secret {
                    written.set(KEYWORDS[index].name, value).expect("because the keyword is in the table");
                }
            }
            let read = Conninfo::parse(&written.to_string()).expect("because it was printed");
            prop_assert_eq!(read, written);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = Conninfo::parse(&text);
            let _ = Conninfo::parse(&format!("postgresql://{text}"));
        }
    }
}
