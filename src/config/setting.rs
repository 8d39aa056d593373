//! What the declaration of a setting is made of; the declarations themselves are in [`super::settings`].

use super::hidden::Hidden;
use super::resolved::{Config, PoolOverrides, Role, WhenNoReplica};
use super::value::{Kind, Value};

/// A kind of section. The same key may exist in several, then with the same meaning at a narrower scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Top level of the file.
    Global,
    /// `[databases.NAME]`
    Database,
    /// `[databases.NAME.replica]` and `[databases.NAME.admin]`
    Role,
    /// `[users.NAME]`
    User,
    /// `[[pools]]`
    Pool,
    /// `[peers.NUMBER]`
    Peer,
    /// `[fleet]`
    Fleet,
}

impl Level {
    /// The levels that say something about a pool.
    pub const ALL: [Self; 5] = [Self::Global, Self::Database, Self::Role, Self::User, Self::Pool];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Global => "top level",
            Self::Database => "[databases.NAME]",
            Self::Role => "[databases.NAME.replica] and .admin",
            Self::User => "[users.NAME]",
            Self::Pool => "[[pools]]",
            Self::Peer => "[peers.NUMBER]",
            Self::Fleet => "[fleet]",
        }
    }

    /// Sections inside a section of this level.
    pub(super) const fn children(self) -> &'static [&'static str] {
        match self {
            Self::Global => &["users", "databases", "pools", "peers", "fleet"],
            Self::Database => &["replica", "admin"],
            Self::Role | Self::User | Self::Pool | Self::Peer | Self::Fleet => &[],
        }
    }
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    Live,
    NewConnections,
    Restart,
}

impl Reload {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live, on reload",
            Self::NewConnections => "for new connections, on reload",
            Self::Restart => "restart",
        }
    }
}

/// What holds when a setting is not stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// This value, written as in a variable.
    Is(&'static str),
    /// There is no safe value, so the operator must state one.
    Mandatory,
    /// The setting simply is not there.
    Unset,
}

/// The names of a setting in a `pgbouncer.ini`, and PgBouncer's default for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PgBouncer {
    /// In `[pgbouncer]`.
    pub main: Option<&'static str>,
    /// In the connection string of a `[databases]` entry.
    pub database: Option<&'static str>,
    /// In a `[users]` entry.
    pub user: Option<&'static str>,
    /// In native notation; `None` where the native default holds.
    pub preset: Option<&'static str>,
    /// What 0 means there, in native notation, where it is not what 0 means here.
    pub zero: Option<&'static str>,
    /// A bare number is in milliseconds, not seconds.
    pub millis: bool,
}

impl PgBouncer {
    pub(super) const NONE: Self =
        Self { main: None, database: None, user: None, preset: None, zero: None, millis: false };

    pub(super) const fn main(name: &'static str) -> Self {
        Self { main: Some(name), ..Self::NONE }
    }
    pub(super) const fn database(self, name: &'static str) -> Self {
        Self { database: Some(name), ..self }
    }
    pub(super) const fn user(self, name: &'static str) -> Self {
        Self { user: Some(name), ..self }
    }
    pub(super) const fn preset(self, value: &'static str) -> Self {
        Self { preset: Some(value), ..self }
    }
    pub(super) const fn zero(self, value: &'static str) -> Self {
        Self { zero: Some(value), ..self }
    }
    pub(super) const fn millis(self) -> Self {
        Self { millis: true, ..self }
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = [self.main, self.database, self.user].into_iter().flatten().collect();
        names.dedup();
        names
    }
}

/// Puts a value where it belongs; false if the declaration gives it a type that it does not take.
#[derive(Clone, Copy)]
pub(super) enum Put {
    Config(fn(&mut Config, &Value) -> bool),
    Section(fn(&mut Section, &Value) -> bool),
}

/// One setting, wholly.
pub struct Setting {
    pub key: &'static str,
    pub levels: &'static [Level],
    pub kind: Kind,
    pub preset: Preset,
    /// Why the default is what it is, or why there is none.
    pub reason: &'static str,
    pub reload: Reload,
    pub pgbouncer: PgBouncer,
    pub doc: &'static str,
    pub(super) put: Put,
}

impl Setting {
    /// The variable that sets it at the top level.
    pub fn variable(&self) -> String {
        format!("HOWDAH_{}", self.key.to_uppercase())
    }

    /// Whether its value is shown nowhere: not in logs, in errors, on the console or on the ops port.
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    /// Whether its value is, or may hold, a secret: in a statement, or in a parameter, anything can stand. Such a value is
    /// shown to those who may see the configuration, and not in the log.
    pub fn may_hold_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::Statement | Kind::Statements | Kind::Parameters)
    }

    /// Its default under a profile, if it has one.
    pub(super) fn preset(&self, pgbouncer: bool) -> Option<&'static str> {
        let native = match self.preset {
            Preset::Is(text) => Some(text),
            Preset::Mandatory | Preset::Unset => None,
        };
        if pgbouncer { self.pgbouncer.preset.or(native) } else { native }
    }

    pub(super) fn at(&self, level: Level) -> bool {
        self.levels.contains(&level)
    }
}

/// What a section states, of whatever level; which of it can be stated where is up to the declarations.
#[derive(Default)]
pub(super) struct Section {
    pub overrides: PoolOverrides,
    pub hosts: Vec<String>,
    pub port: Option<u16>,
    pub dbname: Option<String>,
    pub user: Option<String>,
    pub password: Option<Hidden>,
    pub password_file: Option<String>,
    pub password_env: Option<String>,
    pub listed: Option<bool>,
    pub auth_file: Option<String>,
    pub lookup: super::resolved::Lookup,
    pub ops_token_file: Option<String>,
    pub database: Option<String>,
    pub role: Option<Role>,
    pub load_balance: Option<bool>,
    pub when_no_replica: Option<WhenNoReplica>,
    pub routing: super::routing::RoutingSection,
    pub materialized_views: Vec<(String, String)>,
    /// In the limits the outer `Option` is "stated here", the inner one "no limit".
    pub max_connections: Option<Option<u32>>,
    pub max_client_connections: Option<Option<u32>>,
    pub max_host_connections: Option<Option<u32>>,
    pub max_database_connections: Option<u32>,
    pub max_database_client_connections: Option<u32>,
    pub max_user_connections: Option<u32>,
    pub max_user_client_connections: Option<u32>,
}
