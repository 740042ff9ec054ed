//! The life of a WAL segment: pushed by the primary, fetched by a standby, relayed to dr nodes, expired at last.
//!
//! Reading order: [`layout`] says where a file stands in an archive, [`identity`] whose archive it is, [`spool`] what
//! this machine keeps beside it, [`claims`] who may begin a timeline in it.
//! [`push`] is `archive_command`, [`fetch`] is `restore_command`, [`relay`] carries on,
//! [`expire`] removes; [`audit`] says whether what is there is whole: [`survey`], [`continuity`], [`verify`],
//! [`window`], [`copies`]; [`drills`] keeps what restores have proven. The [`worker`] does the first two ahead of time
//! with the same code.

pub mod acknowledged;
pub mod audit;
pub mod backups;
pub mod claims;
pub mod confirm;
pub mod consumers;
pub mod continuity;
pub mod copies;
pub mod delivery;
pub mod dispute;
pub mod drills;
pub mod encode;
pub mod error;
pub mod expire;
pub mod fetch;
pub mod flush;
pub mod holdings;
pub mod hole;
pub mod identity;
pub mod init;
pub mod layout;
pub mod left_out;
pub mod mark;
pub mod missing;
pub mod places;
pub mod prove;
pub mod push;
pub mod queue;
pub mod relay;
pub mod shipping;
pub mod situation;
pub mod spool;
pub mod stored;
pub mod superseded;
pub mod survey;
pub mod verify;
pub mod waiting;
pub mod window;
pub mod worker;

pub use error::ArchiveError;
