//! Between the configuration and the first client: what the servers can carry, and the minimum of every pool. And
//! `howdah plan`, which asks the same without serving.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::capacity::{admit, plan as derive};
use crate::clock::Clock;
use crate::config::resolved::{CapacityCheck, Config, Profile, Role};
use crate::doctor::ask::Wish;
use crate::pool::{Pool, PoolKey};
use crate::services::Services;
use crate::{doctor, fleet};

/// How soon a server that could not be asked is asked again.
const SOON: Duration = Duration::from_secs(5);
/// How often it is looked whether the minimums are open.
const LOOK: Duration = Duration::from_millis(5);

/// Checks the capacity and opens the minimums; the error is why Howdah must not serve. Tells whether every server
/// could be asked.
pub(super) async fn prove(services: &Arc<Services>, config: &Arc<Config>) -> Result<bool, String> {
    services.starting.store(true, Ordering::Relaxed);
    let all_asked = admit::admit(services, config).await?;
    fleet::control::begin(services, config).await?;
    let pools = warm(services, config);
    // PgBouncer accepts clients while it opens its minimums.
    if config.profile == Profile::Native {
        acquire(&pools, config).await?;
        tell_late(config);
    }
    services.starting.store(false, Ordering::Relaxed);
    Ok(all_asked)
}

/// Makes the pools whose minimum is to be kept although nobody has asked for them yet: those that the
/// configuration names by user, and those of a database with one possible user.
pub(super) fn warm(services: &Arc<Services>, config: &Config) -> Vec<Arc<Pool>> {
    let mut warmed = Vec::new();
    for db in config.databases.values() {
        let mut users: Vec<&str> = db.pool_overrides.iter().filter_map(|e| e.user.as_deref()).collect();
        if let (1, Some(only)) = (config.users.len(), config.users.keys().next()) {
            users.push(only);
        }
        // PgBouncer keeps the minimum of a database whose user is fixed from the start.
        let forced = db.server_user.as_deref().filter(|_| config.profile == Profile::PgBouncer);
        if let Some(user) = forced {
            users.clear();
            users.push(user);
        }
        users.sort_unstable();
        users.dedup();
        for user in users {
            if config.pool_settings(db, user, Role::Primary).min_size > 0 {
                let key = PoolKey::new(db.name.as_str().into(), user.into(), Role::Primary);
                if let Some(p) = services.pools.obtain(&key, &services.pooling) {
                    p.look();
                    warmed.push(p);
                }
            }
        }
    }
    warmed
}

/// Waits until each pool has its minimum, or an open has failed, or `server_connect_timeout` is over.
async fn acquire(pools: &[Arc<Pool>], config: &Config) -> Result<(), String> {
    let began = Clock::now();
    let mut missing = Vec::new();
    for pool in pools {
        let spec = pool.spec();
        let min = spec.settings.min_size.min(spec.settings.size) as usize;
        loop {
            let counts = pool.counts();
            let open = counts.tracked() - counts.opening;
            let took = Clock::now().saturating_duration_since(began);
            if open >= min {
                tracing::info!(pool = %pool.key, connections = open, ms = crate::number::millis(took), "minimum open");
                break;
            }
            let failed = pool.totals().open_failures > 0;
            if failed || took >= spec.settings.server_connect_timeout {
                let why = pool.figures().last_connect_error.unwrap_or_else(|| "no answer in time".to_owned());
                missing
                    .push(format!("pool {}: {open} of min_pool_size {min} could be opened: {why}", pool.key));
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if config.capacity.startup_requires_server {
        return Err(format!("{}\nstartup_requires_server is true", missing.join("\n")));
    }
    for one in missing {
        tracing::warn!("{one}; serving nevertheless, since startup_requires_server is false");
    }
    Ok(())
}

/// Says whose minimum is not open yet.
fn tell_late(config: &Config) {
    for db in config.databases.values() {
        if config.users.len() != 1 && db.pool.min_size > 0 {
            tracing::info!(
                database = %db.name,
                min_pool_size = db.pool.min_size,
                "pools of users that no [[pools]] entry names open at the first login of each"
            );
        }
    }
}

/// Asks the servers again while serving: those that could not be asked soon, the others at `capacity_interval`.
pub(super) async fn watch(services: Arc<Services>, mut all_asked: bool) {
    loop {
        let capacity = services.config().capacity;
        let pause = match capacity.interval {
            _ if !all_asked => SOON,
            Some(interval) => interval,
            None => SOON,
        };
        tokio::time::sleep(pause).await;
        let on = capacity.check != CapacityCheck::Off;
        if on && (capacity.interval.is_some() || !all_asked) {
            all_asked = admit::watch(&services).await;
        }
    }
}

/// What `howdah plan` prints, and whether serving would be refused.
pub(super) fn plan(config: Config) -> Result<(String, bool), String> {
    let runtime = super::runtime(1).map_err(|e| format!("cannot start the runtime: {e}"))?;
    let config = Arc::new(config);
    let services = Services::new(config.clone());
    let asked = runtime.block_on(admit::ask_all(&services, &config));
    let (mut text, mut refused) = (String::new(), false);
    let c = config.capacity;
    for one in asked {
        let facts = one.facts.as_ref().map_err(String::as_str);
        let plan = derive::plan(&one.need, facts, c.instances);
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&plan.text);
        refused |= plan.refused;
    }
    Ok((text, refused))
}

/// What came of `howdah doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Examined {
    WithoutAdvice,
    WithAdvice,
    /// Nothing is advised, but somebody who should have answered did not.
    Incompletely,
}

/// What `howdah doctor` prints, and what came of it.
pub(super) fn doctor(config: Config, json: bool, wish: &Wish) -> Result<(String, Examined), String> {
    let runtime = super::runtime(1).map_err(|e| format!("cannot start the runtime: {e}"))?;
    let services = Services::new(Arc::new(config));
    let config = services.config();
    let evidence = runtime.block_on(doctor::ask::collect(&services, &config, wish));
    let found = doctor::examine(&evidence);
    let print = if json { doctor::report::json } else { doctor::report::text };
    let came = match (found.is_empty(), evidence.unreached) {
        (false, _) => Examined::WithAdvice,
        (true, 0) => Examined::WithoutAdvice,
        (true, _) => Examined::Incompletely,
    };
    Ok((print(&evidence, &found), came))
}
