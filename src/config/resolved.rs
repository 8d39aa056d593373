//! The configuration as the program uses it: every default filled in, every reference resolved.
//!
//! Nothing here is optional because a key was left out; an `Option` means the feature is off. Built only
//! by `config::load`, handed around as an `Arc<Config>` snapshot, never mutated: a reload makes a new one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::draft::Draft;
use super::hidden::Hidden;
pub use super::state::{SessionState, SessionStateOverrides};

pub use super::access::{Access, AuthMethod, ChannelBinding, Lookup};
use super::compat::Compat;
pub use super::limits::Limits;
pub use super::require::ServerMethod;
pub use super::tls::{Tls, TlsFiles};

/// One valid configuration, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where it came from, for messages: a path, or `command line`.
    pub origin: String,
    pub profile: Profile,
    pub listen: Listen,
    pub process: Process,
    pub auth_method: AuthMethod,
    pub access: Access,
    /// Role names that may do everything on the console and use the reserved client places.
    pub admin_users: Vec<String>,
    /// Role names that may look on the console.
    pub stats_users: Vec<String>,
    pub limits: Limits,
    pub capacity: Capacity,
    pub fleet: Fleet,
    pub tls: Tls,
    /// The global section, for what is not known to belong to a database yet.
    pub pool: PoolSettings,
    pub users: BTreeMap<String, User>,
    pub databases: BTreeMap<String, Database>,
    /// What a client's database is made of if no entry has its name; its own name is `*`.
    pub autodb: Option<Database>,
    /// Startup parameters of clients that are accepted and dropped.
    pub ignore_startup_parameters: Vec<String>,
    pub compat: Compat,
    pub notes: Notes,
}

/// What the reading of a configuration leaves for people.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Notes {
    /// What was read and will not do what its author may expect.
    pub warnings: Vec<String>,
    /// The top-level settings in force, by key.
    pub settings: BTreeMap<&'static str, Effective>,
    /// For a setting that is changed while everything runs.
    pub draft: Draft,
}

/// A top-level setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// As TOML; a secret is not shown.
    pub value: String,
    /// The secret itself, so that a change of it is noticed.
    pub hidden: Option<Hidden>,
    /// Whether somebody stated it; otherwise it is the default.
    pub stated: bool,
}

/// Whose behaviour clients see where Howdah and PgBouncer differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    #[default]
    Native,
    PgBouncer,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    pub tcp: Vec<SocketAddr>,
    /// Directory of `.s.PGSQL.<port>`; the port is the first TCP port, or 6432 without TCP.
    pub unix_dir: Option<PathBuf>,
    /// The port in the socket's name, where it is not the first TCP port.
    pub unix_port: Option<u16>,
    /// Permission bits of the socket file.
    pub unix_mode: u32,
    pub backlog: u32,
    /// The HTTP listener of /metrics, /healthz, /readyz.
    pub ops: Option<SocketAddr>,
    pub tcp_keepalive: Keepalive,
}

/// TCP keepalive and TCP_USER_TIMEOUT, for both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    pub enabled: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

/// [`Keepalive`], as far as one level states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepaliveOverrides {
    pub enabled: Option<bool>,
    pub idle: Option<Option<Duration>>,
    pub interval: Option<Option<Duration>>,
    pub count: Option<Option<u32>>,
    pub user_timeout: Option<Option<Duration>>,
}

