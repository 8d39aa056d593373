//! One pool: server connections of one (database, user, role), and the queue of those who want one.
//!
//! [`core::PoolCore`] decides under a lock that is held for nanoseconds and never across an await; this module
//! does what it decided. Locks are taken one at a time: pool, ledger and registry never nest.

pub mod adapt;
mod close;
pub mod core;
pub mod departure;
pub mod direct;
pub mod greeting;
pub mod holders;
pub mod inspect;
pub mod lease;
pub mod ledger;
mod links;
pub mod pins;
pub mod pooling;
pub mod registry;
mod roles;
mod server_log;
pub mod shed;
mod size;
pub mod spelling;
pub mod standstill;
pub mod stats;
pub mod timeouts;
mod turns;
mod waiting;
mod welcome;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::task::JoinHandle;

use crate::clients::handle::{ClientCtl, Signal};
use crate::clock::Clock;
use crate::config::resolved::{Config, Database, HostAddr, PoolMode, PoolSettings, Profile, Role};
use crate::error::pgbouncer::LOGIN_FAILED;
use crate::error::{Error, OpenFailure, PoolFigures};
use crate::metrics::Histogram;
use crate::net::tls::Handshakes;
use crate::proto::encode;
use crate::proto::holdings::Rules;
use crate::queries::Scope;
use crate::relay::state::TxStats;
use crate::server::close::Goodbye;
use crate::server::conn::{Quiet, ServerConn, Socket};
use crate::server::connect;
use crate::server::target::{self, Target};
use crate::session_state::Ways;
use crate::shared::Shared;
use crate::tls::Connector;

use self::core::{Acquire, CloseReason, ConnId, CoreSettings, Counts, Effects, Grant, PoolCore, WaitEnd};
use self::greeting::Greetings;
pub use self::lease::Lease;
use self::ledger::LimitKey;
use self::pins::Pins;
use self::pooling::Pooling;
use self::server_log::ServerLog;
use self::spelling::Spellings;
use self::timeouts::Timeouts;
use self::turns::HostTurns;
pub use self::waiting::Waiting;
use self::welcome::Welcome;

/// Whole, never a hash of it: a collision would be another user's connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub role: Role,
    /// Each replica has pools of its own; the others follow their role from host to host.
    pub host: Option<HostAddr>,
}

impl PoolKey {
    pub fn new(database: Arc<str>, user: Arc<str>, role: Role) -> Self {
        Self { database, user, role, host: None }
    }

    pub fn of_replica(database: Arc<str>, user: Arc<str>, host: HostAddr) -> Self {
        Self { database, user, role: Role::Replica, host: Some(host) }
    }
}

impl std::fmt::Display for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.database, self.user, self.role.as_str())?;
        match &self.host {
            Some(h) => write!(f, "@{h}"),
            None => Ok(()),
        }
    }
}

/// What the configuration says about this pool.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    pub settings: PoolSettings,
    pub hosts: Vec<HostAddr>,
    target: Target,
    pub limits: Vec<(LimitKey, Option<usize>)>,
    /// Limits of the hosts, in their order.
    pub host_limits: Vec<Option<usize>>,
    pub process: crate::config::resolved::Limits,
    /// Whose ways waiters and logs follow.
    pub pgbouncer: bool,
    /// Each connection goes to the next host.
    pub load_balance: bool,
    pub servers: crate::config::compat::Servers,
    pub no_simple_query: bool,
}

impl PoolSpec {
    pub fn resolve(config: &Config, db: &Database, key: &PoolKey) -> Option<Self> {
        let hosts = match &key.host {
            Some(h) => vec![db.replica_hosts().contains(h).then(|| h.clone())?],
            None => db.roles.get(&key.role)?.hosts.clone(),
        };
        let settings = target::settings(config, db, &key.user, key.role);
        let user = config.users.get(&*key.user);
        let host_limit = |h: &HostAddr| {
            config
                .databases
                .values()
                .chain(&config.autodb)
                .filter(|d| d.roles.values().any(|r| r.hosts.contains(h)))
                .filter_map(|d| d.max_host_connections)
                .min()
                .map(|n| n as usize)
        };
        Some(Self {
            host_limits: hosts.iter().map(host_limit).collect(),
            hosts,
            target: Target::with(config, db, &key.user, &settings),
            limits: vec![
                (LimitKey::Database(key.database.clone()), db.max_connections.map(|n| n as usize)),
                (LimitKey::User(key.user.clone()), user.and_then(|u| u.max_connections).map(|n| n as usize)),
                (
                    LimitKey::Pool(Box::new(key.clone())),
                    (settings.size > 0).then_some((settings.size + settings.reserve_size) as usize),
                ),
            ],
            process: config.limits.clone(),
            pgbouncer: config.profile == Profile::PgBouncer,
            load_balance: db.load_balance,
            servers: config.compat.servers.clone(),
            no_simple_query: config.compat.login.no_simple_query,
            settings,
        })
    }

    /// Whether what the pool did under the other tells something about this one.
    fn same_measure(&self, other: &Self) -> bool {
        self.settings.size == other.settings.size
            && self.process.max_prepared_statements == other.process.max_prepared_statements
    }

    fn counts_statements(&self) -> bool {
        !self.pgbouncer || self.process.max_prepared_statements > 0
    }

    fn core(&self) -> CoreSettings {
        let s = &self.settings;
        CoreSettings {
            // PgBouncer's 0 is no limit; validation refuses it elsewhere.
            size: if s.size == 0 { usize::MAX / 4 } else { s.size as usize },
            min: s.min_size as usize,
            reserve: s.reserve_size as usize,
            reserve_delay: s.reserve_delay,
            wait_timeout: self.wait_limit().0,
            round_robin: self.servers.round_robin,
            idle_timeout: s.server_idle_timeout,
            max_parallel_opens: self.process.max_parallel_connects.max(1) as usize,
            restart_grace: s.server_login_retry,
            max_backoff: s.server_login_retry,
            fast_fail: self.pgbouncer,
        }
    }

