//! Who has connections of a server, as it said when its capacity was checked last; kept where /stats finds it, for
//! /stats asks no server.

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// When it said so, in milliseconds of the clock.
    pub at_ms: u64,
    pub max_connections: u32,
    pub in_recovery: bool,
    /// Client backends by role and database, Howdah's question apart; most first.
    pub by: Vec<(String, String, u32)>,
}
