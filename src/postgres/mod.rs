//! The server: connection strings, connections, the control file, settings.

pub mod connection;
pub mod conninfo;
pub mod control;
