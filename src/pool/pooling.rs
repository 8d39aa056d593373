//! What the pools of one running Howdah share: the limits that bound them together, the table of all of them, who is
//! primary, and who is here.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use super::holders::Audit;
use super::ledger::Ledger;
use super::registry::Registry;
use crate::clients::Clients;
use crate::config::Config;
use crate::monitor::Monitor;
use crate::shared::Shared;

#[derive(Debug)]
pub struct Pooling {
    pub shared: Arc<Shared>,
    pub clients: Arc<Clients>,
    pub ledger: Ledger,
    pub pools: Registry,
    pub monitor: Arc<Monitor>,
    pub audit: Mutex<Audit>,
}

impl Deref for Pooling {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Pooling {
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new_cyclic(|this: &std::sync::Weak<Self>| {
            let this = this.clone();
            let follow = move |routes: &Arc<crate::monitor::Routes>, elected| {
                if let Some(pooling) = this.upgrade() {
                    pooling.pools.follow_roles(routes, elected);
                }
            };
            Self {
                monitor: Arc::new(Monitor::new(shared.clone(), follow)),
                shared,
                clients: Arc::default(),
                ledger: Ledger::default(),
                pools: Registry::default(),
                audit: Mutex::default(),
            }
        })
    }

    /// Every database that serves: those that are configured, and those of a pattern that clients came for.
    pub fn databases(&self) -> BTreeSet<String> {
        let config = self.config();
        let mut all: BTreeSet<String> = self.pools.databases().into_iter().collect();
        // What was removed serves no more.
        all.retain(|name| config.database(name).is_some());
        all.extend(config.databases.keys().cloned());
        all
    }

    /// The configuration, with a section for each database of a pattern that serves: for those who look at every
    /// database.
    pub fn config_as_served(&self) -> Arc<Config> {
        let config = self.config();
        let of_patterns = self.databases().into_iter().filter(|name| !config.databases.contains_key(name));
        let of_patterns: Vec<_> =
            of_patterns.filter_map(|name| Some((config.database(&name)?.into_owned(), name))).collect();
        if of_patterns.is_empty() {
            return config;
        }
        let mut whole = (*config).clone();
        whole.databases.extend(of_patterns.into_iter().map(|(database, name)| (name, database)));
        Arc::new(whole)
    }
}
