//! Changing roles: observe, decide, act.
//!
//! Reading order: [`observation`] is what can be known, a [`fact`] each, [`standing`] what a node is taken for,
//! [`rules`] the table that refuses, [`decide`] the pure decision, [`plan`] the steps. [`observe`] finds out, [`act`]
//! carries out, [`journal`] remembers how far. [`explain`] asks the decision about every node at once. [`flush`] is the
//! primary's half of a switchover, [`handover`] what it leaves behind.

pub mod act;
pub mod decide;
pub mod explain;
pub mod fact;
pub mod flush;
pub mod handover;
pub mod journal;
pub mod lost;
pub mod observation;
pub mod observe;
pub mod plan;
pub mod report;
pub mod rules;
#[cfg(test)]
pub mod samples;
pub mod standing;
