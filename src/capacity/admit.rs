//! What start, reload and the watch do with what servers say.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::ask::ask;
use super::check::{self, Finding, Severity};
use super::facts::Facts;
use super::need::{HostNeed, needs};
use crate::config::Config;
use crate::config::resolved::{CapacityCheck, Profile};
use crate::metrics::backends::Backends;
use crate::services::Services;

/// Hosts that are asked at one time.
const PARALLEL: usize = 16;

/// One host, and what it said.
#[derive(Debug)]
pub struct Asked {
    pub need: HostNeed,
    pub facts: Result<Facts, String>,
}

/// Asks every host of a configuration, in the order of the hosts.
pub async fn ask_all(services: &Arc<Services>, config: &Arc<Config>) -> Vec<Asked> {
    let mut waiting = needs(config).into_iter().enumerate();
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while under_way.len() < PARALLEL
            && let Some((i, need)) = waiting.next()
        {
            let (services, config) = (services.clone(), config.clone());
            under_way.spawn(async move {
                let facts = ask(&services, &config, &need).await;
                (i, Asked { need, facts })
            });
        }
        match under_way.join_next().await {
            Some(Ok(one)) => done.push(one),
            Some(Err(_)) => {}
            None => break,
        }
    }
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, asked)| asked).collect()
}

/// Whether a configuration may be put in force; the error is what does not fit, whole. Tells whether every
/// server could be asked.
pub async fn admit(services: &Arc<Services>, config: &Arc<Config>) -> Result<bool, String> {
    if config.capacity.check == CapacityCheck::Off {
        return Ok(true);
    }
    let mut all_asked = true;
    let (mut refused, mut fitting) = (Vec::new(), Vec::new());
    for asked in ask_all(services, config).await {
        let facts = match &asked.facts {
            Ok(facts) => facts,
            Err(why) => {
                all_asked = false;
                let host = &asked.need.host;
                services.counters.count("capacity_checks_total", "unasked");
                if config.capacity.startup_requires_server && config.profile == Profile::Native {
                    refused.push(format!(
                        "{host}: the server could not be asked what it can carry, and startup_requires_server is true: \
                         {why}"
                    ));
                } else {
                    tracing::warn!(%host, error = %why, "the server could not be asked what it can carry; it is asked again");
                }
                continue;
            }
        };
        let found = check::check(&asked.need, facts, config.capacity.instances);
        count(services, &found);
        for f in found {
            if f.severity == Severity::Refuse && config.capacity.check == CapacityCheck::Refuse {
                refused.push(f.text);
            } else {
                for line in f.text.lines() {
                    tracing::warn!("{line}");
                }
            }
        }
        fitting.push(asked);
    }
    if refused.is_empty() {
        for one in &fitting {
            if let Ok(facts) = &one.facts {
                remember(services, &one.need, facts, config);
            }
        }
        return Ok(all_asked);
    }
    let refused = refused.join("\n");
    Err(format!("{refused}\nhowdah plan shows the derivation; capacity_check = \"warn\" serves nevertheless"))
}

fn count(services: &Services, found: &[Finding]) {
    let outcome = if found.iter().any(|f| f.severity == Severity::Refuse) {
        "too_large"
    } else if found.is_empty() {
        "fits"
    } else {
        "tight"
    };
    services.counters.count("capacity_checks_total", outcome);
}

/// What one instance may open at a server that has become too small for all; nothing where the pools fit.
fn cap(need: &HostNeed, facts: &Facts, instances: u32) -> Option<usize> {
    let refused = |f: &Finding| f.severity == Severity::Refuse;
    if need.budget.is_some() || !check::check(need, facts, instances).iter().any(refused) {
        return None;
    }
    let all = if need.margin_stated { need.usable(facts) } else { u64::from(facts.ordinary()) };
    let each = all / u64::from(instances);
    // Nobody is helped by a pool that cannot open anything.
    Some(crate::number::size(each.saturating_sub(u64::from(need.own)).max(1)))
}

fn remember(services: &Services, need: &HostNeed, facts: &Facts, config: &Config) {
    let mut by: Vec<_> = facts.in_use_by.iter().map(|((r, d), n)| (r.clone(), d.clone(), *n)).collect();
    by.sort_by_key(|(_, _, n)| std::cmp::Reverse(*n));
    let backends = Backends {
        at_ms: services.clock.now_ms(),
        max_connections: facts.max_connections,
        in_recovery: facts.in_recovery,
        by,
    };
    services.backends.lock().insert(need.host.to_string(), backends);
    let capped = match config.capacity.check {
        CapacityCheck::Refuse => cap(need, facts, config.capacity.instances),
        CapacityCheck::Warn | CapacityCheck::Off => None,
    };
    let before = services.ledger.cap_host(&need.host, capped);
    match (before, capped) {
        (before, Some(n)) if before != Some(n) => {
            services.counters.count("capacity_caps_total", "");
            tracing::warn!(
                host = %need.host,
                connections = n,
                max_connections = facts.max_connections,
                "the server has become too small for the pools: they are capped to what fits"
            );
        }
        (Some(_), None) => {
            tracing::info!(host = %need.host, "the pools fit the server again: no longer capped")
        }
        _ => {}
    }
}

/// Asks again while serving: nothing stops, but what does not fit is capped. Tells whether every server answered.
pub async fn watch(services: &Arc<Services>) -> bool {
    let config = services.config();
    let mut all_asked = true;
    for asked in ask_all(services, &config).await {
        match &asked.facts {
            Ok(facts) => {
                count(services, &check::check(&asked.need, facts, config.capacity.instances));
                remember(services, &asked.need, facts, &config);
            }
            Err(_) => {
                all_asked = false;
                services.counters.count("capacity_checks_total", "unasked");
            }
        }
    }
    all_asked
}
