//! The program `flush-primary`: see `cli::flush_primary`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("flush-primary", pgwarm::cli::flush_primary::run)
}
