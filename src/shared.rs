//! What the parts of one running Howdah share without knowing each other: the clock, counters, buffers, interners, the
//! configuration in force, and what the operator has put in force beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use parking_lot::{Mutex, RwLock};

use crate::auth::source::Keyring;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolved::Profile;
use crate::control::Control;
use crate::error::{Error, Report, report, report_as_pgbouncer};
use crate::metrics::Counters;
use crate::metrics::events::Events;
use crate::net::buffer::BufferPool;
use crate::net::tls::Sides;
use crate::proto::params::{ParamInterner, ParamSet};
use crate::proto::prepared::Interner;
use crate::queries::Store;

/// Names of databases whose figures are kept apart, when a pattern takes whatever name a client gives; those of more are
/// summed up under one name.
pub const MOST_NAMES: usize = 10_000;
pub const OTHER_NAMES: &str = "(other)";

#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub buffers: BufferPool,
    pub statements: Interner,
    pub params: ParamInterner,
    pub nothing: Arc<ParamSet>,
    pub control: Control,
    pub queries: Arc<Store>,
    pub counters: Counters,
    pub events: Events,
    /// Where TLS handshakes are computed.
    pub handshakes: Sides,
    /// With what the pools log in to servers, where their clients have brought it.
    pub keyring: Mutex<Keyring>,
    /// Server connections of pools that exist, counted apart from the pools.
    pub server_sockets: Arc<AtomicUsize>,
    pub cancels_in_flight: AtomicUsize,
    pub draining: AtomicBool,
    /// Transactions that left session state behind, by tag and application.
    pub marks: Mutex<BTreeMap<(&'static str, String), u64>>,
    config: RwLock<Arc<Config>>,
}

impl Shared {
    pub fn new(config: Arc<Config>) -> Self {
        let clock = Clock::default();
        let params = ParamInterner::default();
        Self {
            clock,
            buffers: BufferPool::new(config.limits.buffer_size, config.process.workers),
            statements: Interner::new(move || clock.now_ms()),
            nothing: params.intern(ParamSet::default()),
            params,
            control: Control::default(),
            queries: Arc::new(Store::new(config.process.query_statistics)),
            counters: Counters::default(),
            events: Events::default(),
            handshakes: Sides::new(config.process.workers),
            keyring: Mutex::default(),
            server_sockets: Arc::default(),
            cancels_in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            marks: Mutex::default(),
            config: RwLock::new(config),
        }
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.read().clone()
    }

    pub fn put_in_force(&self, config: Arc<Config>) {
        self.queries.set_limit(config.process.query_statistics);
        *self.config.write() = config;
    }

    /// A transaction has left session state behind. The names of applications are the clients' choice, so only
    /// so many are kept apart.
    pub fn count_mark(&self, tag: &'static str, application: &str) {
        const APPLICATIONS: usize = 200;
        let mut marks = self.marks.lock();
        let mut key = (tag, application.to_owned());
        if !marks.contains_key(&key) && marks.len() >= APPLICATIONS {
            key.1 = OTHER_NAMES.to_owned();
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

    /// Whether clients see PgBouncer's ways.
    pub fn pgbouncer(&self) -> bool {
        self.config.read().profile == Profile::PgBouncer
    }

    /// What a client is told of an error, in the words of the profile.
    pub fn report(&self, e: &Error) -> Report {
        if self.pgbouncer() { report_as_pgbouncer(e) } else { report(e) }
    }
}
