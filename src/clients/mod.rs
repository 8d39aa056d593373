//! Who is connected: what others may know of a client and how they reach it, and the places that clients and strangers
//! take.

pub mod handle;
pub mod link;
pub mod registry;
pub mod strangers;

pub use registry::{Clients, Full, Places};
