//! Runs a program: arguments, configuration, log, the program's own function, exit code.
//!
//! Every program ends here and nowhere else, so that these hold for all of them: an error is one ERROR line and at most
//! one HINT line; no code above 125 but from `restore-wal`; a panic is reported as a bug and never as an answer; root
//! is refused; a reader of standard output that goes away is no error.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;
use clap::error::ErrorKind;
use log::LevelFilter;

use super::{Failures, Program, arguments, help, output, program};
use crate::archive::situation::Mode;
use crate::archive::waiting::Say;
use crate::config::{Config, ConfigError, LOCAL_VARIABLE, SHARED_VARIABLE, Source, render};
use crate::error::{Class, Failure};
use crate::system::logging::{self, Sinks};

/// The highest code that PostgreSQL's archiver counts as a failure instead of ending by it.
const CODE_MAX: u8 = 125;

/// What the house has found out for a program that reads the configuration.
#[derive(Debug)]
pub struct Context {
    /// The program's name.
    pub program: &'static str,
    /// The configuration, checked.
    pub config: Config,
    /// Where it came from, for a program that starts another with the same configuration.
    pub source: Source,
    /// `--json`
    pub json: bool,
    /// `--dry-run`
    pub dry_run: bool,
    /// `--verbose`
    pub verbose: bool,
    /// `--quiet`
    pub quiet: bool,
}

impl Context {
    /// The arguments that give another program of ours the same configuration, wherever it is started.
    pub fn source_arguments(&self) -> Vec<OsString> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string();
        // Whoever is started elsewhere has another environment.
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut words = Vec::new();
        let files = [("--config", &self.source.file, SHARED_VARIABLE), ("--local", &self.source.local, LOCAL_VARIABLE)];
        for (option, path, name) in files {
            if let Some(path) = path.clone().or_else(|| variable(name)) {
                words.extend([option.into(), absolute(&path)]);
            }
        }
        for value in &self.source.set {
            words.extend(["--set".into(), value.into()]);
        }
        words
    }

    /// Prints a failure that does not end the program.
    pub fn report(&self, failure: &Failure) {
        report(self.program, failure);
    }
}

/// What the house has found out for a program that reads no configuration.
#[derive(Debug)]
pub struct Bare {
    /// The program's name.
    pub program: &'static str,
    /// `--verbose`
    pub verbose: bool,
    /// `--quiet`
    pub quiet: bool,
}

/// The function of a program that reads the configuration.
pub type Configured = fn(&ArgMatches, &Context) -> Result<u8, Failure>;

/// The function of a program that reads no configuration.
pub type Unconfigured = fn(&ArgMatches, &Bare) -> Result<u8, Failure>;

/// Runs a program that reads the configuration. The whole `main` of its file.
pub fn main(program: &'static str, command: Configured) -> ExitCode {
    ExitCode::from(main_from(program, std::env::args_os(), command))
}

/// Runs a program that reads no configuration.
pub fn main_bare(program: &'static str, command: Unconfigured) -> ExitCode {
    ExitCode::from(bare_from(program, std::env::args_os(), command))
}

/// As [`main`], with the words of the command line (the program's name first) given; returns the exit code.
pub fn main_from(name: &'static str, words: impl Iterator<Item = OsString>, command: Configured) -> u8 {
    run(name, words, |matches, program| {
        let context = prepare(matches, program)?;
        match context {
            Some(context) => command(matches, &context).map_err(Ending::Failed),
            None => Ok(0),
        }
    })
}

/// As [`main_bare`], with the words of the command line given; returns the exit code.
pub fn bare_from(name: &'static str, words: impl Iterator<Item = OsString>, command: Unconfigured) -> u8 {
    run(name, words, |matches, program| {
        let bare =
            Bare { program: program.name, verbose: matches.get_flag("verbose"), quiet: matches.get_flag("quiet") };
        refuse_root(rustix::process::geteuid().is_root()).map_err(Ending::Failed)?;
        let level = level(LevelFilter::Info, bare.verbose, bare.quiet);
        logging::start(&Sinks { program: program.name, level, file: None, syslog: None });
        command(matches, &bare).map_err(Ending::Failed)
    })
}

