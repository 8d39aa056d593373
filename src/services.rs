//! What every part of one running Howdah shares.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::auth::failures::Failures;
use crate::auth::source::{BySource, Keyring, Source};
use crate::auth::{DeriveJob, MockSecret, ScramKeys};
use crate::client::ctl::ClientCtl;
use crate::client::strangers::Strangers;
use crate::client::told::Told;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolved::{Profile, Secret};
use crate::control::Control;
use crate::directory::PamPlaces;
use crate::error::{Error, Report, report, report_as_pgbouncer};
use crate::lookup::Lookups;
use crate::metrics::advice::Look;
use crate::metrics::backends::Backends;
use crate::metrics::events::Events;
use crate::metrics::{Counters, Histogram};
use crate::monitor::Monitor;
use crate::net::buffer::BufferPool;
use crate::net::tls::Sides;
use crate::pool::holders::Audit;
use crate::pool::ledger::Ledger;
use crate::pool::registry::Registry;
use crate::pool::stats::Figures;
use crate::proto::params::{ParamInterner, ParamSet};
use crate::proto::prepared::Interner;
use crate::queries::Store;

/// One per process (and per test).
#[derive(Debug)]
pub struct Services {
    pub clock: Clock,
    pub buffers: BufferPool,
    pub statements: Interner,
    pub params: ParamInterner,
    pub nothing: Arc<ParamSet>,
    pub ledger: Ledger,
    pub pools: Registry,
    pub monitor: Monitor,
    pub clients: Clients,
    /// What of errors the log has had lately.
    pub told: Told,
    pub strangers: Arc<Strangers>,
    pub control: Control,
    pub queries: Arc<Store>,
    /// From the connection to the end of the login.
    pub logins: Mutex<Histogram>,
    pub counters: Counters,
    pub events: Events,
    /// Server connections of pools that exist, counted apart from the pools.
    pub server_sockets: Arc<AtomicUsize>,
    pub audit: Mutex<Audit>,
    config: RwLock<Arc<Config>>,
    /// Not yet serving: servers are being asked, minimums opened.
    pub starting: AtomicBool,
    /// Held by whoever examines the servers for advice.
    pub examining: tokio::sync::Mutex<()>,
    /// What was found last, where that is kept.
    pub advice: Mutex<Option<Arc<Look>>>,
    /// Of each server whose capacity was checked, by its address.
    pub backends: Mutex<BTreeMap<String, Backends>>,
    /// Why new clients should go elsewhere, by the part that says so.
    pub not_ready: Mutex<BTreeMap<String, String>>,
    /// The configuration that this process began with.
    pub begun_with: Arc<Config>,
    /// Settings that have changed since, and need a restart to come into force.
    pub restart_needed: Mutex<Vec<&'static str>>,
    pub draining: AtomicBool,
    /// Clients are being told to leave.
    pub seeing_off: AtomicBool,
    pub cancels_in_flight: AtomicUsize,
    /// Transactions that left session state behind, by tag and application.
    pub marks: Mutex<BTreeMap<(&'static str, String), u64>>,
    /// Log lines that were lost, where logging is ours.
    pub log_dropped: std::sync::OnceLock<Arc<AtomicU64>>,
    /// When this machine was started, in seconds since 1970, once somebody wanted to know it.
    pub boot_time: std::sync::OnceLock<Option<f64>>,
    mock_secret: RwLock<MockSecret>,
    pub failures: Mutex<Failures>,
    /// Keys of clients that may be derived at one time.
    derivations: Arc<tokio::sync::Semaphore>,
    /// Where TLS handshakes are computed.
    pub handshakes: Sides,
    pub derived: Derived,
    /// With what the pools log in to servers, where their clients have brought it.
    pub keyring: Mutex<Keyring>,
    pub lookups: Lookups,
    pub pam: PamPlaces,
    /// Clients that were accepted and are not gone; a drain waits for it.
    pub gone: tokio::sync::Notify,
    follows: OnConfig,
    tcp_closed: tokio::sync::watch::Sender<bool>,
}

/// What wants to know of each new configuration.
#[derive(Default)]
struct OnConfig(std::sync::OnceLock<Follow>);

type Follow = Box<dyn Fn(&Config) + Send + Sync>;

impl std::fmt::Debug for OnConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnConfig(..)")
    }
}

