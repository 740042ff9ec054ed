//! The cluster as a whole: what is wrong with it, and how its nodes get the same configuration and programs.

pub mod check;
pub mod distribute;
pub mod remote;
pub mod standby;
pub mod wal_listing;

pub use crate::postgres::contact;
