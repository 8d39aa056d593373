//! /stats: the figures as JSON, for people and scripts.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::process::Process;
use super::routes::Decisions;
use super::snapshot::{self, PoolFigures, Snapshot};
use crate::config::resolved::Role;
use crate::error::Standstill;
use crate::metrics::Histogram;
use crate::metrics::events::Event;
use crate::pool::holders::Holder;
use crate::pool::standstill;

type States = BTreeMap<&'static str, usize>;

#[derive(Serialize)]
struct Stats<'a> {
    build: Build,
    uptime_seconds: f64,
    draining: bool,
    /// Settings that have changed and need a restart to come into force.
    restart_needed: &'a [&'static str],
    clients: Clients,
    prepared_statements: Prepared,
    /// Databases and roles that serve nobody now.
    serving_nobody: Vec<Standing<'a>>,
    pools: Vec<Pool<'a>>,
    /// Who holds server connections, those that caused the most waiting first.
    holders: Vec<HeldBy>,
    hosts: Vec<Host<'a>>,
    /// Of databases with several servers.
    routes: Vec<Route<'a>>,
    limits: Vec<Limit<'a>>,
    leaked_connections: Leaked,
    /// The newest first.
    recent_events: Vec<Recent<'a>>,
    cancels_in_flight: usize,
    pam_requests_in_flight: usize,
    /// Of TLS, by side.
    tls_handshakes: BTreeMap<&'static str, HandshakePlaces>,
    /// By name and label; the label is empty where there is none.
    events: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    process: Option<ProcessFigures>,
}

/// What is computed beside the threads that relay.
#[derive(Serialize)]
struct HandshakePlaces {
    steps: u64,
    waiting: usize,
}

/// See [`Standstill`].
#[derive(Serialize)]
struct Standing<'a> {
    database: &'a str,
    role: &'static str,
    code: &'static str,
    why: String,
    hint: String,
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
    /// Connections that have not proved who they are: places that are taken, those of them that have said nothing, and
    /// how many lost theirs.
    strangers: StrangersFigures,
}

#[derive(Serialize)]
struct StrangersFigures {
    taken: usize,
    limit: u32,
    silent: usize,
    waiting: usize,
    cut: u64,
}

/// What prepared statements take of the memory: texts, each counted once, and the names of clients.
#[derive(Serialize)]
struct Prepared {
    statements: usize,
    text_bytes: usize,
    name_bytes: usize,
    limit_bytes: usize,
}

#[derive(Serialize)]
struct Pool<'a> {
    database: &'a str,
    user: &'a str,
    role: &'static str,
    settings: Settings,
    /// The size in force, and the last decision about one that moves.
    effective_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_size_decision: Option<String>,
    servers: States,
    /// Why it serves nobody, in a word and in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    serves_nobody: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    utilization: f64,
    waiting: usize,
    longest_wait_seconds: f64,
    pins: usize,
    leaking_transactions: usize,
    totals: Totals,
    averages: Averages,
    since_change: SinceChange,
}

/// Since `pool_size` or `max_prepared_statements` was last set: what `howdah doctor` judges them by.
#[derive(Serialize)]
struct SinceChange {
    seconds: f64,
    waits: u64,
    wait_seconds: f64,
    wait_timeouts: u64,
    transaction_seconds: f64,
    client_parses: u64,
    server_parses: u64,
    binds: u64,
}

/// See [`crate::pool::holders::Holder`].
#[derive(Serialize)]
struct HeldBy {
    database: String,
    user: String,
    role: &'static str,
    client: u64,
    address: String,
    application: String,
    state: &'static str,
    held_seconds: f64,
    state_seconds: f64,
    waiter_seconds: f64,
    statement: Option<String>,
    statement_id: Option<String>,
    server: Option<String>,
    server_pid: Option<i32>,
    /// What its session holds, where it keeps the connection for that between its transactions.
    pinned_by: Vec<&'static str>,
    pinned_seconds: Option<f64>,
}

#[derive(Serialize)]
struct Host<'a> {
    host: &'a str,
    connections: usize,
    unreachable: bool,
    /// Null where nobody has asked it.
    role: Option<&'static str>,
    /// What the configuration says that it is.
    stated_roles: &'a [&'static str],
    /// Of a replica behind its primary; null where that is not known.
    lag_seconds: Option<f64>,
    /// Absent where its capacity was not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<Capacity<'a>>,
}

