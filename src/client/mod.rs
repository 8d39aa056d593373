//! Clients: login, session, and what others may know of them.

mod authenticate;
pub mod ctl;
mod held;
pub mod login;
mod pinned;
mod progress;
pub mod replication;
mod route;
pub mod session;
pub mod strangers;
pub mod told;
