//! What a running Howdah's figures say.

use super::super::evidence::{Host, Pool, Pooler, Reads};
use super::super::finding::{Code, Finding, Step, Urgency, quoted};

/// An average wait above it is felt by people, and so many of them are no accident.
const WAIT_SECONDS: f64 = 0.010;
const WAITS: u64 = 100;
/// Before an hour is over a pool may not have seen its peak.
const AN_HOUR: f64 = 3600.0;
/// A smaller pool is not worth a change.
const LARGE: u32 = 10;
/// So many executions tell how statements come.
const BINDS: u64 = 1000;
/// Reads on the primary that are worth a change: so many, and this part of all that are marked as reads.
const READS: u64 = 100;
const OF_READS: u64 = 10;

pub(super) fn pool(pooler: &Pooler, p: &Pool, found: &mut Vec<Finding>) {
    let mean_wait = p.wait_seconds / p.waits.max(1) as f64;
    let busy = p.transaction_seconds / p.seconds.max(1.0);
    if p.size > 0 && (p.wait_timeouts > 0 || (p.waits >= WAITS && mean_wait >= WAIT_SECONDS)) {
        found.push(too_small(p, mean_wait));
    } else if p.seconds >= AN_HOUR
        && p.size >= LARGE
        && busy < f64::from(p.size) * 0.1
        && mean_wait < WAIT_SECONDS
        && p.min_size < p.size
    {
        let enough = crate::number::rounded((busy * 4.0).ceil()).max(4).max(p.min_size);
        found.push(Finding {
            urgency: Urgency::Low,
            code: Code::PoolTooLarge,
            subject: p.name(),
            database: Some(p.database.clone()),
            evidence: format!(
                "{busy:.2} of {} connections were in use on average, and a wait for one took {:.1} ms on average",
                p.size,
                mean_wait * 1e3
            ),
            change: format!("pool_size = {enough}"),
            steps: vec![resize(p, enough)],
        });
    }
    if p.binds >= BINDS && p.server_parses * 2 >= p.binds && p.client_parses * 2 < p.binds {
        let line =
            format!("max_prepared_statements = {}", pooler.max_prepared_statements.saturating_mul(2).max(1));
        found.push(Finding {
            urgency: Urgency::Medium,
            code: Code::StatementCacheThrash,
            subject: p.name(),
            database: Some(p.database.clone()),
            evidence: format!(
                "{} statements were prepared on servers for {} executions, though clients prepared only {}: \
                 max_prepared_statements {} is too small for them",
                p.server_parses, p.binds, p.client_parses, pooler.max_prepared_statements
            ),
            change: line.clone(),
            steps: vec![Step::Set { section: String::new(), lines: vec![line] }],
        });
    }
}

fn too_small(p: &Pool, mean_wait: f64) -> Finding {
    let size = p.size + p.size.div_ceil(2);
    Finding {
        urgency: Urgency::High,
        code: Code::PoolTooSmall,
        subject: p.name(),
        database: Some(p.database.clone()),
        evidence: format!(
            "{} clients were refused by query_wait_timeout; the {} waits took {:.1} ms each; {} wait now; pool_size is {}",
            p.wait_timeouts,
            p.waits,
            mean_wait * 1e3,
            p.waiting,
            p.size
        ),
        change: format!("pool_size = {size}, if howdah plan says that it fits; or shorter transactions"),
        steps: vec![resize(p, size)],
    }
}

fn resize(p: &Pool, size: u32) -> Step {
    Step::Set {
        section: "[[pools]]".to_owned(),
        lines: vec![
            format!("database = {}", quoted(&p.database)),
            format!("user = {}", quoted(&p.user)),
            format!("role = {}", quoted(&p.role)),
            format!("pool_size = {size}"),
        ],
    }
}

/// Transactions that are marked as reads, and run on the primary although a replica could serve them.
pub(super) fn reads(r: &Reads, hosts: &[Host]) -> Option<Finding> {
    let standbys: u32 = hosts.iter().filter(|h| r.primaries.contains(&h.host)).map(|h| h.standbys).sum();
    let worth = |n: u64| n >= READS && n >= (n + r.on_replicas) / OF_READS;
    let set = |line: String| (line.clone(), vec![Step::set_database(&r.database, line)]);
    let (why, (change, steps)) = if r.replicas == 0 && r.begun >= READS && standbys > 0 {
        let why = format!(
            "{} transactions began as READ ONLY; there is no replica section, and the primary has \
                           {standbys} standby servers",
            r.begun
        );
        let change = format!(
            "a section [databases.{}.replica] with `host` of the standbys, and `when_no_replica`",
            r.database
        );
        (why, (change, Vec::new()))
    } else if r.replicas > 0 && r.all_to_primary && r.stated >= READS {
        let why = format!(
            "{} transactions are marked as reads, and route = \"primary\" sends them to the primary; \
                           {} replicas are configured",
            r.stated, r.replicas
        );
        (why, set("route = \"transactions\"".to_owned()))
    } else if worth(r.lag) {
        let why = format!(
            "{} reads ran on the primary since every replica was too far behind, {} on replicas",
            r.lag, r.on_replicas
        );
        (why, set(wider(r)))
    } else if worth(r.own_writes) {
        let why = format!(
            "{} reads ran on the primary since no replica had their session's writes, {} on replicas",
            r.own_writes, r.on_replicas
        );
        let wait = (r.own_writes_wait * 2e3).max(100.0);
        (why, set(format!("read_your_writes_wait = \"{wait:.0}ms\"")))
    } else if worth(r.no_replica) && r.eligible == 0 {
        let why = format!(
            "{} reads ran on the primary since no replica could serve them, and none can now",
            r.no_replica
        );
        let change = "bring a replica back (SHOW ROUTES says how each stands), or when_no_replica = \"wait\" or \"error\"";
        (why, (change.to_owned(), Vec::new()))
    } else {
        return None;
    };
    Some(Finding {
        urgency: Urgency::Medium,
        code: Code::ReadsOnPrimary,
        subject: r.database.clone(),
        database: Some(r.database.clone()),
        evidence: why,
        change,
        steps,
    })
}

/// The limit of lag that holds replicas back, doubled.
fn wider(r: &Reads) -> String {
    match (r.max_lag, r.max_lag_bytes) {
        (None, Some(bytes)) => format!("max_lag_bytes = \"{}B\"", bytes * 2),
        (seconds, _) => format!("max_lag = \"{:.0}ms\"", seconds.unwrap_or(1.0) * 2e3),
    }
}
