//! Writes manual pages and shell completions; see `pgwarm::cli::docs`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::docs::main()
}
