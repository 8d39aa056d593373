//! What is known when the examination begins. What could not be asked is said, not guessed.

use crate::capacity::check::Finding as CapacityFinding;
use crate::capacity::facts::Facts;

/// Everything that was asked.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub hosts: Vec<Host>,
    pub databases: Vec<Database>,
    pub pooler: Option<Pooler>,
    /// What could not be asked, and why.
    pub unasked: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Host {
    pub host: String,
    pub facts: Facts,
    pub capacity: Vec<CapacityFinding>,
    /// Seconds that a standby is behind; nothing on a primary, or where all is replayed.
    pub lag: Option<f64>,
    pub idle_in_transaction: Vec<IdleInTransaction>,
}

#[derive(Debug, Clone, Default)]
pub struct IdleInTransaction {
    pub pid: u32,
    pub role: String,
    pub application: String,
    pub seconds: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Database {
    pub host: String,
    pub name: String,
    pub in_recovery: bool,
    pub blocks_hit: u64,
    pub blocks_read: u64,
    pub tables: Vec<Table>,
    pub indexes: Vec<Index>,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    pub name: String,
    pub rows: u64,
    pub sequential_scans: u64,
    pub sequential_rows: u64,
    pub index_scans: u64,
    pub analyzed: bool,
}

/// An index that is no constraint.
#[derive(Debug, Clone, Default)]
pub struct Index {
    pub name: String,
    pub table: String,
    pub scans: u64,
    pub bytes: u64,
}

/// A running Howdah.
#[derive(Debug, Clone, Default)]
pub struct Pooler {
    pub uptime_seconds: f64,
    pub max_prepared_statements: u32,
    pub pools: Vec<Pool>,
}

#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub name: String,
    pub size: u32,
    pub transactions: u64,
    pub waits: u64,
    pub wait_seconds: f64,
    pub transaction_seconds: f64,
    pub wait_timeouts: u64,
    pub waiting: u64,
    pub binds: u64,
    pub client_parses: u64,
    pub server_parses: u64,
}
