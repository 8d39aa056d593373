//! Who is primary and how far each replica is behind: asked of every host of a database with replicas, on a
//! connection of Howdah's own, once in `monitor_interval` and whenever somebody needs to know at once.
//!
//! [`core`] says what the answers mean, [`routes`] what follows for a database; here is only what asks.

pub mod core;
pub mod names;
pub mod routes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::core::{Change, Facts, HostCore, Lag, Lsn};
pub use self::routes::Routes;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolved::{Database, HostAddr, Role};
use crate::routing::own_writes::Bound;
use crate::server::own::{self, Own, OwnError, Rows};
use crate::server::target::Target;
use crate::shared::Shared;

/// What every host is asked. Further columns are kept by their names: see [`Facts::more`].
///
/// A replica's timeline is that which it receives, which only pg_monitor may see, or else that of its last
/// restartpoint, which may be an older one; then it proves less, never more.
const QUESTION: &str = "SELECT r AS in_recovery, \
     CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END AS lsn, \
     CASE WHEN r THEN coalesce((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver), \
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())) \
     ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))\
       ::bit(32)::int END AS timeline, \
     pg_catalog.current_setting('wal_block_size') AS wal_block_size, \
     pg_catalog.current_setting('max_connections') AS max_connections, \
     pg_catalog.current_setting('server_version_num') AS server_version_num \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS q";

/// The shortest time between two questions to a host, however many want to know.
const LEAST_PAUSE: Duration = Duration::from_millis(5);

/// A host that is watched.
#[derive(Debug)]
pub struct Host {
    pub addr: HostAddr,
    core: Mutex<HostCore>,
    /// Somebody needs an answer now.
    poke: Notify,
    /// Its name leads elsewhere: the monitor's connection is to be opened anew.
    moved: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

impl Host {
    fn core(&self) -> MutexGuard<'_, HostCore> {
        self.core.lock()
    }

    /// Asks as soon as may be.
    pub fn ask(&self) {
        self.poke.notify_one();
    }

    /// Since when it is known that it has replayed what is before a bound.
    fn replayed(&self, bound: Bound) -> Option<Instant> {
        core::replayed(&self.core(), bound.timeline, Lsn(bound.lsn))
    }

    pub fn connection_lost(&self) {
        self.core().connection_lost(Clock::now());
        self.ask();
    }
}

/// A host's figures, for metrics and for people.
#[derive(Debug, Clone)]
pub struct HostFigures {
    pub host: HostAddr,
    pub up: bool,
    pub in_recovery: Option<bool>,
    pub timeline: u32,
    pub lsn: Lsn,
    pub more: BTreeMap<String, String>,
    pub last_error: Option<String>,
}

type Follow = Box<dyn Fn(&Arc<Routes>, bool) + Send + Sync>;

/// All hosts that are watched, and all databases that have routes.
pub struct Monitor {
    shared: Arc<Shared>,
    /// Hears of routes whose servers have changed, and whether another primary was elected.
    follow: Follow,
    hosts: RwLock<HashMap<HostAddr, Arc<Host>>>,
    routes: RwLock<HashMap<Arc<str>, Arc<Routes>>>,
    /// Raised with every new configuration.
    version: AtomicU64,
    generations: AtomicU32,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor(..)")
    }
}

impl Monitor {
    pub fn new(shared: Arc<Shared>, follow: impl Fn(&Arc<Routes>, bool) + Send + Sync + 'static) -> Self {
        Self {
            shared,
            follow: Box::new(follow),
            hosts: RwLock::default(),
            routes: RwLock::default(),
            version: AtomicU64::new(0),
            generations: AtomicU32::new(0),
        }
    }

    /// A database's routes; `None` where it has no replicas.
    pub fn routes(&self, database: &str) -> Option<Arc<Routes>> {
        self.routes.read().get(database).cloned()
    }

    fn next_generation(&self) -> u32 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn all_routes(&self) -> Vec<Arc<Routes>> {
        let mut all: Vec<_> = self.routes.read().values().cloned().collect();
        all.sort_by(|a, b| a.database.cmp(&b.database));
        all
    }

    /// The names of these hosts lead elsewhere: nothing that is known of them holds.
    pub fn moved(&self, is: &dyn Fn(&HostAddr) -> bool) {
        let all: Vec<_> = self.hosts.read().values().filter(|h| is(&h.addr)).cloned().collect();
        for h in all {
            h.moved.store(true, Ordering::Release);
            h.connection_lost();
        }
    }

