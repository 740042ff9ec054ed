//! The program `archive-wal`: see `cli::archive_wal`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::archive_wal::exit_cleanly_on_signals();
    pgwarm::cli::run::main("archive-wal", pgwarm::cli::archive_wal::run)
}
