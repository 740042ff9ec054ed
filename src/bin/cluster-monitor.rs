//! `cluster-monitor`: watches the cluster, by hand and as a daemon.

fn main() -> std::process::ExitCode {
    pgwarm::cli::cluster_monitor::main()
}
