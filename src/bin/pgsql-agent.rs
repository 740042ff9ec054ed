//! `pgsql-agent`: the resource agent `ocf:pgwarm:pgsql`; see `cli::pgsql_agent`.

fn main() -> std::process::ExitCode {
    pgwarm::cli::pgsql_agent::main()
}
