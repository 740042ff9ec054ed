//! What an operator types and reads. The only user of clap.

pub mod serve_archive;
