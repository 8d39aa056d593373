//! What `howdah check` prints about a valid configuration: what it comes to, and why the rest is as it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::resolved::{Config, Database, HostAddr, Profile, Role};
use super::setting::{Level, Reload};
use super::settings::SETTINGS;

/// So many pools of one role are listed by user; thousands of users would hide the rest.
const LISTED: usize = 20;

/// The summary, in lines.
pub fn summary(config: &Config) -> String {
    let mut out = String::new();
    let profile = match config.profile {
        Profile::Native => "native",
        Profile::PgBouncer => "PgBouncer",
    };
    let _ = writeln!(out, "{}: valid ({profile} profile)", config.origin);
    for warning in &config.notes.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    pools(&mut out, config);
    defaults(&mut out, config);
    out
}

fn pools(out: &mut String, config: &Config) {
    let mut hosts: BTreeMap<&HostAddr, u64> = BTreeMap::new();
    let _ = writeln!(out, "\nPools (database/user/role: size + reserve, minimum):");
    for database in config.databases.values() {
        for (role, servers) in &database.roles {
            let total = role_pools(out, config, database, *role);
            for host in &servers.hosts {
                *hosts.entry(host).or_default() += total;
            }
        }
    }
    let _ = writeln!(out, "\nServer connections at most, by host:");
    for (host, total) in hosts {
        let _ = writeln!(out, "  {host}: {total}");
    }
    if config.users.is_empty() {
        let _ = writeln!(out, "  (for one user; there is no list of users, so each user adds as many)");
    }
}

/// Lists the pools of one role and returns how many connections they may have together on one host.
fn role_pools(out: &mut String, config: &Config, database: &Database, role: Role) -> u64 {
    let users: Vec<&str> = match &database.server_user {
        Some(user) => vec![user.as_str()],
        None if config.users.is_empty() => vec!["(each user)"],
        None => config.users.keys().map(String::as_str).collect(),
    };
    let mut total = 0;
    for (i, user) in users.iter().enumerate() {
        let pool = config.pool_settings(database, user, role);
        let limit = config.users.get(*user).and_then(|u| u.max_connections).map_or(u64::MAX, u64::from);
        total += (u64::from(pool.size) + u64::from(pool.reserve_size)).min(limit);
        if i < LISTED {
            let (name, role) = (&database.name, role.as_str());
            let _ = writeln!(
                out,
                "  {name}/{user}/{role}: {} + {}, {}; {} mode",
                pool.size,
                pool.reserve_size,
                pool.min_size,
                pool.mode.as_str()
            );
        }
    }
    if users.len() > LISTED {
        let _ = writeln!(out, "  … and {} more users", users.len() - LISTED);
    }
    let cap = [database.max_connections, database.max_host_connections].into_iter().flatten().min();
    cap.map_or(total, |cap| total.min(u64::from(cap)))
}

fn defaults(out: &mut String, config: &Config) {
    let _ = writeln!(out, "\nDefaults in force:");
    for setting in SETTINGS.iter().filter(|s| s.at(Level::Global)) {
        let Some(effective) = config.notes.settings.get(setting.key).filter(|e| !e.stated) else { continue };
        let compatible = config.profile == Profile::PgBouncer && setting.pgbouncer.preset.is_some();
        let reason = if compatible { "as in PgBouncer" } else { setting.reason };
        let _ = writeln!(out, "  {} = {}: {reason}", setting.key, effective.value);
    }
}

/// The top-level settings that differ and that a reload cannot change.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let value =
        |config: &Config, key| config.notes.settings.get(key).map(|e| (e.value.clone(), e.hidden.clone()));
    SETTINGS
        .iter()
        .filter(|s| s.at(Level::Global) && s.reload == Reload::Restart)
        .map(|s| s.key)
        .filter(|key| value(old, *key) != value(new, *key))
        .collect()
}
