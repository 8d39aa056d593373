//! Keys and sections that somebody meant, as PgBouncer or a typo has them.

use super::pgbouncer::{ELSEWHERE, STARTUP, WITHOUT_MEANING};
use super::problem::ConfigError;
use super::raw::{Node, Raw};
use super::setting::Level;
use super::settings::{self, SETTINGS};

/// What is said of a key that this level does not have.
pub(super) fn unknown(level: Level, key: &str, node: &Node, full: &str) -> ConfigError {
    match &node.raw {
        Raw::Table(inner) if !level.children().is_empty() => {
            return section(level, key, inner.keys(), node, full);
        }
        Raw::List(all) if level == Level::Global && all.iter().any(|n| matches!(n.raw, Raw::Table(_))) => {
            let e = ConfigError::new(&node.source, full, "unknown section").allowed("[[pools]]");
            return e;
        }
        _ => {}
    }
    if let Some(e) = pgbouncers(level, key, node, full) {
        return e;
    }
    let elsewhere: Vec<&str> =
        SETTINGS.iter().filter(|s| s.key == key).flat_map(|s| s.levels.iter().map(|l| l.title())).collect();
    if !elsewhere.is_empty() {
        let why = format!("cannot be set here; it belongs in {}", elsewhere.join(" or "));
        return ConfigError::new(&node.source, full, why);
    }
    let candidates = settings::keys(level).chain(level.children().iter().copied());
    // No value: a misspelt `password` must not show what follows it.
    ConfigError::new(&node.source, full, "unknown setting").nearest(key, candidates)
}

/// A section whose name nobody knows.
fn section<'n>(
    level: Level,
    key: &str,
    mut inner: impl Iterator<Item = &'n String>,
    node: &Node,
    full: &str,
) -> ConfigError {
    let e = ConfigError::new(&node.source, &format!("[{full}]"), "unknown section");
    if key == "pgbouncer" {
        return e.allowed("top-level settings of this file; `howdah convert` makes TOML of a pgbouncer.ini");
    }
    let mut e = e.nearest(key, level.children().iter().copied());
    match (&e.nearest, level) {
        (Some(near), Level::Global) => {
            let name = inner.next().map_or("NAME", String::as_str);
            e.nearest = Some(match near.as_str() {
                "pools" => "[[pools]]".to_owned(),
                "fleet" => "[fleet]".to_owned(),
                near => format!("[{}]", super::build::join(near, name)),
            });
        }
        (Some(near), _) => {
            let outer = full.rsplit_once('.').map_or("", |(outer, _)| outer);
            e.nearest = Some(format!("[{outer}.{near}]"));
        }
        (None, Level::Global) => {
            e = e.allowed("[databases.NAME], [users.NAME], [[pools]], [peers.NUMBER], [fleet]");
        }
        (None, _) => {
            let children = level.children().iter().map(|c| format!("[databases.NAME.{c}]"));
            e = e.allowed(children.collect::<Vec<_>>().join(", "));
        }
    }
    e
}

/// What became of a key of PgBouncer's.
fn pgbouncers(level: Level, key: &str, node: &Node, full: &str) -> Option<ConfigError> {
    let error = |why: &str| ConfigError::new(&node.source, full, why);
    let theirs = "unknown setting, which is PgBouncer's name";
    if key == "reserve_pool" {
        return Some(error(theirs).means("reserve_pool_size"));
    }
    if let Some(s) = SETTINGS.iter().find(|s| s.at(level) && s.pgbouncer.names().contains(&key)) {
        return Some(error(theirs).means(s.key));
    }
    if level == Level::Database && STARTUP.contains(&key) {
        let written = format!("startup = {{ {key} = \"…\" }}");
        return Some(error("a parameter that the server connections start with").allowed(written));
    }
    if level != Level::Global {
        return None;
    }
    if let Some((_, becomes)) = ELSEWHERE.iter().find(|(k, _)| *k == key) {
        // The first word in backticks is the setting.
        let word = becomes.split('`').nth(1).unwrap_or_default();
        return Some(error(theirs).means(word.split(' ').next().unwrap_or_default()));
    }
    let (_, why) = WITHOUT_MEANING.iter().find(|(k, _)| *k == key)?;
    Some(
        error(&format!("a setting of PgBouncer's that means nothing here: {why}"))
            .allowed("a file without it"),
    )
}
