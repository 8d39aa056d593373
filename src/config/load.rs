//! From a file, variables and flags to a configuration. Nothing here asks the process for its environment:
//! the caller hands it in, so that a test can too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::build::{self, Context, join};
use super::draft::{Draft, Parts};
use super::file::{self, is_ini};
use super::pgbouncer;
use super::problem::{ConfigError, nearest};
use super::raw::{self, Node, Raw, Source, Table};
use super::resolved::{Config, Profile};
use super::setting::Level;
use super::settings;

const PREFIX: &str = "HOWDAH_";
/// What a configuration without a file is called in messages.
const NO_FILE: &str = "variables and flags";

/// What is put over the file: first variables, then flags.
///
/// `HOWDAH_QUERY_TIMEOUT=30s` sets a top-level setting. Sections are joined by two underscores:
/// `HOWDAH_DATABASES__APP__POOL_SIZE`, `HOWDAH_DATABASES__APP__REPLICA__HOST`, `HOWDAH_USERS__ALICE__PASSWORD`,
/// `HOWDAH_POOLS__0__POOL_SIZE` for the first `[[pools]]` entry. A name means the section of the same name,
/// whatever its case and with `_` for every other sign, or else a new section with the name in lower case.
#[derive(Clone, Default)]
pub struct Overrides {
    variables: BTreeMap<String, String>,
    flags: Vec<(String, String)>,
    /// Of `--set`, what has no `=`.
    without_value: Vec<String>,
}

impl Overrides {
    /// All variables of the process; those that are no settings may still be named by a `password_env`.
    pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: variables.into_iter().collect(), ..Self::default() }
    }

    /// A flag for a key path such as `query_timeout` or `databases.app.pool_size`; the strongest of all.
    #[must_use]
    pub fn flag(mut self, path: &str, value: impl Into<String>) -> Self {
        self.flags.push((path.to_owned(), value.into()));
        self
    }

    /// `--set KEY=VALUE`, as it was written.
    #[must_use]
    pub fn set(mut self, text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => self.flag(key.trim(), value),
            None => {
                self.without_value.push(text.to_owned());
                self
            }
        }
    }

    /// Whether anything is stated that could make a configuration without a file.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty() && self.without_value.is_empty() && !self.variables.keys().any(|n| is_meant(n))
    }

    /// Whether a flag or a variable states the setting at this key path.
    pub(super) fn states(&self, path: &str) -> bool {
        let variable = format!("{PREFIX}{}", path.replace('.', "__").to_uppercase());
        self.flags.iter().any(|(p, _)| p == path) || self.variables.contains_key(&variable)
    }
}

/// The configuration that variables and `--set` make, without a file.
pub fn from_overrides(overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let (tree, start) = without_file();
    finish(tree, start, overrides)
}

/// Reads a TOML file, or a `pgbouncer.ini` if [`is_ini`] takes it for one.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let (tree, start) = open(path)?;
    finish(tree, start, overrides)
}

/// As much as can be read, with all that is wrong with it; for who looks for a running Howdah, which may serve by an
/// earlier state of the file. The error is that nothing can be read. Without a file variables and `--set` are read.
pub fn outline(
    path: Option<&Path>,
    overrides: &Overrides,
) -> Result<(Config, Vec<ConfigError>), Vec<ConfigError>> {
    let (tree, start) = path.map_or_else(|| Ok(without_file()), open)?;
    Ok(build_all(tree, start, overrides))
}

fn without_file() -> (Table, Start) {
    let start = Start {
        origin: Arc::from(NO_FILE),
        dir: PathBuf::new(),
        profile: Profile::Native,
        ini: false,
        warnings: Vec::new(),
        errors: Vec::new(),
    };
    (Table::new(), start)
}

/// The tree of a file.
fn open(path: &Path) -> Result<(Table, Start), Vec<ConfigError>> {
    let origin: Arc<str> = Arc::from(path.display().to_string().as_str());
    let whole = Source::File { path: origin.clone(), line: None };
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| vec![ConfigError::new(&whole, "", format!("cannot be read: {e}"))])?;
    let is_ini = is_ini(path);
    if let Some(why) = file::misnamed(path, &text) {
        return Err(vec![ConfigError::new(&whole, "", why)]);
    }
    // PgBouncer's paths are relative to where it was started.
    let dir = if is_ini { None } else { path.parent() };
    let dir = dir.map_or_else(PathBuf::new, Path::to_path_buf);
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let (profile, tree) = if is_ini {
        (Profile::PgBouncer, pgbouncer::read(&text, &origin, &dir, &mut errors, &mut warnings))
    } else {
        let tree = raw::from_toml(&text, &origin, &mut errors);
        if !errors.is_empty() {
            // Where the grammar is broken, keys are missing only because they could not be read.
            return Err(errors);
        }
        (Profile::Native, tree)
    };
    Ok((tree, Start { origin, dir, profile, ini: is_ini, warnings, errors }))
}