    /// How long a client waits, and whether it is query_timeout that says so: PgBouncer's covers the wait too.
    fn wait_limit(&self) -> (Option<Duration>, bool) {
        let (wait, query) = (self.settings.query_wait_timeout, self.settings.query_timeout);
        match query.filter(|q| self.pgbouncer && wait.is_none_or(|w| *q < w)) {
            Some(q) => (Some(q), true),
            None => (wait, false),
        }
    }

    /// As whom a server is logged in to.
    pub fn server_user(&self) -> &Arc<str> {
        &self.target.user
    }

    /// Whether connections opened under `self` may serve under `other`.
    fn same_servers(&self, other: &Self) -> bool {
        self.hosts == other.hosts && self.target_key() == other.target_key()
    }

    fn target_key(&self) -> impl PartialEq + '_ {
        let t = &self.target;
        (
            &t.dbname,
            &t.user,
            &t.secret,
            &t.startup,
            &t.on_connect,
            t.tls.as_deref(),
            t.binding,
            t.cleartext,
            &t.require_auth,
        )
    }
}

/// Figures of one pool, added to under its lock.
#[derive(Debug, Clone, Default)]
pub struct PoolTotals {
    pub transactions: u64,
    pub queries: u64,
    pub errors: u64,
    pub from_client: u64,
    pub to_client: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    pub opened: u64,
    pub open_failures: u64,
    pub wait_timeouts: u64,
    /// Leases of logins, which ran nothing.
    pub unused: u64,
    pub statement_hits: u64,
    pub statement_evictions: u64,
    /// Clients that found nothing idle.
    pub queued: u64,
    /// Times that the queue was not served for long.
    pub exhausted: u64,
    pub wait: Histogram,
    pub transaction: Histogram,
    /// Of the transactions' time: without what clients took between their queries.
    pub query_us: u64,
    /// A round trip each: a query, or a batch of them.
    pub query: Histogram,
    /// The parts of each transaction's time.
    pub server: Histogram,
    pub client: Histogram,
    pub stall: Histogram,
    /// Of server connections, with their logins.
    pub connect: Histogram,
}

impl PoolTotals {
    pub fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.errors += other.errors;
        self.from_client += other.from_client;
        self.to_client += other.to_client;
        self.client_parses += other.client_parses;
        self.server_parses += other.server_parses;
        self.binds += other.binds;
        self.opened += other.opened;
        self.open_failures += other.open_failures;
        self.wait_timeouts += other.wait_timeouts;
        self.unused += other.unused;
        self.statement_hits += other.statement_hits;
        self.statement_evictions += other.statement_evictions;
        self.queued += other.queued;
        self.exhausted += other.exhausted;
        self.wait.merge(&other.wait);
        self.transaction.merge(&other.transaction);
        self.query_us += other.query_us;
        self.query.merge(&other.query);
        self.server.merge(&other.server);
        self.client.merge(&other.client);
        self.stall.merge(&other.stall);
        self.connect.merge(&other.connect);
    }
}

/// What a session needs of its pool's settings for each transaction; it keeps them while `version` stands.
#[derive(Debug, Clone, Copy)]
pub struct HotSettings {
    pub version: u64,
    pub mode: PoolMode,
    pub timeouts: Timeouts,
    pub client_idle: Option<Duration>,
    pub max_message: u32,
    pub max_statement: usize,
    pub max_server_statements: usize,
    pub max_client_statements: usize,
    pub max_server_memory: usize,
    pub max_client_memory: usize,
    pub max_memory: usize,
    /// A server connection that was idle for so long is checked before use.
    pub check_after: Option<Duration>,
    pub reset_always: bool,
    pub wait_notify: Option<Duration>,
    pub no_simple_query: bool,
    /// What is done about session state.
    pub session: Rules,
}

/// Where session state stays or is reset as PgBouncer does it, nothing is asked.
fn rules(s: &PoolSettings) -> Rules {
    let asks = s.reset_state && s.mode != PoolMode::Session;
    Rules {
        asks,
        always: asks && s.session.always,
        own_connection: s.mode == PoolMode::Session,
        ways: if asks { s.session.ways } else { Ways::RESET },
        timeout: s.session.check_timeout,
    }
}

type Core = PoolCore<Box<ServerConn>, Waker, Arc<ClientCtl>, inspect::Facts>;

#[derive(Debug)]
struct Inner {
    core: Core,
    totals: PoolTotals,
    /// Kept only where the size moves.
    limiter: Option<adapt::Limiter>,
    /// Kept only where load is shed.
    shortest: Option<shed::Shortest>,
    /// PgBouncer's figures of statements stand still where it shares none.
    counts_statements: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    pub key: PoolKey,
    pub pooling: Arc<Pooling>,
    shared: Arc<Shared>,
    pub pins: Pins,
    inner: Mutex<Inner>,
    spec: RwLock<Arc<PoolSpec>>,
    /// When its size or its servers' statements were last set, and what it had done by then.
    changed: Mutex<(Instant, stats::Work)>,
    pub welcome: Welcome,
    pub spellings: Spellings,
    /// Raised when connections opened before must not be used any more.
    epoch: AtomicU64,
    turns: HostTurns,
    log: ServerLog,
    /// Raised with every new configuration.
    version: AtomicU64,
    hot: Mutex<Option<Arc<HotSettings>>>,
    pub greetings: Greetings,
    /// The statements of its clients.
    pub queries: Scope,
    told: Mutex<holders::Told>,
    /// Transactions that have been idle for longer than leak_threshold.
    pub leaking: AtomicUsize,
    /// Connections of clients' own, see [`direct`].
    own: Mutex<Vec<inspect::Server>>,
    /// Since when nobody uses it, in milliseconds of the clock; 0 where somebody does.
    unused: AtomicU64,
}

