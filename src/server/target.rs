//! What a dial needs, as the configuration has it: as whom to log in, with what, and how the way is secured.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::ScramKeys;
use crate::config::Config;
use crate::config::resolved::{
    ChannelBinding, Database, Keepalive, PoolSettings, Role, Secret, ServerMethod,
};
use crate::tls::Connector;

/// Everything that a dial needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub dbname: String,
    pub user: Arc<str>,
    pub secret: Option<Secret>,
    /// Keys of a client that proved the same secret, where that is a verifier.
    pub keys: Option<ScramKeys>,
    pub startup: Vec<(String, String)>,
    pub on_connect: Vec<String>,
    pub keepalive: Keepalive,
    pub timeout: Duration,
    pub max_message: u32,
    /// `None` is plain text.
    pub tls: Option<Arc<Connector>>,
    /// In which ways the server may ask for a proof.
    pub require_auth: Vec<ServerMethod>,
    /// A password may be sent as it is where nothing vouches for the server.
    pub cleartext: bool,
    pub binding: ChannelBinding,
}

impl Target {
    /// For servers of this database in this role, on behalf of this user; `None` where the database has no such role.
    pub fn resolve(config: &Config, db: &Database, user: &Arc<str>, role: Role) -> Option<Self> {
        db.roles.get(&role)?;
        Some(Self::with(config, db, user, &settings(config, db, user, role)))
    }

    /// The same with settings that are resolved already.
    pub fn with(config: &Config, db: &Database, user: &Arc<str>, settings: &PoolSettings) -> Self {
        let secret_of = |user: &str| config.users.get(user).and_then(|u| u.secret.clone());
        Self {
            dbname: db.dbname.clone(),
            user: db.server_user.as_deref().map_or_else(|| user.clone(), Into::into),
            secret: match (&db.server_user, &db.server_secret) {
                (_, Some(s)) => Some(s.clone()),
                (Some(u), None) => secret_of(u),
                (None, None) => secret_of(user),
            },
            keys: None,
            startup: settings.startup.clone(),
            on_connect: settings.on_connect.clone(),
            keepalive: settings.keepalive,
            timeout: settings.server_connect_timeout,
            max_message: config.limits.max_message_size,
            tls: config.tls.connector.clone(),
            require_auth: settings.require_auth.clone(),
            cleartext: config.tls.cleartext,
            binding: config.tls.binding,
        }
    }
}

/// The settings of a pool of this user.
pub fn settings(config: &Config, db: &Database, user: &str, role: Role) -> PoolSettings {
    let mut settings = config.pool_settings(db, user, role);
    if config.fleet.budget.is_some() {
        orphans_end_soon(&mut settings.startup);
    }
    settings
}

/// In a fleet a backend whose client is gone holds a place of the budget until it notices: also in a long query
/// (PostgreSQL 14), and where no packet says so. What the operator states for a parameter stays.
fn orphans_end_soon(startup: &mut Vec<(String, String)>) {
    let soon = [
        ("client_connection_check_interval", "1s"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
    ];
    for (name, value) in soon {
        if !startup.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
            startup.push((name.to_owned(), value.to_owned()));
        }
    }
}
