//! The parts of one running Howdah.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::auth::failures::Failures;
use crate::auth::source::{BySource, Source};
use crate::auth::{DeriveJob, MockSecret, ScramKeys};
use crate::clients::strangers::Strangers;
use crate::config::Config;
use crate::config::resolved::Secret;
use crate::directory::PamPlaces;
use crate::error::Error;
use crate::journal::told::Told;
use crate::listener::Listeners;
use crate::lookup::Lookups;
use crate::metrics::Histogram;
use crate::metrics::advice::Look;
use crate::metrics::backends::Backends;
use crate::pool::pooling::Pooling;
use crate::pool::stats::Figures;
use crate::shared::Shared;

/// One per process (and per test).
#[derive(Debug)]
pub struct Services {
    pub pooling: Arc<Pooling>,
    pub shared: Arc<Shared>,
    /// What of errors the log has had lately.
    pub told: Told,
    pub strangers: Arc<Strangers>,
    /// From the connection to the end of the login.
    pub logins: Mutex<Histogram>,
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
    /// Clients are being told to leave.
    pub seeing_off: AtomicBool,
    /// Log lines that were lost, where logging is ours.
    pub log_dropped: std::sync::OnceLock<Arc<AtomicU64>>,
    /// When this machine was started, in seconds since 1970, once somebody wanted to know it.
    pub boot_time: std::sync::OnceLock<Option<f64>>,
    mock_secret: RwLock<MockSecret>,
    pub failures: Mutex<Failures>,
    /// Keys of clients that may be derived at one time.
    derivations: Arc<tokio::sync::Semaphore>,
    pub derived: Derived,
    pub lookups: Lookups,
    pub listeners: Listeners,
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

impl Deref for Services {
    type Target = Pooling;

    fn deref(&self) -> &Pooling {
        &self.pooling
    }
}

impl Services {
    pub fn new(config: Arc<Config>) -> Arc<Self> {
        let mock_secret = RwLock::new(mock_secret(&config));
        let pam = PamPlaces::new(config.access.max_pam_requests);
        let derivations = Arc::new(tokio::sync::Semaphore::new(config.process.workers.max(1)));
        let shared = Arc::new(Shared::new(config.clone()));
        Arc::new(Self {
            pooling: Pooling::new(shared.clone()),
            told: Told::new(shared.clone()),
            shared,
            strangers: Arc::default(),
            logins: Mutex::default(),
            begun_with: config,
            restart_needed: Mutex::default(),
            starting: AtomicBool::new(false),
            examining: tokio::sync::Mutex::default(),
            advice: Mutex::default(),
            backends: Mutex::default(),
            not_ready: Mutex::default(),
            seeing_off: AtomicBool::new(false),
            log_dropped: std::sync::OnceLock::new(),
            boot_time: std::sync::OnceLock::new(),
            failures: Mutex::default(),
            mock_secret,
            derivations,
            derived: Derived::default(),
            lookups: Lookups::default(),
            listeners: Listeners::default(),
            pam,
            gone: tokio::sync::Notify::new(),
            follows: OnConfig::default(),
            tcp_closed: tokio::sync::watch::Sender::new(false),
        })
    }

    pub fn set_config(&self, c: Arc<Config>) {
        self.put_in_force(c.clone());
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
}
