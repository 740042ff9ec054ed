//! Changing roles: observe, decide, act.
//!
//! Reading order: [`observation`] is what can be known, [`standing`] what a node is taken for, [`rules`] the table that
//! refuses, [`decide`] the pure decision, [`plan`] the steps.

pub mod decide;
pub mod observation;
pub mod plan;
pub mod rules;
pub mod standing;