/// Prints a failure as its two lines. The house does it for the failure a program returns; a program that returns a
/// code of its own does it itself.
pub fn report(program: &str, failure: &Failure) {
    let message = format!("[{}] {}", failure.class.name(), failure.message);
    if logging::started() {
        log::error!(target: "pgwarm", "{message}");
        if let Some(hint) = &failure.hint {
            log::error!(target: logging::HINT, "{hint}");
        }
        return;
    }
    logging::write_error_line(program, "ERROR", &message);
    if let Some(hint) = &failure.hint {
        logging::write_error_line(program, "HINT", hint);
    }
}

/// How a program ends other than with a code of its own.
enum Ending {
    /// One failure.
    Failed(Failure),
    /// The configuration, problem by problem.
    Misconfigured(ConfigError),
}

/// What stands between every program and its exit code.
fn run(
    name: &'static str,
    words: impl Iterator<Item = OsString>,
    body: impl FnOnce(&ArgMatches, &Program) -> Result<u8, Ending>,
) -> u8 {
    let program = program(name).expect("because every program stands in the table");
    report_panics(name);
    let words: Vec<OsString> = words.collect();
    let outcome = catch_unwind(AssertUnwindSafe(|| match (program.command)().try_get_matches_from(&words) {
        Ok(matches) => finish(program, body(&matches, program)),
        Err(error) => answer(program, &words, &error),
    }));
    outcome.unwrap_or_else(|_| code(program, Class::Bug))
}

/// Turns what a program's function returned into its exit code.
fn finish(program: &Program, outcome: Result<u8, Ending>) -> u8 {
    match outcome {
        Ok(own) => own_code(program, own),
        Err(Ending::Failed(failure)) => {
            report(program.name, &failure);
            code(program, failure.class)
        }
        Err(Ending::Misconfigured(error)) => {
            for problem in &error.problems {
                let failure = Failure::new(Class::Config, problem.to_string());
                report(program.name, &Failure { hint: problem.hint.clone(), ..failure });
            }
            code(program, Class::Config)
        }
    }
}

/// The exit code of a class in a program.
fn code(program: &Program, class: Class) -> u8 {
    match program.failures {
        Failures::Class => class.code().min(CODE_MAX),
        Failures::Abort if class == Class::Absent => Class::Absent.code(),
        // PostgreSQL calls in its data directory; a say is not known this early.
        Failures::Abort => Mode::of(std::env::current_dir().ok().as_deref()).exit(Say::Wait, class),
    }
}

/// A code that a program chose itself.
fn own_code(program: &Program, own: u8) -> u8 {
    match program.failures {
        Failures::Abort => own,
        Failures::Class => own.min(CODE_MAX),
    }
}

/// Answers `--help` and `--version`, and reports a command line that makes no sense.
fn answer(program: &Program, words: &[OsString], error: &clap::Error) -> u8 {
    let shown = match error.kind() {
        // The end of the help is only put together for one who asks.
        ErrorKind::DisplayHelp => {
            let full = help::with_epilogue(program).try_get_matches_from(words).err();
            full.map_or(Ok(()), |full| full.print())
        }
        ErrorKind::DisplayVersion => error.print(),
        _ => {
            report(program.name, &usage_failure(program, error));
            return code(program, Class::Usage);
        }
    };
    match output::without_broken_pipe(shown) {
        Ok(()) => 0,
        Err(failure) => finish(program, Err(Ending::Failed(failure))),
    }
}

/// Takes clap's several paragraphs apart: the first is the message, tips become the hint.
fn usage_failure(program: &Program, error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = logging::flatten(message.strip_prefix("error: ").unwrap_or(message));
    let tips = text.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
    // The other tip, to put '--' before a mistyped option, would make PostgreSQL archive a file of that name.
    let tips = tips.filter(|tip| tip.contains("similar"));
    let mut hint: String = tips.map(|tip| format!("{} ", sentence(tip))).collect();
    hint.push_str(&format!("Run '{} --help' to see how it is called.", program.name));
    Failure::new(Class::Usage, message).hinted(hint)
}

/// Makes a sentence of a phrase.
fn sentence(phrase: &str) -> String {
    let mut letters = phrase.chars();
    let first = letters.next().map(char::to_uppercase);
    format!("{}{}.", first.into_iter().flatten().collect::<String>(), letters.as_str().trim_end_matches('.'))
}

