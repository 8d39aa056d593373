//! What no single value shows: settings that are missing, or that do not go together.

use super::build::{join, source_at};
use super::problem::ConfigError;
use super::raw::{Raw, Source, Table};
use super::resolved::{
    AuthMethod, Config, Database, HostAddr, PoolMode, PoolSettings, Profile, Role, Secret,
};
use crate::tls::Mode;

/// `sockaddr_un` holds 108 bytes with the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Checks the whole; needs the tree only to say where something was stated.
pub(super) fn validate(config: &mut Config, tree: &Table, whole: &Source, errors: &mut Vec<ConfigError>) {
    let mut checks = Checks { config, tree, whole, errors, warnings: Vec::new() };
    checks.listeners();
    checks.users();
    checks.fleet();
    checks.readiness();
    checks.log_level();
    checks.operators();
    let pgbouncer = checks.config.profile == Profile::PgBouncer;
    if checks.config.databases.is_empty() && !tree.contains_key("databases") && !pgbouncer {
        checks.no_database();
    }
    for database in checks.config.databases.values().chain(&checks.config.autodb) {
        checks.database(database);
    }
    if tree.contains_key("peers") && checks.config.compat.peers.own == 0 {
        let why = "peers are known, but this process has no number, so they cannot send it anything";
        checks.warn(&["peers"], why);
    }
    checks.console();
    checks.in_force();
    checks.own_files();
    let mut warnings = checks.warnings;
    warnings.extend(super::require::warning(config));
    config.notes.warnings.extend(warnings);
}

