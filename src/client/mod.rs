//! Clients: login, session, and the loop that moves the bytes between a client and its server.

mod authenticate;
mod channels;
mod dialogue;
pub mod flow;
mod held;
mod listening;
pub mod login;
mod observe;
mod params;
mod pinned;
mod progress;
pub mod replication;
mod route;
pub mod session;
