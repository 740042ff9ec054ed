//! A former primary comes back: the cheapest way that is safe, and nothing that only it has is lost.
//!
//! [`situation`] finds out what the ladder must know, [`ladder`] weighs and chooses, [`aside`] keeps the WAL that the
//! new primary never had, [`rewind`] takes it back with PostgreSQL's own `pg_rewind`, in a way that no server can be
//! started on half of it.

pub mod aside;
pub mod ladder;
pub mod rewind;
pub mod situation;