/// What a server said of itself when its capacity was checked last.
#[derive(Serialize)]
struct Capacity<'a> {
    age_seconds: f64,
    max_connections: u32,
    /// Everybody's, most first.
    backends: Vec<Backends<'a>>,
}

#[derive(Serialize)]
struct Backends<'a> {
    role: &'a str,
    database: &'a str,
    connections: u32,
}

#[derive(Serialize)]
struct Route<'a> {
    database: &'a str,
    /// That may serve reads now.
    eligible_replicas: usize,
    /// Since the routing of the database was last set: what `howdah doctor` judges it by.
    decisions_since_change: Vec<Routed>,
}

#[derive(Serialize)]
struct Routed {
    role: &'static str,
    reason: &'static str,
    transactions: u64,
}

#[derive(Serialize)]
struct Limit<'a> {
    limit: &'static str,
    name: &'a str,
    connections: u32,
    used: usize,
}

#[derive(Serialize)]
struct Leaked {
    leases: usize,
    sockets: usize,
}

#[derive(Serialize)]
struct Recent<'a> {
    /// Since 1970.
    at_seconds: f64,
    kind: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct Settings {
    mode: &'static str,
    size: u32,
    min_size: u32,
    reserve_size: u32,
    /// Idle in a transaction for longer is a leak; null is never.
    leak_threshold_seconds: Option<f64>,
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
    queued: u64,
    exhausted: u64,
    prepared_statement_hits: u64,
    prepared_statement_evictions: u64,
    wait_seconds: f64,
    transaction_seconds: f64,
    /// The parts of transaction_seconds.
    server_seconds: f64,
    client_seconds: f64,
    stall_seconds: f64,
    round_trips: u64,
    query_seconds: f64,
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
        restart_needed: &s.restart_needed,
        clients: Clients {
            connected: s.clients.connected,
            limit: s.clients.limit,
            states: s.clients.by_state().into(),
            strangers: StrangersFigures {
                taken: s.strangers.taken,
                limit: s.strangers_limit,
                silent: s.strangers.silent,
                waiting: s.strangers.waiting,
                cut: s.strangers.cut,
            },
        },
        prepared_statements: Prepared {
            statements: s.prepared.statements,
            text_bytes: s.prepared.texts,
            name_bytes: s.prepared.names,
            limit_bytes: s.prepared.limit,
        },
        serving_nobody: s.standing.iter().filter_map(standing).collect(),
        pools: s.pools.iter().map(pool).collect(),
        holders: s.holders.iter().map(held_by).collect(),
        hosts: s.hosts.iter().map(|h| host(h, s.routes.host(&h.host))).collect(),
        routes: s.routes.databases().map(route).collect(),
        limits: s.limits.iter().map(limit).collect(),
        leaked_connections: Leaked { leases: s.leaked.0, sockets: s.leaked.1 },
        recent_events: s.recent.iter().map(recent).collect(),
        cancels_in_flight: s.cancels_in_flight,
        pam_requests_in_flight: s.pam_requests_in_flight,
        tls_handshakes: s
            .handshakes
            .map(|(side, steps, waiting)| (side, HandshakePlaces { steps, waiting }))
            .into(),
        events,
        process: s.process.map(process),
    };
    serde_json::to_string_pretty(&stats).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn held_by(h: &Holder) -> HeldBy {
    HeldBy {
        database: h.pool.database.to_string(),
        user: h.pool.user.to_string(),
        role: h.pool.role.as_str(),
        client: h.ctl.id,
        address: h.ctl.peer.to_string(),
        application: h.application.to_string(),
        state: h.state.as_str(),
        held_seconds: h.held.as_secs_f64(),
        state_seconds: h.in_state.as_secs_f64(),
        waiter_seconds: h.caused.as_secs_f64(),
        statement: h.statement.clone(),
        statement_id: h.statement.as_ref().map(|_| format!("{:016x}", h.ctl.statement())),
        server: h.server.as_ref().map(|(host, _)| host.clone()),
        server_pid: h.server.as_ref().map(|(_, pid)| *pid),
        pinned_by: h.pinned.iter().flat_map(|(kinds, _)| kinds.iter().map(|k| k.label())).collect(),
        pinned_seconds: h.pinned.as_ref().map(|(_, since)| since.as_secs_f64()),
    }
}

