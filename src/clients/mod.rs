//! The connected clients: what others may know of a client, how they reach it, and the places that bound clients and
//! logins.

pub mod handle;
pub mod link;
pub mod registry;
pub mod strangers;

pub use registry::{Clients, Full, Places};
