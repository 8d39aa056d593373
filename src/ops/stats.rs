//! /stats: the figures as JSON, for people and scripts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::process::Process;
use super::snapshot::{PoolFigures, Snapshot};
use crate::metrics::Histogram;

type States = BTreeMap<&'static str, usize>;

#[derive(Serialize)]
struct Stats<'a> {
    build: Build,
    uptime_seconds: f64,
    draining: bool,
    clients: Clients,
    pools: Vec<Pool<'a>>,
    cancels_in_flight: usize,
    /// By name and label; the label is empty where there is none.
    events: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    process: Option<ProcessFigures>,
}

#[derive(Serialize)]
struct Build {
    version: &'static str,
    profile: &'static str,
}

#[derive(Serialize)]
struct Clients {
    connected: usize,
    limit: u32,
    states: States,
}

#[derive(Serialize)]
struct Pool<'a> {
    database: &'a str,
    user: &'a str,
    role: &'static str,
    settings: Settings,
    servers: States,
    utilization: f64,
    waiting: usize,
    longest_wait_seconds: f64,
    totals: Totals,
    averages: Averages,
}

#[derive(Serialize)]
struct Settings {
    mode: &'static str,
    size: u32,
    min_size: u32,
    reserve_size: u32,
}

#[derive(Serialize)]
struct Totals {
    transactions: u64,
    queries: u64,
    server_errors: u64,
    bytes_received: u64,
    bytes_sent: u64,
    client_parses: u64,
    server_parses: u64,
    binds: u64,
    server_connections_opened: u64,
    server_connect_failures: u64,
    wait_timeouts: u64,
    waits: u64,
    wait_seconds: f64,
    transaction_seconds: f64,
}

/// Since the pool's first use; 0 before it.
#[derive(Serialize)]
struct Averages {
    wait_seconds: f64,
    transaction_seconds: f64,
    queries_per_transaction: f64,
}

#[derive(Serialize)]
struct ProcessFigures {
    start_time_seconds: f64,
    cpu_seconds: f64,
    resident_bytes: u64,
    threads: u64,
    open_fds: u64,
    max_fds: u64,
}

pub(super) const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

pub(super) fn render(s: &Snapshot) -> Result<String, String> {
    let mut events: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (name, label, count) in &s.events {
        events.entry(*name).or_default().insert(*label, *count);
    }
    let stats = Stats {
        build: Build { version: env!("CARGO_PKG_VERSION"), profile: PROFILE },
        uptime_seconds: s.uptime.as_secs_f64(),
        draining: s.draining,
        clients: Clients {
            connected: s.clients.connected,
            limit: s.clients.limit,
            states: s.clients.by_state().into(),
        },
        pools: s.pools.iter().map(pool).collect(),
        cancels_in_flight: s.cancels_in_flight,
        events,
        process: s.process.map(process),
    };
    serde_json::to_string_pretty(&stats).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn process(p: Process) -> ProcessFigures {
    ProcessFigures {
        start_time_seconds: p.start_time_seconds,
        cpu_seconds: p.cpu_seconds,
        resident_bytes: p.resident_bytes,
        threads: p.threads,
        open_fds: p.open_fds,
        max_fds: p.max_fds,
    }
}

fn pool(p: &PoolFigures) -> Pool<'_> {
    let t = &p.totals;
    Pool {
        database: &p.key.database,
        user: &p.key.user,
        role: p.key.role.as_str(),
        settings: Settings {
            mode: p.mode.as_str(),
            size: p.size,
            min_size: p.min_size,
            reserve_size: p.reserve_size,
        },
        servers: p.by_state().into(),
        utilization: p.utilization(),
        waiting: p.counts.waiting,
        longest_wait_seconds: p.longest_wait.as_secs_f64(),
        totals: Totals {
            transactions: t.transactions,
            queries: t.queries,
            server_errors: t.errors,
            bytes_received: t.from_client,
            bytes_sent: t.to_client,
            client_parses: t.client_parses,
            server_parses: t.server_parses,
            binds: t.binds,
            server_connections_opened: t.opened,
            server_connect_failures: t.open_failures,
            wait_timeouts: t.wait_timeouts,
            waits: t.wait.count(),
            wait_seconds: seconds(t.wait.sum_us),
            transaction_seconds: seconds(t.transaction.sum_us),
        },
        averages: Averages {
            wait_seconds: mean(&t.wait),
            transaction_seconds: mean(&t.transaction),
            queries_per_transaction: t.queries as f64 / t.transactions.max(1) as f64,
        },
    }
}

/// Divided once, so that what was exact in microseconds prints as such.
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn mean(h: &Histogram) -> f64 {
    seconds(h.sum_us) / h.count().max(1) as f64
}
