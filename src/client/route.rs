//! A session of a database with replicas: where its next transaction goes, and the way there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::session::{Goodbye, Session};
use crate::clients::handle::{ClientCtl, ClientState};
use crate::clock::Clock;
use crate::config::resolved::{Database, PoolMode, Role, WhenNoReplica};
use crate::error::Error;
use crate::monitor::Routes;
use crate::monitor::core::Standing;
use crate::monitor::routes::Nobody;
use crate::pool::{Checkout, Lease, Pool, PoolKey, Waiting};
use crate::proto::params::ParamSet;
use crate::proto::prepared::Statement;
use crate::proto::startup::Startup;
use crate::relay::state::{ClientProto, TxStats};
use crate::routing::classify::{Reading, Verdict, classify};
use crate::routing::first::{First, Known, look};
use crate::routing::held::Held;
use crate::routing::own_writes::{Key, Need};
use crate::routing::{Decision, Reason, Stated, behind_begin, decide, stated_role};
use crate::services::Services;

/// How long the rest of a batch is waited for that has executed something. A client that sends neither Sync nor Flush may
/// be waiting for rows, which PostgreSQL sends as they fill its buffer.
const BATCH_PATIENCE: Duration = Duration::from_millis(100);

/// Behind so many others a waiting client gives its buffer up: a wait that is over in a moment costs less than that.
const KEEP_BUFFERS: usize = 256;

/// What a session keeps about its database's servers.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) routes: Arc<Routes>,
    version: u64,
    /// By the database, the user or the startup packet.
    pub(super) stated: Option<Role>,
    /// Pools of the replicas, in their order, as far as they were needed.
    replicas: Vec<Option<Arc<Pool>>>,
    admin: Option<Arc<Pool>>,
    /// What its session has written, where that matters to its reads.
    key: Option<Key>,
    writing: Option<Writing>,
    /// Its transaction, while no server knows of it.
    pub(super) held: Held,
    /// What the primary reports by default: the settings of the role and of the database are in it, and what a
    /// replica's own configuration says is not.
    primary: Option<Arc<ParamSet>>,
}

/// A transaction that may write, from before it gets a server until after it has given it back.
#[derive(Debug)]
struct Writing {
    key: Key,
    routes: Arc<Routes>,
}

impl Writing {
    fn begin(key: &Key, routes: &Arc<Routes>) -> Self {
        key.lock().begin();
        Self { key: key.clone(), routes: routes.clone() }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let now = Clock::now();
        self.key.lock().end(now);
        self.routes.wrote(now);
    }
}

impl Route {
    pub(super) fn new(
        services: &Services,
        routes: Arc<Routes>,
        stated: Option<Role>,
        session: Option<&str>,
    ) -> Self {
        let replicas = vec![None; routes.replicas.len()];
        let key = routes.read_your_writes().then(|| routes.key(session));
        let version = services.monitor.version();
        Self {
            version,
            routes,
            stated,
            replicas,
            admin: None,
            key,
            writing: None,
            held: Held::No,
            primary: None,
        }
    }

    /// What servers of this pool report by default.
    pub(super) fn reported(&mut self, pool: &Pool, defaults: &Arc<ParamSet>) {
        let known = self.primary.as_ref().is_some_and(|p| Arc::ptr_eq(p, defaults));
        if pool.key.role == Role::Primary && !known {
            self.primary = Some(defaults.clone());
        }
    }

    /// No transaction is under way any more.
    pub(super) fn over(&mut self) {
        self.writing = None;
    }

    /// What a replica must have replayed for the next read.
    fn need(&self) -> Need {
        self.key.as_ref().map_or(Need::Nothing, |k| self.routes.need(k))
    }

    /// The pool that a login asks for what servers report: one that knows it, or one that is sure to be of use.
    pub(super) fn for_login(
        &mut self,
        primary: &Arc<Pool>,
        ctl: &ClientCtl,
        services: &Arc<Services>,
    ) -> Arc<Pool> {
        if primary.welcome.get().is_some() || self.stated == Some(Role::Primary) {
            return primary.clone();
        }
        if self.stated == Some(Role::Admin) {
            return self.admin(&ctl.user, services).unwrap_or_else(|| primary.clone());
        }
        let now = Clock::now();
        let eligible = |i: &usize| self.routes.standing(*i, now) == Standing::Eligible;
        let up: Vec<usize> = (0..self.routes.replicas.len()).filter(eligible).collect();
        let pools: Vec<Arc<Pool>> = up.iter().filter_map(|i| self.replica(*i, &ctl.user, services)).collect();
        let knows = pools.iter().find(|p| p.welcome.get().is_some());
        let only_reads = self.stated == Some(Role::Replica);
        knows.or_else(|| pools.first().filter(|_| only_reads)).unwrap_or(primary).clone()
    }

