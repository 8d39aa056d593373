//! From evidence to findings; every threshold is here, with its reason.

use serde::Serialize;

use super::evidence::{Database, Evidence, Host, Pool, Pooler};
use crate::capacity::check::Severity;

/// In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Clients are refused or wait too long, now or at the next peak.
    High,
    /// Something costs more than it has to.
    Medium,
    Low,
}

impl Urgency {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub urgency: Urgency,
    /// Stable, for scripts.
    pub code: &'static str,
    pub subject: String,
    pub evidence: String,
    pub change: String,
}

/// Connections in use above which the next peak is refused.
const NEARLY_FULL: f64 = 0.8;
/// A transaction that is idle for so long holds a server connection, locks, and what vacuum may not remove.
const IDLE_IN_TRANSACTION: f64 = 10.0;
/// A standby that is further behind answers what applications call wrong.
const LAG: f64 = 10.0;
/// Below it, and after enough reads to tell, the working set does not fit the memory.
const CACHE_HITS: f64 = 0.9;
const ENOUGH_BLOCKS: u64 = 100_000;
/// A scan of a smaller table is as fast as an index, and so many scans are no accident.
const SCANNED_ROWS: u64 = 10_000;
const SCANS: u64 = 20;
/// A smaller index costs nothing worth a change.
const UNUSED_BYTES: u64 = 1 << 20;
/// Without statistics the planner guesses; for a small table it does not matter.
const UNANALYZED_ROWS: u64 = 100;
/// An average wait above it is felt by people.
const WAIT_SECONDS: f64 = 0.010;
/// Before an hour is over a pool may not have seen its peak.
const AN_HOUR: f64 = 3600.0;

/// The findings, most urgent first.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for host in &evidence.hosts {
        self::host(host, &mut found);
    }
    for database in &evidence.databases {
        self::database(database, &mut found);
    }
    if let Some(pooler) = &evidence.pooler {
        for pool in &pooler.pools {
            self::pool(pooler, pool, &mut found);
        }
    }
    found.sort_by(|a, b| (a.urgency, a.code, &a.subject).cmp(&(b.urgency, b.code, &b.subject)));
    found
}

fn finding(urgency: Urgency, code: &'static str, subject: &str, evidence: String, change: String) -> Finding {
    Finding { urgency, code, subject: subject.to_owned(), evidence, change }
}

fn host(h: &Host, found: &mut Vec<Finding>) {
    for f in &h.capacity {
        let (urgency, code) = match f.severity {
            Severity::Refuse => (Urgency::High, "capacity_too_large"),
            Severity::Warn => (Urgency::Medium, "capacity_tight"),
        };
        let change = "take one of the ways out; howdah plan derives sizes that fit".to_owned();
        found.push(finding(urgency, code, &h.host, f.text.clone(), change));
    }
    let used: u32 = h.facts.in_use.values().sum();
    let ordinary = h.facts.ordinary();
    if ordinary > 0 && f64::from(used) >= f64::from(ordinary) * NEARLY_FULL {
        let biggest = h.facts.in_use.iter().max_by_key(|(_, n)| **n);
        let most = biggest.map_or(String::new(), |(role, n)| format!("; {n} of them are of role {role}"));
        found.push(finding(
            Urgency::High,
            "connections_near_limit",
            &h.host,
            format!("{used} of {ordinary} connections are in use{most}"),
            format!(
                "end connections that nobody needs, or ALTER SYSTEM SET max_connections = {} and restart",
                h.facts.max_connections + used / 2
            ),
        ));
    }
    for t in h.idle_in_transaction.iter().filter(|t| t.seconds >= IDLE_IN_TRANSACTION) {
        found.push(finding(
            Urgency::High,
            "idle_in_transaction",
            &h.host,
            format!(
                "process {} of role {} ({:?}) has been idle in a transaction for {:.0} s",
                t.pid, t.role, t.application, t.seconds
            ),
            format!(
                "SELECT pg_terminate_backend({}); and idle_transaction_timeout = \"{:.0}s\" for its pool",
                t.pid, IDLE_IN_TRANSACTION
            ),
        ));
    }
    if let Some(lag) = h.lag.filter(|l| *l >= LAG) {
        found.push(finding(
            Urgency::High,
            "replication_lag",
            &h.host,
            format!("the standby is {lag:.0} s behind"),
            "find what holds up its replay (long queries there, a slow disk, the network); send reads elsewhere until \
             then"
            .to_owned(),
        ));
    }
}

