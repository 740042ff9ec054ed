//! What an operator types and reads: the house that every program lives in. The only user of clap.
//!
//! `arguments` says what each program takes; `run` parses, loads the configuration, starts the log, calls the program's
//! own function and turns its answer into an exit code; `help` adds exit codes and the line for `postgresql.conf`;
//! `output` prints tables, sizes and times; `docs` writes manual pages and completions.

use clap::Command;

use crate::error::Class;

pub mod archive_wal;
pub mod arguments;
pub mod base_backup;
pub mod check_archive;
pub mod check_node;
pub mod cluster_monitor;
pub mod distribute;
pub mod docs;
pub mod flush_primary;
pub mod gaps;
pub mod help;
pub mod output;
pub mod pgsql_agent;
pub mod pitr_restore;
pub mod relay_wal;
pub mod restore_cleanup;
pub mod restore_wal;
pub mod run;
pub mod serve_archive;
pub mod standby_init;
pub mod trigger_failover;

/// What a failure becomes at the end of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failures {
    /// The code of its class; never above 125.
    Class,
    /// 1 if the class is absent, else 255.
    ///
    /// PostgreSQL reads any code up to 125 from its `restore_command` as "there is no such file" and, outside standby
    /// mode, opens the server for writing. So a mistyped option or a broken configuration must not end in such a code.
    /// A program that knows better returns its own code instead of a failure.
    Abort,
}

/// A line as it stands in a file of somebody else.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The file.
    pub file: &'static str,
    /// The line.
    pub text: &'static str,
}

/// A program: what the house needs to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub command: fn() -> Command,
    /// The classes of failure it can end with, beside usage, refused and bug, which all can, and config, which all can
    /// that read the configuration.
    pub classes: &'static [Class],
    /// What a failure becomes.
    pub failures: Failures,
    /// How it is called by others.
    pub lines: &'static [Line],
}

use Class::{Absent, Busy, Conflict, Corrupt, Postgres, Remote, Storage, Timeout};

/// Every program.
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "archive-wal",
        command: arguments::archive_wal,
        classes: &[Conflict, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[Line { file: "postgresql.conf", text: "archive_command = 'archive-wal %p'" }],
    },
    Program {
        name: "restore-wal",
        command: arguments::restore_wal,
        classes: &[Absent],
        failures: Failures::Abort,
        lines: &[
            Line { file: "postgresql.conf", text: "restore_command = 'restore-wal %f %p'" },
            Line { file: "postgresql.conf", text: "archive_cleanup_command = 'restore-wal --cleanup %r'" },
        ],
    },
    Program {
        name: "relay-wal",
        command: arguments::relay_wal,
        classes: &[Conflict, Corrupt, Storage, Remote, Timeout, Busy],
        failures: Failures::Class,
        lines: &[Line { file: "crontab", text: "* * * * *  relay-wal --quiet" }],
    },
    Program {
        name: "base-backup",
        command: arguments::base_backup,
        classes: &[Absent, Conflict, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[Line { file: "crontab", text: "30 1 * * *  base-backup take --quiet && base-backup expire --quiet" }],
    },
    Program {
        name: "trigger-failover",
        command: arguments::trigger_failover,
        classes: &[Conflict, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[],
    },
    Program {
        name: "flush-primary",
        command: arguments::flush_primary,
        classes: &[Conflict, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[],
    },
    Program {
        name: "pitr-restore",
        command: arguments::pitr_restore,
        classes: &[Absent, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[Line { file: "crontab", text: "40 4 * * 0  pitr-restore drill --quiet" }],
    },
    Program {
        name: "standby-init",
        command: arguments::standby_init,
        classes: &[Absent, Conflict, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[],
    },
    Program {
        name: "check-node",
        command: arguments::check_node,
        classes: &[Absent, Storage, Remote, Postgres, Timeout],
        failures: Failures::Class,
        lines: &[],
    },
    Program {
        name: "check-archive",
        command: arguments::check_archive,
        classes: &[Corrupt, Storage, Remote, Timeout],
        failures: Failures::Class,
        lines: &[Line { file: "crontab", text: "17 3 * * *  check-archive --quiet" }],
    },
    Program {
        name: "cluster-monitor",
        command: cluster_monitor::arguments::cluster_monitor,
        classes: &[Absent, Conflict, Corrupt, Storage, Remote, Postgres, Timeout, Busy],
        failures: Failures::Class,
        lines: &[],
    },
    Program {
        name: "distribute",
        command: arguments::distribute,
        classes: &[Conflict, Storage, Remote, Timeout, Busy],
        failures: Failures::Class,
        lines: &[],
    },
    Program {
        name: "serve-archive",
        command: arguments::serve_archive,
        classes: &[Storage, Remote, Timeout],
        failures: Failures::Class,
        lines: &[Line {
            file: "authorized_keys",
            text: "restrict,command=\"serve-archive --archive DIR\" ssh-ed25519 …",
        }],
    },
];

/// The program of that name.
pub fn program(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name == name)
}
