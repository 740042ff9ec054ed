//! Exit codes, and what every error must be able to say.
//!
//! Each layer has its own error enum. What they share is this: an error knows its [`Class`], and the class is the exit
//! code; an error may know a hint, a full sentence that says what to do next. A [`Failure`] is an error made portable:
//! the worker and the far end of the ssh store send it, and the program that the operator called prints it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of trouble it is. The discriminant is the exit code of the program.
///
/// No class but [`Class::Abort`] lies above 125: PostgreSQL's archiver dies of such a code without counting the
/// failure, and a restore reads one as "stop recovery" ("Continuous Archiving", section "Setting Up WAL Archiving").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Class {
    /// The plain answer "no": the file is in none of the places.
    Absent = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration cannot be read or does not hold together.
    Config = 10,
    /// A safety condition does not hold.
    Refused = 20,
    /// The same name exists with other content.
    Conflict = 21,
    /// WAL or a stored file is damaged.
    Corrupt = 22,
    /// Trouble with files on this machine.
    Storage = 30,
    /// Trouble with another machine or the way to it.
    Remote = 40,
    /// Trouble with a PostgreSQL server.
    Postgres = 50,
    /// Gave up waiting.
    Timeout = 60,
    /// Another run holds the lock.
    Busy = 61,
    /// A broken invariant: our mistake.
    Bug = 70,
    /// `restore-wal` only: stop recovery rather than guess.
    Abort = 255,
}

/// One row of the exit-code table.
pub struct ExitCode {
    /// The number the program exits with.
    pub code: u8,
    /// The word printed in brackets in an error line.
    pub name: &'static str,
    /// One line for `--help`, the man pages and the README.
    pub meaning: &'static str,
}

/// The one table of exit codes. `--help`, the man pages and the README are made from it or checked against it.
pub const EXIT_CODES: &[ExitCode] = &[
    ExitCode { code: 0, name: "ok", meaning: "done, or already done" },
    ExitCode { code: 1, name: "absent", meaning: "the plain answer no: the file is in none of the places" },
    ExitCode { code: 2, name: "usage", meaning: "the command line makes no sense" },
    ExitCode { code: 10, name: "config", meaning: "the configuration cannot be read or is wrong" },
    ExitCode { code: 20, name: "refused", meaning: "a safety condition does not hold" },
    ExitCode { code: 21, name: "conflict", meaning: "the same name exists with other content" },
    ExitCode { code: 22, name: "corrupt", meaning: "a WAL file or a stored file is damaged" },
    ExitCode { code: 30, name: "storage", meaning: "trouble with files on this machine" },
    ExitCode { code: 40, name: "remote", meaning: "trouble with another machine or the way to it" },
    ExitCode { code: 50, name: "postgres", meaning: "trouble with a PostgreSQL server" },
    ExitCode { code: 60, name: "timeout", meaning: "gave up waiting" },
    ExitCode { code: 61, name: "busy", meaning: "another run holds the lock" },
    ExitCode { code: 70, name: "bug", meaning: "a broken invariant; please report it" },
    ExitCode { code: 255, name: "abort", meaning: "restore-wal only: stop recovery rather than guess" },
];

impl Class {
    /// Every class, in the order of the codes.
    const ALL: [Class; 13] = [
        Class::Absent,
        Class::Usage,
        Class::Config,
        Class::Refused,
        Class::Conflict,
        Class::Corrupt,
        Class::Storage,
        Class::Remote,
        Class::Postgres,
        Class::Timeout,
        Class::Busy,
        Class::Bug,
        Class::Abort,
    ];

    /// The class that a program of ours named by its exit code; `None` where no class has this code.
    pub fn of_code(code: i32) -> Option<Class> {
        Class::ALL.into_iter().find(|class| i32::from(class.code()) == code)
    }

    /// The exit code of this class.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The word that stands in brackets in an error line.
    pub fn name(self) -> &'static str {
        EXIT_CODES.iter().find(|row| row.code == self.code()).map_or("bug", |row| row.name)
    }
}

/// What every error of every layer can say beside its message.
///
/// Messages are lower case, without a final period, with values in single quotes, and name the place and the file.
pub trait Explain: std::error::Error {
    /// The kind of trouble, and so the exit code.
    fn class(&self) -> Class;

    /// What to do next, as a full sentence with a period; only if it is known.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error that can leave its process: what a program prints, and what travels over a socket or through ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of trouble, and so the exit code.
    pub class: Class,
    /// The message with its causes, one line.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// Makes a failure from its parts.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Failure { class, message: message.into(), hint: None }
    }

    /// Makes a failure from an error that is still needed, with its causes.
    pub fn of(error: &impl Explain) -> Self {
        Failure { class: error.class(), message: chain(error), hint: error.hint() }
    }

    /// Adds what to do next.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// Failure itself is no std::error::Error, so that every error which is one converts into it.
impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::of(&error)
    }
}

/// Joins an error and its causes into one line, leaving out a cause that the message already names.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_row_in_the_table() {
        // The table holds one row more: 0 is no class of error.
        assert_eq!(EXIT_CODES.len(), Class::ALL.len() + 1);
        for class in Class::ALL {
            let row = EXIT_CODES.iter().find(|row| row.code == class.code());
            assert_eq!(row.map(|row| row.name), Some(class.name()));
            assert_eq!(Class::of_code(i32::from(class.code())), Some(class));
        }
        assert_eq!([Class::of_code(0), Class::of_code(127)], [None, None]);
    }

    #[test]
    fn only_abort_lies_above_125() {
        let above: Vec<_> = EXIT_CODES.iter().filter(|row| row.code > 125).map(|row| row.name).collect();
        assert_eq!(above, ["abort"]);
    }
}
