//! The machine: clock, processes, locks, durable files, logging, notification. Nothing in here knows PostgreSQL.

pub mod clock;
pub mod durable;
pub mod lock;
pub mod logging;
pub mod notify;
pub mod process;
pub mod reading;
pub mod supervisor;