/// What stands for users that do not exist: like those that do, and the same after a restart and in all instances, if
/// the configuration has something to make it of. The users' secrets are nothing of the kind: salts go to whoever asks,
/// and would let them be guessed elsewhere.
fn mock_secret(config: &Config) -> MockSecret {
    let mock = match &config.access.mock_secret {
        Some(Secret::Plain(text)) => MockSecret::of(text),
        _ => MockSecret::new(rand::random()),
    };
    mock.iterations(config.access.scram_iterations).verifiers(has_verifiers(config))
}

fn has_verifiers(config: &Config) -> bool {
    let listed = config.users.values().any(|u| matches!(u.secret, Some(Secret::Scram(_))));
    listed || config.asks_for_secrets()
}

impl Services {
    pub fn new(config: Arc<Config>) -> Arc<Self> {
        let clock = Clock::default();
        let params = ParamInterner::default();
        let mock_secret = RwLock::new(mock_secret(&config));
        let pam = PamPlaces::new(config.access.max_pam_requests);
        let derivations = Arc::new(tokio::sync::Semaphore::new(config.process.workers.max(1)));
        let handshakes = Sides::new(config.process.workers);
        Arc::new(Self {
            clock,
            buffers: BufferPool::new(config.limits.buffer_size, config.process.workers),
            statements: Interner::new(move || clock.now_ms()),
            nothing: params.intern(ParamSet::default()),
            params,
            ledger: Ledger::default(),
            pools: Registry::default(),
            monitor: Monitor::default(),
            clients: Clients::default(),
            told: Told::default(),
            strangers: Arc::default(),
            control: Control::default(),
            queries: Arc::new(Store::new(config.process.query_statistics)),
            logins: Mutex::default(),
            counters: Counters::default(),
            events: Events::default(),
            server_sockets: Arc::default(),
            audit: Mutex::default(),
            begun_with: config.clone(),
            restart_needed: Mutex::default(),
            config: RwLock::new(config),
            starting: AtomicBool::new(false),
            examining: tokio::sync::Mutex::default(),
            advice: Mutex::default(),
            backends: Mutex::default(),
            not_ready: Mutex::default(),
            draining: AtomicBool::new(false),
            seeing_off: AtomicBool::new(false),
            cancels_in_flight: AtomicUsize::new(0),
            marks: Mutex::default(),
            log_dropped: std::sync::OnceLock::new(),
            boot_time: std::sync::OnceLock::new(),
            failures: Mutex::default(),
            mock_secret,
            derivations,
            handshakes,
            derived: Derived::default(),
            keyring: Mutex::default(),
            lookups: Lookups::default(),
            pam,
            gone: tokio::sync::Notify::new(),
            follows: OnConfig::default(),
            tcp_closed: tokio::sync::watch::Sender::new(false),
        })
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.read().clone()
    }

    /// A transaction has left session state behind. The names of applications are the clients' choice, so only
    /// so many are kept apart.
    pub fn count_mark(&self, tag: &'static str, application: &str) {
        const APPLICATIONS: usize = 200;
        let mut marks = self.marks.lock();
        let mut key = (tag, application.to_owned());
        if !marks.contains_key(&key) && marks.len() >= APPLICATIONS {
            key.1 = "(other)".to_owned();
        }
        *marks.entry(key).or_insert(0) += 1;
    }

    /// Remembers what people should hear of when they look next.
    pub fn event(&self, kind: &'static str, text: String) {
        self.events.add(Clock::wall(), kind, text);
    }

    pub fn log_disconnections(&self) -> bool {
        self.config.read().process.log_disconnections
    }

    /// Whether errors that clients are told are logged.
    pub fn log_pooler_errors(&self) -> bool {
        self.config.read().compat.process.log_pooler_errors
    }

