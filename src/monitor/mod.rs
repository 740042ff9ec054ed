//! Watches the cluster: one picture of all nodes, what is wrong in it, what happened, how far everything is behind.
//!
//! `observation` and `report` are what is seen; `view` puts it together, `judge` says what is wrong, `event` what has
//! changed: these are pure. `gather` and `daemon` look, once or for ever; `registry`, `schema` and `records` keep what
//! the cluster has agreed on and what happened, in the database, and `copy` a copy of that on a witness; `announce`
//! tells of it; `http` shows it.

pub mod announce;
pub mod archive_watch;
pub mod copy;
pub mod daemon;
pub mod event;
pub mod gather;
pub mod http;
pub mod judge;
pub mod local;
pub mod matrix;
pub mod observation;
pub mod probe;
pub mod records;
pub mod registration;
pub mod registry;
pub mod report;
pub mod schema;
pub mod tide;
pub mod view;
