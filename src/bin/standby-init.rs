//! `standby-init`: see `pgwarm::cli::standby_init`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("standby-init", pgwarm::cli::standby_init::run)
}