impl Keepalive {
    fn with(mut self, o: &KeepaliveOverrides) -> Self {
        self.enabled = o.enabled.unwrap_or(self.enabled);
        self.idle = o.idle.unwrap_or(self.idle);
        self.interval = o.interval.unwrap_or(self.interval);
        self.count = o.count.unwrap_or(self.count);
        self.user_timeout = o.user_timeout.unwrap_or(self.user_timeout);
        self
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Worker threads of the runtime; 1 runs everything on one thread.
    pub workers: usize,
    pub log_format: LogFormat,
    /// An `EnvFilter` directive, for example `info` or `howdah=debug`.
    pub log_level: String,
    pub log_connections: bool,
    pub log_disconnections: bool,
    pub drain: Drain,
    pub drain_timeout: Duration,
    pub ops_token: Option<Secret>,
    /// `DATABASE` or `DATABASE/ROLE`.
    pub ready_requires: Vec<String>,
    /// Hosts, beside the loopback ones, by which the ops port may be asked without a token.
    pub ops_hosts: Vec<String>,
    /// Whether /metrics has the names of PgBouncer's exporter, too.
    pub exporter_names: bool,
    /// Statements of which statistics are kept; 0 is none.
    pub query_statistics: usize,
    /// How often totals are logged; `None` is never.
    pub stats_period: Option<Duration>,
    /// How often the servers are examined for the metrics; `None` is never.
    pub advice_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What SIGTERM does to clients that are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Serve until the last client has left, or `drain_timeout` nears.
    Clients,
    /// 57P01 to each client at its next transaction boundary.
    Transactions,
}

/// What is stated about the whole of which this process is a part, and what follows when it does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Processes with this configuration, before the same servers.
    pub instances: u32,
    /// The share of a server's connections that they may use, in thousandths; for the derivation.
    pub safety_margin: u32,
    pub check: CapacityCheck,
    pub startup_requires_server: bool,
    /// How often the servers are asked again while serving.
    pub interval: Option<Duration>,
}

/// What happens when the pools do not fit the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapacityCheck {
    Refuse,
    Warn,
    Off,
}

/// One budget for all instances; without `budget` there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    pub budget: Option<Budget>,
    /// Tells fleets on one server apart.
    pub name: String,
    /// Server connections to each host that each instance is guaranteed, Howdah's own apart.
    pub minimum: u32,
    /// Where the control connections meet: advisory locks are per database.
    pub database: String,
    /// After so long without its control connection an instance is back at its minimum.
    pub control_timeout: Duration,
}

/// Server connections, or a share of what a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    Connections(u32),
    /// Of `max_connections`, in thousandths.
    Share(u32),
}

impl Budget {
    /// In connections, at a server with this `max_connections`.
    pub fn of(self, max_connections: u32) -> u32 {
        match self {
            Self::Connections(n) => n,
            Self::Share(s) => crate::number::narrow(u64::from(max_connections) * u64::from(s) / 1000),
        }
    }
}

/// A password or verifier; its `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Plain(Hidden),
    /// `md5` and 32 hex digits: md5(password || user).
    Md5(Hidden),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    Scram(Hidden),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Secret::Plain(..)",
            Self::Md5(_) => "Secret::Md5(..)",
            Self::Scram(_) => "Secret::Scram(..)",
        })
    }
}

impl Secret {
    /// Tells the kind from the text, as a PgBouncer user list does.
    pub fn classify(text: &str) -> Self {
        let text = Hidden::from(text);
        let is_md5 = text.len() == 35
            && text.starts_with("md5")
            && text.bytes().skip(3).all(|b| b.is_ascii_hexdigit());
        if is_md5 {
            Self::Md5(text)
        } else if text.starts_with("SCRAM-SHA-256$") {
            Self::Scram(text)
        } else {
            Self::Plain(text)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct User {
    pub secret: Option<Secret>,
    /// The user is known: by the user list, or by a section that does not say `listed = false`. A section of a
    /// pgbouncer.ini says only what holds for its user.
    pub listed: bool,
    pub max_connections: Option<u32>,
    pub max_client_connections: Option<u32>,
    pub overrides: PoolOverrides,
}

/// A role of a server, and so of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Primary,
    Replica,
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Primary, Self::Replica, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Admin => "admin",
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostAddr {
    Tcp {
        host: String,
        port: u16,
    },
    /// The directory; the socket is `<dir>/.s.PGSQL.<port>`.
    Unix {
        dir: PathBuf,
        port: u16,
    },
}

impl std::fmt::Display for HostAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { dir, port } => write!(f, "{}/.s.PGSQL.{port}", dir.display()),
        }
    }
}