    /// After a reload the hosts may be others.
    fn refresh(&mut self, services: &Services) {
        let version = services.monitor.version();
        if version == self.version {
            return;
        }
        if let Some(routes) = services.monitor.routes(&self.routes.database) {
            self.replicas = vec![None; routes.replicas.len()];
            self.routes = routes;
            if let Some(k) = &self.key {
                k.lock().forget_place();
            }
        }
        self.admin = None;
        self.version = version;
    }

    fn replica(&mut self, index: usize, user: &Arc<str>, services: &Arc<Services>) -> Option<Arc<Pool>> {
        if let Some(Some(p)) = self.replicas.get(index) {
            return Some(p.clone());
        }
        let host = self.routes.replicas.get(index)?.host.addr.clone();
        let key = PoolKey::of_replica(self.routes.database.clone(), user.clone(), host);
        let pool = services.pools.obtain(&key, &services.pooling)?;
        *self.replicas.get_mut(index)? = Some(pool.clone());
        Some(pool)
    }

    fn admin(&mut self, user: &Arc<str>, services: &Arc<Services>) -> Option<Arc<Pool>> {
        if self.admin.is_none() {
            let key = PoolKey::new(self.routes.database.clone(), user.clone(), Role::Admin);
            self.admin = services.pools.obtain(&key, &services.pooling);
        }
        self.admin.clone()
    }
}

/// Whether anything about routes has to be read at this login.
pub(super) fn concerns(services: &Services, startup: &Startup) -> bool {
    let named = |text: &str| text.contains("howdah.");
    services.monitor.routes(&startup.database).is_some()
        || startup.options.as_deref().is_some_and(named)
        || startup.params.iter().any(|(n, _)| named(n))
}

/// What a login says about routes: `howdah.role` and `howdah.session` among the parameters, which no server gets.
pub(super) fn at_login(
    services: &Services,
    db: &Database,
    startup: &Startup,
    overrides: &mut ParamSet,
) -> Result<Option<Route>, Error> {
    let mut take = |name: &str| {
        let value = overrides.get(name).map(|v| String::from_utf8_lossy(v).into_owned());
        overrides.remove(name);
        value
    };
    let (role, session) = (take("howdah.role"), take("howdah.session"));
    let refused = |what: &str| Err(Error::UnsupportedStartupOption(what.to_owned()));
    let routes = services.monitor.routes(&db.name);
    let role = match role.as_deref().map(|w| (w, stated_role(w))) {
        None => None,
        Some((w, None)) => {
            return refused(&format!("howdah.role={w}, which is not primary, replica or admin"));
        }
        Some((w, Some(role))) => {
            let there = match role {
                Role::Primary => true,
                Role::Replica => db.has_replicas(),
                Role::Admin => db.roles.contains_key(&Role::Admin),
            };
            if !there {
                return refused(&format!("howdah.role={w}, of which this database has no servers"));
            }
            Some(role)
        }
    };
    if session.is_some() && !routes.as_ref().is_some_and(|r| r.read_your_writes()) {
        return refused("howdah.session, but read_your_writes is not in force for this database");
    }
    let admin = || db.routing.admin_pool_users.contains(&startup.user).then_some(Role::Admin);
    let stated = role.or_else(admin).or(db.routing.fixed);
    Ok(routes.map(|r| Route::new(services, r, stated, session.as_deref())))
}

/// The verdict about a prepared statement, made once for each text and kept with it.
struct Statements<'a> {
    client: &'a ClientProto,
    /// Which settings the kept verdicts were made under.
    generation: u32,
}

impl Known for Statements<'_> {
    fn statement(&self, name: &[u8], reading: Reading<'_>) -> Option<Verdict> {
        if name.is_empty() {
            let body = self.client.statements.unnamed()?;
            return Some(classify(text_of(body), reading));
        }
        let statement: &Arc<Statement> = self.client.statements.get(name)?;
        let kept = statement.verdict.get(self.generation).and_then(Verdict::from_bits);
        Some(kept.unwrap_or_else(|| {
            let v = classify(text_of(&statement.body), reading);
            statement.verdict.set(self.generation, v.to_bits());
            v
        }))
    }
}

