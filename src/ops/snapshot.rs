//! All figures at one moment. /metrics and /stats are both made of it, so that they cannot disagree.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::process::Process;
use crate::clients::handle::ClientState;
use crate::clients::strangers;
use crate::config::Config;
use crate::config::resolved::{HostAddr, PoolMode, Role};
use crate::error::Standstill;
use crate::metrics::Histogram;
use crate::metrics::backends::Backends;
use crate::metrics::events::Event;
use crate::pool::adapt::Decision;
use crate::pool::core::Counts;
use crate::pool::holders::Holder;
use crate::pool::ledger::LimitKey;
use crate::pool::standstill;
use crate::pool::stats::Work;
use crate::pool::{Pool, PoolKey, PoolTotals};
use crate::queries::Fallen;
use crate::services::Services;

#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) pools: Vec<PoolFigures>,
    pub(super) clients: Clients,
    pub(super) strangers: strangers::Places,
    /// Silent connections and slow logins that lost their places.
    pub(super) strangers_cut: (u64, u64),
    pub(super) strangers_limit: u32,
    pub(super) draining: bool,
    /// Settings that need a restart to come into force.
    pub(super) restart_needed: Vec<&'static str>,
    pub(super) listeners: Vec<crate::listener::Row>,
    /// Listeners that were opened and lost, and what they delivered.
    pub(super) listened: [u64; 3],
    pub(super) log_dropped: u64,
    pub(super) marks: std::collections::BTreeMap<(&'static str, String), u64>,
    pub(super) holders: Vec<Holder>,
    pub(super) recent: Vec<Event>,
    /// Leases and sockets.
    pub(super) leaked: (usize, usize),
    pub(super) hosts: Vec<Host>,
    pub(super) limits: Vec<Limit>,
    pub(super) databases: usize,
    /// Databases and roles, and why they serve nobody.
    pub(super) standing: Vec<standstill::Seen>,
    pub(super) users: usize,
    pub(super) exporter_names: bool,
    pub(super) logins: Histogram,
    pub(super) statements: Statements,
    pub(super) prepared: Prepared,
    pub(super) cancels_in_flight: usize,
    pub(super) pam_requests_in_flight: usize,
    /// Of each side: its name, the steps of handshakes that were computed, and the handshakes that wait for a place.
    pub(super) handshakes: [(&'static str, u64, usize); 3],
    /// Name, label, count.
    pub(super) events: Vec<(&'static str, &'static str, u64)>,
    pub(super) uptime: Duration,
    /// Setting, and when what it names expires; what is not there never does.
    pub(super) certificates: [(&'static str, f64); 6],
    pub(super) process: Option<Process>,
    pub(super) routes: super::routes::RouteFigures,
    pub(super) advice: super::advice::Looked,
}

/// A server's address.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) host: String,
    pub(super) used: usize,
    /// What the configuration says that it is.
    pub(super) stated: Vec<&'static str>,
    /// It could not be reached, and is left alone for a while.
    pub(super) unreachable: bool,
    /// As it said last, and how long ago; nothing where its capacity was not checked.
    pub(super) backends: Option<(Duration, Backends)>,
}

/// A limit that pools share; 0 is none.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) limit: u32,
    pub(super) used: usize,
}

fn hosts(services: &Services, config: &Config) -> Vec<Host> {
    let mut all: Vec<HostAddr> =
        config.databases.values().flat_map(|d| d.roles.values()).flat_map(|r| r.hosts.clone()).collect();
    // Databases of a pattern may be on hosts of their own.
    all.extend(services.pools.all().iter().flat_map(|p| p.spec().hosts.clone()));
    all.sort();
    all.dedup();
    let (said, now) = (services.backends.lock().clone(), services.clock.now_ms());
    let stated = |host: &HostAddr| {
        let of = |role: &Role| {
            config.databases.values().any(|d| d.roles.get(role).is_some_and(|r| r.hosts.contains(host)))
        };
        Role::ALL.iter().filter(|r| of(r)).map(|r| r.as_str()).collect()
    };
    all.into_iter()
        .map(|h| Host {
            backends: said
                .get(&h.to_string())
                .map(|b| (Duration::from_millis(now.saturating_sub(b.at_ms)), b.clone())),
            host: h.to_string(),
            stated: stated(&h),
            used: services.ledger.used(&LimitKey::Host(h.clone())),
            unreachable: services.ledger.is_unreachable(&h),
        })
        .collect()
}

/// Of users only those that have a limit, since there may be many.
fn limits(services: &Services, config: &Config) -> Vec<Limit> {
    let used = |key: LimitKey| services.ledger.used(&key);
    let databases = services.databases().into_iter().filter_map(|name| {
        let limit = config.database(&name)?.max_connections.unwrap_or(0);
        let used = used(LimitKey::Database(name.as_str().into()));
        Some(Limit { kind: "database", name, limit, used })
    });
    let users = config.users.iter().filter_map(|(name, u)| {
        let limit = u.max_connections?;
        let used = used(LimitKey::User(name.as_str().into()));
        Some(Limit { kind: "user", name: name.clone(), limit, used })
    });
    databases.chain(users).collect()
}

/// The statistics of statements, as a whole.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Statements {
    pub(super) kept: usize,
    /// Of the kept and the dropped ones.
    pub(super) calls: u64,
    pub(super) fallen: Fallen,
}

impl Statements {
    fn of(services: &Services) -> Self {
        let fallen = services.queries.fallen();
        let (kept, calls) = services.queries.called();
        Self { kept, calls: fallen.calls + calls, fallen }
    }
}

/// What prepared statements take, in bytes, and max_statement_memory.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Prepared {
    pub(super) statements: usize,
    pub(super) texts: usize,
    pub(super) names: usize,
    pub(super) limit: usize,
}

