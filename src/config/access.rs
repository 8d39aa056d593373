//! Who may come in, beside the users that are listed. The files of rules and maps: read with the configuration, so that a reload reads them again and a broken one
//! leaves the old ones in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::build::{Builder, source_at};
use super::ldap::{self, Ldap};
use super::problem::ConfigError;
use super::raw::Table;
use super::resolved::{Config, Database, Profile, Secret};
use super::{hba, ident};
use crate::tls::Mode;

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    Trust,
    Password,
    Md5,
    ScramSha256,
    /// A client's certificate names it.
    Cert,
    /// The system names the other end of a Unix socket.
    Peer,
    /// Nobody comes in this way.
    Reject,
    /// Whoever comes is let in under any name, to databases that state the server's user: PgBouncer's `any`.
    Any,
    /// A directory says whether a password is right.
    Ldap,
    /// The system's modules say so.
    Pam,
    /// A rule of `auth_hba_file` says which of the others.
    Hba,
}

/// What is asked of a server about the channel, as libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// Who may come in, beside the users that are listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    pub hba_file: Option<PathBuf>,
    pub ident_file: Option<PathBuf>,
    pub hba: hba::Hba,
    pub ident: ident::Ident,
    /// For databases that do not state their own.
    pub lookup: Lookup,
    /// How long an answer of `auth_query` holds; zero is for one login.
    pub lifetime: Duration,
    pub mock_secret: Option<Secret>,
    /// Of the verifiers that are made of plain secrets.
    pub scram_iterations: u32,
    /// Of `auth_method = "ldap"`, as stated, with what may be a password.
    pub ldap_options: Option<Secret>,
    pub ldap: Option<Arc<Ldap>>,
    /// Which file of /etc/pam.d says what PAM does, where a rule does not.
    pub pam_service: String,
    pub max_pam_requests: u32,
}

/// Whether this program can do what only a cargo feature of that name brings.
pub(super) fn needs_feature(name: &str, built: bool) -> Result<(), String> {
    let why = || format!("{name} needs a program that was built with the cargo feature {name}");
    built.then_some(()).ok_or_else(why)
}

/// How the secrets of users that are not listed are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lookup {
    /// As whom; without it nobody is asked.
    pub user: Option<String>,
    /// Where; otherwise in the database that the client wants.
    pub database: Option<String>,
    pub query: Option<String>,
}

impl Lookup {
    /// What a database states, over what holds for all.
    pub fn or(&self, global: &Self) -> Self {
        Self {
            user: self.user.clone().or_else(|| global.user.clone()),
            database: self.database.clone().or_else(|| global.database.clone()),
            query: self.query.clone().or_else(|| global.query.clone()),
        }
    }
}

/// The virtual databases of the console.
const CONSOLES: [&str; 2] = ["pgbouncer", "howdah"];

impl Config {
    /// Whether secrets of users that are not listed are asked for.
    pub fn asks_for_secrets(&self) -> bool {
        self.databases.values().chain(&self.autodb).any(|d| d.lookup.user.is_some())
    }

    /// Whether users that the configuration does not list may come in to this database: because its server or a
    /// directory says who there is.
    pub fn admits_unlisted(&self, db: &Database) -> bool {
        let directory = |m: AuthMethod| matches!(m, AuthMethod::Ldap | AuthMethod::Pam);
        db.lookup.user.is_some()
            || directory(self.auth_method)
            || (self.auth_method == AuthMethod::Hba
                && self.access.hba.rules.iter().any(|r| directory(r.method)))
    }

    /// Whether this database is the console. A database of that name in the configuration comes first; `pgbouncer`
    /// cannot be one.
    pub fn is_console(&self, database: &str) -> bool {
        CONSOLES.contains(&database) && !self.databases.contains_key(database)
    }

    /// Whether this user may come in there.
    pub fn may_use_console(&self, user: &str) -> bool {
        let any = self.auth_method == AuthMethod::Any;
        any || self.admin_users.iter().chain(&self.stats_users).any(|u| u == user)
    }
}

impl Builder<'_, '_> {
    /// Reads what `auth_hba_file` and `auth_ident_file` name. PgBouncer warns of a line that it does not
    /// understand and goes on without it.
    pub(super) fn access(&mut self, tree: &Table, config: &mut Config) {
        let mut problems = Vec::new();
        if let Some(file) = &config.access.ident_file {
            config.access.ident = ident::read(&self.context.dir.join(file), &mut problems);
        }
        if let Some(file) = &config.access.hba_file {
            config.access.hba = hba::read(&self.context.dir.join(file), self.context.profile, &mut problems);
        }
        match self.context.profile {
            Profile::PgBouncer => {
                self.context.warnings.extend(problems.drain(..).map(|p| p.to_string()));
            }
            Profile::Native => self.errors.append(&mut problems),
        }
        let source = |key: &str| source_at(tree, &[key], &self.context.whole());
        for rule in &config.access.hba.rules {
            if rule.map.as_deref().is_some_and(|m| !config.access.ident.knows(m)) {
                let why = format!("has no map of the name that the rule at {} asks for", rule.place);
                problems.push(ConfigError::new(&source("auth_ident_file"), "auth_ident_file", why));
            }
        }
        if config.auth_method == AuthMethod::Hba && config.access.hba_file.is_none() {
            let e = ConfigError::new(&source("auth_method"), "auth_hba_file", "is missing");
            problems.push(e.allowed("the path of a pg_hba.conf, which auth_method = \"hba\" goes by"));
        }
        if config.auth_method == AuthMethod::Ldap {
            let stated = match &config.access.ldap_options {
                Some(Secret::Plain(text)) => text.as_str(),
                _ => "",
            };
            match ldap::options(stated).and_then(|o| Ldap::usable(&o)) {
                Ok(l) => config.access.ldap = Some(l),
                Err(why) => {
                    problems.push(ConfigError::new(&source("auth_ldap_options"), "auth_ldap_options", why));
                }
            }
        }
        if config.auth_method == AuthMethod::Pam
            && let Err(why) = needs_feature("pam", cfg!(feature = "pam"))
        {
            problems.push(ConfigError::new(&source("auth_method"), "auth_method", why));
        }
        if config.auth_method == AuthMethod::Cert && config.tls.client.mode < Mode::VerifyCa {
            let why = "cert needs certificates that are verified";
            let e = ConfigError::new(&source("auth_method"), "client_tls_mode", why);
            problems.push(e.allowed("verify-ca or verify-full"));
        }
        self.errors.append(&mut problems);
    }
}