/// How long a client held a connection and what it did with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeaseReport {
    pub stats: TxStats,
    pub transaction: Duration,
    pub completed: bool,
    /// The transactions of this lease are booked already: only what came behind the last is not.
    pub partial: bool,
    /// The last round trip.
    pub query_us: Option<u64>,
}

impl Pool {
    pub fn new(key: PoolKey, spec: PoolSpec, pooling: Arc<Pooling>) -> Arc<Self> {
        let queries = Scope::new(pooling.shared.queries.clone(), key.database.clone());
        queries.set_slow(spec.settings.slow_query_threshold, spec.settings.slow_query_sample_percent);
        let limiter = spec.limiter();
        Arc::new(Self {
            queries,
            told: Mutex::default(),
            leaking: AtomicUsize::new(0),
            own: Mutex::default(),
            unused: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                core: PoolCore::new(size::in_force(spec.core(), limiter.as_ref())),
                limiter,
                totals: PoolTotals::default(),
                shortest: spec.settings.shed_load.then(shed::Shortest::default),
                counts_statements: spec.counts_statements(),
            }),
            spec: RwLock::new(Arc::new(spec)),
            changed: Mutex::new((Clock::now(), stats::Work::default())),
            welcome: Welcome::new(Clock::now()),
            spellings: Spellings::default(),
            epoch: AtomicU64::new(0),
            turns: HostTurns::default(),
            log: ServerLog::new(key.clone(), pooling.shared.clone()),
            version: AtomicU64::new(0),
            hot: Mutex::default(),
            greetings: Greetings::default(),
            pins: Pins::default(),
            key,
            shared: pooling.shared.clone(),
            pooling,
        })
    }

    pub fn spec(&self) -> Arc<PoolSpec> {
        self.spec.read().clone()
    }

    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// One for all sessions.
    pub fn hot(&self) -> Arc<HotSettings> {
        let version = self.version();
        if let Some(h) = self.hot.lock().as_ref().filter(|h| h.version == version) {
            return h.clone();
        }
        let hot = Arc::new(self.resolve_hot(version));
        *self.hot.lock() = Some(hot.clone());
        hot
    }

    fn resolve_hot(&self, version: u64) -> HotSettings {
        let spec = self.spec();
        let (s, p) = (&spec.settings, &spec.process);
        self.pins.places.set_bound(s.max_pins());
        HotSettings {
            version,
            mode: s.mode,
            timeouts: Timeouts {
                query: s.query_timeout,
                session_idle: s.client_idle_timeout.filter(|_| s.mode == PoolMode::Session),
                client_idle: s.client_idle_timeout,
                transaction: s.transaction_timeout,
                idle_transaction: s.idle_transaction_timeout,
                client_write: p.client_write_timeout,
                cancel_wait: s.cancel_wait_timeout,
                query_ends: spec.pgbouncer,
                finish_for_gone: s.finish_for_gone,
            },
            client_idle: s.client_idle_timeout,
            max_message: p.max_message_size,
            max_statement: p.max_statement_size as usize,
            max_server_statements: p.max_prepared_statements as usize,
            max_client_statements: p.max_client_statements.map_or(usize::MAX, |n| n as usize),
            max_server_memory: p.max_server_statement_memory,
            max_client_memory: p.max_client_statement_memory,
            max_memory: p.max_statement_memory,
            check_after: spec.servers.check_query.as_ref().map(|_| spec.servers.check_delay),
            reset_always: spec.servers.reset_always && !s.reset_query.is_empty(),
            wait_notify: spec.servers.wait_notify,
            no_simple_query: spec.no_simple_query,
            session: rules(s),
        }
    }

    pub fn counts(&self) -> Counts {
        let own = self.own.lock().len();
        let mut c = self.inner.lock().core.counts();
        c.leased += own;
        c
    }

    pub fn totals(&self) -> PoolTotals {
        self.inner.lock().totals.clone()
    }

    /// For how long its size and its servers' statements have been what they are, and what it has done since: what it
    /// did before tells nothing about them.
    pub fn since_change(&self) -> (Duration, stats::Work) {
        let (at, before) = *self.changed.lock();
        (
            Clock::now().saturating_duration_since(at),
            stats::Work::of(&self.inner.lock().totals).since(&before),
        )
    }

    /// What is known of its servers: connections that are open, and the last failure if nothing succeeded since,
    /// with its age.
    pub fn seen(&self) -> (usize, Option<(Error, Duration)>) {
        let now = Clock::now();
        let inner = self.inner.lock();
        let c = inner.core.counts();
        let failure = inner.core.last_failure();
        (c.live() - c.opening, failure.map(|(e, at)| (e.clone(), now.saturating_duration_since(at))))
    }

    /// How long the first in the queue has waited.
    pub fn longest_wait(&self) -> Duration {
        let oldest = self.inner.lock().core.oldest_wait();
        oldest.map_or(Duration::ZERO, |t| Clock::now().saturating_duration_since(t))
    }

    /// What logins find is asked anew.
    fn forget_welcome(&self) {
        self.welcome.forget(Clock::now());
        self.spellings.clear();
    }

    /// A new configuration: sizes apply at once, other servers as connections come back.
    pub fn reconfigure(self: &Arc<Self>, spec: PoolSpec) {
        let same = self.spec.read().same_servers(&spec);
        if !self.spec.read().same_measure(&spec) {
            *self.changed.lock() = (Clock::now(), stats::Work::of(&self.totals()));
        }
        let (core, limiter) = (spec.core(), spec.limiter());
        self.queries.set_slow(spec.settings.slow_query_threshold, spec.settings.slow_query_sample_percent);
        let (sheds, counts_statements) = (spec.settings.shed_load, spec.counts_statements());
        *self.spec.write() = Arc::new(spec);
        self.version.fetch_add(1, Ordering::Release);
        let mut fx = Effects::default();
        {
            let mut inner = self.inner.lock();
            inner.limiter = match (inner.limiter.take(), limiter) {
                (Some(mut old), Some(_)) => {
                    old.rebound(core.min, core.size);
                    Some(old)
                }
                (_, new) => new,
            };
            let core = size::in_force(core, inner.limiter.as_ref());
            inner.core.reconfigure(core);
            inner.counts_statements = counts_statements;
            inner.shortest = sheds.then(|| inner.shortest.take().unwrap_or_default());
            if !same {
                self.epoch.fetch_add(1, Ordering::Relaxed);
                inner.core.doom_all(CloseReason::Reconfigured, &mut fx);
                inner.core.forget_failures();
            }
        }
        if !same {
            self.forget_welcome();
            self.end_sessions();
        }
        fx.look = true;
        self.apply(fx);
    }

    /// `server_fast_close`: clients of a session pool hear that their server goes before they would leave it.
    fn end_sessions(&self) {
        let spec = self.spec();
        if !spec.servers.fast_close || spec.settings.mode != PoolMode::Session {
            return;
        }
        let holders: Vec<_> = self.inner.lock().core.held().map(|h| h.holder.clone()).collect();
        for c in holders {
            c.signal(Signal::ServerReplaced);
        }
    }

    /// Ends the pool; leased connections close as they come back.
    pub fn close(self: &Arc<Self>) {
        let fx = self.inner.lock().core.close();
        self.apply(fx);
    }

    /// The figures for an error about this pool.
    pub fn figures(&self) -> PoolFigures {
        let now = Clock::now();
        let limited_by = self.limiting().map(|(k, n)| match k {
            LimitKey::Fleet(_) | LimitKey::Pool(_) => k.to_string(),
            LimitKey::Database(_) | LimitKey::User(_) | LimitKey::Host(_) => format!("{k} = {n}"),
        });
        let standstill = self.standstill();
        let own = self.own_servers();
        let oldest = own.iter().filter_map(|s| Some((s.holder.as_ref()?, s.since))).min_by_key(|(_, t)| *t);
        let inner = self.inner.lock();
        let c = inner.core.counts();
        let holder = inner
            .core
            .oldest_holder()
            .into_iter()
            .chain(oldest)
            .min_by_key(|(_, since)| *since)
            .map(|(h, since)| h.describe(&self.shared.clock, now.saturating_duration_since(since)));
        PoolFigures {
            pool: self.key.to_string(),
            database: self.key.database.to_string(),
            standstill,
            in_use: c.leased + c.parked + c.repairing + own.len(),
            size: inner.core.settings().size,
            connecting: c.opening,
            closing: c.closing,
            pinned: self.pins.places.taken(),
            waiting: c.waiting,
            oldest_holder: holder,
            last_connect_error: inner.core.last_error().map(ToString::to_string),
            limited_by,
        }
    }

    fn limiting(&self) -> Option<(LimitKey, usize)> {
        self.spec()
            .wanted(0)
            .into_iter()
            // The pool's own size is told anyway.
            .filter(|(k, _)| !matches!(k, LimitKey::Pool(_)) || !self.own.lock().is_empty())
            .find_map(|(k, l)| l.filter(|l| self.pooling.ledger.used(&k) >= *l).map(|l| (k, l)))
            .or_else(|| {
                let host = self.current_host()?;
                let lacks = self.demand(Clock::now()).1 > 0;
                (lacks && self.pooling.ledger.out_of_places(&host)).then_some((LimitKey::Fleet(host), 0))
            })
    }

    // ---- getting a connection

    /// Takes a connection if one is idle, without waiting. The usual case: one lock, no allocation.
    #[inline]
    fn try_take(self: &Arc<Self>, ctl: &Arc<ClientCtl>, now: Instant) -> Result<Lease, Acquire<()>> {
        loop {
            let got = {
                let mut inner = self.inner.lock();
                let got = inner.core.acquire(now, ctl);
                match got {
                    Acquire::Granted(_) => inner.totals.wait.add(0),
                    Acquire::Queued(_) => inner.totals.queued += 1,
                    Acquire::Refused(_) => {}
                }
                got
            };
            match got {
                Acquire::Granted(g) => {
                    if let Some(lease) = self.accept(g, ctl, now) {
                        return Ok(lease);
                    }
                }
                Acquire::Queued(w) => return Err(Acquire::Queued(w)),
                Acquire::Refused(e) => return Err(Acquire::Refused(e)),
            }
        }
    }

    /// A granted connection, unless it died while it was idle.
    #[inline]
    fn accept(
        self: &Arc<Self>,
        mut g: Grant<Box<ServerConn>>,
        ctl: &Arc<ClientCtl>,
        now: Instant,
    ) -> Option<Lease> {
        let mut notifies = 0;
        let quiet = g.conn.quiet(&mut notifies);
        for _ in 0..notifies {
            self.shared.counters.count("notifies_dropped_total", "");
        }
        let reason = match quiet {
            Quiet::Yes if g.conn.state.contradicts_role() => "role",
            Quiet::Yes if g.conn.epoch == self.epoch.load(Ordering::Relaxed) => {
                ctl.set_lease(self, g.id, g.lease);
                return Some(Lease::new(self.clone(), g, now));
            }
            Quiet::Yes => "reconfigured",
            Quiet::Dead(why) => why,
        };
        self.lost(g.id, g.conn, reason);
        None
    }

    /// Takes a connection if one is idle; else joins the queue. Nothing is allocated where one is idle.
    #[inline]
    pub fn checkout(self: &Arc<Self>, ctl: &Arc<ClientCtl>, now: Instant) -> Checkout {
        match self.try_take(ctl, now) {
            Ok(lease) => Checkout::Ready(lease),
            Err(Acquire::Queued(id)) => {
                let mut waiting = Waiting::new(self.clone(), id, now);
                match self.shed(now) {
                    // The place in the queue goes with `waiting`.
                    Err(refused) => Checkout::Refused(refused),
                    Ok(ahead) => {
                        waiting.ahead = ahead;
                        Checkout::Wait(waiting)
                    }
                }
            }
            Err(Acquire::Refused(end)) => {
                self.look_at(now);
                Checkout::Refused(self.wait_error(end, now))
            }
            Err(Acquire::Granted(_)) => Checkout::Refused(Error::Internal("granted nothing".to_owned())),
        }
    }

    /// How many wait before who has just joined the queue; with `shed_load` the error if it cannot be served in time.
    fn shed(&self, now: Instant) -> Result<usize, Error> {
        let (estimate, limit) = {
            let mut inner = self.inner.lock();
            let ahead = inner.core.counts().waiting.saturating_sub(1);
            let Some(shortest) = inner.shortest.as_mut().and_then(|s| s.get(now)) else { return Ok(ahead) };
            let s = inner.core.settings();
            let Some(limit) = s.wait_timeout else { return Ok(ahead) };
            let estimate = shed::lower_bound(ahead, s.size.saturating_add(s.reserve), shortest);
            if estimate <= limit {
                return Ok(ahead);
            }
            (estimate, limit)
        };
        Err(Error::LoadShed { estimate, limit, figures: Box::new(self.figures()) })
    }

    /// [`Self::checkout`] and the wait in one.
    pub async fn acquire(self: &Arc<Self>, ctl: &Arc<ClientCtl>) -> Result<Lease, Error> {
        match self.checkout(ctl, Clock::now()) {
            Checkout::Ready(l) => Ok(l),
            Checkout::Wait(mut w) => std::future::poll_fn(|cx| w.poll(cx, ctl)).await,
            Checkout::Refused(e) => Err(e),
        }
    }

    pub(super) fn wait_error(&self, end: WaitEnd, since: Instant) -> Error {
        let waited = Clock::now().saturating_duration_since(since);
        match end {
            WaitEnd::TimedOut => {
                self.inner.lock().totals.wait_timeouts += 1;
                if self.spec().wait_limit().1 {
                    self.shared.counters.count("timeouts_total", "query_timeout");
                    return Error::ProtocolViolation("query_timeout".to_owned());
                }
                self.shared.counters.count("timeouts_total", "query_wait_timeout");
                let limit = self.spec().settings.query_wait_timeout.unwrap_or_default();
                let figures = Box::new(self.figures());
                self.tell_wait_timeout(waited);
                Error::WaitTimeout { waited, limit, figures }
            }
            WaitEnd::Failed(e) => e,
            WaitEnd::Failing(Error::ServerLogin(e)) => {
                let host = self.current_host().map(|h| h.to_string()).unwrap_or_default();
                Error::ServerUnreachable { host, reason: format!("{LOGIN_FAILED}{}", e.message()) }
            }
            WaitEnd::Failing(e) => e,
            WaitEnd::Cancelled => {
                self.shared.counters.count("waiters_cancelled_total", "cancel_request");
                Error::CancelledWhileWaiting { waited }
            }
            WaitEnd::Closed if self.shared.draining.load(Ordering::Relaxed) => Error::ServersShuttingDown,
            WaitEnd::Closed => Error::DatabaseRemoved { database: self.key.database.to_string() },
        }
    }

    /// A CancelRequest for a client that waits.
    pub fn cancel_waiter(&self, id: core::WaiterId) {
        let waker = self.inner.lock().core.cancel_waiter(id);
        if let Some(w) = waker {
            w.wake();
        }
    }

    // ---- giving it back

    #[inline]
    fn release(self: &Arc<Self>, id: ConnId, mut conn: Box<ServerConn>, report: &LeaseReport, now: Instant) {
        conn.released = now;
        let mut fx = Effects::default();
        {
            let mut inner = self.inner.lock();
            inner.book(report);
            if let Some(shortest) = inner.shortest.as_mut()
                && report.completed
            {
                shortest.add(now, report.transaction);
            }
            inner.core.release(now, id, conn, &mut fx);
        }
        self.apply(fx);
    }

    fn release_unused(self: &Arc<Self>, id: ConnId, conn: Box<ServerConn>) {
        let mut fx = Effects::default();
        {
            let mut inner = self.inner.lock();
            inner.totals.unused += 1;
            inner.core.release_unused(Clock::now(), id, conn, &mut fx);
        }
        self.apply(fx);
    }

    fn release_quietly(self: &Arc<Self>, id: ConnId, conn: Box<ServerConn>) {
        let mut fx = Effects::default();
        self.inner.lock().core.release(Clock::now(), id, conn, &mut fx);
        self.apply(fx);
    }

    /// A round trip inside of a transaction took so long.
    pub fn book_query(&self, us: u64) {
        self.inner.lock().totals.query.add(us);
    }

    fn book_only(&self, report: &LeaseReport) {
        self.inner.lock().book(report);
    }

    /// Does what the core decided.
    fn apply(self: &Arc<Self>, fx: Effects<Box<ServerConn>, Waker>) {
        for w in fx.wake {
            w.wake();
        }
        for (id, conn, reason) in fx.close {
            self.shared.counters.count("server_disconnects_total", reason.as_str());
            self.log.ended(&conn, reason.as_str(), None);
            self.close_conn(id, conn, Goodbye::Terminate);
        }
        if fx.look {
            self.look();
        }
    }

    // ---- opening

    /// Opens connections as far as the core wants them and the limits have room. Returns whether it opens any.
    pub fn look(self: &Arc<Self>) -> bool {
        self.look_at(Clock::now())
    }

    fn look_at(self: &Arc<Self>, now: Instant) -> bool {
        let mut opens = false;
        loop {
            if !self.inner.lock().core.wants_open(now) {
                return opens;
            }
            let spec = self.spec();
            let Some(index) = self.dialable(&spec, now) else {
                return opens;
            };
            match self.pooling.ledger.take(&spec.wanted(index), &self.pooling) {
                Ok(room) => {
                    let mut inner = self.inner.lock();
                    // Somebody else may have looked meanwhile.
                    if !inner.core.wants_open(now) {
                        drop(inner);
                        return opens;
                    }
                    let from_reserve = inner.core.opens_from_reserve();
                    let id = inner.core.begin_open(now);
                    if from_reserve {
                        if spec.pgbouncer {
                            tracing::warn!(target: "pgbouncer", "{} taking connection from reserve_pool", self.log.who(0, &spec, index));
                        }
                        self.shared.counters.count("reserve_connections_total", "");
                    }
                    drop(inner);
                    if spec.load_balance {
                        self.turns.advance();
                    }
                    let guard = OpenGuard { pool: self.clone(), id: Some(id) };
                    tokio::spawn(guard.run(spec, index, room));
                    opens = true;
                }
                Err((key, _)) => {
                    self.pooling.ledger.starve(self);
                    registry::make_room(self, &key);
                    return opens;
                }
            }
        }
    }

    /// Whether this pool's connections count towards a limit.
    fn counts_towards(&self, key: &LimitKey) -> bool {
        match key {
            LimitKey::Database(d) => *d == self.key.database,
            LimitKey::User(u) => *u == self.key.user,
            LimitKey::Host(h) => self.spec().hosts.contains(h),
            // Other instances give back, not other pools of this one.
            LimitKey::Fleet(_) => false,
            LimitKey::Pool(k) => **k == self.key,
        }
    }

    /// For another pool; PgBouncer keeps no minimum then.
    fn evict(self: &Arc<Self>, promise: bool) -> bool {
        let spec = self.spec();
        let keep = if spec.pgbouncer { 0 } else { spec.settings.min_size as usize };
        self.evict_down_to(keep, promise)
    }

    fn evict_down_to(self: &Arc<Self>, keep: usize, promise: bool) -> bool {
        let mut fx = Effects::default();
        let done = self.inner.lock().core.evict(keep, promise, &mut fx);
        self.apply(fx);
        done
    }

    /// See [`PoolCore::demand`].
    pub fn demand(&self, now: Instant) -> (usize, usize) {
        self.inner.lock().core.demand(now)
    }

    /// See [`PoolCore::give_back`]; returns how many will be free, now or at a release.
    pub fn give_back(self: &Arc<Self>, n: usize) -> usize {
        let mut fx = Effects::default();
        let given = {
            let mut inner = self.inner.lock();
            let leased = inner.core.counts().leased;
            let closed = inner.core.give_back(n, &mut fx);
            closed + (n - closed).min(leased)
        };
        self.apply(fx);
        given
    }

    /// The next host that may be dialled. One that is down for another pool is down for this one, too, and one that
    /// is not of the pool's role is none; the janitor looks again.
    fn dialable(&self, spec: &PoolSpec, now: Instant) -> Option<usize> {
        self.turns.first(&spec.hosts, |h| self.pooling.ledger.may_dial(h, now) && self.may_dial(h))
    }

    /// The host to which the next dial goes, perhaps after a pause; where none has the pool's role, the one whose
    /// turn it is.
    fn next_index(&self, spec: &PoolSpec) -> usize {
        let role = || self.turns.first(&spec.hosts, |h| self.may_dial(h));
        let turn = || self.turns.turn(spec.hosts.len());
        self.dialable(spec, Clock::now()).or_else(role).unwrap_or_else(turn)
    }

    /// The host to which the next dial goes.
    pub fn current_host(&self) -> Option<HostAddr> {
        let spec = self.spec();
        spec.hosts.get(self.next_index(&spec)).cloned()
    }

    fn idle_since(&self) -> Option<Instant> {
        self.inner.lock().core.idle_since()
    }

    // ---- time

    /// Called every few milliseconds by the janitor.
    pub fn tick(self: &Arc<Self>, now: Instant) {
        let fx = {
            let mut inner = self.inner.lock();
            let ms = self.shared.clock.ms(now);
            for (ctl, _) in inner.core.holders() {
                ctl.wake_if_due(ms);
            }
            inner.core.tick(now)
        };
        self.apply(fx);
    }

    /// Takes in what idle servers said, and drops those that went away.
    pub fn sweep(self: &Arc<Self>) {
        let mut notifies = 0;
        let mut reasons = Vec::new();
        let dead = self.inner.lock().core.sweep_idle(|c| match c.quiet(&mut notifies) {
            Quiet::Yes => true,
            Quiet::Dead(why) => {
                reasons.push(why);
                false
            }
        });
        for _ in 0..notifies {
            self.shared.counters.count("notifies_dropped_total", "");
        }
        for ((id, conn), reason) in dead.into_iter().zip(reasons) {
            self.shared.counters.count("server_disconnects_total", reason);
            self.log.ended(&conn, reason, None);
            self.close_conn(id, conn, Goodbye::Terminate);
        }
        self.look();
    }

    // ---- cancel

    /// Sends a CancelRequest for a lease, if it still holds, and keeps its connection from changing hands until
    /// the server has closed the cancel's own connection.
    pub fn cancel_lease(self: &Arc<Self>, id: ConnId, lease: u64, to: CancelTarget) {
        if self.begin_cancel(id, lease) {
            let pool = self.clone();
            tokio::spawn(async move {
                pool.run_cancel(id, to).await;
            });
        }
    }

    /// The same for a lease of which only the numbers are known. The caller has counted it as in flight; if it is
    /// refused, the caller takes that back.
    pub fn cancel_holder(self: &Arc<Self>, id: ConnId, lease: u64) -> Option<JoinHandle<()>> {
        let to = self.inner.lock().core.begin_cancel_of(id, lease)?.cancel;
        let pool = self.clone();
        Some(tokio::spawn(async move {
            pool.run_cancel(id, to).await;
        }))
    }

    /// For a connection that is one client's own: nobody else can be hit. Counted as in flight by the caller.
    pub fn cancel_own(self: &Arc<Self>, to: &CancelTarget) -> JoinHandle<()> {
        let (pool, to) = (self.clone(), to.clone());
        tokio::spawn(async move {
            pool.send_and_count(&to).await;
            pool.shared.cancels_in_flight.fetch_sub(1, Ordering::Relaxed);
        })
    }

    fn begin_cancel(&self, id: ConnId, lease: u64) -> bool {
        let begun = self.inner.lock().core.begin_cancel(id, lease);
        if begun {
            self.shared.cancels_in_flight.fetch_add(1, Ordering::Relaxed);
        }
        begun
    }

    /// After a begin that succeeded and was counted as in flight.
    async fn run_cancel(self: &Arc<Self>, id: ConnId, to: CancelTarget) {
        // However this ends: what is not known to be over may strike yet.
        let mut end = CancelGuard { pool: self.clone(), id, sent: true };
        end.sent = self.send_and_count(&to).await == Cancelled::Unknown;
    }

    async fn send_and_count(&self, to: &CancelTarget) -> Cancelled {
        let spec = self.spec();
        let limit = spec.settings.cancel_wait_timeout;
        let mut sent = false;
        let outcome = tokio::time::timeout(
            limit,
            send_cancel(to, &spec.target.keepalive, &self.shared.handshakes.servers, &mut sent),
        )
        .await;
        let label = match &outcome {
            Ok(Ok(())) => "sent",
            Ok(Err(_)) => "failed",
            Err(_) => "timeout",
        };
        self.shared.counters.count("cancels_forwarded_total", label);
        match outcome {
            Ok(Ok(())) => Cancelled::Over,
            _ if !sent => Cancelled::Over,
            _ => {
                tracing::warn!(
                    pool = %self.key,
                    host = %to.host,
                    pid = to.pid,
                    limit_ms = crate::number::millis(limit),
                    "a cancel was sent and the server did not end its connection within cancel_wait_timeout; the \
                     server connection that it is for is closed when it is given back"
                );
                Cancelled::Unknown
            }
        }
    }
}

