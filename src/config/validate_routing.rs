//! What does not go together in the settings about several servers.

use super::resolved::{Config, Database, Role};
use super::routing::{Hosts, ReadYourWrites};

type Problem = (&'static str, String, Option<&'static str>);

/// Key, reason, what is allowed.
pub(super) fn problems(config: &Config, database: &Database) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    let r = &database.routing;
    let section = |role| database.roles.contains_key(&role);
    if r.hosts == Hosts::Auto && section(Role::Replica) {
        let why = "with role = \"auto\" the replicas are among the hosts, and a replica section has no place";
        found.push(("role", why.to_owned(), Some("\"primary\", or no replica section")));
    }
    match r.fixed {
        Some(Role::Replica) if !database.has_replicas() => {
            let why = "the database has no replicas".to_owned();
            found.push(("route", why, Some("a replica section, or role = \"auto\"")));
        }
        Some(Role::Admin) if !section(Role::Admin) => {
            found.push(("route", "the database has no admin section".to_owned(), None));
        }
        _ => {}
    }
    if !r.admin_pool_users.is_empty() && !section(Role::Admin) {
        found.push(("admin_pool_users", "the database has no admin section".to_owned(), None));
    }
    if !database.has_replicas() {
        if r.read_your_writes != ReadYourWrites::Off {
            found.push(("read_your_writes", "the database has no replicas".to_owned(), Some("off")));
        }
        if r.defer_begin {
            found.push(("defer_begin", "the database has no replicas".to_owned(), Some("false")));
        }
        return found;
    }
    if let Some(lag) = r.max_lag
        && lag < config.limits.monitor_interval * 2
    {
        let why = "is less than twice monitor_interval, so that no replica could prove it all the time";
        found.push(("max_lag", why.to_owned(), Some("more, or a shorter monitor_interval")));
    }
    if database.monitor_user(config).is_none() {
        let why = "is missing: there is no user, and the monitor must be one";
        found.push(("monitor_user", why.to_owned(), Some("the name of a user")));
    }
    for (key, hosts) in [
        ("weights", r.weights.iter().map(|(h, _)| h).collect::<Vec<_>>()),
        ("zones", r.zones.iter().map(|(h, _)| h).collect()),
    ] {
        for host in hosts {
            if !database.replica_hosts().contains(host) {
                found.push((key, format!("{host} is none of the hosts that can be replicas"), None));
            }
        }
    }
    found
}

impl Database {
    /// As whom the monitor logs in.
    pub fn monitor_user(&self, config: &Config) -> Option<String> {
        let first = || {
            let with_password = config.users.iter().filter(|(_, u)| u.secret.is_some()).map(|(n, _)| n).min();
            with_password.or_else(|| config.users.keys().min()).cloned()
        };
        self.routing.monitor_user.clone().or_else(|| self.server_user.clone()).or_else(first)
    }
}
