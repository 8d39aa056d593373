//! The hot path between one client and one server connection.

pub mod broken;
pub mod down;
pub mod flow;
pub mod observe;
pub mod params;
pub mod parting;
pub mod state;
mod suspect;
mod tx_stats;
pub mod up;

#[cfg(test)]
mod tests;
