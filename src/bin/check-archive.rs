//! `check-archive`: says whether the WAL of an archive is whole, what is missing, and where that still is.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("check-archive", pgwarm::cli::check_archive::run)
}
