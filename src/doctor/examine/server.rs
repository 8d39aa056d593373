//! What a server's catalogues say.

use super::super::evidence::{Database, Hiding, Host, Materialized, Scanned, Table};
use super::super::finding::{Code, Finding, Step, Urgency};
use crate::capacity::check::Severity;

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

pub(super) fn host(h: &Host, found: &mut Vec<Finding>) {
    capacity(h, found);
    found.extend(near_limit(h));
    for t in h.idle_in_transaction.iter().filter(|t| t.seconds >= IDLE_IN_TRANSACTION) {
        let end = format!("SELECT pg_terminate_backend({})", t.pid);
        found.push(Finding {
            urgency: Urgency::High,
            code: Code::IdleInTransaction,
            subject: h.host.clone(),
            database: None,
            evidence: format!(
                "process {} of role {} ({:?}) has been idle in a transaction for {:.0} s",
                t.pid, t.role, t.application, t.seconds
            ),
            change: format!(
                "{end}; and idle_transaction_timeout = \"{IDLE_IN_TRANSACTION:.0}s\" for its pool"
            ),
            steps: vec![Step::sql(&h.host, None, end)],
        });
    }
    found.extend(lag(h));
}

fn lag(h: &Host) -> Option<Finding> {
    let evidence = match h.lag {
        Some(lag) if lag < LAG => return None,
        Some(lag) if h.cut => {
            format!("the standby has no WAL receiver, and the last transaction that it has is {lag:.0} s old")
        }
        Some(lag) => format!("the standby is {lag:.0} s behind"),
        None if h.cut => "the standby has no WAL receiver, and has replayed no transaction yet".to_owned(),
        None => return None,
    };
    let resume = "SELECT pg_wal_replay_resume()";
    let (change, steps) = if h.replay_paused {
        (format!("its replay is paused: {resume}"), vec![Step::sql(&h.host, None, resume)])
    } else if h.cut {
        let change = "bring its primary back, or lead primary_conninfo to another one (the standby's log says why it \
                      cannot receive); send reads elsewhere until then";
        (change.to_owned(), Vec::new())
    } else {
        let change = "find what holds up its replay (long queries there, a slow disk, the network); send reads \
                      elsewhere until then";
        (change.to_owned(), Vec::new())
    };
    Some(Finding {
        urgency: Urgency::High,
        code: Code::ReplicationLag,
        subject: h.host.clone(),
        database: None,
        evidence,
        change,
        steps,
    })
}

fn capacity(h: &Host, found: &mut Vec<Finding>) {
    for f in &h.capacity {
        let (urgency, code) = match f.severity {
            Severity::Refuse => (Urgency::High, Code::CapacityTooLarge),
            Severity::Warn => (Urgency::Medium, Code::CapacityTight),
        };
        let (change, steps) = match (&h.room, h.enough) {
            (Some(room), _) => {
                let line = format!("max_host_connections = {}", room.connections);
                let set = |database: &String| Step::set_database(database, &line);
                (
                    format!("{line} for {}", room.databases.join(", ")),
                    room.databases.iter().map(set).collect(),
                )
            }
            (None, Some(enough)) => {
                let raise = format!("ALTER SYSTEM SET max_connections = {enough}");
                let restart = Step::Restart { host: h.host.clone() };
                (format!("{raise} and restart"), vec![Step::sql(&h.host, None, raise), restart])
            }
            (None, None) => ("one of the ways out".to_owned(), Vec::new()),
        };
        let other = if steps.is_empty() { "" } else { ", or another of the ways out" };
        found.push(Finding {
            urgency,
            code,
            subject: h.host.clone(),
            database: None,
            evidence: f.text.clone(),
            change: format!("{change}{other}; howdah plan derives sizes that fit"),
            steps,
        });
    }
}