fn database(d: &Database, found: &mut Vec<Finding>) {
    let subject = |name: &str| format!("{}/{}: {name}", d.host, d.name);
    let reads = d.blocks_hit + d.blocks_read;
    if reads >= ENOUGH_BLOCKS && (d.blocks_hit as f64) < reads as f64 * CACHE_HITS {
        found.push(finding(
            Urgency::Medium,
            "cache_hits_low",
            &format!("{}/{}", d.host, d.name),
            format!(
                "{:.0} % of {reads} blocks came from shared_buffers",
                d.blocks_hit as f64 * 100.0 / reads as f64
            ),
            "raise shared_buffers (a quarter of the memory is usual) and restart, or read less; then SELECT \
             pg_stat_reset()"
                .to_owned(),
        ));
    }
    for t in &d.tables {
        let each = t.sequential_rows.checked_div(t.sequential_scans).unwrap_or(0);
        if t.sequential_scans >= SCANS && each >= SCANNED_ROWS && t.sequential_scans > t.index_scans {
            found.push(finding(
                Urgency::Medium,
                "index_missing",
                &subject(&t.name),
                format!("{} sequential scans of {each} rows each, and {} index scans", t.sequential_scans, t.index_scans),
                format!(
                    "CREATE INDEX CONCURRENTLY on the columns of {} that the slowest queries filter by (EXPLAIN shows \
                     them); then SELECT pg_stat_reset_single_table_counters('{}'::regclass)",
                    t.name,
                    t.name.replace('\'', "''")
                ),
            ));
        }
        if !t.analyzed && t.rows >= UNANALYZED_ROWS && !d.in_recovery {
            found.push(finding(
                Urgency::Medium,
                "statistics_missing",
                &subject(&t.name),
                format!("{} rows, and never analyzed", t.rows),
                format!("ANALYZE {}", t.name),
            ));
        }
    }
    for i in &d.indexes {
        // A standby counts its own scans only.
        if i.scans == 0 && i.bytes >= UNUSED_BYTES && !d.in_recovery {
            found.push(finding(
                Urgency::Low,
                "index_unused",
                &subject(&i.name),
                format!("{} kB on {}, and no scan since the statistics began", i.bytes / 1024, i.table),
                format!("DROP INDEX CONCURRENTLY {}, if no standby uses it", i.name),
            ));
        }
    }
}

fn pool(pooler: &Pooler, p: &Pool, found: &mut Vec<Finding>) {
    let mean_wait = p.wait_seconds / p.waits.max(1) as f64;
    let busy = p.transaction_seconds / pooler.uptime_seconds.max(1.0);
    if p.size > 0 && (p.wait_timeouts > 0 || (p.waits >= 100 && mean_wait >= WAIT_SECONDS)) {
        found.push(finding(
            Urgency::High,
            "pool_too_small",
            &p.name,
            format!(
                "{} clients were refused by query_wait_timeout; the {} waits took {:.1} ms each; {} wait now; pool_size is {}",
                p.wait_timeouts,
                p.waits,
                mean_wait * 1e3,
                p.waiting,
                p.size
            ),
            format!("pool_size = {}, if howdah plan says that it fits; or shorter transactions", p.size + p.size.div_ceil(2)),
        ));
    } else if pooler.uptime_seconds >= AN_HOUR
        && p.size >= 10
        && busy < f64::from(p.size) * 0.1
        && mean_wait == 0.0
    {
        let enough = ((busy * 4.0).ceil() as u32).max(4);
        found.push(finding(
            Urgency::Low,
            "pool_too_large",
            &p.name,
            format!("{busy:.2} of {} connections were in use on average, and nobody ever waited", p.size),
            format!("pool_size = {enough}"),
        ));
    }
    if p.binds >= 1000 && p.server_parses * 2 >= p.binds && p.client_parses * 2 < p.binds {
        found.push(finding(
            Urgency::Medium,
            "statement_cache_thrash",
            &p.name,
            format!(
                "{} statements were prepared on servers for {} executions, though clients prepared only {}: \
                 max_prepared_statements {} is too small for them",
                p.server_parses, p.binds, p.client_parses, pooler.max_prepared_statements
            ),
            format!("max_prepared_statements = {}", pooler.max_prepared_statements.saturating_mul(2)),
        ));
    }
}

/// For people.
pub fn text(evidence: &Evidence, found: &[Finding]) -> String {
    let mut out = String::new();
    for f in found {
        let word = match f.urgency {
            Urgency::High => "HIGH",
            u => u.as_str(),
        };
        out.push_str(&format!(
            "{word}  {}  {}\n  because  {}\n  change   {}\n",
            f.code, f.subject, f.evidence, f.change
        ));
    }
    for u in &evidence.unasked {
        out.push_str(&format!("not examined: {u}\n"));
    }
    let n = found.len();
    out.push_str(&match n {
        0 => "no advice\n".to_owned(),
        1 => "1 piece of advice\n".to_owned(),
        n => format!("{n} pieces of advice\n"),
    });
    out
}

/// For machines.
pub fn json(evidence: &Evidence, found: &[Finding]) -> String {
    let all = serde_json::json!({ "advice": found, "not_examined": evidence.unasked });
    format!("{all:#}\n")
}
