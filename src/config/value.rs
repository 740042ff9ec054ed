//! What an option may hold: the kinds of value, how each is written, and how it is written back.
//!
//! Durations and sizes carry a unit, since a bare `60` has been read as seconds and as milliseconds. Sizes are binary
//! whichever way the unit is written, as PostgreSQL's own settings are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Ack, PlaceWord};

/// What an option may hold. Ranges are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Letters, digits, `_` and `-`, not starting with `-`.
    Name,
    /// An absolute path.
    Path,
    /// A path which may be relative to a folder that the option's sentence names, or a program looked up in PATH.
    LoosePath,
    /// `on` or `off`.
    Switch,
    /// A whole number in a range.
    Number(i64, i64),
    /// A time with a unit in a range.
    Time(&'static str, &'static str),
    /// Bytes with a unit.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Place words and node names, with commas between.
    Places,
    /// `local`, `standby`, `all` or a number.
    Ack,
    /// A command: split into words once, with a shell's quotes, but never given to a shell.
    Words,
}

/// A value that an option holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing is set, and that is allowed.
    Nothing,
    /// Of [`Kind::Text`], [`Kind::Name`] and [`Kind::Choice`].
    Text(String),
    /// Of [`Kind::Path`] and [`Kind::LoosePath`].
    Path(PathBuf),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Number`].
    Number(i64),
    /// Of [`Kind::Time`].
    Time(Duration),
    /// Of [`Kind::Size`], in bytes.
    Size(u64),
    /// Of [`Kind::Places`].
    Places(Vec<PlaceWord>),
    /// Of [`Kind::Ack`].
    Ack(Ack),
    /// Of [`Kind::Words`].
    Words(Vec<String>),
}

/// Why a text is no value of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Follows the text in the message: `'…' is no duration`.
    pub message: String,
    /// What to write, as a full sentence.
    pub hint: String,
}

/// Makes a mistake from its parts.
fn mistake<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { message: message.into(), hint: hint.into() })
}

impl Kind {
    /// Reads a value that is not empty.
    pub fn parse(self, text: &str) -> Result<Value, Mistake> {
        match self {
            Kind::Text => Ok(Value::Text(text.to_string())),
            Kind::Name => name(text).map(|name| Value::Text(name.to_string())),
            Kind::Path => path(text).map(Value::Path),
            Kind::LoosePath => loose_path(text).map(Value::Path),
            Kind::Switch => switch(text).map(Value::Switch),
            Kind::Number(least, most) => number(text, least, most).map(Value::Number),
            Kind::Time(least, most) => time_between(text, least, most).map(Value::Time),
            Kind::Size => size(text).map(Value::Size),
            Kind::Choice(words) => choice(text, words).map(Value::Text),
            Kind::Places => places(text).map(Value::Places),
            Kind::Ack => ack(text).map(Value::Ack),
            Kind::Words => split_words(text).map(Value::Words),
        }
    }

    /// The kind in words, for the sample file and the README.
    pub fn words(self) -> String {
        match self {
            Kind::Text => "text".to_string(),
            Kind::Name => "name".to_string(),
            Kind::Path => "absolute path".to_string(),
            Kind::LoosePath => "path".to_string(),
            Kind::Switch => "on, off".to_string(),
            Kind::Number(least, most) => format!("{least} to {most}"),
            Kind::Time(least, most) => format!("{least} to {most}"),
            Kind::Size => "size".to_string(),
            Kind::Choice(words) => words.join(", "),
            Kind::Places => "places".to_string(),
            Kind::Ack => "local, standby, all or a number".to_string(),
            Kind::Words => "command".to_string(),
        }
    }
}

/// A plain name: it becomes a folder, a word on a command line and a part of a section's name.
pub fn name(text: &str) -> Result<&str, Mistake> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if text.is_empty() || !plain || text.starts_with('-') || text.len() > 63 {
        return mistake("is no plain name", "Use up to 63 letters, digits, '_' and '-', not beginning with '-'.");
    }
    Ok(text)
}

fn path(text: &str) -> Result<PathBuf, Mistake> {
    if text.starts_with('~') {
        return mistake("is not absolute", "Write the whole path; '~' is not expanded.");
    }
    if !text.starts_with('/') {
        return mistake("is not absolute", "Write the whole path, beginning with '/'.");
    }
    if text.split('/').any(|part| part == "..") {
        return mistake("holds '..'", "Write the path without '..'.");
    }
    // Trailing slashes would make equal paths look different.
    let trimmed = text.trim_end_matches('/');
    Ok(PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed }))
}

fn loose_path(text: &str) -> Result<PathBuf, Mistake> {
    if text.starts_with('~') {
        return mistake("begins with '~'", "Write the whole path; '~' is not expanded.");
    }
    if text.starts_with('-') || text.split('/').any(|part| part == "..") {
        return mistake("is no plain path", "Write the path without '..' and not beginning with '-'.");
    }
    Ok(PathBuf::from(text))
}

fn switch(text: &str) -> Result<bool, Mistake> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => mistake("is neither on nor off", "Write 'on' or 'off'."),
    }
}

fn number(text: &str, least: i64, most: i64) -> Result<i64, Mistake> {
    let range = format!("Write a whole number from {least} to {most}.");
    match text.parse::<i64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) => mistake(format!("is not between {least} and {most}"), range),
        Err(_) => mistake("is no whole number", range),
    }
}

/// The units of a duration in milliseconds, largest first.
const TIME_UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// The units of a size in bytes, largest first; the short form is PostgreSQL's and as binary as the other.
const SIZE_UNITS: &[(&str, &str, u64)] =
    &[("TiB", "TB", 1 << 40), ("GiB", "GB", 1 << 30), ("MiB", "MB", 1 << 20), ("KiB", "kB", 1 << 10), ("B", "B", 1)];

/// Splits `10min` into `10` and `min`.
fn quantity(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

/// Reads a duration: `100ms`, `10s`, `5min`, `1h`, `1d`, or `0`.
pub fn time(text: &str) -> Result<Duration, Mistake> {
    const HINT: &str = "Write a whole number with its unit: ms, s, min, h or d, such as '10s'.";
    let Some((count, unit)) = quantity(text) else { return mistake("is no duration", HINT) };
    if unit.is_empty() {
        return if count == 0 { Ok(Duration::ZERO) } else { mistake("has no unit", HINT) };
    }
    let Some((_, scale)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
        return mistake("has an unknown unit", HINT);
    };
    match count.checked_mul(*scale) {
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        None => mistake("is too long", HINT),
    }
}

fn time_between(text: &str, least: &str, most: &str) -> Result<Duration, Mistake> {
    let found = time(text)?;
    let bound = |text| time(text).expect("because a test reads every range of the table");
    if found < bound(least) || found > bound(most) {
        return mistake(
            format!("is not between {least} and {most}"),
            format!("Write a duration from {least} to {most}."),
        );
    }
    Ok(found)
}

/// Reads a size: `64kB`, `16MB`, `1GiB`, or `0`. All units are binary.
pub fn size(text: &str) -> Result<u64, Mistake> {
    const HINT: &str =
        "Write a whole number with its unit: B, kB, MB, GB or TB (also KiB, MiB, GiB, TiB), such as '16MB'.";
    let Some((count, unit)) = quantity(text) else { return mistake("is no size", HINT) };
    if unit.is_empty() {
        return if count == 0 { Ok(0) } else { mistake("has no unit", HINT) };
    }
    let Some((_, _, scale)) = SIZE_UNITS.iter().find(|(long, short, _)| *long == unit || *short == unit) else {
        return mistake("has an unknown unit", HINT);
    };
    match count.checked_mul(*scale) {
        Some(bytes) => Ok(bytes),
        None => mistake("is too large", HINT),
    }
}

fn choice(text: &str, words: &[&str]) -> Result<String, Mistake> {
    if words.contains(&text) {
        return Ok(text.to_string());
    }
    mistake("is none of the choices", format!("Write one of: {}.", words.join(", ")))
}

/// The words which stand for several nodes or for none, and so are no node names.
pub const PLACE_WORDS: &[&str] = &["own", "queue", "nodes", "dr"];

fn places(text: &str) -> Result<Vec<PlaceWord>, Mistake> {
    let mut found: Vec<PlaceWord> = Vec::new();
    for item in text.split(',') {
        let item = item.trim();
        let word = match item {
            "own" => PlaceWord::Own,
            "queue" => PlaceWord::Queue,
            "nodes" => PlaceWord::Nodes,
            "dr" => PlaceWord::Dr,
            _ => match name(item) {
                Ok(name) => PlaceWord::Node(name.to_string()),
                Err(_) => {
                    return mistake(
                        "is no list of places",
                        "Write 'own', 'queue', 'nodes', 'dr' or names of nodes, with commas between.",
                    );
                }
            },
        };
        if found.contains(&word) {
            return mistake(format!("names '{item}' twice"), "Name each place once.");
        }
        found.push(word);
    }
    Ok(found)
}

fn ack(text: &str) -> Result<Ack, Mistake> {
    match text {
        "local" => Ok(Ack::Local),
        "standby" => Ok(Ack::Standby),
        "all" => Ok(Ack::All),
        _ => match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(Ack::Count(count)),
            _ => mistake("is no ack policy", "Write 'local', 'standby', 'all', or a number of places from 1 on."),
        },
    }
}

/// Splits a command into words as a shell would: blanks divide, quotes and backslashes protect; nothing is expanded.
pub fn split_words(text: &str) -> Result<Vec<String>, Mistake> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => quoted_plainly(&mut rest, word.get_or_insert_default())?,
            '"' => quoted_doubly(&mut rest, word.get_or_insert_default())?,
            '\\' => match rest.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return mistake("ends with a backslash", "Remove it, or write it twice."),
            },
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted_plainly(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), Mistake> {
    for c in rest.by_ref() {
        if c == '\'' {
            return Ok(());
        }
        word.push(c);
    }
    mistake("has a quote that is not closed", "Close the single quote.")
}

fn quoted_doubly(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), Mistake> {
    while let Some(c) = rest.next() {
        match c {
            '"' => return Ok(()),
            // As in a shell, a backslash protects only these two here and is itself before anything else.
            '\\' => match rest.next() {
                Some(next @ ('"' | '\\')) => word.push(next),
                Some(next) => word.extend(['\\', next]),
                None => break,
            },
            _ => word.push(c),
        }
    }
    mistake("has a quote that is not closed", "Close the double quote.")
}

/// Writes words so that [`split_words`] reads them back.
fn join_words(words: &[String]) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    let quoted = words.iter().map(|word| match word.chars().all(safe) && !word.is_empty() {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Writes a duration in the largest unit that loses nothing.
pub fn time_text(time: Duration) -> String {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let unit = TIME_UNITS.iter().find(|(_, scale)| milliseconds.is_multiple_of(*scale));
    match (milliseconds, unit) {
        (1.., Some((name, scale))) => format!("{}{name}", milliseconds / scale),
        _ => "0".to_string(),
    }
}

/// Writes a size in the largest unit that loses nothing.
pub fn size_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, _, scale)| bytes.is_multiple_of(*scale));
    match (bytes, unit) {
        (1.., Some((long, _, scale))) => format!("{}{long}", bytes / scale),
        _ => "0".to_string(),
    }
}

impl fmt::Display for PlaceWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlaceWord::Own => "own",
            PlaceWord::Queue => "queue",
            PlaceWord::Nodes => "nodes",
            PlaceWord::Dr => "dr",
            PlaceWord::Node(name) => name,
        })
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ack::Local => f.write_str("local"),
            Ack::Standby => f.write_str("standby"),
            Ack::All => f.write_str("all"),
            Ack::Count(count) => write!(f, "{count}"),
        }
    }
}

impl fmt::Display for Value {
    /// Writes the value as a configuration file would hold it; the same kind reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nothing => Ok(()),
            Value::Text(text) => f.write_str(text),
            Value::Path(path) => write!(f, "{}", path.display()),
            Value::Switch(on) => f.write_str(if *on { "on" } else { "off" }),
            Value::Number(number) => write!(f, "{number}"),
            Value::Time(time) => f.write_str(&time_text(*time)),
            Value::Size(bytes) => f.write_str(&size_text(*bytes)),
            Value::Places(words) => f.write_str(&words.iter().map(PlaceWord::to_string).collect::<Vec<_>>().join(", ")),
            Value::Ack(ack) => write!(f, "{ack}"),
            Value::Words(words) => f.write_str(&join_words(words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_carry_a_unit() {
        let cases =
            [("100ms", 100), ("10s", 10_000), ("5min", 300_000), ("1h", 3_600_000), ("1d", 86_400_000), ("0", 0)];
        for (text, milliseconds) in cases {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)));
            assert_eq!(time_text(Duration::from_millis(milliseconds)), text);
        }
        let wrong = [
            ("60", "has no unit"),
            ("10m", "has an unknown unit"),
            ("s", "is no duration"),
            ("-1s", "is no duration"),
            ("1.5h", "has an unknown unit"),
            ("99999999999999999d", "is too long"),
        ];
        for (text, message) in wrong {
            assert_eq!(time(text).map_err(|mistake| mistake.message), Err(message.to_string()), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary_in_both_spellings() {
        for (text, bytes) in [("16MB", 16 << 20), ("1GiB", 1 << 30), ("64kB", 64 << 10), ("512B", 512), ("0", 0)] {
            assert_eq!(size(text), Ok(bytes));
        }
        assert_eq!(size("16"), mistake("has no unit", size("16").unwrap_err().hint));
        assert!(size("16mb").is_err());
        assert!(size("99999999999TB").is_err());
    }

    #[test]
    fn a_command_is_split_as_a_shell_would_without_expanding() {
        let split = |text| split_words(text).map_err(|mistake| mistake.message);
        let words = |list: &[&str]| Ok(list.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(split(r#"mail -s "a \"b\" $c" 'd e'\ f"#), words(&["mail", "-s", "a \"b\" $c", "d e f"]));
        assert_eq!(split(r#"a "" ''"#), words(&["a", "", ""]));
        assert_eq!(split(r#""\n""#), words(&["\\n"]));
        assert_eq!(split("a 'b"), Err("has a quote that is not closed".to_string()));
        assert_eq!(split("a \"b"), Err("has a quote that is not closed".to_string()));
    }

    #[test]
    fn place_lists_name_each_place_once() {
        let list = Kind::Places.parse("own, nodes,db3").map(|value| value.to_string());
        assert_eq!(list.as_deref(), Ok("own, nodes, db3"));
        assert!(Kind::Places.parse("own,,dr").is_err());
        assert!(Kind::Places.parse("own, own").is_err());
        assert!(Kind::Places.parse("own nodes").is_err());
    }

    #[test]
    fn names_and_paths_are_plain() {
        assert!(name("db-1_a").is_ok());
        for wrong in ["", "-x", "a b", "a/b", "a.b", "ä"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Kind::Path.parse("/a/b/"), Ok(Value::Path(PathBuf::from("/a/b"))));
        for wrong in ["a", "~/a", "/a/../b"] {
            assert!(Kind::Path.parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_acks_have_ranges() {
        assert_eq!(Kind::Number(-7, 19).parse("-7"), Ok(Value::Number(-7)));
        assert!(Kind::Number(-7, 19).parse("20").is_err());
        assert_eq!(Kind::Ack.parse("2"), Ok(Value::Ack(Ack::Count(2))));
        assert!(Kind::Ack.parse("0").is_err());
    }

    proptest! {
        #[test]
        fn words_survive_writing_and_reading(words in proptest::collection::vec("\\PC{0,12}", 0..5)) {
            prop_assert_eq!(split_words(&join_words(&words)), Ok(words));
        }

        #[test]
        fn quantities_survive_writing_and_reading(count in 0u64..1 << 50) {
            prop_assert_eq!(time(&time_text(Duration::from_millis(count))), Ok(Duration::from_millis(count)));
            prop_assert_eq!(size(&size_text(count)), Ok(count));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let day = Kind::Time("0", "1d");
            for kind in [Kind::Path, Kind::LoosePath, Kind::Size, day, Kind::Places, Kind::Ack, Kind::Words] {
                let _ = kind.parse(&text);
            }
        }
    }
}
