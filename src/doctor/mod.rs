//! `howdah doctor`: what the servers' catalogues and a running Howdah's figures say should be changed.
//!
//! [`examine()`] turns evidence into findings and does no I/O; [`ask`] collects the evidence. Every finding has its
//! evidence in figures and the exact change, which, made, removes it from the next run.

pub mod ask;
pub mod evidence;
pub mod examine;
pub mod explain;
pub mod figures;
pub mod finding;
pub mod report;

#[cfg(test)]
mod tests;

pub use evidence::Evidence;
pub use examine::examine;
pub use finding::{Code, Finding, Step, Urgency};