/// What to do with a read-only transaction when no replica is eligible. It has no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenNoReplica {
    Primary,
    Wait,
    Error,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    pub name: String,
    /// The name on the server.
    pub dbname: String,
    /// Fixed server role for every client, with its secret; `None` uses the client's own name.
    pub server_user: Option<String>,
    pub server_secret: Option<Secret>,
    /// With the global settings applied.
    pub lookup: Lookup,
    pub max_connections: Option<u32>,
    pub max_client_connections: Option<u32>,
    /// Limit per server host, over all pools that reach it through this database entry.
    pub max_host_connections: Option<u32>,
    pub when_no_replica: Option<WhenNoReplica>,
    /// Of several hosts each connection takes the next one, not the first one that works.
    pub load_balance: bool,
    pub routing: super::routing::Routing,
    /// How old each may become.
    pub materialized_views: Vec<(String, Duration)>,
    /// `Primary` is always present.
    pub roles: BTreeMap<Role, RoleConfig>,
    /// Global settings with those of this database applied.
    pub pool: PoolSettings,
    /// `[[pools]]` entries of this database: exact (user, role) first, then user, then role.
    pub pool_overrides: Vec<PoolEntry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RoleConfig {
    /// Tried in turn.
    pub hosts: Vec<HostAddr>,
    pub overrides: PoolOverrides,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PoolEntry {
    pub user: Option<String>,
    pub role: Option<Role>,
    pub overrides: PoolOverrides,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    Session,
    Statement,
}

impl PoolMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Statement => "statement",
        }
    }
}

/// Everything one pool needs to know, after all levels are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    pub mode: PoolMode,
    /// Server connections of one pool; 0 means not stated (refused by validation, or by the profile unlimited).
    pub size: u32,
    /// `size` is the upper bound of one that moves by what is measured.
    pub auto: bool,
    /// Kept open although idle.
    pub min_size: u32,
    pub reserve_size: u32,
    /// Weight among the pools of a server when its connections are divided.
    pub share: u32,
    /// Transactions a second that are expected of the pool, from all instances.
    pub expected_tps: Option<u32>,
    /// Server time of one of them.
    pub expected_duration: Option<Duration>,
    /// Whether a request whose wait cannot end in time is refused at once.
    pub shed_load: bool,
    /// A waiter that has waited this long may use the reserve.
    pub reserve_delay: Duration,
    pub query_timeout: Option<Duration>,
    pub transaction_timeout: Option<Duration>,
    pub idle_transaction_timeout: Option<Duration>,
    pub slow_query_threshold: Option<Duration>,
    pub slow_query_sample_percent: u32,
    /// Idle in transaction for longer than this is a leak.
    pub leak_threshold: Option<Duration>,
    /// Whether a leak is ended, or only reported.
    pub leak_end: bool,
    /// Whether what a client that is gone has sent runs to its end.
    pub finish_for_gone: bool,
    pub query_wait_timeout: Option<Duration>,
    pub client_idle_timeout: Option<Duration>,
    pub cancel_wait_timeout: Duration,
    pub server_connect_timeout: Duration,
    /// Ceiling of the exponential backoff after a failed server login.
    pub server_login_retry: Duration,
    pub client_login_timeout: Duration,
    /// Of the server connections; the global one is also that of clients.
    pub keepalive: Keepalive,
    pub server_lifetime: Option<Duration>,
    pub server_idle_timeout: Option<Duration>,
    /// Sent in the startup packet of every server connection, in order.
    pub startup: Vec<(String, String)>,
    /// Statements run once on a new server connection; a failure closes it.
    pub on_connect: Vec<String>,
    /// What cleans a marked server before another client gets it.
    pub reset_query: String,
    /// Whether session state that shows is reset (`true`), or leaks as PgBouncer's does.
    pub reset_state: bool,
    pub session: SessionState,
    /// In which ways a server may ask for a proof.
    pub require_auth: Vec<ServerMethod>,
}

