//! `distribute`: puts the shared configuration, and the programs, on every node.

fn main() -> std::process::ExitCode {
    pgwarm::cli::run::main("distribute", pgwarm::cli::distribute::run)
}