    /// Every watched host, by address.
    pub fn figures(&self) -> Vec<HostFigures> {
        let mut all: Vec<_> = self.hosts.read().values().cloned().collect();
        all.sort_by(|a, b| a.addr.cmp(&b.addr));
        all.iter()
            .map(|h| {
                let core = h.core();
                let facts = core.sample().map(|s| s.facts.clone()).unwrap_or_default();
                HostFigures {
                    host: h.addr.clone(),
                    up: core.sample().is_some(),
                    in_recovery: core.in_recovery(),
                    timeline: facts.timeline,
                    lsn: facts.lsn,
                    more: facts.more,
                    last_error: core.last_error().map(str::to_owned),
                }
            })
            .collect()
    }

    /// How far a replica of a database is behind; `None` where that is not known.
    pub fn lag(&self, routes: &Routes, index: usize) -> Option<Lag> {
        let replica = &routes.replicas.get(index)?.host;
        let primary = routes.primary().filter(|p| !Arc::ptr_eq(p, replica))?;
        let place = replica.core().place();
        let head = primary.core();
        core::lag(place, Some(&head), Clock::now())
    }

    /// Watches what the configuration names, and nothing else any more. In a runtime.
    pub fn reconfigure(self: &Arc<Self>, config: &Config) {
        let mut hosts = HashMap::new();
        let mut routes = HashMap::new();
        {
            let old_hosts = self.hosts.read();
            let old_routes = self.routes.read();
            let mut obtain = |addr: &HostAddr| {
                let new = || {
                    Arc::new(Host {
                        addr: addr.clone(),
                        core: Mutex::default(),
                        poke: Notify::new(),
                        moved: AtomicBool::new(false),
                        task: Mutex::new(None),
                    })
                };
                let known = || old_hosts.get(addr).cloned();
                hosts.entry(addr.clone()).or_insert_with(|| known().unwrap_or_else(new)).clone()
            };
            let routed = |db: &&Database| db.has_replicas() || db.roles.contains_key(&Role::Admin);
            for db in config.databases.values().filter(routed) {
                let old = old_routes.get(db.name.as_str()).map(|r| &**r);
                let new = Routes::new(self.next_generation(), db, &mut obtain, old);
                new.elect();
                routes.insert(new.database.clone(), Arc::new(new));
            }
        }
        let gone: Vec<Arc<Host>> = {
            let mut known = self.hosts.write();
            let gone = known.values().filter(|h| !hosts.contains_key(&h.addr)).cloned().collect();
            (*known).clone_from(&hosts);
            gone
        };
        *self.routes.write() = routes;
        self.version.fetch_add(1, Ordering::Release);
        for h in gone {
            if let Some(task) = h.task.lock().take() {
                task.abort();
            }
        }
        for h in hosts.values() {
            let mut task = h.task.lock();
            if task.is_none() {
                *task = Some(tokio::spawn(watch(h.clone(), self.clone())).abort_handle());
            }
            h.ask();
        }
    }

    fn routes_of(&self, host: &Host) -> Vec<Arc<Routes>> {
        self.routes.read().values().filter(|r| r.has_host(&host.addr)).cloned().collect()
    }
}

/// As whom a host is asked: by the first database that names it.
fn target(addr: &HostAddr, config: &Config) -> Option<Target> {
    let db = config.databases.values().find(|db| {
        db.has_replicas()
            && (db.replica_hosts().contains(addr) || db.roles.values().any(|r| r.hosts.contains(addr)))
    })?;
    let user: Arc<str> = db.monitor_user(config)?.into();
    let mut target = Target::resolve(config, db, &user, Role::Primary)?;
    if db.server_user.as_deref() != Some(&*user) {
        target.secret = config.users.get(&*user).and_then(|u| u.secret.clone());
        target.user = user;
    }
    target.on_connect.clear();
    target.startup.push(("application_name".to_owned(), own::MONITOR.to_owned()));
    Some(target)
}

