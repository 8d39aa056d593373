//! Clients: login, session, and what others may know of them.

pub mod ctl;
pub mod login;
pub mod session;