/// The text in what follows a Parse message's name.
fn text_of(body: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, body).unwrap_or(body.len());
    body.get(..end).unwrap_or_default()
}

/// Why a transaction got no server.
pub(super) enum Unserved {
    Error(Error),
    /// The session ends.
    End(Goodbye),
}

impl Session {
    /// Where its database has several servers. A session of the admin pool has that pool's mode from its first
    /// message on.
    pub(super) fn take_route(&mut self, route: Option<Route>) {
        self.route = route.map(Box::new);
        let (user, services) = (self.ctl.user.clone(), self.services.clone());
        if let Some(r) = &mut self.route
            && r.stated == Some(Role::Admin)
            && let Some(pool) = r.admin(&user, &services)
        {
            self.hot = pool.hot();
        }
    }

    /// A server for the transaction at the front of what the client sent.
    pub(super) async fn routed(&mut self) -> Result<Lease, Option<Goodbye>> {
        if let Some(r) = &mut self.route {
            r.refresh(&self.services);
        }
        let decision = self.decision().await.map_err(Some)?;
        if let Some(r) = &mut self.route
            && let Some(key) = &r.key
        {
            r.writing = (!decision.reads()).then(|| Writing::begin(key, &r.routes));
        }
        let lease = match decision.role {
            Role::Primary => self.on_primary(decision).await,
            Role::Replica => self.on_replica(decision).await,
            Role::Admin => self.on_admin(decision).await,
        };
        match lease {
            Ok(mut lease) => {
                self.hot = lease.pool().hot();
                let replica = lease.pool().key.role == Role::Replica;
                // On the primary only where it must be known what belongs to the read.
                let apart =
                    replica || decision.reads() && self.route.as_ref().is_some_and(|r| r.key.is_some());
                let pool = lease.pool().clone();
                if let (Some(r), Some(conn)) = (&mut self.route, lease.conn()) {
                    r.reported(&pool, &conn.state.defaults);
                }
                if let Some(conn) = lease.conn() {
                    // What may not be the last of its transaction is not followed by anything before it is answered:
                    // the next transaction may belong elsewhere.
                    conn.state.one_at_a_time = apart;
                    conn.state.routed = replica.then(|| decision.reason.as_str());
                }
                Ok(lease)
            }
            Err(why) => Err(self.unserved(why).await),
        }
    }

    async fn decision(&mut self) -> Result<Decision, Goodbye> {
        loop {
            let Some(r) = &self.route else {
                return Ok(Decision { role: Role::Primary, reason: Reason::Write });
            };
            let routing = &r.routes.routing;
            let stated = self.stated(r.stated);
            let reading =
                Reading { selects: routing.selects, hints: routing.hints, functions: &routing.functions };
            let known = Statements { client: &self.proto, generation: r.routes.generation };
            // In session mode it is the whole session that goes somewhere, and no statement tells of that.
            let first = if self.mode() == PoolMode::Session {
                First::Is(Verdict::OTHER)
            } else {
                look(self.up.unscanned(), &known, reading)
            };
            match first {
                First::Is(v) => {
                    let begun = self.has_begun();
                    return Ok(if begun {
                        behind_begin(routing, stated, self.begun_read_only(), v)
                    } else {
                        decide(routing, stated, v)
                    });
                }
                First::NeedMore => self.more().await?,
                First::Pauses(v) => {
                    let decided = match self.has_begun() {
                        true => behind_begin(routing, stated, self.begun_read_only(), v),
                        false => decide(routing, stated, v),
                    };
                    match Box::pin(tokio::time::timeout(BATCH_PATIENCE, self.more())).await {
                        Ok(more) => more?,
                        Err(_) => return Ok(decided),
                    }
                }
            }
        }
    }

    pub(super) fn stated(&self, role: Option<Role>) -> Stated {
        // A replica may say of itself that it is read-only: that is no wish of the session's.
        let primary = self.route.as_ref().and_then(|r| r.primary.as_ref());
        let of = |name: &str| self.proto.overrides.get(name).or_else(|| primary.and_then(|p| p.get(name)));
        let on = |v: &[u8]| matches!(v, b"on" | b"true" | b"yes" | b"1");
        Stated {
            role,
            read_only: of("default_transaction_read_only").is_some_and(on),
            serializable: of("default_transaction_isolation").is_some_and(|v| v == b"serializable"),
        }
    }

    fn mode(&self) -> PoolMode {
        self.pool.mode()
    }

    fn count(&self, role: Role, reason: Reason) {
        if let Some(r) = &self.route {
            r.routes.count(Decision { role, reason });
        }
    }

