//! Whether the pools of all instances fit the servers, and which sizes would.
//!
//! [`need`] is what a configuration can open at each host, [`facts`] what a server has, [`check`] the sum of both
//! with its ways out, [`plan`] the derivation of sizes; none of them does I/O. [`ask`] gets the facts from a live
//! server, and [`admit`] is what start, reload and the watch do with them.

pub mod admit;
pub mod ask;
pub mod check;
pub mod facts;
pub mod need;
pub mod plan;

#[cfg(test)]
mod tests;
