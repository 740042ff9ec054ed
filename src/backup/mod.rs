//! Base backups: taken from a running server into an archive, proven, restored, expired.
//!
//! Reading order: [`catalog`] says how a backup lies in an archive, [`plan`] which files belong to it, [`copy`] how
//! they are read and stored, [`session`] how the server is told, [`take`] is the story of one backup. [`parent`] says
//! what an incremental one need not store again, [`summaries`] what it need not even read, [`blocks`] and [`runs`] how
//! blocks are compared and stored, [`chain`] and [`overlay`] how its files are put together again. [`verify`],
//! [`restore`] and [`expire`] are the stories that follow; [`pitr`] brings a restore to a point in time, [`transfer`]
//! goes from one data directory straight into another.
//! [`manifest`], [`checksum`] and [`tar`] are formats of others: PostgreSQL's manifest and page checksum, and tar.

pub mod blocks;
pub mod catalog;
pub mod chain;
pub mod checksum;
pub mod copy;
pub mod error;
pub mod expire;
pub mod manifest;
pub mod overlay;
pub mod parent;
pub mod pitr;
pub mod plan;
pub mod read;
pub mod restore;
pub mod runs;
pub mod session;
pub mod summaries;
pub mod take;
pub mod tar;
pub mod transfer;
pub mod verify;
pub mod wal;

pub use error::BackupError;

/// Who is told how far long work has come; called from several threads.
pub trait Watcher: Sync {
    /// So many bytes are to be done, in all.
    fn begin(&self, bytes: u64);
    /// So many more are done.
    fn advance(&self, bytes: u64);
    /// What is done now, for people.
    fn phase(&self, words: &str);
}

/// Nobody is told.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn begin(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn phase(&self, _words: &str) {}
}
