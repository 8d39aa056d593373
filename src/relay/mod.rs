//! What passes between one client and one server connection, decided message by message.

pub mod broken;
pub mod down;
pub mod lend;
pub mod parting;
pub mod state;
mod suspect;
mod tx_stats;
pub mod up;
pub mod waits;
mod words;

#[cfg(test)]
mod tests;
