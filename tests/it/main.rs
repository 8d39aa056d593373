//! Every integration test, as one program: a folder for each topic, and [`harness`] for all.
//!
//! `cargo nextest run --test it faults::client` runs the tests of one file. Each test has a process of its own, so that a
//! static belongs to one test. Only `tests/cost.rs` (an allocator of its own), `tests/docs.rs` (the examples of the
//! documents) and the tests that read the sources and nothing else (`tests/layering.rs`, `tests/coverage.rs`) are programs of
//! their own.

#![allow(
    clippy::disallowed_methods,
    reason = "a test waits for real time, and measures with the machine's own clock"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "the numbers are the test's own, and a panic is a failed test"
)]
#![allow(unreachable_pub, reason = "no other crate uses this program")]

mod clients;
mod faults;
mod harness;
mod logins;
mod operating;
mod pools;
mod routing;
mod sessions;
mod tls;
mod wire_selftest;
