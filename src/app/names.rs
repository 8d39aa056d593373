//! Follows the names of hosts: where one leads elsewhere, the connections to its old addresses drain, and the
//! monitor asks at the new one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::config::resolved::HostAddr;
use crate::monitor::names::{Found, Names};
use crate::services::Services;

/// A look-up that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);
/// How soon a change of the setting is noticed while it is off.
const OFF: Duration = Duration::from_secs(1);

/// Runs until the task is aborted.
pub(super) async fn run(services: Arc<Services>) {
    let mut names = Names::default();
    loop {
        let config = services.config();
        let Some(pause) = config.limits.dns_check_interval else {
            names.keep(&BTreeSet::new());
            tokio::time::sleep(OFF).await;
            continue;
        };
        let all = named(&config);
        names.keep(&all);
        for name in all {
            look(&mut names, &name, &services).await;
        }
        tokio::time::sleep(pause).await;
    }
}

fn named(config: &Config) -> BTreeSet<String> {
    let databases = config.databases.values().chain(&config.autodb);
    let hosts = databases.flat_map(|d| d.roles.values()).flat_map(|r| &r.hosts);
    hosts
        .filter_map(|h| match h {
            HostAddr::Tcp { host, .. } if host.parse::<IpAddr>().is_err() => Some(host.clone()),
            _ => None,
        })
        .collect()
}

async fn look(names: &mut Names, name: &str, services: &Arc<Services>) {
    let found = match tokio::time::timeout(LIMIT, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(all)) => names.found(name, all.map(|a| a.ip()).collect()),
        Ok(Err(e)) => return failed(name, &e.to_string(), services),
        Err(_) => return failed(name, "no answer in time", services),
    };
    match found {
        Found::Same => {}
        Found::Changed => services.counters.count("dns_changes_total", "changed"),
        Found::Moved => {
            services.counters.count("dns_changes_total", "moved");
            tracing::warn!(name, "a host name leads to other addresses: connections to the old ones drain");
            let is = |h: &HostAddr| matches!(h, HostAddr::Tcp { host, .. } if host == name);
            services.monitor.moved(&is);
            services.listeners.end(&is, "the name of its host leads to other addresses now");
            for pool in services.pools.all() {
                if pool.spec().hosts.iter().any(is) {
                    pool.reconnect();
                }
            }
        }
    }
}

/// Connections that are open stay; new ones fail on their own account.
fn failed(name: &str, why: &str, services: &Services) {
    services.counters.count("dns_errors_total", "");
    tracing::debug!(name, error = why, "a host name has no address");
}
