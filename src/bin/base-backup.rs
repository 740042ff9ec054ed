//! The program `base-backup`: see `cli::base_backup`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("base-backup", pgwarm::cli::base_backup::run)
}
