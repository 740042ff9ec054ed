//! `pitr-restore`: plans, makes and rehearses restores to a point in time.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("pitr-restore", pgwarm::cli::pitr_restore::run)
}