    pub fn set_config(&self, c: Arc<Config>) {
        self.queries.set_limit(c.process.query_statistics);
        *self.config.write() = c.clone();
        let mut mock = self.mock_secret.write();
        *mock = mock.clone().verifiers(has_verifiers(&c));
        drop(mock);
        self.lookups.distrust_all();
        if let Some(follow) = self.follows.0.get() {
            follow(&c);
        }
    }

    /// Calls `follow` with each configuration that comes into force from now on; the first caller is the only one.
    pub fn on_config(&self, follow: impl Fn(&Config) + Send + Sync + 'static) {
        let _ = self.follows.0.set(Box::new(follow));
    }

    /// The keys of a client that logs in. PBKDF2 takes milliseconds, and by a verifier's word most of a second: it runs
    /// apart from those who relay, and no more of it at one time than there are of them. Guesses would otherwise have
    /// hundreds of threads, and take the machine from everybody who is in. Whoever gives up in the queue is not computed for.
    pub async fn derive(&self, job: DeriveJob) -> Result<ScramKeys, Error> {
        let broken = |e: &dyn std::fmt::Display| Error::Internal(e.to_string());
        let place = self.derivations.clone().acquire_owned().await.map_err(|e| broken(&e))?;
        let run = move || {
            // Until the end, also where nobody waits for that any more.
            let _place = place;
            job.run()
        };
        tokio::task::spawn_blocking(run).await.map_err(|e| broken(&e))
    }

    /// What stands for users that do not exist.
    pub fn mock_secret(&self) -> MockSecret {
        self.mock_secret.read().clone()
    }

    /// What a client is told of an error, in the words of the profile.
    pub fn report(&self, e: &Error) -> Report {
        if self.pgbouncer() { report_as_pgbouncer(e) } else { report(e) }
    }

    /// Ends the TCP listeners.
    pub fn close_tcp(&self) {
        self.tcp_closed.send_replace(true);
    }

    /// Comes when the TCP listeners are to end.
    pub async fn no_more_tcp(&self) {
        let mut closed = self.tcp_closed.subscribe();
        // Its sender lives as long as this does.
        let _ = closed.wait_for(|c| *c).await;
    }

    /// Whether clients see PgBouncer's ways.
    pub fn pgbouncer(&self) -> bool {
        self.config.read().profile == Profile::PgBouncer
    }

    /// Every database that serves: those that are configured, and those of a pattern that clients came for.
    pub fn databases(&self) -> BTreeSet<String> {
        let config = self.config();
        let mut all: BTreeSet<String> = self.pools.databases().into_iter().collect();
        // What was removed serves no more.
        all.retain(|name| config.database(name).is_some());
        all.extend(config.databases.keys().cloned());
        all
    }

    /// The configuration, with a section for each database of a pattern that serves: for those who look at every
    /// database.
    pub fn config_as_served(&self) -> Arc<Config> {
        let config = self.config();
        let of_patterns = self.databases().into_iter().filter(|name| !config.databases.contains_key(name));
        let of_patterns: Vec<_> =
            of_patterns.filter_map(|name| Some((config.database(&name)?.into_owned(), name))).collect();
        if of_patterns.is_empty() {
            return config;
        }
        let mut whole = (*config).clone();
        whole.databases.extend(of_patterns.into_iter().map(|(database, name)| (name, database)));
        Arc::new(whole)
    }

    /// What a database stands at, its logins with it.
    pub fn figures_of(&self, database: &str) -> Figures {
        Figures::of(&self.pools.database_totals(database), self.clients.logins_of(database))
    }

    /// The same of the console, which has no pool.
    pub fn figures_of_console(&self) -> Figures {
        let n = self.control.console_queries.load(Ordering::Relaxed);
        let logins = self.clients.logins_of(crate::config::CONSOLE);
        Figures { transactions: n, queries: n, logins, ..Figures::default() }
    }
}

/// Names of databases whose figures are kept apart, when a pattern takes whatever name a client gives; those of more are
/// summed up under one name.
pub const MOST_NAMES: usize = 10_000;
pub const OTHER_NAMES: &str = "(other)";

