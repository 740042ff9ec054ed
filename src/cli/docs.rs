//! `pgwarm-docs`: manual pages, shell completions, and the texts that README and etc/ hold copies of.
//!
//! A packager runs it after the build; it needs no configuration and may run as root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Failures, PROGRAMS, Program, help, output};
use crate::config::load::{LOCAL_NAME, LOCAL_VARIABLE, SHARED_FILE, SHARED_VARIABLE};
use crate::config::render;
use crate::error::{Class, Failure};
use crate::system::logging;

const NAME: &str = "pgwarm-docs";

/// What it takes.
fn command() -> Command {
    let text = |name, help| Arg::new(name).long(name).help(help).action(ArgAction::SetTrue);
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Writes manual pages and shell completions, or prints one of the texts made from pgwarm's tables")
        .arg(
            Arg::new("directory")
                .value_name("OUTDIR")
                .help("Gets man/ and completions/")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(text("sample", "Print the sample of the shared file"))
        .arg(text("local-sample", "Print the sample of the local file"))
        .arg(text("options-table", "Print the table of options, in markdown"))
        .arg(text("exit-codes", "Print the table of exit codes, in markdown"))
        .group(
            ArgGroup::new("job")
                .args(["directory", "sample", "local-sample", "options-table", "exit-codes"])
                .required(true),
        )
}

/// Runs it. The whole `main` of its file.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            logging::write_error_line(NAME, "ERROR", &format!("[{}] {}", failure.class.name(), failure.message));
            ExitCode::from(failure.class.code())
        }
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = match matches.get_one::<clap::Id>("job").map(clap::Id::as_str) {
        Some("sample") => Some(render::sample()),
        Some("local-sample") => Some(render::local_sample()),
        Some("options-table") => Some(render::options_table()),
        Some("exit-codes") => Some(help::exit_code_table()),
        _ => None,
    };
    if let Some(text) = text {
        return output::print(&text);
    }
    let Some(directory) = matches.get_one::<PathBuf>("directory") else { return Ok(()) };
    write_all(directory)
        .map_err(|error| Failure::new(Class::Storage, format!("cannot write to '{}': {error}", directory.display())))
}

/// Writes every manual page and every completion.
fn write_all(directory: &Path) -> io::Result<()> {
    let (manuals, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&manuals)?;
    fs::create_dir_all(&completions)?;
    for program in PROGRAMS {
        fs::write(manuals.join(format!("{}.1", program.name)), manual(program)?)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut (program.command)(), program.name, &completions)?;
        }
    }
    Ok(())
}

/// The manual page of a program.
fn manual(program: &Program) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new((program.command)()).manual("pgwarm");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    exit_status(program, &mut rest);
    if help::reads_configuration(program) {
        files(&mut rest);
    }
    if !program.lines.is_empty() {
        rest.control("SH", ["EXAMPLES"]);
    }
    for line in program.lines {
        rest.control("PP", []);
        rest.text([roman(format!("In {}:", line.file))]).control("PP", []).text([bold(line.text)]);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}

fn exit_status(program: &Program, page: &mut Roff) {
    page.control("SH", ["EXIT STATUS"]);
    for row in help::exit_codes(program) {
        page.control("TP", []).text([bold(row.code.to_string())]).text([roman(row.meaning)]);
    }
    if program.failures == Failures::Abort {
        let text = "255 also stands for a wrong command line or configuration: PostgreSQL reads any code up to 125 as \
                    'there is no such file', and outside standby mode ends recovery there.";
        page.control("PP", []).text([roman(text)]);
    }
}

fn files(page: &mut Roff) {
    page.control("SH", ["CONFIGURATION"]);
    let entries = [
        (SHARED_FILE.to_string(), "the shared file, the same on every node".to_string()),
        (LOCAL_NAME.to_string(), "beside it: which node this machine is, and what it overrides".to_string()),
        (SHARED_VARIABLE.to_string(), "environment variable: another shared file".to_string()),
        (LOCAL_VARIABLE.to_string(), "environment variable: another local file".to_string()),
    ];
    for (name, meaning) in entries {
        page.control("TP", []).text([bold(name)]).text([roman(meaning)]);
    }
    let text = "--set goes before the local file, and that before the shared one; --show-config says where each value \
                comes from.";
    page.control("PP", []).text([roman(text)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_manual_page_with_its_codes() {
        command().debug_assert();
        for program in PROGRAMS {
            let page = manual(program).map(|page| String::from_utf8_lossy(&page).into_owned()).unwrap_or_default();
            assert!(page.contains("EXIT STATUS") && page.contains("SYNOPSIS"), "{page}");
            for row in help::exit_codes(program) {
                assert!(page.contains(row.meaning) || row.meaning.contains('-'), "{}: {page}", row.meaning);
            }
        }
    }
}
