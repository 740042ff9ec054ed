//! The server: connection strings, connections, the control file, settings, starting and stopping.

pub mod base_copy;
pub mod connection;
pub mod conninfo;
pub mod contact;
pub mod control;
pub mod error;
pub mod facts;
pub mod keyword;
pub mod local_wal;
pub mod own_settings;
pub mod passfile;
pub mod resolve;
pub mod server;
pub mod service;
mod session;
pub mod settings;
mod socket;
pub mod tls;
mod uri;
mod verifier;
