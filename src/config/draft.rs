//! What a configuration was built from, kept so that one setting can be changed while everything runs, without
//! reading files that may say something else by now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::build::{self, Context};
use super::override_set;
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
///
/// A setting of one section is named with it: `databases.app.pool_size`, `databases.app.replica.pool_size`,
/// `users.app.pool_size`. Beside the configuration comes a sentence about sections that keep a value of their own, if
/// there are some; where they leave nothing to change, that is the error.
pub fn with_setting(
    config: &Config,
    key: &str,
    value: &str,
    pgbouncers: bool,
) -> Result<(Config, Option<String>), String> {
    if let Some((section, key)) = key.rsplit_once('.') {
        return in_section(config, section, key, value);
    }
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
    // PgBouncer answers so, whatever the databases say.
    let kept = match setting.filter(|_| parts.profile == Profile::Native) {
        Some(s) => override_set::kept(&tree, s.key, value)?,
        None => None,
    };
    let mut new = build_from(parts, tree, config)?;
    new.notes.warnings.extend(warnings);
    Ok((new, kept))
}

fn in_section(
    config: &Config,
    section: &str,
    key: &str,
    value: &str,
) -> Result<(Config, Option<String>), String> {
    let Some(parts) = &config.notes.draft.0 else {
        return Err("This configuration cannot be changed while it is in force.".to_owned());
    };
    let path: Vec<&str> = section.split('.').collect();
    let level = match path.as_slice() {
        ["databases", _] => Level::Database,
        ["databases", _, "replica" | "admin"] => Level::Role,
        ["users", _] => Level::User,
        _ => {
            return Err(format!(
                "[{section}] is no section whose settings can be changed here; databases.NAME, databases.NAME.replica, databases.NAME.admin and users.NAME are."
            ));
        }
    };
    let setting = SETTINGS.iter().find(|s| s.key == key && s.at(level));
    let setting = setting.ok_or_else(|| format!("There is no setting \"{key}\" in [{section}]."))?;
    if setting.reload == Reload::Restart {
        return Err(format!("{key} can be changed by a restart only."));
    }
    let mut tree = parts.tree.clone();
    if !override_set::has(&tree, &path) {
        return Err(format!("There is no section [{section}]; add it to the file and RELOAD."));
    }
    let table = super::raw::table_at(&mut tree, &path, &Source::Console);
    let table = table.ok_or_else(|| format!("[{section}] is no section."))?;
    table.insert(key.to_owned(), Node::loose(value.to_owned(), &Source::Console));
    let kept = override_set::kept_within(&tree, &path, key);
    Ok((build_from(parts, tree, config)?, kept))
}

/// Whether what a SET of this key states may be shown: it is a setting, and its value can hold no secret. What is no setting
/// may be a secret one that was misspelt.
pub fn is_public(key: &str) -> bool {
    // A key of a section is a setting of that name: `databases.app.pool_size`.
    let key = key.rsplit_once('.').map_or(key, |(_, key)| key);
    let named = |s: &&Setting| s.key == key || s.pgbouncer.main == Some(key);
    let mut settings = SETTINGS.iter().filter(named).peekable();
    if settings.peek().is_none() {
        return pgbouncer::ELSEWHERE.iter().chain(pgbouncer::WITHOUT_MEANING).any(|(k, _)| *k == key);
    }
    settings.all(|s| !s.may_hold_secret())
}

/// Whether the value of a setting of this name is, or may hold, a secret.
pub fn may_hold_secret(key: &str) -> bool {
    let key = key.rsplit_once('.').map_or(key, |(_, key)| key);
    SETTINGS.iter().any(|s| (s.key == key || s.pgbouncer.main == Some(key)) && s.may_hold_secret())
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