/// All clients that are logged in, by number; the number is the pid that they were told.
#[derive(Debug, Default)]
pub struct Clients {
    map: Mutex<HashMap<u64, Arc<ClientCtl>>>,
    next: AtomicU64,
    /// Connections that have been accepted and not ended.
    pub connected: AtomicUsize,
    /// Those of them that have not finished their login.
    pub logging_in: AtomicUsize,
    /// Descriptors that there are for clients, however many max_client_connections allows; 0 is not known.
    pub descriptors: AtomicUsize,
    /// Those that have proved who they are: `max_client_connections` bounds them.
    entered: AtomicUsize,
    per_database: Taken,
    per_user: Taken,
    /// Logins that succeeded, by database; only of names that are configured, or that matched a pattern.
    logins: Mutex<HashMap<String, u64>>,
}

/// The places of a client among those of its database and of its user; gives them back when dropped. The names are one
/// with those of all clients that have the same.
#[derive(Debug)]
pub struct Places {
    services: Arc<Services>,
    pub database: Arc<str>,
    pub user: Arc<str>,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.services.clients.entered.fetch_sub(1, Ordering::Relaxed);
        give_back(&self.services.clients.per_database, &self.database);
        give_back(&self.services.clients.per_user, &self.user);
    }
}

/// How many places there are, and all are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    All(usize),
    Database(usize),
    User(usize),
}

type Taken = Mutex<HashMap<Arc<str>, usize>>;

impl Clients {
    /// A number that fits a pid on the wire and is not in use.
    pub fn next_id(&self) -> u64 {
        let map = self.map.lock();
        loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed) % (i32::MAX as u64) + 1;
            if !map.contains_key(&id) {
                return id;
            }
        }
    }

    /// Clients that have proved who they are.
    pub fn entered(&self) -> usize {
        self.entered.load(Ordering::Relaxed)
    }

    pub fn insert(&self, c: Arc<ClientCtl>) {
        self.map.lock().insert(c.id, c);
    }

    pub fn remove(&self, id: u64) {
        self.map.lock().remove(&id);
    }

    pub fn get(&self, id: u64) -> Option<Arc<ClientCtl>> {
        self.map.lock().get(&id).cloned()
    }

    /// Calls `f` for each client, with the map locked: `f` must be short.
    pub fn each(&self, mut f: impl FnMut(&ClientCtl)) {
        for c in self.map.lock().values() {
            f(c);
        }
    }

    pub fn all(&self) -> Vec<Arc<ClientCtl>> {
        self.map.lock().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.map.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Somebody has proved who they are.
    pub fn count_login(&self, database: &str) {
        let mut logins = self.logins.lock();
        // Where a pattern takes any name, names are the clients' choice.
        let database =
            if logins.len() >= MOST_NAMES && !logins.contains_key(database) { OTHER_NAMES } else { database };
        match logins.get_mut(database) {
            Some(n) => *n += 1,
            None => drop(logins.insert(database.to_owned(), 1)),
        }
    }

    pub fn logins_of(&self, database: &str) -> u64 {
        self.logins.lock().get(database).copied().unwrap_or(0)
    }

    /// Clients of one database, its console apart.
    pub fn of_database(&self, database: &str) -> usize {
        self.per_database.lock().get(database).copied().unwrap_or(0)
    }

    pub fn of_user(&self, user: &str) -> usize {
        self.per_user.lock().get(user).copied().unwrap_or(0)
    }
}

impl Places {
    /// One place of all, one of the database and one of the user, each with its limit.
    pub fn take(
        services: &Arc<Services>,
        most_of_all: Option<u32>,
        (database, most): (&str, Option<u32>),
        (user, most_of_user): (&str, Option<u32>),
    ) -> Result<Self, Full> {
        let clients = &services.clients;
        let room = |n| most_of_all.is_none_or(|most| n < most as usize).then_some(n + 1);
        clients.entered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(Full::All)?;
        let named = take(&clients.per_database, database, most).map_err(Full::Database).and_then(
            |database| match take(&clients.per_user, user, most_of_user) {
                Ok(user) => Ok((database, user)),
                Err(taken) => {
                    give_back(&clients.per_database, &database);
                    Err(Full::User(taken))
                }
            },
        );
        let (database, user) = named.inspect_err(|_| {
            clients.entered.fetch_sub(1, Ordering::Relaxed);
        })?;
        Ok(Self { services: services.clone(), database, user })
    }
}

