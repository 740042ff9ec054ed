//! `serve-archive`: the far end of the `ssh` store.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main_bare("serve-archive", pgwarm::cli::serve_archive::run)
}
