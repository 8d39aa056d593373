//! The names of the community's exporter for PgBouncer beside our own, where a setting asks for them: dashboards and
//! alerts that were made for it go on.

use std::collections::BTreeMap;

use super::exposition::Series;
use super::snapshot::{PoolFigures, Snapshot};
use super::stats::seconds;

pub(super) fn put(out: &mut Series<'_>, s: &Snapshot) {
    out.put("pgbouncer_up", &[], 1.0);
    out.put("pgbouncer_version_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    out.put("pgbouncer_config_max_client_connections", &[], f64::from(s.clients.limit));
    let servers: usize = s.pools.iter().map(|p| p.counts.tracked()).sum();
    let idle: usize = s.pools.iter().map(|p| p.counts.idle).sum();
    for (name, value) in [
        ("pgbouncer_databases", s.databases),
        ("pgbouncer_users", s.users),
        ("pgbouncer_pools", s.pools.len()),
        ("pgbouncer_used_clients", s.clients.connected),
        ("pgbouncer_login_clients", s.clients.logging_in),
        ("pgbouncer_used_servers", servers - idle),
        ("pgbouncer_free_servers", idle),
    ] {
        out.put(name, &[], value as f64);
    }
    let mut by_database: BTreeMap<&str, Vec<&PoolFigures>> = BTreeMap::new();
    for p in &s.pools {
        by_database.entry(&p.key.database).or_default().push(p);
    }
    let mut by_pool: BTreeMap<(&str, &str), Vec<&PoolFigures>> = BTreeMap::new();
    for p in &s.pools {
        by_pool.entry((&p.key.database, &p.key.user)).or_default().push(p);
    }
    for ((database, user), pools) in by_pool {
        pool(out, &[database, user], &pools);
    }
    for (name, pools) in by_database {
        database(out, name, &pools);
    }
}

/// Roles are one pool there.
fn pool(out: &mut Series<'_>, labels: &[&str], pools: &[&PoolFigures]) {
    let sum = |f: fn(&PoolFigures) -> usize| pools.iter().map(|p| f(p)).sum::<usize>() as f64;
    let longest = pools.iter().map(|p| p.longest_wait.as_secs_f64()).fold(0.0, f64::max);
    for (name, value) in [
        ("client_active_connections", sum(|p| p.counts.leased)),
        ("client_waiting_connections", sum(|p| p.counts.waiting)),
        ("server_active_connections", sum(|p| p.counts.leased)),
        ("server_being_canceled_connections", sum(|p| p.counts.parked)),
        ("server_idle_connections", sum(|p| p.counts.idle)),
        ("server_used_connections", 0.0),
        ("server_testing_connections", sum(|p| p.counts.repairing)),
        ("server_login_connections", sum(|p| p.counts.opening)),
        ("client_maxwait_seconds", longest),
    ] {
        out.put(&format!("pgbouncer_pools_{name}"), labels, value);
    }
}

fn database(out: &mut Series<'_>, name: &str, pools: &[&PoolFigures]) {
    let sum = |f: fn(&PoolFigures) -> u64| pools.iter().map(|p| f(p)).sum::<u64>();
    let count = |f: fn(&PoolFigures) -> u64| sum(f) as f64;
    for (metric, value) in [
        ("queries_pooled_total", count(|p| p.totals.queries)),
        ("queries_duration_seconds_total", seconds(sum(|p| p.totals.query.sum_us))),
        ("received_bytes_total", count(|p| p.totals.from_client)),
        ("sent_bytes_total", count(|p| p.totals.to_client)),
        ("client_wait_seconds_total", seconds(sum(|p| p.totals.wait.sum_us))),
        ("sql_transactions_pooled_total", count(|p| p.totals.transactions)),
        ("server_in_transaction_seconds_total", seconds(sum(|p| p.totals.transaction.sum_us))),
        ("client_parses_total", count(|p| p.totals.client_parses)),
        ("server_parses_total", count(|p| p.totals.server_parses)),
        ("binds_total", count(|p| p.totals.binds)),
    ] {
        out.put(&format!("pgbouncer_stats_totals_{metric}"), &[name], value);
    }
}
