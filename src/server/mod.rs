//! Server connections: opening, logging in, cleaning.

pub mod close;
pub mod conn;
pub mod connect;
pub mod own;
pub mod questions;
pub mod repair;
mod secure;
pub mod target;
