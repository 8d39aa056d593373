//! From the tree of what was written to a [`Config`]: every value read and put in its place, every problem
//! collected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::blank::{blank, blank_pool};
use super::files;
use super::hidden::Hidden;
use super::hosts::host_addr;
use super::problem::ConfigError;
use super::raw::{Node, Raw, Source, Table};
use super::resolved::{
    AuthMethod, Config, Database, Effective, HostAddr, PoolEntry, PoolOverrides, PoolSettings, Profile, Role,
    RoleConfig, Secret, User,
};
use super::setting::{Level, Put, Section};
use super::settings::{self, SETTINGS};
use super::units::parse_duration;
use super::value::Kind;
use super::{foreign, names, secrets, userlist, validate};

/// What building needs to know beside the tree.
pub(super) struct Context<'a> {
    /// The file, or `command line`.
    pub origin: Arc<str>,
    /// What relative paths are relative to.
    pub dir: PathBuf,
    pub profile: Profile,
    /// Read from a pgbouncer.ini, where a `[users]` line is not yet a login.
    pub ini: bool,
    pub variables: &'a BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

impl Context<'_> {
    pub(super) fn whole(&self) -> Source {
        Source::File { path: self.origin.clone(), line: None }
    }
}

/// A key path as TOML writes it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The source of the value at `path`, or of the innermost section around it that exists.
pub(super) fn source_at(tree: &Table, path: &[&str], whole: &Source) -> Source {
    let mut found = whole.clone();
    let mut at = tree;
    for name in path {
        let Some(node) = at.get(*name) else { break };
        found = node.source.clone();
        match &node.raw {
            Raw::Table(t) => at = t,
            _ => break,
        }
    }
    found
}

/// Builds the configuration; it is complete and valid only if `errors` is empty afterwards.
pub(super) fn build(tree: &Table, context: Context<'_>, errors: &mut Vec<ConfigError>) -> Config {
    let mut builder = Builder { context, errors };
    let mut config = blank(&builder.context.origin, builder.context.profile);
    let global = builder.global(tree, &mut config);
    let base = blank_pool().with(&global.overrides);
    config.pool = base.clone();
    config.listen.tcp_keepalive = base.keepalive;
    builder.fleet(tree, &mut config);
    builder.auth_file(tree, &global, &mut config);
    builder.access(tree, &mut config);
    config.access.lookup = global.lookup.clone();
    config.limits.max_database_client_connections = global.max_database_client_connections;
    config.limits.max_user_client_connections = global.max_user_client_connections;
    builder.ops_token(tree, &global, &mut config);
    builder.tls(tree, &mut config);
    for (name, path, table) in builder.sections(tree, "users", "") {
        let mut user = builder.user(table, &path, &global);
        user.listed |= config.users.get(name).is_some_and(|u| u.listed);
        if user.secret.is_none() {
            // The section adds to an entry of the user list.
            user.secret = config.users.get(name).and_then(|u| u.secret.clone());
        }
        config.users.insert(name.to_owned(), user);
    }
    for (name, path, table) in builder.sections(tree, "databases", "") {
        let database = builder.database(name, table, &path, &global, &base);
        if name == "*" {
            config.autodb = Some(database);
        } else {
            config.databases.insert(name.to_owned(), database);
        }
    }
    for (name, path, table) in builder.sections(tree, "peers", "") {
        builder.peer(name, table, &path, &mut config);
    }
    secrets::server_secrets(&mut config);
    builder.pools(tree, &mut config);
    builder.exposure(tree, &config);
    names::as_postgresql(&mut config, tree, &builder.context.whole(), builder.errors);
    config.notes.warnings = std::mem::take(&mut builder.context.warnings);
    validate::validate(&mut config, tree, &builder.context.whole(), builder.errors);
    config
}

pub(super) struct Builder<'a, 'e> {
    pub(super) context: Context<'a>,
    pub(super) errors: &'e mut Vec<ConfigError>,
}

impl Builder<'_, '_> {
    fn global(&mut self, tree: &Table, config: &mut Config) -> Section {
        let mut section = Section::default();
        let pgbouncer = self.context.profile == Profile::PgBouncer;
        for setting in SETTINGS.iter().filter(|s| s.at(Level::Global)) {
            let Some(text) = setting.preset(pgbouncer) else { continue };
            let preset = Node::loose(text, &Source::Default);
            self.apply_one(Level::Global, setting.key, &preset, "", &mut section, Some(config));
        }
        self.apply(Level::Global, tree, "", &mut section, Some(config));
        if let Some(dir) = &config.listen.unix_dir {
            let abstract_name = dir.to_string_lossy().starts_with('@');
            config.listen.unix_dir =
                Some(if abstract_name { dir.clone() } else { self.context.dir.join(dir) });
        }
        let papers = &mut config.compat.process;
        for file in [&mut papers.log_file, &mut papers.pid_file].into_iter().flatten() {
            *file = self.context.dir.join(&*file);
        }
        section
    }

