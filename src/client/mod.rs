//! Clients: login and session.

mod authenticate;
mod held;
pub mod login;
mod pinned;
mod progress;
pub mod replication;
mod route;
pub mod session;