fn near_limit(h: &Host) -> Option<Finding> {
    let used: u32 = h.facts.in_use.values().sum();
    let ordinary = h.facts.ordinary();
    if ordinary == 0 || f64::from(used) < f64::from(ordinary) * NEARLY_FULL {
        return None;
    }
    let biggest = h.facts.in_use.iter().max_by_key(|(_, n)| **n);
    let most = biggest.map_or(String::new(), |(role, n)| format!("; {n} of them are of role {role}"));
    let raise = format!("ALTER SYSTEM SET max_connections = {}", h.facts.max_connections + used / 2);
    Some(Finding {
        urgency: Urgency::High,
        code: Code::ConnectionsNearLimit,
        subject: h.host.clone(),
        database: None,
        evidence: format!("{used} of {ordinary} connections are in use{most}"),
        change: format!("end connections that nobody needs, or {raise} and restart"),
        steps: vec![Step::sql(&h.host, None, raise), Step::Restart { host: h.host.clone() }],
    })
}

pub(super) fn database(d: &Database, scanned: &[&Scanned], found: &mut Vec<Finding>) {
    let of = |urgency, code, name: &str, evidence, change: String, sql: Option<String>| Finding {
        urgency,
        code,
        subject: format!("{}/{}: {name}", d.host, d.name),
        database: Some(d.name.clone()),
        evidence,
        change,
        steps: sql.map(|sql| Step::sql(&d.host, Some(&d.name), sql)).into_iter().collect(),
    };
    found.extend(cache_hits(d));
    found.extend(d.suspecting.iter().filter_map(|offered| hidden_state(d, offered)));
    for t in &d.tables {
        let planned: Vec<_> = scanned.iter().filter(|s| s.table == t.name).copied().collect();
        if let Some((evidence, change, sql)) = index_missing(t, &planned) {
            let mut finding = of(Urgency::Medium, Code::IndexMissing, &t.name, evidence, change, None);
            finding.steps = sql.into_iter().map(|sql| Step::sql(&d.host, Some(&d.name), sql)).collect();
            found.push(finding);
        }
        if !t.analyzed && t.rows >= UNANALYZED_ROWS && !d.in_recovery {
            let (evidence, sql) =
                (format!("{} rows, and never analyzed", t.rows), format!("ANALYZE {}", t.name));
            let change = sql.clone();
            found.push(of(Urgency::Medium, Code::StatisticsMissing, &t.name, evidence, change, Some(sql)));
        }
    }
    for i in &d.indexes {
        // A standby counts its own scans only.
        if i.scans == 0 && i.bytes >= UNUSED_BYTES && !d.in_recovery {
            let evidence =
                format!("{} kB on {}, and no scan since the statistics began", i.bytes / 1024, i.table);
            let sql = format!("DROP INDEX CONCURRENTLY {}", i.name);
            let change = format!("{sql}, if no standby uses it");
            found.push(of(Urgency::Low, Code::IndexUnused, &i.name, evidence, change, Some(sql)));
        }
    }
    for m in d.materialized.iter().filter(|m| m.age.is_none_or(|age| age > m.limit)) {
        let sql = format!("REFRESH MATERIALIZED VIEW {}", m.name);
        let (evidence, change) = (stale(m), sql.clone());
        found.push(of(Urgency::Medium, Code::MaterializedViewStale, &m.name, evidence, change, Some(sql)));
    }
}

/// How many functions the evidence names.
const NAMED: usize = 5;

/// Advice for one database of the configuration whose functions may leave session state unnoticed.
fn hidden_state(d: &Database, offered: &str) -> Option<Finding> {
    if d.hiding.is_empty() {
        return None;
    }
    let named = |h: &Hiding| format!("{} {}", h.name, h.trace);
    let mut listed: Vec<String> = d.hiding.iter().take(NAMED).map(named).collect();
    if d.hiding.len() > NAMED {
        listed.push(format!("and {} more", d.hiding.len() - NAMED));
    }
    let line = "session_check = \"always\"";
    Some(Finding {
        urgency: Urgency::Medium,
        code: Code::SessionStateHidden,
        subject: format!("{}/{}", d.host, d.name),
        database: Some(d.name.clone()),
        evidence: format!(
            "{} functions may change their session while the statement that calls them shows no trace of it: {}",
            d.hiding.len(),
            listed.join(", ")
        ),
        change: format!(
            "{line} for {offered}, which asks the server after every transaction; or let them change their \
             transaction alone (SET LOCAL, set_config(..., true), pg_advisory_xact_lock)"
        ),
        steps: vec![Step::set_database(offered, line)],
    })
}