fn standing((database, role, why): &standstill::Seen) -> Option<Standing<'_>> {
    let why = why.as_ref()?;
    let (code, role) = (why.code(), role.as_str());
    Some(Standing { database, role, code, why: why.words(database), hint: why.hint(database) })
}

fn backends((role, database, n): &(String, String, u32)) -> Backends<'_> {
    Backends { role, database, connections: *n }
}

fn host(h: &snapshot::Host, (watched, lag_seconds): (Option<bool>, Option<f64>)) -> Host<'_> {
    let capacity = h.backends.as_ref().map(|(age, said)| Capacity {
        age_seconds: age.as_secs_f64(),
        max_connections: said.max_connections,
        backends: said.by.iter().map(backends).collect(),
    });
    // The monitor's word is newer than that of the last check of the capacity.
    let in_recovery = watched.or(h.backends.as_ref().map(|(_, said)| said.in_recovery));
    Host {
        host: &h.host,
        connections: h.used,
        unreachable: h.unreachable,
        role: in_recovery.map(|replica| if replica { Role::Replica } else { Role::Primary }.as_str()),
        stated_roles: &h.stated,
        lag_seconds,
        capacity,
    }
}

fn route<'a>((database, eligible_replicas, decisions): (&'a str, usize, &'a [Decisions])) -> Route<'a> {
    let routed = |(role, reason, n): &Decisions| Routed { role, reason, transactions: *n };
    let decisions_since_change = decisions.iter().map(routed).collect();
    Route { database, eligible_replicas, decisions_since_change }
}

fn limit(l: &snapshot::Limit) -> Limit<'_> {
    Limit { limit: l.kind, name: &l.name, connections: l.limit, used: l.used }
}

fn recent(e: &Event) -> Recent<'_> {
    let at = e.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Recent { at_seconds: at.as_secs_f64(), kind: e.kind, text: &e.text }
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
            leak_threshold_seconds: p.leak_threshold.map(|t| t.as_secs_f64()),
        },
        effective_size: p.effective_size,
        last_size_decision: p.sized.map(|d| d.to_string()),
        servers: p.by_state().into(),
        serves_nobody: p.standstill.as_ref().map(Standstill::code),
        why: p.standstill.as_ref().map(|w| w.words(&p.key.database)),
        utilization: p.utilization(),
        waiting: p.counts.waiting,
        longest_wait_seconds: p.longest_wait.as_secs_f64(),
        pins: p.pins,
        leaking_transactions: p.leaking,
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
            queued: t.queued,
            exhausted: t.exhausted,
            prepared_statement_hits: t.statement_hits,
            prepared_statement_evictions: t.statement_evictions,
            wait_seconds: seconds(t.wait.sum_us),
            transaction_seconds: seconds(t.transaction.sum_us),
            server_seconds: seconds(t.server.sum_us),
            client_seconds: seconds(t.client.sum_us),
            stall_seconds: seconds(t.stall.sum_us),
            round_trips: t.query.count(),
            query_seconds: seconds(t.query.sum_us),
        },
        averages: Averages {
            wait_seconds: mean(&t.wait),
            transaction_seconds: mean(&t.transaction),
            queries_per_transaction: t.queries as f64 / t.transactions.max(1) as f64,
        },
        since_change: since_change(p),
    }
}

fn since_change(p: &PoolFigures) -> SinceChange {
    let (time, w) = &p.since_change;
    SinceChange {
        seconds: time.as_secs_f64(),
        waits: w.waits,
        wait_seconds: seconds(w.wait_us),
        wait_timeouts: w.wait_timeouts,
        transaction_seconds: seconds(w.transaction_us),
        client_parses: w.client_parses,
        server_parses: w.server_parses,
        binds: w.binds,
    }
}

/// Divided once, so that what was exact in microseconds prints as such.
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn mean(h: &Histogram) -> f64 {
    seconds(h.sum_us) / h.count().max(1) as f64
}