    fn fleet(&mut self, tree: &Table, config: &mut Config) {
        let mut section = Section::default();
        for setting in SETTINGS.iter().filter(|s| s.at(Level::Fleet)) {
            let Some(text) = setting.preset(false) else { continue };
            let preset = Node::loose(text, &Source::Default);
            self.apply_one(Level::Fleet, setting.key, &preset, "fleet", &mut section, Some(config));
        }
        let Some(node) = tree.get("fleet") else { return };
        match &node.raw {
            Raw::Table(table) => self.apply(Level::Fleet, table, "fleet", &mut section, Some(config)),
            _ => self.errors.push(not_a_section(node, "fleet", "[fleet]")),
        }
    }

    /// Reads every key of a section and refuses those that it cannot have.
    fn apply(
        &mut self,
        level: Level,
        table: &Table,
        path: &str,
        section: &mut Section,
        mut config: Option<&mut Config>,
    ) {
        for (key, node) in table {
            if !level.children().contains(&key.as_str()) {
                self.apply_one(level, key, node, path, section, config.as_deref_mut());
            }
        }
    }

    fn apply_one(
        &mut self,
        level: Level,
        key: &str,
        node: &Node,
        path: &str,
        section: &mut Section,
        config: Option<&mut Config>,
    ) {
        let full = join(path, key);
        let Some(setting) = settings::find(level, key) else {
            self.errors.push(foreign::unknown(level, key, node, &full));
            return;
        };
        let value = match setting.kind.read(&node.raw) {
            Ok(value) => value,
            Err(why) => {
                let e = ConfigError::new(&node.source, &full, why)
                    .value((!setting.is_secret()).then(|| node.raw.shown()))
                    .allowed(setting.kind.allowed());
                self.errors.push(match (setting.kind, &node.raw) {
                    (Kind::Word(words), Raw::Text(t) | Raw::Loose(t)) => e.nearest(t, words.iter().copied()),
                    _ => e,
                });
                return;
            }
        };
        let fits = match (setting.put, config) {
            (Put::Section(put), config) => {
                note(setting.key, &value, node, config);
                put(section, &value)
            }
            (Put::Config(put), Some(config)) => {
                note(setting.key, &value, node, Some(config));
                put(config, &value)
            }
            (Put::Config(_), None) => false,
        };
        debug_assert!(fits, "the declaration of {key} is at odds with itself");
    }

