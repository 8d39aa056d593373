//! Which sections have a value of their own, so that one that is set for all does not reach them.

use super::raw::{Raw, Table};

fn table<'t>(of: &'t Table, name: &str) -> Option<&'t Table> {
    match &of.get(name)?.raw {
        Raw::Table(t) => Some(t),
        _ => None,
    }
}

/// Whether the section is there.
pub(super) fn has(tree: &Table, path: &[&str]) -> bool {
    path.iter().try_fold(tree, |at, name| table(at, name)).is_some()
}

/// A sentence about the sections that keep their own value of a setting that was set for all; the error where these
/// are all databases that there are, so that nothing would change.
pub(super) fn kept(tree: &Table, key: &str, value: &str) -> Result<Option<String>, String> {
    // It also bounds the time before anybody knows the database.
    if key == "client_login_timeout" {
        return Ok(None);
    }
    let (own, databases_left) = own(tree, key, None);
    let Some(first) = own.first() else { return Ok(None) };
    let all = own.join(", ");
    if databases_left {
        return Ok(Some(format!("These sections keep their own {key}: {all}.")));
    }
    Err(format!(
        "Nothing would change: these sections have a {key} of their own: {all}. SET {first}.{key} = {value} changes it there."
    ))
}

/// The same of a setting that was set for one section: what is more particular than that keeps its own.
pub(super) fn kept_within(tree: &Table, path: &[&str], key: &str) -> Option<String> {
    let (all, _) = match path {
        ["databases", name, ..] => own(tree, key, Some(name)),
        _ => own(tree, key, Some("")),
    };
    let set = path.join(".");
    let others: Vec<String> = all.into_iter().filter(|s| *s != set).collect();
    (!others.is_empty()).then(|| format!("These sections keep their own {key}: {}.", others.join(", ")))
}

/// Sections that state a setting, of one database or of all, and whether a database is left that does not.
fn own(tree: &Table, key: &str, of: Option<&str>) -> (Vec<String>, bool) {
    let mut own = Vec::new();
    let mut databases_left = false;
    for (name, node) in table(tree, "databases").into_iter().flatten() {
        let Raw::Table(database) = &node.raw else { continue };
        if of.is_some_and(|of| of != name) {
            continue;
        }
        if database.contains_key(key) {
            own.push(format!("databases.{name}"));
        } else {
            databases_left = true;
        }
        for role in ["replica", "admin"] {
            if table(database, role).is_some_and(|r| r.contains_key(key)) {
                own.push(format!("databases.{name}.{role}"));
            }
        }
    }
    for (name, node) in table(tree, "users").into_iter().flatten() {
        if matches!(&node.raw, Raw::Table(user) if user.contains_key(key)) {
            own.push(format!("users.{name}"));
        }
    }
    if let Some(Raw::List(pools)) = tree.get("pools").map(|n| &n.raw)
        && pools.iter().any(|p| matches!(&p.raw, Raw::Table(pool) if pool.contains_key(key)))
    {
        own.push("[[pools]]".to_owned());
    }
    (own, databases_left)
}
