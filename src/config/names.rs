//! Names of users and databases as PostgreSQL keeps them: it cuts what is longer than 63 bytes off, wherever a name is
//! stated. What a client says is cut when it is read; here it is what the configuration says, so that both meet.

use std::collections::BTreeMap;

use super::build::{join, source_at};
use super::problem::ConfigError;
use super::raw::{Source, Table};
use super::resolved::{Config, Profile};

/// `NAMEDATALEN - 1`.
const MOST: usize = 63;

/// The first 63 bytes, but no part of a character: `CREATE ROLE` and `CREATE DATABASE` do the same.
fn cut(name: &mut String) {
    let end = (0..=MOST.min(name.len())).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
    name.truncate(end);
}

/// Cuts all of a configuration's names, in the native profile. Two that are one then are a problem.
pub(super) fn as_postgresql(
    config: &mut Config,
    tree: &Table,
    whole: &Source,
    errors: &mut Vec<ConfigError>,
) {
    if config.profile != Profile::Native {
        return;
    }
    config.users = cut_keys("users", std::mem::take(&mut config.users), tree, whole, errors);
    config.databases = cut_keys("databases", std::mem::take(&mut config.databases), tree, whole, errors);
    for (name, db) in &mut config.databases {
        name.clone_into(&mut db.name);
    }
    for db in config.databases.values_mut().chain(&mut config.autodb) {
        cut(&mut db.dbname);
        let lookup = [&mut db.lookup.user, &mut db.lookup.database];
        for name in lookup.into_iter().chain([&mut db.server_user]).flatten() {
            cut(name);
        }
        db.pool_overrides.iter_mut().filter_map(|o| o.user.as_mut()).for_each(cut);
    }
    for name in [&mut config.access.lookup.user, &mut config.access.lookup.database].into_iter().flatten() {
        cut(name);
    }
    config.admin_users.iter_mut().chain(&mut config.stats_users).for_each(cut);
}

fn cut_keys<V>(
    section: &str,
    map: BTreeMap<String, V>,
    tree: &Table,
    whole: &Source,
    errors: &mut Vec<ConfigError>,
) -> BTreeMap<String, V> {
    let mut all = BTreeMap::new();
    for (name, value) in map {
        let mut short = name.clone();
        cut(&mut short);
        if all.insert(short, value).is_some() {
            let source = source_at(tree, &[section, &name], whole);
            let why = "PostgreSQL keeps 63 bytes of a name, and another one here begins with the same";
            errors.push(ConfigError::new(&source, &join(section, &name), why));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        for (name, kept) in
            [("x".repeat(63), 63), ("x".repeat(64), 63), ("é".repeat(40), 62), ("x".repeat(62) + "€", 62)]
        {
            let mut short = name.clone();
            cut(&mut short);
            assert_eq!((short.len(), name.starts_with(&short)), (kept, true));
        }
    }
}