/// The same, as far as one level states it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolOverrides {
    pub mode: Option<PoolMode>,
    pub size: Option<u32>,
    pub auto: Option<bool>,
    pub min_size: Option<u32>,
    pub reserve_size: Option<u32>,
    pub share: Option<u32>,
    pub expected_tps: Option<Option<u32>>,
    pub expected_duration: Option<Option<Duration>>,
    pub shed_load: Option<bool>,
    pub reserve_delay: Option<Duration>,
    /// In the timeouts the outer `Option` is "stated here", the inner one "off".
    pub query_timeout: Option<Option<Duration>>,
    pub transaction_timeout: Option<Option<Duration>>,
    pub idle_transaction_timeout: Option<Option<Duration>>,
    pub slow_query_threshold: Option<Option<Duration>>,
    pub slow_query_sample_percent: Option<u32>,
    pub leak_threshold: Option<Option<Duration>>,
    pub leak_end: Option<bool>,
    pub finish_for_gone: Option<bool>,
    pub query_wait_timeout: Option<Option<Duration>>,
    pub client_idle_timeout: Option<Option<Duration>>,
    pub cancel_wait_timeout: Option<Duration>,
    pub server_connect_timeout: Option<Duration>,
    pub server_login_retry: Option<Duration>,
    pub client_login_timeout: Option<Duration>,
    pub keepalive: KeepaliveOverrides,
    pub server_lifetime: Option<Option<Duration>>,
    pub server_idle_timeout: Option<Option<Duration>>,
    pub startup: Option<Vec<(String, String)>>,
    pub on_connect: Option<Vec<String>>,
    pub reset_query: Option<String>,
    pub reset_state: Option<bool>,
    pub session: SessionStateOverrides,
    pub require_auth: Option<Vec<ServerMethod>>,
}

impl PoolSettings {
    /// How many of its clients may keep a server connection between their transactions.
    pub fn max_pins(&self) -> usize {
        // A size of 0 is without limit.
        let half = if self.size == 0 { usize::MAX } else { (self.size / 2) as usize };
        self.session.max_pins.map_or(half, |n| n as usize)
    }

    /// This, with what `o` states put over it.
    pub fn with(mut self, o: &PoolOverrides) -> Self {
        macro_rules! over {
            ($($field:ident),* $(,)?) => { $( if let Some(v) = &o.$field { self.$field = v.clone(); } )* };
        }
        self.keepalive = self.keepalive.with(&o.keepalive);
        self.session = self.session.with(&o.session);
        over!(
            mode,
            size,
            auto,
            min_size,
            reserve_size,
            share,
            expected_tps,
            expected_duration,
            shed_load,
            reserve_delay,
            query_timeout,
            transaction_timeout,
            idle_transaction_timeout,
            slow_query_threshold,
            slow_query_sample_percent,
            leak_threshold,
            leak_end,
            finish_for_gone,
            query_wait_timeout,
            client_idle_timeout,
            cancel_wait_timeout,
            server_connect_timeout,
            server_login_retry,
            client_login_timeout,
            server_lifetime,
            server_idle_timeout,
            startup,
            on_connect,
            reset_query,
            reset_state,
            require_auth,
        );
        self
    }
}

impl Config {
    /// The database of this name, or what `*` makes of it.
    pub fn database(&self, name: &str) -> Option<Cow<'_, Database>> {
        if let Some(d) = self.databases.get(name) {
            return Some(Cow::Borrowed(d));
        }
        let mut d = self.autodb.clone()?;
        if d.dbname == d.name {
            name.clone_into(&mut d.dbname);
        }
        name.clone_into(&mut d.name);
        Some(Cow::Owned(d))
    }

    /// The settings of one pool. Precedence, strongest first: `[[pools]]` entry with user and role, with user,
    /// with role; `[users.NAME]`; the role's section; `[databases.NAME]`; the global section.
    pub fn pool_settings(&self, database: &Database, user: &str, role: Role) -> PoolSettings {
        let mut s = database.pool.clone();
        if let Some(r) = database.roles.get(&role) {
            s = s.with(&r.overrides);
        }
        if let Some(u) = self.users.get(user) {
            s = s.with(&u.overrides);
        }
        let mut entries: Vec<&PoolEntry> = database
            .pool_overrides
            .iter()
            .filter(|e| e.user.as_deref().is_none_or(|u| u == user) && e.role.is_none_or(|r| r == role))
            .collect();
        entries.sort_by_key(|e| (e.user.is_some(), e.role.is_some()));
        for e in entries {
            s = s.with(&e.overrides);
        }
        s
    }
}
