//! The program `trigger-failover`: see `cli::trigger_failover`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::trigger_failover::main()
}
