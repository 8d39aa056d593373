//! What is known when the examination begins. What could not be asked is said, not guessed.

use crate::capacity::check::Finding as CapacityFinding;
use crate::capacity::facts::Facts;

/// Everything that was asked.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub hosts: Vec<Host>,
    pub databases: Vec<Database>,
    pub pooler: Option<Pooler>,
    /// Only where somebody asked for EXPLAIN.
    pub scanned: Vec<Scanned>,
    /// What could not be asked, and why.
    pub unasked: Vec<String>,
    /// How many of these are servers, databases or a running Howdah that should have answered: without them "no advice"
    /// says little.
    pub unreached: usize,
    /// What was seen in part only, and what would show the rest.
    pub partial: Vec<String>,
}

impl Evidence {
    /// Somebody should have answered, and did not.
    pub(super) fn missed(&mut self, said: String) {
        self.unasked.push(said);
        self.unreached += 1;
    }
}

#[derive(Debug, Clone, Default)]
pub struct Host {
    pub host: String,
    pub facts: Facts,
    pub capacity: Vec<CapacityFinding>,
    /// What would make its capacity suffice.
    pub room: Option<Room>,
    /// The smallest max_connections of the server that would, where no limit of the pools is small enough.
    pub enough: Option<u32>,
    /// Seconds that a standby is behind; nothing on a primary, or where all is replayed. Of one that is cut off it is the
    /// age of the last transaction that it has replayed, and nothing where there was none.
    pub lag: Option<f64>,
    /// A standby that has no WAL receiver: what its primary has written since, it does not know.
    pub cut: bool,
    /// Somebody has paused the replay.
    pub replay_paused: bool,
    /// Standbys that receive from it.
    pub standbys: u32,
    pub idle_in_transaction: Vec<IdleInTransaction>,
}

/// The largest `max_host_connections` with which nothing is wrong with a host, and the databases to state it in.
#[derive(Debug, Clone, Default)]
pub struct Room {
    pub connections: u32,
    pub databases: Vec<String>,
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
    /// Of the whole server, in kB.
    pub shared_buffers: u64,
    pub tables: Vec<Table>,
    pub indexes: Vec<Index>,
    pub materialized: Vec<Materialized>,
    /// The databases of the configuration that lead here and do not have `session_check = "always"`.
    pub suspecting: Vec<String>,
    pub hiding: Vec<Hiding>,
}

/// A function that may leave something in the session, of which the statement that calls it shows nothing.
#[derive(Debug, Clone, Default)]
pub struct Hiding {
    pub name: String,
    /// Why Howdah thinks so: what its text does, or its language.
    pub trace: String,
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

/// A materialized view that has a schedule.
#[derive(Debug, Clone, Default)]
pub struct Materialized {
    pub name: String,
    /// In seconds; nothing where it has never been filled.
    pub age: Option<f64>,
    /// How old it may become, in seconds.
    pub limit: f64,
}

/// A running Howdah.
#[derive(Debug, Clone, Default)]
pub struct Pooler {
    pub max_prepared_statements: u32,
    pub pools: Vec<Pool>,
    pub reads: Vec<Reads>,
    /// The slowest, first those that took the most time of the servers.
    pub statements: Vec<Statement>,
}

/// What the statistics keep of a statement.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    pub id: String,
    pub database: String,
    pub text: String,
    pub calls: u64,
    pub server_seconds: f64,
}

/// A table that one of the slowest statements is planned to read as a whole.
#[derive(Debug, Clone, Default)]
pub struct Scanned {
    pub host: String,
    pub database: String,
    pub statement: Statement,
    pub table: String,
    pub rows: u64,
    /// That it compares and that begin no index, as SQL writes them.
    pub columns: Vec<String>,
}

/// The figures are since its size or `max_prepared_statements` was last set.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub database: String,
    pub user: String,
    pub role: String,
    pub size: u32,
    pub min_size: u32,
    pub seconds: f64,
    pub waits: u64,
    pub wait_seconds: f64,
    pub transaction_seconds: f64,
    pub wait_timeouts: u64,
    pub waiting: u64,
    pub binds: u64,
    pub client_parses: u64,
    pub server_parses: u64,
}

impl Pool {
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.database, self.user, self.role)
    }
}

/// Transactions of one database that are marked as reads, since its routing was last set.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    pub database: String,
    /// Hosts of its primary.
    pub primaries: Vec<String>,
    /// That are configured, and those of them that may serve now.
    pub replicas: usize,
    pub eligible: usize,
    /// `route = "primary"`.
    pub all_to_primary: bool,
    /// In seconds, and in bytes.
    pub max_lag: Option<f64>,
    pub max_lag_bytes: Option<u64>,
    /// `read_your_writes_wait`, in seconds.
    pub own_writes_wait: f64,
    pub on_replicas: u64,
    /// On the primary: since `route` says so, since no replica could serve, since all were too far behind, since none
    /// had their session's writes.
    pub stated: u64,
    pub no_replica: u64,
    pub lag: u64,
    pub own_writes: u64,
    /// Blocks that began with READ ONLY, by the statistics of statements.
    pub begun: u64,
}
