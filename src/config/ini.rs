//! Reads an INI file strictly: sections, keys and values with their lines, and every line that is not plainly one.
//!
//! rust-ini reads the values, but it knows no lines and takes much silently: a byte order mark or text after `]` glues
//! a heading to the next key, a line without `=` becomes part of the next key's name, a backslash at the end joins two
//! lines, a comment behind a value becomes part of it. So an index of the raw text is made first. It reports each such
//! line, and only lines that can be read in one way go to rust-ini. The two readings are compared afterwards.

use ini::{Ini, ParseOption};

use super::error::Problem;

/// A `[section]` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// What stands between the brackets.
    pub name: String,
    /// Counted from 1.
    pub line: usize,
}

/// A `key = value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The section it stands in.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value as written, without the blanks around it; may be empty.
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// What a file says, and what in it could not be read. Lines with a problem are left out of the rest.
#[derive(Debug, Default)]
pub struct Reading {
    /// Every section, once, in order.
    pub headings: Vec<Heading>,
    /// Every key, once a section, in order.
    pub entries: Vec<Entry>,
    /// One for each line that is not plain.
    pub problems: Vec<Problem>,
}

/// Reads the text of a file.
pub fn read(text: &str) -> Reading {
    let mut index = Index::default();
    for (position, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = index.without_mark(line, position + 1);
        match index.line(line, position + 1) {
            Ok(()) => {}
            Err(problem) => index.reading.problems.push(problem.at_line(position + 1)),
        }
        index.plain.push('\n');
    }
    index.compare();
    index.reading
}

/// The index while it is made.
#[derive(Default)]
struct Index {
    reading: Reading,
    /// The section the next key belongs to; none before the first heading or after an unreadable one.
    section: Option<String>,
    /// True after a heading that could not be read: its keys are left out, since they belong to no known section.
    lost: bool,
    /// The text given to rust-ini: the same lines, the plain ones only.
    plain: String,
}

