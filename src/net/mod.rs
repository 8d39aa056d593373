//! Sockets and buffers; nothing PostgreSQL.

pub mod buffer;
pub mod descriptors;
pub mod interfaces;
pub mod lane;
mod socket;
pub mod stream;
pub mod tls;