/// What is known of a cancel that nobody waits for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    /// It has struck, or it was never sent.
    Over,
    /// It was sent, and may strike yet.
    Unknown,
}

impl Inner {
    #[inline]
    fn book(&mut self, r: &LeaseReport) {
        let t = &mut self.totals;
        t.transactions += u64::from(r.completed);
        t.queries += r.stats.queries as u64;
        t.errors += r.stats.errors as u64;
        t.from_client += r.stats.from_client;
        t.to_client += r.stats.to_client;
        if self.counts_statements {
            t.client_parses += r.stats.client_parses as u64;
            t.server_parses += r.stats.server_parses as u64;
            t.binds += r.stats.binds as u64;
        }
        t.statement_hits += r.stats.statement_hits as u64;
        t.statement_evictions += r.stats.statement_evictions as u64;
        if r.partial {
            return;
        }
        let (all, client, stall) =
            (crate::number::micros(r.transaction), r.stats.client_us, r.stats.stall_us);
        t.transaction.add(all);
        t.query_us += all.saturating_sub(client);
        t.server.add(all.saturating_sub(client + stall));
        t.client.add(client);
        t.stall.add(stall);
        if let Some(us) = r.query_us {
            t.query.add(us);
        }
    }
}

impl PoolSpec {
    fn wanted(&self, host: usize) -> Vec<(LimitKey, Option<usize>)> {
        let mut v = self.limits.clone();
        if let Some(h) = self.hosts.get(host) {
            v.push((LimitKey::Host(h.clone()), self.host_limits.get(host).copied().flatten()));
        }
        v
    }
}