impl Index {
    /// Takes a byte order mark off the first line.
    fn without_mark<'a>(&mut self, line: &'a str, number: usize) -> &'a str {
        match line.strip_prefix('\u{feff}') {
            Some(rest) if number == 1 => {
                let problem = Problem::new("the file begins with a byte order mark");
                self.reading.problems.push(problem.at_line(1).hinted("Save it as UTF-8 without a byte order mark."));
                rest
            }
            _ => line,
        }
    }

    /// Takes one line in.
    fn line(&mut self, line: &str, number: usize) -> Result<(), Problem> {
        let content = line.trim_matches([' ', '\t']);
        if content.is_empty() || content.starts_with(['#', ';']) {
            return Ok(());
        }
        if let Some(odd) = content.chars().find(|c| (c.is_control() && *c != '\t') || *c == '\u{feff}') {
            return Err(Problem::new(format!("the line holds the control character {odd:?}"))
                .hinted("Remove it; a configuration is plain text."));
        }
        if line.starts_with([' ', '\t']) {
            return Err(Problem::new(format!("the line '{}' is indented", shorten(content))).hinted(
                "Begin it in the first column; a value cannot go on in the next line, so write it in one line.",
            ));
        }
        if content.ends_with('\\') {
            return Err(Problem::new("the line ends with a backslash")
                .hinted("Lines are never joined; write the value in one line."));
        }
        match content.strip_prefix('[') {
            Some(rest) => self.heading(rest, number),
            None => self.entry(content, number),
        }
    }

    /// Takes a heading in; `rest` is what follows the bracket.
    fn heading(&mut self, rest: &str, number: usize) -> Result<(), Problem> {
        self.section = None;
        self.lost = true;
        let Some((name, after)) = rest.split_once(']') else {
            return Err(Problem::new(format!("the section '[{}' is not closed", shorten(rest)))
                .hinted("Write it as '[section]' on a line of its own."));
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            return Err(Problem::new(format!("'[{}]' is no section name", shorten(name)))
                .hinted("A section name has letters, digits, '_', '-' and '.', and no blanks."));
        }
        self.enter(name);
        let known = self.reading.headings.iter().find(|heading| heading.name == name).map(|heading| heading.line);
        match known {
            Some(first) => Err(Problem::new(format!("section [{name}] stands here again; first in line {first}"))
                .hinted("Put its keys together under one heading.")),
            None => {
                self.reading.headings.push(Heading { name: name.to_string(), line: number });
                match after.trim() {
                    "" => Ok(()),
                    text => Err(Problem::new(format!("text after section [{name}]: '{}'", shorten(text)))
                        .hinted("Put it on a line of its own.")),
                }
            }
        }
    }

    /// The following keys belong to this section.
    fn enter(&mut self, name: &str) {
        self.section = Some(name.to_string());
        self.lost = false;
        self.plain.push_str(&format!("[{name}]"));
    }

    /// Takes a key and its value in.
    fn entry(&mut self, content: &str, number: usize) -> Result<(), Problem> {
        let Some((key, value)) = content.split_once('=') else {
            return Err(Problem::new(format!("the line '{}' has no '='", shorten(content)))
                .hinted("Write 'key = value', or put '#' before a comment."));
        };
        let (key, value) = (key.trim_end(), value.trim());
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Problem::new(format!("'{}' is no key", shorten(key)))
                .hinted("A key has lower-case letters and '_'; write 'key = value'."));
        }
        if let Some(comment) = trailing_comment(value) {
            return Err(Problem::new(format!("the value of '{key}' is followed by '{}'", shorten(comment)))
                .hinted("Put a comment on a line of its own, or put quotes around a value that holds '#' or ';'."));
        }
        let Some(section) = self.section.clone() else {
            // The unreadable heading has been reported; its keys would only repeat that.
            return if self.lost {
                Ok(())
            } else {
                Err(Problem::new(format!("key '{key}' stands before any section"))
                    .hinted("Put it under its '[section]'."))
            };
        };
        let known = self.reading.entries.iter().find(|entry| entry.section == section && entry.key == key);
        if let Some(first) = known {
            return Err(Problem::new(format!("key '{key}' stands here again; first in line {}", first.line))
                .hinted("Remove one of the two."));
        }
        self.plain.push_str(&format!("{key} = {value}"));
        self.reading.entries.push(Entry { section, key: key.to_string(), value: value.to_string(), line: number });
        Ok(())
    }

    /// Has rust-ini read the plain lines and makes sure that it reads what the index reads.
    fn compare(&mut self) {
        let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
        let parsed = match Ini::load_from_str_opt(&self.plain, options) {
            Ok(parsed) => parsed,
            Err(error) => {
                let problem = Problem::new(format!("not an INI file: {}", error.msg));
                self.reading.problems.push(problem.at_line(error.line.max(1)));
                return;
            }
        };
        let read: Vec<(&str, &str, &str)> = parsed
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |(key, value)| (section.unwrap_or(""), key, value)))
            .collect();
        // rust-ini groups sections of the same name; the index has them in the order of the lines.
        for entry in &self.reading.entries {
            if !read.contains(&(entry.section.as_str(), entry.key.as_str(), entry.value.as_str())) {
                let problem = Problem::new(format!("the value of '{}' can be read in two ways", entry.key));
                self.reading.problems.push(problem.at_line(entry.line).hinted("Write it in a plainer way."));
            }
        }
    }
}

/// What looks like a comment behind a value: `#` or `;` after a blank and outside quotes.
fn trailing_comment(value: &str) -> Option<&str> {
    let mut quote = None;
    let mut blank = true;
    for (at, c) in value.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if (c == '#' || c == ';') && blank => return Some(&value[at..]),
            None if c == '"' || c == '\'' => quote = Some(c),
            None => {}
        }
        blank = c == ' ' || c == '\t';
    }
    None
}

