//! pgwarm keeps a PostgreSQL cluster warm. This is the map of the crate, in reading order.

pub mod agent;
pub mod archive;
pub mod backup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod error;
pub mod failover;
pub mod monitor;
pub mod postgres;
pub mod store;
pub mod system;
pub mod wal;