/// Where a CancelRequest goes.
#[derive(Debug, Clone)]
pub struct CancelTarget {
    pub host: HostAddr,
    pub pid: i32,
    pub key: Vec<u8>,
    pub tls: Option<Arc<Connector>>,
}

/// How to cancel what runs on this connection.
fn cancel_target(c: &ServerConn) -> CancelTarget {
    CancelTarget { host: c.host.clone(), pid: c.pid, key: c.cancel_key.clone(), tls: c.tls.clone() }
}

async fn send_cancel(
    to: &CancelTarget,
    keepalive: &crate::config::resolved::Keepalive,
    beside: &Handshakes,
    sent: &mut bool,
) -> std::io::Result<()> {
    let mut s = connect::dial_for_cancel(&to.host, keepalive, to.tls.as_ref(), beside).await?;
    let packet = encode::cancel_request(to.pid, &to.key)
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    *sent = true;
    s.write_all(&packet).await?;
    // The server closes once it has sent the signal; until then the cancel may still strike.
    let mut sink = Vec::new();
    while s.read_some(&mut sink).await? > 0 {
        sink.clear();
    }
    Ok(())
}

struct CancelGuard {
    pool: Arc<Pool>,
    id: ConnId,
    /// It was sent, and nothing says that it has struck.
    sent: bool,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.pool.shared.cancels_in_flight.fetch_sub(1, Ordering::Relaxed);
        let (fx, holder) = {
            let mut inner = self.pool.inner.lock();
            let fx = inner.core.end_cancel(Clock::now(), self.id, self.sent);
            (fx, inner.core.holder(self.id))
        };
        self.pool.apply(fx);
        // It may have waited for the end of the cancel.
        if let Some(h) = holder {
            h.waker.wake();
        }
    }
}