fn stale(m: &Materialized) -> String {
    match m.age {
        Some(age) => format!(
            "refreshed {age:.0} s ago, and by materialized_views of the configuration {:.0} s are allowed",
            m.limit
        ),
        None => "never filled, and materialized_views of the configuration has a schedule for it".to_owned(),
    }
}

fn cache_hits(d: &Database) -> Option<Finding> {
    let reads = d.blocks_hit + d.blocks_read;
    if reads < ENOUGH_BLOCKS || (d.blocks_hit as f64) >= reads as f64 * CACHE_HITS {
        return None;
    }
    let raise = format!("ALTER SYSTEM SET shared_buffers = '{}kB'", d.shared_buffers * 2);
    let reset = "SELECT pg_stat_reset()";
    Some(Finding {
        urgency: Urgency::Medium,
        code: Code::CacheHitsLow,
        subject: format!("{}/{}", d.host, d.name),
        database: Some(d.name.clone()),
        evidence: format!(
            "{:.0} % of {reads} blocks came from shared_buffers, which has {} kB",
            d.blocks_hit as f64 * 100.0 / reads as f64,
            d.shared_buffers
        ),
        change: format!(
            "{raise} (a quarter of the machine's memory is usual) and restart, or read less; then {reset}, so that \
             the next figures are of what follows"
        ),
        steps: vec![
            Step::sql(&d.host, None, raise),
            Step::Restart { host: d.host.clone() },
            Step::sql(&d.host, Some(&d.name), reset),
        ],
    })
}

/// By the server's count of scans, or by the plans of the slowest statements, which also tell the columns.
fn index_missing(t: &Table, planned: &[&Scanned]) -> Option<(String, String, Vec<String>)> {
    let each = t.sequential_rows.checked_div(t.sequential_scans).unwrap_or(0);
    let counted = t.sequential_scans >= SCANS && each >= SCANNED_ROWS && t.sequential_scans > t.index_scans;
    let planned: Vec<_> = planned.iter().filter(|s| s.rows >= SCANNED_ROWS).collect();
    let scans = format!(
        "{} sequential scans of {each} rows each, and {} index scans",
        t.sequential_scans, t.index_scans
    );
    let reset =
        format!("SELECT pg_stat_reset_single_table_counters('{}'::regclass)", t.name.replace('\'', "''"));
    let Some(slowest) = planned.first() else {
        return counted.then(|| {
            let change = format!(
                "CREATE INDEX CONCURRENTLY on the columns of {} that the slowest queries filter by (howdah doctor \
                 --explain tells them); then {reset}",
                t.name
            );
            (scans, change, Vec::new())
        });
    };
    let mut creations: Vec<String> = planned
        .iter()
        .map(|s| format!("CREATE INDEX CONCURRENTLY ON {} ({})", t.name, s.columns.join(", ")))
        .collect();
    creations.sort();
    creations.dedup();
    let mean = slowest.statement.server_seconds * 1e3 / slowest.statement.calls.max(1) as f64;
    let evidence = format!(
        "statement {} ({} calls of {mean:.1} ms) is planned to read all {} rows and to compare {}; {scans}",
        slowest.statement.id,
        slowest.statement.calls,
        slowest.rows,
        slowest.columns.join(", ")
    );
    let change = format!("{}; then {reset}", creations.join("; "));
    creations.push(reset);
    Some((evidence, change, creations))
}