    async fn on_primary(&mut self, d: Decision) -> Result<Lease, Unserved> {
        self.count(d.role, d.reason);
        let pool = self.pool.clone();
        self.from(&pool).await
    }

    async fn on_admin(&mut self, d: Decision) -> Result<Lease, Unserved> {
        self.count(d.role, d.reason);
        let (user, services) = (self.ctl.user.clone(), self.services.clone());
        let pool = self.route.as_mut().and_then(|r| r.admin(&user, &services));
        let database = self.ctl.database.to_string();
        let pool = pool.ok_or(Unserved::Error(Error::DatabaseRemoved { database }))?;
        self.from(&pool).await
    }

    /// A connection of this pool, at once or after a wait.
    pub(super) async fn from(&mut self, pool: &Arc<Pool>) -> Result<Lease, Unserved> {
        match pool.checkout(&self.ctl, Clock::now()) {
            Checkout::Ready(l) => Ok(l),
            Checkout::Wait(mut w) => self.wait(&mut w).await,
            Checkout::Refused(e) => Err(Unserved::Error(e)),
        }
    }

    /// A replica, or what the configuration says for when there is none.
    async fn on_replica(&mut self, d: Decision) -> Result<Lease, Unserved> {
        let began = Clock::now();
        // Those that turned out not to be reachable, for this transaction.
        let mut failed: Vec<usize> = Vec::new();
        // Those whose connection nothing is known of: it is younger than what the monitor knows.
        let mut unproven: Vec<usize> = Vec::new();
        loop {
            let now = Clock::now();
            let Some(routes) = self.route.as_ref().map(|r| r.routes.clone()) else {
                return Err(Unserved::Error(Error::Internal("a route was lost".to_owned())));
            };
            let need = self.route.as_ref().map_or(Need::Nothing, |r| r.need());
            let nobody = match self.pick(&routes, now, need, &failed, &unproven) {
                Ok(index) => match self.try_replica(&routes, index).await {
                    Ok(Some(lease)) => {
                        self.count(Role::Replica, d.reason);
                        return Ok(lease);
                    }
                    // Not eligible any more when its turn came: another choice.
                    Ok(None) => {
                        if routes.read_your_writes() && routes.standing(index, now) == Standing::Eligible {
                            unproven.push(index);
                        }
                        continue;
                    }
                    Err(Unserved::Error(
                        Error::ServerUnreachable { .. }
                        | Error::ServerLogin(_)
                        | Error::ServerProtocol { .. },
                    )) => {
                        failed.push(index);
                        continue;
                    }
                    Err(e) => return Err(e),
                },
                Err(nobody) => nobody,
            };
            if nobody.0 == Reason::OwnWrites {
                unproven.clear();
                let limit = self.pool.spec().settings.query_wait_timeout.unwrap_or(Duration::MAX);
                let patience = routes.routing.read_your_writes_wait.min(limit);
                if now.saturating_duration_since(began) < patience {
                    self.wait_for_change(&routes, began, nobody).await?;
                    continue;
                }
                return self.on_primary(Decision { role: Role::Primary, reason: nobody.0 }).await;
            }
            match routes.when_no_replica {
                WhenNoReplica::Primary => {
                    return self.on_primary(Decision { role: Role::Primary, reason: nobody.0 }).await;
                }
                WhenNoReplica::Error => {
                    self.count(Role::Replica, nobody.0);
                    let why = nobody.0.as_str();
                    return Err(Unserved::Error(Error::NoReplica {
                        database: routes.database.to_string(),
                        why,
                    }));
                }
                WhenNoReplica::Wait => {
                    failed.clear();
                    self.wait_for_change(&routes, began, nobody).await?;
                }
            }
        }
    }

    fn pick(
        &mut self,
        routes: &Routes,
        now: Instant,
        need: Need,
        failed: &[usize],
        unproven: &[usize],
    ) -> Result<usize, Nobody> {
        let bound = match need {
            Need::Nothing => None,
            Need::Replayed(bound) => Some(bound),
            Need::Primary => return Err(Nobody(Reason::OwnWrites)),
        };
        let n = routes.replicas.len();
        let (user, services) = (self.ctl.user.clone(), self.services.clone());
        let pools: Vec<Option<Arc<Pool>>> = match &mut self.route {
            Some(r) => (0..n).map(|i| r.replica(i, &user, &services)).collect(),
            None => Vec::new(),
        };
        let outstanding = |index: usize| {
            if failed.contains(&index) || unproven.contains(&index) {
                return None;
            }
            let pool = pools.get(index)?.as_ref()?;
            if pool.has_run_dry() {
                return None;
            }
            let c = pool.counts();
            Some(c.leased + c.waiting)
        };
        routes
            .choose(now, bound, &outstanding)
            .map_err(|nobody| if unproven.is_empty() { nobody } else { Nobody(Reason::OwnWrites) })
    }

