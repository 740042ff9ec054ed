//! The resource agent for Pacemaker: what the cluster manager asks of a server, answered with what pgwarm knows.
//!
//! Reading order: [`ocf`] is the contract, [`parameters`] what people set and [`metadata`] how it is told, [`judge`]
//! the pure part: states, data status and scores from facts. [`cluster`] is what is asked of Pacemaker and [`keeper`]
//! who asks it as root, [`eyes`] looks, [`hands`] does. Nothing here decides about a promotion: that is `failover`'s
//! part.

pub mod cluster;
pub mod eyes;
pub mod hands;
pub mod judge;
pub mod keeper;
pub mod metadata;
pub mod ocf;
pub mod parameters;