fn take(taken: &Taken, name: &str, limit: Option<u32>) -> Result<Arc<str>, usize> {
    let mut taken = taken.lock();
    let known = taken.get_key_value(name).map(|(name, n)| (name.clone(), *n));
    let (name, n) = known.unwrap_or_else(|| (name.into(), 0));
    if limit.is_some_and(|l| n >= l as usize) {
        return Err(n);
    }
    taken.insert(name.clone(), n + 1);
    Ok(name)
}

fn give_back(taken: &Taken, name: &Arc<str>) {
    let mut taken = taken.lock();
    if let Some(n) = taken.get_mut(name) {
        *n -= 1;
        if *n == 0 {
            taken.remove(name);
        }
    }
}

/// Keys that were derived from plain secrets, so that PBKDF2 runs once for a user and not once for a login.
#[derive(Default)]
pub struct Derived(Mutex<BySource<(Secret, ScramKeys)>>);

impl std::fmt::Debug for Derived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Derived(..)")
    }
}

impl Derived {
    /// The keys of this user and this same secret.
    pub fn get(&self, source: &Source, user: &str, secret: &Secret) -> Option<ScramKeys> {
        self.0.lock().get(source, user).filter(|(s, _)| s == secret).map(|(_, k)| k.clone())
    }

    pub fn put(&self, source: &Source, user: &str, secret: &Secret, keys: &ScramKeys) {
        self.0.lock().put(source, user, (secret.clone(), keys.clone()));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn minimal() -> Arc<Services> {
        configured(include_str!("../config/minimal.toml"))
    }

    pub(crate) fn configured(text: &str) -> Arc<Services> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("howdah.toml");
        std::fs::write(&path, text).expect("a file");
        let config = crate::config::load(&path, &crate::config::Overrides::default()).expect("valid");
        Services::new(Arc::new(config))
    }

    #[test]
    fn names_of_databases_are_kept_up_to_a_number() {
        let services = minimal();
        for n in 0..MOST_NAMES + 500 {
            services.clients.count_login(&format!("d{n}"));
        }
        assert_eq!(services.clients.logins.lock().len(), MOST_NAMES + 1);
        assert_eq!(services.clients.logins_of(OTHER_NAMES), 500);
        services.clients.count_login("d1");
        assert_eq!(services.clients.logins_of("d1"), 2);
    }

    #[test]
    fn places_are_counted_and_their_names_shared() {
        let services = minimal();
        let counted = || (services.clients.of_database("d"), services.clients.of_user("u"));
        let take = |most: u32, most_of_user: u32| {
            Places::take(&services, Some(2), ("d", Some(most)), ("u", Some(most_of_user)))
        };
        let first = take(2, 2).expect("room");
        let second = take(2, 2).expect("room");
        assert!(Arc::ptr_eq(&first.database, &second.database) && Arc::ptr_eq(&first.user, &second.user));
        assert_eq!(counted(), (2, 2));
        // Whom one of the two refuses has no place in the other.
        assert_eq!((take(9, 9).err(), services.clients.entered()), (Some(Full::All(2)), 2));
        drop(second);
        assert_eq!(take(1, 3).err(), Some(Full::Database(1)));
        assert_eq!(take(3, 1).err(), Some(Full::User(1)));
        assert_eq!((counted(), services.clients.entered()), ((1, 1), 1));
        drop(first);
        assert_eq!(take(1, 0).err(), Some(Full::User(0)));
        assert_eq!((counted(), services.clients.entered()), ((0, 0), 0));
        assert!(
            services.clients.per_database.lock().is_empty() && services.clients.per_user.lock().is_empty()
        );
    }
}