/// What is known when a tree has been read.
pub(super) struct Start {
    pub origin: Arc<str>,
    pub dir: PathBuf,
    pub profile: Profile,
    pub ini: bool,
    pub warnings: Vec<String>,
    pub errors: Vec<ConfigError>,
}

/// Puts variables and flags over the tree and builds the configuration.
pub(super) fn finish(tree: Table, start: Start, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let (config, errors) = build_all(tree, start, overrides);
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

/// The configuration, and all that is wrong with it.
fn build_all(mut tree: Table, start: Start, overrides: &Overrides) -> (Config, Vec<ConfigError>) {
    let Start { origin, dir, profile, ini, warnings, mut errors } = start;
    put_variables(&mut tree, &overrides.variables, &mut errors);
    for text in &overrides.without_value {
        let e = ConfigError::new(&Source::Set(text.clone()), "", "has no value");
        errors.push(e.allowed("--set KEY=VALUE, such as --set query_timeout=30s"));
    }
    for (path, value) in &overrides.flags {
        let source = Source::Set(path.clone());
        let segments: Vec<&str> = path.split('.').collect();
        if !put(&mut tree, &segments, Node::loose(value.clone(), &source)) {
            errors.push(ConfigError::new(&source, path, "there is no such section"));
        }
    }
    let profile = compatibility(&tree, profile, &mut errors);
    let context = Context {
        origin: origin.clone(),
        dir: dir.clone(),
        profile,
        ini,
        variables: &overrides.variables,
        warnings: warnings.clone(),
    };
    let mut config = build::build(&tree, context, &mut errors);
    if errors.is_empty() {
        let variables = overrides.variables.clone();
        config.notes.draft = Draft::new(Parts { tree, origin, dir, profile, ini, variables, warnings });
        return (config, errors);
    }
    for e in errors.iter_mut().filter(|e| e.file().is_some_and(|f| f != &*origin)) {
        *e = e.without_content();
    }
    errors.sort_by_key(|e| (e.file().is_none(), e.line()));
    (config, errors)
}

/// Defaults depend on the profile, so it is known before anything else is read.
fn compatibility(tree: &Table, read_as: Profile, errors: &mut Vec<ConfigError>) -> Profile {
    let Some(node) = tree.get("compatibility") else { return read_as };
    match &node.raw {
        Raw::Text(t) | Raw::Loose(t) if t == "pgbouncer" => Profile::PgBouncer,
        _ if read_as == Profile::PgBouncer => {
            let why =
                "a pgbouncer.ini is always read as PgBouncer reads it; `howdah convert` makes it native";
            errors.push(ConfigError::new(&node.source, "compatibility", why).allowed("\"pgbouncer\""));
            read_as
        }
        _ => read_as,
    }
}

/// Sets the value at a path of names; false if something other than a section is in the way.
fn put(tree: &mut Table, path: &[&str], node: Node) -> bool {
    let Some((key, sections)) = path.split_last() else { return false };
    let table = match sections {
        ["pools", index] => match tree.get_mut("pools").map(|n| &mut n.raw) {
            Some(Raw::List(list)) => {
                match index.parse().ok().and_then(|i: usize| list.get_mut(i)).map(|n| &mut n.raw) {
                    Some(Raw::Table(table)) => Some(table),
                    _ => None,
                }
            }
            _ => None,
        },
        sections => raw::table_at(tree, sections, &node.source),
    };
    table.map(|t| t.insert((*key).to_owned(), node)).is_some()
}

fn put_variables(tree: &mut Table, variables: &BTreeMap<String, String>, errors: &mut Vec<ConfigError>) {
    let mut secrets = BTreeSet::new();
    named_by_password_env(tree, &mut secrets);
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| is_meant(name) && !secrets.contains(name))
        else {
            continue;
        };
        let source = Source::Variable(name.clone());
        let Some(path) = path_of(tree, rest) else {
            errors.push(no_setting(&source, rest));
            continue;
        };
        let segments: Vec<&str> = path.iter().map(String::as_str).collect();
        if segments.len() > 2 {
            forget_other_secrets(tree, &segments);
        }
        if !put(tree, &segments, Node::loose(value.clone(), &source)) {
            let full = segments.iter().fold(String::new(), |path, key| join(&path, key));
            errors.push(ConfigError::new(&source, &full, "there is no such section"));
        }
    }
}