/// Loads the configuration and starts the log. `None` where `--show-config` has been answered.
fn prepare(matches: &ArgMatches, program: &Program) -> Result<Option<Context>, Ending> {
    let source = arguments::source(matches);
    let json = matches.get_flag("json");
    if matches.get_flag("show-config") {
        show_config(&source, json)?;
        return Ok(None);
    }
    refuse_root(rustix::process::geteuid().is_root()).map_err(Ending::Failed)?;
    let config = Config::load(&source).map_err(Ending::Misconfigured)?;
    let (verbose, quiet) = (matches.get_flag("verbose"), matches.get_flag("quiet"));
    logging::start(&Sinks {
        program: program.name,
        level: level(config.log.level, verbose, quiet),
        file: config.log.file.clone(),
        syslog: config.log.syslog.then(|| logging::SYSLOG.into()),
    });
    let dry_run = matches.get_flag("dry-run");
    Ok(Some(Context { program: program.name, config, source, json, dry_run, verbose, quiet }))
}

fn show_config(source: &Source, json: bool) -> Result<(), Ending> {
    let (config, origins) = Config::load_with_origins(source).map_err(Ending::Misconfigured)?;
    let text = match json {
        true => format!("{:#}\n", render::show_json(&origins, config.fingerprint)),
        false => render::show(&origins),
    };
    output::print(&text).map_err(Ending::Failed)
}

/// What root writes, the server's user can neither read nor remove; there is no way around this.
fn refuse_root(root: bool) -> Result<(), Failure> {
    match root {
        false => Ok(()),
        true => Err(Failure::new(Class::Refused, "this program does not run as root")
            .hinted("Run it as the user that PostgreSQL runs as, such as 'postgres'.")),
    }
}

/// The level that holds after `--verbose` and `--quiet`.
fn level(configured: LevelFilter, verbose: bool, quiet: bool) -> LevelFilter {
    match (verbose, quiet) {
        (true, _) => LevelFilter::Debug.max(configured),
        (_, true) => LevelFilter::Error,
        _ => configured,
    }
}

/// Makes a panic, in whichever thread, one error line and one hint.
fn report_panics(name: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().map(str::to_string);
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_string());
        let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
        // Straight to standard error: the log itself may be what panicked.
        logging::write_error_line(name, "ERROR", &format!("[bug] {text}{place}"));
        let hint = concat!(
            "This is a bug in pgwarm ",
            env!("CARGO_PKG_VERSION"),
            "; report it with this line and what was done."
        );
        logging::write_error_line(name, "HINT", hint);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> &'static Program {
        program(name).expect("because the test names a program")
    }

    #[test]
    fn only_restore_wal_goes_above_125() {
        for program in super::super::PROGRAMS {
            let above = code(program, Class::Abort) > CODE_MAX;
            assert_eq!(above, program.name == "restore-wal", "{}", program.name);
            let own = own_code(program, 200);
            assert_eq!(own, if program.name == "restore-wal" { 200 } else { CODE_MAX });
        }
    }

    #[test]
    fn a_failure_that_is_not_absence_never_reads_as_absence() {
        let restore = table("restore-wal");
        assert_eq!(code(restore, Class::Absent), 1);
        for class in [Class::Usage, Class::Config, Class::Refused, Class::Remote, Class::Bug, Class::Storage] {
            assert_eq!(code(restore, class), 255, "{class:?}");
        }
        assert_eq!(code(table("archive-wal"), Class::Conflict), 21);
    }

    #[test]
    fn a_usage_error_is_one_line_with_a_hint() {
        let archive = table("archive-wal");
        let error =
            (archive.command)().try_get_matches_from(["archive-wal", "--flus"]).expect_err("because it is misspelt");
        let failure = usage_failure(archive, &error);
        assert_eq!(failure.message, "unexpected argument '--flus' found");
        let hint = "A similar argument exists: '--flush'. Run 'archive-wal --help' to see how it is called.";
        assert_eq!(failure.hint.as_deref(), Some(hint));
    }

    #[test]
    fn root_is_refused_and_nobody_else() {
        assert_eq!(refuse_root(true).map_err(|failure| failure.class), Err(Class::Refused));
        assert_eq!(refuse_root(false), Ok(()));
    }

    #[test]
    fn verbose_and_quiet_go_before_the_configuration() {
        assert_eq!(level(LevelFilter::Warn, false, false), LevelFilter::Warn);
        assert_eq!(level(LevelFilter::Warn, true, false), LevelFilter::Debug);
        assert_eq!(level(LevelFilter::Debug, false, true), LevelFilter::Error);
    }
}