struct Checks<'a> {
    config: &'a Config,
    tree: &'a Table,
    whole: &'a Source,
    errors: &'a mut Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Checks<'_> {
    fn error(&mut self, path: &[&str], why: impl Into<String>, allowed: Option<&str>) {
        let source = source_at(self.tree, path, self.whole);
        let key = path.iter().fold(String::new(), |path, key| join(&path, key));
        let mut e = ConfigError::new(&source, &key, why);
        e.allowed = allowed.map(str::to_owned);
        self.errors.push(e);
    }

    /// An error that PgBouncer does not make, and so only a warning in its profile.
    fn native(&mut self, path: &[&str], why: &str, allowed: Option<&str>) {
        match self.config.profile {
            Profile::Native => self.error(path, why, allowed),
            Profile::PgBouncer => self.warn(path, why),
        }
    }

    fn warn(&mut self, path: &[&str], why: &str) {
        let source = source_at(self.tree, path, self.whole);
        let key = path.iter().fold(String::new(), |path, key| join(&path, key));
        self.warnings.push(ConfigError::new(&source, &key, why).to_string());
    }

    fn no_database(&mut self) {
        if misspelt_section(self.errors, "databases") {
            return;
        }
        let allowed = "[databases.NAME]; as variables HOWDAH_DATABASES__NAME__HOST and \
                       HOWDAH_DATABASES__NAME__POOL_SIZE";
        self.error(&["databases"], "there is no database", Some(allowed));
    }

    /// A level that is none would be taken for the name of a part of the program, and silence all others.
    fn log_level(&mut self) {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        let text = &self.config.process.log_level;
        let part = |p: &&str| p.starts_with("howdah") || p.starts_with("pgbouncer") || p.contains("::");
        let wrong = text
            .split(',')
            .map(str::trim)
            .find(|p| !p.contains(['=', '[']) && !LEVELS.contains(&p.to_lowercase().as_str()) && !part(p));
        let why = match wrong {
            Some(_) => "a word of it is no level".to_owned(),
            None => match tracing_subscriber::EnvFilter::try_new(text) {
                Err(_) => "a directive of it cannot be read".to_owned(),
                Ok(_) => return,
            },
        };
        let source = source_at(self.tree, &["log_level"], self.whole);
        let e = ConfigError::new(&source, "log_level", why)
            .value(Some(format!("\"{}\"", text.escape_debug())))
            .allowed("error, warn, info, debug, trace, or directives such as \"info,howdah::pool=debug\"");
        self.errors.push(e.nearest(wrong.unwrap_or_default(), LEVELS));
    }

    /// Whoever is named for the console must be able to come in.
    fn operators(&mut self) {
        let config = self.config;
        let listed = matches!(
            config.auth_method,
            AuthMethod::Trust
                | AuthMethod::Password
                | AuthMethod::Md5
                | AuthMethod::ScramSha256
                | AuthMethod::Cert
        );
        if !listed || config.asks_for_secrets() || unreadable(self.errors, "", "auth_file") {
            return;
        }
        for (key, names) in [("admin_users", &config.admin_users), ("stats_users", &config.stats_users)] {
            let own = |name: &str| config.profile == Profile::PgBouncer && name == super::CONSOLE;
            for name in names.iter().filter(|n| !config.users.contains_key(*n) && !own(n)) {
                let known = config.users.keys().map(String::as_str);
                let near = super::problem::nearest(name, known);
                let meant = near.map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
                let name = name.escape_debug();
                let why = format!("there is no user \"{name}\", so nobody can come in as \"{name}\"{meant}");
                self.warn(&[key], &why);
            }
        }
    }

    /// A mistyped path must not cost the configuration.
    fn own_files(&mut self) {
        let Source::File { path, .. } = self.whole else { return };
        let real = |p: &std::path::Path| p.canonicalize().ok();
        let Some(own) = real(path.as_ref().as_ref()) else { return };
        let papers = &self.config.compat.process;
        for (key, file) in [("log_file", &papers.log_file), ("pid_file", &papers.pid_file)] {
            if file.as_deref().and_then(real).is_some_and(|f| f == own) {
                self.error(&[key], "is the configuration itself, which would be written over", None);
            }
        }
    }

    /// A database that /readyz is to ask for must be there.
    fn readiness(&mut self) {
        for text in &self.config.process.ready_requires {
            let databases = &self.config.databases;
            let role = text.rsplit_once('/').is_some_and(|(database, role)| {
                databases.get(database).is_some_and(|d| d.roles.keys().any(|r| r.as_str() == role))
            });
            if !databases.contains_key(text) && !role {
                let why = format!("\"{}\" is no database, and no DATABASE/ROLE", text.escape_debug());
                self.error(&["ready_requires"], why, None);
            }
        }
    }

    fn listeners(&mut self) {
        let listen = &self.config.listen;
        if listen.tcp.is_empty() && listen.unix_dir.is_none() && !unreadable(self.errors, "", "listen") {
            let why = "Howdah would listen nowhere: there is no address, and no unix_socket_dir";
            self.error(&["listen"], why, Some("[\"127.0.0.1:6432\"]"));
        }
        for (i, address) in listen.tcp.iter().enumerate() {
            // Port 0 asks the system for any free port, so two of them differ.
            let earlier = listen.tcp.get(..i).unwrap_or_default();
            if address.port() != 0 && earlier.contains(address) {
                self.error(&["listen"], format!("{address} is listed twice"), None);
            }
            if address.port() != 0 && listen.ops == Some(*address) {
                self.error(&["ops_listen"], format!("{address} is an address for clients already"), None);
            }
        }
        if let Some(dir) = &listen.unix_dir {
            let length = dir.as_os_str().len() + "/.s.PGSQL.65535".len();
            if length > MAX_SOCKET_PATH {
                let why = format!("the socket's path may have {length} bytes");
                self.error(&["unix_socket_dir"], why, Some("at most 107 bytes, the system's limit"));
            }
        }
    }

    fn console(&mut self) {
        let reserved = |name: &str| self.config.databases.contains_key(name);
        let native = self.config.profile == Profile::Native;
        if reserved("pgbouncer") || (native && reserved("howdah")) {
            let name = if reserved("pgbouncer") { "pgbouncer" } else { "howdah" };
            let why = format!("database name \"{name}\" is reserved: it is the console's");
            self.error(&["databases", name], why, Some("another name; dbname states the one on the server"));
        } else if reserved("howdah") {
            let why = "hides the console, which answers on \"pgbouncer\" only";
            self.warn(&["databases", "howdah"], why);
        }
    }

    /// As whom and where `auth_query` asks must be known.
    fn lookups(&mut self) {
        let config = &self.config;
        let mut problems = Vec::new();
        for db in config.databases.values().chain(&config.autodb) {
            let Some(user) = &db.lookup.user else { continue };
            if !config
                .users
                .get(user)
                .is_some_and(|u| matches!(u.secret, Some(Secret::Plain(_) | Secret::Md5(_))))
            {
                problems.push(format!(
                    "databases.{}: auth_user \"{}\" has no password here",
                    db.name,
                    user.escape_debug()
                ));
            }
            if let Some(at) = db.lookup.database.as_deref().filter(|n| config.database(n).is_none()) {
                problems.push(format!(
                    "databases.{}: auth_dbname \"{}\" is no database here",
                    db.name,
                    at.escape_debug()
                ));
            }
        }
        if let Some(at) = config.access.lookup.database.as_deref().filter(|n| config.is_console(n)) {
            let why = format!("cannot use the reserved \"{at}\" database as an auth_dbname");
            self.error(&["auth_dbname"], why, Some("a database with a server"));
        }
        for why in problems {
            self.native(
                &["auth_user"],
                &why,
                Some("a user with password, and a database, of this configuration"),
            );
        }
    }

    /// What guards and was stated is in force, or somebody has said otherwise.
    fn in_force(&mut self) {
        let config = self.config;
        let rules = config.access.hba_file.is_some() && config.auth_method != AuthMethod::Hba;
        self.is_in_force(rules, "auth_hba_file", "auth_method", "\"hba\"");
        for (files, keys, mode) in [
            (&config.tls.client, ["client_tls_cert", "client_tls_key", "client_tls_ca"], "client_tls_mode"),
            (&config.tls.server, ["server_tls_cert", "server_tls_key", "server_tls_ca"], "server_tls_mode"),
        ] {
            let stated =
                [&files.cert, &files.key, &files.ca].into_iter().zip(keys).find(|(f, _)| f.is_some());
            let Some((_, key)) = stated else { continue };
            self.is_in_force(
                files.mode == Mode::Disable,
                key,
                mode,
                "\"require\", or \"disable\" in so many words",
            );
        }
    }

    fn is_in_force(&mut self, idle: bool, key: &str, word: &str, wanted: &str) {
        if idle && self.tree.contains_key(word) {
            self.warn(&[key], &format!("has no effect with this {word}"));
        } else if idle {
            let why = format!("has no effect, for {word} is not stated");
            self.native(&[key], &why, Some(&format!("{word} = {wanted}")));
        }
    }

    fn fleet(&mut self) {
        let fleet = &self.config.fleet;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if fleet.name.is_empty() || fleet.name.len() > 16 || !fleet.name.chars().all(plain) {
            let why = "stands in the application_name of the control connections, which is short";
            self.error(&["fleet", "name"], why, Some("1 to 16 letters, digits, - and _"));
        }
    }

    /// PgBouncer's `auth_type = any`.
    fn anybody(&mut self) {
        if self.config.profile == Profile::Native {
            let why = "lets everybody in under any name, and is served in PgBouncer's profile alone";
            return self.error(&["auth_method"], why, Some("trust, with the users that there are"));
        }
        let all = self.config.databases.values().chain(&self.config.autodb);
        let without: Vec<&str> = all.filter(|d| d.server_user.is_none()).map(|d| d.name.as_str()).collect();
        let mut why = "any: whoever reaches Howdah is let in, under any name and without a secret".to_owned();
        if !without.is_empty() {
            why.push_str("; nobody gets into these databases, which do not state the server's user: ");
            why.push_str(&without.join(", "));
        }
        self.warn(&["auth_method"], &why);
    }

    fn users(&mut self) {
        let method = self.config.auth_method;
        if method == AuthMethod::Trust {
            return;
        }
        if method == AuthMethod::Any {
            return self.anybody();
        }
        self.lookups();
        // A user without a secret comes in by its certificate, by a rule, or by what the server says.
        if self.config.asks_for_secrets()
            || matches!(method, AuthMethod::Cert | AuthMethod::Ldap | AuthMethod::Pam | AuthMethod::Hba)
        {
            return;
        }
        if self.config.users.is_empty() && !self.errors.iter().any(|e| e.key.starts_with("users")) {
            if !unreadable(self.errors, "", "auth_file") && !misspelt_section(self.errors, "users") {
                let why = "there is no user, so nobody could log in";
                self.native(&["users"], why, Some("[users.NAME], auth_file, or auth_method = \"trust\""));
            }
            return;
        }
        for (name, user) in &self.config.users {
            let path = ["users", name.as_str()];
            let key = join("users", name);
            let why = match (&user.secret, method) {
                (None, _) if self.errors.iter().any(|e| e.key.starts_with(&key)) => continue,
                (None, _) if !user.listed && self.config.profile == Profile::Native => continue,
                (None, _) => "has no password and cannot log in",
                (Some(Secret::Md5(_)), AuthMethod::ScramSha256) => {
                    "has an md5 secret, with which scram-sha-256 is impossible"
                }
                _ => continue,
            };
            // A user list may hold users that are not for this pooler; a section is always meant.
            let stated = match self.tree.get("users").map(|n| &n.raw) {
                Some(Raw::Table(sections)) => sections.contains_key(name),
                _ => false,
            };
            if stated && self.config.profile == Profile::Native {
                self.error(
                    &path,
                    why,
                    Some("password, password_file or password_env; or another auth_method"),
                );
            } else {
                self.warn(&path, why);
            }
        }
    }

    fn database(&mut self, database: &Database) {
        let name = database.name.as_str();
        let path = |key| ["databases", name, key];
        if self.config.profile == Profile::PgBouncer && name == "pgbouncer" {
            self.error(&["databases", name], "this name is reserved for the console", None);
        }
        if database.server_secret.is_some() && database.server_user.is_none() {
            self.warn(&["databases", name], "a password without a user is not used");
        }
        let replica = database.has_replicas();
        let known = !unreadable(self.errors, &join("databases", name), "when_no_replica");
        if replica && database.when_no_replica.is_none() && known {
            let why = "is missing; with a replica it must be said what happens when there is none";
            self.error(&path("when_no_replica"), why, Some("\"primary\", \"wait\" or \"error\""));
        }
        if !replica && database.when_no_replica.is_some() {
            self.warn(&path("when_no_replica"), "has no effect without a replica section");
        }
        for (key, why, allowed) in super::validate_routing::problems(self.config, database) {
            self.error(&path(key), why, allowed);
        }
        for role in database.roles.keys() {
            self.pool(database, *role);
        }
        for (role, config) in &database.roles {
            for host in &config.hosts {
                self.host(name, *role, host);
            }
        }
    }

    /// A role's pools as they are for a user about whom nothing is said.
    fn pool(&mut self, database: &Database, role: Role) {
        let mut path = vec!["databases", database.name.as_str()];
        if role != Role::Primary {
            path.push(role.as_str());
        }
        // No user has an empty name, so only entries for the role match.
        let pool = self.config.pool_settings(database, "", role);
        // An unreadable size was told already, at whatever level it stood.
        let mut section = String::new();
        let mut told = unreadable(self.errors, "", "pool_size");
        for name in &path {
            section = join(&section, name);
            told |= unreadable(self.errors, &section, "pool_size");
        }
        if pool.size == 0 && self.config.profile == Profile::Native && !told {
            path.push("pool_size");
            let why = "is missing; how many connections the server can spare has no safe default";
            self.error(&path, why, Some("a whole number from 1"));
            path.pop();
        } else if pool.size > 0 && pool.min_size > pool.size {
            path.push("min_pool_size");
            let why = format!("{} is more than pool_size {}", pool.min_size, pool.size);
            self.native(&path, &why, None);
            path.pop();
        }
        let entries = database.pool_overrides.iter().filter_map(|e| e.user.as_deref());
        let users = std::iter::once("").chain(entries).chain(self.config.users.keys().map(String::as_str));
        let mut pools = users.map(|user| (user, self.config.pool_settings(database, user, role)));
        let conflict = |p: &PoolSettings| p.auto && (p.mode == PoolMode::Session || p.reserve_size > 0);
        if let Some((user, pool)) = pools.find(|(_, p)| conflict(p)) {
            self.auto(&mut path, user, &pool);
        }
    }

    /// Nothing may stand in the way of a size that moves.
    fn auto(&mut self, path: &mut Vec<&str>, user: &str, pool: &PoolSettings) {
        // What a user's own section or entry says is not at the place that is named.
        let whose = if user.is_empty() { String::new() } else { format!("for user {user}, ") };
        let why = |what: &str| format!("{whose}size = \"auto\" cannot be had with {what}");
        if pool.mode == PoolMode::Session {
            path.push("size");
            let what = "pool_mode = \"session\": a session keeps its connection however busy the server is";
            self.error(path, why(what), Some("pool_mode = \"transaction\", or size = \"fixed\""));
            path.pop();
        }
        if pool.reserve_size > 0 {
            path.push("size");
            let what =
                format!("reserve_pool_size {}: the reserve would open what was closed", pool.reserve_size);
            self.error(path, why(&what), Some("a larger pool_size and no reserve, or size = \"fixed\""));
            path.pop();
        }
    }

    fn host(&mut self, database: &str, role: Role, host: &HostAddr) {
        let HostAddr::Tcp { host: name, port } = host else { return };
        let own = self.config.listen.tcp.iter().any(|a| {
            a.port() == *port
                && (a.ip().to_string() == *name || (a.ip().is_loopback() && name == "localhost"))
        });
        if own {
            let mut path = vec!["databases", database];
            if role != Role::Primary {
                path.push(role.as_str());
            }
            path.push("host");
            self.native(&path, &format!("{host} is where Howdah itself listens"), None);
        }
    }
}

/// Whether a section with another name was probably meant to be this one.
fn misspelt_section(errors: &[ConfigError], name: &str) -> bool {
    let start = format!("[{name}.");
    errors.iter().any(|e| e.nearest.as_deref().is_some_and(|n| n.starts_with(&start)))
}

/// Whether this key was given, or meant, and could not be read, so that its absence is no second problem.
pub(super) fn unreadable(errors: &[ConfigError], section: &str, key: &str) -> bool {
    let full = join(section, key);
    let meant = |e: &ConfigError| {
        let parent = e.key.rsplit_once('.').map_or("", |(parent, _)| parent);
        e.nearest.as_deref() == Some(key) && parent == section
    };
    errors.iter().any(|e| e.key == full || meant(e))
}