impl Prepared {
    fn of(services: &Services, config: &Config) -> Self {
        let memory = services.statements.memory();
        Self {
            statements: memory.statements(),
            texts: memory.texts(),
            names: memory.names(),
            limit: config.limits.max_statement_memory,
        }
    }
}

/// Client connections by what they do.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Clients {
    pub(super) connected: usize,
    pub(super) limit: u32,
    pub(super) logging_in: usize,
    pub(super) idle: usize,
    pub(super) waiting: usize,
    pub(super) active: usize,
    pub(super) idle_in_transaction: usize,
}

#[derive(Debug, Clone)]
pub(super) struct PoolFigures {
    pub(super) key: PoolKey,
    pub(super) mode: PoolMode,
    pub(super) size: u32,
    /// In force; 0 is without limit.
    pub(super) effective_size: usize,
    /// The last decision about it.
    pub(super) sized: Option<Decision>,
    pub(super) min_size: u32,
    pub(super) reserve_size: u32,
    pub(super) leak_threshold: Option<Duration>,
    pub(super) counts: Counts,
    /// Why it serves nobody.
    pub(super) standstill: Option<Standstill>,
    pub(super) longest_wait: Duration,
    /// Clients that keep a connection between their transactions.
    pub(super) pins: usize,
    /// Transactions that have been idle for longer than leak_threshold.
    pub(super) leaking: usize,
    pub(super) totals: PoolTotals,
    /// Since its size or its servers' statements were last set.
    pub(super) since_change: (Duration, Work),
}

impl Snapshot {
    /// With who holds what, and what happened.
    pub(super) fn take(services: &Arc<Services>) -> Self {
        let mut holders: Vec<Holder> = services.pools.all().iter().flat_map(|p| p.holders()).collect();
        holders.sort_by_key(|h| std::cmp::Reverse((h.caused, h.held)));
        Self { holders, recent: services.events.recent(), ..Self::figures(services) }
    }