/// See [`Pool::checkout`].
#[derive(Debug)]
pub enum Checkout {
    Ready(Lease),
    Wait(Waiting),
    Refused(Error),
}

impl Pool {
    /// What a dial needs, with what clients of this database have shown of their secrets.
    pub fn target(&self, spec: &PoolSpec) -> Target {
        let mut target = spec.target.clone();
        let keyring = self.shared.keyring.lock();
        let shown = keyring.get(&self.key.database, &spec.target.user);
        if target.secret.is_none() {
            target.secret = shown.map(|s| s.secret.clone());
        }
        target.keys =
            shown.filter(|s| target.secret.as_ref() == Some(&s.secret)).and_then(|s| s.keys.clone());
        target
    }
}

/// A dial under way; a panic or an abort in it counts as a failure, so that its place is never lost.
struct OpenGuard {
    pool: Arc<Pool>,
    id: Option<ConnId>,
}

impl OpenGuard {
    async fn run(mut self, spec: Arc<PoolSpec>, index: usize, room: ledger::Room) {
        let pool = self.pool.clone();
        let Some(host) = spec.hosts.get(index).cloned() else { return };
        let epoch = pool.epoch.load(Ordering::Relaxed);
        let nothing = pool.shared.nothing.clone();
        let began = Clock::now();
        let target = pool.target(&spec);
        let beside = &pool.shared.handshakes.servers;
        let result = connect::open(host.clone(), &target, epoch, Box::new(room), nothing, beside).await;
        let Some(id) = self.id.take() else { return };
        match result {
            Ok(mut conn) => match pool.check_role(&mut conn) {
                Ok(()) => pool.opened(id, conn, &spec, began),
                Err(f) => pool.open_failed(id, f, &spec, &host, index),
            },
            Err(f) => pool.open_failed(id, f, &spec, &host, index),
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let e = Error::Internal("a connection attempt ended early".to_owned());
            let fx = self.pool.inner.lock().core.open_failed(Clock::now(), id, OpenFailure::Local(e), 0.5);
            self.pool.apply(fx);
        }
    }
}

