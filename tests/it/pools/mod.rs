//! What bounds and shapes a pool.

mod admin_lane;
mod capacity;
mod fleet;
mod many_clients;
mod shape;