    /// What can be added up.
    pub(super) fn figures(services: &Arc<Services>) -> Self {
        let config = services.config();
        Self {
            pools: services.pools.all().iter().map(|p| PoolFigures::of(p)).collect(),
            holders: Vec::new(),
            recent: Vec::new(),
            leaked: services.audit.lock().leaked(),
            hosts: hosts(services, &config),
            limits: limits(services, &config),
            databases: services.databases().len(),
            standing: standstill::all(services),
            users: config.users.len(),
            exporter_names: config.process.exporter_names,
            clients: Clients::of(services),
            strangers: services.strangers.places(),
            strangers_cut: services.strangers.cut(),
            strangers_limit: config.limits.max_login_connections,
            draining: services.draining.load(Ordering::Relaxed),
            restart_needed: services.restart_needed.lock().clone(),
            listeners: services.listeners.rows(),
            listened: {
                let t = services.listeners.totals();
                [&t.opened, &t.lost, &t.delivered].map(|n| n.load(Ordering::Relaxed))
            },
            marks: services.marks.lock().clone(),
            log_dropped: services.log_dropped.get().map_or(0, |c| c.load(Ordering::Relaxed)),
            logins: services.logins.lock().clone(),
            statements: Statements::of(services),
            prepared: Prepared::of(services, &config),
            cancels_in_flight: services.cancels_in_flight.load(Ordering::Relaxed),
            pam_requests_in_flight: services.pam.taken(),
            handshakes: services.handshakes.each().map(|(side, h)| (side, h.steps(), h.waiting())),
            events: services.counters.all(),
            uptime: Duration::from_millis(services.clock.now_ms()),
            process: Process::read(&services.boot_time),
            certificates: certificates(&config),
            routes: super::routes::RouteFigures::take(services),
            advice: super::advice::take(services),
        }
    }
}

fn certificates(config: &Config) -> [(&'static str, f64); 6] {
    let client = config.tls.acceptor.as_ref().map(|a| a.material());
    let server = config.tls.connector.as_ref().map(|c| c.material());
    let ops = config.tls.ops_acceptor.as_ref().map(|a| a.material());
    [
        ("client_tls_cert", client.and_then(|m| m.not_after)),
        ("client_tls_ca", client.and_then(|m| m.ca_not_after)),
        ("server_tls_cert", server.and_then(|m| m.not_after)),
        ("server_tls_ca", server.and_then(|m| m.ca_not_after)),
        ("ops_tls_cert", ops.and_then(|m| m.not_after)),
        ("ops_tls_ca", ops.and_then(|m| m.ca_not_after)),
    ]
    .map(|(setting, end)| (setting, end.map_or(f64::INFINITY, |e| e as f64)))
}

impl Clients {
    fn of(services: &Services) -> Self {
        let mut c = Self {
            connected: services.clients.connected.load(Ordering::Relaxed),
            limit: services.config().limits.max_client_connections,
            logging_in: services.clients.logging_in.load(Ordering::Relaxed),
            ..Self::default()
        };
        services.clients.each(|client| match client.state() {
            // Counted above, with those that nobody knows by a number yet.
            ClientState::Login => {}
            ClientState::Idle => c.idle += 1,
            ClientState::Waiting => c.waiting += 1,
            ClientState::Active => c.active += 1,
            ClientState::IdleInTransaction => c.idle_in_transaction += 1,
        });
        c
    }

    pub(super) fn by_state(&self) -> [(&'static str, usize); 5] {
        [
            ("login", self.logging_in),
            ("idle", self.idle),
            ("waiting", self.waiting),
            ("active", self.active),
            ("idle_in_transaction", self.idle_in_transaction),
        ]
    }
}

impl PoolFigures {
    /// The pool's lock is taken six times, each time for a copy.
    fn of(pool: &Pool) -> Self {
        let spec = pool.spec();
        let s = &spec.settings;
        let (effective_size, sized) = pool.sized();
        Self {
            key: pool.key.clone(),
            mode: s.mode,
            size: s.size,
            effective_size,
            sized,
            min_size: s.min_size,
            reserve_size: s.reserve_size,
            leak_threshold: s.leak_threshold,
            counts: pool.counts(),
            standstill: pool.serves_nobody(),
            longest_wait: pool.longest_wait(),
            pins: pool.pins.places.taken(),
            leaking: pool.leaking.load(Ordering::Relaxed),
            totals: pool.totals(),
            since_change: pool.since_change(),
        }
    }

    pub(super) fn by_state(&self) -> [(&'static str, usize); 6] {
        let c = &self.counts;
        [
            ("idle", c.idle),
            ("active", c.leased),
            ("opening", c.opening),
            ("repairing", c.repairing),
            ("canceling", c.parked),
            ("closing", c.closing),
        ]
    }

    /// How much of the pool cannot be given to the next client; 0 where there is no limit.
    pub(super) fn utilization(&self) -> f64 {
        let busy = self.counts.leased + self.counts.repairing + self.counts.parked;
        if self.size == 0 { 0.0 } else { busy as f64 / f64::from(self.size) }
    }
}
