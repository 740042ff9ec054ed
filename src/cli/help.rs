//! The end of a program's help: how others call it, and the exit codes it can give, from the one table.

use std::fmt::Write;

use clap::Command;

use super::{Failures, PROGRAMS, Program};
use crate::error::{Class, EXIT_CODES, ExitCode};

/// The classes that every program can end with.
const COMMON: &[Class] = &[Class::Usage, Class::Refused, Class::Bug];

/// The exit codes that a program can give, in the order of the table.
pub fn exit_codes(program: &Program) -> Vec<&'static ExitCode> {
    let reads = reads_configuration(program);
    let given = |row: &&ExitCode| {
        let named = |classes: &[Class]| classes.iter().any(|class| class.code() == row.code);
        match program.failures {
            Failures::Class => {
                row.code == 0 || named(COMMON) || named(program.classes) || (reads && named(&[Class::Config]))
            }
            // Whatever is not an answer is 255.
            Failures::Abort => row.code == 0 || row.code == Class::Abort.code() || named(program.classes),
        }
    };
    EXIT_CODES.iter().filter(given).collect()
}

/// True if the program reads the configuration.
pub fn reads_configuration(program: &Program) -> bool {
    (program.command)().get_arguments().any(|argument| argument.get_id() == "config")
}

/// The program's command with the end of its help.
pub fn with_epilogue(program: &Program) -> Command {
    (program.command)().after_help(epilogue(program))
}

fn epilogue(program: &Program) -> String {
    let mut text = String::from("Exit codes:\n");
    for row in exit_codes(program) {
        let _ = writeln!(text, "{:>5}  {}", row.code, row.meaning);
    }
    if program.name == "check-node" {
        text.push_str("       1: something is a warning or could not be found out; 20: something is critical\n");
        text.push_str("       with --nagios: 0 ok, 1 warning, 2 critical, 3 unknown\n");
    }
    if program.name == "cluster-monitor" {
        text.push_str("       status, lag, node: 1 something is a warning or unknown; 20 something is critical\n");
        text.push_str("       with --nagios: 0 ok, 1 warning, 2 critical, 3 unknown\n");
    }
    if program.name == "check-archive" {
        text.push_str("      20: WAL is missing, or nothing leads to a timeline; 22: a stored file is damaged\n");
    }
    if program.failures == Failures::Abort {
        text.push_str(
            "       255 also for a wrong command line or configuration: PostgreSQL must not read it as absent\n       \
             in a standby, which asks again anyway, 'cannot tell' ends with the code of the trouble (10 to 70)\n",
        );
    }
    let mut file = "";
    for line in program.lines {
        if line.file != file {
            let _ = writeln!(text, "\nIn {}:", line.file);
        }
        let _ = writeln!(text, "  {}", line.text);
        file = line.file;
    }
    text.trim_end().to_string()
}

/// The README's table of exit codes, in markdown.
pub fn exit_code_table() -> String {
    let mut text = String::from("| code | name | meaning | programs |\n| --- | --- | --- | --- |\n");
    for row in EXIT_CODES {
        let gives = |program: &&Program| exit_codes(program).iter().any(|given| given.code == row.code);
        let names: Vec<String> = PROGRAMS.iter().filter(gives).map(|program| format!("`{}`", program.name)).collect();
        let others = PROGRAMS.iter().filter(|program| program.failures == Failures::Class);
        let programs = match names.len() {
            all if all == PROGRAMS.len() => "all".to_string(),
            most if most == others.clone().count() && others.clone().all(|other| gives(&other)) => {
                "all but `restore-wal`".to_string()
            }
            _ => names.join(", "),
        };
        let _ = writeln!(text, "| {} | {} | {} | {programs} |", row.code, row.name, row.meaning);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(name: &str) -> Vec<u8> {
        let program = super::super::program(name).expect("because the test names a program");
        exit_codes(program).iter().map(|row| row.code).collect()
    }

    #[test]
    fn a_program_names_only_the_codes_it_can_give() {
        assert_eq!(codes("restore-wal"), [0, 1, 255]);
        assert!(codes("archive-wal").contains(&21) && !codes("archive-wal").contains(&1));
        for program in PROGRAMS.iter().filter(|program| program.failures == Failures::Class) {
            assert!(codes(program.name).iter().all(|code| *code <= 125), "{}", program.name);
        }
    }

    #[test]
    fn help_ends_with_codes_and_the_line_for_postgresql() {
        for program in PROGRAMS {
            let help = with_epilogue(program).render_help().to_string();
            assert!(help.contains("Exit codes:"), "{help}");
            for line in program.lines {
                assert!(help.contains(line.text), "{help}");
            }
        }
    }

    #[test]
    fn the_table_names_every_code_once() {
        let table = exit_code_table();
        assert_eq!(table.lines().count(), EXIT_CODES.len() + 2);
        assert!(table.contains("| 255 | abort | restore-wal only: stop recovery rather than guess | `restore-wal` |"));
    }
}