/// A password from a variable replaces one from the file, in whichever of the three ways that states it.
fn forget_other_secrets(tree: &mut Table, path: &[&str]) {
    const WAYS: [&str; 3] = ["password", "password_file", "password_env"];
    let Some((key, sections)) = path.split_last() else { return };
    let mut table = tree;
    for name in sections {
        match table.get_mut(*name).map(|n| &mut n.raw) {
            Some(Raw::Table(t)) => table = t,
            _ => return,
        }
    }
    if WAYS.contains(key) {
        table.retain(|k, n| !WAYS.contains(&k.as_str()) || !matches!(n.source, Source::File { .. }));
    }
}

/// Whether a variable is meant for the configuration.
fn is_meant(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    !(rest.is_empty() || is_service_link(rest) || is_tool_variable(rest))
}

/// A variable that means nothing, with what it may have been meant to be.
fn no_setting(source: &Source, rest: &str) -> ConfigError {
    let mut e = ConfigError::new(source, "", "this variable is no setting");
    let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let (level, key) = (level_of(&path).map(|(level, _)| level), path.last().map_or("", String::as_str));
    let sections = rest.rsplit_once("__").map_or_else(String::new, |(sections, _)| format!("{sections}__"));
    e.nearest = level
        .and_then(|level| nearest(key, settings::keys(level)))
        .map(|key| format!("{PREFIX}{sections}{}", key.to_uppercase()));
    let allowed = match rest.split('_').next() {
        _ if e.nearest.is_some() || level.is_some_and(|l| l != Level::Global) => return e,
        Some("DATABASES" | "DATABASE") => "HOWDAH_DATABASES__NAME__KEY, with two underscores each time",
        Some("USERS" | "USER") => "HOWDAH_USERS__NAME__KEY, with two underscores each time",
        _ => return e,
    };
    e.allowed(allowed)
}

/// Variables of the command line, the demo, the tests and the benchmark, which share the prefix and are no settings.
fn is_tool_variable(rest: &str) -> bool {
    matches!(rest, "CONFIG" | "PG_BIN" | "BIN" | "PGBENCH_SECONDS") || rest.starts_with("TEST_")
}

/// A container platform announces a service called `howdah` by variables of this form.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT"
        || rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || rest.strip_prefix("PORT_").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
}

fn named_by_password_env(table: &Table, names: &mut BTreeSet<String>) {
    for (key, node) in table {
        match &node.raw {
            Raw::Table(t) => named_by_password_env(t, names),
            Raw::Text(name) | Raw::Loose(name) if key == "password_env" => {
                names.insert(name.clone());
            }
            _ => {}
        }
    }
}

/// The kind of section that a path leads to, and the name in it.
fn level_of(path: &[String]) -> Option<(Level, Option<&str>)> {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    Some(match *parts.as_slice() {
        [_] => (Level::Global, None),
        ["databases", name, _] => (Level::Database, Some(name)),
        ["databases", name, "replica" | "admin", _] => (Level::Role, Some(name)),
        ["users", name, _] => (Level::User, Some(name)),
        ["pools", _, _] => (Level::Pool, None),
        ["fleet", _] => (Level::Fleet, None),
        _ => return None,
    })
}

/// The key path that a variable means, if it can mean one.
fn path_of(tree: &Table, rest: &str) -> Option<Vec<String>> {
    let segments: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (level, name) = level_of(&segments)?;
    settings::find(level, parts.last()?)?;
    let mut path = segments.clone();
    if let (Some(name), Some(slot)) = (name, path.get_mut(1)) {
        *slot = existing(tree, parts.first()?, name).unwrap_or_else(|| name.to_owned());
    }
    Some(path)
}

fn existing(tree: &Table, section: &str, name: &str) -> Option<String> {
    let Raw::Table(entries) = &tree.get(section)?.raw else { return None };
    let plain = |n: &str| -> String {
        n.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
    };
    entries.keys().find(|n| plain(n) == *name).cloned()
}
