//! The program `relay-wal`: see `cli::relay_wal`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("relay-wal", pgwarm::cli::relay_wal::run)
}