/// Cuts a quoted piece of a file down to what fits into a message, and hides what may hold a password.
fn shorten(text: &str) -> String {
    const LENGTH_MAX: usize = 40;
    let lower = text.to_ascii_lowercase();
    if lower.contains("pass") || lower.contains("conninfo") || lower.contains("://") {
        return "…".to_string();
    }
    if text.chars().count() <= LENGTH_MAX {
        return text.to_string();
    }
    let start: String = text.chars().take(LENGTH_MAX).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The problems of a text as `line: message`.
    fn problems(text: &str) -> Vec<String> {
        let reading = read(text);
        reading.problems.iter().map(|p| format!("{}: {}", p.line.unwrap_or(0), p.message)).collect()
    }

    fn entry(section: &str, key: &str, value: &str, line: usize) -> Entry {
        Entry { section: section.into(), key: key.into(), value: value.into(), line }
    }

    #[test]
    fn plain_files_are_read_with_their_lines() {
        let reading =
            read("# head\r\n[a]\r\nx = 1\r\n\r\n; c\n  # indented comment\n[node.b-1]\ny=a=b:c\\d 'e'\nz =\n");
        assert_eq!(reading.problems, []);
        assert_eq!(
            reading.entries,
            [entry("a", "x", "1", 3), entry("node.b-1", "y", "a=b:c\\d 'e'", 8), entry("node.b-1", "z", "", 9),]
        );
        assert_eq!(reading.headings.iter().map(|h| h.line).collect::<Vec<_>>(), [2, 7]);
    }

    #[test]
    fn what_an_ini_reader_swallows_is_reported() {
        let cases = [
            ("\u{feff}[a]\nx=1", "1: the file begins with a byte order mark"),
            ("[a] x\ny=1", "1: text after section [a]: 'x'"),
            ("[a]\nx=1\nx=2", "3: key 'x' stands here again; first in line 2"),
            ("[a]\nx=1\n[a]\ny=2", "3: section [a] stands here again; first in line 1"),
            ("[a]\nport 5432\ny=2", "2: the line 'port 5432' has no '='"),
            ("[a]\nx: 5432", "2: the line 'x: 5432' has no '='"),
            ("[a]\nx: 5=432", "2: 'x: 5' is no key"),
            ("[a]\nx=1\n  more\ny=2", "3: the line 'more' is indented"),
            ("[a]\nx=1\\\ny=2", "2: the line ends with a backslash"),
            ("[a]\nx=60s # why", "2: the value of 'x' is followed by '# why'"),
            ("[a]\nx=60s ; why", "2: the value of 'x' is followed by '; why'"),
            ("[a]\nx=# why", "2: the value of 'x' is followed by '# why'"),
            ("x=1\n[a]", "1: key 'x' stands before any section"),
            ("[a\nx=1", "1: the section '[a' is not closed"),
            ("[ a ]\nx=1", "1: '[ a ]' is no section name"),
            ("[a]\nx=1\0", "2: the line holds the control character '\\0'"),
            ("[a]\nx=1\ry=2", "2: the line holds the control character '\\r'"),
            ("[a]\n=1", "2: '' is no key"),
        ];
        for (text, expected) in cases {
            assert_eq!(problems(text), [expected], "for {text:?}");
        }
    }

    #[test]
    fn a_quoted_number_sign_is_no_comment() {
        let reading = read("[a]\nx = mail -s \"pgwarm # 1\" dba\ny = a#b;c\n");
        assert_eq!(reading.problems, []);
        assert_eq!(reading.entries[0].value, "mail -s \"pgwarm # 1\" dba");
        assert_eq!(reading.entries[1].value, "a#b;c");
    }

    #[test]
    fn a_line_that_may_hold_a_password_is_not_repeated() {
        for text in ["[a]\n conninfo = password=hush", "[a]\nx = 1 # PASSWORD hush", "[a]\npostgresql://u:hush@h/d"] {
            assert_eq!(problems(text).len(), 1, "{text}");
            assert!(!problems(text)[0].contains("hush"), "{text}");
        }
    }

    #[test]
    fn good_lines_beside_a_bad_one_are_still_read() {
        let reading = read("[a]\nbad\nx=1\n[b] text\ny=2\n");
        assert_eq!(reading.problems.len(), 2);
        assert_eq!(reading.entries, [entry("a", "x", "1", 3), entry("b", "y", "2", 5)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
            read(&text);
        }

        #[test]
        fn both_readings_agree_on_every_text(text in "[\\[\\]a=:\\\\#; '\"\t\r\n.\u{feff}]{0,80}") {
            let reading = read(&text);
            prop_assert!(!reading.problems.iter().any(|problem| problem.message.contains("two ways")));
            prop_assert!(!reading.problems.iter().any(|problem| problem.message.contains("not an INI file")));
        }
    }
}
