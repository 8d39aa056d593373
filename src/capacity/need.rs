//! What one instance can open at each host, from its configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::Config;
use crate::config::resolved::{Budget, Database, HostAddr, PoolMode, Role};
use crate::session_state::Way;

use super::facts::Facts;

/// Howdah's own connections to a host: one at a time asks the server what it can carry, or examines it for advice. The
/// program `howdah doctor` is a process of its own, and its one connection is not in the sum of any instance.
const CHECKS: &str = "checks";
/// Where a database has replicas.
const MONITOR: &str = "monitor";
/// Where users are looked up.
const AUTH_QUERY: &str = "auth_query";
/// Where clients listen through one connection (`session_listen = "share"`), and that is stated.
const LISTENER: &str = "listener";
/// Of a fleet.
const CONTROL: &str = "control";

/// One pool, as far as its size is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNeed {
    pub database: String,
    pub user: String,
    pub role: Role,
    pub server_user: String,
    pub dbname: String,
    /// 0 is without limit, which only PgBouncer's profile has.
    pub size: u32,
    pub reserve: u32,
    pub min: u32,
    pub share: u32,
    pub expected_tps: Option<u32>,
    pub expected_duration: Option<Duration>,
}

impl PoolNeed {
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.database, self.user, self.role.as_str())
    }

    /// Nothing where it has no limit.
    pub fn most(&self) -> Option<u64> {
        (self.size > 0).then(|| u64::from(self.size) + u64::from(self.reserve))
    }
}

/// What one instance can open at one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNeed {
    pub host: HostAddr,
    pub pools: Vec<PoolNeed>,
    /// `max_host_connections`.
    pub host_limit: Option<u32>,
    pub database_limits: BTreeMap<String, u32>,
    pub user_limits: BTreeMap<String, u32>,
    /// Databases to which users can come that the configuration does not know, without a limit over their pools.
    pub open_ended: Vec<String>,
    pub own: u32,
    /// What those are.
    pub own_kinds: Vec<&'static str>,
    /// `safety_margin` in thousandths, and whether the configuration states it.
    pub margin: u32,
    pub margin_stated: bool,
    pub budget: Option<Budget>,
    /// `fleet.minimum`.
    pub minimum: u32,
}

impl HostNeed {
    /// The most that the pools for which `counts` holds can open at this host; nothing without a limit.
    pub fn most(&self, counts: impl Fn(&PoolNeed) -> bool) -> Option<u64> {
        let by = |key: fn(&PoolNeed) -> &str, limits: &BTreeMap<String, u32>| -> Option<u64> {
            let mut sums: BTreeMap<&str, Option<u64>> = BTreeMap::new();
            for pool in self.pools.iter().filter(|p| counts(p)) {
                let sum = sums.entry(key(pool)).or_insert(Some(0));
                *sum = sum.and_then(|s| pool.most().map(|m| s + m));
            }
            let capped = sums.into_iter().map(|(k, s)| least(s, limits.get(k).copied()));
            capped.sum()
        };
        let databases = by(|p| &p.database, &self.database_limits);
        let users = by(|p| &p.user, &self.user_limits);
        let sum = match (databases, users) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        least(sum, self.host_limit)
    }

    /// Server roles of the pools.
    pub fn roles(&self) -> BTreeSet<&str> {
        self.pools.iter().map(|p| p.server_user.as_str()).collect()
    }

    /// Databases of the pools, by their names on the server.
    pub fn databases(&self) -> BTreeSet<&str> {
        self.pools.iter().map(|p| p.dbname.as_str()).collect()
    }

    /// What safety_margin leaves to poolers of a server's connections.
    pub fn usable(&self, facts: &Facts) -> u64 {
        u64::from(facts.ordinary()) * u64::from(self.margin) / 1000
    }

    /// The fleet's budget at a server with these facts.
    pub fn budget_of(&self, facts: &Facts) -> Option<u32> {
        self.budget.map(|b| b.of(facts.max_connections))
    }
}