    /// The subsections of `table[key]`, by name; what is not a section is a problem.
    fn sections<'t>(&mut self, table: &'t Table, key: &str, path: &str) -> Vec<(&'t str, String, &'t Table)> {
        let Some(node) = table.get(key) else { return Vec::new() };
        let path = join(path, key);
        let Raw::Table(entries) = &node.raw else {
            self.errors.push(not_a_section(node, &path, &format!("[{path}.NAME]")));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, node) in entries {
            let path = join(&path, name);
            match &node.raw {
                _ if name.is_empty() || name.contains('\0') => {
                    self.errors.push(ConfigError::new(&node.source, &path, "not a possible name"));
                }
                Raw::Table(t) => found.push((name.as_str(), path, t)),
                _ => self.errors.push(not_a_section(node, &path, &format!("[{path}]"))),
            }
        }
        found
    }

    fn auth_file(&mut self, tree: &Table, global: &Section, config: &mut Config) {
        let Some(file) = global.auth_file.as_deref().filter(|f| !f.is_empty()) else { return };
        let source = source_at(tree, &["auth_file"], &self.context.whole());
        let path = self.context.dir.join(file);
        let text = match files::text(&path) {
            Ok(text) => Hidden::from(text),
            Err(e) => {
                let why = format!("cannot be read: {e}");
                let e = ConfigError::new(&source, "auth_file", why).value(Some(shown(&path)));
                match self.context.profile {
                    Profile::Native => self.errors.push(e),
                    Profile::PgBouncer => self.context.warnings.push(e.to_string()),
                }
                return;
            }
        };
        let mut problems = Vec::new();
        let list = userlist::parse(&text, &Arc::from(path.display().to_string().as_str()), &mut problems);
        match self.context.profile {
            Profile::Native => self.errors.append(&mut problems),
            Profile::PgBouncer => self.context.warnings.extend(problems.iter().map(ToString::to_string)),
        }
        for (name, secret) in list {
            let mut user = self.user_of(Section::default(), global, secret);
            user.listed = true;
            config.users.insert(name, user);
        }
    }

    fn user(&mut self, table: &Table, path: &str, global: &Section) -> User {
        let mut section = Section::default();
        self.apply(Level::User, table, path, &mut section, None);
        let secret = self.secret(&section, table, path);
        let listed = section.listed.unwrap_or(!self.context.ini);
        User { listed, ..self.user_of(section, global, secret) }
    }

    fn user_of(&self, section: Section, global: &Section, secret: Option<Secret>) -> User {
        User {
            secret,
            listed: false,
            max_connections: section.max_connections.unwrap_or(global.max_user_connections),
            max_client_connections: section
                .max_client_connections
                .unwrap_or(global.max_user_client_connections),
            overrides: section.overrides,
        }
    }

    fn database(
        &mut self,
        name: &str,
        table: &Table,
        path: &str,
        global: &Section,
        base: &PoolSettings,
    ) -> Database {
        let mut section = Section::default();
        self.apply(Level::Database, table, path, &mut section, None);
        let port = section.port.unwrap_or(5432);
        let mut roles = BTreeMap::new();
        let hosts = self.hosts(&section.hosts, port, table, path);
        roles.insert(Role::Primary, RoleConfig { hosts, overrides: PoolOverrides::default() });
        for role in [Role::Replica, Role::Admin] {
            let Some(node) = table.get(role.as_str()) else { continue };
            let path = join(path, role.as_str());
            let Raw::Table(table) = &node.raw else {
                self.errors.push(not_a_section(node, &path, &format!("[{path}]")));
                continue;
            };
            let mut section = Section::default();
            self.apply(Level::Role, table, &path, &mut section, None);
            // The admin pool is on the same servers unless it has others.
            let hosts = if role == Role::Admin && !table.contains_key("host") {
                roles.get(&Role::Primary).map_or_else(Vec::new, |r: &RoleConfig| r.hosts.clone())
            } else {
                self.hosts(&section.hosts, section.port.unwrap_or(port), table, &path)
            };
            roles.insert(role, RoleConfig { hosts, overrides: section.overrides });
        }
        let server_secret = self.secret(&section, table, path);
        let (routing, problems) = std::mem::take(&mut section.routing).resolve(port);
        for (key, why) in problems {
            let source = table.get(key).map_or(Source::Default, |n| n.source.clone());
            self.errors.push(ConfigError::new(&source, &join(path, key), why));
        }
        let materialized_views = self.ages(&section.materialized_views, table, path);
        Database {
            routing,
            materialized_views,
            name: name.to_owned(),
            dbname: section.dbname.unwrap_or_else(|| name.to_owned()),
            server_user: section.user,
            server_secret,
            lookup: section.lookup.or(&global.lookup),
            max_connections: section.max_connections.unwrap_or(global.max_database_connections),
            max_client_connections: section
                .max_client_connections
                .unwrap_or(global.max_database_client_connections),
            max_host_connections: section.max_host_connections.flatten(),
            when_no_replica: section.when_no_replica,
            load_balance: section.load_balance.unwrap_or(self.context.profile == Profile::PgBouncer),
            roles,
            pool: base.clone().with(&section.overrides),
            pool_overrides: Vec::new(),
        }
    }

    fn ages(&mut self, views: &[(String, String)], table: &Table, path: &str) -> Vec<(String, Duration)> {
        const KEY: &str = "materialized_views";
        let mut ages = Vec::new();
        for (view, age) in views {
            let why = match parse_duration(age) {
                Ok(age) if !age.is_zero() => {
                    ages.push((view.clone(), age));
                    continue;
                }
                Ok(_) => "nothing is as young as that".to_owned(),
                Err(why) => why,
            };
            let source = table.get(KEY).map_or(Source::Default, |n| n.source.clone());
            let why = format!("\"{}\": {why}", view.escape_debug());
            self.errors.push(ConfigError::new(&source, &join(path, KEY), why));
        }
        ages
    }

    fn peer(&mut self, name: &str, table: &Table, path: &str, config: &mut Config) {
        let mut section = Section::default();
        self.apply(Level::Peer, table, path, &mut section, None);
        let source = table.values().next().map_or_else(|| self.context.whole(), |n| n.source.clone());
        let Some(id) = name.parse::<u16>().ok().filter(|n| *n > 0) else {
            self.errors.push(ConfigError::new(&source, path, "not a possible peer_id").allowed("1 to 16383"));
            return;
        };
        for host in self.hosts(&section.hosts, section.port.unwrap_or(6432), table, path) {
            config.compat.peers.others.insert(id, host);
        }
    }

    fn hosts(&mut self, hosts: &[String], port: u16, table: &Table, path: &str) -> Vec<HostAddr> {
        let full = join(path, "host");
        let source = table.get("host").map(|n| n.source.clone());
        if hosts.is_empty() {
            // If the key is there and its value was not readable, that is a problem already told.
            if !validate::unreadable(self.errors, path, "host") {
                let source = source
                    .or_else(|| table.values().next().map(|n| n.source.clone()))
                    .unwrap_or_else(|| self.context.whole());
                self.errors.push(
                    ConfigError::new(&source, &full, "is missing")
                        .allowed("the server's name, address or socket directory"),
                );
            }
            return Vec::new();
        }
        let mut parsed = Vec::new();
        for host in hosts {
            match host_addr(host, port) {
                Ok(host) if parsed.contains(&host) && self.context.profile == Profile::Native => {
                    let source = source.clone().unwrap_or(Source::Default);
                    self.errors.push(ConfigError::new(&source, &full, format!("{host} is listed twice")));
                }
                Ok(host) => parsed.push(host),
                Err(why) => self.errors.push(
                    ConfigError::new(source.as_ref().unwrap_or(&Source::Default), &full, why)
                        .value(shown_host(host))
                        .allowed("\"name\", \"name:port\", \"[::1]:port\" or \"/directory/of/the/socket\""),
                ),
            }
        }
        parsed
    }

    fn pools(&mut self, tree: &Table, config: &mut Config) {
        let Some(node) = tree.get("pools") else { return };
        let Raw::List(entries) = &node.raw else {
            self.errors.push(not_a_section(node, "pools", "[[pools]]"));
            return;
        };
        for (i, node) in entries.iter().enumerate() {
            let path = format!("pools[{i}]");
            let Raw::Table(table) = &node.raw else {
                self.errors.push(not_a_section(node, &path, "[[pools]]"));
                continue;
            };
            let mut section = Section::default();
            self.apply(Level::Pool, table, &path, &mut section, None);
            self.pool(section, node, &path, config);
        }
    }

    fn pool(&mut self, section: Section, node: &Node, path: &str, config: &mut Config) {
        let Some(name) = section.database else {
            self.errors.push(ConfigError::new(&node.source, &join(path, "database"), "is missing"));
            return;
        };
        let users: Vec<&str> = config.users.keys().map(String::as_str).collect();
        if let Some(user) = section.user.as_deref().filter(|u| !config.users.contains_key(*u)) {
            let other = config.databases.values().any(|d| d.server_user.as_deref() == Some(user));
            if !other && !matches!(config.auth_method, AuthMethod::Trust | AuthMethod::Any) {
                self.errors.push(
                    ConfigError::new(&node.source, &join(path, "user"), "there is no such user")
                        .value(Some(format!("\"{}\"", user.escape_debug())))
                        .nearest(user, users),
                );
            }
        }
        let known: Vec<String> = config.databases.keys().cloned().collect();
        let Some(database) = config.databases.get_mut(&name) else {
            self.errors.push(
                ConfigError::new(&node.source, &join(path, "database"), "there is no such database")
                    .value(Some(format!("\"{}\"", name.escape_debug())))
                    .nearest(&name, known.iter().map(String::as_str)),
            );
            return;
        };
        let entry = PoolEntry { user: section.user, role: section.role, overrides: section.overrides };
        let problem = if entry.user.is_none() && entry.role.is_none() {
            Some("an entry needs a user or a role; what is for the whole database belongs in its section")
        } else if entry.role.is_some_and(|r| !database.roles.contains_key(&r)) {
            Some("the database has no section for this role")
        } else if database.pool_overrides.iter().any(|e| e.user == entry.user && e.role == entry.role) {
            Some("there is another entry for the same database, user and role")
        } else {
            None
        };
        match problem {
            Some(why) => self.errors.push(ConfigError::new(&node.source, path, why)),
            None => database.pool_overrides.push(entry),
        }
    }
}

fn note(key: &'static str, value: &super::value::Value, node: &Node, config: Option<&mut Config>) {
    if let Some(config) = config {
        let stated = node.source != Source::Default;
        let hidden = match value {
            super::value::Value::Secret(h) => Some(h.clone()),
            _ => None,
        };
        config.notes.settings.insert(key, Effective { value: value.to_toml(), hidden, stated });
    }
}

/// What is meant as a URL may hold a password.
fn shown_host(host: &str) -> Option<String> {
    (!host.contains('@') && !host.contains("://")).then(|| format!("\"{}\"", host.escape_debug()))
}

fn not_a_section(node: &Node, path: &str, section: &str) -> ConfigError {
    ConfigError::new(&node.source, path, format!("is a section, written {section}, not a value"))
}

pub(super) fn shown(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().escape_debug())
}
