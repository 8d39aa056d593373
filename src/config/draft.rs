//! What a configuration was built from, kept so that one setting can be changed while everything runs, without
//! reading files that may say something else by now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::build::{self, Context};
use super::pgbouncer;
use super::problem::ConfigError;
use super::raw::{Node, Source, Table};
use super::resolved::{Config, Profile};
use super::setting::{Level, Reload, Setting};
use super::settings::SETTINGS;

/// Says nothing of itself, since it may hold secrets, and makes no two configurations differ.
#[derive(Clone, Default)]
pub struct Draft(Option<Arc<Parts>>);

pub(super) struct Parts {
    pub(super) tree: Table,
    pub(super) origin: Arc<str>,
    pub(super) dir: PathBuf,
    pub(super) profile: Profile,
    pub(super) ini: bool,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
}

impl Draft {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Some(Arc::new(parts)))
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Draft(..)")
    }
}

impl PartialEq for Draft {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The same configuration with one top-level setting changed, or why that cannot be. With `pgbouncers` the key and
/// the value may be PgBouncer's; Howdah's own names are always understood.
pub fn with_setting(config: &Config, key: &str, value: &str, pgbouncers: bool) -> Result<Config, String> {
    let global = |s: &&Setting| s.at(Level::Global);
    let mut settings = SETTINGS.iter().filter(global);
    let theirs = pgbouncers.then(|| settings.clone().find(|s| s.pgbouncer.main == Some(key))).flatten();
    let setting = theirs.or_else(|| settings.find(|s| s.key == key));
    if setting.is_some_and(|s| s.reload == Reload::Restart) {
        return Err(format!("{key} can be changed by a restart only."));
    }
    let Some(parts) = &config.notes.draft.0 else {
        return Err("This configuration cannot be changed while it is in force.".to_owned());
    };
    let mut tree = parts.tree.clone();
    let mut warnings = Vec::new();
    match setting {
        Some(s) if theirs.is_none() => {
            tree.insert(s.key.to_owned(), Node::loose(value.to_owned(), &Source::Console));
        }
        _ if pgbouncers && pgbouncer::is_key(key) => {
            warnings = pgbouncer::set(&mut tree, key, value)?;
        }
        _ => return Err(format!("There is no setting \"{key}\" that can be changed here.")),
    }
    let mut new = build_from(parts, tree, config)?;
    new.notes.warnings.extend(warnings);
    Ok(new)
}

/// Whether what a SET of this key states may be shown: it is a setting, and none that is secret. What is no setting may be
/// a secret one that was misspelt.
pub fn is_public(key: &str) -> bool {
    let named = |s: &&Setting| s.key == key || s.pgbouncer.main == Some(key);
    let mut settings = SETTINGS.iter().filter(named).peekable();
    if settings.peek().is_none() {
        return pgbouncer::ELSEWHERE.iter().chain(pgbouncer::WITHOUT_MEANING).any(|(k, _)| *k == key);
    }
    settings.all(|s| !s.is_secret())
}

/// Whether a setting of this name is secret.
pub fn is_secret(key: &str) -> bool {
    SETTINGS.iter().any(|s| (s.key == key || s.pgbouncer.main == Some(key)) && s.is_secret())
}

/// `old` keeps its TLS where that of the new one is not whole yet: certificate and key are set one by one.
fn build_from(parts: &Parts, tree: Table, old: &Config) -> Result<Config, String> {
    let context = Context {
        origin: parts.origin.clone(),
        dir: parts.dir.clone(),
        profile: parts.profile,
        ini: parts.ini,
        variables: &parts.variables,
        warnings: parts.warnings.clone(),
    };
    let mut errors = Vec::new();
    let mut config = build::build(&tree, context, &mut errors);
    if parts.profile == Profile::PgBouncer
        && errors.iter().all(ConfigError::is_about_tls)
        && !errors.is_empty()
    {
        config.tls = old.tls.clone();
        for e in errors.drain(..) {
            config.notes.warnings.push(e.discreet().as_tls_setup());
        }
    }
    if !errors.is_empty() {
        return Err(errors.iter().map(|e| e.discreet().to_string()).collect::<Vec<_>>().join("\n"));
    }
    config.notes.draft = Draft::new(Parts {
        tree,
        origin: parts.origin.clone(),
        dir: parts.dir.clone(),
        profile: parts.profile,
        ini: parts.ini,
        variables: parts.variables.clone(),
        warnings: parts.warnings.clone(),
    });
    Ok(config)
}
