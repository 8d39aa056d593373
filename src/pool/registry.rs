//! All pools by their keys: made on first use, reconfigured on reload, removed with their database or user.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::ledger::LimitKey;
use super::pooling::Pooling;
use super::stats::Statistics;
use super::{Pool, PoolKey, PoolSpec, PoolTotals};
use crate::clock::Clock;
use crate::config::Config;
use crate::shared::{MOST_NAMES, OTHER_NAMES};

#[derive(Debug, Default)]
pub struct Registry {
    pools: RwLock<HashMap<PoolKey, Arc<Pool>>>,
    /// Figures of pools that are gone, by database: totals never fall.
    gone: Mutex<HashMap<Arc<str>, PoolTotals>>,
    pub statistics: Statistics,
    /// Removed, and perhaps with connections in the hands of clients yet.
    leaving: Mutex<Vec<Weak<Pool>>>,
}

impl Registry {
    pub fn all(&self) -> Vec<Arc<Pool>> {
        let mut v: Vec<_> = self.pools.read().values().cloned().collect();
        v.sort_by(|a, b| a.key.cmp(&b.key));
        v
    }

    /// Those too that were removed and have not come to their end.
    pub fn all_and_gone(&self) -> Vec<Arc<Pool>> {
        let mut all = self.all();
        let mut leaving = self.leaving.lock();
        leaving.retain(|p| p.strong_count() > 0);
        all.extend(leaving.iter().filter_map(Weak::upgrade));
        all
    }

    pub fn get(&self, key: &PoolKey) -> Option<Arc<Pool>> {
        self.pools.read().get(key).cloned()
    }

    /// Databases that have pools, or had one that has served somebody.
    pub fn databases(&self) -> Vec<String> {
        let gone = self.gone.lock();
        let served = gone.iter().filter(|(_, t)| t.wait.count() > 0).map(|(name, _)| name.to_string());
        let mut all: Vec<String> = served.collect();
        drop(gone);
        all.extend(self.pools.read().keys().map(|k| k.database.to_string()));
        all
    }

    /// Figures of all pools of a database since the start, those that are gone among them.
    pub fn database_totals(&self, database: &str) -> PoolTotals {
        let mut sum = self.gone.lock().get(database).cloned().unwrap_or_default();
        for pool in self.all() {
            if &*pool.key.database == database {
                sum.add(&pool.totals());
            }
        }
        sum
    }

    /// The pool of this key; `None` when its database or role is not configured.
    pub fn obtain(&self, key: &PoolKey, pooling: &Arc<Pooling>) -> Option<Arc<Pool>> {
        if let Some(p) = self.get(key) {
            return Some(p);
        }
        let config = pooling.shared.config();
        let db = config.database(&key.database)?;
        let spec = PoolSpec::resolve(&config, &db, key)?;
        let mut pools = self.pools.write();
        let mut new = false;
        let pool = pools
            .entry(key.clone())
            .or_insert_with(|| {
                new = true;
                Pool::new(key.clone(), spec, pooling.clone())
            })
            .clone();
        drop(pools);
        if new {
            pool.follow_control();
        }
        Some(pool)
    }

    /// The figures of a pool that is gone stay, under its database's name as long as there is room for it.
    fn remember(&self, pool: &Pool) {
        let mut gone = self.gone.lock();
        let mut name = pool.key.database.clone();
        if gone.len() >= MOST_NAMES && !gone.contains_key(&name) {
            name = OTHER_NAMES.into();
        }
        gone.entry(name).or_default().add(&pool.totals());
    }

    /// Frees pools that nobody has used for as long as the configuration says: `pool_idle_timeout` for all that have no
    /// minimum, `autodb_idle_timeout` for those of databases that were made from a pattern.
    pub fn free_idle(&self, pooling: &Pooling) {
        let config = pooling.shared.config();
        let now = pooling.shared.clock.ms(Clock::now());
        let limit = |key: &PoolKey| {
            let auto = !config.databases.contains_key(&*key.database);
            let of_auto = config.compat.login.autodb_idle.filter(|_| auto);
            config.compat.servers.pool_idle.into_iter().chain(of_auto).min()
        };
        let mut freed = Vec::new();
        self.pools.write().retain(|key, pool| {
            let Some(limit) = limit(key).filter(|_| pool.spec().settings.min_size == 0) else { return true };
            // Nobody else can get hold of it while the registry is locked.
            let used = Arc::strong_count(pool) > 1 || !pool.is_empty();
            let old = pool.unused_for(now, used) < limit;
            if !old {
                freed.push(pool.clone());
            }
            old
        });
        if !freed.is_empty() {
            self.forget_secrets(pooling);
        }
        for pool in freed {
            self.remember(&pool);
            pooling.shared.counters.count("pools_freed_total", "");
            tracing::info!(target: "pgbouncer", "cleaning up idle pool {}/{}", pool.key.database, pool.key.user);
        }
    }

    /// What clients have shown of their secrets ends with the pools that it was for.
    fn forget_secrets(&self, pooling: &Pooling) {
        let all = self.all();
        let used: HashSet<(Arc<str>, Arc<str>)> =
            all.iter().map(|p| (p.key.database.clone(), p.spec().server_user().clone())).collect();
        pooling.shared.keyring.lock().retain(|key| used.contains(key));
    }

    /// Brings every pool to a new configuration; returns the keys of those that are gone.
    pub fn reconfigure(&self, old: &Config, config: &Config, pooling: &Pooling) -> Vec<PoolKey> {
        let mut gone = Vec::new();
        for pool in self.all() {
            let spec = config
                .database(&pool.key.database)
                .filter(|db| {
                    let forced = db.server_user.as_deref() == Some(&*pool.key.user);
                    // Who was never listed is still known to the server or the directory that knew him before.
                    let never_listed = !old.users.contains_key(&*pool.key.user);
                    forced
                        || config.users.contains_key(&*pool.key.user)
                        || (never_listed && config.admits_unlisted(db))
                })
                .and_then(|db| PoolSpec::resolve(config, &db, &pool.key));
            match spec {
                Some(spec) => pool.reconfigure(spec),
                None => {
                    self.pools.write().remove(&pool.key);
                    pool.close();
                    self.remember(&pool);
                    self.leaving.lock().push(Arc::downgrade(&pool));
                    // Clients of a replica that is gone have others.
                    if pool.key.host.is_none() {
                        gone.push(pool.key.clone());
                    }
                }
            }
        }
        self.forget_secrets(pooling);
        gone
    }
}

/// Finds a pool that can give up a connection for `needy`: the one whose idle connection has been idle longest;
/// else, from the pool that uses most, the next one that is released.
pub(super) fn make_room(needy: &Arc<Pool>, key: &LimitKey) {
    let sharing: Vec<Arc<Pool>> = needy
        .pooling
        .pools
        .all()
        .into_iter()
        .filter(|p| !Arc::ptr_eq(p, needy) && p.counts_towards(key))
        .collect();
    // Room is coming already: who finds none then asks again.
    if needy.counts().closing > 0 || sharing.iter().any(|p| p.counts().closing > 0) {
        return;
    }
    let mut idle: Vec<_> = sharing.iter().filter_map(|p| p.idle_since().map(|t| (t, p))).collect();
    idle.sort_by_key(|(t, _)| *t);
    for (_, p) in idle {
        if p.evict(false) {
            return;
        }
    }
    let mine = needy.counts().live();
    let busiest = sharing.iter().max_by_key(|p| p.counts().live());
    if let Some(p) = busiest
        && p.counts().live() > mine
    {
        p.evict(true);
    }
}
