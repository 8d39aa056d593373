//! What was found when the servers were last examined, in figures; kept where a scrape finds it, for a scrape asks no
//! server.

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// When it ended, in milliseconds of the clock.
    pub at_ms: u64,
    /// Findings by database and code, the codes of which nothing was found with 0. What is about a server as a whole
    /// has an empty database.
    pub findings: BTreeMap<(String, &'static str), u64>,
    pub databases: Vec<Database>,
    pub hosts: Vec<Host>,
}

/// A database on one of its servers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Database {
    pub host: String,
    pub name: String,
    /// Blocks that were found in shared_buffers, of all; nothing before the first.
    pub cache_hits: Option<f64>,
    /// Scans of tables that used an index, of all.
    pub index_scans: Option<f64>,
}

/// A server; how far a standby is behind, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    pub host: String,
    pub lag: Option<f64>,
}