/// Asks one host for as long as it is configured.
async fn watch(host: Arc<Host>, monitor: Arc<Monitor>) {
    let mut own = None;
    // Somebody waits for it to replay more: it is asked soon, and less soon with every time that it has not.
    let mut soon = LEAST_PAUSE;
    loop {
        let config = monitor.shared.config();
        let interval = config.limits.monitor_interval;
        if host.moved.swap(false, Ordering::AcqRel) {
            own = None;
            let change = host.core().failed("its name leads to other addresses".to_owned());
            tell(&host, change, &monitor);
        }
        let change = match ask(&host, &mut own, &monitor.shared, &config).await {
            Ok(change) => change,
            Err(why) => {
                own = None;
                let change = host.core().failed(why.clone());
                if change == Change::Down {
                    tracing::warn!(host = %host.addr, error = %why, "the monitor has lost a host");
                }
                monitor.shared.counters.count("monitor_failures_total", "");
                change
            }
        };
        tell(&host, change, &monitor);
        let mut pause = host.core().pause(interval);
        if monitor.routes_of(&host).iter().any(|r| r.awaits(&host)) {
            pause = pause.min(soon);
            soon = soon.saturating_mul(2).min(interval);
        } else {
            soon = LEAST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = async {
                tokio::time::sleep(LEAST_PAUSE).await;
                host.poke.notified().await;
            } => {}
        }
    }
}

/// One question and its answer.
async fn ask(host: &Host, own: &mut Option<Own>, shared: &Shared, config: &Config) -> Result<Change, String> {
    let limit = config.limits.monitor_interval.max(Duration::from_secs(1));
    let conn = match own {
        Some(conn) => conn,
        None => {
            let target = target(&host.addr, config).ok_or("no database names this host any more")?;
            let opened = tokio::time::timeout(
                limit,
                Own::open(host.addr.clone(), &target, &shared.handshakes.servers),
            )
            .await;
            let opened = opened.map_err(|_| format!("no login within {:.1} s", limit.as_secs_f64()))?;
            own.insert(opened.map_err(|f| f.error().to_string())?)
        }
    };
    let asked = Clock::now();
    let answer = own::within(limit, conn.query(QUESTION)).await;
    let answered = Clock::now();
    match answer {
        Ok(rows) => {
            let facts = facts(&rows).ok_or("an answer that is no answer")?;
            Ok(host.core().sampled(asked, answered, facts))
        }
        // Promoted in the middle of the question; what was known stays as old as it is.
        Err(OwnError::Refused(e)) if e.sqlstate() == b"55000" => {
            host.ask();
            Ok(Change::None)
        }
        Err(e) => Err(e.into()),
    }
}

fn facts(rows: &Rows) -> Option<Facts> {
    let text = |column| rows.get(0, column);
    let in_recovery = text("in_recovery")? == "t";
    let page = text("wal_block_size")?.parse().ok()?;
    // A replica that has replayed nothing yet has no place.
    let lsn = text("lsn").map_or(Some(Lsn(0)), Lsn::parse)?;
    let known = ["in_recovery", "lsn", "timeline"];
    let more = rows.columns.iter().filter(|c| !known.contains(&c.as_str()));
    Some(Facts {
        in_recovery,
        lsn: if in_recovery { lsn } else { lsn.before_page_header(page) },
        timeline: text("timeline")?.parse().ok()?,
        more: more.filter_map(|c| Some((c.clone(), text(c)?.to_owned()))).collect(),
    })
}

/// Passes on what a sample has changed.
fn tell(host: &Arc<Host>, change: Change, monitor: &Monitor) {
    let all = monitor.routes_of(host);
    let label = match change {
        Change::Promoted => "promoted",
        Change::Demoted => "demoted",
        Change::Timeline => "timeline",
        Change::None | Change::Up | Change::Down => "",
    };
    if !label.is_empty() {
        monitor.shared.counters.count("role_changes_total", label);
        tracing::warn!(host = %host.addr, change = label, "a server has changed its role");
    }
    for routes in all {
        let elected = change != Change::None && routes.elect();
        if elected {
            let primary = routes.primary().map_or_else(|| "none".to_owned(), |h| h.addr.to_string());
            tracing::info!(database = %routes.database, %primary, "the primary is another one");
        }
        if routes.sampled(host) && change == Change::None {
            // A mark of the primary is worth most when the replicas are asked right behind it.
            for r in routes.replicas.iter().filter(|r| !Arc::ptr_eq(&r.host, host)) {
                r.host.ask();
            }
        }
        if change != Change::None {
            (monitor.follow)(&routes, elected);
        }
        routes.changed.notify_waiters();
    }
}
