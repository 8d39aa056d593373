//! Clients: login, session, and what others may know of them.

pub mod ctl;
pub mod login;
mod route;
pub mod session;