    /// `None`: it is not eligible any more, or its connection is not known to have what is needed.
    async fn try_replica(&mut self, routes: &Routes, index: usize) -> Result<Option<Lease>, Unserved> {
        let (user, services) = (self.ctl.user.clone(), self.services.clone());
        let pool = self.route.as_mut().and_then(|r| r.replica(index, &user, &services));
        let Some(pool) = pool else { return Ok(None) };
        let mut lease = match pool.checkout(&self.ctl, Clock::now()) {
            Checkout::Ready(l) => l,
            Checkout::Refused(e) => return Err(Unserved::Error(e)),
            Checkout::Wait(mut w) => {
                let lease = self.wait(&mut w).await?;
                if routes.standing(index, Clock::now()) != Standing::Eligible {
                    lease.release_unused();
                    return Ok(None);
                }
                lease
            }
        };
        // Looked at again: another session of the key may have written while this one waited in the queue.
        let proven = match self.route.as_ref().map_or(Need::Nothing, |r| r.need()) {
            Need::Nothing => true,
            Need::Primary => false,
            Need::Replayed(bound) => lease.conn().is_some_and(|c| routes.covers(index, bound, c.opened)),
        };
        if !proven {
            lease.release_unused();
            // It will count for the next one.
            routes.ask_replica(index);
            return Ok(None);
        }
        Ok(Some(lease))
    }

    /// Until a host's state changes, or query_wait_timeout is over.
    async fn wait_for_change(
        &mut self,
        routes: &Routes,
        began: Instant,
        nobody: Nobody,
    ) -> Result<(), Unserved> {
        let limit = self.pool.spec().settings.query_wait_timeout;
        let waited = Clock::now().saturating_duration_since(began);
        let left = limit.map(|l| l.saturating_sub(waited));
        let late = || {
            let database = routes.database.to_string();
            Unserved::Error(Error::NoReplica { database, why: nobody.0.as_str() })
        };
        if left.is_some_and(|l| l.is_zero()) {
            if nobody.0 == Reason::OwnWrites {
                return Ok(());
            }
            self.services.shared.counters.count("timeouts_total", "query_wait_timeout");
            return Err(late());
        }
        // A limit of age can be kept or broken without any event; so it looks again after a while in any case.
        const LOOK: Duration = Duration::from_millis(250);
        // A replica that is in step gets there while this is being read.
        const SOON: Duration = Duration::from_millis(5);
        self.ctl.set_state(ClientState::Waiting, self.services.shared.clock.ms(Clock::now()));
        let look = if nobody.0 == Reason::OwnWrites { SOON } else { LOOK };
        let pause = left.map_or(look, |l| l.min(look));
        let changed = routes.changed.notified();
        let mut over = std::pin::pin!(tokio::time::timeout(pause, changed));
        self.shrink();
        self.while_waiting(|cx, _| over.as_mut().poll(cx).map(drop)).await.map_err(Unserved::End)
    }

    /// Counts what a replica refused.
    pub(super) fn after(&self, lease: &Lease, stats: TxStats) {
        let replica = lease.pool().key.role == Role::Replica;
        if stats.wrote
            && !replica
            && let Some(r) = &self.route
            && let Some(key) = &r.key
        {
            let now = Clock::now();
            key.lock().wrote(now);
            r.routes.wrote(now);
        }
        if self.route.is_none() || !replica {
            return;
        }
        for (n, sqlstate) in [(stats.refused_writes, "25006"), (stats.conflicts, "40001")] {
            for _ in 0..n {
                self.services.shared.counters.count("replica_errors_total", sqlstate);
            }
        }
    }

    /// Waits in a pool's queue, and sees meanwhile whether the client leaves.
    pub(super) async fn wait(&mut self, waiting: &mut Waiting) -> Result<Lease, Unserved> {
        if waiting.ahead() >= KEEP_BUFFERS {
            self.shrink();
        }
        match self.while_waiting(|cx, ctl| waiting.poll(cx, ctl)).await {
            Ok(Ok(l)) => Ok(l),
            Ok(Err(e)) => Err(Unserved::Error(e)),
            Err(why) => Err(Unserved::End(why)),
        }
    }
}