impl Pool {
    /// Whoever the connection is for: what is counted, logged and known from now on.
    fn arrived(&self, conn: &mut ServerConn, spec: &PoolSpec, began: Instant) -> inspect::Facts {
        self.log.count_login(conn, spec);
        self.turns.reached();
        self.pooling.ledger.host_reached(&conn.host);
        conn.counted = Some(Socket::new(&self.shared.server_sockets));
        conn.serial = self.pooling.clients.next_id();
        tracing::debug!(pool = %self.key, host = %conn.host, pid = conn.pid, "server connection opened");
        self.log.opened(conn, spec);
        let mut inner = self.inner.lock();
        inner.totals.opened += 1;
        inner.totals.connect.add(Clock::us(began, Clock::now()));
        inspect::Facts::of(cancel_target(conn), conn.serial, conn.opened, &conn.stream)
    }

    fn opened(self: &Arc<Self>, id: ConnId, mut conn: Box<ServerConn>, spec: &PoolSpec, began: Instant) {
        let now = Clock::now();
        let facts = self.arrived(&mut conn, spec, began);
        // The defaults are interned so that clients that log in share them.
        let defaults = self.shared.params.intern((*conn.state.defaults).clone());
        conn.state.defaults = defaults.clone();
        conn.state.view = defaults.clone();
        self.welcome.reported(began, defaults);
        // ± 10 %, so that connections opened together do not end together.
        let expires = spec.settings.server_lifetime.map(|l| now + l.mul_f64(rand::random_range(0.9..=1.1)));
        let host = conn.host.clone();
        let (restored, fx) = {
            let mut inner = self.inner.lock();
            (inner.core.is_down(), inner.core.opened(now, id, conn, expires, facts))
        };
        if restored {
            self.shared.event("server_up", format!("pool {}: {host} is reached again", self.key));
        }
        self.apply(fx);
    }

