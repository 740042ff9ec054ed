//! `check-node`: says what is wrong here and how to mend it; changes nothing.

fn main() -> std::process::ExitCode {
    pgwarm::cli::check_node::main()
}
