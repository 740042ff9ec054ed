//! Makes this node a standby, and keeps it one: observe, plan, act.
//!
//! Reading order: [`request`] is what is wanted, [`facts`] what is known and [`observe`] how; [`plan`] leads from both
//! to [`step`]s, without touching anything; [`act`] takes them, one after the other, in the [`journal`], so that a run
//! that was killed is taken up again; [`run`] is the whole story. [`copy`] brings the data, [`settings`] and
//! [`configuration`] say what the server is told, [`proof`] waits until it works. [`lineage`] knows whether one server
//! can follow another; [`rejoin`] brings back a former primary.

pub mod act;
pub mod ask;
pub mod configuration;
pub mod copy;
pub mod door;
pub mod error;
pub mod facts;
pub mod former;
pub mod journal;
pub mod lineage;
pub mod observe;
pub mod plan;
pub mod proof;
pub mod rejoin;
pub mod request;
pub mod run;
pub mod settings;
pub mod step;

pub use configuration::{ConfigurationSet, Set, configuration_set};
pub use error::StandbyError;
