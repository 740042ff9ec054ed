//! The program `restore-wal`: see `cli::restore_wal`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("restore-wal", pgwarm::cli::restore_wal::run)
}
