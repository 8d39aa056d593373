//! Random programs of session commands, run by several clients beside each other on connections of their own and
//! through a pool: [`program`] makes them up, [`play`] runs one and finds the first difference.

#![allow(dead_code, unreachable_pub)]
#![allow(clippy::indexing_slicing, reason = "the numbers are the test's own, and a panic is a failed test")]

pub mod play;
pub mod program;
pub mod side;