    /// Whoever the connection was for: what is counted, logged and known of the host from now on.
    fn note_failure(
        &self,
        f: &OpenFailure,
        spec: &PoolSpec,
        host: &HostAddr,
        index: usize,
        replication: bool,
    ) {
        self.shared.counters.count("server_connect_failures_total", f.label());
        if matches!(f.error(), Error::ServerTls { .. }) {
            self.shared.counters.count("tls_handshake_failures_total", "server");
        }
        tracing::warn!(pool = %self.key, %host, replication, error = %f.error(), "cannot open a server connection");
        if matches!(f, OpenFailure::Unreachable(_)) {
            let max = spec.settings.server_login_retry;
            self.pooling.ledger.host_unreachable(host, Clock::now(), max, rand::random());
        }
        if spec.pgbouncer {
            self.log.failed(f, spec, index, replication);
        }
    }

    fn open_failed(
        self: &Arc<Self>,
        id: ConnId,
        f: OpenFailure,
        spec: &PoolSpec,
        host: &HostAddr,
        index: usize,
    ) {
        self.note_failure(&f, spec, host, index, false);
        let f = match f {
            // PgBouncer's clients wait for the next attempt, as long as query_wait_timeout lets them.
            OpenFailure::Unreachable(e) | OpenFailure::Fatal(e @ Error::ServerTls { .. })
                if spec.pgbouncer =>
            {
                OpenFailure::Transient(e)
            }
            f => f,
        };
        let f = self.patient(f);
        let f = if spec.hosts.len() > 1 { self.turns.failed(index, f, spec.hosts.len()) } else { f };
        let why = f.error().to_string();
        let (fx, down) = {
            let mut inner = self.inner.lock();
            inner.totals.open_failures += 1;
            let before = inner.core.is_down();
            let fx = inner.core.open_failed(Clock::now(), id, f, rand::random());
            (fx, inner.core.is_down() && !before)
        };
        if down {
            let text = format!("pool {}: {host} cannot be used, clients are told: {why}", self.key);
            self.shared.event("server_down", text);
        }
        self.apply(fx);
    }
}

#[cfg(test)]
pub(crate) mod tests;