fn least(sum: Option<u64>, limit: Option<u32>) -> Option<u64> {
    match (sum, limit.map(u64::from)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Every host of the configuration, with what it would be asked for.
pub fn needs(config: &Config) -> Vec<HostNeed> {
    let mut found: BTreeMap<HostAddr, HostNeed> = BTreeMap::new();
    for database in config.databases.values() {
        for (role, servers) in &database.roles {
            for host in &servers.hosts {
                let need = found.entry(host.clone()).or_insert_with(|| blank(config, host));
                need.pools.extend(pools(config, database, *role));
                let mut own = |kind, has: bool| {
                    if has && !need.own_kinds.contains(&kind) {
                        need.own_kinds.push(kind);
                    }
                };
                own(MONITOR, database.has_replicas());
                need.host_limit = match (need.host_limit, database.max_host_connections) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                if let Some(limit) = database.max_connections {
                    need.database_limits.insert(database.name.clone(), limit);
                }
                // Who may log in is on the list, or else there is no list.
                if config.users.is_empty() && !need.open_ended.contains(&database.name) {
                    need.open_ended.push(database.name.clone());
                }
            }
        }
    }
    // One is kept for each place and user that are asked, at the first of the place's hosts that lets it in.
    let asked = config.databases.values().filter_map(|d| {
        let place = d.lookup.database.as_deref().unwrap_or(&d.name);
        d.lookup.user.as_deref().map(|asker| (place, asker))
    });
    for (place, _) in asked.collect::<BTreeSet<_>>() {
        let primary = config.databases.get(place).and_then(|d| d.roles.get(&Role::Primary));
        for host in primary.map_or(&[][..], |servers| servers.hosts.as_slice()) {
            if let Some(need) = found.get_mut(host) {
                need.own_kinds.push(AUTH_QUERY);
            }
        }
    }
    for database in config.databases.values().filter(|d| may_share(config, d)) {
        for host in database.roles.get(&Role::Primary).map_or(&[][..], |servers| servers.hosts.as_slice()) {
            if let Some(need) = found.get_mut(host) {
                need.own_kinds.push(LISTENER);
            }
        }
    }
    for need in found.values_mut() {
        need.own_kinds.extend(config.fleet.budget.map(|_| CONTROL));
        need.own = crate::number::count(need.own_kinds.len());
        if need.host_limit.is_some() {
            need.open_ended.clear();
        }
        need.open_ended.retain(|d| !need.database_limits.contains_key(d));
    }
    found.into_values().collect()
}

/// Whether to count a listener for this database: its clients may need one, and the configuration states
/// `session_listen` itself. Where it does not, the listener uses one of the connections that `safety_margin` leaves free,
/// because most databases have no client that listens.
fn may_share(config: &Config, database: &Database) -> bool {
    if !config.notes.settings.get("session_listen").is_some_and(|s| s.stated) {
        return false;
    }
    let nobody = config.users.is_empty().then(String::new);
    let shares = |user: &String| {
        let s = config.pool_settings(database, user, Role::Primary);
        s.reset_state && s.mode != PoolMode::Session && s.session.ways.listen == Way::Share
    };
    config.users.keys().any(shares) || nobody.as_ref().is_some_and(shares)
}

fn blank(config: &Config, host: &HostAddr) -> HostNeed {
    let limits = config.users.iter().filter_map(|(n, u)| u.max_connections.map(|l| (n.clone(), l)));
    HostNeed {
        host: host.clone(),
        pools: Vec::new(),
        host_limit: None,
        database_limits: BTreeMap::new(),
        user_limits: limits.collect(),
        open_ended: Vec::new(),
        own: 0,
        own_kinds: vec![CHECKS],
        margin: config.capacity.safety_margin,
        margin_stated: config.notes.settings.get("safety_margin").is_some_and(|s| s.stated),
        budget: config.fleet.budget,
        minimum: config.fleet.minimum,
    }
}

fn pools<'a>(config: &'a Config, database: &'a Database, role: Role) -> impl Iterator<Item = PoolNeed> + 'a {
    // Where nobody is known, the pool of one user about whom nothing is said stands for all.
    let nobody = config.users.is_empty().then(String::new);
    config.users.keys().cloned().chain(nobody).map(move |user| {
        let s = config.pool_settings(database, &user, role);
        PoolNeed {
            database: database.name.clone(),
            role,
            server_user: database.server_user.clone().unwrap_or_else(|| user.clone()),
            dbname: database.dbname.clone(),
            size: s.size,
            reserve: s.reserve_size,
            min: s.min_size,
            share: s.share,
            expected_tps: s.expected_tps,
            expected_duration: s.expected_duration,
            user,
        }
    })
}
