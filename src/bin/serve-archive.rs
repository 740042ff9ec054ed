//! `serve-archive`: the far end of the `ssh` store.

fn main() -> std::process::ExitCode {
    pgwarm::cli::serve_archive::main()
}
